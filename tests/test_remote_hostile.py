"""Object stores that do what they should not: the rows stay right, the errors are typed and come soon."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr
from fault_proxy import Proxy
from oracle import assert_same, expected
from servers import Server
from zarr.storage import ObjectStore

import swath
from swath import commit_objects
from swath.errors import (
    DamagedStoreError,
    FormatError,
    OptionError,
    StoreAccessError,
    StoreBusyError,
    StoreNotFoundError,
    StoreUnreachableError,
)
from swath.storage import place_of

ROWS = np.random.default_rng(0).normal(size=(2000, 20))
LAYOUT: dict[str, Any] = {"window": 8, "chunk_rows": 4, "shard_rows": 200, "codec": "raw"}

Answer = tuple[int, dict[str, str], bytes]


def _url(server: Server, name: str) -> str:
    return f"{server.url}/hostile/{name}.zarr"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server: Any = self.server
        status, headers, content = server.answer(self)
        self.send_response(status)
        if "Transfer-Encoding" not in headers:
            headers = {"Content-Length": str(len(content)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
            self.wfile.write(chunks if "Transfer-Encoding" in headers else content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def _answering(answer: Callable[[BaseHTTPRequestHandler], Answer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that answers everything so: an endpoint, and options for S3."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.answer = answer  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        keys = {"access_key_id": "marker-of-a-key", "secret_access_key": "marker-of-a-secret", "region": "us-east-1"}
        try:
            yield endpoint, {**keys, "endpoint": endpoint, "allow_http": True, "virtual_hosted_style_request": False}
        finally:
            server.shutdown()


_PAGE = b"<html><body>It works!</body></html>"
_SOUND = {"ETag": '"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((401, {}, _PAGE), StoreAccessError),
        ((403, {}, b""), StoreAccessError),
        ((400, {}, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), StoreAccessError),
        ((301, {"x-amz-bucket-region": "eu-west-1"}, b"<Error/>"), StoreAccessError),
        ((302, {"Location": "/elsewhere"}, b""), StoreAccessError),
        ((404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"), StoreNotFoundError),
        ((200, {**_SOUND, "Transfer-Encoding": "chunked"}, _PAGE), StoreAccessError),
        ((200, _SOUND, _PAGE), FormatError),
        ((200, {}, _PAGE), FormatError),
        ((200, _SOUND, b""), FormatError),
        ((204, {}, b""), FormatError),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else value.__name__,
)
@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_whatever_a_server_says_is_a_typed_error_and_soon(scheme: str, answer: Answer, kind: type[Exception]) -> None:
    with _answering(lambda request: answer) as (endpoint, options):
        begun = time.monotonic()
        url = "s3://bucket/a.zarr" if scheme == "s3" else f"{endpoint}/a.zarr"
        with pytest.raises(kind) as told:
            swath.open(url, storage_options=options if scheme == "s3" else None)
        assert time.monotonic() - begun < 10
        assert "marker" not in str(told.value)


def test_a_server_without_ranges_is_an_error_soon(tmp_path: Path) -> None:
    swath.ingest(ROWS, tmp_path / "a.zarr", **LAYOUT)

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        path = tmp_path / request.path.lstrip("/")
        return (200, _SOUND, path.read_bytes()) if path.is_file() else (404, {}, b"")

    with _answering(answer) as (endpoint, _):
        a = swath.open(f"{endpoint}/a.zarr")
        begun = time.monotonic()
        with pytest.raises(StoreAccessError, match="Range request not supported"):
            a.gather([0])
        assert time.monotonic() - begun < 20


def test_a_507_in_a_key_is_no_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.storage.asking.DEADLINE_SECONDS", 0.2)
    with _answering(lambda request: (503, {}, b"")) as (_, options), pytest.raises(StoreUnreachableError, match="503"):
        swath.open("s3://bucket/507/a.zarr", storage_options=options)


def test_an_empty_shard_is_damage(server: Server) -> None:
    url, options = _url(server, "empty"), server.storage_options
    a = swath.ingest(ROWS, url, storage_options=options, **LAYOUT)
    obstore.put(server.store("hostile/empty.zarr"), "c.3.0", b"")
    with pytest.raises(DamagedStoreError, match=r"c\.3\.0 ends at byte 0"):
        a.gather([610])
    assert {damage.shard for damage in a.verify().damages} == {3}


_CALLS = """
import json, signal, sys
import numpy as np, swath
signal.signal(signal.SIGINT, signal.default_int_handler)
what, url, options = json.loads(sys.argv[1])
rows = np.zeros((2000, 20))
if what == "append":
    a = swath.open(url, storage_options=options)
