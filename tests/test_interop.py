"""A store is plain Zarr: zarr-python, zarrs and tensorstore read from it what swath does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray
from oracle import assert_same

import swath


def _by_zarr(url: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(url, mode="r")[...])


def _by_zarrs(url: Path) -> NDArray[Any]:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return _by_zarr(url)


def _by_tensorstore(url: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/"}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


READERS = {"zarr-python": _by_zarr, "zarrs": _by_zarrs, "tensorstore": _by_tensorstore}


def _rows(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    if dtype == "?":
        return rng.integers(0, 2, shape).astype(bool)
    # Any bits are a number, or one of many NaNs; half of them zeros, so that some chunks compress and some do not.
    bits = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    bits[: shape[0] // 2] = 0
    return bits.reshape(-1).view(dtype).reshape(shape)


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
@pytest.mark.parametrize(
    "dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", ">f4"]
)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_numbers(tmp_path: Path, read: Callable[[Path], NDArray[Any]], dtype: str, codec: Any) -> None:
    # Chunks of 7 rows, shards of 28: the last chunk and the last shard are not full.
    rows = _rows(dtype, (95, 5))
    swath.ingest(rows, tmp_path / "a", codec=codec, chunk_rows=7, shard_rows=28)
    assert_same(read(tmp_path / "a"), np.stack([rows])[0])


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3, 4, 2), (1, 1), (3, 4)], ids=str)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_shapes(tmp_path: Path, read: Callable[[Path], NDArray[Any]], shape: tuple[int, ...]) -> None:
    rows = _rows("f8", shape)
    swath.ingest(rows, tmp_path / "a")
    assert_same(read(tmp_path / "a"), rows)


OTHERS = {
    "bytes": np.array([b"", b"a", b"abcde", b"a\0b"], "S5"),
    "text": np.array(["", "a", "日本語", "naïve"], "U5"),
    "raw-bytes": np.frombuffer(bytes(range(20)), "V5"),
    "datetime": np.array(["NaT", "1970-01-01", "2026-11-21T05:00", "1600-01-01"], "M8[s]"),
    "timedelta": np.array([5, -5, 0, "NaT"], "m8[25s]"),
    "record": np.array([(b"chr1", 5, 0.5), (b"chrX", -5, np.nan), (b"", 0, 0), (b"\xff", 1, -0.0)], "S10, i4, f4"),
}
# What Zarr has no name for is raw bytes to others, and itself to swath.
NAMELESS = {
    "long-double": np.array([0, 1, np.nan, np.pi], "g"),
    "record-of-arrays": np.arange(16.0).view([("a", "f8", (2,)), ("b", "f8", (2, 1))]),
}


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_zarr_python_reads_other_dtypes(tmp_path: Path, values: NDArray[Any], codec: Any) -> None:
    rows = np.tile(values, (95, 2))
    swath.ingest(rows, tmp_path / "a", codec=codec, chunk_rows=7, shard_rows=28)
    assert_same(_by_zarr(tmp_path / "a"), rows)


@pytest.mark.parametrize("values", NAMELESS.values(), ids=NAMELESS)
def test_zarr_python_reads_the_bytes_of_dtypes_without_a_name(tmp_path: Path, values: NDArray[Any]) -> None:
    rows = np.tile(values, (95, 2))
    a = swath.ingest(rows, tmp_path / "a", chunk_rows=7, shard_rows=28)
    assert_same(_by_zarr(tmp_path / "a").view(rows.dtype), rows)
    assert_same(a.gather([0], window=95)[0], rows)
