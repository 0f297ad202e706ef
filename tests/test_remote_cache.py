"""What is kept on this machine of objects: what is asked for, what it may take, and what becomes of it when things go wrong."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr
from fault_proxy import Proxy
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_same, expected
from servers import Server, serve
from zarr.storage import ObjectStore

import swath
from swath.errors import OptionError
from swath.storage.cache import LEAST_BYTES, PAGE, Cache
from swath.storage.connection import Seen

ROWS = np.random.default_rng(0).normal(size=(6000, 100))
STARTS = np.random.default_rng(1).integers(0, 6000 - 8, 300)
LAYOUT: dict[str, Any] = {"window": 8, "chunk_rows": 4, "shard_rows": 400}


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve("moto", tmp_path_factory.mktemp("moto")) as server:
        for codec in ("raw", "zstd"):
            swath.ingest(ROWS, _url(server, codec), codec=codec, storage_options=server.storage_options, **LAYOUT)
        yield server


@pytest.fixture
def behind(moto: Server, proxy: Proxy) -> Server:
    return moto.behind(proxy.port)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


codecs = pytest.mark.parametrize("codec", ["raw", "zstd"])


def _url(server: Server, name: str) -> str:
    return f"{server.url}/cached/{name}.zarr"


def _open(server: Server, name: str, cache: Path, limit: Any = None) -> swath.RowArray:
    return swath.open(_url(server, name), storage_options=server.storage_options, cache=cache, cache_limit=limit)


def _data_requests(proxy: Proxy) -> int:
    return sum("/c." in each.target or "/c/" in each.target for each in proxy.requests())


def _kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.swath-pages"))


def _bytes_on_disk(cache: Path) -> int:
    total = 0
    for path in cache.iterdir():
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


_GATHER = """
import json, resource, sys
import numpy as np, swath
url, options, cache, limit, seed, times, file_bytes = json.loads(sys.argv[1])
if file_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
a = swath.open(url, storage_options=options, cache=cache, cache_limit=limit)
print("ready", flush=True)
for k in range(times):
    starts = np.random.default_rng(seed + k).integers(0, len(a) - 8, 300)
    batch = a.gather(starts)
    print(int(np.ascontiguousarray(batch).view(np.uint64).sum(dtype=np.uint64)), flush=True)
