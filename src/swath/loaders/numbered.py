"""Windows by number, from 0 to their count, as data sets that are asked for single samples have them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.array import RowArray
from swath.errors import MemoryLimitError, OptionError, WindowOutOfBoundsError
from swath.group import RowGroup, arrays_of
from swath.memory import format_bytes, resolve_limit
from swath.population import Population
from swath.windows import as_array


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """Windows of an array, or the same ones of each array of a group, in their own order."""

    arrays: Mapping[str, RowArray]
    """By name; one that is alone has the name ``""``."""
    sample_shapes: Mapping[str, tuple[int, ...]]
    """Of one window of each."""
    population: Population
    options: Mapping[str, Any]
    """Of each gather."""
    memory_limit: int | str | None
    """Of a batch and its gather together."""

    def __len__(self) -> int:
        return self.population.size

    @property
    def is_alone(self) -> bool:
        """Whether this is an array, and no group."""
        return "" in self.arrays

    def gather[T](
        self, numbers: Sequence[int], empty: Callable[[tuple[int, ...], np.dtype[Any]], tuple[T, NDArray[Any]]]
    ) -> dict[str, T]:
        """Read some windows, of each array at once.

        Parameters
        ----------
        numbers
            Which; any order, repeats allowed.
        empty
            Makes what holds a batch of a shape and a dtype, and the array by which it is filled.

        Returns
        -------
        dict
            What ``empty`` made for each array, filled.

        Raises
        ------
        OptionError, WindowOutOfBoundsError
            These are no numbers of windows.
        MemoryLimitError
            A batch of so many does not fit.
        """
        starts = self.population.starts(self._checked(numbers))
        limit = resolve_limit(self.memory_limit)
        needed = starts.size * self._window_bytes
        if needed >= limit.n_bytes:
            raise MemoryLimitError(
                f"A batch of {starts.size:,} windows takes {format_bytes(needed)}, but the limit is {format_bytes(limit.n_bytes)} "
                f"({limit.bound_by}). Ask for fewer at once, or raise memory_limit."
            )
        batch = {}
        for name, array in self.arrays.items():
            batch[name], out = empty((starts.size, *self.sample_shapes[name]), array.dtype)
            array.gather(starts, out=out, memory_limit=limit.n_bytes - needed, progress=False, **self.options)
        return batch

    @property
    def _window_bytes(self) -> int:
        """Of one window of all arrays."""
        return sum(math.prod(self.sample_shapes[name]) * array.dtype.itemsize for name, array in self.arrays.items())

    def _checked(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        given = as_array(numbers)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise OptionError(f"Windows are asked for by {numbers!r:.100}. Give whole numbers, in a list.")
        outside = given[(given < 0) | (given >= len(self))]
        if outside.size:
            raise WindowOutOfBoundsError(
                f"Window {outside[0]} was asked for, of {len(self)}. Give numbers from 0 to {len(self) - 1}."
            )
        return given.astype(np.int64)


def numbered(
    rows: RowArray | RowGroup,
    *,
    starts: ArrayLike | None,
    window: int | None,
    columns: Any,
    memory_limit: int | str | None,
    segments: ArrayLike | None = None,
    across_segments: bool = False,
    stride: int = 1,
) -> Numbered:
    """The windows that ``rows.batches`` would draw from.

    Raises
    ------
    OptionError, StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, MemoryLimitError
    """
    arrays = arrays_of(rows)
    size = next(iter(arrays.values())).window if window is None else window
    how: dict[str, Any] = {"window": size, "columns": columns}
    choice: dict[str, Any] = {
        "starts": starts,
        "segments": segments,
        "across_segments": across_segments,
        "stride": stride,
    }
    population = rows.batches(1, seed=None, prefetch=0, memory_limit=memory_limit, **choice, **how).population
    shapes = {name: a.plan([], window=size, columns=columns).batch_shape[1:] for name, a in arrays.items()}
    return Numbered(arrays, shapes, population, how, memory_limit)
