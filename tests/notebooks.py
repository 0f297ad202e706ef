"""The notebooks, and how one is run from a clean state."""

import resource
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
OF_FRAMEWORKS = [path for path in NOTEBOOKS if "import torch" in path.read_text()]
"""They are run where the frameworks are: by tests/frameworks."""

# Of processors, which others on the machine do not change: what two have in two minutes.
_MOST_SECONDS = 240

# After so long a cell hangs.
_HANGS_SECONDS = 600


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
    begin = _used_seconds()
    NotebookClient(notebook, timeout=_HANGS_SECONDS, kernel_name="python3", resources=resources).execute()
    assert _used_seconds() - begin < _MOST_SECONDS
    assert not [*(folder / "work").iterdir(), *(folder / "temporary").iterdir()]
    for shown, stored in zip(texts(notebook), texts(read(path)), strict=True):
        assert shown == stored, f"{path.stem} shows {shown}, but is stored with {stored}"
    assert all(output.get("name") != "stderr" for shown in outputs(notebook) for output in shown)


def _used_seconds() -> float:
    """Of processors, by the processes that have ended: a kernel has when its notebook has."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
