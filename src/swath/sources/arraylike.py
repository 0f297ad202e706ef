"""Any object with a shape, a dtype and rows by slicing: xarray, torch, tensorstore, netCDF4, and what nobody has heard of.

Nobody says what it does behind a slice, so it is asked for a few rows at a time, by one thread, in order, and what comes back is
compared with what it said it was.
"""

from __future__ import annotations

import math
import operator
import uuid
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError
from swath.sources import Source, check_rows

# Rows that are asked for at once. Fewer would cost a call each, and a chunk behind it decoded again.
_STEP_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class ArrayLikeSource:
    """An object that gives rows as ``numpy.asarray(array[start:stop])``."""

    array: Any
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    """As it gives them, in either byte order."""
    dtype: np.dtype[Any]
    step_bytes: int
    opened: str
    """Of this source alone: no object says what its values are, so an ingest from it never carries on."""

    in_order = True

    @property
    def segments(self) -> tuple[int, ...]:
        """The object is one segment."""
        return (self.shape[0],)

    @property
    def _step(self) -> int:
        return max(1, self.step_bytes // max(1, self._row_bytes))

    @property
    def _row_bytes(self) -> int:
        return self.stored.itemsize * math.prod(self.shape[1:])

    @property
    def read_bytes(self) -> int:
        """What a slice gives, and its copy where that is no numpy array. What the object holds for itself is not known."""
        return 2 * min(self._step, self.shape[0]) * self._row_bytes

    def describe(self) -> dict[str, Any]:
        """What it says of itself, and a name of its own."""
        return {
            "kind": "object",
            "type": type(self.array).__name__,
            "shape": list(self.shape),
            "dtype": str(self.stored),
            "opened": self.opened,
        }

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Ask for rows, a step after another.

        Raises
        ------
        SourceError
            The object raised an error, or gave rows of another shape or dtype.
        """
        for i in range(0, len(out), self._step):
            a, b = start + i, start + min(i + self._step, len(out))
            rows = read_slice(self.array, a, b)
            if rows.shape != (b - a, *self.shape[1:]) or rows.dtype != self.stored:
                raise SourceError(
                    f"Rows {a} to {b - 1} of the {type(self.array).__name__} came with the shape {rows.shape} and dtype {rows.dtype}, "
                    f"but it said {(b - a, *self.shape[1:])} and {self.stored}. Mend it, or give a numpy array."
                )
            out[i : i + len(rows)] = rows


def is_array_like(thing: Any) -> bool:
    """Whether it has all that is asked of a source; the rest shows when it is read."""
    return all(hasattr(thing, name) for name in ("shape", "dtype", "__getitem__"))


def open_array_like(array: Any, cache_bytes: int) -> Source:
    """The source of an object with ``shape``, ``dtype`` and ``__getitem__``.

    A dtype that is none of numpy's (torch's, say) is found by a look at the first row.

    Raises
    ------
    SourceError

    Examples
    --------
    >>> import numpy as np
    >>> class Squares:
    ...     shape, dtype = (1000, 1), "i8"
    ...
    ...     def __getitem__(self, rows):
    ...         return [[i * i] for i in range(*rows.indices(1000))]
    >>> out = np.empty((2, 1), "i8")
    >>> open_array_like(Squares(), 2**20).read_into(998, out), out[:, 0]
    (None, array([996004, 998001]))
    """
    name = type(array).__name__
    try:
        shape = tuple(operator.index(n) for n in array.shape)
        if min(shape, default=0) < 0:
            raise ValueError
    except (TypeError, ValueError):
        raise SourceError(
            f"The {name} has the shape {array.shape!r}, which is not known in numbers. Give an array of known shape."
        ) from None
    if not shape or shape[0] == 0:
        check_rows(shape, np.dtype("u1"), f"The {name}")
    try:
        stored = np.dtype(array.dtype)
    except (TypeError, ValueError):
        stored = read_slice(array, 0, 1).dtype
    if stored.shape:
        raise SourceError(f"The {name} has the dtype {stored}, of more than one value. Give the axes in its shape.")
    dtype = check_rows(shape, stored, f"The {name}")
    return ArrayLikeSource(array, shape, stored, dtype, max(1, min(_STEP_BYTES, cache_bytes // 2)), uuid.uuid4().hex)


def open_xarray(array: Any, cache_bytes: int) -> Source:
    """The source of an `xarray.DataArray`: its values along the first dimension, and of a `xarray.Variable`.

    Name and attributes are left behind, and coordinates with a warning.

    Raises
    ------
    SourceError
    """
    if not is_array_like(array):
        raise SourceError(
            f"A {type(array).__name__} of xarray is no array. Give one of its variables, as dataset['name'], or keep all of them "
            "together by dataset.swath.ingest, after `import swath.xarray`."
        )
    if names := [str(name) for name in getattr(array, "coords", ())]:
        warnings.warn(
            f"The coordinates {', '.join(names)} are left behind. Keep them by array.swath.ingest, after `import swath.xarray`, or "
            "give array.drop_vars(array.coords).",
            stacklevel=2,
        )
    if array.chunks is not None:
        from swath.sources import dask

        return dask.DaskSource.of(array.data)
    # Its own `data` would load all that lies in a file; a slice loads itself alone.
    return open_array_like(array, cache_bytes)


def read_slice(array: Any, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) as a numpy array.

    Raises
    ------
    SourceError
        Whatever the object raised, or a mask that would be lost.
    """
    try:
        rows = array[start:stop]
        masked = np.ma.is_masked(rows)
        plain = np.asarray(rows)
    except Exception as error:  # of an object that nobody knows
        raise SourceError(
            f"Rows {start} to {stop - 1} of the {type(array).__name__} cannot be read ({type(error).__name__}: {error}). "
            "Mend it, or give a numpy array."
        ) from error
    if masked:
        raise SourceError(
            f"Rows {start} to {stop - 1} of the {type(array).__name__} are masked in part, and would lose their mask. "
            "Give filled values, and the mask as an array of its own."
        )
    return plain
