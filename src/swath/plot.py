"""Pictures of batches, and of how an array is read: series, heat maps, where starts fall, what chunks and threads cost.

Each function draws into one pair of axes of matplotlib (``pip install 'swath[plot]'``), its own if none are given, and returns it.
What is not told is chosen by shapes and dtypes. Colours are those of Okabe and Ito, and of the maps viridis and cividis, which
colour-blind eyes tell apart.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.array import RowArray, rows_of
from swath.batches import Batches
from swath.errors import OptionError
from swath.layout import CodecName, choose_chunk_rows, read_amplification, window_seconds
from swath.memory import format_bytes
from swath.plan import Plan
from swath.plotted import COLOURS, MOST_TILES, draw_windows
from swath.sampling import is_whole
from swath.windows import IntArray, as_array, check_starts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["amplification", "starts", "throughput", "windows"]

_GREY = "#999999"

# More borders than these are a grey area.
_MOST_SHARDS = 64
_MOST_SEGMENTS = 200

_BINS = 100
_MOST_STARTS = 100_000

_LARGEST_BATCH = 2**28


def windows(batch: ArrayLike, *, starts: ArrayLike | None = None, ax: Axes | None = None) -> Axes:
    """The first windows of a batch.

    Parameters
    ----------
    batch : (n, window, *row_shape) numbers
        What `RowArray.gather` returned; of a group one of its arrays. Rows that are single values are drawn as one line a window;
        rows of up to 8 values as one line a column, window after window; longer rows as a heat map, window after window; rows of
        two axes, or of three of which the last has 3 or 4 values, as pictures, a line of them for each window.
    starts : (n,) integers
        First rows of the windows, to name them by; their places in the batch if None.
    ax
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    OptionError
        It is no batch of numbers, or there are not as many ``starts``; or matplotlib is not installed.

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.arange(1000.0), tmp / "windows.zarr", window=50)
    >>> len(swath.plot.windows(a.gather([3, 500])).lines)
    2
    """
    values = _numbers(batch)
    n = min(len(values), MOST_TILES)
    names = [f"window {k}" for k in range(n)]
    if starts is not None:
        given = as_array(starts)
        if given.shape != (len(values),):
            raise OptionError(
                f"starts have shape {given.shape}, but there are {len(values)} windows. Give one for each."
            )
        names = [f"from row {start:,}" for start in given[:n].tolist()]
    axes = _axes(ax)
    draw_windows(axes, values[:n], names)
    return axes


def _numbers(batch: Any) -> NDArray[Any]:
    if isinstance(batch, dict):
        raise OptionError(
            f"The batch has the arrays {sorted(batch)}. Give one of them, such as batch[{sorted(batch)[0]!r}]."
        )
    values = as_array(batch)
    row = values.shape[2:]
    is_picture = len(row) == 2 or (len(row) == 3 and row[2] in (3, 4))
    if values.dtype.kind not in "biuf" or values.ndim < 2 or not values.size or not (len(row) < 2 or is_picture):
        raise OptionError(
            f"A batch of shape {values.shape} and dtype {values.dtype} cannot be drawn. Give (n, window, *row) numbers, the row a "
            "value, a list of values, or a picture."
        )
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def starts(a: RowArray, chosen: ArrayLike | Plan | Batches[Any] | None = None, *, ax: Axes | None = None) -> Axes:
    """Where starts fall in an array, with its shards and segments.

    Parameters
    ----------
    a
        What `swath.open` or `swath.ingest` returned.
    chosen
        First rows of windows; or a plan of these, or batches, of which some 100,000 windows are taken from the next on; nothing is
        read. 10,000 at random if None.
    ax
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        Windows that begin in each of up to 100 equal parts of the array; lines where shards begin, if they are at most 64, and below
        them the segments in two shades by turns.

    Raises
    ------
    OptionError, StartsError, WindowOutOfBoundsError

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.zeros((1000, 20)), tmp / "starts.zarr")
    >>> axes = swath.plot.starts(a, [0, 3, 500])
    >>> float(sum(bar.get_height() for bar in axes.patches[:100]))
    3.0
    """
    rows = rows_of(a)
    layout, n_rows = rows.layout, len(a)
    found = _starts_of(chosen, a)
    axes = _axes(ax)
    edges = np.linspace(0, n_rows, min(_BINS, n_rows) + 1)
    counts, _ = np.histogram(found, edges)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=COLOURS[4], label=f"{found.size:,} windows")
    if layout.n_shards <= _MOST_SHARDS:
        for k in range(1, layout.n_shards):
            label = f"{layout.n_shards} shards" if k == 1 else None
            axes.axvline(k * layout.shard_rows, color="black", alpha=0.4, linewidth=0.8, linestyle=":", label=label)
    segments = a.segments
    step = -(-len(segments) // _MOST_SEGMENTS)
    for k, segment in enumerate(segments[::step].tolist() if len(segments) > 1 else []):
        stop = segments[min((k + 1) * step, len(segments)) - 1, 1]
        label = f"{len(segments):,} segments" if k == 0 else None
        axes.axvspan(
            segment[0], stop, 0, 0.045, color=COLOURS[2], alpha=0.9 if k % 2 else 0.45, linewidth=0, label=label
        )
    axes.set_xlim(0, n_rows)
    top = 1.08 * max(1, int(counts.max(initial=0)))
    axes.set_ylim(-0.06 * top if len(segments) > 1 else 0, top)
    axes.set(xlabel="row of the array", ylabel=f"windows that begin in {_format_rows(n_rows / counts.size)}")
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return axes


def _format_rows(n: float) -> str:
    """A number of rows, as an axis says it.

    >>> _format_rows(20_000.4), _format_rows(1)
    ('20,000 rows', '1 row')
    """
    return f"{n:,.0f} row" if round(n) == 1 else f"{n:,.0f} rows"


def _starts_of(chosen: Any, a: RowArray) -> IntArray:
    if isinstance(chosen, Plan):
        return chosen.starts
    if isinstance(chosen, Batches):
        first = chosen.state_dict()["next"]
        some = range(first, min(len(chosen), first - (-_MOST_STARTS // max(1, chosen.most_windows))))
        return np.concatenate([np.empty(0, np.int64), *(chosen.starts_at(k) for k in some)])
    window = min(a.window, len(a))
    if chosen is None:
        return np.random.default_rng(0).integers(0, len(a) - window + 1, 10_000)
    return check_starts(chosen, 1, len(a))


def amplification(
    a: RowArray | None = None, *, window: int | None = None, row_bytes: int | None = None, ax: Axes | None = None
) -> Axes:
    """How many bytes random windows read for each byte wanted, and how long they take, by the rows of a chunk.

    Both are those of the layout that `swath.ingest` goes by: pure arithmetic, nothing is read or measured.

    Parameters
    ----------
    a
        An array, whose windows, rows and chunks are drawn; for windows of 16 rows of 16 KB if None.
    window
        Rows of a window; that of the array if None, or 16.
    row_bytes
        Bytes of a row; that of the array if None, or 16,000.
    ax
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        Both as ratios over rows of a chunk, in powers of two: bytes read to bytes wanted, and time to the least time. A point is
        the array's own chunk, or what would be chosen.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> import swath
    >>> axes = swath.plot.amplification(window=16, row_bytes=16_000)
    >>> read = axes.lines[0]
    >>> [float(read.get_ydata()[i]) for i in (0, 2)]
    [1.0, 1.1875]
    """
    codec: CodecName = "raw"
    own, most_rate = None, math.inf
    if a is not None:
        layout, most_rate = rows_of(a).layout, rows_of(a).reach.bytes_a_second
        window = a.window if window is None else window
        row_bytes = layout.row_bytes if row_bytes is None else row_bytes
        own = layout.chunk_rows
        codec = cast("CodecName", layout.codec) if layout.codec in ("raw", "lz4", "zstd") else "zstd"
    window = _positive("window", 16 if window is None else window)
    row_bytes = _positive("row_bytes", 16_000 if row_bytes is None else row_bytes)
    chosen = choose_chunk_rows(window, row_bytes, codec, most_rate)
    point, told = (chosen, "chosen") if own is None else (own, "this array")
    most = max(2 * window, 4 * point, 4 * chosen, 64)
    chunks = np.array([2**k for k in range(int(np.ceil(np.log2(most))) + 1)])
    seconds = np.array([window_seconds(c, window, row_bytes, codec, most_rate) for c in chunks.tolist()])
    least = window_seconds(chosen, window, row_bytes, codec, most_rate)
    read = [read_amplification(c, window) for c in chunks.tolist()]
    axes = _axes(ax)
    axes.plot(chunks, read, color=COLOURS[0], marker="o", markersize=3, label="bytes read / bytes wanted")
    axes.plot(
        chunks, seconds / seconds.min(), color=COLOURS[1], marker="s", markersize=3, label="expected time / least"
    )
    axes.plot(
        [point, point],
        [read_amplification(point, window), window_seconds(point, window, row_bytes, codec, most_rate) / seconds.min()],
        color=COLOURS[5],
        marker="D",
        markersize=7,
        linestyle=":",
        label=f"{told}: chunks of {_format_rows(point)}, {format_bytes(point * row_bytes)}",
    )
    if own is not None and chosen != own:
        axes.axvline(
            chosen, color=_GREY, linestyle="--", linewidth=1, label=f"ingest would choose {_format_rows(chosen)}"
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0.9, max(4.0, min(64.0, float(max(*read, *(seconds / least))))) * 1.1)
    axes.set(
        xlabel="rows of a chunk",
        ylabel="ratio",
        title=f"windows of {_format_rows(window)} of {format_bytes(row_bytes)}",
    )
    axes.legend(frameon=False, fontsize="small")
    return axes


def throughput(a: RowArray, *, numbers: ArrayLike | None = None, seconds: float = 2.0, ax: Axes | None = None) -> Axes:
    """How fast random windows are gathered here and now, by how many are gathered at once: a short measurement.

    Each number is gathered twice, at other starts each time, and the faster counts. What was read lately comes from memory, so that
    these are the rates of a program that has run for a while; ``swath bench`` measures cold files too.

    Parameters
    ----------
    a
        What `swath.open` or `swath.ingest` returned.
    numbers
        Of windows at once; if None powers of four, up to a batch of 256 MiB.
    seconds
        No more numbers are begun after so many seconds.
    ax
        Where to draw; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        Wanted bytes, by 1e9, a second.

    Raises
    ------
    OptionError, MemoryLimitError, DamagedStoreError

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.zeros((1000, 20)), tmp / "throughput.zarr")
    >>> swath.plot.throughput(a, numbers=[1, 10]).lines[0].get_xdata().tolist()
    [1, 10]
    """
    layout = rows_of(a).layout
    window = min(a.window, len(a))
    a_window = window * layout.row_bytes
    if numbers is None:
        numbers = [4**k for k in range(9) if 4**k * a_window <= _LARGEST_BATCH] or [1]
    several = as_array(numbers)
    if several.ndim != 1 or several.dtype.kind not in "iu" or not several.size or (several < 1).any():
        raise OptionError(f"numbers are {numbers!r:.100}. Give numbers of windows, at least 1.")
    axes = _axes(ax)
    random = np.random.default_rng(0)
    begun = time.monotonic()
    done: list[int] = []
    rates: list[float] = []
    for n in several.tolist():
        if done and time.monotonic() - begun > seconds:
            break
        times = []
        for _ in range(2):
            chosen = random.integers(0, len(a) - window + 1, n)
            begin = time.perf_counter()
            a.gather(chosen, window=window, progress=False)
            times.append(time.perf_counter() - begin)
        done.append(n)
        rates.append(n * a_window / min(times) / 1e9)
    axes.plot(done, rates, color=COLOURS[0], marker="o", markersize=4)
    axes.set_xscale("log", base=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(0, max(rates) * 1.15)
    axes.annotate(
        f"{max(rates):.2g} GB/s",
        (done[int(np.argmax(rates))], max(rates)),
        (0, 5),
        textcoords="offset points",
        ha="center",
    )
    axes.set(
        xlabel="windows at once",
        ylabel="wanted bytes, GB/s",
        title=f"windows of {_format_rows(window)}, {format_bytes(a_window)}",
    )
    return axes


def _positive(name: str, value: Any) -> int:
    if not is_whole(value) or value < 1:
        raise OptionError(f"{name} is {value!r}. Give a whole number, at least 1.")
    return int(value)


def _axes(ax: Axes | None) -> Axes:
    """Those that were given, or those of a new figure.

    Raises
    ------
    OptionError
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise OptionError("matplotlib is not installed, which draws. Run pip install 'swath[plot]'.") from None
    return plt.subplots(figsize=(8, 4), layout="constrained")[1]
