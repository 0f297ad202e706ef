"""dask arrays: each row of blocks is computed once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError
from swath.sources import check_rows


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
        """The largest row of blocks, and the same again while dask puts its blocks together."""
        return 2 * int(max(self.array.chunks[0])) * math.prod(self.shape[1:]) * int(self.array.dtype.itemsize)

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
            rows = np.asarray(self.array[a:b].compute())
            if rows.shape != (b - a, *self.shape[1:]):
                raise SourceError(
                    f"Rows {a} to {b - 1} of the dask array were computed with the shape {rows.shape}, not as it said. Mend its graph."
                )
            self._kept = block, rows
        return self._kept[1]
