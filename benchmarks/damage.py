"""The same damage done to the files of several programs: who gives wrong rows, and says nothing?

python benchmarks/damage.py                # 500 flips and 200 damaged files for each

Each program writes the same rows in its own way, with what it does by itself and with the checksums that it can be asked for.
Then one bit of its files is flipped, or a whole file is missing, empty, cut, or put in the place of another, and all rows are read.
"Silent" is a read that gives other rows than were written, without an error. Prints a table, and writes
``benchmarks/results/damage.json``.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import icechunk
import numpy as np
import zarr
from machine import describe_machine
from numpy.typing import NDArray
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table
from zarr.codecs import Crc32cCodec, ZstdCodec

import swath

_CHUNK_ROWS, _SHARD_ROWS = 10, 100


@dataclass(frozen=True)
class Way:
    """How one program keeps rows."""

    name: str
    write: Callable[[Path, NDArray[Any]], None]
    read: Callable[[Path], NDArray[Any]]


def _swath(codec: Any) -> Way:
    return Way(
        f"swath, {codec}",
        lambda path, rows: _ignore(
            swath.ingest(rows, path, codec=codec, chunk_rows=_CHUNK_ROWS, shard_rows=_SHARD_ROWS, progress=False)
        ),
        lambda path: (a := swath.open(path)).gather([0], window=len(a))[0],
    )


def _zarr(name: str, **options: Any) -> Way:
    def write(path: Path, rows: NDArray[Any]) -> None:
        shards = (_SHARD_ROWS, rows.shape[1])
        array = zarr.create_array(
            path, shape=rows.shape, dtype=rows.dtype, chunks=(_CHUNK_ROWS, rows.shape[1]), shards=shards, **options
        )
        array[:] = rows

    return Way(f"zarr-python, {name}", write, lambda path: np.asarray(zarr.open_array(path, mode="r")[:]))


def _h5py(name: str, **options: Any) -> Way:
    def write(path: Path, rows: NDArray[Any]) -> None:
        path.mkdir()
        with h5py.File(path / "rows.h5", "w") as file:
            file.create_dataset("rows", data=rows, **options)

    def read(path: Path) -> NDArray[Any]:
        with h5py.File(path / "rows.h5") as file:
            return np.asarray(file["rows"][:])

    return Way(f"h5py, {name}", write, read)


def _icechunk() -> Way:
    def write(path: Path, rows: NDArray[Any]) -> None:
        repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
        session = repository.writable_session("main")
        array = zarr.create_array(
            session.store, name="rows", shape=rows.shape, dtype=rows.dtype, chunks=(_SHARD_ROWS, rows.shape[1])
        )
        array[:] = rows
        session.commit("rows")

    def read(path: Path) -> NDArray[Any]:
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))
        return np.asarray(zarr.open_array(repository.readonly_session("main").store, path="rows", mode="r")[:])

    return Way("icechunk", write, read)


def _ignore(result: object) -> None:
    pass


WAYS = [
    _swath("raw"),
    _swath("lz4"),
    _swath("zstd"),
    _zarr("default"),
    _zarr("uncompressed", compressors=None),
    _zarr("with crc32c", compressors=[ZstdCodec(), Crc32cCodec()]),
    _h5py("contiguous"),
    _h5py("gzip", chunks=(_CHUNK_ROWS, 100), compression="gzip"),
    _h5py("fletcher32", chunks=(_CHUNK_ROWS, 100), fletcher32=True),
    _icechunk(),
]

KINDS = ["data", "metadata", "missing", "empty", "cut", "swapped"]


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """The files with rows, and those with metadata alone; the one file of HDF5 is both."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    largest = max(file.stat().st_size for file in files)
    data = [file for file in files if file.stat().st_size > largest // 4]
    return data, [file for file in files if file not in data]


def _damage(path: Path, kind: str, rng: np.random.Generator) -> bool:
    """Damage one file, or two; False where there is nothing of the kind."""
    data, metadata = _files(path)
    if kind == "metadata" and not metadata:
        return False
    file = rng.choice(np.array(metadata if kind == "metadata" else data, object))
    size = file.stat().st_size
    if kind in ("data", "metadata"):
        _flip(file, int(rng.integers(8 * size)))
    elif kind == "missing":
        file.unlink()
    elif kind == "empty":
        os.truncate(file, 0)
    elif kind == "cut":
        os.truncate(file, size - 1 if rng.random() < 0.2 else int(rng.integers(size)))
    elif len(data) < 2:
        return False
    else:
        first, second = rng.choice(np.array(data, object), 2, replace=False)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    return True


def _tries(way: Way, place: Path, rows: NDArray[Any], kind: str, n: int) -> dict[str, int]:
    """How many damages ended in an error, in the right rows, and in wrong rows without an error."""
    rng = np.random.default_rng([ord(letter) for letter in kind])
    sound = place / "sound"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    way.write(sound, rows)
    counts = {"tries": 0, "error": 0, "right": 0, "silent": 0}
    for _ in range(n):
        damaged = place / "damaged"
        shutil.copytree(sound, damaged)
        if _damage(damaged, kind, rng):
            counts["tries"] += 1
            counts[_outcome(way, damaged, rows)] += 1
        shutil.rmtree(damaged)
    return counts


def _outcome(way: Way, path: Path, rows: NDArray[Any]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = way.read(path)
    except Exception:  # whatever the program says is better than nothing
        return "error"
    same = (found.shape, found.dtype) == (rows.shape, rows.dtype) and found.tobytes() == rows.tobytes()
    return "right" if same else "silent"


@click.command()
@click.option("--flips", default=500, show_default=True)
@click.option("--files", default=200, show_default=True, help="Of each kind of damage of a whole file.")
@folder_option
@results_option
def main(flips: int, files: int, folder: Path, results: Path) -> None:
    icechunk.set_logs_filter("error")  # else it warns at each open that local files have one writer only
    rows = np.random.default_rng(0).normal(size=(400, 100)).astype("f4")
    table = Table(title="Wrong rows without an error, of so many tries")
    for column in ("", "flipped bit: rows", "metadata", "file: missing", "empty", "cut", "swapped"):
        table.add_column(column, justify="right" if column else "left")
    record: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        for way in WAYS:
            record[way.name] = {
                kind: _tries(way, Path(name) / "place", rows, kind, flips if kind in ("data", "metadata") else files)
                for kind in KINDS
            }
            counts = record[way.name].values()
            table.add_row(way.name, *(f"{c['silent']} / {c['tries']}" if c["tries"] else "-" for c in counts))
    Console(width=120).print(table)
    save(results, "damage", {"machine": describe_machine("icechunk"), "rows": list(rows.shape), "ways": record})


if __name__ == "__main__":
    main()