"""


def _start(
    server: Server, name: str, cache: Path, *, limit: Any = None, seed: int = 1, times: int = 1, file_bytes: int = 0
) -> subprocess.Popen[str]:
    """A process that gathers the windows of seed 1, 2, ..., and tells a sum of each batch."""
    job = json.dumps([_url(server, name), server.storage_options, str(cache), limit, seed, times, file_bytes])
    child = subprocess.Popen(
        [sys.executable, "-c", _GATHER, job], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def _end(child: subprocess.Popen[str], rows: np.ndarray[Any, Any] = ROWS, seed: int = 1, times: int = 1) -> None:
    """All that the process gathered was right."""
    out, told = child.communicate(timeout=120)
    assert child.returncode == 0, told
    sums = []
    for k in range(times):
        starts = np.random.default_rng(seed + k).integers(0, len(rows) - 8, 300)
        sums.append(int(expected(rows, starts, 8).view(np.uint64).sum(dtype=np.uint64)))
    assert list(map(int, out.split())) == sums


# What is asked for


@codecs
def test_what_was_read_is_not_asked_for_again(behind: Server, proxy: Proxy, codec: str, cache: Path) -> None:
    a = _open(behind, codec, cache)
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
    assert _data_requests(proxy) == a.plan(STARTS).requests
    proxy.clear()
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
    assert_same(a.gather(STARTS[:9], verify="never"), expected(ROWS, STARTS[:9], 8))
    assert _data_requests(proxy) == 0
    # Nor by another process, not even which version it is.
    _end(_start(behind, codec, cache))
    proxy.clear()
    _end(_start(behind, codec, cache))
    assert _data_requests(proxy) == 0
    assert sum(proxy.counts().requests.values()) == 3  # two to open it, and a look at the metadata


def test_what_is_missing_is_asked_for_by_itself(behind: Server, proxy: Proxy, cache: Path) -> None:
    a = _open(behind, "raw", cache)
    a.gather([100, 300])
    proxy.clear()
    assert_same(a.gather(np.arange(100, 301)), expected(ROWS, np.arange(100, 301), 8))
    (request,) = [each for each in proxy.requests() if "/c." in each.target]
    begin, end = map(int, request.range.removeprefix("bytes=").split("-"))
    # 192 rows of 800 bytes lie between, in whole pages.
    assert begin % PAGE == 0 == (end + 1) % PAGE
    assert 180 * 800 < end + 1 - begin < 192 * 800


def test_a_group_is_cached(behind: Server, proxy: Proxy, cache: Path) -> None:
    url, options = _url(behind, "group"), behind.storage_options
    swath.ingest_group({"X": ROWS, "y": np.arange(6000)}, url, window=8, storage_options=options)
    for wanted in (2, 0):
        g = swath.open_group(url, storage_options=options, cache=cache)
        proxy.clear()
        batch = g.gather([3])
        assert_same(batch["y"], np.arange(3, 11)[None])
        assert_same(batch["X"], ROWS[None, 3:11])
        assert bool(_data_requests(proxy)) == bool(wanted)


def test_it_travels(behind: Server, proxy: Proxy, cache: Path) -> None:
    a = _open(behind, "raw", cache)
    a.gather(STARTS)
    proxy.clear()
    for name in ("access_key_id", "secret_access_key"):
        os.environ[f"AWS_{name.upper()}"] = str(behind.storage_options[name])
    try:
        b = pickle.loads(pickle.dumps(a))
        assert_same(b.gather(STARTS), expected(ROWS, STARTS, 8))
        assert _data_requests(proxy) == 0
        shutil.rmtree(cache)  # as on a machine that has none yet
        for _ in range(2):
            assert_same(b.gather(STARTS), expected(ROWS, STARTS, 8))
    finally:
        for name in ("access_key_id", "secret_access_key"):
            del os.environ[f"AWS_{name.upper()}"]
    assert _data_requests(proxy) < 2 * a.plan(STARTS).requests


def test_verify_reads_the_store(moto: Server, cache: Path) -> None:
    url, options = _url(moto, "verified"), moto.storage_options
    swath.ingest(ROWS, url, codec="raw", storage_options=options, **LAYOUT)
    a = _open(moto, "verified", cache)
    a.gather(np.arange(0, 6000 - 8, 8))
    store = moto.store("cached/verified.zarr")
    shard = bytearray(obstore.get(store, "c.3.0").bytes())
    shard[-7] ^= 1
    obstore.put(store, "c.3.0", bytes(shard))
    assert {damage.shard for damage in a.verify().damages} == {3}
    a.repair(ROWS)
    assert a.verify(ROWS)


# What changes


@codecs
def test_what_is_appended_is_seen(moto: Server, codec: Any, cache: Path) -> None:
    name, options = f"appended-{codec}", moto.storage_options
    rows = ROWS[:130]
    other = swath.ingest(rows, _url(moto, name), codec=codec, storage_options=options, **LAYOUT)
    a = _open(moto, name, cache)
    for k in range(4):
        starts = np.arange(len(rows) - 8)
        for each in (a.refresh(), _open(moto, name, cache)):
            assert_same(each.gather(starts), expected(rows, starts, 8))
        old = _open(moto, name, cache)
        other.append(ROWS[: 50 + k])
        assert_same(old.gather(starts), expected(rows, starts, 8))
        rows = np.concatenate([rows, ROWS[: 50 + k]])


@codecs
def test_another_store_in_its_place_is_seen(moto: Server, codec: Any, cache: Path) -> None:
    name, options = f"replaced-{codec}", moto.storage_options
    for k in range(3):
        swath.ingest(ROWS[:900] + k, _url(moto, name), codec=codec, overwrite=True, storage_options=options, **LAYOUT)
        starts = np.arange(0, 892, 5)
        for _ in range(2):
            assert_same(_open(moto, name, cache).gather(starts), expected(ROWS[:900] + k, starts, 8))


@pytest.mark.parametrize("given", [{"chunks": (64, 100)}, {"chunks": (8, 100), "shards": (320, 100)}])
def test_an_array_of_another_program(behind: Server, proxy: Proxy, given: Any, cache: Path) -> None:
    name = f"zarr-{len(given)}"
    array: Any = zarr.create_array(
        ObjectStore(behind.store(f"cached/{name}.zarr")), shape=(1000, 100), dtype="f8", compressors=None, **given
    )
    starts = np.array([0, 500, 984, 20])
    array[:] = ROWS[:1000]
    a = _open(behind, name, cache)
    for k in range(3):
        array[:] = ROWS[:1000] + k
        # A new handle, and one that is moved on, ask which version it is.
        a = _open(behind, name, cache) if k == 2 else a.refresh()
        assert_same(a.gather(starts), expected(ROWS[:1000] + k, starts, 16))
        proxy.clear()
        assert_same(a.gather(starts), expected(ROWS[:1000] + k, starts, 16))
        assert _data_requests(proxy) == 0


class _Timed(http.server.BaseHTTPRequestHandler):
    """Objects that have a time, and no ETag."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        begin, end = 0, len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            begin, end = int(asked[1]), min(end, int(asked[2]) + 1)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Last-Modified", formatdate(1e9, usegmt=True))
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[begin:end])

    def log_message(self, *arguments: Any) -> None:
        pass


