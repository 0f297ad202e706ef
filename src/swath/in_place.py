"""How are rows read from a file that another program wrote, without a copy?

A ``.npy`` file, a raw file and a contiguous HDF5 dataset hold rows as they are: the engine reads them as it reads the raw
chunks of a store. The chunks of a chunked HDF5 dataset lie anywhere in its file; HDF5 says where, once, and they are
fetched and decoded without it. What needs a filter or a conversion that is not known here is left to h5py, and a
``.npy`` file in Fortran order to numpy.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from swath.decoder import HDF5_FILTERS, Decoder, from_hdf5
from swath.encoded import ChunkReader, EncodedReader, Entries, LibraryReader
from swath.errors import DamagedStoreError, SourceError, StoreChangedError
from swath.layout import Layout
from swath.plan import LOCAL
from swath.raw import RawReader
from swath.rows import Access
from swath.shard import MEND
from swath.sources import Source, facts_now, file_facts, open_source
from swath.sources.files import FlatSource
from swath.sources.hdf5 import Apart, ChunkedSource
from swath.sources.memory import ArraySource
from swath.storage import File, Gate, LocalFile, LocalFolder, Scratch

# Windows that share a page are read together: a chunk of a file without chunks.
_PAGE = 4096

# What is read at once where values must be converted, and there are no chunks.
_BLOCK_BYTES = 2**18


class Contents(Protocol):
    """How rows lie in a file."""

    def reader(
        self, path: Path, layout: Layout, shard: int, access: Access, scratch: Scratch
    ) -> AbstractContextManager[RawReader | ChunkReader]:
        """What reads them."""
        ...

    def offset(self, layout: Layout, chunk: int) -> int | None:
        """Where a chunk begins; None where nobody can say."""
        ...


@dataclass(frozen=True, slots=True)
class InPlace:
    """Rows in one file, as it was when it was opened."""

    facts: dict[str, Any]
    """What tells this version of the file from another."""
    layout: Layout
    window: int
    contents: Contents

    is_store = False
    reason = "as its writer chose"
    reach = LOCAL

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.facts["path"])

    @property
    def segments(self) -> tuple[int, ...]:
        """The file is one segment."""
        return (self.layout.n_rows,)

    @property
    def url(self) -> str:
        """The file, and the dataset in it."""
        return _url(self.facts)

    @property
    def version(self) -> str:
        """Size and time of the file, and what of it is read."""
        return json.dumps(self.facts, sort_keys=True)

    def reader(self, shard: int, access: Access, scratch: Scratch) -> AbstractContextManager[RawReader | ChunkReader]:
        """What reads the chunks of the file."""
        return self.contents.reader(self.path, self.layout, shard, access, scratch)

    def through(self, gate: Gate) -> InPlace:
        """The same: the file is near."""
        return self

    def find(self, shard: int) -> None:
        """Nothing: it was learned when the file was opened."""

    def is_cached(self, chunk: int) -> bool:
        """Whether a chunk's first byte is in the page cache."""
        offset = self.contents.offset(self.layout, chunk)
        if offset is None:
            return True
        with LocalFolder(self.path.parent).open(self.path.name) as file:
            return file.is_cached(offset)

    def recipe(self) -> tuple[Any, ...]:
        """What opens this version of the file elsewhere, where its table of chunks is read again."""
        return _open_version, self.facts["path"], self.version, self.layout.row_shape, self.window

    def reopened(self) -> InPlace:
        """The file as it is now."""
        return _reopen(self.facts, self.layout.row_shape, self.window)

    def check_unchanged(self) -> None:
        """Refuse what was read meanwhile, if the file has changed.

        Raises
        ------
        StoreChangedError
        """
        try:
            unchanged = facts_now(self.facts) == self.facts
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            raise StoreChangedError(f"{self.path} was changed or removed since it was opened. Open it again.")


