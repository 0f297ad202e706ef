"""Batches of windows one after another, for a training loop or for what does not fit in memory at once."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from swath.errors import OptionError
from swath.sampling import Given, Sampler
from swath.windows import IntArray


class Batches[T](Iterator[T]):
    """An iterator of batches; `RowArray.batches` and `RowGroup.batches` make it.

    It can be stopped and carried on with anywhere: `state_dict` is a few numbers. It pickles.
    """

    def __init__(self, sampler: Sampler, gather: Callable[..., T]) -> None:
        self._sampler = sampler
        self._gather = gather
        self._next = 0
        self.starts: IntArray = np.empty(0, np.int64)
        """Those of the batch that came last."""

    def __len__(self) -> int:
        return len(self._sampler)

    def __next__(self) -> T:
        if self._next >= len(self):
            raise StopIteration
        starts = self._sampler.starts(self._next)
        batch = self._gather(starts)
        self._next, self.starts = self._next + 1, starts  # after an error it is the next still
        return batch

    def none(self) -> T:
        """A batch of no windows: the dtypes and shapes that all have, but for their number."""
        return self._gather(np.empty(0, np.int64))

    def gather_into(self, k: int, place: Callable[[int], T]) -> tuple[IntArray, T]:
        """Batch ``k`` and its starts; it lies in what ``place`` gives for that number of windows. It does not move on."""
        starts = self._sampler.starts(k)
        return starts, self._gather(starts, out=place(starts.size))

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON values."""
        return {"next": self._next, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another was, that was made with the same arguments.

        Raises
        ------
        OptionError
            It was made with others.
        """
        own = self._identity()
        others = {name: state.get(name) for name in own if state.get(name) != own[name]}
        if others:
            mine = {name: own[name] for name in others}
            raise OptionError(
                f"The state is that of batches with {others}, but these have {mine}. Make them as those were made."
            )
        k = state.get("next")
        if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= len(self):
            raise OptionError(f"The state has next={k!r}. Give one that state_dict() returned.")
        self._next = k

    def _identity(self) -> dict[str, Any]:
        """What decides which windows come."""
        sampler = self._sampler
        own: dict[str, Any] = {
            "windows": sampler.population.size,
            "batch_size": sampler.batch_size,
            "seed": sampler.seed,
            "epochs": sampler.epochs,
            "rank": sampler.rank,
            "world_size": sampler.world_size,
        }
        if isinstance(sampler.population, Given):
            own["crc32"] = zlib.crc32(sampler.population.given)
        return own
