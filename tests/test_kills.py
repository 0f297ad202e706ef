"""Writers that are killed at any moment, and run again; readers and writers at once."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from faults import (
    KINDS,
    WHATS,
    Case,
    What,
    beside,
    clear,
    contents,
    copy,
    finished,
    is_done,
    rows_of,
    run_killed,
    shards,
    start,
    undisturbed,
)
from places import LOCAL, PLACES, Place, ingest, left, open_store
from servers import CONDITIONAL

import swath

# A reader that waits longer for appends has lost its writer.
_MOST_SECONDS = 600


def _cases() -> list[object]:
    """Of each call and each source; no iterators in groups."""
    return [
        pytest.param(what, kind, id=f"{what}-{kind}")
        for what in WHATS
        for kind in KINDS
        if not (what.endswith("group") and kind == "iterator")
    ]


@pytest.mark.parametrize(("what", "kind"), _cases())
def test_killed_at_any_moment_and_run_again(tmp_path: Path, what: What, kind: str, trials: int) -> None:
    rng = np.random.default_rng([WHATS.index(what), KINDS.index(kind), trials])
    codec = ["raw", "lz4", "zstd"][int(rng.integers(3))]
    case = Case(what, kind, codec, tmp_path)
    with undisturbed(case, tmp_path / "undisturbed") as (before, after, count):
        wanted = contents(after)
        seconds = _seconds(case, before, tmp_path) if trials > 1 else 0.05
        for k in range(trials):
            here = tmp_path / f"here-{k}"
            here.mkdir()
            url = here / "a"
            copy(before, url)
            at = int(rng.integers(1, count + 1)) if (k + len(kind)) % 2 else None
            returned = run_killed(case, url, tmp_path / "begun", at=at, after=float(rng.uniform(0, seconds)))

            assert at is None or not returned
            state = case.state(url)
            assert state == "new" if returned else state in ("nothing", "old", "new")
            written = finished(url)
            if not is_done(case, url, state):
                case.run(url)
                assert beside(url) == []
                if kind != "iterator":  # of which a run that was killed leaves nothing to carry on with
                    assert written.items() <= shards(url).items(), "a shard that was whole was written again"
            assert contents(url) == wanted
            replace(case, what="overwrite-group" if case.is_group else "overwrite").run(url)
            assert beside(url) == []
            shutil.rmtree(here)


def _seconds(case: Case, before: Path, folder: Path) -> float:
    """That the call takes in a process of its own."""
    copy(before, folder / "timed")
    begun = folder / "begun"
    assert run_killed(case, folder / "timed", begun, at=10**9)  # never
    begin, end = begun.stat().st_mtime, begun.with_suffix(".ended").stat().st_mtime
    return end - begin


def _stage(url: Path) -> Path:
    return url.with_name(f".{url.name}.swath-append")


@pytest.mark.parametrize("kind", ["npy", "iterator"])
@pytest.mark.parametrize("same", [True, False], ids=["the-same-call", "another"])
def test_an_append_that_was_killed_after_all_was_written_is_completed_by_the_next(
    tmp_path: Path, kind: str, same: bool, trials: int
) -> None:
    case = Case("append", kind, "lz4", tmp_path)
    with undisturbed(case, tmp_path / "undisturbed") as (before, after, count):
        (tmp_path / "here").mkdir()
        url = tmp_path / "here" / "a"
        completed = 0
        for at in range(count - 16, count + 1, 1 if trials > 1 else 3):  # the moves, the commit, and what is cleared up
            copy(before, url)
            run_killed(case, url, tmp_path / "begun", at=at)
            written = (_stage(url) / "zarr.json").exists()
            state = case.state(url)
            if same:
                if written:
                    case.run(url)
                    assert contents(url) == contents(after)
            else:
                more = rows_of(np.arange(5000, 5003))
                swath.open(url).append(more)
                rows = case.new if written or state == "new" else case.old
                assert rows is not None
                wanted = np.concatenate([rows, more])
                np.testing.assert_array_equal(swath.open(url).gather([0], window=len(wanted))[0], wanted)
            if written or not same:
                assert beside(url) == []
            completed += written
            clear(url)
        assert completed > 1


def test_another_iterator_that_begins_alike_is_not_taken_for_the_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    url = tmp_path / "here" / "a"
    case = Case("append", "iterator", "raw", tmp_path)
    with undisturbed(case, tmp_path / "undisturbed") as (before, _, count):
        first = next(iter(np.array_split(rows_of(np.arange(case.n_rows)), 9)))
        for at in range(count, 0, -1):
            clear(url)
            copy(before, url)
            run_killed(case, url, tmp_path / "begun", at=at)
            if (_stage(url) / "zarr.json").exists():
                break
        other = -first
        swath.open(url).append(iter([first, other]))
        wanted = np.concatenate([case.new, first, other])
        np.testing.assert_array_equal(swath.open(url).gather([0], window=len(wanted))[0], wanted)


def _append_until(place: Place, stop: Path, seed: int) -> None:
    """Some rows at a time, so that the last shard is written again and again."""
    rng = np.random.default_rng(seed)
    array = open_store(place)
    while not stop.exists():
        n = len(array)
        array.append(rows_of(np.arange(n, n + int(rng.integers(1, 8)))))


def _swath_rows(place: Place) -> tuple[Callable[[int, int], Any], int]:
    array = open_store(place)
    return lambda a, b: array.gather([a], window=b - a)[0], len(array)


def _zarr_rows(place: Place) -> tuple[Callable[[int, int], Any], int]:
    array: Any = zarr.open_array(place.for_zarr(), mode="r")
    return lambda a, b: array[a:b], array.shape[0]


def _read(place: Place, by: str, opens: int, appended: int, seed: int, report: Path) -> None:
    """Open and read, so often and until some appends have been seen; write what was wrong."""
    rng = np.random.default_rng(seed)
    opened = _swath_rows if by == "swath" else _zarr_rows
    wrong: list[str] = []
    kept, n_kept = opened(place)
    n_before, done = n_kept, 0
    deadline = time.monotonic() + _MOST_SECONDS
    while done < opens or n_before < n_kept + appended:
        done += 1
        if time.monotonic() > deadline:
            wrong.append(f"{n_before} rows after {_MOST_SECONDS} s")
            break
        try:
            read, n = opened(place)
            if n < n_before:
                wrong.append(f"{n} rows after {n_before}")
            n_before = n
            a = int(rng.integers(max(0, n - 200), n))
            if not np.array_equal(read(a, n), rows_of(np.arange(a, n))):
                wrong.append(f"rows {a} to {n} are {read(a, n)}")
            if by == "swath" and not np.array_equal(kept(0, n_kept), rows_of(np.arange(n_kept))):
                wrong.append("the snapshot has changed")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    report.write_text("\n".join([f"{done}", *wrong]))


@pytest.mark.parametrize(
    ("where", "codec"), [(LOCAL, "raw"), (LOCAL, "lz4"), *zip(CONDITIONAL, ["raw", "lz4", "zstd"])]
)
def test_readers_see_whole_appends_while_one_process_appends(
    tmp_path: Path, place_of_kind: Callable[[str], Place], where: str, codec: str, full: bool
) -> None:
    place, stop = place_of_kind(where), tmp_path / "stop"
    n_old, count = 50, 4 if where == LOCAL else 2
    if where == LOCAL:
        opens, appended = 1250 if full else 20, 100
    else:
        opens, appended = 250 if full else 5, 100 if full else 10
    ingest(place, rows_of(np.arange(n_old)), chunk_rows=4, shard_rows=40, codec=codec)
    writer = start(_append_until, place, stop, 0)
    reports = [tmp_path / f"report-{k}" for k in range(count)]
    readers = [
        start(_read, place, ["swath", "zarr"][k % 2], opens, appended, k, report) for k, report in enumerate(reports)
    ]
    for each in readers:
        each.join()
    stop.touch()
    writer.join()
    assert writer.exitcode == 0
    found = [report.read_text().splitlines() for report in reports]
    assert [wrong for _, *wrong in found] == [[]] * count
    opened = sum(int(done) for done, *_ in found)
    print(f"{where}, {codec}: {opened} opens, {len(open_store(place))} rows")
    assert opened >= count * opens


_BATCHES = 25


def _append_batches(place: Place, me: int, batches: int, answered: Path, attempts: Path) -> None:
    """Append batches that none has had yet; say which are begun, and which were answered."""
    array = open_store(place)
    while (done := answered.read_text().count("\n") if answered.exists() else 0) < batches:
        with attempts.open("a") as file:
            file.write("x")
        attempt = me * 10_000 + attempts.stat().st_size
        size = 1 + attempt % 5
        array.append(rows_of(np.arange(attempt * 10, attempt * 10 + size)), timeout=120)
        descriptor = os.open(answered, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{attempt}\n".encode())
        os.close(descriptor)
        assert done < batches


@pytest.mark.parametrize("where", PLACES)
def test_no_row_of_many_appenders_is_lost_or_doubled(
    tmp_path: Path, place_of_kind: Callable[[str], Place], where: str, full: bool
) -> None:
    place, rng = place_of_kind(where), np.random.default_rng(full)
    if where == LOCAL:
        count, batches, pause_s, most_kills = 8, _BATCHES if full else 3, 0.25, 10**9
    else:  # an append takes longer there than a process lives that is killed as often
        count, batches, pause_s, most_kills = (8, 10, 1.0, 60) if full else (3, 2, 0.5, 4)
    ingest(place, rows_of(np.arange(1)), chunk_rows=4, shard_rows=40, codec="lz4")
    files = [(tmp_path / f"answered-{me}", tmp_path / f"attempts-{me}") for me in range(count)]
    running = [start(_append_batches, place, me, batches, *files[me]) for me in range(count)]
    kills = 0
    while any(each.is_alive() for each in running):
        time.sleep(rng.uniform(0, pause_s))
        me = int(rng.integers(count))
        if running[me].is_alive() and kills < most_kills:
            running[me].kill()
            running[me].join()
            kills += running[me].exitcode != 0
        assert running[me].exitcode in (None, 0, -signal.SIGKILL)
        if running[me].exitcode:
            running[me] = start(_append_batches, place, me, batches, *files[me])
    for me in range(count):  # those that were killed and not begun again
        if running[me].exitcode:
            start(_append_batches, place, me, batches, *files[me]).join()
    answered = {int(line) for each, _ in files for line in each.read_text().split()}
    assert len(answered) == count * batches
    assert kills > (batches if where == LOCAL else 0)
    stored = open_store(place)
    ids = stored.gather([0], window=len(stored))[0][1:, 0] - 1
    np.testing.assert_array_equal(stored.gather([1], window=len(ids))[0], rows_of(ids))
    begins = np.flatnonzero(ids % 10 == 0)
    found = [int(each[0]) // 10 for each in np.split(ids, begins[1:])]
    print(f"{where}: {kills} kills, {len(answered)} batches answered, {len(found)} there")
    assert len(found) == len(set(found)), "a batch is there twice"
    assert answered <= set(found), "a batch that was answered is lost"
    for attempt, each in zip(found, np.split(ids, begins[1:])):
        np.testing.assert_array_equal(each, attempt * 10 + np.arange(1 + attempt % 5))
    stored.append(rows_of(np.arange(3)))
    assert stored.verify()
    assert left(place) == []
