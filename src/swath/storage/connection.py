"""How is an object store asked for bytes of one version, and to write an object whole?

What comes is measured: a body of another length, or from another place than was asked for, is no answer (`swath.storage.asking`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote

from swath.errors import (
    OptionError,
    StoreAccessError,
    StoreChangedError,
    StoreUnreachableError,
)
from swath.storage.asking import DEADLINE_SECONDS, NoAnswerError, asked, status_of, told_of
from swath.storage.options import Options

# A server that sends nothing for so long will not; AWS advises to ask anew after some seconds rather than to wait.
_SILENCE = timedelta(seconds=5)

# An answer to a read may take this long in all.
_LONGEST_READ = timedelta(seconds=30)

# ... and one to a write so long for each part of the object: each of some that are written at once has a share of the network.
_LONGEST_PART = timedelta(seconds=30)

# An object that is not there may be there a moment later: a store or a proxy that has just been asked to.
_MISSING_TRIES = 2

# A large object goes in parts of this size.
_PART_BYTES = 16 * 2**20
_LEAST_PARTS = 4

# Where a client of another library makes requests.
_CLIENT_TRIES = 10

# Objects whose version is remembered.
_MOST_SEEN = 2**16

# What is no larger is sent at once, so that silence means as much as where it is read.
_SMALL_BYTES = 2**16


class Seen(NamedTuple):
    """An object as it was when it was asked for last."""

    etag: str
    """Of the version; where a server has none, its time and size."""
    size: int
    is_strong: bool = True
    """Whether a server compares it."""
    version: str | None = None
    """What some servers (Google's) go by where an object is replaced."""

    @property
    def other(self) -> Seen:
        """A version that no object has."""
        return self._replace(etag='"00000000000000000000000000000000"', version=self.version and "1")


class Body(NamedTuple):
    """What came of an object."""

    content: memoryview
    seen: Seen


class VersionError(StoreChangedError):
    """Another object has taken the name of one that was being read."""


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A root in an object store, and how it is asked. Another process that gets it finds credentials in its own environment."""

    root: str
    """Such as ``s3://bucket/folder``."""
    options: Options
    _seen: dict[str, Seen] = field(default_factory=dict, repr=False)
    _texts: dict[str, tuple[Seen, bytes]] = field(default_factory=dict, repr=False)
    _stores: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def to(cls, root: str, options: Mapping[str, Any] | None) -> Connection:
        """A connection, with nothing asked yet.

        Raises
        ------
        OptionError
            Options that the store does not know.
        """
        connection = cls(root, Options(dict(options or {})))
        connection.options.check_endpoint(root)
        connection._store()
        return connection

    def __reduce__(self) -> tuple[Any, ...]:
        return Connection.to, (self.root, dict(self.options.public))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connection) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.root, tuple((k, str(v)) for k, v in self.options.public)

    @property
    def is_read_only(self) -> bool:
        """Whether objects can only be read: by plain HTTP."""
        return self.root.startswith("http")

    def client(self) -> Any:
        """What other libraries read it by: it makes requests again by itself."""
        again: Any = {"max_retries": _CLIENT_TRIES, "retry_timeout": timedelta(seconds=DEADLINE_SECONDS)}
        check_process(self.root)
        return self._make_store(0, again)

    def anew(self) -> Connection:
        """The same, with no object met yet."""
        return replace(self, _seen={}, _texts={})

    def url_of(self, path: str) -> str:
        """An object, as messages name it."""
        return f"{self.root}/{path}"

    def seen(self, path: str) -> Seen | None:
        """The object as it was met last."""
        return self._seen.get(path)

    def meet(self, path: str, seen: Seen) -> None:
        """Read this version from now on."""
        while len(self._seen) >= _MOST_SEEN:
            self._seen.pop(next(iter(tuple(self._seen))), None)
        self._seen[path] = seen

    def forget(self, path: str, seen: Seen | None = None) -> None:
        """Take whatever is there next; of one version only if it was the last that was met."""
        if seen is None or self._seen.get(path) == seen:
            self._seen.pop(path, None)

    def get(self, path: str, begin: int = 0, end: int | None = None, seen: Seen | None = None) -> Body:
        """Bytes ``[begin, end)`` of an object, or as many as it has; of the version ``seen``, if it is given.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        VersionError
            Another has taken its place.
        StoreAccessError, StoreUnreachableError
        """
        import obstore

        if seen is not None and end is not None and begin >= seen.size:
            return Body(memoryview(b""), seen)
        options: Any = {} if end is None else {"range": (begin, end)}
        if seen is not None and seen.is_strong:
            options["if_match"] = seen.etag

        def ask() -> Body:
            try:
                result = obstore.get(self._store(), path, options=options)
                meta, (a, b) = result.meta, result.range
                now = _seen_of(meta)
                if seen is not None and now != seen:
                    raise self._replaced(path, seen)
                content = memoryview(result.bytes()).cast("B")
            except obstore.exceptions.PreconditionError:
                raise self._replaced(path, seen) from None
            except obstore.exceptions.BaseError as error:
                if end is None or status_of(str(error)) != "416":
                    raise
                # Nothing is there from this byte on, such as of an object that is empty.
                now = _seen_of(obstore.head(self._store(), path))
                if begin < now.size:
                    raise
                return Body(memoryview(b""), now)
            wanted = (begin, now.size if end is None else min(end, now.size))
            if (a, b) != wanted or len(content) != b - a:
                raise NoAnswerError(f"bytes {a} to {b} ({len(content)}) came for {wanted[0]} to {wanted[1]}")
            return Body(content, now)

        body = self._asked(path, ask, _MISSING_TRIES)
        if seen is None:
            self.meet(path, body.seen)
        return body

    def _replaced(self, path: str, seen: Seen | None) -> VersionError:
        self.forget(path, seen)
        return VersionError(f"{self.url_of(path)} was replaced while it was read. Open it again.")

    def read(self, path: str, before: bytes | None = None, *, tries: int = _MISSING_TRIES) -> bytes:
        """All of a small object, as it is now; ``before`` is not transferred again if it is what was read last.

        Errors are those of `get`; that it is not there is believed after so many tries.
        """
        return self.read_seen(path, before, tries=tries)[1]

    def read_seen(self, path: str, before: bytes | None = None, *, tries: int = _MISSING_TRIES) -> tuple[Seen, bytes]:
        """The same, and the version that it is of: other threads may meet another meanwhile."""
        import obstore

        seen, last = self._texts.get(path, (None, None))
        if seen is None or before is None or before != last or not seen.is_strong:
            seen = None
        options: Any = {} if seen is None else {"if_none_match": seen.etag}

        def ask() -> tuple[Seen, bytes] | None:
            try:
                result = obstore.get(self._store(), path, options=options)
                content, meta = bytes(result.bytes()), result.meta
            except obstore.exceptions.NotModifiedError:
                return None
            if len(content) != meta["size"]:
                raise NoAnswerError(f"{len(content)} bytes came of {meta['size']}")
            return _seen_of(meta), content

        answer = self._asked(path, ask, tries)
        if answer is None:
            assert seen is not None
            assert before is not None
            return seen, before
        self._texts[path] = answer
        self._seen[path] = answer[0]
        return answer

    def head(self, path: str) -> Seen:
        """What an object is; errors as of `get`."""
        import obstore

        return self._asked(path, lambda: _seen_of(obstore.head(self._store(), path)), 1)

    def put(self, path: str, content: memoryview | bytes, *, onto: Seen | bool | None = True) -> Seen | None:
        """Write an object whole. What it is then, or None where another stands in its place.

        ``onto`` says what may stand there: True for anything, None for nothing, or one version.

        Raises
        ------
        DiskFullError, StoreAccessError, StoreUnreachableError
        """
        import obstore

        mode: Any = "overwrite" if onto is True else "create" if onto is None else None
        if isinstance(onto, Seen):
            mode = {"e_tag": onto.etag} | ({} if onto.version is None else {"version": onto.version})
        lost = False

        def ask() -> Seen | None:
            nonlocal lost
            try:
                result = obstore.put(
                    self._store(n_bytes=len(content)),
                    path,
                    content,
                    mode=mode,
                    use_multipart=None if onto is True else False,
                    chunk_size=_PART_BYTES,
                )
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                # An answer may have been lost of a try that was carried out: then what stands there is this.
                return self._own(path, content) if lost else None
            except FileNotFoundError:
                if isinstance(onto, Seen):
                    return None
                raise
            except Exception:
                lost = True
                raise
            return Seen(result["e_tag"] or "", len(content), result["e_tag"] is not None, result["version"])

        self.forget(path)
        try:
            return self._asked(path, ask, 1)
        except FileNotFoundError:
            raise StoreAccessError(
                f"{self.url_of(path)} cannot be written: there is no bucket or container of this name. Make it, or check the URL."
            ) from None

    def _own(self, path: str, content: memoryview | bytes) -> Seen | None:
        """What an object is, if it is this; read in parts, as it may be large."""
        seen: Seen | None = None
        with contextlib.suppress(FileNotFoundError, VersionError):
            for begin in range(0, len(content), _PART_BYTES):
                body = self.get(path, begin, begin + _PART_BYTES, seen)
                seen = body.seen
                if seen.size != len(content) or body.content != content[begin : begin + _PART_BYTES]:
                    return None
            return seen
        return None

    def delete(self, path: str) -> None:
        """Remove an object; nothing if there is none."""
        import obstore

        def ask() -> None:
            try:
                obstore.delete(self._store(), path)
            except FileNotFoundError:
                return

        self.forget(path)
        self._asked(path, ask, 1)

    def _asked[T](self, path: str, ask: Callable[[], T], missing_tries: int) -> T:
        return asked(self.url_of(path), ask, missing_tries=missing_tries, options=self.options)

    def _store(self, *, n_bytes: int = 0) -> Any:
        """The client of this process for reads, and for writes of so many bytes, which is made when it is first needed."""
        check_process(self.root)
        parts = 0 if n_bytes <= _SMALL_BYTES else max(_LEAST_PARTS, 1 << (n_bytes // _PART_BYTES).bit_length())
        key = os.getpid(), parts
        if key not in self._stores:
            self._stores[key] = self._make_store(parts, {"max_retries": 0})
        return self._stores[key]

    def _make_store(self, parts: int, again: Any) -> Any:
        import obstore.store

        client: Any = self.options.client
        client.setdefault("timeout", parts * _LONGEST_PART if parts else _LONGEST_READ)
        if not parts:
            client.setdefault("read_timeout", _SILENCE)
        if self.root.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
            client.setdefault("allow_http", True)
        config: Any = self.options.config
        extra: Any = self.options.extra
        scheme, _, place = self.root.partition("://")
        host, slash, path = place.partition("/")
        try:
            return obstore.store.from_url(
                f"{scheme}://{host}{slash}{quote(path)}",
                config=config,
                client_options=client,
                retry_config=again,
                **extra,
            )
        except BaseException as error:  # a panic of its runtime is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise OptionError(
                f"No store can be made of {self.root} with the options {sorted(self.options.given)} ({told_of(error, self.options)}). "
                f"Give those of obstore for this kind of store, such as {self.options.usual(self.root)}."
            ) from None


@cache
def _client_process() -> int:
    """The process in which a client was made first: its threads do not survive a fork, and who waits for them hangs."""
    return os.getpid()


def check_process(place: str) -> None:
    """Refuse to go on in a process where a client would wait for ever.

    Raises
    ------
    StoreUnreachableError
    """
    if _client_process() != os.getpid():
        raise StoreUnreachableError(
            f"{place} cannot be read in a process that was forked after its parent had used an object store. "
            "Start processes with 'spawn' or 'forkserver'."
        )


def _seen_of(meta: Any) -> Seen:
    etag = meta["e_tag"]
    if etag is None:
        return Seen(f"{meta['last_modified']} {meta['size']}", meta["size"], False)
    # A weak one is not compared by servers, but tells as much.
    return Seen(etag, meta["size"], not etag.startswith("W/"), meta["version"])
