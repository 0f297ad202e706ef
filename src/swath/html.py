"""How is a value shown in a notebook? A card: what it is, facts in two columns, and a picture.

Pure functions of text and numbers: nothing is read. There are no scripts, no style sheets and nothing from elsewhere, so that a
notebook that is stored shows the same; colours come from the theme. All text is escaped, since names and paths are the users'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from swath.drawing import Lying, layout_picture
from swath.layout import Layout
from swath.memory import format_bytes

# Of more segments than these only their number and their lengths are told.
_NAMED_SEGMENTS = 3

# Of more, some that follow one another are drawn as one.
_DRAWN_SEGMENTS = 200

# Longer text, such as the dtype of a record of a hundred fields, is cut.
_MOST_CHARACTERS = 300

_CARD = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;max-width:602px;margin:4px 0;text-align:left"
_HEAD = "border-bottom:1px solid;border-color:color-mix(in srgb,currentColor 25%,transparent);padding-bottom:3px;margin-bottom:6px"
_FACTS = "display:grid;grid-template-columns:max-content minmax(0,1fr);column-gap:14px;margin:0 0 8px"
_VALUE = "overflow-wrap:anywhere;font-variant-numeric:tabular-nums"


def shown_place(url: str) -> str:
    """A place as it may be shown: without a password, and without what follows a question mark in a URL.

    Examples
    --------
    >>> shown_place("https://ann:secret@example.org/a.zarr?sig=abc"), shown_place("/data/what?.npy")
    ('https://***@example.org/a.zarr?***', '/data/what?.npy')
    """
    if "://" not in url:
        return url
    # A container stands before the @ too: abfss://container@account.
    url = re.sub(r"://[^/?#@]*:[^/?#]*@", "://***@", url)
    return re.sub(r"[?#].*", "?***", url, flags=re.DOTALL)


def brief(text: str, most: int = _MOST_CHARACTERS) -> str:
    """A text, cut in the middle if it is long.

    Examples
    --------
    >>> brief("abcdefghij", 7)
    'abc...j'
    """
    kept = most - 3
    return text if len(text) <= most else f"{text[: kept - kept // 4]}...{text[len(text) - kept // 4 :]}"


def card(kind: str, what: str, facts: Mapping[str, str], *pictures: str, inside: Sequence[tuple[str, str]] = ()) -> str:
    """A value: its kind, what it is in a few words, facts, pictures (SVG), and what it holds, each under a title that opens.

    Examples
    --------
    >>> "<script>" in card("swath.RowArray", "(3, 4) int64", {"where": "<script>"})
    False
    """
    rows = "".join(
        f'<div style="opacity:.65">{escape(name)}</div><div style="{_VALUE}">{escape(brief(value))}</div>'
        for name, value in facts.items()
    )
    opened = "".join(
        f'<details style="margin:4px 0"><summary style="cursor:pointer">{escape(brief(title))}</summary>'
        f'<div style="padding-left:12px">{content}</div></details>'
        for title, content in inside
    )
    drawn = "".join(f'<div style="margin:2px 0 6px">{picture}</div>' for picture in pictures if picture)
    return (
        f'<div style="{_CARD}"><div style="{_HEAD}"><b>{escape(kind)}</b>&ensp;{escape(brief(what))}</div>'
        f'<div style="{_FACTS}">{rows}</div>{drawn}{opened}</div>'
    )


def array_card(
    kind: str, url: str, layout: Layout, window: int, reason: str, segments: NDArray[np.int64], *, is_store: bool
) -> str:
    """An array of rows: what it is, where, and how it lies; ``segments`` are (n, 2) half-open ranges of rows."""
    tiles = layout.tiles.count
    a_row = (
        f"{layout.row_shape} {layout.dtype}, {format_bytes(layout.row_bytes)}"
        if layout.row_shape
        else str(layout.dtype)
    )
    facts = {
        "where": shown_place(url),
        "rows": f"{layout.n_rows:,}{' committed' if is_store else ''}; a row is {a_row}",
        "size": f"{format_bytes(layout.n_rows * layout.row_bytes)} in memory",
        "windows": f"{window:,} rows, unless a call says otherwise",
        "chunks": f"{layout.chunk_rows:,} rows, {format_bytes(layout.tile_bytes)}"
        + (f", {tiles} side by side" if tiles > 1 else ""),
        "shards": f"{layout.n_shards:,}, of {layout.shard_rows:,} rows",
        "compression": reason if reason.startswith(f"{layout.codec}:") else f"{layout.codec}, {reason}",
        "checksums": "crc32c of each chunk" if layout.crc_bytes else "as its own codecs have them",
        "segments": _told_segments(segments),
    }
    step = -(-len(segments) // _DRAWN_SEGMENTS)
    edges = [*segments[::step, 0].tolist(), layout.n_rows]
    reads_rows = (layout.codec == "raw" or layout.is_plain) and not layout.crc_bytes
    lying = Lying(
        n_rows=layout.n_rows,
        row_bytes=layout.row_bytes,
        chunk_rows=layout.chunk_rows,
        shard_rows=layout.shard_rows,
        tiles=tiles,
        window=window,
        reads_rows=reads_rows,
        n_segments=len(segments),
        edges=edges,
    )
    return card(kind, f"{layout.shape} {layout.dtype}", facts, layout_picture(lying))


def _told_segments(segments: NDArray[np.int64]) -> str:
    """How many there are, and how long they are.

    >>> _told_segments(np.array([[0, 100], [100, 120]]))
    '2: rows 0 to 99, 100 to 119'
    """
    if len(segments) <= _NAMED_SEGMENTS:
        return f"{len(segments)}: rows " + ", ".join(f"{a:,} to {b - 1:,}" for a, b in segments.tolist())
    lengths = segments[:, 1] - segments[:, 0]
    return (
        f"{len(segments):,}, of {lengths.min():,} to {lengths.max():,} rows, {int(np.median(lengths)):,} in the middle"
    )
