"""What a server of batches and its consumers say to one another, and how each learns that the other is gone.

A Unix socket that keeps messages apart (``SOCK_SEQPACKET``), with an address that has no file. A message is one small JSON object::

    consumer                          server
    {"consumer": 1}               ->
                                  <-  {"ring_bytes": ..., "slot_bytes": ...} and the memory; or {"refused": why}
                                  <-  {"batch": k, "slot": 3}      it is there
    {"take": k}                   ->                               the caller has it
    {"release": k}                ->                               he wants another
                                  <-  {"end": true}, or {"error": [type, message]}

Batches are told of as soon as they are there. What a slot holds stands at its head (`swath.sharing.slots`), so that messages stay so
small that a socket always has room for those of all slots: nobody waits to send.

A socket stays open while any process has it, and one that is forked has it too. So each also watches the process of the other, by a
descriptor for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from typing import Any

MOST_BYTES = 2**16
_PEER = struct.Struct("3i")

# Of an error that is told to others. What is longer would not fit into a message.
_MOST_TEXT = 10_000


def address_of(name: str) -> str:
    """In the namespace that has no files, and is empty once the server is gone."""
    return f"\0swath-{name}"


def new_socket() -> socket.socket:
    """One that no program inherits."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process (0 if it is not to be seen from here) and user at the other end."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


def open_process(pid: int) -> int | None:
    """A descriptor that can be read from the end of a process on; None if the process is not to be seen from here.

    Raises
    ------
    ProcessLookupError
        It has ended.
    """
    return os.pidfd_open(pid) if pid > 0 else None


def send(connection: socket.socket, message: dict[str, Any], *descriptors: int) -> bool:
    """Send a message, and say whether it went out; where it did not, the next `receive` says why."""
    text = json.dumps(message, ensure_ascii=False).encode()
    try:
        socket.send_fds(connection, [text], descriptors, socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message of a socket that does not wait; None where the other has closed it.

    Raises
    ------
    BlockingIOError
        There is none yet.
    ValueError
        It is none of ours.
    """
    while True:
        # Where the other closed the socket without reading all, that is told first, and what he had sent after.
        with contextlib.suppress(ConnectionError):
            return parse(connection.recv(MOST_BYTES))


def parse(text: bytes) -> dict[str, Any] | None:
    """A message, or None for the end.

    Raises
    ------
    ValueError
        It is none of ours.
    """
    if not text:
        return None
    try:
        message = json.loads(text)
    except RecursionError:
        message = None
    if not isinstance(message, dict):
        raise ValueError(text[:100])
    return message


def number(message: dict[str, Any], name: str) -> int:
    """A number of a message.

    Raises
    ------
    ValueError
        It is not there, or something else.
    """
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}")
    return value


def has_ended(process: int | None) -> bool:
    """Whether a process, that `open_process` opened, is gone."""
    return process is not None and wait_for(0, process)


def wait_for(seconds: float | None, *descriptors: int | None) -> bool:
    """Wait until one can be read, and say whether that is so."""
    poll = select.poll()
    for descriptor in descriptors:
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0, seconds) * 1000))


def hang_up(connection: socket.socket) -> None:
    """Let the other know: a child that was forked has the socket too, and closing one's own would tell him nothing."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def told(error: BaseException) -> list[str]:
    """An error in JSON."""
    try:
        text = str(error)
    except Exception as unspeakable:
        text = f"it cannot be told: {type(unspeakable).__name__}"
    return [type(error).__name__, text.encode(errors="replace")[:_MOST_TEXT].decode(errors="ignore")]
