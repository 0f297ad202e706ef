"""A disk that is too small by much or by little: an error that says so, the old data whole, and the next run carries on."""

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swath
from swath.errors import DiskFullError

# Random bytes, which no codec makes smaller: how much they need is known only when they are written.
ROWS = np.random.default_rng(0).integers(0, 256, (3000, 512), np.uint8)
MORE = ROWS[::-1][:1700]
_OPTIONS: dict[str, Any] = {"chunk_rows": 8, "shard_rows": 160}
_AMPLE = 64 * 2**20


@dataclass(frozen=True)
class Disk:
    """A tmpfs."""

    path: Path

    def resize(self, n_bytes: int) -> None:
        pages = max(1, -(-n_bytes // 4096))  # 0 would be no limit
        subprocess.run(["mount", "-o", f"remount,size={4 * pages}k", str(self.path)], check=True)

    def used(self) -> int:
        stat = os.statvfs(self.path)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_AMPLE}", "swath-tests", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        why = f"NOT TESTED HERE: a full disk needs a tmpfs, and root to mount it ({done and done.stderr})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


def _nothing(url: Path) -> None:
    pass


def _store(url: Path) -> None:
    swath.ingest(ROWS, url, codec="zstd", **_OPTIONS)


def _group(url: Path) -> None:
    swath.ingest_group({"X": ROWS, "y": ROWS[:, 0]}, url, **_OPTIONS)


def _damaged(url: Path) -> None:
    _store(url)
    for k in range(0, 19, 2):
        (url / f"c.{k}.0").unlink()


def _ingest_raw(url: Path) -> None:
    swath.ingest(ROWS, url, codec="raw", **_OPTIONS)


def _overwrite(url: Path) -> None:
    swath.ingest(-ROWS, url, codec="lz4", overwrite=True, **_OPTIONS)


def _append(url: Path) -> None:
    swath.open(url).append(MORE)


def _append_blocks(url: Path) -> None:
    swath.open(url).append(iter([MORE[:1000], MORE[1000:]]))


def _append_group(url: Path) -> None:
    swath.open_group(url).append({"X": MORE, "y": MORE[:, 0]})


def _repair(url: Path) -> None:
    swath.open(url).repair(ROWS)


CASES = {
    "ingest-raw": (_nothing, _ingest_raw),
    "ingest-zstd": (_nothing, _store),
    "ingest-group": (_nothing, _group),
    "overwrite": (_store, _overwrite),
    "append": (_store, _append),
    "append-blocks": (_store, _append_blocks),
    "append-group": (_group, _append_group),
    "repair": (_damaged, _repair),
}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _check_left(folder: Path, before: dict[str, bytes], wanted: dict[str, bytes], *, in_place: bool) -> None:
    """The old store is whole; what else is there is for the next run: finished shards, and what they are shards of."""
    left = _files(folder)
    assert before.items() <= left.items()
    for name in left.keys() - before.keys():
        top, _, within = name.partition("/")
        own = name if in_place else f"a/{within}"
        assert in_place or top in (".a.swath-part", ".a.swath-append"), name
        assert within in (".pending.json", ".base.json") or left[name] == wanted[own], name


@pytest.mark.parametrize("case", CASES)
def test_a_disk_of_any_size(tmp_path: Path, disk: Disk, case: str, full: bool) -> None:
    prepare, act = CASES[case]
    prepare(tmp_path / "wanted" / "a")
    before = _files(tmp_path / "wanted")
    act(tmp_path / "wanted" / "a")
    wanted = _files(tmp_path / "wanted")
    written = {name: content for name, content in wanted.items() if before.get(name) != content}
    need = sum(-(-len(content) // 4096) * 4096 for content in written.values())
    refused = 0
    for share in np.linspace(0.01, 1.1, 50 if full else 6):
        for path in disk.path.iterdir():
            shutil.rmtree(path)
        disk.resize(_AMPLE)
        url = disk.path / "a"
        prepare(url)
        disk.resize(disk.used() + int(share * need))
        try:
            act(url)
        except DiskFullError as error:
            refused += 1
            assert share < 1.1
            assert re.search(r"needs .* \(\d+ bytes\)", str(error)), error  # noqa: PT017
            assert str(disk.path) in str(error)  # noqa: PT017
            _check_left(disk.path, before, wanted, in_place=case == "repair")
            disk.resize(_AMPLE)
            act(url)
        assert _files(disk.path) == wanted, share
    assert refused >= (40 if full else 4)


@pytest.mark.parametrize("case", CASES)
def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path, case: str) -> None:
    prepare, act = CASES[case]
    prepare(tmp_path / "wanted" / "a")
    before = _files(tmp_path / "wanted")
    act(tmp_path / "wanted" / "a")
    wanted = _files(tmp_path / "wanted")
    refused = 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for n_bytes in (1, 500, 10_000, 60_000):
        url = tmp_path / str(n_bytes) / "a"
        prepare(url)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            act(url)
        except DiskFullError:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if url.parent.exists():
            _check_left(url.parent, before, wanted, in_place=case == "repair")
        act(url)
        assert _files(url.parent) == wanted
    assert refused == 4


def test_nothing_is_written_where_it_is_known_that_it_cannot_fit(disk: Disk) -> None:
    disk.resize(2**20)
    with pytest.raises(DiskFullError, match=r"needs 1\.\d+ MiB \(\d{7} bytes\) more"):
        _ingest_raw(disk.path / "a")
    assert not list(disk.path.rglob("c.*"))
    act: Callable[[Path], None] = _ingest_raw
    disk.resize(_AMPLE)
    act(disk.path / "a")
    assert swath.open(disk.path / "a").verify(ROWS)


def test_a_batch_that_the_command_has_no_room_for_is_refused(disk: Disk, tmp_path: Path) -> None:
    """A page of a mapping for which the disk has no room would end the process by a signal."""
    swath.ingest(ROWS, tmp_path / "a", window=16, **_OPTIONS)
    disk.resize(2**22)
    words = ["gather", str(tmp_path / "a"), str(disk.path / "batch.npy"), "--random"]
    command = [sys.executable, "-m", "swath.cli", *words]
    done = subprocess.run([*command, "1000"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:37]) == (2, "swath: There is no room for the 81921"), done.stderr
    assert list(disk.path.iterdir()) == []
    subprocess.run([*command, "100"], check=True)
    assert np.load(disk.path / "batch.npy").shape == (100, 16, 512)
