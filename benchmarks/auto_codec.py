"""Does ``codec="auto"`` choose well? Gathers from stores of every codec, of data of five kinds, cold and warm.

python benchmarks/auto_codec.py                # arrays of 4 GB, one kind at a time

Prints, for each kind, what auto chose, how small it became, and its rate by that of the best of raw, lz4 and zstd; and the
cold rate by that of the disk, which fio reads at random places in blocks of 256 KiB: where data compress well, more wanted
bytes can come than the disk has to give. Writes ``auto_codec.json`` and ``auto_codec.png`` to ``benchmarks/results/``.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click
import numpy as np
from fio import random_read
from machine import describe_machine
from matplotlib.figure import Figure
from numpy.typing import NDArray
from peers import PROGRAM
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table
from targets import Fill, load, normal_rows, stored_bytes, write_contiguous

import swath
from swath.measure import Job, Result, measure

_WINDOW = 16
Codec = Literal["auto", "raw", "lz4", "zstd"]
_CODECS: tuple[Codec, ...] = ("auto", "raw", "lz4", "zstd")


def smooth_rows(generator: np.random.Generator, start: int, stop: int) -> NDArray[np.float32]:
    """Slow sums of sines, 1000 channels: neighbours in time are nearly the same, their last bits are not."""
    time, channel = np.arange(start, stop)[:, None], np.arange(1000)
    periods = (3000 + 7 * channel, 1100 + 3 * channel)
    return sum((np.sin(2 * np.pi * time / period) for period in periods), np.zeros(1)).astype(np.float32)


def sensor_rows(generator: np.random.Generator, start: int, stop: int) -> NDArray[np.int16]:
    """A recording of 384 electrodes: a slow drift of some hundreds of counts, and noise of ten."""
    drift = 300 * np.sin(2 * np.pi * np.arange(start, stop)[:, None] / 3000 + np.arange(384))
    return (drift + generator.normal(scale=10, size=drift.shape)).astype(np.int16)


def image_rows(generator: np.random.Generator, start: int, stop: int) -> NDArray[np.uint8]:
    """Pictures of 128 x 128 in three colours: smooth shades, and a camera's noise of two levels."""
    y, x = np.mgrid[:128, :128] / 128
    n = stop - start
    slope_x, slope_y, phase = generator.uniform(-1, 1, size=(3, n, 1, 1, 3))
    shade = 128 + 90 * np.sin(2 * np.pi * (slope_x * x[..., None] + slope_y * y[..., None] + phase))
    noisy: NDArray[np.float64] = shade + generator.normal(scale=2, size=shade.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def sparse_rows(generator: np.random.Generator, start: int, stop: int) -> NDArray[np.int32]:
    """Counts of 2000 genes in cells: nineteen of twenty are zero."""
    counts = generator.poisson(3, size=(stop - start, 2000)) * (generator.random((stop - start, 2000)) < 0.05)
    return counts.astype(np.int32)


KINDS: dict[str, Fill] = {
    "random float64": normal_rows(2000),
    "smooth float32 series": smooth_rows,
    "int16 sensor data with noise": sensor_rows,
    "uint8 images": image_rows,
    "sparse int32 counts": sparse_rows,
}


@click.command()
@click.option("--array-bytes", default=4_000_000_000, show_default=True, help="Size of each array.")
@click.option("--batch-bytes", default=1_000_000_000, show_default=True, help="Size of each batch.")
@rounds_option
@folder_option
@results_option
def main(array_bytes: int, batch_bytes: int, rounds: int, folder: Path, results: Path) -> None:
    records = []
    for kind, fill in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
            records.append({"kind": kind, **_measure_kind(Path(name), fill, array_bytes, batch_bytes, rounds)})
    console = Console(width=130)
    console.print(_table(records))
    console.print(_disk_table(records))
    save(results, "auto_codec", {"machine": describe_machine(), "kinds": records}, _plot(records))


def _measure_kind(folder: Path, fill: Fill, array_bytes: int, batch_bytes: int, rounds: int) -> dict[str, Any]:
    """Rates of each codec, interleaved; each codec's first batch is compared with h5py's."""
    row_bytes = fill(np.random.default_rng(0), 0, 1).nbytes
    n_rows, windows = array_bytes // row_bytes, max(1, batch_bytes // (_WINDOW * row_bytes))
    source = write_contiguous(folder / "source.h5", n_rows, fill)
    stores = {codec: str(folder / f"{codec}.zarr") for codec in _CODECS}
    chosen = ""
    for codec, store in stores.items():
        a = swath.ingest(source, store, window=_WINDOW, codec=codec, progress=False)
        chosen = chosen or a.codec
    runs: dict[tuple[Codec, bool], list[Result]] = {(codec, cold): [] for codec in _CODECS for cold in (True, False)}
    disk = []
    for seed in range(rounds):
        for (codec, cold), some in runs.items():
            if not cold:
                load(stores[codec])
            check = source if seed == 0 and not cold else None
            job = Job("swath gather", stores[codec], windows, _WINDOW, seed, cold, check_against=check)
            some.append(measure(job, PROGRAM))
        disk.append(random_read(Path(source.partition("::")[0]), batch_bytes, seed=seed))
    return {
        "row_bytes": row_bytes,
        "rows": n_rows,
        "windows": windows,
        "chosen": chosen,
        "smaller_by": {codec: n_rows * row_bytes / stored_bytes(store) for codec, store in stores.items()},
        "disk": [asdict(rate) for rate in disk],
        "runs": [
            {"codec": codec, "cold": cold, "results": [asdict(result) for result in some]}
            for (codec, cold), some in runs.items()
        ],
    }


def _rates(record: dict[str, Any], codec: str, cold: bool) -> list[float]:
    [run] = [run for run in record["runs"] if (run["codec"], run["cold"]) == (codec, cold)]
    return [Result(**result).gigabytes_a_second for result in run["results"]]


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table(title='GB/s of wanted bytes, medians; ratio: codec="auto" against the best of raw, lz4 and zstd')
    for name in ("kind", "auto chose", "smaller by", "", "auto", "raw", "lz4", "zstd", "best", "ratio"):
        table.add_column(name, justify="left" if name in ("kind", "auto chose", "", "best") else "right")
    for record in records:
        for cold in (True, False):
            rates = {codec: median(_rates(record, codec, cold)) for codec in _CODECS}
            best = max(_CODECS[1:], key=lambda codec: rates[codec])
            table.add_row(
                record["kind"],
                record["chosen"],
                f"{record['smaller_by']['auto']:.2f}x",
                "cold" if cold else "warm",
                *(f"{rate:.2f}" for rate in rates.values()),
                best,
                f"{rates['auto'] / rates[best]:.2f}x",
            )
    return table


def _disk_table(records: list[dict[str, Any]]) -> Table:
    tool = records[0]["disk"][0]["tool"]
    table = Table(title=f"Cold, against the disk's own random reads of 256 KiB, 32 in flight ({tool}), GB/s, medians")
    for name in ("kind", "codec", "smaller by", "wanted bytes", "disk", "ratio"):
        table.add_column(name, justify="left" if name in ("kind", "codec") else "right")
    for record in records:
        disk = median(rate["gigabytes_a_second"] for rate in record["disk"])
        for codec in _CODECS:
            rate, smaller = median(_rates(record, codec, True)), record["smaller_by"][codec]
            table.add_row(record["kind"], codec, f"{smaller:.2f}x", f"{rate:.2f}", f"{disk:.2f}", f"{rate / disk:.2f}x")
    return table


def _plot(records: list[dict[str, Any]]) -> Figure:
    """A group of bars for each kind, cold and warm: medians, with the least and the most as a line."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    figure.suptitle("Windows of 16 rows from stores of each codec: median, and least to most")
    colors = {"auto": "tab:red", "raw": "tab:gray", "lz4": "tab:blue", "zstd": "tab:green"}
    panels = figure.subplots(2, 1, sharex=True)
    for ax, cold in zip(panels, (True, False)):
        best = [max(median(_rates(record, codec, cold)) for codec in _CODECS[1:]) for record in records]
        for i, codec in enumerate(_CODECS):
            xs = [x + (i - 1.5) * 0.2 for x in range(len(records))]
            rates = [_rates(record, codec, cold) for record in records]
            middle = [median(some) for some in rates]
            spread = [[m - min(r) for m, r in zip(middle, rates)], [max(r) - m for m, r in zip(middle, rates)]]
            ax.bar(xs, middle, width=0.18, yerr=spread, color=colors[codec], capsize=2, label=codec)
            for x, rate, most, record in zip(xs, middle, best, records):
                text = f"{record['smaller_by'][codec]:.1f}x" + (f"\n({rate / most:.2f})" if codec == "auto" else "")
                ax.annotate(text, (x, 0), (0, 2), textcoords="offset points", ha="center", color="white", fontsize=8)
        ax.set(title="Cold: page cache dropped" if cold else "Warm: data in the page cache")
        ax.set_ylabel("GB/s of wanted bytes")
    disk = [median(rate["gigabytes_a_second"] for rate in record["disk"]) for record in records]
    middles = range(len(records))
    panels[0].hlines(disk, [x - 0.4 for x in middles], [x + 0.4 for x in middles], "k", "--", label="the disk itself")
    panels[1].set_xticks(middles, [f"{record['kind']}\nauto chose {record['chosen']}" for record in records])
    panels[1].set_xlabel("in the bars: by how much the store is smaller, and auto's rate by that of the best codec")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    main()
