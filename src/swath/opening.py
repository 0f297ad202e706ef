"""What is at this place, and how are rows read from it?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import DTypeLike

from swath.committing import read_committed
from swath.errors import OptionError, SourceError, StoreNotFoundError
from swath.metadata import is_ours
from swath.rows import Rows
from swath.storage import Folder, LocalFolder, place_of
from swath.store import asking_above, store_of
from swath.windows import check_usual_window

# Rows of a window where nobody has said: that of the question which the library answers.
_WINDOW = 16


def open_rows(
    url: Any,
    *,
    window: int | None,
    dtype: DTypeLike | None,
    row_shape: Sequence[int] | None,
    storage_options: Mapping[str, Any] | None,
    cache: str | os.PathLike[str] | None,
    cache_limit: int | str | None,
) -> Rows:
    """The rows at ``url``; parameters and errors as `swath.open` describes them."""
    if window is not None:
        window = check_usual_window(window)
    name, separator, dataset = os.fspath(url).rpartition("::") if isinstance(url, (str, os.PathLike)) else ("", "", "")
    folder = place_of(name if separator else url, storage_options, cache, cache_limit)
    if isinstance(folder, LocalFolder) and folder.path.is_file():
        from swath.in_place import open_in_place
        from swath.sources import open_source
        from swath.sources.files import is_text

        if is_text(folder.path, dtype, row_shape):
            raise SourceError(
                f"{folder.url} is a table of text, in which no row can be found but by counting. Ingest it first with swath.ingest."
            )
        place = f"{folder.url}::{dataset}" if separator else folder.path
        return open_in_place(open_source(place, dtype=dtype, row_shape=row_shape), window or _WINDOW)
    if isinstance(folder, LocalFolder) and not folder.path.exists() and (separator or dtype is not None):
        raise StoreNotFoundError(f"There is no file {folder.url}. Check the path.")
    if dtype is not None or row_shape is not None:
        raise OptionError(
            f"{folder.url} is no raw binary file, so it has a dtype and a shape of its own. Leave out dtype and row_shape."
        )
    if separator and not isinstance(folder, LocalFolder):
        raise OptionError(
            f"{folder.url}::{dataset} names a dataset of a file, but elsewhere than on this machine swath reads Zarr alone. "
            "Copy the file here, or ingest it into a store there."
        )
    if separator:
        raise OptionError(f"{folder.url} is a folder, so it has no dataset {dataset!r}. Leave out '::{dataset}'.")
    return _open_zarr(folder, window)


def _open_zarr(folder: Folder, window: int | None) -> Rows:
    from swath.foreign import open_zarr

    above = asking_above(folder)
    try:
        home, encoded = read_committed(folder)
    except StoreNotFoundError:
        if any(map(folder.has, (".zarray", ".zgroup"))):
            return open_zarr(folder, window or _WINDOW)
        raise
    return store_of(home, encoded, above, window) if is_ours(encoded) else open_zarr(folder, window or _WINDOW)
