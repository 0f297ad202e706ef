"""Batches of windows one after another, for a training loop or for what does not fit in memory at once.

A few batches are gathered in one go (a unit), ahead of the caller, into memory that is used again once nobody holds it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from swath.ahead import Ahead
from swath.buffers import Buffers
from swath.errors import OptionError, SwathError
from swath.gather import Direct, gather_now, plan_for
from swath.memory import Room, parse_bytes, resolve_limit
from swath.plan import Plan
from swath.progress import progress_bar
from swath.rows import Rows
from swath.sampling import Order, Population, Sampler, Shuffled, sampler_of
from swath.windows import IntArray, check_window

# Gathered ahead unless the caller says otherwise: enough that a gather of small batches is worth its threads.
_USUAL_BYTES = 2**25


class BatchOptions(TypedDict, total=False):
    """What `RowArray.batches` and `RowGroup.batches` take beside the size of a batch."""

    seed: int | None
    order: Order
    epoch: int
    epochs: int
    rank: int
    world_size: int
    starts: ArrayLike | None
    segments: ArrayLike | None
    across_segments: bool
    stride: int
    drop_last: bool
    window: int | None
    columns: Any
    dtype: DTypeLike | Mapping[str, DTypeLike] | None
    transform: Callable[[Any], Any] | None
    prefetch: int | str | None
    memory_limit: int | str | None
    progress: bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What a batch has of one array."""

    rows: Rows
    window: int
    columns: Any
    shape: tuple[int, ...]
    """Of one window, with the columns that are kept."""
    dtype: np.dtype[Any]
    direct: Direct
    """Chosen once: what is chosen by looks at the memory of the machine, which takes as long as to gather a small batch."""

    @property
    def window_bytes(self) -> int:
        """Of one window as the caller gets it."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def raw_bytes(self) -> int:
        """Of one window as it is read, where that is not how the caller gets it; else 0."""
        stored = self.rows.layout.dtype
        return 0 if stored == self.dtype else math.prod(self.shape) * stored.itemsize

    def plan(self, starts: IntArray, limit: Room, *, batch_in_memory: bool = False) -> Plan:
        """What a gather of some windows would read."""
        return plan_for(
            self.rows,
            starts,
            self.window,
            self.columns,
            batch_in_memory=batch_in_memory,
            limit=limit,
            direct=self.direct,
        )

    def read(self, starts: IntArray, out: NDArray[Any], limit: Room, scratch: Buffers) -> None:
        """Gather some windows into ``out``, as the caller gets them."""
        if not self.raw_bytes:
            self._gather(starts, out, limit)
            return
        raw = scratch.take(len(out) * self.raw_bytes).view(self.rows.layout.dtype).reshape(out.shape)
        self._gather(starts, raw, limit)
        try:
            with np.errstate(over="raise"):
                np.copyto(out, raw, casting="unsafe")
        except FloatingPointError:
            raise OptionError(
                f"A value of {self.rows.url} is too large for {self.dtype}. Choose another dtype=, or cast in transform=."
            ) from None

    def _gather(self, starts: IntArray, out: NDArray[Any], limit: Room) -> None:
        gather_now(self.rows, starts, self.window, self.columns, out, limit, "always", self.direct)


@dataclass(frozen=True, slots=True)
class Finish:
    """Makes of the arrays of a batch what the caller gets."""

    is_group: bool
    transform: Callable[[Any], Any] | None

    def __call__(self, arrays: dict[str, NDArray[Any]]) -> Any:
        """All of them by name, or the only one."""
        batch = arrays if self.is_group else arrays[""]
        return batch if self.transform is None else self.transform(batch)


@dataclass(frozen=True, slots=True, eq=False)
class Recipe[T]:
    """All that decides what the batches are."""

    sampler: Sampler
    parts: dict[str, Part]
    finish: Callable[[dict[str, NDArray[Any]]], T]
    """Makes of the arrays what the caller gets."""
    unit: int
    """Batches that are gathered in one go, a power of two."""
    limit: Room
    """Of the scratch of a gather."""

    @property
    def batch_bytes(self) -> int:
        """Of a whole batch."""
        return self.sampler.batch_size * sum(part.window_bytes for part in self.parts.values())

    def batches_from(self, k: int, buffers: Buffers) -> Iterator[tuple[IntArray, T]]:
        """Batches of the sampler from ``k`` on, with their starts."""
        scratch = Buffers(len(self.parts))
        failed = k
        while k < len(self.sampler):
            # One at first, so that it comes soon; then two, four and so on, up to whole units, wherever one begins.
            n = 1 if k < failed else min(k & -k or 1, self.unit, len(self.sampler) - k)
            starts = [self.sampler.starts(i) for i in range(k, k + n)]
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

    def read(self, starts: IntArray, buffers: Buffers, scratch: Buffers) -> dict[str, NDArray[Any]]:
        """Windows of each array, in buffers."""
        arrays = {}
        for name, part in self.parts.items():
            shape = (starts.size, *part.shape)
            out = buffers.take(starts.size * part.window_bytes).view(part.dtype).reshape(shape)
            part.read(starts, out, self.limit, scratch)
            arrays[name] = out
        return arrays


class Batches[T](Iterator[T]):
    """An iterator of batches; `RowArray.batches` and `RowGroup.batches` make it.

    It can be stopped and carried on with anywhere: `state_dict` is a few numbers. It pickles, and goes on in a child that was forked.
    """

    def __init__(self, recipe: Recipe[T], ahead: int, progress: bool | None) -> None:
        self._recipe = recipe
        self._ahead = ahead
        self._progress = progress
        self._next = 0
        self._restart()
        self.starts: IntArray = np.empty(0, np.int64)
        """Those of the batch that came last."""

    def _restart(self) -> None:
        self._pid = os.getpid()
        self._coming: Iterator[tuple[IntArray, T]] | None = None
        self._bar = contextlib.ExitStack()
        self._advance: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self._recipe.sampler)

    @property
    def population(self) -> Population:
        """The windows that are drawn from, by number."""
        return self._recipe.sampler.population

    def at(self, k: int) -> T:
        """Batch ``k``, read now, wherever the iterator is and stays; threads may ask at once.

        Raises
        ------
        OptionError
            There are not so many.
        """
        starts, recipe = self.starts_at(k), self._recipe
        return recipe.finish(recipe.read(starts, Buffers(1), Buffers(1)))

    def starts_at(self, k: int) -> IntArray:
        """The starts of batch ``k``; nothing is read.

        Raises
        ------
        OptionError
            There are not so many.
        """
        if not 0 <= k < len(self):
            raise OptionError(f"k is {k}. Give a whole number in [0, {len(self) - 1}].")
        return self._recipe.sampler.starts(k)

    def __next__(self) -> T:
        if self._pid != os.getpid():
            self._restart()  # what came ahead is in another process
        if self._next >= len(self):
            self.close()
            raise StopIteration
        if self._coming is None:
            self._coming = self._start()
        try:
            starts, batch = next(self._coming)
        except BaseException:
            self.close()
            raise
        self._next, self.starts = self._next + 1, starts  # after an error it is the next still
        if self._advance is not None:
            self._advance(starts.size * self._recipe.batch_bytes // self._recipe.sampler.batch_size)
        return batch

    def _start(self) -> Iterator[tuple[IntArray, T]]:
        recipe, unit = self._recipe, self._recipe.unit
        if self._progress is not False:
            total, done = len(self) * recipe.batch_bytes, self._next * recipe.batch_bytes
            self._advance = self._bar.enter_context(progress_bar("Batches", total, self._progress, done=done))
        # The caller has one unit, and one is read, or some wait: of each array.
        buffers = Buffers((self._ahead // unit + 2) * len(recipe.parts))
        batches = recipe.batches_from(self._next, buffers)
        return Ahead(batches, self._ahead - unit) if self._ahead else batches

    def close(self) -> None:
        """Give back the memory of what was gathered ahead. Batches can be carried on with."""
        if isinstance(self._coming, Ahead) and self._pid == os.getpid():
            self._coming.close()
        self._coming = None
        self._bar.close()

    def share(self, k: int, n: int) -> Batches[T]:
        """Every ``n``-th of these batches from ``k`` on, for one of ``n`` workers which take turns; from the first on."""
        recipe = replace(self._recipe, sampler=self._recipe.sampler.share(k, n))
        return Batches(recipe, self._ahead, self._progress)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON values."""
        return {"next": self._next, **self._recipe.sampler.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another was, that was made with the same arguments.

        Raises
        ------
        OptionError
            It was made with others.
        """
        own = self._recipe.sampler.identity
        others = {name: state.get(name) for name in own if state.get(name) != own[name]}
        if others:
            mine = {name: own[name] for name in others}
            raise OptionError(
                f"The state is that of batches with {others}, but these have {mine}. Make them as those were made."
            )
        k = state.get("next")
        if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= len(self):
            raise OptionError(f"The state has next={k!r}. Give one that state_dict() returned.")
        self.close()
        self._next = k

    def __getstate__(self) -> tuple[Any, ...]:
        return self._recipe, self._ahead, self._progress, self._next, self.starts

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._recipe, self._ahead, self._progress, self._next, self.starts = state
        self._restart()


def batches_of(
    arrays: Mapping[str, Rows],
    edges: IntArray,
    batch_size: int,
    *,
    is_group: bool,
    seed: int | None = 0,
    order: Order | None = None,
    epoch: int = 0,
    epochs: int = 1,
    rank: int = 0,
    world_size: int = 1,
    starts: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    across_segments: bool = False,
    stride: int = 1,
    drop_last: bool = False,
    window: int | None = None,
    columns: Any = None,
    dtype: DTypeLike | Mapping[str, DTypeLike] | None = None,
    transform: Callable[[Any], Any] | None = None,
    prefetch: int | str | None = None,
    memory_limit: int | str | None = None,
    progress: bool | None = False,
) -> Batches[Any]:
    """Batches of the same windows of arrays of as many rows each, whose segments are ``edges``, (k, 2) ranges.

    A batch ``is_group`` if it is a dict. What else there is `RowArray.batches` says.
    """
    first = next(iter(arrays.values()))
    n_rows = first.layout.n_rows
    window = check_window(first.window if window is None else window, n_rows)
    if across_segments:
        if segments is not None:
            raise OptionError("segments are chosen, and across_segments is set. Leave one of them out.")
        edges = np.array([[0, n_rows]])
    sampler = sampler_of(
        edges,
        window,
        batch_size,
        seed=seed,
        order=Shuffled() if order is None else order,
        epoch=epoch,
        epochs=epochs,
        rank=rank,
        world_size=world_size,
        starts=starts,
        keep=segments,
        stride=stride,
        drop_last=drop_last,
    )
    limit = resolve_limit(memory_limit)
    parts = {}
    for name, rows in arrays.items():
        kept = columns.get(name) if isinstance(columns, Mapping) else columns
        wanted: Any = dtype.get(name) if isinstance(dtype, Mapping) else dtype
        plan = plan_for(rows, [], window, kept, limit=limit)
        direct: Direct = "always" if plan.direct else "never"
        parts[name] = Part(rows, window, kept, plan.batch_shape[1:], _check_dtype(wanted, rows.layout.dtype), direct)
    recipe = Recipe(sampler, parts, Finish(is_group, transform), 1, limit)
    return _fitted(recipe, prefetch, limit, progress)


def _fitted[T](recipe: Recipe[T], prefetch: int | str | None, limit: Room, progress: bool | None) -> Batches[T]:
    """Batches of which as many are gathered ahead as ``prefetch`` and the memory limit allow.

    Raises
    ------
    OptionError
        ``prefetch`` is no size.
    MemoryLimitError
        Not even one batch fits.
    """
    sampler, parts = recipe.sampler, recipe.parts
    batch_bytes = max(1, recipe.batch_bytes)
    if prefetch is None:
        ahead = max(batch_bytes, _USUAL_BYTES) // batch_bytes
    else:
        ahead = 0 if prefetch == 0 else parse_bytes(prefetch, "prefetch") // batch_bytes
    raw_bytes = sampler.batch_size * sum(part.raw_bytes for part in parts.values())
    ahead = min(ahead, len(sampler))
    while ahead:
        unit = 1 << (max(1, ahead // 2).bit_length() - 1)
        left = Room(limit.n_bytes - (ahead + unit) * batch_bytes - unit * raw_bytes, limit.bound_by)
        if left.n_bytes > 0:
            starts = np.concatenate([sampler.starts(k) for k in range(min(unit, len(sampler)))])
            if all(part.plan(starts, left).cost.total <= left.n_bytes for part in parts.values()):
                return Batches(replace(recipe, unit=unit, limit=left), ahead, progress)
        ahead //= 2
    starts = sampler.starts(0) if len(sampler) else np.empty(0, np.int64)
    for part in parts.values():
        stored = starts.size * math.prod(part.shape) * part.rows.layout.dtype.itemsize
        others = Room(max(0, limit.n_bytes - batch_bytes - raw_bytes + stored), limit.bound_by)
        part.plan(starts, others, batch_in_memory=True).check(others)
    return Batches(replace(recipe, limit=Room(limit.n_bytes - batch_bytes - raw_bytes, limit.bound_by)), 0, progress)


def _check_dtype(wanted: DTypeLike | None, stored: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a batch: the one of the array, or one that holds its values, or rounds them to a float.

    Raises
    ------
    OptionError
    """
    if wanted is None:
        return stored
    try:
        dtype = np.dtype(wanted)
    except TypeError as error:
        raise OptionError(f"dtype is {wanted!r}, which is none ({error}). Give one such as 'float32'.") from None
    rounds = (dtype.kind == "f" and stored.kind in "biuf") or (dtype.kind == "c" and stored.kind in "biufc")
    if dtype.hasobject or not (rounds or np.can_cast(stored, dtype, "safe")):
        raise OptionError(
            f"dtype is {dtype}, which does not hold all values of {stored}. Choose a float or a larger dtype, or cast in transform=."
        )
    return dtype
