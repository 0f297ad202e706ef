"""What do an array, a plan and an order look like? Small pictures in SVG, of numbers alone.

Lines and text have the colour of the text around them, so that they are read in light and in dark themes; the few colours are
told apart by colour-blind eyes too (those of Okabe and Ito), and each is named by a label. A picture has no more than some hundred
parts, however large what it shows is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from swath.layout import read_amplification
from swath.memory import format_bytes

WANTED, READ, BESIDE, SEGMENT = "#e69f00", "#56b4e9", "#999999", "#009e73"
FAINT = "currentColor"

_WIDTH = 600
_STRIP = 20

# Lines nearer to one another than this are a grey area: then only their number is told.
_LEAST_PIXELS = 3

# What is too small to be seen is drawn so wide.
_SEEN_PIXELS = 2.0


@dataclass(frozen=True, slots=True)
class Lying:
    """How the rows of an array lie, in numbers of rows, and their bytes."""

    n_rows: int
    row_bytes: int
    chunk_rows: int
    shard_rows: int
    tiles: int
    """Chunks side by side in a row."""
    window: int
    reads_rows: bool
    """Whether rows are read alone, and not chunks."""
    n_segments: int
    edges: Sequence[int]
    """The first row of each segment, or of some, and the row after the last."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a chart: lengths that follow one another, each of a colour and a name."""

    label: str
    told: str
    """Behind the label."""
    parts: tuple[tuple[str, float, str], ...]
    """Name, length and colour."""


def layout_picture(lying: Lying) -> str:
    """An array, one of its shards, and a window on its chunks: three strips, each to scale, each a part of the one above.

    Examples
    --------
    >>> layout_picture(Lying(2_000_000, 16_000, 4, 4192, 1, 16, False, 1, [0, 2_000_000])).count("<svg")
    1
    """
    n_rows, shard = max(1, lying.n_rows), max(1, lying.shard_rows)
    chunk, window = max(1, lying.chunk_rows), max(1, min(lying.window, n_rows))
    n_shards = -(-n_rows // shard)
    held = min(shard, n_rows)
    # A window that begins within a chunk, as most do, with a part of a chunk on either side.
    offset = chunk // 2
    touched = -(-(offset + window) // chunk)
    shown = (touched + 1) * chunk
    has_shards = n_shards > 1 and held > chunk

    size = f"{format_bytes(n_rows * lying.row_bytes)} in {_count(n_shards, 'shard')}"
    if lying.n_segments > 1:
        size += f", {_count(lying.n_segments, 'segment')}"
    y, parts = 14.0, _labels(14.0, f"array: {_count(n_rows, 'row')}", size)
    parts += _strip(y + 5, n_rows, shard, below=held if has_shards else shown)
    parts += _segments(y + 5 + _STRIP + 2, lying.edges, n_rows)
    bottom = y + 5 + _STRIP + (7 if lying.n_segments > 1 else 0)
    if has_shards:
        parts += _zoom(bottom, held / n_rows, y + 62)
        y += 57
        size = f"{format_bytes(held * lying.row_bytes)} in {_count(-(-held // chunk), 'chunk')}"
        parts += _labels(y, f"a shard: {_count(held, 'row')}", size)
        parts += _strip(y + 5, held, chunk, below=shown)
        bottom = y + 5 + _STRIP
    parts += _zoom(bottom, shown / (held if has_shards else n_rows), y + 62)
    y += 57
    size = f"a chunk: {_count(chunk, 'row')}, {format_bytes(chunk * lying.row_bytes // max(1, lying.tiles))}"
    if lying.tiles > 1:
        size += f", {lying.tiles:,} side by side"
    window_told = (
        _count(window, "row") if lying.reads_rows else f"{_count(window, 'row')}, from {_count(touched, 'chunk')}"
    )
    parts += _labels(y, f"a window: {window_told}", size)
    if not lying.reads_rows:
        parts.append(_fill(y + 5, 0, touched * chunk, shown, READ, 0.5))
    parts.append(_fill(y + 5, offset, offset + window, shown, WANTED, 0.95, inset=4))
    parts += _strip(y + 5, shown, chunk, tiles=lying.tiles, rows=True)
    y += 5 + _STRIP + 15
    parts += _legend(y, [("wanted", WANTED)] if lying.reads_rows else [("wanted", WANTED), ("read", READ)])
    average = read_amplification(chunk, window)
    told = "rows are read alone" if lying.reads_rows else f"{average:.2f} bytes read for each wanted, at random starts"
    parts.append(_text(_WIDTH, y, told, "end", faint=True))
    return _svg(_WIDTH, y + 5, parts, "an array, a shard and a window, each to scale")


def bar_chart(bars: Sequence[Bar]) -> str:
    """Bars on one scale, one below the other, with what they are in words.

    Examples
    --------
    >>> "wanted" in bar_chart([Bar("wanted", "1 MiB", (("", 1.0, WANTED),))])
    True
    """
    longest = max([sum(length for _, length, _ in bar.parts) for bar in bars], default=0) or 1
    parts, y = [], 14.0
    for bar in bars:
        parts += _labels(y, bar.label, bar.told)
        x = 0.0
        for name, length, colour in bar.parts:
            width = length / longest * _WIDTH
            if length > 0:
                drawn = min(max(_SEEN_PIXELS, width), _WIDTH - min(x, _WIDTH - _SEEN_PIXELS))
                opacity = 0.12 if colour == FAINT else 0.9
                parts.append(_rect(min(x, _WIDTH - drawn), y + 5, drawn, 10, colour, opacity, name))
            x += width
        y += 33
    legend = dict.fromkeys((name, colour) for bar in bars for name, length, colour in bar.parts if name and length > 0)
    if legend:
        parts += _legend(y - 3, list(legend))
        y += 14
    return _svg(_WIDTH, y - 12, parts, "; ".join(f"{bar.label} {bar.told}" for bar in bars))


def dots(points: Iterable[tuple[float, float]], across: str, up: str) -> str:
    """Points of ``[0, 1] x [0, 1]``, with what lies on either axis.

    Examples
    --------
    >>> dots([(0.5, 0.5)], "position", "window").count("<circle")
    1
    """
    width, height = 300, 110
    parts = [_rect(0.5, 0.5, width - 1, height - 1, "none", 1, "", lined=True)]
    parts += [
        f'<circle cx="{4 + x * (width - 8):.1f}" cy="{height - 4 - y * (height - 8):.1f}" r="1.6" fill="{READ}"/>'
        for x, y in points
    ]
    parts.append(_text(0, height + 14, f"{across} \N{RIGHTWARDS ARROW}", "start", faint=True))
    parts.append(_text(width, height + 14, f"\N{UPWARDS ARROW} {up}", "end", faint=True))
    return _svg(width, height + 19, parts, f"{up} by {across}")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _svg(width: float, height: float, parts: Sequence[str], told: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(told)}" viewBox="-1 0 {width + 2:g} {height:g}" '
        f'width="{width + 2:g}" height="{height:g}" style="max-width:100%;height:auto;overflow:visible" '
        f'font-family="inherit" font-size="11.5" fill="currentColor">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str, *, faint: bool = False) -> str:
    opacity = ' opacity=".7"' if faint else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{opacity}>{escape(text)}</text>'


def _labels(y: float, left: str, right: str) -> list[str]:
    return [_text(0, y, left, "start"), _text(_WIDTH, y, right, "end", faint=True)]


def _rect(
    x: float, y: float, width: float, height: float, colour: str, opacity: float, told: str = "", *, lined: bool = False
) -> str:
    line = ' stroke="currentColor" stroke-opacity=".55"' if lined else ""
    title = f"<title>{escape(told)}</title>" if told else ""
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}" fill-opacity="{opacity:g}"{line}>'
        f"{title}</rect>"
    )


