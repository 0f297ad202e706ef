"""Datasets of PyTorch: the same windows and batches, however many processes read them, and from wherever one goes on."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from oracle import assert_same, expected
from servers import Server
from torch.utils.data import DataLoader, RandomSampler, Subset, default_collate
from torchdata.stateful_dataloader import StatefulDataLoader

import swath
from swath.errors import (
    ColumnsError,
    DamagedStoreError,
    MemoryLimitError,
    OptionError,
    StoreUnreachableError,
    SwathError,
    WindowError,
    WindowOutOfBoundsError,
)
from swath.loaders.torch import Batches, Windows, collate

# A process with threads says so when it forks; swath has none of its own then.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata calls it
]

ROWS = np.arange(1000 * 3, dtype="i4").reshape(1000, 3)
LABELS = np.arange(1000) % 7
CONTEXTS = ("fork", "forkserver", "spawn")


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    """Recordings of 300, 5 and 695 rows: 293 + 688 windows of 8 rows."""
    folder = tmp_path_factory.mktemp("torch")
    edges = [0, 300, 305, 1000]
    paths = []
    for i in range(3):
        paths.append(folder / f"{i}.npy")
        np.save(paths[-1], ROWS[edges[i] : edges[i + 1]])
    return swath.ingest(paths, folder / "a", window=8, chunk_rows=4, shard_rows=100)


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> swath.RowGroup:
    return swath.ingest_group({"X": ROWS, "y": LABELS}, tmp_path_factory.mktemp("torch") / "g", window=4)


def _loader(dataset: Any, *, how: str | None = None, workers: int = 0, **options: Any) -> Any:
    """One that tells a process that hangs from one that works."""
    if workers:
        options |= {"num_workers": workers, "multiprocessing_context": how, "timeout": 120}
    return DataLoader(dataset, **options)


def _bytes(batches: Any) -> list[bytes]:
    return [batch.numpy().tobytes() for batch in batches]


# Windows by number.


def test_windows_are_those_within_segments_in_their_order(a: swath.RowArray) -> None:
    windows, starts = Windows(a), [*range(293), *range(305, 993)]
    assert len(windows) == len(starts) == 981
    for number in (0, 292, 293, 980):
        assert_same(windows[number].numpy(), ROWS[starts[number] : starts[number] + 8])
    numbers = np.random.default_rng(0).integers(0, 981, 200).tolist()
    wanted = expected(ROWS, [starts[k] for k in numbers], 8)
    assert_same(collate(windows.__getitems__(numbers)).numpy(), wanted)
    assert_same(default_collate(windows.__getitems__(numbers)).numpy(), wanted)
    assert len(Windows(a, across_segments=True)) == 993


def test_windows_can_be_chosen(a: swath.RowArray) -> None:
    windows = Windows(a, starts=[500, 3, 990], window=5, columns=[2, 0])
    assert_same(collate(windows.__getitems__([2, 0, 2])).numpy(), expected(ROWS, [990, 500, 990], 5)[..., [2, 0]])
    assert [sample.shape for sample in windows] == [(5, 2)] * 3
    assert len(Windows(a, starts=[])) == 0
    again = pickle.loads(pickle.dumps(windows))
    assert_same(again[1].numpy(), windows[1].numpy())


def test_a_batch_counts_in_the_limit(a: swath.RowArray) -> None:
    some = Windows(a, memory_limit="40MiB")
    assert len(some.__getitems__([0] * 100)) == 100
    with pytest.raises(
        MemoryLimitError, match=r"A batch of 1,000,000 windows takes 91.55 MiB, but the limit is 40.00 MiB"
    ):
        some.__getitems__([0] * 1_000_000)


def test_a_batch_is_one_gather_and_no_copy(a: swath.RowArray, monkeypatch: pytest.MonkeyPatch) -> None:
    gathers: list[int] = []
    gather = swath.RowArray.gather

    def counted(a: swath.RowArray, starts: Any, **options: Any) -> Any:
        gathers.append(len(starts))
        return gather(a, starts, **options)

    monkeypatch.setattr(swath.RowArray, "gather", counted)
    samples = Windows(a).__getitems__(list(range(0, 900, 3)))
    assert gathers == [300]
    batch = collate(samples)
    assert [sample.data_ptr() for sample in samples] == [row.data_ptr() for row in batch]
    assert_same(collate(samples[:5]).numpy(), default_collate(samples[:5]).numpy())  # a part of them is no batch


def test_samples_of_a_group_are_dicts(g: swath.RowGroup) -> None:
    windows = Windows(g, window=2)
    assert windows[7].keys() == {"X", "y"}
    for how in (collate, default_collate):
        batch = how(windows.__getitems__([7, 998, 7]))
        assert_same(batch["X"].numpy(), expected(ROWS, [7, 998, 7], 2))
        assert_same(batch["y"].numpy(), expected(LABELS, [7, 998, 7], 2))
    loader = _loader(Subset(windows, range(10, 20)), batch_size=4, collate_fn=collate)
    assert [batch["y"][:, 0].tolist() for batch in loader] == [[3, 4, 5, 6], [0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("how", "own"), [("fork", True), ("fork", False), ("forkserver", True), ("spawn", True)], ids=str
)
def test_workers_give_the_same_windows(a: swath.RowArray, how: str, own: bool) -> None:
    options = {"collate_fn": collate} if own else {}

    def loader(workers: int) -> Any:
        sampler = RandomSampler(windows, generator=torch.Generator().manual_seed(3))
        return _loader(windows, how=how, workers=workers, batch_size=100, sampler=sampler, **options)

    windows = Windows(a)
    alone = _bytes(loader(0))
    assert len(alone) == 10
    assert _bytes(loader(1 if how == "spawn" else 2)) == alone


class _Told:
    """What `collate` gives, and whether it lies in shared memory already where it was made."""

    def __call__(self, samples: list[Any]) -> Any:
        batch = collate(samples)
        each = batch.values() if isinstance(batch, dict) else [batch]
        return batch, all(tensor.is_shared() for tensor in each)


def test_what_a_worker_gathers_lies_in_shared_memory(a: swath.RowArray, g: swath.RowGroup) -> None:
    for rows in (a, g):
        batches = list(_loader(Windows(rows), how="fork", workers=1, batch_size=200, collate_fn=_Told()))
        assert [shared for _, shared in batches] == [True] * 5
    assert_same(batches[1][0]["X"].numpy(), expected(ROWS, range(200, 400), 4))
    assert [shared for _, shared in _loader(Windows(a), batch_size=500, collate_fn=_Told())] == [False, False]


@pytest.mark.parametrize("numbers", [[981], [0, -1], [2**70]])
def test_a_number_without_a_window_is_refused(a: swath.RowArray, numbers: list[int]) -> None:
    with pytest.raises((WindowOutOfBoundsError, OptionError), match=rf"{numbers[-1]}"):
        Windows(a).__getitems__(numbers)


@pytest.mark.parametrize("numbers", [[1.5], ["a"], [[1]], [True]])
def test_what_is_no_number_is_refused(a: swath.RowArray, numbers: list[Any]) -> None:
    with pytest.raises(OptionError, match="Give whole numbers"):
        Windows(a).__getitems__(numbers)


# Batches.


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ("fork", 0),
        ("fork", 1),
        ("fork", 2),
        ("fork", 4),
        ("forkserver", 1),
        ("forkserver", 2),
        ("forkserver", 4),
        ("spawn", 2),
    ],
)
def test_any_number_of_workers_and_ranks_gives_the_same_batches(
    a: swath.RowArray, how: str, workers: int, full: bool
) -> None:
    """Each spawned worker imports PyTorch anew, for seconds."""
    alone = [batch.tobytes() for batch in a.batches(60, seed=4, epochs=2, epoch=3)]
    for ranks in (1, 2, 4) if full or how != "spawn" else (1,):
        dealt = []
        for rank in range(ranks):
            batches = Batches(a, 60, rank=rank, world_size=ranks, seed=4, epochs=2, epoch=3)
            loader = _loader(batches, how=how, workers=workers, batch_size=None)
            dealt.append(_bytes(loader))
            assert len(batches) == len(loader) == len(dealt[-1])
        assert [dealt[k % ranks][k // ranks] for k in range(len(alone))] == alone


def test_workers_keep_windows_in_their_own_order_too(a: swath.RowArray) -> None:
    loader = _loader(Batches(a, 100, seed=None), how="fork", workers=3, batch_size=None)
    assert_same(np.concatenate(list(loader)), expected(ROWS, [*range(293), *range(305, 993)], 8))


def test_batches_of_a_group_are_dicts_of_tensors(g: swath.RowGroup) -> None:
    wanted = g.batches(100, seed=5)
    batches = Batches(g, 100, seed=5)
    for batch, other in zip(batches, wanted, strict=True):
        assert_same(batch["X"].numpy(), other["X"])
        assert_same(batch["y"].numpy(), other["y"])
    assert [batch["X"].shape[0] for batch in _loader(batches, how="fork", workers=3, batch_size=None)] == [100] * 9 + [
        97
    ]


@pytest.mark.parametrize("how", ["fork", "forkserver"])
def test_workers_that_persist_see_the_epoch(a: swath.RowArray, how: str) -> None:
    wanted = [[batch.tobytes() for batch in a.batches(200, seed=1, epoch=e)] for e in range(4)]
    assert len({tuple(epoch) for epoch in wanted}) == 4
    batches = Batches(a, 200, seed=1)
    loader = _loader(batches, how=how, workers=2, batch_size=None, persistent_workers=True)
    for e in (0, 1, 3, 2):
        batches.set_epoch(e)
        assert _bytes(loader) == wanted[e]
    assert _bytes(batches) == wanted[2]
    for wrong in (-1, 1.5, None):
        with pytest.raises(OptionError, match="epoch is"):
            batches.set_epoch(wrong)  # type: ignore[arg-type]


def test_a_pass_keeps_the_epoch_that_it_began_with(a: swath.RowArray) -> None:
    batches = Batches(a, 200, seed=1)
    begun = iter(batches)
    batches.set_epoch(1)
    assert _bytes(begun) == [batch.tobytes() for batch in a.batches(200, seed=1)]


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_stateful_loader_goes_on_in_the_middle_of_an_epoch(a: swath.RowArray, workers: int, trials: int) -> None:
    """From random points, in a process that does not know which epoch it was, and into the epoch after it."""

    def loader(epoch: int) -> tuple[Batches, Any]:
        batches = Batches(a, 40, seed=2, epoch=epoch, rank=1, world_size=2)
        options = {"num_workers": workers, "multiprocessing_context": "forkserver"} if workers else {}
        return batches, StatefulDataLoader(batches, batch_size=None, **options)

    whole = [batch.tobytes() for batch in a.batches(40, seed=2, epoch=5, rank=1, world_size=2)]
    after = [batch.tobytes() for batch in a.batches(40, seed=2, epoch=6, rank=1, world_size=2)]
    points = np.random.default_rng(workers).integers(1, len(whole), 3 * trials).tolist()
    for k in [*points, len(whole) - 1, 0]:
        _, first = loader(5)
        running = iter(first)
        begun = [next(running).numpy().tobytes() for _ in range(k)]
        state = json.loads(json.dumps(first.state_dict()))
        del running
        batches, second = loader(0)
        second.load_state_dict(state)
        assert begun + _bytes(second) == whole
        batches.set_epoch(6)
        assert _bytes(second) == after


def test_an_iterator_goes_on_without_torchdata(a: swath.RowArray) -> None:
    batches = Batches(a, 100, seed=2)
    first = iter(batches)
    for _ in range(4):
        next(first)
    second = iter(Batches(a, 100, seed=2))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert _bytes(second) == _bytes(first) == [batch.tobytes() for batch in a.batches(100, seed=2)][4:]
    for other in (Batches(a, 101, seed=2), Batches(a, 100, seed=3), Batches(a, 100, seed=2, rank=1, world_size=2)):
        with pytest.raises(OptionError, match="The state is that of batches"):
            iter(other).load_state_dict(first.state_dict())
    with pytest.raises(OptionError, match="epoch is None"):
        iter(batches).load_state_dict({})


def test_ranks_are_those_of_torch_distributed(a: swath.RowArray, tmp_path: Path) -> None:
    program = """
