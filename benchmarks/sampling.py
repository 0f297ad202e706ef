"""What does an order that reads neighbours together gain, and how much less random is it?

python benchmarks/sampling.py                # 200_000 x 2000 float64: 3.2 GB, twice
python benchmarks/sampling.py --rows 20000   # smaller

``a.batches`` in full random order, in block order (`swath.sampling.Blocks`) for each size of a block and number of blocks that are
mixed, and as the windows lie; interleaved, cold and warm, each round from another seed. Blocks that are mixed are read together where
they fit in a gigabyte (``prefetch=``). For each order:

- samples a second, and bytes that are read for each byte wanted, as `RowArray.plan` tells;
- spread: the variance of the starts within a batch, by that of all starts, mean over batches and standard deviation: 1 for full
  random, 0 where a batch is of one place;
- entropy of the labels of a batch, where rows are sorted by label, in 100 classes of as many rows; by that of full random order.

Batches are taken from the whole epoch where they are judged, and from its begin where they are timed. Prints tables, and writes ``sampling.json``
and ``sampling.png`` to ``benchmarks/results/``.
"""

import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from machine import describe_machine
from matplotlib.figure import Figure
from report import folder_option, plain_log, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table
from targets import load, normal_rows, write_contiguous

import swath
from swath.measure import drop_cache
from swath.sampling import Blocks
from swath.windows import IntArray

_WINDOW = 16
_BLOCKS = (1, 4, 16, 64, 256)
_MIXES = (1, 8, 64)
_CLASSES = 100
_FULL, _AS_THEY_LIE = "full random", "as they lie"
_MOST_AHEAD = 2**30


@dataclass(frozen=True, slots=True)
class Entry:
    """An order, as options of ``a.batches``; a seed is given to those that have none."""

    label: str
    options: dict[str, Any]
    block: int | None = None
    mix: int | None = None


@dataclass(frozen=True, slots=True)
class Randomness:
    """How random batches are."""

    spread: float
    spread_deviation: float
    entropy_bits: float
    bytes_read: float
    """For each byte that is wanted."""


