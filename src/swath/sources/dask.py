"""dask arrays: each row of blocks is computed once."""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError
from swath.memory import MOST_KEPT_BYTES
from swath.sources import check_rows

# Beside what dask computes of a Zarr array. Each of zarr-python's threads turns encoded bytes into a chunk, and that into a block, and
# glibc keeps the places of what they have freed, unless that was large: with blocks of 1.5, 6 and 24 MB, of which 4, 4 and 1 are
# a row, 26, 74 and 77 MB were kept when 60,000 rows had been read, over some 25 that the libraries take when they are first called.
_BLOCKS_KEPT = 3
_BLOCKS_IN_THREAD = 2
_CALL_BYTES = 32 * 2**20


@dataclass(slots=True)
class DaskSource:
    """A dask array, read one row of blocks at a time. It keeps the last, of which the next shard may want the rest."""

    array: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    edges: tuple[int, ...]
    """First row of each row of blocks, and the number of rows."""
    _kept: tuple[int, NDArray[Any]] | None = field(default=None, repr=False)

    in_order = True

    @classmethod
    def of(cls, array: Any) -> DaskSource:
        """The source of a dask array.

        Raises
        ------
        SourceError
        """
        shape = getattr(array, "shape", None)
        if shape is None or not hasattr(array, "dtype") or not hasattr(array, "chunks"):
            raise SourceError(f"A {type(array).__name__} is no dask array. Give a dask.array.Array.")
        if any(np.isnan(n) for n in shape):
            raise SourceError(
                f"The dask array has the shape {shape}, which is not known before it is computed. Call compute_chunk_sizes() first."
            )
        dtype = check_rows(shape, array.dtype, "The dask array")
        return cls(array, shape, dtype, tuple(itertools.accumulate(array.chunks[0], initial=0)))

    @property
    def segments(self) -> tuple[int, ...]:
        """The array is one segment."""
        return (self.shape[0],)

    @property
    def read_bytes(self) -> int:
        """The largest row of blocks, the same again while dask puts its blocks together, and what the threads take that make them.

        What more a graph makes on its way is not known here.
        """
        itemsize = int(self.array.dtype.itemsize)
        row_of_blocks = int(max(self.array.chunks[0])) * math.prod(self.shape[1:]) * itemsize
        block = math.prod(map(max, self.array.chunks)) * itemsize
        threads = min(os.cpu_count() or 1, -(-row_of_blocks // max(1, block)))
        beside = _BLOCKS_KEPT * row_of_blocks if block <= MOST_KEPT_BYTES else _BLOCKS_IN_THREAD * threads * block
        return _CALL_BYTES + 2 * row_of_blocks + beside

    def describe(self) -> dict[str, Any]:
        """The array's name, which dask derives from what it is computed from."""
        return {"kind": "dask", "name": self.array.name, "shape": list(self.shape), "dtype": self.dtype.str}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Compute the blocks that hold the rows, one row of blocks after another."""
        stop = start + len(out)
        for block, (a, b) in enumerate(itertools.pairwise(self.edges)):
            if a < stop and start < b:
                rows = self._rows(block)
                first, last = max(a, start), min(b, stop)
                out[first - start : last - start] = rows[first - a : last - a]

    def _rows(self, block: int) -> NDArray[Any]:
        if self._kept is None or self._kept[0] != block:
            self._kept = None
            a, b = self.edges[block], self.edges[block + 1]
            rows = np.asarray(_computed(self.array[a:b]))
            if rows.shape != (b - a, *self.shape[1:]):
                raise SourceError(
                    f"Rows {a} to {b - 1} of the dask array were computed with the shape {rows.shape}, not as it said. Mend its graph."
                )
            self._kept = block, rows
        return self._kept[1]


def _computed(array: Any) -> Any:
    """What dask makes of it, by threads that end with it: it would keep some for each thread that ever asks, and their memory."""
    from dask import threaded
    from dask.base import get_scheduler
    from dask.config import get as configured
    from dask.system import CPU_COUNT

    if get_scheduler(collections=[array]) is not threaded.get or configured("pool", None) is not None:
        return array.compute()
    with ThreadPoolExecutor(configured("num_workers", None) or CPU_COUNT) as pool:
        return array.compute(pool=pool)
