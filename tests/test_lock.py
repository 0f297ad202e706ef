"""The lock holds what all groups need, for each Python, and no address."""

import os
import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_LOCK = _ROOT / ".ci/lock.txt"
_NAME = re.compile(r"[A-Za-z0-9._-]+")

pytestmark = pytest.mark.skipif(not _LOCK.exists(), reason="the lock is in a checkout only")


def _locked() -> list[str]:
    return [line for line in _LOCK.read_text().splitlines() if not line.startswith("#")]


def test_the_lock_is_releases_alone() -> None:
    for line in _locked():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+!]*( ; [^#@]+)?", line), line
    assert "://" not in _LOCK.read_text()


def test_all_that_is_asked_for_is_locked() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
        *(each for group in project["dependency-groups"].values() for each in group if isinstance(each, str)),
        *project["build-system"]["requires"],
    ]
    names = {found[0].lower().replace("_", "-") for each in asked if (found := _NAME.match(each))}
    # Which build of it there is, is for the index to say.
    assert names - {line.partition("==")[0] for line in _locked()} == {"torch"}


def test_each_install_of_the_checks_is_constrained() -> None:
    sessions = (_ROOT / "noxfile.py").read_text().split("@nox.session")[1:]
    for session in sessions:
        for words in re.findall(r"session\.install\(([^)]*)\)", session):
            oldest = '".", "--group", "test", "-c", f"{oldest}"'
            assert words in ('"uv"', '"pip-audit"', oldest), words


@pytest.mark.skipif("CI" not in os.environ, reason="whoever works on it may have other releases")
def test_what_is_installed_is_what_is_locked() -> None:
    locked: dict[str, set[str]] = {}
    for line in _locked():
        name, _, release = line.partition(" ;")[0].partition("==")
        locked.setdefault(name, set()).add(release.strip())
    installed = {found.name.lower().replace("_", "-").replace(".", "-"): found.version for found in distributions()}
    assert not {name: version for name, version in installed.items() if version not in locked.get(name, {version})}
