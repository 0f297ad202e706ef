"""Many hostile cases in a child process with limits, which is started again after each that it does not survive.

`run(entry, cases)` calls ``entry`` (``"module:function"``, importable by the child) with the values of each case, which are
JSON. It writes what is hostile, which is not measured, and returns the call to be made, which is::

    def opening(folder: str, seed: int) -> Callable[[], object]:
        path = write_something(folder, seed)
        return lambda: swath.open(path).gather([0])

    for result in run("hostile.mine:opening", [[str(tmp_path), seed] for seed in range(100)]):
        assert result.is_good, result

What the calls import lazily should be imported by the module, lest it be counted as growth of the first case.

The call may raise `Wrong`, where an answer is not what it should be; or `Refused`, where it wraps a library whose errors are not
those of swath.
"""

import faulthandler
import gc
import importlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from swath.errors import SwathError

Outcome = Literal["ok", "typed error", "other error", "wrong", "crash", "hang"]

# What the issue allows: seconds, and bytes that a case may add.
MOST_SECONDS = 5.0
MOST_GROWTH = 100 * 10**6

_TESTS = Path(__file__).resolve().parent.parent
_MOST_TEXT = 20_000

# A child that does nothing is given so many times the seconds that one is given which works.
_WAITS = 6


class Wrong(Exception):
    """An answer was given that is not the right one."""


class Refused(Exception):
    """Another library ended the call with an error that its users would expect."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case."""

    case: Any
    outcome: Outcome
    seconds: float = 0.0
    """That the call took; those that the machine gave to others are not counted, but for a crash or a hang."""
    growth: int = 0
    """Bytes that the call added to the memory of the process, at the most."""
    text: str = ""
    """The error, the end of what the process wrote before it died, or the answer where it is a text."""

    @property
    def is_good(self) -> bool:
        """An answer or a typed error, in time and in little memory."""
        in_limits = self.seconds < MOST_SECONDS and self.growth < MOST_GROWTH
        return self.outcome in ("ok", "typed error") and in_limits


def run(
    entry: str,
    cases: Iterable[Sequence[Any]],
    *,
    seconds: float = 4 * MOST_SECONDS,
    waits: float = _WAITS,
    room: int = 4 * 2**30,
) -> Iterator[Result]:
    """Each case, in turn; the address space of a child grows by ``room`` at most.

    A child hangs that takes longer than ``seconds`` of the processor, or waits for so many times as long: what others do on the
    machine does not last so long.
    """
    left = list(cases)
    while left:
        done = 0
        for result in _run_child(entry, left, seconds, waits * seconds, room):
            yield result
            done += 1
        left = left[done:]


def _run_child(
    entry: str, cases: Sequence[Sequence[Any]], seconds: float, waiting: float, room: int
) -> Iterator[Result]:
    """Cases by one child, up to the one that it does not survive."""
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A pool of memory for each thread would take address space that nobody uses.
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "2", "PYTHONWARNINGS": "ignore"}
    answers, told = os.pipe()
    command = [sys.executable, "-c", "from hostile.harness import serve; serve()", entry, str(told), str(room)]
    with tempfile.TemporaryFile() as stderr, os.fdopen(answers, "rb", buffering=0) as pipe:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, env=environment, pass_fds=[told]
        )
        os.close(told)
        assert child.stdin is not None
        try:
            if _read_line(pipe, 120, 120, child.pid) != b"ready":
                raise AssertionError(f"the child did not start: {_tail(stderr)}")
            for case in cases:
                begin = time.monotonic()
                try:
                    child.stdin.write(json.dumps(case).encode() + b"\n")
                    child.stdin.flush()
                    line = _read_line(pipe, seconds, waiting, child.pid)
                except BrokenPipeError:
                    line = b""
                if line:
                    yield Result(case, **json.loads(line))
                    continue
                if line is None:
                    child.kill()
                child.wait()
                took = time.monotonic() - begin
                yield Result(case, "hang" if line is None else "crash", took, 0, _tail(stderr))
                return
        finally:
            child.kill()
            child.wait()
            child.stdin.close()


def _read_line(pipe: IO[bytes], seconds: float, waiting: float, process: int) -> bytes | None:
    """The next answer; empty where the child has ended, None where it takes too long."""
    found = b""
    end, most = time.monotonic() + waiting, _processor_seconds(process) + seconds
    while not found.endswith(b"\n"):
        if not select.select([pipe], [], [], 0.5)[0]:
            if time.monotonic() > end or _processor_seconds(process) > most:
                return None
            continue
        more = os.read(pipe.fileno(), 65536)
        if not more:
            return b""
        found += more
    return found[:-1]


def _processor_seconds(process: int) -> float:
    """That a process has taken, which has not been waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tail(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    return stderr.read()[-4000:].decode(errors="replace")


def serve() -> None:
    """The child: a case by line, an answer by line."""
    faulthandler.enable()
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    gc.freeze()  # what has been imported need not be looked at for each case
    with os.fdopen(int(sys.argv[2]), "w") as told:
        print("ready", file=told, flush=True)
        for line in sys.stdin:
            print(json.dumps(_attempt(function, json.loads(line))), file=told, flush=True)


def _attempt(function: Any, case: Sequence[Any]) -> dict[str, Any]:
    call = function(*case)
    gc.collect()
    outcome: Outcome = "ok"
    text = ""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _memory("VmRSS")
    begin, waited = time.monotonic(), _waited()
    try:
        answer = call()
        text = answer if isinstance(answer, str) else ""
    except (SwathError, Refused) as error:
        outcome, text = "typed error", f"{type(error).__name__}: {error}"
    except Wrong as error:
        outcome, text = "wrong", str(error)
    except Exception:
        outcome, text = "other error", traceback.format_exc()
    took = max(0.0, time.monotonic() - begin - (_waited() - waited))
    growth = max(0, _memory("VmHWM") - before)
    result = asdict(Result(None, outcome, took, growth, text[-_MOST_TEXT:]))
    del result["case"]
    return result


def _waited() -> float:
    """Seconds for which this thread could have run, and the machine was busy with others."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
