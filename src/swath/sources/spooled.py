"""Columns first, rows later: what comes as slabs of columns is put in a file once, and read from it as rows.

The file holds one slab after another, each with all its rows in order. So a slab is written in one go, and some rows are one read
for each slab. It has no name: nothing is left of it, however the process ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import DiskFullError, SourceError
from swath.memory import format_bytes

Slab = tuple[slice, ...]
"""What a slab holds of each axis of a row."""

# Rows of a slab on their way from the file into place.
PIECE_BYTES = 2**22

# Where large temporary files belong; /tmp may be memory.
_ON_DISK = "/var/tmp"  # noqa: S108 - for files without a name


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Spool:
    """Rows that lie in a file of slabs."""

    file: IO[bytes]
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_rows: int
    slabs: tuple[Slab, ...]

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill ``out`` with the rows from ``start``."""
        offset = 0
        for slab in self.slabs:
            shape = slab_shape(slab)
            row_bytes = math.prod(shape) * self.dtype.itemsize
            step = max(1, PIECE_BYTES // row_bytes)
            for i in range(0, len(out), step):
                piece = np.empty((min(step, len(out) - i), *shape), self.dtype)
                _fill(self.file.fileno(), piece, offset + (start + i) * row_bytes)
                out[(slice(i, i + step), *slab)] = piece
            offset += self.n_rows * row_bytes


def temporary_folder() -> str:
    """Where the files go."""
    return os.environ.get("TMPDIR") or (_ON_DISK if os.access(_ON_DISK, os.W_OK) else tempfile.gettempdir())


def slab_shape(slab: Slab) -> tuple[int, ...]:
    """What it has along each axis of a row."""
    return tuple(part.stop - part.start for part in slab)


def spool(
    read: Callable[[Slab], NDArray[Any]],
    slabs: Sequence[Slab],
    row_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    n_rows: int,
) -> Spool:
    """Read each slab once, (n_rows, *shape of the slab), and put it in a file in the system's folder for temporary files.

    Raises
    ------
    DiskFullError
        That folder has no room.
    """
    folder = temporary_folder()
    needed = n_rows * math.prod(row_shape) * dtype.itemsize
    try:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(f"{format_bytes(free)} free")
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            for slab in slabs:
                file.write(memoryview(np.ascontiguousarray(read(slab), dtype).reshape(-1).view(np.uint8)))
            file.flush()
            found = Spool(file, row_shape, dtype, n_rows, tuple(slabs))
            weakref.finalize(found, stack.pop_all().close)
            return found
    except SourceError:
        raise
    except OSError as error:
        raise DiskFullError(
            f"{folder} cannot take a temporary file of {format_bytes(needed)} ({error}), which rows are put in whose chunks "
            "do not fit in memory. Make room, set TMPDIR to another folder, or raise memory_limit."
        ) from error


def _fill(descriptor: int, out: NDArray[Any], offset: int) -> None:
    left = memoryview(out.reshape(-1).view(np.uint8))
    while left:
        got = os.preadv(descriptor, [left], offset)
        left, offset = left[got:], offset + got
