"""How are rows read from a store, or from an array of a group of stores?

A store is a folder that holds one plain Zarr v3 array: ``zarr.json`` and shards ``c.0.0``, ``c.1.0``, ... Its committed length
is ``shape[0]`` in ``zarr.json``. A group is a folder of stores with one ``zarr.json`` above them, which says how long they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swath.commit import local_path, part_of, retired_of
from swath.decoder import BloscStep, Crc32c, Decoder
from swath.encoded import ChunkReader, EncodedReader, Entries
from swath.errors import DamagedStoreError, FormatError, IncompleteStoreError, StoreChangedError, StoreNotFoundError
from swath.layout import Layout
from swath.metadata import METADATA, Facts, decode_group, decode_metadata, is_group, is_ours, shard_key
from swath.raw import RawReader
from swath.rows import Access
from swath.shard import MEND, IndexCache, index_entries
from swath.storage import LocalFile, LocalFolder, Scratch


@dataclass(frozen=True, slots=True)
class Store:
    """A store as it was when it was opened. Pickles small; each process opens files of its own."""

    folder: LocalFolder
    encoded: bytes
    """``zarr.json`` as it was; of an array of a group, that of the group."""
    member: str
    """The name in the group; empty for a store by itself."""
    facts: Facts
    """What the metadata say."""
    indexes: IndexCache

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
        return str(self.folder.path)

    @property
    def reason(self) -> str:
        """Why the layout is what it is."""
        return self.facts.reason

    @property
    def version(self) -> str:
        """Of the metadata, which name the source and its version."""
        return repr(self.facts)

    def check_unchanged(self) -> None:
        """Refuse what was read meanwhile, if another store has taken this one's place since it was opened.

        Rows that were appended change nothing: these are the rows as they were.

        Raises
        ------
        StoreChangedError
        """
        home = self.home
        with contextlib.suppress(OSError, FormatError):
            now = (home / METADATA).read_bytes()
            if now == self.encoded or self.facts.is_continued_by(_facts(home, now, self.member)):
                return
        raise StoreChangedError(
            f"The store at {self.folder.path} was replaced or removed since it was opened, or its {home / METADATA} is "
            "damaged. Open it again."
        )

    def own_metadata(self) -> bytes:
        """The ``zarr.json`` beside the shards, which for an array of a group is for other programs; empty if unreadable."""
        with contextlib.suppress(OSError, FormatError):
            encoded = (self.folder.path / METADATA).read_bytes()
            decode_metadata(encoded, self.folder.path)
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
        path, encoded = read_metadata(self.home)
        return _make_store(LocalFolder(path / self.member), encoded, self.member, self.window)

    @property
    def home(self) -> Path:
        """The folder whose ``zarr.json`` says how many rows there are."""
        return self.folder.path.parent if self.member else self.folder.path

    @contextlib.contextmanager
    def reader(self, shard: int, access: Access, scratch: Scratch) -> Iterator[RawReader | ChunkReader]:
        """What reads the chunks of one shard."""
        if self.layout.codec == "raw":
            with self.open_shard(shard, scratch if access.direct else None) as file:
                index = self.indexes.get(file, self.facts.stamp(shard))
                offset = self.layout.head_bytes
                yield RawReader(file, self.layout, shard, scratch, offset=offset, index=index, verify=access.verify)
        else:
            decoder = _decoder(self.layout)
            chosen = decoder if access.verify else decoder.without_checks()
            with EncodedReader(self, chosen, self.layout, access.tiles, scratch, direct=access.direct) as reader:
                yield reader

    @contextlib.contextmanager
    def open_shard(self, shard: int, direct: Scratch | None = None) -> Iterator[LocalFile]:
        """The file of one shard.

        Raises
        ------
        DamagedStoreError
            It is missing.
        """
        try:
            with self.folder.open(shard_key(self.layout, shard), direct) as file:
                yield file
        except FileNotFoundError:
            a, b = self.layout.rows_of(shard)
            missing = self.folder.path / shard_key(self.layout, shard)
            raise DamagedStoreError(f"{missing} (rows {a} to {b - 1}) is missing. {MEND}") from None

    def damaged(self, file: LocalFile, chunk: int, what: str) -> DamagedStoreError:
        """The error that names a chunk."""
        return DamagedStoreError(f"{file.path}: {self.layout.describe_chunk(chunk)} {what}. {MEND}")

    def key(self, chunk: int, tile: int) -> str:
        """The shard that holds a chunk."""
        return shard_key(self.layout, chunk // self.layout.shard_chunks)

    def entries(self, file: LocalFile, first: int, stop: int, tile: int) -> Entries:
        """Where chunks of one shard lie."""
        shard, begin = divmod(first, self.layout.shard_chunks)
        index = self.indexes.get(file, self.facts.stamp(shard))
        return index_entries(index, slice(begin, begin + stop - first))

    def is_cached(self, chunk: int) -> bool:
        """Whether a chunk's first byte is in the page cache."""
        shard, k = divmod(chunk, self.layout.shard_chunks)
        with self.open_shard(shard) as file:
            index = self.indexes.get(file, self.facts.stamp(shard))
            return file.is_cached(min(int(index.offsets[k]), max(0, file.size - 1)))


