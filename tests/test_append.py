"""Stores and groups that grow: beside numpy, whatever the order of calls; and what is refused."""

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from faults import beside, contents, rows_of, start
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray
from oracle import assert_same
from places import LOCAL, Place, flip, ingest, ingest_group, left, open_group, open_store, put

import swath
from swath import commit_objects
from swath.committing import locked
from swath.errors import (
    OptionError,
    SourceError,
    StoreBusyError,
    StoreNotFoundError,
)
from swath.storage import place_of

_SHARD_ROWS = 12
_ROWS = st.integers(1, 40)


_numbers = itertools.count()


class Growing(RuleBasedStateMachine):
    """A store, or a group of two, beside numpy arrays."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place.beside(f"a-{next(_numbers)}")
        self.rows = rows_of(np.arange(0))
        self.segments: list[int] = []
        self.kept: list[tuple[Any, int]] = []

    def teardown(self) -> None:
        put(self.place, {})

    @initialize(
        n=_ROWS, codec=st.sampled_from(["raw", "lz4", "zstd"]), group=st.booleans(), chunk=st.sampled_from([3, 4])
    )
    def ingest(self, n: int, codec: Any, group: bool, chunk: int) -> None:
        self.is_group = group
        rows, options = self.more(n), {"codec": codec, "chunk_rows": chunk, "shard_rows": _SHARD_ROWS, "window": 2}
        self.array: Any = (
            ingest_group(self.place, self.split(rows), **options)
            if group
            else ingest(self.place, iter(np.array_split(rows, 2)) if n % 2 else rows, **options)
        )

    def more(self, n: int) -> NDArray[np.int64]:
        """New rows, which the model has from now on."""
        rows = rows_of(np.arange(len(self.rows), len(self.rows) + n))
        self.rows = np.concatenate([self.rows, rows])
        self.segments.append(n)
        return rows

    def split(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        return {"X": rows, "y": rows[:, 0].copy()}

    def open(self) -> Any:
        return open_group(self.place) if self.is_group else open_store(self.place)

    @rule(n=_ROWS)
    def append(self, n: int) -> None:
        rows = self.more(n)
        self.array.append(self.split(rows) if self.is_group else rows)

    @rule(a=_ROWS, b=st.integers(0, 14))
    def append_a_list(self, a: int, b: int) -> None:
        """Of files in memory, each a segment; of an iterator, all of it."""
        if self.is_group:
            return
        if b:
            self.array.append([self.more(a), self.more(b)])
        else:
            rows = self.more(a)
            self.array.append(iter([rows[:0], rows[: a // 3], rows[a // 3 :]]))

    @rule(other=st.booleans())
    def append_nothing(self, other: bool) -> None:
        rows = rows_of(np.arange(0))
        empty: Any = self.split(rows) if self.is_group else iter([rows]) if other else rows
        with pytest.raises(SourceError, match="no rows"):
            self.array.append(empty)

    @rule()
    def reopen(self) -> None:
        self.array = self.open()

    @rule()
    def keep(self) -> None:
        self.kept.append((self.open(), len(self.rows)))

    @rule(k=st.integers(0, 9))
    def refresh(self, k: int) -> None:
        if self.kept:
            handle, _ = self.kept[k % len(self.kept)]
            assert handle.refresh() is handle
            self.kept[k % len(self.kept)] = handle, len(self.rows)

    @rule(k=st.integers(0, 99), bit=st.integers(0, 10**6), remove=st.booleans())
    def damage_and_repair(self, k: int, bit: int, remove: bool) -> None:
        shards = sorted(name for name in self.place.names() if name.startswith("X/c." if self.is_group else "c."))
        shard = shards[k % len(shards)]
        if remove:
            self.place.remove(shard)
        else:
            flip(self.place, shard, 8 * len(self.place.read(shard)) - 64 + bit % 64)  # of the last chunk
        array = self.open()["X"] if self.is_group else self.open()
        found = array.verify().damages
        assert {damage.path for damage in found} == {f"{self.place.url}/{shard}"}
        with pytest.raises(SourceError):
            array.repair(-self.rows if len(shards) > 1 else self.rows[:-1])
        assert array.repair(self.rows) == found
        self.kept = [each for each in self.kept if each[1] == len(self.rows)]

    @invariant()
    def is_sound(self) -> None:
        array = self.open()
        if self.is_group:
            assert all(array.verify(self.split(self.rows)).values())
            assert_same(array["y"].gather([0], window=len(self.rows))[0], self.rows[:, 0])
            array = array["X"]
        else:
            assert array.verify(self.rows)
        assert_same(array.gather([0], window=len(self.rows))[0], self.rows)
        assert np.diff(array.segments).ravel().tolist() == self.segments
        assert left(self.place) == []

    @invariant()
    def is_read_by_others(self) -> None:
        if not self.is_group:
            stored: Any = zarr.open_array(self.place.for_zarr(), mode="r")[:]
            assert_same(stored, self.rows)
        else:
            group: Any = zarr.open_group(self.place.for_zarr(), mode="r")
            assert_same(group["X"][:], self.rows)

    @invariant()
    def snapshots_stay(self) -> None:
        for handle, n in self.kept:
            array = handle["X"] if self.is_group else handle
            assert len(array) == n
            assert_same(array.gather([0], window=n)[0], self.rows[:n])


def test_whatever_the_order_of_calls(place: Place, full: bool) -> None:
    examples = (160 if full else 8) if place.kind == LOCAL else (8 if full else 1)
    steps = settings(max_examples=examples, stateful_step_count=10, deadline=None)
    run_state_machine_as_test(partial(Growing, place), settings=steps)  # type: ignore[arg-type]


ROWS = rows_of(np.arange(50))


@pytest.fixture
def url(tmp_path: Path) -> Path:
    swath.ingest(ROWS, tmp_path / "a", chunk_rows=4, shard_rows=20, codec="lz4")
    return tmp_path / "a"


@pytest.fixture
def group(tmp_path: Path) -> Path:
    swath.ingest_group({"X": ROWS, "y": ROWS[:, 0].copy()}, tmp_path / "g", chunk_rows=4, shard_rows=20)
    return tmp_path / "g"


def _unlike() -> Any:
    yield ROWS
    yield ROWS[:, :2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(ROWS.astype("S5"), "S5", id="dtype"),
        pytest.param(ROWS[:, :4].copy(), r"rows of shape \(4,\)", id="row-shape"),
        pytest.param(ROWS[:, 0].copy(), r"rows of shape \(\)", id="fewer-axes"),
        pytest.param(ROWS[:0], "no rows", id="no-rows"),
        pytest.param([], "empty", id="empty-list"),
        pytest.param(iter([]), "gave no rows", id="empty-iterator"),
        pytest.param(iter([ROWS[:0], ROWS[:0]]), "gave no rows", id="iterator-of-no-rows"),
        pytest.param(iter([ROWS.astype("f4")]), "dtype float32", id="iterator-dtype"),
        pytest.param(_unlike(), r"Block 1 has shape \(50, 2\)", id="iterator-unlike"),
        pytest.param(iter([5]), "single value", id="iterator-of-scalars"),
        pytest.param(iter([np.ma.masked_array(ROWS)]), "masked", id="iterator-masked"),
        pytest.param("missing.npy", "There is no file", id="missing-file"),
        pytest.param(object(), "no source that swath knows", id="no-source"),
    ],
)
def test_what_is_no_more_of_the_same_is_refused(url: Path, source: Any, message: str) -> None:
    before = contents(url)
    with pytest.raises(SourceError, match=message):
        swath.open(url).append(source)
    assert contents(url) == before
    assert beside(url) == []


def test_what_swath_did_not_write_is_not_appended_to(tmp_path: Path) -> None:
    zarr.save_array(tmp_path / "foreign", ROWS)
    np.save(tmp_path / "rows.npy", ROWS)
    for name in ("foreign", "rows.npy"):
        with pytest.raises(OptionError, match="not written by swath"):
            swath.open(tmp_path / name).append(ROWS)


def test_an_array_of_a_group_is_written_with_the_others_only(group: Path) -> None:
    before = contents(group)
    calls: list[Callable[[], object]] = [
        lambda: swath.open_group(group)["X"].append(ROWS),
        lambda: swath.open(group / "X").append(ROWS),
        lambda: swath.ingest(ROWS, group / "X", overwrite=True),
        lambda: swath.ingest_group({"z": ROWS}, group / "X", overwrite=True),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=r"array of (a|the) group"):
            call()
    assert contents(group) == before
    assert beside(group / "X") == beside(group) == []


def test_values_that_would_change_are_refused_and_the_next_append_clears_up(url: Path) -> None:
    before = contents(url)
    with pytest.raises(SourceError, match=r"value of row \d+ .*\.5"):
        swath.open(url).append(ROWS + 0.5)
    assert contents(url) == before
    a = swath.open(url)
    n_rows = len(a)
    whole = ROWS.astype("f8")
    a.append(whole)
    assert_same(a.gather([n_rows], window=len(ROWS))[0], whole.astype(ROWS.dtype))
    assert beside(url) == []


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        pytest.param({"X": ROWS}, "the arrays of the group are", id="one-missing"),
        pytest.param({"X": ROWS, "y": ROWS[:, 0], "z": ROWS}, "the arrays of the group are", id="one-more"),
        pytest.param({"X": ROWS, "y": ROWS[:9, 0]}, "Give sources of as many rows each", id="lengths"),
        pytest.param({"X": ROWS, "y": iter([ROWS[:, 0]])}, "iterator", id="iterator"),
    ],
)
def test_what_does_not_fit_a_group_is_refused(group: Path, sources: dict[str, Any], message: str) -> None:
    before = contents(group)
    with pytest.raises(SourceError, match=message):
        swath.open_group(group).append(sources)
    assert contents(group) == before
    assert beside(group) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "", ".", "..", ".hidden", "a\\b", "a\0b", "zarr.json", "__x", 5])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(OptionError, match="is no name for an array of a group"):
        swath.ingest_group({name: ROWS}, tmp_path / "g")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["c.0.0", "c", "é", "a b", "日本", "pending.json", "base.json", "x.tmp"])
def test_any_other_name_will_do(tmp_path: Path, name: str) -> None:
    a = swath.ingest_group({name: ROWS, "other": ROWS}, tmp_path / "g", chunk_rows=4, shard_rows=20)
    a.append({name: ROWS[:7], "other": ROWS[:7]})
    assert_same(swath.open_group(tmp_path / "g")[name].gather([0], window=57)[0], np.concatenate([ROWS, ROWS[:7]]))
    assert beside(tmp_path / "g") == []


def test_an_append_that_returned_appends_again(url: Path) -> None:
    a = swath.open(url)
    assert len(a.append(ROWS).append(ROWS).append(iter([ROWS])).append(iter([ROWS]))) == 5 * len(ROWS)


def test_a_store_that_is_gone_is_not_found(url: Path, group: Path) -> None:
    a, g = swath.open(url), swath.open_group(group)
    shutil.rmtree(url)
    shutil.rmtree(group)
    with pytest.raises(StoreNotFoundError):
        a.append(ROWS)
    with pytest.raises(StoreNotFoundError):
        g.append({"X": ROWS, "y": ROWS[:, 0]})
    assert beside(url) == []


def test_an_iterator_that_fails_leaves_nothing(url: Path, tmp_path: Path) -> None:
    def blocks() -> Any:
        yield from [ROWS] * 3
        raise OSError("the sensor is gone")

    before = contents(url)
    calls: list[Callable[[], object]] = [
        lambda: swath.open(url).append(blocks()),
        lambda: swath.ingest(blocks(), tmp_path / "b", shard_rows=20, chunk_rows=4),
    ]
    for call in calls:
        with pytest.raises(OSError, match="the sensor is gone"):
            call()
    assert contents(url) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_temporary_of_a_killed_writer_goes_with_the_next_one(url: Path) -> None:
    (url / ".c.1.0.0123456789abcdef.tmp").write_bytes(b"half")
    (url / "c.1.0").unlink()
    swath.open(url).repair(ROWS)
    assert ".c.1.0.0123456789abcdef.tmp" not in contents(url)


def _hold(place: Place, held: Path) -> None:
    commit_objects._RENEW_SECONDS = 0.2
    with locked(place_of(place.url, place.options), timeout=0):
        held.touch()
        time.sleep(60)


def test_a_busy_store_is_waited_for_and_its_writer_named(place: Place, tmp_path: Path) -> None:
    ingest(place, ROWS, chunk_rows=4, shard_rows=20, codec="lz4")
    holder = start(_hold, place, tmp_path / "held")
    try:
        while not (tmp_path / "held").exists():
            assert holder.is_alive()
            time.sleep(0.005)
        for call in (
            lambda: open_store(place).append(ROWS, timeout=0.2),
            lambda: open_store(place).repair(ROWS, timeout=0.2),
        ):
            begin = time.monotonic()
            with pytest.raises(StoreBusyError, match=rf"Process {holder.pid} on .* is writing .*a\. Wait until"):
                call()
            assert 0.2 <= time.monotonic() - begin < 5
        with pytest.raises(StoreBusyError, match=f"Process {holder.pid} "):
            ingest(place, ROWS, overwrite=True)
        threading.Timer(0.3, lambda: os.kill(holder.pid, signal.SIGKILL)).start()
        assert len(open_store(place).append(ROWS)) == 100  # as soon as the other is dead
        assert left(place) == []
    finally:
        holder.kill()
        holder.join()


def test_the_lock_of_a_dead_process_is_no_lock(url: Path) -> None:
    (url.parent / ".a.swath-lock").write_text("Process 1 on some-host")
    assert len(swath.open(url).append(ROWS, timeout=0)) == 100
    assert beside(url) == []


def test_what_was_staged_for_a_store_that_was_replaced_is_not_appended(url: Path, tmp_path: Path) -> None:
    def blocks() -> Any:
        yield ROWS
        shutil.copytree(tmp_path / ".a.swath-append", tmp_path / "staged")

    swath.open(url).append(blocks())
    swath.ingest(-ROWS, url, overwrite=True)
    shutil.move(tmp_path / "staged", tmp_path / ".a.swath-append")
    swath.open(url).append(ROWS[:5])
    assert_same(swath.open(url).gather([0], window=55)[0], np.concatenate([-ROWS, ROWS[:5]]))
    assert beside(url) == []
