"""The other end of `serve_batches`: an iterator of batches that lie in the memory of the server."""

from __future__ import annotations

import os
import socket
import time
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np

from swath import errors
from swath.errors import OptionError, SharingError, SwathError
from swath.sampling import is_whole
from swath.sharing.channel import (
    MOST_BYTES,
    address_of,
    hang_up,
    has_ended,
    new_socket,
    number,
    open_process,
    parse,
    peer_of,
    receive,
    send,
    wait_for,
)
from swath.sharing.memory import map_sealed, too_many_files
from swath.sharing.server import ServerHandle
from swath.sharing.slots import Slots, read
from swath.windows import IntArray

_MOST_SECONDS = 10**6

_PAUSE_SECONDS = 0.01


class Consumer(Iterator[Any]):
    """An iterator of batches that another process gathers; `consume` makes it. ``with`` closes it, and so does its end."""

    def __init__(self, connection: socket.socket, process: int | None, slots: Slots) -> None:
        self._connection = connection
        self._process = process
        self._slots: Slots | None = slots
        self._pid = os.getpid()
        self._held: int | None = None
        self._has_ended = False
        self._shut = weakref.finalize(self, _shut, connection, process, self._pid)
        self.starts: IntArray = np.empty(0, np.int64)
        """Those of the batch that came last."""
        self.number: int | None = None
        """That of the batch that came last, among those of all consumers."""

    def __repr__(self) -> str:
        last = "none yet" if self.number is None else f"batch {self.number:,}"
        return f"<swath.Consumer, {last} came last: {'closed' if self._slots is None else 'open'}>"

    def __next__(self) -> Any:
        if os.getpid() != self._pid:
            raise SharingError(
                f"The consumer is that of process {self._pid}, and this is {os.getpid()}. Call swath.consume here, as another consumer."
            )
        if self._has_ended:
            raise StopIteration
        if self._slots is None:
            raise SharingError("This consumer was closed. Call swath.consume again, to go on with the next batch.")
        try:
            if self._held is not None:
                held, self._held = self._held, None
                send(self._connection, {"release": held})
            message = self._next_message()
            if "batch" in message:
                return self._take(number(message, "batch"), number(message, "slot"))
            if "error" in message:
                raise _error_of(*message["error"])
            self._has_ended = message["end"] is True
        except BaseException as error:
            self.close()  # interrupted between two messages, it would not know which batch is whose
            if isinstance(error, SwathError) or not isinstance(error, (ValueError, TypeError, KeyError)):
                raise
            raise SharingError(f"The server sent what means nothing ({error}). Use one version of swath.") from error
        self.close()
        raise StopIteration

    def _take(self, k: int, i: int) -> Any:
        assert self._slots is not None
        self._held = k
        if not send(self._connection, {"take": k}):
            raise _gone()
        starts, batch = read(self._slots.slot(i))
        self.starts, self.number = starts.copy(), k
        return batch

    def _next_message(self) -> dict[str, Any]:
        while True:
            wait_for(None, self._connection.fileno(), self._process)
            try:
                message = receive(self._connection)
            except BlockingIOError:
                if not has_ended(self._process):
                    continue
                message = None  # a child that it forked has its socket still
            if message is None:
                raise _gone()
            return message

    def close(self) -> None:
        """Let go of the batches. A batch that is held still may be overwritten by another from here on."""
        self._slots = None
        self._shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def consume(handle: ServerHandle, *, consumer: int = 0, timeout: float = 60.0) -> Consumer:
    """Batches of a server in another process, as one of its consumers.

    Each batch is an array, or a dict of arrays for a group, that can be read only. It lies in the memory of the server, and is valid
    until the next is asked for, or the consumer closed: copy what is to be kept.

    If the process of a consumer ends, another may call this with the same number, and goes on with the first batch that it had not
    begun.

    Parameters
    ----------
    handle
        That of the server.
    consumer
        Which one, from 0 on.
    timeout
        Seconds to wait for the server to answer. For a batch it waits as long as the server lives.

    Returns
    -------
    Consumer
        An iterator, with the ``starts`` and the ``number`` of the batch that came last.

    Raises
    ------
    OptionError
        That is no handle, or there is no such consumer.
    SharingError
        The server is gone, belongs to another user, does not answer, or has this consumer already. The iterator raises it where the
        server ends before the last batch.
    SwathError
        From the iterator: what the server could not gather, as the error that it met.

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.arange(1000).reshape(100, 10), tmp / "consume.zarr", window=4)
    >>> with swath.serve_batches(a.batches(50, seed=7)) as server:
    ...     with swath.consume(server.handle) as batches:  # in any process of this machine
    ...         kept = [batch.copy() for batch in batches]
    >>> [batch.shape for batch in kept]
    [(50, 4, 10), (47, 4, 10)]
    """
    if not isinstance(handle, ServerHandle):
        raise OptionError(
            f"A {type(handle).__name__} is no handle. Give server.handle, where server is what swath.serve_batches returned."
        )
    if not is_whole(consumer) or not 0 <= consumer < handle.consumers:
        raise OptionError(f"consumer is {consumer!r}. Give a whole number in [0, {handle.consumers - 1}].")
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not 0 <= timeout <= _MOST_SECONDS:
        raise OptionError(f"timeout is {timeout!r}. Give seconds, from 0 to {_MOST_SECONDS:,}.")
    deadline = time.monotonic() + timeout
    connection = new_socket()
    process: int | None = None
    try:
        connection.setblocking(False)
        try:
            while True:
                try:
                    connection.connect(address_of(handle.name))
                    break
                except BlockingIOError:  # many call at once
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_PAUSE_SECONDS)
            pid, uid = peer_of(connection)
            if uid != os.geteuid():
                raise SharingError(f"The server is that of user {uid}. Serve and consume as one user.")
            process = open_process(pid)
        except BlockingIOError:
            raise _silent(timeout) from None
        except (ConnectionRefusedError, ProcessLookupError):
            raise SharingError(
                "Nobody serves these batches: the server has ended, or runs on another machine or in another container. "
                "Start it again, and use its new handle."
            ) from None
        send(connection, {"consumer": int(consumer)})
        return Consumer(connection, process, _welcome(connection, process, deadline, timeout))
    except BaseException:
        _shut(connection, process, os.getpid())
        raise


