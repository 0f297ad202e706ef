"""Nothing outside of a place is read or written because a file in it says so.

The kernel tells of each use of a folder of bait beside it (inotify), also of those by HDF5 and other libraries that Python does not see;
strace says the same of all calls in a process of its own, where it is installed.
"""

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import outsiders
import pytest
import zarr
from outsiders import CASES, MARK, ROWS, make_bait, run, watched

import swath
from swath.errors import OptionError, StoreAccessError, SwathError


@pytest.fixture(scope="session")
def bait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside") / "bait"
    make_bait(folder)
    return folder


def _laid(folder: Path, bait: Path, case: str) -> tuple[Path, Path, Path]:
    """A root with the case in it, a folder for what calls write, and the bait that ``..`` leads to."""
    root, out = folder / "root", folder / "out"
    root.mkdir(parents=True)
    out.mkdir()
    beside = folder / "bait"
    shutil.copytree(bait, beside)
    CASES[case].build(root, beside)
    return root, out, beside


@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_is_touched(tmp_path: Path, bait: Path, case: str) -> None:
    root, out, beside = _laid(tmp_path, bait, case)
    with watched(beside) as uses:
        for k, (shall_be_refused, error, result) in enumerate(run(CASES[case], root, out)):
            assert uses() == [], k
            assert error is not None or not shall_be_refused, k
            assert error is not None or not _holds_the_mark(result), k


def _holds_the_mark(result: object) -> bool:
    arrays = result.values() if isinstance(result, dict) else [result]
    return any(isinstance(each, np.ndarray) and bool((each == MARK).any()) for each in arrays)


def test_the_look_out_sees(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with watched(tmp_path / "a") as uses:
        assert uses() == []
        (tmp_path / "link/b/file").read_text()
        assert any("b/file" in use for use in uses())
        (tmp_path / "link/new").touch()
        assert any("a/new" in use for use in uses())


def test_strace_sees_nothing_else(tmp_path: Path, bait: Path) -> None:
    """It is in no package index for Python, and inotify has seen all that lies in the bait: so it may be missing."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    for case in CASES:
        _laid(tmp_path / outsiders.name_of(case), bait, case)
    log = tmp_path / "log"
    tracing = [strace, "-f", "-y", "-qq", "-e", "trace=%file", "-e", "signal=none", "-o", str(log)]
    subprocess.run([*tracing, sys.executable, outsiders.__file__, str(tmp_path)], check=True)
    opened = re.compile(r"(?:open|openat|openat2|creat)\(.* = \d+<(" + re.escape(str(tmp_path)) + "[^>]*)>")
    paths = [found[1] for line in log.read_text(errors="replace").splitlines() if (found := opened.search(line))]
    assert len(paths) > len(CASES)
    assert [path for path in paths if Path(path).relative_to(tmp_path).parts[1:2] == ("bait",)] == []


def test_links_within_a_place_are_followed(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=ROWS, chunks=(10, 4), compressors=None)
    (tmp_path / "a/c").rename(tmp_path / "a/elsewhere")
    (tmp_path / "a/c").symlink_to("elsewhere")
    (tmp_path / "a/c/1").rename(tmp_path / "a/kept")
    (tmp_path / "a/c/1").symlink_to("../kept")
    np.testing.assert_array_equal(swath.open(tmp_path / "a").gather([8], window=4)[0], ROWS[8:12])
    swath.ingest(ROWS, tmp_path / "b", window=4)
    (tmp_path / "b/c.0.0").rename(tmp_path / "b/kept")
    (tmp_path / "b/c.0.0").symlink_to("kept")
    np.testing.assert_array_equal(swath.open(tmp_path / "b").gather([8])[0], ROWS[8:12])
    (tmp_path / "link").symlink_to("b")
    np.testing.assert_array_equal(swath.open(tmp_path / "link").gather([8])[0], ROWS[8:12])


def test_who_trusts_links_gives_a_store_that_follows_them(tmp_path: Path) -> None:
    swath.ingest(ROWS, tmp_path / "a", window=4)
    (tmp_path / "a/c.0.0").rename(tmp_path / "elsewhere")
    (tmp_path / "a/c.0.0").symlink_to("../elsewhere")
    with pytest.raises(StoreAccessError, match=r"leads out of .* give zarr.storage.LocalStore"):
        swath.open(tmp_path / "a").gather([8])
    trusted = swath.open(zarr.storage.LocalStore(tmp_path / "a", read_only=True))
    np.testing.assert_array_equal(trusted.gather([8])[0], ROWS[8:12])


class _Noting(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        super().do_HEAD()

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("name", ["%2e%2e", "%2E%2E%2fbait", "..%2fbait", "%00", "a?b=c", "a#b"])
def test_a_server_is_asked_for_nothing_outside(tmp_path: Path, name: str) -> None:
    """A name that would be ``..`` after it is decoded is sent as it is: encoded once more."""
    outsiders._group(name)(tmp_path, tmp_path)

    class Handler(_Noting):
        asked: list[str] = []  # noqa: RUF012 - one for each test

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=os.fspath(tmp_path))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/g"
        with pytest.raises(SwathError):
            swath.open_group(url, storage_options={"allow_http": "true"}).gather([0], window=4)
        server.shutdown()
    assert Handler.asked
    for path in Handler.asked:
        assert "?" not in path
        assert ".." not in unquote(path).split("/"), path
        assert unquote(path).startswith(("/g/", "/zarr.json")), path


@pytest.mark.parametrize("url", ["http://h/a/%2e%2e/b", "http://h/a%2f..%2fb", "https://h/a/%00", "s3://b/../c"])
def test_a_url_names_a_place_below_its_server(url: str) -> None:
    with pytest.raises(OptionError, match="names no place"):
        swath.open(url)
