"""A small model of JAX learns from real data, and the examples of the README run; JAX bears no fork beside it, as others make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import swath
from swath.loaders import grain as grain_loader
from swath.loaders import jax as jax_loader

# A guess among ten digits costs 2.3; the last of an electrocardiogram that is guessed to be its mean costs 1.
DIGITS, HEART = 0.5, 0.1


def _jax_learns(batches: Any, shape: tuple[int, int], loss: Any) -> list[float]:
    """A linear model, by Adam in five lines."""
    weights = jnp.zeros(shape), jnp.zeros(shape[1])
    first = second = jax.tree.map(jnp.zeros_like, weights)
    losses = []

    @jax.jit
    def step(k: Any, weights: Any, first: Any, second: Any, batch: Any) -> Any:
        value, slope = jax.value_and_grad(lambda w: loss(w, batch))(weights)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
        weights = jax.tree.map(
            lambda w, m, v: w - 0.03 * m / (1 - 0.9**k) / (jnp.sqrt(v / (1 - 0.999**k)) + 1e-8), weights, first, second
        )
        return value, weights, first, second

    for k, batch in enumerate(batches, 1):
        value, weights, first, second = step(float(k), weights, first, second, batch)
        losses.append(float(value))
    return losses


def _digits_loss(weights: Any, batch: Any) -> Any:
    logits = batch["X"].reshape(-1, 64) @ weights[0] + weights[1]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"].reshape(-1, 1), axis=1).mean()


def _heart_loss(weights: Any, batch: Any) -> Any:
    return ((batch[:, :32, 0] @ weights[0] + weights[1] - batch[:, 32]) ** 2).mean()


def test_jax_learns_digits(digits: swath.RowGroup) -> None:
    losses = _jax_learns(jax_loader.Batches(digits, 64, epochs=5, seed=1), (64, 10), _digits_loss)
    assert len(losses) == 5 * 29
    assert losses[0] > 2
    assert np.mean(losses[-29:]) < DIGITS


def test_jax_learns_a_heart(heart: swath.RowArray) -> None:
    losses = _jax_learns(jax_loader.Batches(heart, 64, epochs=10, seed=1), (32, 1), _heart_loss)
    assert np.mean(losses[:3]) > 3 * HEART
    assert np.mean(losses[-16:]) < HEART


@pytest.mark.parametrize("processes", [0, 1])
def test_jax_learns_digits_from_grain(digits: swath.RowGroup, processes: int) -> None:
    windows = grain_loader.Windows(digits)
    data = grain.MapDataset.range(len(windows)).seed(1).shuffle().batch(64).map(windows.gather).repeat(5)
    reading: Any = data.to_iter_dataset()
    if processes:
        reading = reading.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes))
    losses = _jax_learns(reading, (64, 10), _digits_loss)
    assert losses[0] > 2
    assert np.mean(losses[-29:]) < DIGITS


def test_the_examples_of_the_readme_run(digits: swath.RowGroup) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = re.findall(r"<!-- jax -->\n```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {"g": digits}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["batch"]["X"], jax.Array)
    assert names["data"][0]["X"].shape == (256, 1, 8, 8)
