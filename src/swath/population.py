"""Which windows are there to be drawn? They are numbered, segment by segment, or are given. Pure functions on numpy arrays."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from swath.errors import WindowError
from swath.windows import IntArray


class Population(Protocol):
    """Windows that may be drawn, by number."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def n_groups(self) -> int:
        """What weights are for: segments, or windows that were given."""
        ...

    @property
    def crc32(self) -> int:
        """What tells them from others."""
        ...

    def group(self, k: IntArray) -> tuple[IntArray, IntArray]:
        """The first window of some groups, and how many each has."""
        ...

    def starts(self, numbers: IntArray) -> IntArray:
        """The first rows of some."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows that lie in one segment each."""

    first_rows: IntArray
    """(k,) of each segment."""
    ends: IntArray
    """(k,) windows of the segments up to each, with it."""
    stride: int
    """From the start of a window to that of the next in its segment."""

    @property
    def size(self) -> int:
        """How many there are, at least one."""
        return int(self.ends[-1])

    @property
    def n_groups(self) -> int:
        """Segments."""
        return self.ends.size

    @property
    def crc32(self) -> int:
        """Of where they lie."""
        return zlib.crc32(self.ends, zlib.crc32(np.ascontiguousarray(self.first_rows), self.stride))

    def group(self, k: IntArray) -> tuple[IntArray, IntArray]:
        """The first window of some segments, and how many each has."""
        first: IntArray = np.where(k > 0, self.ends[k - 1], 0)
        return first, self.ends[k] - first

    def starts(self, numbers: IntArray) -> IntArray:
        """The first rows of some."""
        segment = np.searchsorted(self.ends, numbers, side="right")
        return self.first_rows[segment] + (numbers - self.group(segment)[0]) * self.stride


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Windows that a caller chose."""

    given: IntArray

    @property
    def size(self) -> int:
        """How many there are."""
        return self.given.size

    @property
    def n_groups(self) -> int:
        """Each window is one."""
        return self.given.size

    @property
    def crc32(self) -> int:
        """Of their starts."""
        return zlib.crc32(self.given)

    def group(self, k: IntArray) -> tuple[IntArray, IntArray]:
        """One window each."""
        return k, np.ones(k.size, np.int64)

    def starts(self, numbers: IntArray) -> IntArray:
        """The first rows of some."""
        return self.given[numbers]


def windows_within(segments: IntArray, window: int, stride: int = 1) -> Windows:
    """Windows of ``window`` rows, every ``stride`` rows, that lie within one of ``segments``, (k, 2) half-open ranges of rows.

    Raises
    ------
    WindowError
        There is none.

    Examples
    --------
    >>> found = windows_within(np.array([[0, 5], [5, 7], [7, 11]]), window=4)
    >>> found.size, found.starts(np.arange(3)).tolist()
    (3, [0, 1, 7])
    """
    lengths = segments[:, 1] - segments[:, 0]
    counts = np.maximum(0, (lengths - window) // stride + 1)
    if not counts.any():
        raise WindowError(
            f"No segment has {window} rows, the longest has {lengths.max(initial=0)}. "
            "Choose a shorter window, or across_segments=True."
        )
    return Windows(segments[:, 0], np.cumsum(counts), stride)
