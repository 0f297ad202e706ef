"""The process of a fault proxy: see fault_proxy.py for what it does, and why.

What passes through unharmed is never kept whole, and is copied in pieces; what is harmed is read as a whole first.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from fault_proxy import ANSWERS, Counts, Settings
from http_messages import PIECE, Head, Upstream, body, in_pieces, nothing, read_head, send

_STATUS = {
    "503": b"503 Slow Down",
    "429": b"429 Too Many Requests",
    "500": b"500 Internal Server Error",
    "late_500": b"500 Internal Server Error",
    "404": b"404 Not Found",
    "error_body": b"200 OK",
}
_ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>Please try again.</Message></Error>'


class _Bucket:
    """Who takes of it waits until so much has flowed."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.free_at = 0.0

    async def take(self, size: int) -> None:
        if self.bytes_per_s < math.inf:
            now = asyncio.get_running_loop().time()
            self.free_at = max(now, self.free_at) + size / self.bytes_per_s
            await asyncio.sleep(self.free_at - now)


class _Cut(ConnectionError):
    """This connection ends here."""


class _Chosen(NamedTuple):
    """What is to befall a request."""

    fault: str
    random: random.Random


class _Faults:
    """Which fault befalls which request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.times: dict[tuple[str, ...], int] = {}
        self.failed: set[tuple[str, ...]] = set()

    def choose(self, method: str, target: str, wanted: str) -> _Chosen | None:
        settings = self.settings
        if not settings.faults:
            return None
        # The rest of a range, asked for when the connection broke, has the same end.
        key = method, target, wanted.partition("-")[2]
        times = self.times[key] = self.times.get(key, 0) + 1
        if method not in settings.methods or (settings.once and key in self.failed):
            self.failed.discard(key)
            return None
        chance = random.Random(f"{settings.seed} {key} {times}")
        fitting = [fault for fault in settings.faults if _fits(fault, method, wanted, times)]
        if not fitting or chance.random() >= settings.share:
            return None
        self.failed.add(key)
        return _Chosen(chance.choice(fitting), chance)

    def spare(self, method: str, target: str, wanted: str) -> None:
        """The fault did not fit the server's answer, and nothing befell this request."""
        self.failed.discard((method, target, wanted.partition("-")[2]))


def _fits(fault: str, method: str, wanted: str, times: int) -> bool:
    match fault:
        case "503" | "429" | "500" | "reset" | "stall":
            return True
        case "404":
            return times == 1 and method in ("GET", "HEAD")
        case "etag":
            return method in ("GET", "HEAD")
        case "ignored_range" | "wrong_range":
            return method == "GET" and bool(wanted)
        case "lost_reply" | "late_500":
            return method in ("PUT", "POST", "DELETE", "PATCH")
        case _:
            return method == "GET"


