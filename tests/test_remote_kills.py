"""Writers of object stores that are killed at any moment, and run again, as those of local stores are in test_kills.py.

Objects appear whole, so that what a local writer is killed at, a call of the system, is here a request that writes: it was never
sent, or was carried out and its answer never came.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import KINDS, WHATS, Case, What, rows_of, start
from places import Killing, Place, Writes, contents, open_group, open_store, put
from servers import CONDITIONAL

PENDING = ".swath-pending.json"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each call from each source on each server; without --full each call once on each, and each source twice or more."""
    if "what" not in metafunc.fixturenames:
        return
    full = metafunc.config.getoption("--full")
    cases = [
        (name, what, kind)
        for i, name in enumerate(CONDITIONAL)
        for j, what in enumerate(WHATS)
        for k, kind in enumerate(KINDS)
        if (full or (i + 3 * j) % 7 == k) and not (what.endswith("group") and kind == "iterator")
    ]
    metafunc.parametrize(("name", "what", "kind"), cases, ids=map("-".join, cases))


def _run(case: Case, url: str, begun: Path, at: int | None, carried_out: bool) -> None:
    """What a child does; it says that it has begun, and that the call has returned."""
    begun.touch()
    with Writes() if at is None else Killing(at, carried_out=carried_out):
        case.run(url)
    begun.with_suffix(".ended").touch()


def _run_killed(
    case: Case, place: Place, begun: Path, *, at: int | None = None, carried_out: bool = False, after: float = 0.0
) -> bool:
    """Run the call in a process that is killed at one request that writes, or after some seconds; whether it returned before."""
    ended = begun.with_suffix(".ended")
    begun.unlink(missing_ok=True)
    ended.unlink(missing_ok=True)
    child = start(_run, case, place.url, begun, at, carried_out)
    if at is None:
        while not begun.exists() and child.is_alive():
            time.sleep(0.0005)
        time.sleep(after)
        child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return ended.exists()


def _undisturbed(case: Case, place: Place) -> tuple[dict[str, bytes], list[dict[str, bytes]], int, float]:
    """What is there before the call, what may be there after it, how many requests of it write, and how long it takes."""
    case.write_sources()
    case.prepare(place.url)
    before = contents(place)
    begun = time.monotonic()
    with Writes() as writes:
        case.run(place.url)
    seconds = time.monotonic() - begun
    assert case.state(place.url) == "new"
    after = [contents(place)]
    if case.what.startswith("overwrite"):  # the keys of shards are joined in two ways in turn
        case.run(place.url)
        after.append(contents(place))
    return before, after, len(writes.urls), seconds


def _is_sound(case: Case, place: Place) -> bool:
    """Whether rows that are told of are as they were written, whatever was begun besides."""
    if not case.is_group:
        return bool(open_store(place).verify())
    # Other programs read the metadata of each array, which follow the commit.
    found = open_group(place).verify().values()
    return not [damage for each in found for damage in each.damages if damage.shard is not None]


def _check_same(there: dict[str, bytes], after: dict[str, bytes], kind: str) -> None:
    """Of an iterator it is known at its end that it was given before; by then it has become shards, which nothing refers to."""
    assert there.items() >= after.items()
    more = there.keys() - after.keys()
    assert not more or kind == "iterator"
    assert all(int(name.split(".")[1]) >= len(after) - 1 for name in more), more


def _is_committed(place: Place) -> bool:
    """Whether an append was committed of which nobody was told."""
    return PENDING in place.names() and place.read(PENDING) == place.read("zarr.json")


