"""The ways that the benchmarks compare, each a function from a job to the batch; run in a process of its own."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from swath.measure import WAYS, Job, print_run, starts_of

PROGRAM = (str(Path(__file__)),)


def preadv_floor(job: Job) -> NDArray[Any]:
    """The floor: sorted reads of exactly the wanted bytes, by threads, into the batch; nothing is checked."""
    path, _, name = job.target.partition("::")
    with h5py.File(path, "r") as file:
        dataset = file[name]
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    starts = starts_of(job, shape[0])
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    size = job.window * row_bytes
    batch = np.empty((job.windows, job.window, *shape[1:]), dtype)
    view = memoryview(batch.reshape(-1).view(np.uint8))
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def work(places: list[int]) -> None:
        for place in places:
            os.preadv(descriptor, [view[place * size : (place + 1) * size]], offset + int(starts[place]) * row_bytes)

    order = np.argsort(starts).tolist()
    threads = 32 if job.cold else len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (order[i : i + 16] for i in range(0, len(order), 16))))
    os.close(descriptor)
    return batch


def h5py_stack(job: Job) -> NDArray[Any]:
    """The loop over h5py as one line: every window stands twice."""
    path, _, name = job.target.partition("::")
    with h5py.File(path, "r") as file:
        dataset = file[name]
        return np.stack([dataset[s : s + job.window] for s in starts_of(job, dataset.shape[0]).tolist()])


def memmap_stack(job: Job) -> NDArray[Any]:
    """The loop over numpy.memmap as one line."""
    path, _, name = job.target.partition("::")
    with h5py.File(path, "r") as file:
        dataset = file[name]
        mapped = np.memmap(path, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape)
    return np.stack([mapped[s : s + job.window] for s in starts_of(job, len(mapped)).tolist()])


PEERS = {
    **WAYS,
    "bare preadv, unchecked": preadv_floor,
    "h5py, np.stack": h5py_stack,
    "numpy.memmap, np.stack": memmap_stack,
}

if __name__ == "__main__":
    print_run(PEERS)
