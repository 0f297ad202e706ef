"""How are rows read from a store, or from an array of a group of stores?

A store is a folder, local or in an object store, that holds one plain Zarr v3 array: ``zarr.json`` and shards ``c.0.0``,
``c.1.0``, ... Its committed length is ``shape[0]`` in ``zarr.json``. A group is a folder of stores with one ``zarr.json`` above
them, which says how long they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.committing import read_committed
from swath.decoder import BloscStep, Crc32c, Decoder
from swath.encoded import ChunkReader, EncodedReader, Entries
from swath.errors import DamagedStoreError, FormatError, StoreChangedError
from swath.layout import Layout
from swath.metadata import (
    METADATA,
    Facts,
    attributes_of_others,
    decode_beside,
    decode_group,
    decode_metadata,
    is_group,
    is_ours,
    shard_key,
)
from swath.plan import Reach
from swath.raw import RawReader
from swath.rows import Access
from swath.shard import MEND, NO_CHUNK, IndexCache, ShardIndex, index_entries
from swath.stamps import Stamps, Version
from swath.storage import File, Folder, Gate, LocalFolder, Scratch, VersionError, away, begun
from swath.windows import IntArray


@dataclass(frozen=True, slots=True)
class Store:
    """A store as it was when it was opened. Pickles small; each process opens files of its own."""

    folder: Folder
    encoded: bytes
    """``zarr.json`` as it was; of an array of a group, that of the group."""
    member: str
    """The name in the group; empty for a store by itself."""
    facts: Facts
    """What the metadata say."""
    indexes: IndexCache
    stamps: Stamps
    """Where no index is read."""
    gate: Gate | None = field(default=None, compare=False, repr=False)
    """Of a thread that may be left behind."""

    is_store = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_store, (self.folder, self.encoded, self.member, self.window)

    @property
    def layout(self) -> Layout:
        """How rows lie in chunks and shards."""
        return self.facts.layout

    @property
    def window(self) -> int:
        """Rows of a window, unless a call says otherwise."""
        return self.facts.window

    @property
    def segments(self) -> tuple[int, ...]:
        """Rows of each segment."""
        return self.facts.segments

    @property
    def url(self) -> str:
        """The folder."""
        return self.folder.url

    @property
    def reason(self) -> str:
        """Why the layout is what it is."""
        return self.facts.reason

    @property
    def attributes(self) -> dict[str, Any]:
        """What others have said of it, as they would read it."""
        own = decode_group(self.encoded, self.home.url)[self.member] if self.member else self.encoded
        return attributes_of_others(own)

    @property
    def version(self) -> str:
        """Of the metadata, which name the source and its version."""
        return repr(self.facts)

    def check_writable(self) -> None:
        """Refuse a copy of an object store whose shards lie in folders: files are written into one folder, and moved from it.

        Raises
        ------
        FormatError
        """
        if self.layout.separator == "/" and isinstance(self.folder, LocalFolder):
            raise FormatError(
                f"{self.url} is a copy of an object store that was overwritten, whose shards lie in folders: here it can only be read. "
                "Write to the object store, or ingest the copy into another place."
            )

    def check_unchanged(self) -> None:
        """Refuse what was read meanwhile, if another store has taken this one's place since it was opened.

        Rows that were appended change nothing: these are the rows as they were.

        Raises
        ------
        StoreChangedError
        """
        home = self.home
        for _ in range(self.reach.tries):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, FormatError):
                now = home.read_again(METADATA, self.encoded)
                if now == self.encoded or self.facts.is_continued_by(_facts(home, now, self.member)):
                    return
        raise StoreChangedError(
            f"The store at {self.url} was replaced or removed since it was opened, or its {home.url}/{METADATA} is "
            "damaged. Open it again."
        )

    def own_metadata(self) -> bytes:
        """The ``zarr.json`` beside the shards, which for an array of a group is for other programs; empty if unreadable."""
        with contextlib.suppress(OSError, FormatError):
            encoded = self.folder.read(METADATA)
            decode_metadata(encoded, self.url)
            return encoded
        return b""

    def recipe(self) -> tuple[Any, ...]:
        """What opens this version of the store elsewhere, also where rows have been appended since.

        The metadata themselves may name a hundred thousand files that were ingested.
        """
        facts = self.facts
        n_sources, n_rows, identity = len(facts.sources), facts.layout.n_rows, facts.history[-1]
        return _open_version, self.home, self.member, self.window, n_sources, n_rows, identity

    def reopened(self) -> Store:
        """The store as it is now."""
        home, encoded = read_committed(self.home.anew())  # an append has replaced the last shard
        return _make_store(home.within(self.member), encoded, self.member, self.window)

    @property
    def home(self) -> Folder:
        """The folder whose ``zarr.json`` says how many rows there are."""
        return self.folder.above() if self.member else self.folder

    @property
    def reach(self) -> Reach:
        """What a request costs."""
        return self.folder.reach

    def through(self, gate: Gate) -> Store:
        """The same for threads that may be left behind."""
        return replace(self, folder=self.folder.through(gate), gate=gate)

    def find(self, shard: int) -> None:
        """Read the index of a shard, unless it is known."""
        with self.open_shard(shard) as file:
            self.indexes.get(file, self.facts.stamp(shard))

    def reader(self, shard: int, access: Access, scratch: Scratch) -> AbstractContextManager[RawReader | ChunkReader]:
        """What reads the chunks of one shard."""
        if self.layout.codec == "raw":
            return (self._far_raw_reader if self.reach.pins_versions else self._raw_reader)(shard, access, scratch)
        decoder = _decoder(self.layout)
        chosen = decoder if access.verify else decoder.without_checks()
        return EncodedReader(
            self,
            chosen,
            self.layout,
            access.tiles,
            scratch,
            direct=access.direct,
            reach=self.reach,
            places=self._places,
        )

    @contextlib.contextmanager
    def _raw_reader(self, shard: int, access: Access, scratch: Scratch) -> Iterator[RawReader]:
        # As `open_shard` does it, and not by it: of 32 small windows each may come here, and a generator more takes 3 us of 75.
        try:
            with self.folder.open(shard_key(self.layout, shard), scratch if access.direct else None) as file:
                index = self.indexes.get(file, self.facts.stamp(shard))
                yield self._raw_rows(file, shard, access, scratch, index)
        except FileNotFoundError:
            raise self._missing(shard) from None

    @contextlib.contextmanager
    def _far_raw_reader(self, shard: int, access: Access, scratch: Scratch) -> Iterator[RawReader]:
        """As `_raw_reader`, with a stamp instead of the index, and no round trip for it: rows are asked for beside it.

        That they are those of the shard is known when both are there, and of one version.
        """
        with self.open_shard(shard) as file:
            rows = self._raw_rows(file, shard, access, scratch, None)
            if self.stamps.has_met(file, shard):
                yield rows
                return
            asked = self.stamps.asking(shard, partial(self._ask_stamp, shard))
            try:
                yield rows
            except (DamagedStoreError, VersionError):
                self._confirm(file, asked)  # what is wrong with the whole shard says more
                raise
            self._confirm(file, asked)

    def _raw_rows(
        self, file: File, shard: int, access: Access, scratch: Scratch, index: ShardIndex | None
    ) -> RawReader:
        return RawReader(
            file,
            self.layout,
            shard,
            scratch,
            offset=self.layout.head_bytes,
            index=index,
            verify=access.verify,
            reach=self.reach,
        )

    def _ask_stamp(self, shard: int) -> Version:
        """In a thread that touches nothing of the caller's, and may be left behind: no gate is shut for it."""
        with self.through(Gate(1)).open_shard(shard) as file:
            return self.stamps.check(file, self.facts.stamp(shard))

    def _confirm(self, file: File, asked: Future[Version]) -> None:
        with away(self.gate):
            version = asked.result()
        if version != file.version:
            raise VersionError(f"{file.path} was replaced while it was read. Open it again.")

    @contextlib.contextmanager
    def open_shard(self, shard: int) -> Iterator[File]:
        """The file of one shard.

        Raises
        ------
        DamagedStoreError
            It is missing.
        """
        try:
            with self.folder.open(shard_key(self.layout, shard)) as file:
                yield file
        except FileNotFoundError:
            raise self._missing(shard) from None

    def _missing(self, shard: int) -> DamagedStoreError:
        a, b = self.layout.rows_of(shard)
        return DamagedStoreError(f"{self.url}/{shard_key(self.layout, shard)} (rows {a} to {b - 1}) is missing. {MEND}")

    def damaged(self, file: File, chunk: int, what: str) -> DamagedStoreError:
        """The error that names a chunk."""
        return DamagedStoreError(f"{file.path}: {self.layout.describe_chunk(chunk)} {what}. {MEND}")

    def key(self, chunk: int, tile: int) -> str:
        """The shard that holds a chunk."""
        return shard_key(self.layout, chunk // self.layout.shard_chunks)

    def entries(self, file: File, first: int, stop: int, tile: int) -> Entries:
        """Where chunks of one shard lie."""
        shard, begin = divmod(first, self.layout.shard_chunks)
        index = self.indexes.get(file, self.facts.stamp(shard))
        if index.n_regular < begin + stop - first:
            k = max(begin, index.n_regular)
            missing = index.offsets[k] == NO_CHUNK
            raise self.damaged(
                file,
                shard * self.layout.shard_chunks + k,
                "is missing" if missing else "does not lie where swath writes it",
            )
        return index_entries(index, slice(begin, begin + stop - first))

    def _places(self, file: File, chunks: IntArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]] | None:
        """Where many chunks of one shard lie, unless one of them is missing."""
        shard = int(chunks[0]) // self.layout.shard_chunks
        index = self.indexes.get(file, self.facts.stamp(shard))
        inside = chunks - shard * self.layout.shard_chunks
        if inside.max() >= index.n_regular:
            return None
        return index.offsets[inside], index.lengths[inside]

    def is_cached(self, chunk: int) -> bool:
        """Whether a chunk's first byte is in the page cache."""
        shard, k = divmod(chunk, self.layout.shard_chunks)
        with self.open_shard(shard) as file:
            index = self.indexes.get(file, self.facts.stamp(shard))
            return file.is_cached(min(int(index.offsets[k]), max(0, file.size - 1)))


