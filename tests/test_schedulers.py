"""Every scheduler that dask has gives the bits of numpy, from every kind of rows, into every kind of place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster, SchedulerPlugin
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.errors import OptionError, StoreChangedError, StoreNotFoundError, WorkersLostError
from swath.memory import detect_room, format_bytes
from swath.workers import team_of

# Whole numbers: sums are exact, whatever their order.
ROWS = np.random.default_rng(0).integers(-1000, 1000, (2000, 30)).astype("f8")
STARTS = np.random.default_rng(1).integers(0, 2000 - 16, 300)
WANTED = expected(ROWS, STARTS, 16)
NO_DASHBOARD: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, swath.RowArray]:
    folder = tmp_path_factory.mktemp("places")
    np.save(folder / "rows.npy", ROWS)
    zarr.create_array(folder / "foreign.zarr", data=ROWS, chunks=(300, 7))
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("A", data=ROWS, chunks=(100, 15), compression="gzip", compression_opts=1)
    return {
        "raw": swath.ingest(ROWS, folder / "raw", shard_rows=256, codec="raw"),
        "zstd": swath.ingest(ROWS, folder / "zstd", shard_rows=256, codec="zstd"),
        "foreign": swath.open(folder / "foreign.zarr"),
        "npy": swath.open(folder / "rows.npy"),
        "hdf5": swath.open(f"{folder}/rows.h5::A"),
    }


@pytest.fixture(scope="module")
def a(places: dict[str, swath.RowArray]) -> swath.RowArray:
    return places["zstd"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    made = LocalCluster(n_workers=2, threads_per_worker=2, processes=True, host="127.0.0.1", **NO_DASHBOARD)  # type: ignore[no-untyped-call]
    with made as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        yield client


@pytest.fixture(scope="module")
def client_of_threads() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **NO_DASHBOARD) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@pytest.fixture(scope="module")
def client_by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a scheduler and two workers that were started by commands, one of the workers in another folder."""
    folder = tmp_path_factory.mktemp("by-hand")
    found = folder / "scheduler.json"
    (folder / "elsewhere").mkdir()
    with contextlib.ExitStack() as stack:
        options = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        stack.enter_context(_running(folder, "scheduler", "--port", "0", "--scheduler-file", str(found), *options))
        _wait_for(lambda: found.exists() and found.read_text().endswith("}"))
        address = json.loads(found.read_text())["address"]
        assert address.startswith("tcp://127.0.0.1:")
        for cwd, nanny in ((folder, "--nanny"), (folder / "elsewhere", "--no-nanny")):
            local = ["--local-directory", str(folder), "--nthreads", "2", nanny]
            stack.enter_context(_running(cwd, "worker", address, *local, *options))
        client = stack.enter_context(Client(address, set_as_default=False))  # type: ignore[no-untyped-call]
        client.wait_for_workers(2, timeout=60)
        yield client


@contextlib.contextmanager
def _running(cwd: Path, kind: str, *arguments: str) -> Iterator[None]:
    with (cwd / f"{kind}.log").open("w") as log:
        command = [sys.executable, "-m", "dask", kind, *arguments]
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


_SCHEDULERS = {
    "threads": None,
    "synchronous": None,
    "processes": None,
    "cluster": "client",
    "cluster-of-threads": "client_of_threads",
    "cluster-by-hand": "client_by_hand",
}


@pytest.fixture(scope="module", params=_SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> Iterator[Any]:
    fixture = _SCHEDULERS[request.param]
    if request.param == "processes":  # one pool for all: they take seconds to start
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=context) as pool, dask.config.set(pool=pool):
            yield "processes"
    else:
        yield request.param if fixture is None else request.getfixturevalue(fixture)


def test_all_rows_come_as_they_are(scheduler: Any, places: dict[str, swath.RowArray]) -> None:
    for place in places.values():
        lazy = place.windows(STARTS, block=40)
        assert_same(lazy.compute(scheduler=scheduler), WANTED)
        assert_same(da.Array.compute(lazy, scheduler=scheduler), WANTED)
        assert_same(swath.compute(lazy + 0, scheduler=scheduler), WANTED)
        columns = place.windows(STARTS, columns=slice(3, 20, 4), block=99)
        assert_same(swath.compute(columns, scheduler=scheduler), WANTED[:, :, 3:20:4])
        ordered = place.windows(STARTS, block=40, order="storage")
        assert_same(swath.compute(ordered, scheduler=scheduler), expected(ROWS, np.sort(STARTS), 16))


