"""How long does one way of gathering take, and how much memory, on this machine?

Each way runs in a process of its own: its peak is the kernel's count for that process (``VmHWM``), and no way
profits from what another left in memory. Cold means that the kernel was told to drop the file's pages before; warm,
that the same gather ran once before, untimed. A run prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.doors import open as open_array
from swath.errors import SwathError
from swath.windows import IntArray

_READY = "ready\n"


@dataclass(frozen=True, slots=True)
class Job:
    """One way, one target, one batch. JSON values only: it travels to another process."""

    way: str
    target: str
    """A store, or ``file.h5::dataset`` for h5py and numpy.memmap."""
    windows: int
    window: int
    seed: int
    cold: bool
    memory_limit: int | None = None
    check_against: str | None = None
    """``file.h5::dataset`` with which the batch is compared, outside the time."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of a job showed."""

    seconds: float
    batch_bytes: int
    peak_bytes: int
    """The most memory that the process ever held, mapped pages of files included."""
    before_bytes: int
    """What it held before the gather."""
    checked: bool

    @property
    def gigabytes_a_second(self) -> float:
        """Wanted bytes, by 1e9, a second."""
        return self.batch_bytes / self.seconds / 1e9


def random_starts(n_rows: int, windows: int, window: int, seed: int) -> IntArray:
    """The same random starts for every way."""
    return np.random.default_rng(seed).integers(0, n_rows - window + 1, windows)


def measure(
    job: Job, program: Sequence[str] = ("-m", "swath.measure"), at_begin: Callable[[], object] | None = None
) -> Result:
    """Run a job in a new process: of this module, or of another ``program`` that calls `print_run` with ways of its own.

    ``at_begin`` is called when the process is ready, right before it begins.

    Raises
    ------
    SwathError
        The process failed; its last line of output says why.
    """
    what = f"The run of {job.way!r} on {job.target}"
    return Result(**told_by([*program, json.dumps(asdict(job))], what, at_begin))


def told_by(
    arguments: Sequence[str], what: str, at_begin: Callable[[], object] | None = None, most_s: float | None = None
) -> dict[str, Any]:
    """The last line, of JSON, that Python prints with these arguments, in a process that calls `wait_to_begin`; errors name ``what``.

    Raises
    ------
    SwathError
        As for `measure`.
    subprocess.TimeoutExpired
        It took longer than ``most_s``.
    """
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            if process.stdout.readline() == _READY and at_begin is not None:
                at_begin()
            output, _ = process.communicate(timeout=most_s)  # which closes its input: begin
        finally:
            process.kill()
        errors.seek(0)
        why = (errors.read().strip() or "no output").splitlines()[-1]
    if code := process.returncode:
        killed = f"was ended by signal {-code}" if code < 0 else f"failed ({code})"
        raise SwathError(f"{what} {killed}: {why}. Run it alone to see more.")
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    return told


def files_of(target: str) -> list[Path]:
    """The file of a target, or all files of a store, in the order of their names."""
    path = Path(target.partition("::")[0])
    return sorted(filter(Path.is_file, path.rglob("*") if path.is_dir() else [path]))


def drop_cache(target: str) -> None:
    """Have the kernel forget the pages of a file, or of all files of a store, that are on the disk already."""
    for file in files_of(target):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _gather(job: Job) -> NDArray[Any]:
    a = open_array(job.target)
    return a.gather(starts_of(job, len(a)), window=job.window, memory_limit=job.memory_limit)


def _compute(job: Job) -> NDArray[Any]:
    from swath.computing import compute

    a = open_array(job.target)
    lazy = a.windows(starts_of(job, len(a)), window=job.window, memory_limit=job.memory_limit)
    batch: NDArray[Any] = compute(lazy, memory_limit=job.memory_limit)
    return batch


def _h5py_loop(job: Job) -> NDArray[Any]:
    import h5py

    path, _, name = job.target.partition("::")
    with h5py.File(path, "r") as file:
        return loop(file[name], job)


def _memmap_loop(job: Job) -> NDArray[Any]:
    import h5py

    path, _, name = job.target.partition("::")
    with h5py.File(path, "r") as file:
        dataset = file[name]
        shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
    return loop(np.memmap(path, dtype, "r", offset, shape), job)


def _zarr_loop(job: Job) -> NDArray[Any]:
    import zarr

    return loop(zarr.open_array(job.target, mode="r"), job)


def loop(array: Any, job: Job) -> NDArray[Any]:
    """The loop that people write."""
    batch = np.empty((job.windows, job.window, *array.shape[1:]), array.dtype)
    for i, start in enumerate(starts_of(job, array.shape[0]).tolist()):
        batch[i] = array[start : start + job.window]
    return batch


def starts_of(job: Job, n_rows: int) -> IntArray:
    """The starts of a job in an array of ``n_rows``."""
    return random_starts(n_rows, job.windows, job.window, job.seed)


WAYS: dict[str, Callable[[Job], NDArray[Any]]] = {
    "swath gather": _gather,
    "swath compute": _compute,
    "numpy.memmap loop": _memmap_loop,
    "h5py loop": _h5py_loop,
    "zarr-python loop": _zarr_loop,
}


def run_job(job: Job, way: Callable[[Job], NDArray[Any]], at_begin: Callable[[], object] | None = None) -> Result:
    """Run a job in this process; ``at_begin`` is called right before the time begins."""
    if job.cold:
        drop_cache(job.target)
        # Imports, and all else that a first call does once, are no part of the time.
        way(replace(job, windows=1, seed=job.seed + 1))
    else:
        way(job)
    before = _status("VmRSS")
    if at_begin is not None:
        at_begin()
    begin = time.perf_counter()
    batch = way(job)
    seconds = time.perf_counter() - begin
    peak = _status("VmHWM")
    if job.check_against is not None:
        _check(batch, job)
    return Result(seconds, batch.nbytes, peak, before, job.check_against is not None)


def _check(batch: NDArray[Any], job: Job) -> None:
    import h5py

    path, _, name = str(job.check_against).partition("::")
    with h5py.File(path, "r") as file:
        dataset = file[name]
        for i, start in enumerate(starts_of(job, dataset.shape[0]).tolist()):
            if batch[i].tobytes() != dataset[start : start + job.window].tobytes():
                raise SwathError(f"Window {i} (rows {start} to {start + job.window - 1}) differs from h5py's.")


def _status(field: str) -> int:
    """A size from ``/proc/self/status``, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def print_run(ways: Mapping[str, Callable[[Job], NDArray[Any]]]) -> None:
    """Run the job on the command line, as `measure` starts it, and print its result."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(run_job(job, ways[job.way], wait_to_begin))))


def wait_to_begin() -> None:
    """Say to `told_by`, which started this process, that it is ready, and wait until it is told to begin."""
    print(_READY, end="", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    print_run(WAYS)