def test_what_has_no_version_is_not_kept(tmp_path: Path, cache: Path) -> None:
    swath.ingest(ROWS[:500], tmp_path / "a.zarr", codec="raw", **LAYOUT)
    files = {f"/a.zarr/{path.name}": path.read_bytes() for path in (tmp_path / "a.zarr").iterdir()}
    handler = type("Handler", (_Timed,), {"files": files})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        a = swath.open(f"http://127.0.0.1:{server.server_port}/a.zarr", cache=cache)
        for _ in range(2):
            assert_same(a.gather([0, 480]), expected(ROWS[:500], np.array([0, 480]), 8))
        assert _kept(cache) == []
        server.shutdown()


# What it takes


def test_it_keeps_to_its_limit(moto: Server, cache: Path) -> None:
    rows = np.random.default_rng(5).integers(0, 256, (40_000, 1000), np.uint8)
    swath.ingest(
        rows,
        _url(moto, "large"),
        codec="raw",
        window=8,
        chunk_rows=4,
        shard_rows=2000,
        storage_options=moto.storage_options,
    )
    cache.mkdir()
    (cache / "of-somebody-else").write_bytes(bytes(2**20))
    link = cache / f"{'0' * 64}.swath-pages"
    link.symlink_to(cache / "of-somebody-else")
    children = [_start(moto, "large", cache, limit=LEAST_BYTES, seed=seed, times=15) for seed in (1, 100)]
    most = 0
    while any(child.poll() is None for child in children):
        most = max(most, _bytes_on_disk(cache))
        time.sleep(0.005)
    for child, seed in zip(children, (1, 100)):
        _end(child, rows, seed, 15)
    # What others have in the folder is not counted, and left as it is.
    assert LEAST_BYTES / 2 < most - 2**20 <= LEAST_BYTES
    assert (cache / "of-somebody-else").stat().st_size == 2**20


def test_what_was_used_longest_ago_goes(cache: Path) -> None:
    keeping = Cache.at(cache, LEAST_BYTES)
    size = LEAST_BYTES // 16 - 4 * PAGE
    asked: list[str] = []

    def read(name: str) -> None:
        def fetch(begin: int, end: int) -> memoryview:
            asked.append(name)
            return memoryview(bytes(end - begin))

        keeping.read(name, Seen(name, size), 0, size, fetch)
        for path in _kept(cache):
            facts = path.stat()
            os.utime(path, (facts.st_atime - 100, facts.st_mtime - 100))  # time goes by

    for k in range(40):
        read(str(k))
        read("0")  # is used all the time
    assert asked == [str(k) for k in range(40)]
    read("1")
    assert asked[-1] == "1"
    assert LEAST_BYTES / 2 < _bytes_on_disk(cache) <= LEAST_BYTES


