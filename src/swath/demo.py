"""The reference job, at a size that suits this machine: write, ingest, gather, check, compare.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swath.doors import ingest
from swath.measure import Job, Result, measure
from swath.memory import Room, detect_room, format_bytes

if TYPE_CHECKING:
    from rich.table import Table

REFERENCE_ROWS, _REFERENCE_COLUMNS = 2_000_000, 2000
_WINDOWS, _WINDOW, _SEED = 10_000, 16, 1
_REFERENCE_LIMIT = 8 * 10**9
_BLOCK_ROWS = 4000

# Source and store take a half of the free disk at most; the source a third of memory, so that warm means warm.
_SHARE_OF_DISK = 4
_SHARE_OF_MEMORY = 3


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


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured."""

    size: DemoSize
    ingest_s: float
    cold: dict[str, Result]
    warm: dict[str, Result]


def choose_size(free_disk: int, room: Room, n_rows: int | None = None) -> DemoSize:
    """The reference job where it fits, and else as much of it as does; or the job with ``n_rows`` rows.

    Examples
    --------
    >>> choose_size(free_disk=80 * 10**9, room=Room(24 * 10**9, "the machine")).n_rows
    500000
    """
    source = min(free_disk // _SHARE_OF_DISK, room.n_bytes // _SHARE_OF_MEMORY)
    n_rows = n_rows or min(
        REFERENCE_ROWS, max(_BLOCK_ROWS, source // (_REFERENCE_COLUMNS * 8) // _BLOCK_ROWS * _BLOCK_ROWS)
    )
    limit = min(_REFERENCE_LIMIT, room.n_bytes * 9 // 10)
    windows = min(_WINDOWS, n_rows // _WINDOW, limit // 2 // (_WINDOW * _REFERENCE_COLUMNS * 8))
    return DemoSize(n_rows, _REFERENCE_COLUMNS, windows, limit)


def run_demo(folder: Path | None, n_rows: int | None) -> DemoResult:
    """Run the demo in ``folder``, or in a temporary one beside the working directory; nothing is left there."""
    with _scratch(folder) as place:
        size = choose_size(shutil.disk_usage(place).free, detect_room(), n_rows)
        source, store = f"{place / 'source.h5'}::A", str(place / "store.zarr")
        _say(
            f"Writing {size.n_rows:,} x {size.n_columns} float64 ({format_bytes(size.source_bytes)}) "
            f"to an HDF5 file in {place} ..."
        )
        write_source(place / "source.h5", size)
        _say("Ingesting it ...")
        begin = time.perf_counter()
        ingest(source, store, window=_WINDOW, memory_limit=size.memory_limit)
        ingest_s = time.perf_counter() - begin

        ways: dict[str, str] = {
            "swath gather": store,
            "swath compute": store,
            "numpy.memmap loop": source,
            "h5py loop": source,
        }
        cold: dict[str, Result] = {}
        warm: dict[str, Result] = {}
        for way, target in ways.items():
            for results, is_cold in ((cold, True), (warm, False)):
                _say(f"Gathering {size.windows:,} windows: {way}, {'cold' if is_cold else 'warm'} ...")
                check = source if way.startswith("swath") else None
                limit = size.memory_limit if way.startswith("swath") else None
                results[way] = measure(Job(way, target, size.windows, _WINDOW, _SEED, is_cold, limit, check))
        return DemoResult(size, ingest_s, cold, warm)


def write_source(path: Path, size: DemoSize) -> None:
    """A contiguous HDF5 dataset ``A``, every row different, written in blocks."""
    import h5py

    block = np.random.default_rng(0).normal(size=(_BLOCK_ROWS, size.n_columns))
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("A", (size.n_rows, size.n_columns), "f8")
        for start in range(0, size.n_rows, _BLOCK_ROWS):
            rows = block[: size.n_rows - start]
            dataset[start : start + len(rows)] = rows
            block += 1.0


def demo_table(result: DemoResult) -> Table:
    """The one table."""
    from rich.table import Table

    size = result.size
    batch = next(iter(result.warm.values())).batch_bytes
    title = (
        f"{size.windows:,} random windows of {_WINDOW} rows from {size.n_rows:,} x {size.n_columns} float64 "
        f"({size.source_bytes / 1e9:.1f} GB): a batch of {batch / 1e9:.2f} GB, memory limit {size.memory_limit / 1e9:.1f} GB"
    )
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("way")
    for name in ("cold s", "GB/s", "vs h5py", "warm s", "GB/s", "vs h5py", "peak memory"):
        table.add_column(name, justify="right")
    base = "h5py loop"
    for way, warm in result.warm.items():
        cold = result.cold[way]
        table.add_row(
            way,
            f"{cold.seconds:.2f}",
            f"{cold.gigabytes_a_second:.2f}",
            f"{result.cold[base].seconds / cold.seconds:.1f}x",
            f"{warm.seconds:.2f}",
            f"{warm.gigabytes_a_second:.2f}",
            f"{result.warm[base].seconds / warm.seconds:.1f}x",
            f"{max(cold.peak_bytes, warm.peak_bytes) / 1e9:.2f} GB",
        )
    table.caption = (
        f"Ingest: {result.ingest_s:.1f} s, {size.source_bytes / result.ingest_s / 1e9:.2f} GB/s. Every byte of swath's batches was "
        "compared with h5py's. Cold: file caches dropped. Peak memory: of the process, by the kernel."
    )
    return table


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="swath-demo-", dir=folder or Path.cwd()) as name:
        yield Path(name)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
