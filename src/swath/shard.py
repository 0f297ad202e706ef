"""One shard: its index, its chunks, their checksums.

A shard is a Zarr v3 ``sharding_indexed`` object with its index at the start::

    index   offset and length of each chunk, 16 bytes a chunk, then a crc32c
    chunk   its rows, encoded by the codec, then a crc32c of the encoded bytes
    chunk   ...

`ShardReader.read_rows` is the inner loop of the library. Where chunks are raw and lie in order, one
``preadv`` lands the wanted rows in the caller's memory and scatters the rest (checksums, and the rows
around them that their checksums cover) to scratch: no copy, and each byte passes the cache once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from crc32c import crc32c
from numcodecs.blosc import Blosc
from numpy.typing import NDArray

from swath.checksum import combiner
from swath.errors import DamagedStoreError
from swath.layout import CRC_BYTES, CodecName, Layout
from swath.plan import INDEX_CACHE_BYTES
from swath.storage import LocalFile
from swath.storage.local import Buffer

_NO_CHUNK = np.uint64(2**64 - 1)

# A checksum of this many bytes takes long enough (2 us) for other threads to run meanwhile; a smaller one is over
# sooner than the interpreter's lock changes hands.
_BYTES_TO_RELEASE_GIL = 2**16

Piece = tuple[int, Buffer]
"""Where the bytes from this offset on, of the rows of a run of chunks, shall go."""


def make_codec(codec: CodecName, itemsize: int) -> Blosc | None:
    """The compressor of a codec name; None for raw."""
    if codec == "raw":
        return None
    shuffle = Blosc.SHUFFLE if itemsize > 1 else Blosc.NOSHUFFLE
    return Blosc(cname=codec, clevel=5, shuffle=shuffle, typesize=min(itemsize, 255))


def encode_shard(layout: Layout, rows: NDArray[np.uint8], chunks: int) -> list[Buffer]:
    """The bytes of a shard of ``chunks`` chunks, from the bytes of their rows, the last padded to a whole chunk.

    Raw chunks are views of ``rows``: nothing is copied.
    """
    codec = make_codec(layout.codec, layout.dtype.itemsize)
    index = np.full((layout.shard_chunks, 2), _NO_CHUNK, "<u8")
    buffers: list[Buffer] = []
    offset = layout.index_bytes
    view = memoryview(rows)
    for k in range(chunks):
        chunk = view[k * layout.chunk_bytes : (k + 1) * layout.chunk_bytes]
        encoded = chunk if codec is None else memoryview(codec.encode(chunk)).cast("B")
        buffers += [
            encoded,
            memoryview(crc32c(encoded, 0, len(encoded) >= _BYTES_TO_RELEASE_GIL).to_bytes(CRC_BYTES, "little")),
        ]
        length = len(encoded) + CRC_BYTES
        index[k] = offset, length
        offset += length
    encoded_index = index.tobytes()
    encoded_index += crc32c(encoded_index).to_bytes(CRC_BYTES, "little")
    return [memoryview(encoded_index), *buffers]


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """Where the chunks of one shard lie."""

    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]
    """With the checksum."""
    n_regular: int
    """So many chunks, from the first, are raw and lie one after another from the end of the index."""


class IndexCache:
    """Indexes of shards, checked, up to a number of bytes; the oldest go first.

    Each step is one operation on a dict, so that threads share it without a lock, and a fork inherits none.
    """

    def __init__(self, most_bytes: int = INDEX_CACHE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._indexes: dict[tuple[Any, ...], ShardIndex] = {}

    def get(self, file: LocalFile, layout: Layout) -> ShardIndex:
        """The index of an open shard, read unless this version of the file has been met before."""
        key = (file.path, *file.version)
        index = self._indexes.get(key)
        if index is None:
            index = _read_index(file, layout)
            entries = max(1, self._most_bytes // layout.index_bytes)
            while len(self._indexes) >= entries:
                self._indexes.pop(next(iter(tuple(self._indexes)), key), None)
            self._indexes[key] = index
        return index


def _read_index(file: LocalFile, layout: Layout) -> ShardIndex:
    encoded = bytearray(layout.index_bytes)
    got = file.read_into([memoryview(encoded)], len(encoded), 0)
    body, crc = memoryview(encoded)[:-CRC_BYTES], encoded[-CRC_BYTES:]
    if got < len(encoded):
        raise DamagedStoreError(f"{file.path} ends at byte {got}, inside its index of {len(encoded)} bytes. {_MEND}")
    if crc32c(body) != int.from_bytes(crc, "little"):
        raise DamagedStoreError(f"{file.path} has a wrong checksum in its index. {_MEND}")
    offsets, lengths = np.frombuffer(body, "<u8").reshape(-1, 2).T
    n_regular = 0
    if layout.codec == "raw":
        length = layout.chunk_bytes + CRC_BYTES
        regular = layout.index_bytes + np.arange(offsets.size, dtype=np.uint64) * np.uint64(length)
        irregular = np.flatnonzero((offsets != regular) | (lengths != length))
        n_regular = int(irregular[0]) if irregular.size else offsets.size
    return ShardIndex(offsets, lengths, n_regular)


_MEND = "Restore the file, or ingest the source again with overwrite=True."


@dataclass(slots=True)
class Scratch:
    """The buffers of one thread, used again for each read, and made when first needed."""

    _buffers: dict[str, Buffer] = field(default_factory=dict)

    def take(self, name: str, n_bytes: int) -> Buffer:
        """A buffer of this size; its bytes are what the last use left."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < n_bytes:
            self._buffers.pop(name, None)  # the old one is freed first, so that the two never stand together
            buffer = self._buffers[name] = memoryview(np.empty(n_bytes, np.uint8))
        return buffer[:n_bytes]


