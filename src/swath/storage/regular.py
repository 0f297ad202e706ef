"""Local files that are read only if they are files: a fifo would keep its reader waiting, and a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from swath.errors import DamagedStoreError
from swath.memory import format_bytes

MOST_WHOLE_BYTES = 64 * 2**20
"""Of a file that is read as a whole, which metadata are: those of ten thousand appends take 3 MB."""

# What the system says of a name that leads to no file that could be read.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)


def open_regular(path: Path, flags: int = 0) -> tuple[int, os.stat_result]:
    """The descriptor of a file that is opened for reading, and what the system says of it.

    Raises
    ------
    DamagedStoreError
        It is something else.
    FileNotFoundError
    """
    try:
        # Without waiting, which is for fifos; it means nothing to a file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from None
        raise
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise _no_file(path)
    return descriptor, facts


def read_whole(path: Path) -> bytes:
    """All of a small file.

    Raises
    ------
    DamagedStoreError
        It is something else, or far too large.
    FileNotFoundError
    """
    descriptor, facts = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if facts.st_size > MOST_WHOLE_BYTES:
            raise DamagedStoreError(
                f"{path} has {format_bytes(facts.st_size)}, and at most {format_bytes(MOST_WHOLE_BYTES)} of metadata are read. "
                "Restore the file."
            )
        return file.read()


def check_regular(path: Path) -> None:
    """Refuse what is there, and is no file.

    Raises
    ------
    DamagedStoreError
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(mode):
        raise _no_file(path)


def _no_file(path: Path) -> DamagedStoreError:
    return DamagedStoreError(f"{path} is a folder, a fifo, a device or a loop of links, and no file. Restore the file.")
