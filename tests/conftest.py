"""Options, profiles and helpers that all tests share."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import Proxy
from hypothesis import HealthCheck, settings
from servers import CONDITIONAL, Server, serve

import swath

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


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of 64 MB, where memory is measured: wide raw rows, the same compressed in two ways, and narrow rows."""
    folder = tmp_path_factory.mktemp("stores")
    wide = np.random.default_rng(0).normal(size=(8000, 1000))
    swath.ingest(wide, folder / "raw")
    swath.ingest(np.round(wide, 1), folder / "zstd", codec="zstd")
    swath.ingest(np.round(wide, 1), folder / "lz4-large-chunks", codec="lz4", chunk_rows=128)
    swath.ingest(wide.reshape(-1, 4), folder / "narrow")
    return folder


@pytest.fixture(scope="module", params=CONDITIONAL)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that keeps conditions."""
    with serve(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve("moto", tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def proxy(moto: Server) -> Iterator[Proxy]:
    with Proxy(moto.port) as proxy:
        yield proxy
