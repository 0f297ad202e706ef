"""Zarr arrays of any chunking come in whole, each chunk decoded once, in the memory that was allowed."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import swath
from swath.errors import DiskFullError, IncompleteStoreError, SourceError, SourceNotFoundError, StoreNotFoundError
from swath.sources import Source, open_source
from swath.sources.bands import Bands
from swath.sources.zarr import ZarrSource

ROWS = np.random.default_rng(0).normal(size=(500, 6, 4)).round(2)


def _read(source: Source, step: int) -> NDArray[Any]:
    out = np.empty(source.shape, source.dtype)
    for start in range(0, len(out), step):
        source.read_into(start, out[start : start + step])
    return out


class Counting(WrapperStore[Any]):
    """Counts how often each chunk is fetched."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.gets: Counter[str] = Counter()

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        self.gets[key] += 1
        return await super().get(key, *args, **options)

    def get_sync(self, key: str, **options: Any) -> Any:
        self.gets[key] += 1
        return super().get_sync(key, **options)


@given(
    st.sampled_from([2, 3]),
    st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5)),
    st.tuples(st.integers(1, 70), st.integers(1, 13), st.integers(1, 6)),
    st.integers(1, 3),
    st.integers(1, 40_000),
    st.integers(1, 70),
)
def test_any_grid_and_any_cache(
    version: Any, shape: tuple[int, ...], chunks: tuple[int, ...], ndim: int, cache_bytes: int, step: int
) -> None:
    rows = np.arange(np.prod(shape[:ndim]), dtype="i4").reshape(shape[:ndim])
    store = Counting(MemoryStore())
    zarr.create_array(store, data=rows, chunks=chunks[:ndim], zarr_format=version)
    array = zarr.open_array(store, mode="r+")
    source = open_source(array, cache_bytes=cache_bytes)
    store.gets.clear()
    assert_same(_read(source, step), rows)
    assert len(store.gets) == array.nchunks
    assert set(store.gets.values()) == {1}


@pytest.mark.parametrize(("cache_bytes", "spooled"), [(10**6, False), (300_000, True)])
def test_a_band_that_does_not_fit_is_spooled(cache_bytes: int, spooled: bool) -> None:
    rows = np.arange(100_000, dtype="i4").reshape(-1, 50)  # 400 kB
    array = zarr.create_array(MemoryStore(), data=rows, chunks=(2000, 1))
    source = open_source(array, cache_bytes=cache_bytes)
    assert isinstance(source, ZarrSource)
    assert source.bands.spooled == spooled
    assert_same(_read(source, 333), rows)