def test_what_would_drive_out_the_rest_is_not_kept(cache: Path) -> None:
    keeping = Cache.at(cache, LEAST_BYTES)
    content = np.random.default_rng(0).bytes(LEAST_BYTES // 8)
    for size in (len(content), LEAST_BYTES // 32):
        seen = Seen(str(size), size)
        assert bytes(keeping.read("url", seen, 0, size, lambda a, b: memoryview(content)[a:b])) == content[:size]
        assert len(_kept(cache)) == (size < LEAST_BYTES // 16)


def test_files_are_private(moto: Server, cache: Path) -> None:
    _open(moto, "raw", cache).gather(STARTS)
    assert cache.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in cache.iterdir()}
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    assert not any("raw" in name or "cached" in name for name in names)
    assert str(moto.storage_options["secret_access_key"]).encode() not in b"".join(
        path.read_bytes() for path in cache.iterdir()
    )


# What goes wrong


@codecs
def test_kills_leave_nothing_wrong(
    moto: Server, proxy: Proxy, behind: Server, codec: str, cache: Path, full: bool
) -> None:
    proxy.set(latency_s=0.01)
    for delay in np.linspace(0.01, 0.5, 30 if full else 3):
        child = _start(behind, codec, cache, times=20)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        _end(_start(moto, codec, cache))
        shutil.rmtree(cache)
    for _ in range(2):
        child = _start(behind, codec, cache, times=20)
        time.sleep(0.2)
        child.kill()
        child.communicate()
    _end(_start(moto, codec, cache, times=5), times=5)


@codecs
def test_processes_fill_it_at_once(moto: Server, behind: Server, proxy: Proxy, codec: str, cache: Path) -> None:
    children = [_start(moto, codec, cache, times=5) for _ in range(2)]
    for child in children:
        _end(child, times=5)
    _end(_start(behind, codec, cache, times=5), times=5)
    assert _data_requests(proxy) == 0


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for k in range(0, len(content), 3000):
        content[k] ^= 4
    path.write_bytes(content)


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def _swap(path: Path) -> None:
    a, b = [*sorted(path.parent.glob(f"*{path.suffix}")), path][:2]
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 10_000),
    "garbage": _garbage,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "zeros of pages": lambda path: path.write_bytes(bytes(path.stat().st_size - 400) + path.read_bytes()[-400:]),
    "swapped": _swap,
    "a folder": lambda path: _replace(path, Path.mkdir),
    "a pipe": lambda path: _replace(path, os.mkfifo),
    "a link": lambda path: _replace(path, lambda path: path.symlink_to("/dev/zero")),
    "gone": Path.unlink,
}


@codecs
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_gives_right_rows(moto: Server, codec: str, damage: str, cache: Path) -> None:
    a = _open(moto, codec, cache)
    a.gather(STARTS)
    for path in list(cache.iterdir()):
        if path.exists():
            DAMAGES[damage](path)
    for each in (a, _open(moto, codec, cache) if damage not in ("a folder", "a pipe", "a link") else a):
        for verify in ("never", "always"):
            # What is not checked otherwise is checked here.
            assert_same(each.gather(STARTS, verify=verify), expected(ROWS, STARTS, 8))


@codecs
def test_what_is_damaged_on_the_way_does_not_stay(behind: Server, proxy: Proxy, codec: str, cache: Path) -> None:
    flips = 0
    for seed in range(4):
        a = _open(behind, codec, cache)
        proxy.set(faults=["flip"], share=0.2, seed=seed, once=True)
        starts = np.random.default_rng(seed).integers(0, 6000 - 8, 100)
        assert_same(a.gather(starts), expected(ROWS, starts, 8))
        flips += proxy.counts().faults.get("flip", 0)
        proxy.set()
        proxy.clear()
        assert_same(a.gather(starts), expected(ROWS, starts, 8))
    assert flips > 4


def test_no_file_may_become_long(moto: Server, cache: Path) -> None:
    _end(_start(moto, "raw", cache, file_bytes=100_000, times=2), times=2)
    assert _kept(cache)


