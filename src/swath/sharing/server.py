"""One process gathers batches, and others have them without a copy: `serve_batches`.

Two threads: one gathers, into slots of one piece of shared memory, and one speaks with the consumers (`swath.sharing.desk`). What
either knows it tells the other through a queue; nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import socket
import threading
import traceback
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from swath.batches import Batches
from swath.errors import OptionError, SharingError
from swath.sampling import is_whole
from swath.sharing import slots as _slots
from swath.sharing.channel import address_of, hang_up, new_socket, told
from swath.sharing.desk import Desk
from swath.sharing.form import Batch, form_of
from swath.sharing.memory import create
from swath.sharing.seats import dealt
from swath.sharing.slots import Slots

# Messages of so many fit into what a socket holds, so that nobody ever waits to send one.
_MOST_SLOTS = 64

# For threads to see that the server is closed. One that waits for a disk or for another server is left behind.
_CLOSE_SECONDS = 0.9

_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """Where batches are served. It pickles."""

    name: str = field(repr=False)
    """Of its socket, at random."""
    consumers: int


class BatchServer:
    """Serves batches to consumers until it is closed; `serve_batches` makes it. ``with`` closes it."""

    def __init__(self, batches: Batches[Any], consumers: int, slots: int) -> None:
        first, n_windows = batches.state_dict()["next"], batches.most_windows
        if batches.is_transformed and first < len(batches):
            form = form_of(batches.at(0))  # a whole one: the others shall not be larger
        else:
            form = form_of(batches.none()).with_windows(n_windows)
        size = _slots.slot_bytes(form, n_windows)
        self._pid = os.getpid()
        self._batches = batches
        self._form = form
        self._handle = ServerHandle(secrets.token_hex(16), consumers)
        self._orders: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, int] | BaseException] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._is_closed = self._is_complete = False
        self._over = threading.Event()
        with contextlib.ExitStack() as opened:
            descriptor, memory = create(size * slots * consumers)
            opened.callback(os.close, descriptor)
            self._bell, self._ringer = map(opened.enter_context, socket.socketpair())
            self._ringer.setblocking(False)
            listener = opened.enter_context(new_socket())
            opened.callback(hang_up, listener)
            listener.bind(address_of(self._handle.name))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            seats = dealt(first, len(batches), consumers, slots)
            welcome = {"ring_bytes": memory.size, "slot_bytes": size}
            desk = Desk(listener, descriptor, welcome, seats, lambda k, slot: self._orders.put((k, slot)))
            opened.callback(desk.close)
            desk.listen_to(self._bell, lambda: self._pass_on(desk))
            gathers = threading.Thread(
                target=self._gather_all, args=(Slots(memory, size),), daemon=True, name="swath-serve-gather"
            )
            gathers.start()
            opened.callback(self._orders.put, None)
            speaks = threading.Thread(
                target=self._speak, args=(desk, opened.pop_all()), daemon=True, name="swath-serve"
            )
            self._threads = [gathers, speaks]
            speaks.start()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"process {self._pid}"
        return f"<swath.BatchServer of {self._batches!r} for {self._handle.consumers} consumers: {state}>"

    @property
    def handle(self) -> ServerHandle:
        """What consumers need, in any process of this user on this machine."""
        return self._handle

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the consumers have had, and released, all batches; False if that takes longer than ``timeout``.

        Parameters
        ----------
        timeout
            Seconds; None for as long as it takes.

        Raises
        ------
        SwathError
            A batch could not be gathered; consumers have the same error.
        SharingError
            The server was closed before, or belongs to another process.
        """
        self._check_process()
        over = self._over.wait(timeout)
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if over and not self._is_complete:
            raise SharingError("The server was closed before all batches were taken. Join it before it is closed.")
        return over

    def close(self) -> None:
        """End it. Consumers that have not had all of their batches get a `SharingError`. In a process that was forked: nothing."""
        if os.getpid() != self._pid:
            return
        self._is_closed = True
        self._orders.put(None)
        self._ring()
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS)

    def __enter__(self) -> Self:
        self._check_process()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise SharingError(
                f"The server is that of process {self._pid}, and this is {os.getpid()}. Use its handle here, with swath.consume."
            )

    def _gather_all(self, slots: Slots) -> None:
        """Carry out one order after another, until one fails."""
        while (order := self._orders.get()) is not None and not self._is_closed:
            k, i = order
            error = self._attempt(k, slots.slot(i))
            self._results.put(order if error is None else error)
            self._ring()
            if error is not None:
                return

    def _attempt(self, k: int, slot: NDArray[np.uint8]) -> BaseException | None:
        try:
            self._gather(k, slot)
        except BaseException as error:
            # Its frames would keep the memory of all slots as long as somebody has the error.
            error.add_note("".join(["In the server of batches:\n", *traceback.format_tb(error.__traceback__)]))
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return error
        return None

    def _gather(self, k: int, slot: NDArray[np.uint8]) -> None:
        placed: list[Any] = []

        def place(n: int) -> Any:
            placed[:] = _slots.begin(slot, self._form.with_windows(n), n)
            return placed[1]

        if self._batches.is_transformed:
            starts, batch = self._batches.starts_at(k), self._batches.at(k)
            placed[:] = _slots.begin(slot, form_of(batch), starts.size)
            _copy(batch, placed[1])
        else:
            starts = self._batches.gather_into(k, place)
        placed[0][...] = starts

    def _ring(self) -> None:
        # Full: it will be heard. Closed: nobody is there any more.
        with contextlib.suppress(OSError):
            self._ringer.send(b"!")

    def _speak(self, desk: Desk, opened: contextlib.ExitStack) -> None:
        try:
            with opened:
                while not self._is_closed:
                    self._is_complete = self._is_complete or desk.is_over
                    if self._is_complete:
                        self._over.set()
                    desk.work()
                desk.hear_all()
                self._is_complete = self._is_complete or desk.is_over
        finally:
            self._is_closed = True
            self._over.set()

    def _pass_on(self, desk: Desk) -> None:
        """To consumers what was gathered."""
        self._bell.recv(4096)
        while not self._results.empty():
            result = self._results.get()
            if isinstance(result, BaseException):
                self._failure = result
                desk.failed(told(result))
            else:
                desk.gathered(*result)


