"""What is damaged is written again as it was, from its source alone, and nothing else is touched."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged import FIRST, LABELS, N_ROWS, ROWS, Target, damage_shard, make_target
from places import LocalPlace, Place, contents, flip, open_group, open_store

import swath
from swath.committing import locked
from swath.errors import FormatError, MemoryLimitError, OptionError, SourceError, StoreBusyError
from swath.layout import STAMP_BYTES
from swath.storage import place_of

HEAD_BYTES = 10 * 16 + 4 + STAMP_BYTES


def _state(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, inode and time of each file: one that is written again has another inode."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_damaged_is_as_it_was_and_the_rest_is_not_touched(target: Target, what: str) -> None:
    names = damage_shard(target, what, np.random.default_rng(5))
    with target.root.written() as written:
        mended = target.open().repair([ROWS[:FIRST], ROWS[FIRST:]])
    assert {damage.path for damage in mended} == {target.path_of(name) for name in names}
    assert written == names
    assert contents(target.root) == target.sound
    with target.root.written() as written:
        assert target.open().repair(ROWS) == ()
    assert written == set()


def test_many_damages_at_once_are_mended(target: Target) -> None:
    root, first = target.root, target.shard(0)
    flip(root, first, 8 * HEAD_BYTES + 3)
    flip(root, first, 8 * len(target.sound[first]) - 3)
    root.remove(target.shard(1))
    root.write(target.shard(2), target.sound[target.shard(2)] + b"x")
    if target.is_local:
        root.write(target.inside(".c.1.0.0123.tmp"), b"of a repair that was killed")
    mended = target.open().repair(ROWS)
    assert [damage.rows for damage in mended] == [(0, 4), (36, 40), (40, 80), (N_ROWS, N_ROWS)]
    assert contents(root) == target.sound


def _off_by_one(row: int) -> np.ndarray[Any, Any]:
    rows = ROWS.copy()
    rows[row] += 1
    return rows


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(_off_by_one(94), r"Row 94 of the source is not that of", id="sound-row-of-the-last-damaged"),
        pytest.param(_off_by_one(8), r"Row 8 of the source is not that of", id="sound-row-of-the-first-damaged"),
        pytest.param(_off_by_one(40), r"Row 40 of the source is not that of", id="row-of-a-sound-shard"),
        pytest.param(ROWS[:-1], r"The source has shape \(94, 6\)", id="length"),
        pytest.param(ROWS.astype("S5"), "has dtype .S5, of which no value", id="dtype"),
        pytest.param(-ROWS, "of the source is not that of", id="another"),
    ],
)
def test_a_wrong_source_changes_nothing(target: Target, source: Any, message: str) -> None:
    flip(target.root, target.shard(0), 8 * HEAD_BYTES)
    flip(target.root, target.shard(2), 8 * HEAD_BYTES)
    with target.root.written() as written, pytest.raises(SourceError, match=message):
        target.open().repair(source)
    assert written == set()


def test_a_repair_without_memory_is_refused_before_it_writes(tmp_path: Path) -> None:
    rows = np.arange(4_000_000.0).reshape(4000, 1000)
    a = swath.ingest(rows, tmp_path / "a", shard_rows=2000)
    (tmp_path / "a" / "c.0.0").unlink()
    flip(LocalPlace(tmp_path / "a"), "c.1.0", 8 * 40_000)
    damaged = _state(tmp_path)
    with pytest.raises(MemoryLimitError, match=r"needs 6\d.* limit is 32.00 MiB"):
        a.repair(rows, memory_limit="32MiB")
    assert _state(tmp_path) == damaged
    a.repair(rows, memory_limit="80MiB")
    assert a.verify(rows)


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_memory_stays_below_the_limit(tmp_path: Path, codec: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(16_000, 1000))
    np.save(tmp_path / "rows.npy", rows)
    swath.ingest(rows, tmp_path / "a", shard_rows=4000, codec=codec)  # 32 MB
    for k in range(4):
        flip(LocalPlace(tmp_path / "a"), f"c.{k}.0", 8 * 70_000)
    program = """
