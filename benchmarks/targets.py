"""The files that the ways read: the same rows in every format, written one block after another."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import swath
from swath.measure import files_of

_BLOCK_BYTES = 64 * 2**20

Fill = Callable[[np.random.Generator, int, int], NDArray[Any]]
"""Rows ``[start, stop)`` of an array, from a generator."""


def normal_rows(columns: int) -> Fill:
    """Random float64, every row different: what no codec makes much smaller."""

    def fill(generator: np.random.Generator, start: int, stop: int) -> NDArray[np.float64]:
        return generator.normal(size=(stop - start, columns))

    return fill


def write_contiguous(path: Path, n_rows: int, fill: Fill) -> str:
    """A contiguous HDF5 dataset, and its name as a target."""
    generator = np.random.default_rng(0)
    row = fill(generator, 0, 1)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("A", (n_rows, *row.shape[1:]), row.dtype)
        step = max(1, _BLOCK_BYTES // row.nbytes)
        for start in range(0, n_rows, step):
            dataset[start : start + step] = fill(generator, start, min(n_rows, start + step))
    return f"{path}::A"


def write_targets(folder: Path, n_rows: int, columns: int, window: int) -> dict[str, str]:
    """The targets of the main table, by name.

    The chunked HDF5 file has chunks of a window's rows. blosc2 has blocks, its unit of decoding, of as many rows as swath's
    chunks, 64 of them in a chunk: that layout was its best cold, and as good warm as the one that it chooses by itself.
    """
    contiguous = write_contiguous(folder / "contiguous.h5", n_rows, normal_rows(columns))
    targets = {"contiguous": contiguous, "chunked": f"{folder / 'chunked.h5'}::A"}
    for codec in ("raw", "lz4"):
        targets[codec] = str(folder / f"{codec}.zarr")
        block_rows = swath.ingest(contiguous, targets[codec], window=window, codec=codec, progress=False).chunk_rows
        targets[f"blosc2 {codec}"] = str(folder / f"{codec}.b2nd")
        _write_blosc2(contiguous, targets[f"blosc2 {codec}"], block_rows, clevel=0 if codec == "raw" else 5)
    with h5py.File(folder / "contiguous.h5") as source, h5py.File(folder / "chunked.h5", "w") as file:
        chunked = file.create_dataset("A", (n_rows, columns), "f8", chunks=(min(window, n_rows), columns))
        copy_rows(source["A"], chunked)
    return targets


def _write_blosc2(source: str, path: str, block_rows: int, clevel: int) -> None:
    import blosc2  # type: ignore[import-untyped]

    name, _, dataset = source.partition("::")
    with h5py.File(name) as file:
        rows = file[dataset]
        block = min(block_rows, len(rows))
        array = blosc2.empty(
            rows.shape,
            rows.dtype,
            urlpath=path,
            mode="w",
            chunks=(min(64 * block, len(rows)), *rows.shape[1:]),
            blocks=(block, *rows.shape[1:]),
            # swath's own: lz4 at level 5 after a byte shuffle.
            cparams={"codec": blosc2.Codec.LZ4, "clevel": clevel, "filters": [blosc2.Filter.SHUFFLE]},
        )
        copy_rows(rows, array)


def copy_rows(source: Any, target: Any) -> None:
    row_bytes = source.dtype.itemsize * int(np.prod(source.shape[1:]))
    # A multiple of all chunks, so that each is written once.
    step = max(1, _BLOCK_BYTES // row_bytes // 1024) * 1024
    for start in range(0, len(source), step):
        target[start : start + step] = source[start : start + step]


def load(target: str) -> None:
    """Read a file, or all files of a store, into the page cache."""
    subprocess.run(["cat", *files_of(target)], check=True, stdout=subprocess.DEVNULL)


def stored_bytes(target: str) -> int:
    """Bytes of a file, or of all files of a store."""
    path = Path(target.partition("::")[0])
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
