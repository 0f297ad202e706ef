"""Ingest beside what bounds it, and beside zarr-python: interleaved, warm, medians.

python benchmarks/writing.py               # 100_000 x 2000 float64 series: 1.6 GB, three times

- The same sharded store written by zarr-python, shard by shard, raw and compressed, by its default pipeline and its fused one.
- Compressed ingests beside the codec alone, which encodes the same chunks in memory on as many threads as there are cores.
- A gzip HDF5 dataset in chunks of 16 rows, beside h5py alone, which reads it from first to last. Of 20_000 rows, which h5py reads in 0.7 s,
  a fifth of an ingest is the start of the process that HDF5 runs in, which ends when nobody has asked it for a minute.

The source is memory-mapped .npy, in the page cache; memory for what is written is there (`host`). Prints a table, and writes
``benchmarks/results/writing.json``.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import h5py
import numpy as np
import zarr
from auto_codec import smooth_rows
from host import HeldMemory
from machine import PEER_PACKAGES, describe_machine
from report import folder_option, results_option, rounds_option, save
from rich.console import Console
from rich.table import Table

import swath
from swath.decoder import make_blosc
from swath.layout import CodecName

_COLUMNS = 2000
_CODECS: tuple[CodecName, ...] = ("raw", "lz4", "zstd")
_FUSED = {"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}


@click.command()
@click.option("--rows", default=100_000, show_default=True)
@click.option(
    "--hdf5-rows", default=100_000, show_default=True, help="Of the gzip dataset, which takes a minute to write."
)
@rounds_option
@folder_option
@results_option
def main(rows: int, hdf5_rows: int, rounds: int, folder: Path, results: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        place = Path(name)
        source = _write_source(place / "source.npy", rows)
        gzip = _write_gzip(place / "gzip.h5", source, hdf5_rows)
        ways: dict[str, Callable[[], Any]] = {}
        for codec in _CODECS:
            like = str(place / f"like-{codec}.zarr")
            swath.ingest(source, like, codec=codec, progress=False)
            ways[f"swath ingest, {codec}"] = partial(_ingest, source, place / "a.zarr", codec)
            ways[f"zarr-python, {codec}"] = partial(_write_zarr, source, like, place / "b.zarr", {})
            ways[f"zarr-python, fused, {codec}"] = partial(_write_zarr, source, like, place / "b.zarr", _FUSED)
            if codec != "raw":
                ways[f"the codec alone, {codec}"] = partial(_encode, source, swath.open(like).chunk_rows, codec)
        ways["swath ingest, gzip HDF5"] = partial(_ingest, gzip, place / "a.zarr", "raw")
        ways["h5py alone, gzip HDF5"] = partial(_read_hdf5, gzip)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        held = HeldMemory()
        for _ in range(rounds):
            for way, write in ways.items():
                os.sync()
                held.take(2 * rows * _COLUMNS * 8)  # for the pages of the new files, and for as much again
                held.give()
                begin = time.perf_counter()
                write()
                seconds[way].append(time.perf_counter() - begin)
                for left in ("a.zarr", "b.zarr"):
                    shutil.rmtree(place / left, ignore_errors=True)
    Console(width=110).print(_table(seconds, rows, hdf5_rows))
    save(results, "writing", {"machine": describe_machine(*PEER_PACKAGES), "rows": rows, "hdf5_rows": hdf5_rows, "seconds": seconds})  # fmt: skip


def _write_source(path: Path, rows: int) -> str:
    array = np.lib.format.open_memmap(path, "w+", "f8", (rows, _COLUMNS))
    for start in range(0, rows, 5000):
        stop = min(rows, start + 5000)
        smooth = smooth_rows(np.random.default_rng(0), start, stop)
        array[start:stop] = np.tile(smooth, -(-_COLUMNS // smooth.shape[1]))[:, :_COLUMNS]
    array.flush()
    return str(path)


def _write_gzip(path: Path, source: str, rows: int) -> str:
    with h5py.File(path, "w") as file:
        data = np.load(source, mmap_mode="r")[:rows]
        file.create_dataset("A", data=data, chunks=(16, _COLUMNS), compression="gzip", compression_opts=4)
    return f"{path}::A"


def _ingest(source: str, target: Path, codec: CodecName) -> None:
    swath.ingest(source, target, codec=codec, progress=False)


def _write_zarr(source: str, like: str, target: Path, config: dict[str, str]) -> None:
    """One shard after another, each in one assignment: a shard that is written in parts is written again for each."""
    rows = np.load(source, mmap_mode="r")
    with zarr.config.set(config):
        model: Any = zarr.open_array(like, mode="r")
        array: Any = zarr.create_array(
            target,
            shape=model.shape,
            dtype=model.dtype,
            chunks=model.chunks,
            shards=model.shards,
            compressors=model.compressors,
            filters=None,
        )
        for start in range(0, len(rows), model.shards[0]):
            array[start : start + model.shards[0]] = rows[start : start + model.shards[0]]


def _encode(source: str, chunk_rows: int, codec: CodecName) -> None:
    rows = np.load(source, mmap_mode="r")
    blosc = make_blosc(codec, rows.dtype.itemsize)
    assert blosc is not None

    def encode(start: int) -> None:
        for first in range(start, min(start + 64 * chunk_rows, len(rows)), chunk_rows):
            blosc.encode(rows[first : first + chunk_rows])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(encode, range(0, len(rows), 64 * chunk_rows)))


def _read_hdf5(source: str) -> None:
    path, _, name = source.partition("::")
    with h5py.File(path) as file:
        for start in range(0, len(file[name]), 4096):
            file[name][start : start + 4096]


def _table(seconds: dict[str, list[float]], rows: int, hdf5_rows: int) -> Table:
    table = Table(title=f"Writing {rows:,} x {_COLUMNS} float64 series, warm, medians")
    for column in ("way", "GB/s", "swath by it"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, times in seconds.items():
        kind = way.rpartition(", ")[2]
        n_rows = hdf5_rows if kind == "gzip HDF5" else rows
        ours = median(seconds[f"swath ingest, {kind}"])
        table.add_row(way, f"{n_rows * _COLUMNS * 8 / median(times) / 1e9:.2f}", f"{median(times) / ours:.2f}x")
    return table


if __name__ == "__main__":
    main()