print("ready", flush=True)
sys.stdin.readline()
try:
    if what == "open":
        swath.open(url, storage_options=options)
    elif what == "append":
        a.append(rows)
    elif what == "blocks":
        swath.ingest(iter([rows]), url + "-blocks", storage_options=options)
    else:
        swath.ingest(rows, url + "-new", storage_options=options)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(("what", "method"), [("open", "GET"), ("append", "PUT"), ("ingest", "PUT"), ("blocks", "PUT")])
def test_ctrl_c_ends_each_call_at_once(moto: Server, proxy: Proxy, what: str, method: str) -> None:
    url, behind = _url(moto, "ctrl-c"), moto.behind(proxy.port)
    swath.ingest(ROWS, url, storage_options=moto.storage_options, overwrite=True, **LAYOUT)
    child = subprocess.Popen(
        [sys.executable, "-c", _CALLS, json.dumps([what, url, behind.storage_options])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    proxy.set(faults=["stall"], share=1.0, stall_s=60, methods=(method,))
    child.stdin.write("\n")
    child.stdin.flush()
    while not any(each.fault for each in proxy.requests()):
        time.sleep(0.05)
    time.sleep(0.3)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20)[0] == "interrupted\n"
    assert time.monotonic() - begun < 2


def test_a_lease_is_kept_though_a_renewal_gets_no_answer(moto: Server, proxy: Proxy) -> None:
    behind = moto.behind(proxy.port)
    folder = place_of(_url(behind, "renewed"), behind.storage_options)
    proxy.set(faults=["stall"], share=1.0, once=True, stall_s=60, methods=("PUT",))
    begun = time.monotonic()
    folder.put("lease", [memoryview(b"small")])
    assert time.monotonic() - begun < commit_objects._LEASE_SECONDS / 2


_HELD_UP = """
import json, os, signal, sys
import numpy as np, swath
from swath import commit_objects, ingestion
from swath.storage import ObjectFolder
where, url, options, rows = json.loads(sys.argv[1])
commit_objects._RENEW_SECONDS = 0.2
tail, put = ingestion._tail, ObjectFolder.put
def stopped_after(*arguments):
    found = tail(*arguments)
    os.kill(os.getpid(), signal.SIGSTOP)
    return found
def stopped_before(folder, key, buffers):
    if key.startswith("c."):
        os.kill(os.getpid(), signal.SIGSTOP)
    put(folder, key, buffers)
if where == "before it writes":
    ingestion._tail = stopped_after
else:
    ObjectFolder.put = stopped_before
try:
    swath.open(url, storage_options=options).append(np.ones((rows, 20)))
except swath.SwathError as error:
    print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("where", ["before it writes", "as it writes"])
@pytest.mark.parametrize("n_rows", [300, 400])
def test_who_was_held_up_does_no_harm(server: Server, where: str, n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended machine, or a network that comes back: another has taken the lease, and has appended."""
    monkeypatch.setattr("swath.commit_objects._LEASE_SECONDS", 1.0)
    url, options = _url(server, f"held-up-{where[:2]}-{n_rows}"), server.storage_options
    a = swath.ingest(ROWS[:n_rows], url, storage_options=options, **LAYOUT)
    job = json.dumps([where, url, options, 37])
    child = subprocess.Popen([sys.executable, "-c", _HELD_UP, job], stdout=subprocess.PIPE, text=True)
    try:
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert child.poll() is None
            time.sleep(0.05)
        a.append(ROWS[:120])
        child.send_signal(signal.SIGCONT)
        assert child.communicate(timeout=60)[0] == "StoreBusyError\n"
    finally:
        child.kill()
    rows = np.concatenate([ROWS[:n_rows], ROWS[:120]])
    a = swath.open(url, storage_options=options)
    assert len(a) == len(rows)
    starts = np.arange(len(rows) - 8)
    assert_same(a.gather(starts), expected(rows, starts, 8))
    assert a.verify()


def test_threads_that_append_take_turns(server: Server) -> None:
    url, options = _url(server, "threads"), server.storage_options
    a = swath.ingest(ROWS[:100], url, storage_options=options, **LAYOUT)
    with ThreadPoolExecutor(4) as pool:
        # Of one handle, and of handles of their own.
        for k in range(4):
            each = a if k % 2 else swath.open(url, storage_options=options)
            pool.submit(each.append, np.full((150, 20), float(k))).add_done_callback(lambda done: done.result())
    a.refresh()
    assert len(a) == 700
    found = a.gather(np.arange(100, 700, 150), window=150)
    assert (found == found[:, :1, :1]).all()
    assert sorted(found[:, 0, 0].tolist()) == [0, 1, 2, 3]
    assert a.verify()


class _Meanwhile:
    """A source during whose first read something else happens."""

    def __init__(self, rows: Any, what: Callable[[], Any]) -> None:
        self.rows, self.what = rows, what
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, key: Any) -> Any:
        what, self.what = self.what, lambda: None
        what()
        return self.rows[key]


