"""How do rows get from a file that holds them as they are into the caller's memory?

In a shard of raw chunks the rows lie in order, with a crc32c after each chunk; in a ``.npy`` file, a raw file or a
contiguous HDF5 dataset they lie in order with nothing between. One ``preadv`` lands the wanted rows in the caller's
memory and scatters the rest (checksums, and the rows around them that the checksums cover) to scratch: no copy, and each
byte passes the cache once.
"""

from __future__ import annotations

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
        self._verify = verify and layout.crc_bytes > 0
        self._combine = combiner(layout.chunk_bytes).combine if self._verify else None

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
        if self._verify:
            self._read_checked(begin, last * self._chunk_bytes, pieces)
        else:
            for some in _split(pieces, self._gap):
                end = some[-1][0] + len(some[-1][1])
                runs = self._fill_gaps(some, some[0][0], end)
                self._read(begin + some[0][0], begin + end, runs)

    def announce(self, first_chunk: int, stop_chunk: int, row0: int, row1: int) -> None:
        """Let the system fetch what `read_rows` of these chunks will read, if of their rows ``[row0, row1)`` are wanted."""
        chunk_rows = self._layout.chunk_rows
        if self._verify:
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
        n_bytes = end - begin
        runs = self._fill_gaps(pieces, 0, n_bytes)
        checksums, buffers = self._read(begin, end, runs)
        crc = 0
        for run in runs:
            crc = crc32c(run, crc)
        assert self._combine is not None
        if crc != self._combine(checksums.cast("I")):
            self._find_damage(begin // self._chunk_bytes, buffers)

    def _read(self, begin: int, end: int, runs: list[Buffer]) -> tuple[Buffer, list[Buffer]]:
        """Read bytes ``[begin, end)`` of the file's rows into ``runs``: the checksums between them, and all buffers."""
        chunk_bytes, crc_bytes = self._chunk_bytes, self._crc_bytes
        at = self._offset + begin
        if not crc_bytes:
            self._fill(runs, end - begin, at)
            return self._scratch.take("checksums", 0), runs
        before = begin // chunk_bytes
        # The checksum of the last chunk is read only where that chunk is read to its end, and they are wanted.
        n = end // chunk_bytes - before - (not self._verify and end % chunk_bytes == 0)
        checksums = self._scratch.take("checksums", n * crc_bytes)
        buffers: list[Buffer] = []
        slot, room = 0, chunk_bytes - begin % chunk_bytes  # of the checksum that comes next, and of the rows before it
        for run in runs:
            a, size = 0, len(run)
            while size - a >= room:
                buffers.append(run[a : a + room])
                buffers.append(checksums[slot : slot + crc_bytes])
                a, slot, room = a + room, slot + crc_bytes, chunk_bytes
            if a < size:
                buffers.append(run[a:])
                room -= size - a
        self._fill(buffers, end - begin + n * crc_bytes, at + before * crc_bytes)
        return checksums, buffers

    def _fill(self, buffers: list[Buffer], n_bytes: int, offset: int) -> None:
        got = self._file.read_into(buffers, n_bytes, offset)
        if got < n_bytes:
            chunk = (offset + got - self._offset) // (self._chunk_bytes + self._crc_bytes)
            self._damaged(chunk, f"ends early: the file has {self._file.size} bytes")

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
