"""Byte ranges of local files into the caller's buffers, and files that appear whole or not at all.

Nothing stays open between two gathers, so there is no handle that a fork could share, and a file
that is replaced is seen by the next gather.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from swath.errors import DiskFullError, StoreChangedError
from swath.memory import format_bytes
from swath.plan import LOCAL, Reach
from swath.storage.gate import Gate
from swath.storage.regular import beneath, open_beneath, read_whole

Buffer = memoryview
"""A contiguous buffer of bytes (format ``B``)."""

MOST_WRITE_BYTES = 2**20
"""What one system call should write: of 8 MiB and more each byte takes longer (1 GB of rows ingested in 0.78 s by 1 MiB, 0.80 s
by 4, 1.21 s by 32; ext4, Linux 6.18)."""

# One system call takes at most this many buffers (IOV_MAX on Linux).
_MOST_BUFFERS = 1024
_TEMPORARY = ".tmp"
# A full disk says so in three ways: no space, quota, the process's own file size limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Direct I/O moves whole blocks of the disk between whole blocks of memory; pages are blocks on every disk.
_PAGE = 4096


@dataclass(slots=True)
class Scratch:
    """The buffers of one thread, used again for each read, and made when first needed. They begin on a page."""

    _buffers: dict[str, Buffer] = field(default_factory=dict)

    def take(self, name: str, n_bytes: int) -> Buffer:
        """A buffer of this size; its bytes are what the last use left."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < n_bytes:
            self._buffers.pop(name, None)  # the old one is freed first, so that the two never stand together
            pages = np.empty(n_bytes + _PAGE, np.uint8)
            begin = -pages.ctypes.data % _PAGE
            buffer = self._buffers[name] = memoryview(pages[begin : begin + n_bytes])
        return buffer[:n_bytes]


