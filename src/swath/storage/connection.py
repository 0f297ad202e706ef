"""How is an object store asked, and what is done when it does not answer as it should?

A request that fails is made again, after a pause that doubles and is drawn at random, until one deadline for all of its tries. What
comes is measured: a body of another length or from another place than was asked for is no answer. What cannot become better, such
as refused credentials, is an error at once. No message has what a server or a library wrote but with all secrets struck out.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote

from swath.errors import (
    DiskFullError,
    OptionError,
    StoreAccessError,
    StoreChangedError,
    StoreUnreachableError,
)
from swath.storage.gate import interruptible

# One request with all its tries.
_DEADLINE_SECONDS = 120.0
_FIRST_PAUSE_SECONDS = 0.05
_MOST_PAUSE_SECONDS = 5.0

# Where nobody listens, or no such name is known, waiting helps less.
_NOBODY_SECONDS = 15.0
_NOBODY = re.compile("(?i)dns error|connection refused|tcp connect error")

# A proxy may refuse once what it lets pass the next time. Where no credentials are found, those of a virtual machine are asked for.
_REFUSED_TRIES = 2
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal")

# What a server says once may be a fault on the way; one that says it so often cannot do what is asked of it. A redirect tells of a
# bucket in another region.
_UNABLE_TRIES = 6
_UNABLE = re.compile("redirect|Content-Length Header missing|Range request not supported")

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

# What may travel to other processes, and be seen. All else may be a secret: processes find theirs in their environment.
_PUBLIC = re.compile(
    "region|endpoint|endpoint_url|bucket|virtual_hosted_style_request|skip_signature|unsigned_payload|request_payer|account_name|"
    "container_name|use_emulator|conditional_put|base_url|proxy_url|user_agent|allow_.*|.*timeout"
)
_CLIENT = re.compile("allow_.*|.*timeout|proxy_.*|user_agent|http[12]_.*|pool_.*|default_(headers|content_type)")
_PREFIXES = ("aws_", "azure_storage_", "azure_", "google_")


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
class _Options:
    """Options of a user, some of them secret."""

    given: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<{len(self.given)} options>"

    @property
    def public(self) -> tuple[tuple[str, Any], ...]:
        """Those that anybody may see: no URL with a password in it."""
        return tuple(sorted((k, v) for k, v in self.given.items() if _is_public(k, v)))

    def redacted(self, text: str) -> str:
        """A text without what is secret."""
        own = [v for k, v in self.given.items() if not _is_public(k, v)]
        environment = [v for k, v in os.environ.items() if re.search("KEY|SECRET|TOKEN|SAS|PASSWORD|CREDENTIAL", k)]
        for value in filter(lambda v: isinstance(v, str) and len(v) > 3, [*own, *environment]):
            text = text.replace(value, "***")
        text = re.sub(r"://[^/@\s]*@", "://***@", text)
        return re.sub(r"(?i)(sig|signature|token|key|credential)=[^&\s\"]+", r"\1=***", text)


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A root in an object store, and how it is asked. Another process that gets it finds credentials in its own environment."""

    root: str
    """Such as ``s3://bucket/folder``."""
    options: _Options
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
        connection = cls(root, _Options(dict(options or {})))
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
        again: Any = {"max_retries": _CLIENT_TRIES, "retry_timeout": timedelta(seconds=_DEADLINE_SECONDS)}
        check_process(self.root)
        return self._make_store(0, again)

    def url_of(self, path: str) -> str:
        """An object, as messages name it."""
        return f"{self.root}/{path}"

    def seen(self, path: str) -> Seen | None:
        """The object as it was met last."""
        return self._seen.get(path)

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
                if end is None or _status(str(error)) != "416":
                    raise
                # Nothing is there from this byte on, such as of an object that is empty.
                now = _seen_of(obstore.head(self._store(), path))
                if begin < now.size:
                    raise
                return Body(memoryview(b""), now)
            wanted = (begin, now.size if end is None else min(end, now.size))
            if (a, b) != wanted or len(content) != b - a:
                raise _NoAnswerError(f"bytes {a} to {b} ({len(content)}) came for {wanted[0]} to {wanted[1]}")
            return Body(content, now)

        body = self._asked(path, ask, missing_tries=_MISSING_TRIES)
        if seen is None:
            while len(self._seen) >= _MOST_SEEN:
                self._seen.pop(next(iter(tuple(self._seen))), None)
            self._seen[path] = body.seen
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
                raise _NoAnswerError(f"{len(content)} bytes came of {meta['size']}")
            return _seen_of(meta), content

        answer = self._asked(path, ask, missing_tries=tries)
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

        return self._asked(path, lambda: _seen_of(obstore.head(self._store(), path)), missing_tries=1)

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
            return self._asked(path, ask, missing_tries=1)
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
        self._asked(path, ask, missing_tries=1)

    def _asked[T](self, path: str, ask: Callable[[], T], *, missing_tries: int) -> T:
        """The answer to a request, which is made again while that may help."""
        import obstore

        begun = time.monotonic()
        pause = _FIRST_PAUSE_SECONDS
        tries = 0
        while True:
            tries += 1
            try:
                return interruptible(ask)
            except FileNotFoundError:
                if tries >= missing_tries:
                    raise FileNotFoundError(f"There is no {self.url_of(path)}") from None
            except (obstore.exceptions.BaseError, _NoAnswerError) as error:
                text, told = str(error), self._told(error)
                if _is_full(text):
                    raise DiskFullError(f"There is no room for {self.url_of(path)} ({told}). Make room.") from None
                if tries >= (
                    _REFUSED_TRIES if _is_refused(error, text) else _UNABLE_TRIES if _UNABLE.search(text) else math.inf
                ):
                    raise StoreAccessError(
                        f"{self.url_of(path)} is refused ({told}). Check credentials, region and endpoint, in the environment or in storage_options."
                    ) from None
                most = _NOBODY_SECONDS if _NOBODY.search(text) else _DEADLINE_SECONDS
                if time.monotonic() + pause > begun + most:
                    raise StoreUnreachableError(
                        f"{self.url_of(path)} gave no sound answer to {tries} tries in {most:.0f} s ({told}). "
                        "Check the network and the server, and call again."
                    ) from None
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)

    def _told(self, error: BaseException) -> str:
        """The first line of an error, and what a status says, without secrets."""
        text = str(error)
        status, first = _status(text), text.partition("\n")[0][:300]
        return self.options.redacted(first if status in first else f"{first}, HTTP {status}")

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

        given = self.options.given
        client: Any = {k: v for k, v in given.items() if _CLIENT.fullmatch(k)}
        client.setdefault("timeout", parts * _LONGEST_PART if parts else _LONGEST_READ)
        if not parts:
            client.setdefault("read_timeout", _SILENCE)
        if self.root.startswith("http://"):
            client["allow_http"] = True
        config: Any = {k: v for k, v in given.items() if not _CLIENT.fullmatch(k) and k != "credential_provider"}
        extra: Any = {k: v for k, v in given.items() if k == "credential_provider"}
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
                f"No store can be made of {self.root} with the options {sorted(given)} ({self._told(error)}). "
                "Give those of obstore for this kind of store."
            ) from None


def _is_refused(error: BaseException, text: str) -> bool:
    """Whether asking again will not help."""
    import obstore

    kinds = obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError
    status = _status(text)
    again = status in ("408", "409", "416", "425", "429")
    return (
        isinstance(error, kinds) or (status.startswith("4") and not again) or _NO_CREDENTIALS.search(text) is not None
    )


def _is_full(text: str) -> bool:
    return _status(text) == "507" or re.search("InsufficientStorage|QuotaExceeded", text) is not None


def _status(text: str) -> str:
    """Of an answer, in the text of an error: other numbers in it are of keys, ports and times."""
    status = re.search(r"status(?: code)?: (\d{3})", text)
    return "" if status is None else status[1]


class _NoAnswerError(Exception):
    """What came is not what was asked for."""


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


def _is_public(key: str, value: Any) -> bool:
    return _PUBLIC.fullmatch(_bare(key)) is not None and "@" not in str(value)


def _bare(key: str) -> str:
    key = key.lower()
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key
