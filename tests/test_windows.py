from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swath.errors import StartsError, SwathError, WindowError, WindowOutOfBoundsError
from swath.windows import check_starts, check_window, merge_windows


@pytest.mark.parametrize("starts", [[], (), [3, 1], np.array([3], "u1"), np.array([], "i4"), range(4)], ids=repr)
def test_starts_are_any_whole_numbers(starts: Any) -> None:
    checked = check_starts(starts, 16, 100)
    assert checked.dtype == np.int64
    assert checked.tolist() == list(starts)


@pytest.mark.parametrize(
    ("starts", "error", "message"),
    [
        pytest.param([1.0], StartsError, r"dtype float64 and shape \(1,\)", id="floats"),
        pytest.param([True], StartsError, "dtype bool", id="bools"),
        pytest.param([[1, 2]], StartsError, r"shape \(1, 2\)", id="2-d"),
        pytest.param(5, StartsError, r"shape \(\)", id="scalar"),
        pytest.param(["3"], StartsError, "dtype <U1", id="text"),
        pytest.param([[1], [2, 3]], StartsError, "one-dimensional", id="ragged"),
        pytest.param(np.empty(0), StartsError, "dtype float64", id="no-floats"),
        pytest.param(
            [-1], WindowOutOfBoundsError, r"1 of 1 starts lie outside \[0, 84\].*starts\[0\] = -1", id="negative"
        ),
        pytest.param([0, 85, 84], WindowOutOfBoundsError, r"1 of 3 .*starts\[1\] = 85", id="past-the-end"),
        pytest.param(np.array([2**63], "u8"), WindowOutOfBoundsError, "9223372036854775808", id="huge"),
        pytest.param([99] * 9, WindowOutOfBoundsError, r"starts\[4\] = 99, \.\.\.", id="many"),
    ],
)
def test_bad_starts_are_named(starts: Any, error: type[SwathError], message: str) -> None:
    with pytest.raises(error, match=message):
        check_starts(starts, 16, 100)


@pytest.mark.parametrize("window", [0, -1, 101, 1.0, True, "16", None, np.bool_(True)], ids=repr)
def test_a_window_must_exist(window: Any) -> None:
    with pytest.raises(WindowError, match=r"100 rows\. Give a whole number of rows in \[1, 100\]"):
        check_window(window, 100)


@given(st.data())
def test_spans_hold_every_window_and_nothing_twice(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 60))
    window = data.draw(st.integers(1, n_rows))
    grain = data.draw(st.integers(1, 20))
    starts = np.array(data.draw(st.lists(st.integers(0, n_rows - window), max_size=30)), np.int64)
    gap = data.draw(st.integers(0, 3))
    spans = merge_windows(starts, window, grain, gap)
    np.testing.assert_array_equal(starts[spans.order], spans.starts)
    assert (np.diff(spans.starts) >= 0).all()
    assert (spans.first[1:] - spans.stop[:-1] > gap).all()
    grains = {g for first, stop in zip(spans.first, spans.stop) for g in range(first, stop)}
    needed = {row // grain for s in starts for row in range(s, s + window)}
    assert needed <= grains
    between = sorted(needed)
    assert grains - needed <= {g for a, b in zip(between, between[1:]) if b - a - 1 <= gap for g in range(a, b)}


@given(st.sampled_from([3, 45, 55, 62]).flatmap(lambda bits: st.lists(st.integers(0, 2**bits), max_size=200)))
@example([2**61])
def test_windows_are_sorted_as_numpy_sorts_them(starts: list[int]) -> None:
    given_starts = np.array(starts * 2, np.int64)
    spans = merge_windows(given_starts, 1, 1)
    np.testing.assert_array_equal(spans.order, np.argsort(given_starts, kind="stable"))
    np.testing.assert_array_equal(spans.starts, np.sort(given_starts))
