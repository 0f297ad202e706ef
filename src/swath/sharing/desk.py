"""Who may have which batch: the sockets of all consumers, in one thread."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swath.sharing.channel import hang_up, has_ended, number, open_process, peer_of, receive, send
from swath.sharing.seats import Seat

# Strangers who connect and say nothing; the one who came first is sent away.
_MOST_UNSEATED = 64

# Where no descriptor is left for another who calls.
_PAUSE_SECONDS = 0.05


@dataclass(slots=True, eq=False)
class _Caller:
    connection: socket.socket
    process: int | None
    pid: int
    seat: int | None = None


class Desk:
    """Tells consumers what is there for them, and hears what they have done with. One thread uses it."""

    def __init__(
        self,
        listener: socket.socket,
        memory: int,
        welcome: dict[str, Any],
        seats: list[Seat],
        order: Callable[[int, int], None],
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._memory = memory
        self._welcome = welcome
        self._seats = seats
        self._order = order
        """Has a batch gathered into a slot."""
        self._at: dict[int, _Caller] = {}
        self._callers: dict[_Caller, None] = {}
        self._error: list[str] | None = None
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        for i in range(len(seats)):
            self._refill(i)

    def listen_to(self, bell: socket.socket, answer: Callable[[], None]) -> None:
        """Call ``answer`` when the bell rings."""
        self._selector.register(bell, selectors.EVENT_READ, answer)

    def work(self) -> None:
        """Wait until something happens, and see to it."""
        for key, _ in self._selector.select():
            key.data()

    @property
    def is_over(self) -> bool:
        """Whether all batches have been taken and released, or none will come after an error."""
        return self._error is not None or all(seat.is_over for seat in self._seats)

    def gathered(self, k: int, slot: int) -> None:
        """Tell the one whom the batch is for."""
        i = k % len(self._seats)
        self._seats[i].gathered(k, slot)
        if i in self._at:
            self._tell(self._at[i], {"batch": k, "slot": slot})
        self._tell_end(i)

    def failed(self, error: list[str]) -> None:
        """Tell all, and whoever comes."""
        self._error = error
        for caller in list(self._at.values()):
            self._tell(caller, {"error": error})

    def hear_all(self) -> None:
        """What consumers have said, and nobody has listened to yet."""
        for caller in list(self._callers):
            while self._hear(caller):
                pass

    def close(self) -> None:
        """Let all go."""
        for caller in list(self._callers):
            self._drop(caller)
        self._selector.close()

    def _refill(self, i: int) -> None:
        while (assigned := self._seats[i].assign()) is not None:
            self._order(*assigned)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(_PAUSE_SECONDS)
            return
        connection.setblocking(False)
        pid, uid = peer_of(connection)
        try:
            process = open_process(pid) if uid == os.geteuid() else None
        except OSError:
            uid = -1
        if uid != os.geteuid():
            connection.close()
            return
        caller = _Caller(connection, process, pid)
        self._callers[caller] = None
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(caller))
        if process is not None:
            self._selector.register(process, selectors.EVENT_READ, lambda: self._hear_last(caller))
        unseated = [each for each in self._callers if each.seat is None]
        if len(unseated) > _MOST_UNSEATED:
            self._drop(unseated[0])

    def _hear(self, caller: _Caller) -> bool:
        """One message, if there is one; whether there may be more."""
        if caller not in self._callers:
            return False
        try:
            message = receive(caller.connection)
            if message is not None:
                self._obey(caller, message)
                return caller in self._callers
        except BlockingIOError:
            return False
        except ValueError:  # none of ours
            pass
        self._drop(caller)
        return False

    def _hear_last(self, caller: _Caller) -> None:
        """All that a process had sent that has ended, whoever still has its socket."""
        while self._hear(caller):
            pass
        self._drop(caller)

    def _obey(self, caller: _Caller, message: dict[str, Any]) -> None:
        if caller.seat is None:
            self._seat(caller, number(message, "consumer"))
            return
        seat = self._seats[caller.seat]
        if "take" in message:
            seat.take(number(message, "take"))
        else:
            seat.release(number(message, "release"))
            self._refill(caller.seat)

    def _seat(self, caller: _Caller, i: int) -> None:
        if not 0 <= i < len(self._seats):
            raise ValueError(f"consumer={i}")
        before = self._at.get(i)
        if before is not None:  # it may have ended, and nobody have seen it yet
            while self._hear(before):
                pass
            if has_ended(before.process):
                self._drop(before)
        if i in self._at:
            why = f"Consumer {i} is process {self._at[i].pid}, which is running. Take another number, or end that one."
            send(caller.connection, {"refused": why})
            self._drop(caller)
            return
        caller.seat, self._at[i] = i, caller
        if not send(caller.connection, self._welcome, self._memory):
            self._drop(caller)
            return
        for k, slot in list(self._seats[i].ready):
            self._tell(caller, {"batch": k, "slot": slot})
        if self._error is not None:
            self._tell(caller, {"error": self._error})
        else:
            self._tell_end(i)

    def _tell_end(self, i: int) -> None:
        if i in self._at and self._seats[i].is_last_gathered:
            self._tell(self._at[i], {"end": True})

    def _tell(self, caller: _Caller, message: dict[str, Any]) -> None:
        if caller in self._callers and not send(caller.connection, message):
            self._hear_last(caller)

    def _drop(self, caller: _Caller) -> None:
        if caller not in self._callers:
            return
        del self._callers[caller]
        self._selector.unregister(caller.connection)
        hang_up(caller.connection)
        caller.connection.close()
        if caller.process is not None:
            self._selector.unregister(caller.process)
            with contextlib.suppress(OSError):
                os.close(caller.process)
        if caller.seat is not None:
            del self._at[caller.seat]
            self._seats[caller.seat].leave()
            self._refill(caller.seat)
