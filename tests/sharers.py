"""What processes do that share batches, and are killed: here, since other processes can import this file."""

import contextlib
import os
import pickle
import signal
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import swath
from swath.errors import SharingError

WINDOW, COLUMNS, BATCH = 4, 16, 8
_MOST_SECONDS = 60
SHARED_BYTES = 2**24


def rows_of(n: int) -> NDArray[np.int64]:
    """Rows that say which they are."""
    return np.arange(n)[:, None] * 1000 + np.arange(COLUMNS)


def wanted(k: int, n: int) -> NDArray[np.int64]:
    """Batch ``k`` of all windows of ``n`` rows, as they lie."""
    windows = n - WINDOW + 1
    first = k % -(-windows // BATCH) * BATCH
    starts = np.arange(first, min(first + BATCH, windows))
    batch: NDArray[np.int64] = rows_of(n)[starts[:, None] + np.arange(WINDOW)]
    return batch


def crc(batch: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(batch))


def tell(path: Path, value: Any) -> None:
    """Write a value that others wait for."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(pickle.dumps(value))
    part.rename(path)


def hear(path: Path) -> Any:
    """A value that another writes."""
    deadline = time.monotonic() + _MOST_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.002)
    return pickle.loads(path.read_bytes())


def note(path: Path, *numbers: int) -> None:
    """Append numbers, at once."""
    with path.open("ab", buffering=0) as file:
        file.write(np.array(numbers, np.int64).tobytes())


def forks(folder: Path) -> None:
    """Leave a child behind that has all that this process has, and does nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if not pid:
        tell(folder / f"fork-{os.getpid()}", os.getpid())
        while True:
            signal.pause()


def serve(store: Path, folder: Path, fork: bool, options: dict[str, Any], epochs: int) -> None:
    """Serve all windows in their order, until all are taken."""
    batches = swath.open(store).batches(BATCH, seed=None, epochs=epochs)
    with swath.serve_batches(batches, **options) as server:
        if fork:
            forks(folder)
        tell(folder / "server", server.handle)
        server.join()
        tell(folder / "joined", True)


def consume(folder: Path, i: int, n: int, fork: bool, seconds: float) -> None:
    """Take batches; note those that were right, and how it ended."""
    log = folder / f"log-{i}"
    windows = n - WINDOW + 1
    expected = [crc(wanted(k, n)) for k in range(-(-windows // BATCH))]
    with contextlib.ExitStack() as stack:
        try:
            consumer = stack.enter_context(swath.consume(hear(folder / "server"), consumer=i))
            if fork:
                forks(folder)
            for batch in consumer:
                k = consumer.number
                assert k is not None
                if crc(batch) != expected[k % len(expected)]:
                    tell(folder / f"wrong-{i}-{k}", batch.copy())
                if seconds:
                    time.sleep(seconds)
                if crc(batch) != expected[k % len(expected)]:  # nobody has touched it meanwhile
                    tell(folder / f"torn-{i}-{k}", batch.copy())
                note(log, k)
            tell(folder / f"ended-{i}", "end")
        except SharingError as error:
            tell(folder / f"ended-{i}", str(error))


def create(folder: Path, fork: bool) -> None:
    """Share a batch, and keep it open."""
    with swath.share({"x": np.arange(SHARED_BYTES // 8), "é": np.arange(3.0)}) as shared:
        if fork:
            forks(folder)
        tell(folder / "shared", shared.handle)
        while True:
            signal.pause()


def attach(folder: Path, fork: bool) -> None:
    """Attach again and again, until it is gone."""
    handle = hear(folder / "shared")
    with contextlib.ExitStack() as stack:
        first: Any = None
        while True:
            try:
                attached = stack.enter_context(swath.attach(handle)) if first is None else swath.attach(handle)
            except SharingError:
                break
            if first is None:
                first = attached
                if fork:
                    forks(folder)
            if attached.arrays["x"][-1] != SHARED_BYTES // 8 - 1:
                tell(folder / "wrong-shared", attached.arrays["x"][-1])
            time.sleep(0.001)
        # What is attached stays, whoever has ended.
        if first is not None and not np.array_equal(first.arrays["x"], np.arange(SHARED_BYTES // 8)):
            tell(folder / "wrong-shared", "after the end")
        tell(folder / "ended-shared", True)


def status(field: str) -> int:
    """Bytes that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peaks(folder: Path) -> None:
    """Take all batches, and tell the most memory at a tenth of them and at the end."""
    found: list[int] = []
    with swath.consume(hear(folder / "server")) as consumer:
        for batch in consumer:
            assert int(batch[0, 0, 0]) % 1000 == 0
            assert consumer.number is not None
            if consumer.number in (100, 1000):
                found.append(status("VmHWM"))
    tell(folder / "peaks", [*found, status("VmHWM")])


def facts(handle: Any, path: Path) -> None:
    """Tell what somebody who attaches sees."""
    with swath.attach(handle) as attached:
        arrays = attached.arrays if attached.handle.form.names else {"": attached.array}
        tell(path, {name: (a.dtype, a.shape, a.tobytes(), a.flags.writeable) for name, a in arrays.items()})


def states(pid: int) -> list[str]:
    """Of each thread of a process, such as S for one that waits and T for one that is stopped."""
    return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]


def shared_memory() -> set[str]:
    """What is in /dev/shm, but for the semaphores of other programs."""
    return {path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.")}


def shmem() -> int:
    """Bytes of shared memory on this machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Shmem:"))
