"""A part of the rows of a source."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import OptionError
from swath.sources import Source


@dataclass(frozen=True, slots=True)
class SlicedSource:
    """Rows [start, stop) of a source."""

    source: Source
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows of the part."""
        return (self.stop - self.start, *self.source.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the source."""
        return self.source.dtype

    @property
    def segments(self) -> tuple[int, ...]:
        """What the part has of each segment, of those that it touches."""
        edges = itertools.accumulate(self.source.segments, initial=0)
        parts = (min(b, self.stop) - max(a, self.start) for a, b in itertools.pairwise(edges))
        return tuple(n_rows for n_rows in parts if n_rows > 0)

    @property
    def in_order(self) -> bool:
        """As the source."""
        return self.source.in_order

    @property
    def read_bytes(self) -> int:
        """As the source."""
        return self.source.read_bytes

    def describe(self) -> dict[str, Any]:
        """What the source is, and which rows of it are taken."""
        return {**self.source.describe(), "taken_rows": [self.start, self.stop]}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read from further on."""
        self.source.read_into(self.start + start, out)


def take_rows(source: Source, rows: slice) -> Source:
    """The part of ``source`` that ``rows`` takes, as numpy counts: negative from the end, and no further than there are rows.

    Raises
    ------
    OptionError
        It is no slice of step 1, or takes no row.

    Examples
    --------
    >>> import numpy as np
    >>> from swath.sources import open_source
    >>> take_rows(open_source(np.arange(10)), slice(-4, 99)).shape
    (4,)
    """
    if not isinstance(rows, slice):
        raise OptionError(f"rows is {rows!r}, which is no slice. Give one such as slice(0, 1000).")
    try:
        start, stop, step = rows.indices(source.shape[0])
    except (TypeError, ValueError):
        raise OptionError(f"rows is {rows}, which has no whole numbers. Give a slice such as slice(0, 1000).") from None
    if step != 1:
        raise OptionError(f"rows is {rows}, of step {step}, but rows are taken one after another. Leave the step out.")
    if start >= stop:
        raise OptionError(
            f"rows is {rows}, which takes none of the {source.shape[0]} rows. Give a slice of at least one."
        )
    return source if stop - start == source.shape[0] else SlicedSource(source, start, stop)
