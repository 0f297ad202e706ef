"""Whatever has a shape, a dtype and rows comes in as it says it is, or is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
from numpy.typing import NDArray
from oracle import assert_same

import swath
from swath.errors import IncompleteStoreError, SourceError, StoreNotFoundError
from swath.sources import open_source
from swath.sources.dask import DaskSource

ROWS = np.random.default_rng(0).normal(size=(500, 6, 4))


class Rows:
    """Rows that are made when they are asked for."""

    def __init__(
        self, rows: Any = ROWS, *, shape: Any = None, dtype: Any = None, make: Callable[[Any], Any] = np.asarray
    ) -> None:
        self.rows, self.make = rows, make
        self.shape = rows.shape if shape is None else shape
        self.dtype = rows.dtype if dtype is None else dtype
        self.asked: list[int] = []

    def __getitem__(self, rows: slice) -> Any:
        self.asked.append(rows.stop - rows.start)
        return self.make(self.rows[rows])


class TorchDtype:
    """As torch's, which numpy does not know."""


class Tensor:
    """Rows as torch gives them: a tensor, of which numpy makes an array."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows, self.shape, self.dtype = rows, rows.shape, TorchDtype()

    def __getitem__(self, rows: slice) -> Any:
        return Tensor(self.rows[rows])

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return self.rows


def _zarr(folder: Path) -> Any:
    xarray.DataArray(ROWS, dims=("t", "x", "y"), name="rows").to_dataset().to_zarr(folder / "rows.zarr")
    return xarray.open_zarr(folder / "rows.zarr", chunks=None)["rows"]


SOURCES: dict[str, Callable[[Path], Any]] = {
    "object": lambda folder: Rows(),
    "object-of-lists": lambda folder: Rows(make=lambda rows: rows.tolist()),
    "object-big-endian": lambda folder: Rows(ROWS.astype(">f8")),
    "object-of-matrices": lambda folder: Rows(make=lambda rows: np.ma.masked_array(rows, mask=False)),
    "tensor": lambda folder: Tensor(ROWS),
    "tensorstore": lambda folder: tensorstore.array(ROWS),
    "xarray": lambda folder: xarray.DataArray(ROWS, dims=("t", "x", "y"), coords={"x": np.arange(6)}, name="rows"),
    "xarray-dask": lambda folder: xarray.DataArray(ROWS, dims=("t", "x", "y")).chunk({"t": 77, "x": 4}),
    "xarray-of-a-file": _zarr,
    "masked-of-nothing": lambda folder: np.ma.masked_array(ROWS, mask=False),
    "in-a-list": lambda folder: [Rows(ROWS[:100]), ROWS[100:300], Tensor(ROWS[300:])],
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.filterwarnings("ignore:.*consolidated.*")
@pytest.mark.filterwarnings("ignore:The coordinates x are left behind")
def test_it_equals_itself(tmp_path: Path, name: str) -> None:
    a = swath.ingest(SOURCES[name](tmp_path), tmp_path / "a.zarr", chunk_rows=4, shard_rows=64)
    assert_same(a.gather([0], window=500)[0], ROWS)


def test_a_matrix_is_an_array_of_rows(tmp_path: Path) -> None:
    rows = ROWS[:, 0]
    with pytest.warns(PendingDeprecationWarning, match="matrix"):
        matrix = np.asmatrix(rows)
    assert_same(swath.ingest(matrix, tmp_path / "a.zarr").gather([0], window=500)[0], rows)


def test_blocks_of_dask_are_computed_once() -> None:
    assert isinstance(open_source(xarray.DataArray(ROWS, dims=("t", "x", "y")).chunk({"t": 77})), DaskSource)


def test_no_more_rows_are_asked_for_than_were_said() -> None:
    rows = Rows()
    source = open_source(rows, cache_bytes=2 * 10 * 192)
    out = np.empty_like(ROWS)
    source.read_into(0, out)
    assert max(rows.asked) == 10
    assert source.read_bytes == 2 * 10 * 192
    assert source.in_order


def test_nobody_can_say_that_it_is_the_same() -> None:
    rows = Rows()
    source = open_source(rows)
    assert source.describe() == source.describe()
    assert source.describe() != open_source(rows).describe()


def _raise(rows: Any) -> Any:
    raise ConnectionError("the line is down")


class Frame:
    """As a table of pandas."""

    shape, dtypes = (5, 3), ()

    def to_numpy(self) -> NDArray[Any]:
        return ROWS


class Series(Rows):
    """As one column of it, whose slices go by labels."""

    def to_numpy(self) -> NDArray[Any]:
        return ROWS


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (lambda: Rows(make=_raise), r"Rows 0 to 499 of the Rows cannot be read \(ConnectionError: the line is down\)"),
    "other-shape": (lambda: Rows(make=lambda rows: rows[:, :3]), r"came with the shape \(500, 3, 4\)"),
    "fewer-rows": (lambda: Rows(shape=(501, 6, 4)), r"came with the shape \(500, 6, 4\).*\(501, 6, 4\)"),
    "other-dtype": (lambda: Rows(dtype="f4"), "dtype float64, but it said .* float32"),
    "no-array": (lambda: Rows(make=lambda rows: "hello"), r"came with the shape \(\)"),
    "ragged": (lambda: Rows(make=lambda rows: [[1], [1, 2]]), "cannot be read"),
    "masked": (lambda: Rows(make=lambda rows: np.ma.masked_array(rows, rows > 0)), "would lose their mask"),
    "objects": (lambda: Rows(dtype="O"), "dtype object"),
    "scalar": (lambda: np.float64(5), "single value"),
    "no-rows": (lambda: Rows(ROWS[:0]), "no rows"),
    "unknown-shape": (lambda: Rows(shape=(None, 6, 4)), r"the shape \(None, 6, 4\), which is not known"),
    "negative-shape": (lambda: Rows(shape=(-1, 6, 4)), r"the shape \(-1, 6, 4\)"),
    "shape-no-tuple": (lambda: Rows(shape=5), "the shape 5, which is not known"),
    "dtype-of-arrays": (lambda: Rows(dtype="(6,4)f8"), "of more than one value"),
    "unknown-dtype-raises": (lambda: Rows(dtype=TorchDtype(), make=_raise), "Rows 0 to 0 of the Rows cannot be read"),
    "frame": (Frame, r"A Frame is no source that swath knows. Give its .to_numpy\(\)"),
    "series": (lambda: Series(), r"A Series is no source that swath knows. Give its .to_numpy\(\)"),
    "dataset": (lambda: xarray.Dataset({"a": ("t", ROWS[:, 0, 0])}), r"A Dataset of xarray is no array. .*dataset\['name'\]"),
    "text": (lambda: xarray.DataArray(np.array(["a", None], object)), "dtype object"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_named_and_leaves_no_store(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(SourceError, match=message):
        swath.ingest(make(), tmp_path / "a.zarr", window=1)
    with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
        swath.open(tmp_path / "a.zarr")
