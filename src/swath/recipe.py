"""All that decides what batches are: a frozen value that a thread, or another process, carries out."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.buffers import Buffers
from swath.errors import OptionError, SwathError
from swath.gather import gather_now, plan_for
from swath.memory import Room
from swath.plan import Plan
from swath.rows import Rows
from swath.sampling import Sampler
from swath.windows import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a batch has of one array."""

    rows: Rows
    window: int
    columns: Any
    shape: tuple[int, ...]
    """Of one window, with the columns that are kept."""
    dtype: np.dtype[Any]

    @property
    def window_bytes(self) -> int:
        """Of one window as the caller gets it."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def identity(self) -> list[Any]:
        """What a window is, as JSON values."""
        kept = zlib.crc32(self.columns) if isinstance(self.columns, np.ndarray) else repr(self.columns)
        return [self.window, kept, str(self.dtype)]

    @property
    def raw_bytes(self) -> int:
        """Of one window as it is read, where that is not how the caller gets it; else 0."""
        stored = self.rows.layout.dtype
        return 0 if stored == self.dtype else math.prod(self.shape) * stored.itemsize

    def plan(self, starts: IntArray, limit: Room) -> Plan:
        """What a gather of some windows would read and take beside them."""
        return plan_for(self.rows, starts, self.window, self.columns, batch_in_memory=False, limit=limit)

    def read(self, starts: IntArray, out: NDArray[Any], limit: Room, scratch: Buffers) -> None:
        """Gather some windows into ``out``, as the caller gets them."""
        if not self.raw_bytes:
            self._gather(starts, out, limit)
            return
        raw = scratch.take(out.shape, self.rows.layout.dtype)
        self._gather(starts, raw, limit)
        try:
            with np.errstate(over="raise"):
                np.copyto(out, raw, casting="unsafe")
        except FloatingPointError:
            raise OptionError(
                f"A value of {self.rows.url} is too large for {self.dtype}. Choose another dtype=, or cast in transform=."
            ) from None

    def _gather(self, starts: IntArray, out: NDArray[Any], limit: Room) -> None:
        gather_now(self.rows, starts, self.window, self.columns, out, limit, "always", "auto")


@dataclass(frozen=True, slots=True)
class Finish:
    """Makes of the arrays of a batch what the caller gets."""

    is_group: bool
    transform: Callable[[Any], Any] | None

    def __call__(self, arrays: dict[str, NDArray[Any]]) -> Any:
        """They, transformed."""
        batch = self.named(arrays)
        return batch if self.transform is None else self.transform(batch)

    def named(self, arrays: dict[str, NDArray[Any]]) -> Any:
        """All of them by name, or the only one."""
        return arrays if self.is_group else arrays[""]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """All that decides what the batches are."""

    sampler: Sampler
    parts: dict[str, Part]
    finish: Finish
    unit: int
    """Batches that are gathered in one go, a power of two."""
    limit: Room
    """Of the scratch of a gather."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which windows come, and what they are, as JSON values."""
        return {**self.sampler.identity, "arrays": {name: part.identity for name, part in self.parts.items()}}

    @property
    def batch_bytes(self) -> int:
        """Of the largest batch."""
        return self.sampler.most_windows * sum(part.window_bytes for part in self.parts.values())

    def batches_from(self, k: int, units: int) -> Iterator[tuple[IntArray, Any]]:
        """Batches of the sampler from ``k`` on, with their starts. So many units may be in use."""
        buffers = {name: Buffers(units) for name in self.parts}
        scratch = {name: Buffers(1) for name in self.parts}
        failed = k
        while k < len(self.sampler):
            # One at first, so that it comes soon; then two, four and so on, up to whole units, wherever one begins.
            n = 1 if k < failed else min(k & -k or 1, self.unit, len(self.sampler) - k)
            starts = self.sampler.starts_of(range(k, k + n))
            try:
                arrays = self.read(np.concatenate(starts), buffers, scratch)
            except SwathError:
                if n == 1:
                    raise
                failed = k + n  # one by one: those before it are sound
                continue
            begin = 0
            for some in starts:
                stop = begin + some.size
                yield some, self.finish({name: array[begin:stop] for name, array in arrays.items()})
                begin = stop
            k += n
            del arrays  # else its buffer is in use

    def read(
        self, starts: IntArray, buffers: Mapping[str, Buffers], scratch: Mapping[str, Buffers]
    ) -> dict[str, NDArray[Any]]:
        """Windows of each array, each in buffers of its own."""
        arrays = {}
        for name, part in self.parts.items():
            out = buffers[name].take((starts.size, *part.shape), part.dtype)
            part.read(starts, out, self.limit, scratch[name])
            arrays[name] = out
        return arrays
