"""Child processes that are asked through a socket: what crashes in one ends it, not the caller.

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

# In which a child whose end of the socket is closed ends, on a busy machine too.
_END_SECONDS = 10

_PROGRAM = "import sys; sys.path[:] = {path}; {program}"


class Line(Protocol):
    """What a child is asked through. A child that loses it ends."""

    def close(self) -> None:
        """Let go of it."""
        ...


def running(file: str) -> str:
    """The program that is one file, without the package around it."""
    return f"import runpy; runpy.run_path({json.dumps(file)}, run_name='__main__')"


def start_child(
    program: str, *passed: int, stderr: int | None = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A child that runs a program, whose arguments are the number of its end of the socket, and the descriptors that are passed.

    Raises
    ------
    OSError
        The system gives no more processes.
    """
    ours, theirs = socket.socketpair()
    try:
        # JSON of paths is also Python. An interactive Python has the empty one, which is the folder where it works by now: whose files
        # may have the names of modules that this process has imported long ago.
        path = [folder for folder in sys.path if isinstance(folder, str) and Path(folder).is_absolute()]
        path.append(str(Path(__file__).parents[2]))  # this package may have come from the empty one
        given = (theirs.fileno(), *passed)
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(path=json.dumps(path), program=program), *map(str, given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=given,
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
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def is_blameless(status: int | None, *, was_there: bool) -> bool:
    """Whether a child may have ended before it was asked, so that another should be.

    Nobody had asked it for a while; or a machine without memory kills, and one that ``was_there`` perhaps not for this request.
    """
    return status == 0 or (was_there and status == -signal.SIGKILL)


def how_it_ended(status: int | None) -> str:
    """What became of a child, to be said of it, or of the library that ran in it."""
    if status is None:
        return "sent what nobody asked for"
    if status == -signal.SIGXCPU:
        return "did not come to an end"
    return f"was ended by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"ended ({status})"


def what_became(library: str, status: int | None) -> str:
    """What became of a library that read a file in a child, and why that may be."""
    # A machine without memory kills.
    memory = "The machine had no memory left, or the" if status == -signal.SIGKILL else "The"
    return (
        f"{library} {how_it_ended(status)} on it, in a process of its own. {memory} file is damaged, or made to harm."
    )


def end_child(process: subprocess.Popen[bytes], line: Line) -> None:
    """At once: it has nothing to lose."""
    line.close()
    process.kill()
    process.wait()
