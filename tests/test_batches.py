"""Batches: each window once an epoch, in an order that only seed and epoch decide, from wherever one goes on."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import threading
import time
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_same, expected

import swath
from swath.errors import MemoryLimitError, OptionError, StartsError, SwathError, WindowError, WindowOutOfBoundsError
from swath.sampling import Blocks

ROWS = np.arange(1000 * 3).reshape(1000, 3)


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    """Recordings of 300, 5 and 695 rows."""
    folder = tmp_path_factory.mktemp("batches")
    edges = [0, 300, 305, 1000]
    paths = []
    for i in range(3):
        paths.append(folder / f"{i}.npy")
        np.save(paths[-1], ROWS[edges[i] : edges[i + 1]])
    return swath.ingest(paths, folder / "a", window=8)


def test_windows_lie_within_segments(a: swath.RowArray) -> None:
    wanted = [*range(293), *range(305, 993)]
    batches = a.batches(50, seed=3)
    found: list[int] = []
    for batch in batches:
        assert_same(batch, expected(ROWS, batches.starts, 8))
        found += batches.starts.tolist()
    assert sorted(found) == wanted
    assert found != wanted
    across = a.batches(50, seed=3, across_segments=True)
    assert sum(len(batch) for batch in across) == 993


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 50])
@pytest.mark.parametrize("seed", [None, 0, 9])
def test_ranks_share_the_same_batches(a: swath.RowArray, world_size: int, seed: int | None) -> None:
    alone = [batch.tobytes() for batch in a.batches(64, seed=seed, epochs=2)]
    ranks = [a.batches(64, seed=seed, epochs=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sum(map(len, ranks)) == len(alone)
    dealt = [[batch.tobytes() for batch in each] for each in ranks]
    assert [dealt[k % world_size][k // world_size] for k in range(len(alone))] == alone


def test_epochs_differ_and_each_has_every_window(a: swath.RowArray) -> None:
    batches = a.batches(981, seed=1, epochs=3)
    epochs = [batches.starts.tolist() for _ in batches]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1


def test_an_epoch_can_be_the_first(a: swath.RowArray) -> None:
    whole = [batch.tobytes() for batch in a.batches(100, seed=1, epochs=3)]
    assert [batch.tobytes() for batch in a.batches(100, seed=1, epochs=2, epoch=1)] == whole[10:]
    with pytest.raises(OptionError, match="epoch"):
        a.batches(100, seed=1, epoch=1).load_state_dict(a.batches(100, seed=1).state_dict())


def test_any_batch_can_be_asked_for(a: swath.RowArray) -> None:
    batches = a.batches(100, seed=1, rank=1, world_size=3)
    asked = [batches.at(k) for k in range(len(batches))]
    for k, (batch, other) in enumerate(zip(batches, asked, strict=True)):
        assert_same(batch, other)
        assert batches.starts_at(k).tolist() == batches.starts.tolist()
    numbers = np.arange(batches.population.size)
    assert_same(batches.population.starts(numbers), np.r_[:293, 305:993])
    bad: Any
    for bad in (-1, len(batches), 1.5, None, True):
        with pytest.raises(OptionError, match=rf"k is {bad}\. .* \[0, 2\]"):
            batches.at(bad)
    for bad in ((0, 0), (-1, 2), (3, 2), (None, 2), (0, 1.5)):
        with pytest.raises(OptionError, match="Give whole numbers"):
            batches.share(*bad)
    bad = None
    with pytest.raises(OptionError, match="The state is None"):
        batches.load_state_dict(bad)


def test_given_windows_come_in_batches(a: swath.RowArray) -> None:
    starts = np.array([500, 3, 3, 990, 302])
    in_order = a.batches(2, seed=None, starts=starts)
    assert_same(np.concatenate(list(in_order)), expected(ROWS, starts, 8))
    shuffled = a.batches(2, seed=4, starts=starts)
    seen = Counter(start for _ in shuffled for start in shuffled.starts.tolist())
    assert seen == Counter(starts.tolist())
    assert len(a.batches(2, starts=[])) == 0
    assert list(a.batches(2, starts=[])) == []
    later = a.batches(2, seed=None, starts=starts)
    starts[:] = 0
    assert_same(next(later), expected(ROWS, [500, 3], 8))


def test_from_any_point_it_goes_on_as_it_would_have(a: swath.RowArray) -> None:
    whole = [batch.tobytes() for batch in a.batches(100, seed=2, epochs=3)]
    rng = np.random.default_rng(0)
    for k in rng.integers(0, len(whole) + 1, 100).tolist():
        first = a.batches(100, seed=2, epochs=3)
        for _ in range(k):
            next(first)
        state = json.loads(json.dumps(first.state_dict()))
        second = a.batches(100, seed=2, epochs=3)
        second.load_state_dict(state)
        assert [batch.tobytes() for batch in second] == whole[k:]
        assert [batch.tobytes() for batch in pickle.loads(pickle.dumps(first))] == whole[k:]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 3}, "seed"),
        ({"batch_size": 31}, "batch_size"),
        ({"window": 9}, "windows"),
        ({"columns": [0]}, "arrays"),
        ({"dtype": "f4"}, "arrays"),
        ({"order": Blocks(3)}, "order"),
        ({"stride": 2}, "windows"),
        ({"rank": 1, "world_size": 2}, "world_size"),
        ({"starts": [1, 2, 3]}, "crc32"),
    ],
)
def test_a_state_of_others_is_refused(a: swath.RowArray, options: dict[str, Any], named: str) -> None:
    state = a.batches(30, seed=2).state_dict()
    other = a.batches(**{"batch_size": 30, "seed": 2, **options})
    with pytest.raises(OptionError, match=named):
        other.load_state_dict(state)
    for wrong in (-1, 10**6, True, "1", None):
        with pytest.raises(OptionError, match="next="):
            a.batches(30, seed=2).load_state_dict({**state, "next": wrong})


def test_an_error_loses_no_batch(a: swath.RowArray) -> None:
    batches = a.batches(30, seed=2, prefetch=0)
    first = next(batches)
    state = batches.state_dict()
    shard = next(Path(a.url).glob("c.*"))
    hidden = shard.with_name("hidden")
    shard.rename(hidden)
    with pytest.raises(swath.errors.DamagedStoreError):
        next(batches)
    hidden.rename(shard)
    assert batches.state_dict() == state
    again = a.batches(30, seed=2)
    assert_same(next(again), first)
    assert_same(next(again), next(batches))


def test_what_a_group_has_not_is_named(tmp_path: Path) -> None:
    g = swath.ingest_group({"X": ROWS[:100], "y": np.arange(100)}, tmp_path / "g")
    with pytest.raises(KeyError, match=r"There is no array 'Z' in .*g, but \['X', 'y'\]"):
        g["Z"]
    assert "Z" not in g
    for options in ({"shuffle": True}, {"arrays": ["X"]}):
        with pytest.raises(TypeError, match=rf"Batches have no option '{next(iter(options))}'\. They have seed, order"):
            g.batches(10, **options)
    with pytest.raises(OptionError, match=r"dtype is \{'Z': 'f4'\}, but the arrays are \['X', 'y'\]"):
        g.batches(10, dtype={"Z": "f4"})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, OptionError, "batch_size is 0"),
        ({"batch_size": 2.5}, OptionError, r"batch_size is 2\.5"),
        ({"seed": -1}, OptionError, "seed is -1"),
        ({"epochs": 0}, OptionError, "epochs is 0"),
        ({"epoch": -1}, OptionError, "epoch is -1"),
        ({"prefetch": "much"}, OptionError, "prefetch is 'much'"),
        ({"prefetch": -1}, OptionError, "prefetch is -1"),
        ({"segments": [3]}, OptionError, "numbers from 0 to 2"),
        ({"prefetch": False}, OptionError, "prefetch is False"),
        ({"prefetch": np.array([0, 1])}, OptionError, "prefetch is array"),
        ({"order": "shuffled"}, OptionError, "order is 'shuffled'"),
        ({"order": Blocks}, OptionError, "order is <class"),
        ({"dtype": "float99"}, OptionError, "which is none of numpy's"),
        ({"drop_last": True, "batch_size": 10_000}, OptionError, "no full batch of 10,000: an epoch would be empty"),
        ({"epochs": 2**62}, OptionError, "Choose fewer"),
        ({"epochs": 2**63}, OptionError, "epochs is 9223372036854775808"),
        ({"stride": 10**30}, OptionError, "stride is"),
        ({"transform": "x"}, OptionError, "transform is 'x'"),
        ({"dtype": "S"}, OptionError, r"dtype is \|S0"),
        ({"dtype": {"X": "f4"}}, OptionError, "one array, without a name"),
        ({"columns": {"": [0]}}, OptionError, "one array, without a name"),
        ({"segments": [0], "across_segments": True}, OptionError, "Leave one of them out"),
        ({"rank": 2, "world_size": 2}, OptionError, "rank is 2, but world_size is 2"),
        ({"rank": True}, OptionError, "rank is True"),
        ({"window": 800}, WindowError, "No segment has 800 rows, the longest has 695"),
        ({"window": 0}, WindowError, "window is 0"),
        ({"starts": [999]}, WindowOutOfBoundsError, "999"),
        ({"starts": [[1]]}, StartsError, "one-dimensional"),
        ({"memory_limit": 1000}, MemoryLimitError, "limit is 1000 B"),
        ({"columns": [7]}, swath.errors.ColumnsError, r"\[0, 2\]"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    a: swath.RowArray, options: dict[str, Any], error: type[SwathError], message: str
) -> None:
    with pytest.raises(error, match=message):
        a.batches(**{"batch_size": 10, **options})


def test_groups_give_the_same_windows_of_each(tmp_path: Path) -> None:
    y = np.arange(1000) % 7
    g = swath.ingest_group({"X": ROWS, "y": y}, tmp_path / "g", window=4)
    batches = g.batches(100, seed=5)
    for batch in batches:
        assert_same(batch["X"], expected(ROWS, batches.starts, 4))
        assert_same(batch["y"], expected(y, batches.starts, 4))
    assert len(batches) == 10
    (whole,) = g.batches(997, seed=None, memory_limit="1GiB")
    assert whole["X"].shape == (997, 4, 3)


class Recorded:
    """Which batches were made, and in which thread."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def __call__(self, batch: Any) -> Any:
        self.threads.append(threading.get_ident())
        return batch


