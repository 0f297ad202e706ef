"""Each fault of the proxy happens, as somebody sees it who does not try again; and what is not harmed is not."""

import contextlib
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from fault_proxy import AFTERWARDS, READ_FAULTS, WRITE_FAULTS, Proxy
from servers import serve

CONTENT = bytes(range(250)) * 4
LARGE = hashlib.shake_128(b"large").digest(9 << 20)
RANGE = {"Range": "bytes=100-199"}
ASKED = CONTENT[100:200]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes


def ask(
    port: int, method: str = "GET", target: str = "/key", headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request by a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        return ask_by(connection, method, target, headers, body)


def ask_by(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    connection.request(method, target, body or None, headers or {})
    answer = connection.getresponse()
    return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy before a server of a few files."""
    folder = tmp_path_factory.mktemp("caddy")
    with serve("caddy", folder) as server, Proxy(server.port) as proxy:
        (folder / "files" / "key").write_bytes(CONTENT)
        (folder / "files" / "large").write_bytes(LARGE)
        yield proxy


@pytest.fixture
def proxy(files: Proxy) -> Proxy:
    files.set()
    files.clear()
    return files


class _Framing(BaseHTTPRequestHandler):
    """Says how it got a body, and answers with marked chunks, or with the end of the connection."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = b""
        if length := self.headers["Content-Length"]:
            content = self.rfile.read(int(length))
        else:
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.send_response(200)
        if self.path == "/until-the-end":
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (content[:7], content[7:]):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"")
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_PUT

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def framing() -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Framing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Proxy(server.server_port) as proxy:
            yield proxy
        server.shutdown()
        thread.join()


def test_what_is_not_harmed_passes_as_it_is(proxy: Proxy) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)) as connection:
        assert ask_by(connection, "GET", "/key")[::2] == (200, CONTENT)
        first = connection.sock
        assert ask_by(connection, "GET", "/key", RANGE)[::2] == (206, ASKED)
        head = ask_by(connection, "HEAD", "/key")
        assert (head.status, head.headers["content-length"], head.content) == (200, "1000", b"")
        assert ask_by(connection, "GET", "/none").status == 404
        assert ask_by(connection, "GET", "/large").content == LARGE
        assert ask_by(connection, "GET", "/key", {"If-None-Match": head.headers["etag"]})[::2] == (304, b"")
        assert connection.sock is first  # kept alive through all of it
    assert proxy.counts().requests == {"GET": 5, "HEAD": 1}
    assert proxy.counts().faults == {}
    assert [(*each,) for each in proxy.requests()][:2] == [
        ("GET", "/key", "", ""),
        ("GET", "/key", "bytes=100-199", ""),
    ]


@pytest.mark.parametrize("target", ["/chunks", "/until-the-end"])
@pytest.mark.parametrize("size", [0, 1, 8, 1_000_000])
def test_bodies_of_every_framing_pass(framing: Proxy, target: str, size: int) -> None:
    content = LARGE[:size]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", framing.port, timeout=10)) as connection:
        for headers, chunked in (({"Content-Length": str(size)}, False), ({"Transfer-Encoding": "chunked"}, True)):
            pieces = iter([content[:3], content[3:]] if size > 3 else [content] if size else [])
            connection.request("PUT", target, pieces if chunked else content, headers, encode_chunked=chunked)
            assert connection.getresponse().read() == content


@pytest.mark.parametrize("fault", ["short", "flip"])
def test_answers_in_chunks_are_harmed_too(framing: Proxy, fault: str) -> None:
    framing.set(faults=[fault], share=1, methods=["GET"])
    answer = ask(framing.port, target="/chunks", headers={"Content-Length": "10"}, body=b"0123456789")
    assert answer.content != b"0123456789"
    assert int(answer.headers["content-length"]) == len(answer.content) == (5 if fault == "short" else 10)


def harmed(proxy: Proxy, fault: str, method: str = "GET") -> Answer:
    proxy.set(faults=[fault], share=1, methods=[method], stall_s=0.5)
    return ask(proxy.port, method, headers=RANGE)


