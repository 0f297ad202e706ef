"""What is left of an array when the process that appends to it is killed, and what do others read meanwhile?

python benchmarks/reliability.py

Rows say which they are, so that a row that is lost, zero, or torn is seen. swath, zarr-python (the same sharded layout), h5py and
icechunk, each as its documents append:

- *kills*: a process appends block after block, each opened, made longer and closed, and notes what was answered. It is killed at a
  random moment. Then: does it open, are all rows there that were answered, are there rows that nobody wrote (zeros), or torn ones?
- *readers*: while one process appends, others open and read the last rows: errors, zero rows, wrong rows.

Prints a table, and writes ``benchmarks/results/reliability.json``. Few tries: what happens is sure, how often is not.
"""

import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
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

import swath

_COLUMNS, _CHUNK_ROWS, _SHARD_ROWS, _OLD_ROWS = 64, 16, 512, 700
_CODECS: Any = zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
# Seconds that opening and reading a small array may take; an array that hangs cannot be opened.
_PATIENCE = 20
# icechunk starts threads when it is imported, which do not outlive a fork: all else is imported before.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["swath.array", "zarr", "h5py", "click", "rich.console", "rich.table"])


def rows_of(first: int, stop: int) -> NDArray[np.int64]:
    """Rows that say which they are; none is zero."""
    ids = np.arange(first, stop)[:, None] + 1
    return np.asarray(ids * (1 + 2 * np.arange(_COLUMNS)), np.int64)


Read = Callable[[int, int], Any]
"""Rows from one to another."""


class Swath:
    def create(self, path: Path, rows: NDArray[Any]) -> None:
        swath.ingest(rows, path, chunk_rows=_CHUNK_ROWS, shard_rows=_SHARD_ROWS, codec="lz4")

    def append(self, path: Path, rows: NDArray[Any]) -> None:
        swath.open(path).append(rows)

    def open(self, path: Path) -> tuple[int, Read]:
        array = swath.open(path)
        return len(array), lambda a, b: array.gather([a], window=b - a)[0]


def _zarr_array(store: Any, name: str | None, rows: NDArray[Any]) -> None:
    chunks, shards = (_CHUNK_ROWS, _COLUMNS), (_SHARD_ROWS, _COLUMNS)
    array = zarr.create_array(
        store, name=name, shape=rows.shape, chunks=chunks, shards=shards, dtype=rows.dtype, compressors=_CODECS
    )
    array[:] = rows


def _reader(array: Any) -> tuple[int, Read]:
    return array.shape[0], lambda a, b: array[a:b]


class Zarr:
    def create(self, path: Path, rows: NDArray[Any]) -> None:
        _zarr_array(path, None, rows)

    def append(self, path: Path, rows: NDArray[Any]) -> None:
        array: Any = zarr.open_array(path)
        array.append(rows)

    def open(self, path: Path) -> tuple[int, Read]:
        return _reader(zarr.open_array(path, mode="r"))


class Icechunk:
    def create(self, path: Path, rows: NDArray[Any]) -> None:
        repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
        session = repository.writable_session("main")
        _zarr_array(session.store, "rows", rows)
        session.commit("all")

    def append(self, path: Path, rows: NDArray[Any]) -> None:
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))
        session = repository.writable_session("main")
        array: Any = zarr.open_array(session.store, path="rows")
        array.append(rows)
        session.commit("more")

    def open(self, path: Path) -> tuple[int, Read]:
        repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))
        return _reader(zarr.open_array(repository.readonly_session("main").store, path="rows", mode="r"))


class H5py:
    def create(self, path: Path, rows: NDArray[Any]) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("rows", data=rows, chunks=(_CHUNK_ROWS, _COLUMNS), maxshape=(None, _COLUMNS))

    def append(self, path: Path, rows: NDArray[Any]) -> None:
        with h5py.File(path, "a") as file:
            dataset = file["rows"]
            n = len(dataset)
            dataset.resize(n + len(rows), axis=0)
            dataset[n:] = rows

    def open(self, path: Path) -> tuple[int, Read]:
        with h5py.File(path, "r") as file:
            n, rows = len(file["rows"]), file["rows"][:]
        return n, lambda a, b: rows[a:b]


SYSTEMS: dict[str, Any] = {"swath": Swath(), "zarr-python": Zarr(), "h5py": H5py(), "icechunk": Icechunk()}


def _append(system: str, path: Path, answered: Path, stop: Path, block: int) -> None:
    """Append until told to stop; note how many rows were answered."""
    n = _OLD_ROWS
    begun = answered.with_suffix(".begun")
    while not stop.exists():
        begun.touch()
        try:
            SYSTEMS[system].append(path, rows_of(n, n + block))
        except BlockingIOError:  # h5py, while somebody reads
            continue
        n += block
        with answered.open("a") as file:
            file.write(f"{n}\n")


