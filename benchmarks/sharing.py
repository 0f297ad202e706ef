"""What does it cost to hand a batch to another process, and how fast does one process feed several?

python benchmarks/sharing.py

- One batch of 1 MB and one of 256 MB: from before it is sent until another process has the array in hand. By ``swath.share``, whose
  handle travels through a pipe, by the next of ``swath.consume`` where the batch is there already, and by ``multiprocessing.Queue``.
  Filling the memory is not part of it: each way begins with a batch that is where it needs it, and with caches of the processor
  that hold nothing of use, as a batch of 256 MB leaves them.
- ``swath.serve_batches`` to 1, 2 and 4 consumers that use nothing of the batches, beside a loop of ``a.batches`` in one process: GB/s.

Prints tables, and writes ``benchmarks/results/sharing.json``.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from machine import describe_machine
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table
from targets import load

import swath

_CONTEXT = multiprocessing.get_context("spawn")
_WINDOW, _COLUMNS = 16, 2000
_WINDOW_BYTES = _WINDOW * _COLUMNS * 8
_QUEUE = "multiprocessing.Queue"
_SHARE = "swath.share, swath.attach"
_SERVE = "swath.serve_batches, swath.consume"


@click.command()
@click.option("--small-bytes", default=1_000_000, show_default=True, help="Size of the small batch.")
@click.option("--large-bytes", default=256_000_000, show_default=True, help="Size of the large batch.")
@click.option("--array-bytes", default=2_000_000_000, show_default=True, help="Size of the array that is served.")
@click.option("--served-bytes", default=64_000_000, show_default=True, help="Size of the batches that are served.")
@click.option("--epochs", default=4, show_default=True, help="How often each row is served.")
@rounds_option
@folder_option
@results_option
def main(
    small_bytes: int,
    large_bytes: int,
    array_bytes: int,
    served_bytes: int,
    epochs: int,
    rounds: int,
    folder: Path,
    results: Path,
) -> None:
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        handed = {
            way: {size: hand_over(size, rounds, Path(name)) for size in (small_bytes, large_bytes)}
            for way, hand_over in _WAYS.items()
        }
        rates = _rates(Path(name), array_bytes, served_bytes, epochs, rounds)
    table = Table(title="Until another process has the batch in hand, medians")
    for column in ("way", f"{small_bytes / 1e6:g} MB", f"{large_bytes / 1e6:g} MB", "large / small"):
        table.add_column(column)
    middle = {way: {size: median(times) for size, times in sizes.items()} for way, sizes in handed.items()}
    for way, sizes in middle.items():
        small, large = sizes[small_bytes], sizes[large_bytes]
        table.add_row(way, f"{small * 1e3:.3f} ms", f"{large * 1e3:.3f} ms", f"{large / small:.1f}")
    console = Console(width=110)
    console.print(table)
    queue = middle[_QUEUE][large_bytes]
    faster = {way: queue / middle[way][large_bytes] for way in (_SHARE, _SERVE)}
    for way, times in faster.items():
        console.print(f"{way}: {times:,.0f} times as fast as a queue, where 50 are wanted")
    table = Table(title=f"Batches of {served_bytes / 1e6:g} MB from memory, medians")
    for column in ("way", "GB/s", "of the loop"):
        table.add_column(column)
    for way, found in rates.items():
        rate = median(found)
        table.add_row(way, f"{rate:.2f}", f"{rate / median(rates['loop of a.batches']):.0%}")
    console.print(table)
    record = {"handed_s": handed, "faster_than_queue": faster, "gigabytes_a_second": rates}
    save(results, "sharing", {"machine": describe_machine(), **record})


def _by_queue(size: int, rounds: int, folder: Path) -> list[float]:
    queue: Any = _CONTEXT.Queue()
    answers, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_take_queued, args=(queue, theirs, rounds + 1))
    process.start()
    batch = np.ones(size // 8)
    seconds = []
    for _ in range(rounds + 1):
        _fill_caches()
        begin = time.perf_counter()
        queue.put(batch)
        seconds.append(answers.recv() - begin)
    process.join()
    return seconds[1:]  # the first also pays for what is done once


def _fill_caches() -> None:
    np.ones(2**25).sum()


def _take_queued(queue: Any, answers: Connection, times: int) -> None:
    for _ in range(times):
        batch = queue.get()
        # This clock is the same for all processes of a machine.
        answers.send(time.perf_counter())
        assert batch[-1] == 1


def _by_handle(size: int, rounds: int, folder: Path) -> list[float]:
    mine, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_take_attached, args=(theirs, rounds + 1))
    process.start()
    seconds = []
    for _ in range(rounds + 1):
        with swath.share(np.ones(size // 8)) as shared:
            _fill_caches()
            begin = time.perf_counter()
            mine.send(shared.handle)
            seconds.append(mine.recv() - begin)
    process.join()
    return seconds[1:]


def _take_attached(connection: Connection, times: int) -> None:
    for _ in range(times):
        with swath.attach(connection.recv()) as attached:
            last = attached.array[-1]
            connection.send(time.perf_counter())
            assert last == 1


def _by_server(size: int, rounds: int, folder: Path) -> list[float]:
    windows = max(1, size // _WINDOW_BYTES)
    a = _array(folder / f"one-{size}", (windows + 1) * _WINDOW_BYTES)
    batches = a.batches(windows, starts=np.zeros(windows, np.int64), epochs=rounds + 3)
    mine, theirs = _CONTEXT.Pipe()
    with swath.serve_batches(batches, slots=2) as server:
        process = _CONTEXT.Process(target=_take_served, args=(server.handle, theirs, rounds + 1))
        process.start()
        seconds: list[float] = mine.recv()
        process.join()
    return seconds[1:]


def _take_served(handle: Any, answers: Connection, times: int) -> None:
    seconds = []
    with swath.consume(handle) as consumer:
        next(consumer)
        for _ in range(times):
            time.sleep(0.5)  # until the next is there
            begin = time.perf_counter()
            batch = next(consumer)
            assert batch[-1, -1, -1] == 1
            seconds.append(time.perf_counter() - begin)
    answers.send(seconds)


_WAYS: dict[str, Callable[[int, int, Path], list[float]]] = {
    _QUEUE: _by_queue,
    _SHARE: _by_handle,
    _SERVE: _by_server,
}


def _array(path: Path, n_bytes: int) -> swath.RowArray:
    n_rows = max(n_bytes // (_COLUMNS * 8), 4 * _WINDOW)
    blocks = (np.ones((min(4096, n_rows - i), _COLUMNS)) for i in range(0, n_rows, 4096))
    a = swath.ingest(blocks, path, window=_WINDOW, codec="raw", progress=False)
    load(a.url)
    return a


def _rates(folder: Path, array_bytes: int, served_bytes: int, epochs: int, rounds: int) -> dict[str, list[float]]:
    a = _array(folder / "served", array_bytes)
    size = max(1, served_bytes // _WINDOW_BYTES)
    starts = np.arange(len(a) // _WINDOW) * _WINDOW
    wanted_bytes = starts.size * _WINDOW_BYTES * epochs
    rates: dict[str, list[float]] = {"loop of a.batches": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        for _batch in a.batches(size, starts=starts, epochs=epochs):
            pass
        rates["loop of a.batches"].append(wanted_bytes / (time.perf_counter() - begin) / 1e9)
        for n in (1, 2, 4):
            seconds = _serve(a.batches(size, starts=starts, epochs=epochs), n)
            rates.setdefault(f"served to {n}", []).append(wanted_bytes / seconds / 1e9)
    return rates


def _serve(batches: swath.Batches[Any], consumers: int) -> float:
    """Seconds from before the server is there until each consumer has had its last batch."""
    pipes = [_CONTEXT.Pipe() for _ in range(consumers)]
    processes = [_CONTEXT.Process(target=_use, args=(theirs, i)) for i, (_, theirs) in enumerate(pipes)]
    for process in processes:
        process.start()
    for mine, _ in pipes:
        mine.recv()
    begin = time.perf_counter()
    with swath.serve_batches(batches, consumers=consumers, slots=2) as server:
        for mine, _ in pipes:
            mine.send(server.handle)
        found = [mine.recv() for mine, _ in pipes]
        server.join()
    for process in processes:
        process.join()
    if sum(count for count, _ in found) != len(batches):
        raise SystemExit("Not all batches came.")
    return float(max(end for _, end in found) - begin)


def _use(connection: Connection, i: int) -> None:
    connection.send("ready")
    count = 0
    for batch in swath.consume(connection.recv(), consumer=i):
        assert batch[-1, -1, -1] == 1
        count += 1
    connection.send((count, time.perf_counter()))


if __name__ == "__main__":
    main()
