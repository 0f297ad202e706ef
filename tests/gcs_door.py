"""A door to fake-gcs-server through which XML writes get in: that server has the XML interface for reading alone.

What obstore sends, ``PUT /bucket/key`` with ``x-goog-if-generation-match``, becomes the upload of the JSON interface that does the
same, with the condition in its query; parts of a large object are kept here until it is complete. All else passes as it is.
Objects, their generations and the checking of conditions are the server's.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, quote, unquote_to_bytes

from http_messages import PIECE, Head, Upstream, body, in_pieces, nothing, read_head, send

_EDGE = b"the-edge-of-a-part-that-no-object-holds"


class Door:
    """All connections of clients, and the parts that came by them."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.host = b"127.0.0.1:%d" % upstream  # the server knows itself by this name only
        self.uploads: dict[str, tuple[Head, dict[int, bytes]]] = {}

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = Upstream(self.upstream)
        try:
            while True:
                await self._exchange(reader, writer, upstream)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of them has no more to say
        finally:
            upstream.close()
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: Upstream) -> None:
        request = await read_head(reader)
        whole = b"".join([piece async for piece in body(reader, request)])
        method, target, _ = request.first.decode().split(" ", 2)
        path, _, query = target.partition("?")
        values = {key: each[0] for key, each in parse_qs(query, keep_blank_values=True).items()}
        if method == "POST" and "uploads" in values:
            upload = str(len(self.uploads))
            self.uploads[upload] = request, {}
            await send(writer, *_said({}, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"))
        elif method == "PUT" and "partNumber" in values:
            self.uploads[values["uploadId"]][1][int(values["partNumber"])] = whole
            await send(writer, *_said({"ETag": f'"{values["partNumber"]}"'}))
        elif method == "POST" and values.get("uploadId") in self.uploads:
            begun, parts = self.uploads[values["uploadId"]]
            numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)", whole)]
            head = begun.without(b"x-goog-if-generation-match")
            if condition := request.get(b"x-goog-if-generation-match"):
                head = head.having(b"x-goog-if-generation-match", condition)
            await self._write(head, path, b"".join(parts[number] for number in numbers), writer, upstream)
        elif method == "DELETE" and "uploadId" in values:
            await send(writer, *_said({}))
        elif method == "PUT" and not query:
            await self._write(request, path, whole, writer, upstream)
        else:
            answer, pieces = await self._ask(request, whole, upstream, is_head=method == "HEAD")
            await send(writer, answer, pieces, is_empty=method == "HEAD")
            upstream.used(ends=False)

    async def _write(
        self, request: Head, path: str, content: bytes, writer: asyncio.StreamWriter, upstream: Upstream
    ) -> None:
        answer, pieces = await self._ask(*_upload(request, path, content), upstream)
        if b" 200 " in answer.first:
            stored = json.loads(b"".join([piece async for piece in pieces]))
            fields = {"ETag": f'"{stored["etag"]}"', "x-goog-generation": stored["generation"]}
            answer, pieces = _said(fields, f"<CompleteMultipartUploadResult><ETag>{fields['ETag']}</ETag>")
        await send(writer, answer, pieces)
        upstream.used(ends=False)

    async def _ask(
        self, request: Head, content: bytes, upstream: Upstream, *, is_head: bool = False
    ) -> tuple[Head, AsyncIterator[bytes]]:
        head = request.having(b"Host", self.host).without(b"transfer-encoding", b"expect")
        if content or request.get(b"transfer-encoding"):
            head = head.having(b"Content-Length", b"%d" % len(content))
        answers, requests = await upstream.connected()
        await send(requests, head, in_pieces(content))
        answer = await read_head(answers)
        is_empty = is_head or answer.first.split(b" ")[1] in (b"204", b"304")
        return answer, nothing() if is_empty else body(answers, answer)


def _said(fields: dict[str, str], xml: str = "") -> tuple[Head, AsyncIterator[bytes]]:
    """An answer of the door's own; ``xml`` is the element and what is in it."""
    content = f"{xml}</{xml[1:].partition('>')[0]}>".encode() if xml else b""
    all_fields = {**fields, "Content-Length": str(len(content))}
    return Head(
        b"HTTP/1.1 200 OK", tuple((key.encode(), value.encode()) for key, value in all_fields.items())
    ), in_pieces(content)


def _upload(request: Head, path: str, content: bytes) -> tuple[Head, bytes]:
    bucket, _, name = unquote_to_bytes(path.removeprefix("/")).decode().partition("/")
    kind = request.get(b"content-type").decode() or "application/octet-stream"
    named = {key.lower().decode(): value.decode() for key, value in request.fields}
    prefix = "x-goog-meta-"
    own = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    described = json.dumps({"name": name, "contentType": kind, "metadata": own}).encode()
    parts = (b"application/json", described), (kind.encode(), content)
    whole = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (_EDGE, *part) for part in parts)
    condition = named.get("x-goog-if-generation-match")
    query = "uploadType=multipart" + (f"&ifGenerationMatch={condition}" if condition else "")
    first = f"POST /upload/storage/v1/b/{quote(bucket)}/o?{query} HTTP/1.1"
    head = request._replace(first=first.encode()).having(b"Content-Type", b'multipart/related; boundary="%b"' % _EDGE)
    return head, whole + b"--%b--\r\n" % _EDGE


async def _listen(port: int, upstream: int) -> None:
    server = await asyncio.start_server(Door(upstream).client, "127.0.0.1", port, limit=PIECE, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_listen(*map(int, sys.argv[1:])))
