"""Pages of the documentation whose code needs frameworks, each in a process of its own: what one loads may not be forked with another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks_of, name_of

# Those of the README are run by `test_examples` and `test_jax_training`.
_PAGES = [path for path in PAGES[1:] if any(block.needs for block in blocks_of(path.read_text()))]


@pytest.mark.parametrize("path", _PAGES, ids=name_of)
def test_a_page_runs(path: Path, tmp_path: Path) -> None:
    program = f"import pages; pages.run_page({name_of(path)!r}, open({str(path)!r}).read(), with_frameworks=True)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
