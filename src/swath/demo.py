"""The reference job, small enough for a first try: write, ingest, gather, check, compare.

1. Write a contiguous HDF5 dataset of float64, as anybody would have it.
2. Ingest it into a store.
3. Gather random windows under a memory limit, cold and warm, and compare every byte with h5py.
4. Do the same by the loops that people write, over h5py and numpy.memmap, and print one table.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swath.doors import ingest
from swath.errors import DiskFullError
from swath.measure import Job, Result, measure
from swath.memory import Room, detect_room, format_bytes
from swath.progress import progress_bar

if TYPE_CHECKING:
    from rich.table import Table

REFERENCE_ROWS, _REFERENCE_COLUMNS = 2_000_000, 2000
_WINDOWS, _WINDOW, _SEED = 10_000, 16, 1
_REFERENCE_LIMIT = 8 * 10**9
_BLOCK_ROWS = 4000

# At most one row of so many is wanted: else reading all would be the best of ways, and nobody asks for windows.
_SPARSE = 3

ROW_BYTES = _REFERENCE_COLUMNS * 8

# By default: half a minute in all. Source and store take a half of the free disk at most; the source a third of memory, so
# that warm means warm.
_DEFAULT_BYTES = 2**29
_SHARE_OF_DISK = 4
_SHARE_OF_MEMORY = 3

# Source and store, and what a file system keeps for itself.
_DISK_NEEDED = 2.1

# Columns of the table with all its figures.
_WIDE = 80


@dataclass(frozen=True, slots=True)
class DemoSize:
    """What the demo will do here."""

    n_rows: int
    n_columns: int
    windows: int
    memory_limit: int

    @property
    def source_bytes(self) -> int:
        """Bytes of the source."""
        return self.n_rows * self.n_columns * 8

    @property
    def disk_bytes(self) -> int:
        """What the disk must have free."""
        return int(self.source_bytes * _DISK_NEEDED)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured."""

    size: DemoSize
    ingest_s: float
    cold: dict[str, Result]
    warm: dict[str, Result]