@pytest.mark.parametrize("status", ["503", "429", "500", "404"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_refusals(proxy: Proxy, status: str, method: str) -> None:
    answer = harmed(proxy, status, method)
    assert answer.status == int(status)
    assert (status == "503") == (answer.headers.get("retry-after") in ("0", "1"))
    assert bool(answer.content) == (method == "GET")
    assert proxy.counts().faults == {status: 1}
    assert proxy.counts().faulted == {method: 1}


def test_404_once(proxy: Proxy) -> None:
    assert harmed(proxy, "404").status == 404
    assert [ask(proxy.port, headers=RANGE).status for _ in range(3)] == [206] * 3


def test_an_error_in_place_of_the_object(proxy: Proxy) -> None:
    answer = harmed(proxy, "error_body")
    assert answer.status == 200
    assert b"<Error><Code>InternalError" in answer.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_reset_before_anything(proxy: Proxy, method: str) -> None:
    with pytest.raises(ConnectionResetError):
        harmed(proxy, "reset", method)
    assert proxy.counts().faults == {"reset": 1}


@pytest.mark.parametrize(("fault", "arrive"), [("reset_before_body", 0), ("reset_in_body", len(LARGE) // 2)])
def test_a_reset_after_the_head(proxy: Proxy, fault: str, arrive: int) -> None:
    proxy.set(faults=[fault], share=1)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)) as connection:
        connection.request("GET", "/large")
        answer = connection.getresponse()
        assert answer.getheader("Content-Length") == str(len(LARGE))
        assert answer.read(arrive) == LARGE[:arrive]
        with pytest.raises(ConnectionResetError):
            answer.read(1)
        answer.close()


def test_half_of_the_body_with_a_length_that_fits(proxy: Proxy) -> None:
    answer = harmed(proxy, "short")
    assert (answer.status, answer.headers["content-length"], answer.content) == (206, "50", ASKED[:50])


def test_a_range_that_is_ignored(proxy: Proxy) -> None:
    answer = harmed(proxy, "ignored_range")
    assert (answer.status, answer.headers["content-length"]) == (200, "1000")
    assert "content-range" not in answer.headers
    assert answer.content == bytes(100) + ASKED + bytes(800)


def test_a_range_that_is_wrong(proxy: Proxy) -> None:
    answer = harmed(proxy, "wrong_range")
    assert (answer.status, answer.headers["content-range"]) == (206, "bytes 101-200/1000")
    assert len(answer.content) == 100
    assert answer.content[:99] == ASKED[1:]


def test_one_bit_is_flipped(proxy: Proxy) -> None:
    answer = harmed(proxy, "flip")
    assert answer.status == 206
    assert sum((got ^ right).bit_count() for got, right in zip(answer.content, ASKED, strict=True)) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_another_etag(proxy: Proxy, method: str) -> None:
    right = ask(proxy.port, method, headers=RANGE).headers["etag"]
    answer = harmed(proxy, "etag", method)
    assert answer.headers["etag"] != right
    assert answer.content == (ASKED if method == "GET" else b"")


def test_a_stall(proxy: Proxy) -> None:
    begin = time.monotonic()
    assert harmed(proxy, "stall").content == ASKED
    assert time.monotonic() - begin >= 0.5


def test_a_slow_drip(proxy: Proxy) -> None:
    proxy.set(faults=["drip"], share=1, stall_s=0.5)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)) as connection:
        begin = time.monotonic()
        connection.request("GET", "/key", headers=RANGE)
        answer = connection.getresponse()
        assert answer.read(50) == ASKED[:50]
        half = time.monotonic() - begin
        assert answer.read() == ASKED[50:]
        assert time.monotonic() - begin >= 0.5 > half


@pytest.mark.parametrize("fault", AFTERWARDS)
def test_what_was_done_though_the_answer_does_not_say_so(tmp_path: Path, fault: str) -> None:
    signed = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=swath/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    }
    with serve("moto", tmp_path) as server, Proxy(server.port) as proxy:
        proxy.set(faults=[fault], share=1, methods=["PUT"])
        if fault == "lost_reply":
            with pytest.raises(ConnectionResetError):
                ask(proxy.port, "PUT", "/bucket/key", signed, CONTENT)
        else:
            assert ask(proxy.port, "PUT", "/bucket/key", signed, CONTENT).status == 500
        assert proxy.counts().faults == {fault: 1}
        assert ask(proxy.port, "GET", "/bucket/key", signed).content == CONTENT


