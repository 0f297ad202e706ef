"""How do rows get out of chunks that must be decoded, or that do not hold whole rows?

A row of chunks is a run of rows; where chunks do not hold whole rows it has several *tiles*, side by side along the other
axes. A reader yields the rows of one tile of one chunk at a time, each fetched and decoded once, whoever wants it:

- `EncodedReader` finds each chunk in its file, fetches a run of neighbours in one range, and decodes by `swath.decoder`,
  into the batch itself where one window wants all of a chunk; small ones of a store by one call for those of several reads
  (`EncodedReader.read_joined`);
- `LibraryReader` asks zarr-python, h5py or numpy for the block, where only they know how it is stored.
"""

from __future__ import annotations

import contextlib
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from swath.decoder import DecodeError, Decoder
from swath.errors import DamagedStoreError
from swath.joined import Join, decoded_groups
from swath.layout import Layout
from swath.plan import Reach
from swath.shard import MEND
from swath.storage import Buffer, File, Folder, Scratch
from swath.windows import IntArray, expand

# Tiles may lie in thousands of files; 32 threads shall stay within the 1024 files that a process may open.
_MOST_OPEN_FILES = 8

Entries = list[tuple[int, int, int] | None]
"""Offset, length and skipped filters of some chunks in a file; None for one that was never written."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The windows that share a read, by which a reader knows what of a chunk is wanted."""

    starts: list[int]
    """First row of each window, ascending."""
    order: list[int]
    """Place in the batch of each."""
    window: int
    batch: Buffer | None
    """The batch as bytes, where windows lie in it whole."""
    row_bytes: int

    def touching(self, row0: int, row1: int) -> tuple[int, int]:
        """The half-open range of windows with rows in ``[row0, row1)``."""
        return bisect_right(self.starts, row0 - self.window), bisect_left(self.starts, row1)

    def groups(self, first: int, stop: int, most_gap: int) -> Iterator[tuple[int, int]]:
        """Windows ``[first, stop)`` in groups, between which lie more than ``most_gap`` rows that nobody wants."""
        for i in range(first + 1, stop):
            if self.starts[i] - self.starts[i - 1] - self.window > most_gap:
                yield first, i
                first = i
        yield first, stop

    def host(self, row0: int, row1: int) -> tuple[int, Buffer] | None:
        """A window that holds all rows ``[row0, row1)``, and where they lie in the batch; None if there is none."""
        i = bisect_right(self.starts, row0) - 1
        if self.batch is None or i < 0 or self.starts[i] + self.window < row1:
            return None
        begin = (self.order[i] * self.window + row0 - self.starts[i]) * self.row_bytes
        return i, self.batch[begin : begin + (row1 - row0) * self.row_bytes]


class Decoded(NamedTuple):
    """Rows of one tile of one chunk, and the windows that want them."""

    row0: int
    """First row, in the array."""
    rows: NDArray[Any]
    tile: int
    first: int
    """First of the windows that touch the rows, by position in `Wanted`."""
    stop: int
    """Window after the last of them."""
    host: int | None
    """The window in which these rows lie already."""


class ChunkReader(Protocol):
    """Reads rows that must be decoded. One thread at a time."""

    def read(self, first_chunk: int, stop_chunk: int, wanted: Wanted) -> Iterator[Decoded]:
        """What is wanted of the chunks ``[first_chunk, stop_chunk)`` of one shard; valid until the next is taken.

        Raises
        ------
        DamagedStoreError
        """
        ...

    def announce(self, first_chunk: int, stop_chunk: int, row0: int, row1: int) -> None:
        """Let the system fetch what `read` of these chunks will read, if of their rows ``[row0, row1)`` are wanted.

        Raises
        ------
        DamagedStoreError
        """
        ...


class ChunkMap(Protocol):
    """Where chunks lie."""

    @property
    def folder(self) -> Folder:
        """The folder of the files."""
        ...

    def key(self, chunk: int, tile: int) -> str:
        """The file that holds this tile of a chunk."""
        ...

    def entries(self, file: File, first: int, stop: int, tile: int) -> Entries:
        """Where this tile of chunks in one file lies."""
        ...


