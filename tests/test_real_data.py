"""Data that nobody here wrote, as installed packages ship them: HDF5 files of every age, recordings, pictures."""

import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import pywt.data
import skimage.data
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.errors import IncompleteStoreError, SourceError, StoreNotFoundError, SwathError


def _shipped(package: str, *suffixes: str) -> dict[str, Path]:
    """Files of an installed package by their names in it; nothing is imported."""
    return {str(file): Path(str(file.locate())) for file in files(package) or () if file.suffix in suffixes}


HDF5_FILES = {
    name: path
    for package in ("tables", "h5py", "scipy")
    for name, path in _shipped(package, ".h5", ".mat").items()
    if h5py.is_hdf5(path)
}
SAMPLES = {path.name: path for path in _shipped("matplotlib", ".dat", ".npz").values()}
ARCHIVES = {path.name: path for path in _shipped("pywavelets", ".npz").values()}


def _names(group: h5py.Group, prefix: str = "") -> Iterator[str]:
    """All that a file holds but its groups: datasets, named types, and links, wherever they lead."""
    for key in group:
        if isinstance(group.get(key, getlink=True), h5py.HardLink) and group.get(key, getclass=True) is h5py.Group:
            yield from _names(group[key], f"{prefix}{key}/")
        else:
            yield prefix + key


def _rows(file: h5py.File, name: str) -> NDArray[Any] | None:
    """The rows, if it has any, numpy has a dtype for them, and h5py can read them here."""
    try:
        found = file[name]
        rows = found[()] if isinstance(found, h5py.Dataset) and found.shape else np.empty(0)
    except (KeyError, OSError, TypeError, ValueError):  # a link to nothing, an absent filter, a type that numpy lacks
        return None
    return rows if len(rows) and not rows.dtype.hasobject else None


def _starts(n_rows: int, window: int) -> NDArray[np.int64]:
    """Both ends, one of them twice, and places between."""
    drawn = np.random.default_rng(0).integers(0, n_rows - window, 50, endpoint=True)
    return np.concatenate([[n_rows - window, 0, 0], drawn])


@pytest.mark.parametrize("name", HDF5_FILES)
def test_an_hdf5_dataset_is_what_h5py_reads_or_refused(tmp_path: Path, name: str) -> None:
    """Neither wrong rows nor an error of another kind; and what h5py can read as rows is not refused."""
    path = HDF5_FILES[name]
    with h5py.File(path, "r") as file:
        for i, dataset in enumerate(_names(file)):
            rows, url = _rows(file, dataset), tmp_path / f"{i}.zarr"
            if rows is None:
                with pytest.raises(SwathError):
                    swath.ingest(f"{path}::{dataset}", url)
                with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
                    swath.open(url)
                continue
            a = swath.ingest(f"{path}::{dataset}", url)
            window = min(16, len(rows) // 2 + 1)
            starts = _starts(len(rows), window)
            assert_same(a.gather(starts, window=window), expected(file[dataset], starts, window))
            assert_same(a.gather([0], window=len(a)), expected(rows, [0], len(rows)))


def test_the_hdf5_files_are_many_and_most_datasets_are_rows() -> None:
    """So that the test above does not pass on nothing: it ingests just those that `_rows` can read."""
    counts: Counter[bool] = Counter()
    for path in HDF5_FILES.values():
        with h5py.File(path, "r") as file:
            counts.update(_rows(file, name) is not None for name in _names(file))
    assert len(HDF5_FILES) >= 50
    assert counts.total() >= 200
    assert counts[True] >= 120


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("float.h5::quadprecision", "/quadprecision .*Insufficient precision"),
        ("times-nested-be.h5::earr32", "/earr32 .*No NumPy equivalent"),
        ("vlunicode_endian.h5::vlunicode_big", r"/vlunicode_big has dtype object.*astype\('S10'\)"),
        ("python3.h5::atable", r"/atable has no rows \(shape \(0,\)\)"),
        ("zerodim-attrs-1.3.h5::a", "/a is a single value"),
        ("elink.h5::pep/pep2", r"is a link to another file, elink2\.h5::/pep"),
    ],
)
def test_a_refusal_says_why(tmp_path: Path, dataset: str, message: str) -> None:
    file, _, name = dataset.partition("::")
    with pytest.raises(SourceError, match=message):
        swath.ingest(f"{HDF5_FILES[f'tables/tests/{file}']}::{name}", tmp_path / "a.zarr")


