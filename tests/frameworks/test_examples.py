"""What the README says of training is run."""

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import swath

_README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def g(tmp_path_factory: pytest.TempPathFactory) -> swath.RowGroup:
    rows = np.random.default_rng(0).normal(size=(2_000, 200)).astype("f4")
    return swath.ingest_group({"X": rows, "y": np.arange(2_000)}, tmp_path_factory.mktemp("readme") / "g")


def _run(framework: str, **names: Any) -> dict[str, Any]:
    (code,) = re.findall(rf"<!-- {framework} -->\n```python\n(.*?)```", _README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_example_of_pytorch_runs(g: swath.RowGroup) -> None:
    names = _run("torch", g=g)
    assert len(names["batches"]) == len(names["loader"]) == 8
    assert names["batch"]["X"].shape == (1985 - 7 * 256, 16, 200)
    assert isinstance(next(iter(names["loader"]))["y"], torch.Tensor)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_the_example_of_keras_runs(g: swath.RowGroup) -> None:
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(16)])
    model.compile(loss="mse")
    _run("keras", g=g, model=model)
    assert len(model.history.history["loss"]) == 2
