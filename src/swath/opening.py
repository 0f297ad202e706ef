"""What is at this place, and how are rows read from it?"""

from __future__ import annotations

import os
from collections.abc import Sequence

from numpy.typing import DTypeLike

from swath.commit import local_path
from swath.errors import OptionError, SourceError, StoreNotFoundError
from swath.rows import Rows
from swath.store import is_store, open_store
from swath.windows import check_usual_window

# Rows of a window where nobody has said: that of the question which the library answers.
_WINDOW = 16


def open_rows(
    url: str | os.PathLike[str],
    *,
    window: int | None,
    dtype: DTypeLike | None,
    row_shape: Sequence[int] | None,
) -> Rows:
    """The rows at ``url``; parameters and errors as `swath.open` describes them."""
    if window is not None:
        window = check_usual_window(window)
    name, separator, dataset = os.fspath(url).rpartition("::") if isinstance(url, (str, os.PathLike)) else ("", "", "")
    path = local_path(name if separator else url)
    if path.is_file():
        from swath.in_place import open_in_place
        from swath.sources import open_source
        from swath.sources.files import is_text

        if is_text(path, dtype, row_shape):
            raise SourceError(
                f"{path} is a table of text, in which no row can be found but by counting. Ingest it first with swath.ingest."
            )
        place = f"{path}::{dataset}" if separator else path
        return open_in_place(open_source(place, dtype=dtype, row_shape=row_shape), window or _WINDOW)
    if not path.exists() and (separator or dtype is not None):
        raise StoreNotFoundError(f"There is no file {path}. Check the path.")
    if dtype is not None or row_shape is not None:
        raise OptionError(
            f"{path} is no raw binary file, so it has a dtype and a shape of its own. Leave out dtype and row_shape."
        )
    if separator:
        raise OptionError(f"{path} is a folder, so it has no dataset {dataset!r}. Leave out '::{dataset}'.")
    from swath.foreign import is_zarr, open_zarr

    if is_zarr(path) and not is_store(path):
        return open_zarr(path, window or _WINDOW)
    return open_store(url, window)
