"""Zarr arrays of any chunking, read by zarr-python in bands (`swath.sources.bands`), each chunk once.

Chunks that were never written hold the fill value, as Zarr says.
"""

from __future__ import annotations

import os
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from swath.dtypes import parse_description
from swath.errors import SourceError, SourceNotFoundError
from swath.sources import Source, check_rows
from swath.sources.bands import BandReader, Bands
from swath.sources.spooled import Slab
from swath.storage import LocalFolder, as_zarr_store

# Of each chunk that zarr-python has in hand: encoded, decoded, and what the allocator keeps of those before in each thread that
# decoded one. Measured: 37 MiB where it keeps nothing (MALLOC_MMAP_THRESHOLD_), 30 to 78 by chance where it does, chunks of 10 MB.
_COPIES = 5

_METADATA = ("zarr.json", ".zarray", ".zgroup")


@dataclass(slots=True)
class ZarrSource:
    """A Zarr array, read a band of rows at a time."""

    array: zarr.Array[Any]
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    segments: tuple[int, ...]
    bands: Bands
    folder: Path | None
    """Where it lies; None where that is no folder."""
    opened: str
    """Of this source alone."""
    _reader: BandReader = field(init=False, repr=False)

    in_order = True

    def __post_init__(self) -> None:
        self._reader = BandReader(self.bands, self.shape, self.dtype, self._read)

    @property
    def read_bytes(self) -> int:
        """A band, or a slab of it, and the chunks that zarr-python has in hand."""
        return self.bands.peak_bytes

    @property
    def temporary_bytes(self) -> int:
        """Of the file that a band goes through, if it does."""
        return self._reader.temporary_bytes

    def describe(self) -> dict[str, Any]:
        """The array's name, and number, size and last change of all its files: Zarr has no version of its own."""
        facts = {"kind": "zarr", "path": self.name, "shape": list(self.shape), "dtype": str(self.dtype)}
        return {**facts, **(_folder_facts(self.folder) if self.folder else {"opened": self.opened})}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Copy rows from the bands that hold them.

        Raises
        ------
        SourceError
            zarr-python cannot read a chunk.
        DiskFullError
            There is no room for the temporary file.
        """
        self._reader.read_into(start, out)

    def _read(self, a: int, b: int, slab: Slab) -> NDArray[Any]:
        try:
            part = np.asarray(self.array[(slice(a, b), *slab)])
        except Exception as error:  # of a codec, of a store, of the file system
            raise SourceError(
                f"Rows {a} to {b - 1} of {self.name} cannot be read ({type(error).__name__}: {error}). "
                "Restore its files, or install the codec it needs."
            ) from error
        # A store of swath holds as raw bytes what Zarr has no name for.
        is_raw = part.dtype.kind == "V" and part.dtype.names is None
        return part.view(self.dtype) if is_raw and part.dtype != self.dtype else part


def open_path(path: Path, name: str, cache_bytes: int) -> Source:
    """The source of a Zarr array in a folder, or of the array ``name`` of a group.

    Raises
    ------
    SourceNotFoundError
        The group has no such array; the message lists those it has.
    SourceError
    """
    found = _open_node(path)
    if name:
        if isinstance(found, zarr.Array):
            raise SourceError(f"{path} is a Zarr array, so it has no array {name!r}. Leave out '::{name}'.")
        item = found.get(name)
        if not isinstance(item, zarr.Array):
            raise SourceNotFoundError(f"{path} has no array {name!r}. It has: {', '.join(_names(found)) or 'none'}.")
        found = item
    if not isinstance(found, zarr.Array):
        listed = ", ".join(_names(found)[:8]) or "none"
        raise SourceError(f"{path} is a Zarr group, and no array is named. Give '{path}::NAME', with one of: {listed}.")
    return open_array(found, cache_bytes)


def _open_node(path: Path) -> Any:
    """The array or group in a folder, for reading.

    Raises
    ------
    SourceError
    """
    try:
        # zarr-python warns of data types without a final specification: what can be read is read.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zarr.open(as_zarr_store(LocalFolder(path)), mode="r")
    except Exception as error:  # a codec or a data type that is not there, JSON of another kind, ...
        raise SourceError(
            f"zarr-python cannot open {path} ({type(error).__name__}: {error}). Check that it is sound, and its codecs installed."
        ) from error


def array_names(path: Path, group: str = "") -> list[str]:
    """Names of all arrays in a group, those in its groups too.

    Raises
    ------
    SourceNotFoundError, SourceError
        There is no such group.
    """
    found = _open_node(path)
    if group and isinstance(found, zarr.Group):
        found = found.get(group)
    if not isinstance(found, zarr.Group):
        raise SourceNotFoundError(f"{path} has no Zarr group {group!r}. Give a group of arrays.")
    return _names(found)


def _names(group: zarr.Group) -> list[str]:
    try:
        return sorted(name for name, item in group.members(max_depth=None) if isinstance(item, zarr.Array))
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # consolidated metadata that name what cannot be
        raise SourceError(
            f"The arrays of {group.store_path} cannot be listed ({type(error).__name__}: {error}). Restore its metadata."
        ) from error


def is_zarr(path: Path) -> bool:
    """Whether a folder holds a Zarr array or group."""
    return any((path / name).is_file() for name in _METADATA)


def open_array(array: Any, cache_bytes: int) -> Source:
    """The source of a Zarr array. Of a store of swath, the segments are kept.

    Raises
    ------
    SourceError
    """
    if not isinstance(array, zarr.Array):
        raise SourceError(f"A {type(array).__name__} is no Zarr array. Give one of its arrays.")
    root = getattr(array.store, "root", None)
    folder = Path(root) / array.path if isinstance(root, Path) else None
    name = str(folder or array.store_path)
    try:
        shape, chunks, stored = array.shape, array.chunks, np.dtype(array.dtype)
    except Exception as error:  # a grid that is not regular
        raise SourceError(f"{name} has no chunks of one shape ({error}). Rechunk it first.") from error
    dtype = check_rows(shape, stored, name)
    if 0 in shape:
        raise SourceError(f"{name} has shape {shape}, whose rows hold no bytes. Give rows with at least one element.")
    segments: tuple[int, ...] = (shape[0],)
    own = array.attrs.get("swath")
    if isinstance(own, dict) and {"format", "crc32c"} <= own.keys():
        dtype, segments = _own_facts(own, dtype, shape[0], name)
        _check_shards(array, folder, name)
    at_once = int(zarr.config.get("async.concurrency") or os.cpu_count() or 1)
    bands = Bands.choose(shape, chunks, dtype.itemsize, cache_bytes, _COPIES * at_once)
    return ZarrSource(array, name, shape, dtype, segments, bands, folder, uuid.uuid4().hex)


def _own_facts(
    own: dict[str, Any], stored: np.dtype[Any], n_rows: int, name: str
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and segments as swath wrote them."""
    try:
        dtype = np.result_type(parse_description(own["dtype"]))
        segments = tuple(int(n) for n in own["segments"])
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{name} is a store whose own facts are damaged ({error!r}). Restore its zarr.json."
        ) from None
    if sum(segments) != n_rows or min(segments, default=0) < 1 or dtype.itemsize != stored.itemsize or dtype.hasobject:
        raise SourceError(
            f"{name} is a store whose own facts (dtype {dtype}, {len(segments)} segments of {sum(segments)} rows together) do not "
            f"fit its array (dtype {stored}, {n_rows} rows). Restore its zarr.json."
        )
    return dtype, segments


def _check_shards(array: zarr.Array[Any], folder: Path | None, name: str) -> None:
    """Of a store of swath no shard is left out, which Zarr would read as fill values."""
    if folder is None or array.shards is None:
        return
    have = {entry.name for entry in os.scandir(folder)}
    for shard in range(-(-array.shape[0] // array.shards[0])):
        key = str(array.metadata.encode_chunk_key((shard, *(0 for _ in array.shape[1:]))))
        if key not in have:
            raise SourceError(
                f"{name} is a store whose shard {key} is missing. Restore it, or ingest its source again."
            )


def _folder_facts(folder: Path) -> dict[str, int]:
    """Number and bytes of all files below a folder, and when the last of them was changed."""
    n_files = n_bytes = newest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            stat = Path(root, name).lstat()
            n_files, n_bytes, newest = n_files + 1, n_bytes + stat.st_size, max(newest, stat.st_mtime_ns)
    if not n_files:
        raise SourceNotFoundError(f"There is no Zarr array at {folder} any more. Restore it.")
    return {"files": n_files, "bytes": n_bytes, "mtime_ns": newest}