@pytest.mark.parametrize("out", ["array", "memmap", "zarr", "hdf5"])
def test_results_land_anywhere(scheduler: Any, a: swath.RowArray, tmp_path: Path, out: str) -> None:
    shape = WANTED.shape
    makers: dict[str, Callable[[], Any]] = {
        "array": lambda: np.empty(shape),
        "memmap": lambda: np.memmap(tmp_path / "out", "f8", "w+", shape=shape),
        # Chunks that no block has alone.
        "zarr": lambda: zarr.create_array(
            tmp_path / "out.zarr", shape=shape, chunks=(64, 16, 30), dtype="f8", overwrite=True
        ),
        "hdf5": lambda: h5py.File(tmp_path / "out.h5", "w").create_dataset("x", shape, "f8", chunks=(64, 16, 7)),
    }
    lazy = a.windows(STARTS, block=37)
    for asked, wanted in ((lazy, WANTED), ((lazy * 2).rechunk((50, 16, 11)), WANTED * 2)):
        target = makers[out]()
        assert swath.compute(asked, out=target, scheduler=scheduler) is target
        assert_same(np.asarray(target[...]), wanted)
        if out == "hdf5":
            target.file.close()


_MADE: dict[str, tuple[Callable[[Any], Any], Callable[[NDArray[Any]], Any]]] = {
    "slice": (lambda x: x[7:200:3, 2:5, ::-1], lambda x: x[7:200:3, 2:5, ::-1]),
    "take": (lambda x: x[[5, 5, 280, 0]], lambda x: x[[5, 5, 280, 0]]),
    "split": (lambda x: x.rechunk((13, 16, 10)), lambda x: x),
    "merge": (lambda x: x.rechunk((140, 16, 30)), lambda x: x),
    "twice": (lambda x: x - x.mean(axis=0), lambda x: x - x.mean(axis=0)),
    "sum": (lambda x: x.sum(), lambda x: x.sum()),
    "mean": (lambda x: x.mean(axis=(0, 1)), lambda x: x.mean(axis=(0, 1))),
    "extremes": (lambda x: x.max(axis=0) - x.min(axis=2).max(), lambda x: x.max(axis=0) - x.min(axis=2).max()),
    "map": (lambda x: da.map_blocks(np.negative, x), np.negative),
    "join": (lambda x: da.concatenate([x, x[:5]]), lambda x: np.concatenate([x, x[:5]])),
    "transpose": (lambda x: x.T, lambda x: x.T),
    "no-rows": (lambda x: x[:0], lambda x: x[:0]),
}


def test_what_dask_makes_of_windows(scheduler: Any, a: swath.RowArray) -> None:
    lazy = a.windows(STARTS, block=40)
    for make, of_numpy in _MADE.values():
        assert_same(np.asarray(swath.compute(make(lazy), scheduler=scheduler)), np.asarray(of_numpy(WANTED)))
    made, wanted = zip(*((make(lazy), of_numpy(WANTED)) for make, of_numpy in _MADE.values()))
    for one, other in zip(dask.base.compute(*made, scheduler=scheduler), wanted):
        assert_same(np.asarray(one), np.asarray(other))


def test_what_dask_and_xarray_do_with_windows(scheduler: Any, a: swath.RowArray, tmp_path: Path) -> None:
    lazy = a.windows(STARTS, block=40)
    with dask.config.set(scheduler=scheduler):
        kept = lazy.persist()
        for again in (kept.compute(), swath.compute(kept), swath.compute(kept + 0), swath.compute(kept)):
            assert_same(again, WANTED)
        assert_same(swath.compute(kept.sum(axis=0)), WANTED.sum(axis=0))

        da.to_zarr(lazy, str(tmp_path / "to.zarr"))
        stored = zarr.create_array(tmp_path / "store.zarr", shape=WANTED.shape, chunks=(40, 16, 30), dtype="f8")
        da.store(lazy, stored)  # type: ignore[arg-type]
        for each in ("to.zarr", "store.zarr"):
            found: Any = zarr.open_array(tmp_path / each)
            assert_same(found[...], WANTED)

        labelled = xr.DataArray(lazy, dims=("window", "row", "column"), coords={"window": STARTS}, name="x")
        plain = xr.DataArray(WANTED, dims=("window", "row", "column"), coords={"window": STARTS}, name="x")
        xr.testing.assert_identical(labelled.compute(), plain)
        xr.testing.assert_identical(labelled.mean("row").compute(), plain.mean("row"))
        xr.testing.assert_identical(
            labelled.isel(window=slice(3, 90, 7), column=4).compute(), plain.isel(window=slice(3, 90, 7), column=4)
        )
        xr.testing.assert_identical((labelled - labelled.mean()).compute(), plain - plain.mean())


