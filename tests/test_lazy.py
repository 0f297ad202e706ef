import math
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pytest
import zarr
from dask.local import get_sync
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.computing import tasks_here
from swath.crew import local_cores
from swath.errors import MemoryLimitError, OptionError, OutError, StartsError, SwathError
from swath.graphs import flat_graph, held_by, jobs_of, sizes_of
from swath.memory import Room

ROWS = np.random.default_rng(0).normal(size=(2000, 30))
STARTS = np.random.default_rng(1).integers(0, 2000 - 16, 500)
WANTED = expected(ROWS, STARTS, 16)


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    return swath.ingest(ROWS, tmp_path_factory.mktemp("lazy") / "a.zarr", shard_rows=256)


@pytest.mark.parametrize("block", [1, 7, 500, 10_000, None])
def test_windows_are_a_dask_array_of_few_tasks(a: swath.RowArray, block: int | None) -> None:
    lazy = a.windows(STARTS, block=block)
    assert (lazy.shape, lazy.dtype) == (WANTED.shape, WANTED.dtype)
    assert len(lazy.dask) == math.ceil(500 / (block or 500))
    assert_same(lazy.compute(scheduler="threads"), WANTED)


def test_the_reference_batch_makes_under_500_tasks(a: swath.RowArray) -> None:
    # 10_000 windows of 256 KB, in blocks of at most 128 MiB.
    lazy = a.windows(np.zeros(10_000, int), window=1000)
    assert len(lazy.dask) < 500


def test_names_are_those_of_the_content(a: swath.RowArray) -> None:
    name = a.windows(STARTS).name
    assert name == swath.open(a.url).windows(STARTS.tolist()).name
    others = [
        a.windows(STARTS[:-1]),
        a.windows(STARTS, window=15),
        a.windows(STARTS, columns=[1]),
        a.windows(STARTS, block=9),
    ]
    assert len({name, *(lazy.name for lazy in others)}) == 5


def test_what_dask_does_with_arrays_works(a: swath.RowArray) -> None:
    lazy = a.windows(STARTS, block=100)
    np.testing.assert_allclose(lazy.mean(axis=(0, 1)).compute(), WANTED.mean(axis=(0, 1)))
    assert_same(lazy[30:330:7, 2:5, ::-1].compute(), WANTED[30:330:7, 2:5, ::-1])
    assert_same(lazy.rechunk((60, 4, 30)).compute(), WANTED)
    assert_same((da.map_blocks(np.negative, lazy) + 1).compute(), 1 - WANTED)
    assert_same(lazy.persist().compute(), WANTED)


def test_their_own_compute_keeps_to_a_limit_here_and_elsewhere(
    a: swath.RowArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = a.windows(STARTS, block=64)
    travelled = pickle.loads(pickle.dumps(lazy))
    assert travelled.name == lazy.name
    monkeypatch.setattr("swath.computing.resolve_limit", lambda limit: Room(1_000_000, "the test"))
    for each in (lazy, travelled):
        with pytest.raises(MemoryLimitError, match=r"result 1\.83 MiB"):
            each.compute()
        assert_same(each.compute(scheduler="threads", optimize_graph=False), WANTED)  # as dask would


def test_in_the_order_of_storage(a: swath.RowArray) -> None:
    lazy = a.windows(STARTS, block=64, order="storage")
    assert_same(lazy.compute(), expected(ROWS, np.sort(STARTS), 16))
    assert lazy.name != a.windows(STARTS, block=64).name
    assert lazy.name == a.windows(STARTS[::-1], block=64, order="storage").name
    with pytest.raises(OptionError, match=r"order is 'any'\. Choose one of 'asked', 'storage'"):
        a.windows(STARTS, order="any")  # type: ignore[arg-type]


def test_starts_that_change_later_change_nothing(a: swath.RowArray) -> None:
    starts = STARTS.copy()
    lazy = a.windows(starts)
    starts[:] = 0
    assert_same(lazy.compute(), WANTED)


def test_no_windows(a: swath.RowArray) -> None:
    lazy = a.windows([])
    assert lazy.shape == (0, 16, 30)
    assert_same(swath.compute(lazy), WANTED[:0])
    assert_same(lazy.compute(), WANTED[:0])


@pytest.mark.parametrize(
    ("out", "scheduler"),
    [
        *(
            (out, scheduler)
            for out in ("none", "array", "part", "memmap", "zarr", "hdf5")
            for scheduler in (None, "synchronous")
        ),
        ("none", "processes"),
        ("memmap", "processes"),
    ],
)
def test_compute_lands_anywhere(a: swath.RowArray, tmp_path: Path, out: str, scheduler: str | None) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "array": lambda: np.empty_like(WANTED),
        "part": lambda: np.empty((*WANTED.shape, 2))[..., 0],
        "memmap": lambda: np.memmap(tmp_path / "out", "f8", "w+", shape=WANTED.shape),
        "zarr": lambda: zarr.create_array(tmp_path / "out.zarr", shape=WANTED.shape, chunks=(64, 16, 30), dtype="f8"),
        "hdf5": lambda: h5py.File(tmp_path / "out.h5", "w").create_dataset("x", WANTED.shape, "f8"),
    }
    target = makers[out]()
    result = swath.compute(a.windows(STARTS, block=64), out=target, scheduler=scheduler)
    assert target is None or result is target
    assert_same(np.asarray(result[...]), WANTED)


