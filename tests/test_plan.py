import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.errors import MemoryLimitError
from swath.layout import Layout
from swath.memory import Room
from swath.plan import Plan, plan_gather

_NO_LIMIT = Room(2**62, "the test")


def _plan(
    n_rows: int, starts: Any, window: int, chunk_rows: int, shard_chunks: int, row: int = 8, **options: Any
) -> Plan:
    layout = Layout(n_rows, (row,), np.dtype("u1"), chunk_rows, chunk_rows * shard_chunks, options.pop("codec", "raw"))
    options = {"columns": None, "batch_in_memory": True, "limit": _NO_LIMIT, **options}
    return plan_gather(layout, np.asarray(starts, np.int64), window, **options)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    n_rows = draw(st.integers(1, 300))
    window = draw(st.integers(1, n_rows))
    starts = draw(st.lists(st.integers(0, n_rows - window), max_size=40))
    row = draw(st.sampled_from([1, 8, 300_000]))  # the last makes reads of 3 chunks
    return _plan(n_rows, starts, window, draw(st.integers(1, 20)), draw(st.integers(1, 10)), row)


@given(plans())
def test_every_row_of_every_window_lies_in_just_one_read(plan: Plan) -> None:
    c = plan.layout.chunk_rows
    placed: dict[tuple[int, int], int] = {}
    for first, stop, lo, hi in zip(plan.first_chunk, plan.stop_chunk, plan.first_window, plan.stop_window):
        for k in range(lo, hi):
            for row in range(max(plan.starts[k], first * c), min(plan.starts[k] + plan.window, stop * c)):
                placed[k, row] = placed.get((k, row), 0) + 1
    wanted = {(k, row) for k, s in enumerate(plan.starts) for row in range(s, s + plan.window)}
    assert placed == dict.fromkeys(wanted, 1)


@given(plans())
def test_reads_ascend_lie_in_one_shard_and_are_wanted(plan: Plan) -> None:
    assert (plan.first_chunk < plan.stop_chunk).all()
    assert (plan.first_chunk[1:] >= plan.stop_chunk[:-1]).all()
    shard = plan.layout.shard_chunks
    assert (plan.first_chunk // shard == (plan.stop_chunk - 1) // shard).all()
    assert (plan.first_window < plan.stop_window).all()
    assert ((plan.stop_chunk - plan.first_chunk) * plan.layout.chunk_bytes <= max(2**20, plan.layout.chunk_bytes)).all()


def test_the_figures_of_a_plan() -> None:
    plan = _plan(1000, [0, 48, 500], 16, chunk_rows=16, shard_chunks=10, row=2000)
    assert plan.bytes_wanted == 3 * 16 * 2000
    assert plan.chunks == 4  # one each for 0 and 48, two for 500
    assert plan.requests == 3 + 2  # reads, and the indexes of two shards
    assert plan.bytes_read == 4 * (16 * 2000 + 4) + 2 * (10 * 16 + 4 + 20)
    assert plan.amplification == plan.bytes_read / plan.bytes_wanted
    assert plan.peak_bytes == plan.cost.total >= plan.bytes_wanted
    text = str(plan)
    assert "3 of 16 rows" in text
    assert "1.34 bytes for each byte wanted" in text


def test_overlaps_are_read_once() -> None:
    assert _plan(100, [0] * 50, 16, chunk_rows=16, shard_chunks=10).chunks == 1
    assert _plan(100, range(80), 16, chunk_rows=16, shard_chunks=10).amplification < 0.1


def test_no_starts_is_a_plan() -> None:
    plan = _plan(100, [], 16, chunk_rows=4, shard_chunks=4)
    assert (plan.requests, plan.bytes_wanted, plan.bytes_read, plan.amplification) == (0, 0, 0, 1.0)


def test_fewer_threads_for_less_memory_and_a_refusal_below_one() -> None:
    def plan(limit: int) -> Plan:
        return _plan(10**6, range(0, 900_000, 9000), 16, 128, 64, 1000, codec="zstd", limit=Room(limit, "the test"))

    free = plan(2**40)
    assert free.threads == 32
    tight = plan(free.peak_bytes - free.cost.scratch + free.cost.scratch // 32 * 3)
    assert tight.threads == 3
    tight.check(Room(tight.peak_bytes, "the test"))
    least = plan(1)
    assert least.threads == 1
    with pytest.raises(
        MemoryLimitError,
        match=r"needs .* \(batch .*, plan .*, scratch .*, overhead .*\), but the limit is .* \(the test\)",
    ):
        least.check(Room(least.peak_bytes - 1, "the test"))


def test_planning_a_million_windows_takes_less_than_100_bytes_each() -> None:
    starts = np.random.default_rng(0).integers(0, 10**9 - 16, 10**6)
    plan = _plan(10**9, starts, 16, 4, 1000, 100)
    arrays = (plan.starts, plan.order, plan.first_chunk, plan.stop_chunk, plan.first_window, plan.stop_window)
    assert sum(array.nbytes for array in arrays) < 100 * starts.size


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_as_many_windows_as_the_refusal_names_do_fit(codec: str) -> None:
    starts = np.random.default_rng(0).integers(0, 10**6 - 16, 5000)

    def plan(n: int, limit: Room) -> Plan:
        return _plan(10**6, starts[:n], 16, chunk_rows=4, shard_chunks=1000, row=1000, codec=codec, limit=limit)

    for limit in (Room(n * 2**20, "the test") for n in (20, 40, 70)):
        with pytest.raises(MemoryLimitError, match=r"columns=, raise memory_limit, or .*out=numpy\.memmap") as refusal:
            plan(5000, limit).check(limit)
        most = re.search(r"at most ([\d,]+) windows", str(refusal.value))
        assert most
        n = int(most[1].replace(",", ""))
        assert 0 < n < 5000
        plan(n, limit).check(limit)


@given(plans(), st.integers(2, 5))
def test_the_peak_grows_with_what_is_asked(plan: Plan, times: int) -> None:
    more = plan_gather(
        plan.layout,
        np.repeat(plan.starts, times),
        plan.window,
        columns=None,
        batch_in_memory=True,
        limit=_NO_LIMIT,
    )
    assert more.bytes_wanted == times * plan.bytes_wanted
    assert more.bytes_read == plan.bytes_read
    assert more.peak_bytes - plan.peak_bytes >= more.bytes_wanted - plan.bytes_wanted
