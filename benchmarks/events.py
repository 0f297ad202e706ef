"""Time that is simulated: what happens next, what is shared by all who use it, and what is held by one after another."""

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count

Done = Callable[[], None]


class Clock:
    """Things that happen in order of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Done]] = []
        self._order = count()

    def after(self, delay: float, call: Done) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), call))

    def run(self) -> None:
        while self._events:
            self.now, _, call = heapq.heappop(self._events)
            call()


class _Users:
    """Those who are served at the same rate: each ends when as much has been given to one as it came for."""

    __slots__ = ("ends", "given", "rate")

    def __init__(self) -> None:
        self.given = self.rate = 0.0
        self.ends: list[tuple[float, int, Done]] = []


class Shared:
    """A resource that its users share alike, none at more than its own most."""

    def __init__(self, clock: Clock, capacity: float) -> None:
        self._clock, self._capacity = clock, capacity
        self._users: dict[float, _Users] = {}
        self._order = count()
        self._version = 0
        self._since = self.used = 0.0

    def is_free(self, most: float) -> bool:
        """Whether it takes no time at all."""
        return math.isinf(self._capacity) and math.isinf(most)

    def use(self, amount: float, most: float, done: Done) -> None:
        if amount <= 0 or math.isinf(self._capacity):
            self._clock.after(max(amount, 0.0) / most, done)
            return
        self._advance()
        users = self._users.setdefault(most, _Users())
        heapq.heappush(users.ends, (users.given + amount, next(self._order), done))
        self._plan_next()

    def _advance(self) -> None:
        seconds = self._clock.now - self._since
        self._since = self._clock.now
        for users in self._users.values():
            users.given += users.rate * seconds
            self.used += users.rate * seconds * len(users.ends)

    def _plan_next(self) -> None:
        left, waiting, first = self._capacity, sum(len(users.ends) for users in self._users.values()), math.inf
        next_users: _Users | None = None
        for most in sorted(self._users):  # who takes less than an equal share leaves the rest to others
            users = self._users[most]
            if not users.ends:
                continue
            users.rate = min(most, left / waiting)
            left -= users.rate * len(users.ends)
            waiting -= len(users.ends)
            if (seconds := (users.ends[0][0] - users.given) / users.rate) < first:
                first, next_users = seconds, users
        self._version += 1
        if next_users is not None:
            version, due = self._version, next_users
            self._clock.after(max(first, 0.0), lambda: self._finish(version, due))

    def _finish(self, version: int, users: _Users) -> None:
        if version != self._version:  # somebody came or went since
            return
        self._advance()
        users.given = max(users.given, users.ends[0][0])
        done = []
        while users.ends and users.ends[0][0] <= users.given * (1 + 1e-12):
            done.append(heapq.heappop(users.ends)[2])
        if not users.ends:
            users.given = users.rate = 0.0
        self._plan_next()
        for call in done:
            call()


class Turns:
    """Something that so many may hold at once; the others wait in the order in which they came."""

    def __init__(self, clock: Clock, places: int) -> None:
        self._clock, self._free = clock, places
        self._waiting: deque[Done] = deque()
        self.held = 0.0

    def take(self, call: Done) -> None:
        if self._free:
            self._free -= 1
            self._hold(call)
        else:
            self._waiting.append(call)

    def leave(self) -> None:
        self.held += self._clock.now
        if self._waiting:  # by way of the clock: thousands may wait, and each call within the last would be too deep
            call = self._waiting.popleft()
            self._clock.after(0.0, lambda: self._hold(call))
        else:
            self._free += 1

    def _hold(self, call: Done) -> None:
        self.held -= self._clock.now
        call()