def test_two_who_replace_a_store_leave_one_whole(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.ingestion._FITS", 0.0)  # a sample is read to choose the codec
    url, options = _url(moto, "replaced-twice"), moto.storage_options
    layout = {**LAYOUT, "codec": "auto"}
    swath.ingest(ROWS, url, storage_options=options, **layout)
    source = _Meanwhile(
        ROWS + 2, lambda: swath.ingest(ROWS + 1, url, overwrite=True, storage_options=options, **layout)
    )
    with pytest.raises(StoreBusyError, match="has replaced"):
        swath.ingest(source, url, overwrite=True, storage_options=options, **layout)
    a = swath.open(url, storage_options=options)
    assert a.verify()
    assert_same(a.gather([0, 900]), expected(ROWS + 1, np.array([0, 900]), 8))


def test_a_server_that_answers_503_for_ever_is_asked_for_one_deadline(
    moto: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swath.storage.asking.DEADLINE_SECONDS", 2.0)
    url, behind = _url(moto, "for-ever"), moto.behind(proxy.port)
    rows = np.zeros((200, 20_000))
    swath.ingest(rows, url, storage_options=moto.storage_options, window=1, chunk_rows=1, shard_rows=20, codec="raw")
    a = swath.open(url, storage_options=behind.storage_options)
    proxy.set(faults=["503"], share=1.0)
    begun = time.monotonic()
    with pytest.raises(StoreUnreachableError, match="503"):
        a.gather(np.arange(0, 200, 4), window=1, memory_limit="18MiB")  # few threads, and all look for indexes first
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_zarr_array_opens_through_a_faulty_network(moto: Server, proxy: Proxy, fault: str) -> None:
    array = zarr.create_array(
        ObjectStore(moto.store("hostile/foreign.zarr")), data=ROWS, chunks=(100, 20), overwrite=True
    )
    assert array.shape == ROWS.shape
    behind = moto.behind(proxy.port)
    for seed in range(6):
        proxy.set(faults=[fault], share=0.3, seed=seed)
        a = swath.open(_url(behind, "foreign"), storage_options=behind.storage_options)
        assert_same(a.gather([7], window=3), expected(ROWS, np.array([7]), 3))


def test_arrays_of_a_group_that_was_replaced_are_gone(server: Server) -> None:
    url, options = _url(server, "gone"), server.storage_options
    swath.ingest_group({"X": ROWS, "y": np.arange(2000)}, url, storage_options=options)
    swath.ingest_group({"X": ROWS}, url, overwrite=True, storage_options=options)
    with pytest.raises(StoreNotFoundError):
        swath.open(f"{url}/y", storage_options=options)
    assert_same(swath.open(f"{url}/X", storage_options=options).gather([5]), expected(ROWS, np.array([5]), 16))


@pytest.mark.parametrize("name", ["a b", "ä", "100%", "50%25", "q;r"])
def test_keys_are_taken_as_they_are_written(moto: Server, name: str) -> None:
    url, options = f"{moto.url}/names/{name}", moto.storage_options
    swath.ingest_group({"X": ROWS[:50]}, url, storage_options=options)
    assert_same(swath.open(f"{url}/X", storage_options=options).gather([3]), expected(ROWS, np.array([3]), 16))


def test_urls_are_checked_without_telling_what_is_in_them() -> None:
    for url in ("s3://[u:marker/a", "s3n://u:marker@b/a", "http://u:marker@h/a", "ftp://h/a?key=marker"):
        with pytest.raises(OptionError) as told:
            swath.open(url)
        assert "marker" not in str(told.value)


def test_a_container_may_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.storage.asking._NOBODY_SECONDS", 0.1)
    options = {"account_key": "eHg=", "endpoint": "http://127.0.0.1:9", "allow_http": True}
    with pytest.raises(StoreUnreachableError, match="/container/x/a"):
        swath.open("abfss://container@account.dfs.core.windows.net/x/a", storage_options=options)


@pytest.mark.parametrize("name", ["proxy_url", "endpoint"])
def test_a_password_in_an_option_stays_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.storage.asking._NOBODY_SECONDS", 0.1)
    keys = {"access_key_id": "x", "secret_access_key": "y", "allow_http": True}
    options = {**keys, "endpoint": "http://127.0.0.1:9", name: "http://user:marker@127.0.0.1:9"}
    assert b"marker" not in pickle.dumps(place_of("s3://bucket/a", options))
    with pytest.raises(StoreUnreachableError) as told:
        swath.open("s3://bucket/a", storage_options=options)
    assert "marker" not in str(told.value)


def test_a_store_object_that_fails_is_a_typed_error(moto: Server, proxy: Proxy) -> None:
    swath.ingest(ROWS, _url(moto, "object"), storage_options=moto.storage_options, **LAYOUT)
    behind = moto.behind(proxy.port)
    place = ObjectStore(behind.store("hostile/object.zarr", retry_config={"max_retries": 0}), read_only=True)
    a = swath.open(place)
    proxy.set(faults=["503"], share=1.0)
    for call in (lambda: swath.open(place), lambda: a.gather([0])):
        with pytest.raises(StoreUnreachableError, match="503"):
            call()


def _gather_there(a: Any, answer: Any) -> None:
    try:
        answer.put(a.gather([0]).shape)
    except StoreUnreachableError as error:
        answer.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_object_in_a_forked_process_is_an_error_and_no_hang(moto: Server) -> None:
    swath.ingest(ROWS, _url(moto, "forked"), storage_options=moto.storage_options, overwrite=True, **LAYOUT)
    a = swath.open(ObjectStore(moto.store("hostile/forked.zarr"), read_only=True))
    context: Any = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_gather_there, args=(a, answer), daemon=True)
    child.start()
    try:
        assert "forked" in answer.get(timeout=20)
    finally:
        child.kill()
        child.join()
