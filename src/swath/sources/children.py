"""Child processes that run one file of this package by itself, and are asked through a socket: what crashes in one ends it, not the caller.

They are plain children, not those of `multiprocessing`, which would import the user's script again, or fork a process that has threads.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

_PROGRAM = "import runpy, sys; sys.path[:] = {path}; runpy.run_path({file}, run_name='__main__')"


class Line(Protocol):
    """What a child is asked through. A child that loses it ends."""

    def close(self) -> None:
        """Let go of it."""
        ...


def start_child(file: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A child that runs a file, whose argument is the number of its end of the socket.

    Raises
    ------
    OSError
        The system gives no more processes.
    """
    ours, theirs = socket.socketpair()
    try:
        # JSON of paths is also Python. An interactive Python has the empty one, which is the folder where it works by now: whose files
        # may have the names of modules that this process has imported long ago.
        program = _PROGRAM.format(
            path=json.dumps([folder for folder in sys.path if isinstance(folder, str) and Path(folder).is_absolute()]),
            file=json.dumps(file),
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # else it reserves memory for each core
            process_group=0,  # Ctrl-C is for this process, which ends its children
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def status_of(process: subprocess.Popen[bytes]) -> int | None:
    """With what a child has ended; None where it has not, and so sends what nobody asked for."""
    try:
        return process.wait(1)
    except subprocess.TimeoutExpired:
        return None


def how_it_ended(status: int | None) -> str:
    """What became of a child, to be said of the library that ran in it."""
    if status is None:
        return "sent what nobody asked for"
    if status == -signal.SIGXCPU:
        return "did not come to an end"
    return f"was ended by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"ended ({status})"


def why_it_ended(status: int | None) -> str:
    """Whose fault that may be."""
    # A machine without memory kills.
    memory = "The machine had no memory left, or the" if status == -signal.SIGKILL else "The"
    return f"{memory} file is damaged, or made to harm."


def end_child(process: subprocess.Popen[bytes], line: Line) -> None:
    """At once: it has nothing to lose."""
    line.close()
    process.kill()
    process.wait()
