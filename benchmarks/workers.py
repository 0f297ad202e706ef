"""What do more worker processes give where the disk is read, and how much of a run is the scheduler's?

python benchmarks/workers.py                 # 250_000 x 2000 float64, 10_000 windows of 16 rows, workers of one thread
python benchmarks/workers.py --rows 20000    # smaller

1, 2 and 4 workers in turn gather windows for the client, which lands them in memory, and means of windows, which stay small; from a disk
whose cache was dropped, and from memory. Then as many tasks that make nothing go the same way: that is the scheduler's share.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from machine import describe_machine
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table

import swath
from swath.measure import drop_cache, random_starts

_COLUMNS, _WINDOW, _BLOCK_ROWS = 2000, 16, 5000
_MOST_SHARE = 0.1

_WAYS: dict[str, Callable[[da.Array], da.Array]] = {
    "windows, to the client": lambda lazy: lazy,
    "their means": lambda lazy: lazy.mean(axis=1),
}


@click.command()
@click.option("--rows", default=250_000, show_default=True)
@click.option("--windows", default=10_000, show_default=True)
@click.option("--workers", "counts", default=(1, 2, 4), show_default=True, multiple=True)
@rounds_option
@folder_option
@results_option
def main(rows: int, windows: int, counts: tuple[int, ...], rounds: int, folder: Path, results: Path) -> None:
    runs = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        url = f"{place}/rows"
        block = np.random.default_rng(0).normal(size=(_BLOCK_ROWS, _COLUMNS))
        swath.ingest(((block + k)[: rows - k] for k in range(0, rows, _BLOCK_ROWS)), url)
        for seed in range(rounds):
            for workers in counts:
                runs += _run(url, windows, workers, seed)
                print(f"round {seed}, workers: {workers}", flush=True)
    _print(runs)
    shape = {"rows": rows, "columns": _COLUMNS, "window": _WINDOW, "windows": windows}
    save(results, "workers", {"machine": describe_machine("distributed"), **shape, "runs": runs})


def _run(url: str, windows: int, workers: int, seed: int) -> list[dict[str, Any]]:
    """Both ways, cold and then warm, by workers that have done the same with other windows before."""
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
    )
    runs = []
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        a = swath.open(url)
        few, starts = (random_starts(len(a), n, _WINDOW, k) for n, k in ((windows // 10, seed + 1000), (windows, seed)))
        for name, way in _WAYS.items():
            lazy = a.windows(starts)
            blocks = lazy.numblocks[0]
            _seconds(way(a.windows(few, block=-(-few.size // blocks))), client)
            nothing = way(da.zeros((blocks, 2), chunks=(1, 2)))
            _seconds(nothing + 0, client)
            drop_cache(url)
            cold_s, warm_s, scheduler_s = (_seconds(each, client) for each in (way(lazy), way(lazy), nothing))
            runs.append(
                {
                    "way": name,
                    "workers": workers,
                    "blocks": blocks,
                    "cold_s": cold_s,
                    "warm_s": warm_s,
                    "scheduler_s": scheduler_s,
                }
            )
    return runs


def _seconds(lazy: da.Array, client: Client) -> float:
    begin = time.perf_counter()
    swath.compute(lazy, scheduler=client, progress=False)
    return time.perf_counter() - begin


def _print(runs: list[dict[str, Any]]) -> None:
    table = Table(
        *("way", "workers", "tasks", "cold s", "warm s", "scheduler s", "share"),
        title=f"The scheduler's share of a cold run; wanted: <= {_MOST_SHARE:.0%}",
    )
    for name in _WAYS:
        some = [run for run in runs if run["way"] == name]
        for workers in sorted({run["workers"] for run in some}):
            mine = [run for run in some if run["workers"] == workers]
            cold, warm, scheduler = _medians(mine)
            figures = f"{cold:.2f}", f"{warm:.2f}", f"{scheduler:.3f}", f"{scheduler / cold:.1%}"
            table.add_row(name, str(workers), str(mine[0]["blocks"]), *figures)
    Console().print(table)


def _medians(runs: list[dict[str, Any]]) -> tuple[float, float, float]:
    cold, warm, scheduler = (median(run[name] for run in runs) for name in ("cold_s", "warm_s", "scheduler_s"))
    return cold, warm, scheduler


if __name__ == "__main__":
    main()
