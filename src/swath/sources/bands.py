"""How are rows read from chunks that are not made for rows, each chunk once, in bounded memory?

Chunks need not hold whole rows, nor be as short as a shard: those of a table that was written by columns are as long as the array.
So rows are read a *band* at a time, the rows of one row of chunks (or of several small ones), and the band is kept until the
next shard has had its rest. A band that is too large for memory goes through a temporary file (`swath.sources.spooled`): its chunks are
decoded in slabs of as many columns as fit, written there once, and its rows read from there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.sources.spooled import PIECE_BYTES, Slab, Spool, slab_shape, spool

# Rows of chunks that are read together, so that small chunks do not cost a call each.
_BAND_BYTES = 2**26

# The most that is held of one chunk: encoded, decoded, and what the allocator keeps of those before.
_COPIES = 5


@dataclass(frozen=True, slots=True)
class Bands:
    """How an array is read: pure arithmetic on its chunks."""

    rows: int
    """Of a band."""
    slabs: tuple[Slab, ...]
    spooled: bool
    peak_bytes: int

    @classmethod
    def choose(
        cls, shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, cache_bytes: int, in_hand: int
    ) -> Bands:
        """Bands and slabs that keep to ``cache_bytes`` where the chunks allow it.

        Parameters
        ----------
        in_hand
            Buffers of a chunk's size that the library holds while it reads many.

        Examples
        --------
        >>> rows = Bands.choose((10_000, 100), (1000, 100), 8, 2**26, 10)
        >>> rows.rows, len(rows.slabs), rows.spooled
        (10000, 1, False)
        >>> columns = Bands.choose((1_000_000, 100), (1_000_000, 1), 8, 2**26, 10)
        >>> columns.rows, len(columns.slabs), columns.spooled, columns.peak_bytes <= 2**26
        (1000000, 100, True, True)
        """
        row_bytes = itemsize * math.prod(shape[1:])
        chunk_bytes = itemsize * math.prod(chunks)
        share = min(_BAND_BYTES, cache_bytes // 6)
        one_row = chunk_bytes * math.prod(-(-n // c) for n, c in zip(shape[1:], chunks[1:]))
        rows = min(shape[0], chunks[0] * max(1, share // one_row))

        slabs = _slabs(rows, shape[1:], chunks, cache_bytes // 6 // itemsize)
        largest = slab_shape(slabs[0])
        n_chunks = math.prod(-(-n // c) for n, c in zip((rows, *largest), chunks))
        reading = rows * itemsize * math.prod(largest) + min(_COPIES * n_chunks, in_hand) * chunk_bytes
        keeping = reading + (rows * row_bytes if len(slabs) > 1 else 0)
        # A slab of one chunk may be more than the cache: it is decoded whole in either case.
        spooled = keeping > max(cache_bytes, reading)
        return cls(rows, slabs, spooled, max(reading, PIECE_BYTES) if spooled else keeping)


def _slabs(rows: int, row_shape: tuple[int, ...], chunks: tuple[int, ...], most_values: int) -> tuple[Slab, ...]:
    """Whole chunks of each axis of a row, so many that the chunks of a slab have at most so many values, or that it is one."""
    # In chunks, along all axes; those at the edge are decoded whole.
    grid = [-(-n // chunk) for n, chunk in zip((rows, *row_shape), chunks)]
    most = most_values // math.prod(chunks)
    for axis in range(1, len(grid)):
        others = math.prod(grid) // grid[axis]
        grid[axis] = min(grid[axis], max(1, most // others))
    steps = [n * chunk for n, chunk in zip(grid[1:], chunks[1:])]
    cuts = [[slice(i, min(i + step, n)) for i in range(0, n, step)] for n, step in zip(row_shape, steps)]
    return tuple(itertools.product(*cuts))


@dataclass(slots=True)
class BandReader:
    """Reads rows a band at a time. It keeps the last, of which the next shard may want the rest."""

    bands: Bands
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int, int, Slab], NDArray[Any]]
    """Rows [a, b) of a slab, by the library."""
    _kept: tuple[int, NDArray[Any] | Spool] | None = field(default=None, repr=False)

    @property
    def temporary_bytes(self) -> int:
        """Of the file that a band goes through, if it does."""
        return self.bands.rows * math.prod(self.shape[1:]) * self.dtype.itemsize if self.bands.spooled else 0

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Copy rows from the bands that hold them.

        Raises
        ------
        DiskFullError
            There is no room for the temporary file.
        """
        stop = start + len(out)
        for band in range(start // self.bands.rows, -(-stop // self.bands.rows)):
            a = band * self.bands.rows
            first, last = max(a, start), min(a + self.bands.rows, stop)
            rows, part = self._band(band), out[first - start : last - start]
            if isinstance(rows, Spool):
                rows.read_into(first - a, part)
            else:
                part[...] = rows[first - a : last - a]
        if stop == self.shape[0]:
            self._kept = None  # one of many in a list: the next has its own

    def _band(self, band: int) -> NDArray[Any] | Spool:
        if self._kept is None or self._kept[0] != band:
            self._kept = None
            a = band * self.bands.rows
            self._kept = band, self._read_band(a, min(a + self.bands.rows, self.shape[0]))
        return self._kept[1]

    def _read_band(self, a: int, b: int) -> NDArray[Any] | Spool:
        slabs = self.bands.slabs
        if self.bands.spooled:
            return spool(lambda slab: self.read(a, b, slab), slabs, self.shape[1:], self.dtype, b - a)
        if len(slabs) == 1:
            return self.read(a, b, slabs[0])
        rows = np.empty((b - a, *self.shape[1:]), self.dtype)
        for slab in slabs:
            rows[(slice(None), *slab)] = self.read(a, b, slab)
        return rows
