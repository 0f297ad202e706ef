"""Memory that processes share, and that none of them can leave behind.

It is a file without a name (`memfd_create`): not in ``/dev/shm``, whose size containers limit, and gone with the last process
that has it open or mapped, in whatever order they end. Its size is sealed, so that no reader finds pages gone, and so is writing
through any mapping but that of the one who made it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swath.errors import MemoryLimitError, SharingError
from swath.memory import format_bytes, resolve_limit

_NAME = "swath"

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

# The module fcntl has no name for the third before Python 3.13: new mappings cannot be written.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | 0x10 | fcntl.F_SEAL_SEAL


def create(n_bytes: int) -> tuple[int, NDArray[np.uint8]]:
    """A descriptor of so much new memory, at least a byte, and a mapping of it that can be written.

    Raises
    ------
    MemoryLimitError
        There is not so much.
    SharingError
        This process may open no file more.
    """
    limit = resolve_limit(None)
    if n_bytes > limit.n_bytes:
        raise MemoryLimitError(
            f"{format_bytes(n_bytes)} are to be shared, but {format_bytes(limit.n_bytes)} are left. "
            "Share smaller batches, or fewer at once."
        )
    try:
        descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            raise too_many_files() from error
        raise
    try:
        os.fchmod(descriptor, 0o600)  # the kernel makes it anybody's, and only `/proc` keeps others away
        # Taken now: a page that cannot be had later ends the process that touches it.
        os.posix_fallocate(descriptor, 0, n_bytes)
        mapping = mmap.mmap(descriptor, n_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(descriptor)
        raise MemoryLimitError(
            f"{format_bytes(n_bytes)} of shared memory cannot be had ({error.strerror}). Share smaller batches, or fewer at once."
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    # Arrays hold this one, which holds the mapping: it goes with the last of them, and is never closed under one.
    return descriptor, np.frombuffer(mapping, np.uint8)


def map_sealed(descriptor: int, n_bytes: int) -> NDArray[np.uint8]:
    """Memory that another process made, to be read only.

    Raises
    ------
    SharingError
        It is not that.
    """
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        sealed = False
    if not sealed or os.fstat(descriptor).st_size != n_bytes:
        raise SharingError(
            "What another process handed over is no memory of swath. Share it again, and send the new handle."
        )
    return np.frombuffer(mmap.mmap(descriptor, n_bytes, prot=mmap.PROT_READ), np.uint8)


def open_of_process(pid: int, descriptor: int) -> int:
    """A descriptor of one's own for the memory that a process has open under a number.

    Raises
    ------
    SharingError
        It has ended, has something else there, or is not to be seen from here; or this process may open no file more.
    """
    path = Path(f"/proc/{pid}/fd/{descriptor}")
    try:
        # To open what is no memory may do something: a pipe waits, a tape winds back.
        if not str(path.readlink()).startswith(f"/memfd:{_NAME} "):
            raise FileNotFoundError
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError:
        raise SharingError(
            f"Process {pid} belongs to another user, or may not be looked into. Attach as the user who shared."
        ) from None
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            raise too_many_files() from error
        raise SharingError(
            f"Process {pid} has nothing shared under {descriptor}: it has ended, has closed it, or runs in another container. "
            "Keep it open there until all have attached."
        ) from None


def too_many_files() -> SharingError:
    """The error where memory of another is there, and this process can't open it."""
    return SharingError(
        "This process, or the machine, has as many files open as it may. Close some, or raise the limit (ulimit -n)."
    )