@dataclass(slots=True)
class LocalFile:
    """An open file, until ``with`` is left. Threads may share it.

    Neither frozen nor opened by a generator: either costs microseconds, and of 32 small windows each may open a file.
    """

    path: str
    descriptor: int
    size: int
    version: tuple[int, ...]
    """Device, inode, size and times of change: another version means other bytes."""
    direct: Scratch | None = None
    """Where bytes arrive that pass by the page cache; None where they come through it."""

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def read_into(self, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        """Fill ``buffers``, of ``n_bytes`` together, in order from ``offset``; return how many bytes there were.

        Fewer than asked only where the file ends. At most 1024 buffers.
        """
        if self.direct is not None:
            return self._read_direct(self.direct, buffers, n_bytes, offset)
        got = self._preadv(buffers, offset)
        while got < n_bytes:  # a signal or the kernel's limit of 2 GiB ended the call early
            more = self._preadv(_after(buffers, got), offset + got)
            if more == 0:
                break
            got += more
        return got

    def _preadv(self, buffers: list[Buffer], offset: int) -> int:
        """One system call, whose error names the file."""
        try:
            return os.preadv(self.descriptor, buffers, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from None

    def _read_direct(self, scratch: Scratch, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        """Read the whole blocks that hold the bytes, and copy these: the disk cannot scatter by the byte."""
        begin = offset - offset % _PAGE
        end = offset + n_bytes + -(offset + n_bytes) % _PAGE
        blocks = scratch.take("blocks", end - begin)
        got = 0
        while got < end - begin:
            more = self._preadv([blocks[got:]], begin + got)
            got += more
            if more % _PAGE or more == 0:  # the file ends here
                break
        return scatter(blocks[offset - begin : max(offset - begin, got)], buffers)

    def announce(self, offset: int, n_bytes: int) -> None:
        """Let the system fetch these bytes meanwhile, of which there may be none: they are going to be read."""
        end = min(offset + n_bytes, self.size)
        if 0 <= offset < end:  # to the system no bytes mean all
            os.posix_fadvise(self.descriptor, offset, end - offset, os.POSIX_FADV_WILLNEED)

    def read_ahead(self) -> None:
        """Let the system fetch what comes next: the file is read from its first byte to its last."""
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def recall(self) -> None:
        """Nothing: it is read as it is."""

    def load(self) -> int:
        """Its size: it is near."""
        return self.size

    def mapped(self, n_bytes: int) -> mmap.mmap | None:
        """Its first bytes, in the address space; None where there is no room, or a file system without mappings."""
        try:
            return mmap.mmap(self.descriptor, n_bytes, access=mmap.ACCESS_READ)
        except OSError:
            return None

    def is_cached(self, offset: int) -> bool:
        """Whether the page at ``offset`` is in the page cache. True where the system cannot say."""
        try:
            return os.preadv(self.descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError:
            return True


@dataclass(frozen=True, slots=True)
class Fence:
    """What a file must say while others are put beside it: a worker that nobody waits for any more may go on, and put its own too late."""

    path: Path
    content: bytes

    def check(self, path: Path) -> None:
        """Refuse to put a file at ``path``.

        Raises
        ------
        StoreChangedError
        """
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_bytes() == self.content:
                return
        raise StoreChangedError(
            f"{path} is not written any more: what it belongs to was committed, or has made room for another. Open it, or begin anew."
        )


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of files, each named by a key: its path within the folder."""

    path: Path
    fence: Fence | None = None
    """Files are put only while it stands."""

    @property
    def url(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def reach(self) -> Reach:
        """A request is a system call."""
        return LOCAL

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    def within(self, name: str) -> LocalFolder:
        """A folder in this one.

        Raises
        ------
        StoreAccessError
            It is a link that leads out.
        """
        if not name:
            return self
        beneath(self.path, name)
        return LocalFolder(self.path / name, self.fence)

    def above(self) -> LocalFolder:
        """The folder that this one is in."""
        return LocalFolder(self.path.parent)

    def through(self, gate: Gate) -> LocalFolder:
        """The same: nobody waits for long."""
        return self

    def anew(self) -> LocalFolder:
        """The same: nothing is kept of it."""
        return self

    def origin(self) -> LocalFolder:
        """The same."""
        return self

    def open(self, key: str, direct: Scratch | None = None) -> LocalFile:
        """Open one file for reads at random places, past the page cache if ``direct`` says where to.

        A file system that knows no direct I/O reads as ever.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        StoreAccessError
            It is a link, or behind one, that leads out of the folder.
        DamagedStoreError
            It is no file.
        """
        path, descriptor, stat, direct = _open(self.path, key, direct)
        # Readahead would fetch 128 KiB and more around each window: 0.6 GB/s instead of 1.7 cold.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        version = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        return LocalFile(path, descriptor, stat.st_size, version, direct)

    def read(self, key: str) -> bytes:
        """All of a small file.

        Raises
        ------
        FileNotFoundError, StoreAccessError, DamagedStoreError
        """
        return read_whole(beneath(self.path, key))

    def read_if_there(self, key: str) -> bytes:
        """The same; empty if it is not there."""
        try:
            return self.read(key)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def read_again(self, key: str, before: bytes) -> bytes:
        """The same."""
        return self.read(key)

    def has(self, key: str) -> bool:
        """Whether there is a file of this name."""
        return (self.path / key).is_file()

    def put(self, key: str, buffers: Sequence[Buffer]) -> None:
        """Write one file: it appears under its name only when all its bytes are on the disk.

        Raises
        ------
        DiskFullError
            No room; the unfinished file is gone.
        StoreChangedError
            The fence has fallen.
        """
        temporary = self.path / f".{key}.{uuid.uuid4().hex}{_TEMPORARY}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                if self.fence is not None:  # now, since what falls from here on takes the temporary file with it
                    self.fence.check(self.path / key)
                _write(descriptor, buffers)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.rename(self.path / key)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and is_full(error):
                n_bytes = sum(map(len, buffers))
                raise DiskFullError(
                    error.errno,
                    f"{self.path / key} needs {format_bytes(n_bytes)} ({n_bytes} bytes), and there is no room for it ({error.strerror}). "
                    "What was written before is kept: make room and run the same call again.",
                ) from error
            raise

    def make(self) -> None:
        """Make the folder, unless it is there."""
        self.path.mkdir(exist_ok=True)

    def sync(self) -> None:
        """Put the names of the files on the disk."""
        sync_folder(self.path)

    def remove_temporaries(self) -> None:
        """Remove what killed writers left; only under the lock that keeps other writers away."""
        for path in self.path.glob(f".*{_TEMPORARY}"):
            path.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or what this user or process may write, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def scatter(content: Buffer, buffers: Sequence[Buffer]) -> int:
    """Copy bytes to ``buffers``, in order; return how many there was room for."""
    at = 0
    for buffer in buffers:
        size = min(len(buffer), len(content) - at)
        if size <= 0:
            break
        # By numpy, which lets other threads run meanwhile.
        np.frombuffer(buffer, np.uint8)[:size] = np.frombuffer(content, np.uint8, size, at)
        at += size
    return at


def _open(folder: Path, key: str, direct: Scratch | None) -> tuple[str, int, os.stat_result, Scratch | None]:
    if direct is not None:
        with contextlib.suppress(OSError):
            return *open_beneath(folder, key, os.O_DIRECT), direct
    return *open_beneath(folder, key), None


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk, so that a rename survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, buffers: Sequence[Buffer]) -> None:
    ends = list(itertools.accumulate(map(len, buffers)))
    i = 0
    while i < len(buffers):
        # At least one, and then as many as fit in a call.
        stop = bisect_right(ends, ends[i] + MOST_WRITE_BYTES, i + 1, min(i + _MOST_BUFFERS, len(buffers)))
        some = list(buffers[i:stop])
        i = stop
        left = sum(map(len, some))
        while left:
            done = os.writev(descriptor, some)
            left -= done
            if left:
                some = _after(some, done)


def _after(buffers: Sequence[Buffer], n_bytes: int) -> list[Buffer]:
    """The buffers without their first ``n_bytes`` bytes."""
    for i, buffer in enumerate(buffers):
        if n_bytes < len(buffer):
            return [buffer[n_bytes:], *buffers[i + 1 :]]
        n_bytes -= len(buffer)
    return []
