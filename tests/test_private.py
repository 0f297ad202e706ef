"""What nobody else shall see: shared memory, temporary files, secrets; and that swath listens to nobody on a network."""

import contextlib
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from servers import Server, free_port

import swath
from swath.errors import SwathError
from swath.sharing import memory
from swath.sources.spooled import spool

ROWS = np.arange(4000.0).reshape(1000, 4)


def _mode(path: int | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 - of a descriptor too


@pytest.fixture
def umask() -> Iterator[None]:
    """That of who lets nobody see what he writes."""
    before = os.umask(0o077)
    yield
    os.umask(before)


# Memory


def test_shared_memory_is_of_its_user_alone() -> None:
    descriptor, _ = memory.create(100)
    assert _mode(descriptor) == 0o600
    os.close(descriptor)


def _named_memory() -> set[str]:
    """What this process has open or mapped in the folder of named memory, where others write too."""
    opened = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            opened.append(os.readlink(each))  # noqa: PTH115 - what is no path there
    mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return {name for name in opened + mapped if name.startswith("/dev/shm/")}


def test_shared_memory_has_no_name_to_guess(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", window=4)
    before = _named_memory()
    with swath.serve_batches(a.batches(32)) as server, swath.share(ROWS) as shared, swath.share(ROWS) as other:
        assert len(bytes.fromhex(server.handle.name)) == 16
        assert len(shared.handle.token) == 16
        assert shared.handle.token != other.handle.token
        assert _named_memory() == before
        # In the namespace of sockets that has no files, by the name that nobody can guess.
        assert f"@swath-{server.handle.name}" in Path("/proc/net/unix").read_text()


# Files


def test_a_temporary_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = spool(lambda _: ROWS, [(slice(0, 4),)], (4,), ROWS.dtype, len(ROWS))
    assert _mode(found.file.fileno()) == 0o600
    assert os.fstat(found.file.fileno()).st_nlink == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["out.npy", "out.raw", "out.h5::x", "out.zarr"])
def test_what_is_written_is_seen_by_whom_the_umask_says(tmp_path: Path, umask: None, target: str) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", window=4)
    a.append(ROWS)
    swath.ingest_group({"X": ROWS}, tmp_path / "g", window=4)
    swath.export(a, f"{tmp_path}/{target}")
    written = list(tmp_path.rglob("*"))
    assert len(written) > 6
    assert {_mode(path) for path in written} == {0o600, 0o700}


def test_a_store_is_seen_by_others_where_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        swath.ingest(ROWS, tmp_path / "a", window=4)
    finally:
        os.umask(before)
    assert {path.name: _mode(path) for path in (tmp_path / "a").iterdir()} == {"zarr.json": 0o644, "c.0.0": 0o644}


# Sockets

_CALLS = """
import sys
import numpy as np
import swath
from dask.distributed import Client  # imported, and not used

bound = []
sys.addaudithook(lambda event, arguments: bound.append(arguments[1]) if event == "socket.bind" else None)
folder = sys.argv[1]
rows = np.arange(4000.0).reshape(1000, 4)
a = swath.ingest(rows, folder + "/a", window=4)
a.append(rows)
swath.compute(a.windows(range(100)).mean(axis=1))
swath.compute(a.windows(range(100)).mean(axis=1), scheduler="threads")
with swath.serve_batches(a.batches(32)) as server:
    for batch in swath.consume(server.handle):
        pass
a.verify()
swath.export(a, folder + "/a.npy")
print([address for address in bound if not (isinstance(address, str | bytes) and address[:7] in ("\\0swath-", b"\\0swath-"))], len(bound))
"""


def test_nothing_listens_on_a_network(tmp_path: Path) -> None:
    """No cluster is started but by who starts one."""
    done = subprocess.run([sys.executable, "-c", _CALLS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1"


# Secrets

_SECRETS = {
    "AWS_ACCESS_KEY_ID": "marker-of-a-key",
    "AWS_SECRET_ACCESS_KEY": "marker-of-a-secret",
    "AWS_SESSION_TOKEN": "marker-of-a-token",
}


def _run(words: list[str], **environment: str) -> str:
    command = [sys.executable, "-c", "from swath.cli import main; main()", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=120
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["info", "s3://bucket/nothing"],
        ["plan", "s3://bucket/nothing", "--random", "3"],
        ["verify", "s3://no-such-bucket/a"],
        ["ingest", "{npy}", "s3://no-such-bucket/a"],
        ["gather", "s3://bucket/nothing", "{out}", "--random", "3"],
    ],
    ids=lambda words: words[0],
)
def test_secrets_are_in_no_line_of_the_command(moto: Server, tmp_path: Path, words: list[str]) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    places = {"npy": str(tmp_path / "a.npy"), "out": str(tmp_path / "out.npy")}
    options = moto.storage_options
    told = _run(
        [word.format(**places) for word in words],
        **_SECRETS,
        AWS_ENDPOINT_URL=str(options.get("endpoint", options.get("endpoint_url", moto.url))),
        AWS_REGION="us-east-1",
        AWS_ALLOW_HTTP="true",
        RUST_LOG="trace",
        PYTHONDEVMODE="1",
    )
    assert "bucket" in told
    assert "marker" not in told


@pytest.mark.parametrize(
    "url",
    [
        "s3://marker-user:marker-password@bucket/a",
        "https://marker-user:marker-password@127.0.0.1:1/a",
        "https://127.0.0.1:1/a?X-Amz-Signature=marker&sig=marker",
        "az://container/a?sv=1&sig=marker",
        "gs://bucket/a#marker",
        "ftp://marker-user:marker-password@host/a",
        "unknown://host/a?token=marker",
    ],
)
def test_secrets_of_a_url_are_in_no_message(tmp_path: Path, url: str) -> None:
    calls = (
        lambda: swath.open(url),
        lambda: swath.open_group(url),
        lambda: swath.ingest(ROWS, url),
        lambda: swath.ingest_group({"X": ROWS}, url),
        lambda: swath.open(url, cache=tmp_path / "cache"),
    )
    for call in calls:
        with pytest.raises(SwathError) as error:
            call()
        assert "marker" not in "".join(traceback.format_exception(error.value))
    assert "marker" not in _run(["info", url])


def test_secrets_are_in_no_message_of_who_cannot_be_reached(tmp_path: Path) -> None:
    port = free_port()
    options = {
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "us-east-1",
        "allow_http": "true",
        "access_key_id": "marker-of-a-key",
        "secret_access_key": "marker-of-a-secret",
        "session_token": "marker-of-a-token",
        "proxy_url": "http://marker-user:marker-password@127.0.0.1:1",
    }
    with pytest.raises(SwathError) as error:
        swath.open("s3://bucket/a", storage_options=options)
    assert "marker" not in "".join(traceback.format_exception(error.value))
    options["unknown"] = "marker"  # of which the message says the name alone
    with pytest.raises(SwathError) as error:
        swath.open("s3://bucket/a", storage_options=options)
    assert "marker" not in "".join(traceback.format_exception(error.value))
