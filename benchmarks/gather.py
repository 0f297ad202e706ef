"""swath beside what people use today, on the same data: interleaved, cold and warm, medians.

python benchmarks/gather.py                # 500_000 x 2000 float64: six targets of 8 GB each
python benchmarks/gather.py --rows 100000  # smaller
python benchmarks/gather.py --only swath --only h5py

Prints a table of all ways, and one of the ratios that are wanted, met or missed; writes ``gather.json`` and ``gather.png`` to
``benchmarks/results/``, after each round. Each run is a process of its own, so that its peak memory is the kernel's count (see
`swath.measure`); before each cold one the host's cache is filled with other bytes, and memory that the host has given is held for each
(`host`). A ratio is swath's median rate by that of another way.

First each way gathers a few windows from memory, and its batch is compared with h5py's, byte for byte. A way that takes
over 1 ms a window there is slow: a tenth of the windows tells its rate. That is a little to its harm when cold: of 10_000
windows of 16 rows in 500_000 rows, 14 % of the rows are in memory already when their window comes; of 1000, 2 %. And
zarr-python's ``oindex`` joins what lies less than 1 MiB apart, of which there is more among many windows.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
from fio import Rate, random_read
from host import HeldMemory, flood
from machine import PEER_PACKAGES, describe_machine
from matplotlib.figure import Figure
from peers import PROGRAM
from report import folder_option, plain_log, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table
from targets import load, write_targets
from wanted import Rates, judge, wanted_table

import swath
from swath.measure import Job, Result, drop_cache, measure

_WINDOW = 16
_SLOW_S = 1e-3
# Of a hundred windows, what opening costs is far below the bound.
_PROBE_WINDOWS = 100

_OURS = "swath gather"
_DISK = "fio, 256 KiB direct, queue 32"
_FLOORS = ("bare preadv", _DISK)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: a way of `peers`, on a target of `targets`."""

    label: str
    way: str
    target: str


ENTRIES = (
    Entry(_OURS, "swath gather", "raw"),
    Entry("swath gather, verify never", "swath gather, verify never", "raw"),
    Entry("swath compute", "swath compute", "raw"),
    Entry("swath gather, lz4", "swath gather", "lz4"),
    Entry("swath in place (contiguous HDF5)", "swath gather", "contiguous"),
    Entry("swath in place (chunked HDF5)", "swath gather", "chunked"),
    Entry("bare preadv", "bare preadv", "contiguous"),
    Entry("numpy.memmap loop", "numpy.memmap loop", "contiguous"),
    Entry("numpy.memmap loop, MADV_RANDOM", "numpy.memmap loop, MADV_RANDOM", "contiguous"),
    Entry("h5py loop, contiguous", "h5py loop", "contiguous"),
    Entry("h5py loop, chunks of a window", "h5py loop", "chunked"),
    Entry("tensorstore, 64 futures", "tensorstore, 64 futures", "raw"),
    Entry("tensorstore, 64 futures, direct I/O", "tensorstore, 64 futures, direct I/O", "raw"),
    Entry("tensorstore, one Batch", "tensorstore, one Batch", "raw"),
    Entry("tensorstore, index array", "tensorstore, index array", "raw"),
    Entry("blosc2 loop, raw", "blosc2 loop", "blosc2 raw"),
    Entry("blosc2 loop, mapped, raw", "blosc2 loop, mapped", "blosc2 raw"),
    Entry("blosc2, index array, raw", "blosc2, index array", "blosc2 raw"),
    Entry("blosc2 loop, lz4", "blosc2 loop", "blosc2 lz4"),
    Entry("blosc2 loop, mapped, lz4", "blosc2 loop, mapped", "blosc2 lz4"),
    Entry("blosc2, index array, lz4", "blosc2, index array", "blosc2 lz4"),
    Entry("zarr-python loop", "zarr-python loop", "raw"),
    Entry("zarr-python oindex", "zarr-python oindex", "raw"),
    Entry("zarr-python loop, fused pipeline", "zarr-python loop, fused pipeline", "raw"),
    Entry("zarr-python oindex, fused pipeline", "zarr-python oindex, fused pipeline", "raw"),
    Entry("zarrs loop", "zarrs loop", "raw"),
    Entry("zarrs, 64 at once", "zarrs, 64 at once", "raw"),
    Entry("dask take", "dask take", "raw"),
    Entry("dask delayed blocks", "dask delayed blocks", "raw"),
)

Runs = dict[tuple[str, bool], list[Result]]
"""Results by the label of the way, and by whether its data were cold."""


