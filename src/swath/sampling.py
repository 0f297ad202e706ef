"""Which windows come next? A function of seed, epoch and position, without a state.

1. Count: the windows that may be drawn are numbered (`swath.population`).
2. Order: an epoch is a sequence of these numbers. `Shuffled` is a permutation by formula, so that each window comes once and an
   epoch of 10^9 windows takes no more memory than one of ten; `Blocks` keeps neighbours together; `Uniform` and `Weighted` draw
   with replacement.
3. Deal: `Sampler` cuts the epoch into batches, and deals them to the ranks in turn. Which batch comes when does not depend on
   how many ranks there are.

Pure functions on numpy arrays.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.drawing import dots
from swath.errors import OptionError
from swath.html import card
from swath.permutation import permuted, uniform
from swath.population import Given, Population, windows_within
from swath.windows import IntArray, as_array, check_starts

# Windows of an epoch in a picture of it: one of blocks that are mixed takes 50 us for each.
_DRAWN = 100


class Order(Protocol):
    """How the windows of an epoch follow one another."""

    @property
    def identity(self) -> str:
        """What tells it from others, in words."""
        ...

    def check(self, population: Population) -> None:
        """Refuse what has no meaning for these windows, with an `OptionError`."""
        ...

    def draws(self, n: int) -> int:
        """Windows of an epoch, of ``n`` that there are."""
        ...

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        """The windows at some positions of an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class InOrder:
    """As they lie, or as they were given."""

    identity = "InOrder()"

    def check(self, population: Population) -> None:
        """Nothing to refuse."""

    def draws(self, n: int) -> int:
        """Each once."""
        return n

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        """The positions are the numbers."""
        return positions


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Each window once an epoch, in random order."""

    identity = "Shuffled()"

    def check(self, population: Population) -> None:
        """Nothing to refuse."""

    def draws(self, n: int) -> int:
        """Each once."""
        return n

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        """A permutation."""
        return permuted(positions, population.size, seed, epoch)

    def _repr_html_(self) -> str:
        return order_card(self)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Each window once an epoch, in blocks of neighbours at random places: what a disk reads faster than windows one by one.

    Parameters
    ----------
    block
        Windows of a block, one after another as they lie. Each epoch cuts them at other places.
    mix
        Blocks whose windows are shuffled among one another. They are read once where ``prefetch`` of `RowArray.batches` has room
        for twice as many, and one rank has them all.

    Notes
    -----
    Windows of a batch resemble one another the more, the larger the block and the fewer are mixed: ``benchmarks/sampling.py``
    measures both sides. Of ``n`` windows those ``n % block`` that fill no block come at the end of the epoch.
    """

    block: int
    mix: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", _checked("block", self.block, 1, 2**31))
        object.__setattr__(self, "mix", _checked("mix", self.mix, 1, 2**31))

    @property
    def identity(self) -> str:
        """Its arguments."""
        return f"Blocks({self.block}, {self.mix})"

    def check(self, population: Population) -> None:
        """Nothing to refuse."""

    def draws(self, n: int) -> int:
        """Each once."""
        return n

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        """Blocks are permuted, then the windows of so many of them; all are turned by a random number of windows."""
        n, mixed = population.size, self.block * self.mix
        groups, within = np.divmod(positions, mixed)
        for group in np.unique(groups).tolist() if self.mix > 1 else []:
            here = groups == group
            size = min(mixed, n - group * mixed)
            within[here] = permuted(within[here], size, seed, (epoch << 64) + group + 1)
        places, at = np.divmod(groups * mixed + within, self.block)
        full = n // self.block
        whole = places < full
        places[whole] = permuted(places[whole], full, seed, epoch << 64)
        turn = int(uniform(np.zeros(1, np.int64), seed, epoch, 0)[0] * n)
        return (places * self.block + at + turn) % n

    def _repr_html_(self) -> str:
        return order_card(self, least=16 * self.block * self.mix)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Windows at random with replacement: one may come twice in an epoch, and another not at all.

    Parameters
    ----------
    windows
        Of an epoch; as many as there are if None.
    """

    windows: int | None = None

    def __post_init__(self) -> None:
        if self.windows is not None:
            object.__setattr__(self, "windows", _checked("windows", self.windows, 1, 2**60))

    @property
    def identity(self) -> str:
        """Its argument."""
        return f"Uniform({self.windows})"

    def check(self, population: Population) -> None:
        """Nothing to refuse."""

    def draws(self, n: int) -> int:
        """As many as were asked for."""
        return n if self.windows is None or not n else self.windows

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        """Each evenly from all."""
        return _scaled(uniform(positions, seed, epoch, 0), population.size)

    def _repr_html_(self) -> str:
        return order_card(self)


@dataclass(frozen=True, repr=False, eq=False)
class Weighted:
    """Windows at random with replacement, some more often than others.

    Parameters
    ----------
    weights : (k,) numbers
        How often windows of each segment come, of those that are drawn from, and evenly within it; or each of ``starts``. They
        need not add up to 1.
    windows
        Of an epoch; as many as there are if None.
    """

    weights: ArrayLike
    windows: int | None = None

    def __post_init__(self) -> None:
        if self.windows is not None:
            object.__setattr__(self, "windows", _checked("windows", self.windows, 1, 2**60))
        weights = as_array(self.weights)
        if weights.ndim != 1 or weights.dtype.kind not in "biuf" or not weights.size:
            raise OptionError(f"weights have shape {weights.shape} and dtype {weights.dtype}. Give a list of numbers.")
        if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise OptionError(
                f"weights are from {weights.min()} to {weights.max()}. Give finite numbers, none negative and not all 0."
            )

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """(k,) ascending to 1."""
        weights = as_array(self.weights).astype(np.float64)
        sums = np.cumsum(weights / weights.max())
        shares: NDArray[np.float64] = sums / sums[-1]
        return shares

    @property
    def identity(self) -> str:
        """Its arguments, the weights by a checksum."""
        return f"Weighted(crc32={zlib.crc32(self._shares)}, {self.windows})"

    def check(self, population: Population) -> None:
        """Refuse weights of something else.

        Raises
        ------
        OptionError
        """
        if population.n_groups != self._shares.size:
            raise OptionError(
                f"There are {self._shares.size} weights for {population.n_groups} segments or starts. Give one for each."
            )
        _, counts = population.group(np.arange(population.n_groups))
        empty = np.flatnonzero((counts == 0) & (np.diff(self._shares, prepend=0) > 0))
        if empty.size:
            raise OptionError(f"Segment {empty[0]} has a weight, but is shorter than a window. Give it the weight 0.")

    def draws(self, n: int) -> int:
        """As many as were asked for."""
        return n if self.windows is None else self.windows

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        """A segment by its weight, then any of its windows."""
        first, counts = population.group(
            np.searchsorted(self._shares, uniform(positions, seed, epoch, 0), side="right")
        )
        return first + _scaled(uniform(positions, seed, epoch, 1), counts)

    def __repr__(self) -> str:
        return f"Weighted({self._shares.size:,} weights, windows={self.windows})"

    def _repr_html_(self) -> str:
        return order_card(self, Given(np.arange(self._shares.size)), up="segment or start", draws=_DRAWN)


def _scaled(shares: NDArray[np.float64], n: int | IntArray) -> IntArray:
    """Numbers in [0, 1) as whole ones in [0, n)."""
    scaled: IntArray = np.minimum((shares * n).astype(np.int64), np.asarray(n, np.int64) - 1)
    return scaled


def order_card(
    order: Order,
    population: Population | None = None,
    *,
    least: int = 1,
    up: str = "window",
    draws: int | None = None,
) -> str:
    """An order as a notebook shows it: the windows of an epoch, as they come."""
    if population is None:
        population = windows_within(np.array([[0, min(max(_DRAWN, least), 2**40)]]), 1)
    return card(repr(order), "an order of windows", {}, order_picture(order, population, 0, 0, up, draws=draws))


def order_picture(
    order: Order, population: Population, seed: int, epoch: int, up: str = "window", *, draws: int | None = None
) -> str:
    """Which windows come at some positions of an epoch, from the first to the last, of so many draws."""
    draws = order.draws(population.size) if draws is None else draws
    positions = np.unique(np.linspace(0, max(0, draws - 1), _DRAWN).astype(np.int64))[:draws]
    numbers = order.numbers(positions, population, seed, epoch)
    across, upwards = max(1, draws - 1), max(1, population.size - 1)
    return dots(zip((positions / across).tolist(), (numbers / upwards).tolist()), "position in an epoch", up)


def split_segments(segments: ArrayLike, fractions: Sequence[float], *, seed: int = 0) -> tuple[IntArray, ...]:
    """Share segments out, as for training and validation: no row is in two parts, and no window of two.

    Parameters
    ----------
    segments : (k, 2) integers
        Half-open ranges of rows: `RowArray.segments`.
    fractions
        Of all rows, for each part. Segments stay whole, so that a part has about as many.
    seed
        Another number is another split.

    Returns
    -------
    tuple of numpy.ndarray
        Numbers of segments, ascending, for each part: ``segments=`` of `RowArray.batches`.

    Raises
    ------
    OptionError
        The fractions are none, or a part gets no segment.

    Examples
    --------
    >>> train, validation = split_segments([[0, 50], [50, 70], [70, 100]], (0.7, 0.3))
    >>> sorted([*train.tolist(), *validation.tolist()])
    [0, 1, 2]
    """
    ranges = as_array(segments)
    try:
        parts = np.asarray(fractions, np.float64)
    except (TypeError, ValueError):
        parts = np.empty(0)
    if ranges.ndim != 2 or ranges.shape[1] != 2 or ranges.dtype.kind not in "iu":
        raise OptionError(f"segments have shape {ranges.shape}. Give (k, 2) rows, as a.segments is.")
    seed = _checked("seed", seed, 0)
    if parts.ndim != 1 or not parts.size or not (parts > 0).all() or not np.isclose(parts.sum(), 1):
        raise OptionError(f"fractions are {fractions!r}. Give positive numbers that add up to 1, one for each part.")
    order = permuted(np.arange(len(ranges)), len(ranges), seed, 0)
    lengths = (ranges[:, 1] - ranges[:, 0])[order]
    middles = (np.cumsum(lengths) - lengths / 2) / max(1, lengths.sum())
    part_of = np.searchsorted(np.cumsum(parts)[:-1], middles, side="right")
    found = tuple(np.sort(order[part_of == k]) for k in range(parts.size))
    for k, numbers in enumerate(found):
        if not numbers.size:
            raise OptionError(
                f"Of {len(ranges)} segments none falls to part {k}, which shall have {parts[k]:.3g} of the rows. "
                "Choose other fractions, another seed, or ingest more recordings."
            )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """The batches that fall to one rank, by number."""

    population: Population
    order: Order
    batch_size: int
    seed: int
    epoch: int
    """The first."""
    batches_an_epoch: int
    """Of all ranks together."""
    dealt: range
    """Those of this rank, counted through all epochs."""

    def __len__(self) -> int:
        return len(self.dealt)

    def starts(self, k: int) -> IntArray:
        """The starts of batch ``k`` of this rank."""
        (starts,) = self.starts_of(range(k, k + 1))
        return starts

    def starts_of(self, some: range) -> list[IntArray]:
        """The starts of some batches of this rank, one after another.

        Those of one epoch are drawn together: a draw takes 150 us, of 32 windows as of 256.
        """
        n, size = self.order.draws(self.population.size), self.batch_size
        found: list[IntArray] = []
        for epoch, dealt in groupby(self.dealt[some.start : some.stop], lambda each: each // self.batches_an_epoch):
            firsts = [each % self.batches_an_epoch * size for each in dealt]
            positions = np.concatenate([np.arange(first, min(first + size, n)) for first in firsts])
            numbers = self.order.numbers(positions, self.population, self.seed, self.epoch + epoch)
            starts = self.population.starts(numbers)
            found += [starts[i : i + size] for i in range(0, len(firsts) * size, size)]
        return found

    @property
    def most_windows(self) -> int:
        """Windows of the largest batch."""
        return min(self.batch_size, self.order.draws(self.population.size))

    def share(self, k: int, n: int) -> Sampler:
        """Every ``n``-th batch of this rank from ``k`` on: for one of several workers, which take turns."""
        return replace(self, dealt=self.dealt[k::n])

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which windows come, as JSON values."""
        return {
            "windows": self.population.size,
            "order": self.order.identity,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "epoch": self.epoch,
            "batches_an_epoch": self.batches_an_epoch,
            "batches": self.dealt.stop,
            "rank": self.dealt.start,
            "world_size": self.dealt.step,
            "crc32": self.population.crc32,
        }


