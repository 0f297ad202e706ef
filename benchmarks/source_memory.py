"""What an ingest adds to a process, for each kind of source, under a memory limit of 256 MiB.

python benchmarks/source_memory.py         # sources of 480 MB, one process each

The peak is the kernel's (VmHWM), less what the process had when the ingest began. What the caller holds (a mapped file, dask's
copies of it) counts where it is touched: such sources read files of their own here. Prints a table, and writes
``benchmarks/results/source_memory.json``.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import describe_machine
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table

_ROWS, _COLUMNS = 60_000, 2000
_LIMIT = "256MiB"
_RECORD = [("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")]

PLACES = {
    ".npy": "a.npy",
    "HDF5, contiguous": "a.h5::contiguous",
    "HDF5, gzip, 16 rows": "a.h5::rows",
    "HDF5, gzip, all rows of 20 columns": "a.h5::columns",
    ".npz, stored": "stored.npz::x",
    ".npz, deflated": "deflated.npz::x",
    "Zarr, all rows of 16 columns": "columns.zarr",
    "text, 3,000,000 lines": "lines.csv",
    "images, 400 of 500 x 500": "images",
}
MADE = ("list of two files", "cast to float64", "dask", "xarray", "object with rows", "iterator of blocks")


@click.command()
@click.option("--one", hidden=True, help="Ingest one source, in this process.")
@folder_option
@results_option
def main(one: str | None, folder: Path, results: Path) -> None:
    if one is not None:
        click.echo(json.dumps(_ingest(one, folder)))
        return
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        _write_sources(Path(name))
        runs = {}
        for kind in (*PLACES, *MADE):
            command = [sys.executable, __file__, "--one", kind, "--folder", name]
            runs[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table = Table(title=f"Ingest under memory_limit={_LIMIT}")
    for column in ("source", "seconds", "added at most"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for kind, run in runs.items():
        table.add_row(kind, f"{run['seconds']:.1f}", f"{run['added_mib']:.0f} MiB")
    Console(width=100).print(table)
    save(results, "source_memory", {"machine": describe_machine(), "limit": _LIMIT, "runs": runs})


def _write_sources(folder: Path) -> None:
    import h5py
    import zarr
    from PIL import Image

    rows = np.lib.format.open_memmap(folder / "a.npy", "w+", "f4", (_ROWS, _COLUMNS))
    for i in range(0, _ROWS, 5000):
        rows[i : i + 5000] = np.random.default_rng(i).integers(0, 50, (5000, _COLUMNS))
    with h5py.File(folder / "a.h5", "w") as file:
        packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}
        file["contiguous"] = rows
        file.create_dataset("rows", data=rows, chunks=(16, _COLUMNS), **packed)
        file.create_dataset("columns", data=rows, chunks=(_ROWS, 20), **packed)
    np.savez(folder / "stored.npz", x=rows)
    np.savez_compressed(folder / "deflated.npz", x=rows)
    zarr.create_array(folder / "columns.zarr", data=rows, chunks=(_ROWS, 16))
    zarr.create_array(folder / "blocks.zarr", data=rows, chunks=(3000, 500))
    with (folder / "lines.csv").open("w") as lines:
        lines.writelines(f"chr{i % 23},{i},{i / 7:.4f},{i % 100},{i % 5}\n" for i in range(3_000_000))
    (folder / "images").mkdir()
    for i in range(400):
        pixels = np.random.default_rng(i).integers(0, 255, (500, 500, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")


class _Rows:
    """An object with shape, dtype and slices, over a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shape, self.dtype = (_ROWS, _COLUMNS), np.dtype("f4")

    def __getitem__(self, rows: slice) -> Any:
        count = (rows.stop - rows.start) * _COLUMNS
        offset = 128 + rows.start * _COLUMNS * 4
        return np.fromfile(self._path, "f4", count, offset=offset).reshape(-1, _COLUMNS)


def _source(kind: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    rows = _Rows(folder / "a.npy")
    match kind:
        case "list of two files":
            return [folder / "a.npy", f"{folder}/a.h5::rows"], {}
        case "cast to float64":
            return folder / "a.npy", {"dtype": "f8"}
        case "dask":
            import dask.array as da

            return da.from_zarr(str(folder / "blocks.zarr")), {}
        case "xarray":
            import dask.array as da
            import xarray

            return xarray.DataArray(da.from_zarr(str(folder / "blocks.zarr")), dims=("row", "column")), {}
        case "object with rows":
            return rows, {}
        case "iterator of blocks":
            return (rows[slice(i, i + 1000)] for i in range(0, _ROWS, 1000)), {}
        case _:
            options = {"dtype": _RECORD} if kind.startswith("text") else {}
            return f"{folder}/{PLACES[kind]}", options


def _ingest(kind: str, folder: Path) -> dict[str, float]:
    import swath

    target = folder / "target.zarr"
    swath.ingest(np.zeros((100, 10)), target, progress=False)  # what is imported when it is first used
    source, options = _source(kind, folder)
    before = _mib("RssAnon") + _mib("RssFile")
    begin = time.perf_counter()
    swath.ingest(
        source, target, memory_limit=_LIMIT, progress=False, codec="raw", overwrite=True, resume=False, **options
    )
    seconds = time.perf_counter() - begin
    shutil.rmtree(target)
    return {"seconds": seconds, "added_mib": _mib("VmHWM") - before}


def _mib(name: str) -> float:
    words = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)).split()
    return int(words[1]) / 1024


if __name__ == "__main__":
    main()
