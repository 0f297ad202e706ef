"""The servers of the tests are what they are said to be."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import Proxy
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore
from servers import NAMES, Server, serve

CONTENT = bytes(range(250)) * 40
STRANGE = "a folder/ü b+c%d&e=f#g?h"
WRITABLE = [name for name in NAMES if name != "caddy"]


@pytest.fixture(scope="module", params=NAMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    with serve(request.param, folder) as server:
        if server.name == "caddy":
            (folder / "files" / "a folder").mkdir()
            for key in ("key", STRANGE):
                (folder / "files" / key).write_bytes(CONTENT)
        else:
            for key in ("key", STRANGE):
                server.store().put(key, CONTENT)
        yield server


writable = pytest.mark.parametrize("server", WRITABLE, indirect=True)


@pytest.mark.parametrize("key", ["key", STRANGE])
def test_an_object_comes_back(server: Server, key: str) -> None:
    store = server.store()
    assert bytes(store.get(key).bytes()) == CONTENT
    assert store.head(key)["size"] == len(CONTENT)
    assert bytes(store.get_range(key, start=100, length=50)) == CONTENT[100:150]
    with pytest.raises(FileNotFoundError):
        store.get(f"no {key}")


def test_an_answer_with_a_range_tells_all_of_the_object(server: Server) -> None:
    whole = server.store().head("key")
    answer = server.store().get("key", options={"range": (9990, 10000)})
    assert answer.range == (9990, 10000)
    assert (answer.meta["size"], answer.meta["e_tag"]) == (len(CONTENT), whole["e_tag"])
    assert bytes(answer.bytes()) == CONTENT[-10:]


def test_the_end_of_an_object(server: Server) -> None:
    """Azure has no such ranges, and nanio refuses what others give."""
    store = server.store()
    if server.name in ("nanio", "azurite"):
        with pytest.raises((NotSupportedError, BaseError)):
            store.get("key", options={"range": {"suffix": 10}})
    else:
        answer = store.get("key", options={"range": {"suffix": 10}})
        assert answer.range == (9990, 10000)
        assert bytes(answer.bytes()) == CONTENT[-10:]


def version(store: ObjectStore, key: str) -> dict[str, str]:
    """What a PUT is to replace: Google goes by the version, the others by the ETag; obstore takes no None."""
    found = store.head(key)
    return {name: str(found[name]) for name in ("e_tag", "version") if found[name] is not None}


@writable
def test_conditions(server: Server) -> None:
    store = server.store("conditions")
    assert store.put("key", b"first", mode="create")
    first = version(store, "key")
    store.put("key", b"second", mode=first)  # type: ignore[arg-type]
    assert bytes(store.get("key").bytes()) == b"second"
    if server.keeps_conditions:
        with pytest.raises(AlreadyExistsError):
            store.put("key", b"third", mode="create")
        with pytest.raises(PreconditionError):
            store.put("key", b"third", mode=first)  # type: ignore[arg-type]
        assert bytes(store.get("key").bytes()) == b"second"
    else:
        store.put("key", b"third", mode="create")
        store.put("key", b"fourth", mode=first)  # type: ignore[arg-type]
        assert bytes(store.get("key").bytes()) == b"fourth"


@writable
def test_of_many_that_create_or_replace_one_object_at_once_one_does(server: Server) -> None:
    store = server.store("race")
    winners = 1 if server.keeps_conditions else 8

    def put(content: bytes, key: str, mode: object) -> bool:
        try:
            store.put(key, content, mode=mode)  # type: ignore[arg-type]
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    # Each writes something else: on S3 the ETag is of the content, and whoever writes the same replaces what is as before.
    firsts, seconds = ([bytes([each]) for each in range(start, start + 8)] for start in (0, 8))
    with ThreadPoolExecutor(8) as threads:
        for key in (f"key{i}" for i in range(20)):
            assert sum(threads.map(put, firsts, [key] * 8, ["create"] * 8)) == winners
            assert sum(threads.map(put, seconds, [key] * 8, [version(store, key)] * 8)) == winners


@writable
def test_large_objects_in_parts(server: Server) -> None:
    store = server.store("parts")
    large = os.urandom(12 << 20)
    store.put("key", large, use_multipart=True, chunk_size=5 << 20)
    assert bytes(store.get("key").bytes()) == large


@pytest.mark.parametrize("server", ["nanio", "azurite"], indirect=True)
def test_signatures_are_checked(server: Server) -> None:
    secret = "secret_access_key" if server.name == "nanio" else "account_key"
    false = replace(server, storage_options={**server.storage_options, secret: "d3Jvbmc="})
    with pytest.raises((PermissionDeniedError, UnauthenticatedError)):
        false.store().get("key")


def test_through_a_proxy(server: Server) -> None:
    with Proxy(server.port) as proxy:
        store = server.behind(proxy.port).store()
        assert bytes(store.get_range(STRANGE, start=100, length=50)) == CONTENT[100:150]
        if server.name != "caddy":
            store.put("behind/key", CONTENT, mode="create")
            assert bytes(server.store().get("behind/key").bytes()) == CONTENT
            store.delete("behind/key")
            with pytest.raises(FileNotFoundError):
                server.store().head("behind/key")
        assert sum(proxy.counts().requests.values()) == len(proxy.requests()) >= (1 if server.name == "caddy" else 3)


_KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
from fault_proxy import Proxy
from servers import serve
with serve(sys.argv[1], Path(sys.argv[2])) as server, Proxy(server.port) as proxy:
    print(server.port, proxy.port, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_server_ends_with_the_tests_that_are_killed(tmp_path: Path, name: str) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", _KILLED, name, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})
    assert child.stdout
    ports = [int(port) for port in child.stdout.readline().split()]
    assert len(ports) == 2
    assert all(_answers(port) for port in ports)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    end = time.monotonic() + 10
    while any(_answers(port) for port in ports):
        assert time.monotonic() < end
        time.sleep(0.05)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.parametrize(
    ("variable", "outcome"),
    [("CI", pytest.fail.Exception), ("NOX_CURRENT_SESSION", pytest.fail.Exception), (None, pytest.skip.Exception)],
)
def test_a_server_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, outcome: type[BaseException]
) -> None:
    for each in ("CI", "NOX_CURRENT_SESSION"):
        monkeypatch.delenv(each, raising=False)
    if variable:
        monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        pytest.raises(outcome, match=r"Azurite is not installed: .* python tests/install_servers\.py"),
        serve("azurite", tmp_path / "az"),
    ):
        pass
