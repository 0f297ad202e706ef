"""Commands that measure: on data of their own, and on an array of the user's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swath.cli import options as opt
from swath.cli.output import columns, say, say_json, say_table

if TYPE_CHECKING:
    from swath.measure import Result

_NEXT = """
Next, with an array of your own:
  swath ingest FILE.h5::NAME my.zarr --dry-run
  swath ingest FILE.h5::NAME my.zarr
  swath gather my.zarr batch.npy --random 1000
  swath bench my.zarr
In Python: swath.open("my.zarr").gather(starts)
What else can come in: swath ingest --help"""


@click.command()
@click.option(
    "--size", type=opt.Size(), metavar="SIZE", help="Of the source; by default 512MiB, or less if room is short."
)
@click.option("--rows", type=click.IntRange(min=1000), help="Rows of the source, of 16 kB each, instead of --size.")
@click.option("--full", is_flag=True, help="2,000,000 x 2000 float64: 32 GB, and as much again for the store.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where to work, and leave nothing; by default here.",
)
@opt.common
def demo(size: int | None, rows: int | None, full: bool, folder: Path | None, as_json: bool) -> None:
    """Measure the reference job on this machine.

    Writes an HDF5 file, ingests it, gathers random windows, also by h5py and numpy.memmap, compares every byte with h5py,
    and prints one table. It takes about half a minute. Nothing is left, whether it ends or is stopped.

    \b
    Examples:
      swath demo
      swath demo --size 8GiB --folder /var/tmp
    """
    from swath.demo import REFERENCE_ROWS, ROW_BYTES, demo_table, run_demo

    if sum((size is not None, rows is not None, full)) > 1:
        raise click.UsageError("Give one of --size, --rows and --full.")
    n_rows = REFERENCE_ROWS if full else rows if size is None else max(1000, size // ROW_BYTES)
    result = run_demo(folder, n_rows)
    if as_json:
        ways = {way: {"cold": _result(cold), "warm": _result(result.warm[way])} for way, cold in result.cold.items()}
        say_json(
            {**asdict(result.size), "source_bytes": result.size.source_bytes, "ingest_s": result.ingest_s, "ways": ways}
        )
        return
    say_table(demo_table(result, columns()))
    say(_NEXT)


@click.command()
@click.argument("url", type=opt.Place())
@click.option("--windows", type=click.IntRange(min=1), default=10_000, show_default=True)
@opt.seed
@opt.window
@opt.memory_limit
@opt.common
def bench(url: str, windows: int, seed: int, window: int | None, memory_limit: int | None, as_json: bool) -> None:
    """Measure gathers of an array on this machine.

    Cold and warm, of a Zarr array beside zarr-python's loop.

    \b
    Examples:
      swath bench recording.zarr --windows 1000
      swath bench recording.h5::signal --windows 1000 --json
    """
    from rich import box
    from rich.table import Table

    import swath
    from swath.measure import Job, measure, random_starts
    from swath.memory import format_bytes

    a = swath.open(url)
    rows = window or a.window
    a.plan(random_starts(len(a), windows, rows, seed) if rows <= len(a) else [], window=rows)  # refuses what cannot be
    # zarr-python takes about a thousandth of a second and more for each window: a tenth of them tells its rate.
    ways = {"swath gather": windows, "swath compute": windows}
    if Path(a.url).is_dir():
        ways["zarr-python loop"] = max(1, windows // 10)
    measured: dict[str, dict[str, Result]] = {
        way: {
            state: measure(Job(way, a.url, n, rows, seed, state == "cold", memory_limit)) for state in ("cold", "warm")
        }
        for way, n in ways.items()
    }
    if as_json:
        found = {
            way: {"windows": ways[way]} | {state: _result(result) for state, result in results.items()}
            for way, results in measured.items()
        }
        say_json({"url": a.url, "window": rows, "ways": found})
        return
    table = Table(
        title=f"{windows:,} random windows of {rows} rows from {a.shape} {a.dtype}, {a.codec}: {a.url}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("way", "windows", "cold GB/s", "warm GB/s", "peak memory"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, results in measured.items():
        rates = (f"{result.gigabytes_a_second:.2f}" for result in results.values())
        peak = max(result.peak_bytes for result in results.values())
        table.add_row(way, f"{ways[way]:,}", *rates, format_bytes(peak))
    say_table(table)


def _result(result: Result) -> dict[str, Any]:
    return {**asdict(result), "gigabytes_a_second": result.gigabytes_a_second}
