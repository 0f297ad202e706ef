"""What a gather needs of an array on disk, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from swath.encoded import ChunkReader
from swath.layout import Layout
from swath.plan import Reach
from swath.raw import RawReader
from swath.storage import Gate, Scratch


@dataclass(frozen=True, slots=True)
class Access:
    """How a gather reads."""

    verify: bool
    """Compare chunks with their checksums."""
    direct: bool
    """Pass by the page cache."""
    tiles: Sequence[int]
    """Which chunks of a row are read (see `swath.layout.Tiles`)."""


class Rows(Protocol):
    """An array of rows on disk, as it was when it was opened. It holds no open file, pickles, and survives a fork."""

    @property
    def layout(self) -> Layout:
        """How rows lie in chunks and files."""
        ...

    @property
    def window(self) -> int:
        """Rows of a window, unless a call says otherwise."""
        ...

    @property
    def segments(self) -> tuple[int, ...]:
        """Rows of each recording, file or episode, in order."""
        ...

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    @property
    def reason(self) -> str:
        """Why the layout is what it is."""
        ...

    @property
    def version(self) -> str:
        """Another text means other bytes."""
        ...

    @property
    def is_store(self) -> bool:
        """Whether swath wrote it, for windows."""
        ...

    def reader(self, shard: int, access: Access, scratch: Scratch) -> AbstractContextManager[RawReader | ChunkReader]:
        """What reads the chunks of one file, or of one row of files. One thread at a time.

        Raises
        ------
        DamagedStoreError
            The file is missing, or its index is damaged.
        """
        ...

    @property
    def reach(self) -> Reach:
        """What a request costs where they are."""
        ...

    def through(self, gate: Gate) -> Rows:
        """The same for threads that shall not go on once the gate is shut."""
        ...

    def find(self, shard: int) -> None:
        """Learn where the chunks of a shard lie, if that takes a request; errors as of `reader`."""
        ...

    def is_cached(self, chunk: int) -> bool:
        """Whether the first byte of a chunk is in the page cache; True where nobody can say."""
        ...

    def recipe(self) -> tuple[Any, ...]:
        """What opens the same rows in another process: a function and its arguments, all hashable and few bytes.

        It raises `StoreChangedError` where these rows are no more.
        """
        ...

    def reopened(self) -> Rows:
        """What is there now, for the same windows.

        Raises
        ------
        StoreError, SourceError
        """
        ...

    def check_unchanged(self) -> None:
        """Refuse what was read meanwhile, if other bytes have taken the place of these since they were opened.

        Raises
        ------
        StoreChangedError
        """
        ...
