"""Which array of a file is this variable, as it lies there?

xarray keeps where a variable came from (``encoding``) through slices, sorts and changes of it, so that this says nothing. What is asked is
what the variable will do when its values are wanted: whether that is to read all of one array of a file, and nothing else. Whatever is
not known to be that, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from swath.array import RowArray
from swath.doors import open as open_array
from swath.errors import SourceError, SourceNotFoundError

# Layers of xarray that hand on what is under them.
_TRANSPARENT = {"MemoryCachedArray", "CopyOnWriteArray", "NativeEndiannessArray"}
_WAY_OUT = "Open the file without decoding (mask_and_scale=False, decode_times=False, chunks=None), or ingest the array: array.swath.ingest."


def open_behind(array: xr.DataArray, window: int | None) -> RowArray:
    """The array of a file that holds the values of ``array``, exactly these.

    Raises
    ------
    SourceError
        There is none, or nobody can tell.
    """
    wrapper = _wrapper(array)
    try:
        found = _file_of(wrapper)
    except AttributeError as error:  # of a version of xarray, h5netcdf or netCDF4 that nobody has seen here
        raise SourceError(
            f"{_name(array)} does not say where it lies ({error}). Open its file with swath.open."
        ) from error
    opened = open_array(found, window=window)
    if (opened.shape, opened.dtype) != (array.shape, np.result_type(array.dtype)):
        raise SourceError(
            f"{_name(array)} is {array.shape} {array.dtype}, but {opened.url} holds {opened.shape} {opened.dtype}. {_WAY_OUT}"
        )
    return opened


def _name(array: xr.DataArray) -> str:
    return "The array" if array.name is None else f"The array {array.name!r}"


def _wrapper(array: xr.DataArray) -> Any:
    """What xarray asks for values, if it takes them all as they come."""
    data: Any = array.variable._data
    if array.chunks is not None:
        raise SourceError(
            f"{_name(array)} is computed by dask, so that its values may not be those of a file. {_WAY_OUT}"
        )
    while True:
        kind = type(data).__name__
        if kind in _TRANSPARENT:
            data = data.array
        elif kind == "LazilyIndexedArray":
            shape = data.array.shape
            whole = [isinstance(k, slice) and k.indices(n) == (0, n, 1) for k, n in zip(data.key.tuple, shape)]
            if len(data.key.tuple) != len(shape) or not all(whole):
                raise SourceError(
                    f"{_name(array)} is a part of what lies in its file. Open all of it, and choose by starts= and columns=, or ingest the "
                    "part: array.swath.ingest."
                )
            data = data.array
        else:
            break
    if kind in ("H5NetCDFArrayWrapper", "NetCDF4ArrayWrapper", "ZarrArrayWrapper"):
        return data
    if kind in ("NumpyIndexingAdapter", "PandasIndexingAdapter", "ndarray"):
        raise SourceError(
            f"{_name(array)} is in memory, where it may have been changed. Open its file again, or ingest the array: array.swath.ingest."
        )
    raise SourceError(f"{_name(array)} is not what lies in a file, but made of it ({kind}). {_WAY_OUT}")


def _file_of(wrapper: Any) -> Any:
    """What `swath.open` opens.

    Raises
    ------
    SourceError
    """
    if type(wrapper).__name__ == "ZarrArrayWrapper":
        array = wrapper._array
        root = getattr(array.store, "root", None)
        if isinstance(root, Path):
            return root / array.path
        raise SourceError(f"{array.store_path} lies in no folder of this machine. Open it by its URL with swath.open.")
    variable = wrapper.get_array(needs_lock=False)
    if type(wrapper).__name__ == "NetCDF4ArrayWrapper":
        group = variable.group()
        return _dataset(group.filepath(), f"{group.path.rstrip('/')}/{variable.name}")
    return _dataset(variable._h5ds.file.filename, variable._h5ds.name)


def _dataset(path: str, inner: str) -> str:
    """The dataset of a netCDF variable: one that has the name of a dimension, and is not its coordinate, has another."""
    group, _, name = inner.strip("/").rpartition("/")
    hidden = f"{path}::{group}/_nc4_non_coord_{name}".replace("::/", "::")
    try:
        open_array(hidden)
    except SourceNotFoundError:
        return f"{path}::{inner.strip('/')}"
    return hidden
