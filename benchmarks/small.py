"""Where windows are many and small: what does planning cost, and is numpy faster?

python benchmarks/small.py

- 1,000,000 windows of 16 rows of 64 and of 256 B, warm: time of the plan as a share of the gather that makes one, and the bytes that a
  plan holds, and takes while it is made, for each window.
- 100,000 windows of one row of 8 B, warm: gathers in place, unchecked and checked, against ``memmap[starts]``, numpy's fancy
  indexing, of a memmap all of whose pages are mapped, which is its best case, and of one that is opened for the call.

All is timed in this one process, interleaved. Prints a table, and writes ``benchmarks/results/small.json``.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import h5py
import numpy as np
from machine import describe_machine
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table
from targets import load, normal_rows, write_contiguous

import swath
from swath.measure import random_starts
from swath.windows import IntArray

_ROW_BYTES = (64, 256)
_MAPPED = "numpy, fancy indexing of a mapped memmap"


@click.command()
@click.option("--array-bytes", default=1_000_000_000, show_default=True, help="Size of each array.")
@click.option("--windows", default=1_000_000, show_default=True, help="Windows of 16 rows.")
@click.option("--rows", default=100_000, show_default=True, help="Windows of one row of 8 B.")
@rounds_option
@folder_option
@results_option
def main(array_bytes: int, windows: int, rows: int, rounds: int, folder: Path, results: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        planning = {n: _planning(Path(name), array_bytes // n, n, windows, rounds) for n in _ROW_BYTES}
        one_row = _one_row(Path(name), array_bytes, rows, rounds)
    table = Table(title="Many small windows, warm, medians")
    for column in ("what", "figure"):
        table.add_column(column)
    for row_bytes, plans in planning.items():
        gather_s, plan_s = median(plans["gather_s"]), median(plans["plan_s"])
        table.add_row(f"{windows:,} windows of 16 rows of {row_bytes} B: gather", f"{gather_s * 1e3:.1f} ms")
        table.add_row("their plan alone", f"{plan_s * 1e3:.1f} ms, {plan_s / gather_s:.1%} of the gather")
        table.add_row("bytes that the plan holds", f"{plans['held_bytes'] / windows:.1f} a window")
        table.add_row("most bytes while it is made", f"{plans['peak_bytes'] / windows:.1f} a window")
    for way, seconds in one_row.items():
        times = median(seconds) / median(one_row[_MAPPED])
        table.add_row(
            f"{rows:,} windows of 1 row of 8 B: {way}", f"{median(seconds) * 1e3:.2f} ms, {times:.1f} times numpy's"
        )
    Console(width=110).print(table)
    record = {"windows": windows, "rows": rows, "array_bytes": array_bytes, "planning": planning, "one_row": one_row}
    save(results, "small", {"machine": describe_machine(), **record})


def _planning(folder: Path, n_rows: int, row_bytes: int, windows: int, rounds: int) -> dict[str, Any]:
    source = write_contiguous(folder / f"rows-{row_bytes}.h5", n_rows, normal_rows(row_bytes // 8))
    a = swath.ingest(source, folder / f"rows-{row_bytes}.zarr", window=16, codec="raw", progress=False)
    load(a.url)
    a.gather(random_starts(len(a), windows, 16, seed=0))
    plan_s, gather_s = [], []
    for seed in range(1, rounds + 1):
        starts = random_starts(len(a), windows, 16, seed)
        plan_s.append(_seconds(partial(a.plan, starts))[0])
        gather_s.append(_seconds(partial(a.gather, starts))[0])
    tracemalloc.start()  # which slows what it watches: nothing is timed from here
    starts = random_starts(len(a), windows, 16, seed=0)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    plan = a.plan(starts)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del plan
    return {"plan_s": plan_s, "gather_s": gather_s, "held_bytes": held - before, "peak_bytes": peak - before}


def _one_row(folder: Path, array_bytes: int, windows: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, all over the same starts; every batch is compared with the first."""
    source = write_contiguous(folder / "values.h5", array_bytes // 8, lambda rng, a, b: rng.normal(size=b - a))
    store = swath.ingest(source, folder / "values.zarr", window=1, codec="raw", progress=False)
    in_place = swath.open(source)
    load(store.url)
    with h5py.File(folder / "values.h5") as file:
        place: tuple[Any, ...] = ("f8", "r", file["A"].id.get_offset(), file["A"].shape)
    mapped = np.memmap(folder / "values.h5", *place)
    mapped.sum()  # brings in, and maps, every page
    ways: dict[str, Callable[[IntArray], Any]] = {
        _MAPPED: lambda starts: mapped[starts],
        "numpy, fancy indexing of a memmap opened anew": lambda starts: np.memmap(folder / "values.h5", *place)[starts],
        "swath in place": partial(in_place.gather, window=1),
        "swath gather, verify never": partial(store.gather, window=1, verify="never"),
        "swath gather": partial(store.gather, window=1),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(rounds + 1):
        starts = random_starts(len(store), windows, 1, seed)
        wanted = mapped[starts]
        for way, gather in ways.items():
            taken, batch = _seconds(partial(gather, starts))
            if not np.array_equal(batch.reshape(-1), wanted):
                raise SystemExit(f"The batch of {way} differs from numpy's.")
            if seed:  # the first round also pays for what is done once
                seconds[way].append(taken)
    return seconds


def _seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    main()
