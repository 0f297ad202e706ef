"""Local files that are read only if they are files, and where they seem to be.

A fifo would keep its reader waiting, a device has no end, and a link may lead anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from swath.errors import DamagedStoreError, StoreAccessError
from swath.memory import format_bytes

MOST_WHOLE_BYTES = 64 * 2**20
"""Of a file that is read as a whole, which metadata are: those of ten thousand appends take 3 MB."""

# What the system says of a name that leads to no file that could be read.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV)


def beneath(folder: Path, key: str) -> str:
    """The path of a key in a folder, if neither the key nor a link on the way leads out of it. The folder itself may be a link.

    What is not there, or changes meanwhile, is for the call that opens it.

    Raises
    ------
    StoreAccessError
    """
    path = str(folder)
    for part in _parts(folder, key):
        path = f"{path}/{part}"
        if os.path.islink(path):  # noqa: PTH114
            break
    else:
        return path
    real = Path(os.path.realpath(f"{folder}/{key}"))  # of links in a circle one of them, where `Path.resolve` fails
    if not real.is_relative_to(os.path.realpath(folder)) or real.is_symlink():
        raise StoreAccessError(
            f"{folder / key} is a link, or behind one, that leads out of {folder}. Copy what it leads to in its place; "
            "or, if you trust it, give zarr.storage.LocalStore(path), which follows links."
        )
    return str(real)


def _parts(folder: Path, key: str) -> list[str]:
    parts = key.split("/")
    if "\0" in key or not {"", ".", ".."}.isdisjoint(parts):
        raise StoreAccessError(f"{key!r} names nothing that lies in {folder}. Restore the metadata that name it.")
    return parts


def open_beneath(folder: Path, key: str, flags: int = 0) -> tuple[str, int, os.stat_result]:
    """Open a file for reading whose key is as `beneath` wants it: its path, its descriptor, and what the system says of it.

    Of a key in the folder itself the system refuses a link when it opens it: to look for one before would take as long as to open.

    Raises
    ------
    StoreAccessError, DamagedStoreError, FileNotFoundError
    """
    if len(_parts(folder, key)) == 1:
        path = f"{folder}/{key}"
        with contextlib.suppress(DamagedStoreError):  # a link, which may lead to a file that lies here too
            return path, *open_regular(path, flags | os.O_NOFOLLOW)
    path = beneath(folder, key)
    return path, *open_regular(path, flags)


def open_regular(path: str, flags: int = 0) -> tuple[int, os.stat_result]:
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


def read_whole(path: str) -> bytes:
    """All of a small file.

    Raises
    ------
    DamagedStoreError
        It is something else, or far too large.
    FileNotFoundError
    """
    descriptor, facts = open_regular(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if facts.st_size > MOST_WHOLE_BYTES:
            raise DamagedStoreError(
                f"{path} has {format_bytes(facts.st_size)}, and at most {format_bytes(MOST_WHOLE_BYTES)} of metadata are read. "
                "Restore the file."
            )
        return file.readall()


def check_regular(path: str) -> None:
    """Refuse what is there, and is no file.

    Raises
    ------
    DamagedStoreError
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(mode):
        raise _no_file(path)


def _no_file(path: str) -> DamagedStoreError:
    return DamagedStoreError(f"{path} is a folder, a fifo, a device or a loop of links, and no file. Restore the file.")