@click.command()
@click.option("--rows", default=200_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--batches", default=60, show_default=True, help="Of each run.")
@rounds_option
@folder_option
@results_option
def main(rows: int, columns: int, batch_size: int, batches: int, rounds: int, folder: Path, results: Path) -> None:
    console = Console(width=120)
    entries = _entries(_WINDOW * columns * 8)
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        source = write_contiguous(Path(name) / "rows.h5", rows, normal_rows(columns))
        a = swath.ingest(source, f"{name}/rows.zarr", window=_WINDOW, codec="raw", progress=False)
        Path(f"{name}/rows.h5").unlink()
        judged = {entry.label: _judge(a, entry, batch_size, batches) for entry in entries}
        rates: dict[tuple[str, bool], list[float]] = {(e.label, cold): [] for e in entries for cold in (True, False)}
        for seed in range(rounds):
            for cold in (True, False):
                turn = seed % len(entries)
                for entry in entries[turn:] + entries[:turn]:
                    drop_cache(a.url) if cold else load(a.url)
                    rates[entry.label, cold].append(_rate(a, entry, batch_size, batches, seed))
    title = f"Batches of {batch_size} windows of {_WINDOW} rows, of {rows:,} x {columns} float64"
    console.print(_table(title, entries, rates, judged))
    full = judged[_FULL]
    record = {
        "machine": describe_machine(),
        "array": [rows, columns],
        "batch_size": batch_size,
        "batches": batches,
        "orders": [
            {
                "label": entry.label,
                "block": entry.block,
                "mix": entry.mix,
                "samples_a_second": {"cold": rates[entry.label, True], "warm": rates[entry.label, False]},
                "bytes_read": found.bytes_read,
                "spread": found.spread,
                "spread_deviation": found.spread_deviation,
                "entropy_bits": found.entropy_bits,
                "entropy": found.entropy_bits / full.entropy_bits,
            }
            for entry in entries
            for found in [judged[entry.label]]
        ],
    }
    save(results, "sampling", record, _plot(title, entries, rates, judged))


def _entries(window_bytes: int) -> list[Entry]:
    entries = [Entry(_FULL, {}), Entry(_AS_THEY_LIE, {"seed": None})]
    for block in _BLOCKS:
        for mix in _MIXES:
            # What is read in one go is half of what is gathered ahead.
            ahead = min(max(2**26, 2 * block * mix * window_bytes), _MOST_AHEAD)
            options = {"order": Blocks(block, mix), "prefetch": ahead}
            entries.append(Entry(f"blocks of {block}, {mix} mixed", options, block, mix))
    return entries


def _rate(a: swath.RowArray, entry: Entry, batch_size: int, batches: int, seed: int) -> float:
    """Samples a second."""
    begin = time.perf_counter()
    samples = sum(len(batch) for batch in islice(a.batches(batch_size, **{"seed": seed} | entry.options), batches))
    return samples / (time.perf_counter() - begin)


def _judge(a: swath.RowArray, entry: Entry, batch_size: int, batches: int) -> Randomness:
    """Of batches at even distances in an epoch; nothing is read."""
    drawn = a.batches(batch_size, **{"seed": 0} | entry.options)
    numbers = np.linspace(0, len(drawn) - 1, min(batches, len(drawn))).astype(int).tolist()
    starts = [drawn.starts_at(number) for number in numbers]
    together = max(1, entry.options.get("prefetch", 2**26) // 2 // (batch_size * _WINDOW * a.nbytes // len(a)))
    begins = range(0, len(drawn) - together, max(together, len(drawn) // 10))[:10] or [0]
    plans = [
        a.plan(np.concatenate([drawn.starts_at(k) for k in range(begin, min(begin + together, len(drawn)))]))
        for begin in begins
    ]
    windows = len(a) - _WINDOW + 1
    spreads = [float(np.var(some)) / (windows**2 / 12) for some in starts]
    return Randomness(
        float(np.mean(spreads)),
        float(np.std(spreads)),
        float(np.mean([_entropy(some * _CLASSES // len(a)) for some in starts])),
        sum(plan.bytes_read for plan in plans) / sum(plan.bytes_wanted for plan in plans),
    )


def _entropy(labels: IntArray) -> float:
    """In bits, of the labels of one batch."""
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _table(
    title: str, entries: list[Entry], rates: dict[tuple[str, bool], list[float]], judged: dict[str, Randomness]
) -> Table:
    table = Table(title=f"{title}: medians; times: by full random order")
    for name in ("order", "cold: samples/s", "times", "warm: samples/s", "times", "bytes read", "spread", "entropy"):
        table.add_column(name, justify="left" if name == "order" else "right")
    for entry in entries:
        cells = []
        for cold in (True, False):
            rate = median(rates[entry.label, cold])
            cells += [f"{rate:,.0f}", f"{rate / median(rates[_FULL, cold]):.2f}x"]
        found = judged[entry.label]
        entropy = found.entropy_bits / judged[_FULL].entropy_bits
        spread = f"{found.spread:.2f} ± {found.spread_deviation:.2f}"
        table.add_row(entry.label, *cells, f"{found.bytes_read:.2f}", spread, f"{entropy:.2f}")
    return table


def _plot(
    title: str, entries: list[Entry], rates: dict[tuple[str, bool], list[float]], judged: dict[str, Randomness]
) -> Figure:
    """Rate of each order against its entropy: up and to the right is better."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    figure.suptitle(title)
    colors: dict[int | None, str] = dict(zip((None, *_MIXES), ("black", "tab:blue", "tab:orange", "tab:red")))
    for ax, cold in zip(figure.subplots(1, 2, sharex=True), (True, False)):
        for entry in entries:
            x = judged[entry.label].entropy_bits / judged[_FULL].entropy_bits
            y = median(rates[entry.label, cold])
            ax.plot(x, y, "o", color=colors[entry.mix])
            text = entry.label if entry.block is None else f"{entry.block}"
            ax.annotate(text, (x, y), (5, 3), textcoords="offset points", fontsize=8)
        for mix in _MIXES:
            ax.plot([], [], "o", color=colors[mix], label=f"{mix} blocks mixed (beside: windows of a block)")
        ax.set_title("Cold: page cache dropped" if cold else "Warm: data in the page cache")
        ax.set_xlabel("entropy of the labels of a batch, by full random order")
        ax.set_ylabel("samples a second")
        plain_log(ax, "y")
    ax.legend(fontsize=8, loc="lower left")
    return figure


if __name__ == "__main__":
    main()