@pytest.mark.parametrize("chunks", [None, (11, 7, 30)], ids=str)
def test_what_does_not_lie_as_in_the_file_is_written_a_slab_at_a_time(tmp_path: Path, chunks: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 300))
    starts = np.arange(0, 1980, 4)
    # Blocks of 12.7 and 6.3 MB.
    lazy = swath.ingest(rows, tmp_path / "rows").windows(starts, block=330).transpose(2, 1, 0)
    file = h5py.File(tmp_path / "out.h5", "w")
    out = file.create_dataset("x", lazy.shape, "f8", chunks=chunks)
    swath.compute(lazy[:, :, :3], out=file.create_dataset("first", (300, 16, 3), "f8"))  # what a first call imports
    tracemalloc.start()
    try:
        swath.compute(lazy, out=out, scheduler="synchronous")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12.7e6 + 7e6
    assert_same(out[...], expected(rows, starts, 16).transpose(2, 1, 0))


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_compute_of_what_dask_made_of_windows(a: swath.RowArray, scheduler: str) -> None:
    lazy = a.windows(STARTS, block=64)
    np.testing.assert_allclose(swath.compute(lazy.mean(axis=1), scheduler=scheduler), WANTED.mean(axis=1))
    assert_same(swath.compute(lazy[5:450], scheduler=scheduler), WANTED[5:450])
    assert_same(swath.compute(da.concatenate([lazy, lazy]), scheduler=scheduler), np.concatenate([WANTED, WANTED]))
    assert swath.compute(lazy.sum(), scheduler=scheduler) == pytest.approx(WANTED.sum())
    assert_same(swath.compute(da.ones((3, 4), chunks=2)), np.ones((3, 4)))


def test_the_configured_scheduler_is_used(a: swath.RowArray) -> None:
    called: list[Any] = []

    def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
        called.append(keys)
        return get_sync(graph, keys, **options)

    with dask.config.set(scheduler=scheduler):
        assert_same(swath.compute(a.windows(STARTS, block=64)), WANTED)
    assert called


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param(
            {"out": np.empty((1, 2))}, OutError, r"shape \(1, 2\).*Give an array of shape \(500, 16, 30\)", id="shape"
        ),
        pytest.param({"out": np.empty(WANTED.shape, "f4")}, OutError, "dtype float32", id="dtype"),
        pytest.param({"out": 5}, OutError, "out is a int", id="no-array"),
        pytest.param({"out": np.broadcast_to(1.0, WANTED.shape)}, OutError, "read-only", id="read-only"),
        pytest.param(
            {"memory_limit": "1MB"}, MemoryLimitError, r"result 1.83 MiB.*limit is 976.56 KiB.*out=", id="memory"
        ),
        pytest.param({"memory_limit": "nothing"}, OptionError, "memory_limit is 'nothing'", id="no-size"),
    ],
)
def test_a_bad_compute_is_refused(
    a: swath.RowArray, options: dict[str, Any], error: type[SwathError], message: str
) -> None:
    with pytest.raises(error, match=message):
        swath.compute(a.windows(STARTS), **options)
    with pytest.raises(error, match=message):
        swath.compute(a.windows(STARTS) + 0, **options)


