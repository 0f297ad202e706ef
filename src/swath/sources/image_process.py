"""Processes in which Pillow reads what others wrote: if a file makes a codec crash, hang or grow, that process ends, and not the caller.

A process that reads images has as many of them as cores, each started when all before it are busy, in the time that Pillow takes to
import. A thread has one to itself for a request of many files, whose rows come through its socket straight to their places. After a minute
without a request a process ends.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BufferedReader
from pathlib import Path
from threading import Semaphore
from typing import Any

from swath.errors import SourceError
from swath.sources.children import end_child, is_blameless, running, start_child, status_of, what_became

# Run by its path: to import it here would be to import Pillow.
_FILE = str(Path(__file__).with_name("image_library.py"))

_MOST_ANSWER = 2**16

# Each takes memory, also of one that has many cores.
_MOST = 16


class _EndedError(Exception):
    """The process has."""


@dataclass(frozen=True, slots=True, eq=False)
class _Child:
    """A process, our end of its socket, and what comes from there."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    answers: BufferedReader

    def send(self, request: bytes) -> None:
        """Ask for the files of a request."""
        try:
            self.socket.sendall(request)
        except OSError:
            raise _EndedError from None

    def receive(self, row: memoryview) -> dict[str, Any]:
        """What is said of the next file, whose pixels are in the row then."""
        try:
            answer: dict[str, Any] = json.loads(self.answers.readline(_MOST_ANSWER) or "{}")
            if not answer or ("mode" in answer and self.answers.readinto(row) < len(row)):
                raise _EndedError
        except (OSError, ValueError):
            raise _EndedError from None
        return answer

    def end(self) -> None:
        """At once."""
        self.answers.close()
        end_child(self.process, self.socket)


@dataclass(slots=True, weakref_slot=True)
class ImageProcesses:
    """The processes that run."""

    n: int
    """As many as there may be."""
    _turns: Semaphore = field(init=False)
    _idle: list[_Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._turns = Semaphore(self.n)
        weakref.finalize(self, _end, self._idle, os.getpid())

    def ask(
        self,
        request: dict[str, Any],
        paths: Sequence[str],
        rows: Sequence[memoryview],
        take: Callable[[int, dict[str, Any]], None],
    ) -> None:
        """Call ``take`` with what is said of each file in turn, whose pixels are in its row then; one that is refused is the last.

        Raises
        ------
        SourceError
            A file has ended the process.
        """
        encoded = json.dumps({**request, "paths": paths}).encode() + b"\n"
        with self._turns:
            child, answer = self._begin(encoded, paths[0], rows[0])
            at_rest = False
            try:
                for k, row in enumerate(rows):
                    answer = child.receive(row) if k else answer
                    at_rest = k == len(paths) - 1 or "mode" not in answer
                    take(k, answer)
                    if at_rest:
                        break
            except _EndedError:
                raise _ended(paths[k], status_of(child.process)) from None
            finally:
                if at_rest:
                    self._idle.append(child)
                else:  # it is dead, or what comes next would be another's answer
                    child.end()

    def _begin(self, request: bytes, path: str, row: memoryview) -> tuple[_Child, dict[str, Any]]:
        """A process that has been asked, and its first answer."""
        while True:
            was_there = bool(self._idle)
            child = self._idle.pop() if was_there else _start()
            try:
                child.send(request)
                return child, child.receive(row)
            except _EndedError:
                status = status_of(child.process)
                child.end()
                if not is_blameless(status, was_there=was_there):
                    raise _ended(path, status) from None
            except BaseException:
                child.end()
                raise


def _ended(path: str, status: int | None) -> SourceError:
    return SourceError(f"{path} cannot be read as an image: {what_became('Pillow', status)} Leave it out.")


def image_processes() -> ImageProcesses:
    """Those of this process. A fork has its own."""
    return _of_process(os.getpid())


@cache
def _of_process(pid: int) -> ImageProcesses:
    return ImageProcesses(min(_MOST, len(os.sched_getaffinity(0))))


def _start() -> _Child:
    try:
        process, ours = start_child(running(_FILE))
    except OSError as error:
        raise SourceError(
            f"No process could be started to read images in ({error}). Free memory or processes."
        ) from error
    return _Child(process, ours, ours.makefile("rb"))


def _end(children: list[_Child], owner: int) -> None:
    if os.getpid() != owner:  # a fork, to which they do not belong
        return
    while children:
        children.pop().end()
