"""Options, profiles and helpers that all tests share."""

import os
from importlib.metadata import version

import pytest
from hypothesis import HealthCheck, settings

for name, examples in {"fast": 25, "ci": 100, "nightly": 3000}.items():
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_report_header() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("numpy", "zarr", "dask", "h5py", "numcodecs", "awscrt"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="All tries of the proofs, instead of a few.")


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int:
    """By how much to multiply the trials of a test that has no end."""
    return 20 if request.config.getoption("--full") else 1


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether all tries of the proofs are made, instead of a few."""
    return bool(request.config.getoption("--full"))
