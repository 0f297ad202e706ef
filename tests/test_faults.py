"""Each system call that a writer makes fails once, as SQLite tests it; the power fails after each of them."""

import contextlib
import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from disk import disk_after
from faults import WHATS, Case, Event, Failing, Recording, What, beside, clear, contents, copy, is_done, undisturbed

import swath
from swath.errors import StoreExistsError


def _again(case: Case, url: Path) -> None:
    """The same call again. A first ingest that had been committed says so, and is replaced."""
    try:
        case.run(url)
    except StoreExistsError:
        assert case.what in ("ingest", "ingest-group")
        assert case.state(url) == "new"
        case.run(url, overwrite=True)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("what", WHATS)
def test_whichever_system_call_fails(tmp_path: Path, what: What, error: int, trials: int) -> None:
    case = Case(what, "npy", "lz4" if error == errno.EIO else "raw", tmp_path, n_rows=30)
    failed = 0
    with undisturbed(case, tmp_path / "undisturbed") as (before, after, count):
        wanted = contents(after)
        (tmp_path / "here").mkdir()
        url = tmp_path / "here" / "a"
        # Every call, or every sixth, which are others for the other error.
        for at in range(1, count + 1) if trials > 1 else range(1 + error % 6, count + 1, 6):
            copy(before, url)
            with Failing(url.parent, at, error) as hooks:
                try:
                    case.run(url)
                except OSError:
                    failed += 1
                else:
                    assert hooks.count >= at
                    assert contents(url) == wanted, f"call {at} failed, unseen"
                    clear(url)
                    continue
            assert case.state(url) in ("nothing", "old", "new")
            _again(case, url)
            assert contents(url) == wanted, f"after call {at}"
            assert beside(url) == [], f"after call {at}"
            clear(url)
    assert failed > (20 if trials > 1 else 1)


@pytest.mark.parametrize("is_group", [False, True], ids=["store", "group"])
def test_whichever_system_call_of_a_repair_fails(tmp_path: Path, is_group: bool, trials: int) -> None:
    case = Case("ingest-group" if is_group else "ingest", "npy", "lz4", tmp_path, n_rows=70)
    with undisturbed(case, tmp_path / "undisturbed") as (_, after, _):
        wanted = contents(after)
        (tmp_path / "here").mkdir()
        url = tmp_path / "here" / "a"
        for at in range(1, 100, 1 if trials > 1 else 3):
            copy(after, url)
            place = url / "X" if is_group else url
            (place / "c.1.0").unlink()
            (place / "c.3.0").write_bytes(b"damaged")
            array = swath.open_group(url)["X"] if is_group else swath.open(url)
            with Failing(url.parent, at, errno.EIO) as hooks, contextlib.suppress(OSError):
                array.repair(case.folder / "rows.npy")
            array.repair(case.folder / "rows.npy")
            assert contents(url) == wanted, f"after call {at}"
            assert beside(url) == []
            clear(url)
            if hooks.count < at:
                break
        else:
            pytest.fail("the repair never passed")
        assert at > 10


@pytest.mark.parametrize("what", WHATS)
def test_whenever_the_power_fails(tmp_path: Path, what: What, trials: int) -> None:
    case = Case(what, "npy", "raw", tmp_path, n_rows=30, n_old=30)
    rng = np.random.default_rng(trials)
    hows = ["none", "all", "names", *["some"] * (1 if trials == 1 else 8)]
    with undisturbed(case, tmp_path / "undisturbed") as (before, after, _):
        wanted = contents(after)
        root, start = tmp_path / "here", tmp_path / "start"
        for folder in (root, start):
            folder.mkdir()
            copy(before, folder / "a")
        with Recording(root) as record:
            case.run(root / "a")
        assert contents(root / "a") == wanted
        events = record.events
        for cut in range(1 + len(events) % 3, len(events), 1 if trials > 1 else 12):
            for how in hows:
                _check_power(case, start, root, events[:cut], how, rng, wanted)
        for how in hows:  # what was answered stays
            assert _check_power(case, start, root, events, how, rng, wanted) == "new"


def _check_power(
    case: Case,
    start: Path,
    root: Path,
    events: list[Event],
    how: str,
    rng: np.random.Generator,
    wanted: dict[str, bytes],
) -> str:
    shutil.rmtree(root)
    disk = disk_after(start, root, events)
    disk.lose_power(how, rng)
    disk.write_to(root)
    state = case.state(root / "a")
    if not is_done(case, root / "a", state):
        case.run(root / "a")
        assert beside(root / "a") == []
    assert contents(root / "a") == wanted, (how, events[-1])
    return state


def test_the_model_of_a_disk_sees_what_is_not_synced(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    root, rng = tmp_path / "root", np.random.default_rng(0)
    events = [
        Event("open", f"{root}/tmp"),
        Event("writev", f"{root}/tmp", content=b"rows"),
        Event("fsync", f"{root}/tmp"),
        Event("rename", f"{root}/tmp", f"{root}/c.0"),
    ]
    for how, synced, found in [
        ("none", False, {}),
        ("all", False, {"c.0": b"rows"}),
        ("none", True, {"c.0": b"rows"}),
    ]:
        disk = disk_after(tmp_path / "before", root, events + [Event("fsync", str(root))] * synced)
        disk.lose_power(how, rng)
        disk.write_to(root)
        assert contents(root) == found
        shutil.rmtree(root)
    with pytest.raises(AssertionError, match="gets its name before its bytes"):
        disk_after(tmp_path / "before", root, events[:2] + events[3:])
    commit = [
        Event("open", f"{root}/m"),
        Event("fsync", f"{root}/m"),
        Event("rename", f"{root}/m", f"{root}/zarr.json"),
    ]
    with pytest.raises(AssertionError, match="commits before the names below it"):
        disk_after(tmp_path / "before", root, events + commit)
    disk_after(tmp_path / "before", root, [*events, Event("fsync", str(root)), *commit])
