"""Ingest beside ``cp`` of the same file: interleaved, cold and warm, medians.

python benchmarks/ingest.py                # 500_000 x 2000 float64: 8 GB, three times

Both are measured until their bytes are on the disk: an ingest always is, and ``cp`` is timed without and with ``sync``. Memory for the
pages of the new files is there (`host`).
Prints a table, and writes ``benchmarks/results/ingest.json``.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import h5py
import numpy as np
from host import HeldMemory
from machine import describe_machine
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table

import swath
from swath.demo import DemoSize, write_source
from swath.measure import drop_cache


@click.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@folder_option
@results_option
def main(rows: int, columns: int, rounds: int, folder: Path, results: Path) -> None:
    runs: list[dict[str, Any]] = []
    held = HeldMemory()
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        place = Path(name)
        for kind in ("h5", "npy"):
            source = place / f"source.{kind}"
            write_source(place / "source.h5", DemoSize(rows, columns, 0, 0))
            if kind == "npy":
                with h5py.File(place / "source.h5") as file:
                    array = np.lib.format.open_memmap(source, "w+", "f8", (rows, columns))
                    for i in range(0, rows, 4000):
                        array[i : i + 4000] = file["A"][i : i + 4000]
                    del array
                (place / "source.h5").unlink()
            for cold in (True, False):
                runs += [{"source": kind, "cold": cold, **_one_round(source, cold, held)} for _ in range(rounds)]
            source.unlink()
    size = rows * columns * 8
    table = Table(title=f"Writing {rows:,} x {columns} float64 ({size / 1e9:.1f} GB), GB/s, medians")
    for column in ("source", "cp", "cp and sync", "swath ingest", "against cp", "against cp and sync"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for kind in ("h5", "npy"):
        for cold in (True, False):
            some = [run for run in runs if (run["source"], run["cold"]) == (kind, cold)]
            cp, synced, ingest = (median(run[way] for run in some) for way in ("cp_s", "cp_and_sync_s", "ingest_s"))
            rates = (f"{size / seconds / 1e9:.2f}" for seconds in (cp, synced, ingest))
            table.add_row(
                f".{kind}, {'cold' if cold else 'warm'}", *rates, f"{cp / ingest:.2f}x", f"{synced / ingest:.2f}x"
            )
    Console(width=110).print(table)
    save(results, "ingest", {"machine": describe_machine(), "array": [rows, columns], "runs": runs})


def _one_round(source: Path, cold: bool, held: HeldMemory) -> dict[str, float]:
    copy, store = source.with_name("copy"), source.with_name("store.zarr")
    _prepare(source, cold, held)
    begin = time.perf_counter()
    subprocess.run(["cp", source, copy], check=True)
    cp_s = time.perf_counter() - begin
    os.sync()
    cp_and_sync_s = time.perf_counter() - begin
    copy.unlink()

    _prepare(source, cold, held)
    begin = time.perf_counter()
    swath.ingest(f"{source}::A" if source.suffix == ".h5" else source, store, progress=False)
    ingest_s = time.perf_counter() - begin
    shutil.rmtree(store)
    return {"cp_s": cp_s, "cp_and_sync_s": cp_and_sync_s, "ingest_s": ingest_s}


def _prepare(source: Path, cold: bool, held: HeldMemory) -> None:
    os.sync()
    if cold:
        drop_cache(str(source))
    else:
        subprocess.run(["cat", source], check=True, stdout=subprocess.DEVNULL)
    held.take(source.stat().st_size)
    held.give()


if __name__ == "__main__":
    main()