Places = Callable[[File, IntArray], tuple[NDArray[np.uint64], NDArray[np.uint64]] | None]
"""Offset and length of many chunks of one file; None where not all are known to be there."""


class EncodedReader:
    """Fetches and decodes chunks of one shard, or of one row of shards, with the files that it opens."""

    def __init__(
        self,
        chunks: ChunkMap,
        decoder: Decoder,
        layout: Layout,
        tiles: Sequence[int],
        scratch: Scratch,
        *,
        direct: bool,
        reach: Reach,
        fill_value: Any = None,
        places: Places | None = None,
    ) -> None:
        """A chunk that was never written holds ``fill_value``; where that is None, it is damage.

        With ``places`` there may be more than one chunk to be decoded by a call (`read_joined`).
        """
        self._places = places
        self._chunks = chunks
        self._decoder = decoder
        self._layout = layout
        self._tiles = tiles
        self._scratch = scratch
        self._direct = scratch if direct else None
        self._fill_value = fill_value
        self._are_rows = layout.tiles.are_rows
        self._reach = reach
        self._gap_rows = reach.wide_gap_bytes // decoder.row_bytes
        self._lands_whole = self._are_rows and decoder.is_plain
        self._files = contextlib.ExitStack()
        self._open: dict[str, File] = {}

    def __enter__(self) -> EncodedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def read(self, first_chunk: int, stop_chunk: int, wanted: Wanted) -> Iterator[Decoded]:
        """What is wanted of the chunks; see `ChunkReader`."""
        for tile in self._tiles:
            file, entries = self._find(first_chunk, stop_chunk, tile)
            for begin, end in _runs(entries, self._reach):
                yield from self._read_run(file, first_chunk + begin, entries[begin:end], tile, wanted)

    def read_joined(self, join: Join) -> Iterator[Buffer | None]:
        """All rows of each group of reads, one after another, decoded by one call; valid until the next is taken.

        None where they can't be had so, or something is wrong: `read` of each tells.
        """
        none = itertools.repeat(None, len(join.groups))
        if self._places is None:
            return none
        counts = join.stop_chunk - join.first_chunk
        read, k = expand(counts)
        try:
            file = self._file(self._chunks.key(int(join.first_chunk[0]), 0))
            places = self._places(file, join.first_chunk[read] + k)
        except (FileNotFoundError, DamagedStoreError):
            return none
        if places is None or (places[0] > file.size).any() or (places[1] > self._decoder.most_bytes).any():
            return none
        offsets, lengths = (each.astype(np.int64) for each in places)
        return decoded_groups(file, offsets, lengths, counts, join.groups, self._decoder, self._scratch)

    def announce(self, first_chunk: int, stop_chunk: int, row0: int, row1: int) -> None:
        """Let the system fetch what is wanted; see `ChunkReader`."""
        row_bytes, chunk_rows = self._decoder.row_bytes, self._layout.chunk_rows
        for tile in self._tiles:
            file, entries = self._find(first_chunk, stop_chunk, tile)
            for k, entry in enumerate(entries):
                if file is None or entry is None:
                    continue
                offset, length, _ = entry
                if self._decoder.is_identity:
                    first = (first_chunk + k) * chunk_rows
                    lo, hi = max(row0 - first, 0), min(row1 - first, chunk_rows)
                    offset, length = offset + lo * row_bytes, min((hi - lo) * row_bytes, length)
                file.announce(offset, length)

    def _find(self, first: int, stop: int, tile: int) -> tuple[File | None, Entries]:
        """The file of a tile of some chunks, and where they lie in it; None where there is none."""
        key = self._chunks.key(first, tile)
        try:
            file = self._file(key)
            return file, self._chunks.entries(file, first, stop, tile)
        except FileNotFoundError:
            if self._fill_value is not None:
                return None, [None] * (stop - first)
            a, b = self._layout.rows_of(first // self._layout.shard_chunks)
            raise DamagedStoreError(
                f"{self._chunks.folder.url}/{key} (rows {a} to {b - 1}) is missing. {MEND}"
            ) from None

    def _file(self, key: str) -> File:
        if key not in self._open:
            if len(self._open) >= _MOST_OPEN_FILES:
                self._files.close()
                self._open.clear()
            self._open[key] = self._files.enter_context(self._chunks.folder.open(key, self._direct))
        return self._open[key]

    def _read_run(
        self, file: File | None, chunk: int, entries: Entries, tile: int, wanted: Wanted
    ) -> Iterator[Decoded]:
        """Chunks whose bytes are fetched in one range, or one that has none."""
        decoder, layout = self._decoder, self._layout
        chunk_rows, n_rows = layout.chunk_rows, layout.n_rows
        encoded, base = memoryview(b""), 0
        if file is not None and entries[0] is not None and not decoder.is_identity:
            base, stop = self._check_range(file, entries, chunk)
            encoded = self._fetch(file, base, stop - base, chunk)
        for k, entry in enumerate(entries):
            row0 = (chunk + k) * chunk_rows
            row1 = min(row0 + chunk_rows, n_rows)
            touching = wanted.touching(row0, row1)
            if touching[0] >= touching[1]:
                continue
            # What is decoded is decoded once; what is not, is read where it is wanted.
            for first, stop in wanted.groups(*touching, self._gap_rows) if decoder.is_identity else (touching,):
                lo = max(row0, wanted.starts[first]) - row0
                hi = min(row1, wanted.starts[stop - 1] + wanted.window) - row0
                host = wanted.host(row0, row1) if hi - lo == chunk_rows and self._lands_whole else None
                if file is None or entry is None:
                    rows, landed = self._missing(file, chunk + k, hi - lo), False
                elif decoder.is_identity:
                    rows, landed = self._fetch_rows(file, entry, chunk + k, lo, hi, host), True
                else:
                    offset, length, mask = entry
                    body = encoded[offset - base : offset - base + length]
                    rows, landed = self._decode(file, body, mask, chunk + k, lo, hi, host)
                if not self._are_rows:
                    inside = (slice(0, part.stop - part.start) for part in layout.tiles.slices(tile))
                    rows = rows[(slice(None), *inside)]
                yield Decoded(row0 + lo, rows, tile, first, stop, host[0] if host and landed else None)

    def _check_range(self, file: File, entries: Entries, chunk: int) -> tuple[int, int]:
        """The bytes that hold some chunks.

        Raises
        ------
        DamagedStoreError
            They can't all be there.
        """
        ranges = [(offset, offset + length) for offset, length, _ in filter(None, entries)]
        most = self._decoder.most_bytes
        for k, (begin, end) in enumerate(ranges):
            if end - begin > most:
                self._damaged(file, chunk + k, f"has {end - begin} bytes, and can have {most} at most")
            if end > file.size:
                self._damaged(file, chunk + k, f"ends early: the file has {file.size} bytes")
        return ranges[0][0], ranges[-1][1]

    def _fetch(self, file: File, offset: int, length: int, chunk: int) -> Buffer:
        encoded = self._scratch.take("encoded", length)
        got = file.read_into([encoded], length, offset)
        if got < length:
            self._damaged(file, chunk, f"ends early: the file has {file.size} bytes")
        return encoded

    def _fetch_rows(
        self,
        file: File,
        entry: tuple[int, int, int],
        chunk: int,
        lo: int,
        hi: int,
        host: tuple[int, Buffer] | None,
    ) -> NDArray[Any]:
        """Rows that are stored as they are: only those that are wanted."""
        decoder = self._decoder
        offset, length, _ = entry
        if length < hi * decoder.row_bytes or length > decoder.n_bytes:
            self._damaged(file, chunk, f"has {length} bytes, not {decoder.n_bytes}")
        n_bytes = (hi - lo) * decoder.row_bytes
        out = self._scratch.take("chunk", n_bytes) if host is None else host[1]
        if file.read_into([out], n_bytes, offset + lo * decoder.row_bytes) < n_bytes:
            self._damaged(file, chunk, f"ends early: the file has {file.size} bytes")
        return np.ndarray((hi - lo, *decoder.shape[1:]), decoder.stored, out)

    def _decode(
        self,
        file: File,
        encoded: Buffer,
        mask: int,
        chunk: int,
        lo: int,
        hi: int,
        host: tuple[int, Buffer] | None,
    ) -> tuple[NDArray[Any], bool]:
        decoder = self._decoder.skipping(mask) if mask else self._decoder
        out = self._scratch.take("chunk", decoder.n_bytes) if host is None else host[1]
        try:
            return decoder.decode(encoded, lo, hi, out)
        except DecodeError as error:
            self._damaged(file, chunk, str(error))

    def _missing(self, file: File | None, chunk: int, n_rows: int) -> NDArray[Any]:
        if self._fill_value is None:
            assert file is not None
            self._damaged(file, chunk, "is missing")
        return np.full((n_rows, *self._decoder.shape[1:]), self._fill_value, self._decoder.dtype)

    def _damaged(self, file: File, chunk: int, what: str) -> NoReturn:
        raise DamagedStoreError(f"{file.path}: {self._layout.describe_chunk(chunk)} {what}. {MEND}")


def _runs(entries: Entries, reach: Reach) -> Iterator[tuple[int, int]]:
    """Runs of chunks whose bytes lie one after another, near enough to be fetched in one range."""
    begin = 0
    for k in range(1, len(entries) + 1):
        if k < len(entries):
            first, before, entry = entries[begin], entries[k - 1], entries[k]
            if first is not None and before is not None and entry is not None:
                gap = entry[0] - before[0] - before[1]
                if 0 <= gap <= reach.gap_bytes and entry[0] + entry[1] - first[0] <= reach.block_bytes:
                    continue
        yield begin, k
        begin = k


class LibraryReader:
    """Reads blocks through zarr-python, h5py or numpy, each once."""

    def __init__(self, array: Any, where: Callable[[int, int], str], layout: Layout, tiles: Sequence[int]) -> None:
        """``where`` gives the file that holds a tile of a chunk."""
        self._array = array
        self._where = where
        self._layout = layout
        self._tiles = tiles

    def read(self, first_chunk: int, stop_chunk: int, wanted: Wanted) -> Iterator[Decoded]:
        """What is wanted of the chunks; see `ChunkReader`."""
        for (first, stop), tile in itertools.product(self._touched(first_chunk, stop_chunk, wanted), self._tiles):
            try:
                yield self._block(first, stop, tile, wanted)
            except DamagedStoreError:
                # Chunk by chunk, to say which it is.
                yield from (self._block(chunk, chunk + 1, tile, wanted) for chunk in range(first, stop))

    def announce(self, first_chunk: int, stop_chunk: int, row0: int, row1: int) -> None:
        """Nothing: the library reads as it likes."""

    def _block(self, first: int, stop: int, tile: int, wanted: Wanted) -> Decoded:
        """One tile of some chunks that windows touch, by one call."""
        layout = self._layout
        row0, row1 = first * layout.chunk_rows, min(stop * layout.chunk_rows, layout.n_rows)
        i, j = wanted.touching(row0, row1)
        lo, hi = max(row0, wanted.starts[i]), min(row1, wanted.starts[j - 1] + wanted.window)
        try:
            # A dataset of arrays has fewer axes than what is read of it.
            rows = self._array[(slice(lo, hi), *layout.tiles.slices(tile)[: self._array.ndim - 1])]
        except Exception as error:  # whatever a codec of somebody else raises
            raise DamagedStoreError(
                f"{self._where(first, tile)}: {layout.describe_chunk(first)} cannot be read ({error}). {MEND}"
            ) from error
        return Decoded(lo, np.asarray(rows), tile, i, j, None)

    def _touched(self, first_chunk: int, stop_chunk: int, wanted: Wanted) -> list[tuple[int, int]]:
        """Runs of chunks that windows touch."""
        chunk_rows = self._layout.chunk_rows
        runs: list[tuple[int, int]] = []
        for chunk in range(first_chunk, stop_chunk):
            i, j = wanted.touching(chunk * chunk_rows, (chunk + 1) * chunk_rows)
            if i < j and runs and runs[-1][1] == chunk:
                runs[-1] = runs[-1][0], chunk + 1
            elif i < j:
                runs.append((chunk, chunk + 1))
        return runs
