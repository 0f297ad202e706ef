"""Does a loop that lasts grow? 100,000 batches through ``a.batches``, and the memory of the process that takes them.

python benchmarks/long_loop.py

A child takes the batches, of a store that fits in memory, epoch after epoch; what it holds (``VmRSS``, and of that what no file backs)
is read by the parent from ``/proc/<pid>/status``. The drift is the median of the last tenth of the samples by that of the
first; within 5 % is wanted. Prints a table, and writes ``benchmarks/results/long_loop.json``.
"""

import json
import select
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import click
from machine import describe_machine
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table
from targets import normal_rows, write_contiguous

import swath

_FIELDS = {"VmRSS": "all", "RssAnon": "without files"}
_WANTED = 0.05
_READY = "ready"


@click.command()
@click.option("--batches", default=100_000, show_default=True)
@click.option("--rows", default=20_000, show_default=True)
@click.option("--columns", default=64, show_default=True)
@click.option("--batch-size", default=8, show_default=True, help="Windows of 16 rows.")
@click.option("--interval-s", default=0.1, show_default=True, help="Between two samples.")
@click.option("--child", hidden=True, help="Take the batches of this store, in this process.")
@folder_option
@results_option
def main(
    batches: int,
    rows: int,
    columns: int,
    batch_size: int,
    interval_s: float,
    child: str | None,
    folder: Path,
    results: Path,
) -> None:
    if child is not None:
        _take(child, batches, batch_size)
        return
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        source = write_contiguous(Path(name) / "rows.h5", rows, normal_rows(columns))
        store = f"{name}/rows.zarr"
        swath.ingest(source, store, window=16, codec="raw", progress=False)
        command = [sys.executable, __file__, "--child", store, f"--batches={batches}", f"--batch-size={batch_size}"]
        seconds, samples = _watch(command, interval_s)
    tenth = max(1, len(samples["VmRSS"]) // 10)
    table = Table(
        title=f"{batches:,} batches of {batch_size} windows: {seconds:.1f} s, {batches / seconds:,.0f} a second"
    )
    for column in ("memory", "first tenth", "last tenth", "drift", "wanted", ""):
        table.add_column(column, justify="left" if column == "memory" else "right")
    figures = {}
    for field, what in _FIELDS.items():
        first, last = (median(some) for some in (samples[field][:tenth], samples[field][-tenth:]))
        drift = last / first - 1
        met = abs(drift) <= _WANTED
        figures[field] = {"first_bytes": first, "last_bytes": last, "drift": drift, "wanted": _WANTED, "met": met}
        sizes = (f"{first / 2**20:.1f} MiB", f"{last / 2**20:.1f} MiB")
        table.add_row(what, *sizes, f"{drift:+.1%}", f"{_WANTED:.0%}", "met" if met else "missed")
    Console(width=110).print(table)
    record = {"batches": batches, "array": [rows, columns], "batch_size": batch_size, "seconds": seconds}
    save(
        results,
        "long_loop",
        {"machine": describe_machine(), **record, "batches_a_second": batches / seconds, "figures": figures}
        | {"interval_s": interval_s, "samples": samples},
    )


def _take(store: str, batches: int, batch_size: int) -> None:
    a = swath.open(store)
    epochs = batches // len(a.batches(batch_size)) + 1
    loop = islice(a.batches(batch_size, epochs=epochs), batches)
    next(loop)
    print(_READY, flush=True)
    begin, taken = time.perf_counter(), 1
    for _ in loop:
        taken += 1
    print(json.dumps({"seconds": time.perf_counter() - begin, "batches": taken}), flush=True)


def _watch(command: list[str], interval_s: float) -> tuple[float, dict[str, list[int]]]:
    """Seconds that a child took, and what it held at each sample."""
    samples: dict[str, list[int]] = {field: [] for field in _FIELDS}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if child.stdout.readline().strip() != _READY:
            raise SystemExit("The child did not begin; see above.")
        status = Path(f"/proc/{child.pid}/status")
        while True:
            lines = dict(line.split(":") for line in status.read_text().splitlines())
            for field, values in samples.items():
                values.append(int(lines[field].split()[0]) * 1024)
            if select.select([child.stdout], [], [], interval_s)[0]:
                break
        last = child.stdout.readline()
    if child.returncode or not last:
        raise SystemExit(f"The child failed ({child.returncode}); see above.")
    return float(json.loads(last)["seconds"]), samples


if __name__ == "__main__":
    main()
