"""Where the stores of a test are: in a local folder, or in an object store on one of the servers.

A test of what holds in both does with a store what swath does not: it looks at the bytes that are there, and damages them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import obstore
from servers import CONDITIONAL, Server
from zarr.storage import ObjectStore as ZarrObjects

import swath
from swath.storage.connection import Connection

LOCAL = "local"
PLACES = (LOCAL, *CONDITIONAL)


class Place(Protocol):
    """What one store, or one group, is at. It pickles."""

    @property
    def kind(self) -> str:
        """One of `PLACES`."""
        ...

    @property
    def url(self) -> str:
        """For swath; what is in it is named in messages by this, a slash and its name."""
        ...

    @property
    def options(self) -> dict[str, Any] | None:
        """For swath: its ``storage_options``."""
        ...

    def for_zarr(self) -> Any:
        """For zarr-python, to read."""
        ...

    def beside(self, name: str) -> Place:
        """Another place of the same kind."""
        ...

    def names(self) -> set[str]:
        """Of all files, or objects, in it, and in what is in it."""
        ...

    def read(self, name: str) -> bytes:
        """What lies there; a `FileNotFoundError` if nothing does."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put bytes in the place of what lies there."""
        ...

    def remove(self, name: str) -> None:
        """Nothing lies there any more."""
        ...

    def swap(self, name: str, other: str) -> None:
        """What lies at each lies at the other."""
        ...

    def written(self) -> AbstractContextManager[set[str]]:
        """What this process has written, or removed, when the block has ended, were it the same bytes; of objects no leases."""
        ...


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder."""

    path: Path

    @property
    def kind(self) -> str:
        return LOCAL

    @property
    def url(self) -> str:
        return str(self.path)

    @property
    def options(self) -> dict[str, Any] | None:
        return None

    def for_zarr(self) -> Any:
        return self.path

    def beside(self, name: str) -> LocalPlace:
        return LocalPlace(self.path.with_name(name))

    def names(self) -> set[str]:
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()}

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def swap(self, name: str, other: str) -> None:
        a, b, between = self.path / name, self.path / other, self.path / "between"
        a.rename(between)
        b.rename(a)
        between.rename(b)

    @contextlib.contextmanager
    def written(self) -> Iterator[set[str]]:
        names: set[str] = set()
        before = self._versions()
        yield names
        after = self._versions()
        names |= {name for name in before | after if before.get(name) != after.get(name)}

    def _versions(self) -> dict[str, tuple[bytes, int, int]]:
        """Bytes, inode and time of each file: one that is written again has another inode."""
        stats = {name: (self.path / name).stat() for name in self.names()}
        return {name: (self.read(name), stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """Keys that begin alike."""

    server: Server
    prefix: str
    store: Any = field(compare=False, repr=False)
    """The server as obstore sees it."""

    @property
    def kind(self) -> str:
        return self.server.name

    @property
    def url(self) -> str:
        return f"{self.server.url}/{self.prefix}"

    @property
    def options(self) -> dict[str, Any] | None:
        return self.server.storage_options

    def for_zarr(self) -> Any:
        return ZarrObjects(self.server.store(self.prefix), read_only=True)

    def beside(self, name: str) -> ObjectPlace:
        return replace(self, prefix=f"{self.prefix.rpartition('/')[0]}/{name}")

    def names(self) -> set[str]:
        listed = obstore.list(self.store, f"{self.prefix}/").collect()
        return {each["path"].removeprefix(f"{self.prefix}/") for each in listed}

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self.store, f"{self.prefix}/{name}").bytes())

    def write(self, name: str, content: bytes) -> None:
        obstore.put(self.store, f"{self.prefix}/{name}", content, use_multipart=False)

    def remove(self, name: str) -> None:
        obstore.delete(self.store, f"{self.prefix}/{name}")

    def swap(self, name: str, other: str) -> None:
        first, second = self.read(name), self.read(other)
        self.write(name, second)
        self.write(other, first)

    @contextlib.contextmanager
    def written(self) -> Iterator[set[str]]:
        names: set[str] = set()
        with Writes() as writes:
            yield names
        within = {url.removeprefix(f"{self.url}/") for url in writes.urls if url.startswith(f"{self.url}/")}
        names |= {name for name in within if not is_hidden(name)}


class Writes:
    """Sees each object that this process writes or removes, one at a time, before it is asked for and after the answer."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.lock = threading.RLock()

    def before(self) -> None:
        """What may end the process, instead of the request for the last of the URLs."""

    def after(self) -> None:
        """The same, when it was carried out."""

    def __enter__(self) -> Self:
        self._real = {name: getattr(Connection, name) for name in ("put", "delete")}
        for name in self._real:
            setattr(Connection, name, self._seen(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(Connection, name, real)

    def _seen(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(connection: Connection, path: str, *arguments: Any, **options: Any) -> Any:
            with self.lock:
                self.urls.append(connection.url_of(path))
                self.before()
                answer = real(connection, path, *arguments, **options)
                self.after()
                return answer

        return call


class Killing(Writes):
    """The process is killed instead of one request that writes, or when the server has carried it out and before it is known."""

    def __init__(self, at: int, *, carried_out: bool) -> None:
        super().__init__()
        self.at, self.carried_out = at, carried_out

    def before(self) -> None:
        if len(self.urls) == self.at and not self.carried_out:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self) -> None:
        if len(self.urls) == self.at and self.carried_out:
            os.kill(os.getpid(), signal.SIGKILL)


def object_place(server: Server, prefix: str) -> ObjectPlace:
    """Keys of a server that begin so."""
    return ObjectPlace(server, prefix, server.store())


def is_hidden(name: str) -> bool:
    """Whether an object is none of a store, but says who writes it, or what was begun."""
    return name.rpartition("/")[2].startswith(".swath-")


def contents(place: Place) -> dict[str, bytes]:
    """All that is there; of objects no leases, and nothing of what was begun."""
    return {name: place.read(name) for name in place.names() if not is_hidden(name)}


def left(place: Place) -> list[str]:
    """What swath has left in a place, or beside it, for those who write next."""
    if isinstance(place, LocalPlace):
        return sorted(path.name for path in place.path.parent.iterdir() if ".swath-" in path.name)
    return sorted(filter(is_hidden, place.names()))


def put(place: Place, wanted: Mapping[str, bytes]) -> None:
    """Have these bytes there, and nothing else."""
    names = place.names()
    for name in names - wanted.keys():
        place.remove(name)
    for name, content in wanted.items():
        if name not in names or place.read(name) != content:
            place.write(name, content)


def flip(place: Place, name: str, bit: int) -> None:
    content = bytearray(place.read(name))
    content[bit // 8] ^= 1 << bit % 8
    place.write(name, bytes(content))


def open_store(place: Place, member: str = "") -> swath.RowArray:
    """What is there, or an array of the group that is."""
    return swath.open(f"{place.url}/{member}" if member else place.url, storage_options=place.options)


def open_group(place: Place) -> swath.RowGroup:
    return swath.open_group(place.url, storage_options=place.options)


def ingest(place: Place, rows: Any, **options: Any) -> swath.RowArray:
    return swath.ingest(rows, place.url, storage_options=place.options, **options)


def ingest_group(place: Place, rows: Mapping[str, Any], **options: Any) -> swath.RowGroup:
    return swath.ingest_group(rows, place.url, storage_options=place.options, **options)
