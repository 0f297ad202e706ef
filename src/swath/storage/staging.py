"""A file or a folder that takes its place whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from swath.errors import DiskFullError, StoreBusyError, StoreExistsError, SwathError, TargetError
from swath.memory import format_bytes
from swath.storage.local import is_full, sync_folder

# Of the target's name, so that the temporary one stays below 255 bytes in any script.
_NAME_KEPT = 40


@contextlib.contextmanager
def staged(path: Path, n_bytes: int, *, overwrite: bool) -> Iterator[Path]:
    """A hidden name beside ``path``, for a file or a folder that gets the name ``path`` when the block ends without error.

    After an error nothing of its ``n_bytes`` is left. A folder that is replaced stays beside, hidden, while names change.

    Raises
    ------
    StoreExistsError
        Something has appeared at ``path`` meanwhile, and ``overwrite`` is False.
    DiskFullError, TargetError
        What is written cannot be put on the disk, or get its name.
    """
    temporary = path.with_name(f".{path.name[:_NAME_KEPT]}.{uuid.uuid4().hex}.swath-tmp")
    try:
        yield temporary
        with writing_to(path, n_bytes):
            _sync(temporary)
            if temporary.is_dir():
                _place_folder(temporary, path, overwrite=overwrite)
            else:
                _place_file(temporary, path, overwrite=overwrite)
            sync_folder(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def take_room(descriptor: int, start: int, n_bytes: int) -> None:
    """Have the disk give, now, what is written to a file later. A file system that cannot promise room is let be.

    Raises
    ------
    OSError
        It has none.
    """
    try:
        os.posix_fallocate(descriptor, start, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


@contextlib.contextmanager
def writing_to(path: Path, n_bytes: int) -> Iterator[None]:
    """Say what an error of the system, or of a library that writes, means for an export of ``n_bytes`` to ``path``.

    Raises
    ------
    DiskFullError, StoreBusyError, TargetError
    """
    try:
        yield
    except SwathError:
        raise
    except BlockingIOError as error:
        raise StoreBusyError(f"{path} is open in another process. Close it there, or choose another place.") from error
    except (OSError, RuntimeError) as error:  # HDF5 has a RuntimeError for some of the system's
        if is_full(error):
            raise DiskFullError(
                f"There is no room for an export of {format_bytes(n_bytes)} ({n_bytes} bytes) to {path}. "
                "Nothing of it is left: make room, or choose another place."
            ) from error
        raise TargetError(
            f"{path} cannot be written ({error}). Check the folder and its permissions, or choose another place."
        ) from error


def _place_file(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)  # a rename would replace what has appeared meanwhile
    except FileExistsError:
        raise _appeared(path) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise _appeared(path) from None
        temporary.rename(path)


def _place_folder(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite or not path.exists():
        try:
            temporary.rename(path)  # which replaces nothing but an empty folder
        except OSError:
            if path.exists():
                raise _appeared(path) from None
            raise
        return
    retired = temporary.with_suffix(".swath-old")
    try:
        path.rename(retired)
        temporary.rename(path)
    finally:
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
        elif retired.exists():
            retired.rename(path)


def _appeared(path: Path) -> StoreExistsError:
    return StoreExistsError(
        f"{path} was made by somebody else while the export was written. Choose another place, or give overwrite=True."
    )


def _sync(path: Path) -> None:
    """Put a file, or all files and names of a folder, on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(Path(folder, name))
        sync_folder(Path(folder))
    if not path.is_dir():
        _sync_file(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
