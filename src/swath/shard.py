"""One shard: its index, and its bytes as they are written.

A shard is a Zarr v3 ``sharding_indexed`` object. swath writes them so::

    index   offset and length of each chunk, 16 bytes a chunk, then a crc32c
    stamp   which shard of which store this is, and how many rows it has, then a crc32c
    chunk   its rows, encoded by the codec, then a crc32c of the encoded bytes
    chunk   ...

A last chunk that rows may be appended to is framed by the codec, and not compressed; when it has become full, it stays so. So
every later version of the shard has each chunk of an earlier one, or it with more rows, at the same place and of the same
length: whoever reads the index and then the chunk, and opens the file for each, as Zarr's readers do, reads sound rows though
the shard is replaced in between.

Shards of other programs have no stamp, and may have the index at the end, and chunks in any order or missing.

Nothing in Zarr says which shard a file is: two of equal size that trade places, or an old one that comes back from a backup,
have sound checksums and the wrong rows. The stamp says it. It lies between the index and the first chunk, where Zarr's
readers, who go by the index, do not look, and is read with the index, or by itself (`swath.stamps`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from swath.checksum import crc32c
from swath.decoder import make_blosc
from swath.errors import DamagedStoreError
from swath.layout import CRC_BYTES, STAMP_BYTES, Layout
from swath.plan import INDEX_CACHE_BYTES
from swath.storage import Buffer, File

# To ask first how long a file is costs a request, which is nothing beside this much.
_LARGE_INDEX_BYTES = 2**20

NO_CHUNK = np.uint64(2**64 - 1)
"""The offset of a chunk that was never written."""


IDENTITY_BYTES = 4
_STAMP = struct.Struct(f"<II{IDENTITY_BYTES}s{IDENTITY_BYTES}s")
assert _STAMP.size + CRC_BYTES == STAMP_BYTES


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which shard this is."""

    shard: int
    rows: int
    """That it has."""
    begun: bytes
    """Of the store as it was when its first row was written: appending leaves it as it is."""
    filled: bytes
    """Of the store as it was when its last row was written."""

    def encode(self) -> bytes:
        """With its checksum."""
        body = _STAMP.pack(self.shard, self.rows, self.begun, self.filled)
        return body + crc32c(body).to_bytes(CRC_BYTES, "little")


def encode_shard(
    layout: Layout, rows: NDArray[np.uint8], chunks: int, stamp: Stamp, copied: Collection[int] = ()
) -> list[Buffer]:
    """The bytes of a shard of ``chunks`` chunks, from the bytes of their rows, the last padded to a whole chunk.

    Raw chunks are views of ``rows``: nothing is copied. Chunks ``copied``, and one that is not full, are not compressed.
    """
    compressing = make_blosc(layout.codec, layout.dtype.itemsize)
    copying = make_blosc(layout.codec, layout.dtype.itemsize, level=0)
    index = np.full((layout.shard_chunks, 2), NO_CHUNK, "<u8")
    buffers: list[Buffer] = []
    offset = layout.head_bytes
    view = memoryview(rows)
    for k in range(chunks):
        chunk = view[k * layout.chunk_bytes : (k + 1) * layout.chunk_bytes]
        codec = copying if k in copied or (k + 1) * layout.chunk_rows > stamp.rows else compressing
        encoded = chunk if codec is None else memoryview(codec.encode(chunk)).cast("B")
        buffers += [encoded, memoryview(crc32c(encoded).to_bytes(CRC_BYTES, "little"))]
        length = len(encoded) + CRC_BYTES
        index[k] = offset, length
        offset += length
    encoded_index = memoryview(index.tobytes())
    head = crc32c(encoded_index).to_bytes(CRC_BYTES, "little") + stamp.encode()
    return [encoded_index, memoryview(head), *buffers]


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """Where the chunks of one shard lie."""

    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]
    """With the checksum."""
    n_regular: int
    """So many chunks, from the first, lie as swath writes them: one after another from the end of the head."""


