"""Several sources as one, along axis 0; each keeps its segments."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError
from swath.sources import Source


@dataclass(frozen=True, slots=True)
class ConcatenatedSource:
    """Sources whose rows have one shape and dtype.

    Raises
    ------
    SourceError
        Two of them differ.
    """

    parts: tuple[Source, ...]

    def __post_init__(self) -> None:
        first = self.parts[0]
        for i, part in enumerate(self.parts):
            if (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
                raise SourceError(
                    f"Source {i} ({_name(part)}) has rows of shape {part.shape[1:]} and dtype {part.dtype}, but source 0 ({_name(first)}) "
                    f"has {first.shape[1:]} and {first.dtype}. Give sources whose rows are alike."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """All rows of all parts."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of each part."""
        return self.parts[0].dtype

    @property
    def segments(self) -> tuple[int, ...]:
        """The segments of each part, one part after another."""
        return tuple(itertools.chain.from_iterable(part.segments for part in self.parts))

    @property
    def in_order(self) -> bool:
        """If any part is."""
        return any(part.in_order for part in self.parts)

    @property
    def read_bytes(self) -> int:
        """At the border of two parts both may hold what they read."""
        return 2 * max(part.read_bytes for part in self.parts)

    def describe(self) -> dict[str, Any]:
        """What each part is."""
        return {"kind": "list", "parts": [part.describe() for part in self.parts]}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read from each part that has rows in the range."""
        begin = 0
        for part in self.parts:
            end = begin + part.shape[0]
            a, b = max(start, begin), min(start + len(out), end)
            if a < b:
                part.read_into(a - begin, out[a - start : b - start])
            begin = end


def _name(part: Source) -> str:
    return str(part.describe().get("path", type(part).__name__))
