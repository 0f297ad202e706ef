"""How do the bytes get from the shards into the batch?

A read of the plan is carried out in one of three ways:

- Raw rows land in the batch itself (`RawReader.read_rows`): each in the first window that wants it. Windows that
  overlap copy what they share from one another.
- Where windows are small and many, or only some columns are kept, they land in the thread's scratch, and are copied
  from there to each place.
- Encoded chunks are decoded one after another (`ChunkReader.read`), in the batch itself where one window wants all of
  a chunk, and copied to whoever else wants them.

Reads are handed out in the order of storage, a few at a time, to threads that live as long as the call. This is
the only pool of threads that reads.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.encoded import ChunkReader, Wanted
from swath.errors import ColumnsError, DamagedStoreError, OptionError, OutError
from swath.layout import Layout
from swath.mapped import is_small, take_mapped
from swath.memory import Room, machine_bytes
from swath.plan import MOST_PIECES, MOST_THREADS, SMALL_WINDOW_BYTES, Plan, plan_gather
from swath.raw import Piece, RawReader
from swath.rows import Access, Rows
from swath.storage import Scratch
from swath.windows import IntArray, as_array, check_starts, check_window

Columns = IntArray | slice | None
Verify = Literal["always", "never"]
Direct = Literal["auto", "always", "never"]

# Direct I/O where the array is this many times the memory: what has been read is gone before it is read again, and the cache
# is left to others. It costs 10 % there (0.95 GB/s, buffered 1.05); at 4 times the memory, buffered reads are 1.3 times as
# fast, and at twice 1.8 times, since some of what they want is cached.
_DWARFS = 16

# Reads that a thread takes at once: few enough that threads end together, enough that handing out costs nothing.
_READS_A_TASK = 16

# Threads that decode hand the interpreter's lock round, and their requests are larger: 2.1 GB/s with 4 on 2 cores, 1.6 with 32.
_DECODERS_A_CORE = 2

# Below this a second thread costs more to start than it saves.
_BYTES_FOR_THREADS = 2**20

# A numpy call that copies small windows goes through a temporary of their size.
_TEMPORARY_BYTES = 2**20

# Reads whose pages are looked up in the page cache before the number of threads is chosen.
_PROBES = 32


def plan_for(
    rows: Rows,
    starts: ArrayLike,
    window: int | None,
    columns: Any = None,
    *,
    batch_in_memory: bool = True,
    limit: Room,
    verify: Verify = "always",
    direct: Direct = "auto",
    most_threads: int = MOST_THREADS,
) -> Plan:
    """Check the request at the door, and plan it. The errors are those of `RowArray.gather`, but for the memory limit."""
    layout = rows.layout
    window = check_window(rows.window if window is None else window, layout.n_rows)
    _check_access(verify, direct)
    return plan_gather(
        layout,
        check_starts(starts, window, layout.n_rows),
        window,
        columns=check_columns(columns, layout),
        batch_in_memory=batch_in_memory,
        limit=limit,
        verify=verify == "always",
        direct=direct == "always"
        or (direct == "auto" and layout.n_rows * layout.row_bytes > _DWARFS * machine_bytes()),
        is_store=rows.is_store,
        most_threads=most_threads if layout.codec == "raw" else min(most_threads, _DECODERS_A_CORE * _cores()),
    )


def gather_now(
    rows: Rows,
    starts: ArrayLike,
    window: int | None,
    columns: Any,
    out: NDArray[Any] | None,
    limit: Room,
    verify: Verify,
    direct: Direct,
) -> NDArray[Any]:
    """Check the request, plan it, and carry it out; or take small windows from memory without a plan.

    The errors are those of `RowArray.gather`.
    """
    _check_access(verify, direct)
    if (verify == "never" or not rows.layout.crc_bytes) and direct == "auto" and columns is None:
        starts = as_array(starts)
        batch = _take_mapped(rows, starts, window, out, limit)
        if batch is not None:
            return batch
    plan = plan_for(
        rows, starts, window, columns, batch_in_memory=out is None, limit=limit, verify=verify, direct=direct
    )
    plan.check(limit)
    return gather(rows, plan, out)


def _check_access(verify: Any, direct: Any) -> None:
    for name, value, kinds in (("verify", verify, get_args(Verify)), ("direct", direct, get_args(Direct))):
        if value not in kinds:
            raise OptionError(f"{name} is {value!r}. Choose one of {', '.join(map(repr, kinds))}.")


def _take_mapped(
    rows: Rows, starts: NDArray[Any], window: int | None, out: NDArray[Any] | None, limit: Room
) -> NDArray[Any] | None:
    """The batch, if its windows are small and in the page cache (`swath.mapped`); None if not."""
    layout = rows.layout
    size = check_window(rows.window if window is None else window, layout.n_rows)
    if not is_small(layout, size, starts.size):
        return None
    checked = check_starts(starts, size, layout.n_rows)
    shape = (checked.size, size, *layout.row_shape)
    # Beside the batch stand a part of it, and positions of its rows.
    if (math.prod(shape) * layout.dtype.itemsize + 3 * 8 * checked.size * size) * 2 > limit.n_bytes:
        return None
    if out is not None:
        check_out(out, shape, layout.dtype)
        if not out.flags.c_contiguous:
            return None
    batch = np.empty(shape, layout.dtype) if out is None else out
    try:
        if not take_mapped(rows, checked, size, batch):
            return None
    except DamagedStoreError:
        return None  # the usual way says what is wrong
    rows.check_unchanged()
    return batch


def gather(rows: Rows, plan: Plan, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Carry out a plan: the batch, in the order that was asked, bit for bit.

    Raises
    ------
    OutError
        ``out`` cannot take the batch.
    DamagedStoreError
        A chunk that is needed is missing or wrong; ``out`` then holds rubbish.
    StoreChangedError
        Another store has taken its place since it was opened.
    """
    if out is None:
        out = np.empty(plan.batch_shape, plan.layout.dtype)
    else:
        check_out(out, plan.batch_shape, plan.layout.dtype)
    if out.size:
        try:
            _carry_out(rows, plan, out)
        finally:  # a replaced store is why a shard is missing, or why its bytes are sound and yet not these rows
            rows.check_unchanged()
    return out


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an ``out`` that cannot take the batch.

    Raises
    ------
    OutError
    """
    wanted = f"an array of shape {shape} and dtype {dtype}"
    if not isinstance(out, np.ndarray):
        raise OutError(f"out is a {type(out).__name__}. Give {wanted}.")
    if out.shape != shape or out.dtype != dtype:
        raise OutError(f"out has shape {out.shape} and dtype {out.dtype}. Give {wanted}.")
    if not out.flags.writeable:
        raise OutError(f"out is read-only. Give {wanted} that can be written.")


def check_columns(columns: Any, layout: Layout) -> Columns:
    """``columns`` as a slice or an array of positions along axis 1.

    Raises
    ------
    ColumnsError
    """
    if columns is None:
        return None
    if not layout.row_shape:
        raise ColumnsError(f"columns is {columns!r}, but rows of this array are single values. Leave columns out.")
    n_columns = layout.row_shape[0]
    if isinstance(columns, slice):
        try:
            columns.indices(n_columns)
        except (TypeError, ValueError):
            raise ColumnsError(
                f"columns is {columns!r}, which is no slice of {n_columns} columns. Give a slice of whole numbers."
            ) from None
        return columns
    given = as_array(columns)
    if given.ndim != 1 or given.dtype.kind not in "iu" or ((given < 0) | (given >= n_columns)).any():
        raise ColumnsError(f"columns is {columns!r}. Give a slice, or a list of whole numbers in [0, {n_columns - 1}].")
    return given.astype(np.int64)


def _carry_out(rows: Rows, plan: Plan, out: NDArray[Any]) -> None:
    cached = _is_cached(rows, plan)
    access = Access(plan.verify, plan.direct and not cached, plan.tiles)
    threads = _threads(plan, cached)
    tasks = _tasks(plan, threads)
    shared = iter(tasks)  # `next` on it is one step for the interpreter: threads share it without a lock

    def work() -> None:
        lander = _Lander(rows, plan, access, out)
        for first, stop in shared:
            lander.land(first, stop)

    threads = min(threads, len(tasks))
    if threads == 1:
        work()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="swath-gather") as pool:
        futures = [pool.submit(work) for _ in range(threads)]
        try:
            for future in futures:
                future.result()
        finally:
            # After an error, or Ctrl-C, no thread finds another task.
            for _ in shared:
                pass


def _tasks(plan: Plan, threads: int) -> list[tuple[int, int]]:
    """Ranges of reads ``[first, stop)``, each within one shard."""
    shards = plan.first_chunk // plan.layout.shard_chunks
    borders = np.flatnonzero(np.diff(shards)) + 1
    edges = [0, *borders.tolist(), shards.size]
    most = max(1, min(_READS_A_TASK, shards.size // (4 * threads)))
    return [(i, min(i + most, b)) for a, b in itertools.pairwise(edges) for i in range(a, b, most)]


def _threads(plan: Plan, cached: bool) -> int:
    """How many threads: a few for bytes in memory, many for a disk, which needs many requests in flight.

    More threads than cores slow down what is in memory (7.3 GB/s with 2 threads, 3.7 with 16, on 2 cores), and fewer
    than 16 slow down a disk (1.3 GB/s with 2, 2.2 with 16).
    """
    if plan.bytes_read < _BYTES_FOR_THREADS:
        return 1
    return min(plan.threads, _cores()) if cached else plan.threads


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _is_cached(rows: Rows, plan: Plan) -> bool:
    """Whether nine of ten probed reads begin in the page cache."""
    probes = plan.first_chunk[:: -(-plan.first_chunk.size // _PROBES)].tolist()
    try:
        return sum(map(rows.is_cached, probes)) >= 0.9 * len(probes)
    except (OSError, DamagedStoreError):
        return True  # the read itself will tell


class _Lander:
    """Carries out reads, in one thread."""

    def __init__(self, rows: Rows, plan: Plan, access: Access, out: NDArray[Any]) -> None:
        self._rows = rows
        self._plan = plan
        self._access = access
        self._out = out
        self._scratch = Scratch()
        # Met for each window: a local name is cheaper than a property.
        self._layout = plan.layout
        self._row_bytes = plan.layout.row_bytes
        self._chunk_bytes = plan.layout.chunk_bytes
        self._window = plan.window
        self._starts = plan.starts
        self._order = plan.order
        self._large = plan.window * plan.layout.row_bytes > SMALL_WINDOW_BYTES
        self._are_rows = plan.layout.tiles.are_rows
        self._parts: dict[int, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
        # The batch as bytes: rows land in it only where those of a window lie side by side, and are kept whole.
        whole = plan.columns is None and out.flags.c_contiguous
        self._bytes = out.reshape(-1).view(np.uint8) if whole else None
        self._view = None if self._bytes is None else memoryview(self._bytes)

    def land(self, first: int, stop: int) -> None:
        """Carry out the reads ``[first, stop)`` of one shard."""
        plan = self._plan
        shard = int(plan.first_chunk[first]) // self._layout.shard_chunks
        with self._rows.reader(shard, self._access, self._scratch) as reader:
            for read in self._reads(first, stop):
                try:
                    self._land_read(reader, *read)
                except DamagedStoreError:
                    self._land_each(reader, *read)

    def _land_read(self, reader: RawReader | ChunkReader, first: int, stop: int, lo: int, hi: int) -> None:
        if isinstance(reader, RawReader):
            self._land_raw(reader, first, stop, lo, hi)
        else:
            self._land_decoded(reader, first, stop, lo, hi)

    def _land_each(self, reader: RawReader | ChunkReader, first: int, stop: int, lo: int, hi: int) -> None:
        """Land each window by itself: what is damaged may lie between windows, where nobody wants it."""
        chunk_rows = self._layout.chunk_rows
        for k, start in zip(range(lo, hi), self._starts[lo:hi].tolist()):
            begin, end = start // chunk_rows, (start + self._window - 1) // chunk_rows + 1
            self._land_read(reader, max(begin, first), min(end, stop), k, k + 1)

    def _reads(self, first: int, stop: int) -> Iterator[tuple[int, ...]]:
        plan, some = self._plan, slice(first, stop)
        columns = plan.first_chunk, plan.stop_chunk, plan.first_window, plan.stop_window
        return zip(*(column[some].tolist() for column in columns))

    def _land_raw(self, reader: RawReader, first: int, stop: int, lo: int, hi: int) -> None:
        if self._bytes is not None and (hi - lo == 1 or (self._large and hi - lo <= MOST_PIECES)):
            self._land_in_batch(self._bytes, reader, first, stop, lo, hi)
            return
        row0 = first * self._layout.chunk_rows
        n_rows = min(stop * self._layout.chunk_rows, self._layout.n_rows) - row0
        block = self._scratch.take("block", (stop - first) * self._chunk_bytes)
        begin, end = self._plan.row_span
        if end - begin == self._row_bytes:
            pieces: list[Piece] = [(0, block[: n_rows * self._row_bytes])]
        else:
            starts = (self._starts[lo:hi, None] - row0 + np.arange(self._window)).ravel()
            wanted = np.unique(starts[(starts >= 0) & (starts < n_rows)]) * self._row_bytes
            pieces = [(at + begin, block[at + begin : at + end]) for at in wanted.tolist()]
        reader.read_rows(first, stop, pieces)
        rows = np.frombuffer(block, self._layout.dtype).reshape(-1, *self._layout.row_shape)[:n_rows]
        self._place(rows, row0, lo, hi)

    def _land_in_batch(
        self, batch: NDArray[np.uint8], reader: RawReader, first: int, stop: int, lo: int, hi: int
    ) -> None:
        """Land each row in the first window that wants it; a window copies what it shares with the one before it."""
        row_bytes, window_bytes, view = self._row_bytes, self._window * self._row_bytes, self._view
        assert view is not None
        # All in bytes from here: the read is [0, end), a window [start, start + window_bytes).
        origin, end = first * self._chunk_bytes, stop * self._chunk_bytes - first * self._chunk_bytes
        pieces: list[Piece] = []
        copies: list[tuple[int, int, int]] = []
        landed = before = 0  # rows of earlier windows end here; byte 0 of the read in the batch, for the last of them
        for start, place in zip(self._starts[lo:hi].tolist(), self._order[lo:hi].tolist()):
            begin = start * row_bytes - origin
            a, b = max(begin, 0), min(begin + window_bytes, end)
            base = place * window_bytes - begin
            if a < landed:
                copies.append((base + a, before + a, landed - a))
                a = landed
            if a < b:
                pieces.append((a, view[base + a : base + b]))
            landed, before = b, base
        reader.read_rows(first, stop, pieces)
        for target, source, size in copies:
            # By numpy, which lets other threads run; a memoryview would copy as fast, and hold them up: 5.3 against 5.55 GB/s.
            batch[target : target + size] = batch[source : source + size]

    def _land_decoded(self, reader: ChunkReader, first: int, stop: int, lo: int, hi: int) -> None:
        starts, order = self._starts[lo:hi].tolist(), self._order[lo:hi].tolist()
        wanted = Wanted(starts, order, self._window, self._view, self._row_bytes)
        for row0, rows, tile, a, b, host in reader.read(first, stop, wanted):
            if not self._are_rows:
                self._place_part(rows, row0, tile, starts[a:b], order[a:b])
            elif host is None:
                self._place(rows, row0, lo + a, lo + b)
            elif b - a > 1:
                self._place(rows, row0, lo + a, lo + host)
                self._place(rows, row0, lo + host + 1, lo + b)

    def _place_part(self, rows: NDArray[Any], row0: int, tile: int, starts: list[int], order: list[int]) -> None:
        """Copy from rows of one tile, which begin at ``row0`` of the array, what some windows want."""
        if tile not in self._parts:
            self._parts[tile] = self._part_of_row(tile)
        kept, part = self._parts[tile]
        for start, place in zip(starts, order):
            begin, end = max(start - row0, 0), min(start + self._window - row0, len(rows))
            at = row0 + begin - start
            self._out[place, at : at + end - begin][kept] = rows[begin:end][part]

    def _part_of_row(self, tile: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where the values of a tile go in the rows of a window, and which of its values these are."""
        slices = self._layout.tiles.slices(tile)
        columns, everything = self._plan.columns, slice(None)
        if columns is None:
            return (everything, *slices), (everything,)
        positions = np.arange(self._layout.row_shape[0])[columns]
        kept = np.flatnonzero((positions >= slices[0].start) & (positions < slices[0].stop))
        return (everything, kept, *slices[1:]), (everything, positions[kept] - slices[0].start)

    def _place(self, rows: NDArray[Any], row0: int, lo: int, hi: int) -> None:
        """Copy from ``rows``, which begin at ``row0`` of the array, what the windows ``[lo, hi)`` want."""
        window, starts, order = self._window, self._starts[lo:hi], self._order[lo:hi]
        if self._bytes is not None and not self._large:
            inside = (starts >= row0) & (starts + window <= row0 + len(rows))
            self._place_small(rows, starts[inside] - row0, order[inside])
            starts, order = starts[~inside], order[~inside]
        out, columns = self._out, self._plan.columns
        for start, place in zip(starts.tolist(), order.tolist()):
            a, b = max(row0 - start, 0), min(row0 + len(rows) - start, window)
            some = rows[start + a - row0 : start + b - row0]
            out[place, a:b] = some if columns is None else some[:, columns]

    def _place_small(self, rows: NDArray[Any], starts: IntArray, order: IntArray) -> None:
        """Many small windows, all whole in ``rows``, as items of one wide dtype: numpy copies them in its own loop."""
        row_bytes, wide = self._plan.layout.row_bytes, np.dtype(f"V{self._plan.window * self._plan.layout.row_bytes}")
        rows = np.ascontiguousarray(rows, self._layout.dtype)
        n = len(rows) - self._plan.window + 1
        # Overlapping views: item i is the window that begins at row i.
        windows = np.ndarray(max(n, 0), wide, rows, strides=(row_bytes,)) if n > 0 else np.empty(0, wide)
        batch = self._out.reshape(-1).view(np.uint8).view(wide)
        step = max(1, _TEMPORARY_BYTES // wide.itemsize)
        for i in range(0, starts.size, step):
            batch[order[i : i + step]] = windows[starts[i : i + step]]
