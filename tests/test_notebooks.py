"""Every notebook runs from a clean state, leaves nothing behind, and shows what it was stored with."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

_NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _read(path: Path) -> Any:
    return nbformat.reads(path.read_text(), as_version=4)


def _texts(notebook: Any) -> list[list[str]]:
    """What each cell of code printed and showed; pictures differ with fonts, and are not compared."""
    return [
        [output["text"] if "text" in output else output["data"]["text/plain"] for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_are_notebooks() -> None:
    assert _NOTEBOOKS


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in any cell raises here. If only texts differ: ``jupyter execute --inplace notebooks/NAME.ipynb``."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):  # no kernel or settings of the user's own
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = _read(path)
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert not [*(tmp_path / "work").iterdir(), *(tmp_path / "temporary").iterdir()]
    assert _texts(notebook) == _texts(_read(path))


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    code = [cell for cell in _read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "image/png" in path.read_text()
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_name_no_folder_of_a_machine(path: Path) -> None:
    shown = "\n".join(text for texts in _texts(_read(path)) for text in texts)
    assert not re.findall(r"(?<!\w)/\w+/\S*", shown)
