"""Ingest on the workers of a dask cluster: one task a shard, the same bytes as by threads, nothing through the scheduler."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster
from oracle import assert_same

import swath
from swath.commit import building
from swath.storage import local

# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROWS = np.random.default_rng(0).normal(size=(5000, 40))
OPTIONS: dict[str, Any] = {"chunk_rows": 8, "shard_rows": 400, "codec": "lz4"}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    )
    # A cluster forgets a worker that is not back after 15 s, which on a busy machine it is not.
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "120 s"})
    with patient, cluster, Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        yield client


def _files(url: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in url.iterdir()}


@pytest.fixture(params=["npy", "h5", "h5-chunked", "dask", "list"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    np.save(tmp_path / "rows.npy", ROWS)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["A"] = ROWS
        file.create_dataset("B", data=ROWS, chunks=(100, 15), compression="gzip", compression_opts=1)
    return {
        "npy": tmp_path / "rows.npy",
        "h5": f"{tmp_path}/rows.h5::A",
        "h5-chunked": f"{tmp_path}/rows.h5::B",
        "dask": da.from_zarr(_zarr(tmp_path / "rows.zarr")),
        "list": [tmp_path / "rows.npy", f"{tmp_path}/rows.h5::B"],
    }[request.param]


def _zarr(path: Path) -> str:
    import zarr

    zarr.create_array(path, data=ROWS, chunks=(5000, 7))
    return str(path)


def test_the_workers_write_what_threads_would(client: Client, source: Any, tmp_path: Path) -> None:
    swath.ingest(source, tmp_path / "threads", **OPTIONS)
    a = swath.ingest(source, tmp_path / "workers", client=client, **OPTIONS)
    assert _files(tmp_path / "workers") == _files(tmp_path / "threads")
    assert_same(a.gather([0], window=5000)[0], ROWS)
    # Tasks, and not threads of this process, wrote it.
    assert len(_tasks(client)) >= a.shape[0] // 400
    a.append(source, client=client)
    swath.open(tmp_path / "threads").append(source)
    assert _files(tmp_path / "workers") == _files(tmp_path / "threads")


def _tasks(client: Client) -> set[str]:
    """Tasks of ingests that the workers have run, but for what they have forgotten."""
    logs = client.run(lambda dask_worker: [entry[0] for entry in dask_worker.state.log if "executing" in entry])
    return {str(key) for keys in logs.values() for key in keys if str(key).startswith("swath-ingest")}


def test_the_active_client_is_found(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    before = _tasks(client)
    with client.as_current():
        swath.ingest(tmp_path / "rows.npy", tmp_path / "a", **OPTIONS)
    assert _tasks(client) - before


def test_rows_in_memory_do_not_travel(client: Client, tmp_path: Path) -> None:
    before = _tasks(client)
    a = swath.ingest(ROWS, tmp_path / "a", client=client, **OPTIONS)
    assert_same(a.gather([0], window=5000)[0], ROWS)
    assert not _tasks(client) - before


def test_no_rows_pass_through_the_scheduler(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((200_000, 40)))
    moved = client.run_on_scheduler(lambda dask_scheduler: sum(t.nbytes or 0 for t in dask_scheduler.tasks.values()))  # type: ignore[no-untyped-call]
    swath.ingest(tmp_path / "rows.npy", tmp_path / "a", client=client, chunk_rows=8, shard_rows=20_000)
    results = client.run_on_scheduler(lambda dask_scheduler: sum(t.nbytes or 0 for t in dask_scheduler.tasks.values()))  # type: ignore[no-untyped-call]
    assert results - moved < 100_000  # of 64 MB


def test_a_worker_that_dies_changes_nothing(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(200_000, 40))
    np.save(tmp_path / "rows.npy", rows)

    def kill() -> None:
        part = tmp_path / ".a.swath-part"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (part.exists() and len(list(part.glob("c.*"))) > 2):
            time.sleep(0.005)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    a = swath.ingest(tmp_path / "rows.npy", tmp_path / "a", client=client, chunk_rows=8, shard_rows=2000, codec="zstd")
    killer.join()
    swath.ingest(tmp_path / "rows.npy", tmp_path / "b", chunk_rows=8, shard_rows=2000, codec="zstd")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert a.verify(tmp_path / "rows.npy")
    client.wait_for_workers(2, timeout=60)


def test_an_error_of_a_task_is_the_callers(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    lazy = da.from_array(ROWS, chunks=(500, 40)).map_blocks(_fail, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="no such block"):
        swath.ingest(lazy, tmp_path / "a", client=client, **OPTIONS)
    assert not (tmp_path / "a").exists()


def _fail(block: Any) -> Any:
    raise RuntimeError("no such block")


def _first(block: Any, folder: Path) -> Any:
    """Shard 1 fails while shard 0 is being read, which goes on until it is told to end."""
    if block[0, 0] == 1:
        _wait(lambda: (folder / "late").exists())
        raise RuntimeError("no such block")
    (folder / "late").touch()
    _wait(lambda: (folder / "go late").exists())
    return block + 10


def _second(block: Any, folder: Path) -> Any:
    if block[0, 0] == 1:
        _wait(lambda: (folder / "go").exists())
    return block + 20


def _wait(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _running(dask_worker: Any) -> list[str]:
    return [str(task.key) for task in dask_worker.state.tasks.values() if task.state in ("cancelled", "executing")]


def test_a_task_of_an_ingest_that_failed_writes_nothing_into_the_next(client: Client, tmp_path: Path) -> None:
    numbers = np.repeat(np.arange(2.0), 400)[:, None]
    lazy, options = da.from_array(numbers, chunks=(400, 1)), {**OPTIONS, "client": client}
    with pytest.raises(RuntimeError, match="no such block"):
        swath.ingest(lazy.map_blocks(_first, tmp_path, dtype=float, meta=np.empty((0, 0))), tmp_path / "a", **options)

    again = lazy.map_blocks(_second, tmp_path, dtype=float, meta=np.empty((0, 0)))
    second = threading.Thread(target=swath.ingest, args=(again, tmp_path / "a"), kwargs=options)
    second.start()
    _wait((tmp_path / ".a.swath-part" / "c.0.0").exists)
    (tmp_path / "go late").touch()
    _wait(lambda: sum(map(len, client.run(_running).values())) == 1)  # it has ended, and shard 1 waits
    (tmp_path / "go").touch()
    second.join()
    a = swath.open(tmp_path / "a", window=1)
    assert_same(a.gather(np.arange(800))[:, 0], numbers + 20)
    assert not list(tmp_path.glob("a/.*"))


def test_what_is_written_still_when_all_is_committed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, write = threading.Event(), threading.Event(), local._write

    def slowly(descriptor: int, buffers: Sequence[Any]) -> None:
        write(descriptor, buffers)
        if threading.current_thread() is late:
            begun.set()
            assert go.wait(60)

    def put() -> None:
        with pytest.raises(FileNotFoundError):
            build.folder.put("c.0.0", [memoryview(b"shard")])
        refused.append(True)

    refused: list[bool] = []
    late = threading.Thread(target=put)
    monkeypatch.setattr(local, "_write", slowly)
    with building(tmp_path / "a", {"zarr.json": b"{}"}, overwrite=False, resume=True) as build:
        build.folder.put("c.0.0", [memoryview(b"shard")])
        late.start()
        assert begun.wait(60)
    go.set()
    late.join()
    assert refused
    assert _files(tmp_path / "a") == {"c.0.0": b"shard", "zarr.json": b"{}"}