def open_in_place(source: Source, window: int) -> InPlace:
    """The rows of a source that is one file, where they are.

    Raises
    ------
    SourceError
        Its rows hold no bytes.
    """
    if not source.dtype.itemsize * math.prod(source.shape[1:]):
        raise SourceError(
            f"Rows of shape {source.shape[1:]} and dtype {source.dtype} hold no bytes. Give rows with at least one element."
        )
    if isinstance(source, FlatSource):
        return _open_flat(source, window)
    if isinstance(source, ChunkedSource):
        return _open_chunked(source, window)
    if not isinstance(source, ArraySource) or not isinstance(source.array, np.memmap):
        raise SourceError(
            f"{source.describe().get('path', 'The file')} cannot be read at random where it is. Ingest it, and open the store."
        )
    path = Path(source.array.filename or "")
    # A row lies in as many places as it has values, and the kernel maps sixteen pages around each.
    rows = _rows_of(_BLOCK_BYTES, source)
    copies = 1 + 16 * _PAGE // (rows * source.dtype.itemsize)
    layout = _layout(source, rows, "raw, Fortran order", copies)
    return InPlace({"kind": "npy", **file_facts(path)}, layout, window, LibraryBlocks(partial(_mapped, path)))


def _mapped(path: Path) -> AbstractContextManager[Any]:
    return contextlib.nullcontext(np.load(path, mmap_mode="r", allow_pickle=False))


def _url(facts: dict[str, Any]) -> str:
    dataset = facts.get("dataset")
    return str(facts["path"]) if dataset is None else f"{facts['path']}::{dataset}"


def _reopen(facts: dict[str, Any], row_shape: tuple[int, ...], window: int) -> InPlace:
    """The rows of the same file as it is now."""
    raw = facts["kind"] == "raw"
    source = open_source(
        _url(facts), dtype=np.dtype(facts["dtype"]) if raw else None, row_shape=row_shape if raw else None
    )
    return open_in_place(source, window)


def _open_version(path: str, version: str, row_shape: tuple[int, ...], window: int) -> InPlace:
    """The rows of a file that has not changed.

    Raises
    ------
    StoreChangedError
    """
    rows = _reopen(json.loads(version), row_shape, window)
    if rows.version != version:
        raise StoreChangedError(f"{path} was changed since these windows were chosen. Open it again.")
    return rows


def _facts(source: FlatSource | ChunkedSource) -> dict[str, Any]:
    """What the file was when the source was opened: before its table of chunks was read."""
    kind = source.kind if isinstance(source, FlatSource) else "hdf5"
    own = {"offset": source.offset, "dtype": source.stored.str} if isinstance(source, FlatSource) else {}
    return {"kind": kind, **source.facts, "shape": list(source.shape), **own}


def _open_flat(source: FlatSource, window: int) -> InPlace:
    if source.stored == source.dtype:
        layout = _layout(source, _rows_of(_PAGE, source), "raw", 0)
        return InPlace(_facts(source), layout, window, FlatBytes(source.offset))
    layout = _layout(source, _rows_of(_BLOCK_BYTES, source), f"raw, {source.stored.str}", 1, is_plain=True)
    decoder = Decoder((layout.chunk_rows, *layout.row_shape), source.stored, source.dtype)
    table = FlatTable(source.offset, decoder.n_bytes, source.offset + layout.n_rows * decoder.row_bytes)
    return InPlace(_facts(source), layout, window, EncodedChunks(decoder, table))


def _open_chunked(source: ChunkedSource, window: int) -> InPlace:
    table = source.chunk_table()
    decoder = None
    if table is not None:
        decoder = from_hdf5(table.filters, table.chunk_shape, table.stored)
    if table is None or decoder is None:
        chunks = source.dataset.chunks or (_rows_of(_BLOCK_BYTES, source), *source.dataset.shape[1:])
        tile_shape = (*chunks[1:], *source.dataset.dtype.shape)
        layout = _layout(source, chunks[0], "read by h5py", 0, tile_shape, by_library=True)
        dataset: Any = source.dataset
        if isinstance(dataset, Apart):
            dataset = replace(dataset, cache_bytes=0)  # windows are read in order, each chunk once
        return InPlace(_facts(source), layout, window, LibraryBlocks(partial(contextlib.nullcontext, dataset)))
    words = "+".join(HDF5_FILTERS[number] for number, _ in table.filters) or "uncompressed"
    layout = _layout(
        source, table.chunk_shape[0], words, 1 + len(decoder.steps), table.chunk_shape[1:], is_plain=decoder.is_identity
    )
    return InPlace(_facts(source), layout, window, EncodedChunks(decoder, table))


