"""The ways that the benchmarks compare, each a function from a job to the batch; run in a process of its own.

Each peer is used as its own documentation has it for many small random reads. Where it offers several ways, they all
stand here, and tables compare with the best of them:

- h5py: slices. ``read_direct`` saves a copy and costs more in selections: it was slower, so it is not here.
- zarr-python: slices; ``oindex``, all rows in one call; and both by the fused pipeline that 3.4 offers for local files.
  Threads and its asynchronous interface were no faster than the loop.
- zarrs: the pipeline as its README sets it; slices one after another, and 64 at once by zarr's asynchronous interface.
- tensorstore: 64 reads in flight, one `Batch`, and one read by an index array; by direct I/O too. A small cache keeps shard
  indexes; its bound is far below the data, so that no row is served from it. ``file_io_concurrency`` is 32 instead of its
  default of 4, as its maintainers advise for random reads (tensorstore#179).
- blosc2: slices, of the file and of a mapping of it; and all rows in one index array.
- dask: a ``stack`` of slices, ``take``, and blocks of windows made by ``delayed`` functions; on the threads that are its default for arrays.
"""

import asyncio
import mmap
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from dask.base import compute as compute_by_dask
from numpy.typing import NDArray

import swath
from swath.measure import WAYS, Job, loop, print_run, starts_of

