"""Whatever the array, the layout and the request: a gather is one line of numpy, bit for bit."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.errors import ColumnsError, OutError, SwathError, WindowError, WindowOutOfBoundsError

DTYPES = [
    *("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "g", "c8", "c16", ">f8", ">i2", "S3", "U2", ">U2", "V5"),
    *("M8[ns]", "M8[D]", "m8[s]", "M8"),
    np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4")]),
    np.dtype([("a", ">i4"), ("b", [("x", "u1"), ("y", "M8[s]")])]),
    np.dtype([("a", "i1"), ("b", "f8", (2, 2))]),
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
]


def random_array(shape: tuple[int, ...], dtype: Any, seed: int) -> NDArray[Any]:
    """Any bits that the dtype may have: NaNs with payloads, NaTs, text."""
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    if dtype.kind == "b":
        raw &= 1
    elif dtype.kind == "U":  # code points that exist
        return np.asarray((raw[..., 0] + 1000 * raw[..., 1].astype("i8")).astype(dtype))
    return np.asarray(raw.reshape(-1).view(dtype).reshape(shape))


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    n_rows = draw(st.integers(1, 120))
    row_shape: tuple[int, ...] = draw(st.sampled_from([(), (1,), (3,), (50,), (3, 2), (2, 3, 2), (700,)]))
    window = draw(st.integers(1, n_rows) | st.just(n_rows) | st.just(1))
    chunk_rows = draw(st.integers(1, 20) | st.sampled_from(["auto"]))
    columns: Any = None
    if row_shape and draw(st.sampled_from([True, False])):
        columns = draw(
            st.lists(st.integers(0, row_shape[0] - 1), max_size=5)
            | st.slices(row_shape[0])
            | st.just(slice(None, None, -1))
        )
    return {
        "array": random_array((n_rows, *row_shape), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))),
        "layout": {
            "chunk_rows": chunk_rows,
            "shard_rows": "auto" if chunk_rows == "auto" else chunk_rows * draw(st.integers(1, 6)),
            "codec": draw(st.sampled_from(["raw", "lz4", "zstd"])),
        },
        "window": window,
        "starts": draw(st.lists(st.integers(0, n_rows - window), max_size=40)),
        "columns": columns,
        "out": draw(st.sampled_from(["none", "contiguous", "strided", "memmap"])),
    }


@given(requests())
def test_a_gather_is_one_line_of_numpy(request: dict[str, Any]) -> None:
    array, window, starts, columns = (request[name] for name in ("array", "window", "starts", "columns"))
    wanted = expected(array, starts, window)
    if columns is not None:
        wanted = wanted[:, :, columns]
    with tempfile.TemporaryDirectory() as folder:
        a = swath.ingest(array, Path(folder) / "a.zarr", **request["layout"], progress=False)
        assert (a.shape, a.dtype) == (array.shape, wanted.dtype)
        out: NDArray[Any] | None = None
        if request["out"] == "contiguous":
            out = np.empty(wanted.shape, wanted.dtype)
        elif request["out"] == "strided":
            out = np.empty((*wanted.shape[:-1], 2 * wanted.shape[-1]), wanted.dtype)[..., ::2]
        elif request["out"] == "memmap" and wanted.size:
            out = np.memmap(Path(folder) / "out", wanted.dtype, "w+", shape=wanted.shape)
        batch = a.gather(starts, window=window, columns=columns, out=out)
        assert out is None or batch is out
        assert_same(batch, wanted)
        lazy = a.windows(starts, window=window, columns=columns, block=7)
        assert_same(swath.compute(lazy), wanted)


CODECS = ["raw", "lz4", "zstd"]


@pytest.fixture(scope="module", params=CODECS)
def wide(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NDArray[Any], swath.RowArray]:
    """Rows of 4 KB, chunks of 3, shards of 30: windows land in the batch itself, over the borders of shards."""
    array = np.random.default_rng(0).integers(0, 50, (1000, 500))
    place = tmp_path_factory.mktemp("wide") / "a.zarr"
    return array, swath.ingest(array, place, chunk_rows=3, shard_rows=30, codec=request.param, window=8)


@pytest.mark.parametrize(
    ("starts", "window"),
    [
        pytest.param([5], 8, id="one"),
        pytest.param([25, 26, 992, 0], 8, id="over-shards"),
        pytest.param([7, 7, 7, 8, 6], 8, id="repeated-and-overlapping"),
        pytest.param([0, 9, 18, 3], 6, id="side-by-side-in-chunks"),
        pytest.param([4, 12, 20], 8, id="touching-within-chunks"),
        pytest.param(range(993), 8, id="every-window"),
        pytest.param(list(range(300)) * 2, 2, id="more-windows-in-a-read-than-pieces"),
        pytest.param([0], 1000, id="everything"),
        pytest.param([0, 0, 1], 999, id="nearly-everything"),
        pytest.param(range(999, -1, -1), 1, id="each-row-backwards"),
    ],
)
def test_large_windows(wide: tuple[NDArray[Any], swath.RowArray], starts: Any, window: int) -> None:
    array, a = wide
    assert_same(a.gather(starts, window=window), expected(array, starts, window))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("window", [1, 3, 100])
def test_many_small_windows(tmp_path: Path, codec: Any, window: int) -> None:
    array = np.random.default_rng(0).normal(size=200_000).astype("f4")
    a = swath.ingest(array, tmp_path / "a.zarr", codec=codec, shard_rows=1024 * 50)
    starts = np.random.default_rng(1).integers(0, len(array) - window + 1, 50_000)
    assert_same(a.gather(starts, window=window), array[starts[:, None] + np.arange(window)])


def test_reads_of_more_buffers_than_one_call_takes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (3000, 3), np.uint8)
    a = swath.ingest(array, tmp_path / "a.zarr", chunk_rows=1, shard_rows=3000)
    assert_same(a.gather([0, 1], window=2999), expected(array, [0, 1], 2999))


@pytest.mark.parametrize(
    ("chunk_rows", "window", "step"), [(4, 19, 20), (72, 17, 18), (72, 17, 1)], ids=["small-chunks", "gaps", "overlaps"]
)
def test_windows_that_share_a_read_never_pass_the_buffers_of_one_call(
    tmp_path: Path, chunk_rows: int, window: int, step: int
) -> None:
    # Each window begins and ends within a chunk, and so splits the buffers of two.
    array = np.random.default_rng(0).integers(0, 256, (9000, 128), np.uint8)
    a = swath.ingest(array, tmp_path / "a.zarr", chunk_rows=chunk_rows)
    starts = range(2, 8900, step)
    assert_same(a.gather(starts, window=window), expected(array, starts, window))


def test_the_last_chunk_and_shard_need_not_be_full(tmp_path: Path) -> None:
    array = np.arange(103 * 5).reshape(103, 5)
    a = swath.ingest(array, tmp_path / "a.zarr", chunk_rows=10, shard_rows=40)
    assert len(list((tmp_path / "a.zarr").iterdir())) == 4
    assert_same(a.gather([87, 102 - 15]), expected(array, [87, 87], 16))


def test_reading_through_a_full_array_with_threads_and_disk(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(20_000, 100))
    a = swath.ingest(array, tmp_path / "a.zarr", shard_rows=4000)
    starts = np.random.default_rng(1).permutation(len(array) - 15)
    for cold in (False, True):
        if cold:
            from swath.measure import drop_cache

            drop_cache(a.url)
        assert_same(a.gather(starts[:5000]), expected(array, starts[:5000], 16))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"window": 0}, WindowError, "window is 0, but this array has 50 rows", id="window-0"),
        pytest.param({"window": 51}, WindowError, "window is 51", id="window-too-long"),
        pytest.param({"starts": [35]}, WindowOutOfBoundsError, r"outside \[0, 34\]", id="start"),
        pytest.param({"columns": [4]}, ColumnsError, r"in \[0, 3\]", id="column"),
        pytest.param({"columns": [-1]}, ColumnsError, r"in \[0, 3\]", id="negative-column"),
        pytest.param({"columns": [1.0]}, ColumnsError, "whole numbers", id="float-column"),
        pytest.param({"columns": 2}, ColumnsError, "columns is 2", id="scalar-column"),
        pytest.param({"columns": [[1], [2, 3]]}, ColumnsError, "whole numbers", id="ragged-columns"),
        pytest.param({"columns": slice(0.5, 2)}, ColumnsError, "no slice", id="float-slice"),
        pytest.param(
            {"out": np.empty((1, 16, 5))},
            OutError,
            r"shape \(1, 16, 5\).*Give an array of shape \(1, 16, 4\)",
            id="shape",
        ),
        pytest.param({"out": np.empty((1, 16, 4), "f4")}, OutError, "dtype float32.*dtype float64", id="dtype"),
        pytest.param({"out": [1]}, OutError, "out is a list", id="no-array"),
        pytest.param({"out": np.broadcast_to(1.0, (1, 16, 4))}, OutError, "read-only", id="read-only"),
    ],
)
def test_a_bad_request_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[SwathError], message: str
) -> None:
    a = swath.ingest(np.zeros((50, 4)), tmp_path / "a.zarr")
    with pytest.raises(error, match=message):
        a.gather(**{"starts": [0], **options})


def test_columns_of_single_values_are_refused(tmp_path: Path) -> None:
    a = swath.ingest(np.zeros(50), tmp_path / "a.zarr")
    with pytest.raises(ColumnsError, match="single values"):
        a.gather([0], columns=[0])


def test_the_stores_own_window_may_be_longer_than_the_array(tmp_path: Path) -> None:
    a = swath.ingest(np.zeros((5, 4)), tmp_path / "a.zarr")
    with pytest.raises(WindowError, match="window is 16, but this array has 5 rows"):
        a.gather([0])
    assert a.gather([0], window=5).shape == (1, 5, 4)


def test_all_ways_to_say_starts_agree(tmp_path: Path) -> None:
    array = np.arange(100)
    a = swath.ingest(array, tmp_path / "a.zarr")
    for starts in ([3, 4], (3, 4), range(3, 5), np.array([3, 4], "u1"), np.array([3, 9, 4])[::2]):
        assert_same(a.gather(starts), expected(array, [3, 4], 16))
