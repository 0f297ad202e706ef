"""What can go out: every target takes arrays of rows, block after block, and appears when it is whole.

The kind is told by the extension: ``.h5`` and ``.hdf5`` with ``::name``, ``.npy``, ``.zarr``, and ``.raw``, ``.bin`` and
``.dat`` for the bytes of the rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swath.errors import OptionError, StoreExistsError, TargetError

__all__ = ["Item", "Target", "Write", "open_target"]

Write = Callable[[int, NDArray[Any]], None]
"""Takes rows, and the place of the first of them. Rows come in order; the caller owns them."""

_HDF5 = (".h5", ".hdf5")
_RAW = (".raw", ".bin", ".dat")
_KNOWN = "'FILE.h5::NAME' (or .hdf5), '.npy', '.zarr', or for the bytes alone '.raw', '.bin', '.dat'"


@dataclass(frozen=True, slots=True)
class Item:
    """One array that is to be written."""

    name: str
    """Its name in the target; empty where the target is this array."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int | None
    """Rows of a chunk, where the target has chunks; None for what suits the target."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.row_bytes


class Target(Protocol):
    """Where arrays go."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def n_bytes(self) -> int | None:
        """Bytes on disk; None where that is known only when they are written."""
        ...

    @property
    def held_copies(self) -> int:
        """How many times a block that is being written lies in memory, beside the caller's."""
        ...

    def step_rows(self, item: Item) -> int:
        """Rows that must come together: all blocks but the last have a multiple of them."""
        ...

    def check(self) -> None:
        """Refuse what cannot be written here. Nothing is changed.

        Raises
        ------
        LayoutError
            The format cannot hold these values.
        StoreExistsError, StoreBusyError, TargetError
            The place is taken.
        """
        ...

    def writing(self) -> AbstractContextManager[Sequence[Write]]:
        """What takes the rows of each array; leaving the block without an error lets them appear, after one nothing is left.

        Raises
        ------
        StoreExistsError, StoreBusyError, TargetError, DiskFullError
        """
        ...


def open_target(path: Path, dataset: str | None, items: Sequence[Item], *, overwrite: bool) -> Target:
    """The target at ``path``, or a dataset of it. One array has no name; several have one each.

    Raises
    ------
    OptionError
        No kind of target has this extension, or it cannot take these names, chunks or number of arrays.
    """
    kind = path.suffix.lower()
    several = any(item.name for item in items)
    if kind not in (*_HDF5, ".npy", ".zarr", *_RAW):
        raise OptionError(f"The target {path.name!r} is of no kind that swath writes. Give {_KNOWN}.")
    if dataset is not None and kind not in _HDF5:
        raise OptionError(f"{path.name} is no HDF5 file, so it has no dataset {dataset!r}. Leave out '::{dataset}'.")
    if several and kind not in (*_HDF5, ".zarr"):
        raise OptionError(f"{path.name} takes one array, not {len(items)}. Give a .h5 file or a .zarr folder.")
    if kind in _HDF5:
        if not several and not dataset:
            raise OptionError(f"The target {path.name} names no dataset. Give '{path.name}::NAME'.")
        items = [replace(item, name="/".join(filter(None, (dataset, item.name)))) for item in items]
    _check_names([item.name for item in items if item.name])
    if kind in _HDF5:
        from swath.targets.hdf5 import Hdf5Target

        return Hdf5Target(path, tuple(items), overwrite)
    if kind == ".zarr":
        from swath.targets.zarr import ZarrTarget

        return ZarrTarget(path, tuple(items), overwrite)
    from swath.targets.files import FlatTarget

    (item,) = items
    if item.chunk_rows is not None:
        raise OptionError(f"chunk_rows is {item.chunk_rows}, but a {kind} file has no chunks. Leave chunk_rows out.")
    return FlatTarget(path, item, overwrite, is_npy=kind == ".npy")


def check_file(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is not to be replaced by a file.

    Raises
    ------
    StoreExistsError, TargetError
    """
    check_parent(path)
    if not path.exists():
        return
    if not path.is_file():
        raise StoreExistsError(f"{path} exists and is no file, so swath will not touch it. Choose another place.")
    if not overwrite:
        raise StoreExistsError(f"{path} exists already. Choose another place, or give overwrite=True to replace it.")


def check_parent(path: Path) -> None:
    """Refuse a place in no folder.

    Raises
    ------
    TargetError
    """
    if not path.parent.is_dir():
        raise TargetError(f"There is no folder {path.parent}. Make it first, or check the path.")


def _check_names(names: list[str]) -> None:
    """Refuse names that would lie in one another, or that HDF5 or Zarr take for something else.

    Raises
    ------
    OptionError
    """
    for name in names:
        for part in name.split("/"):
            if not part.strip(".") or "\0" in part or part.startswith("__") or part == "zarr.json":
                raise OptionError(
                    f"The name {name!r} of an array is none that a file can hold. Give one such as 'X' or 'group/X'."
                )
    for name, other in ((a, b) for a in names for b in names if a != b):
        if other.startswith(f"{name}/"):
            raise OptionError(f"The array {other!r} would lie in the array {name!r}. Give names beside one another.")
