"""An HTTP proxy in front of a server, in a process of its own, which is slow, narrow and faulty as a test asks for.

What goes wrong is a function of the seed, of the request and of how often it was made, whatever else goes on at that time.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

ANSWERS = ("503", "429", "500", "404", "error_body")
"""The server never sees the request. 503 comes with a Retry-After of 0 or 1 s, 404 only the first time that this is asked for,
and the error body with status 200, in place of the object."""

CUTS = ("reset", "reset_before_body", "reset_in_body")
"""The connection is reset: before any answer, after the head of it, after half of the body."""

LIES = ("short", "ignored_range", "wrong_range", "flip", "etag")
"""Half of the body, said to be all; 200 and the length of the whole object, where what was not asked for is zeros;
a Content-Range and a body that begin one byte later; one bit of the body; another ETag."""

DELAYS = ("stall", "drip")
"""Nothing for some seconds; half of the body, and the rest over these seconds."""

AFTERWARDS = ("lost_reply", "late_500")
"""The server did what was asked for; then the connection is reset before it says so, or the answer is 500."""

READ_FAULTS = (*ANSWERS, *CUTS, *LIES, *DELAYS)
WRITE_FAULTS = ("503", "429", "500", "reset", "stall", *AFTERWARDS)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the proxy behaves from now on."""

    faults: Sequence[str] = ()
    share: float = 0.1
    """Of the requests that one of the faults can befall."""
    seed: int = 0
    methods: Sequence[str] = ("GET",)
    once: bool = False
    """Whether the next request for the same end of the same object goes well, once one went wrong."""
    stall_s: float = 5.0
    latency_s: float = 0.0
    """Before a request goes on to the server."""
    bandwidth: float = math.inf
    """Bytes of bodies per second, of all connections together, each way."""


class Seen(NamedTuple):
    """A request, in order of arrival."""

    method: str
    target: str
    range: str
    """What stands in that header, or nothing."""
    fault: str
    """What befell it, or nothing."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the beginning, or the last :meth:`Proxy.clear`."""

    requests: dict[str, int] = field(default_factory=dict)
    """By method."""
    faults: dict[str, int] = field(default_factory=dict)
    """By kind."""
    faulted: dict[str, int] = field(default_factory=dict)
    """By method."""
    sent: int = 0
    """Bytes of bodies to clients."""
    at_once: int = 0
    """Most requests that were under way at one time."""


class Proxy:
    """A proxy before a port of this machine; clients use ``port``, from the beginning of the ``with`` block to its end."""

    port: int

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream

    def __enter__(self) -> Self:
        command = [sys.executable, str(Path(__file__).with_name("proxying.py")), str(self.upstream)]
        self._complaints = tempfile.TemporaryFile("w+")
        # Its input ends when whoever started it does, and then it ends too.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True
        )
        self.port = int(self._answer())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=10)  # its input ends; what it has to say, it has said by then
        finally:
            self._process.kill()
            self._process.wait()
        with self._complaints as complaints:
            complaints.seek(0)
            said = complaints.read()
        assert error or not said, said

    def set(
        self,
        *,
        faults: Sequence[str] = (),
        share: float = 0.1,
        seed: int = 0,
        methods: Sequence[str] = ("GET",),
        once: bool = False,
        stall_s: float = 5.0,
        latency_s: float = 0.0,
        bandwidth: float = math.inf,
    ) -> None:
        """Behave so from now on: what is not named is as at first. See :class:`Settings`."""
        unknown = {*faults} - {*READ_FAULTS, *WRITE_FAULTS}
        assert not unknown, f"no faults of this proxy: {unknown}"
        self._ask("set", asdict(Settings(faults, share, seed, methods, once, stall_s, latency_s, bandwidth)))

    def counts(self) -> Counts:
        return Counts(**self._ask("counts"))

    def requests(self) -> list[Seen]:
        return [Seen(*each) for each in self._ask("requests")]

    def clear(self) -> None:
        """Forget which requests there were; settings stay."""
        self._ask("clear")

    def _ask(self, command: str, argument: object = None) -> Any:
        print(json.dumps([command, argument]), file=self._pipe(self._process.stdin), flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._pipe(self._process.stdout).readline()
        assert line, "the proxy has ended"
        return json.loads(line)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe
        return pipe
