"""How do rows get from a file that holds them as they are into the caller's memory?

In a shard of raw chunks the rows lie in order, with a crc32c after each chunk; in a ``.npy`` file, a raw file or a
contiguous HDF5 dataset they lie in order with nothing between. One ``preadv`` lands the wanted rows in the caller's
memory and scatters the rest (checksums, and the rows around them that the checksums cover) to scratch: no copy, and each
byte passes the cache once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from swath.checksum import combiner, crc32c
from swath.errors import DamagedStoreError
from swath.layout import CRC_BYTES, Layout
from swath.plan import Reach
from swath.shard import MEND, NO_CHUNK, ShardIndex
from swath.storage import Buffer, File, Scratch
from swath.windows import IntArray

Piece = tuple[int, Buffer]
"""Where the bytes from this offset on, of the rows of a run of chunks, shall go."""

# Rows that are looked up in the page cache before a mapping of the file is used.
_PROBES = 8


class RawReader:
    """Reads rows of one open file. One thread at a time."""

    def __init__(
        self,
        file: File,
        layout: Layout,
        shard: int,
        scratch: Scratch,
        *,
        offset: int,
        index: ShardIndex | None,
        verify: bool,
        reach: Reach,
    ) -> None:
        """Rows begin at ``offset`` of the file. ``index`` is that of a shard, if it was read."""
        self._file = file
        self._layout = layout
        self._chunk_bytes = layout.chunk_bytes
        self._crc_bytes = layout.crc_bytes
        self._offset = offset
        self._first_chunk = shard * layout.shard_chunks
        self._index = index
        self._scratch = scratch
        self._gap = reach.wide_gap_bytes
        self.checks = verify and layout.crc_bytes > 0
        """Whether chunks are compared with their checksums."""
        # Rows up to here lie where they can be calculated.
        self._regular_bytes = math.inf if index is None else index.n_regular * self._chunk_bytes
        self._unread = scratch.take("unread", layout.crc_bytes)  # for checksums that nobody compares
        self._slots: list[Buffer] = []  # a place for each checksum of a read, and all of them as numbers
        self._checksums = memoryview(b"")
        self._combine = combiner(layout.chunk_bytes).combine if self.checks else None

    def read_rows(self, first_chunk: int, stop_chunk: int, pieces: Sequence[Piece]) -> None:
        """Land rows of chunks ``[first_chunk, stop_chunk)`` of the array where ``pieces`` say.

        Parameters
        ----------
        first_chunk, stop_chunk
            Chunks of the array, all in this file.
        pieces
            Where which bytes of these chunks' rows go: ascending, without overlap. What lies between is read where
            checksums cover it, and forgotten. The caller owns the buffers; they hold rubbish after an error.

        Raises
        ------
        DamagedStoreError
            A chunk is missing, its bytes end early, or its checksum is wrong.
        """
        first, last = first_chunk - self._first_chunk, stop_chunk - self._first_chunk
        if self._index is not None and last > self._index.n_regular:
            self._irregular(max(first, self._index.n_regular), self._index)
        begin = first * self._chunk_bytes
        if self.checks:
            self._read_checked(begin, last * self._chunk_bytes, pieces)
        else:
            for some in _split(pieces, self._gap):
                at, end = some[0][0], some[-1][0] + len(some[-1][1])
                self._read(begin + at, begin + end, self._fill_gaps(some, at, end))

    def read_run(self, first_chunk: int, at: int, run: Buffer) -> None:
        """Land rows of chunks from ``first_chunk`` on, beginning with their byte ``at``, in ``run``, whatever their checksums are.

        As `read_rows` with one piece does it, in fewer steps: what a window takes besides its copy is a tenth of the time when it is in
        memory, and each call of a function some 2 % (the copy has emptied the cache nearest to the core).
        """
        chunk_bytes, crc_bytes = self._chunk_bytes, self._crc_bytes
        begin, size = (first_chunk - self._first_chunk) * chunk_bytes + at, len(run)
        if begin + size > self._regular_bytes:
            self.read_rows(first_chunk, first_chunk + -(-(at + size) // chunk_bytes), [(at, run)])  # says what is wrong
            return
        n_bytes, offset, buffers = size, self._offset + begin, [run]
        if crc_bytes:
            before, into = divmod(begin, chunk_bytes)
            offset += before * crc_bytes
            a, room, buffers = 0, chunk_bytes - into, []
            while size - a > room:
                buffers += (run[a : a + room], self._unread)
                a, room, n_bytes = a + room, chunk_bytes, n_bytes + crc_bytes
            buffers.append(run[a:])
        got = self._file.read_into(buffers, n_bytes, offset)
        if got < n_bytes:
            self._ends_early(offset + got)

    def announce(self, first_chunk: int, stop_chunk: int, row0: int, row1: int) -> None:
        """Let the system fetch what `read_rows` of these chunks will read, if of their rows ``[row0, row1)`` are wanted."""
        chunk_rows = self._layout.chunk_rows
        if self.checks:
            row0, row1 = first_chunk * chunk_rows, stop_chunk * chunk_rows
        first_row = self._first_chunk * chunk_rows
        begin, end = (
            (row - first_row) * self._layout.row_bytes + (row - first_row) // chunk_rows * self._crc_bytes
            for row in (row0, row1)
        )
        self._file.announce(self._offset + begin, end - begin)

    def mapping(self, n_rows: int, probed: IntArray, item: np.dtype[Any]) -> NDArray[Any] | None:
        """The first ``n_rows`` rows of the file as items of ``item``, by chunk and row within it, in a mapping.

        None if some of the ``probed`` rows are not in the page cache, or the file is not as it should be.
        """
        chunk_rows, row_bytes = self._layout.chunk_rows, self._layout.row_bytes
        n_chunks = -(-n_rows // chunk_rows)
        stride = self._chunk_bytes + self._crc_bytes
        whole = n_chunks * stride if self._crc_bytes else n_rows * row_bytes
        if self._offset + whole > self._file.size or (self._index is not None and self._index.n_regular < n_chunks):
            return None
        for row in probed[:: -(-probed.size // _PROBES)].tolist():
            if not self._file.is_cached(self._offset + row // chunk_rows * stride + row % chunk_rows * row_bytes):
                return None
        mapped = self._file.mapped(self._offset + whole)
        if mapped is None:
            return None
        if not self._crc_bytes:
            return np.ndarray((n_rows,), item, mapped, self._offset)
        return np.ndarray((n_chunks, chunk_rows), item, mapped, self._offset, (stride, row_bytes))

    def _read_checked(self, begin: int, end: int, pieces: Sequence[Piece]) -> None:
        runs = self._fill_gaps(pieces, 0, end - begin)
        buffers = self._read(begin, end, runs)
        crc = 0
        for run in runs:
            crc = crc32c(run, crc)
        assert self._combine is not None
        if crc != self._combine(self._checksums[: (end - begin) // self._chunk_bytes]):
            self._find_damage(begin // self._chunk_bytes, buffers)

    def _read(self, begin: int, end: int, runs: list[Buffer]) -> list[Buffer]:
        """Read bytes ``[begin, end)`` of the file's rows into ``runs``, and the checksums after their chunks: all buffers."""
        at, n_bytes, buffers = self._offset + begin, end - begin, runs
        chunk_bytes, crc_bytes = self._chunk_bytes, self._crc_bytes
        if crc_bytes:
            before, into = divmod(begin, chunk_bytes)
            n = end // chunk_bytes - before
            at, n_bytes, buffers = at + before * crc_bytes, n_bytes + n * crc_bytes, []
            if n > len(self._slots):
                self._make_slots(n)
            k, room = 0, chunk_bytes - into  # of the checksum that comes next, and of the rows before it
            for run in runs:
                a, size = 0, len(run)
                while size - a >= room:
                    buffers += (run[a : a + room], self._slots[k])
                    a, k, room = a + room, k + 1, chunk_bytes
                if a < size:
                    buffers.append(run[a:])
                    room -= size - a
            if not self.checks and end % chunk_bytes == 0:  # that of the last chunk is read only where it is wanted
                buffers.pop()
                n_bytes -= crc_bytes
        got = self._file.read_into(buffers, n_bytes, at)
        if got < n_bytes:
            self._ends_early(at + got)
        return buffers

    def _make_slots(self, n: int) -> None:
        room = self._scratch.take("checksums", n * self._crc_bytes)
        self._checksums = room.cast("I")
        self._slots = [room[at : at + self._crc_bytes] for at in range(0, len(room), self._crc_bytes)]

    def _fill_gaps(self, pieces: Sequence[Piece], at: int, end: int) -> list[Buffer]:
        """Buffers for all bytes ``[at, end)``: those of the pieces, and scratch for what nobody wants."""
        gaps = self._scratch.take("gaps", end - at)
        used = 0
        runs: list[Buffer] = []
        for begin, buffer in pieces:
            if begin > at:
                runs.append(gaps[used : used + begin - at])
                used += begin - at
            runs.append(buffer)
            at = begin + len(buffer)
        if at < end:
            runs.append(gaps[used : used + end - at])
        return runs

    def _find_damage(self, first: int, buffers: list[Buffer]) -> NoReturn:
        """Name the chunk of a run whose checksum is wrong."""
        encoded = memoryview(b"".join(buffers))
        stride = self._chunk_bytes + CRC_BYTES
        for k in range(len(encoded) // stride):
            chunk = encoded[k * stride : (k + 1) * stride]
            if crc32c(chunk[:-CRC_BYTES]) != int.from_bytes(chunk[-CRC_BYTES:], "little"):
                self._damaged(first + k, "has a wrong checksum")
        raise AssertionError("the combined checksum of sound chunks is wrong: this is a bug in swath")

    def _irregular(self, chunk: int, index: ShardIndex) -> NoReturn:
        """Say what is wrong with raw chunks that do not lie where swath puts them."""
        if index.offsets[chunk] == NO_CHUNK:
            self._damaged(chunk, "is missing")
        self._damaged(chunk, "does not lie where swath writes it: the shard was written by another program")

    def _ends_early(self, offset: int) -> NoReturn:
        chunk = (offset - self._offset) // (self._chunk_bytes + self._crc_bytes)
        self._damaged(chunk, f"ends early: the file has {self._file.size} bytes")

    def _damaged(self, chunk: int, what: str) -> NoReturn:
        raise DamagedStoreError(f"{self._file.path}: {self._layout.describe_chunk(self._first_chunk + chunk)} {what}. {MEND}")  # fmt: skip


def _split(pieces: Sequence[Piece], most_gap: int) -> list[Sequence[Piece]]:
    """Pieces in groups, between which the gap is too large to be read."""
    groups, begin = [], 0
    for i in range(1, len(pieces)):
        if pieces[i][0] - pieces[i - 1][0] - len(pieces[i - 1][1]) > most_gap:
            groups.append(pieces[begin:i])
            begin = i
    groups.append(pieces[begin:])
    return groups
