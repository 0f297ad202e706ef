"""A process in which libhdf5 opens what others wrote: if a file makes it crash, hang or grow, that process ends, and not the caller.

There is one for each process that opens HDF5 files by their paths. It starts with the first, in the time that h5py takes to import, and
answers in less than a thousandth of a second from then on. After a minute without a request it ends.

A request may take some seconds of the processor, and more for a large file, whose table of chunks may be as large; the disk may take as
long as it needs. Memory is bounded in the same way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import BufferTooShort
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

from swath.errors import SourceError
from swath.sources import hdf5_library
from swath.sources.children import end_child, is_blameless, running, start_child, status_of, what_became

# Of the processor, for any file; and of which bytes one second more is given: those of a file, which may be little but its table of
# chunks (a million chunks of 8 bytes, in 16 MB, took 2.4 s), and those that a filter gives, the slowest of which make 30 MB in a second.
_SECONDS = 1
_FILE_BYTES = 2**22
_READ_BYTES = 2**24

# Packages that give HDF5 filters where they are imported.
_PLUGINS = ("hdf5plugin",)


@dataclass(slots=True, weakref_slot=True)
class LibraryProcess:
    """The process, if it runs. Threads take turns, as they would in HDF5."""

    _lock: Lock = field(default_factory=Lock)
    _running: list[tuple[subprocess.Popen[bytes], Connection]] = field(default_factory=list)
    """It, or nothing."""

    def __post_init__(self) -> None:
        weakref.finalize(self, _end, self._running, os.getpid())

    def ask(
        self, what: str, path: Path, name: str, *, room: int = 0, out: memoryview | None = None, **more: Any
    ) -> dict[str, Any]:
        """The answer to a request, whose bytes, if it has any, are written to ``out``.

        Raises
        ------
        SourceError
            The process has ended, or HDF5 refuses.
        """
        n_bytes = _size(path)
        request = {
            "what": what,
            "path": str(path.absolute()),  # the process may have begun in another folder
            "name": name,
            "room": room + n_bytes,
            "seconds": _SECONDS + n_bytes // _FILE_BYTES + room // _READ_BYTES,
            "plugins": [plugin for plugin in _PLUGINS if plugin in sys.modules],
            **more,
        }
        where = f"{path}::{name}" if name else str(path)
        with self._lock:
            answer = self._send(request, out, where)
        if "broken" in answer:
            raise SourceError(f"{where} cannot be read as HDF5 ({answer['broken']}). Mend the file, or restore it.")
        if "away" in answer:
            raise SourceError(
                f"{where} is a link to another file, {answer['away']}, which is not followed. Give that file itself."
            )
        if "unopened" in answer:
            raise SourceError(
                f"{path} cannot be opened as HDF5 ({answer['unopened']}). Close its writer, or restore the file."
            )
        return answer

    def _send(self, request: dict[str, Any], out: memoryview | None, where: str) -> dict[str, Any]:
        encoded = json.dumps(request).encode()
        while True:
            was_there = bool(self._running)
            if not was_there:
                self._running.append(_start())
            process, connection = self._running[0]
            try:
                connection.send_bytes(encoded)
                answer: dict[str, Any] = json.loads(connection.recv_bytes(hdf5_library.MOST_ANSWER_BYTES))
                if was_there and answer.get("is_spent"):  # one that is new tells whether the file is at fault
                    _end(self._running, os.getpid())
                    continue
                if out is not None and not answer.keys() & {"broken", "away", "unopened"}:
                    got = connection.recv_bytes_into(out)
                    if got != len(out):
                        raise EOFError
                return answer
            except (EOFError, OSError, ValueError, BufferTooShort):
                status = status_of(process)
            except BaseException:  # it was interrupted, and what comes next would be another's answer
                _end(self._running, os.getpid())
                raise
            _end(self._running, os.getpid())
            if not is_blameless(status, was_there=was_there):
                raise SourceError(f"{where} cannot be read: {what_became("HDF5's library", status)} Restore it.")


def library_process() -> LibraryProcess:
    """That of this process. A fork has its own."""
    return _of_process(os.getpid())


@cache
def _of_process(pid: int) -> LibraryProcess:
    return LibraryProcess()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # which HDF5 is about to say


def _start() -> tuple[subprocess.Popen[bytes], Connection]:
    try:
        process, ours = start_child(running(hdf5_library.__file__))
    except OSError as error:
        raise SourceError(
            f"No process could be started to open HDF5 in ({error}). Free memory or processes, or open the dataset with h5py and give that."
        ) from error
    return process, Connection(ours.detach())


def _end(running: list[tuple[subprocess.Popen[bytes], Connection]], owner: int) -> None:
    if os.getpid() != owner:  # a fork, to which it does not belong
        return
    while running:
        end_child(*running.pop())
