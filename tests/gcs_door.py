"""A door to fake-gcs-server through which an XML PUT gets in: that server has the XML interface for reading, and no conditions in it.

What obstore sends, ``PUT /bucket/key`` with ``x-goog-if-generation-match``, becomes the upload of the JSON interface that does the
same, with the condition in its query; all else passes as it is. Objects, generations and the checking of conditions are the server's.
"""

import asyncio
import json
import sys
from urllib.parse import quote, unquote_to_bytes

from http_messages import PIECE, Head, Upstream, body, in_pieces, nothing, read_head, send

_EDGE = b"the-edge-of-a-part-that-no-object-holds"


class Door:
    """All connections of clients."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.host = b"127.0.0.1:%d" % upstream  # the server knows itself by this name only

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = Upstream(self.upstream)
        try:
            while True:
                await self._exchange(reader, writer, upstream)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
        finally:
            upstream.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: Upstream) -> None:
        request = await read_head(reader)
        whole = b"".join([piece async for piece in body(reader, request)])
        method, target, _ = request.first.split(b" ", 2)
        is_xml_put = method == b"PUT" and b"?" not in target
        asked = request.having(b"Host", self.host).without(b"transfer-encoding", b"expect")
        if is_xml_put:
            asked, whole = _upload(asked, target, whole)
        if whole or request.get(b"transfer-encoding"):
            asked = asked.having(b"Content-Length", b"%d" % len(whole))
        answers, requests = await upstream.connected()
        await send(requests, asked, in_pieces(whole))
        answer = await read_head(answers)
        is_empty = method == b"HEAD" or answer.first.split(b" ")[1] in (b"204", b"304")
        pieces = nothing() if is_empty else body(answers, answer)
        if is_xml_put and b" 200 " in answer.first:
            stored = json.loads(b"".join([piece async for piece in pieces]))
            fields = {"Content-Length": "0", "ETag": f'"{stored["etag"]}"', "x-goog-generation": stored["generation"]}
            answer = Head(answer.first, tuple((key.encode(), value.encode()) for key, value in fields.items()))
            pieces = nothing()
        await send(writer, answer, pieces, is_empty=is_empty)
        upstream.used(ends=False)


def _upload(request: Head, target: bytes, content: bytes) -> tuple[Head, bytes]:
    bucket, _, name = unquote_to_bytes(target.removeprefix(b"/")).decode().partition("/")
    kind = request.get(b"content-type").decode() or "application/octet-stream"
    prefix = b"x-goog-meta-"
    own = {
        key[len(prefix) :].decode(): value.decode() for key, value in request.fields if key.lower().startswith(prefix)
    }
    described = json.dumps({"name": name, "contentType": kind, "metadata": own}).encode()
    parts = (b"application/json", described), (kind.encode(), content)
    whole = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (_EDGE, *part) for part in parts)
    condition = request.get(b"x-goog-if-generation-match").decode()
    query = "uploadType=multipart" + (f"&ifGenerationMatch={condition}" if condition else "")
    first = f"POST /upload/storage/v1/b/{quote(bucket)}/o?{query} HTTP/1.1"
    head = request._replace(first=first.encode()).having(b"Content-Type", b'multipart/related; boundary="%b"' % _EDGE)
    return head, whole + b"--%b--\r\n" % _EDGE


async def _listen(port: int, upstream: int) -> None:
    server = await asyncio.start_server(Door(upstream).client, "127.0.0.1", port, limit=PIECE, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_listen(*map(int, sys.argv[1:])))