class IndexCache:
    """Indexes of shards, checked, up to a number of bytes; the oldest go first.

    Each step is one operation on a dict, so that threads share it without a lock, and a fork waits for none.
    """

    def __init__(
        self,
        n_bytes: int,
        *,
        location: Literal["start", "end"] = "start",
        raw_chunk_bytes: int = 0,
        most_bytes: int = INDEX_CACHE_BYTES,
    ) -> None:
        """For indexes of ``n_bytes``, with their checksum, at this end of the file; of raw chunks if these have bytes."""
        self._n_bytes = n_bytes
        self._raw_chunk_bytes = raw_chunk_bytes
        self._location = location
        self._most = max(1, most_bytes // n_bytes)
        self._indexes: dict[tuple[Any, ...], ShardIndex] = {}

    def get(self, file: File, stamp: Stamp | None = None) -> ShardIndex:
        """The index of an open shard, read unless this version of the file has been met before.

        ``stamp`` is what the shard must say of itself; None where it has none.

        Raises
        ------
        DamagedStoreError
        """
        if stamp is not None:
            file.recall()  # an old version shows by its stamp
        index = self._indexes.get(key := (file.version, stamp and stamp.shard))
        if index is None:
            index = self.read(file, stamp)
            key = file.version, stamp and stamp.shard  # that of what is far away is known now
            while len(self._indexes) >= self._most:
                self._indexes.pop(next(iter(tuple(self._indexes)), key), None)
            self._indexes[key] = index
        return index

    def read(self, file: File, stamp: Stamp | None = None) -> ShardIndex:
        """The index of an open shard, from the disk; otherwise as `get`."""
        head_bytes = self._n_bytes + (0 if stamp is None else STAMP_BYTES)
        if head_bytes > _LARGE_INDEX_BYTES and file.size < head_bytes:  # nor is there room made for it
            raise DamagedStoreError(
                f"{file.path} ends at byte {file.size}, inside its index of {head_bytes} bytes. {MEND}"
            )
        encoded = bytearray(head_bytes)
        offset = 0 if self._location == "start" else max(0, file.size - self._n_bytes)
        got = file.read_into([memoryview(encoded)], head_bytes, offset)
        body, crc = memoryview(encoded)[: self._n_bytes - CRC_BYTES], encoded[self._n_bytes - CRC_BYTES : self._n_bytes]
        if got < len(encoded):
            raise DamagedStoreError(f"{file.path} ends at byte {got}, inside its index of {len(encoded)} bytes. {MEND}")
        if crc32c(body) != int.from_bytes(crc, "little"):
            raise DamagedStoreError(f"{file.path} has a wrong checksum in its index. {MEND}")
        if stamp is not None:
            check_stamp(file, bytes(encoded[self._n_bytes :]), stamp)
        offsets, lengths = np.frombuffer(body, "<u8").reshape(-1, 2).T
        ends = np.uint64(head_bytes) + np.cumsum(lengths)
        regular = offsets == np.concatenate([[np.uint64(head_bytes)], ends[:-1]])
        if self._raw_chunk_bytes:
            regular &= lengths == self._raw_chunk_bytes + CRC_BYTES
        irregular = np.flatnonzero(~regular)
        return ShardIndex(offsets, lengths, int(irregular[0]) if irregular.size else offsets.size)


def check_stamp(file: File, encoded: bytes, wanted: Stamp) -> None:
    """Refuse a shard that is not the one whose name it has. It may have more rows: those that were appended since.

    Of these a reader that knows nothing yet cannot tell whence they come, but the rows before them are the same.
    """

    def damaged(what: str) -> NoReturn:
        raise DamagedStoreError(f"{file.path} {what}. {MEND}")

    body, crc = encoded[:-CRC_BYTES], encoded[-CRC_BYTES:]
    if crc32c(body) != int.from_bytes(crc, "little"):
        damaged("has no sound stamp: it is damaged, or was written by another program")
    shard, rows, begun, filled = _STAMP.unpack(body)
    if begun != wanted.begun or (rows == wanted.rows and filled != wanted.filled):
        damaged("is a shard of another store")
    if shard != wanted.shard:
        damaged(f"is shard {shard} of this store, and stands in the place of shard {wanted.shard}")
    if rows < wanted.rows:
        damaged(f"has {rows} rows, and must have {wanted.rows}: it is as it was before rows were appended")


MEND = "Restore the file, or write the array again from its source."


def index_entries(index: ShardIndex, which: slice | NDArray[np.int64]) -> list[tuple[int, int, int] | None]:
    """Offset, length and skipped filters (none) of these chunks; None for one that was never written."""
    offsets, lengths = index.offsets[which], index.lengths[which]
    return [
        None if offset == NO_CHUNK else (offset, length, 0)
        for offset, length in zip(offsets.tolist(), lengths.tolist())
    ]
