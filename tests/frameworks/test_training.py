"""A small model of PyTorch or Keras learns from real data: what comes is what belongs together, and the loss falls."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import swath
from swath.loaders import keras as keras_loader
from swath.loaders import torch as torch_loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    # Of Keras, for losses that are tensors of PyTorch.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

# A guess among ten digits costs 2.3; the last of an electrocardiogram that is guessed to be its mean costs 1.
DIGITS, HEART = 0.5, 0.1


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorch_learns_digits_from_batches(digits: swath.RowGroup, workers: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    steps = torch.optim.Adam(model.parameters(), lr=0.03)
    batches = torch_loader.Batches(digits, 64, seed=1)
    loader: Any = DataLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    losses = []
    for epoch in range(5):
        batches.set_epoch(epoch)
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(model(batch["X"]), batch["y"][:, 0])
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
    assert len(losses) == 5 * 29
    assert losses[0] > 2
    assert np.mean(losses[-29:]) < DIGITS


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorch_learns_a_heart_from_windows(heart: swath.RowArray, workers: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(32, 1)
    steps = torch.optim.Adam(model.parameters(), lr=0.02)
    windows = torch_loader.Windows(heart)
    loader: Any = DataLoader(windows, batch_size=64, shuffle=True, num_workers=workers, collate_fn=torch_loader.collate)
    losses = []
    for _ in range(10):
        for batch in loader:
            loss = torch.nn.functional.mse_loss(model(batch[:, :32, 0]), batch[:, 32])
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
    assert len(windows) == 992
    assert np.mean(losses[:3]) > 3 * HEART
    assert np.mean(losses[-16:]) < HEART


@pytest.mark.parametrize(("workers", "processes"), [(1, False), (2, False), (2, True)])
def test_keras_learns_digits(digits: swath.RowGroup, workers: int, processes: bool) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, metrics=["accuracy"])
    batches = keras_loader.Batches(digits, 64, seed=1, workers=workers, use_multiprocessing=processes)
    fitted = model.fit(batches, epochs=5, verbose=0).history
    assert fitted["loss"][0] > 2 * fitted["loss"][-1]
    assert fitted["loss"][-1] < DIGITS
    assert fitted["accuracy"][-1] > 0.9
    assert model.evaluate(batches, verbose=0)[0] < DIGITS
    unlabelled = keras_loader.Batches(digits, 64, seed=None, targets=None)
    answers = model.predict(unlabelled, verbose=0).argmax(axis=1)
    assert np.mean(answers == digits["y"].gather(range(1797))[:, 0]) > 0.9