def test_npy_files_are_segments(tmp_path: Path) -> None:
    """An aerial photograph and two more, out of PyWavelets' archives: rows of 512 pixels, in a .npy file each."""
    paths = []
    for name in ("aero", "ascent", "camera"):
        with zipfile.ZipFile(ARCHIVES[f"{name}.npz"]) as archive:
            paths.append(Path(archive.extract("data.npy", tmp_path / name)))
    photographs = [pywt.data.aero(), pywt.data.ascent(), pywt.data.camera()]
    a = swath.ingest(paths, tmp_path / "a.zarr")
    assert a.segments.tolist() == [[0, 512], [512, 1024], [1024, 1536]]
    for first, photograph in zip(a.segments[:, 0], photographs):
        starts = _starts(512, 16)
        assert_same(a.gather(first + starts), expected(photograph, starts, 16))
    starts = _starts(1536, 16)
    assert_same(a.gather(starts), expected(np.concatenate(photographs), starts, 16))


def test_a_fortran_ordered_npy_file(tmp_path: Path) -> None:
    """Sea surface temperatures, as PyWavelets keeps them: columns first."""
    with zipfile.ZipFile(ARCHIVES["sst_nino3.npz"]) as archive:
        path = Path(archive.extract("data.npy", tmp_path))
    rows = np.load(path)
    assert np.isfortran(rows)
    a = swath.ingest(path, tmp_path / "a.zarr", window=12)
    assert_same(a.gather(_starts(len(rows), 12)), expected(rows, _starts(len(rows), 12), 12))


@pytest.mark.parametrize(
    ("name", "dtype", "row_shape"), [("membrane.dat", "<f4", ()), ("eeg.dat", "<f8", (4,))], ids=["neuron", "eeg"]
)
def test_recordings_in_raw_binary(tmp_path: Path, name: str, dtype: str, row_shape: tuple[int, ...]) -> None:
    rows = np.fromfile(SAMPLES[name], dtype).reshape(-1, *row_shape)
    a = swath.ingest(SAMPLES[name], tmp_path / "a.zarr", dtype=dtype, row_shape=row_shape, window=40)
    starts = _starts(len(rows), 40)
    assert_same(a.gather(starts), expected(rows, starts, 40))
    assert_same(swath.compute(a.windows(starts, block=9)), expected(rows, starts, 40))


def test_a_list_of_recordings_read_in_each_way(tmp_path: Path) -> None:
    """The electrocardiogram as an array, as a dask array, and as a dataset of HDF5: three segments."""
    import dask.array as da

    ecg = pywt.data.ecg()
    with h5py.File(tmp_path / "ecg.h5", "w") as file:
        file.create_dataset("ecg", data=ecg, chunks=(100,), compression="gzip")
    recordings = [ecg, da.from_array(ecg[::-1], chunks=100), f"{tmp_path}/ecg.h5::ecg"]
    a = swath.ingest(recordings, tmp_path / "a.zarr", window=64)
    assert np.diff(a.segments).tolist() == [[1024]] * 3
    joined = np.concatenate([ecg, ecg[::-1], ecg])
    starts = _starts(len(joined), 64)
    assert_same(a.gather(starts), expected(joined, starts, 64))
    assert_same(swath.compute(a.windows(starts, block=9)), expected(joined, starts, 64))


def test_prices_with_dates(tmp_path: Path) -> None:
    """Records whose fields are a datetime64, floats and an integer."""
    prices = np.load(SAMPLES["goog.npz"])["price_data"]
    assert prices.dtype["date"].kind == "M"
    a = swath.ingest(prices, tmp_path / "a.zarr", window=5)
    assert_same(a.gather(_starts(len(prices), 5)), expected(prices, _starts(len(prices), 5), 5))


def test_faces_in_an_npy_file(tmp_path: Path) -> None:
    (path,) = (path for path in _shipped("scikit-image", ".npy").values() if path.name == "lfw_subset.npy")
    a = swath.ingest(path, tmp_path / "a.zarr", window=1)
    assert a.shape == (200, 25, 25)
    assert_same(a.gather(_starts(200, 1)), expected(np.load(path), _starts(200, 1), 1))


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
def test_pictures_as_rows_and_in_rows(tmp_path: Path, codec: Literal["raw", "lz4", "zstd"]) -> None:
    data: Any = skimage.data  # its functions are typed in part
    pictures = [data.astronaut(), data.immunohistochemistry()]
    in_rows = swath.ingest(pictures, tmp_path / "in-rows.zarr", codec=codec)
    assert (in_rows.shape, in_rows.segments.tolist()) == ((1024, 512, 3), [[0, 512], [512, 1024]])
    joined, starts = np.concatenate(pictures), _starts(1024, 16)
    assert_same(in_rows.gather(starts), expected(joined, starts, 16))
    face = slice(180, 280)
    assert_same(in_rows.gather([0, 80], window=100, columns=face), expected(joined, [0, 80], 100)[:, :, face])

    as_rows = swath.ingest(np.stack(pictures), tmp_path / "as-rows.zarr", window=1, codec=codec)
    assert as_rows.shape == (2, 512, 512, 3)
    assert_same(as_rows.gather([1, 0, 1]), expected(np.stack(pictures), [1, 0, 1], 1))