def _layout(
    source: Source,
    chunk_rows: int,
    codec: str,
    copies: int,
    tile_shape: tuple[int, ...] | None = None,
    *,
    is_plain: bool = False,
    by_library: bool = False,
) -> Layout:
    """The layout of one file: all its chunks lie in it, and none has a checksum that swath knows."""
    chunks = -(-source.shape[0] // chunk_rows)
    return Layout(
        n_rows=source.shape[0],
        row_shape=source.shape[1:],
        dtype=source.dtype,
        chunk_rows=chunk_rows,
        shard_rows=chunks * chunk_rows,
        codec=codec,
        tile_shape=tile_shape,
        crc_bytes=0,
        entry_bytes=0,
        stamp_bytes=0,
        is_plain=is_plain,
        decode_copies=copies,
        by_library=by_library,
    )


def _rows_of(n_bytes: int, source: Source) -> int:
    return max(1, n_bytes // (source.dtype.itemsize * math.prod(source.shape[1:])))


@dataclass(frozen=True, slots=True)
class FlatBytes:
    """Rows one after another, from an offset."""

    begin: int

    @contextlib.contextmanager
    def reader(
        self, path: Path, layout: Layout, shard: int, access: Access, scratch: Scratch
    ) -> Iterator[RawReader | ChunkReader]:
        """What reads the file."""
        with _open(path, scratch if access.direct else None) as file:
            yield RawReader(file, layout, shard, scratch, offset=self.begin, index=None, verify=False, reach=LOCAL)

    def offset(self, layout: Layout, chunk: int) -> int | None:
        """Where a chunk begins."""
        return self.begin + chunk * layout.chunk_bytes


class Table(Protocol):
    """Where the chunks of one file lie."""

    def entries(self, first: int, stop: int, tile: int) -> Entries:
        """Offset, length and skipped filters of a tile of these chunks; None for one that was never written."""
        ...

    @property
    def fill_value(self) -> Any:
        """The value of chunks that were never written; None where all must be there."""
        ...


@dataclass(frozen=True, slots=True)
class FlatTable:
    """Rows one after another, from an offset, in runs of some rows."""

    begin: int
    run_bytes: int
    end: int

    fill_value = None

    def entries(self, first: int, stop: int, tile: int) -> Entries:
        """Where runs lie: the last may be short."""
        offsets = (self.begin + k * self.run_bytes for k in range(first, stop))
        return [(offset, min(self.run_bytes, self.end - offset), 0) for offset in offsets]


@dataclass(frozen=True, slots=True)
class EncodedChunks:
    """Chunks that are fetched and decoded without the library that wrote them."""

    decoder: Decoder
    table: Table

    @contextlib.contextmanager
    def reader(
        self, path: Path, layout: Layout, shard: int, access: Access, scratch: Scratch
    ) -> Iterator[RawReader | ChunkReader]:
        """What reads the file."""
        chunks = _OneFile(LocalFolder(path.parent), path.name, self.table)
        with EncodedReader(
            chunks,
            self.decoder,
            layout,
            access.tiles,
            scratch,
            direct=access.direct,
            reach=LOCAL,
            fill_value=self.table.fill_value,
        ) as reader:
            yield reader

    def offset(self, layout: Layout, chunk: int) -> int | None:
        """Where a chunk begins."""
        (entry,) = self.table.entries(chunk, chunk + 1, 0)
        return None if entry is None else entry[0]


@dataclass(frozen=True, slots=True)
class _OneFile:
    """A file that holds all chunks."""

    folder: LocalFolder
    name: str
    table: Table

    def key(self, chunk: int, tile: int) -> str:
        return self.name

    def entries(self, file: File, first: int, stop: int, tile: int) -> Entries:
        return self.table.entries(first, stop, tile)


@dataclass(frozen=True, slots=True)
class LibraryBlocks:
    """Blocks that the library of the format reads."""

    open_array: Callable[[], AbstractContextManager[Any]]
    """Pickles, as the rows do: it opens the file anew wherever it is called."""

    @contextlib.contextmanager
    def reader(
        self, path: Path, layout: Layout, shard: int, access: Access, scratch: Scratch
    ) -> Iterator[RawReader | ChunkReader]:
        """What reads the file."""
        with self.open_array() as array:
            yield LibraryReader(array, lambda chunk, tile: str(path), layout, access.tiles)

    def offset(self, layout: Layout, chunk: int) -> int | None:
        """Only the library knows."""
        return None


@contextlib.contextmanager
def _open(path: Path, direct: Scratch | None) -> Iterator[LocalFile]:
    try:
        with LocalFolder(path.parent).open(path.name, direct) as file:
            yield file
    except FileNotFoundError:
        raise DamagedStoreError(f"{path} is missing. {MEND}") from None