def _copy(batch: Any, place: Batch) -> None:
    if isinstance(place, dict):
        for name, array in batch.items():
            place[name][...] = array
    else:
        place[...] = batch


def serve_batches(batches: Batches[Any], *, consumers: int = 1, slots: int = 4) -> BatchServer:
    """Gather batches in this process, in shared memory, for consumers in others, who copy nothing.

    Batch k goes to consumer ``k % consumers``. It begins at once, and with the next of ``batches``, which stays where it is.

    Parameters
    ----------
    batches
        Those of `RowArray.batches` or `RowGroup.batches`.
    consumers
        How many processes share them.
    slots
        Batches in memory for each consumer: the one that it uses, and those that wait for it.

    Returns
    -------
    BatchServer
        Its ``handle`` is for `consume`; ``join`` waits until all is taken, ``close`` or ``with`` end it.

    Raises
    ------
    OptionError
        A number that means nothing here, or no batches.
    MemoryLimitError
        There is no memory for ``consumers * slots`` batches.

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.arange(1000).reshape(100, 10), tmp / "serve.zarr", window=4)
    >>> with swath.serve_batches(a.batches(32, seed=7)) as server:
    ...     for batch in swath.consume(server.handle):  # in any process of this machine
    ...         print(batch.shape)
    (32, 4, 10)
    (32, 4, 10)
    (32, 4, 10)
    (1, 4, 10)
    """
    if not isinstance(batches, Batches):
        raise OptionError(f"A {type(batches).__name__} is no batches. Give what a.batches(...) returned.")
    for name, value, most in (("consumers", consumers, 2**16), ("slots", slots, _MOST_SLOTS)):
        if not is_whole(value) or not 1 <= value <= most:
            raise OptionError(f"{name} is {value!r}. Give a whole number, at least 1 and at most {most}.")
    return BatchServer(batches, int(consumers), int(slots))
