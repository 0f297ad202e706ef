"""The simulator of benchmarks/ by what must hold of any cluster, and the page that is written from it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate import PAGE, page_parts, parts_in
from simulation import THREADS, Cluster, Landing, Setup, Store, TaskCosts, Work, simulate

NO_LIMIT = math.inf
FREE = TaskCosts(0.0, 0.0, 0.0, 0.0, 0.0)
NO_STORE = Store(NO_LIMIT, NO_LIMIT, 0.0, NO_LIMIT, is_local=True)
ONE = Cluster(1, 1, 1, cores=1.0, network=NO_LIMIT, head_cores=1.0, client_network=NO_LIMIT)
BLOCK = Work(1e6, 1.2e6, 10, 0.1, 0.0, 0, 0.0, in_flight=4, cores=1.0)


def _setup(work: Work = BLOCK, **changes: object) -> Setup:
    return replace(Setup(ONE, NO_STORE, FREE, work, 20, None), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setup", "seconds", "limit"),
    [
        pytest.param(_setup(), 20 * 0.1, "cores", id="cores"),
        pytest.param(_setup(replace(BLOCK, cores=2.0)), 20 * 0.1, "cores", id="no-more-cores-than-there-are"),
        pytest.param(
            _setup(replace(BLOCK, cores=2.0), cluster=replace(ONE, cores=8.0)),
            20 * 0.05,
            THREADS,
            id="two-cores-a-task",
        ),
        pytest.param(
            _setup(cluster=replace(ONE, workers=4, nodes=2, cores=2.0)), 5 * 0.1, "cores", id="workers-of-two-nodes"
        ),
        pytest.param(_setup(cluster=replace(ONE, threads=2)), 20 * 0.1, "cores", id="two-threads-share-a-core"),
        pytest.param(_setup(store=replace(NO_STORE, bandwidth=6e6)), 20 * 0.2, "store's bytes", id="disk"),
        pytest.param(
            _setup(store=Store(3e6, NO_LIMIT, 0.0, NO_LIMIT, is_local=False), cluster=replace(ONE, workers=4, nodes=4)),
            20 * 0.4,
            "store's bytes",
            id="store-of-all-nodes",
        ),
        pytest.param(
            _setup(store=replace(NO_STORE, is_local=False), cluster=replace(ONE, network=2e6)),
            20 * 0.6,
            "node's network",
            id="network",
        ),
        pytest.param(
            _setup(store=replace(NO_STORE, requests_a_second=20.0)), 20 * 0.5, "store's requests", id="requests"
        ),
        # 10 requests, 4 at once, are 3 rounds; each waits, and then its 120 kB come.
        pytest.param(
            _setup(store=replace(NO_STORE, latency_s=0.3, stream_rate=1.2e6)),
            20 * 3 * (0.3 + 0.1),
            THREADS,
            id="latency",
        ),
        pytest.param(
            _setup(replace(BLOCK, written_bytes=1e6, written_requests=1, write_core_s=0.3)),
            20 * 0.4,
            "cores",
            id="ingest",
        ),
        pytest.param(_setup(closing_s=2.0), 20 * 2.1, "client", id="closing"),
        pytest.param(
            _setup(costs=replace(FREE, finish_s=0.2), cluster=replace(ONE, workers=9, cores=9.0)),
            0.1 + 20 * 0.2,
            "scheduler",
            id="scheduler",
        ),
        # One graph: nothing begins before all of it is there.
        pytest.param(_setup(costs=replace(FREE, client_s=0.1, begin_s=0.2)), 20 * 0.4, "scheduler", id="handing-over"),
    ],
)
def test_what_one_resource_limits_takes_what_it_takes(setup: Setup, seconds: float, limit: str) -> None:
    predicted = simulate(setup)
    assert predicted.seconds == pytest.approx(seconds)
    assert predicted.rate == pytest.approx(20 * 1e6 / seconds)
    assert predicted.limit == limit


def test_a_client_lands_one_after_another() -> None:
    landing = Landing(receive_core_s=0.2, send_core_s=0.1, place_core_s=0.05, result_bytes=1e6, in_flight=2)
    cluster = replace(ONE, workers=9, nodes=9)
    predicted = simulate(_setup(landing=landing, cluster=cluster))
    assert predicted.seconds == pytest.approx(0.1 + 20 * 0.25)  # the first block, and then the client alone
    assert predicted.limit == "client"
    # On one core the same work is done one after another, whoever does it.
    alone = simulate(_setup(landing=landing, cluster=replace(ONE, head_cores=0.0)))
    assert alone.seconds == pytest.approx(20 * (0.1 + 0.2 + 0.1 + 0.05))
    assert alone.limit == "cores"


def test_no_more_results_wait_than_may() -> None:
    """A client that is slow holds the workers up: their threads are busy for their part of its time."""
    landing = Landing(0.0, 0.0, place_core_s=1.0, result_bytes=1e6, in_flight=1)
    predicted = simulate(_setup(landing=landing))
    assert predicted.seconds == pytest.approx(0.1 + 20 * 1.0)  # the next is begun as the last has been fetched
    assert predicted.utilisation[THREADS] == pytest.approx(20 * 0.1 / predicted.seconds)


def test_a_worker_has_its_next_task_while_it_runs_one() -> None:
    predicted = simulate(_setup(costs=replace(FREE, hop_s=0.04)))
    # One message before the first, and two after the last: of its end, and to the client.
    assert predicted.seconds == pytest.approx(0.04 + 20 * 0.1 + 2 * 0.04)


_RATES = st.floats(0.1, 10)
SETUPS = st.builds(
    Setup,
    st.builds(
        Cluster, st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), _RATES, _RATES, st.just(0.0) | _RATES, _RATES
    ),
    st.builds(Store, _RATES, _RATES, st.floats(0, 1), _RATES, st.booleans()),
    st.builds(TaskCosts, *[st.floats(0, 1)] * 5),
    st.builds(
        Work,
        wanted_bytes=st.just(1.0),
        read_bytes=st.floats(0.5, 3),
        read_requests=st.integers(1, 5),
        read_core_s=st.floats(0, 1),
        written_bytes=st.floats(0, 2),
        written_requests=st.integers(0, 3),
        write_core_s=st.floats(0, 1),
        in_flight=st.integers(1, 4),
        cores=st.floats(0.5, 4),
    ),
    st.integers(1, 40),
    st.none()
    | st.builds(Landing, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 2), st.integers(1, 3)),
    st.floats(0, 0.1),
)


@given(SETUPS)
def test_nothing_is_used_more_than_there_is(setup: Setup) -> None:
    predicted = simulate(setup)
    assert all(-1e-9 <= used <= 1 + 1e-9 for used in predicted.utilisation.values()), predicted
    # By the bytes themselves, and not by what the simulator counted.
    cluster, store, work = setup.cluster, setup.store, setup.work
    nodes = min(cluster.nodes, cluster.workers)
    moved = setup.blocks * (work.read_bytes + work.written_bytes)
    requests = setup.blocks * (work.read_requests + work.written_requests)
    stores = nodes if store.is_local else 1
    least = [
        moved / store.bandwidth / stores,
        requests / store.requests_a_second / stores,
        0 if store.is_local else moved / cluster.network / nodes,
        setup.blocks * (work.read_core_s + work.write_core_s + setup.costs.worker_s) / cluster.cores / nodes,
        setup.blocks * (setup.costs.begin_s + setup.costs.finish_s) / min(1.0, cluster.head_cores or cluster.cores),
        setup.blocks * setup.closing_s,
    ]
    if setup.landing is not None:
        least.append(setup.blocks * setup.landing.result_bytes / cluster.client_network)
        least.append(
            setup.blocks
            * (setup.landing.receive_core_s + setup.landing.place_core_s)
            / min(1.0, cluster.head_cores or cluster.cores)
        )
    assert predicted.seconds >= max(least) * (1 - 1e-9)
    assert predicted.rate == pytest.approx(setup.blocks / predicted.seconds)


@given(SETUPS, st.sampled_from(["bandwidth", "requests", "latency", "cores", "network", "scheduler", "bytes"]))
def test_more_is_never_slower(setup: Setup, what: str) -> None:
    """One worker, whose tasks come one after another: with more, what is shared may be shared in another order.

    So it may for one task, whose result is sent while the next is under way, at the end: what that takes alone is allowed for.
    """
    setup = replace(setup, cluster=replace(setup.cluster, workers=1, threads=1, head_cores=4.0))
    cluster, store, costs, work = setup.cluster, setup.store, setup.costs, setup.work
    better = {
        "bandwidth": replace(setup, store=replace(store, bandwidth=2 * store.bandwidth)),
        "requests": replace(setup, store=replace(store, requests_a_second=2 * store.requests_a_second)),
        "latency": replace(setup, store=replace(store, latency_s=store.latency_s / 2)),
        "cores": replace(setup, cluster=replace(cluster, cores=2 * cluster.cores)),
        "network": replace(setup, cluster=replace(cluster, network=2 * cluster.network)),
        "scheduler": replace(setup, costs=replace(costs, finish_s=costs.finish_s / 2)),
        "bytes": replace(setup, work=replace(work, read_bytes=work.read_bytes / 2)),
    }[what]
    alone = 0.0 if setup.landing is None else simulate(replace(setup, blocks=1)).seconds
    assert simulate(better).seconds <= simulate(setup).seconds * (1 + 1e-9) + alone


@settings(max_examples=25)
@given(st.integers(1, 50), st.integers(1, 8))
def test_more_workers_are_faster_until_something_is_used_up(blocks: int, workers: int) -> None:
    one = simulate(_setup(blocks=blocks * workers, cluster=replace(ONE, cores=64.0)))
    many = simulate(_setup(blocks=blocks * workers, cluster=replace(ONE, cores=64.0, workers=workers)))
    assert one.seconds == pytest.approx(workers * many.seconds)


def test_thousands_of_workers_are_simulated_at_once() -> None:
    """What waits is no call within a call."""
    cluster = replace(ONE, workers=3000, nodes=3000)
    predicted = simulate(_setup(cluster=cluster, blocks=6000, costs=replace(FREE, client_s=1e-5, finish_s=1e-5)))
    assert predicted.seconds == pytest.approx(0.06 + 2 * 0.1, rel=0.2)


def test_the_page_says_what_the_simulator_says() -> None:
    wanted = page_parts()
    assert set(wanted) == {"predicted", "measured", "checked"}
    assert parts_in(PAGE.read_text()) == wanted
