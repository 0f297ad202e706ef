"""How many rows make a chunk, how many a shard, and how are chunks compressed?

A window of w rows at a random start touches ``(c + w - 1) / c`` chunks of c rows on average, so that
``(c + w - 1) / w`` bytes are read for each byte wanted. Small chunks read less, and cost more calls:
`choose_chunk_rows` takes the c with the least time by the constants below, and by what a network brings if there is one.

A codec reads fewer bytes and decodes them on the same cores: `choose_codec` weighs what compressing a sample showed
against what the place reads, cached or not.

Pure arithmetic: nothing here opens a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swath.errors import LayoutError, OptionError

CodecName = Literal["raw", "lz4", "zstd"]
"""Inner codecs: none, blosc lz4 with shuffle, blosc zstd with shuffle. A crc32c follows each."""

CRC_BYTES = 4
INDEX_ENTRY_BYTES = 16
STAMP_BYTES = 20

# Measured on 2 cores, windows of 16 rows of 2000 float64 (benchmarks/). A raw chunk costs about 3 us of Python and checksum
# calls on top of its bytes, which come at 2 GB/s (cold, NVMe) to 8 GB/s (warm). One that is decoded costs some 25 us, since
# threads hand the interpreter's lock round at each, on top of bytes that are fewer: 2.0 GB/s warm with chunks of 4 rows,
# 2.9 with 8, 3.3 with 16. Where one call decodes several (`swath.joined`) it is some 5 us, and the three come at 2.7, 2.6 and 2.3
# on another machine; where the thread that calls decodes alone, not. They decide between neighbours that differ by a few percent, so a
# factor of two in either changes little.
_SECONDS_A_CHUNK = {"raw": 3e-6, "lz4": 25e-6, "zstd": 25e-6}
_BYTES_A_SECOND = {"raw": 3e9, "lz4": 6e9, "zstd": 6e9}

# What rows are encoded to is taken to be a fourth of them where a network brings it: it is not known before chunks are chosen. 1,000
# windows of 16 rows of 16 KB, a sixth of their size, over 1 Gbit/s: 260 MB/s with chunks of 2 rows, 300 with 4, 327 with 8, 342 with 16,
# and with the last up to 1.6 times the bytes of 4, which is what counts where rows hardly shrink.
_SMALLER = {"raw": 1, "lz4": 4, "zstd": 4}

# Another codec than raw must promise this much, since its decode rate is a guess of what the machine does at the time.
_WORTH_A_CODEC = 1.15

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

# Sums and differences of two counts fit in 64 bits too.
_MOST_COUNTED = 2**62


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a row is divided among chunks: its shape, and that of a chunk's part of it."""

    row_shape: tuple[int, ...]
    tile_shape: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles along each axis of a row."""
        return tuple(-(-n // t) for n, t in zip(self.row_shape, self.tile_shape))

    @property
    def count(self) -> int:
        """Tiles of a row."""
        return math.prod(self.grid)

    @property
    def are_rows(self) -> bool:
        """Whether a tile is a whole row, without padding."""
        return self.row_shape == self.tile_shape

    def slices(self, tile: int) -> tuple[slice, ...]:
        """The part of a row that a tile holds.

        Examples
        --------
        >>> Tiles((10, 4), (6, 4)).slices(1)
        (slice(6, 10, None), slice(0, 4, None))
        """
        parts: list[slice] = []
        for n, t, count in reversed([*zip(self.row_shape, self.tile_shape, self.grid)]):
            tile, i = divmod(tile, count)
            parts.insert(0, slice(i * t, min((i + 1) * t, n)))
        return tuple(parts)

    def holding(self, columns: slice | NDArray[np.int64] | None) -> Sequence[int]:
        """The tiles that hold these positions along axis 1; all for None.

        Examples
        --------
        >>> Tiles((10, 4), (3, 2)).holding(slice(2, 4))
        (0, 1, 2, 3)
        """
        everything = range(self.count)  # metadata may tell of any number
        if columns is None or self.are_rows:
            return everything
        kept = np.arange(self.row_shape[0])[columns] // self.tile_shape[0]
        wanted, beside = set(kept.tolist()), math.prod(self.grid[1:])
        return tuple(tile for tile in everything if tile // beside in wanted)


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows, chunks and files of one array.

    What swath writes has whole rows in each chunk, a crc32c after each, and an index in each shard. Arrays of others
    may have none of these, and a codec that is only a word for people.
    """

    n_rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    shard_rows: int
    """Rows of one file."""
    codec: str
    """``"raw"`` where rows lie in the file as they are, in order."""
    tile_shape: tuple[int, ...] | None = None
    """The part of a row that a chunk holds; None for all of it."""
    crc_bytes: int = CRC_BYTES
    """Stored after each chunk."""
    entry_bytes: int = INDEX_ENTRY_BYTES
    """Stored for each chunk in the index of its file; 0 where there is no index."""
    is_plain: bool = False
    """Whether chunks hold rows as they are, though not in one run: rows are read alone."""
    stamp_bytes: int = STAMP_BYTES
    """Stored after the index, to say which shard of which store it is."""
    decode_copies: int = 1
    """Buffers of a chunk's size that decoding one takes."""
    by_library: bool = False
    """Whether the library of the format reads and decodes, with threads of its own: it is asked for many chunks at once."""
    separator: str = "."
    """Of the parts of the key of a shard."""

    @property
    def is_countable(self) -> bool:
        """Whether rows, chunks and bytes can be counted in 64 bits, as planning does."""
        rows = self.n_rows + self.chunk_rows + self.shard_rows
        return max(rows, self.n_rows * self.row_bytes, self.chunk_bytes, self.index_bytes) < _MOST_COUNTED

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
        """Bytes of the rows of one chunk. The last chunk of an array is stored full, padded with zeros."""
        return self.chunk_rows * self.row_bytes

    @property
    def shard_chunks(self) -> int:
        """Chunks in a full shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def tiles(self) -> Tiles:
        """How a row is divided among chunks."""
        return Tiles(self.row_shape, self.row_shape if self.tile_shape is None else self.tile_shape)

    @property
    def tile_bytes(self) -> int:
        """Bytes of one decoded chunk of one tile."""
        return self.chunk_rows * self.dtype.itemsize * math.prod(self.tiles.tile_shape)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index of each file: offset and length of every chunk, and a crc32c."""
        return self.shard_chunks * self.entry_bytes + CRC_BYTES if self.entry_bytes else 0

    @property
    def head_bytes(self) -> int:
        """Bytes of the index and the stamp, with which a file begins."""
        return self.index_bytes + self.stamp_bytes

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

    def describe_chunk(self, chunk: int) -> str:
        """A chunk, as messages name it."""
        row = chunk * self.chunk_rows
        return f"chunk {chunk} (rows {row} to {min(row + self.chunk_rows, self.n_rows) - 1})"

    def rows_of(self, shard: int) -> tuple[int, int]:
        """The half-open range of rows in this shard."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.n_rows)


def field_bytes(dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Which bytes of a value belong to a field; those between fields are padding, which no copy keeps.

    Examples
    --------
    >>> field_bytes(np.dtype("u1, u2", align=True))
    array([ True, False,  True,  True])
    """
    if dtype.subdtype is not None:
        return np.tile(field_bytes(dtype.base), math.prod(dtype.shape))
    if dtype.fields is None:
        return np.ones(dtype.itemsize, np.bool_)
    own = np.zeros(dtype.itemsize, np.bool_)
    for field, offset, *_ in dtype.fields.values():
        own[offset : offset + field.itemsize] |= field_bytes(field)
    return own