@pytest.mark.parametrize(("prefetch", "ahead"), [(0, 0), ("2kB", 1), (9000, 4), (None, 18)])
def test_so_many_are_gathered_ahead(a: swath.RowArray, prefetch: int | str | None, ahead: int) -> None:
    """A batch of 8 windows of 8 rows of 24 bytes has 1,536 bytes: of 9,000 bytes 5 batches, two of which are gathered in one go."""
    size = 30 if prefetch is None else 8
    seen, before = Recorded(), set(threading.enumerate())
    batches = a.batches(size, prefetch=prefetch, transform=seen)
    whole = len(batches)
    for k in range(1, 4):
        next(batches)
        wanted = min(k + ahead, whole)
        deadline = time.monotonic() + 20
        while len(seen.threads) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(seen.threads) == wanted
    assert (threading.get_ident() in seen.threads) is (ahead == 0)
    assert len(set(threading.enumerate()) - before) == (ahead > 0)
    del batches
    deadline = time.monotonic() + 20
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


@given(
    batch_size=st.integers(20, 300),
    prefetch=st.sampled_from([0, None, "4kB", "20kB", "1MB"]),
    seed=st.none() | st.integers(0, 3),
    kept=st.lists(st.booleans(), min_size=1, max_size=4),
    begin=st.integers(0, 10),
)
@settings(deadline=None)
def test_what_is_held_stays_as_it_is(
    a: swath.RowArray, batch_size: int, prefetch: int | str | None, seed: int | None, kept: list[bool], begin: int
) -> None:
    """Batches that the caller keeps, whole or in part, and those that he does not, wherever he begins."""
    batches = a.batches(batch_size, seed=seed, prefetch=prefetch, epochs=2)
    state = batches.state_dict()
    batches.load_state_dict({**state, "next": min(begin, len(batches))})
    held = []
    for k, batch in enumerate(batches):
        assert_same(batch, expected(ROWS, batches.starts, 8))
        if kept[k % len(kept)]:
            part = batch if k % 2 else batch[-1:, 2:]
            held.append(
                (part, expected(ROWS, batches.starts, 8) if k % 2 else expected(ROWS, batches.starts, 8)[-1:, 2:])
            )
        del batch
    for part, wanted in held:
        assert_same(part, wanted)


