"""The command in a terminal: how wide it is, its colours, Ctrl-C, and pipes that close."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import swath
from swath.demo import DemoResult, DemoSize, demo_table
from swath.measure import Result

_COMMAND = [sys.executable, "-m", "swath.cli"]

# What runs the tests may have said how wide a terminal is.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {
    "TERM": "xterm"
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    swath.ingest(np.random.default_rng(0).normal(size=(20_000, 100)), tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def _in_terminal(
    words: list[str], columns: int, interrupt_at: str = "", command: Sequence[str] = _COMMAND, **environment: str
) -> tuple[str, int]:
    """What is shown, and the exit code; Ctrl-C is typed when a text has appeared."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs the tests in the background has it ignored
        os.execvpe(command[0], [*command, *words], {**_ENVIRONMENT, **environment})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown, deadline = "", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            got = os.read(terminal, 2**16)
        except OSError:  # it has ended
            break
        shown += got.decode(errors="replace")
        if interrupt_at and interrupt_at in shown:
            os.write(terminal, b"\x03")
            interrupt_at = ""
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return shown, os.waitstatus_to_exitcode(status)


def _widest(shown: str) -> int:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    return max(len(line.rstrip()) for line in plain.splitlines())


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("words", ["info {store}", "plan {store} --random 9", "ingest {store} {store}.new --dry-run"])
def test_text_fits_the_terminal(store: Path, words: str, columns: int) -> None:
    # A path is never cut.
    shown, code = _in_terminal(words.format(store=store).split(), columns)
    assert code == 0, shown
    plain = "\n".join(line for line in shown.splitlines() if str(store) not in line)
    assert _widest(plain) <= columns
    assert _widest(plain) > columns - 20


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_of_the_demo_fits(columns: int) -> None:
    from rich.console import Console

    result = Result(12.34, 2_560_000_000, 12_340_000_000, 0, checked=True)
    ways = dict.fromkeys(["swath gather", "swath compute", "numpy.memmap loop", "h5py loop"], result)
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(demo_table(DemoResult(DemoSize(512_000, 2000, 10_000, 8 * 10**9), 1.0, ways, ways), columns))
    assert _widest(captured.get()) <= columns
    assert "…" not in captured.get()
    assert captured.get().count("12.34 GB") == 4
    assert ("GB/s" in captured.get().split("Ingest")[0]) == (columns >= 80)


def test_colours_are_for_terminals_that_want_them(store: Path) -> None:
    words = ["verify", str(store), "--json"]
    piped = subprocess.run([*_COMMAND, *words], capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout + piped.stderr
    # A bar, which is what has colours, comes after a second, or where it is asked for.
    verify = "import sys, swath; swath.open(sys.argv[2]).verify(progress=True)"
    for environment, wanted in ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True):
        shown, _ = _in_terminal(words, 80, command=[sys.executable, "-c", verify], **environment)
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", shown)) == wanted


def test_ctrl_c_ends_the_demo_and_leaves_nothing(tmp_path: Path) -> None:
    shown, code = _in_terminal(["demo", "--folder", str(tmp_path), "--rows", "40000"], 80, interrupt_at="1/3")
    assert code == 130
    assert shown.rstrip().endswith("swath: interrupted")
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_that_falls_into_a_callback_is_not_lost() -> None:
    program = """
import signal, time, weakref
from swath.cli import cli, main

signal.signal(signal.SIGINT, signal.default_int_handler)

class Dataset:
    pass

def lose(reference):
    raise KeyboardInterrupt

@cli.command()
def lost():
    dataset = Dataset()
    reference = weakref.ref(dataset, lose)
    del dataset
    time.sleep(60)

main()
"""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, "lost"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "swath: interrupted\n")
    assert time.monotonic() - begin < 30


def test_an_interrupted_ingest_says_that_it_carries_on(tmp_path: Path) -> None:
    fifo = tmp_path / "slow.csv"
    fifo.write_text("x")
    program = """
import sys
import swath.doors
from swath.cli import main

def interrupted(*arguments, **options):
    raise KeyboardInterrupt

swath.doors.ingest = interrupted
main()
"""
    words = ["ingest", str(fifo), str(tmp_path / "a.zarr")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "swath: interrupted; the same command, run again, carries on\n"


def test_a_signal_leaves_nothing_of_a_demo(tmp_path: Path) -> None:
    command = [*_COMMAND, "demo", "--folder", str(tmp_path), "--rows", "40000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        while "1/3" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_error(store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*_COMMAND, "info", str(store)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_verbose_shows_what_the_library_logs(tmp_path: Path) -> None:
    program = """
import logging
from swath.cli import cli, main, root
from swath.cli import options

@cli.command()
@options.common
def log(as_json):
    logging.getLogger("swath.x").info("told")
    logging.getLogger("swath.x").debug("whispered")

main()
"""
    for words, told in ([], []), (["-v"], ["told"]), (["-vv"], ["told", "whispered"]):
        done = subprocess.run(
            [sys.executable, "-c", program, "log", *words], capture_output=True, text=True, check=True
        )
        assert done.stdout == ""
        assert [line.split("swath.x: ")[1] for line in done.stderr.splitlines()] == told
