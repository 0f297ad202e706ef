"""An ingest that is killed, interrupted, starved of memory or of disk: no half store, and the next run carries on."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import faults
import h5py
import numpy as np
import pytest
import zarr
from children import run, start
from numpy.typing import NDArray

import swath
from swath.errors import (
    DiskFullError,
    IncompleteStoreError,
    MemoryLimitError,
    SourceError,
    StoreNotFoundError,
)
from swath.layout import CodecName

_INGEST = """
import h5py, zarr, swath, swath.ingestion, rich.progress

call = lambda: swath.ingest(*arguments, **options)
"""

_SLOW = """
import os, time

fsync = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.02), fsync(descriptor))
"""

_ROWS, _SHARD_ROWS = 6000, 100
_OPTIONS: dict[str, Any] = {"chunk_rows": 4, "shard_rows": _SHARD_ROWS}


def _wait(url: Path, when: int, is_alive: Callable[[], bool]) -> None:
    """Until so many shards are there."""
    while is_alive() and len(_shards(_part(url))) < when:
        time.sleep(0.0005)


def _ingest(source: Path, url: Path, codec: CodecName) -> None:
    """In a process of `faults`, which begins at once, and tells nothing."""
    swath.ingest(source, url, codec=codec, **_OPTIONS)


def _kill(source: Path, url: Path, when: int, codec: CodecName = "raw", delay: float = 0.0) -> None:
    """An ingest that is killed some seconds after so many shards are there."""
    child = faults.start(_ingest, source, url, codec)
    _wait(url, when, child.is_alive)
    time.sleep(delay)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode


def _part(url: Path) -> Path:
    return url.with_name(f".{url.name}.swath-part")


def _shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard: another file, or one written again, has others."""
    try:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("c.*")}
    except FileNotFoundError:  # it became the store at this moment
        return {}


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _assert_nothing_opens(url: Path) -> None:
    with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
        swath.open(url)


def _assert_no_temporaries(url: Path) -> None:
    assert list(_part(url).glob("*.tmp")) + list(_part(url).glob(".*.tmp")) == []


def _assert_holds(url: Path, rows: NDArray[Any]) -> None:
    a = swath.open(url)
    assert a.gather([0], window=len(rows))[0].tobytes() == rows.tobytes()


@pytest.fixture
def rows() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(_ROWS, 100))


@pytest.fixture
def source(tmp_path: Path, rows: NDArray[np.float64]) -> Path:
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy"


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_killed_again_and_again_it_writes_the_same_bytes(
    tmp_path: Path, source: Path, codec: CodecName, trials: int
) -> None:
    undisturbed, url = tmp_path / "undisturbed", tmp_path / "killed"
    _ingest(source, undisturbed, codec)
    rng = np.random.default_rng([trials, len(codec)])
    hits = 0
    for _ in range(trials):
        written: dict[str, tuple[int, int]] = {}
        for when in np.sort(rng.integers(0, _ROWS // _SHARD_ROWS - 2, 4)).tolist():
            _kill(source, url, when, codec, rng.uniform(0, 0.01))
            if url.exists():
                break
            _assert_nothing_opens(url)
            now = _shards(_part(url))
            assert written.items() <= now.items(), "a shard was written again"
            hits += len(now) > 0
            written = now
        else:
            _ingest(source, url, codec)
        assert written.items() <= _shards(url).items()
        assert _digests(url) == _digests(undisturbed)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "rows.npy", "undisturbed"]
        shutil.rmtree(url)
    assert hits


def test_killed_between_the_last_shard_and_the_commit_it_has_nothing_left_to_write(
    tmp_path: Path, source: Path
) -> None:
    url = tmp_path / "a"
    swath.ingest(source, url, **_OPTIONS)
    written = _shards(url)
    url.rename(_part(url))
    _assert_nothing_opens(url)
    swath.ingest(source, url, **_OPTIONS)
    assert _shards(url) == written


def test_ctrl_c_ends_it_and_the_next_run_carries_on(tmp_path: Path) -> None:
    url, source = tmp_path / "a", tmp_path / "rows.npy"
    rows = np.random.default_rng(0).normal(size=(40_000, 100))
    np.save(source, rows)
    # On a slow disk, so that the signal comes long before the last shard.
    child = start(_SLOW + _INGEST, source, url, **_OPTIONS)
    _wait(url, 5, lambda: child.poll() is None)
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.communicate()[1]
    _assert_nothing_opens(url)
    _assert_no_temporaries(url)
    written = _shards(_part(url))
    assert 5 <= len(written) < len(rows) // _SHARD_ROWS
    swath.ingest(source, url, **_OPTIONS)
    assert written.items() <= _shards(url).items()
    _assert_holds(url, rows)


def _fail_where_told(block: NDArray[Any], flag: Path, block_info: Any = None) -> NDArray[Any]:
    if flag.exists() and block_info[0]["chunk-location"][0] == 5:
        raise OSError("the sensor is gone")
    return block


def _interrupted(tmp_path: Path, url: Path, **options: Any) -> tuple[da.Array, NDArray[np.int64], dict[str, Any]]:
    """A dask array whose ingest into ``url`` has failed at the sixth of ten shards; now it would succeed."""
    rows = np.arange(10_000).reshape(1000, 10)
    flag = tmp_path / "flag"
    flag.touch()
    lazy = da.from_array(rows, chunks=(100, 10)).map_blocks(_fail_where_told, flag, dtype=rows.dtype)
    with pytest.raises(OSError, match="the sensor is gone"):
        swath.ingest(lazy, url, chunk_rows=4, shard_rows=100, **options)
    _assert_nothing_opens(url)
    flag.unlink()
    written = _shards(_part(url))
    assert "c.5.0" not in written
    assert len(written) >= 5
    return lazy, rows, written


def test_a_source_that_failed_midway_is_carried_on_with(tmp_path: Path) -> None:
    url = tmp_path / "a"
    lazy, rows, written = _interrupted(tmp_path, url)
    swath.ingest(lazy, url, chunk_rows=4, shard_rows=100)
    assert written.items() <= _shards(url).items()
    _assert_holds(url, rows)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"resume": False}, id="resume-is-false"),
        pytest.param({"codec": "lz4"}, id="another-codec"),
        pytest.param({"window": 3}, id="another-window"),
        pytest.param({"chunk_rows": 5}, id="other-chunks"),
    ],
)
def test_another_call_starts_over(tmp_path: Path, options: dict[str, Any]) -> None:
    url = tmp_path / "a"
    lazy, rows, written = _interrupted(tmp_path, url)
    swath.ingest(lazy, url, **{"chunk_rows": 4, "shard_rows": 100, **options})
    assert not written.items() & _shards(url).items()
    _assert_holds(url, rows)


