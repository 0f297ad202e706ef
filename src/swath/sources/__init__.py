"""What can come in: every source is an array of rows that can be read in part.

`open_source` finds the kind by what the thing is: a file by its first bytes, not only by its name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import OptionError, SourceError, SourceNotFoundError

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
    cache_bytes: int = 2**30,
) -> Source:
    """The source that ``source`` is.

    Parameters
    ----------
    source
        A path of a ``.npy`` file, ``"file.h5::dataset"``, a table of text, a raw binary file (which needs ``dtype``), a
        folder of images, a list of these, or a numpy array, dask array or h5py dataset. A `Source` is given back as it is.
        What makes a file a table of text is said by `swath.sources.files.is_text`.
    dtype, row_shape
        Of a raw binary file; ``row_shape`` is ``()`` if not given. ``dtype`` also of a table of text, where it may have
        fields.
    cache_bytes
        What the source may hold so as not to decode the same twice.

    Raises
    ------
    SourceNotFoundError
        There is no such file or dataset.
    SourceError
        It is no array of at least one row, or of a dtype that cannot be stored.
    """
    from swath.sources import concatenated, files, memory

    if (
        isinstance(source, (list, tuple))
        and len(source) > 1
        and all(_is_text(part, dtype, row_shape) for part in source)
    ):
        from swath.sources import text

        # As one source: the files that come next are parsed while one is read.
        found: Source = text.open_text([_expanded(part) for part in source], dtype, row_shape, cache_bytes)
    elif isinstance(source, (list, tuple)):
        if not source:
            raise SourceError("The list of sources is empty. Give at least one.")
        parts = [open_source(part, dtype=dtype, row_shape=row_shape, cache_bytes=cache_bytes // 2) for part in source]
        found = parts[0] if len(parts) == 1 else concatenated.ConcatenatedSource(tuple(parts))
    elif isinstance(source, Source):
        found = source
    elif isinstance(source, (str, os.PathLike)) and Path(source).expanduser().is_dir():
        from swath.sources import images

        found = images.open_folder(os.fspath(source))
    elif isinstance(source, (str, os.PathLike)):
        found = files.open_file(os.fspath(source), dtype, row_shape, cache_bytes)
    elif isinstance(source, np.ndarray):
        found = memory.array_source(source)
    elif hasattr(source, "__dask_graph__"):
        from swath.sources import dask

        found = dask.DaskSource.of(source)
    elif type(source).__module__.partition(".")[0] == "h5py":
        from swath.sources import hdf5

        found = hdf5.open_dataset(source, cache_bytes)
    else:
        raise SourceError(
            f"A {type(source).__name__} is no source that swath knows. "
            "Give a path, a list of paths, a numpy or dask array, or an h5py dataset."
        )
    return found


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