@dataclass(frozen=True, slots=True)
class Sample:
    """What compressing some rows with one codec showed."""

    ratio: float
    """Bytes of the rows for each encoded byte."""
    decode_rate: float
    """Bytes of rows a second, on one core."""


@dataclass(frozen=True, slots=True)
class Location:
    """What reading costs where the store will be: bytes a second, at random, with many requests in flight."""

    read_rate: float
    cached_rate: float
    cache_bytes: int
    """Memory that files may be cached in."""
    cores: int
    """That decode at once."""
    most_rate: float = math.inf
    """What comes at most, wherever it lies: what a network between carries."""


def choose_codec(
    window: int, n_rows: int, row_bytes: int, samples: Mapping[CodecName, Sample], location: Location
) -> tuple[CodecName, str]:
    """The codec whose random windows are gathered in the least time, and why.

    Of an array that fits in the cache most windows are read from there, and of one that is k times as large one in k. A
    window takes the time of its calls, and that of its bytes or of decoding them, whichever is longer; or the time that
    a network takes for its bytes, while others are decoded.

    Examples
    --------
    >>> disk = Location(read_rate=1.2e9, cached_rate=5e9, cache_bytes=8 * 2**30, cores=2)
    >>> small = {"lz4": Sample(ratio=4.0, decode_rate=4e9)}
    >>> choose_codec(16, 2_000_000, 16_000, small, disk)[0], choose_codec(16, 100_000, 16_000, small, disk)[0]
    ('lz4', 'raw')
    >>> choose_codec(16, 100_000, 16_000, small, Location(1.2e9, 5e9, 8 * 2**30, 2, most_rate=1.25e8))[0]
    'lz4'
    """
    most = location.most_rate
    rates: dict[CodecName, float] = {}
    for codec, sample in {"raw": Sample(1.0, math.inf), **samples}.items():
        chunk_rows = choose_chunk_rows(window, row_bytes, codec, most)
        rows = chunk_rows + window - 1
        stored = rows * row_bytes / sample.ratio
        cached = min(1.0, location.cache_bytes * sample.ratio / (n_rows * row_bytes))
        calls = rows / chunk_rows * _SECONDS_A_CHUNK[codec]
        decoding = rows * row_bytes / (sample.decode_rate * location.cores)
        seconds = calls + cached * max(stored / location.cached_rate, decoding)
        seconds += (1 - cached) * max(stored / location.read_rate, decoding)
        rates[codec] = window * row_bytes / max(seconds, stored / most)
    best = max(rates, key=lambda codec: rates[codec])
    chosen = best if rates[best] > _WORTH_A_CODEC * rates["raw"] else "raw"
    larger = n_rows * row_bytes / location.cache_bytes
    why = f"the array is {larger:.2g} times the memory" if math.isinf(most) else f"a network brings {most / 1e9:g} GB/s"
    expected = ", ".join(
        f"{codec} {rate / 1e9:{'.1f' if math.isinf(most) else '.2f'}}"
        + (f" ({samples[codec].ratio:.1f} times smaller)" if codec in samples else "")
        for codec, rate in rates.items()
    )
    return chosen, f"{chosen}: {why}; expected GB/s at random: {expected}"