def choose_size(free_disk: int, room: Room, n_rows: int | None = None) -> DemoSize:
    """The reference job in small: of 512 MiB, or of what there is room for; or of ``n_rows`` rows.

    Examples
    --------
    >>> machine = Room(24 * 10**9, "the machine")
    >>> choose_size(80 * 10**9, machine).n_rows, choose_size(10**9, machine).n_rows, choose_size(80 * 10**9, machine, 512_000).windows
    (32000, 12000, 10000)
    """
    source = min(_DEFAULT_BYTES, free_disk // _SHARE_OF_DISK, room.n_bytes // _SHARE_OF_MEMORY)
    n_rows = n_rows or max(_BLOCK_ROWS, source // ROW_BYTES // _BLOCK_ROWS * _BLOCK_ROWS)
    limit = min(_REFERENCE_LIMIT, room.n_bytes * 9 // 10)
    windows = min(_WINDOWS, n_rows // (_WINDOW * _SPARSE), limit // 2 // (_WINDOW * _REFERENCE_COLUMNS * 8))
    return DemoSize(n_rows, _REFERENCE_COLUMNS, windows, limit)


def run_demo(folder: Path | None, n_rows: int | None) -> DemoResult:
    """Run the demo in ``folder``, or beside what is in the working directory, in a folder of its own; nothing is left there.

    Raises
    ------
    DiskFullError
        There is no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="swath-demo-", dir=folder or Path.cwd()) as name:
        place = Path(name)
        free = shutil.disk_usage(place).free
        size = choose_size(free, detect_room(), n_rows)
        if size.disk_bytes > free:
            raise DiskFullError(
                f"{place.parent} has {format_bytes(free)} free, but the demo needs {format_bytes(size.disk_bytes)}. "
                "Choose a smaller --size, or another --folder."
            )
        source, store = f"{place / 'source.h5'}::A", str(place / "store.zarr")
        _say(f"Working in {place}")
        _say(
            f"{format_bytes(size.disk_bytes)} of its disk are used, and given back. Ctrl-C stops it and leaves nothing."
        )
        _say(
            f"1/3  Writing an HDF5 file: {size.n_rows:,} x {size.n_columns} float64, {format_bytes(size.source_bytes)}"
        )
        write_source(place / "source.h5", size)
        _say("2/3  swath.ingest: into a store laid out for windows")
        begin = time.perf_counter()
        ingest(source, store, window=_WINDOW, memory_limit=size.memory_limit)
        ingest_s = time.perf_counter() - begin
        _say(f"3/3  Gathering {size.windows:,} random windows of {_WINDOW} rows in four ways")
        ways: dict[str, str] = {
            "swath gather": store,
            "swath compute": store,
            "numpy.memmap loop": source,
            "h5py loop": source,
        }
        cold: dict[str, Result] = {}
        warm: dict[str, Result] = {}
        for way, target in ways.items():
            check = source if way.startswith("swath") else None
            limit = size.memory_limit if way.startswith("swath") else None
            for results, is_cold in ((cold, True), (warm, False)):
                results[way] = measure(Job(way, target, size.windows, _WINDOW, _SEED, is_cold, limit, check))
            checked = ", each byte as h5py's" if check else ""
            _say(f"     {way}: {cold[way].seconds:.2f} s cold, {warm[way].seconds:.2f} s warm{checked}")
        return DemoResult(size, ingest_s, cold, warm)


def write_source(path: Path, size: DemoSize) -> None:
    """A contiguous HDF5 dataset ``A``, every row different, written in blocks."""
    import h5py

    block = np.random.default_rng(0).normal(size=(_BLOCK_ROWS, size.n_columns))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("A", (size.n_rows, size.n_columns), "f8")
        with progress_bar("write", size.source_bytes, None) as advance:
            for start in range(0, size.n_rows, _BLOCK_ROWS):
                rows = block[: size.n_rows - start]
                dataset[start : start + len(rows)] = rows
                advance(rows.nbytes)
                block += 1.0


def demo_table(result: DemoResult, columns: int) -> Table:
    """The one table, as wide as so many columns allow."""
    from rich import box
    from rich.table import Table

    size = result.size
    batch = next(iter(result.warm.values())).batch_bytes
    title = (
        f"{size.windows:,} random windows of {_WINDOW} rows from {size.n_rows:,} x {size.n_columns} float64 "
        f"({size.source_bytes / 1e9:.1f} GB): a batch of {batch / 1e9:.2f} GB, memory limit {size.memory_limit / 1e9:.1f} GB"
    )
    # Without lines, and with two blanks between columns, it fits in 80, and without the rates, which the times tell, in 60.
    rated = columns >= _WIDE
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("way", min_width=len("numpy.memmap"))
    for state in ("cold", "warm"):
        for name in (f"{state} s", *(["GB/s"] if rated else []), "vs h5py"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("peak memory" if rated else "peak", justify="right", no_wrap=True)
    for way, cold in result.cold.items():
        row = [way]
        for results in (result.cold, result.warm):
            found, base = results[way], results["h5py loop"]
            rate = [f"{found.gigabytes_a_second:.2f}"] if rated else []
            row += [f"{found.seconds:.2f}", *rate, f"{base.seconds / found.seconds:.1f}x"]
        table.add_row(*row, f"{max(cold.peak_bytes, result.warm[way].peak_bytes) / 1e9:.2f} GB")
    table.caption = (
        f"Ingest: {result.ingest_s:.1f} s, {size.source_bytes / result.ingest_s / 1e9:.2f} GB/s. Every byte of swath's batches was "
        "compared with h5py's. Cold: file caches dropped. Peak memory: of the process, by the kernel."
    )
    return table


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