def test_an_append_between_windows_and_compute_changes_nothing(scheduler: Any, tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", shard_rows=256)
    lazy = a.windows(STARTS, block=40)
    swath.open(tmp_path / "a").append(-ROWS)
    assert_same(swath.compute(lazy, scheduler=scheduler), WANTED)
    assert_same(swath.compute(lazy + 0, scheduler=scheduler), WANTED)
    longer = swath.open(tmp_path / "a").windows([1990, 3000], block=1)
    assert longer.name != lazy.name
    assert_same(
        swath.compute(longer + 0, scheduler=scheduler), expected(np.concatenate([ROWS, -ROWS]), [1990, 3000], 16)
    )


@pytest.mark.parametrize("opened", [True, False], ids=["opened-before", "not-opened"])
def test_what_was_replaced_is_an_error_of_the_caller(scheduler: Any, tmp_path: Path, opened: bool) -> None:
    def check(lazy: da.Array, error: type[Exception]) -> None:
        for compute in (swath.compute, da.Array.compute):
            for asked in (lazy, lazy + 0):
                with pytest.raises(error, match=r"Open it again|There is no"):
                    compute(asked, scheduler=scheduler)

    np.save(tmp_path / "rows.npy", ROWS)
    zarr.create_array(tmp_path / "foreign.zarr", data=ROWS, chunks=(300, 7))
    arrays = {
        "store": swath.ingest(ROWS, tmp_path / "store", shard_rows=256),
        "npy": swath.open(tmp_path / "rows.npy"),
        "foreign": swath.open(tmp_path / "foreign.zarr"),
    }
    lazies = {name: each.windows(STARTS, block=100) for name, each in arrays.items()}
    if opened:  # and kept by the processes that compute
        for lazy in lazies.values():
            assert_same(swath.compute(lazy + 0, scheduler=scheduler), WANTED)
    swath.ingest(-ROWS, tmp_path / "store", shard_rows=256, overwrite=True)
    np.save(tmp_path / "rows.npy", -ROWS)
    zarr.create_array(tmp_path / "foreign.zarr", data=-ROWS, chunks=(150, 7), overwrite=True)
    for lazy in lazies.values():
        check(lazy, StoreChangedError)
    (tmp_path / "store").rename(tmp_path / "moved")
    check(lazies["store"], (StoreChangedError, StoreNotFoundError))  # type: ignore[arg-type]


def _transitions(client: Client) -> int:
    """How much the scheduler has had to do so far, once it has done with what was released."""
    found = [-1, -2]
    while found[-1] != found[-2]:
        time.sleep(0.2)
        found.append(int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)))  # type: ignore[no-untyped-call]
    return found[-1]


def test_the_active_client_is_found(client: Client, a: swath.RowArray) -> None:
    lazy = a.windows(STARTS, block=40)
    before = _transitions(client)
    assert_same(swath.compute(lazy), WANTED)
    assert _transitions(client) == before
    with client.as_current():
        assert_same(swath.compute(lazy), WANTED)
        assert _transitions(client) > before + 8
        between = _transitions(client)
        assert_same(swath.compute(lazy, scheduler="threads"), WANTED)
        assert _transitions(client) == between