import sys, torch, swath
from swath.loaders.torch import Batches
url, rank, meeting = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
batches = Batches(swath.open(url), 100)
print(len(batches), *(int(batch.sum()) for batch in batches))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
    command = [sys.executable, "-W", "ignore", "-c", program, a.url]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    sums = [int(batch.sum()) for batch in a.batches(100)]
    for rank, process in enumerate(ranks):
        told, _ = process.communicate(timeout=120)
        assert [int(word) for word in told.split()] == [5, *sums[rank::2]]


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_pinned_batches(a: swath.RowArray) -> None:
    """Without an accelerator PyTorch warns, and pins nothing."""
    alone = [batch.tobytes() for batch in a.batches(100)]
    for workers in (0, 2):
        batches = list(_loader(Batches(a, 100), how="fork", workers=workers, batch_size=None, pin_memory=True))
        assert _bytes(batches) == alone
        assert {batch.is_pinned() for batch in batches} == {torch.cuda.is_available()}
    windows = _loader(Windows(a), how="fork", workers=2, batch_size=100, collate_fn=collate, pin_memory=True)
    assert [len(batch) for batch in windows] == [100] * 9 + [81]


def test_windows_one_by_one(a: swath.RowArray) -> None:
    """By ``batch_size=None`` a sample is no list of samples."""
    loader = DataLoader(Windows(a, window=8), batch_size=None, collate_fn=collate)
    assert_same(next(iter(loader)).numpy(), a.gather([0], window=8)[0])


