"""Batches for Keras: those of a group, epoch after epoch, in threads and processes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from oracle import assert_same
from servers import Server

import swath
from swath.errors import OptionError, StoreUnreachableError, SwathError, WindowError
from swath.loaders.keras import Batches

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

ROWS = np.arange(500 * 3, dtype="f4").reshape(500, 3)
LABELS = np.arange(500)


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> swath.RowGroup:
    return swath.ingest_group({"X": ROWS, "y": LABELS}, tmp_path_factory.mktemp("keras") / "g", window=4)


class _Seen(keras.Model):
    """Learns nothing, and writes down the labels of each batch that it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[list[int]]] = []
        self.compile()

    def call(self, x: Any) -> Any:
        return x

    def train_step(self, data: Any) -> dict[str, Any]:
        _, y = data
        self.epochs[-1].append(y[:, 0].tolist())
        return {}

    def test_step(self, data: Any) -> dict[str, Any]:
        return {}


class _Epochs(keras.callbacks.Callback):
    """Begins a list for each epoch, and tells the batches which it is."""

    def __init__(self, batches: Batches | None = None) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.epochs.append([])
        if self._batches is not None:
            self._batches.set_epoch(epoch)


def _labels(g: swath.RowGroup, epoch: int) -> list[list[int]]:
    return [batch["y"][:, 0].tolist() for batch in g.batches(100, seed=3, epoch=epoch)]


@pytest.mark.parametrize(("workers", "processes"), [(1, False), (2, False), (1, True), (2, True)])
def test_each_epoch_of_fit_has_the_batches_of_that_epoch(g: swath.RowGroup, workers: int, processes: bool) -> None:
    model = _Seen()
    batches = Batches(g, 100, seed=3, workers=workers, use_multiprocessing=processes)
    if workers > 1 or processes:
        model.test_on_batch(*batches[0])  # else the first call of fit builds the model, by an epoch that it ends early
    for first, stop in ((1, 3), (3, 4)):
        model.fit(batches, initial_epoch=first, epochs=stop, shuffle=False, verbose=0, callbacks=[_Epochs(batches)])
    assert model.epochs == [_labels(g, epoch) for epoch in (1, 2, 3)]
    assert model.epochs[0] != model.epochs[1]


def test_without_being_told_each_epoch_is_another(g: swath.RowGroup) -> None:
    """Keras draws the order of its batches too, unless it is told not to."""
    model = _Seen()
    model.fit(Batches(g, 100, seed=3), epochs=3, verbose=0, callbacks=[_Epochs()])
    assert [sorted(epoch) for epoch in model.epochs] == [sorted(_labels(g, epoch)) for epoch in (1, 2, 3)]


def test_batches_are_inputs_and_targets(g: swath.RowGroup) -> None:
    wanted = list(g.batches(100, seed=3))
    batches = Batches(g, 100, seed=3)
    assert len(batches) == len(wanted) == 5
    for k in (4, 0, 2):
        x, y = batches[k]
        assert_same(x, wanted[k]["X"])
        assert_same(y, wanted[k]["y"])
    (x,) = Batches(g, 100, seed=3, inputs="y", targets=None)[1]
    assert_same(x, wanted[1]["y"])
    turned = Batches(g, 100, seed=3, transform=lambda batch: (batch["X"][:, :3], batch["X"][:, 3]))[1]
    assert_same(turned[1], wanted[1]["X"][:, 3])


def test_an_array_alone_needs_a_transform(g: swath.RowGroup) -> None:
    x, y = Batches(g["X"], 100, seed=None, columns=[0], transform=lambda batch: (batch[:, :3], batch[:, 3]))[0]
    assert_same(x[0, :, 0], ROWS[:3, 0])
    assert_same(y[0], ROWS[3, :1])
    with pytest.raises(OptionError, match=r"no array 'X', 'y' .*transform="):
        Batches(g["X"], 100)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inputs": "Z"}, OptionError, "no array 'Z'"),
        ({"targets": "label"}, OptionError, "no array 'label'"),
        ({"batch_size": 0}, OptionError, "batch_size is 0"),
        ({"epoch": -1}, OptionError, "epoch is -1"),
        ({"epochs": 3}, OptionError, "Give epochs= to fit"),
        ({"window": 501}, WindowError, "window is 501"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    g: swath.RowGroup, options: dict[str, Any], error: type[SwathError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Batches(g, **{"batch_size": 10, **options})
    with pytest.raises(OptionError, match="no array of swath"):
        Batches({"X": ROWS}, 10)  # type: ignore[arg-type]
    for k in (-1, 5):
        with pytest.raises(OptionError, match=f"k is {k}"):
            Batches(g, 100)[k]


def test_an_object_store_in_forked_processes_is_an_error(moto: Server) -> None:
    url = f"{moto.url}/keras/g.zarr"
    g = swath.ingest_group({"X": ROWS, "y": LABELS}, url, window=4, storage_options=moto.storage_options)
    model = _Seen()
    batches = Batches(g, 100, workers=2)
    model.test_on_batch(*batches[0])
    model.fit(batches, verbose=0, callbacks=[_Epochs()])
    assert sorted(np.concatenate(model.epochs[0]).tolist()) == list(range(497))
    with pytest.raises(StoreUnreachableError, match="forked"):
        model.fit(Batches(g, 100, workers=2, use_multiprocessing=True), verbose=0, callbacks=[_Epochs()])


def test_without_keras_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['keras'] = None; import swath.loaders.keras"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'swath[keras]'" in run.stderr.splitlines()[-1]
