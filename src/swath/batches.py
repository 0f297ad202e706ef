"""Batches of windows one after another, for a training loop or for what does not fit in memory at once.

A few batches are gathered in one go (a unit), ahead of the caller, into memory that is used again once nobody holds it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from swath.ahead import Ahead
from swath.buffers import Buffers
from swath.drawing import FAINT, WANTED, Bar, bar_chart
from swath.errors import MemoryLimitError, OptionError
from swath.gather import plan_for
from swath.html import card, shown_place
from swath.memory import Room, format_bytes, parse_bytes, resolve_limit
from swath.population import Population
from swath.progress import progress_bar
from swath.recipe import Finish, Part, Recipe
from swath.rows import Rows
from swath.sampling import Order, Shuffled, is_whole, order_picture, sampler_of
from swath.windows import IntArray, check_window

# Gathered ahead unless the caller says otherwise: enough that a gather is worth its threads. Windows of 256 KB came at 14,000 a second in
# gathers of 64 MB, 9,500 of 16 MB and 7,000 of 8 MB.
_USUAL_BYTES = 2**26

# And never more, however small they are: each has objects of its own.
_MOST_AHEAD = 256


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


class Batches[T](Iterator[T]):
    """An iterator of batches; `RowArray.batches` and `RowGroup.batches` make it.

    It can be stopped and carried on with anywhere: `state_dict` is a few numbers. It pickles, and goes on in a child that was forked.
    """

    def __init__(self, recipe: Recipe, ahead: int, progress: bool | None) -> None:
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

    def __repr__(self) -> str:
        each = ", ".join(f"{name}{': ' * bool(name)}{told}" for name, told in self._shapes().items())
        return f"<swath.Batches {self._next:,} of {len(self):,} taken, {self._recipe.sampler.order!r}: {each}>"

    def _repr_html_(self) -> str:
        recipe, sampler = self._recipe, self._recipe.sampler
        dealt = sampler.dealt
        facts = {
            "taken": f"{self._next:,} of {len(self):,} batches, of {sampler.batch_size:,} windows",
            "windows": f"{sampler.population.size:,} to draw from",
            "order": f"{sampler.order!r}, seed {sampler.seed}",
            "epochs": f"from {sampler.epoch}, of {sampler.batches_an_epoch:,} batches each",
            "rank": f"{dealt.start} of {dealt.step}",
            "memory": f"{format_bytes(recipe.batch_bytes)} a batch, {self._ahead} gathered ahead",
        }
        if dealt.step == 1:
            del facts["rank"]
        facts |= {
            name or "from": f"{told}, {shown_place(recipe.parts[name].rows.url)}"
            for name, told in self._shapes().items()
        }
        done = Bar(
            "taken",
            f"{self._next / max(1, len(self)):.0%}",
            (("", self._next, WANTED), ("", len(self) - self._next, FAINT)),
        )
        drawn = ""
        with contextlib.suppress(Exception):  # an order may be the caller's own, and a picture is not worth an error
            drawn = order_picture(sampler.order, sampler.population, sampler.seed, sampler.epoch)
        return card("swath.Batches", f"{len(self):,} batches", facts, bar_chart([done]), drawn)

    def _shapes(self) -> dict[str, str]:
        """Shape and dtype of a whole batch, by the name of the array."""
        n = self.most_windows
        return {name: f"{(n, *part.shape)} {part.dtype}" for name, part in self._recipe.parts.items()}

    @property
    def population(self) -> Population:
        """The windows that are drawn from, by number."""
        return self._recipe.sampler.population

    def at(self, k: int) -> T:
        """Batch ``k``, read now, wherever the iterator is and stays; threads may ask at once.

        Parameters
        ----------
        k
            Its number, in ``[0, len(self))``, counted through all epochs.

        Raises
        ------
        OptionError
            There are not so many.
        """
        starts, recipe = self.starts_at(k), self._recipe
        new = {name: Buffers(1) for name in recipe.parts}
        batch: T = recipe.finish(recipe.read(starts, new, {name: Buffers(1) for name in recipe.parts}))
        return batch

    @property
    def most_windows(self) -> int:
        """Windows of the largest batch."""
        return self._recipe.sampler.most_windows

    @property
    def is_transformed(self) -> bool:
        """Whether a ``transform`` makes something else of the arrays."""
        return self._recipe.finish.transform is not None

    def none(self) -> Any:
        """The arrays of a batch of no windows, before any transform: dtypes and shapes that all have, but for their number."""
        arrays = {name: np.empty((0, *part.shape), part.dtype) for name, part in self._recipe.parts.items()}
        return self._recipe.finish.named(arrays)

    def gather_into(self, k: int, place: Callable[[int], Any]) -> IntArray:
        """Gather batch ``k``, before any transform, into memory of the caller, and return its starts.

        Parameters
        ----------
        k
            Its number, in ``[0, len(self))``, counted through all epochs.
        place
            Called with the number of its windows: gives the array, or the dict of arrays, (windows, window, ...) that is filled.

        Returns
        -------
        numpy.ndarray
            (windows,) int64.

        Raises
        ------
        OptionError
            There are not so many.
        """
        starts, recipe = self.starts_at(k), self._recipe
        out = place(starts.size)
        for name, part in recipe.parts.items():
            part.read(starts, out[name] if recipe.finish.is_group else out, recipe.limit, Buffers(1))
        return starts

    def starts_at(self, k: int) -> IntArray:
        """The starts of batch ``k``, (windows,) int64; nothing is read.

        Parameters
        ----------
        k
            Its number, in ``[0, len(self))``, counted through all epochs.

        Raises
        ------
        OptionError
            There are not so many.
        """
        if not is_whole(k) or not 0 <= k < len(self):
            raise OptionError(f"k is {k!r}. Give a whole number in [0, {len(self) - 1}].")
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
            self._advance(self._recipe.batch_bytes)  # the last too, which may have fewer windows, so that the bar ends
        return batch

    def _start(self) -> Iterator[tuple[IntArray, T]]:
        recipe, unit = self._recipe, self._recipe.unit
        if self._progress is not False:
            total, done = len(self) * recipe.batch_bytes, self._next * recipe.batch_bytes
            self._advance = self._bar.enter_context(progress_bar("Batches", total, self._progress, done=done))
        # The caller has one unit, one is read, and some wait.
        batches = recipe.batches_from(self._next, self._ahead // unit + 2)
        return Ahead(batches, self._ahead - unit) if self._ahead else batches

    def close(self) -> None:
        """Give back the memory of what was gathered ahead. Batches can be carried on with."""
        if self._pid != os.getpid():
            self._restart()  # the bar too has a lock
        if isinstance(self._coming, Ahead):
            self._coming.close()
        self._coming = None
        self._bar.close()

    def share(self, k: int, n: int) -> Batches[T]:
        """Every ``n``-th of these batches from ``k`` on, for one of ``n`` workers which take turns; from the first on.

        Parameters
        ----------
        k
            The worker, in ``[0, n)``.
        n
            How many there are.

        Raises
        ------
        OptionError
            There is no such worker.
        """
        if not is_whole(k) or not is_whole(n) or not 0 <= k < n:
            raise OptionError(f"k is {k!r} and n is {n!r}. Give whole numbers, k from 0 on and below n.")
        recipe = replace(self._recipe, sampler=self._recipe.sampler.share(k, n))
        return Batches(recipe, self._ahead, self._progress)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON values."""
        return {"next": self._next, **self._recipe.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another was, that was made with the same arguments.

        Parameters
        ----------
        state
            What `state_dict` gave.

        Raises
        ------
        OptionError
            It was made with others.
        """
        own = self._recipe.identity
        if not isinstance(state, Mapping):
            raise OptionError(f"The state is {state!r}. Give one that state_dict() returned.")
        others = {name: state.get(name) for name in own if state.get(name) != own[name]}
        if others:
            mine = {name: own[name] for name in others}
            raise OptionError(
                f"The state is that of batches with {others}, but these have {mine}. Make them as those were made."
            )
        k: Any = state.get("next")
        if not is_whole(k) or not 0 <= k <= len(self):
            raise OptionError(f"The state has next={k!r}. Give one that state_dict() returned.")
        self.close()
        self._next = int(k)

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
    if transform is not None and not callable(transform):
        raise OptionError(f"transform is {transform!r}. Give a function of a batch.")
    limit = resolve_limit(memory_limit)
    kept, dtypes = _by_name("columns", columns, arrays, is_group), _by_name("dtype", dtype, arrays, is_group)
    parts = {}
    for name, rows in arrays.items():
        plan = plan_for(rows, [], window, kept[name], limit=limit)
        wanted = _check_dtype(dtypes[name], rows.layout.dtype)
        parts[name] = Part(rows, window, plan.columns, plan.batch_shape[1:], wanted)
    recipe = Recipe(sampler, parts, Finish(is_group, transform), 1, limit)
    return _fitted(recipe, prefetch, limit, progress)


def _fitted(recipe: Recipe, prefetch: int | str | None, limit: Room, progress: bool | None) -> Batches[Any]:
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
    raw_bytes = sampler.most_windows * sum(part.raw_bytes for part in parts.values())
    if prefetch is None:
        ahead = max(batch_bytes, _USUAL_BYTES) // batch_bytes
    elif is_whole(prefetch) and prefetch == 0:
        ahead = 0
    else:
        ahead = parse_bytes(prefetch, "prefetch") // batch_bytes
    ahead = min(ahead, len(sampler), _MOST_AHEAD)
    while True:
        unit = 1 << (max(1, ahead // 2).bit_length() - 1)
        # The caller has one unit, if only the last batch of it, while the next is gathered.
        held = min(ahead + 2 * unit, len(sampler)) * batch_bytes + unit * raw_bytes
        left = Room(max(0, limit.n_bytes - held), limit.bound_by)
        some = sampler.starts_of(range(min(unit, len(sampler)))) or [np.empty(0, np.int64)]
        beside = max(part.plan(np.concatenate(some), left).cost.total for part in parts.values())
        if held + beside <= limit.n_bytes:
            return Batches(replace(recipe, unit=unit, limit=left), ahead, progress)
        if not ahead:
            raise MemoryLimitError(
                f"A batch of {sampler.most_windows:,} windows takes {format_bytes(batch_bytes)}. With the one before it, which the "
                f"caller still has, and what a gather takes, that is {format_bytes(held + beside)}, but the limit is "
                f"{format_bytes(limit.n_bytes)} ({limit.bound_by}). Choose a smaller batch_size, columns=, or raise memory_limit."
            )
        ahead //= 2


def _by_name(name: str, option: Any, arrays: Mapping[str, Rows], is_group: bool) -> dict[str, Any]:
    """An option for each array: the same for all, or those that a dict has.

    Raises
    ------
    OptionError
    """
    if not isinstance(option, Mapping):
        return dict.fromkeys(arrays, option)
    if not is_group or not option.keys() <= arrays.keys():
        known = f"the arrays are {sorted(arrays)}" if is_group else "this is one array, without a name"
        raise OptionError(f"{name} is {dict(option)!r}, but {known}. Give it by names that there are.")
    return {each: option.get(each) for each in arrays}


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
        raise OptionError(
            f"dtype is {wanted!r}, which is none of numpy's ({error}). Give one such as 'float32'."
        ) from None
    rounds = (dtype.kind == "f" and stored.kind in "biuf") or (dtype.kind == "c" and stored.kind in "biufc")
    if dtype.hasobject or not dtype.itemsize or not (rounds or np.can_cast(stored, dtype, "safe")):
        raise OptionError(
            f"dtype is {dtype}, which does not hold all values of {stored}. Choose a float or a larger dtype, or cast in transform=."
        )
    return dtype
