"""Notebooks that train, run as the others are."""

from pathlib import Path

import pytest
from notebooks import OF_FRAMEWORKS, check_that_it_runs


@pytest.mark.parametrize("path", OF_FRAMEWORKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_it_runs(path, tmp_path, monkeypatch)


def test_there_is_one() -> None:
    assert [path.stem for path in OF_FRAMEWORKS] == ["pictures_to_training"]
