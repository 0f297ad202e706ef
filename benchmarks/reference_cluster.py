"""The reference job on a dask cluster, all of it inside a memory cgroup: scheduler, workers and client.

sudo python benchmarks/reference_cluster.py                          # 32 GB ingested and gathered with 8, 4 and 2 GB: 65 GB of disk
sudo python benchmarks/reference_cluster.py --rows 100000 --limit 2GB

The source is written before, outside the group. In it, two worker processes ingest the source, and gather 10_000 windows of 16 rows, which
the client lands: in memory, or, where the limit is less than twice the batch, in a numpy.memmap. The batch is compared with the source.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from machine import describe_machine
from reference import in_group, make_group, oom_kills, remove_group, watch_rss
from report import folder_option, results_option, save

from swath.memory import format_bytes, parse_bytes

_COLUMNS, _WINDOW, _BLOCK_ROWS = 2000, 16, 5000


@click.command()
@click.option("--limit", "limits", multiple=True, default=("8GB", "4GB", "2GB"), show_default=True)
@click.option("--rows", default=2_000_000, show_default=True)
@click.option("--windows", default=10_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@folder_option
@results_option
def main(limits: tuple[str, ...], rows: int, windows: int, workers: int, folder: Path, results: Path) -> None:
    runs = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _write_source(f"{place}/rows.h5", rows)
        for limit in limits:
            runs.append(_run(Path(place), parse_bytes(limit), windows, workers))
            print(_describe(runs[-1]), flush=True)
    shape = {"rows": rows, "columns": _COLUMNS, "window": _WINDOW, "windows": windows, "workers": workers}
    save(results, "reference_cluster", {"machine": describe_machine("distributed"), **shape, "runs": runs})
    sys.exit(any(run["exit_status"] for run in runs))


def _write_source(path: str, rows: int) -> None:
    block = np.random.default_rng(0).normal(size=(_BLOCK_ROWS, _COLUMNS))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("A", (rows, _COLUMNS), "f8")
        for first in range(0, rows, _BLOCK_ROWS):
            dataset[first : first + _BLOCK_ROWS] = (block + first)[: rows - first]


def _run(place: Path, limit: int, windows: int, workers: int) -> dict[str, Any]:
    shutil.rmtree(place / "rows", ignore_errors=True)  # of the run before: the disk has no room for two
    group, is_v1 = make_group(limit)
    peak = {"rss": 0}
    ended = threading.Event()
    watcher = threading.Thread(target=watch_rss, args=(group, is_v1, peak, ended))
    watcher.start()
    begin = time.perf_counter()
    job = {"place": str(place), "windows": windows, "workers": workers, "limit": limit}
    try:
        command = in_group(group, [sys.executable, str(Path(__file__)), "--in-group", json.dumps(job)])
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - begin
    finally:
        ended.set()
        watcher.join()
        killed = oom_kills(group, is_v1)
        remove_group(group)
    measured = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    return {
        "limit_bytes": limit,
        "exit_status": done.returncode,
        "oom_kills": killed,
        "peak_rss_bytes": peak["rss"],
        "seconds": round(seconds, 1),
        **measured,
    }


def _describe(run: dict[str, Any]) -> str:
    steps = ", ".join(f"{name} {run[name]}" for name in ("ingest_s", "gather_s", "out", "block", "same") if name in run)
    return (
        f"Memory cgroup of {format_bytes(run['limit_bytes'])}: exit status {run['exit_status']}, {run['oom_kills']} out-of-memory kills, "
        f"anonymous memory of all processes {format_bytes(run['peak_rss_bytes'])} "
        f"({run['peak_rss_bytes'] / run['limit_bytes']:.2f} of the limit); {steps}; {run['seconds']} s in all."
    )


def job_in_group(place: str, windows: int, workers: int, limit: int) -> None:
    """The job itself, on a cluster that is told nothing of the group."""
    from distributed import Client, LocalCluster

    import swath

    source, url = f"{place}/rows.h5", f"{place}/rows"
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
    )
    with cluster, Client(cluster):  # type: ignore[no-untyped-call]
        begin = time.perf_counter()
        a = swath.ingest(f"{source}::A", url)
        ingested = time.perf_counter()
        starts = np.random.default_rng(1).integers(0, len(a) - _WINDOW + 1, windows)
        lazy = a.windows(starts)
        out = None
        if 2 * lazy.nbytes > limit:
            out = np.memmap(f"{place}/batch", lazy.dtype, "w+", shape=lazy.shape)
        batch = swath.compute(lazy, out=out)
        gathered = time.perf_counter()
    with h5py.File(source) as file:
        some = np.random.default_rng(2).choice(windows, min(windows, 300), replace=False).tolist()
        same = all(np.array_equal(batch[i], file["A"][starts[i] : starts[i] + _WINDOW]) for i in some)
    record = {
        "ingest_s": round(ingested - begin, 1),
        "gather_s": round(gathered - ingested, 1),
        "out": "memory" if out is None else "disk",
        "block": lazy.chunks[0][0],
        "same": same,
    }
    print(json.dumps(record))
    sys.exit(not same)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-group"]:
        job_in_group(**json.loads(sys.argv[2]))
    else:
        main()