def test_an_asynchronous_client_is_passed_by(a: swath.RowArray, cluster: Any, client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    lazy = a.windows(STARTS, block=40)

    async def use() -> None:
        async with Client(cluster.scheduler_address, asynchronous=True) as found:  # type: ignore[no-untyped-call]
            before = _transitions(client)
            assert_same(swath.compute(a.windows(STARTS)), WANTED)
            assert_same(swath.compute(lazy + 0), WANTED)
            assert_same(lazy.compute(), WANTED)
            swath.ingest(tmp_path / "rows.npy", tmp_path / "b")
            assert _transitions(client) == before
            with pytest.raises(OptionError, match="asynchronous"):
                swath.compute(lazy, scheduler=found)
            with pytest.raises(OptionError, match="asynchronous"):
                swath.ingest(tmp_path / "rows.npy", tmp_path / "c", client=found)
            # In a thread where the loop of the client does not run it answers to others too.
            assert_same(await asyncio.to_thread(swath.compute, lazy, scheduler=found), WANTED)
            assert _transitions(client) > before

    asyncio.run(use())
    assert_same(swath.open(tmp_path / "b").gather(STARTS), WANTED)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("scheduler", ["no such", 5, object()])
def test_a_scheduler_that_dask_does_not_know_is_refused(a: swath.RowArray, scheduler: Any) -> None:
    with pytest.raises(OptionError, match=r"cannot compute with scheduler=.*Give 'threads'"):
        swath.compute(a.windows(STARTS), scheduler=scheduler)
    with dask.config.set(scheduler=scheduler), pytest.raises(OptionError, match="cannot compute"):
        swath.compute(a.windows(STARTS))


def _in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """What calls return that are made at once."""
    results: list[Any] = [None] * len(calls)

    def call(i: int) -> None:
        try:
            results[i] = calls[i]()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


class _Slow:
    """A place that takes blocks slowly, and fails at one of them."""

    shape, dtype = WANTED.shape, WANTED.dtype

    def __init__(self, seconds: float = 0.02, fails_at: int = -1) -> None:
        self.rows, self.seconds, self.fails_at = np.empty(self.shape), seconds, fails_at

    def __setitem__(self, place: Any, block: Any) -> None:
        time.sleep(self.seconds)
        if self.fails_at == 0:
            raise OSError("the disk is full")
        self.fails_at -= 1
        self.rows[place] = block


def test_two_at_once_do_not_disturb_one_another(client: Client, cluster: Any, a: swath.RowArray) -> None:
    lazy = a.windows(STARTS, block=10)
    with Client(cluster, set_as_default=False) as other:  # type: ignore[no-untyped-call]
        for results in (
            _in_threads(*(lambda each=each: swath.compute(lazy, scheduler=each) for each in (client, other, client))),
            # The same tasks of the same client: one that fails takes nothing away.
            _in_threads(
                lambda: swath.compute(lazy, out=_Slow(0.01, fails_at=3), scheduler=client),
                lambda: swath.compute(lazy, out=_Slow(0.03), scheduler=client).rows,
                lambda: swath.compute(lazy, scheduler=client),
            )[1:],
        ):
            for result in results:
                assert_same(result, WANTED)
    kept = client.persist(lazy)  # type: ignore[no-untyped-call]
    with pytest.raises(OSError, match="the disk is full"):
        swath.compute(lazy, out=_Slow(fails_at=1), scheduler=client)
    assert_same(kept.compute(scheduler=client), WANTED)


def test_a_task_may_compute(client: Client, a: swath.RowArray) -> None:
    def mean(array: swath.RowArray, k: int) -> float:
        return float(swath.compute(array.windows(STARTS + k % 2, block=100).mean()))

    # More than there are threads, each of which waits for tasks of its own.
    futures = client.map(mean, [a] * 9, range(9), pure=False)
    wanted = [expected(ROWS, STARTS + k % 2, 16).mean() for k in range(9)]
    assert client.gather(futures, direct=None, errors="raise") == wanted  # type: ignore[no-untyped-call]


class _Telling:
    """A client that is told less at first: what only another thread, at the right moment, would see."""

    def __init__(self, client: Client, *first: dict[str, Any]) -> None:
        self.client, self.first, self.asked = client, list(first), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    @property
    def status(self) -> str:
        return "connecting" if self.first else self.client.status

    def scheduler_info(self, n_workers: int) -> Any:
        self.asked += 1
        return self.first.pop(0) if self.first else self.client.scheduler_info(n_workers)


def test_the_workers_of_a_client_that_connects_are_waited_for(client: Client) -> None:
    # Not connected yet; and what dask itself asks every two seconds, which has no workers.
    nothing: dict[str, Any] = {}
    totals = {"n_workers": 2, "total_threads": 4, "workers": {}}
    telling = _Telling(client, nothing, totals)
    assert team_of(telling).threads == 4
    assert telling.asked == 3


def test_a_client_that_is_closed_is_an_error(cluster: Any, a: swath.RowArray, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    with Client(cluster, set_as_default=False) as closed:  # type: ignore[no-untyped-call]
        pass
    with pytest.raises(WorkersLostError, match=r"is closed, so that .* Make a client that is connected"):
        swath.compute(a.windows(STARTS), scheduler=closed)
    with pytest.raises(WorkersLostError, match="is closed"):
        swath.ingest(tmp_path / "rows.npy", tmp_path / "b", client=closed)
    assert not (tmp_path / "b").exists()


def _gathers_by_scheduler(client: Client) -> int:
    events = client.get_events("all")
    return sum(isinstance(event, dict) and event.get("action") == "gather" for _, event in events)


def test_a_task_knows_the_limit_of_its_worker(client: Client) -> None:
    limit = min(worker["memory_limit"] for worker in client.scheduler_info()["workers"].values())
    room = client.submit(detect_room, pure=False).result()
    assert room.n_bytes < limit // 2  # a worker has two threads
    if detect_room().n_bytes > limit:
        assert room.bound_by == f"the dask worker (memory_limit {format_bytes(limit)}, 2 threads)"


def test_no_block_passes_through_the_scheduler(client: Client, a: swath.RowArray, tmp_path: Path) -> None:
    lazy = a.windows(STARTS, block=10)
    before = _gathers_by_scheduler(client)
    assert_same(swath.compute(lazy, scheduler=client), WANTED)
    target = zarr.create_array(tmp_path / "out.zarr", shape=WANTED.shape, chunks=(64, 16, 30), dtype="f8")
    swath.compute(lazy - lazy.mean(axis=0), out=target, scheduler=client)
    assert _gathers_by_scheduler(client) == before
    da.Array.compute(lazy, scheduler=client)
    assert _gathers_by_scheduler(client) > before  # as dask itself does it


class _MostInMemory(SchedulerPlugin):
    """The most results of windows that there are at once."""

    def __init__(self) -> None:
        self.keys: set[Any] = set()
        self.most = 0

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        if "windows" in str(key):
            (self.keys.add if finish == "memory" else self.keys.discard)(key)
            self.most = max(self.most, len(self.keys))


@pytest.mark.parametrize("made", [lambda x: x, lambda x: x.rechunk((20, 16, 30))], ids=["windows", "merged"])
def test_workers_wait_for_one_who_lands_slowly(
    client: Client, cluster: Any, a: swath.RowArray, made: Callable[[Any], Any]
) -> None:
    plugin = _MostInMemory()
    cluster.scheduler.add_plugin(plugin, name="most-in-memory")
    out = _Slow(0.02)
    try:
        swath.compute(made(a.windows(STARTS, block=5)), out=out, scheduler=client)
    finally:
        cluster.scheduler.remove_plugin("most-in-memory")
    assert_same(out.rows, WANTED)
    # Two jobs for each of four threads, of one task that makes one result, or of four that make the fifth.
    jobs, tasks = (8, 1) if made(a.windows(STARTS, block=5)).npartitions == 60 else (8, 5)
    assert jobs / 2 < plugin.most <= jobs * tasks


def test_workers_that_come_later_get_their_part(a: swath.RowArray) -> None:
    plugin, out = _MostInMemory(), _Slow(0.05)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **NO_DASHBOARD) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        cluster.scheduler.add_plugin(plugin, name="most-in-memory")
        grow = threading.Timer(0.5, cluster.scale, [4])
        grow.start()
        swath.compute(a.windows(STARTS, block=5), out=out, scheduler=client)
        grow.join()
    assert_same(out.rows, WANTED)
    assert plugin.most > 2


def test_tasks_of_a_store_of_ten_thousand_sources_are_small(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS[:2])
    a = swath.ingest([tmp_path / "rows.npy"] * 10_000, tmp_path / "a")
    assert len(a.segments) == 10_000
    lazy = a.windows(np.arange(0, 19_000, 7), block=500)
    for task in dict(lazy.dask).values():
        assert len(pickle.dumps(task)) < 1500 + task[0].starts.nbytes
    assert len(pickle.dumps(pickle.loads(pickle.dumps(lazy)))) < 1.1 * len(pickle.dumps(lazy))


_ELSEWHERE = """
import pickle, sys, swath
lazy = pickle.load(open(sys.argv[1], "rb"))
print(lazy.name, swath.compute(lazy[-3:]).sum(), lazy[:2].compute(scheduler="synchronous").sum())
"""


def test_ten_million_windows_travel(a: swath.RowArray, tmp_path: Path) -> None:
    starts = np.random.default_rng(2).integers(0, 2000 - 16, 10**7)
    begin = time.perf_counter()
    lazy = a.windows(starts, block=30_000)
    building = time.perf_counter() - begin
    assert len(lazy.dask) == math.ceil(10**7 / 30_000)
    assert building < 10  # 0.3 s where nobody else is at work
    with (tmp_path / "lazy.pickle").open("wb") as file:
        pickle.dump(lazy, file)
    assert (tmp_path / "lazy.pickle").stat().st_size < 100e6
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, tmp_path / "lazy.pickle"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    sums = [float(expected(ROWS, some, 16).sum()) for some in (starts[-3:], starts[:2])]
    assert done.stdout.split() == [lazy.name, *map(str, sums)]
