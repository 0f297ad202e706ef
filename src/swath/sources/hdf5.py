"""HDF5 datasets: contiguous ones are read as files, chunked ones by h5py, each chunk once, or in place by their table.

A file that is named by its path is opened by HDF5 in a process of its own (`swath.sources.hdf5_process`), since it may be made to harm.
What that process says of it is checked here. A dataset that the caller has open is his own business, and read where he opened it.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from swath.errors import DiskFullError, SourceError, SourceNotFoundError
from swath.sources import Source, check_rows, facts_now, file_facts
from swath.sources.bands import BandReader, Bands
from swath.sources.files import FlatSource
from swath.sources.hdf5_elsewhere import check_elsewhere
from swath.sources.hdf5_library import elsewhere, facts_of
from swath.sources.hdf5_process import library_process
from swath.sources.spooled import Slab

# Buffers of a chunk's size that HDF5 holds: encoded, and decoded.
_IN_HAND = 2

# What is asked of the library at once.
_STEP_BYTES = 2**24

# A table of more chunks than a file of its size can hold is not made: the library finds each when it is wanted.
_SPARE_TABLE_BYTES = 2**24
_ENTRY_BYTES = 24


class Dataset(Protocol):
    """What is read of a dataset: h5py's own, or one in another process."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the axes of a dtype that has some."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As in the file."""
        ...

    @property
    def ndim(self) -> int:
        """Of `shape`."""
        ...

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """None where rows lie one after another."""
        ...

    def __getitem__(self, part: tuple[slice, ...]) -> Any:
        """The values of a part."""
        ...


