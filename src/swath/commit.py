"""How do new bytes become a store, or a longer one, at one instant?

*Build.* A store, or a group of them, is built in a folder beside its place, ``.NAME.swath-part``, and takes its place by a
rename when it is whole: there is no moment at which half a store could be opened.

*Append.* New shards, and a new copy of the last one where it is not full, are written in ``.NAME.swath-append``. Then they are
moved into the store, where nobody looks for them yet, and at last ``zarr.json``, which says how many rows there are, is
replaced. A full shard is never touched.

A run that is killed leaves what it has finished; run again, it carries on. An append that was killed after all of it was
written is completed by the next, which may be the same call: ``zarr.json`` of the stage, which goes first of all when it is
done with, says that it has not been answered. One process writes at a time: it holds a lock that the kernel frees when its holder dies.
Workers of a cluster, who write for it, may outlive that: they write only where what they were told of is still pending.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from swath.errors import IncompleteStoreError, StoreBusyError, StoreExistsError, StoreNotFoundError
from swath.metadata import METADATA, check_metadata
from swath.storage import Folder, LocalFolder
from swath.storage.local import Fence, sync_folder

# The metadata of what is being written: what it will be, and so whether a second run may carry on.
_PENDING = ".pending.json"  # hidden, as no array of a group is
# ... and, of what is appended, the metadata of the store that it is appended to.
_BASE = ".base.json"

# How often a process that waits for the lock looks.
_POLL_SECONDS = 0.02

Files = Mapping[str, bytes]
"""Metadata by name within the folder. The one named ``zarr.json`` commits; others follow from it (arrays of a group)."""


@dataclass(slots=True)
class Build:
    """A store that is being written."""

    folder: Folder
    """Where its shards go."""
    files: Files
    """Its metadata. Who learns only while writing how many rows there are, sets them before the end."""
    is_fresh: bool = False
    """Whether shards that are there already are none of it."""


def part_of(path: Path) -> Path:
    """Where the store at ``path`` is built."""
    return path.with_name(f".{path.name}.swath-part")


def retired_of(path: Path) -> Path:
    """Where the store that another replaces stands, for a moment."""
    return path.with_name(f".{path.name}.swath-old")


def stage_of(path: Path) -> Path:
    """Where what is to be appended stands."""
    return path.with_name(f".{path.name}.swath-append")


def read_committed(path: Path) -> tuple[Path, bytes]:
    """The folder of what is committed at ``path``, and its ``zarr.json``.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, DamagedStoreError
    """
    # Between the two renames of `building`, where a kill may fall, the old one has another name; without a kill the new one has
    # come by the time that this one is gone.
    for place in (path, retired_of(path), path):
        if place == path or not path.exists():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return place, LocalFolder(place).read(METADATA)
    if part_of(path).exists():
        raise IncompleteStoreError(
            f"The ingest into {path} has not finished. Run the same ingest again: it carries on where it was."
        )
    raise StoreNotFoundError(f"There is no store at {path} (no {METADATA}). Check the path, or ingest into it first.")


def pending_bytes(path: Path) -> bytes:
    """The metadata that an interrupted build was to make; nothing if there was none."""
    for name in (_PENDING, METADATA):  # the latter after a kill between the last shard and the commit
        with contextlib.suppress(OSError):
            return LocalFolder(part_of(path)).read(name)
    return b""


@contextlib.contextmanager
def building(path: Path, files: Files, *, overwrite: bool, resume: bool) -> Iterator[Build]:
    """A folder to write shards into; leaving the block without an error commits it as ``path``.

    The folder holds the shards that an earlier run with the same metadata has finished, unless ``resume`` is False. An
    error, or a kill, leaves what stood at ``path`` before.

    Raises
    ------
    StoreExistsError
        ``path`` exists and ``overwrite`` is False, or it is not a Zarr array.
    StoreBusyError
        Another process is writing the same store.
    """
    part, retired = part_of(path), retired_of(path)
    check_vacant(path, overwrite=overwrite)
    _make_folder(path.parent)
    with locked(path, timeout=0):
        if retired.exists():
            if path.exists():
                shutil.rmtree(retired)
            else:
                retired.rename(path)
        check_vacant(path, overwrite=overwrite)
        if not resume and part.exists():
            shutil.rmtree(part)
        folder = _prepare(part, files)
        build = Build(folder, files)

        with _kept(folder, if_=bool(files)):
            yield build

        # From here a kill leaves the old or the new: all is on the disk before the folder gets its name.
        _put_all(folder, build.files)
        check_vacant(path, overwrite=overwrite)
        if stage_of(path).exists():
            shutil.rmtree(stage_of(path))  # it was to be appended to what goes now
        if path.exists():
            path.rename(retired)
        try:
            part.rename(path)
        except OSError:
            if retired.exists():
                retired.rename(path)
            raise
        sync_folder(path.parent)
        shutil.rmtree(retired, ignore_errors=True)


@contextlib.contextmanager
def appending(path: Path, files: Files) -> Iterator[Build]:
    """A folder to write new shards into; leaving the block without an error makes them part of the store at ``path``.

    Only under the lock, and after `settle`. What an earlier run with the same metadata has finished is there. Where it turns out
    that there is nothing to commit, the metadata are left empty.
    """
    folder = _prepare(stage_of(path), files, base=LocalFolder(path).read(METADATA))
    build = Build(folder, files)

    with _kept(folder, if_=bool(files)):
        yield build

    if not build.files:
        shutil.rmtree(folder.path)
        return
    _put_all(folder, build.files)  # from here all is on the disk, and `settle` would complete it
    _complete(path)


def settle(path: Path) -> bool:
    """Complete an append that was killed after all of it was written; whether there was one. Only under the lock.

    Raises
    ------
    FormatError
        The metadata of the store are damaged, so that nobody can say whether what was to be appended belongs to it.
    """
    stage = stage_of(path)
    if not path.is_dir():
        return False
    _remove_temporaries(path)
    if not stage.exists():
        return False
    committed = LocalFolder(path).read(METADATA)
    if _holds(stage / METADATA, committed) or ((stage / METADATA).exists() and _holds(stage / _BASE, committed)):
        _complete(path)
        return True
    if not _holds(stage / _BASE, committed):
        check_metadata(committed, str(path))
        shutil.rmtree(stage)  # it was to be appended to what was here before
    return False


def _complete(path: Path) -> None:
    """Move the shards into the store, commit, and clear up; each step again does no harm."""
    stage = stage_of(path)
    for folder in _folders(stage):
        target = _counterpart(folder, stage, path)
        for entry in folder.iterdir():
            if entry.is_file() and entry.suffix != ".json":
                entry.rename(target / entry.name)
        sync_folder(target)
    # Of a group the first is the commit, and the metadata of its arrays follow.
    for folder in _folders(stage):
        target, metadata = _counterpart(folder, stage, path), folder / METADATA
        # Where there is none, it had been cleared up before the power failed, and is where it should be.
        if metadata.exists():
            LocalFolder(target).put(METADATA, [memoryview(LocalFolder(folder).read(METADATA))])
            sync_folder(target)
    # The answer: until here the same call again finds that it is done, from here it appends once more. An error would say
    # that it is not, and what is left harms nobody.
    (stage / METADATA).unlink()
    with contextlib.suppress(OSError):
        shutil.rmtree(stage)
        sync_folder(stage.parent)


def check_vacant(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is not to be replaced.

    Raises
    ------
    StoreExistsError
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / METADATA).is_file() and not (path / ".zarray").is_file():
        raise StoreExistsError(
            f"{path} exists and is not a Zarr array, so swath will not touch it. Choose another place."
        )
    if not overwrite:
        raise StoreExistsError(
            f"There is an array at {path} already. Choose another place, or give overwrite=True to replace it."
        )


@contextlib.contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the lock of the store at ``path``, or of what shall be one, for which others are waited for so many seconds.

    The lock is of a file beside the store, which its holder removes; the kernel frees it when its holder dies.

    Raises
    ------
    StoreBusyError
        Another process holds it.
    """
    lock = path.with_name(f".{path.name}.swath-lock")
    deadline = time.monotonic() + timeout
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(lock, descriptor):  # and not one that its last holder has removed meanwhile
                break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "Another process"
                os.close(descriptor)
                raise StoreBusyError(f"{holder} is writing {path}. Wait until it has finished, or stop it.") from None
            time.sleep(_POLL_SECONDS)
        os.close(descriptor)
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds too, and only its holder is not named
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"Process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):  # a file that stays is the next holder's
            lock.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def _kept(folder: LocalFolder, *, if_: bool) -> Iterator[None]:
    """Leave what was written before an error only if a second run can carry on with it."""
    try:
        yield
    except BaseException:
        if not if_:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _make_folder(path: Path) -> None:
    """Make a folder, and those that it is in, which stay after a loss of power."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync_folder(each.parent)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _prepare(part: Path, files: Files, base: bytes = b"") -> LocalFolder:
    """The folder to write into, with what an earlier run with the same metadata has left there, or empty."""
    pending = files.get(METADATA, b"")
    # All of it is there if a kill fell between the last shard and the commit.
    if not pending or not (_holds(part / _PENDING, pending) or _holds(part / METADATA, pending)):
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        sync_folder(part.parent)  # what says that an append is not answered shall be there as long as what it commits
        if base:
            LocalFolder(part).put(_BASE, [memoryview(base)])
    if not _holds(part / _PENDING, pending):
        LocalFolder(part).put(_PENDING, [memoryview(pending)])
    _remove_temporaries(part)
    return LocalFolder(part, Fence(part / _PENDING, pending))


def _put_all(folder: LocalFolder, files: Files) -> None:
    """Put the metadata beside the shards, ``zarr.json`` last, and all names on the disk."""
    for name in sorted(files, key=METADATA.__eq__):
        if name == METADATA:
            for each in _folders(folder.path):
                sync_folder(each)
        place = folder.path / name
        LocalFolder(place.parent).put(place.name, [memoryview(files[name])])
    (folder.path / _PENDING).unlink(missing_ok=True)
    _remove_temporaries(folder.path)  # of workers that were killed, or that go on: they shall be no part of the store
    folder.sync()


def _remove_temporaries(path: Path) -> None:
    for folder in _folders(path):
        LocalFolder(folder).remove_temporaries()


def _counterpart(folder: Path, stage: Path, path: Path) -> Path:
    """The folder of a store that one of its stage is for."""
    return LocalFolder(path).within("" if folder == stage else folder.name).path


def _folders(path: Path) -> list[Path]:
    """A folder, and those in it: of the arrays of a group. Hidden ones are what others write beside them, and links lead elsewhere."""
    inner = (entry for entry in path.iterdir() if not entry.name.startswith(".") and not entry.is_symlink())
    return [path, *sorted(entry for entry in inner if entry.is_dir())]


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and LocalFolder(path.parent).read(path.name) == content
