"""Requests and answers of HTTP/1.1 as they pass through a proxy: a head, and a body in pieces."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import NamedTuple

PIECE = 256 * 1024
IDLE_S = 2.0  # servers end connections that do nothing for 5 s and longer; a request must not meet that


class Head(NamedTuple):
    """The first line and the header fields of a request or an answer."""

    first: bytes
    fields: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes) -> bytes:
        return next((value for key, value in self.fields if key.lower() == name), b"")

    def without(self, *names: bytes) -> "Head":
        return self._replace(fields=tuple(each for each in self.fields if each[0].lower() not in names))

    def having(self, name: bytes, value: bytes) -> "Head":
        kept = self.without(name.lower())
        return kept._replace(fields=(*kept.fields, (name, value)))

    def __bytes__(self) -> bytes:
        return b"".join([self.first, b"\r\n", *(b"%b: %b\r\n" % each for each in self.fields), b"\r\n"])


async def read_head(reader: asyncio.StreamReader) -> Head:
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return Head(first, tuple((name, value.strip()) for name, _, value in pairs))


async def body(reader: asyncio.StreamReader, head: Head, *, until_end: bool = False) -> AsyncIterator[bytes]:
    """The data, in pieces, without the marks between chunks."""
    if head.get(b"transfer-encoding").lower() == b"chunked":
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            async for piece in _exactly(reader, size):
                yield piece
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # a trailer
    elif length := head.get(b"content-length"):
        async for piece in _exactly(reader, int(length)):
            yield piece
    elif until_end:
        while piece := await reader.read(PIECE):
            yield piece


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await reader.read(min(size, PIECE))
        if not piece:
            raise ConnectionError("the body ended early")
        size -= len(piece)
        yield piece


async def send(
    writer: asyncio.StreamWriter, head: Head, pieces: AsyncIterator[bytes], *, is_empty: bool = False
) -> None:
    chunked = bool(head.get(b"transfer-encoding")) and not is_empty
    begin = bytes(head)
    async for piece in pieces:
        writer.write(begin + (b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece))
        begin = b""
        await writer.drain()
    if begin or chunked:
        writer.write(begin + (b"0\r\n\r\n" if chunked else b""))
        await writer.drain()


async def nothing() -> AsyncIterator[bytes]:
    for piece in [b""][:0]:
        yield piece


async def in_pieces(whole: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(whole), PIECE):
        yield whole[start : start + PIECE]


class Upstream:
    """The connection to the server that goes with one of a client."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.used_at = -math.inf
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        now = asyncio.get_running_loop().time()
        if self.reader is None or self.writer is None or self.reader.at_eof() or now - self.used_at > IDLE_S:
            self.close()
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=PIECE)
        return self.reader, self.writer

    def used(self, *, ends: bool) -> None:
        """An exchange is over; ``ends`` if the server goes away after it."""
        self.used_at = asyncio.get_running_loop().time()
        if ends:
            self.close()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None
