"""Writers that are killed at any moment, and run again; readers and writers at once."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
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
    undisturbed,
)

import swath


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
        seconds = _seconds(case, before, tmp_path)
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
    tmp_path: Path, kind: str, same: bool
) -> None:
    case = Case("append", kind, "lz4", tmp_path)
    with undisturbed(case, tmp_path / "undisturbed") as (before, after, count):
        (tmp_path / "here").mkdir()
        url = tmp_path / "here" / "a"
        completed = 0
        for at in range(count - 16, count + 1):  # the moves, the commit, and what is cleared up
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
        assert completed > 5


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
