"""What do a task, a request and a byte cost on this machine, and does a simulation that goes by it predict real runs?

All parameters are seconds of a core, as each process counts its own, so that others who use the cores change them little. The
scheduler, the workers and the client are processes of their own, which talk by TCP, as on a cluster.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dask
import numpy as np
from distributed import Client, wait
from distributed.deploy.subprocess import SubprocessCluster
from numpy.typing import NDArray
from simulation import Cluster, Landing, Setup, Store, TaskCosts, Work, simulate
from targets import load

import swath
from swath.lazy import blocks_of
from swath.measure import random_starts

WINDOW = 16
COLUMNS = 2000  # of float64: rows of 16 KB
CHUNK_ROWS = 4
_SMALL_COLUMNS = 125  # rows of 1 KB: 16 times as many requests for the same bytes, at the same amplification

_IDLE_S = 2.0

# On a machine that others use up, what is left for a simulated run: little, but with none it would never end.
_LEAST_CORES = 0.1

# To the scheduler, the worker, back, back; then the client asks the scheduler, and the worker.
_HOPS_ALONE = 8

# Results that the client begins before it has fetched the first, for each thread (swath.computing).
_JOBS_A_THREAD = 2


@dataclass(frozen=True, slots=True)
class Parameters:
    """What was measured. Seconds are those of one core."""

    landing_costs: TaskCosts
    """Of a task whose result a client takes."""
    bulk_costs: TaskCosts
    """Of a task of one graph, handed over as a whole."""
    idle_scheduler: float
    """Cores that it keeps busy with nothing to do."""
    idle_worker: float
    gather_s: float
    """Of a worker for a block of many windows, beside what a task of one small window costs: it starts threads."""
    request_s: float
    read_byte_s: float
    """For each byte read, checked, and put in a batch, from the page cache."""
    gather_cores: float
    """Cores that one gather keeps busy, alone on the machine."""
    receive_byte_s: float
    send_byte_s: float
    place_byte_s: float
    ingest_byte_s: float
    """For each byte of rows that are read from memory, and written with their checksums."""

    def read_core_s(self, requests: int, n_bytes: int) -> float:
        """Of one gather."""
        return self.gather_s + requests * self.request_s + n_bytes * self.read_byte_s

    def landing(self, n_bytes: float) -> Landing:
        """A client that takes results of so many bytes each."""
        return Landing(
            n_bytes * self.receive_byte_s,
            n_bytes * self.send_byte_s,
            n_bytes * self.place_byte_s,
            n_bytes,
            _JOBS_A_THREAD,
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rows: int
    tasks: int
    blocks: tuple[int, ...]
    """Windows of a block."""
    windows: int
    """Of one run that is predicted."""
    rounds: int


class Machine:
    """A client, a scheduler, and workers of one thread, each a process here."""

    def __init__(self) -> None:
        # The other processes find this file, wherever they start.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        quiet = {
            "distributed.admin.system-monitor.gil.enabled": False,
            "distributed.scheduler.dashboard.enabled": False,
        }
        with dask.config.set(quiet):
            self._cluster = SubprocessCluster(
                host="127.0.0.1", n_workers=1, threads_per_worker=1, dashboard_address=":0"
            )
        self.client = Client(self._cluster, set_as_default=False)  # type: ignore[no-untyped-call]

    def scale(self, workers: int) -> None:
        self._cluster.scale(workers)  # type: ignore[no-untyped-call]
        self.client.wait_for_workers(workers, timeout=120)

    def core_s(self) -> NDArray[np.float64]:
        """What client, scheduler and all workers have used of the cores so far."""
        scheduler = self.client.run_on_scheduler(time.process_time)  # type: ignore[no-untyped-call]
        return np.array([time.process_time(), scheduler, sum(self.client.run(time.process_time).values())])

    def close(self) -> None:
        self.client.close()  # type: ignore[no-untyped-call]
        self._cluster.close()


def measure(machine: Machine, folder: Path, scale: Scale) -> Parameters:
    """Each parameter by itself; the cluster has one worker."""
    rows = np.random.default_rng(0).normal(size=(scale.rows, COLUMNS))
    begin = time.process_time()
    swath.ingest(rows, folder / "rows.zarr", window=WINDOW, chunk_rows=CHUNK_ROWS, codec="raw", progress=False)
    ingest_s = time.process_time() - begin
    small = rows[: max(100, scale.rows // 32)].reshape(-1, _SMALL_COLUMNS)
    swath.ingest(small, folder / "small.zarr", window=WINDOW, chunk_rows=CHUNK_ROWS, codec="raw", progress=False)
    for name in ("rows", "small"):
        load(str(folder / f"{name}.zarr"))
    idle_scheduler, idle_worker = _measure_idle(machine)
    idle = np.array([0.0, idle_scheduler, idle_worker])
    a = swath.open(str(folder / "small.zarr"))
    return Parameters(
        landing_costs=_measure_landing_costs(machine, a, scale.tasks, idle),
        bulk_costs=_measure_bulk_costs(machine, a, scale.tasks, idle),
        idle_scheduler=idle_scheduler,
        idle_worker=idle_worker,
        **_measure_gather(machine, folder, scale),
        **_measure_landing(machine, scale),
        ingest_byte_s=ingest_s / rows.nbytes,
    )


def _measure_idle(machine: Machine) -> tuple[float, float]:
    """Cores that the scheduler and a worker keep busy with nothing to do."""
    before, begin = machine.core_s(), time.perf_counter()
    time.sleep(_IDLE_S)
    _, scheduler, worker = (machine.core_s() - before) / (time.perf_counter() - begin)
    return float(scheduler), float(worker)


def _measure_landing_costs(machine: Machine, a: Any, tasks: int, idle: NDArray[np.float64]) -> TaskCosts:
    """Tasks of one small window each, by `swath.compute`, which hands over two at a time to one thread."""
    starts = random_starts(len(a), tasks, WINDOW, seed=0)
    out = np.zeros((tasks, WINDOW, _SMALL_COLUMNS))
    _land(machine.client, a, starts[: tasks // 4], 1, out[: tasks // 4])
    before, begin = machine.core_s(), time.perf_counter()
    _land(machine.client, a, starts, 1, out)
    client_s, scheduler_s, worker_s = _each(machine, before, begin, idle, tasks)
    alone: list[float] = []
    for start in starts[: max(8, tasks // 8)]:  # nothing overlaps, so what no core does is the way of messages
        before, begin = machine.core_s(), time.perf_counter()
        future = machine.client.submit(int, start, pure=False)
        machine.client.gather(future, direct=True)  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - begin
        alone.append(seconds - float((machine.core_s() - before).sum()))
    hop_s = max(0.0, median(alone)) / _HOPS_ALONE
    return TaskCosts(client_s, scheduler_s / 2, scheduler_s / 2, worker_s, hop_s)


def _stamp(block: NDArray[Any]) -> NDArray[Any]:
    return np.full(1, time.time())


def _measure_bulk_costs(machine: Machine, a: Any, tasks: int, idle: NDArray[np.float64]) -> TaskCosts:
    """The same tasks in one graph, of which little comes back."""

    def run(n: int) -> TaskCosts:
        windows = a.windows(random_starts(len(a), n, WINDOW, n), block=1)
        stamps = windows.map_blocks(_stamp, drop_axis=(1, 2), chunks=((1,) * n,), dtype=float)
        before, begin, now = machine.core_s(), time.perf_counter(), time.time()
        future = machine.client.compute(stamps)  # type: ignore[no-untyped-call]
        first = (min(future.result()) - now) / n
        client_s, scheduler_s, worker_s = _each(machine, before, begin, idle, n)
        begin_s = min(scheduler_s, max(0.0, first - client_s))
        return TaskCosts(client_s, begin_s, scheduler_s - begin_s, worker_s, 0.0)

    run(tasks // 4)
    return run(tasks)


def _each(
    machine: Machine, before: NDArray[np.float64], begin: float, idle: NDArray[np.float64], tasks: int
) -> list[float]:
    """Seconds of a core that client, scheduler and worker have used since, for each task, but for what they use anyway."""
    used = machine.core_s() - before - idle * (time.perf_counter() - begin)
    each: list[float] = (np.maximum(used, 0) / tasks).tolist()
    return each


def _gathers(path: str, n_windows: int, count: int) -> tuple[float, float]:
    """In a worker: seconds of a core that a block of so many windows takes, and the most cores that one kept busy."""
    a = swath.open(path)
    lengths = []
    for seed in range(count + 1):
        starts = random_starts(len(a), n_windows, WINDOW, seed)
        [block] = blocks_of(a.windows(starts, block=n_windows)) or []
        begin, core = time.perf_counter(), time.process_time()
        block()
        lengths.append((time.process_time() - core, time.perf_counter() - begin))
    del lengths[0]  # which read the indexes
    return median(core_s for core_s, _ in lengths), max(core_s / seconds for core_s, seconds in lengths)


def _measure_gather(machine: Machine, folder: Path, scale: Scale) -> dict[str, float]:
    """Seconds of a core for each gather, request and byte, from gathers that have them in other proportions."""
    most = max(scale.blocks)
    blocks = [("rows", 4), *(("rows", windows) for windows in scale.blocks), ("small", most), ("small", 4 * most)]
    facts, core_s, cores = [], [], []
    for name, windows in blocks:
        a = swath.open(str(folder / f"{name}.zarr"))
        plan = a.plan(random_starts(len(a), windows, WINDOW, 0))
        count = max(5, min(30, 4 * most // windows))
        gathers = machine.client.submit(_gathers, a.url, windows, count, pure=False).result()
        facts.append((1.0, plan.requests, plan.bytes_read))
        core_s.append(gathers[0])
        cores.append(gathers[1])
    weights = 1 / np.array(core_s)  # each counts alike, however long it took
    solved = np.linalg.lstsq(np.array(facts) * weights[:, None], np.array(core_s) * weights)[0]
    in_a_task, _ = machine.client.submit(_gathers, str(folder / "small.zarr"), 1, 30, pure=False).result()
    gather_s, request_s, read_byte_s = (max(0.0, float(value)) for value in solved)
    return {
        "gather_s": max(0.0, gather_s - in_a_task),
        "request_s": request_s,
        "read_byte_s": read_byte_s,
        "gather_cores": max(1.0, *cores),
    }


def _measure_landing(machine: Machine, scale: Scale) -> dict[str, float]:
    """A result on its way from the worker that has it to its place, for each byte."""
    n_bytes = max(scale.blocks) * WINDOW * COLUMNS * 8
    place = np.zeros(n_bytes, np.uint8)
    taken = []
    for i in range(2 * scale.rounds + 1):
        future = machine.client.submit(np.full, n_bytes, i, np.uint8, pure=False)
        with machine.client.as_current():
            wait(future)  # type: ignore[no-untyped-call]
        before = machine.core_s()
        value = machine.client.gather(future, direct=True)  # type: ignore[no-untyped-call]
        after = machine.core_s()
        begin = time.process_time()
        place[...] = value
        taken.append((*(after - before), time.process_time() - begin))
        del value, future
    client_s, _, worker_s, place_s = np.median(taken[1:], axis=0) / n_bytes
    return {"receive_byte_s": float(client_s), "send_byte_s": float(worker_s), "place_byte_s": float(place_s)}


def _corner(block: NDArray[Any]) -> NDArray[Any]:
    """What comes back of a block that was looked at elsewhere: little."""
    return block[:, 0, 0].copy()


def setup_here(
    parameters: Parameters, a: Any, starts: NDArray[np.int64], block: int, workers: int, land: bool
) -> Setup:
    """A run on this machine, whose cores all share, of a store in memory."""
    plan = a.plan(starts[:block])
    idle = parameters.idle_scheduler + workers * parameters.idle_worker
    cores = max(len(os.sched_getaffinity(0)) - idle, _LEAST_CORES)
    costs = parameters.landing_costs if land else replace(parameters.bulk_costs, hop_s=parameters.landing_costs.hop_s)
    n_bytes = plan.bytes_wanted
    read_core_s = parameters.read_core_s(plan.requests, plan.bytes_read)
    no_limit = float("inf")
    return Setup(
        cluster=Cluster(1, workers, 1, cores, no_limit, 0.0, no_limit),
        store=Store(no_limit, no_limit, 0.0, no_limit, is_local=True),
        costs=costs,
        work=Work(
            n_bytes, plan.bytes_read, plan.requests, read_core_s, 0, 0, 0.0, 1, min(parameters.gather_cores, cores)
        ),
        blocks=-(-starts.size // block),
        landing=parameters.landing(n_bytes) if land else None,
    )


def check(machine: Machine, parameters: Parameters, folder: Path, scale: Scale) -> Iterator[dict[str, Any]]:
    """Real gathers with 1, 2 and 4 workers, warm, and what the simulator says of them."""
    a = swath.open(str(folder / "rows.zarr"))
    starts = random_starts(len(a), scale.windows, WINDOW, seed=1)
    out = np.zeros((scale.windows, WINDOW, COLUMNS))
    for workers in (1, 2, 4):
        machine.scale(workers)
        for block in scale.blocks:
            for land in (True, False):
                run = partial(_land if land else _look, machine.client, a, starts, block, out)
                run()
                timed = [_timed(machine, run) for _ in range(scale.rounds)]
                setup = setup_here(parameters, a, starts, block, workers, land)
                seconds, core_s, left = np.median([(t.seconds, t.core_s, t.cores_left) for t in timed], axis=0).tolist()
                idle = len(os.sched_getaffinity(0)) - setup.cluster.cores
                shared = replace(setup, cluster=replace(setup.cluster, cores=max(left - idle, _LEAST_CORES)))
                predicted = simulate(setup)
                yield {
                    "workers": workers,
                    "block": block,
                    "landing": land,
                    "runs": [asdict(t) for t in timed],
                    "predicted_s": predicted.seconds,
                    "ratio": predicted.seconds / seconds,
                    "ratio_of_cores_left": simulate(shared).seconds / seconds,
                    "ratio_of_core_s": predicted.seconds
                    * (predicted.utilisation["cores"] * setup.cluster.cores + idle)
                    / core_s,
                    "limit": predicted.limit,
                    "utilisation": dict(predicted.utilisation),
                }


@dataclass(frozen=True, slots=True)
class Timed:
    """A real run."""

    seconds: float
    core_s: float
    """Of client, scheduler and workers."""
    cores_left: float
    """By all others on the machine."""


def _land(client: Client, a: Any, starts: NDArray[np.int64], block: int, out: NDArray[Any]) -> None:
    swath.compute(a.windows(starts, block=block), out=out, scheduler=client, progress=False)


def _look(client: Client, a: Any, starts: NDArray[np.int64], block: int, out: NDArray[Any]) -> None:
    lazy = a.windows(starts, block=block).map_blocks(_corner, drop_axis=(1, 2), dtype=out.dtype)
    client.compute(lazy).result()  # type: ignore[no-untyped-call]


def _timed(machine: Machine, call: Callable[[], None]) -> Timed:
    ours, all_busy, begin = machine.core_s(), _busy_s(), time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    core_s = float((machine.core_s() - ours).sum())
    cores = len(os.sched_getaffinity(0))
    return Timed(seconds, core_s, min(cores, max(core_s, cores * seconds - (_busy_s() - all_busy - core_s)) / seconds))


def _busy_s() -> float:
    """Seconds of all cores of the machine, of whoever, and of other machines on the same host."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def as_record(parameters: Parameters) -> dict[str, Any]:
    return asdict(parameters)


def from_record(record: dict[str, Any]) -> Parameters:
    costs = {name: TaskCosts(**record[name]) for name in ("landing_costs", "bulk_costs")}
    return Parameters(**{**record, **costs})
