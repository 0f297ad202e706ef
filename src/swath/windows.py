"""Which rows must be read for these windows, and where does each land?

1. Check: starts are whole numbers, and every window lies inside the array.
2. Sort: rows are read in the order they are stored, whatever the order asked.
3. Merge: windows that share a grain of rows (a chunk) become one span, so that nothing is read or
   decoded twice.
4. Place: `Spans.order` restores the order asked.

Pure functions on numpy arrays: nothing here knows of files, limits or threads.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.errors import OptionError, StartsError, WindowError, WindowOutOfBoundsError

IntArray = NDArray[np.int64]


def check_window(window: Any, n_rows: int) -> int:
    """``window`` as an int in ``[1, n_rows]``.

    Raises
    ------
    WindowError
        It is not a whole number, or no such window exists in ``n_rows`` rows.
    """
    try:
        rows = 0 if isinstance(window, (bool, np.bool_)) else operator.index(window)
    except TypeError:
        rows = 0
    if not 1 <= rows <= n_rows:
        raise WindowError(
            f"window is {window!r}, but this array has {n_rows} rows. Give a whole number of rows in [1, {n_rows}]."
        )
    return rows


def check_usual_window(window: Any) -> int:
    """The rows that most windows of an array will have, of which there may be more than the array has.

    Raises
    ------
    OptionError
    """
    if not isinstance(window, (int, np.integer)) or isinstance(window, bool) or window < 1:
        raise OptionError(f"window is {window!r}. Give the number of rows that most windows will have, at least 1.")
    return int(window)


def check_starts(starts: ArrayLike, window: int, n_rows: int) -> IntArray:
    """``starts`` as an int64 array, each in ``[0, n_rows - window]``: the caller's own where it is one.

    Raises
    ------
    StartsError
        Not one-dimensional, or not of an integer dtype.
    WindowOutOfBoundsError
        Windows that leave the array; the first bad ones are named.

    Examples
    --------
    >>> check_starts([5, 0], window=16, n_rows=100)
    array([5, 0])
    """
    given = as_array(starts)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise StartsError(
            f"starts has dtype {given.dtype} and shape {given.shape}. "
            "Give the first rows of the windows as a one-dimensional list or array of integers."
        )
    last = n_rows - window
    if given.size and (given.min() < 0 or given.max() > last):
        bad = np.flatnonzero((given < 0) | (given > last))
        first = ", ".join(f"starts[{i}] = {given[i]}" for i in bad[:5])
        raise WindowOutOfBoundsError(
            f"{bad.size} of {given.size} starts lie outside [0, {last}] ({n_rows} rows, windows of {window}): "
            f"{first}{', ...' if bad.size > 5 else ''}. Starts never wrap or clip; give each in [0, {last}]."
        )
    return given.astype(np.int64, copy=False)


def as_array(values: Any) -> NDArray[Any]:
    """Positions that a caller gave, as an array; whether it is one-dimensional and of integers is still to be seen."""
    try:
        given = np.asarray(values)
    except ValueError:  # a ragged list
        return np.empty((), object)
    # An empty list has no dtype of its own.
    return given.astype(np.int64) if given.shape == (0,) and not isinstance(values, np.ndarray) else given


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Windows in the order of storage, and the runs of grains that hold them."""

    starts: IntArray
    """(n,) first row of each window, ascending."""
    order: IntArray
    """(n,) place in the batch of each of ``starts``."""
    first: IntArray
    """(m,) first grain of each span, ascending; spans never overlap."""
    stop: IntArray
    """(m,) grain after the last of each span."""


def merge_windows(starts: IntArray, window: int, grain: int, most_gap: int = 0) -> Spans:
    """Sort windows, and merge those that share a grain of ``grain`` rows, or lie at most ``most_gap`` grains apart.

    Examples
    --------
    Windows of 3 rows on grains of 2: rows 10-12 lie in grains 5-6, rows 1-3 and 2-4 share grains.

    >>> spans = merge_windows(np.array([10, 1, 2]), window=3, grain=2)
    >>> spans.first.tolist(), spans.stop.tolist(), spans.order.tolist()
    ([0, 5], [3, 7], [1, 2, 0])
    """
    starts, order = _sort(starts)
    first = starts // grain
    stop = (starts + (window - 1)) // grain + 1
    # Windows have one length, so `stop` ascends too: a span ends where the next window begins too far after it.
    heads = np.flatnonzero(np.concatenate([[True], first[1:] - stop[:-1] > most_gap])) if starts.size else order
    lasts = np.concatenate([heads[1:], [starts.size]])[: heads.size] - 1
    return Spans(starts, order, first[heads], stop[lasts])


def _sort(starts: IntArray) -> tuple[IntArray, IntArray]:
    """Starts in order, and the place of each in the order asked; equal ones stay in that order.

    Each carries its place in its lowest bits, so that whole numbers are sorted, for which numpy has the wide instructions of the
    processor, and not places by them: 10^6 starts of 24 bits take 12 ms, a stable ``argsort`` of their halves 33.
    """
    bits = starts.size.bit_length()
    if int(starts.max(initial=0)).bit_length() + bits > 63:
        order = np.argsort(starts, kind="stable")
        return starts[order], order
    numbered = starts << bits
    numbered |= np.arange(starts.size)
    numbered.sort()
    order = numbered & ((1 << bits) - 1)
    numbered >>= bits
    return numbered, order


def windows_in(starts: IntArray, window: int, row_start: IntArray, row_stop: IntArray) -> tuple[IntArray, IntArray]:
    """For runs of rows ``[row_start, row_stop)``: the half-open range of ``starts`` whose windows touch each.

    ``starts`` ascends, and windows have one length, so that those which touch a run are neighbours.
    """
    lo = np.searchsorted(starts, row_start - window, side="right")
    hi = np.searchsorted(starts, row_stop, side="left")
    return lo, hi


def expand(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Each index i repeated ``counts[i]`` times, and beside it 0, 1, ... ``counts[i] - 1``."""
    index = np.repeat(np.arange(counts.size), counts)
    return index, np.arange(index.size) - np.repeat(np.cumsum(counts) - counts, counts)
