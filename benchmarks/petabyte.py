"""What does the simulator say of a petabyte: the tables of docs/cluster.md.

What a task costs is as it was measured on one machine (`calibration.Parameters`); what a block reads is what swath itself plans
for an array of a petabyte. The machines and the stores are assumed, and stand below; where each figure comes from is in the page.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

import numpy as np
from calibration import CHUNK_ROWS, COLUMNS, WINDOW, Parameters
from simulation import Cluster, Prediction, Setup, Store, Work, simulate

from swath.layout import Layout, choose_shard_rows
from swath.lazy import Order
from swath.memory import Room
from swath.plan import MOST_THREADS, plan_gather
from swath.storage import MOST_WRITE_BYTES

WORKERS = (10, 100, 1000, 4000)

_PETABYTE = 10**15
_ROW_BYTES = COLUMNS * 8
_N_ROWS = _PETABYTE // _ROW_BYTES
_SHARD_ROWS = choose_shard_rows(_N_ROWS, CHUNK_ROWS, _ROW_BYTES, 2**30)
_SMALL_SHARD_ROWS = 2**26 // (CHUNK_ROWS * _ROW_BYTES) * CHUNK_ROWS
_BLOCK = 2**27 // (WINDOW * _ROW_BYTES)  # what windows() chooses where memory allows

# Enough that beginning and end weigh little; few enough that all tables take seconds.
_BLOCKS_A_WORKER = 2
_LEAST_BLOCKS = 300

_NODE_WORKERS, _NODE_CORES, _NETWORK = 5, 16, 25e9 / 8

STORES = {
    "local disks": Store(bandwidth=3e9, requests_a_second=500e3, latency_s=1e-4, stream_rate=1e9, is_local=True),
    "shared file system": Store(100e9, 1e6, 1e-3, 1e9, is_local=False),
    "object store": Store(math.inf, 550e3, 30e-3, 85e6, is_local=False),
}


@dataclass(frozen=True, slots=True)
class Job:
    """Windows that are gathered from a petabyte, as many bytes as it has."""

    block: int = _BLOCK
    shard_rows: int = _SHARD_ROWS
    order: Order = "asked"
    writes: bool = False
    """Whether each task writes its block to the same store."""


@cache
def _reads(job: Job) -> tuple[int, int]:
    """Bytes and requests of one block, by swath's own plan of it."""
    layout = Layout(_N_ROWS, (COLUMNS,), np.dtype("f8"), CHUNK_ROWS, job.shard_rows, "raw")
    windows = _PETABYTE // (WINDOW * _ROW_BYTES)
    rows = _N_ROWS if job.order == "asked" else max(WINDOW, _N_ROWS * job.block // windows)
    starts = np.random.default_rng(0).integers(0, rows - WINDOW + 1, job.block)
    room = Room(2**62, "nothing")
    plan = plan_gather(layout, starts, WINDOW, columns=None, batch_in_memory=True, limit=room)
    return plan.bytes_read, plan.requests


def _gather_work(parameters: Parameters, job: Job) -> Work:
    read, requests = _reads(job)
    wanted = job.block * WINDOW * _ROW_BYTES
    written = wanted if job.writes else 0
    return Work(
        wanted_bytes=wanted,
        read_bytes=read,
        read_requests=requests,
        read_core_s=parameters.read_core_s(requests, read),
        written_bytes=written,
        written_requests=math.ceil(written / MOST_WRITE_BYTES),
        write_core_s=written * parameters.ingest_byte_s,
        in_flight=MOST_THREADS,
        cores=parameters.gather_cores,
    )


def _ingest_work(parameters: Parameters, shard_rows: int) -> Work:
    """One shard: read by one thread from one end to the other, then written."""
    n_bytes = shard_rows * _ROW_BYTES
    requests = math.ceil(n_bytes / MOST_WRITE_BYTES)
    half = n_bytes * parameters.ingest_byte_s / 2
    return Work(n_bytes, n_bytes, requests, half, n_bytes, requests, half, in_flight=1, cores=1.0)


def _cluster(workers: int) -> Cluster:
    nodes = math.ceil(workers / _NODE_WORKERS)
    return Cluster(nodes, workers, 1, _NODE_CORES, _NETWORK, _NODE_CORES, _NETWORK)


def predict(parameters: Parameters, store: str, workers: int, job: Job, *, land: bool = False) -> Prediction:
    """A gather; with ``land`` all of it into the memory or the file of the one client."""
    work = _gather_work(parameters, job)
    costs = parameters.landing_costs
    if not land:
        costs = replace(parameters.bulk_costs, hop_s=costs.hop_s)
    blocks = max(_LEAST_BLOCKS, _BLOCKS_A_WORKER * workers)
    if land:  # the client is soon the limit, and more workers change nothing
        blocks = min(blocks, 4 * _LEAST_BLOCKS)
    return simulate(
        Setup(
            _cluster(workers),
            STORES[store],
            costs,
            work,
            blocks,
            parameters.landing(work.wanted_bytes) if land else None,
        )
    )


def predict_ingest(parameters: Parameters, store: str, workers: int, shard_rows: int = _SHARD_ROWS) -> Prediction:
    """An ingest from a store to itself."""
    costs = replace(parameters.bulk_costs, hop_s=parameters.landing_costs.hop_s)
    blocks = max(_LEAST_BLOCKS, _BLOCKS_A_WORKER * workers)
    work = _ingest_work(parameters, shard_rows)
    return simulate(
        Setup(_cluster(workers), STORES[store], costs, work, blocks, None, closing_s=STORES[store].latency_s)
    )


def tables(parameters: Parameters) -> str:
    """All tables of the page, in Markdown."""
    return "\n\n".join("\n".join(table) for table in _tables(parameters))


def _tables(parameters: Parameters) -> Iterator[list[str]]:
    ways = {
        **{f"{store}, little comes back": (store, Job(), False) for store in STORES},
        "shared file system, `to_zarr` there": ("shared file system", Job(writes=True), False),
        "shared file system, landed by the client": ("shared file system", Job(), True),
    }
    rows = [
        [name, *(_cell(predict(parameters, store, workers, job, land=land)) for workers in WORKERS)]
        for name, (store, job, land) in ways.items()
    ]
    rows += [
        [f"{store}, ingest", *(_cell(predict_ingest(parameters, store, workers)) for workers in WORKERS)]
        for store in ("local disks", "shared file system")
    ]
    yield _table(["GB/s, and what limits it", *(f"{workers:,} workers" for workers in WORKERS)], rows)

    rows = []
    for mebibytes in (1, 8, 32, 128):
        job = Job(block=max(1, mebibytes * 2**20 // (WINDOW * _ROW_BYTES)))
        at_once = predict(parameters, "local disks", 1000, job)
        tasks = at_once.rate / (job.block * WINDOW * _ROW_BYTES)
        rows.append([f"{mebibytes} MiB, `block={job.block}`", f"{tasks:,.0f}", _cell(at_once)])
    yield _table(["block, 1,000 workers, local disks", "tasks a second", "GB/s, and what limits it"], rows)

    rows = []
    for shard_rows in (_SHARD_ROWS, _SMALL_SHARD_ROWS):
        for order in get_args(Order):
            job = Job(shard_rows=shard_rows, order=order)
            read, requests = _reads(job)
            wanted = job.block * WINDOW * _ROW_BYTES
            name = f'{shard_rows * _ROW_BYTES / 2**20:,.0f} MiB, `order="{order}"`'
            predicted = predict(parameters, "shared file system", 1000, job)
            rows.append([name, f"{read / wanted:.2f}", f"{requests / job.block:.2f}", _cell(predicted)])
    heads = ["shard, 1,000 workers, shared file system", "bytes read for each wanted", "requests a window"]
    yield _table([*heads, "GB/s, and what limits it"], rows)


def _cell(predicted: Prediction) -> str:
    return f"{predicted.rate / 1e9:.3g}, {predicted.limit}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
