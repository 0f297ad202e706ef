"""Batches on a device of JAX, and windows as a source of Grain."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import pytest
from oracle import assert_same, expected

import swath
from swath.errors import OptionError, SwathError, WindowError, WindowOutOfBoundsError
from swath.loaders.grain import Windows
from swath.loaders.jax import Batches

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning", "ignore:.*fork.*:DeprecationWarning")

ROWS = np.arange(1000 * 3, dtype="i4").reshape(1000, 3)
LABELS = (np.arange(1000) % 7).astype("u1")


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> swath.RowGroup:
    return swath.ingest_group({"X": ROWS, "y": LABELS}, tmp_path_factory.mktemp("jax") / "g", window=4)


# JAX.


def test_batches_stay_as_they_came(g: swath.RowGroup) -> None:
    """All of them are held: on a CPU an array of JAX may be the memory of the batch, which nobody may use again."""
    held = list(Batches(g, 64, seed=3, epochs=2))
    wanted = list(g.batches(64, seed=3, epochs=2))
    for batch, other in zip(held, wanted, strict=True):
        assert isinstance(batch["X"], jax.Array)
        assert_same(np.asarray(batch["X"]), other["X"])
        assert_same(np.asarray(batch["y"]), other["y"])


def test_an_array_gives_arrays_where_they_are_wanted(g: swath.RowGroup) -> None:
    (device,) = jax.devices()
    batches = Batches(g["X"], 300, device=jax.sharding.SingleDeviceSharding(device), window=2, columns=[1])
    for batch in batches:
        assert batch.devices() == {device}
        assert_same(np.asarray(batch), expected(ROWS, batches.starts, 2)[..., [1]])
    assert len(batches) == 4


def test_it_goes_on_from_where_it_was(g: swath.RowGroup) -> None:
    whole = [np.asarray(batch["y"]).tobytes() for batch in Batches(g, 64, seed=3, epoch=2)]
    for k in (0, 5, len(whole)):
        first = Batches(g, 64, seed=3, epoch=2)
        for _ in range(k):
            next(first)
        second = Batches(g, 64, seed=3, epoch=2)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert [np.asarray(batch["y"]).tobytes() for batch in second] == whole[k:]
    with pytest.raises(OptionError, match="epoch"):
        Batches(g, 64, seed=3).load_state_dict(first.state_dict())


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_integers_that_jax_would_cut_are_refused(tmp_path: Path, value: int) -> None:
    rows = np.array([1, 2, value, 4])
    a = swath.ingest(rows, tmp_path / "a", window=1)
    batches = Batches(a, 2, seed=None)
    assert next(batches).tolist() == [[1], [2]]
    with pytest.raises(OptionError, match=rf"{value}.*jax_enable_x64"):
        next(batches)
    with jax.enable_x64(True):
        assert_same(np.asarray(next(Batches(a, 4, seed=None))), rows[:, None])


@pytest.mark.parametrize("dtype", ["S3", "U2", "M8[s]", "g", "i4,f4"])
def test_a_dtype_that_jax_lacks_is_refused_at_the_door(tmp_path: Path, dtype: str) -> None:
    a = swath.ingest(np.zeros(100, dtype), tmp_path / "a")
    with pytest.raises(OptionError, match=r"which JAX does not have.*" + ("dtype=" if dtype == "g" else "numbers")):
        Batches(a, 10)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", ">f4", "c8"])
def test_a_dtype_that_jax_has_comes_as_it_is(tmp_path: Path, dtype: str) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (100, 3)).astype(dtype)
    np.save(tmp_path / "a.npy", rows)
    wanted = expected(rows.astype(rows.dtype.newbyteorder("=")), range(97), 4)
    assert_same(np.asarray(next(Batches(swath.open(tmp_path / "a.npy"), 97, seed=None, window=4))), wanted)


def test_without_jax_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['jax'] = None; import swath.loaders.jax"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'swath[jax]'" in run.stderr.splitlines()[-1]


# Grain.


def test_windows_are_a_source(g: swath.RowGroup) -> None:
    windows = Windows(g, window=2)
    assert isinstance(windows, grain.sources.RandomAccessDataSource)
    assert len(windows) == 999
    assert_same(windows[998]["X"], ROWS[998:])
    assert_same(windows[998]["y"], LABELS[998:])
    alone = Windows(g["X"], starts=[900, 5], columns=[2])
    assert_same(alone[1], ROWS[5:9, [2]])
    assert_same(pickle.loads(pickle.dumps(alone))[0], ROWS[900:904, [2]])


def test_a_batch_of_grain_is_one_gather(g: swath.RowGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    gathers: list[int] = []
    gather = swath.RowArray.gather

    def counted(a: swath.RowArray, starts: Any, **options: Any) -> Any:
        gathers.append(len(starts))
        return gather(a, starts, **options)

    monkeypatch.setattr(swath.RowArray, "gather", counted)
    windows = Windows(g["X"])
    data = grain.MapDataset.range(len(windows)).shuffle(seed=3).batch(100)
    assert_same(data.map(windows.gather)[2], expected(ROWS, data[2], 4))
    assert gathers == [100]
    shuffled = grain.MapDataset.source(windows).shuffle(seed=3)
    assert_same(np.stack(shuffled._getitems(range(200, 300))), expected(ROWS, data[2], 4))
    assert gathers == [100, 100]
    assert_same(shuffled.batch(100)[2], expected(ROWS, data[2], 4))


def _streamed(data: Any) -> list[bytes]:
    return [batch["X"].tobytes() + batch["y"].tobytes() for batch in data]


@pytest.mark.parametrize("processes", [0, 2])
def test_grain_goes_on_from_its_checkpoint(g: swath.RowGroup, processes: int) -> None:
    windows = Windows(g)
    data = grain.MapDataset.range(len(windows)).seed(3).shuffle().batch(50).map(windows.gather)
    each = np.concatenate([batch["X"][:, 0, 0] for batch in data])
    assert sorted(each.tolist()) == ROWS[:997, 0].tolist()
    reading: Any = data.to_iter_dataset()
    if processes:
        reading = reading.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes))
    whole = _streamed(reading)
    assert sorted(whole) == sorted(_streamed(data))
    first = iter(reading)
    begun = _streamed(next(first) for _ in range(7))
    second = iter(reading)
    second.set_state(first.get_state())
    assert begun + _streamed(second) == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_of_grain(g: swath.RowGroup, workers: int) -> None:
    windows = Windows(g)
    sampler = grain.samplers.IndexSampler(len(windows), shuffle=True, seed=3, num_epochs=1)
    loader = grain.DataLoader(data_source=windows, sampler=sampler, operations=[grain.transforms.Batch(100)], worker_count=workers)  # fmt: skip
    first = [batch["X"][:, 0, 0] for batch in loader]
    assert sorted(np.concatenate(first).tolist()) == ROWS[:997, 0].tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 1001}, WindowError, "window is 1001"),
        ({"starts": [999]}, WindowOutOfBoundsError, "999"),
        ({"memory_limit": "much"}, OptionError, "memory_limit is 'much'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    g: swath.RowGroup, options: dict[str, Any], error: type[SwathError], message: str
) -> None:
    for make in (lambda rows: Windows(rows, **options), lambda rows: Batches(rows, 10, **options)):
        with pytest.raises(error, match=message):
            make(g["X"])
    for wrong in (ROWS, None):
        with pytest.raises(OptionError, match="no array of swath"):
            Windows(wrong)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="no array of swath"):
            Batches(wrong, 10)  # type: ignore[arg-type]