def read_amplification(chunk_rows: int, window: int) -> float:
    """Bytes read for each byte wanted, on average, where windows begin at random and whole chunks are read.

    Examples
    --------
    >>> read_amplification(chunk_rows=4, window=16), read_amplification(chunk_rows=1, window=16)
    (1.1875, 1.0)
    """
    return (chunk_rows + window - 1) / window


def window_seconds(
    chunk_rows: int, window: int, row_bytes: int, codec: CodecName = "raw", most_rate: float = math.inf
) -> float:
    """What a window takes, by the constants above: its bytes, of which a network brings ``most_rate`` a second, and a call for each chunk."""
    rows = chunk_rows + window - 1
    rate = min(_BYTES_A_SECOND[codec], most_rate * _SMALLER[codec])
    return rows * row_bytes / rate + rows / chunk_rows * _SECONDS_A_CHUNK[codec]


def choose_chunk_rows(window: int, row_bytes: int, codec: CodecName = "raw", most_rate: float = math.inf) -> int:
    """The power of two that gathers random windows of ``window`` rows in the least time.

    The time of a window is ``(c + w - 1) * row_bytes / B + (c + w - 1) / c * t``, with B and t as measured
    (see the module's constants); the least is near ``c = sqrt((w - 1) * t * B / row_bytes)``. Where a network brings
    ``most_rate`` bytes a second, B is that, or four times that of encoded rows: chunks are smaller, since what is read beside
    the window takes longer than calls.

    Examples
    --------
    >>> choose_chunk_rows(window=16, row_bytes=16_000), choose_chunk_rows(window=16, row_bytes=8)
    (4, 512)
    >>> choose_chunk_rows(window=16, row_bytes=16_000, most_rate=1.25e8)
    1
    """
    candidates = [2**k for k in range(31) if 2**k * row_bytes <= _MOST_CHUNK_BYTES]
    large_enough = [c for c in candidates if c * row_bytes >= _LEAST_CHUNK_BYTES]
    return min(
        large_enough or candidates, key=lambda c: window_seconds(c, window, row_bytes, codec, most_rate), default=1
    )


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
    codec: CodecName,
    most_shard_bytes: int,
    most_rate: float = math.inf,
) -> Layout:
    """The layout for an array of ``shape`` where ``most_rate`` bytes come a second; what is not ``"auto"`` is taken as given.

    Raises
    ------
    LayoutError
        Rows without bytes, a chunk that is too large, or a shard that is no whole number of chunks.
    OptionError
        A value that is no size in rows.
    """
    n_rows, row_shape = shape[0], shape[1:]
    row_bytes = dtype.itemsize * math.prod(row_shape)
    if row_bytes == 0:
        raise LayoutError(
            f"Rows of shape {row_shape} and dtype {dtype} hold no bytes. Give rows with at least one element."
        )
    chunk = (
        choose_chunk_rows(window, row_bytes, codec, most_rate)
        if chunk_rows == "auto"
        else _rows("chunk_rows", chunk_rows)
    )
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
    return Layout(n_rows, row_shape, dtype, chunk, shard, codec)


def _rows(name: str, value: object) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} is {value!r}. Give a whole number of rows, at least 1, or 'auto'.")
    return int(value)
