"""Threads that wait for a server can be left behind, without touching what their caller has taken back.

A request cannot be called back once it is sent, and a server may take long to answer. Whoever is interrupted shuts the gate: he
waits for threads that work on his memory, for some milliseconds, and not for those that wait for a server, which end when they
find the gate shut. They are daemons, so that the process may end before they do.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_POLL_SECONDS = 0.001


class GateShutError(Exception):
    """The call that this thread worked for is over."""


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class Gate:
    """Counts the threads that may touch the caller's memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._is_shut = False

    def enter(self) -> None:
        """Go on; a `GateShutError` if that is not wanted any more."""
        with self._lock:
            if self._is_shut:
                raise GateShutError
            self._inside += 1

    def leave(self) -> None:
        """Touch nothing from here on."""
        with self._lock:
            self._inside -= 1

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """A thread that is inside waits for others meanwhile; where that is not wanted any more it does not begin to."""
        self.leave()
        if self._is_shut:
            raise GateShutError
        try:
            yield
        except BaseException:
            self.enter()
            raise
        self.enter()

    def shut(self) -> None:
        """Return when no thread is inside, and none can come."""
        with self._lock:
            self._is_shut = True
        while self._inside:
            time.sleep(_POLL_SECONDS)


def interruptible[T](wait: Callable[[], T]) -> T:
    """What a call gives that waits for a server. In the main thread, which is the one that Ctrl-C ends, another one waits."""
    return wait() if threading.current_thread() is not threading.main_thread() else begun(wait)()


def begun[T](wait: Callable[[], T]) -> Callable[[], T]:
    """Have another thread wait for a server; what is returned, to be called once, gives what came of it, or raises its error."""
    ended: queue.SimpleQueue[T | _Failed] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put(wait())
        except BaseException as error:
            ended.put(_Failed(error))

    def result() -> T:
        found = ended.get()
        if isinstance(found, _Failed):
            raise found.error
        return found

    threading.Thread(target=run, daemon=True, name="swath-request").start()
    return result


def briefly(work: Callable[[], None], seconds: float) -> None:
    """Carry out what is good to have done; what takes longer is left behind."""
    thread = threading.Thread(target=work, daemon=True, name="swath-clear")
    thread.start()
    thread.join(seconds)


def away(gate: Gate | None) -> contextlib.AbstractContextManager[None]:
    """To wait for a server in, through the gate of a thread that may be left behind."""
    return contextlib.nullcontext() if gate is None else gate.away()


def run_threads(work: Callable[[Gate], None], n: int) -> None:
    """Run ``work`` in ``n`` threads, through one gate, until all are done or one has failed, whose error this raises."""
    gate = Gate()
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            gate.enter()
        except GateShutError:
            return
        try:
            work(gate)
        except GateShutError:  # it is not inside
            return
        except BaseException as error:
            gate.leave()
            ended.put(error)
        else:
            gate.leave()
            ended.put(None)

    try:
        for k in range(n):
            threading.Thread(target=run, daemon=True, name=f"swath-remote-{k}").start()
        for _ in range(n):
            error = ended.get()
            if error is not None:
                raise error
    finally:
        gate.shut()
