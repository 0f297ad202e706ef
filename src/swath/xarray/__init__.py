"""Labels of xarray, on the way in and on the way out.

``import swath.xarray`` gives DataArrays and Datasets the accessor ``.swath``: `ArrayAccessor.ingest` keeps names of axes, coordinates and
attributes, and `gather` and `windows` give them back with each window. Nothing else in swath imports xarray, which comes with
``pip install 'swath[xarray]'``.

>>> import numpy as np, swath, xarray as xr
>>> import swath.xarray
>>> hours = np.datetime64("2001-01-01T00", "ns") + np.arange(100) * np.timedelta64(1, "h")
>>> t2m = xr.DataArray(np.zeros((100, 3)), {"time": hours, "x": [10, 20, 30]}, ("time", "x"), "t2m", {"units": "K"})
>>> g = t2m.swath.ingest(tmp / "t2m.zarr", window=4)
>>> batch = swath.xarray.gather(g, [90, 7])
>>> batch["t2m"].dims, str(batch["time"].values[1, 0]), batch["x"].values.tolist()
(('window', 'time_in_window', 'x'), '2001-01-01T07:00:00.000000000', [10, 20, 30])
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from swath.array import RowArray
from swath.errors import OptionError, SourceError
from swath.group import RowGroup, arrays_of, open_group
from swath.ingestion import Options, ingest_group
from swath.storage import place_of

try:
    import xarray as xr
except ImportError as error:
    raise ImportError("xarray is not installed. Run pip install 'swath[xarray]'.") from error

from swath.xarray.behind import open_behind
from swath.xarray.encoding import as_dataset, encode, segments_of
from swath.xarray.windows import attributes_of, dims_of, label_array, label_group, label_store

__all__ = ["ArrayAccessor", "DatasetAccessor", "append", "gather", "windows"]


@overload
def gather(a: RowArray, starts: ArrayLike, **options: Any) -> xr.DataArray: ...
@overload
def gather(a: RowGroup, starts: ArrayLike, **options: Any) -> xr.Dataset: ...
def gather(a: RowArray | RowGroup, starts: ArrayLike, **options: Any) -> xr.DataArray | xr.Dataset:
    """Windows with their labels, now.

    Of a group that `ArrayAccessor.ingest` or `DatasetAccessor.ingest` wrote it is ``ds.isel(time=index)``, where ``index`` has
    (n, window) rows; of one array it has names of axes and attributes, and no coordinates, which only a group has.

    Parameters
    ----------
    a
        An array, or a group.
    starts : (n,) integers
        First row of each window.
    options
        Those of `RowArray.gather`; ``columns`` means nothing for a group.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        Dimensions ``window`` (n) and, for rows along ``time``, ``time_in_window``; then the others. Coordinates that go by rows have
        the first two, and ``start`` the first: the first row of each window.

    Raises
    ------
    RequestError, MemoryLimitError, StoreError
        As `RowArray.gather`.
    OptionError
        There is a name that the windows need for themselves.

    Examples
    --------
    >>> import numpy as np, swath, swath.xarray
    >>> a = swath.ingest(np.zeros((100, 3)), tmp / "plain.zarr", window=4)
    >>> swath.xarray.gather(a, [90, 7]).sizes
    Frozen({'window': 2, 'dim_0_in_window': 4, 'dim_1': 3})
    """
    arrays_of(a)  # or it is refused
    if isinstance(a, RowGroup):
        return label_group(a, a.gather(starts, **_for_group(options)), starts)
    return label_store(a, a.gather(starts, **options), starts)


@overload
def windows(a: RowArray, starts: ArrayLike, **options: Any) -> xr.DataArray: ...
@overload
def windows(a: RowGroup, starts: ArrayLike, **options: Any) -> xr.Dataset: ...
def windows(a: RowArray | RowGroup, starts: ArrayLike, **options: Any) -> xr.DataArray | xr.Dataset:
    """The same as `gather`, lazily: arrays of dask, and the coordinates too.

    What dask computes of it keeps to no limit; ``swath.compute(found["name"].data)`` does.

    Parameters
    ----------
    a, starts
        As in `gather`.
    options
        Those of `RowArray.windows`, but for ``order="storage"``, which would mix up the labels.

    Examples
    --------
    >>> import numpy as np, swath, swath.xarray, xarray as xr
    >>> t = xr.DataArray(np.arange(100.0), {"time": np.arange(100)}, ("time",), "t")
    >>> lazy = swath.xarray.windows(t.swath.ingest(tmp / "t.zarr", window=4), [90, 7])
    >>> lazy["t"].mean("time_in_window").compute().values
    array([91.5,  8.5])
    """
    from swath.computing import plain

    arrays_of(a)  # or it is refused
    _check_order(options)
    if isinstance(a, RowGroup):
        batches = {name: plain(lazy) for name, lazy in a.windows(starts, **_for_group(options)).items()}
        return label_group(a, batches, starts)
    return label_store(a, plain(a.windows(starts, **options)), starts)


def append(
    g: RowGroup, data: xr.DataArray | xr.Dataset, *, segments: ArrayLike | str | None = None, **options: Any
) -> RowGroup:
    """Write more rows, with their labels, behind the last of a group; all of it in one commit.

    Parameters
    ----------
    g
        A group that `ArrayAccessor.ingest` or `DatasetAccessor.ingest` wrote.
    data
        Variables of the same names and dimensions. Coordinates that do not go by rows must be the same, and attributes stay as
        they are in the group.
    segments
        As in `DatasetAccessor.ingest`, of the new rows.
    options
        Those of `RowGroup.append`.

    Returns
    -------
    RowGroup
        ``g``, which goes on to the new rows.

    Raises
    ------
    SourceError
        Names, dimensions or coordinates are others than in the group, or times lie between those that it can hold.
    SwathError
        As `RowGroup.append`.

    Examples
    --------
    >>> import numpy as np, swath, swath.xarray, xarray as xr
    >>> t = xr.DataArray(np.arange(100.0), {"time": np.arange(100)}, ("time",), "t")
    >>> g = t.swath.ingest(tmp / "longer.zarr")
    >>> swath.xarray.append(g, t.assign_coords(time=t.time + 100)).n_rows
    200
    """
    ds = as_dataset(data) if isinstance(data, xr.DataArray) else data
    before = {name: attributes_of(array) for name, array in g.items()}
    encoded = encode(ds, before)
    for name in encoded.rows.keys() & before.keys():
        new, old = (
            (dims, _times(said))
            for dims, said in (
                (encoded.labels.dims[name], encoded.labels.attributes[name]),
                (dims_of(g[name]), before[name]),
            )
        )
        if new[0] != old[0] or (name in ds.coords and new[1] != old[1]):
            raise SourceError(f"{name!r} has the dimensions and times {new}, but {old} in {g.url}. Give what is alike.")
    for name, values in encoded.labels.beside.items():
        there = g.beside.get(name)
        if there is None or not _equal(there.gather([0], window=len(there))[0], values):
            raise SourceError(
                f"The label {name!r} of the data is not the same in {g.url}. Select, sort or drop it, so that columns mean the same."
            )
    if missing := g.beside.keys() - encoded.labels.beside.keys():
        raise SourceError(
            f"The data have no {sorted(missing)}, which {g.url} has. Assign them, so that columns mean the same."
        )
    return g.append(encoded.rows, segments=segments_of(ds, segments), **options)


@xr.register_dataarray_accessor("swath")
class ArrayAccessor:
    """``array.swath``: a DataArray, along its first dimension."""

    def __init__(self, array: xr.DataArray) -> None:
        self._array = array

    def ingest(
        self, url: str | os.PathLike[str], *, segments: ArrayLike | str | None = None, **options: Any
    ) -> RowGroup:
        """Write the array and its coordinates as a group. Parameters and errors are those of `DatasetAccessor.ingest`.

        Raises
        ------
        OptionError
            The array has no name.
        """
        return DatasetAccessor(as_dataset(self._array)).ingest(url, segments=segments, **options)

    def open(self, window: int | None = None) -> RowArray:
        """The array of a Zarr store or of a netCDF4 file that this variable is, in place, to be read at the speed of the engine.

        It is found by what xarray would do to get the values. Where that is anything but to read one whole array as it lies in its
        file (a part, another order, ``scale_factor``, a mask, decoded times, dask, values in memory), it is refused.

        Parameters
        ----------
        window
            As in `swath.open`.

        Raises
        ------
        SourceError
            The values are not those of a file, or nobody can tell; what to do.

        Examples
        --------
        >>> import numpy as np, swath.xarray, xarray as xr
        >>> xr.Dataset({"t": ("time", np.arange(100.0))}).to_netcdf(tmp / "t.nc", engine="h5netcdf")
        >>> with xr.open_dataset(tmp / "t.nc", engine="h5netcdf") as ds:
        ...     ds["t"].swath.open(window=4).gather([90, 7])
        array([[90., 91., 92., 93.],
               [ 7.,  8.,  9., 10.]])
        """
        return open_behind(self._array, window)

    def gather(self, starts: ArrayLike, *, window: int = 16, columns: Any = None, **options: Any) -> xr.DataArray:
        """Windows of what `open` gives, now, with the labels that this array has: ``array.isel(time=index)``.

        Parameters
        ----------
        starts, window, columns, options
            As in `RowArray.gather`.

        Returns
        -------
        xarray.DataArray
            As from `swath.xarray.gather`.

        Raises
        ------
        SourceError
            As in `open`.
        RequestError, MemoryLimitError, StoreError
            As `RowArray.gather`.
        """
        batch = self.open(window).gather(starts, columns=columns, **options)
        return label_array(self._array, batch, starts, columns)

    def windows(self, starts: ArrayLike, *, window: int = 16, columns: Any = None, **options: Any) -> xr.DataArray:
        """The same as `gather`, as a dask array; ``options`` are those of `RowArray.windows`, but for ``order``."""
        _check_order(options)
        from swath.computing import plain

        batch = plain(self.open(window).windows(starts, columns=columns, **options))
        return label_array(self._array, batch, starts, columns)


@xr.register_dataset_accessor("swath")
class DatasetAccessor:
    """``dataset.swath``: variables along one first dimension."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def ingest(
        self, url: str | os.PathLike[str], *, segments: ArrayLike | str | None = None, **options: Any
    ) -> RowGroup:
        """Write the variables and all coordinates as a group, which ``xarray.open_zarr`` reads as the same Dataset.

        What goes along the first dimension of the variables goes by rows: it is gathered, and grows when rows are appended. Other
        coordinates and variables, such as names of columns, lie beside.

        Parameters
        ----------
        url
            As in `swath.ingest_group`.
        segments
            (k, 2) ranges of rows, or the name of a coordinate whose gaps part them (`swath.segments_from_time`): no window of
            `RowGroup.batches` spans a gap.
        options
            Others of `swath.ingest_group`.

        Returns
        -------
        RowGroup
            The variables, and the coordinates that go by rows.

        Raises
        ------
        SourceError
            The variables have not one first dimension, or a label cannot be stored.
        OptionError
            ``segments`` is no coordinate, or a name can't be that of an array.
        SwathError
            As `swath.ingest_group`.

        Examples
        --------
        >>> import numpy as np, swath.xarray, xarray as xr
        >>> days = np.array(["2001-01-01", "2001-01-02", "2001-01-03", "2001-02-01", "2001-02-02"], "M8[ns]")
        >>> ds = xr.Dataset({"t": ("time", np.arange(5.0))}, {"time": days})
        >>> g = ds.swath.ingest(tmp / "days.zarr", window=2, segments="time")
        >>> sorted(g), g.segments.tolist()
        (['t', 'time'], [[0, 3], [3, 5]])
        >>> xr.open_zarr(tmp / "days.zarr").drop_attrs().identical(ds)
        True
        """
        storage_options: Mapping[str, Any] | None = options.pop("storage_options", None)
        encoded = encode(self._ds, {})
        chosen = Options(segments=segments_of(self._ds, segments), **options)
        ingest_group(encoded.rows, place_of(url, storage_options), chosen, encoded.labels)
        return open_group(url, storage_options=storage_options)


def _times(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attributes[key] for key in ("units", "calendar") if key in attributes}


def _for_group(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("columns") is not None:
        raise OptionError(
            "columns means nothing for arrays of several shapes. Choose after the gather, by .sel or .isel."
        )
    return options


def _check_order(options: dict[str, Any]) -> None:
    if options.get("order", "asked") != "asked":
        raise OptionError(f"order is {options['order']!r}, which would mix up windows and labels. Sort starts instead.")


def _equal(there: Any, values: Any) -> bool:
    return there.shape == values.shape and bool(np.array_equal(there, values, equal_nan=there.dtype.kind in "fc"))
