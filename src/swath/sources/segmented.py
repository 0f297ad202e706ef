"""A source whose segments somebody else knows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.errors import OptionError
from swath.sources import Source


@dataclass(frozen=True, slots=True)
class SegmentedSource:
    """All rows of a source, in other segments."""

    source: Source
    segments: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the source."""
        return self.source.dtype

    @property
    def in_order(self) -> bool:
        """As the source."""
        return self.source.in_order

    @property
    def read_bytes(self) -> int:
        """As the source."""
        return self.source.read_bytes

    def describe(self) -> dict[str, Any]:
        """What the source is, and a hash of the segments."""
        digest = hashlib.sha256(np.asarray(self.segments, "<i8").tobytes()).hexdigest()
        return {**self.source.describe(), "segments": digest}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read from the source."""
        self.source.read_into(start, out)


def in_segments(source: Source, segments: ArrayLike) -> Source:
    """The source in these segments, half-open ranges that follow one another from its first row to its last.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> import numpy as np
    >>> from swath.sources import open_source
    >>> in_segments(open_source(np.arange(10)), [[0, 4], [4, 10]]).segments
    (4, 6)
    """
    ranges = np.asarray(segments)
    if ranges.ndim != 2 or ranges.shape[1] != 2 or ranges.dtype.kind not in "iu" or not len(ranges):
        raise OptionError(
            f"segments have the shape {ranges.shape} and dtype {ranges.dtype}. Give (k, 2) whole numbers, as a.segments is."
        )
    ranges = ranges.astype(np.int64)  # numbers without a sign would become floats
    edges = np.concatenate([[0], ranges[:, 1]])
    if (ranges[:, 0] != edges[:-1]).any() or (np.diff(edges) < 1).any() or edges[-1] != source.shape[0]:
        raise OptionError(
            f"segments from {ranges[0].tolist()} to {ranges[-1].tolist()} do not follow one another over the {source.shape[0]} rows. "
            "Give ranges that begin where the one before ends, none of them empty."
        )
    return SegmentedSource(source, tuple(np.diff(edges).tolist()))
