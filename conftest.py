"""What doctests under src/ may use: `tmp`, a folder of their own; and which tests need an environment of their own."""

from importlib.util import find_spec
from pathlib import Path

import pytest

# What needs frameworks of gigabytes has an environment of its own.
collect_ignore = [] if find_spec("torch") else ["src/swath/loaders", "tests/frameworks"]


@pytest.fixture(autouse=True)
def _doctest_folder(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp"] = tmp_path
