"""How do the rows of a read get to their places in the batch?

Reads of the plan are carried out in one of four ways:

- Raw rows land in the batch itself (`RawReader.read_rows`): each in the first window that wants it. Windows that
  overlap copy what they share from one another.
- Where windows are small and many, or only some columns are kept, they land in the thread's scratch, and are copied
  from there to each place.
- Encoded chunks are decoded one after another (`ChunkReader.read`), in the batch itself where one window wants all of
  a chunk, and copied to whoever else wants them.
- Small encoded chunks of a store are decoded together, those of several reads by one call, in scratch, and copied from
  there (`swath.joined`); what can't be had so is decoded one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import current_thread, main_thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.encoded import ChunkReader, EncodedReader, Wanted
from swath.errors import DamagedStoreError
from swath.joined import join_reads
from swath.plan import MOST_PIECES, SMALL_WINDOW_BYTES, TEMPORARY_BYTES, Plan
from swath.raw import Piece, RawReader
from swath.rows import Access, Rows
from swath.storage import Scratch, VersionError
from swath.windows import IntArray


class Lander:
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
        self._window_bytes = plan.window * plan.layout.row_bytes
        self._starts = plan.starts
        self._order = plan.order
        self._large = self._window_bytes > SMALL_WINDOW_BYTES
        self._are_rows = plan.layout.tiles.are_rows
        self._parts: dict[int, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}
        # The batch as bytes: rows land in it only where those of a window lie side by side, and are kept whole.
        whole = plan.columns is None and out.flags.c_contiguous
        self._bytes = out.reshape(-1).view(np.uint8) if whole else None
        # In the main thread numcodecs has blosc share blocks out among threads of its own: five of 64 KB take twice as long so.
        self._joins = plan.joins and whole and current_thread() is not main_thread()
        self._has_joined = False
        self._view = None if self._bytes is None else memoryview(self._bytes)

    def land(self, first: int, stop: int) -> None:
        """Carry out the reads ``[first, stop)`` of one shard."""
        for tries_left in range(self._plan.reach.tries)[::-1]:
            try:
                self._land(first, stop)
            except (VersionError, DamagedStoreError):
                # An append has made the last shard longer: the rows are the same, and its index says anew where they lie. Or a
                # bit has flipped on the way.
                if not tries_left:
                    raise
            else:
                return

    def _land(self, first: int, stop: int) -> None:
        plan = self._plan
        shard = int(plan.first_chunk[first]) // self._layout.shard_chunks
        with self._rows.reader(shard, self._access, self._scratch) as reader:
            if isinstance(reader, RawReader):
                land = partial(self._land_raw, reader)
            else:
                land = partial(self._land_decoded, reader)
                if self._joins and isinstance(reader, EncodedReader):
                    self._land_joined(reader, land, first, stop)
                    return
            self._land_reads(land, plan.each(first, stop))

    def _land_reads(self, land: Callable[[int, int, int, int], None], reads: Iterable[tuple[int, ...]]) -> None:
        for read in reads:
            try:
                land(*read)
                continue
            except DamagedStoreError:
                pass  # not kept: it would keep all that was decoded
            self._land_each(land, *read)

    def _land_joined(
        self, reader: EncodedReader, land: Callable[[int, int, int, int], None], first: int, stop: int
    ) -> None:
        """Land groups of reads (`swath.joined`), and read by read those that it can't have so."""
        batch, join = self._bytes, join_reads(self._plan, first, stop)
        assert batch is not None
        groups = reader.read_joined(join)
        for k in range(len(join.groups)):
            decoded = next(groups) if self._joins else None
            if decoded is None:
                # As blosc blocks these chunks they can't be: what is fetched in vain is fetched once.
                self._joins = self._joins and self._has_joined
                self._land_reads(land, join.reads(k))
                continue
            self._has_joined = True
            rows = np.frombuffer(decoded, np.uint8)
            for target, source, size in join.copies[k]:
                batch[target : target + size] = rows[source : source + size]

    def _land_each(self, land: Callable[[int, int, int, int], None], first: int, stop: int, lo: int, hi: int) -> None:
        """Land each window by itself: what is damaged may lie between windows, where nobody wants it."""
        chunk_rows = self._layout.chunk_rows
        for k, start in zip(range(lo, hi), self._starts[lo:hi].tolist()):
            begin, end = start // chunk_rows, (start + self._window - 1) // chunk_rows + 1
            land(max(begin, first), min(end, stop), k, k + 1)

    def _land_raw(self, reader: RawReader, first: int, stop: int, lo: int, hi: int) -> None:
        if self._view is None or not (hi - lo == 1 or (self._large and hi - lo <= MOST_PIECES)):
            self._land_block(reader, first, stop, lo, hi)
        elif hi - lo > 1:
            self._land_in_batch(reader, first, stop, lo, hi)
        else:  # as `_land_in_batch` does it, in fewer steps (`RawReader.read_run`)
            begin = self._starts.item(lo) * self._row_bytes - first * self._chunk_bytes
            a, b = max(begin, 0), min(begin + self._window_bytes, (stop - first) * self._chunk_bytes)
            base = self._order.item(lo) * self._window_bytes - begin
            if reader.checks:
                reader.read_rows(first, stop, [(a, self._view[base + a : base + b])])
            else:
                reader.read_run(first, a, self._view[base + a : base + b])

    def _land_block(self, reader: RawReader, first: int, stop: int, lo: int, hi: int) -> None:
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

    def _land_in_batch(self, reader: RawReader, first: int, stop: int, lo: int, hi: int) -> None:
        """Land each row in the first window that wants it; a window copies what it shares with the one before it."""
        row_bytes, window_bytes, view, batch = self._row_bytes, self._window_bytes, self._view, self._bytes
        assert view is not None
        assert batch is not None
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
        step = max(1, TEMPORARY_BYTES // wide.itemsize)
        for i in range(0, starts.size, step):
            batch[order[i : i + step]] = windows[starts[i : i + step]]
