"""A call in a process of its own, which is measured, limited, interrupted or killed from outside."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_BEGIN = """
import json, resource, signal, sys
from pathlib import Path

# A shell has what it starts in the background ignore Ctrl-C, and so would all that are started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
file_bytes, arguments, options = json.loads(sys.argv[1])
"""

_END = """
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

if file_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = status("VmRSS")
print("ready", flush=True)
try:
    call()
except swath.SwathError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(status("VmHWM") - before)
"""


def start(program: str, *arguments: object, file_bytes: int = 0, **options: Any) -> subprocess.Popen[str]:
    """A process that begins the call now.

    ``program`` imports swath, and all else whose memory is not to be counted, and defines ``call``, of ``arguments`` (texts) and
    ``options``. No file may become longer than ``file_bytes``.
    """
    command = [sys.executable, "-c", _BEGIN + program + _END, json.dumps([file_bytes, [*map(str, arguments)], options])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    if child.stdout.readline() != "ready\n":
        raise AssertionError(child.communicate()[1])
    return child


def run(program: str, *arguments: object, file_bytes: int = 0, **options: Any) -> tuple[int, str, str]:
    """Exit status; what the call added to the memory of the process, in bytes, if all went well; and what it wrote to stderr."""
    child = start(program, *arguments, file_bytes=file_bytes, **options)
    added, stderr = child.communicate()
    return child.returncode, added, stderr


def children_that_run(program: str) -> set[int]:
    """Those of this process whose command line has it.

    By the parent that each process names: the list that a thread keeps of its children goes with the thread.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and program in (process / "cmdline").read_text():
                found.add(int(process.name))
    return found


def bytes_read_by_hdf5() -> int:
    """By the process in which HDF5 opens what is named by a path, so far."""
    return int(Path(f"/proc/{pid_of_hdf5()}/io").read_text().split("rchar:")[1].split()[0])


def pid_of_hdf5() -> int:
    """Of the process in which HDF5 opens what is named by a path."""
    from swath.sources.hdf5_process import library_process

    ((process, _),) = library_process()._running
    return process.pid


def tell_length(url: str, options: dict[str, Any], answer: Any) -> None:
    """Put the rows of a store in a queue, or why they cannot be read; here, since other processes can import this file."""
    import swath
    from swath.errors import StoreUnreachableError

    try:
        answer.put(len(swath.open(url, storage_options=options)))
    except StoreUnreachableError as error:
        answer.put(str(error))
