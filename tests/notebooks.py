"""The notebooks, and how one is run from a clean state."""

import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
OF_FRAMEWORKS = [path for path in NOTEBOOKS if "import torch" in path.read_text()]
"""They are run where the frameworks are: by tests/frameworks."""

_MOST_SECONDS = 120


def read(path: Path) -> Any:
    """As nbformat has it."""
    return nbformat.reads(path.read_text(), as_version=4)


def outputs(notebook: Any) -> list[list[Any]]:
    """Of each cell of code."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any) -> list[list[str]]:
    """What each cell of code printed and showed; pictures differ with fonts, and are not compared. Bars, which have no text, come and go."""
    found = (
        [output["text"] if "text" in output else output["data"]["text/plain"] for output in shown]
        for shown in outputs(notebook)
    )
    return [[text for text in each if text] for each in found]


def check_that_it_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in any cell raises here. If only texts differ: ``python notebooks/renew.py NAME``."""
    for name in ("work", "temporary"):
        (folder / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "temporary"))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):  # no kernel or settings of the user's own
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "torch"))  # torch makes it when it is imported
    notebook = read(path)
    resources = {"metadata": {"path": str(folder / "work")}}
    begin = time.monotonic()
    NotebookClient(notebook, timeout=_MOST_SECONDS, kernel_name="python3", resources=resources).execute()
    assert time.monotonic() - begin < _MOST_SECONDS
    assert not [*(folder / "work").iterdir(), *(folder / "temporary").iterdir()]
    for shown, stored in zip(texts(notebook), texts(read(path)), strict=True):
        assert shown == stored, f"{path.stem} shows {shown}, but is stored with {stored}"
    assert all(output.get("name") != "stderr" for shown in outputs(notebook) for output in shown)