@given(
    st.tuples(st.integers(1, 10**6), st.integers(1, 2000), st.integers(1, 20)),
    st.tuples(st.integers(1, 10**6), st.integers(1, 2000), st.integers(1, 20)),
    st.integers(1, 2**30),
)
def test_bands_keep_to_the_cache_where_chunks_are_small(
    shape: tuple[int, ...], chunks: tuple[int, ...], cache_bytes: int
) -> None:
    chunk_bytes = 8 * int(np.prod(chunks))
    if np.prod(-(-np.array(shape[1:]) // chunks[1:])) > 500:
        return
    bands = Bands.choose(shape, chunks, 8, cache_bytes, 50)
    assert bands.rows % chunks[0] == 0 or bands.rows == shape[0]
    covered = np.zeros(shape[1:], int)
    for slab in bands.slabs:
        covered[slab] += 1
        assert all(part.start % chunk == 0 for part, chunk in zip(slab, chunks[1:]))
    assert (covered == 1).all()
    assert bands.peak_bytes <= max(cache_bytes, 6 * chunk_bytes, 2**22)


def _array(folder: Path, rows: NDArray[Any] = ROWS, **options: Any) -> Path:
    zarr.create_array(folder / "some.zarr", data=rows, **options)
    return folder / "some.zarr"


def _sparse(folder: Path, version: Any) -> tuple[Path, NDArray[Any]]:
    array = zarr.create_array(
        folder / "some.zarr", shape=ROWS.shape, chunks=(50, 2, 4), dtype="f8", fill_value=7.5, zarr_format=version
    )
    array[100:250, :2] = ROWS[100:250, :2]
    wanted = np.full(ROWS.shape, 7.5)
    wanted[100:250, :2] = ROWS[100:250, :2]
    return folder / "some.zarr", wanted


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path, version: int) -> None:
    path, wanted = _sparse(tmp_path, version)
    a = swath.ingest(path, tmp_path / "a.zarr", chunk_rows=4, shard_rows=32)
    assert_same(a.gather([0], window=500)[0], wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (500, 1, 1)},
        {"chunks": (100, 6, 4), "zarr_format": 2},
        {"chunks": (13, 6, 4), "shards": (130, 6, 4)},
        {"chunks": (50, 2, 2), "shards": (100, 4, 4)},
        {"chunks": (64, 6, 4), "compressors": None},
        {"chunks": (64, 6, 4), "zarr_format": 2, "order": "F"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ingest_of_a_folder_and_of_an_array(tmp_path: Path, options: dict[str, Any]) -> None:
    path = _array(tmp_path, **options)
    for i, source in enumerate((path, str(path), zarr.open_array(path, mode="r"))):
        a = swath.ingest(source, tmp_path / f"{i}.zarr", chunk_rows=4, shard_rows=32)
        assert_same(a.gather([0], window=500)[0], ROWS)


@pytest.mark.parametrize("dtype", ["?", ">i2", ">f8", "c8", "f2", "S3", "U3", "M8[s]"])
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    rows = (np.arange(500) % 90).astype("i8").astype(dtype).reshape(-1, 5)
    a = swath.ingest(_array(tmp_path, rows, chunks=(100, 2), zarr_format=2), tmp_path / "a.zarr")
    assert_same(a.gather([0], window=100)[0], rows.astype(np.result_type(rows.dtype)))


@pytest.mark.parametrize("dtype", ["f4", "g", "S5", "M8[ms]", [("a", "i4", (2,)), ("b", "f8")]], ids=str)
def test_a_store_is_a_source_and_keeps_its_segments(tmp_path: Path, dtype: Any) -> None:
    rows = np.zeros((300, 3), dtype)
    if rows.dtype.names:
        rows["b"] = np.arange(900).reshape(300, 3)
    else:
        rows[...] = np.arange(900).astype("i8").reshape(300, 3)
    swath.ingest([rows[:100], rows[100:]], tmp_path / "a.zarr", chunk_rows=4, shard_rows=64, codec="zstd")
    b = swath.ingest(tmp_path / "a.zarr", tmp_path / "b.zarr", rows=slice(50, None))
    assert_same(b.gather([0], window=250)[0], rows[50:])
    assert b.segments.tolist() == [[0, 50], [50, 250]]


def _group(folder: Path) -> Path:
    group = zarr.open_group(folder / "group.zarr", mode="w")
    group.create_array("x", data=ROWS)
    group.create_array("inner/y", data=ROWS)
    group.create_array("scalar", shape=(), dtype="f8")
    group.create_array("none", shape=(0, 3), dtype="f8")
    group.create_array("thin", shape=(3, 0), chunks=(1, 1), dtype="f8")
    group.create_array("text", shape=(3,), dtype=str)
    return folder / "group.zarr"


def test_an_array_of_a_group(tmp_path: Path) -> None:
    path = _group(tmp_path)
    for name in ("x", "inner/y", "/x"):
        assert_same(_read(open_source(f"{path}::{name}"), 99), ROWS)
    assert open_source(f"{path}::x").describe()["path"] == f"{path}/x"


def _flip(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    return path


def _store(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda own: None) -> Path:
    swath.ingest(ROWS, folder / "store.zarr", shard_rows=64, chunk_rows=4)
    document = json.loads((folder / "store.zarr/zarr.json").read_text())
    change(document["attributes"]["swath"])
    (folder / "store.zarr/zarr.json").write_text(json.dumps(document))
    return folder / "store.zarr"


def _removed(path: Path, key: str) -> Path:
    (path / key).unlink()
    return path


def _damaged(folder: Path) -> Path:
    path = _array(folder, chunks=(100, 6, 4))
    _flip(path / "c/2/0/0")
    return path


def _no_json(folder: Path) -> Path:
    (folder / "bad.zarr").mkdir()
    (folder / "bad.zarr/zarr.json").write_text("{")
    return folder / "bad.zarr"


BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "group": (lambda f: _group(f), SourceError, "Zarr group, and no array is named.*inner/y"),
    "group-object": (lambda f: zarr.open_group(_group(f), mode="r"), SourceError, "A Group is no Zarr array"),
    "no-such-array": (lambda f: f"{_group(f)}::z", SourceNotFoundError, "no array 'z'. It has: inner/y, none"),
    "inner-group": (lambda f: f"{_group(f)}::inner", SourceNotFoundError, "no array 'inner'"),
    "name-of-an-array": (lambda f: f"{_group(f)}/x::y", SourceError, "is a Zarr array, so it has no array 'y'"),
    "scalar": (lambda f: f"{_group(f)}::scalar", SourceError, "single value"),
    "no-rows": (lambda f: f"{_group(f)}::none", SourceError, "no rows"),
    "no-bytes": (lambda f: f"{_group(f)}::thin", SourceError, "hold no bytes"),
    "text": (lambda f: f"{_group(f)}::text", SourceError, "no fixed size"),
    "no-json": (_no_json, SourceError, "cannot open"),
    "damaged-chunk": (_damaged, SourceError, "Rows .* of .*some.zarr cannot be read"),
    "store-without-a-shard": (lambda f: _removed(_store(f), "c.3.0.0"), SourceError, "shard c.3.0.0 is missing"),
    "store-with-a-damaged-shard": (lambda f: _flip(_store(f) / "c.3.0.0").parent, SourceError, "cannot be read"),
    "store-segments": (lambda f: _store(f, lambda own: own.update(segments=[5])), SourceError, "1 segments of 5 rows"),
    "store-segments-type": (lambda f: _store(f, lambda own: own.update(segments=5)), SourceError, "own facts are damaged"),
    "store-dtype": (lambda f: _store(f, lambda own: own.update(dtype="f4")), SourceError, "do not fit"),
    "store-dtype-type": (lambda f: _store(f, lambda own: own.update(dtype=[5])), SourceError, "own facts are damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_array_is_named_and_leaves_no_store(tmp_path: Path, name: str) -> None:
    make, error, message = BAD[name]
    source = make(tmp_path)
    with pytest.raises(error, match=message):
        swath.ingest(source, tmp_path / "a.zarr", chunk_rows=4, shard_rows=32)
    with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
        swath.open(tmp_path / "a.zarr")


def test_an_array_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = _array(tmp_path, chunks=(100, 6, 4))
    source = open_source(path)
    before = source.describe()
    assert source.describe() == before
    later = (path / "c/2/0/0").stat().st_mtime + 1
    os.utime(path / "c/2/0/0", (later, later))
    assert source.describe() != before
    assert open_source(zarr.array(ROWS)).describe() != open_source(zarr.array(ROWS)).describe()


def test_no_room_for_the_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.broadcast_to(np.float32(3), (2**17, 64))  # 32 MiB
    path = _array(tmp_path, rows, chunks=(2**17, 1))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nothing"))
    with pytest.raises(DiskFullError, match=r"cannot take a temporary file of 32.00 MiB .*set TMPDIR"):
        swath.ingest(path, tmp_path / "a.zarr", memory_limit="16MiB")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    a = swath.ingest(path, tmp_path / "a.zarr", memory_limit="16MiB")
    assert (a.gather([0], window=1000) == 3).all()
    assert {path.name for path in tmp_path.iterdir()} == {"a.zarr", "some.zarr"}


def test_a_failing_read_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(2**15, 64))
    path = _array(tmp_path, rows, chunks=(2**15, 1))
    _flip(path / "c/0/40")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(SourceError, match="cannot be read"):
        swath.ingest(path, tmp_path / "a.zarr", memory_limit="8MiB", codec="zstd")
    assert list(tmp_path.glob("tmp*")) == []


_CHILD = """
import sys
from pathlib import Path
import swath, zarr, numcodecs, swath.ingestion, swath.sources.zarr, rich.progress
zarr.open(sys.argv[1])[:1, :1]  # the loop and its threads

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = status("VmRSS")
swath.ingest(sys.argv[1], sys.argv[2], memory_limit=int(sys.argv[3]), codec="raw")
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize("chunks", [(40_000, 8), (10_000, 256), (1000, 512), (100, 512)], ids=str)
def test_memory_stays_below_the_limit(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).integers(0, 1000, (40_000, 512)).astype("f4")  # 80 MB
    path = _array(tmp_path, rows, chunks=chunks)
    limit = 2**26
    command = [sys.executable, "-c", _CHILD, str(path), str(tmp_path / "a.zarr"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < limit
    a = swath.open(tmp_path / "a.zarr")
    assert_same(a.gather([0, 39_000], window=1000), np.stack([rows[:1000], rows[39_000:]]))


def test_a_store_of_another_kind_has_no_folder(tmp_path: Path) -> None:
    assert LocalStore(tmp_path).root == tmp_path  # what tells a folder
    array = zarr.create_array(MemoryStore(), data=ROWS)
    a = swath.ingest(array, tmp_path / "a.zarr")
    assert_same(a.gather([0], window=500)[0], ROWS)
