"""How do new objects become a store, or a longer one, at one instant?

Shards are written where they will stay, and nobody looks for them yet. Then ``zarr.json``, which says how many rows there are, is
written on the condition that it is still what it was (``If-Match``), or that there is none (``If-None-Match``): that is the commit.
A store that is replaced keeps its shards until then, since those of its successor have other names: keys are joined by ``.`` and
by ``/`` in turn.

A run that is killed leaves what it has finished, and ``.swath-pending.json``, which says what it was to make; run again, it carries on
with the shards whose stamp is right. One process writes at a time: it holds a lease, an object that it writes anew every few
seconds. Who finds that a lease has not changed for long takes it over; no clock is compared with another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from swath.commit import Build, Files
from swath.errors import (
    FormatError,
    IncompleteStoreError,
    OptionError,
    StoreAccessError,
    StoreBusyError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from swath.metadata import METADATA, check_metadata, decode_group, decode_metadata, is_group, is_ours, shard_key
from swath.storage import ObjectFolder, Seen, Turn, briefly

_log = logging.getLogger(__name__)

# Hidden, as no array of a group is.
_PENDING = ".swath-pending.json"
_LEASE = ".swath-lease"

_RENEW_SECONDS = 5.0
_LEASE_SECONDS = 30.0
_POLL_SECONDS = 0.2

# Whoever is interrupted clears up for so long.
_INTERRUPTED_SECONDS = 0.5


def read_committed(folder: ObjectFolder) -> bytes:
    """The ``zarr.json`` of what is committed in a folder.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError
    """
    try:
        return _read_sound(folder)
    except FileNotFoundError:
        if folder.has(_PENDING):
            raise IncompleteStoreError(
                f"The ingest into {folder.url} has not finished. Run the same ingest again: it carries on where it was."
            ) from None
        raise StoreNotFoundError(
            f"There is no store at {folder.url} (no {METADATA}). Check the URL, or ingest into it first."
        ) from None


def _read_sound(folder: ObjectFolder) -> bytes:
    """Metadata, which a bit may have flipped of on the way: then once more."""
    for _ in range(folder.reach.tries - 1):
        encoded = folder.read(METADATA)
        with contextlib.suppress(FormatError):
            if is_ours(encoded):
                check_metadata(encoded, folder.url)
            return encoded
    return folder.read(METADATA)


def pending_bytes(folder: ObjectFolder) -> bytes:
    """The metadata that an interrupted build was to make; nothing if there was none."""
    return folder.read_if_there(_PENDING)


def check_vacant(folder: ObjectFolder, *, overwrite: bool) -> None:
    """Refuse to replace what is not to be replaced.

    Raises
    ------
    StoreExistsError
    OptionError
        By plain HTTP nothing is written.
    """
    if folder.connection.is_read_only:
        raise OptionError(
            f"{folder.url} can only be read. Give a place that is written to, such as 's3://bucket/folder'."
        )
    _check_vacant(_committed(folder)[1], folder, overwrite=overwrite)


def _check_vacant(found: bytes, folder: ObjectFolder, *, overwrite: bool) -> None:
    if not found:
        return
    if not overwrite:
        raise StoreExistsError(
            f"There is an array at {folder.url} already. Choose another place, or give overwrite=True to replace it."
        )
    if not is_ours(found):
        raise StoreExistsError(
            f"The array at {folder.url} is not one that swath wrote, so it will not touch it. Remove it first, or choose another place."
        )


def separators_for(folder: ObjectFolder, names: Iterable[str]) -> dict[str, str]:
    """What shall join the keys of shards of arrays that take the place of what is committed: not what joins them there."""
    return _separators(_committed(folder)[1], folder, names)


def _separators(committed: bytes, folder: ObjectFolder, names: Iterable[str]) -> dict[str, str]:
    joined: set[str] = set()
    with contextlib.suppress(FormatError):
        members = _members(committed, folder) if is_ours(committed) else {}
        joined = {name for name, facts in members.items() if facts.layout.separator == "."}
    return {name: "/" if name in joined else "." for name in names}


@contextlib.contextmanager
def building(
    folder: ObjectFolder, files: Files, separators: Mapping[str, str], *, overwrite: bool, resume: bool
) -> Iterator[Build]:
    """A folder to write shards into; leaving the block without an error commits them.

    ``separators`` are what `separators_for` gave.

    Raises
    ------
    StoreExistsError
        There is a store, and ``overwrite`` is False.
    StoreBusyError
        Another process is writing the same store.
    """
    with _held(folder, timeout=0, needed=False) as folder:
        base, before = _committed(folder)
        _check_vacant(before, folder, overwrite=overwrite)
        if _separators(before, folder, separators) != separators:
            # What is committed by now has shards of these names.
            raise StoreBusyError(f"Another process has replaced {folder.url} meanwhile. Call again.")
        pending = files.get(METADATA, b"")
        carried_on = resume and pending != b"" and pending_bytes(folder) == pending
        if not carried_on:
            folder.put(_PENDING, [memoryview(pending)])
        build = Build(folder, files, is_fresh=not carried_on)
        try:
            yield build
        except BaseException:
            if not files:  # nobody can carry on with blocks that came once
                briefly(partial(_forget_pending, folder), _INTERRUPTED_SECONDS)
            raise
        _commit(folder, build.files, base)
        folder.remove(_PENDING)
        if before:
            _clear(folder, before, build.files)


@contextlib.contextmanager
def appending(folder: ObjectFolder, files: Files, before: bytes) -> Iterator[Build]:
    """A folder to write new shards into; leaving the block without an error makes them part of the store, as it was ``before``.

    Only under the lease. The last shard is written with more rows; its chunks stay where they were, so that whoever reads it by the
    committed length finds the rows that he did.
    """
    base, committed = folder.connection.read_seen(folder.key_of(METADATA))
    if committed != before:
        raise _taken_over(folder)
    build = Build(folder, files)
    yield build
    if build.files:
        folder.put(_PENDING, [memoryview(build.files[METADATA])])
        _commit(folder, build.files, base)
        folder.remove(_PENDING)  # the answer: until here the same call again finds that it is done


def settle(folder: ObjectFolder) -> bool:
    """Whether the last append was committed and nobody was told, as it was killed: the arrays of a group are now. Only under the lease."""
    pending = pending_bytes(folder)
    is_done = pending != b"" and pending == _committed(folder)[1]
    if is_done and is_group(pending):
        for name, encoded in decode_group(pending, folder.url).items():
            folder.within(name).put(METADATA, [memoryview(encoded)])
    if pending:
        folder.remove(_PENDING)
    return is_done


@contextlib.contextmanager
def locked(folder: ObjectFolder, *, timeout: float) -> Iterator[ObjectFolder]:
    """Hold the lease of the store in a folder, for which others are waited for so many seconds: the folder to write into.

    Raises
    ------
    StoreBusyError
        Another process holds it.
    StoreAccessError
        The store does not keep conditions, so that two who write could not take turns.
    """
    if folder.connection.is_read_only:
        raise OptionError(f"{folder.url} can only be read. Open it where it can be written to, such as by 's3://'.")
    with _held(folder, timeout=timeout, needed=True) as held:
        yield held


def _forget_pending(folder: ObjectFolder) -> None:
    with contextlib.suppress(StoreError, OSError):
        folder.remove(_PENDING)


def _commit(folder: ObjectFolder, files: Files, base: Seen | None) -> None:
    """Write the metadata, ``zarr.json`` in the place of ``base``, or of nothing.

    Raises
    ------
    StoreBusyError
        Another process has committed, or has taken over the lease.
    """
    for name in sorted(files, key=METADATA.__eq__):
        if name != METADATA and base is None:
            folder.put(name, [memoryview(files[name])])
    if not folder.is_its_turn():
        raise _taken_over(folder)
    if not folder.commit(METADATA, files[METADATA], base):
        raise _taken_over(folder)
    if base is not None:  # of a group the first is the commit, and the metadata of its arrays follow
        for name in sorted(files.keys() - {METADATA}):
            folder.put(name, [memoryview(files[name])])


def _taken_over(folder: ObjectFolder) -> StoreBusyError:
    return StoreBusyError(f"Another process has written {folder.url} meanwhile. Open it, and call again.")


def _clear(folder: ObjectFolder, before: bytes, files: Files) -> None:
    """Remove what was replaced, so far as that goes: arrays of a group that are none any more, and shards."""
    with contextlib.suppress(StoreError, OSError):
        for name, facts in _members(before, folder).items():
            place = folder.within(name)
            if name and f"{name}/{METADATA}" not in files:
                place.remove(METADATA)
            for shard in range(facts.layout.n_shards):
                place.remove(shard_key(facts.layout, shard))


def _members(encoded: bytes, folder: ObjectFolder) -> dict[str, Any]:
    """What metadata say of a store, or of the arrays of a group."""
    if is_group(encoded):
        inside = decode_group(encoded, folder.url)
        return {name: decode_metadata(each, folder.url) for name, each in inside.items()}
    return {"": decode_metadata(encoded, folder.url)} if encoded else {}


def _committed(folder: ObjectFolder) -> tuple[Seen | None, bytes]:
    """What stands there, and its version; nothing if there is nothing."""
    for name in (METADATA, ".zarray"):
        with contextlib.suppress(FileNotFoundError):
            return folder.connection.read_seen(folder.key_of(name), tries=1)
    return None, b""


@dataclass(frozen=True, slots=True)
class _Lease:
    """Who writes."""

    holder: str
    told: str
    host: str
    pid: int

    def encode(self) -> bytes:
        """As JSON; no two are alike."""
        own = {"holder": self.holder, "told": self.told, "host": self.host, "pid": self.pid}
        return json.dumps({**own, "id": uuid.uuid4().hex}).encode()

    @property
    def is_dead(self) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        if self.host != _this_host():
            return False
        return _process_start(self.pid) != self.holder.rpartition("-")[2]


def _lease_of(folder: ObjectFolder) -> tuple[Seen | None, _Lease | None]:
    """Who writes, and the version of the object that says it."""
    try:
        seen, encoded = folder.connection.read_seen(folder.key_of(_LEASE))
    except FileNotFoundError:
        return None, None
    try:
        document = json.loads(encoded)
        return seen, _Lease(*(document[name] for name in ("holder", "told", "host", "pid")))
    except (ValueError, KeyError, TypeError):
        return seen, _Lease("", "Another process", "", 0)


@contextlib.contextmanager
def _held(folder: ObjectFolder, *, timeout: float, needed: bool) -> Iterator[ObjectFolder]:
    host, pid = _this_host(), os.getpid()
    # Threads of a process are told apart, and what it writes now from what it will.
    holder = f"{host}-{pid}-{uuid.uuid4().hex}-{_process_start(pid)}"
    own = _Lease(holder, f"Process {pid} on {socket.gethostname()}", host, pid)
    seen = _take(folder, own, timeout)
    if not _keeps_conditions(folder, seen):
        folder.remove(_LEASE)
        if needed:
            raise StoreAccessError(
                f"{folder.url} is in a store that writes though a condition is not met, so that rows of two appends could be "
                "lost. Append to a copy in a store with conditional writes, or ingest all of it anew."
            )
        yield folder
        return
    held = replace(folder, turn=Turn(folder.key_of(_LEASE), holder.encode()))
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(folder, own, seen, ended), daemon=True, name="swath-lease")
    keeper.start()
    patience = _RENEW_SECONDS
    try:
        yield held
    except KeyboardInterrupt:
        patience = _INTERRUPTED_SECONDS
        raise
    finally:
        ended.set()
        briefly(partial(_give_back, held), patience)


def _give_back(folder: ObjectFolder) -> None:
    with contextlib.suppress(StoreError, OSError):
        if folder.is_its_turn():
            folder.remove(_LEASE)


def _take(folder: ObjectFolder, own: _Lease, timeout: float) -> Seen:
    """Take the lease, from nobody, or from one who is dead.

    Raises
    ------
    StoreBusyError
    """
    deadline = time.monotonic() + timeout
    met: tuple[Seen | None, float] = (None, 0.0)
    while True:
        seen = folder.connection.put(folder.key_of(_LEASE), own.encode(), onto=None)
        if seen is not None:
            return seen
        there, lease = _lease_of(folder)
        if lease is None or there is None:
            continue
        now = time.monotonic()
        if there != met[0]:
            # One that was written anew while it was looked at is alive.
            if met[0] is not None and now >= deadline:
                raise StoreBusyError(f"{lease.told} is writing {folder.url}. Wait until it has finished, or stop it.")
            met = there, now
        if lease.is_dead or now - met[1] > _LEASE_SECONDS:
            taken = folder.connection.put(folder.key_of(_LEASE), own.encode(), onto=there)
            if taken is not None:
                silent = "has ended" if lease.is_dead else f"has not renewed it for {_LEASE_SECONDS:.0f} s"
                _log.warning("%s: took over the lease of a writer: %s %s", folder.url, lease.told, silent)
                return taken
        time.sleep(_POLL_SECONDS)


def _keeps_conditions(folder: ObjectFolder, seen: Seen) -> bool:
    """Whether the store refuses to write where a condition is not met."""
    key, other = folder.key_of(_LEASE), b"{}"
    if folder.connection.put(key, other, onto=None) is not None:
        return False
    return folder.connection.put(key, other, onto=seen.other) is None


def _keep(folder: ObjectFolder, own: _Lease, seen: Seen, ended: threading.Event) -> None:
    """Write the lease anew every few seconds, until it is given back or lost."""
    current: Seen | None = seen
    while not ended.wait(_RENEW_SECONDS) and current is not None:
        with contextlib.suppress(StoreError, OSError):  # the next time may be better
            current = folder.connection.put(folder.key_of(_LEASE), own.encode(), onto=current)


def _this_host() -> str:
    """The machine since it was started, and what it numbers processes by."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _process_start(pid: int) -> str:
    """When a process began, in ticks since the start of the machine; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
