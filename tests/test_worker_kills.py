"""Workers of a cluster that are killed, stopped, or too small, while they gather and while they ingest."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import shutil
import signal
import statistics
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, WorkerPlugin
from numpy.typing import NDArray
from oracle import expected

import swath
from swath.errors import MemoryLimitError, WorkersLostError
from swath.workers import on_workers

# A worker cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# A worker is back after some seconds, on a machine that is busy after some more.
_PATIENCE_SECONDS = 30.0

# What nobody has waited for so long is a hang.
_MOST_SECONDS = 120.0

ROWS = np.random.default_rng(0).integers(-1000, 1000, (40_000, 50)).astype("f8")
STARTS = np.random.default_rng(1).integers(0, 40_000 - 16, 8000)
LAYOUT: dict[str, Any] = {"chunk_rows": 8, "shard_rows": 480, "codec": "zstd"}


class StacksOnSignal(WorkerPlugin):
    """Each worker, also one that takes the place of another, writes the stacks of its threads when it is asked to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, worker: Any) -> None:
        self.file = (self.folder / f"{os.getpid()}.stacks").open("w")
        faulthandler.register(signal.SIGUSR1, file=self.file, all_threads=True)


@dataclass(frozen=True, slots=True)
class Team:
    """A cluster of two worker processes, each with a nanny, and a client."""

    cluster: Any
    client: Any
    folder: Path

    def workers(self) -> dict[int, str]:
        """Process and address of the workers that live now."""
        nannies = list(self.cluster.workers.values())
        return {each.pid: each.worker_address for each in nannies if each.pid and each.worker_address}

    def is_busy(self, pid: int) -> bool:
        """Whether this worker runs tasks, or has results that nobody has fetched."""
        state = self.cluster.scheduler.workers.get(self.workers().get(pid))
        return state is not None and bool(state.processing or state.has_what)

    def make_whole(self, without: int = 0) -> None:
        """Wait for both workers, after one was killed for another in its place."""
        patience = time.monotonic() + _PATIENCE_SECONDS
        with self.deadline():
            while not (
                len(now := self.workers()) == 2
                and without not in now
                and set(now.values()) == set(self.cluster.scheduler.workers)
            ):
                if (
                    time.monotonic() > patience
                ):  # a nanny may give up where its worker and the scheduler lose one another
                    self.cluster.scale(0)
                    while self.cluster.scheduler.workers or self.cluster.workers:
                        time.sleep(0.01)
                    self.cluster.scale(2)
                    patience += _MOST_SECONDS
                time.sleep(0.01)

    @contextlib.contextmanager
    def deadline(self, seconds: float = _MOST_SECONDS) -> Iterator[None]:
        """Instead of a hang an error with the stacks of all processes."""

        def over(*_: object) -> None:
            for pid in self.workers():
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGUSR1)
            time.sleep(1)
            faulthandler.dump_traceback(file=2)
            stacks = [f"{path.name}\n{path.read_text()}" for path in self.folder.glob("*.stacks")]
            tasks = [f"{task.key}: {task.state}" for task in list(self.cluster.scheduler.tasks.values())]
            raise TimeoutError(f"A hang of {seconds} s.\n" + "\n".join([*stacks, *tasks[:50]]))

        before = signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _team_of_two(folder: Path, threads: int, config: dict[str, Any]) -> Iterator[Team]:
    with (
        dask.config.set(config),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2,
            threads_per_worker=threads,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        client.register_plugin(StacksOnSignal(folder))
        yield Team(cluster, client, folder)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    # A cluster forgets a worker that is not back after 15 s, which on a busy machine it is not.
    patient = {"distributed.deploy.lost-worker-timeout": _MOST_SECONDS}
    with _team_of_two(tmp_path_factory.mktemp("stacks"), 2, patient) as two:
        yield two


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    return swath.ingest(ROWS, tmp_path_factory.mktemp("kills") / "a.zarr", **LAYOUT)


def _sha256(result: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(result)).hexdigest()


def _files(url: Path) -> dict[str, str]:
    """Every file of a store, hidden ones too, and the hash of its bytes."""
    return {str(path.relative_to(url)): hashlib.sha256(path.read_bytes()).hexdigest() for path in url.rglob("*")}


@dataclass(frozen=True, slots=True)
class Trials:
    """The same call again and again, while something happens to a worker."""

    team: Team
    call: Callable[[], Any]
    """What is disturbed; it returns what is compared."""
    wanted: Any
    quiet: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    """Whether the worker had tasks or results when it happened."""

    def run_quiet(self, n: int) -> float:
        """The median of some undisturbed runs, in seconds."""
        for _ in range(n):
            self._timed(self.quiet)
        return statistics.median(self.quiet)

    def run(self, rng: np.random.Generator, disturb: Callable[[int], None]) -> None:
        """Do something to a random worker at a random moment of the call."""
        after = float(rng.uniform(0, statistics.median(self.quiet)))
        pid = list(self.team.workers())[int(rng.integers(2))]

        def wait_and_disturb() -> None:
            time.sleep(after)
            self.hits.append(self.team.is_busy(pid))
            disturb(pid)

        thread = threading.Thread(target=wait_and_disturb)
        thread.start()
        try:
            self._timed(self.disturbed)
        finally:
            thread.join()
        self.team.make_whole(pid if disturb is _kill else 0)

    def _timed(self, seconds: list[float]) -> None:
        with self.team.deadline():
            begin = time.perf_counter()
            result = self.call()
            seconds.append(time.perf_counter() - begin)
        assert result == self.wanted

    def report(self, name: str) -> None:
        """The figures, for who runs with -s."""
        print(
            f"\n{name}: {len(self.disturbed)} trials, {sum(self.hits)} while the worker had tasks or results, 0 wrong, 0 hangs; "
            f"quiet median {statistics.median(self.quiet):.2f} s, disturbed median {statistics.median(self.disturbed):.2f} s, "
            f"most {max(self.disturbed):.2f} s"
        )


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _stopper(seconds: float) -> Callable[[int], None]:
    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    return stop


def _gathers(team: Team, a: swath.RowArray, what: str) -> Trials:
    lazy = a.windows(STARTS, block=100)
    windows = expected(ROWS, STARTS, 16)
    asked, wanted = {
        "windows": (lazy, windows),
        "reduction": ((lazy - 1).sum(axis=0), (windows - 1).sum(axis=0)),
    }[what]
    return Trials(team, lambda: _sha256(swath.compute(asked, scheduler=team.client)), _sha256(wanted))


def _ingests(team: Team, folder: Path) -> Trials:
    np.save(folder / "rows.npy", np.tile(ROWS, (2, 1)))
    swath.ingest(folder / "rows.npy", folder / "wanted", **LAYOUT)

    def ingest() -> dict[str, str]:
        swath.ingest(folder / "rows.npy", folder / "a", client=team.client, **LAYOUT)
        try:
            assert [path.name for path in folder.glob(".*")] == []
            return _files(folder / "a")
        finally:
            shutil.rmtree(folder / "a")

    return Trials(team, ingest, _files(folder / "wanted"))


def _trials(team: Team, a: swath.RowArray, what: str, folder: Path) -> Trials:
    return _ingests(team, folder) if what == "ingest" else _gathers(team, a, what)


@pytest.mark.parametrize("what", ["windows", "reduction", "ingest"])
def test_a_worker_that_is_killed_changes_nothing(
    team: Team, a: swath.RowArray, tmp_path: Path, what: str, full: bool
) -> None:
    n = {"windows": 60, "reduction": 40, "ingest": 100}[what] if full else 1
    trials, rng = _trials(team, a, what, tmp_path), np.random.default_rng([len(what), n])
    trials.run_quiet(5 if full else 1)
    for _ in range(n):
        trials.run(rng, _kill)
    # One that happens to fall between two calls proves nothing.
    while not any(trials.hits):
        trials.run(rng, _kill)
    trials.report(f"SIGKILL, {what}")


@pytest.mark.parametrize("what", ["windows", "ingest"])
def test_a_worker_that_is_stopped_for_a_while_changes_nothing(
    team: Team, a: swath.RowArray, tmp_path: Path, what: str, full: bool
) -> None:
    trials, rng = _trials(team, a, what, tmp_path), np.random.default_rng(len(what))
    trials.run_quiet(3 if full else 1)
    for _ in range(3 if full else 1):
        trials.run(rng, _stopper(20 if full else 1))
    trials.report(f"SIGSTOP, {what}")


def test_what_was_had_of_a_worker_that_is_killed_is_not_done_again(team: Team, tmp_path: Path) -> None:
    def noted(item: int, folder: Path) -> int:
        """Leave a file for each run of this task; the last waits to be told."""
        (folder / f"{item}.{uuid.uuid4().hex}").touch()
        while item == 7 and not (folder / "go").exists():
            time.sleep(0.01)
        return item

    results = on_workers(team.client, noted, range(8), "noted", folder=tmp_path)
    with team.deadline():
        had = [next(results) for _ in range(7)]
        for pid in team.workers():
            _kill(pid)
            team.make_whole(pid)
        while len(list(tmp_path.glob("7.*"))) < 2:  # what was not had is done again
            time.sleep(0.01)
        (tmp_path / "go").touch()
        assert [*sorted(had), *results] == list(range(8))
    runs = Counter(path.name.partition(".")[0] for path in tmp_path.glob("*.*"))
    assert [runs[str(item)] for item in range(7)] == [1] * 7


def _end(block: Any) -> Any:
    os._exit(1)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A cluster by itself, since a nanny may give up a worker that ended by itself: a task may end one, and no more."""
    with _team_of_two(tmp_path_factory.mktemp("impatient"), 1, {"distributed.scheduler.allowed-failures": 0}) as two:
        yield two


@pytest.mark.parametrize("what", ["gather", "ingest"])
def test_a_task_that_ends_every_worker_is_an_error(
    impatient: Team, a: swath.RowArray, tmp_path: Path, what: str
) -> None:
    def gather() -> None:
        lazy = a.windows(STARTS, block=8000)
        swath.compute(da.map_blocks(_end, lazy, dtype="f8", meta=lazy._meta), scheduler=impatient.client)

    def ingest() -> None:
        lines = da.zeros((1000, 50), chunks=(1000, 50)).map_blocks(_end, dtype="f8", meta=np.empty((0, 0)))
        swath.ingest(lines, tmp_path / "b", client=impatient.client, shard_rows=1000, chunk_rows=8)

    call, task = {"gather": (gather, "_end"), "ingest": (ingest, "swath-ingest")}[what]
    with (
        impatient.deadline(),
        pytest.raises(WorkersLostError, match=f"Task .*{task}.* ended 1 workers.*Look into their logs"),
    ):
        call()
    assert not (tmp_path / "b").exists()


def test_a_worker_that_is_too_small_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a.zarr")
    np.save(tmp_path / "rows.npy", ROWS)
    lazy = a.windows(STARTS, block=4000)  # of 24 MiB
    for shard in tmp_path.glob("a.zarr/c.*"):
        shard.unlink()
    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address="127.0.0.1:0",
            memory_limit="64MiB",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        for asked in (lazy, lazy.sum(axis=0)):
            with pytest.raises(MemoryLimitError, match=r"a thread of a worker has 19.20 MiB.*smaller block="):
                swath.compute(asked, scheduler=client)
        with pytest.raises(MemoryLimitError, match=r"a thread of a worker has 19.20 MiB.*smaller shard_rows"):
            swath.ingest(tmp_path / "rows.npy", tmp_path / "b", client=client, shard_rows=40_000, codec="zstd")
    assert not (tmp_path / "b").exists()