@pytest.mark.parametrize("wanted", [True, False, None])
def test_a_bar_shows_how_far_it_is(a: swath.RowArray, capsys: pytest.CaptureFixture[str], wanted: bool | None) -> None:
    for lazy in (a.windows(STARTS, block=64), a.windows(STARTS, block=64) + 1):
        swath.compute(lazy, progress=wanted)
        shown = capsys.readouterr().err
        assert ("compute" in shown and "1.9/1.9 MB" in shown) if wanted else not shown


def test_what_is_no_dask_array_of_known_shape_is_refused(a: swath.RowArray) -> None:
    with pytest.raises(OptionError, match="ndarray is no dask array"):
        swath.compute(ROWS)  # type: ignore[arg-type]
    unknown = a.windows(STARTS)
    with pytest.raises(OptionError, match="compute_chunk_sizes"):
        swath.compute(unknown[unknown[:, 0, 0] > 0])


def test_bad_windows_are_refused_at_once(a: swath.RowArray) -> None:
    with pytest.raises(StartsError):
        a.windows([0.5])
    for block in (0, -1, 2.0, True):
        with pytest.raises(OptionError, match="block is "):
            a.windows(STARTS, block=block)  # type: ignore[arg-type]


def test_nothing_is_read_before_the_refusal(a: swath.RowArray, tmp_path: Path) -> None:
    copy = swath.ingest(ROWS, tmp_path / "a.zarr")
    for shard in tmp_path.glob("a.zarr/c.*"):
        shard.unlink()
    with pytest.raises(MemoryLimitError):
        swath.compute(copy.windows(STARTS), memory_limit="1MB")


# Five windows are a block of 19,200 bytes.
@pytest.mark.parametrize(
    ("made", "blocks"),
    [
        pytest.param(lambda x: x[::-1], 1, id="a view"),
        pytest.param(lambda x: x[:, :9], 1, id="more than half, a view"),
        pytest.param(lambda x: x[:, :8], 1.5, id="half, a copy"),
        pytest.param(lambda x: da.concatenate([x, x]), 1, id="blocks under other names"),
        pytest.param(lambda x: x * 2 + 1, 2, id="arithmetic"),
        pytest.param(np.sqrt, 2, id="a ufunc"),
        pytest.param(lambda x: x.astype("f4"), 1.5, id="a cast"),
        pytest.param(lambda x: x.sum(axis=2), 1 + 3 / 30, id="a sum"),
        pytest.param(lambda x: x.mean(axis=2), 1 + 3 / 30, id="a mean"),
        pytest.param(lambda x: x.max(axis=2), 1 + 3 / 30, id="a maximum"),
        pytest.param(lambda x: x.var(axis=2), 3 + 3 / 30, id="a variance"),
        pytest.param(lambda x: da.nansum(x, axis=2), 2.25 + 3 / 30, id="a sum of what is there"),
        pytest.param(lambda x: da.nanmean(x, axis=2), 2.25 + 3 / 30, id="a mean of what is there"),
        pytest.param(lambda x: da.nanvar(x, axis=2), 4.25 + 3 / 30, id="a variance of what is there"),
        pytest.param(lambda x: x.map_blocks(np.sort), 3, id="who knows what"),
        pytest.param(lambda x: x.rechunk({0: (2, 3, 5, 5)}), 1.4, id="cut, the smaller part copied"),
    ],
)
def test_what_a_graph_is_said_to_hold(a: swath.RowArray, made: Callable[[da.Array], da.Array], blocks: float) -> None:
    lazy = made(a.windows(STARTS[:15], block=5))
    graph = flat_graph(lazy)
    outputs = [(lazy.name, *index) for index in np.ndindex(*lazy.numblocks)]
    held = [held_by(job, sizes_of(lazy, graph), landing=False) for job in jobs_of(graph, outputs)]
    assert max(each.peak for each in held) == pytest.approx(blocks * 5 * 16 * 30 * 8)


