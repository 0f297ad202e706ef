"""Orders of windows: by formula, each as often as its order says, the same for each seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.errors import OptionError, WindowError
from swath.permutation import permuted, uniform
from swath.population import Given, Windows, windows_within
from swath.sampling import Blocks, Order, Sampler, Shuffled, Uniform, Weighted, sampler_of, split_segments

OPTIONS: dict[str, Any] = {
    "seed": 0,
    "order": Shuffled(),
    "epoch": 0,
    "epochs": 1,
    "rank": 0,
    "world_size": 1,
    "starts": None,
    "keep": None,
    "stride": 1,
    "drop_last": False,
}


def sampler(segments: Sequence[Sequence[int]], window: int, batch_size: int, **options: Any) -> Sampler:
    return sampler_of(np.array(segments), window, batch_size, **{**OPTIONS, **options})


def epoch_of(order: Order, n: int, seed: int = 0, epoch: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """All numbers of an epoch of ``n`` windows."""
    windows = Windows(np.array([0]), np.array([n]), 1)
    return order.numbers(np.arange(order.draws(n)), windows, seed, epoch)


def assert_even(seen: np.ndarray[Any, np.dtype[np.int64]], expected: np.ndarray[Any, Any] | float) -> None:
    """Chi-square: beyond five deviations once in millions of tries, and the seeds are fixed."""
    degrees = seen.size - 1
    assert abs(float(((seen - expected) ** 2 / expected).sum()) - degrees) < 5 * (2 * degrees) ** 0.5


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
            patch.setattr("swath.permutation._FEW", 0)
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


def test_windows_come_every_so_many_rows() -> None:
    found = windows_within(np.array([[0, 20], [20, 24], [24, 41]]), 5, stride=6)
    assert found.starts(np.arange(found.size)).tolist() == [0, 6, 12, 24, 30, 36]
    assert windows_within(np.array([[0, 5]]), 5, stride=100).size == 1


@given(
    n=st.integers(1, 3000),
    block=st.integers(1, 100),
    mix=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_blocks_have_each_window_once(n: int, block: int, mix: int, seed: int, epoch: int) -> None:
    numbers = epoch_of(Blocks(block, mix), n, seed, epoch)
    assert sorted(numbers.tolist()) == list(range(n))
    # All windows of a mixture are those of whole blocks of neighbours, but for the last.
    for i in range(0, n - block * mix, block * mix):
        mixed = np.sort(numbers[i : i + block * mix])
        runs = np.split(mixed, np.flatnonzero(np.diff(mixed) != 1) + 1)
        assert all(len(run) % block == 0 or run[0] == 0 or run[-1] == n - 1 for run in runs)
    some = np.random.default_rng(0).integers(0, n, 7)
    windows = Windows(np.array([0]), np.array([n]), 1)
    assert (Blocks(block, mix).numbers(some, windows, seed, epoch) == numbers[some]).all()


def test_blocks_are_read_in_runs_unless_they_are_mixed() -> None:
    n = 10_000
    in_runs = epoch_of(Blocks(50), n)
    assert np.count_nonzero(np.diff(in_runs) == 1) >= n * 49 / 50 - 2
    mixed = epoch_of(Blocks(50, 8), n)
    assert np.count_nonzero(np.diff(mixed) == 1) < n / 100
    assert np.count_nonzero(np.diff(np.sort(mixed[:400])) == 1) >= 400 - 8 - 1


def test_blocks_are_as_often_anywhere() -> None:
    """Each window is as often at the first place of an epoch, and blocks begin at any window."""
    first = np.array([epoch_of(Blocks(8, 4), 50, seed)[0] for seed in range(5000)])
    assert_even(np.bincount(first, minlength=50), 5000 / 50)


@pytest.mark.parametrize("n", [1, 7, 1000, 10**12])
def test_uniform_draws_are_even(n: int) -> None:
    windows = Windows(np.array([0]), np.array([n]), 1)
    numbers = Uniform().numbers(np.arange(100_000), windows, 3, 2)
    assert numbers.min() >= 0
    assert numbers.max() < n
    bins = min(n, 50)
    if n > 1:
        seen = np.bincount(numbers * bins // n, minlength=bins)
        edges = -(-np.arange(bins + 1) * n // bins)
        assert_even(seen, 100_000 * np.diff(edges) / n)
    other = Uniform().numbers(np.arange(100_000), windows, 3, 1)
    if n > 7:
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / 100_000**0.5
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 5 / 100_000**0.5


def test_streams_have_nothing_in_common() -> None:
    positions = np.arange(100_000)
    draws = [uniform(positions, 0, 0, 0), uniform(positions, 0, 0, 1), uniform(positions, 1, 0, 0)]
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 5 / 100_000**0.5
    assert all(draw.min() >= 0 and draw.max() < 1 for draw in draws)


def test_weights_are_kept_for_segments_and_evenly_within() -> None:
    windows = windows_within(np.array([[0, 13], [13, 20], [20, 100], [100, 102]]), 4)
    order = Weighted([1, 2.5, 6.5, 0])
    order.check(windows)
    starts = windows.starts(order.numbers(np.arange(100_000), windows, 1, 0))
    expected = np.zeros(102)
    expected[:10], expected[13:17], expected[20:97] = 0.1 / 10, 0.25 / 4, 0.65 / 77
    seen = np.bincount(starts, minlength=102)
    assert not seen[expected == 0].any()
    assert_even(seen[expected > 0], 100_000 * expected[expected > 0])


def test_weights_may_be_huge() -> None:
    windows = windows_within(np.array([[0, 10], [10, 20]]), 4)
    numbers = Weighted([1e308, 1e308]).numbers(np.arange(1000), windows, 0, 0)
    assert np.bincount(numbers, minlength=14).min() > 20


def test_a_seed_is_no_epoch_of_another() -> None:
    positions = np.arange(2000)
    draws = [permuted(positions, 2000, *each).tolist() for each in ((2**32, 0), (0, 1), (2**64, 0), (1, 0), (0, 2**32))]
    assert len({tuple(draw) for draw in draws}) == 5


def test_weights_are_kept_for_given_windows() -> None:
    order = Weighted(np.arange(5), windows=50_000)
    assert order.draws(5) == 50_000
    given_starts = Given(np.array([7, 5, 5, 0, 9]))
    order.check(given_starts)
    starts = given_starts.starts(order.numbers(np.arange(50_000), given_starts, 0, 0))
    seen = np.bincount(starts, minlength=10)
    assert_even(seen[[5, 0, 9]], 50_000 * np.array([0.3, 0.3, 0.4]))
    assert seen[7] == 0


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    window=st.integers(1, 6),
    stride=st.integers(1, 9),
    batch_size=st.integers(1, 40),
    order=st.sampled_from([Shuffled(), Blocks(3), Blocks(4, 2), Uniform(), Uniform(77)]),
    epochs=st.integers(1, 3),
    world_size=st.integers(1, 4),
    workers=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_ranks_and_workers_share_what_one_would_have(
    lengths: list[int],
    window: int,
    stride: int,
    batch_size: int,
    order: Order,
    epochs: int,
    world_size: int,
    workers: int,
    drop_last: bool,
) -> None:
    ends = np.cumsum(lengths)
    segments = np.stack([ends - lengths, ends], axis=1).tolist()
    if max(lengths) < window:
        return
    options = {"order": order, "epochs": epochs, "stride": stride, "drop_last": drop_last, "seed": 4}
    n = order.draws(sum(len(range(begin, end - window + 1, stride)) for begin, end in segments))
    if drop_last and n < world_size * batch_size:
        with pytest.raises(OptionError, match="make no full batch"):
            sampler(segments, window, batch_size, **options, world_size=world_size)
        return
    alone = sampler(segments, window, batch_size, **options)
    whole = [alone.starts(k).tolist() for k in range(len(alone))]
    ranks = [
        sampler(segments, window, batch_size, **options, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    if drop_last:
        assert len({len(rank) for rank in ranks}) == 1
        assert {len(batch) for batch in whole} <= {batch_size}
    if not drop_last or world_size == 1:
        dealt = [[rank.starts(k).tolist() for k in range(len(rank))] for rank in ranks]
        assert [dealt[k % world_size][k // world_size] for k in range(len(whole))] == whole
    for rank in ranks:
        mine = [rank.starts(k).tolist() for k in range(len(rank))]
        shared = [rank.share(k, workers) for k in range(workers)]
        assert sum(map(len, shared)) == len(mine)
        assert [shared[k % workers].starts(k // workers).tolist() for k in range(len(mine))] == mine


def test_an_epoch_of_many_windows_is_a_formula() -> None:
    """10^9 windows and more: any batch of any epoch at once."""
    for order in (Shuffled(), Blocks(64, 16), Uniform()):
        huge = sampler([[0, 10**12]], 16, 32, order=order, epochs=10**6)
        assert huge.starts(3 * 10**15).size == 32
        later = sampler([[0, 10**12]], 16, 32, order=order, epoch=5)
        in_one = sampler([[0, 10**12]], 16, 32, order=order, epochs=6)
        assert later.starts(17).tolist() == in_one.starts(5 * in_one.batches_an_epoch + 17).tolist()
        assert later.starts(17).tolist() != in_one.starts(17).tolist()


def test_segments_are_chosen() -> None:
    chosen = sampler([[0, 10], [10, 30], [30, 35]], 5, 100, keep=[2, 0], seed=None)
    assert chosen.starts(0).tolist() == [30, 0, 1, 2, 3, 4, 5]
    assert chosen.identity != sampler([[0, 10], [10, 30], [30, 35]], 5, 100, keep=[0, 2], seed=None).identity


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    fractions=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    seed=st.integers(0, 20),
)
def test_a_split_has_each_segment_once(lengths: list[int], fractions: list[int], seed: int) -> None:
    ends = np.cumsum(lengths)
    segments = np.stack([ends - lengths, ends], axis=1)
    wanted = np.array(fractions) / sum(fractions)
    try:
        parts = split_segments(segments, wanted.tolist(), seed=seed)
    except OptionError:
        assert len(lengths) < 4 or max(lengths) >= wanted.min() * ends[-1] / 2
        return
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    got = np.array([np.array(lengths)[part].sum() for part in parts]) / ends[-1]
    assert np.abs(got - wanted).max() <= max(lengths) / ends[-1] + 1e-9


def test_a_split_is_of_its_seed() -> None:
    segments = np.stack([np.arange(100) * 10, np.arange(1, 101) * 10], axis=1)
    train, validation = split_segments(segments, (0.8, 0.2), seed=1)
    assert train.size == 80
    assert validation.tolist() == split_segments(segments, (0.8, 0.2), seed=1)[1].tolist()
    assert validation.tolist() != split_segments(segments, (0.8, 0.2), seed=2)[1].tolist()
    assert validation.tolist() != list(range(80, 100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blocks(0), "block is 0"),
        (lambda: Blocks(4, True), "mix is True"),
        (lambda: Uniform(0), "windows is 0"),
        (lambda: Weighted([1.0], windows=True), "windows is True"),
        (lambda: Weighted([]), r"weights have shape \(0,\)"),
        (lambda: Weighted([[1.0]]), r"shape \(1, 1\)"),
        (lambda: Weighted(["a"]), "dtype <U1"),
        (lambda: Weighted([1, -1]), "from -1 to 1"),
        (lambda: Weighted([1, np.nan]), "from nan to nan"),
        (lambda: Weighted([0, 0]), "not all 0"),
        (lambda: sampler([[0, 9]], 2, 3, order=Weighted([1, 2])), "2 weights for 1 segments"),
        (lambda: sampler([[0, 9], [9, 10]], 2, 3, order=Weighted([1, 2])), "Segment 1 has a weight"),
        (lambda: sampler([[0, 9]], 2, 3, order=Uniform(), seed=None), r"order is Uniform\(None\)"),
        (lambda: sampler([[0, 9]], 2, 3, stride=0), "stride is 0"),
        (lambda: sampler([[0, 9]], 2, 3, epoch=-1), "epoch is -1"),
        (lambda: sampler([[0, 9]], 2, 3, keep=[1]), "numbers from 0 to 0"),
        (lambda: sampler([[0, 9]], 2, 3, keep=[-1]), "numbers from 0 to 0"),
        (lambda: sampler([[0, 9], [9, 20]], 2, 3, keep=[0, 0]), "each once"),
        (lambda: sampler([[0, 9]], 2, 3, keep=[]), "list of numbers"),
        (lambda: sampler([[0, 9]], 2, 3, keep=[0.5]), "list of numbers"),
        (lambda: sampler([[0, 9]], 2, 3, keep=[0], starts=[1]), "starts are given"),
        (lambda: sampler([[0, 9]], 2, 3, stride=2, starts=[1]), "starts are given"),
        (lambda: split_segments([[0, 9]], (0.5, 0.5)), "none falls to part"),
        (lambda: split_segments([0, 9], (0.5, 0.5)), r"shape \(2,\)"),
        (lambda: split_segments([[0, 9]], ()), "fractions are"),
        (lambda: split_segments([[0, 9]], (0.5, 0.4)), "add up to 1"),
        (lambda: split_segments([[0, 9]], (1.5, -0.5)), "add up to 1"),
        (lambda: split_segments([[0, 9]], (1.0,), seed=-1), "seed is -1"),
        (lambda: split_segments([[0, 9]], "ab"), "fractions are 'ab'"),  # type: ignore[arg-type]
        (lambda: Blocks(2**31 + 1), "block is"),
        (lambda: Uniform(2**61), "windows is"),
    ],
)
def test_what_means_nothing_is_refused(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
