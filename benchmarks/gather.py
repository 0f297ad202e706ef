"""swath beside what people use today, on the same data: interleaved, cold and warm, medians.

python benchmarks/gather.py                # 500_000 x 2000 float64: 8 GB, and 8 GB for the store
python benchmarks/gather.py --rows 100000  # smaller

Prints a table with ratios, and writes ``benchmarks/results/gather.json``. Each run is a process of its own, so that its
peak memory is the kernel's count (see `swath.measure`).
"""

import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median

import click
from machine import describe_machine
from peers import PROGRAM
from rich.console import Console
from rich.table import Table

import swath
from swath.demo import DemoSize, write_source
from swath.measure import Job, Result, drop_cache, measure

_RESULTS = Path(__file__).parent / "results"
_WINDOW = 16
_STORE_WAYS = ("swath gather", "swath compute", "zarr-python loop")
_SOURCE_WAYS = (
    "bare preadv, unchecked",
    "numpy.memmap loop",
    "numpy.memmap, np.stack",
    "h5py loop",
    "h5py, np.stack",
)
# zarr-python's loop takes two milliseconds a window: a tenth of the windows tells its rate.
_SHARE = {"zarr-python loop": 10}


@click.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--windows", default=10_000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(), help="Where to work."
)
def main(rows: int, columns: int, windows: int, rounds: int, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        source, store = f"{name}/source.h5::A", f"{name}/store.zarr"
        write_source(Path(name) / "source.h5", DemoSize(rows, columns, windows, 0))
        swath.ingest(source, store, window=_WINDOW, progress=False)
        ways = {store: _STORE_WAYS, source: _SOURCE_WAYS}
        runs: dict[tuple[str, bool], list[Result]] = {
            (way, cold): [] for cold in (True, False) for some in ways.values() for way in some
        }
        for cold in (True, False):
            for seed in range(rounds):
                for target, some in ways.items():
                    # Both files and two batches would not fit in memory: a target is warm while its own ways run.
                    for path in ways:
                        drop_cache(path)
                    for way in some:
                        if not cold:
                            _load(target)
                        job = Job(way, target, windows // _SHARE.get(way, 1), _WINDOW, seed, cold)
                        runs[way, cold].append(measure(job, PROGRAM))
        a = swath.open(store)
        lazy = a.windows(range(0, rows - _WINDOW, max(1, rows // windows))[:windows])
        tasks = len(lazy.dask)
    Console(width=100).print(_table(runs, rows, columns, windows, tasks))
    _RESULTS.mkdir(exist_ok=True)
    record = {
        "machine": describe_machine(),
        "array": [rows, columns],
        "windows": windows,
        "window": _WINDOW,
        "tasks": tasks,
        "runs": [
            {"way": way, "cold": cold, "results": [asdict(r) for r in results]} for (way, cold), results in runs.items()
        ],
    }
    (_RESULTS / "gather.json").write_text(json.dumps(record, indent=1) + "\n")


def _load(target: str) -> None:
    """Read a file, or all files of a store, into the page cache."""
    path = Path(target.partition("::")[0])
    files = list(path.iterdir()) if path.is_dir() else [path]
    subprocess.run(["cat", *files], check=True, stdout=subprocess.DEVNULL)


def _table(runs: dict[tuple[str, bool], list[Result]], rows: int, columns: int, windows: int, tasks: int) -> Table:
    rate = {key: median(r.gigabytes_a_second for r in results) for key, results in runs.items()}
    table = Table(
        title=f"{windows:,} random windows of {_WINDOW} rows from {rows:,} x {columns} float64, GB/s of wanted bytes, medians; "
        "ratio: swath gather against this way",
        caption=f"The dask graph of {windows:,} windows has {tasks} tasks.",
    )
    for name in ("way", "cold", "ratio", "warm", "ratio", "peak memory"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in dict.fromkeys(way for way, _ in runs):
        cells = []
        for cold in (True, False):
            cells += [f"{rate[way, cold]:.2f}", f"{rate['swath gather', cold] / rate[way, cold]:.1f}x"]
        peak = max(r.peak_bytes for cold in (True, False) for r in runs[way, cold])
        table.add_row(way, *cells, f"{peak / 1e9:.2f} GB")
    return table


if __name__ == "__main__":
    main()
