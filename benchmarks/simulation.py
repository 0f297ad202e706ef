"""How long does a gather or an ingest take on a dask cluster, and what limits it?

A block goes from the client by the scheduler to a thread of a worker, which reads (and writes) it; then the scheduler is told, and
a client that lands results fetches them, one after another. The scheduler and the client do one thing at a time. Cores, networks
and the store are shared alike by all who use them at the moment, none of them faster than it could alone. What a task
does with its bytes at the same time (waiting, reading, checking) ends when the slowest part of it ends.

It knows nothing of machines: `Setup` has all it needs. Blocks are alike, and nothing fails.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from events import Clock, Done, Shared, Turns

# dask gives a worker one task more than it has threads for, so that none waits for the scheduler.
_TASKS_AHEAD = 1

THREADS = "worker threads"

# A thread is held while it waits for a resource, and a little longer: what is used nearly as much is what limits.
_AS_MUCH = 0.9

# Requests of the client for one result: where is it, and then the bytes; there and back.
_HOPS_A_FETCH = 4


@dataclass(frozen=True, slots=True)
class TaskCosts:
    """What a task costs beside its work: seconds of one core of each process, and the way of one message."""

    client_s: float
    begin_s: float
    """Of the scheduler, before a worker hears of the task."""
    finish_s: float
    """Of the scheduler, after it."""
    worker_s: float
    hop_s: float


@dataclass(frozen=True, slots=True)
class Store:
    """Where the bytes are. Rates are bytes a second."""

    bandwidth: float
    requests_a_second: float
    latency_s: float
    stream_rate: float
    """Of one request, after its latency."""
    is_local: bool
    """Whether each node has one of its own, of these rates, and the network is not used."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Processes and machines. Networks are bytes a second, in each direction alike."""

    nodes: int
    workers: int
    threads: int
    """Of a worker."""
    cores: float
    """Of a node."""
    network: float
    """Of a node."""
    head_cores: float
    """Of the machine of client and scheduler; 0 if they are on the first node."""
    client_network: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a task does. A gather reads, an ingest reads and then writes."""

    wanted_bytes: float
    """Rows, as they are in memory: what throughput is of."""
    read_bytes: float
    read_requests: float
    read_core_s: float
    """Seconds of one core for reading, checking and decoding."""
    written_bytes: float
    written_requests: float
    write_core_s: float
    in_flight: int
    """Requests that it has at once."""
    cores: float
    """Cores that it keeps busy at most."""


@dataclass(frozen=True, slots=True)
class Landing:
    """A client that takes each result: seconds of one core for its bytes."""

    receive_core_s: float
    send_core_s: float
    """Of the worker."""
    place_core_s: float
    """Of the client, after the last byte has come."""
    result_bytes: float
    in_flight: int
    """Results that are begun before the first of them is fetched, for each thread."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a prediction goes by."""

    cluster: Cluster
    store: Store
    costs: TaskCosts
    work: Work
    blocks: int
    landing: Landing | None
    """None where all tasks are handed over at once, and little comes back."""
    closing_s: float = 0.0
    """Of the client, for each block, after the last: an ingest looks for each shard."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of it."""

    seconds: float
    rate: float
    """Bytes wanted a second."""
    utilisation: Mapping[str, float]
    """Of each resource, 0 to 1, the mean of all nodes."""

    @property
    def limit(self) -> str:
        """The resource that has least left; threads that wait for something are the limit where nothing else is used up."""
        others = {name: used for name, used in self.utilisation.items() if name != THREADS}
        most = max(others, key=others.__getitem__)
        return most if others[most] >= _AS_MUCH * self.utilisation[THREADS] else THREADS


class _Node:
    """A machine with workers."""

    def __init__(self, clock: Clock, cluster: Cluster, store: "_Store | None", of: Store) -> None:
        self.cores = Shared(clock, cluster.cores)
        self.network = Shared(clock, cluster.network)
        self.store = store or _Store(clock, of)


class _Store:
    """A store of some kind."""

    def __init__(self, clock: Clock, of: Store) -> None:
        self.bytes = Shared(clock, of.bandwidth)
        self.requests = Shared(clock, of.requests_a_second)


