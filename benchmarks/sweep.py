"""How the cost of a gather grows, one thing at a time: swath beside a bare preadv loop, warm and cold.

python benchmarks/sweep.py                          # arrays of 4 GB, batches of at most 1 GB; about an hour
python benchmarks/sweep.py --only windows --only threads

- windows: 10 to 1,000,000 of 16 rows of 64 B
- window: 1 to 4096 rows of 16 kB
- row: 8 B to 1 MB, in windows of 16 rows
- chunk: 1 to 256 rows of 16 kB, in windows of 16 rows; the floor has no chunks, and shows how the machine drifts
- threads: 1 to 64, for windows of 16 rows of 16 kB; swath chooses this number itself (see `peers.swath_threads`)

What is not swept stays as it is; there are as many windows as fill the batch, and at most 100,000. A point whose window
is larger than the batch is left out. Writes ``sweep.json`` and ``sweep.png`` to ``benchmarks/results/``.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click
from machine import describe_machine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import PROGRAM, THREADS
from report import folder_option, plain_log, results_option, save
from rich.console import Console
from rich.table import Table
from targets import load, normal_rows, write_contiguous

import swath
from swath.measure import Job, Result, measure

_WINDOW, _ROW_BYTES, _SMALL_ROW_BYTES = 16, 16_000, 64
_MOST_WINDOWS = 100_000


@dataclass(frozen=True, slots=True)
class Point:
    """One set of sizes."""

    sweep: str
    x: int
    """The size that is swept."""
    row_bytes: int = _ROW_BYTES
    window: int = _WINDOW
    chunk_rows: int | Literal["auto"] = "auto"
    windows: int | None = None
    """As many as fill the batch if None."""
    threads: int | None = None

    @property
    def ways(self) -> tuple[str, str]:
        """swath, and the floor."""
        suffix = "" if self.threads is None else f", threads {self.threads}"
        return f"swath gather{suffix}", f"bare preadv{suffix}"

    def count(self, array_bytes: int, batch_bytes: int) -> int:
        """Windows of the batch; none where a window fits into neither the batch nor the array."""
        window_bytes = self.window * self.row_bytes
        most = min(batch_bytes, array_bytes) // window_bytes
        return min(most, _MOST_WINDOWS) if self.windows is None else self.windows if self.windows <= most else 0


POINTS = (
    *(Point("windows", n, row_bytes=_SMALL_ROW_BYTES, windows=n) for n in (10**k for k in range(1, 7))),
    *(Point("window", rows, window=rows) for rows in (4**k for k in range(7))),
    *(Point("row", size, row_bytes=size) for size in (8, 64, 512, 4096, 32_768, 262_144, 1_048_576)),
    *(Point("chunk", rows, chunk_rows=rows) for rows in (2**k for k in range(9))),
    *(Point("threads", n, threads=n) for n in THREADS),
)
_LABELS = {
    "windows": ("windows", "16 rows of 64 B each"),
    "window": ("rows of a window", "rows of 16 kB"),
    "row": ("bytes of a row", "windows of 16 rows"),
    "chunk": ("rows of a chunk", "windows of 16 rows of 16 kB"),
    "threads": ("threads", "windows of 16 rows of 16 kB"),
}


@click.command()
@click.option("--array-bytes", default=4_000_000_000, show_default=True, help="Size of each array.")
@click.option("--batch-bytes", default=1_024_000_000, show_default=True, help="Most bytes of a batch.")
@click.option("--only", multiple=True, type=click.Choice(tuple(_LABELS)), help="Only this sweep; may be given again.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each point, interleaved with the floor's.")
@folder_option
@results_option
def main(array_bytes: int, batch_bytes: int, only: tuple[str, ...], rounds: int, folder: Path, results: Path) -> None:
    points = [point for point in POINTS if point.sweep in (only or _LABELS) and point.count(array_bytes, batch_bytes)]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        for point, source, store in _stores(points, array_bytes, Path(name)):
            count = point.count(array_bytes, batch_bytes)
            for cold in (False, True):
                measured = _measure(point, source, store, count, cold, rounds)
                for way, some in zip(("swath", "preadv"), measured):
                    times = [asdict(result) for result in some]
                    runs.append({**asdict(point), "windows": count, "cold": cold, "way": way, "results": times})
    runs.sort(key=lambda run: (list(_LABELS).index(run["sweep"]), run["x"]))
    Console(width=110).print(_table(runs))
    sizes = {"array_bytes": array_bytes, "batch_bytes": batch_bytes}
    save(results, "sweep", {"machine": describe_machine(), **sizes, "runs": runs}, _plot(runs))


def _stores(points: list[Point], array_bytes: int, folder: Path) -> Iterator[tuple[Point, str, str]]:
    """Each point with its array, bare and as a store. There is one of each at a time."""

    def by_row(point: Point) -> int:
        return point.row_bytes

    for row_bytes, alike in groupby(sorted(points, key=by_row), by_row):
        source = write_contiguous(folder / "source.h5", array_bytes // row_bytes, normal_rows(row_bytes // 8))
        made: tuple[int, int | str] | None = None
        for point in alike:
            store = folder / "store.zarr"
            if made != (point.window, point.chunk_rows):
                shutil.rmtree(store, ignore_errors=True)
                swath.ingest(
                    source, store, window=point.window, chunk_rows=point.chunk_rows, codec="raw", progress=False
                )
                made = point.window, point.chunk_rows
            yield point, source, str(store)
        shutil.rmtree(store)


def _measure(point: Point, source: str, store: str, count: int, cold: bool, rounds: int) -> tuple[list[Result], ...]:
    """swath's results, and the floor's. Each batch of swath's first round is compared with h5py's."""
    measured: tuple[list[Result], ...] = ([], [])
    for seed in range(rounds):
        for way, target, results in zip(point.ways, (store, source), measured):
            if not cold:
                load(target)
            check = source if seed == 0 and not cold else None
            results.append(measure(Job(way, target, count, point.window, seed, cold, check_against=check), PROGRAM))
    return measured


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table(title="GB/s of wanted bytes, medians")
    for name in ("sweep", "", "windows", "swath warm", "preadv warm", "swath cold", "preadv cold", "ms a window"):
        table.add_column(name, justify="left" if name == "sweep" else "right")
    for (sweep, x), some in groupby(runs, lambda run: (run["sweep"], run["x"])):
        four = list(some)
        rates = [f"{median(_rates(run)):.2f}" for run in four]
        milliseconds = median(result["seconds"] for result in four[0]["results"]) / four[0]["windows"] * 1e3
        table.add_row(_LABELS[sweep][0], f"{x:,}", f"{four[0]['windows']:,}", *rates, f"{milliseconds:.4f}")
    return table


def _rates(run: dict[str, Any]) -> list[float]:
    return [Result(**result).gigabytes_a_second for result in run["results"]]


def _plot(runs: list[dict[str, Any]]) -> Figure:
    """A panel for each sweep: median rates, with a band from the least to the most."""
    sweeps = list(dict.fromkeys(run["sweep"] for run in runs))
    lines = -(-len(sweeps) // 3)
    figure = Figure(figsize=(14, 4.2 * lines + 0.6), layout="constrained")
    figure.suptitle("What a gather costs as one size grows: median, and least to most")
    panels = figure.subplots(lines, 3, squeeze=False).ravel()
    for ax, sweep in zip(panels, sweeps):
        xs = _draw_lines(ax, [run for run in runs if run["sweep"] == sweep])
        plain_log(ax, "x", "y")
        ax.set_xticks(xs, [_short(x) for x in xs])
        ax.set(title=_LABELS[sweep][1], xlabel=_LABELS[sweep][0], ylabel="GB/s of wanted bytes")
    for ax in panels[len(sweeps) :]:
        ax.axis("off")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_lines(ax: Axes, runs: list[dict[str, Any]]) -> list[int]:
    for way, label, color in (("swath", "swath gather", "tab:red"), ("preadv", "bare preadv", "tab:gray")):
        for cold, style in ((False, "o-"), (True, "s--")):
            some = [run for run in runs if (run["way"], run["cold"]) == (way, cold)]
            xs, rates = [run["x"] for run in some], [_rates(run) for run in some]
            label_in_full = f"{label}, {'cold' if cold else 'warm'}"
            ax.plot(xs, [median(r) for r in rates], style, color=color, markersize=4, label=label_in_full)
            ax.fill_between(xs, [min(r) for r in rates], [max(r) for r in rates], color=color, alpha=0.2, lw=0)
    return sorted({run["x"] for run in runs})


def _short(x: int) -> str:
    return f"{x / 1e6:.3g}M" if x >= 10**6 else f"{x / 1e3:.3g}k" if x >= 10**4 else str(x)


if __name__ == "__main__":
    main()
