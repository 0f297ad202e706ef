"""Byte ranges of objects into the caller's buffers, and objects that appear whole.

Each object is read as the version that was met first: where another takes its place, the server refuses the next range
(``If-Match``), so that two versions are never spliced. Where there is a cache (`swath.storage.cache`), what it has is not asked for.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from swath.errors import DamagedStoreError, StoreBusyError
from swath.plan import REMOTE, Reach
from swath.storage.cache import PAGE, Cache
from swath.storage.connection import Connection, Seen, VersionError
from swath.storage.gate import Gate, away
from swath.storage.local import Buffer, Scratch, scatter


@dataclass(slots=True)
class ObjectFile:
    """An object. Threads may share it."""

    connection: Connection
    key: str
    gate: Gate | None
    seen: Seen | None
    """The version that is read; that of the first answer if it is not known yet."""
    cache: Cache | None = None
    _is_noted: bool = False
    _whole: Buffer | None = None

    @property
    def path(self) -> str:
        """Its URL."""
        return self.connection.url_of(self.key)

    @property
    def size(self) -> int:
        """Its bytes; a request if nothing of it was read yet."""
        if self.seen is None:
            with away(self.gate):
                self.seen = self.connection.head(self.key)
                self.connection.meet(self.key, self.seen)
        return self.seen.size

    @property
    def version(self) -> tuple[Any, ...]:
        """Its ETag, once something of it was read."""
        return () if self.seen is None else (self.key, *self.seen)

    def read_into(self, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        """Fill ``buffers``, of ``n_bytes`` together, in order from ``offset``; return how many bytes there were."""
        whole = self._whole
        content = self._fetch(offset, offset + n_bytes) if whole is None else whole[offset : offset + n_bytes]
        return scatter(content, buffers)

    def _fetch(self, begin: int, end: int | None) -> Buffer:
        with away(self.gate):
            if self.cache is None or (self.seen is not None and not self.seen.is_strong):
                return self._get(begin, end)
            if self.seen is not None:
                end = self.seen.size if end is None else min(end, self.seen.size)
                return self.cache.read(self.path, self.seen, min(begin, end), end, self._get)
            start = begin - begin % PAGE
            content = self._get(start, None if end is None else end + -end % PAGE)
            self._keep(self.cache, start, content)
            return content[begin - start : None if end is None else end - start]

    def _get(self, begin: int, end: int | None) -> Buffer:
        body = self.connection.get(self.key, begin, end, self.seen)
        self.seen = body.seen
        return body.content

    def _keep(self, cache: Cache, begin: int, content: Buffer) -> None:
        """Keep pages of a version that is known now. A time and a size do not tell two versions apart for sure."""
        if self.seen is not None and self.seen.is_strong:
            cache.keep(self.path, self.seen, begin, content)
            if self._is_noted:
                cache.note(self.path, self.seen)

    def recall(self) -> None:
        """Read the version that was noted last, without a request; note the one that is met now if there is none."""
        if self.cache is not None and self.seen is None:
            self._is_noted = True
            self.seen = self.cache.seen(self.path)
            if self.seen is not None:
                self.connection.meet(self.key, self.seen)

    def forget(self) -> None:
        """Keep nothing of this version: it is damaged, or another has taken its place."""
        if self.cache is not None:
            self.connection.forget(self.key, self.seen)
            self.cache.forget(self.path, self.seen)

    def load(self) -> int:
        """Fetch all of it, and keep it."""
        if self._whole is None:
            self._whole = self._fetch(0, None)
        return len(self._whole)

    def announce(self, offset: int, n_bytes: int) -> None:
        """Nothing: a request is made once."""

    def read_ahead(self) -> None:
        """Nothing: each range is a request of its own."""

    def is_cached(self, offset: int) -> bool:
        """It is far away."""
        return False

    def mapped(self, n_bytes: int) -> mmap.mmap | None:
        """It is no file."""
        return None


class Turn(NamedTuple):
    """Whose turn it is to write."""

    key: str
    """Of the object that says it."""
    mark: bytes
    """What stands in it for so long."""


@dataclass(frozen=True, slots=True)
class ObjectFolder:
    """Objects whose keys begin alike."""

    connection: Connection
    prefix: str
    cache: Cache | None = None
    """What is kept of them on this machine."""
    turn: Turn | None = field(default=None, compare=False)
    """Where there is one, objects are written while it lasts, and not a moment later."""
    gate: Gate | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectFolder, (self.connection, self.prefix, self.cache, self.turn)

    @property
    def url(self) -> str:
        """Where it is, without options."""
        return self.connection.url_of(self.prefix) if self.prefix else self.connection.root

    @property
    def reach(self) -> Reach:
        """A request takes some tens of milliseconds."""
        return REMOTE

    @property
    def name(self) -> str:
        """The last part of its prefix."""
        return self.prefix.rpartition("/")[2]

    def within(self, name: str) -> ObjectFolder:
        """A folder in this one."""
        return replace(self, prefix=self.key_of(name)) if name else self

    def above(self) -> ObjectFolder:
        """The folder that this one is in; the root is in itself."""
        return replace(self, prefix=self.prefix.rpartition("/")[0])

    def through(self, gate: Gate) -> ObjectFolder:
        """The same for threads that may be left behind."""
        return replace(self, gate=gate)

    def anew(self) -> ObjectFolder:
        """The same, for versions of objects that are met from now on."""
        return replace(self, connection=self.connection.anew())

    def origin(self) -> ObjectFolder:
        """The same without a cache, and without what was met before."""
        return replace(self.anew(), cache=None)

    def key_of(self, name: str) -> str:
        """The key of an object in it."""
        return f"{self.prefix}/{name}" if self.prefix else name

    @contextlib.contextmanager
    def open(self, key: str, direct: Scratch | None = None) -> Iterator[ObjectFile]:
        """An object; that it is not there shows when it is read."""
        path = self.key_of(key)
        file = ObjectFile(self.connection, path, self.gate, self.connection.seen(path), self.cache)
        try:
            yield file
        except (DamagedStoreError, VersionError) as error:
            # A bit may have flipped on the way to the cache, or the version that was noted is an old one: who reads again, asks.
            file.forget()
            if isinstance(error, VersionError):  # of two versions that were met either may be the wrong one
                self.connection.forget(path)
            raise

    def read(self, key: str) -> bytes:
        """All of a small object, as it is now."""
        return self.connection.read(self.key_of(key))

    def read_if_there(self, key: str) -> bytes:
        """The same, by one request; empty if it is not there."""
        try:
            return self.connection.read(self.key_of(key), tries=1)
        except FileNotFoundError:
            return b""

    def read_again(self, key: str, before: bytes) -> bytes:
        """The same, by a request that transfers nothing if it is as it was when it was read last."""
        return self.connection.read(self.key_of(key), before)

    def has(self, key: str) -> bool:
        """Whether there is an object of this name."""
        try:
            self.connection.head(self.key_of(key))
        except FileNotFoundError:
            return False
        return True

    def put(self, key: str, buffers: Sequence[Buffer]) -> None:
        """Write one object."""
        content = buffers[0] if len(buffers) == 1 else memoryview(b"".join(buffers))
        with away(self.gate):
            if self.turn is None:
                self.connection.put(self.key_of(key), content)
            else:
                self._put_in_turn(self.key_of(key), content)

    def _put_in_turn(self, path: str, content: Buffer) -> None:
        """Write an object in the place of what stood there while it was our turn.

        Whoever was held up, by a network or a suspended machine, comes late: another has taken his turn, and has written an object
        of this name, which the condition of this write then is not met by.
        """
        try:
            standing = self.connection.head(path)
        except FileNotFoundError:
            standing = None
        if not self.is_its_turn() or self.connection.put(path, content, onto=standing) is None:
            raise StoreBusyError(f"Another process has taken over {self.url} meanwhile. Open it, and call again.")

    def is_its_turn(self) -> bool:
        """Whether what has this folder may write."""
        if self.turn is None:
            return True
        try:
            return self.turn.mark in self.connection.read(self.turn.key)
        except FileNotFoundError:
            return False

    def make(self) -> None:
        """Nothing: keys need no folder."""

    def commit(self, key: str, content: bytes, base: Seen | None) -> bool:
        """Write an object in the place of one version, or of none; False if something else stands there."""
        return self.connection.put(self.key_of(key), content, onto=base) is not None

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""
        self.connection.delete(self.key_of(key))

    def sync(self) -> None:
        """Nothing: what a store has answered for is safe."""

    def remove_temporaries(self) -> None:
        """Nothing: an object appears when it is whole."""
