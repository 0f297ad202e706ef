"""The disk itself: how many bytes a second come from random places of a file, with the page cache left out?

python benchmarks/fio.py              # a file of 4 GB
python benchmarks/fio.py --gigabytes 1

Uses ``fio`` if it is installed, and otherwise threads that read with O_DIRECT; the results say which. Prints a table of
queue depths, and writes ``benchmarks/results/fio.json``.
"""

import json
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
from machine import describe_machine
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table

from swath.measure import drop_cache

BLOCK_BYTES, QUEUE = 2**18, 32
_QUEUES = (1, 4, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Rate:
    """What the disk gave."""

    gigabytes_a_second: float
    tool: str


def random_read(path: Path, n_bytes: int, *, queue: int = QUEUE, block: int = BLOCK_BYTES, seed: int = 0) -> Rate:
    """Read ``n_bytes`` of a file in blocks at random places, ``queue`` of them in flight, past the page cache."""
    drop_cache(str(path))
    return (_by_fio if shutil.which("fio") else _by_threads)(path, n_bytes, queue, block, seed)


def _by_fio(path: Path, n_bytes: int, queue: int, block: int, seed: int) -> Rate:
    # The engine libaio keeps the queue full from one thread; offsets are aligned to the block, none is read twice.
    options = {
        "name": "random",
        "filename": str(path),
        "rw": "randread",
        "bs": block,
        "iodepth": queue,
        "io_size": n_bytes,
        "randseed": seed + 1,
        "direct": 1,
        "ioengine": "libaio",
        "output-format": "json",
    }
    command = ["fio", "--readonly", *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Rate(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"] / 1e9, "fio, libaio, direct")


def _by_threads(path: Path, n_bytes: int, queue: int, block: int, seed: int) -> Rate:
    blocks = path.stat().st_size // block
    places = np.random.default_rng(seed).permutation(blocks)[: max(1, n_bytes // block)].tolist()
    try:
        descriptor, tool = os.open(path, os.O_RDONLY | os.O_DIRECT), "Python threads, direct"
    except OSError:  # a file system in memory has no direct reads
        descriptor, tool = os.open(path, os.O_RDONLY), "Python threads, not direct: refused here"
    shared = iter(places)  # `next` on it is one step for the interpreter: threads share it without a lock

    def work() -> None:
        buffer = mmap.mmap(-1, block)  # direct reads want aligned memory: pages of its own
        for place in shared:
            os.preadv(descriptor, [buffer], place * block)

    begin = time.perf_counter()
    with ThreadPoolExecutor(queue) as pool:
        for future in [pool.submit(work) for _ in range(queue)]:
            future.result()
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    return Rate(len(places) * block / seconds / 1e9, tool)


@click.command()
@click.option(
    "--gigabytes", default=4.0, show_default=True, help="Size of the file; a quarter of it is read each time."
)
@rounds_option
@folder_option
@results_option
def main(gigabytes: float, rounds: int, folder: Path, results: Path) -> None:
    size = max(BLOCK_BYTES, int(gigabytes * 1e9) // BLOCK_BYTES * BLOCK_BYTES)
    rates: dict[int, list[Rate]] = {queue: [] for queue in _QUEUES}
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        path = Path(name) / "file"
        with path.open("wb") as file:
            for _ in range(size // BLOCK_BYTES):
                file.write(os.urandom(BLOCK_BYTES))
        for seed in range(rounds):
            for queue in _QUEUES:
                rates[queue].append(random_read(path, size // 4, queue=queue, seed=seed))
    tool = rates[QUEUE][0].tool
    table = Table(title=f"Random reads of {BLOCK_BYTES // 1024} KiB from {size / 1e9:.1f} GB ({tool}), GB/s, medians")
    for queue in _QUEUES:
        table.add_column(f"{queue} in flight", justify="right")
    table.add_row(*(f"{median(r.gigabytes_a_second for r in rates[queue]):.2f}" for queue in _QUEUES))
    Console(width=110).print(table)
    runs = [{"queue": queue, "rates": [asdict(rate) for rate in some]} for queue, some in rates.items()]
    save(results, "fio", {"machine": describe_machine(), "file_bytes": size, "block_bytes": BLOCK_BYTES, "runs": runs})


if __name__ == "__main__":
    main()
