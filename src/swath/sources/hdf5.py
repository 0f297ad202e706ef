"""HDF5 datasets: contiguous ones are read as files, chunked ones by h5py, each chunk once, or in place by their table."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from swath.errors import DiskFullError, SourceError, SourceNotFoundError
from swath.sources import Source, check_rows, facts_now, file_facts
from swath.sources.bands import BandReader, Bands
from swath.sources.files import FlatSource
from swath.sources.spooled import Slab

# Links within a file, one after another, before they are taken for a circle.
_MOST_LINKS = 16

# Buffers of a chunk's size that HDF5 holds: encoded, and decoded.
_IN_HAND = 2


@dataclass(frozen=True, slots=True)
class ChunkedSource:
    """A dataset that h5py reads: chunked, filtered, compact, or of a dtype that must be converted."""

    dataset: h5py.Dataset
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_bytes: int
    facts: dict[str, Any]
    banded: BandReader | None
    """What reads it where a row of chunks is more than may be kept."""

    in_order = True  # HDF5 has one lock for the process, and the cache keeps the row of chunks that was read last

    @property
    def segments(self) -> tuple[int, ...]:
        """The dataset is one segment."""
        return (self.shape[0],)

    @property
    def temporary_bytes(self) -> int:
        """Of the file that a band goes through, if it does."""
        return 0 if self.banded is None else self.banded.temporary_bytes

    def describe(self) -> dict[str, Any]:
        """The file's name, size and time, and the dataset's name."""
        return {"kind": "hdf5", **(facts_now(self.facts) if "mtime_ns" in self.facts else self.facts)}

    def chunk_table(self) -> ChunkTable | None:
        """Where the chunks lie; None for a dataset that only h5py can read."""
        return _read_chunk_table(self.dataset)

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read by h5py, into ``out`` itself where the dtypes agree.

        Raises
        ------
        SourceError
            A chunk cannot be decoded.
        DiskFullError
            There is no room for a temporary file of rows whose chunks do not fit in memory.
        """
        try:
            if self.banded is not None:
                self.banded.read_into(start, out)
            elif self.dataset.dtype == self.dtype:
                self.dataset.read_direct(out, np.s_[start : start + len(out)])
            else:
                out[...] = self.dataset[start : start + len(out)]
        except DiskFullError:
            raise
        except OSError as error:
            raise SourceError(
                f"{self.facts['path']}::{self.facts['dataset']}: rows {start} to {start + len(out) - 1} "
                f"cannot be read ({error}). "
                "Mend the file, or install the filter it needs (hdf5plugin)."
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTable:
    """Where the chunks of a dataset lie in its file, in the order of the chunk grid, and how they are encoded."""

    chunk_shape: tuple[int, ...]
    stored: np.dtype[Any]
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    """Number and options of each filter, in the order of encoding."""
    fill_value: Any
    """Of chunks that were never written; their ``sizes`` are 0."""
    offsets: NDArray[np.int64]
    """(chunks, tiles) in bytes."""
    sizes: NDArray[np.int64]
    skipped: NDArray[np.int64]
    """Bits of the filters that were left out for each chunk."""

    def entries(self, first: int, stop: int, tile: int) -> list[tuple[int, int, int] | None]:
        """Offset, length and skipped filters of a tile of these chunks; None for one that was never written."""
        columns = (column[first:stop, tile].tolist() for column in (self.offsets, self.sizes, self.skipped))
        return [(offset, size, mask) if size else None for offset, size, mask in zip(*columns)]


def _read_chunk_table(dataset: h5py.Dataset) -> ChunkTable | None:
    """The chunk table of a chunked dataset whose values need no conversion; None for others."""
    if dataset.chunks is None or dataset.file.driver != "sec2" or dataset.dtype.kind not in "iufc":
        return None
    if h5py.h5t.py_create(dataset.dtype) != dataset.id.get_type():
        return None
    grid = tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks))
    table = np.zeros((3, *grid), np.int64)
    # A callback for each chunk: one that only keeps what it is given takes 1 us, and one that looks at it several.
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    if chunks:
        index = np.array([chunk.chunk_offset for chunk in chunks]) // dataset.chunks
        facts = [(chunk.byte_offset, chunk.size, chunk.filter_mask) for chunk in chunks]
        table[(slice(None), *index.T)] = np.array(facts).T
    created = dataset.id.get_create_plist()
    filters = (created.get_filter(i) for i in range(created.get_nfilters()))
    offsets, sizes, skipped = table.reshape(3, grid[0], -1)
    return ChunkTable(
        dataset.chunks,
        dataset.dtype,
        tuple((number, tuple(options)) for number, _, options, _ in filters),
        _fill_value(dataset),
        offsets,
        sizes,
        skipped,
    )


