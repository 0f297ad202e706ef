"""A picture that ends the process that decodes it, or keeps it busy, is an error of the call that wanted it, and the next is read."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from children import children_that_run
from oracle import assert_same
from PIL import Image

import swath
from swath.errors import SourceError
from swath.sources import image_process, images

_SIDE = 4000


def slow_picture(n_scans: int) -> bytes:
    """A grey JPEG, of 53 bytes for each scan, which takes 2 ms to decode: all but the first say what it says."""
    file = io.BytesIO()
    Image.new("L", (_SIDE, _SIDE), 128).save(file, "JPEG", progressive=True, quality=50)
    raw = file.getvalue()
    scans = [found.start() for found in re.finditer(b"\xff\xda", raw)]
    return raw[: scans[1]] + raw[scans[1] : scans[2]] * n_scans + raw[scans[2] :]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[image_process.ImageProcesses]:
    """Those of this test alone."""
    mine = image_process.ImageProcesses(2)
    monkeypatch.setattr(image_process, "_of_process", lambda pid: mine)
    yield mine
    while mine._idle:
        mine._idle.pop().end()


def _children() -> set[int]:
    return children_that_run("image_library")


def _seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _folder(tmp_path: Path, n_scans: int) -> Path:
    """A sound picture, one that is slow, and another that is sound."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in (("a", slow_picture(0)), ("b", slow_picture(n_scans)), ("c", slow_picture(1))):
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_is_killed_in_a_picture_is_an_error_that_names_it(
    tmp_path: Path, number: signal.Signals, processes: image_process.ImageProcesses
) -> None:
    """As a codec that crashes ends it: by a signal, in the middle."""
    before = _children()
    source = swath.images(_folder(tmp_path, 20_000))["images"]
    (child,) = _children() - before
    rows = np.empty((1, _SIDE, _SIDE, 1), np.uint8)
    with ThreadPoolExecutor(1) as pool:
        used = _seconds(child)
        reading = pool.submit(source.read_into, 1, rows)
        while _seconds(child) < used + 0.3:  # all else that it does takes less
            time.sleep(0.01)
        os.kill(child, number)
        with pytest.raises(SourceError, match=rf"b\.jpg cannot be read .*was ended by signal .*{number.name}"):
            reading.result(timeout=30)
    assert not Path(f"/proc/{child}").exists(), "it was not waited for"
    for k in (0, 2):
        source.read_into(k, rows)
        assert_same(rows, np.full_like(rows, 128))


def test_a_process_that_is_killed_between_requests_is_no_fault_of_a_picture(
    tmp_path: Path, processes: image_process.ImageProcesses
) -> None:
    """Where memory runs out the kernel ends some process."""
    before = _children()
    source = swath.images(_folder(tmp_path, 1))["images"]
    rows = np.empty((1, _SIDE, _SIDE, 1), np.uint8)
    for k in range(3):
        (child,) = _children() - before
        os.kill(child, signal.SIGKILL)
        source.read_into(k, rows)
        assert_same(rows, np.full_like(rows, 128))


def test_a_picture_that_never_ends_is_refused_by_an_ingest_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: image_process.ImageProcesses
) -> None:
    """5 MB that take Pillow 200 s: the kernel ends their process when its seconds are over."""
    monkeypatch.setattr(images, "_SECONDS", 1)
    monkeypatch.setattr(images, "_SECOND_PIXELS", 2**40)
    folder = _folder(tmp_path, 100_000)
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"b\.jpg cannot be read .*Pillow did not come to an end"):
        swath.ingest(folder, tmp_path / "a.zarr", window=1, progress=False)
    assert time.monotonic() - begin < 60
    assert not (tmp_path / "a.zarr").exists()
    (folder / "b.jpg").unlink()
    a = swath.ingest(folder, tmp_path / "a.zarr", window=1, progress=False)
    assert_same(a.gather([1], window=1), np.full((1, 1, _SIDE, _SIDE, 1), 128, np.uint8))


def test_a_picture_may_take_no_more_memory_than_its_size_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: image_process.ImageProcesses
) -> None:
    """The kernel refuses it: here the figure is less than any picture takes."""
    source = swath.images(_folder(tmp_path, 1))["images"]
    rows = np.empty((1, _SIDE, _SIDE, 1), np.uint8)
    source.read_into(0, rows)
    with monkeypatch.context() as patched:
        patched.setattr(images, "_DECODE_BYTES", -6)
        patched.setattr(images, "_RESIZE_BYTES", 0)
        with pytest.raises(SourceError, match=r"a\.jpg cannot be read as an image"):
            source.read_into(0, rows)
    source.read_into(0, rows)


def test_a_process_that_ended_because_nobody_asked_is_replaced(
    tmp_path: Path, processes: image_process.ImageProcesses
) -> None:
    source = swath.images(_folder(tmp_path, 1))["images"]
    (child,) = processes._idle
    child.socket.shutdown(1)  # it reads the end of its requests, and ends as it does then
    assert child.process.wait(30) == 0
    source.read_into(0, np.empty((1, _SIDE, _SIDE, 1), np.uint8))
    assert processes._idle != [child]


def test_processes_end_with_the_one_that_reads_however_it_ends(tmp_path: Path) -> None:
    code = (
        "import os, sys, swath; swath.images(sys.argv[1]); "
        "print(open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, _folder(tmp_path, 1)], capture_output=True, text=True)
    (child,) = done.stdout.split()
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
