"""Zarr arrays of other programs, in place: swath beside zarr-python's own ways on the same files.

python benchmarks/foreign_zarr.py

Float32 series of 1000 channels in many layouts: of Zarr v2 and v3, chunks of whole rows and not, sharded and not, codecs that
swath decodes and one that only zarr-python can. Prints rates of wanted bytes, cold and warm, and swath's by that of the best
of zarr-python's loop, ``oindex`` and block reads (each row of chunks once), by the default pipeline and the fused one. Writes
``foreign_zarr.json`` to ``benchmarks/results/``. A tenth of the windows tells the rate of what reads chunks again for each.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
import numcodecs
import numpy as np
import zarr
from auto_codec import smooth_rows
from machine import PEER_PACKAGES, describe_machine
from peers import PROGRAM
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.codecs.numcodecs import Delta

from swath.measure import Job, Result, measure

_WINDOW = 16
_OURS = "swath gather"
_SLOW = ("zarr-python loop", "zarr-python loop, fused pipeline")
_WAYS = (
    _OURS,
    "zarr-python loop",
    "zarr-python oindex",
    "zarr-python blocks",
    "zarr-python loop, fused pipeline",
    "zarr-python oindex, fused pipeline",
    "zarr-python blocks, fused pipeline",
)

LAYOUTS: dict[str, dict[str, Any]] = {
    "v2 blosc, 256 rows": {"zarr_format": 2, "chunks": (256, 1000), "compressors": numcodecs.Blosc()},
    "v2 zlib, F order, 128 x 500": {
        "zarr_format": 2,
        "chunks": (128, 500),
        "compressors": numcodecs.Zlib(),
        "order": "F",
    },
    "v3 zstd, 100 x 250": {"chunks": (100, 250), "compressors": ZstdCodec()},
    "v3 blosc, 4096 rows": {"chunks": (4096, 1000), "compressors": BloscCodec(cname="lz4")},
    "v3 sharded gzip, 32 rows": {"chunks": (32, 1000), "shards": (4096, 1000), "compressors": GzipCodec()},
    "v3 uncompressed, 512 x 200": {"chunks": (512, 200), "compressors": None},
    "v3 delta (zarr-python decodes), 256 rows": {"chunks": (256, 1000), "filters": [Delta(dtype="float32")]},
}


@click.command()
@click.option("--array-bytes", default=1_000_000_000, show_default=True, help="Size of each array.")
@click.option("--windows", default=2000, show_default=True)
@rounds_option
@folder_option
@results_option
def main(array_bytes: int, windows: int, rounds: int, folder: Path, results: Path) -> None:
    n_rows = array_bytes // 4000
    records = []
    for layout, options in LAYOUTS.items():
        with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
            target = f"{name}/array.zarr"
            array: Any = zarr.create_array(target, shape=(n_rows, 1000), dtype="f4", **options)
            step = (array.shards or array.chunks)[0]
            for start in range(0, n_rows, step):
                array[start : start + step] = smooth_rows(np.random.default_rng(0), start, min(start + step, n_rows))
            records.append({"layout": layout, "runs": _runs(target, windows, rounds)})
    Console(width=150).print(_table(records, windows))
    save(results, "foreign_zarr", {"machine": describe_machine(*PEER_PACKAGES), "layouts": records})


def _runs(target: str, windows: int, rounds: int) -> list[dict[str, Any]]:
    """Results of each way, cold and warm, interleaved."""
    runs: dict[tuple[str, bool], list[Result]] = {(way, cold): [] for way in _WAYS for cold in (True, False)}
    for seed in range(rounds):
        for (way, cold), some in runs.items():
            some.append(measure(Job(way, target, _count(way, windows), _WINDOW, seed, cold), PROGRAM))
    return [{"way": way, "cold": cold, "results": [asdict(r) for r in some]} for (way, cold), some in runs.items()]


def _count(way: str, windows: int) -> int:
    return max(1, windows // 10) if way in _SLOW else windows


def _table(records: list[dict[str, Any]], windows: int) -> Table:
    table = Table(
        title=f"{windows:,} random windows of {_WINDOW} rows, MB/s of wanted bytes, medians; ratio: swath by the best"
    )
    for name in ("layout", "", "swath", "loop", "oindex", "blocks", "loop, fused", "oindex, f.", "blocks, f.", "ratio"):
        table.add_column(name, justify="left" if name in ("layout", "") else "right")
    for record in records:
        for cold in (True, False):
            rates = [
                median(Result(**result).gigabytes_a_second for result in run["results"])
                for run in record["runs"]
                if run["cold"] == cold
            ]
            cells = (f"{1000 * rate:.0f}" for rate in rates)
            state = "cold" if cold else "warm"
            table.add_row(record["layout"], state, *cells, f"{rates[0] / max(rates[1:]):.1f}x")
    return table


if __name__ == "__main__":
    main()