def _fill_value(dataset: h5py.Dataset) -> Any:
    """Of chunks that were never written; None where the file says that it has none."""
    defined = dataset.id.get_create_plist().fill_value_defined()
    return None if defined == h5py.h5d.FILL_VALUE_UNDEFINED else dataset.fillvalue


@contextlib.contextmanager
def opened(path: str, name: str) -> Iterator[h5py.Dataset]:
    """A dataset of a file that is opened for the while."""
    with h5py.File(path, "r") as file:
        yield _find(file, name)


def open_file(path: Path, name: str, cache_bytes: int) -> Source:
    """The dataset ``name`` of a file.

    Raises
    ------
    SourceNotFoundError
        The file has no such dataset; the message lists those it has.
    SourceError
        It is no array of rows, or its values lie in other files.
    """
    file = _open(path)
    found = _find(file, name) if name else None
    if not isinstance(found, h5py.Dataset):
        has = _datasets(file)
        listed = ", ".join(has[:8]) + (", ..." if len(has) > 8 else "") or "none"
        what = f"no dataset {name!r}" if found is None else f"a group {name!r}, which is no dataset"
        if not name:
            raise SourceError(
                f"{path} is an HDF5 file, and no dataset is named. Give '{path}::NAME', with one of: {listed}."
            )
        raise SourceNotFoundError(f"{path} has {what}. It has: {listed}.")
    if found.shape is not None:
        found = _with_cache(found, cache_bytes)
    return open_dataset(found, cache_bytes)


def dataset_names(path: Path, group: str) -> list[str]:
    """Names of all datasets in a group of a file, those in its groups too; ``""`` is the file itself.

    Raises
    ------
    SourceNotFoundError
        The file has no such group.
    """
    with _open(path) as file:
        found = _find(file, group) if group else file
        if not isinstance(found, h5py.Group):
            raise SourceNotFoundError(f"{path} has no group {group!r}. Give one that it has, or the file alone.")
        return _datasets(found)


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened as HDF5 ({error}). Close its writer, or restore the file."
        ) from error


def _find(file: h5py.File, name: str) -> Any:
    """What a name leads to in a file; None if there is nothing. HDF5 itself would open any other file that a link names.

    Raises
    ------
    SourceError
        It leads to another file.
    """
    found: Any = file["/"]
    parts, n_links = name.split("/")[::-1], 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if isinstance(link, h5py.HardLink):
            found = found.get(part)
        elif isinstance(link, h5py.SoftLink) and n_links < _MOST_LINKS:
            n_links += 1
            parts += link.path.split("/")[::-1]
            found = file["/"] if link.path.startswith("/") else found
        elif link is None or isinstance(link, h5py.SoftLink):
            return None
        else:
            raise SourceError(
                f"{file.filename}::{name} leads to another file, which is not opened because a file says so. "
                "Give that file and its dataset, if you trust them."
            )
    return found