@dataclass(frozen=True, slots=True)
class Apart:
    """A dataset that the library reads in a process of its own. It pickles."""

    path: Path
    name: str
    version: tuple[int, int]
    """Bytes and time of the file."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    cache_bytes: int = 0
    """What HDF5 shall keep of decoded chunks."""

    @property
    def ndim(self) -> int:
        """Axes, without those of the dtype."""
        return len(self.shape)

    def __getitem__(self, part: tuple[slice, ...]) -> NDArray[Any]:
        """The values of a part of the first axes, each from a start to a stop.

        Raises
        ------
        SourceError
        """
        cuts = [range(n)[cut] for cut, n in zip(part, self.shape)]
        shape = (*map(len, cuts), *self.shape[len(cuts) :], *self.dtype.shape)
        rows = np.empty(shape, self.dtype.base)
        chunk = math.prod(self.chunks or ()) * self.dtype.itemsize
        room = self.cache_bytes + 3 * rows.nbytes + 5 * chunk
        self._ask("read", room, rows, part=[[cut.start, cut.stop] for cut in cuts])
        return rows

    def table(self, grid: tuple[int, ...]) -> tuple[NDArray[np.int64], Any]:
        """Offset, size and skipped filters of all chunks, and the value of those that were never written.

        Raises
        ------
        SourceError
        """
        found = np.empty((3, *grid), np.int64)
        answer = self._ask("table", 20 * found.nbytes, found)
        fill = answer["fill"]
        return found, None if fill is None else np.frombuffer(bytes.fromhex(fill), self.dtype)[0]

    def _ask(self, what: str, room: int, out: NDArray[Any], **more: Any) -> dict[str, Any]:
        view = memoryview(out.reshape(-1).view(np.uint8))
        options = {"version": self.version, "cache": self.cache_bytes, **more}
        return library_process().ask(what, self.path, self.name, room=room, out=view, **options)


@dataclass(frozen=True, slots=True)
class ChunkedSource:
    """A dataset that the library reads: chunked, filtered, compact, or of a dtype that must be converted."""

    dataset: Dataset
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_bytes: int
    facts: dict[str, Any]
    filters: tuple[tuple[int, tuple[int, ...]], ...] | None
    """Number and options of each, in the order of encoding; None where values must be converted, which only the library does."""
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
        """Where the chunks lie; None for a dataset that only the library can read.

        Raises
        ------
        SourceError
            It cannot be read.
        """
        dataset = self.dataset
        if not isinstance(dataset, Apart) or dataset.chunks is None or self.filters is None:
            return None
        grid = tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks))
        if math.prod(grid) * _ENTRY_BYTES > _SPARE_TABLE_BYTES + self.facts["bytes"]:
            return None
        table, fill_value = dataset.table(grid)
        if table.min() < 0:
            raise SourceError(f"{_where(self.facts)} has a chunk before the beginning of its file. Restore the file.")
        offsets, sizes, skipped = table.reshape(3, grid[0], -1)
        return ChunkTable(dataset.chunks, dataset.dtype, self.filters, fill_value, offsets, sizes, skipped)

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read by h5py.

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
                return
            step = max(1, _STEP_BYTES * len(out) // max(1, out.nbytes))
            for i in range(0, len(out), step):
                out[i : i + step] = self.dataset[(slice(start + i, min(start + i + step, start + len(out))),)]
        except DiskFullError:
            raise
        except (OSError, SourceError) as error:
            raise SourceError(
                f"{_where(self.facts)}: rows {start} to {start + len(out) - 1} cannot be read ({error}). "
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


def open_file(path: Path, name: str, cache_bytes: int) -> Source:
    """The dataset ``name`` of a file.

    Raises
    ------
    SourceNotFoundError
        The file has no such dataset; the message lists those it has.
    SourceError
        It is no array of rows, its values lie in other files, or HDF5 cannot read it, or does not survive it.
    """
    version = file_facts(path)
    answer = library_process().ask("look", path, name)
    if "facts" in answer:
        return _source(answer["facts"], path, version, None, cache_bytes)
    has = answer["has"]
    listed = ", ".join(has[:8]) + (", ..." if len(has) > 8 else "") or "none"
    if not name:
        raise SourceError(
            f"{path} is an HDF5 file, and no dataset is named. Give '{path}::NAME', with one of: {listed}."
        )
    what = f"no dataset {name!r}" if answer["missing"] == "none" else f"a group {name!r}, which is no dataset"
    raise SourceNotFoundError(f"{path} has {what}. It has: {listed}.")


def dataset_names(path: Path, group: str) -> list[str]:
    """Names of all datasets in a group of a file, those in its groups too; ``""`` is the file itself.

    Raises
    ------
    SourceNotFoundError
        The file has no such group.
    SourceError
        As in `open_file`.
    """
    answer = library_process().ask("names", path, group)
    if "has" not in answer:
        raise SourceNotFoundError(f"{path} has no group {group!r}. Give one that it has, or the file alone.")
    return list(answer["has"])


def open_dataset(dataset: Any, cache_bytes: int) -> Source:
    """The source of an h5py dataset that the caller has open, and trusts.

    Raises
    ------
    SourceError
    """
    if not isinstance(dataset, h5py.Dataset):
        raise SourceError(f"A {type(dataset).__name__} is no HDF5 dataset. Give one of its datasets.")
    path = Path(dataset.file.filename)
    if dataset.file.mode != "r":
        dataset.file.flush()
    # A file in memory, or in parts, has no version to tell by: an ingest from it never carries on.
    if is_elsewhere := elsewhere(dataset):
        check_elsewhere(dataset)
    is_file = dataset.file.driver == "sec2" and not is_elsewhere
    version = file_facts(path) if is_file else {"path": str(path), "opened": uuid.uuid4().hex}
    return _source(facts_of(dataset), path, version, dataset, cache_bytes)


def _source(
    said: dict[str, Any], path: Path, version: dict[str, Any], opened: h5py.Dataset | None, cache_bytes: int
) -> Source:
    """The source of a dataset of which this was said; ``opened`` by the caller, or not."""
    where = f"{path}::{said['name']}"
    if said["elsewhere"] and opened is None:
        _refuse_elsewhere(where)
    if said["shape"] is None:
        raise SourceError(f"{where} is empty (a null dataspace). Give a dataset with rows.")
    if said["dtype"] is None:
        raise SourceError(f"{where} has a type that numpy has no dtype for ({said['why']}). Convert it first.")
    stored = _parse_type(said["dtype"], where)
    axes = tuple(said["shape"])
    shape = (*axes, *stored.shape)  # of a dataset of arrays, h5py reads the axes of both
    dtype = check_rows(shape, stored.base, where)
    if 0 in shape:
        raise SourceError(f"{where} has shape {shape}, whose rows hold no bytes. Give rows with at least one element.")
    facts = {**version, "dataset": said["name"], "shape": list(shape), "dtype": dtype.str}
    is_file, chunks = "mtime_ns" in version, None if said["chunks"] is None else tuple(said["chunks"])
    if said["offset"] is not None and is_file and said["exact"] and stored.kind in "iuf":
        n_bytes = stored.itemsize * math.prod(shape)
        if said["offset"] + n_bytes > version["bytes"]:
            raise SourceError(
                f"{where} has shape {shape} and dtype {stored}, {n_bytes} bytes, which are not all in its file of {version['bytes']}. Restore it."
            )
        return FlatSource(path, "hdf5", said["offset"], shape, stored, dtype, facts)
    for filter in said["filters"]:
        if not filter["here"]:
            raise SourceError(
                f"{where} needs the HDF5 filter {filter['number']} ({filter['name']}), which is not installed. "
                "Install the package that has it, such as hdf5plugin, and import it first."
            )
    cache = _row_of_chunks(axes, chunks, said["value_bytes"])
    keeps = cache <= cache_bytes or _is_one(axes, chunks)
    filters = tuple((each["number"], tuple(each["options"])) for each in said["filters"])
    known = filters if is_file and said["exact"] and stored.kind in "iufc" else None
    dataset: Dataset = opened if opened is not None else _apart(path, said, version, stored, cache if keeps else 0)
    if keeps:
        # What is decoded meanwhile is small beside the cache, unless this is one large chunk.
        encoded = 0 if cache <= cache_bytes else min(cache, said["stored_bytes"])
        return ChunkedSource(dataset, shape, dtype, cache + encoded, facts, known, None)
    of_bands = (*(chunks or (1, *axes[1:])), *stored.shape)
    bands = Bands.choose(shape, of_bands, stored.base.itemsize, cache_bytes, _IN_HAND)
    reader = BandReader(bands, shape, dtype, partial(_read_part, dataset))
    return ChunkedSource(dataset, shape, dtype, bands.peak_bytes, facts, known, reader)


def _apart(path: Path, said: dict[str, Any], version: dict[str, Any], stored: np.dtype[Any], cache: int) -> Apart:
    of_file = version["bytes"], version["mtime_ns"]
    chunks = None if said["chunks"] is None else tuple(said["chunks"])
    return Apart(path, said["name"], of_file, tuple(said["shape"]), stored, chunks, cache)


def _parse_type(described: Any, where: str) -> np.dtype[Any]:
    """A dtype that `swath.sources.hdf5_library.describe_type` has described."""
    try:
        return _dtype(described)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where} has a type that numpy has no dtype for ({error}). Convert it first.") from None


def _dtype(described: Any) -> np.dtype[Any]:
    if isinstance(described, dict):
        described = {**described, "formats": [_dtype(each) for each in described["formats"]]}
    elif isinstance(described, list):
        described = (_dtype(described[0]), tuple(described[1]))
    dtype: np.dtype[Any] = np.dtype(described)
    return dtype


def _read_part(dataset: Dataset, a: int, b: int, slab: Slab) -> NDArray[Any]:
    return np.asarray(dataset[(slice(a, b), *slab[: dataset.ndim - 1])])


def _row_of_chunks(shape: tuple[int, ...], chunks: tuple[int, ...] | None, value_bytes: int) -> int:
    """Bytes of one row of chunks, across all other axes; numpy may have no dtype for its values."""
    chunks = chunks or (1, *shape[1:])
    return math.prod(chunks) * math.prod(-(-n // max(1, c)) for n, c in zip(shape[1:], chunks[1:])) * value_bytes


def _is_one(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> bool:
    """Whether a row of chunks is one chunk."""
    return chunks is None or all(c >= n for n, c in zip(shape[1:], chunks[1:]))


def _refuse_elsewhere(where: str) -> NoReturn:
    raise SourceError(
        f"{where} keeps its values in other files, which a name of this one does not allow to be read. "
        "Ingest those files themselves as a list, copy it into one dataset (h5repack), or, if you trust it, open it with h5py and give the dataset."
    )


def _where(facts: dict[str, Any]) -> str:
    return f"{facts['path']}::{facts['dataset']}"