def test_memory_is_used_again(a: swath.RowArray) -> None:
    batches = a.batches(30, prefetch=0, epochs=20)
    view = memoryview(next(batches))
    held, other = view_address(view), address(next(batches))
    assert other != held
    assert {address(next(batches)) for _ in range(5)} == {other}
    del view
    assert {address(next(batches)) for _ in range(5)} <= {held, other}


def address(batch: Any) -> int:
    return int(batch.__array_interface__["data"][0])


def view_address(view: memoryview) -> int:
    return address(np.asarray(view))


def test_a_list_of_batches_is_given_back_when_it_is_dropped(a: swath.RowArray) -> None:
    """What the caller holds is his: of all that he ever held, few buffers stay with the iterator."""
    batches = a.batches(1, prefetch=0, seed=0)
    tracemalloc.start()
    try:
        held = [next(batches) for _ in range(500)]
        most = tracemalloc.get_traced_memory()[0]
        del held
        assert tracemalloc.get_traced_memory()[0] < most - 400 * 8 * 3 * 8
    finally:
        tracemalloc.stop()


def test_what_comes_ahead_is_dropped_by_load_state_dict_and_close(a: swath.RowArray) -> None:
    batches = a.batches(30, seed=1)
    states, wanted = [], []
    for _ in range(5):
        states.append(batches.state_dict())
        wanted.append(next(batches).copy())
    for k in (3, 0, 4, 1):
        batches.load_state_dict(states[k])
        assert_same(next(batches), wanted[k])
    batches.load_state_dict(states[2])
    batches.close()
    assert_same(next(batches), wanted[2])


