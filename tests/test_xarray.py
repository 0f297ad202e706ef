"""Labels go into a store and come back with windows: what xarray itself selects is what is wanted."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_same
from places import Place

import swath
import swath.xarray
from swath.errors import OptionError, SourceError, StoreError, SwathError, WindowOutOfBoundsError

# netCDF4 sets it for all of the process, and h5py takes filters from there that are not made for it.
os.environ.pop("HDF5_PLUGIN_PATH", None)

HOURS = np.datetime64("2001-01-01T00", "ns") + np.arange(200) * np.timedelta64(1, "h")
ROWS = np.random.default_rng(0).normal(size=(200, 4, 3)).astype("f4")
STARTS = [190, 3, 3, 0, 77]


def dataset() -> xr.Dataset:
    """Coordinates of each kind: of the axis of rows, beside it, along rows and columns, of names, of none."""
    return xr.Dataset(
        {
            "t2m": (("time", "y", "x"), ROWS, {"units": "K", "valid_range": np.array([0.0, 400.0]), "n": np.int64(3)}),
            "rain": ("time", np.arange(200), {"long_name": "rain"}),
            "land": (("y", "x"), np.ones((4, 3), bool)),
        },
        {
            "time": ("time", HOURS, {"axis": "T"}),
            "y": ("y", [10.0, 20.0, 30.0, 40.0], {"units": "degrees_north"}),
            "x": ("x", ["a", "bb", "ccc"]),
            "station": ("time", np.array(["here", "there"] * 100, object)),
            "quality": (("time", "y"), np.arange(800, dtype="i2").reshape(200, 4)),
            "lon": (("y", "x"), np.arange(12.0).reshape(4, 3)),
            "age": ("time", np.arange(200) * np.timedelta64(1, "s")),
        },
        {"title": "of a test", "levels": (1, 2)},
    )


def selected(data: Any, starts: Any, window: int, dim: str = "time") -> Any:
    """What xarray selects: the definition."""
    index = xr.Variable(("window", f"{dim}_in_window"), np.asarray(starts, "i8")[:, None] + np.arange(window))
    return data.isel({dim: index}).assign_coords(start=("window", np.asarray(starts, "i8")))


def as_stored(ds: xr.Dataset) -> xr.Dataset:
    """Attributes as JSON has them, and text of one length."""
    ds = ds.assign_coords({name: each.astype(str) for name, each in ds.coords.items() if each.dtype.kind in "OU"})
    everything: list[Any] = [ds, *ds.variables.values()]
    for each in everything:
        each.attrs = {key: np.asarray(value).tolist() for key, value in each.attrs.items()}
    return ds


def assert_identical(found: Any, wanted: Any) -> None:
    xr.testing.assert_identical(found, wanted)
    for name in wanted.coords:
        assert_same(np.asarray(found[name].values), np.asarray(wanted[name].values))


def test_windows_have_the_labels_that_xarray_would_give_them(tmp_path: Path) -> None:
    ds = dataset()
    g = ds.swath.ingest(tmp_path / "g", window=8)
    assert sorted(g) == ["age", "quality", "rain", "station", "t2m", "time"]
    wanted = selected(as_stored(ds), STARTS, 8)
    assert_identical(swath.xarray.gather(g, STARTS), wanted)
    assert_identical(swath.xarray.gather(swath.open_group(tmp_path / "g"), STARTS), wanted)
    lazy = swath.xarray.windows(g, STARTS)
    assert all(isinstance(lazy[name].data, dask.array.Array) for name in ("t2m", "rain", "quality"))
    assert_identical(lazy.compute(), wanted)
    assert swath.xarray.gather(g, []).sizes == {"window": 0, "time_in_window": 8, "y": 4, "x": 3}


def test_xarray_opens_it_as_it_was(tmp_path: Path) -> None:
    ds = dataset()
    ds.swath.ingest(tmp_path / "g")
    found = xr.open_zarr(tmp_path / "g", decode_timedelta=True)
    for each in (found, *found.variables.values()):
        each.attrs.pop("swath", None)
    assert_identical(found.load(), as_stored(ds))


def test_an_array_keeps_its_own(tmp_path: Path) -> None:
    ds = dataset()
    g = ds["t2m"].swath.ingest(tmp_path / "g", window=8)
    assert_identical(swath.xarray.gather(g, STARTS), selected(as_stored(ds[["t2m"]].drop_attrs(deep=False)), STARTS, 8))


def test_one_array_of_a_group_has_names_of_axes(tmp_path: Path) -> None:
    g = dataset().swath.ingest(tmp_path / "g", window=8)
    for a in (g["t2m"], swath.open(tmp_path / "g" / "t2m")):
        found = swath.xarray.gather(a, STARTS, columns=[2, 0])
        assert (found.dims, found.name) == (("window", "time_in_window", "y", "x"), "t2m")
        assert found.attrs["units"] == "K"
        assert_same(found.values, selected(xr.DataArray(ROWS), STARTS, 8, "dim_0").values[:, :, [2, 0]])
    assert_identical(swath.xarray.windows(a, STARTS).compute(), swath.xarray.gather(a, STARTS))
    with pytest.raises(OptionError, match="columns means nothing"):
        swath.xarray.gather(g, STARTS, columns=[0])
    for label in (swath.xarray.gather, swath.xarray.windows):
        with pytest.raises(OptionError, match="A str is no array of swath"):
            label("weather.zarr", [0])  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="would mix up"):
        swath.xarray.windows(g, STARTS, order="storage")
    with pytest.raises(WindowOutOfBoundsError):
        swath.xarray.gather(g, [193])


KINDS = st.sampled_from(["f4", "f8", "i2", "u1", "?", "c8", ">i4", "M8[ns]", "M8[s]", "m8[us]", "U3"])


@settings(max_examples=settings().max_examples // 4)  # a group of up to seven stores each
@given(data=st.data())
def test_any_dims_and_dtypes(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), max_size=2))
    n = data.draw(st.integers(1, 30))
    dims = ("rows", "a", "b")[: 1 + len(shape)]
    values = data.draw(st.sampled_from(["f4", "i2", "u1", "?", "c8"]))

    def make(size: int, dtype: str) -> Any:
        return np.random.default_rng(n).integers(0, 100, size).astype(dtype)

    da = xr.DataArray(make(n * int(np.prod(shape)), values).reshape(n, *shape), dims=dims, name="values")
    for i, (dim, size) in enumerate(zip(dims, da.shape)):
        for name in (dim, f"beside_{dim}"):
            if data.draw(st.booleans()):
                da = da.assign_coords({name: (dim, make(size, data.draw(KINDS)), {"i": i})})
    window = data.draw(st.integers(1, n))
    starts = data.draw(st.lists(st.integers(0, n - window), max_size=5))
    g = da.swath.ingest(tmp_path_factory.mktemp("any") / "g", window=window)
    wanted = selected(da.to_dataset(), starts, window, "rows")
    native = {name: each.astype(each.dtype.newbyteorder("=")) for name, each in wanted.variables.items()}
    assert_identical(swath.xarray.gather(g, starts), wanted.assign(native))


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
def test_dates_of_each_calendar(tmp_path: Path, calendar: str) -> None:
    dates = xr.date_range("2000-02-27", periods=200, freq="D", calendar=calendar, use_cftime=True)
    ds = xr.Dataset({"t": ("time", np.arange(200))}, {"time": dates})
    g = ds.isel(time=slice(0, 150)).swath.ingest(tmp_path / "g", window=8, segments="time")
    swath.xarray.append(g, ds.isel(time=slice(150, 200)))
    found = swath.xarray.gather(g, STARTS)["time"].values
    wanted = selected(ds, STARTS, 8)["time"].values
    # Dates that numpy has come as numpy's, as from xarray.open_zarr.
    assert found.dtype.kind == ("M" if calendar == "standard" else "O")
    assert (found.astype(object) == wanted).all()


@pytest.mark.parametrize("kind", ["zarr", "netcdf"])
def test_what_lies_in_files_and_in_dask_comes_in(tmp_path: Path, kind: str) -> None:
    ds = dataset().drop_vars(["station", "x"])
    if kind == "zarr":
        ds.to_zarr(tmp_path / "a", consolidated=False)
        opened = xr.open_zarr(tmp_path / "a", chunks={"time": 200}, consolidated=False, decode_timedelta=True)
    else:
        ds.to_netcdf(tmp_path / "a", engine="h5netcdf")
        opened = xr.open_dataset(tmp_path / "a", engine="h5netcdf", decode_timedelta=True)
    with opened:
        g = opened.swath.ingest(tmp_path / "g", window=8)
        assert_identical(swath.xarray.gather(g, STARTS), selected(as_stored(opened.load()), STARTS, 8))


def test_masked_and_scaled_values_come_in_decoded(tmp_path: Path) -> None:
    path = _packed(tmp_path)
    with xr.open_dataset(path, engine="h5netcdf") as ds:
        g = ds.swath.ingest(tmp_path / "g", window=8)
        assert_identical(swath.xarray.gather(g, STARTS), selected(ds.load(), STARTS, 8))
        assert np.isnan(g["packed"].gather([0])).any()
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        g = ds.swath.ingest(tmp_path / "raw", window=8)
        assert_identical(swath.xarray.gather(g, STARTS), selected(as_stored(ds.load()), STARTS, 8))
    # What reads the attributes gives what they mean.
    with xr.open_dataset(path, engine="h5netcdf") as ds:
        xr.testing.assert_equal(xr.open_zarr(tmp_path / "raw"), ds)


def _packed(folder: Path) -> Path:
    values = np.where(np.arange(200) % 7, np.arange(200) * 0.5, np.nan)
    packed = {"dtype": "i2", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -1}
    xr.Dataset({"packed": ("time", values)}).to_netcdf(
        folder / "packed.nc", engine="h5netcdf", encoding={"packed": packed}
    )
    return folder / "packed.nc"


def test_rows_are_appended_with_their_labels(place: Place) -> None:
    ds = dataset().drop_vars(["station", "x"])
    g = ds.isel(time=slice(0, 120)).swath.ingest(place.url, window=8, storage_options=place.options)
    swath.xarray.append(g, ds.isel(time=slice(120, 200)))
    assert g.segments.tolist() == [[0, 120], [120, 200]]
    now = swath.open_group(place.url, storage_options=place.options)
    assert_identical(swath.xarray.gather(now, STARTS), selected(as_stored(ds), STARTS, 8))
    assert all(now.verify().values())
    # Another in its place, while handles of the old one are refused rather than wrong.
    other = ds.assign_coords(y=ds["y"] * 2)
    other.swath.ingest(place.url, window=8, overwrite=True, storage_options=place.options)
    now = swath.open_group(place.url, storage_options=place.options)
    assert_identical(swath.xarray.gather(now, STARTS), selected(as_stored(other), STARTS, 8))


def test_a_label_that_is_damaged_is_found(tmp_path: Path) -> None:
    ds = dataset()
    g = ds.swath.ingest(tmp_path / "g", window=8)
    (shard,) = (tmp_path / "g" / "lon").glob("c*")
    content = bytearray(shard.read_bytes())
    content[content.index(np.arange(12.0).tobytes()) + 8] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError):
        swath.xarray.gather(g, STARTS)
    assert [name for name, found in g.verify().items() if not found] == ["lon"]
    assert g.repair({"lon": ds["lon"].values})["lon"]
    assert_identical(swath.xarray.gather(g, STARTS), selected(as_stored(ds), STARTS, 8))


APPENDED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "columns": (lambda ds: ds.assign_coords(y=ds["y"][::-1].values), "label 'y' of the data is not the same"),
    "static": (lambda ds: ds.assign(land=~ds["land"]), "label 'land' of the data is not the same"),
    "fewer-labels": (lambda ds: ds.drop_vars("lon"), r"no \['lon'\]"),
    "more-labels": (lambda ds: ds.assign_coords(z=("x", [1, 2, 3])), "label 'z' of the data is not the same"),
    "fewer-arrays": (lambda ds: ds.drop_vars("rain"), "Give one for each"),
    "dims": (lambda ds: ds.rename(time="t", y="x", x="y"), "has the dimensions"),
    "calendar": (
        lambda ds: ds.assign_coords(time=xr.date_range("2000", periods=200, calendar="noleap", use_cftime=True)),
        "'time' has the dimensions and times .*'noleap'",
    ),
    "numbers": (lambda ds: ds.assign_coords(time=np.arange(200)), "'time' has the dimensions and times"),
}


@pytest.mark.parametrize("name", APPENDED)
def test_rows_with_other_labels_are_refused(tmp_path: Path, name: str) -> None:
    change, message = APPENDED[name]
    ds = dataset()
    g = ds.swath.ingest(tmp_path / "g", window=8)
    with pytest.raises(SourceError, match=message):
        swath.xarray.append(g, change(ds))
    assert swath.open_group(tmp_path / "g").n_rows == 200


def test_times_are_appended_in_the_units_that_are_there(tmp_path: Path) -> None:
    seconds = xr.Dataset({"t": ("time", np.arange(200))}, {"time": HOURS.astype("M8[s]")})
    g = seconds.swath.ingest(tmp_path / "g", window=8)
    finer = seconds.assign_coords(time=HOURS)
    swath.xarray.append(g, finer)
    found = swath.xarray.gather(g, [0, 192, 392])["time"].values
    assert (found == selected(xr.concat([seconds, finer], "time"), [0, 192, 392], 8)["time"].values).all()
    between = finer.assign_coords(time=HOURS + np.timedelta64(1, "ns"))
    with pytest.raises(SourceError, match="'time' is not the same in whole seconds"):
        swath.xarray.append(g, between)


def test_windows_do_not_span_a_gap(tmp_path: Path) -> None:
    ds = dataset().drop_isel(time=[50, 51, 120])
    g = ds.swath.ingest(tmp_path / "g", window=8, segments="time")
    assert g.segments.tolist() == [[0, 50], [50, 118], [118, 197]]
    batches = g.batches(10)
    for _ in batches:
        times = swath.xarray.gather(g, batches.starts)["time"].values
        assert (np.diff(times, axis=1) == np.timedelta64(1, "h")).all()
    again = swath.xarray.append(g, ds, segments="time")
    assert len(again.segments) == 6
    with pytest.raises(OptionError, match="segments is 'y'"):
        ds.swath.ingest(tmp_path / "h", segments="y")


BAD: dict[str, tuple[Callable[[xr.Dataset], Any], str]] = {
    "missing-time": (lambda ds: ds.assign_coords(time=np.where(np.arange(200) == 7, np.datetime64("NaT", "ns"), HOURS)), "a time is missing"),
    "objects": (lambda ds: ds.assign_coords(station=("time", np.array([{}] * 200))), "'station' holds Python objects"),
    "levels": (lambda ds: ds[["rain"]].set_index(time=["station", "age"]), "'time' holds Python objects"),
    "attribute": (lambda ds: ds.assign_attrs(when=HOURS[0]), "'when' of the Dataset cannot be stored"),
    "two-dims": (lambda ds: ds.assign(other=("z", [1])), r"first dimensions \['time', 'y', 'z'\]"),
    "not-first": (lambda ds: ds.assign(t=ds["t2m"].transpose("y", "time", "x")), "Transpose them"),
    "space": (lambda ds: ds.rename(lon="l on"), "has a space in its name"),
    "no-name": (lambda ds: ds["t2m"].rename(None), "has the name None"),
    "name-of-coordinate": (lambda ds: ds["y"], "has the name 'y'"),
    "nothing": (lambda ds: ds[[]], "first dimensions"),
    "slash": (lambda ds: ds.rename(t2m="a/b"), "no name for an array"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    with pytest.raises((SourceError, OptionError), match=message):
        change(dataset()).swath.ingest(tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_what_is_left_behind_is_said(tmp_path: Path) -> None:
    da = xr.DataArray(ROWS, dims=("time", "y", "x"), name="t2m")
    with pytest.warns(UserWarning, match="'height' is a single value"):
        da.assign_coords(height=2.0).swath.ingest(tmp_path / "g")
    with pytest.warns(UserWarning, match="The coordinates time, y are left behind"):
        swath.ingest(da.assign_coords(time=HOURS, y=range(4)), tmp_path / "a")
    swath.ingest(da, tmp_path / "b")


@pytest.mark.parametrize("name", ["window", "time_in_window", "start"])
def test_names_that_windows_need_are_refused(tmp_path: Path, name: str) -> None:
    ds = dataset().rename(x=name)
    g = ds.swath.ingest(tmp_path / "g", window=8)
    with pytest.raises(OptionError, match=f"has the name '{name}'"):
        swath.xarray.gather(g, STARTS)


FILES: dict[str, dict[str, Any]] = {
    "h5netcdf": {"engine": "h5netcdf"},
    "netcdf4": {"engine": "netcdf4"},
    "zarr-2": {"engine": "zarr", "consolidated": False},
    "zarr-3": {"engine": "zarr", "consolidated": False},
    "swath": {"engine": "zarr"},
}


def _written(ds: xr.Dataset, folder: Path, kind: str) -> Any:
    path = folder / f"{kind}.file"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "swath":
            ds.swath.ingest(path)
        elif kind.startswith("zarr"):
            ds.to_zarr(path, zarr_format=int(kind[-1]), consolidated=False)
        else:
            engine: Any = kind
            ds.to_netcdf(path, engine=engine)
    return path


def _opened(path: Path, kind: str, **options: Any) -> xr.Dataset:
    return xr.open_dataset(path, **{"chunks": None, "decode_timedelta": True, **FILES[kind], **options})


@pytest.mark.parametrize("kind", FILES)
def test_variables_are_read_where_they_lie(tmp_path: Path, kind: str) -> None:
    path = _written(dataset().drop_vars(["station", "x"]), tmp_path, kind)
    with _opened(path, kind) as ds:
        for name in ("t2m", "rain"):
            da = ds[name]
            wanted = selected(_opened(path, kind)[name], STARTS, 8)
            assert_identical(da.swath.gather(STARTS, window=8), wanted.load())
            assert_identical(da.swath.windows(STARTS, window=8).compute(), wanted)
        some = ds["t2m"].swath.gather(STARTS, window=8, columns=[3, 1])
        assert_identical(some, selected(_opened(path, kind)["t2m"].isel(y=[3, 1]), STARTS, 8).load())
        renamed = ds["rain"].rename("r").rename(time="t").isel(t=slice(None))
        assert_identical(renamed.swath.gather(STARTS, window=8), selected(renamed, STARTS, 8, "t"))


CHANGED: dict[str, tuple[Callable[[xr.DataArray], xr.DataArray], str]] = {
    "sliced": (lambda da: da.isel(time=slice(0, 100)), "is a part of what lies"),
    "columns": (lambda da: da.isel(y=slice(1, None)), "is a part of what lies"),
    "reversed": (lambda da: da[::-1], "is a part of what lies"),
    "one-column": (lambda da: da.isel(y=0), "is a part of what lies"),
    "sorted": (lambda da: da.isel(time=np.random.default_rng(0).permutation(200)), "is a part of what lies"),
    "transposed": (lambda da: da.transpose("x", "y", "time"), "is not what lies in a file"),
    "squares": (lambda da: da**2, "in memory"),
    "rolled": (lambda da: da.roll(time=1), "."),
    "loaded": (lambda da: da.load(), "in memory"),
    "dask": (lambda da: da.chunk({"time": 10}), "computed by dask"),
    "masked": (lambda da: da.where(da > 0), "in memory"),
    "cast": (lambda da: da.astype("f8"), "in memory"),
    "of-its-own": (lambda da: xr.DataArray(ROWS), "in memory"),
}


@pytest.mark.parametrize("kind", ["h5netcdf", "netcdf4", "zarr-3"])
@pytest.mark.parametrize("name", CHANGED)
def test_what_is_not_the_file_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = _written(dataset()[["t2m"]].drop_vars("x"), tmp_path, kind)
    change, message = CHANGED[name]
    with _opened(path, kind) as ds:
        changed = change(ds["t2m"])
        with pytest.raises(SourceError, match=message):
            changed.swath.gather([0], window=8)


@pytest.mark.parametrize("kind", ["h5netcdf", "netcdf4", "zarr-2", "zarr-3"])
def test_values_that_were_set_are_not_those_of_the_file(tmp_path: Path, kind: str) -> None:
    path = _written(dataset()[["t2m"]].drop_vars("x"), tmp_path, kind)
    with _opened(path, kind) as ds:
        ds["t2m"][5] = 0
        with pytest.raises(SourceError, match="in memory"):
            ds["t2m"].swath.open()


ENCODED: dict[str, tuple[Any, dict[str, Any]]] = {
    "scaled": (np.arange(200) / 2, {"dtype": "i2", "scale_factor": 0.5}),
    "offset": (np.arange(200.0), {"dtype": "f4", "add_offset": 7.0}),
    "masked": (np.where(np.arange(200) % 7, 5.0, np.nan), {"dtype": "i2", "_FillValue": -1}),
    "masked-floats": (np.where(np.arange(200) % 7, 5.0, np.nan), {"_FillValue": -1.0}),
    "missing-value": (np.where(np.arange(200) % 7, 5.0, np.nan), {"dtype": "f8", "missing_value": -9.0, "_FillValue": -9.0}),
    "times": (HOURS, {"units": "hours since 2000-01-01", "dtype": "i8"}),
    "spans": (np.arange(200) * np.timedelta64(1, "h"), {"units": "hours", "dtype": "i8"}),
    "bools": (np.arange(200) % 3 == 0, {}),
    "unsigned": (np.arange(200, dtype="u1"), {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1}),
    "text": (np.array(["ab", "c"] * 100), {"dtype": "S1"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["h5netcdf", "netcdf4", "zarr-2", "zarr-3"])
@pytest.mark.parametrize("name", ENCODED)
def test_what_xarray_decodes_is_refused_or_the_same(tmp_path: Path, kind: str, name: str) -> None:
    values, encoding = ENCODED[name]
    ds = xr.Dataset({"v": ("row", values)})
    ds["v"].encoding = encoding if name != "text" or "zarr" not in kind else {}
    path = _written(ds, tmp_path, kind)
    with _opened(path, kind) as opened:
        wanted = selected(_opened(path, kind)["v"], STARTS, 8, "row")
        try:
            found = opened["v"].swath.gather(STARTS, window=8)
        except SwathError:
            assert name != "bools" or "zarr" not in kind
        else:
            assert (name, kind[:4]) in {("bools", "zarr"), ("text", "zarr")}
            assert_identical(found, wanted.load())
    if name in ("scaled", "offset", "masked", "masked-floats"):
        with _opened(path, kind, mask_and_scale=False) as opened:
            wanted = selected(_opened(path, kind, mask_and_scale=False)["v"], STARTS, 8, "row")
            assert_identical(opened["v"].swath.gather(STARTS, window=8), wanted.load())


@pytest.mark.parametrize("kind", ["h5netcdf", "netcdf4"])
def test_variables_of_groups_and_those_named_like_a_dimension(tmp_path: Path, kind: str) -> None:
    engine: Any = kind
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        inner = file.createGroup("g")
        inner.createDimension("n", 5)
        inner.createDimension("m", 200)
        # It has the name of a dimension that it does not go along: HDF5 has two datasets for these, of one shape.
        inner.createVariable("m", "f4", ("n",))[:] = np.arange(5)
        inner.createVariable("n", "f4", ("m",))[:] = np.arange(200)
        inner.createVariable("v", "f4", ("m",))[:] = np.arange(200) * 2
    with h5py.File(tmp_path / "a.nc") as file:
        assert "_nc4_non_coord_n" in file["g"]
    with xr.open_dataset(tmp_path / "a.nc", group="g", engine=engine) as ds:
        for name in ("v", "n"):
            found = ds[name].swath.gather(STARTS, window=8).values
            assert_same(found, np.asarray(ds[name].values)[np.array(STARTS)[:, None] + np.arange(8)])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    xr.Dataset({"v": ("row", np.arange(200))}).to_netcdf(tmp_path / "a.nc", format="NETCDF3_64BIT", engine="netcdf4")
    with (
        xr.open_dataset(tmp_path / "a.nc", engine="netcdf4") as ds,
        pytest.raises(SwathError),
    ):
        ds["v"].swath.open()
    memory = zarr.storage.MemoryStore()
    xr.Dataset({"v": ("row", np.arange(200))}).to_zarr(memory, consolidated=False)
    with pytest.raises(SourceError, match="lies in no folder"):
        xr.open_zarr(memory, chunks=None, consolidated=False)["v"].swath.open()


def test_the_accessor_comes_with_its_import_alone() -> None:
    code = "import xarray, swath; assert not hasattr(xarray.DataArray, 'swath'); import swath.xarray; xarray.DataArray.swath"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_xarray_the_extra_is_named() -> None:
    code = "import sys; sys.modules['xarray'] = None; import swath.xarray"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'swath[xarray]'" in done.stderr


def test_the_command_finds_damage_of_labels_too(tmp_path: Path) -> None:
    dataset().drop_vars("land").swath.ingest(tmp_path / "g")
    (shard,) = (tmp_path / "g/x").glob("c.*")
    shard.write_bytes(shard.read_bytes()[:-1])
    command = [sys.executable, "-m", "swath.cli", "verify", str(tmp_path / "g")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found
    assert f"{shard}: " in found.stdout
