"""The lazy way beside the gather, and beside what people do with dask, on the same store, warm.

python benchmarks/lazy.py                # 250_000 x 2000 float64, 10_000 windows of 16 rows
python benchmarks/lazy.py --rows 20000   # smaller

Each run is a process of its own, with dask's threads. Ways that take over a millisecond a window gather fewer windows. Then 10^7
windows are made lazily, and the graph is measured: seconds, tasks, bytes as they travel, and the share of their gather.
"""

import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from machine import describe_machine
from numpy.typing import NDArray
from peers import PROGRAM
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table

import swath
from swath.measure import Job, measure

_WINDOW = 16
_OURS = "swath windows().compute()"
# Windows of each way, as a share of those that are asked, and by how much it shall be slower.
_WAYS: dict[str, tuple[float, float | None]] = {
    "swath gather": (1.0, 0.85),
    _OURS: (1.0, None),
    "dask.compute of windows()": (1.0, None),
    "dask delayed blocks": (0.1, 20.0),
    "dask take": (0.1, 50.0),
    "dask stack of slices": (0.02, 100.0),
}
_MANY = 10**7


@click.command()
@click.option("--rows", default=250_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--windows", default=10_000, show_default=True)
@click.option("--many", default=_MANY, show_default=True, help="Windows of the graph that is looked at.")
@rounds_option
@folder_option
@results_option
def main(rows: int, columns: int, windows: int, many: int, rounds: int, folder: Path, results: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        url = f"{place}/rows"
        a = swath.ingest(_blocks(rows, columns), url)
        rates: dict[str, list[float]] = {way: [] for way in _WAYS}
        for k in range(rounds):
            for way in sorted(_WAYS, reverse=k % 2 == 1):
                n = max(1, int(windows * _WAYS[way][0]))
                job = Job(way, url, n, _WINDOW, seed=k, cold=False)
                rates[way].append(measure(job, PROGRAM).gigabytes_a_second)
        graph = _graph(a, many, median(rates["swath gather"]))
    medians = {way: median(each) for way, each in rates.items()}
    _print(medians, graph)
    runs = {way: [round(rate, 4) for rate in each] for way, each in rates.items()}
    shape = {"rows": rows, "columns": columns, "window": _WINDOW, "windows": windows}
    save(results, "lazy", {"machine": describe_machine("distributed"), **shape, "rates": runs, "graph": graph})


def _blocks(rows: int, columns: int) -> Iterator[NDArray[Any]]:
    """Random rows, of which blocks of 5000 differ by a number."""
    block = np.random.default_rng(0).normal(size=(5000, columns))
    for first in range(0, rows, 5000):
        yield (block + first)[: rows - first]


def _graph(a: swath.RowArray, many: int, rate: float) -> dict[str, Any]:
    """What many windows cost before any is gathered; ``rate`` is that of a gather, in GB/s."""
    starts = np.random.default_rng(0).integers(0, len(a) - _WINDOW + 1, many)
    a.windows(starts[:1])  # the first call imports dask
    begin = time.perf_counter()
    lazy = a.windows(starts)
    seconds = time.perf_counter() - begin
    gather_seconds = lazy.nbytes / rate / 1e9
    return {
        "windows": many,
        "tasks": len(lazy.dask),
        "pickled_bytes": len(pickle.dumps(lazy, protocol=5)),
        "seconds": round(seconds, 4),
        "gather_seconds_at_measured_rate": round(gather_seconds, 1),
        "share": round(seconds / gather_seconds, 6),
    }


def _print(medians: dict[str, float], graph: dict[str, Any]) -> None:
    table = Table("way", "GB/s", "windows().compute() is", "wanted")
    for way, rate in medians.items():
        wanted = _WAYS[way][1]
        ratio = medians[_OURS] / rate
        verdict = "" if wanted is None else f">= {wanted:g}x {'met' if ratio >= wanted else 'missed'}"
        table.add_row(way, f"{rate:.3f}", f"{ratio:.2f}x", verdict)
    Console().print(table)
    print(
        f"{graph['windows']:,} windows: {graph['tasks']:,} tasks, {graph['pickled_bytes'] / 1e6:.1f} MB pickled, made in "
        f"{graph['seconds']:.3f} s, {graph['share']:.3%} of their gather"
    )


if __name__ == "__main__":
    main()
