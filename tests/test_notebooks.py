"""Every notebook runs from a clean state, leaves nothing behind, and shows what it was stored with."""

import re
from pathlib import Path

import pytest
from notebooks import FOLDER, NOTEBOOKS, OF_FRAMEWORKS, check_that_it_runs, outputs, read, texts


def test_the_readme_lists_them() -> None:
    listed = re.findall(r"\((\w+\.ipynb)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == [path.name for path in NOTEBOOKS]
    assert len(listed) >= 6


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path not in OF_FRAMEWORKS], ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_it_runs(path, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "image/png" in path.read_text()
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_fit_to_be_read(path: Path) -> None:
    """Neither folders of a machine, nor bars, colours, times and warnings; and pictures that a page can hold."""
    notebook = read(path)
    shown = "\n".join(text for printed in texts(notebook) for text in printed)
    assert not re.findall(r"(?<![\w/])/\w+/\S*", shown)
    assert not re.findall(r"[\x00-\x08\x0b-\x1f]", shown)
    assert "iopub" not in path.read_text()
    every = [output for of_cell in outputs(notebook) for output in of_cell]
    assert {output.get("name", "stdout") for output in every} == {"stdout"}
    assert max(len(output.data.get("image/png", "")) for output in every if "data" in output) < 200_000  # in base64