def _make_store(folder: LocalFolder, encoded: bytes, member: str, window: int | None) -> Store:
    facts = _facts(folder.path.parent if member else folder.path, encoded, member)
    if window is not None:
        facts = replace(facts, window=window)
    raw_chunk_bytes = facts.layout.chunk_bytes if facts.layout.codec == "raw" else 0
    return Store(folder, encoded, member, facts, IndexCache(facts.layout.index_bytes, raw_chunk_bytes=raw_chunk_bytes))


def _open_version(home: Path, member: str, window: int, n_sources: int, n_rows: int, identity: bytes) -> Store:
    """The store as it was after so many sources.

    Raises
    ------
    StoreChangedError
        Another has taken its place.
    """
    _, encoded = read_metadata(home)
    store = _make_store(LocalFolder(home / member), encoded, member, window)
    facts = store.facts.after(n_sources)
    if facts.layout.n_rows != n_rows or facts.history[-1] != identity:
        raise StoreChangedError(
            f"The store at {home / member} was replaced since these windows were chosen. Open it again."
        )
    return replace(store, facts=facts)


def _facts(home: Path, encoded: bytes, member: str) -> Facts:
    if not member:
        return decode_metadata(encoded, home)
    members = decode_group(encoded, home)
    if member not in members:
        raise FormatError(f"{home / METADATA} names no array {member!r}. Restore the file.")
    return decode_metadata(members[member], home / member)


def _decoder(layout: Layout) -> Decoder:
    shape = (layout.chunk_rows, *layout.row_shape)
    return Decoder(shape, layout.dtype, layout.dtype, (Crc32c(), BloscStep()))


def open_store(url: str | os.PathLike[str], window: int | None = None) -> Store:
    """Open the committed store at ``url``, for windows of so many rows, or as it says.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, FormatError
    """
    path, encoded = read_metadata(url)
    if is_ours(encoded) and is_group(encoded):
        names = ", ".join(decode_group(encoded, path))
        raise FormatError(
            f"{path} is a group of arrays ({names}). Open it with swath.open_group, or one of its arrays."
        )
    if group_above(path):
        return _make_store(LocalFolder(path), (path.parent / METADATA).read_bytes(), path.name, window)
    return _make_store(LocalFolder(path), encoded, "", window)


def group_above(path: Path) -> bool:
    """Whether a folder is that of an array of a group, whose ``zarr.json`` says how long it is.

    Raises
    ------
    FormatError
        It is that of a group, but damaged.
    """
    try:
        encoded = (path.parent / METADATA).read_bytes()
    except OSError:
        return False
    return is_ours(encoded) and is_group(encoded) and path.name in decode_group(encoded, path.parent)


def open_members(url: str | os.PathLike[str]) -> dict[str, Store]:
    """Open the arrays of the committed group at ``url``.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, FormatError
    """
    path, encoded = read_metadata(url)
    if not is_group(encoded):
        raise FormatError(f"{path / METADATA} is not that of a group that swath wrote. Open {path} with swath.open.")
    return {name: _make_store(LocalFolder(path / name), encoded, name, None) for name in decode_group(encoded, path)}


def read_metadata(url: str | os.PathLike[str]) -> tuple[Path, bytes]:
    """The folder of what is committed at ``url``, and its ``zarr.json``.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError
    """
    path = local_path(url)
    # Between the two renames of `swath.commit.building`, where a kill may fall, the old one has another name; without a kill the
    # new one has come by the time that this one is gone.
    for place in (path, retired_of(path), path):
        if place == path or not path.exists():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return place, (place / METADATA).read_bytes()
    if part_of(path).exists():
        raise IncompleteStoreError(
            f"The ingest into {path} has not finished. Run the same ingest again: it carries on where it was."
        )
    raise StoreNotFoundError(f"There is no store at {path} (no {METADATA}). Check the path, or ingest into it first.")


def is_store(path: Path) -> bool:
    """Whether a folder holds metadata that swath wrote, damaged or not."""
    try:
        return is_ours((path / METADATA).read_bytes())
    except OSError:
        return False