def test_a_client_that_waits_before_it_sends_is_told_to_go_on(framing: Proxy) -> None:
    framing.set()
    with socket.create_connection(("127.0.0.1", framing.port), timeout=10) as client:
        client.sendall(b"PUT /chunks HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_client_may_go_away(files: Proxy) -> None:
    with Proxy(files.upstream) as proxy:
        for faults in ([], ["ignored_range"], ["stall"], ["drip"], ["reset_in_body"]):
            proxy.set(faults=faults, share=1, stall_s=0.2)
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\nRange: bytes=0-8000000\r\n\r\n")
                client.recv(1)
        time.sleep(0.5)
        proxy.set()
        assert ask(proxy.port).content == CONTENT
    # At its end a proxy fails if anything in it went wrong that it didn't expect.


def test_a_proxy_may_end_before_its_clients(files: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        with Proxy(files.upstream) as proxy:
            proxy.set(faults=["stall"], share=1, stall_s=60)
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=10)) for _ in range(2)
            ]
            clients[0].sendall(b"GET /key HTTP/1.1\r\nHost: here\r\n\r\n")
            while not proxy.requests():
                pass
        assert [client.recv(1) for client in clients] == [b"", b""]


def test_a_proxy_that_went_wrong_says_so(files: Proxy) -> None:
    with Proxy(files.upstream) as proxy:
        proxy.set(faults=["stall"], share=1, stall_s="long")  # type: ignore[arg-type]
        with pytest.raises(http.client.RemoteDisconnected):
            ask(proxy.port)
        with pytest.raises(AssertionError, match="TypeError"):
            proxy.__exit__(None, None, None)
        proxy.__enter__()  # for the end of the block


def befallen(proxy: Proxy) -> list[str]:
    return [each.fault for each in proxy.requests()]


def test_faults_are_a_function_of_the_seed_and_the_requests(proxy: Proxy) -> None:
    faults = ["503", "429", "500"]
    ranges = [{"Range": f"bytes={i}-{i + 9}"} for i in range(100)]
    runs = []
    for seed, threads in ((0, 1), (0, 8), (1, 1)):
        proxy.set(faults=faults, share=0.3, seed=seed)
        proxy.clear()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda headers: ask(proxy.port, headers=headers), ranges))
        runs.append(sorted(proxy.requests()))
    assert runs[0] == runs[1] != runs[2]
    assert {each.fault for each in runs[0]} == {*faults, ""}
    assert 15 <= sum(bool(each.fault) for each in runs[0]) <= 45


def test_a_share_of_none_and_other_methods(proxy: Proxy) -> None:
    proxy.set(faults=READ_FAULTS, share=0)
    ask(proxy.port)
    proxy.set(faults=WRITE_FAULTS, share=1, methods=["PUT"])
    ask(proxy.port)
    proxy.set(faults=["ignored_range", "wrong_range", "lost_reply"], share=1)  # not for a whole object
    ask(proxy.port)
    proxy.set(faults=["flip", "short", "etag"], share=1)  # not for one that is not there
    assert ask(proxy.port, target="/none").status == 404
    assert befallen(proxy) == [""] * 4


def test_once_a_request_that_failed_succeeds_next(proxy: Proxy) -> None:
    proxy.set(faults=["500"], share=1, once=True)
    rest = {"Range": "bytes=150-199"}  # as of a body that broke: the same end
    for headers in (RANGE, rest, RANGE, RANGE, {"Range": "bytes=100-198"}):
        ask(proxy.port, headers=headers)
    assert befallen(proxy) == ["500", "", "500", "", "500"]


def test_latency_is_for_each_request_and_not_for_all_together(proxy: Proxy) -> None:
    proxy.set(latency_s=0.2)
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert {answer.content for answer in pool.map(lambda _: ask(proxy.port), range(8))} == {CONTENT}
    assert 0.2 <= time.monotonic() - begin < 1.2
    assert 2 <= proxy.counts().at_once <= 8


@pytest.mark.parametrize("at_once", [1, 4])
def test_bandwidth_is_shared(proxy: Proxy, at_once: int) -> None:
    proxy.set(bandwidth=len(LARGE) * 4)
    begin = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        assert all(answer.content == LARGE for answer in pool.map(lambda _: ask(proxy.port, target="/large"), range(4)))
    assert 0.95 <= time.monotonic() - begin < 2.5
    assert proxy.counts().sent == 4 * len(LARGE)


def test_an_unknown_fault_is_no_fault(proxy: Proxy) -> None:
    with pytest.raises(AssertionError, match=r"no faults of this proxy: .*flop"):
        proxy.set(faults=["flop"])