class ShardReader:
    """Reads rows of one open shard. One thread at a time."""

    def __init__(self, file: LocalFile, layout: Layout, shard: int, index: ShardIndex, scratch: Scratch) -> None:
        self._file = file
        self._layout = layout
        self._row_bytes = layout.row_bytes
        self._chunk_bytes = layout.chunk_bytes
        self._data_offset = layout.index_bytes
        self._first_chunk = shard * layout.shard_chunks
        self._index = index
        self._scratch = scratch
        self._codec = make_codec(layout.codec, layout.dtype.itemsize)
        self._combine = combiner(layout.chunk_bytes).combine

    def read_rows(self, first_chunk: int, stop_chunk: int, pieces: Sequence[Piece]) -> None:
        """Land rows of chunks ``[first_chunk, stop_chunk)`` of the array where ``pieces`` say, each chunk checked.

        Parameters
        ----------
        first_chunk, stop_chunk
            Chunks of the array, all in this shard.
        pieces
            Where which bytes of these chunks' rows go: ascending, without overlap. What lies between is read, since the
            checksums cover it, and forgotten. The caller owns the buffers; they hold rubbish after an error.

        Raises
        ------
        DamagedStoreError
            A chunk is missing, its bytes end early, or its checksum is wrong.
        """
        first, last = first_chunk - self._first_chunk, stop_chunk - self._first_chunk
        if last <= self._index.n_regular:
            self._scatter(first, last, pieces)
        elif self._codec is None:
            self._irregular(first, last)
        else:
            self._decode(first, last, pieces)

    def _scatter(self, first: int, last: int, pieces: Sequence[Piece]) -> None:
        """Raw chunks: one call puts each byte where it belongs."""
        chunk_bytes = self._chunk_bytes
        n = last - first
        runs = self._fill_gaps(pieces, n * chunk_bytes)
        checksums = self._scratch.take("checksums", n * CRC_BYTES)

        buffers: list[Buffer] = []
        slot, room = 0, chunk_bytes  # of the checksum that comes next, and of the rows before it
        for run in runs:
            a, size = 0, len(run)
            while size - a >= room:
                buffers += run[a : a + room], checksums[slot : slot + CRC_BYTES]
                a, slot, room = a + room, slot + CRC_BYTES, chunk_bytes
            if a < size:
                buffers.append(run[a:])
                room -= size - a
        n_bytes = n * (chunk_bytes + CRC_BYTES)
        got = self._file.read_into(buffers, n_bytes, self._data_offset + first * (chunk_bytes + CRC_BYTES))
        if got < n_bytes:
            self._damaged(first + got // (chunk_bytes + CRC_BYTES), f"ends early: the file has {self._file.size} bytes")

        crc = 0
        for run in runs:
            crc = crc32c(run, crc, len(run) >= _BYTES_TO_RELEASE_GIL)
        if crc != self._combine(checksums.cast("I")):
            self._find_damage(first, buffers)

    def _fill_gaps(self, pieces: Sequence[Piece], n_bytes: int) -> list[Buffer]:
        """Buffers for all ``n_bytes``: those of the pieces, and scratch for what nobody wants."""
        gaps = self._scratch.take("gaps", n_bytes)
        runs: list[Buffer] = []
        at = 0
        for begin, buffer in pieces:
            if begin > at:
                runs.append(gaps[at:begin])
            runs.append(buffer)
            at = begin + len(buffer)
        if at < n_bytes:
            runs.append(gaps[at:])
        return runs

    def _find_damage(self, first: int, buffers: list[Buffer]) -> NoReturn:
        """Name the chunk of a run whose checksum is wrong."""
        encoded = memoryview(b"".join(buffers))
        stride = self._chunk_bytes + CRC_BYTES
        for k in range(len(encoded) // stride):
            body, stored = (
                encoded[k * stride : (k + 1) * stride - CRC_BYTES],
                encoded[(k + 1) * stride - CRC_BYTES : (k + 1) * stride],
            )
            if crc32c(body) != int.from_bytes(stored, "little"):
                self._damaged(first + k, "has a wrong checksum")
        raise AssertionError("the combined checksum of sound chunks is wrong: this is a bug in swath")

    def _irregular(self, first: int, last: int) -> NoReturn:
        """Say what is wrong with raw chunks that do not lie where swath puts them."""
        chunk = max(first, self._index.n_regular)
        if self._index.offsets[chunk] == _NO_CHUNK:
            self._damaged(chunk, "is missing")
        self._damaged(chunk, "does not lie where swath writes it: the shard was written by another program")

    def _byte_range(self, first: int, last: int) -> tuple[int, int]:
        """The one run of bytes that holds these compressed chunks: its offset and length."""
        offsets, lengths = self._index.offsets[first:last], self._index.lengths[first:last]
        missing = np.flatnonzero(offsets == _NO_CHUNK)
        if missing.size:
            self._damaged(first + int(missing[0]), "is missing")
        most = self._chunk_bytes + _BLOSC_OVERHEAD + CRC_BYTES
        wrong = np.flatnonzero((lengths > most) | (lengths < CRC_BYTES))
        if wrong.size:
            self._damaged(
                first + int(wrong[0]), f"has {lengths[wrong[0]]} bytes, and an encoded chunk has at most {most}"
            )
        apart = np.flatnonzero(offsets[1:] != offsets[:-1] + lengths[:-1])
        if apart.size:
            self._damaged(
                first + int(apart[0]), "does not lie beside the next: the shard was written by another program"
            )
        return int(offsets[0]), int(lengths.sum())

    def _decode(self, first: int, last: int, pieces: Sequence[Piece]) -> None:
        """Compressed chunks: one read, then each is decoded once, in place where one piece wants all of it."""
        chunk_bytes = self._chunk_bytes
        offset, length = self._byte_range(first, last)
        encoded = self._scratch.take("encoded", length)
        got = self._file.read_into([encoded], length, offset)
        position = 0
        remaining = deque(pieces)
        for k in range(last - first):
            end = position + int(self._index.lengths[first + k])
            if end > got:
                self._damaged(first + k, f"ends early: the file has {self._file.size} bytes")
            body, crc = encoded[position : end - CRC_BYTES], encoded[end - CRC_BYTES : end]
            position = end
            if crc32c(body, 0, len(body) >= _BYTES_TO_RELEASE_GIL) != int.from_bytes(crc, "little"):
                self._damaged(first + k, "has a wrong checksum")
            a, b = k * chunk_bytes, (k + 1) * chunk_bytes
            begin, buffer = remaining[0] if remaining else (b, encoded[:0])
            if begin <= a and b <= begin + len(buffer):
                self._decode_chunk(first + k, body, buffer[a - begin : b - begin])
            else:
                chunk = self._scratch.take("chunk", chunk_bytes)
                self._decode_chunk(first + k, body, chunk)
                for begin, buffer in remaining:
                    if begin >= b:
                        break
                    lo, hi = max(a, begin), min(b, begin + len(buffer))
                    buffer[lo - begin : hi - begin] = chunk[lo - a : hi - a]
            while remaining and remaining[0][0] + len(remaining[0][1]) <= b:
                remaining.popleft()

    def _decode_chunk(self, chunk: int, encoded: Buffer, out: Buffer) -> None:
        assert self._codec is not None
        # A blosc header says how many bytes it decodes to, so that a bomb is met before it is decoded.
        if len(encoded) < 16 or int.from_bytes(encoded[4:8], "little") != len(out):
            self._damaged(chunk, f"does not decode to {len(out)} bytes")
        try:
            self._codec.decode(encoded, out)
        except (RuntimeError, ValueError) as error:
            self._damaged(chunk, f"cannot be decoded ({error})")

    def _damaged(self, chunk: int, what: str) -> NoReturn:
        number = self._first_chunk + chunk
        row = number * self._layout.chunk_rows
        raise DamagedStoreError(
            f"{self._file.path}: chunk {number} (rows {row} to {row + self._layout.chunk_rows - 1}) {what}. {_MEND}"
        )


# What blosc may add to bytes that do not compress: its header.
_BLOSC_OVERHEAD = 16