@pytest.mark.parametrize(
    ("cached", "at_once", "threads"),
    [
        pytest.param(True, 2, max(1, local_cores() // 2), id="from memory by as many as cores"),
        pytest.param(False, 2, 16, id="from a disk by 32"),
        pytest.param(False, 8, 6, id="divided among the five that there are, and not eight"),
    ],
)
def test_tasks_divide_the_threads_that_read(
    a: swath.RowArray, monkeypatch: pytest.MonkeyPatch, cached: bool, at_once: int, threads: int
) -> None:
    monkeypatch.setattr("swath.lazy.are_cached", lambda *_: cached)
    tasks = tasks_here(flat_graph(a.windows(STARTS, block=100) + 0), at_once)
    assert [task.func.threads for task in tasks.values()] == 5 * [threads]


def test_the_chunks_of_a_file_are_counted(a: swath.RowArray, tmp_path: Path) -> None:
    # A block of 100 windows (384,000 bytes) is a part of a chunk of 38 MB, which is read, decoded, merged and encoded.
    lazy = a.windows(STARTS, block=100)
    for part in (lazy, lazy + 1):
        shape = part.shape
        whole = zarr.create_array(tmp_path / "whole", shape=shape, chunks=(100, 16, 30), dtype="f8", overwrite=True)
        swath.compute(part, out=whole, memory_limit="64MiB")
        parts = zarr.create_array(tmp_path / "parts", shape=shape, chunks=(9999, 16, 30), dtype="f8", overwrite=True)
        with pytest.raises(MemoryLimitError, match="in flight"):
            swath.compute(part, out=parts, memory_limit="64MiB")


def test_a_row_array_travels_light_and_works_elsewhere(a: swath.RowArray, tmp_path: Path) -> None:
    a.gather([5])  # an index is cached, and does not travel
    pickled = pickle.dumps(a)
    assert len(pickled) < 2000
    (tmp_path / "a.pickle").write_bytes(pickled)
    program = "import pickle, sys; a = pickle.load(open(sys.argv[1], 'rb')); print(a.gather([5]).sum())"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.pickle"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == WANTED[:0].sum() + ROWS[5:21].sum()


def test_a_forked_child_gathers(a: swath.RowArray) -> None:
    import multiprocessing

    a.gather(STARTS)  # threads have run in the parent
    with multiprocessing.get_context("fork").Pool(1) as pool:
        batch: NDArray[Any] = pool.apply_async(a.gather, (STARTS.tolist(),)).get(timeout=60)
    assert_same(batch, WANTED)


_FREED = """
import gc, sys, weakref
sys.modules["jinja2"] = None  # as where it is not installed
import swath

def first_compute():
    a = swath.open(sys.argv[1])
    batch = swath.compute(a.windows([1, 2, 3]))
    return weakref.ref(batch)

gc.disable()
print(first_compute()())
"""


def test_the_batch_is_freed_when_its_last_name_goes(a: swath.RowArray) -> None:
    """Also that of the call which imported dask, which keeps the frames of who imports it."""
    done = subprocess.run([sys.executable, "-c", _FREED, a.url], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


@pytest.mark.parametrize("dtype", [object, "U5", "M8[s]", np.dtypes.StringDType()])
def test_results_of_any_dtype_are_computed(a: swath.RowArray, dtype: Any) -> None:
    """Objects must not be laid over memory with rubbish in it, which ends the process."""
    lazy: Any = a.windows([3, 1, 2]).astype(dtype)
    found = swath.compute(lazy)
    assert found.dtype == dtype
    assert np.array_equal(found, a.gather([3, 1, 2]).astype(dtype))
