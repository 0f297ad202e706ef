"""Where times have a gap, segments end: found by whole numbers and floats alike, and kept by stores."""

import datetime as dt
from fractions import Fraction
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import swath
from swath.errors import IncompleteStoreError, OptionError, StoreNotFoundError

HOUR = dt.timedelta(hours=1)


def _by_hand(values: list[Any], step: Any = None) -> list[list[int]]:
    """Of Python's numbers, which neither wrap nor round."""
    apart = [b - a for a, b in zip(values, values[1:])]
    forward = sorted(d for d in apart if d > 0)
    usual = step if step is not None or not forward else forward[(len(forward) - 1) // 2]
    edges = [0, *(i + 1 for i, d in enumerate(apart) if not (d > 0 and abs(2 * (d - usual)) <= usual)), len(values)]
    return [list(pair) for pair in zip(edges, edges[1:])]


STEPS = st.sampled_from([1, 1, 1, 1, 2, 0, -5, 7, 10**6])


@given(
    st.lists(st.one_of(STEPS, st.integers(-10, 10)), max_size=40),
    st.sampled_from(["i1", "i4", "i8", "u1", "u8", "M8[ns]", "M8[h]"]),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_whole_numbers_and_dates(steps: list[int], dtype: str, step: int | None) -> None:
    values = np.cumsum([50, *steps]).astype("i8")
    values = np.clip(values, 0, 127) if dtype[1:] == "1" else np.abs(values)
    times = values.astype(dtype)
    given_step = np.array(step, dtype.replace("M", "m"))[()] if step and "M8" in dtype else step
    found = swath.segments_from_time(times, given_step)
    assert found.dtype == np.int64
    assert found.tolist() == _by_hand(values.tolist(), step)


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=8), st.sampled_from([1, 5, 2**62]))
def test_numbers_that_are_far_apart_do_not_wrap(values: list[int], step: int) -> None:
    apart = [b - a for a, b in zip(values, values[1:])]
    wanted = [0, *(i + 1 for i, d in enumerate(apart) if not 0 < d < 2**63 or abs(2 * (d - step)) > step)]
    assert swath.segments_from_time(np.array(values), step)[:, 0].tolist() == wanted


@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=30),
    st.sampled_from([None, 0.5]),
    st.sampled_from(["f4", "f8"]),
)
def test_floats(eighths: list[int], step: float | None, dtype: str) -> None:
    exact: list[Any] = [Fraction(k, 8) for k in eighths]
    found = swath.segments_from_time(np.array(eighths, dtype) / 8, step)
    assert found.tolist() == _by_hand(exact, step and Fraction(step))


def test_unsteady_clocks_and_months_follow_one_another() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(1000) + rng.uniform(-0.2, 0.2, 1000)
    assert swath.segments_from_time(seconds).tolist() == [[0, 1000]]
    months = np.arange("2000-01", "2030-01", dtype="M8[M]").astype("M8[D]")
    assert swath.segments_from_time(months).tolist() == [[0, 360]]
    assert swath.segments_from_time(np.delete(months, 100)).tolist() == [[0, 100], [100, 359]]


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard", None])
def test_dates_of_each_calendar(calendar: str | None) -> None:
    make: Any = dt.datetime if calendar is None else lambda *parts: cftime.datetime(*parts, calendar=calendar)
    dates = [make(2001, 2, 27) + k * HOUR * 24 for k in (0, 1, 2, 3, 6, 7)]
    wanted = [[0, 4], [4, 6]]
    assert swath.segments_from_time(dates).tolist() == wanted
    assert swath.segments_from_time(dates, 24 * HOUR).tolist() == wanted
    assert swath.segments_from_time(dates, np.timedelta64(1, "h")).tolist() == [[k, k + 1] for k in range(6)]


def test_a_step_in_other_units() -> None:
    hours = np.array(["2001-01-01T00", "2001-01-01T01", "2001-01-01T03"], "M8[h]")
    assert swath.segments_from_time(hours, np.timedelta64(60, "m")).tolist() == [[0, 2], [2, 3]]
    assert swath.segments_from_time(hours, np.timedelta64(90, "m")).tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("times", "step", "message"),
    [
        (np.array(["2001", "NaT"], "M8[ns]"), None, "The time of row 1 is NaT"),
        ([0.0, np.nan], None, "The time of row 1 is nan"),
        ([0.0, np.inf], None, "The time of row 1 is inf"),
        ([], None, r"shape \(0,\)"),
        ([[1, 2]], None, r"shape \(1, 2\)"),
        (["2001-01-01"], None, "dtype <U10"),
        ([True, False], None, "dtype bool"),
        ([None, 1], None, "The time of row 0 is None"),
        ([cftime.datetime(2001, 1, 1, calendar="noleap"), cftime.datetime(2001, 1, 2, calendar="360_day")], None, "one calendar"),
        ([HOUR, "now"], None, "one calendar"),
        ([1, 2], 0, "step is 0. Give a number that is positive"),
        ([1, 2], -1, "step is -1"),
        ([1, 2], np.nan, "step is nan"),
        ([1, 2], HOUR, "step is .*Give a number"),
        ([1, 2], [1], r"step is \[1\]"),
        (np.arange("2001", "2003", dtype="M8[Y]"), 1, "step is 1. Give a timedelta"),
        (np.arange("2001-01", "2001-05", dtype="M8[M]"), np.timedelta64(30, "D"), "which have no fixed ratio"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(times: Any, step: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        swath.segments_from_time(times, step)


ROWS = np.arange(300).reshape(100, 3)
RANGES = [[0, 30], [30, 31], [31, 100]]


def test_a_store_keeps_segments_and_windows_stay_in_them(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", window=4, segments=RANGES)
    assert a.segments.tolist() == RANGES
    drawn = np.concatenate([batches.starts for batches in [a.batches(7)] for _ in batches])
    assert sorted(drawn.tolist()) == [*range(27), *range(31, 97)]
    a.append(
        ROWS[:10], segments=np.array([[0, 4], [4, 10]], np.uint64)
    )  # which numpy makes floats of beside signed ones
    assert swath.open(tmp_path / "a").segments.tolist() == [*RANGES, [100, 104], [104, 110]]


def test_segments_are_of_the_rows_that_are_taken(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", rows=slice(50, 100), segments=[[0, 20], [20, 50]])
    assert a.segments.tolist() == [[0, 20], [20, 50]]


def test_a_group_has_them_too(tmp_path: Path) -> None:
    g = swath.ingest_group({"x": ROWS, "y": ROWS[:, 0]}, tmp_path / "g", segments=RANGES)
    assert g.segments.tolist() == RANGES
    g.append({"x": ROWS, "y": ROWS[:, 0]}, segments=RANGES)
    assert g.segments.tolist() == [*RANGES, *(np.array(RANGES) + 100).tolist()]


@pytest.mark.parametrize(
    "segments",
    [[[0, 99]], [[1, 100]], [[0, 50], [51, 100]], [[0, 50], [50, 50], [50, 100]], [[0, 60], [60, 40], [40, 100]], [[0, 101]], [],
     [0, 100], [[0.0, 100.0]], "time"],
)  # fmt: skip
def test_segments_that_do_not_follow_one_another_are_refused(tmp_path: Path, segments: Any) -> None:
    with pytest.raises(OptionError, match="segments"):
        swath.ingest(ROWS, tmp_path / "a", segments=segments)
    with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
        swath.open(tmp_path / "a")


def test_an_iterator_has_none(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Leave out segments"):
        swath.ingest(iter([ROWS]), tmp_path / "a", segments=RANGES)