@click.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--windows", default=10_000, show_default=True)
@click.option("--only", multiple=True, help="Only ways whose name begins so; may be given again.")
@rounds_option
@folder_option
@results_option
def main(
    rows: int, columns: int, windows: int, only: tuple[str, ...], rounds: int, folder: Path, results: Path
) -> None:
    entries = [entry for entry in ENTRIES if entry.label.startswith(only or "")]
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        targets = write_targets(Path(name), rows, columns, _WINDOW)
        counts = {entry.label: _probe(entry, targets, windows) for entry in entries}
        runs: Runs = {(entry.label, cold): [] for cold in (True, False) for entry in entries}
        disk: list[Rate] = []
        # For the batch, copies that a way makes, and, when cold, for the pages that it reads.
        batch_bytes = windows * _WINDOW * columns * 8
        memory = {True: 3 * batch_bytes, False: 3 * batch_bytes // 2}
        lazy = swath.open(targets["raw"]).windows(range(0, rows - _WINDOW, max(1, rows // windows))[:windows])
        tasks = len(lazy.dask)
        title = f"{windows:,} random windows of {_WINDOW} rows from {rows:,} x {columns} float64"
        source = Path(targets["contiguous"].partition("::")[0])
        for seed in range(rounds):
            for cold in (True, False):
                _run_round(entries, targets, counts, seed, rounds, cold, memory[cold], runs)
            flood(targets["raw"])
            disk.append(random_read(source, batch_bytes, seed=seed))
            rates = {key: [result.gigabytes_a_second for result in some] for key, some in runs.items()}
            rates[_DISK, True] = [rate.gigabytes_a_second for rate in disk]
            # After each round, since all of them take an hour.
            record = {
                "machine": describe_machine(*PEER_PACKAGES),
                "array": [rows, columns],
                "windows": windows,
                "window": _WINDOW,
                "tasks": tasks,
                "wanted": judge(rates),
                "disk": [asdict(rate) for rate in disk],
                "runs": [
                    {
                        **asdict(entry),
                        "cold": cold,
                        "windows": counts[entry.label],
                        "results": [asdict(r) for r in some],
                    }
                    for entry in entries
                    for cold in (True, False)
                    for some in [runs[entry.label, cold]]
                ],
            }
            save(results, "gather", record, _plot(title, rates))
    console = Console(width=110)
    console.print(_way_table(title, rates, runs, counts, windows))
    console.print(f"Disk: {disk[0].tool}. Tasks in the dask graph of {windows:,} windows: {tasks}.")
    console.print(wanted_table(judge(rates)))


def _probe(entry: Entry, targets: dict[str, str], windows: int) -> int:
    """How many windows this way shall gather; its batch is checked here."""
    n, target = min(windows, _PROBE_WINDOWS), targets[entry.target]
    load(target)
    job = Job(entry.way, target, n, _WINDOW, seed=0, cold=False, check_against=targets["contiguous"])
    slow = measure(job, PROGRAM).seconds / n > _SLOW_S
    return max(1, windows // 10) if slow else windows


def _run_round(
    entries: list[Entry],
    targets: dict[str, str],
    counts: dict[str, int],
    seed: int,
    rounds: int,
    cold: bool,
    memory: int,
    runs: Runs,
) -> None:
    """Every way once. All targets would not fit in memory: one is warm while its own ways run."""
    held = HeldMemory()
    for name, target in targets.items():
        for each in targets.values():
            drop_cache(each)
        own = [entry for entry in entries if entry.target == name]
        click.echo(f"Round {seed}, {'cold' if cold else 'warm'}: {len(own)} ways of {name}", err=True)
        other = targets["raw" if name == "contiguous" else "contiguous"]
        # The disk may be slower for those who come late: each way has a turn in each part of a round.
        turn = seed * len(own) // rounds
        for entry in own[turn:] + own[:turn]:
            if cold:
                flood(other)
            else:
                load(target)
            job = Job(entry.way, target, counts[entry.label], _WINDOW, seed, cold)
            held.take(memory)
            runs[entry.label, cold].append(measure(job, PROGRAM, held.give))


def _way_table(title: str, rates: Rates, runs: Runs, counts: dict[str, int], windows: int) -> Table:
    table = Table(
        title=f"{title}: GB/s of wanted bytes, medians; ratio: {_OURS} against this way",
        caption="*: slow, so a tenth of the windows",
    )
    for name in ("way", "cold", "ratio", "warm", "ratio", "peak memory"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in dict.fromkeys(way for way, _ in rates):
        star = "*" if counts.get(way, windows) < windows else ""
        peaks = [result.peak_bytes for cold in (True, False) for result in runs.get((way, cold), [])]
        cells = [cell for cold in (True, False) for cell in _cells(rates, way, cold)]
        table.add_row(f"{way}{star}", *cells, f"{max(peaks) / 1e9:.2f} GB" if peaks else "")
    return table


def _cells(rates: Rates, way: str, cold: bool) -> tuple[str, str]:
    """The rate, and how much faster swath is; empty for what was not measured."""
    if (way, cold) not in rates:
        return "", ""
    rate, ours = median(rates[way, cold]), rates.get((_OURS, cold))
    return f"{rate:.2f}", f"{median(ours) / rate:.1f}x" if ours else ""


def _plot(title: str, rates: Rates) -> Figure:
    """Rate of each way, warm and cold, median with least and most; beside it by how much swath is faster."""
    ways = list(dict.fromkeys(way for way, _ in rates))[::-1]
    figure = Figure(figsize=(13, 0.3 * len(ways) + 1.6), layout="constrained")
    figure.suptitle(f"{title}: median, and least to most, of {max(map(len, rates.values()))} runs")
    for ax, cold in zip(figure.subplots(1, 2, sharey=True, sharex=True), (False, True)):
        for y, way in enumerate(ways):
            some = rates.get((way, cold))
            if some:
                color = "tab:red" if way.startswith("swath") else "tab:gray" if way in _FLOORS else "tab:blue"
                ax.plot([min(some), max(some)], [y, y], color=color, linewidth=2)
                ax.plot(median(some), y, "o", color=color)
                rate, ratio = _cells(rates, way, cold)
                text = f"{rate}  ({ratio})" if ratio else rate
                ax.annotate(text, (max(some), y), (6, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_title("Cold: page cache dropped" if cold else "Warm: data in the page cache")
        ax.set_xlabel(f"GB/s of wanted bytes (in brackets: {_OURS} is faster by)")
        ax.set_yticks(range(len(ways)), ways)
        plain_log(ax, "x")
        ax.margins(x=0.25)
    return figure


if __name__ == "__main__":
    main()