def test_a_source_that_changed_between_two_runs_is_read_anew(tmp_path: Path, source: Path, rows: NDArray[Any]) -> None:
    url = tmp_path / "a"
    _kill(source, url, 5)
    assert len(_shards(_part(url))) >= 5
    np.save(source, -rows)
    swath.ingest(source, url, **_OPTIONS)
    _assert_holds(url, -rows)


def _then(block: NDArray[Any], action: Callable[[Path], object], path: Path) -> NDArray[Any]:
    if block.size > 1:  # dask tries a function on nearly nothing first
        action(path)
    return block


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def test_a_source_that_changes_while_it_is_read_is_an_error(tmp_path: Path, source: Path, rows: NDArray[Any]) -> None:
    block = da.zeros((50, 100), chunks=(50, 100)).map_blocks(_then, _touch, source, dtype="f8")
    with pytest.raises(SourceError, match="changed while it was read"):
        swath.ingest([source, block], tmp_path / "a")
    _assert_nothing_opens(tmp_path / "a")


def test_a_source_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path, source: Path) -> None:
    block = da.zeros((50, 100), chunks=(50, 100)).map_blocks(_then, _cut, source, dtype="f8")
    with pytest.raises(SourceError, match=r"rows\.npy ends at byte \d+, before its last row"):
        swath.ingest([block, source], tmp_path / "a")
    _assert_nothing_opens(tmp_path / "a")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "swath-tests", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"NOT TESTED HERE: a full disk needs a tmpfs, and root to mount it ({done and done.stderr})")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)


def test_a_disk_that_is_known_to_be_too_small_is_refused_before_writing(
    small_disk: Path, source: Path, rows: NDArray[Any]
) -> None:
    url = small_disk / "a"
    (small_disk / "other").write_bytes(bytes(3 * 2**20))
    with pytest.raises(
        DiskFullError, match=r"disk has \d.\d\d MiB free, but the store needs 4.61 MiB \(\d+ bytes\) more"
    ):
        swath.ingest(source, url, **_OPTIONS)
    _assert_nothing_opens(url)
    assert _shards(_part(url)) == {}
    _enlarge(small_disk)
    swath.ingest(source, url, **_OPTIONS)
    _assert_holds(url, rows)


def test_a_disk_that_fills_up_can_be_enlarged_and_the_ingest_carried_on(tmp_path: Path, small_disk: Path) -> None:
    # Random bytes, which zstd does not make smaller: how much they need is known only when they are written.
    rows = np.random.default_rng(0).integers(0, 256, (8000, 1000), np.uint8)
    url = small_disk / "a"
    options: dict[str, Any] = {"codec": "zstd", "chunk_rows": 10, "shard_rows": 500}
    with pytest.raises(DiskFullError, match=r"swath-part/c\.\d+\.0 needs .* no room .*run the same call again"):
        swath.ingest(rows, url, **options)
    _assert_nothing_opens(url)
    _assert_no_temporaries(url)
    written = _shards(_part(url))
    assert 5 <= len(written) < 16
    _enlarge(small_disk)
    swath.ingest(rows, url, **options)
    assert written.items() <= _shards(url).items()
    _assert_holds(url, rows)