import sys, swath
from collections.abc import Callable
from pathlib import Path
import swath.ingestion, swath.repair, zarr
a = swath.open(sys.argv[1] + "/a")
a.gather([1000])
status = lambda name: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
a.repair(sys.argv[1] + "/rows.npy", memory_limit="104MiB", progress=True)
assert a.verify(sys.argv[1] + "/rows.npy", memory_limit="104MiB", progress=True)
print((status("VmHWM") - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 104 + 16
    assert "verify" in done.stderr
    assert "repair" in done.stderr


def test_a_group_and_its_arrays_are_mended_alike(place: Place) -> None:
    target = make_target(place, "group")
    place.remove(target.shard(1))
    place.remove("y/c.2")
    place.write("X/zarr.json", b"{}")
    g = open_group(place)
    assert len(g.repair({"X": ROWS})["X"]) == 2
    assert [bool(found) for found in g.verify({"X": ROWS}).values()] == [True, False]
    labels = np.concatenate([LABELS[:FIRST], LABELS[: N_ROWS - FIRST]])
    open_store(place, "y").repair(labels)
    assert contents(place) == target.sound


@pytest.mark.parametrize("member", [False, True])
def test_a_repair_waits_for_whoever_writes_the_group(
    place: Place, member: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swath.commit_objects._RENEW_SECONDS", 0.2)
    target = make_target(place, "group")
    place.remove(target.shard(0))
    array = target.open() if member else open_group(place)["X"]
    with (
        locked(place_of(place.url, place.options), timeout=0),
        pytest.raises(StoreBusyError, match=f"is writing {place.url}"),
    ):
        array.repair(ROWS, timeout=0.1)
    assert len(array.repair(ROWS)) == 1
    with pytest.raises(OptionError, match="is an array of a group"):
        array.append(ROWS)


def test_an_array_of_a_group_whose_metadata_are_damaged_is_not_guessed_at(place: Place) -> None:
    make_target(place, "group")
    encoded = place.read("zarr.json")
    place.write("zarr.json", encoded.replace(b'"crc32c": ', b'"crc32c": 1', 1))
    calls: list[Callable[[], object]] = [
        lambda: open_group(place),
        lambda: open_store(place),
        lambda: open_store(place, "X"),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=f"{place.url}/zarr.json"):
            call()


def test_the_other_half_of_an_append_that_was_killed_is_mended_too(tmp_path: Path) -> None:
    """Nobody sees the appended rows before the commit, and a repair completes an append whose rows are all there."""
    a = swath.ingest(ROWS, tmp_path / "a", chunk_rows=4, shard_rows=40)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    swath.open(tmp_path / "b").append(ROWS)
    stage = tmp_path / ".a.swath-append"
    stage.mkdir()
    shutil.copy(tmp_path / "a" / "zarr.json", stage / ".base.json")
    for name in ("zarr.json", "c.2.0", "c.3.0", "c.4.0"):
        shutil.copy(tmp_path / "b" / name, stage / name)
    (tmp_path / "a" / "c.0.0").unlink()
    with pytest.raises(SourceError, match=r"shape \(95, 6\) .* has \(190, 6\)"):
        a.repair(ROWS)
    assert len(a.repair([ROWS, ROWS])) == 1
    assert a.refresh().verify(np.concatenate([ROWS, ROWS]))


def test_a_repair_that_is_killed_is_repaired_again(tmp_path: Path, full: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 100))
    np.save(tmp_path / "rows.npy", rows)
    swath.ingest(tmp_path / "rows.npy", tmp_path / "a", chunk_rows=4, shard_rows=100)
    sound = {name: state[0] for name, state in _state(tmp_path / "a").items()}
    program = "import sys, swath; print('ready', flush=True); swath.open(sys.argv[1]).repair(sys.argv[2])"
    rng = np.random.default_rng(6)
    kills = 0
    for _ in range(40 if full else 4):
        for k in range(0, 200, 2):
            (tmp_path / "a" / f"c.{k}.0").unlink(missing_ok=True)
        command = [sys.executable, "-c", program, str(tmp_path / "a"), str(tmp_path / "rows.npy")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
        kills += child.returncode != 0
        now = {name: state[0] for name, state in _state(tmp_path / "a").items()}
        assert {name: content for name, content in now.items() if not name.endswith(".tmp")}.items() <= sound.items()
        a = swath.open(tmp_path / "a")
        written = {name: state for name, state in _state(tmp_path / "a").items() if name in sound}
        a.repair(tmp_path / "rows.npy")
        after = _state(tmp_path / "a")
        assert written.items() <= after.items(), "what was mended before is written again"
        assert {name: state[0] for name, state in after.items()} == sound
    assert kills
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "rows.npy"]
