"""The training benchmark runs, at a size of no meaning; each way gives the windows of the source, or the benchmark ends.

Runs within it are made one after another in the process of the benchmark: a new one for each loads torch anew, which would take
minutes. One test is without that.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for _name in ("torch", "xbatcher", "annbatch"):
    pytest.importorskip(_name)

_BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
_SIZES = ("--rows=2000", "--columns=100", "--batch-size=4", "--batches=6", "--rounds=2")

_PATIENCE_S = 250

_DRIVER = """
import sys
import training, training_peers

training._child = lambda loop, held: training_peers.answer(loop)
training.main(sys.argv[1:])
"""


def _run(tmp_path: Path, program: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "work").mkdir()
    places = [f"--folder={tmp_path / 'work'}", f"--results={tmp_path / 'results'}"]
    command = [sys.executable, *program, *_SIZES, *options, *places]
    done = subprocess.run(command, cwd=_BENCHMARKS, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    assert not list((tmp_path / "work").iterdir())
    return done


def _record(tmp_path: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((tmp_path / "results" / "training.json").read_text())
    return record


def test_every_way(tmp_path: Path) -> None:
    record = _record(tmp_path, _run(tmp_path, ["-c", _DRIVER], "--workers=0"))
    assert len({run["label"] for run in record["runs"]}) == 13
    assert len(record["runs"]) == 2 * 13
    for run in record["runs"]:
        for outcome in run["outcomes"]:
            assert outcome["first_batch_s"] > 0
            for epoch in outcome["epochs"].values():
                assert epoch["samples"] == 6 * 4
                assert 0 < epoch["waited_s"] <= epoch["seconds"]
    assert [(figure["cold"], figure["wanted"]) for figure in record["wanted"]] == 2 * [
        (True, 5.0),
        (True, 10.0),
        (False, 10.0),
        (False, 1.0),
    ]
    assert all(figure["met"] == (figure["ratio"] >= figure["wanted"]) for figure in record["wanted"])
    assert (tmp_path / "results" / "training.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_run_is_a_process(tmp_path: Path) -> None:
    only = "swath, Windows"
    record = _record(tmp_path, _run(tmp_path, ["training.py"], f"--only={only}", "--rounds=1", "--workers=2"))
    assert [(run["label"][: len(only)], run["workers"]) for run in record["runs"]] == [(only, 2), (only, 2)]
    assert record["wanted"] == []


_WRONG = """
import numpy as np
import training_peers

right = training_peers._open_h5
training_peers.WAYS["h5py"] = training_peers.Way(
    lambda loop, starts: training_peers.slices(right, loop, starts[::-1])
)
"""


def test_a_wrong_batch_is_an_error(tmp_path: Path) -> None:
    done = _run(tmp_path, ["-c", _WRONG + _DRIVER], "--only=h5py", "--workers=0")
    assert done.returncode != 0
    assert "is not what the source has" in done.stderr
