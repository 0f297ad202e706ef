"""Batches: each window once an epoch, in an order that only seed and epoch decide, from wherever one goes on."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_same, expected

import swath
from swath.errors import MemoryLimitError, OptionError, StartsError, SwathError, WindowError, WindowOutOfBoundsError
from swath.sampling import permuted, windows_within

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


@given(n=st.integers(1, 300), seed=st.integers(0, 2**70), epoch=st.integers(0, 10**9))
def test_a_permutation_takes_each_number_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


def test_a_permutation_is_a_function_of_each_position_alone() -> None:
    n = 10**15
    positions = np.random.default_rng(0).integers(0, n, 1000)
    at_once = permuted(positions, n, 5, 6)
    assert ((at_once >= 0) & (at_once < n)).all()
    assert [int(permuted(positions[i : i + 1], n, 5, 6)[0]) for i in range(10)] == at_once[:10].tolist()
    assert np.unique(at_once).size == np.unique(positions).size


@pytest.mark.parametrize("n", [3, 5, 24, 100])
def test_each_number_is_as_often_at_each_position(n: int) -> None:
    """Chi-square over 4000 seeds, of the number at the first, the middle and the last position."""
    for position in (0, n // 2, n - 1):
        seen = np.bincount([permuted(np.array([position]), n, seed, 1)[0] for seed in range(4000)], minlength=n)
        chi_square = float(((seen - 4000 / n) ** 2 / (4000 / n)).sum())
        # Of n - 1 degrees of freedom: beyond five deviations once in millions of tries, and the seeds are fixed.
        assert abs(chi_square - (n - 1)) < 5 * (2 * (n - 1)) ** 0.5


@pytest.mark.parametrize("n", [5, 33])
def test_two_numbers_go_together_as_often_as_any_others(n: int) -> None:
    """Chi-square over seeds of the pairs at two positions: few by their table, and more by the network."""
    tries, pairs = 50 * n * n, n * (n - 1)
    with pytest.MonkeyPatch.context() as patch:
        if n > 5:
            patch.setattr("swath.sampling._FEW", 0)
        drawn = np.array([permuted(np.arange(2), n, seed, 0) for seed in range(tries)])
    seen = np.bincount(drawn[:, 0] * n + drawn[:, 1], minlength=n * n)
    chi_square = float(((seen[seen > 0] - tries / pairs) ** 2 / (tries / pairs)).sum())
    assert np.count_nonzero(seen) == pairs
    assert abs(chi_square - (pairs - 1)) < 5 * (2 * (pairs - 1)) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    """Differences of what follows in an epoch, and pairs of epochs, are as of numpy's own shuffle."""
    n = 100_000
    order, other = permuted(np.arange(n), n, 0, 0), permuted(np.arange(n), n, 0, 1)
    for x, y in ((order[:-1], order[1:]), (order, other), (np.arange(n), order)):
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / n**0.5
        cells = np.histogram2d(x, y, bins=20)[0]
        assert ((cells - x.size / 400) ** 2 / (x.size / 400)).sum() < 400 + 5 * 800**0.5


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


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    window=st.integers(1, 12),
)
def test_windows_within_segments_are_counted(lengths: list[int], window: int) -> None:
    ends = np.cumsum(lengths)
    segments = np.stack([ends - lengths, ends], axis=1)
    wanted = [start for begin, end in segments.tolist() for start in range(begin, end - window + 1)]
    if not wanted:
        with pytest.raises(WindowError, match="No segment has"):
            windows_within(segments, window)
        return
    found = windows_within(segments, window)
    assert found.size == len(wanted)
    assert found.starts(np.arange(found.size)).tolist() == wanted


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
    whole = [batch.tobytes() for batch in a.batches(30, seed=2, epochs=2)]
    rng = np.random.default_rng(0)
    for k in rng.integers(0, len(whole) + 1, 20).tolist():
        first = a.batches(30, seed=2, epochs=2)
        for _ in range(k):
            next(first)
        state = json.loads(json.dumps(first.state_dict()))
        second = a.batches(30, seed=2, epochs=2)
        second.load_state_dict(state)
        assert [batch.tobytes() for batch in second] == whole[k:]
        assert [batch.tobytes() for batch in pickle.loads(pickle.dumps(first))] == whole[k:]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 3}, "seed"),
        ({"batch_size": 31}, "batch_size"),
        ({"window": 9}, "windows"),
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
    batches = a.batches(30, seed=2)
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


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, OptionError, "batch_size is 0"),
        ({"batch_size": 2.5}, OptionError, r"batch_size is 2\.5"),
        ({"seed": -1}, OptionError, "seed is -1"),
        ({"epochs": 0}, OptionError, "epochs is 0"),
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


def test_a_batch_lands_in_a_place_that_is_given(a: swath.RowArray, tmp_path: Path) -> None:
    batches = a.batches(300, seed=5)
    out = np.empty((300, 8, 3), ROWS.dtype)
    starts, batch = batches.gather_into(1, lambda n: out[:n])
    assert batches.state_dict()["next"] == 0
    assert np.shares_memory(batch, out)
    assert_same(batch, expected(ROWS, starts, 8))
    assert batches.none().shape == (0, 8, 3)
    next(batches)
    assert_same(next(batches), batch)
    g = swath.ingest_group({"X": ROWS, "y": np.arange(1000)}, tmp_path / "g", window=4)
    place = {"X": np.empty((10, 4, 3), ROWS.dtype), "y": np.empty((10, 4), int)}
    found = g.gather(range(10), out=place)
    assert found["y"] is place["y"]
    assert_same(place["X"], expected(ROWS, range(10), 4))
    for wrong in ({"X": place["X"]}, place["X"]):
        with pytest.raises(swath.errors.OutError, match="Give one for each"):
            g.gather(range(10), out=wrong)