def _welcome(connection: socket.socket, process: int | None, deadline: float, timeout: float) -> Slots:
    """Wait to be let in, and map the ring."""
    if not wait_for(deadline - time.monotonic(), connection.fileno(), process):
        raise _silent(timeout)
    descriptors: list[int] = []
    try:
        text, descriptors, flags, _ = socket.recv_fds(connection, MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        message = parse(text)
        if message is None:
            raise _gone()
        if "refused" in message:
            raise SharingError(str(message["refused"]))
        if flags & socket.MSG_CTRUNC:  # the kernel had no number for the descriptor here
            raise too_many_files()
        (descriptor,) = descriptors
        slot_bytes = number(message, "slot_bytes")
        if slot_bytes < 1:
            raise ValueError(f"slot_bytes={slot_bytes}")
        return Slots(map_sealed(descriptor, number(message, "ring_bytes")), slot_bytes)
    except (BlockingIOError, ConnectionResetError):
        raise _gone() from None
    except ValueError as error:
        raise SharingError(f"The server sent what means nothing ({error}). Use one version of swath.") from error
    finally:
        for each in descriptors:
            os.close(each)


def _shut(connection: socket.socket, process: int | None, owner: int) -> None:
    if os.getpid() == owner:
        hang_up(connection)
    connection.close()
    if process is not None:
        os.close(process)


def _gone() -> SharingError:
    return SharingError(
        "The server has ended, or was closed, before the last batch. Start it again, and use its new handle."
    )


def _silent(timeout: float) -> SharingError:
    return SharingError(f"The server has not answered within {timeout:g} s. See whether its process is stopped.")


def _error_of(name: str, text: str) -> SwathError:
    """What the server met, as the same error if it is one of ours."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, SwathError):
        return kind(text)
    return SharingError(f"The server could not gather the next batch ({name}: {text}). See its process.")