def _strip(
    y: float, length: int, step: int, *, tiles: int = 1, rows: bool = False, below: int | None = None
) -> list[str]:
    """A strip of so many rows, with a line every ``step`` of them, if that can be seen, and small ones for the ``rows``.

    The first rows of it, so many, are those of the strip ``below``.
    """
    lines, small = [], []
    if step / length * _WIDTH >= _LEAST_PIXELS:
        at = [k * step / length * _WIDTH for k in range(1, -(-length // step))]
        lines = [f"M{x:.2f} {y:.1f}v{_STRIP}" for x in at]
    if rows and _WIDTH / length >= _LEAST_PIXELS:
        small = [f"M{k / length * _WIDTH:.2f} {y + _STRIP:.1f}v-4" for k in range(1, length) if k % step]
    if tiles > 1 and _STRIP / tiles >= _LEAST_PIXELS:
        small += [f"M0 {y + k * _STRIP / tiles:.2f}h{_WIDTH}" for k in range(1, tiles)]
    # Where lines are too many to be drawn, the strip is as grey as they would make it.
    grey = 0.05 if lines or step >= length else 0.2
    parts = [_rect(0, y, _WIDTH, _STRIP, "currentColor", grey, lined=True)]
    if below is not None and below < length:
        parts.append(_fill(y, 0, below, length, "currentColor", 0.3))
    return [*parts, _path(lines, 0.55), _path(small, 0.35)]


def _path(lines: Sequence[str], opacity: float) -> str:
    return (
        f'<path d="{"".join(lines)}" stroke="currentColor" stroke-opacity="{opacity:g}" fill="none"/>' if lines else ""
    )


def _fill(
    y: float, start: float, stop: float, length: float, colour: str, opacity: float, *, inset: float = 0.0
) -> str:
    x, width = start / length * _WIDTH, max(_SEEN_PIXELS, (stop - start) / length * _WIDTH)
    return _rect(x, y + inset, width, _STRIP - 2 * inset, colour, opacity)


def _segments(y: float, edges: Sequence[int], n_rows: int) -> list[str]:
    """A thin strip of the segments, in two shades by turns."""
    if len(edges) <= 2:
        return []
    return [
        _rect(
            a / n_rows * _WIDTH,
            y,
            max(0.3, (b - a) / n_rows * _WIDTH),
            5,
            SEGMENT,
            0.85 if k % 2 else 0.4,
            f"rows {a:,} to {b - 1:,}",
        )
        for k, (a, b) in enumerate(zip(edges, edges[1:]))
    ]


def _zoom(top: float, share: float, bottom: float) -> list[str]:
    """That the strip below is the beginning of the one above."""
    x = max(_SEEN_PIXELS, min(1.0, share) * _WIDTH)
    points = f"M0 {top:.1f}L0 {bottom:.1f}L{_WIDTH} {bottom:.1f}L{x:.2f} {top:.1f}z"
    return [f'<path d="{points}" fill="currentColor" fill-opacity=".07"/>']


def _legend(y: float, names: Sequence[tuple[str, str]]) -> list[str]:
    parts, x = [], 0.0
    for name, colour in names:
        parts += [_rect(x, y - 8.5, 9, 9, colour, 0.9), _text(x + 13, y, name, "start", faint=True)]
        x += 27 + 6.2 * len(name)
    return parts