def test_killed_at_any_moment_and_run_again(
    name: str, what: What, kind: str, place_of_kind: Callable[[str], Place], tmp_path: Path, full: bool
) -> None:
    rng = np.random.default_rng([CONDITIONAL.index(name), WHATS.index(what), KINDS.index(kind)])
    place = place_of_kind(name)
    codec = ["raw", "lz4", "zstd"][int(rng.integers(3))]
    case = Case(what, kind, codec, tmp_path, storage_options=place.options)
    before, after, count, seconds = _undisturbed(case, place)
    for k in range(6 if full else 1):
        put(place, before)
        at = None if (k + len(kind)) % 3 == 0 else int(rng.integers(1, count + 1))
        late = bool(rng.integers(2))
        wait = float(rng.uniform(0, seconds))
        returned = _run_killed(case, place, tmp_path / "begun", at=at, carried_out=late, after=wait)
        how = f"{name}, {what}, {kind}: at {at} of {count}, {late}, after {wait}"

        assert at is None or not returned, how
        state = case.state(place.url)
        assert state == "new" if returned else state in ("nothing", "old", "new"), how
        if state != "nothing":
            assert _is_sound(case, place), how
        there = contents(place)
        finished = {key for key in there if "c" in key.split("/")[-1].split(".") and there[key] == after[0].get(key)}
        is_done = state == "new" and not (case.is_append and _is_committed(place)) and not what.startswith("overwrite")
        if not is_done:
            with place.written() as written:
                case.run(place.url)
            there = contents(place)
            if case.what == "append":
                _check_same(there, after[0], kind)
            else:
                assert there in after, how
            assert place.names() == there.keys(), how
            if kind != "iterator" and state != "new":
                assert not written & finished, f"a shard that was whole was written again: {how}"
        replace(case, what="overwrite-group" if case.is_group else "overwrite").run(place.url)
        assert place.names() == contents(place).keys(), how


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize("kind", ["npy", "iterator"])
@pytest.mark.parametrize("same", [True, False], ids=["the-same-call", "another"])
def test_an_append_that_was_killed_after_all_was_written_is_completed_by_the_next(
    place_of_kind: Callable[[str], Place], tmp_path: Path, name: str, kind: str, same: bool, full: bool
) -> None:
    place = place_of_kind(name)
    case = Case("append", kind, "lz4", tmp_path, storage_options=place.options)
    before, (after,), count, _ = _undisturbed(case, place)
    completed = 0
    # What was begun, the commit, and what is cleared up; without --full the answer to the commit alone.
    moments = (
        [(at, late) for at in range(count - 3, count + 1) for late in (False, True)] if full else [(count - 2, True)]
    )
    for at, late in moments:
        put(place, before)
        _run_killed(case, place, tmp_path / "begun", at=at, carried_out=late)
        committed = _is_committed(place)
        state = case.state(place.url)
        if same:
            if committed or state == "old":
                case.run(place.url)
                _check_same(contents(place), after, kind)
        else:
            more = rows_of(np.arange(5000, 5003))
            open_store(place).append(more)
            rows = case.new if state == "new" else case.old
            assert rows is not None
            wanted = np.concatenate([rows, more])
            np.testing.assert_array_equal(open_store(place).gather([0], window=len(wanted))[0], wanted)
        if committed or not same:
            assert place.names() == contents(place).keys()
        completed += committed
    assert completed == (2 if full else 1)


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize("same", [True, False], ids=["the-same-call", "another"])
def test_the_arrays_of_a_group_are_told_of_an_append_that_was_killed(
    place_of_kind: Callable[[str], Place], tmp_path: Path, name: str, same: bool
) -> None:
    """The metadata of the group are the commit; those of its arrays, which other programs read, follow."""
    place = place_of_kind(name)
    case = Case("append-group", "npy", "lz4", tmp_path, storage_options=place.options)
    before, (after,), count, _ = _undisturbed(case, place)
    for at in (count - 4, count - 3):  # the commit, and the first of two arrays
        put(place, before)
        _run_killed(case, place, tmp_path / "begun", at=at, carried_out=True)
        assert _is_committed(place)
        assert contents(place) != after
        if same:
            case.run(place.url)
        else:  # the next that writes
            open_store(place, "X").repair(case.new)
        assert contents(place) == after
        assert place.names() == after.keys()


@pytest.mark.parametrize("name", CONDITIONAL)
def test_another_iterator_that_begins_alike_is_not_taken_for_the_one_that_was_killed(
    place_of_kind: Callable[[str], Place], tmp_path: Path, name: str
) -> None:
    place = place_of_kind(name)
    case = Case("append", "iterator", "raw", tmp_path, storage_options=place.options)
    before, _, count, _ = _undisturbed(case, place)
    put(place, before)
    _run_killed(case, place, tmp_path / "begun", at=count - 2, carried_out=True)
    assert _is_committed(place)
    first = next(iter(np.array_split(rows_of(np.arange(case.n_rows)), 9)))
    other = -first
    open_store(place).append(iter([first, other]))
    wanted = np.concatenate([case.new, first, other])
    np.testing.assert_array_equal(open_store(place).gather([0], window=len(wanted))[0], wanted)