def sampler_of(
    segments: IntArray,
    window: int,
    batch_size: int,
    *,
    seed: int | None,
    order: Order,
    epoch: int,
    epochs: int,
    rank: int,
    world_size: int,
    starts: ArrayLike | None,
    keep: ArrayLike | None,
    stride: int,
    drop_last: bool,
) -> Sampler:
    """A sampler of windows of checked length: of ``starts``, or of all that lie in one of ``segments``, (k, 2) ranges up to the last row.

    ``keep`` are numbers of segments. The other arguments are those of `RowArray.batches`.

    Raises
    ------
    OptionError
        A number that means nothing here.
    StartsError, WindowOutOfBoundsError
        No such windows.
    WindowError
        No segment has a window.
    """
    batch_size = _checked("batch_size", batch_size, 1)
    seed = None if seed is None else _checked("seed", seed, 0)
    epoch, epochs = _checked("epoch", epoch, 0, 2**62), _checked("epochs", epochs, 1, 2**62)
    rank, world_size = _checked("rank", rank, 0), _checked("world_size", world_size, 1, 2**31)
    stride = _checked("stride", stride, 1, 2**60)
    if rank >= world_size:
        raise OptionError(f"rank is {rank}, but world_size is {world_size}. Give a rank below it.")
    if isinstance(order, type) or not all(hasattr(order, name) for name in ("identity", "check", "draws", "numbers")):
        raise OptionError(f"order is {order!r}. Give one of those in swath.sampling, such as Shuffled().")
    if seed is None:
        if order != Shuffled():
            raise OptionError(f"seed is None, for windows as they lie, but order is {order.identity}. Give a seed.")
        order = InOrder()
    population = _population(segments, window, starts, keep, stride)
    order.check(population)
    n = order.draws(population.size)
    batches = n // batch_size // world_size * world_size if drop_last else -(-n // batch_size)
    if drop_last and n and not batches:
        ranks = f", one for each of {world_size:,} ranks" if world_size > 1 else ""
        raise OptionError(
            f"drop_last is set, but {n:,} windows make no full batch of {batch_size:,}{ranks}: an epoch would be empty. "
            "Choose a smaller batch_size, or leave out drop_last."
        )
    if batches * epochs >= 2**63:
        raise OptionError(f"{epochs:,} epochs are {batches * epochs:,} batches. Choose fewer.")
    return Sampler(population, order, batch_size, seed or 0, epoch, batches, range(rank, batches * epochs, world_size))


def _population(
    segments: IntArray, window: int, starts: ArrayLike | None, keep: ArrayLike | None, stride: int
) -> Population:
    if starts is not None:
        if keep is not None or stride != 1:
            raise OptionError("starts are given, and segments or stride besides. Leave out what chose the starts.")
        return Given(check_starts(starts, window, int(segments[-1, 1])).copy())
    if keep is not None:
        numbers = as_array(keep)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not numbers.size:
            raise OptionError(f"segments is {keep!r}. Give a list of numbers of segments.")
        if (numbers < 0).any() or (numbers >= len(segments)).any() or np.unique(numbers).size != numbers.size:
            raise OptionError(f"segments is {keep!r}. Give numbers from 0 to {len(segments) - 1}, each once.")
        segments = segments[numbers]
    return windows_within(segments, window, stride)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _checked(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A number as Python has it: those of numpy overflow."""
    if not is_whole(value) or value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise OptionError(f"{name} is {value!r}. Give a whole number, {bounds}.")
    return int(value)
