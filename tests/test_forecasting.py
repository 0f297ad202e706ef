"""What an ingest would write and need is said before, and nothing is written for it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

import swath
from swath.errors import DiskFullError, OptionError, SourceNotFoundError, StoreExistsError, SwathError
from swath.storage import LocalFolder

ROWS = np.random.default_rng(0).normal(size=(9_001, 40))


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        pytest.param(ROWS, {}, id="auto"),
        pytest.param(ROWS, {"chunk_rows": 7, "shard_rows": 700}, id="shards-and-a-short-last-chunk"),
        pytest.param(ROWS[:5], {"window": 2}, id="few-rows"),
        pytest.param(ROWS.astype("f4"), {"dtype": "f8", "rows": slice(10, -10)}, id="a-part-cast"),
        pytest.param(np.arange(50_000), {"codec": "raw"}, id="scalars"),
        pytest.param(np.zeros((20, 300_000)), {"chunk_rows": 1}, id="wide-rows"),
        pytest.param(ROWS, {"segments": [[0, 4_000], [4_000, 9_001]]}, id="segments"),
    ],
)
def test_raw_bytes_are_told_exactly(tmp_path: Path, rows: Any, options: dict[str, Any]) -> None:
    np.save(tmp_path / "rows.npy", rows)
    before = _names(tmp_path)
    found = swath.forecast(tmp_path / "rows.npy", tmp_path / "a.zarr", **options)
    assert _names(tmp_path) == before
    a = swath.ingest(tmp_path / "rows.npy", tmp_path / "a.zarr", **options)
    assert found.store_bytes == found.needed_bytes == _bytes(tmp_path / "a.zarr")
    assert (found.layout.shape, found.layout.chunk_rows, found.layout.shard_rows) == (
        a.shape,
        a.chunk_rows,
        a.shard_rows,
    )
    assert (found.layout.codec, found.reason, found.window) == (a.codec, a.reason, a.window)
    assert found.segments == len(a.segments)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_bytes_are_told_from_a_sample(tmp_path: Path, codec: Any) -> None:
    rows = np.round(ROWS, 1)
    found = swath.forecast(rows, tmp_path / "a.zarr", codec=codec)
    swath.ingest(rows, tmp_path / "a.zarr", codec=codec)
    assert found.store_bytes == pytest.approx(_bytes(tmp_path / "a.zarr"), rel=0.05)
    assert found.store_bytes < rows.nbytes * 0.9


def test_time_is_that_of_the_slowest_step(tmp_path: Path) -> None:
    found = swath.forecast(ROWS, tmp_path / "a.zarr")
    assert 0 < found.sampled_bytes <= ROWS.nbytes
    assert found.read_rate is not None
    assert found.encode_rate is not None
    assert found.expected_s is not None
    slowest = min(found.read_rate, found.encode_rate, found.write_rate)
    assert found.expected_s == pytest.approx(ROWS.nbytes / slowest, rel=0.2)


def test_chunks_that_do_not_fit_in_memory_go_through_a_temporary_file(tmp_path: Path) -> None:
    rows = np.round(np.random.default_rng(0).normal(size=(40_000, 50)), 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=rows, chunks=(40_000, 1), compression="gzip")
    options: dict[str, Any] = {"memory_limit": "10MiB", "rows": slice(0, 39_000), "segments": [[0, 39_000]]}
    found = swath.forecast(f"{tmp_path}/a.h5::x", tmp_path / "a.zarr", **options)
    assert found.temporary_bytes == rows.nbytes
    assert (found.expected_s, found.sampled_bytes) == (None, 0)
    assert found.needed_bytes == found.store_bytes + (rows.nbytes if found.same_disk else 0)
    assert "unknown" in str(found)
    swath.ingest(f"{tmp_path}/a.h5::x", tmp_path / "a.zarr", **options)
    assert found.store_bytes == _bytes(tmp_path / "a.zarr")
    assert swath.forecast(f"{tmp_path}/a.h5::x", tmp_path / "b.zarr").temporary_bytes == 0


def test_a_codec_is_not_sampled_through_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.ingestion._FITS", 0.0)
    monkeypatch.setattr("swath.forecasting.new_facts", _without_reading(monkeypatch))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.zeros((40_000, 50)), chunks=(40_000, 1), compression="gzip")
    found = swath.forecast(f"{tmp_path}/a.h5::x", tmp_path / "a.zarr", memory_limit="10MiB")
    assert "if a sample says so" in found.reason


def _without_reading(monkeypatch: pytest.MonkeyPatch) -> Any:
    from swath import ingestion
    from swath.sources.hdf5 import ChunkedSource

    def read_into(self: ChunkedSource, start: int, out: object) -> None:
        raise AssertionError("a dry run has read what goes through a temporary file")

    monkeypatch.setattr(ChunkedSource, "read_into", read_into)
    return ingestion.new_facts


def test_what_an_interrupted_ingest_has_written_is_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, shards = LocalFolder.put, 0

    def stop(self: LocalFolder, name: str, *arguments: Any) -> None:
        nonlocal shards
        shards += name.startswith("c.")
        if shards == 4:
            raise KeyboardInterrupt
        put(self, name, *arguments)

    np.save(tmp_path / "rows.npy", ROWS)
    options: dict[str, Any] = {"shard_rows": 1000, "chunk_rows": 10}
    whole = swath.forecast(tmp_path / "rows.npy", tmp_path / "a.zarr", **options)
    assert whole.written_bytes == 0
    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            swath.ingest(tmp_path / "rows.npy", tmp_path / "a.zarr", **options)
    left = swath.forecast(tmp_path / "rows.npy", tmp_path / "a.zarr", **options)
    there = sum(path.stat().st_size for path in (tmp_path / ".a.zarr.swath-part").glob("c.*"))
    assert there
    assert (left.store_bytes, left.written_bytes) == (whole.store_bytes, there)
    assert "carries on" in str(left)
    assert swath.forecast(tmp_path / "rows.npy", tmp_path / "a.zarr", resume=False, **options).written_bytes == 0


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    found = swath.forecast(ROWS, tmp_path / "a.zarr")
    assert not found.fits
    with pytest.raises(DiskFullError, match=r"1000 B free, but the ingest needs 2\.\d+ MiB"):
        found.check()


def test_segments_are_forecast_and_their_errors(tmp_path: Path) -> None:
    segments = [[0, 100], [100, len(ROWS)]]
    found = swath.forecast(ROWS, tmp_path / "a.zarr", segments=segments)
    swath.ingest(ROWS, tmp_path / "a.zarr", segments=segments)
    assert (found.segments, found.store_bytes) == (2, _bytes(tmp_path / "a.zarr"))
    with pytest.raises(OptionError, match="do not follow one another"):
        swath.forecast(ROWS, tmp_path / "b.zarr", segments=[[0, 1]])


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        pytest.param("nothing.npy", {}, SourceNotFoundError, id="no-source"),
        pytest.param(iter([ROWS]), {}, OptionError, id="iterator"),
        pytest.param(ROWS, {"memory_limit": "1kB"}, SwathError, id="memory"),
        pytest.param(ROWS, {"url": "there.zarr"}, StoreExistsError, id="exists"),
    ],
)
def test_what_an_ingest_refuses_is_refused(
    tmp_path: Path, source: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    swath.ingest(np.zeros(10), tmp_path / "there.zarr")
    url = tmp_path / options.pop("url", "a.zarr")
    with pytest.raises(error):
        swath.forecast(source, url, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.zarr"]
    assert swath.forecast(ROWS, tmp_path / "there.zarr", overwrite=True).replaces


def test_the_dry_run_of_the_command(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    command = [sys.executable, "-m", "swath.cli", "ingest", "rows.npy", "a.zarr", "--dry-run"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    names = [line.split("  ")[0] for line in said.splitlines()]
    wanted = ["store", "array", "chunks", "shards", "codec", "disk", "temporary", "memory", "time"]
    assert names == [*wanted, "Nothing was written."]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert _names(tmp_path) == ["rows.npy"]
    swath.ingest(tmp_path / "rows.npy", tmp_path / "a.zarr")
    assert facts["store_bytes"] == _bytes(tmp_path / "a.zarr")
    assert facts["fits"]