def _make_store(folder: Folder, encoded: bytes, member: str, window: int | None) -> Store:
    facts = _facts(folder.above() if member else folder, encoded, member)
    if window is not None:
        facts = replace(facts, window=window)
    layout = facts.layout
    indexes = IndexCache(layout.index_bytes, raw_chunk_bytes=layout.chunk_bytes if layout.codec == "raw" else 0)
    return Store(folder, encoded, member, facts, indexes, Stamps(layout.index_bytes))


def _open_version(home: Folder, member: str, window: int, n_sources: int, n_rows: int, identity: bytes) -> Store:
    """The store as it was after so many sources.

    Raises
    ------
    StoreChangedError
        Another has taken its place.
    """
    home, encoded = read_committed(home)
    store = _make_store(home.within(member), encoded, member, window)
    facts = store.facts.after(n_sources)
    if facts.layout.n_rows != n_rows or facts.history[-1] != identity:
        raise StoreChangedError(
            f"The store at {store.url} was replaced since these windows were chosen. Open it again."
        )
    return replace(store, facts=facts)


def _facts(home: Folder, encoded: bytes, member: str) -> Facts:
    if not member:
        return decode_metadata(encoded, home.url)
    members = decode_group(encoded, home.url)
    if member not in members:
        raise FormatError(f"{home.url}/{METADATA} names no array {member!r}. Restore the file.")
    return decode_metadata(members[member], home.within(member).url)