class _Run:
    """One course of events."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._clock = setup, (clock := Clock())
        cluster = setup.cluster
        store = None if setup.store.is_local else _Store(clock, setup.store)
        self._nodes = [_Node(clock, cluster, store, setup.store) for _ in range(min(cluster.nodes, cluster.workers))]
        self._head = Shared(clock, cluster.head_cores) if cluster.head_cores else self._nodes[0].cores
        self._client_network = Shared(clock, cluster.client_network)
        self._client, self._scheduler = Turns(clock, 1), Turns(clock, 1)
        self._workers = [Turns(clock, cluster.threads) for _ in range(cluster.workers)]
        places = cluster.threads + _TASKS_AHEAD
        self._places = deque(worker for _ in range(places) for worker in range(cluster.workers))
        self._unassigned = 0
        self._unsubmitted, self._unfinished = setup.blocks, setup.blocks
        self._end = 0.0

    def prediction(self) -> Prediction:
        setup, clock = self._setup, self._clock
        if setup.landing is None:
            self._submit_all()
        else:
            at_once = setup.landing.in_flight * setup.cluster.workers * setup.cluster.threads
            for _ in range(min(setup.blocks, at_once)):
                self._client.take(lambda: self._submit_one(self._client.leave))
        clock.run()
        seconds = self._end
        return Prediction(seconds, setup.blocks * setup.work.wanted_bytes / seconds, self._utilisation(seconds))

    # The client hands tasks over.

    def _submit_all(self) -> None:
        setup = self._setup

        def begun() -> None:
            self._scheduler.leave()
            self._unassigned = setup.blocks
            self._assign()

        def handed_over() -> None:
            self._client.leave()
            self._scheduler.take(lambda: self._head.use(setup.blocks * setup.costs.begin_s, 1, begun))

        self._client.take(lambda: self._head.use(setup.blocks * setup.costs.client_s, 1, handed_over))

    def _submit_one(self, then: Done) -> None:
        if not self._unsubmitted:
            then()
            return
        self._unsubmitted -= 1
        costs = self._setup.costs

        def begun() -> None:
            self._scheduler.leave()
            self._unassigned += 1
            self._assign()

        def handed_over() -> None:
            self._clock.after(
                costs.hop_s, lambda: self._scheduler.take(lambda: self._head.use(costs.begin_s, 1, begun))
            )
            then()

        self._head.use(costs.client_s, 1, handed_over)

    # The scheduler gives them to workers, and hears of their end.

    def _assign(self) -> None:
        while self._unassigned and self._places:
            self._unassigned -= 1
            worker = self._places.popleft()
            self._clock.after(self._setup.costs.hop_s, lambda worker=worker: self._run_task(worker))  # type: ignore[misc]

    def _finish(self, worker: int) -> None:
        costs = self._setup.costs

        def finished() -> None:
            self._scheduler.leave()
            self._places.append(worker)
            self._assign()
            self._clock.after(costs.hop_s, lambda: self._take_result(worker))

        self._scheduler.take(lambda: self._head.use(costs.finish_s, 1, finished))

    # A worker does them.

    def _run_task(self, worker: int) -> None:
        work, costs = self._setup.work, self._setup.costs
        node, threads = self._nodes[worker % len(self._nodes)], self._workers[worker]

        def overhead() -> None:
            node.cores.use(costs.worker_s, 1, read)

        def read() -> None:
            self._move(node, work.read_bytes, work.read_requests, work.read_core_s, write)

        def write() -> None:
            self._move(node, work.written_bytes, work.written_requests, work.write_core_s, finish)

        def finish() -> None:
            threads.leave()
            self._clock.after(costs.hop_s, lambda: self._finish(worker))

        threads.take(overhead)

    def _move(self, node: _Node, n_bytes: float, requests: float, core_s: float, done: Done) -> None:
        store, work = self._setup.store, self._setup.work
        rounds = math.ceil(requests / work.in_flight)
        a_round = store.latency_s + (n_bytes / requests / store.stream_rate if requests else 0.0)
        parts: list[tuple[Shared, float, float]] = [
            (node.cores, core_s, work.cores),
            (node.store.bytes, n_bytes, math.inf),
            (node.store.requests, requests, math.inf),
        ]
        if not store.is_local:
            parts.append((node.network, n_bytes, math.inf))
        self._together(parts, rounds * a_round, done)

    # The client takes what comes back.

    def _take_result(self, worker: int) -> None:
        landing = self._setup.landing
        if landing is None:
            self._count()
            return
        node = self._nodes[worker % len(self._nodes)]

        def fetch() -> None:
            parts = [
                (self._head, landing.receive_core_s, 1.0),
                (node.cores, landing.send_core_s, 1.0),
                (self._client_network, landing.result_bytes, math.inf),
            ]
            if not self._is_shared:
                parts.append((node.network, landing.result_bytes, math.inf))
            self._together(parts, _HOPS_A_FETCH * self._setup.costs.hop_s, lambda: self._submit_one(place))

        def place() -> None:
            self._head.use(landing.place_core_s, 1, placed)

        def placed() -> None:
            self._client.leave()
            self._count()

        self._client.take(fetch)

    @property
    def _is_shared(self) -> bool:
        return not self._setup.cluster.head_cores

    def _count(self) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            self._end = self._clock.now + self._setup.blocks * self._setup.closing_s

    def _together(self, parts: Sequence[tuple[Shared, float, float]], at_least: float, done: Done) -> None:
        """All at once; done when the last is."""
        needed = [part for part in parts if part[1] > 0 and not part[0].is_free(part[2])]
        left = len(needed) + 1

        def one_done() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for shared, amount, most in needed:
            shared.use(amount, most, one_done)
        self._clock.after(at_least, one_done)

    def _utilisation(self, seconds: float) -> dict[str, float]:
        cluster, store, nodes = self._setup.cluster, self._setup.store, self._nodes
        stores = [node.store for node in nodes] if store.is_local else [nodes[0].store]
        held = sum(worker.held for worker in self._workers)
        used = {
            "scheduler": self._scheduler.held,
            "client": self._client.held + self._setup.blocks * self._setup.closing_s,
            "client's network": self._client_network.used / cluster.client_network,
            "node's network": sum(node.network.used for node in nodes) / cluster.network / len(nodes),
            "store's bytes": sum(each.bytes.used for each in stores) / store.bandwidth / len(stores),
            "store's requests": sum(each.requests.used for each in stores) / store.requests_a_second / len(stores),
            "cores": sum(node.cores.used for node in nodes) / cluster.cores / len(nodes),
            THREADS: held / cluster.threads / cluster.workers,
        }
        return {name: amount / seconds for name, amount in used.items()}


def simulate(setup: Setup) -> Prediction:
    """Let all blocks of a setup go their way."""
    return _Run(setup).prediction()
