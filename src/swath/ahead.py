"""What comes next is made while the caller is busy with what he has."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# The thread looks this often whether it is wanted still: a signal may be lost where the collector drops its iterator in itself.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class _Ended:
    pass


@dataclass(slots=True)
class _Line:
    """What waits between the two threads."""

    room: int
    items: deque[Any] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    is_over: bool = False
    pid: int = field(default_factory=os.getpid)

    def close(self) -> None:
        # A child that was forked has the lock as it was, perhaps held, and not the thread.
        if self.pid == os.getpid():
            with self.changed:
                self.is_over = True
                self.items.clear()
                self.changed.notify_all()


class Ahead[T](Iterator[T]):
    """Carries an iterator on in a thread, while at most ``room`` of its items wait to be taken.

    The thread ends with the iterator, or when nobody holds this any more: while it waits it holds neither, since items may refer to who
    holds this. It is a daemon, so that the process may end before it. After an error, which is raised where the item would have come,
    there are no more.
    """

    def __init__(self, items: Iterator[T], room: int) -> None:
        self.items = items
        self._line = line = _Line(room)
        threading.Thread(target=_carry_on, args=(weakref.ref(self), line), daemon=True, name="swath-ahead").start()
        self.close = weakref.finalize(self, line.close)
        """End the thread, as soon as it is done with the item that it makes."""

    def __next__(self) -> T:
        line = self._line
        with line.changed:
            while not line.items:
                if line.is_over:
                    raise StopIteration
                line.changed.wait()
            item = line.items.popleft()
            line.changed.notify_all()
        if isinstance(item, _Ended):
            raise StopIteration
        if isinstance(item, _Failed):
            raise item.error
        return item  # type: ignore[no-any-return]


def _carry_on(here: weakref.ref[Ahead[Any]], line: _Line) -> None:
    is_last = False
    while not is_last:
        with line.changed:
            while len(line.items) > line.room and not line.is_over:
                line.changed.wait(_LOOK_SECONDS)
            if line.is_over:
                return
        ahead, item = here(), None
        if ahead is None:
            return
        try:
            item = next(ahead.items)
        except StopIteration:
            item, is_last = _Ended(), True
        except BaseException as error:
            item, is_last = _Failed(error), True
        with line.changed:
            if not line.is_over:
                line.items.append(item)
                line.changed.notify_all()
        del item, ahead  # else they are held here while the next one is made