def open_dataset(dataset: Any, cache_bytes: int) -> Source:
    """The source of an h5py dataset.

    Raises
    ------
    SourceError
    """
    if not isinstance(dataset, h5py.Dataset):
        raise SourceError(f"A {type(dataset).__name__} is no HDF5 dataset. Give one of its datasets.")
    path = Path(dataset.file.filename)
    where = f"{path}::{dataset.name}"
    if dataset.shape is None:
        raise SourceError(f"{where} is empty (a null dataspace). Give a dataset with rows.")
    try:
        stored = dataset.dtype
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where} has a type that numpy has no dtype for ({error}). Convert it first.") from None
    shape = (*dataset.shape, *stored.shape)  # of a dataset of arrays, h5py reads the axes of both
    dtype = check_rows(shape, stored.base, where)
    if 0 in shape:
        raise SourceError(f"{where} has shape {shape}, whose rows hold no bytes. Give rows with at least one element.")
    if dataset.is_virtual or dataset.external:
        raise SourceError(
            f"{where} keeps its values in other files, where a missing one would read as fill values. "
            "Copy it into one dataset first (h5repack), or ingest the files themselves as a list."
        )
    plain_file = dataset.file.driver == "sec2"
    if dataset.file.mode != "r":
        dataset.file.flush()
    # A file in memory, or in parts, has no version to tell by: an ingest from it never carries on.
    version = file_facts(path) if plain_file else {"path": str(path), "opened": uuid.uuid4().hex}
    facts = {**version, "dataset": dataset.name, "shape": list(shape), "dtype": dtype.str}
    # Where nothing was ever written there are no bytes; behind a user block, HDF5 gives an offset all the same.
    offset = dataset.id.get_offset() if dataset.id.get_storage_size() else None
    if offset is not None and plain_file and _is_plain(dataset):
        return FlatSource(path, "hdf5", offset, shape, dataset.dtype, dtype, facts)
    _check_filters(dataset, where)
    if (cache := _cache_of(dataset, cache_bytes)) is not None:
        # What is decoded meanwhile is small beside the cache, unless this is one large chunk.
        encoded = 0 if cache <= cache_bytes else min(cache, dataset.id.get_storage_size())
        return ChunkedSource(dataset, shape, dtype, cache + encoded, facts, None)
    chunks = (*(dataset.chunks or (1, *dataset.shape[1:])), *stored.shape)
    bands = Bands.choose(shape, chunks, stored.base.itemsize, cache_bytes, _IN_HAND)
    reader = BandReader(bands, shape, dtype, partial(_read_part, dataset))
    return ChunkedSource(dataset, shape, dtype, bands.peak_bytes, facts, reader)


def _read_part(dataset: h5py.Dataset, a: int, b: int, slab: Slab) -> NDArray[Any]:
    return np.asarray(dataset[(slice(a, b), *slab[: dataset.ndim - 1])])


def _check_filters(dataset: h5py.Dataset, where: str) -> None:
    created = dataset.id.get_create_plist()
    for i in range(created.get_nfilters()):
        number, _, _, name = created.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            raise SourceError(
                f"{where} needs the HDF5 filter {number} ({name.decode(errors='replace')}), which is not installed. "
                "Install the package that has it, such as hdf5plugin, and import it first."
            )


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Whether the bytes in the file are the values in memory, in some byte order, with no conversion."""
    if dataset.dtype.kind not in "iuf":
        return False
    return bool(h5py.h5t.py_create(dataset.dtype) == dataset.id.get_type())


def _with_cache(dataset: h5py.Dataset, cache_bytes: int) -> h5py.Dataset:
    """The dataset with a chunk cache that holds a whole row of chunks, if it may, so that none is decoded twice.

    HDF5 takes the size of a cache when a dataset is opened and is not open already: the one that is given is closed.
    """
    cache = _cache_of(dataset, cache_bytes)
    if dataset.chunks is None or cache is None:
        return dataset
    file, name = dataset.file, dataset.name.encode()
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    # Chunks that were read in part are not kept beyond the size of the cache unless the last number is 1.
    access.set_chunk_cache(10_007, max(cache, 2**20), 0.75)
    dataset.id.close()
    return h5py.Dataset(h5py.h5d.open(file.id, name, access))


def _cache_of(dataset: h5py.Dataset, cache_bytes: int) -> int | None:
    """Bytes of one row of chunks, across all other axes; None for several chunks that may not be kept together."""
    chunks = dataset.chunks or (1, *dataset.shape[1:])
    beside = [-(-n // max(1, c)) for n, c in zip(dataset.shape[1:], chunks[1:])]
    n_bytes = math.prod(chunks) * math.prod(beside) * dataset.id.get_type().get_size()  # numpy may have no dtype for it
    return int(n_bytes) if n_bytes <= cache_bytes or math.prod(beside) == 1 else None


def _datasets(file: h5py.Group) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names
