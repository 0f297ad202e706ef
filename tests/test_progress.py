"""A bar comes after a second, where somebody looks on: on a terminal or in a notebook, and never in a pipe."""

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import swath
from swath.progress import progress_bar

# A source of rows that takes as long as it is told to.
_SLOW = """
import sys, time, numpy as np, swath

class Slow:
    shape, dtype = (8000, 100), np.dtype("f8")

    def __init__(self, seconds):
        self.pause = seconds / 8

    def __getitem__(self, rows):
        time.sleep(self.pause)
        return np.ones((len(range(*rows.indices(8000))), 100))

def blocks(seconds):
    for _ in range(10):
        time.sleep(seconds / 10)
        yield np.ones((1000, 100))
"""

# A disk that is busy takes seconds for the smallest store: what is quick is so beside a minute.
_LATER = "import swath.progress; usual, swath.progress._AFTER_SECONDS = swath.progress._AFTER_SECONDS, 60.0\n"


def _on_a_terminal(code: str) -> str:
    """What a program shows on a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", _SLOW + code]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while some := os.read(ours, 65536):
                shown += some
        except OSError:  # the other end was closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_what_is_quick_shows_nothing(tmp_path: Path) -> None:
    assert _on_a_terminal(_LATER + f"swath.ingest(Slow(0.1), {str(tmp_path / 'a')!r}, shard_rows=1024)") == ""


@pytest.mark.parametrize(
    ("call", "label", "end"),
    [
        pytest.param("swath.ingest(Slow(3), {a!r}, shard_rows=1024)", "ingest", "6.4/6.4 MB", id="ingest"),
        pytest.param("swath.ingest(blocks(2), {a!r})", "ingest", "8.0/? MB", id="iterator"),
        pytest.param("swath.open({b!r}).append(Slow(3))", "append", "7.2/7.2 MB", id="append"),
        pytest.param("swath.open({b!r}).append(blocks(2))", "append", "8.8/? MB", id="append-iterator"),
    ],
)
def test_what_takes_longer_shows_a_bar(tmp_path: Path, call: str, label: str, end: str) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    swath.ingest(np.ones((1000, 100)), b, shard_rows=4096, chunk_rows=16)
    shown = _on_a_terminal(call.format(a=a, b=b))
    assert label in shown
    assert end in shown


def test_a_pipe_stays_quiet(tmp_path: Path) -> None:
    code = _SLOW + f"swath.ingest(Slow(3), {str(tmp_path / 'a')!r}, shard_rows=1024)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_what_is_printed_meanwhile_goes_where_it_should(tmp_path: Path) -> None:
    """stdout is a file, stderr a terminal: rich would print to the terminal what is for the file."""
    out = tmp_path / "out"
    code = f"""
sys.stdout = open({str(out)!r}, "w")
from swath.progress import progress_bar
with progress_bar("x", 10, True):
    time.sleep(0.5)
    print("a result")
sys.stdout.close()
sys.stdout = None
"""
    assert "a result" not in _on_a_terminal(code)
    assert out.read_text() == "a result\n"


@pytest.mark.parametrize("wanted", [True, False, None])
def test_a_gather_has_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: bool | None) -> None:
    rows = np.arange(200_000.0).reshape(1000, 200)
    a = swath.ingest(rows, tmp_path / "a.zarr")
    starts = np.arange(500)
    batch = a.gather(starts, progress=wanted)
    assert np.array_equal(batch, np.stack([rows[s : s + 16] for s in starts]))
    shown = capsys.readouterr().err
    assert ("gather" in shown and "12.8/12.8 MB" in shown) if wanted else shown == ""
    g = swath.ingest_group({"X": rows}, tmp_path / "g.zarr")
    g.gather(starts, progress=wanted)
    assert ("gather" in capsys.readouterr().err) is bool(wanted)


def test_the_bar_counts_what_threads_do(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("x", 8_000_000, True) as advance:
        threads = [threading.Thread(target=lambda: [advance(1000) for _ in range(1000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "8.0/8.0 MB" in capsys.readouterr().err


def test_an_error_goes_through_and_no_thread_stays() -> None:
    with pytest.raises(ZeroDivisionError), progress_bar("x", 10, True):
        raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name == "swath-progress"]


def test_a_child_that_was_forked_does_not_wait() -> None:
    code = """
import os
from swath.progress import progress_bar
bar = progress_bar("x", 10, True)
advance = bar.__enter__()
if os.fork() == 0:
    advance(1)
    bar.__exit__(None, None, None)
    os._exit(0)
assert os.wait()[1] == 0
bar.__exit__(None, None, None)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A notebook after it was run: a slow ingest, a quick one, and one that fails."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [
        _SLOW,
        "swath.ingest(Slow(3), 'a', shard_rows=1024).shape",
        _LATER + "b = swath.ingest(Slow(0.1), 'b', shard_rows=1024)\nswath.progress._AFTER_SECONDS = usual\nb.shape",
        "def broken():\n    yield from blocks(1.5)\n    raise ValueError('no more')\nswath.ingest(broken(), 'c')",
        "a = swath.open('a')\na",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(folder / name))
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(nb, timeout=120, kernel_name="python3", allow_errors=True, resources=resources)
        client.execute()
    return nb


def test_a_notebook_keeps_one_line_of_a_bar(notebook: Any) -> None:
    bar, result = notebook.cells[1].outputs
    assert bar.output_type == "display_data"
    assert bar.data["text/plain"] == ""
    assert re.search(r"ingest&ensp;6.10 MiB in [\d.]+ s, [\d.]+ \w+/s</div>", bar.data["text/html"])
    assert result.data["text/plain"] == "(8000, 100)"


def test_a_notebook_has_nothing_of_what_is_quick(notebook: Any) -> None:
    assert [output.output_type for output in notebook.cells[2].outputs] == ["execute_result"]


def test_a_notebook_tells_how_far_a_failure_came(notebook: Any) -> None:
    bar, error = notebook.cells[3].outputs
    assert "7.63 MiB in" in bar.data["text/html"]
    assert (error.output_type, error.evalue) == ("error", "no more")


def test_a_notebook_shows_the_card(notebook: Any) -> None:
    (shown,) = notebook.cells[4].outputs
    assert "<svg" in shown.data["text/html"]
    assert shown.data["text/plain"].startswith("<swath.RowArray (8000, 100)")
