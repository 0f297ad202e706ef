"""Options, profiles and helpers that all tests share."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from damaged import DAMAGES, KINDS, Target, make_target
from fault_proxy import Proxy
from hypothesis import HealthCheck, settings
from places import LOCAL, PLACES, LocalPlace, Place, object_place
from servers import CONDITIONAL, Server, serve

import swath

# What CI tries is the same on each run, so that a run which fails says something of the change; nightly runs find what is new.
for name, examples in {"fast": 25, "ci": 100, "nightly": 3000}.items():
    settings.register_profile(
        name,
        max_examples=examples,
        derandomize=name == "ci",
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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """A server of a name, which is started when it is first asked for, and then answers to the end."""
    with contextlib.ExitStack() as running:
        servers: dict[str, Server] = {}

        def get(name: str) -> Server:
            if name not in servers:
                servers[name] = running.enter_context(serve(name, tmp_path_factory.mktemp(name)))
            return servers[name]

        yield get


_numbers = itertools.count()


@pytest.fixture
def place_of_kind(tmp_path: Path, served: Callable[[str], Server]) -> Callable[[str], Place]:
    """A place of a kind for one test, with nothing in it and nothing beside it."""

    def make(kind: str) -> Place:
        return LocalPlace(tmp_path / "a") if kind == LOCAL else object_place(served(kind), f"{next(_numbers)}/a")

    return make


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, place_of_kind: Callable[[str], Place]) -> Place:
    """A local folder, and one on each server that keeps conditions."""
    return place_of_kind(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Stores of each kind in each place, and each damage of each; without --full a server has one kind, and each third damage."""
    if metafunc.function.__annotations__.get("target") not in ("Target", Target):
        return  # others have a parameter of that name
    on_servers = dict(zip(CONDITIONAL, ("zstd", "raw", "group")))
    full = metafunc.config.getoption("--full")
    targets = [(p, k) for p in PLACES for k in KINDS if full or k == on_servers.get(p, k)]
    if "what" not in metafunc.fixturenames:
        metafunc.parametrize("target", targets, indirect=True, ids="-".join)
        return
    damages = [
        (target, what)
        for target in targets
        for k, what in enumerate(DAMAGES)
        if full or target[0] == LOCAL or CONDITIONAL[k % 3] == target[0]
    ]
    ids = ["-".join([*target, what]) for target, what in damages]
    metafunc.parametrize(("target", "what"), damages, indirect=["target"], ids=ids)


@pytest.fixture
def target(request: pytest.FixtureRequest, place_of_kind: Callable[[str], Place]) -> Target:
    """A store to damage."""
    where, kind = request.param
    return make_target(place_of_kind(where), kind)
