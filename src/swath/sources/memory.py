"""numpy arrays, in memory or mapped from a file."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.checksum import crc32c
from swath.errors import SourceError
from swath.sources import Source, check_rows, file_facts
from swath.sources.files import FlatSource

_STEP_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class ArraySource:
    """A numpy array."""

    array: NDArray[Any]
    dtype: np.dtype[Any]
    mapping: mmap.mmap | None = None
    """The file it is mapped from, whose pages are given back once they have been read."""

    in_order = False
    read_bytes = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def segments(self) -> tuple[int, ...]:
        """The array is one segment."""
        return (len(self.array),)

    def describe(self) -> dict[str, Any]:
        """A checksum of all values (20 GB/s): nothing else tells two arrays in memory apart."""
        return {"kind": "numpy", "shape": list(self.shape), "dtype": self.dtype.str, "crc32c": self._crc()}

    def _crc(self) -> int:
        crc = 0
        step = max(1, _STEP_BYTES * len(self.array) // max(1, self.array.nbytes))
        for i in range(0, len(self.array), step):
            rows = np.ascontiguousarray(self.array[i : i + step])
            crc = crc32c(memoryview(rows.reshape(-1).view(np.uint8)), crc)
            self._give_back()
        return crc

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Copy rows."""
        out[...] = self.array[start : start + len(out)]
        self._give_back()

    def _give_back(self) -> None:
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)


def array_source(array: NDArray[Any]) -> Source:
    """The source of a numpy array; a mapped file is read as a file, which needs no pages of this process.

    Raises
    ------
    SourceError
    """
    if np.ma.is_masked(array):
        raise SourceError(
            "A masked array with masked values would lose its mask. Give array.filled(value), and the mask as an array of its own."
        )
    dtype = check_rows(array.shape, array.dtype, f"The {type(array).__name__}")
    if not isinstance(array, np.memmap):
        array = np.asarray(array)  # of a matrix or a masked array: rows shall have the axes that it says
    mapping = _mapping(array)
    if mapping is None or not isinstance(array, np.memmap):
        return ArraySource(array, dtype)
    if array.filename is None or not array.flags.c_contiguous:
        return ArraySource(array, dtype, mapping)
    # `offset` is that of the whole mapping, which begins on a page; the array may be a slice further on.
    mapped_from = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    address = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    offset = mapped_from + array.__array_interface__["data"][0] - address
    path = Path(array.filename)
    return FlatSource(path, "memmap", offset, array.shape, array.dtype, dtype, file_facts(path))


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping of a file that an array shows. None for a private one (mode "c"), which may differ from its file."""
    if not isinstance(array, np.memmap) or array.mode == "c":
        return None
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
