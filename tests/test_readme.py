"""What the README says is run."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", _README, re.DOTALL) if "import numpy" in code]
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert "bytes for each byte wanted" in capsys.readouterr().out
    rows, starts = names["rows"], names["starts"]
    wanted = np.stack([rows[s : s + 16] for s in starts])
    np.testing.assert_array_equal(names["batch"], wanted)
    np.testing.assert_array_equal(names["some"], wanted[..., [3, 50, 7]])
    np.testing.assert_allclose(names["means"], wanted.mean(axis=1))


def test_ci_runs_the_test_command_as_it_stands_here() -> None:
    (command,) = [code for code in re.findall(r"```bash\n(.*?)```", _README, re.DOTALL) if "nox" in code]
    script = (_ROOT / ".ci/run").read_text().replace("eval ", "true ")
    run = subprocess.run(["bash", "-c", script, ".ci/run"], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert run.stdout == f"+ {command}"
