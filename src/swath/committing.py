"""How new bytes become a store, or a longer one, where they are: by renames in a local folder, by conditional writes elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

from swath import commit, commit_objects
from swath.commit import Build, Files
from swath.errors import OptionError, StoreNotFoundError
from swath.metadata import METADATA
from swath.storage import Folder, LocalFolder, ObjectFolder


def building(
    folder: Folder, files: Files, separators: Mapping[str, str], *, overwrite: bool, resume: bool
) -> AbstractContextManager[Build]:
    """See `swath.commit.building`, and `swath.commit_objects.building`."""
    if isinstance(folder, LocalFolder):
        return commit.building(folder.path, files, overwrite=overwrite, resume=resume)
    return commit_objects.building(_objects(folder), files, separators, overwrite=overwrite, resume=resume)


def appending(folder: Folder, files: Files, before: bytes) -> AbstractContextManager[Build]:
    """See `swath.commit.appending`, and `swath.commit_objects.appending`."""
    if isinstance(folder, LocalFolder):
        return commit.appending(folder.path, files)
    return commit_objects.appending(_objects(folder), files, before)


@contextlib.contextmanager
def locked(folder: Folder, *, timeout: float) -> Iterator[Folder]:
    """The folder, to be written to. See `swath.commit.locked`, and `swath.commit_objects.locked`."""
    if isinstance(folder, LocalFolder):
        with commit.locked(folder.path, timeout=timeout):
            yield folder
    else:
        with commit_objects.locked(_objects(folder), timeout=timeout) as held:
            yield held


def settle(folder: Folder) -> bool:
    """See `swath.commit.settle`, and `swath.commit_objects.settle`."""
    return commit.settle(folder.path) if isinstance(folder, LocalFolder) else commit_objects.settle(_objects(folder))


def check_vacant(folder: Folder, *, overwrite: bool) -> None:
    """See `swath.commit.check_vacant`, and `swath.commit_objects.check_vacant`."""
    if isinstance(folder, LocalFolder):
        commit.check_vacant(folder.path, overwrite=overwrite)
    else:
        commit_objects.check_vacant(_objects(folder), overwrite=overwrite)


def pending_bytes(folder: Folder) -> bytes:
    """The metadata that an interrupted build was to make; nothing if there was none."""
    if isinstance(folder, LocalFolder):
        return commit.pending_bytes(folder.path)
    return commit_objects.pending_bytes(_objects(folder))


def separators_for(folder: Folder, names: Iterable[str]) -> dict[str, str]:
    """What joins the keys of the shards of new arrays, by name. A local folder takes its place as a whole."""
    if isinstance(folder, LocalFolder):
        return dict.fromkeys(names, ".")
    return commit_objects.separators_for(_objects(folder), names)


def read_committed(folder: Folder) -> tuple[Folder, bytes]:
    """The folder of what is committed there, and its ``zarr.json``.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError
    """
    if isinstance(folder, LocalFolder):
        path, encoded = commit.read_committed(folder.path)
        return LocalFolder(path), encoded
    if isinstance(folder, ObjectFolder):
        return folder, commit_objects.read_committed(folder)
    try:
        return folder, folder.read(METADATA)
    except FileNotFoundError:
        raise StoreNotFoundError(f"There is no store at {folder.url} (no {METADATA}). Check the place.") from None


def _objects(folder: Folder) -> ObjectFolder:
    """The object store that is written to.

    Raises
    ------
    OptionError
        It is the store object of another library, which is only read.
    """
    if isinstance(folder, ObjectFolder):
        return folder
    raise OptionError(f"{folder.url} can only be read. Give the URL of a place that is written to.")