# What is refused.


@pytest.mark.parametrize("dtype", ["S3", "U2", "M8[s]", "g", "i4,f4"])
def test_a_dtype_that_torch_lacks_is_refused_at_the_door(tmp_path: Path, dtype: str) -> None:
    a = swath.ingest(np.zeros(100, dtype), tmp_path / "a")
    for make in (lambda: Windows(a), lambda: Batches(a, 10)):
        with pytest.raises(
            OptionError, match=r"which PyTorch does not have.*" + ("dtype=" if dtype == "g" else "numbers")
        ):
            make()
    g = swath.ingest_group({"X": ROWS[:100], "y": np.zeros(100, dtype)}, tmp_path / "g")
    with pytest.raises(OptionError, match="g/y has dtype"):
        Windows(g)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f8", "c8", "c16"])
def test_a_dtype_that_torch_has_comes_as_it_is(tmp_path: Path, dtype: str) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (100, 3)).astype(dtype)
    np.save(tmp_path / "a.npy", rows)
    for a in (swath.ingest(rows, tmp_path / "a", window=4), swath.open(tmp_path / "a.npy")):
        wanted = expected(rows.astype(rows.dtype.newbyteorder("=")), range(97), 4)
        assert_same(next(iter(Batches(a, 97, seed=None, window=4))).numpy(), wanted)
        loader = _loader(Windows(a, window=4), how="fork", workers=1, batch_size=97, collate_fn=collate)
        assert_same(next(iter(loader)).numpy(), wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, OptionError, "batch_size is 0"),
        ({"rank": 1}, OptionError, "rank is 1, but world_size is 1"),
        ({"epoch": -1}, OptionError, "epoch is -1"),
        ({"window": 800}, WindowError, "No segment has 800 rows"),
        ({"starts": [999]}, WindowOutOfBoundsError, "999"),
        ({"columns": [7]}, ColumnsError, r"\[0, 2\]"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    a: swath.RowArray, options: dict[str, Any], error: type[SwathError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Batches(a, **{"batch_size": 10, **options})
    if not options.keys() & {"batch_size", "rank", "epoch"}:
        with pytest.raises(error, match=message):
            Windows(a, **options)
    for wrong in (ROWS, None, "a"):
        with pytest.raises(OptionError, match="no array of swath"):
            Windows(wrong)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="no array of swath"):
            Batches(wrong, 10)  # type: ignore[arg-type]


def test_without_pytorch_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['torch'] = None; import swath.loaders.torch"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'swath[torch]'" in run.stderr.splitlines()[-1]


# Forks.


def _in_place(tmp_path: Path, kind: str) -> swath.RowArray:
    """An array whose reader has been used in this process, so that a fork finds what it has left."""
    if kind == "npy":
        np.save(tmp_path / "a.npy", ROWS)
        return swath.open(tmp_path / "a.npy")
    if kind.startswith("hdf5"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("A", data=ROWS, chunks=(64, 3), compression=kind.partition("-")[2])
        return swath.open(f"{tmp_path}/a.h5::A")
    if kind.startswith("zarr"):
        scaled: Any = {"name": "scale_offset", "configuration": {"offset": 1, "scale": 1}}
        filters = () if kind == "zarr" else (scaled,)
        zarr.create_array(tmp_path / "a.zarr", data=ROWS, chunks=(64, 3), filters=filters)
        return swath.open(tmp_path / "a.zarr")
    return swath.ingest(ROWS, tmp_path / "a", codec="zstd" if kind == "zstd" else "raw")


@pytest.mark.parametrize("kind", ["raw", "zstd", "npy", "hdf5-gzip", "hdf5-lzf", "zarr", "zarr-by-library"])
def test_an_array_that_was_used_before_the_fork(tmp_path: Path, kind: str) -> None:
    a = _in_place(tmp_path, kind)
    starts = np.random.default_rng(0).integers(0, 992, 500)
    assert_same(a.gather(starts, window=8), expected(ROWS, starts, 8))
    for _ in range(2):
        loader = _loader(Windows(a, starts=starts, window=8), how="fork", workers=2, batch_size=125, collate_fn=collate)
        assert_same(np.concatenate(list(loader)), expected(ROWS, starts, 8))
        assert_same(a.gather(starts, window=8), expected(ROWS, starts, 8))


@pytest.mark.parametrize("how", CONTEXTS)
def test_an_object_store_is_read_by_workers_or_refused(moto: Server, how: str) -> None:
    """Its client has threads, which a fork leaves behind: there it is an error, at once."""
    url = f"{moto.url}/torch/{how}.zarr"
    a = swath.ingest(ROWS, url, window=8, chunk_rows=4, shard_rows=100, storage_options=moto.storage_options)
    began = time.monotonic()
    for dataset, options in (
        (Batches(a, 100, seed=None), {"batch_size": None}),
        (Windows(a), {"batch_size": 100, "collate_fn": collate}),
    ):
        loader = _loader(dataset, how=how, workers=1 if how == "spawn" else 2, **options)
        if how == "fork":
            with pytest.raises(StoreUnreachableError, match="Start processes with 'spawn' or 'forkserver'"):
                list(loader)
        else:
            assert_same(np.concatenate(list(loader)), expected(ROWS, range(993), 8))
    assert how != "fork" or time.monotonic() - began < 20


def test_an_error_of_a_worker_is_what_it_would_have_been(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", chunk_rows=4, shard_rows=100, window=8)
    (tmp_path / "a" / "c.5.0").unlink()
    for workers in (0, 2):
        with pytest.raises(DamagedStoreError, match=r"c\.5\.0 \(rows 500 to 599\) is missing"):
            list(_loader(Batches(a, 100, seed=None), how="fork", workers=workers, batch_size=None))