def test_what_is_damaged_is_met_where_its_batch_would_come(tmp_path: Path) -> None:
    """Not with the first of those that are read in one go."""
    a = swath.ingest(ROWS, tmp_path / "a", window=8, chunk_rows=10)
    (shard,) = Path(a.url).glob("c.*")
    with shard.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"!")
    batches = a.batches(20, seed=None)
    for _ in range(980 // 20):
        batch = next(batches)
        assert_same(batch, expected(ROWS, batches.starts, 8))
    for _ in range(2):
        with pytest.raises(swath.errors.DamagedStoreError):
            next(batches)


def test_an_error_ahead_comes_where_its_batch_would(a: swath.RowArray) -> None:
    whole = [batch.copy() for batch in a.batches(30, seed=2)]
    fails = [True]

    def transform(batch: Any) -> Any:
        if fails[0] and np.array_equal(batch, whole[4]):
            raise RuntimeError("no")
        return batch

    batches = a.batches(30, seed=2, transform=transform)
    for k in range(4):
        assert_same(next(batches), whole[k])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            next(batches)
    fails[0] = False
    for batch, wanted in zip(batches, whole[4:]):
        assert_same(batch, wanted)


@pytest.mark.parametrize("prefetch", [0, None])
def test_a_forked_child_goes_on(a: swath.RowArray, prefetch: int | None) -> None:
    """What was gathered ahead stays with the parent, and each has all the rest."""
    batches = a.batches(30, seed=2, prefetch=prefetch)
    next(batches)
    rest = [batch.tobytes() for batch in a.batches(30, seed=2)][1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads is forked
        pid = os.fork()
    if not pid:
        signal.alarm(60)
        os._exit(0 if [batch.tobytes() for batch in batches] == rest else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert [batch.tobytes() for batch in batches] == rest


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "c8", np.int64])
def test_batches_are_cast(a: swath.RowArray, dtype: Any) -> None:
    batches = a.batches(64, dtype=dtype)
    for batch in batches:
        assert_same(batch, expected(ROWS, batches.starts, 8).astype(dtype))


@pytest.mark.parametrize("dtype", ["i4", "u8", "?", "S5", "O", "nothing", "M8[s]"])
def test_a_dtype_that_loses_values_is_refused(a: swath.RowArray, dtype: Any) -> None:
    with pytest.raises(OptionError, match="dtype is"):
        a.batches(64, dtype=dtype)


def test_a_value_too_large_for_the_dtype_is_an_error(tmp_path: Path) -> None:
    rows = np.array([1.0, np.inf, np.nan, 1e300])
    a = swath.ingest(rows, tmp_path / "a", window=1)
    for prefetch in (0, None):
        batches = a.batches(1, dtype="f4", seed=None, prefetch=prefetch)
        assert_same(np.concatenate([next(batches) for _ in range(3)]), rows[:3, None].astype("f4"))
        with pytest.raises(OptionError, match="too large for float32"):
            next(batches)


@pytest.mark.parametrize("limit", [150_000_000, 60_000_000, 30_000_000])
@pytest.mark.parametrize("dtype", [None, "f4"])
@pytest.mark.parametrize("prefetch", ["1GB", None, 0])
def test_memory_keeps_to_the_limit(tmp_path: Path, limit: int, dtype: str | None, prefetch: str | int | None) -> None:
    """By what numpy has allocated at most in a loop over batches of 2 MB and some small arrays beside them."""
    rows = np.arange(4000 * 2500, dtype=np.int16).reshape(4000, 2500)
    small = {f"y{k}": np.arange(4000.0) for k in range(6)}
    g = swath.ingest_group({"X": rows, **small}, tmp_path / "g", window=8)
    wanted = {"X": dtype} if dtype else None
    next(g.batches(50, dtype=wanted))  # what is imported and cached counts for nothing
    tracemalloc.start()
    try:
        for k, batch in enumerate(g.batches(50, prefetch=prefetch, memory_limit=limit, dtype=wanted, stride=2)):
            assert batch["X"].shape[1:] == (8, 2500)
            if not k % 10:
                time.sleep(0.05)  # all that may be is gathered ahead
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit
    with pytest.raises(MemoryLimitError, match="Choose a smaller batch_size"):
        g.batches(10**4, memory_limit=limit)


def test_a_transform_may_refer_to_who_holds_the_batches(a: swath.RowArray) -> None:
    """Dropped, they are collected, and no thread stays."""

    class Owner:
        def __init__(self) -> None:
            self.batches = a.batches(10, transform=self.transform)
            next(self.batches)

        def transform(self, batch: Any) -> Any:
            return batch

    before = set(threading.enumerate())
    for _ in range(5):
        Owner()
    deadline = time.monotonic() + 20
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert not left


def test_what_was_given_may_be_changed_afterwards(a: swath.RowArray) -> None:
    columns = np.array([0, 2])
    batches = a.batches(50, columns=columns)
    columns[:] = 1
    assert_same(next(batches), expected(ROWS, batches.starts, 8)[..., [0, 2]])


def test_numbers_of_numpy_are_numbers(a: swath.RowArray) -> None:
    options: dict[str, Any] = {
        "epochs": np.uint8(3),
        "seed": np.int64(5),
        "rank": np.uint8(1),
        "world_size": np.uint8(2),
    }
    batches = a.batches(np.uint8(7), **options, order=Blocks(np.int64(3), np.uint8(2)), drop_last=True)  # type: ignore[arg-type]
    assert len(batches) == 981 // 7 // 2 * 3
    state = json.loads(json.dumps(batches.state_dict()))
    batches.load_state_dict(state)


def test_groups_have_options_by_name(tmp_path: Path) -> None:
    y = np.arange(1000) % 7
    g = swath.ingest_group({"X": ROWS, "y": y}, tmp_path / "g", window=4)
    batches = g.batches(
        50,
        dtype={"X": "f4"},
        columns={"X": [2, 0]},
        stride=4,
        order=Blocks(5, 2),
        transform=lambda batch: (batch["X"], batch["y"][:, -1]),
    )
    seen = []
    for x, label in batches:
        assert_same(x, expected(ROWS, batches.starts, 4)[:, :, [2, 0]].astype("f4"))
        assert_same(label, y[batches.starts + 3])
        seen += batches.starts.tolist()
    assert sorted(seen) == list(range(0, 1000, 4))


def test_a_bar_shows_how_far_they_are(a: swath.RowArray, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(a.batches(100, progress=True))) == 10
    shown = capsys.readouterr().err
    assert "Batches" in shown
    assert "192.0/192.0 kB" in shown  # the last batch, of 81 windows, counts as much as the others
    assert len(list(a.batches(5000, progress=True))) == 1
    assert "188.4/188.4 kB" in capsys.readouterr().err  # 981 windows, all there are
    assert len(list(a.batches(100))) == 10
    assert capsys.readouterr().err == ""


def test_a_batch_lands_in_a_place_that_is_given(a: swath.RowArray, tmp_path: Path) -> None:
    batches = a.batches(300, seed=5)
    out = np.empty((300, 8, 3), ROWS.dtype)
    starts = batches.gather_into(1, lambda n: out[:n])
    assert batches.state_dict()["next"] == 0
    assert_same(out, expected(ROWS, starts, 8))
    assert batches.none().shape == (0, 8, 3)
    assert batches.most_windows == 300
    assert a.batches(5000).most_windows == 981
    next(batches)
    assert_same(next(batches), out)
    g = swath.ingest_group({"X": ROWS, "y": np.arange(1000)}, tmp_path / "g", window=4)
    place = {"X": np.empty((10, 4, 3), ROWS.dtype), "y": np.empty((10, 4), int)}
    found = g.gather(range(10), out=place)
    assert found["y"] is place["y"]
    assert_same(place["X"], expected(ROWS, range(10), 4))
    wrongs: list[Any] = [{"X": place["X"]}, place["X"]]
    for wrong in wrongs:
        with pytest.raises(swath.errors.OutError, match="Give one for each"):
            g.gather(range(10), out=wrong)
