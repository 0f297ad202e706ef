"""Which windows come next? A function of seed, epoch and position, without a table and without a state.

1. Count: the windows that may be drawn are numbered, segment by segment (`Windows`), or are given (`Given`).
2. Shuffle: `permuted` is a permutation of these numbers by formula. An epoch is that permutation read from 0 on: each window
   comes once, and an epoch of 10^9 windows takes no more memory than one of ten.
3. Deal: `Sampler` cuts the epoch into batches, and deals them to the ranks in turn. Which batch comes when does not depend on
   how many ranks there are.

Pure functions on numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.errors import OptionError, WindowError
from swath.windows import IntArray, check_starts

# Rounds of the network. Where two numbers go together, over 20,000 seeds, is as even as chance from six on (chi-square within two
# deviations for 33 numbers; 2.7 with four rounds, 42 with three). Each takes 0.25 ms for 10^5 numbers.
_ROUNDS = 8

# So few are sorted by random keys, which is exact: a network of five numbers is 29 deviations off, with eight rounds.
_FEW = 1024


class Population(Protocol):
    """Windows that may be drawn, by number."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def starts(self, numbers: IntArray) -> IntArray:
        """The first rows of some."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """All windows that lie in one segment each."""

    first_rows: IntArray
    """(k,) of each segment that has a window."""
    ends: IntArray
    """(k,) windows of the segments up to each, with it."""

    @property
    def size(self) -> int:
        """How many there are, at least one."""
        return int(self.ends[-1])

    def starts(self, numbers: IntArray) -> IntArray:
        """The first rows of some."""
        segment = np.searchsorted(self.ends, numbers, side="right")
        before: IntArray = np.concatenate([[0], self.ends])[segment]
        return self.first_rows[segment] + numbers - before


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Windows that a caller chose."""

    given: IntArray

    @property
    def size(self) -> int:
        """How many there are."""
        return self.given.size

    def starts(self, numbers: IntArray) -> IntArray:
        """The first rows of some."""
        return self.given[numbers]


def windows_within(segments: IntArray, window: int) -> Windows:
    """All windows of ``window`` rows that lie within one of ``segments``, (k, 2) half-open ranges of rows.

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
    counts = segments[:, 1] - segments[:, 0] - window + 1
    long = counts > 0
    if not long.any():
        most = int((segments[:, 1] - segments[:, 0]).max(initial=0))
        raise WindowError(
            f"No segment has {window} rows, the longest has {most}. Choose a shorter window, or across_segments=True."
        )
    return Windows(segments[long, 0], np.cumsum(counts[long]))


def permuted(positions: IntArray, n: int, seed: int, epoch: int) -> IntArray:
    """Where a permutation of ``range(n)`` takes some positions; another one for each seed and epoch.

    Few numbers have a table, made anew each time. For more, a Feistel network permutes all numbers of as many bits as ``n`` needs; what
    leaves ``range(n)`` goes through it again until it comes back (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002), which is less than twice on average.

    Examples
    --------
    >>> sorted(permuted(np.arange(10), 10, seed=0, epoch=0).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    # Numpy promises that its words stay as they are.
    random = np.random.SeedSequence([seed, epoch])
    if n <= _FEW:
        return np.argsort(random.generate_state(n, np.uint64), kind="stable")[positions]
    bits = (n - 1).bit_length()
    keys = random.generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    values = _network(positions.astype(np.uint64), bits, keys)
    while (left := np.flatnonzero(values >= n)).size:
        values[left] = _network(values[left], bits, keys)
    return values.astype(np.int64)


def _network(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of the numbers of so many bits: the halves change one another in turn."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << bits // 2) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for k in range(_ROUNDS):
        if k % 2:
            low = low ^ (_mixed(high + keys[k]) & low_mask)
        else:
            high = high ^ (_mixed(low + keys[k]) & high_mask)
    return high << low_bits | low


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """The batches of one rank, by number."""

    population: Population
    batch_size: int
    seed: int | None
    """None for windows in their own order."""
    epochs: int
    rank: int
    world_size: int
    epoch: int = 0
    """The number of the first."""

    @property
    def batches_an_epoch(self) -> int:
        """Of all ranks together. The last has what is left."""
        return -(-self.population.size // self.batch_size)

    def __len__(self) -> int:
        """Batches of this rank in all epochs, which are dealt out one after another."""
        return len(range(self.rank, self.batches_an_epoch * self.epochs, self.world_size))

    def starts(self, k: int) -> IntArray:
        """The starts of batch ``k`` of this rank."""
        epoch, batch = divmod(self.rank + k * self.world_size, self.batches_an_epoch)
        n = self.population.size
        positions = np.arange(batch * self.batch_size, min((batch + 1) * self.batch_size, n))
        if self.seed is not None:
            positions = permuted(positions, n, self.seed, self.epoch + epoch)
        return self.population.starts(positions)


def sampler_of(
    segments: IntArray,
    window: int,
    starts: ArrayLike | None,
    batch_size: int,
    *,
    seed: int | None,
    epochs: int,
    rank: int,
    world_size: int,
    epoch: int = 0,
) -> Sampler:
    """A sampler of windows of checked length: of ``starts``, or of all that lie in one of ``segments``, (k, 2) ranges up to the last row.

    Raises
    ------
    OptionError
        A number that means nothing here.
    StartsError, WindowOutOfBoundsError
        No such windows.
    WindowError
        No segment has a window.
    """
    numbers = {
        "batch_size": (batch_size, 1),
        "epochs": (epochs, 1),
        "rank": (rank, 0),
        "world_size": (world_size, 1),
        "epoch": (epoch, 0),
    }
    if seed is not None:
        numbers["seed"] = (seed, 0)
    for name, (value, least) in numbers.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise OptionError(f"{name} is {value!r}. Give a whole number, at least {least}.")
    if rank >= world_size:
        raise OptionError(f"rank is {rank}, but world_size is {world_size}. Give a rank below it.")
    population: Population
    if starts is None:
        population = windows_within(segments, window)
    else:
        population = Given(check_starts(starts, window, int(segments[-1, 1])).copy())
    return Sampler(
        population,
        int(batch_size),
        None if seed is None else int(seed),
        int(epochs),
        int(rank),
        int(world_size),
        int(epoch),
    )
