"""What doctests under src/ may use: `tmp`, a folder of their own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _doctest_folder(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp"] = tmp_path
