"""Does a training loop wait for its data? Samples a second, time that it waits, and time to the first batch, beside what people use.

python benchmarks/training.py                # 500_000 x 2000 float64: five targets of 8 GB each
python benchmarks/training.py --rows 100000  # smaller
python benchmarks/training.py --only swath --only h5py --workers 0

Each way of `training_peers` reads the same windows, each round others, in a process of its own, with each number of workers it can
have; rounds are interleaved, cold and warm. A process has an epoch of the loop for each of two models:

- none: one element of each page of the batch is added up;
- linear: all columns to 64 features, the mean over the window, one step of SGD, in float32, on one thread.

Cold means that the kernel was told to drop the pages of the target before each epoch; memory that the host has given is there when the
first begins (`host`). What lies mapped in a process stays: of the pages of the
memmap, those that it read ahead for the batches before, which is to its good. Workers of map-style loaders live on from one
epoch to the next: what they take to start is in the time to the first batch, and not in the rates.

Prints for each model a table, each way at its best number of workers, and one of the ratios that are wanted, met or missed, of the best
way of swath by that of each peer; writes ``training.json`` and ``training.png`` to ``benchmarks/results/``. First, untimed, batches of
each way are compared with ``np.stack`` of the source's rows, byte for byte. Needs the group ``training`` of pyproject.toml.
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import click
import h5py
import numpy as np
from host import HeldMemory
from machine import describe_machine
from matplotlib.figure import Figure
from report import folder_option, plain_log, results_option, save
from rich.console import Console
from rich.table import Table
from targets import copy_rows, load, normal_rows, write_contiguous
from training_peers import PROGRAM, WAYS, Epoch, Loop, Outcome
from wanted import Wanted, judge, wanted_table

import swath
from swath.measure import drop_cache, told_by

_PACKAGES = ("torch", "xbatcher", "xarray", "annbatch", "zarrs")
_MODELS = ("none", "linear")
_CHECKED = 5  # batches
_PATIENCE_S = 600
_NOTES = """\
*: starts on a regular grid (multiples of the window): xbatcher has no others.
annbatch: our starts by a sampler of its own interface; 4 or 32 batches are read at once, and kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the tables: a way of `training_peers`, on a target."""

    label: str
    way: str
    target: str


_OURS = "swath, in the loop"
ENTRIES = (
    Entry(_OURS, _OURS, "swath"),
    Entry("swath, Windows in a DataLoader", "swath, Windows in a DataLoader", "swath"),
    Entry("swath, Batches in a DataLoader", "swath, Batches in a DataLoader", "swath"),
    Entry("h5py, contiguous", "h5py", "contiguous"),
    Entry("h5py, chunks of a window", "h5py", "chunked"),
    Entry("memmap", "memmap", "npy"),
    Entry("memmap, MADV_RANDOM", "memmap, MADV_RANDOM", "npy"),
    Entry("zarr-python", "zarr-python", "zarr"),
    Entry("zarr-python, oindex", "zarr-python, oindex", "zarr"),
    Entry("zarr-python, oindex, fused", "zarr-python, oindex, fused", "zarr"),
    Entry("xbatcher*", "xbatcher", "zarr"),
    Entry("annbatch, 4 at once", "annbatch, 4 at once", "zarr"),
    Entry("annbatch, 32 at once", "annbatch, 32 at once", "zarr"),
)

_SWATH = tuple(entry.label for entry in ENTRIES if entry.target == "swath")
WANTED = (
    Wanted("h5py + DataLoader", _SWATH, ("h5py, contiguous", "h5py, chunks of a window"), cold=5.0, warm=None),
    Wanted(
        "zarr-python + DataLoader",
        _SWATH,
        ("zarr-python", "zarr-python, oindex", "zarr-python, oindex, fused"),
        cold=10.0,
        warm=10.0,
    ),
    Wanted("memmap + DataLoader", _SWATH, ("memmap", "memmap, MADV_RANDOM"), cold=None, warm=1.0),
)

Runs = dict[tuple[str, bool, int], list[Outcome]]
"""By the label of the way, whether its data were cold, and the number of workers."""


@click.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--window", default=16, show_default=True)
@click.option("--batch-size", default=32, show_default=True, help="Windows of a batch.")
@click.option("--batches", default=60, show_default=True, help="Of an epoch.")
@click.option("--workers", multiple=True, default=(0, 1, 2), show_default=True, help="May be given again.")
@click.option("--most-s", default=10.0, show_default=True, help="Seconds after which an epoch ends, done or not.")
@click.option("--only", multiple=True, help="Only ways whose name begins so; may be given again.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each way, interleaved.")
@folder_option
@results_option
def main(
    rows: int,
    columns: int,
    window: int,
    batch_size: int,
    batches: int,
    workers: tuple[int, ...],
    most_s: float,
    only: tuple[str, ...],
    rounds: int,
    folder: Path,
    results: Path,
) -> None:
    jobs = [
        (entry, n)
        for entry in ENTRIES
        if entry.label.startswith(only or "")
        for n in (workers if WAYS[entry.way].workers else (0,))
    ]
    runs: Runs = {(entry.label, cold, n): [] for cold in (True, False) for entry, n in jobs}
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        targets = _write_targets(Path(name), rows, columns, window)

        def loop(entry: Entry, n: int, seed: int, cold: bool, source: str | None = None) -> Loop:
            count = min(batches, _CHECKED) if source else batches
            return Loop(
                entry.way, targets[entry.target], n, window, batch_size, count, seed, cold, most_s, check_against=source
            )

        held = HeldMemory()
        for entry, n in jobs:
            _child(loop(entry, n, rounds, cold=False, source=targets["contiguous"]), held)
        for seed, cold, target in product(range(rounds), (True, False), targets):
            own = [job for job in jobs if job[0].target == target]
            for other in targets.values():
                drop_cache(other)
            # Below a virtual disk the host may have a cache of its own, which the first to read these windows fills.
            turn = seed * len(own) // rounds
            for entry, n in own[turn:] + own[:turn]:
                if not cold:
                    load(targets[target])
                # For the batches of both epochs, and the pages that they are read from.
                held.take(2 * len(_MODELS) * batches * batch_size * window * columns * 8)
                said = _child(loop(entry, n, seed, cold), held)
                epochs = {model: Epoch(**epoch) for model, epoch in said["epochs"].items()}
                runs[entry.label, cold, n].append(Outcome(said["first_batch_s"], epochs))
    figures = {model: judge(_best_rates(runs, model), WANTED) for model in _MODELS}
    title = f"Batches of {batch_size} windows of {window} rows of {columns} float64, of {rows:,} rows"
    console = Console(width=150)
    for model in _MODELS:
        console.print(_model_table(title, runs, model))
    console.print(_NOTES)
    for model, some in figures.items():
        console.print(wanted_table(some, f"What is wanted, against the best way of each; model: {model}"))
    record = {
        "machine": {**describe_machine(), **{name: _version(name) for name in _PACKAGES}},
        "array": [rows, columns],
        "window": window,
        "batch_size": batch_size,
        "batches": batches,
        "notes": _NOTES.splitlines(),
        "wanted": [{"model": model, **figure} for model, some in figures.items() for figure in some],
        "runs": [
            {"label": label, "cold": cold, "workers": n, "outcomes": [asdict(outcome) for outcome in some]}
            for (label, cold, n), some in runs.items()
        ],
    }
    save(results, "training", record, _plot(title, runs))


def _write_targets(folder: Path, n_rows: int, columns: int, window: int) -> dict[str, str]:
    """The same rows five times: as swath's store, contiguous and chunked HDF5, .npy, and Zarr of chunks of a window, uncompressed."""
    import zarr

    targets = {"contiguous": write_contiguous(folder / "contiguous.h5", n_rows, normal_rows(columns))}
    targets["swath"] = str(folder / "rows.zarr")
    a = swath.ingest(targets["contiguous"], targets["swath"], window=window, codec="raw", progress=False)
    targets |= {"chunked": f"{folder / 'chunked.h5'}::A", "npy": str(folder / "rows.npy")}
    targets["zarr"] = str(folder / "windows.zarr")
    shard_rows = -(-a.shard_rows // window) * window
    with h5py.File(folder / "contiguous.h5") as source, h5py.File(folder / "chunked.h5", "w") as file:
        rows = source["A"]
        copy_rows(rows, file.create_dataset("A", rows.shape, rows.dtype, chunks=(window, columns)))
        copy_rows(rows, np.lib.format.open_memmap(targets["npy"], "w+", rows.dtype, rows.shape))
        array = zarr.create_group(targets["zarr"]).create_array(
            "A",
            shape=rows.shape,
            dtype=rows.dtype,
            chunks=(window, columns),
            shards=(shard_rows, columns),
            compressors=None,
            dimension_names=("row", "column"),
        )
        for first in range(0, n_rows, shard_rows):
            array[first : first + shard_rows] = rows[first : first + shard_rows]
    return targets


def _child(loop: Loop, held: HeldMemory) -> dict[str, Any]:
    what = f"{loop.way!r} with {loop.workers} workers"
    return told_by([PROGRAM, json.dumps(asdict(loop))], what, held.give, _PATIENCE_S)


def _rate(outcome: Outcome, model: str) -> float:
    """Samples a second."""
    return outcome.epochs[model].samples / outcome.epochs[model].seconds


def _best(runs: Runs, label: str, cold: bool, model: str) -> int:
    """The number of workers with which a way is fastest."""
    tried = {n: some for (other, which, n), some in runs.items() if (other, which) == (label, cold)}
    return max(tried, key=lambda n: median(_rate(outcome, model) for outcome in tried[n]))


def _labels(runs: Runs) -> Iterable[str]:
    return dict.fromkeys(label for label, _, _ in runs)


def _best_rates(runs: Runs, model: str) -> dict[tuple[str, bool], list[float]]:
    return {
        (label, cold): [_rate(outcome, model) for outcome in runs[label, cold, _best(runs, label, cold, model)]]
        for label in _labels(runs)
        for cold in (True, False)
    }


def _model_table(title: str, runs: Runs, model: str) -> Table:
    table = Table(
        title=f"{title}; model: {model}",
        caption=f"samples a second, medians; waits: share of the loop's time in next(); ratio: {_OURS} by this",
    )
    table.add_column("way", no_wrap=True)
    for data in ("cold", "warm"):
        for name in (f"{data}: samples/s", "waits", "first batch", "workers", "ratio"):
            table.add_column(name, justify="right")
    rates = _best_rates(runs, model)
    for label in _labels(runs):
        cells = []
        for cold in (True, False):
            workers = _best(runs, label, cold, model)
            some = runs[label, cold, workers]
            waits = median(outcome.epochs[model].waited_s / outcome.epochs[model].seconds for outcome in some)
            first = median(outcome.first_batch_s for outcome in some)
            rate, ours = median(rates[label, cold]), rates.get((_OURS, cold))
            ratio = f"{median(ours) / rate:.1f}x" if ours else ""
            cells += [f"{rate:,.0f}", f"{waits:.0%}", f"{first * 1e3:,.0f} ms", str(workers), ratio]
        table.add_row(label, *cells)
    return table


def _plot(title: str, runs: Runs) -> Figure:
    """Rate of each way at its best number of workers, median with least and most; beside it the share of time that it waits."""
    labels = list(_labels(runs))[::-1]
    figure = Figure(figsize=(14, 0.6 * len(labels) + 2), layout="constrained")
    figure.suptitle(f"{title}: median, and least to most")
    for axes, model in zip(figure.subplots(2, 2, sharex=True, sharey=True), _MODELS):
        rates = _best_rates(runs, model)
        for ax, cold in zip(axes, (False, True)):
            for y, label in enumerate(labels):
                some, workers = rates[label, cold], _best(runs, label, cold, model)
                color = "tab:red" if label.startswith("swath") else "tab:blue"
                ax.plot([min(some), max(some)], [y, y], color=color, linewidth=2)
                ax.plot(median(some), y, "o", color=color)
                epochs = [outcome.epochs[model] for outcome in runs[label, cold, workers]]
                waits = median(epoch.waited_s / epoch.seconds for epoch in epochs)
                text = f"{median(some):,.0f} (waits {waits:.0%}, {workers} workers)"
                ax.annotate(text, (max(some), y), (6, 0), textcoords="offset points", va="center", fontsize=8)
            ax.set_title(f"model: {model}; {'cold' if cold else 'warm'}")
            ax.set_xlabel("samples a second")
            ax.set_yticks(range(len(labels)), labels)
            plain_log(ax, "x")
            ax.margins(x=0.4)
    return figure


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
