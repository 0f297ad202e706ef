"""What the layers above need of the place where bytes live, be it a local folder or a part of an object store."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from swath.plan import Reach
from swath.storage.gate import Gate
from swath.storage.local import Buffer, Scratch


class File(Protocol):
    """A file, or an object, that is read at random places. Threads may share it."""

    @property
    def path(self) -> str:
        """How messages name it."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    @property
    def version(self) -> tuple[Any, ...]:
        """Another version means other bytes; empty before the first read of what is far away."""
        ...

    def read_into(self, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        """Fill ``buffers``, of ``n_bytes`` together, in order from ``offset``; return how many bytes there were."""
        ...

    def recall(self) -> None:
        """Read the version that any process of this machine met last: whoever calls this finds out by its bytes if it will do."""
        ...

    def load(self) -> int:
        """Its size. What is far away is fetched whole, since it is going to be read."""
        ...

    def announce(self, offset: int, n_bytes: int) -> None:
        """These bytes are going to be read; what is far away is not asked for twice."""
        ...

    def read_ahead(self) -> None:
        """It is read from its first byte to its last."""
        ...

    def is_cached(self, offset: int) -> bool:
        """Whether what lies at ``offset`` is in memory."""
        ...

    def mapped(self, n_bytes: int) -> mmap.mmap | None:
        """Its first bytes, in the address space; None where that cannot be."""
        ...


class Folder(Protocol):
    """Files, or objects, each named by a key: its path within the folder. It pickles, and holds nothing open."""

    @property
    def url(self) -> str:
        """Where it is, as messages say."""
        ...

    @property
    def reach(self) -> Reach:
        """What a request costs."""
        ...

    def within(self, name: str) -> Folder:
        """A folder in this one; for an empty name this one."""
        ...

    def above(self) -> Folder:
        """The folder that this one is in."""
        ...

    @property
    def name(self) -> str:
        """Its key in the folder above."""
        ...

    def through(self, gate: Gate) -> Folder:
        """The same for threads that shall not go on once the gate is shut."""
        ...

    def anew(self) -> Folder:
        """The same, of which nothing was met yet."""
        ...

    def origin(self) -> Folder:
        """The same as it is where it is, and not as it is kept on this machine."""
        ...

    def open(self, key: str, direct: Scratch | None = None) -> AbstractContextManager[File]:
        """Open one file for reads at random places. What is not there is a `FileNotFoundError` here, or when it is read."""
        ...

    def read(self, key: str) -> bytes:
        """All of a small file, or a `FileNotFoundError`."""
        ...

    def read_if_there(self, key: str) -> bytes:
        """The same; empty if it is not there."""
        ...

    def read_again(self, key: str, before: bytes) -> bytes:
        """The same; ``before`` is what it was, which need not be transferred again where it has not changed."""
        ...

    def has(self, key: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def put(self, key: str, buffers: Sequence[Buffer]) -> None:
        """Write one file: it appears under its name only when all its bytes are safe."""
        ...

    def make(self) -> None:
        """Make it ready to be written to."""
        ...

    def sync(self) -> None:
        """Make the names of files as safe as their bytes."""
        ...

    def remove_temporaries(self) -> None:
        """Remove what killed writers left."""
        ...