PROGRAM = (str(Path(__file__)),)
THREADS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of threads for which there is a way of swath's, and of the floor's."""

_BATCHED, _FUSED = (f"zarr.core.codec_pipeline.{name}CodecPipeline" for name in ("Batched", "Fused"))
_ZARRS = "zarrs.ZarrsCodecPipeline"
_IN_FLIGHT = 64
_DASK_BLOCK = 256  # windows: some 64 MB in the main table, as dask's own advice on chunk sizes has it


def swath_unchecked(job: Job) -> NDArray[Any]:
    a = swath.open(job.target)
    return a.gather(starts_of(job, len(a)), window=job.window, verify="never")


def swath_windows(job: Job) -> NDArray[Any]:
    a = swath.open(job.target)
    batch: NDArray[Any] = a.windows(starts_of(job, len(a)), window=job.window).compute(scheduler="threads")
    return batch


def dask_windows(job: Job) -> NDArray[Any]:
    """As dask computes any array: all blocks, and then the whole beside them."""
    a = swath.open(job.target)
    batch: NDArray[Any] = compute_by_dask(a.windows(starts_of(job, len(a)), window=job.window), scheduler="threads")[0]
    return batch


def swath_threads(threads: int, job: Job) -> NDArray[Any]:
    """The engine with so many threads: it has no such option, so its choice is replaced, in this process alone."""
    with mock.patch("swath.gather.threads_for", return_value=threads):
        return WAYS["swath gather"](job)


def bare_preadv(threads: int | None, job: Job) -> NDArray[Any]:
    """The floor: sorted reads of exactly the wanted bytes, by threads, into the batch; nothing is checked."""
    path, shape, dtype, offset = _place(job)
    starts = starts_of(job, shape[0])
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    size = job.window * row_bytes
    batch = np.empty((job.windows, job.window, *shape[1:]), dtype)
    view = memoryview(batch.reshape(-1).view(np.uint8))
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def work(places: tuple[int, ...]) -> None:
        for place in places:
            os.preadv(descriptor, [view[place * size : (place + 1) * size]], offset + int(starts[place]) * row_bytes)

    if threads is None:  # bytes in memory want as many threads as cores, a disk wants many requests in flight
        threads = 32 if job.cold else len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, batched(np.argsort(starts).tolist(), 16)))
    os.close(descriptor)
    return batch


def memmap_random(job: Job) -> NDArray[Any]:
    """The loop over a mapping that the kernel was told not to read ahead in (numpy#13172)."""
    mapped = _mapped(job)
    assert isinstance(mapped.base, mmap.mmap)
    mapped.base.madvise(mmap.MADV_RANDOM)
    return loop(mapped, job)


def zarr_loop(pipeline: str, job: Job) -> NDArray[Any]:
    import zarr

    with zarr.config.set({"codec_pipeline.path": pipeline}):
        return loop(zarr.open_array(job.target, mode="r"), job)


def zarr_oindex(pipeline: str, job: Job) -> NDArray[Any]:
    import zarr

    with zarr.config.set({"codec_pipeline.path": pipeline}):
        array: Any = zarr.open_array(job.target, mode="r")
        return windows_of_rows(array.oindex[every_row(job, array.shape[0])], job)


def zarr_blocks(pipeline: str, job: Job) -> NDArray[Any]:
    """Each row of chunks that is needed, once, in order; windows are copied out of it."""
    import zarr

    with zarr.config.set({"codec_pipeline.path": pipeline}):
        array: Any = zarr.open_array(job.target, mode="r")
        rows = (array.shards or array.chunks)[0]
        starts = starts_of(job, array.shape[0])
        batch = np.empty((job.windows, job.window, *array.shape[1:]), array.dtype)
        touched = np.unique(np.concatenate([starts // rows, (starts + job.window - 1) // rows])).tolist()
        for begin in (block * rows for block in touched):
            block = array[begin : begin + rows]
            for place in np.flatnonzero((starts > begin - job.window) & (starts < begin + rows)).tolist():
                start = int(starts[place])
                first, stop = max(start, begin), min(start + job.window, begin + len(block))
                batch[place, first - start : stop - start] = block[first - begin : stop - begin]
        return batch


def zarrs_async(job: Job) -> NDArray[Any]:
    import zarr

    with zarr.config.set({"codec_pipeline.path": _ZARRS}):
        return zarr_by_asyncio(job.target, _IN_FLIGHT, job)


def zarr_by_asyncio(store: Any, at_once: int, job: Job) -> NDArray[Any]:
    """So many slices at once of a store of zarr-python, or of the one at a path."""
    from zarr.api.asynchronous import open_array

    async def gather() -> NDArray[Any]:
        array = await open_array(store=store, mode="r", zarr_format=3)
        batch = np.empty((job.windows, job.window, *array.shape[1:]), array.dtype)
        free = asyncio.Semaphore(at_once)

        async def one(i: int, start: int) -> None:
            async with free:
                batch[i] = await array.getitem(slice(start, start + job.window))

        await asyncio.gather(*(one(i, start) for i, start in enumerate(starts_of(job, array.shape[0]).tolist())))
        return batch

    return asyncio.run(gather())


def tensorstore_futures(array: Any, at_once: int, job: Job) -> NDArray[Any]:
    batch = np.empty((job.windows, job.window, *array.shape[1:]), array.dtype.numpy_dtype)
    pending: deque[tuple[int, Any]] = deque()
    for i, start in enumerate(starts_of(job, array.shape[0]).tolist()):
        if len(pending) == at_once:
            place, future = pending.popleft()
            batch[place] = future.result()
        pending.append((i, array[start : start + job.window].read()))
    for place, future in pending:
        batch[place] = future.result()
    return batch


def _64_futures(array: Any, job: Job) -> NDArray[Any]:
    return tensorstore_futures(array, _IN_FLIGHT, job)


def tensorstore_batch(array: Any, job: Job) -> NDArray[Any]:
    import tensorstore

    out = np.empty((job.windows, job.window, *array.shape[1:]), array.dtype.numpy_dtype)
    with tensorstore.Batch() as batch:
        futures = [array[s : s + job.window].read(batch=batch) for s in starts_of(job, array.shape[0]).tolist()]
    for place, future in enumerate(futures):
        out[place] = future.result()
    return out


def tensorstore_vindex(array: Any, job: Job) -> NDArray[Any]:
    return windows_of_rows(array[every_row(job, array.shape[0])].read().result(), job)


def blosc2_loop(options: dict[str, str], job: Job) -> NDArray[Any]:
    import blosc2  # type: ignore[import-untyped]

    return loop(blosc2.open(job.target, **options), job)


def blosc2_take(job: Job) -> NDArray[Any]:
    import blosc2

    array = blosc2.open(job.target, mode="r")
    return windows_of_rows(array[every_row(job, array.shape[0])], job)


def dask_take(array: Any, job: Job) -> NDArray[Any]:
    """Of an array of zarr-python."""
    import dask.array as da

    # Blocks of a window's size: with the store's own small chunks, and with its large shards, take is slower.
    block = -(-job.window // array.chunks[0]) * array.chunks[0]
    lazy = da.from_zarr(array, chunks=(block, *array.shape[1:]))
    return windows_of_rows(da.take(lazy, every_row(job, array.shape[0]), axis=0).compute(), job)


def dask_stack(job: Job) -> NDArray[Any]:
    import dask.array as da

    lazy = da.from_zarr(job.target)
    result: NDArray[Any] = da.stack([lazy[s : s + job.window] for s in starts_of(job, len(lazy)).tolist()]).compute()
    return result


def dask_delayed(job: Job) -> NDArray[Any]:
    import dask.array as da
    import zarr
    from dask.delayed import delayed

    array: Any = zarr.open_array(job.target, mode="r")

    def block(starts: tuple[int, ...]) -> NDArray[Any]:
        return np.stack([array[s : s + job.window] for s in starts])

    parts = [
        da.from_delayed(delayed(block, pure=False)(some), (len(some), job.window, *array.shape[1:]), dtype=array.dtype)
        for some in batched(starts_of(job, array.shape[0]).tolist(), _DASK_BLOCK)
    ]
    result: NDArray[Any] = da.concatenate(parts).compute()
    return result


def _place(job: Job) -> tuple[str, tuple[int, ...], np.dtype[Any], int]:
    """Path, shape, dtype and first byte of a contiguous HDF5 dataset."""
    path, _, name = job.target.partition("::")
    with h5py.File(path, "r") as file:
        dataset = file[name]
        return path, dataset.shape, dataset.dtype, dataset.id.get_offset()


def _mapped(job: Job) -> np.memmap[Any, Any]:
    path, shape, dtype, offset = _place(job)
    return np.memmap(path, dtype, "r", offset, shape)


def every_row(job: Job, n_rows: int) -> NDArray[np.int64]:
    """Every row of every window, in order."""
    return (starts_of(job, n_rows)[:, None] + np.arange(job.window)).reshape(-1)


def windows_of_rows(rows: NDArray[Any], job: Job) -> NDArray[Any]:
    return rows.reshape(job.windows, job.window, *rows.shape[1:])


def _by_tensorstore(way: Callable[..., NDArray[Any]], mode: str, job: Job) -> NDArray[Any]:
    return way(
        open_tensorstore(
            "file", {"path": f"{job.target}/"}, file_io_concurrency={"limit": 32}, file_io_mode={"mode": mode}
        ),
        job,
    )


def open_tensorstore(driver: str, place: dict[str, Any], **context: dict[str, Any]) -> Any:
    """A store, through a cache that has room for its shard indexes."""
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": driver, **place},
        "context": {"cache_pool": {"total_bytes_limit": 20_000_000}, **context},
        "recheck_cached_data": "open",
    }
    return tensorstore.open(spec, read=True).result()


def _take_by_dask(job: Job) -> NDArray[Any]:
    import zarr

    return dask_take(zarr.open_array(job.target, mode="r"), job)


PEERS: dict[str, Callable[[Job], NDArray[Any]]] = {
    **WAYS,
    "swath gather, verify never": swath_unchecked,
    "swath windows().compute()": swath_windows,
    "dask.compute of windows()": dask_windows,
    **{f"swath gather, threads {n}": partial(swath_threads, n) for n in THREADS},
    "bare preadv": partial(bare_preadv, None),
    **{f"bare preadv, threads {n}": partial(bare_preadv, n) for n in THREADS},
    "numpy.memmap loop, MADV_RANDOM": memmap_random,
    "tensorstore, 64 futures": partial(_by_tensorstore, _64_futures, "default"),
    "tensorstore, 64 futures, direct I/O": partial(_by_tensorstore, _64_futures, "direct"),
    "tensorstore, one Batch": partial(_by_tensorstore, tensorstore_batch, "default"),
    "tensorstore, index array": partial(_by_tensorstore, tensorstore_vindex, "default"),
    "zarr-python loop": partial(zarr_loop, _BATCHED),
    "zarr-python oindex": partial(zarr_oindex, _BATCHED),
    "zarr-python blocks": partial(zarr_blocks, _BATCHED),
    "zarr-python blocks, fused pipeline": partial(zarr_blocks, _FUSED),
    "zarr-python loop, fused pipeline": partial(zarr_loop, _FUSED),
    "zarr-python oindex, fused pipeline": partial(zarr_oindex, _FUSED),
    "zarrs loop": partial(zarr_loop, _ZARRS),
    "zarrs, 64 at once": zarrs_async,
    "blosc2 loop": partial(blosc2_loop, {"mode": "r"}),
    "blosc2 loop, mapped": partial(blosc2_loop, {"mmap_mode": "r"}),
    "blosc2, index array": blosc2_take,
    "dask stack of slices": dask_stack,
    "dask take": _take_by_dask,
    "dask delayed blocks": dask_delayed,
}

if __name__ == "__main__":
    print_run(PEERS)