class Proxying:
    """All connections of a proxy."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.under_way = 0
        self.clients: set[asyncio.Task[None] | None] = set()
        self.set(Settings())
        self.clear()

    def set(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = _Faults(settings)
        self.inward, self.outward = _Bucket(settings.bandwidth), _Bucket(settings.bandwidth)

    def clear(self) -> None:
        self.seen: list[list[str]] = []
        self.sent = 0
        self.at_once = self.under_way

    def counts(self) -> Counts:
        faulted = [each for each in self.seen if each[3]]
        return Counts(
            dict(Counter(each[0] for each in self.seen)),
            dict(Counter(each[3] for each in faulted)),
            dict(Counter(each[0] for each in faulted)),
            self.sent,
            self.at_once,
        )

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = Upstream(self.upstream)
        task = asyncio.current_task()
        self.clients.add(task)  # which nobody else holds while it waits for a client that is gone
        try:
            while not reader.at_eof():
                request = await read_head(reader)
                self.under_way += 1
                self.at_once = max(self.at_once, self.under_way)
                try:
                    await self._exchange(request, reader, writer, upstream)
                finally:
                    self.under_way -= 1
        except asyncio.IncompleteReadError:
            pass  # the client has no more requests
        except OSError:  # a cut
            linger = struct.pack("ii", 1, 0)  # closed now, by a reset
            with contextlib.suppress(OSError):  # the client has closed it
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        finally:
            self.clients.discard(task)
            upstream.close()
            writer.close()

    async def _exchange(
        self, request: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: Upstream
    ) -> None:
        method, target, _ = request.first.decode("latin-1").split(" ", 2)
        seen = [method, target, request.get(b"range").decode("latin-1"), ""]
        self.seen.append(seen)
        chosen = self.faults.choose(*seen[:3])
        await asyncio.sleep(self.settings.latency_s)
        if request.get(b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        asked = _throttled(self.inward, body(reader, request))
        if chosen and chosen.fault in (*ANSWERS, "reset"):
            seen[3] = chosen.fault
            async for _piece in asked:
                pass
            if chosen.fault == "reset":
                raise _Cut
            await send(writer, *_refusal(chosen, method))
            return
        answers, requests = await upstream.connected()
        await send(requests, request.without(b"expect"), asked)
        answer = await read_head(answers)
        while answer.first.split(b" ", 2)[1].startswith(b"1"):
            answer = await read_head(answers)
        status = answer.first.split(b" ", 2)[1]
        empty = method == "HEAD" or status in (b"204", b"304")
        pieces = nothing() if empty else body(answers, answer, until_end=True)
        # An answer without a length ends with the server's connection; here it gets the marks of chunks.
        ends = answer.first.startswith(b"HTTP/1.0") or answer.get(b"connection").lower() == b"close"
        if not empty and not answer.get(b"content-length"):
            answer = answer.having(b"Transfer-Encoding", b"chunked")
        answer = answer.without(b"connection")._replace(first=b"HTTP/1.1 " + answer.first.split(b" ", 1)[1])
        if chosen:
            answer, pieces = await self._harmed(chosen, seen, answer, pieces, writer)
        await send(writer, answer, self._counted(_throttled(self.outward, pieces)), is_empty=empty)
        upstream.used(ends=ends)

    async def _harmed(
        self, chosen: _Chosen, seen: list[str], answer: Head, pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter
    ) -> tuple[Head, AsyncIterator[bytes]]:
        """What the client is to get in place of an answer; if the fault doesn't fit the answer, the answer."""
        whole = b"".join([piece async for piece in pieces])
        if answer.get(b"transfer-encoding"):
            answer = answer.without(b"transfer-encoding").having(b"Content-Length", b"%d" % len(whole))
        if not _fits_answer(chosen.fault, answer, whole):
            self.faults.spare(*seen[:3])
            return answer, in_pieces(whole)
        seen[3] = chosen.fault
        half = len(whole) // 2
        match chosen.fault:
            case "lost_reply":
                raise _Cut
            case "late_500":
                return _refusal(chosen, seen[0])
            case "reset_before_body" | "reset_in_body":
                writer.transport.set_write_buffer_limits(0)
                await send(writer, answer, in_pieces(whole[: half * (chosen.fault == "reset_in_body")]))
                await asyncio.sleep(0.02)  # what is on its way arrives
                raise _Cut
            case "stall":
                await asyncio.sleep(self.settings.stall_s)
            case "drip":
                return answer, _dripping(whole, self.settings.stall_s)
            case "short":
                return answer.having(b"Content-Length", b"%d" % half), in_pieces(whole[:half])
            case "flip":
                at = chosen.random.randrange(8 * len(whole))
                flipped = bytes([whole[at // 8] ^ 1 << at % 8])
                return answer, in_pieces(whole[: at // 8] + flipped + whole[at // 8 + 1 :])
            case "etag":
                return answer.having(b"ETag", b'"%032x"' % chosen.random.getrandbits(128)), in_pieces(whole)
            case "ignored_range":
                start, _, total = _content_range(answer)
                answer = answer.without(b"content-range").having(b"Content-Length", b"%d" % total)
                return answer._replace(first=b"HTTP/1.1 200 OK"), _amid_zeros(whole, start, total)
            case "wrong_range":
                start, stop, total = _content_range(answer)
                wrong = b"bytes %d-%d/%d" % (start + 1, stop, max(total, stop + 1))
                return answer.having(b"Content-Range", wrong), in_pieces(whole[1:] + whole[:1])
        return answer, in_pieces(whole)

    async def _counted(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            self.sent += len(piece)
            yield piece

    async def listen(self) -> None:
        """Serve, and do what comes by standard input, until that ends."""
        server = await asyncio.start_server(self.client, "127.0.0.1", 0, limit=PIECE, backlog=1024)
        print(json.dumps(server.sockets[0].getsockname()[1]), flush=True)
        commands = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            command, argument = json.loads(line)
            answer: Any = None
            match command:
                case "set":
                    self.set(Settings(**argument))
                case "clear":
                    self.clear()
                case "counts":
                    answer = asdict(self.counts())
                case "requests":
                    answer = self.seen
            print(json.dumps(answer), flush=True)
        os._exit(0)  # whatever is still under way


def _fits_answer(fault: str, answer: Head, whole: bytes) -> bool:
    status = answer.first.split(b" ", 2)[1]
    match fault:
        case "lost_reply" | "late_500" | "stall":
            return True
        case "etag":
            return bool(answer.get(b"etag"))
        case "ignored_range" | "wrong_range":
            return status == b"206" and bool(whole)
        case _:
            return status.startswith(b"2") and bool(whole)


def _refusal(chosen: _Chosen, method: str) -> tuple[Head, AsyncIterator[bytes]]:
    """An answer that the server knows nothing of."""
    head = Head(b"HTTP/1.1 " + _STATUS[chosen.fault], ((b"Content-Type", b"application/xml"),))
    if chosen.fault == "503":
        head = head.having(b"Retry-After", b"%d" % chosen.random.randrange(2))
    content = b"" if method == "HEAD" else _ERROR
    return head.having(b"Content-Length", b"%d" % len(content)), in_pieces(content)


def _content_range(answer: Head) -> tuple[int, int, int]:
    """Start, stop (not inclusive) and total."""
    where, _, total = answer.get(b"content-range").removeprefix(b"bytes ").partition(b"/")
    first, _, last = where.partition(b"-")
    return int(first), int(last) + 1, int(total)


async def _throttled(bucket: _Bucket, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        await bucket.take(len(piece))
        yield piece


async def _dripping(whole: bytes, seconds: float) -> AsyncIterator[bytes]:
    half, drops = len(whole) // 2, 10
    yield whole[:half]
    step = max(1, math.ceil((len(whole) - half) / drops))
    for start in range(half, len(whole), step):
        await asyncio.sleep(seconds / drops)
        yield whole[start : start + step]


async def _amid_zeros(whole: bytes, start: int, total: int) -> AsyncIterator[bytes]:
    for piece in (*_zeros(start), whole, *_zeros(total - start - len(whole))):
        yield piece


def _zeros(size: int) -> Iterator[bytes]:
    zeros = bytes(PIECE)
    for done in range(0, size, PIECE):
        yield zeros[: size - done]


if __name__ == "__main__":
    asyncio.run(Proxying(int(sys.argv[1])).listen())
