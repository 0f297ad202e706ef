"""What can come in: every source is an array of rows that can be read in part.

`open_source` finds the kind by what the thing is: a file by its first bytes, not only by its name.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import OptionError, SourceError, SourceNotFoundError
from swath.storage import without_credentials

if TYPE_CHECKING:
    from swath.sources.converted import Casting

__all__ = ["Source", "open_source"]


@runtime_checkable
class Source(Protocol):
    """An array of rows, each of the same shape and dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """In native byte order; what `read_into` writes."""
        ...

    @property
    def segments(self) -> tuple[int, ...]:
        """Rows of each recording, file or episode, in order."""
        ...

    @property
    def in_order(self) -> bool:
        """Whether rows are best read once, from first to last, by one thread at a time."""
        ...

    @property
    def read_bytes(self) -> int:
        """The most memory that `read_into` takes for itself."""
        ...

    def describe(self) -> dict[str, Any]:
        """What this source is now, as JSON values. The same again means the same bytes."""
        ...

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill ``out`` with the rows from ``start``. Threads may call it at once, unless `in_order`."""
        ...


def open_source(
    source: Any,
    *,
    dtype: DTypeLike | None = None,
    row_shape: Sequence[int] | None = None,
    casting: Casting | None = None,
    cache_bytes: int = 2**30,
) -> Source:
    """The source that ``source`` is.

    Parameters
    ----------
    source
        A path of a ``.npy`` file, a Zarr array, a table of text, a folder of images, or a raw binary file (which needs
        ``dtype``); ``"file.h5::dataset"``, ``"file.npz::name"`` or ``"group.zarr::name"``; a pattern of such paths, as
        ``"part-*.npy"`` or ``"run-*.h5::x"``, whose files are joined in the order of their names as text; a list of all these; a
        numpy, dask, zarr or xarray array, an h5py dataset, or any object with ``shape``, ``dtype`` and ``__getitem__``. A
        `Source` is given back as it is, and an object whose ``__swath_source__()`` gives one is that. What makes a file a
        table of text is said by `swath.sources.files.is_text`.
    dtype
        Of a raw binary file, and of a table of text, where it may have fields. What has a dtype of its own is cast to it, if
        ``casting`` says how.
    row_shape
        Of a raw binary file; ``()`` if not given.
    casting
        See `swath.sources.converted.convert`; None leaves a dtype that a source has of its own.
    cache_bytes
        What the source may hold so as not to decode the same twice.

    Raises
    ------
    SourceNotFoundError
        There is no such file or dataset, or none that the pattern fits.
    SourceError
        It is no array of at least one row, or of a dtype that cannot be stored, or its values change in ``dtype``.
    """
    from swath.sources import arraylike, concatenated, converted, files, memory

    if isinstance(source, (str, os.PathLike)):
        paths = expand_pattern(os.fspath(source))
        source = paths[0] if len(paths) == 1 else paths
    if (
        isinstance(source, (list, tuple))
        and len(source) > 1
        and all(_is_text(part, dtype, row_shape) for part in source)
    ):
        from swath.sources import text

        # As one source: the files that come next are parsed while one is read.
        return text.open_text([_expanded(part) for part in source], dtype, row_shape, cache_bytes)
    if isinstance(source, (list, tuple)):
        if not source:
            raise SourceError("The list of sources is empty. Give at least one.")
        share = cache_bytes // 2
        options: dict[str, Any] = {"dtype": dtype, "row_shape": row_shape, "casting": casting, "cache_bytes": share}
        parts = [open_source(part, **options) for part in source]
        return parts[0] if len(parts) == 1 else concatenated.ConcatenatedSource(tuple(parts))
    library = type(source).__module__.partition(".")[0]
    if isinstance(source, Source):
        found: Source = source
    elif hasattr(source, "__swath_source__"):
        found = source.__swath_source__()
    elif isinstance(source, str):
        found = files.open_file(source, dtype, row_shape, cache_bytes)
    elif isinstance(source, np.ndarray):
        found = memory.array_source(source)
    elif library == "xarray":
        found = arraylike.open_xarray(source, cache_bytes)
    elif hasattr(source, "__dask_graph__"):
        from swath.sources import dask

        found = dask.DaskSource.of(source)
    elif library == "h5py":
        from swath.sources import hdf5

        found = hdf5.open_dataset(source, cache_bytes)
    elif library == "zarr":
        from swath.sources import zarr

        found = zarr.open_array(source, cache_bytes)
    elif arraylike.is_array_like(source) and not hasattr(source, "to_numpy"):
        found = arraylike.open_array_like(source, cache_bytes)
    else:
        advice = "its .to_numpy()" if hasattr(source, "to_numpy") else "a path, a list of paths, or an array"
        raise SourceError(f"A {type(source).__name__} is no source that swath knows. Give {advice}.")
    return found if dtype is None or casting is None else converted.convert(found, parse_dtype(dtype), casting)


def expand_pattern(name: str) -> list[str]:
    """The paths that fit a pattern of the shell, sorted as text; each with the ``::name`` that follows it. A path that exists is itself.

    Raises
    ------
    SourceNotFoundError
        No path fits.
    SourceError
        It is a URL.

    Examples
    --------
    >>> from pathlib import Path
    >>> for name in ("b.npy", "a10.npy", "a9.npy"):
    ...     (tmp / name).touch()
    >>> [Path(path).name for path in expand_pattern(f"{tmp}/*.npy")]
    ['a10.npy', 'a9.npy', 'b.npy']
    """
    head, *inner = name.rsplit("::", 1)
    path = str(Path(head).expanduser())
    if re.match("[A-Za-z][A-Za-z0-9+.-]*://", name) and not os.path.lexists(path):
        raise SourceError(
            f"{without_credentials(name)} is a URL, but files are read from this machine alone. Copy the file here, or give what opens it there, "
            "such as swath.open of a Zarr array, or a dask array."
        )
    if not glob.has_magic(path) or os.path.lexists(path):
        return [name]
    found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - a Path takes no pattern from the root
    if not found:
        raise SourceNotFoundError(f"No file fits {path}. Check the pattern.")
    return ["::".join([match, *inner]) for match in found]


def _is_text(part: Any, dtype: DTypeLike | None, row_shape: Sequence[int] | None) -> bool:
    from swath.sources import files

    return isinstance(part, (str, os.PathLike)) and files.is_text(Path(_expanded(part)), dtype, row_shape)


def _expanded(part: str | os.PathLike[str]) -> str:
    return str(Path(part).expanduser())


def check_rows(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """The dtype in native byte order, of what has rows that can be stored.

    Raises
    ------
    SourceError
        A scalar, no rows, or a dtype of Python objects.
    """
    if not shape:
        raise SourceError(f"{where} is a single value, not an array of rows. Give an array with at least one axis.")
    if shape[0] == 0:
        raise SourceError(f"{where} has no rows (shape {shape}). Give at least one row.")
    if dtype.hasobject:
        raise SourceError(
            f"{where} has dtype {dtype}, whose values are Python objects and have no fixed size. "
            "Convert it first, for text with .astype('S10') or .astype('U10')."
        )
    # What numpy gives for np.stack of it, which is what a gather must equal.
    return np.result_type(dtype)


def most_readers() -> int:
    """The threads that read a source at once, unless it is `in_order`: two more than cores.

    While some wait for the disk to take their bytes, others read and sum.
    """
    return len(os.sched_getaffinity(0)) + 2


def parse_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype that a caller named.

    Raises
    ------
    OptionError
    """
    try:
        return np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"dtype is {dtype!r}, which numpy does not know ({error}). Give one such as 'float32'."
        ) from None


def facts_now(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a file, with what `file_facts` says of it by now."""
    return {**facts, **file_facts(Path(facts["path"]))}


def file_facts(path: Path) -> dict[str, Any]:
    """What tells one version of a file from another.

    Raises
    ------
    SourceNotFoundError
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(f"There is no file {path}. Check the path.") from None
    return {"path": str(path.absolute()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
