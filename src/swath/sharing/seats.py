"""Which batch is in which slot, for whom? Numbers only: no memory, no sockets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Seat:
    """What one of the consumers is dealt, whichever process that is just now.

    He has slots of his own, so that one who stops holds up nobody else. A batch goes from `assign` through `gathered` and `take`
    to `release`.

    Examples
    --------
    >>> seat = Seat(range(0, 6, 3), deque([8, 9]))
    >>> seat.assign(), seat.assign(), seat.assign()
    ((0, 8), (3, 9), None)
    >>> seat.gathered(0, 8)
    >>> seat.take(0)
    >>> seat.release(0)
    >>> seat.free, seat.is_over
    (deque([8]), False)
    """

    numbers: range
    """Batches that nobody has been told to gather yet."""
    free: deque[int]
    """Slots with nothing in them."""
    ready: deque[tuple[int, int]] = field(default_factory=deque)
    """Batches that nobody has taken yet, and their slots."""
    held: dict[int, int] = field(default_factory=dict)
    """Slots of batches that the process uses."""
    gathering: int = 0

    def assign(self) -> tuple[int, int] | None:
        """The next batch to be gathered, and where to; None if there is none, or no place."""
        if not self.numbers or not self.free:
            return None
        k, self.numbers = self.numbers[0], self.numbers[1:]
        self.gathering += 1
        return k, self.free.popleft()

    def gathered(self, k: int, slot: int) -> None:
        """It is there."""
        self.gathering -= 1
        self.ready.append((k, slot))

    def take(self, k: int) -> None:
        """The process has it, and nobody else ever will.

        Raises
        ------
        ValueError
            It is not the next.
        """
        if not self.ready or self.ready[0][0] != k:
            raise ValueError(f"take={k}")
        self.held[k] = self.ready.popleft()[1]

    def release(self, k: int) -> None:
        """The process does not look at it any more.

        Raises
        ------
        ValueError
            It has not got it.
        """
        if k not in self.held:
            raise ValueError(f"release={k}")
        self.free.append(self.held.pop(k))

    def leave(self) -> None:
        """The process is gone. What it had not taken is for the next."""
        self.free.extend(self.held.values())
        self.held.clear()

    @property
    def is_last_gathered(self) -> bool:
        """Whether no more batches will come."""
        return not self.numbers and not self.gathering

    @property
    def is_over(self) -> bool:
        """Whether all have been taken and released."""
        return self.is_last_gathered and not self.ready and not self.held


def dealt(first: int, stop: int, consumers: int, slots: int) -> list[Seat]:
    """Seats of all consumers, for batches ``[first, stop)``: batch ``k`` is for ``k % consumers``.

    Examples
    --------
    >>> [list(seat.numbers) for seat in dealt(4, 10, 3, 2)]
    [[6, 9], [4, 7], [5, 8]]
    """
    return [
        Seat(range(first + (i - first) % consumers, stop, consumers), deque(range(i * slots, (i + 1) * slots)))
        for i in range(consumers)
    ]