def test_a_disk_without_a_byte_left_is_a_full_disk_too(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(bytes(7 * 2**20))
    with pytest.raises(DiskFullError, match="no room"):
        swath.ingest(np.zeros((10, 10)), small_disk / "a", codec="zstd")
    _assert_nothing_opens(small_disk / "a")


def test_a_limit_on_the_size_of_files_is_a_full_disk_too(tmp_path: Path, source: Path, rows: NDArray[Any]) -> None:
    url = tmp_path / "a"
    code, _, stderr = run(_INGEST, source, url, file_bytes=50_000, **_OPTIONS)  # a shard has 80_000
    assert code
    assert "DiskFullError" in stderr
    assert "run the same call again" in stderr
    _assert_nothing_opens(url)
    _assert_no_temporaries(url)
    assert run(_INGEST, source, url, **_OPTIONS)[0] == 0
    _assert_holds(url, rows)


_MIB = 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 MiB, contiguous, in chunks of all columns and in chunks of some, and in Fortran order."""
    folder = tmp_path_factory.mktemp("large")
    block = np.random.default_rng(0).normal(size=(2048, 1024))
    rows = np.lib.format.open_memmap(folder / "c.npy", "w+", "f8", (16 * 2048, 1024))
    with h5py.File(folder / "rows.h5", "w") as file:
        by_rows = file.create_dataset("rows", rows.shape, "f8", chunks=(512, 1024), compression="lzf")
        by_columns = file.create_dataset("columns", rows.shape, "f8", chunks=(1024, 64))
        for i in range(0, len(rows), 2048):
            rows[i : i + 2048] = by_rows[i : i + 2048] = by_columns[i : i + 2048] = block + i
    del rows
    return folder


@pytest.mark.parametrize(
    ("source", "codec"),
    [
        pytest.param("{}/c.npy", "raw", id="npy"),
        pytest.param("{}/c.npy", "zstd", id="npy-to-zstd"),
        pytest.param("{}/rows.h5::rows", "raw", id="hdf5-chunks-of-rows"),
        pytest.param("{}/rows.h5::columns", "raw", id="hdf5-chunks-of-columns"),
    ],
)
def test_memory_stays_below_the_limit_whatever_the_size(tmp_path: Path, large: Path, source: str, codec: str) -> None:
    code, out, stderr = run(_INGEST, source.format(large), tmp_path / "a", codec=codec, memory_limit="64MiB")
    assert code == 0, stderr
    # The limit is for what grows with the array; the interpreter's own, and the threads', is a few MiB beside it.
    assert int(out) < (64 + 16) * _MIB
    with h5py.File(large / "rows.h5") as file:
        np.testing.assert_array_equal(swath.open(tmp_path / "a").gather([30_000])[0], file["rows"][30_000:30_016])


_OF_DASK = """
import sys
from pathlib import Path
import dask.array as da
import swath

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

swath.ingest(da.zeros((100, 10)), sys.argv[2] + "-first")  # what a first call imports
rows = da.from_zarr(sys.argv[1])
before = status("VmRSS")
swath.ingest(rows, sys.argv[2], memory_limit="192MiB", codec="raw")
print(status("VmHWM") - before)
"""


def test_what_dask_keeps_for_its_threads_counts(tmp_path: Path, large: Path) -> None:
    columns = zarr.create_array(tmp_path / "columns.zarr", shape=(32768, 1024), chunks=(2048, 256), dtype="f8")
    rows = np.load(large / "c.npy", mmap_mode="r")
    for i in range(0, len(rows), 2048):
        columns[i : i + 2048] = rows[i : i + 2048]
    command = [sys.executable, "-c", _OF_DASK, str(tmp_path / "columns.zarr"), str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 192 * _MIB  # 280 when dask kept threads for each of ours
    _assert_holds(tmp_path / "a", rows)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        pytest.param("{}/c.npy", {"shard_rows": 2048}, r"one shard is 16.01 MiB\).*limit is 8.00 MiB", id="shard"),
        pytest.param("{}/c.npy", {"shard_rows": 1024, "codec": "lz4"}, r"one shard is 16.00 MiB\)", id="compressed"),
    ],
)
def test_what_cannot_be_done_within_the_limit_is_refused(
    tmp_path: Path, large: Path, source: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MemoryLimitError, match=message):
        swath.ingest(source.format(large), tmp_path / "a", chunk_rows=4, memory_limit="8MiB", **options)
    assert list(tmp_path.iterdir()) == []


def test_dask_blocks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"the source reads 72.00 MiB at once.*limit is 8.00 MiB.*smaller chunks"
    ):
        swath.ingest(da.zeros((1024, 1024), chunks=-1), tmp_path / "a", memory_limit="8MiB")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        pytest.param({}, False, id="no-terminal"),
        pytest.param({"progress": False}, False, id="off"),
        pytest.param({"progress": True}, True, id="on"),
    ],
)
def test_a_bar_is_shown_where_it_is_wanted(tmp_path: Path, source: Path, options: dict[str, Any], seen: bool) -> None:
    code, _, stderr = run(_INGEST, source, tmp_path / "a", **options)
    assert code == 0
    assert ("ingest" in stderr and "4.8/4.8 MB" in stderr) if seen else stderr == ""
