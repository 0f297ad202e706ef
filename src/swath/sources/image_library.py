"""What Pillow says of image files, and the pixels that it decodes.

The codecs are written in C, and may not survive what is made to break them. So this runs in processes of its own
(`swath.sources.image_process`), which may end so. A request names files; of each in turn the answer is a line of JSON, and then, if they
were asked for, the pixels of its row. The first file of which something is wrong is the last of its request.

The child runs this file by itself, without the package around it, or numpy, which would take as long to import as Pillow does.

A file is read as a whole and decoded from memory. Pillow and libtiff map some files where they can, and a mapped file
that is cut meanwhile ends the process.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import resource
import select
import socket
import stat
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFile, UnidentifiedImageError

# Modes with more than 8 bits a sample: Pillow clips them at 255. Of colours with 16 bits ("RGB;16B") it keeps the high byte.
_DEEP_MODES = re.compile(r"I|F|I;.*")
_DEEP_SAMPLES = re.compile(r"\b(LA|RGB\w*|CMYK);16")
_BITS_PER_SAMPLE = 258

# What a codec may take beside what a request allows.
_ROOM_BYTES = 2**26

# A child that nobody asks for so long ends. The next request starts another.
_IDLE_SECONDS = 60.0

_MOST_TEXT = 2000

# That are sent in one go.
_PIECE_BYTES = 2**20

# Of a file, for which a second of the processor more is given.
_SECOND_BYTES = 2**24


class _Refused(Exception):
    """An answer that is no row."""

    def __init__(self, **answer: Any) -> None:
        super().__init__()
        self.answer = answer


class _Server:
    """Answers requests about files."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._limits: dict[int, int] = {}
        self._room = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() + _ROOM_BYTES

    def answer(self, request: dict[str, Any]) -> None:
        """Look at files in turn, within limits, up to one that is refused."""
        Image.MAX_IMAGE_PIXELS = request["limit"]
        ImageFile.LOAD_TRUNCATED_IMAGES = request["truncated"]
        for path in request["paths"]:
            row: Iterable[bytes] = ()
            try:
                with self._opened(path, request) as file:
                    reply, row = _row(file, request) if "row" in request else (_header(file, request), ())
            except _Refused as error:
                reply = error.answer
            except (FileNotFoundError, NotADirectoryError):
                reply = {"gone": True}
            except UnidentifiedImageError:
                reply = {"unknown": True}
            except MemoryError:
                reply = {"broken": "it takes more memory than one of its size"}
            except Exception as error:  # whatever Pillow's formats make of it
                reply = {"broken": str(error)[:_MOST_TEXT]}
            self._socket.sendall(json.dumps(reply).encode() + b"\n")
            if "mode" not in reply:
                return
            for piece in row:
                self._socket.sendall(piece)

    def _opened(self, path: str, request: dict[str, Any]) -> io.FileIO:
        """A file, and limits for what it makes of itself; it is opened without waiting, which is for fifos."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise _Refused(irregular=True)
        seconds = request["seconds"] + facts.st_size // _SECOND_BYTES
        room = request["room"] + 2 * facts.st_size
        self._limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)
        self._limit(resource.RLIMIT_DATA, self._room + -(-room // _ROOM_BYTES) * _ROOM_BYTES)
        return io.FileIO(descriptor)

    def _limit(self, what: int, most: int) -> None:
        """As few calls of the system as will do: a header takes no longer than some of them."""
        if self._limits.get(what) != most:
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
            self._limits[what] = most


def _header(file: io.FileIO, request: dict[str, Any]) -> dict[str, Any]:
    with _open_image(io.BufferedReader(file), request) as image:
        return {"size": image.size, "mode": image.mode, "bytes": os.fstat(file.fileno()).st_size}


def _row(file: io.FileIO, request: dict[str, Any]) -> tuple[dict[str, Any], Iterator[bytes]]:
    """The pixels of an image, as the row has them."""
    wanted = request["row"]
    # Of a file that has grown no more than would have been enough, to say of it what it is.
    body = file.read(min(os.fstat(file.fileno()).st_size, wanted["most_bytes"]) + 1)
    with _open_image(io.BytesIO(body), request) as opened:
        image: Image.Image = opened
        size = tuple(wanted["size"])
        if (image.size != size and not wanted["resized"]) or math.prod(image.size) > wanted["most_pixels"]:
            raise _Refused(other=image.size)
        if len(body) > wanted["most_bytes"]:
            raise _Refused(grown=True)
        image.load()
        answer = {"mode": image.mode}
        if image.mode != wanted["mode"]:
            image = _converted(image, wanted["mode"])
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return answer, _pieces(image)


def _pieces(image: Image.Image) -> Iterator[bytes]:
    """The pixels, some lines at a time: of all of them Pillow would make two copies."""
    width, height = image.size
    lines = max(1, _PIECE_BYTES // (width * len(image.getbands())))
    if lines >= height:
        yield image.tobytes()
        return
    for top in range(0, height, lines):
        yield image.crop((0, top, width, min(top + lines, height))).tobytes()


def _open_image(file: IO[bytes], request: dict[str, Any]) -> ImageFile.ImageFile:
    """The image in a file, whose header alone has been read, if it is neither too large nor has more bits than a row can hold."""
    image = _identified(file, request["formats"])
    if request["limit"] is not None and math.prod(image.size) > request["limit"]:
        raise _Refused(large=image.size, limit=request["limit"])
    # The first tile says how samples lie in the file; of TIFF in planes, where it does not, the tag BitsPerSample does.
    is_deep = _DEEP_MODES.fullmatch(image.mode) or any(_DEEP_SAMPLES.search(str(tile[3])) for tile in image.tile[:1])
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)
    if is_deep or max(bits if isinstance(bits, tuple) else (bits,)) > 8:
        raise _Refused(deep=image.mode)
    return image


def _identified(file: IO[bytes], formats: Sequence[str]) -> ImageFile.ImageFile:
    """By the common formats, and then by all of those that are allowed: to import them takes twice as long as Python does to start."""
    Image.preinit()
    try:
        return Image.open(file, formats=[kind for kind in formats if kind in Image.OPEN])
    except UnidentifiedImageError:
        Image.init()
        file.seek(0)
        return Image.open(file, formats=[kind for kind in formats if kind in Image.OPEN])


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """As `Image.convert`; a palette that holds alpha goes by way of RGBA, without which Pillow warns, and gives the same."""
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    return image.convert(mode)


def serve(socket_fd: int) -> None:
    """What the child does, until its socket is closed, or nobody asks."""
    warnings.simplefilter("ignore")
    ours = socket.socket(fileno=socket_fd)
    server = _Server(ours)
    requests = ours.makefile("rb")
    waiting = select.poll()  # the number of a socket may be beyond what select takes
    waiting.register(ours, select.POLLIN)
    while waiting.poll(_IDLE_SECONDS * 1000):
        try:
            line = requests.readline()
            if not line:
                break
            server.answer(json.loads(line))
        except OSError:
            break
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