@pytest.mark.parametrize("n_bytes", [4096, 2**20])
def test_the_disk_is_full(moto: Server, tmp_path: Path, n_bytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "swath-tests", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        why = f"NOT TESTED HERE: a full disk needs a tmpfs, and root to mount it ({done and done.stderr})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    try:
        a = _open(moto, "raw", disk)
        for _ in range(2):
            assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
        assert (sum(path.stat().st_blocks for path in _kept(disk)) > 0) == (n_bytes > 4096)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("url", ["a.npy", "a.zarr", "memory://", "none"])
def test_a_cache_is_for_urls(tmp_path: Path, url: str) -> None:
    swath.ingest(ROWS[:100], tmp_path / "a.zarr")
    np.save(tmp_path / "a.npy", ROWS[:100])
    place: Any = zarr.storage.MemoryStore() if url == "memory://" else tmp_path / url
    for opens in (swath.open, swath.open_group):
        with pytest.raises(OptionError, match="which is for URLs"):
            opens(place, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("cache", "limit", "what"),
    [
        (None, "1GiB", "there is no cache"),
        ("s3://bucket/cache", None, "is no local path"),
        ("", None, "is no local path"),
        ("a\0b", None, "is no local path"),
        (7, None, "is no local path"),
        ("file", None, "nothing can be kept"),
        ("file/cache", None, "nothing can be kept"),
        ("/proc/cache", None, "nothing can be kept"),
        ("linked", None, "nothing can be kept"),
        ("piped", None, "nothing can be kept"),
        ("cache", "1 parsec", "is no size"),
        ("cache", 0, "at least 1 byte"),
        ("cache", -1, "at least 1 byte"),
        ("cache", "15MiB", "nothing would stay"),
        ("cache", None, None),
        ("Кэш 蔵/deep", "1e3", "no size"),
        ("Кэш 蔵/deep", "1GB", None),
    ],
)
def test_options_are_refused_at_the_door(
    moto: Server, tmp_path: Path, cache: Any, limit: Any, what: str | None
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "written.swath-cache").symlink_to(tmp_path / "file")
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / "written.swath-cache")
    if isinstance(cache, str) and cache and ":" not in cache and cache[0] != "/":
        cache = f"{tmp_path}/{cache}"
    options: dict[str, Any] = {"storage_options": moto.storage_options, "cache": cache, "cache_limit": limit}
    if what is None:
        assert_same(swath.open(_url(moto, "raw"), **options).gather([7]), expected(ROWS, np.array([7]), 8))
        return
    with pytest.raises(OptionError, match=what):
        swath.open(_url(moto, "raw"), **options)
    assert not (tmp_path / "cache").exists()


# By itself


@given(st.data())
def test_any_ranges_in_any_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40 * PAGE))
    content = np.random.default_rng(size).bytes(size)
    seen = Seen('"x"', size)
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.at(folder, LEAST_BYTES)
        there = np.zeros(-(-size // PAGE), np.uint8)
        for _ in range(data.draw(st.integers(1, 8))):
            begin = data.draw(st.integers(0, size))
            end = data.draw(st.integers(begin, min(size, begin + 15 * PAGE)))
            asked: list[tuple[int, int]] = []

            def fetch(a: int, b: int, asked: list[tuple[int, int]] = asked) -> memoryview:
                asked.append((a, b))
                return memoryview(content)[a:b]

            assert bytes(cache.read("url", seen, begin, end, fetch)) == content[begin:end]
            first, stop = begin // PAGE, -(-end // PAGE)
            missing = np.flatnonzero(there[first:stop] == 0) + first
            wanted = [(int(missing[0]) * PAGE, min(size, int(missing[-1] + 1) * PAGE))] if missing.size else []
            assert asked == wanted
            there[first:stop] = 1
            if there.any() and data.draw(st.sampled_from([0, 1])):
                pages: list[int] = np.flatnonzero(there).tolist()
                page = data.draw(st.sampled_from(pages))
                at = data.draw(st.integers(page * PAGE, min(size, page * PAGE + PAGE) - 1))
                (path,) = Path(folder).glob("*.swath-pages")
                with path.open("r+b") as file:
                    file.seek(at)
                    byte = file.read(1)[0]
                    file.seek(at)
                    file.write(bytes([byte ^ 1 << data.draw(st.integers(0, 7))]))
                again = cache.read("url", seen, page * PAGE, min(size, page * PAGE + PAGE), fetch)
                assert bytes(again) == content[page * PAGE : page * PAGE + PAGE]


def test_a_version_is_told_to_others(cache: Path) -> None:
    a, b = Cache.at(cache, LEAST_BYTES), Cache.at(cache, LEAST_BYTES)
    assert a.seen("url") is None
    for seen in (Seen('"x"', 7), Seen('"a longer one"', 2**50, True, "12"), Seen('"y"', 8)):
        a.note("url", seen)
        assert b.seen("url") == seen
    assert b.seen("other") is None
    a.note("long", Seen("x" * 5000, 7))
    assert a.seen("long") is None
    (path,) = cache.glob("*.swath-seen")
    for damaged in (
        b"",
        b"\0" * 4096,
        b"x",
        b"7 []",
        b"1 \xff",
        b"12345 [1]",
        b'7 ["x", 7, true, null]',
        path.read_bytes()[:20],
    ):
        path.write_bytes(damaged)
        assert b.seen("url") is None
