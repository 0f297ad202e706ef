"""What is kept on this machine of objects that are far away: whole pages, in a folder that processes share.

Each version of an object has one sparse file: the pages of the object at their offsets, and behind them a table of 4 bytes a
page, its crc32c, mixed with the version and the number of the page. A page is there if the table has something for it, and it
is taken for sound only where that is right. So there is nothing to keep consistent: processes write at once without a lock, and
one that is killed, a file system that loses power, or a bit that flips leaves pages that are not there. The table is written
after the pages, and both bear being written twice, since a version has the same bytes for all.

What is written is counted in one more file, a byte for each page, as long as nobody has looked at the folder. Who makes it
longer than a part of the limit looks, under a lock that the kernel frees when its holder dies, and removes what was used
longest ago. No error of the disk is an error of a read: what cannot be kept is fetched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.checksum import combiner, crc32c
from swath.errors import OptionError
from swath.memory import format_bytes, parse_bytes
from swath.storage.connection import Seen
from swath.storage.local import Buffer

PAGE = 4096

LEAST_BYTES = 16 * 2**20
"""A smaller cache is refused."""

_PAGES, _SEEN, _WRITTEN = ".swath-pages", ".swath-seen", "written.swath-cache"

# After so much that was written, somebody looks how much there is. Reads of more are not kept: they would drive out the rest.
_LOOK_SHARE = 16
# Of the limit, which is left after a look.
_LEFT_SHARE = 7 / 8

# The time of the last use is told this often.
_TOUCH_SECONDS = 60.0
_MOST_SEEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Cache:
    """Pages of objects, in a folder of this machine. It holds nothing open; threads and processes share it."""

    folder: Path
    limit: int
    """Bytes on the disk."""

    @classmethod
    def at(cls, folder: Any, limit: int | str) -> Cache:
        """The cache in a folder, which is made if it is not there.

        Raises
        ------
        OptionError
            It cannot be written, or the limit is none.
        """
        n_bytes = parse_bytes(limit, "cache_limit")
        if n_bytes < LEAST_BYTES:
            raise OptionError(
                f"cache_limit is {limit!r}, in which nothing would stay for long. Give at least {format_bytes(LEAST_BYTES)}."
            )
        if not isinstance(folder, (str, os.PathLike)) or "://" in str(folder) or "\0" in str(folder) or not str(folder):
            raise OptionError(
                f"cache is {folder!r}, which is no local path. Give the path of a folder on this machine."
            )
        cache = cls(Path(os.path.abspath(Path(folder).expanduser())), n_bytes)
        try:
            cache._look(-1)
        except OSError as error:
            raise OptionError(
                f"cache is {cache.folder}, where nothing can be kept ({error.strerror}). Give a folder that you may write to."
            ) from None
        return cache

    def read(self, url: str, seen: Seen, begin: int, end: int, fetch: Callable[[int, int], Buffer]) -> Buffer:
        """Bytes ``[begin, end)`` of a version of an object; what is not there is fetched, by one request, and kept."""
        first, stop = begin // PAGE, -(-end // PAGE)

        def fetched(a: int, b: int) -> Buffer:
            content = fetch(a * PAGE, min(b * PAGE, seen.size))
            self.keep(url, seen, a * PAGE, content)
            return content

        name = _name_of_pages(url, seen)
        with self._opened(name) as descriptor:
            table = _table(descriptor, seen, first, stop)
            absent = np.flatnonzero(table == 0)
            a, b = (first + int(absent[0]), first + int(absent[-1]) + 1) if absent.size else (stop, stop)
            missing = fetched(a, b) if a < b else memoryview(b"")
            if b - a == stop - first:
                content = missing
            else:
                # Made only now, so that it does not stand beside the pieces of an answer.
                content = memoryview(np.empty((stop - first) * PAGE, np.uint8))
                content[(a - first) * PAGE :][: len(missing)] = missing
                checksums = table ^ _marks(name, first, stop)
                if not _fill(descriptor, content, checksums, first, ((first, a), (b, stop))):
                    del content
                    content = fetched(first, stop)
        return content[begin - first * PAGE : end - first * PAGE]

    def keep(self, url: str, seen: Seen, begin: int, content: Buffer) -> None:
        """Write pages of an object, of which the first begins at ``begin``; the last may be where it ends."""
        n_pages = -(-len(content) // PAGE)
        with contextlib.suppress(OSError):
            if not n_pages or not self._has_room(n_pages + 2):  # a page of the table, or two
                return
            name = _name_of_pages(url, seen)
            with self._opened(name, os.O_CREAT) as descriptor:
                if descriptor is None:
                    return
                checksums = np.array(
                    [crc32c(_whole(content[i : i + PAGE])) for i in range(0, len(content), PAGE)], "<u4"
                )
                first = begin // PAGE
                table = checksums ^ _marks(name, first, first + n_pages)
                if os.pwrite(descriptor, content, begin) == len(content):
                    os.pwrite(descriptor, table.tobytes(), _place_in_table(seen, first))

    def seen(self, url: str) -> Seen | None:
        """The version of an object that was noted last, by any process."""
        with self._opened(_name_of_seen(url)) as descriptor:
            if descriptor is None:
                return None
            with contextlib.suppress(OSError, ValueError, TypeError):
                crc, _, encoded = os.pread(descriptor, _MOST_SEEN_BYTES, 0).rstrip(b"\0").partition(b" ")
                if int(crc) == crc32c(encoded):
                    return Seen(*json.loads(encoded))
        return None

    def note(self, url: str, seen: Seen) -> None:
        """Tell other processes of the version of an object."""
        encoded = json.dumps(seen).encode()
        line = b"%d %s" % (crc32c(encoded), encoded)
        with contextlib.suppress(OSError):
            if len(line) <= _MOST_SEEN_BYTES and self._has_room(1):
                with self._opened(_name_of_seen(url), os.O_CREAT) as descriptor:
                    if descriptor is not None:
                        os.pwrite(descriptor, line.ljust(_MOST_SEEN_BYTES, b"\0"), 0)

    def forget(self, url: str, seen: Seen | None) -> None:
        """Keep nothing of a version of an object."""
        for name in [_name_of_seen(url), *([] if seen is None else [_name_of_pages(url, seen)])]:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    def _has_room(self, n_pages: int) -> bool:
        """Count pages that are going to be written, after others have made room for them; False if they are too many."""
        most = self.limit // _LOOK_SHARE
        if n_pages * PAGE > most:
            return False
        while True:
            with self._file(_WRITTEN, os.O_CREAT | os.O_APPEND) as descriptor:
                os.write(descriptor, bytes(n_pages))
                if os.fstat(descriptor).st_size * PAGE <= most:
                    return True
            self._look(most)

    def _look(self, most: int) -> None:
        """Remove what was used longest ago, if more than ``most`` bytes were written since somebody did.

        Nobody writes meanwhile but who was allowed to before: all others wait here, and count their pages again.
        """
        with self._file(_WRITTEN, os.O_CREAT) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size * PAGE <= most:
                return
            files = sorted(self._files())
            total = sum(n_bytes for _, n_bytes, _ in files)
            for _, n_bytes, name in files:
                if total <= _LEFT_SHARE * self.limit:
                    break
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).unlink()
                total -= n_bytes
            os.ftruncate(descriptor, 0)

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Last use, bytes on the disk and name of what is kept; nothing else in the folder is touched."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((_PAGES, _SEEN)):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat(follow_symlinks=False)
                        yield facts.st_mtime, facts.st_blocks * 512, entry.name

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int = 0) -> Iterator[int | None]:
        """A file of the cache, which is in use now; None where there is none."""
        with contextlib.ExitStack() as stack:
            descriptor = None
            with contextlib.suppress(OSError):
                descriptor = stack.enter_context(self._file(name, flags))
                if os.fstat(descriptor).st_mtime < time.time() - _TOUCH_SECONDS:
                    os.utime(descriptor)
            yield descriptor

    @contextlib.contextmanager
    def _file(self, name: str, flags: int) -> Iterator[int]:
        """A file of the folder, and the folder if it shall be made.

        Raises
        ------
        OSError
            It is not there, or not as this user made it.
        """
        flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        path = self.folder / name
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it is not of this user", str(path))
            yield descriptor
        finally:
            os.close(descriptor)


def _fill(
    descriptor: int | None,
    content: Buffer,
    checksums: NDArray[np.uint32],
    first: int,
    runs: tuple[tuple[int, int], ...],
) -> bool:
    """Read runs of pages to their places in ``content``, which begins at page ``first``; False if they are not sound."""
    assert descriptor is not None
    for a, b in runs:
        run = content[(a - first) * PAGE : (b - first) * PAGE]
        try:
            if os.preadv(descriptor, [run], a * PAGE) < len(run):
                return False
        except OSError:
            return False
        if crc32c(run) != combiner(PAGE).combine(checksums[a - first : b - first].tolist()):
            return False
    return True


def _table(descriptor: int | None, seen: Seen, first: int, stop: int) -> NDArray[np.uint32]:
    """What the table has of pages; 0 for one that is not there."""
    table = np.zeros(stop - first, "<u4")
    if descriptor is not None:
        with contextlib.suppress(OSError):
            encoded = os.pread(descriptor, table.nbytes, _place_in_table(seen, first))
            table.view(np.uint8)[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return table


def _marks(name: str, first: int, stop: int) -> NDArray[np.uint32]:
    """What the checksum of a page is mixed with in the table: that of another file, or of another page, is none of its."""
    return np.arange(first, stop, dtype="<u4") ^ np.uint32(int(name[:8], 16))


def _place_in_table(seen: Seen, page: int) -> int:
    return -(-seen.size // PAGE) * PAGE + 4 * page


def _whole(page: Buffer) -> Buffer:
    """The last page of an object is followed by zeros."""
    return page if len(page) == PAGE else memoryview(bytes(page).ljust(PAGE, b"\0"))


def _name_of_pages(url: str, seen: Seen) -> str:
    return hashlib.sha256(json.dumps([url, *seen]).encode()).hexdigest() + _PAGES


def _name_of_seen(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest() + _SEEN
