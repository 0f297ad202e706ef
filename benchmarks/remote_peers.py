"""The ways that `remote` compares, each a function from how much to do at once and a job to the batch.

The target of a job is a store in a bucket, as ``http://127.0.0.1:9000/bench/rows.zarr``; all read it as S3. Each peer is used
as its own documentation has it for many small reads of what is far away:

- zarr-python, by obstore (`zarr.storage.ObjectStore`) and by s3fs: the loop of slices; slices by threads, and by its
  asynchronous interface; ``oindex``, all rows in one call, with the ``async.concurrency`` that its page on performance raises
  where latency is high; and that by the fused pipeline. s3fs has no more than 10 connections, unless botocore is told
  otherwise by ``max_pool_connections``.
- tensorstore: reads in flight, one `Batch`, and one read by an index array. ``s3_request_concurrency`` is how many requests
  its S3 driver makes at once. As in `peers`, a small cache keeps shard indexes, and no rows.
- dask: ``take``, by so many threads. Of the ways of `peers` it is the one that asks for no row twice.
- The floor: bare ranges by obstore, of raw rows. Where chunks lie is calculated, not looked up, and no checksum is compared.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from peers import (
    dask_take,
    every_row,
    open_tensorstore,
    tensorstore_batch,
    tensorstore_futures,
    tensorstore_vindex,
    windows_of_rows,
    zarr_by_asyncio,
)

import swath
from swath.errors import SwathError
from swath.gather import gather, plan_for
from swath.measure import Job, Result, loop, run_job, starts_of, wait_to_begin
from swath.memory import resolve_limit

PROGRAM = (__file__,)
AT_ONCE = tuple(2**k for k in range(9))
_BATCHED, _FUSED = (f"zarr.core.codec_pipeline.{name}CodecPipeline" for name in ("Batched", "Fused"))
_BLOCK_BYTES = 64 * 2**20
_CHECKED = 5  # windows
_STAMP_BYTES = 20
_CRC_BYTES = 4

# As S3 clients find them in the environment. Any are right for a server that does not look.
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}
_OPTIONS = {name.removeprefix("AWS_").lower(): value for name, value in KEYS.items()}

OpenStore = Callable[[str, int], Any]
"""A store of zarr-python, from its address and how many requests it shall make at once."""


def numbered_rows(first: int, stop: int, columns: int, bits: int) -> NDArray[np.float64]:
    """Rows that are known without being read, of numbers without a pattern (splitmix64) and of so many bits."""
    mixed = np.arange(first * columns, stop * columns, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed >> np.uint64(64 - bits)).astype(np.float64).reshape(-1, columns)


def numbered_blocks(n_rows: int, columns: int, bits: int) -> Iterator[NDArray[np.float64]]:
    """All of them, in blocks that fit in memory."""
    step = max(1, _BLOCK_BYTES // (columns * 8))
    for first in range(0, n_rows, step):
        yield numbered_rows(first, min(first + step, n_rows), columns, bits)


def name_of(bits: int) -> str:
    """The name of a store of such rows."""
    return f"rows-of-{bits}-bits.zarr"


def bits_of(target: str) -> int:
    """What the name of a store, at the end of its address, says of its rows."""
    return int(target.split("-")[-2])


def run(job: Job, at_begin: Callable[[], object] | None = None) -> Result:
    """Run a job in this process; some windows of its batch are compared with what they should be, outside of the time."""
    last: NDArray[Any] | None = None

    def way(job: Job) -> NDArray[Any]:
        nonlocal last
        last = WAYS[job.way](job)
        return last

    result = run_job(job, way, at_begin)
    assert last is not None
    n_rows, bits = _open_zarr(by_obstore, 1, job).shape[0], bits_of(job.target)
    for i, start in list(enumerate(starts_of(job, n_rows).tolist()))[-_CHECKED:]:
        if not np.array_equal(last[i], numbered_rows(start, start + job.window, last.shape[2], bits)):
            raise SwathError(f"Window {i} (rows {start} to {start + job.window - 1}) is not what was written.")
    return result


def swath_gather(at_once: int, job: Job) -> NDArray[Any]:
    rows = _open_swath(job)._rows
    starts = starts_of(job, rows.layout.n_rows)
    return gather(rows, plan_for(rows, starts, job.window, limit=resolve_limit(None), most_threads=at_once))


def swath_as_it_is(job: Job) -> NDArray[Any]:
    a = _open_swath(job)
    return a.gather(starts_of(job, len(a)), window=job.window)


def swath_compute(job: Job) -> NDArray[Any]:
    a = _open_swath(job)
    batch: NDArray[Any] = swath.compute(a.windows(starts_of(job, len(a)), window=job.window))
    return batch


def bare_ranges(at_once: int, job: Job) -> NDArray[Any]:
    import obstore

    array = _open_zarr(by_obstore, at_once, job)
    store = _open_obstore(job.target)
    shard_rows, chunk_rows, columns = array.shards[0], array.chunks[0], array.shape[1]
    chunk_bytes = chunk_rows * columns * 8 + _CRC_BYTES
    head_bytes = shard_rows // chunk_rows * 16 + _CRC_BYTES + _STAMP_BYTES
    batch = np.empty((job.windows, job.window, columns))

    def one(i: int, start: int) -> None:
        row = start
        while row < start + job.window:
            shard, first = divmod(row, shard_rows)
            stop = min(first + start + job.window - row, shard_rows)
            lo, hi = first // chunk_rows, -(-stop // chunk_rows)
            begin, end = (head_bytes + chunk * chunk_bytes for chunk in (lo, hi))
            data = obstore.get_range(store, f"c.{shard}.0", start=begin, end=end)
            chunks = np.frombuffer(data, np.uint8).reshape(-1, chunk_bytes)[:, :-_CRC_BYTES]
            rows = chunks.reshape(-1, columns * 8)[first - lo * chunk_rows :][: stop - first]
            batch[i, row - start :][: len(rows)] = rows.view(np.float64)
            row += len(rows)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(job.windows), starts_of(job, array.shape[0]).tolist()))
    return batch


def zarr_loop(open_store: OpenStore, job: Job) -> NDArray[Any]:
    return loop(_open_zarr(open_store, 10, job), job)


def zarr_threads(open_store: OpenStore, at_once: int, job: Job) -> NDArray[Any]:
    array = _open_zarr(open_store, at_once, job)
    batch = np.empty((job.windows, job.window, *array.shape[1:]), array.dtype)

    def one(i: int, start: int) -> None:
        batch[i] = array[start : start + job.window]

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(job.windows), starts_of(job, array.shape[0]).tolist()))
    return batch


def zarr_async(open_store: OpenStore, at_once: int, job: Job) -> NDArray[Any]:
    return zarr_by_asyncio(open_store(job.target, at_once), at_once, job)


def zarr_oindex(open_store: OpenStore, pipeline: str, at_once: int, job: Job) -> NDArray[Any]:
    import zarr

    with zarr.config.set({"codec_pipeline.path": pipeline, "async.concurrency": at_once}):
        array = _open_zarr(open_store, at_once, job)
        return windows_of_rows(array.oindex[every_row(job, array.shape[0])], job)


def take_by_dask(open_store: OpenStore, at_once: int, job: Job) -> NDArray[Any]:
    import dask

    with dask.config.set(num_workers=at_once):
        return dask_take(_open_zarr(open_store, at_once, job), job)


def futures_of_tensorstore(at_once: int, job: Job) -> NDArray[Any]:
    # A read is two requests, and only one of them at a time.
    return tensorstore_futures(_open_tensorstore(at_once, job), at_once, job)


def batch_of_tensorstore(at_once: int, job: Job) -> NDArray[Any]:
    return tensorstore_batch(_open_tensorstore(at_once, job), job)


def vindex_of_tensorstore(at_once: int, job: Job) -> NDArray[Any]:
    return tensorstore_vindex(_open_tensorstore(at_once, job), job)


def by_obstore(target: str, _: int) -> Any:
    """As many connections as there are requests: it has no bound of its own."""
    from zarr.storage import ObjectStore

    return ObjectStore(_open_obstore(target), read_only=True)


def by_s3fs(target: str, at_once: int) -> Any:
    from zarr.storage import FsspecStore

    endpoint, bucket, key = _place(target)
    options: dict[str, Any] = {"endpoint_url": endpoint, "config_kwargs": {"max_pool_connections": at_once}}
    options["skip_instance_cache"] = True  # each run makes its own connections, as by the others
    return FsspecStore.from_url(f"s3://{bucket}/{key}", storage_options=options, read_only=True)


def _place(target: str) -> tuple[str, str, str]:
    """Endpoint, bucket and key."""
    url = urlsplit(target)
    _, bucket, key = url.path.split("/", 2)
    return f"{url.scheme}://{url.netloc}", bucket, key


def _open_obstore(target: str) -> Any:
    from obstore.store import S3Store

    endpoint, bucket, key = _place(target)
    config: Any = {"endpoint": endpoint, **_OPTIONS}
    return S3Store(bucket, prefix=key, config=config, client_options={"allow_http": True})


def _open_swath(job: Job) -> swath.RowArray:
    endpoint, bucket, key = _place(job.target)
    options = {"endpoint": endpoint, "allow_http": True, **_OPTIONS}
    return swath.open(f"s3://{bucket}/{key}", storage_options=options)


def _open_zarr(open_store: OpenStore, at_once: int, job: Job) -> Any:
    import zarr

    # Told the format, s3fs does not list the bucket to see that there is no other.
    return zarr.open_array(open_store(job.target, at_once), mode="r", zarr_format=3)


def _open_tensorstore(at_once: int, job: Job) -> Any:
    endpoint, bucket, key = _place(job.target)
    place = {"bucket": bucket, "path": f"{key}/", "endpoint": endpoint, "aws_region": KEYS["AWS_REGION"]}
    credentials = {"type": "environment"}
    return open_tensorstore("s3", {**place, "aws_credentials": credentials}, s3_request_concurrency={"limit": at_once})


Way = Callable[[int, Job], NDArray[Any]]

SINGLE: dict[str, Callable[[Job], NDArray[Any]]] = {
    "swath gather": swath_as_it_is,
    "swath windows and compute": swath_compute,
    "zarr-python + obstore, loop": partial(zarr_loop, by_obstore),
    "zarr-python + s3fs, loop": partial(zarr_loop, by_s3fs),
}
"""Ways that know themselves how much to do at once, or do one thing after another."""

SWEPT: dict[str, Way] = {
    "swath gather": swath_gather,
    "bare ranges": bare_ranges,
    "tensorstore, futures": futures_of_tensorstore,
    "tensorstore, one Batch": batch_of_tensorstore,
    "tensorstore, index array": vindex_of_tensorstore,
    "zarr-python + obstore, threads": partial(zarr_threads, by_obstore),
    "zarr-python + obstore, asyncio": partial(zarr_async, by_obstore),
    "zarr-python + obstore, oindex": partial(zarr_oindex, by_obstore, _BATCHED),
    "zarr-python + obstore, oindex, fused": partial(zarr_oindex, by_obstore, _FUSED),
    "zarr-python + s3fs, threads": partial(zarr_threads, by_s3fs),
    "zarr-python + s3fs, asyncio": partial(zarr_async, by_s3fs),
    "zarr-python + s3fs, oindex": partial(zarr_oindex, by_s3fs, _BATCHED),
    "zarr-python + s3fs, oindex, fused": partial(zarr_oindex, by_s3fs, _FUSED),
    "dask take": partial(take_by_dask, by_obstore),
}
"""Ways that can be told."""


def at_once(way: str, n: int) -> str:
    """The name of a way that does so much at once."""
    return f"{way}, {n} at once"


WAYS = SINGLE | {at_once(name, n): partial(way, n) for name, way in SWEPT.items() for n in AT_ONCE}

if __name__ == "__main__":
    print(json.dumps(asdict(run(Job(**json.loads(sys.argv[1])), wait_to_begin))), flush=True)
    # Threads of the clients that still run can abort an interpreter that ends in its own time.
    os._exit(0)