def _decoder(layout: Layout) -> Decoder:
    shape = (layout.chunk_rows, *layout.row_shape)
    return Decoder(shape, layout.dtype, layout.dtype, (Crc32c(), BloscStep()))


def open_store(folder: Folder, window: int | None = None) -> Store:
    """Open the committed store in a folder, for windows of so many rows, or as it says.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, FormatError
    """
    above = asking_above(folder)
    home, encoded = read_committed(folder)
    return store_of(home, encoded, above, window)


def store_of(folder: Folder, encoded: bytes, above: Callable[[Folder], bytes], window: int | None = None) -> Store:
    """The store whose ``zarr.json`` was just read; ``above`` gives what `group_above` does.

    Raises
    ------
    FormatError
        It is that of a group, or damaged.
    """
    if is_ours(encoded) and is_group(encoded):
        names = ", ".join(decode_group(encoded, folder.url))
        raise FormatError(
            f"{folder.url} is a group of arrays ({names}). Open it with swath.open_group, or one of its arrays."
        )
    group = above(folder)
    return _make_store(folder, group or encoded, folder.name if group else "", window)


def asking_above(folder: Folder) -> Callable[[Folder], bytes]:
    """`group_above`; of what is far away it is asked from now on, while the caller reads the ``zarr.json`` of the folder itself."""
    if not folder.reach.is_remote:
        return group_above
    answer = begun(partial(group_above, folder))
    return lambda _: answer()


def group_above(folder: Folder) -> bytes:
    """The ``zarr.json`` of the group that a folder holds an array of, which says how long it is; empty where it does not.

    Raises
    ------
    FormatError
        It is that of a group, but damaged.
    """
    above = folder.above()
    try:
        encoded = above.read_if_there(METADATA)
    except (PermissionError, DamagedStoreError):  # nothing that could be read, or of a size that ours never has
        return b""
    is_member = is_ours(encoded) and is_group(encoded) and folder.name in decode_group(encoded, above.url)
    return encoded if is_member else b""


def open_members(folder: Folder) -> tuple[dict[str, Store], dict[str, Store]]:
    """Open the arrays of the committed group in a folder: those that go by its rows, and those beside them, such as names of columns.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, FormatError
    """
    home, encoded = read_committed(folder)
    if not is_group(encoded):
        raise FormatError(
            f"{home.url}/{METADATA} is not that of a group that swath wrote. Open {home.url} with swath.open."
        )
    names = decode_group(encoded, home.url)  # finds what is wrong with the metadata
    beside = decode_beside(encoded)
    stores = {name: _make_store(home.within(name), encoded, name, None) for name in names}
    return (
        {name: store for name, store in stores.items() if name not in beside},
        {name: store for name, store in stores.items() if name in beside},
    )