def _kill(system: str, folder: Path, seconds: float) -> dict[str, int]:
    """What is left of one array whose writer was killed."""
    path, answered = folder / "array", folder / "answered"
    SYSTEMS[system].create(path, rows_of(0, _OLD_ROWS))
    child = _CONTEXT.Process(target=_append, args=(system, path, answered, folder / "stop", 2000))
    child.start()
    while not answered.with_suffix(".begun").exists():
        time.sleep(0.001)
    time.sleep(seconds)
    child.kill()
    child.join()
    lines = answered.read_text().splitlines() if answered.exists() else []
    promised = int(lines[-1]) if lines else _OLD_ROWS
    report = folder / "report"
    reader = _CONTEXT.Process(target=_inspect, args=(system, path, promised, report))
    reader.start()
    reader.join(_PATIENCE)
    reader.kill()
    reader.join()
    left: dict[str, int] = json.loads(report.read_text()) if report.exists() else {}
    return left or {"not_opened": 1, "lost": 0, "zero": 0, "torn": 0}


def _inspect(system: str, path: Path, promised: int, report: Path) -> None:
    """What of an array can be read; nothing is reported if it cannot."""
    n, read = SYSTEMS[system].open(path)
    rows = read(0, n)
    zero = int((rows == 0).all(axis=1).sum())
    wrong = int((rows != rows_of(0, n)).any(axis=1).sum())
    lost = max(0, promised - (n - wrong))
    report.write_text(json.dumps({"not_opened": 0, "lost": lost, "zero": zero, "torn": wrong - zero}))


def _read(system: str, path: Path, opens: int, report: Path) -> None:
    rng = np.random.default_rng()
    errors = zeros = wrong = 0
    for _ in range(opens):
        try:
            n, read = SYSTEMS[system].open(path)
            a = int(rng.integers(max(0, n - 100), n))
            rows = read(a, n)
        except Exception:
            errors += 1
            continue
        differ = (rows != rows_of(a, n)).any(axis=1)
        zeros += bool((rows == 0).all(axis=1).any())
        wrong += bool((differ & ~(rows == 0).all(axis=1)).any())
    report.write_text(f"{errors} {zeros} {wrong}")


def _readers(system: str, folder: Path, opens: int) -> dict[str, int]:
    """What others read while one process appends some rows at a time."""
    path, stop = folder / "array", folder / "stop"
    SYSTEMS[system].create(path, rows_of(0, _OLD_ROWS))
    writer = _CONTEXT.Process(target=_append, args=(system, path, folder / "answered", stop, 7))
    writer.start()
    while not (folder / "answered").exists() and writer.is_alive():
        time.sleep(0.001)
    reports = [folder / f"report-{k}" for k in range(4)]
    readers = [_CONTEXT.Process(target=_read, args=(system, path, opens // 4, report)) for report in reports]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    stop.touch()
    writer.join(_PATIENCE)
    writer.kill()
    errors, zeros, wrong = np.sum([[int(n) for n in report.read_text().split()] for report in reports], axis=0).tolist()
    appends = len((folder / "answered").read_text().split())
    return {"opens": opens // 4 * 4, "appends": appends, "errors": errors, "zero": zeros, "wrong": wrong}


@click.command()
@click.option("--kills", default=20, show_default=True, help="Writers that are killed, of each system.")
@click.option("--opens", default=400, show_default=True, help="Times that an array is opened and read, of each system.")
@folder_option
@results_option
def main(kills: int, opens: int, folder: Path, results: Path) -> None:
    """Kill writers, and read while others write."""
    rng = np.random.default_rng(0)
    waits = rng.uniform(0, 0.3, kills)
    record: dict[str, Any] = {"machine": describe_machine("icechunk"), "kills": {}, "readers": {}}
    table = Table("", "killed", "not opened", "with answered rows lost", "with zero rows", "with torn rows")
    reading = Table("", "opens", "appends", "errors", "with zero rows", "with wrong rows")
    work = Path(tempfile.mkdtemp(dir=folder))
    try:
        for k, system in enumerate(SYSTEMS):
            tries = []
            for i, seconds in enumerate(waits):
                here = work / f"{k}-{i}"
                here.mkdir()
                tries.append(_kill(system, here, seconds))
                shutil.rmtree(here)
            counts = {name: sum(each[name] > 0 for each in tries) for name in tries[0]}
            record["kills"][system] = {"kills": kills, "stores": counts, "rows": tries}
            table.add_row(system, *map(str, [kills, *counts.values()]))
            here = work / f"{k}"
            here.mkdir()
            record["readers"][system] = _readers(system, here, opens)
            reading.add_row(system, *map(str, record["readers"][system].values()))
    finally:
        shutil.rmtree(work)
    save(results, "reliability", record)
    Console().print(table, reading)


if __name__ == "__main__":
    main()
