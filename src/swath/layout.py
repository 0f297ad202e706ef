"""How many rows make a chunk, and how many a shard?

A window of w rows at a random start touches ``(c + w - 1) / c`` chunks of c rows on average, so that
``(c + w - 1) / w`` bytes are read for each byte wanted. Small chunks read less, and cost more calls:
`choose_chunk_rows` takes the c with the least time by the two constants below.

Pure arithmetic: nothing here opens a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from swath.errors import LayoutError, OptionError

CodecName = Literal["raw", "lz4", "zstd"]
"""Inner codecs: none, blosc lz4 with shuffle, blosc zstd with shuffle. A crc32c follows each."""

CRC_BYTES = 4
INDEX_ENTRY_BYTES = 16

# Measured on 2 cores, 500_000 x 2000 float64, 10_000 windows of 16 rows (benchmarks/): a chunk costs about
# 3 us of Python and checksum calls on top of its bytes, and bytes come at 2 GB/s (cold, NVMe) to 8 GB/s (warm).
# They decide between neighbours that differ by a few percent, so a factor of two in either changes little.
_SECONDS_A_CHUNK = 3e-6
_BYTES_A_SECOND = 3e9

# A disk and the page cache move 4 KiB pages: a smaller chunk saves no read, and its checksum and
# its 16 bytes of index begin to weigh.
_LEAST_CHUNK_BYTES = 4096

# One preadv moves at most 2 GiB, and blosc encodes at most that.
_MOST_CHUNK_BYTES = 2**31 - 2**20

# A shard is one file, and the unit of writing and of resuming: large enough for the disk's full speed, small
# enough that a few fit in memory; about a thousand of them for a large array.
_LEAST_SHARD_BYTES = 64 * 2**20
_MOST_SHARD_BYTES = 2**30
_MANY_SHARDS = 1024
_MOST_SHARD_CHUNKS = 2**14


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows, chunks and shards of one store. Chunks and shards hold whole rows."""

    n_rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    shard_rows: int
    codec: CodecName

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return (self.n_rows, *self.row_shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return self.dtype.itemsize * math.prod(self.row_shape)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk. The last chunk of an array is stored full, padded with zeros."""
        return self.chunk_rows * self.row_bytes

    @property
    def shard_chunks(self) -> int:
        """Chunks in a full shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the start of each shard: offset and length of every chunk, and a crc32c."""
        return self.shard_chunks * INDEX_ENTRY_BYTES + CRC_BYTES

    @property
    def n_chunks(self) -> int:
        """Chunks that hold rows."""
        return -(-self.n_rows // self.chunk_rows)

    @property
    def n_shards(self) -> int:
        """Shards that hold rows."""
        return -(-self.n_rows // self.shard_rows)

    def chunks_in(self, shard: int) -> int:
        """How many chunks of this shard hold rows."""
        return min(self.shard_chunks, self.n_chunks - shard * self.shard_chunks)

    def rows_of(self, shard: int) -> tuple[int, int]:
        """The half-open range of rows in this shard."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.n_rows)


def choose_chunk_rows(window: int, row_bytes: int) -> int:
    """The power of two that gathers random windows of ``window`` rows in the least time.

    The time of a window is ``(c + w - 1) * row_bytes / B + (c + w - 1) / c * t``, with B and t as measured
    (see the module's constants); the least is near ``c = sqrt((w - 1) * t * B / row_bytes)``.

    Examples
    --------
    >>> choose_chunk_rows(window=16, row_bytes=16_000), choose_chunk_rows(window=16, row_bytes=8)
    (4, 512)
    """

    def seconds(chunk_rows: int) -> float:
        rows = chunk_rows + window - 1
        return rows * row_bytes / _BYTES_A_SECOND + rows / chunk_rows * _SECONDS_A_CHUNK

    candidates = [2**k for k in range(31) if 2**k * row_bytes <= _MOST_CHUNK_BYTES]
    large_enough = [c for c in candidates if c * row_bytes >= _LEAST_CHUNK_BYTES]
    return min(large_enough or candidates, key=seconds, default=1)


def choose_shard_rows(n_rows: int, chunk_rows: int, row_bytes: int, most_bytes: int) -> int:
    """Rows of a shard of about 64 MiB to 1 GiB and at most ``most_bytes``, in whole chunks.

    It does not shrink for a small array, which may be appended to: a shard that is not full takes only the bytes that it holds.

    Examples
    --------
    >>> choose_shard_rows(2_000_000, chunk_rows=4, row_bytes=16_000, most_bytes=2**30) * 16_000 / 2**20
    63.96484375
    """
    target = min(max(n_rows * row_bytes // _MANY_SHARDS, _LEAST_SHARD_BYTES), _MOST_SHARD_BYTES, most_bytes)
    chunks = min(max(target // (chunk_rows * row_bytes), 1), _MOST_SHARD_CHUNKS)
    return int(chunks * chunk_rows)


def choose_layout(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    window: int,
    chunk_rows: int | Literal["auto"],
    shard_rows: int | Literal["auto"],
    codec: CodecName | Literal["auto"],
    most_shard_bytes: int,
) -> Layout:
    """The layout for an array of ``shape``; what is not ``"auto"`` is taken as given.

    ``codec="auto"`` is raw: a raw gather runs at the speed of memory or of the disk, and no codec that must
    decode on the same cores reaches it. Compress to save space, or where the disk is slow.

    Raises
    ------
    LayoutError
        Rows without bytes, a chunk that is too large, or a shard that is no whole number of chunks.
    OptionError
        A value that is no size in rows, or an unknown codec.
    """
    n_rows, row_shape = shape[0], shape[1:]
    row_bytes = dtype.itemsize * math.prod(row_shape)
    if row_bytes == 0:
        raise LayoutError(
            f"Rows of shape {row_shape} and dtype {dtype} hold no bytes. Give rows with at least one element."
        )
    if codec not in (*get_args(CodecName), "auto"):
        raise OptionError(f"codec is {codec!r}. Choose one of 'auto', {', '.join(map(repr, get_args(CodecName)))}.")
    chunk = choose_chunk_rows(window, row_bytes) if chunk_rows == "auto" else _rows("chunk_rows", chunk_rows)
    if chunk * row_bytes > _MOST_CHUNK_BYTES:
        raise LayoutError(
            f"A chunk of {chunk} rows of {row_bytes} bytes is over the limit of {_MOST_CHUNK_BYTES} bytes. "
            f"Choose chunk_rows <= {_MOST_CHUNK_BYTES // row_bytes}, or split the rows."
        )
    if shard_rows == "auto":
        shard = choose_shard_rows(n_rows, chunk, row_bytes, most_shard_bytes)
    else:
        shard = _rows("shard_rows", shard_rows)
        if shard % chunk:
            raise LayoutError(
                f"shard_rows is {shard}, which is no whole number of chunks of {chunk} rows. "
                f"Choose a multiple of {chunk}, such as {max(1, shard // chunk) * chunk}."
            )
    return Layout(n_rows, row_shape, dtype, chunk, shard, "raw" if codec == "auto" else codec)


def _rows(name: str, value: object) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} is {value!r}. Give a whole number of rows, at least 1, or 'auto'.")
    return int(value)
