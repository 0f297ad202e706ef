"""Is every byte of a store as it was written, and is it what the source says?"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.checksum import crc32c, sound_runs
from swath.errors import DamagedStoreError, FormatError, MemoryLimitError, SourceError
from swath.gather import gather_now
from swath.layout import CRC_BYTES, Layout, field_bytes
from swath.memory import Room, format_bytes
from swath.metadata import METADATA, decode_metadata, shard_key
from swath.progress import progress_bar
from swath.shard import MEND, NO_CHUNK
from swath.sources import Source
from swath.storage import File, LocalFolder, Scratch, VersionError
from swath.store import Store

_log = logging.getLogger(__name__)

# One read of a shard from its first byte to its last: large enough for the disk, small enough for the cache of a core.
_BLOCK_BYTES = 2**21

# Rows that are compared with the source at once; beside them stand the stored ones, and what is different.
_COMPARED_BYTES = 2**23
_COPIES_COMPARED = 4

# As many shards at once keep a disk busy, with readahead in each (2.0 GB/s, cat 1.6); one keeps up with what is cached.
_THREADS = 4

# Shards that are told one by one where they are missing: metadata may tell of any number.
_MOST_MISSING = 100_000

# What a disk says of bytes that it cannot give back; any other error is not the store's.
_LOST = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA)


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong at one place of a store."""

    path: str
    """The file."""
    shard: int | None
    """None for the metadata of an array of a group."""
    rows: tuple[int, int]
    """Half-open range of rows of the array that cannot be read, or differ from the source."""
    what: str
    """The file, the chunk and what is wrong, as a reading call would say it."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of a whole store found; true if it found no damage."""

    url: str
    shards: int
    chunks: int
    n_bytes: int
    """Bytes of rows that were checked."""
    damages: tuple[Damage, ...]
    others: tuple[str, ...]
    """Files in the folder that nothing reads: of others, or left by a process that was killed. They are no damage."""

    def __bool__(self) -> bool:
        return not self.damages

    def __str__(self) -> str:
        checked = f"{self.url}: {_count(self.chunks, 'chunk')} in {_count(self.shards, 'shard')}, {format_bytes(self.n_bytes)}"
        bad = len({damage.path for damage in self.damages})
        lines = [f"{checked}: " + (f"damage in {_count(bad, 'file')}" if bad else "all sound")]
        lines += [f"  {damage.what}" for damage in self.damages]
        if self.others:
            lines.append(f"  not of the store, and not read: {', '.join(self.others)}")
        return "\n".join(lines)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def verify(store: Store, source: Source | None, limit: Room, progress: bool | None) -> Verification:
    """Compare every chunk of every shard with its checksum, and each row with a source, if there is one.

    Raises
    ------
    SourceError
        The source has another shape or dtype.
    MemoryLimitError
        The rows of one shard, which are compared with the source, do not fit in the limit.
    StoreChangedError
        Another store has taken this one's place.
    DamagedStoreError
        Nearly all of very many shards are missing.
    """
    store = replace(store, folder=store.folder.origin())
    layout = store.layout
    checker = _Checker(store)
    threads = max(1, min(_THREADS, layout.n_shards, limit.n_bytes // _BLOCK_BYTES))
    if source is not None:
        check_source(source, store)
        threads = 1 if source.in_order else min(threads, len(os.sched_getaffinity(0)) + 1)
        threads = min(threads, shards_at_once(layout, source, limit))

    def check(shard: int) -> list[Damage]:
        damages = checker.check(shard)
        start, stop = layout.rows_of(shard)
        if source is not None and not damages:
            damages = _differing(store, shard, source, limit)
        advance((stop - start) * layout.row_bytes)
        return damages

    if isinstance(store.folder, LocalFolder) and layout.n_shards > _MOST_MISSING:
        # Of keys that are joined by a slash all but the first part are folders: one a shard.
        held = (
            store.folder.path / shard_key(layout, 0).partition("/")[0] if layout.separator == "/" else store.folder.path
        )
        files = sum(1 for _ in os.scandir(held)) if held.is_dir() else 0
        if files + _MOST_MISSING < layout.n_shards:
            raise DamagedStoreError(
                f"{store.url} has {files} files, and its metadata tell of {layout.n_shards} shards. {MEND}"
            )
    with (
        progress_bar("verify", layout.n_rows * layout.row_bytes, progress) as advance,
        ThreadPoolExecutor(threads, thread_name_prefix="swath-verify") as pool,
    ):
        damages = [damage for each in pool.map(check, range(layout.n_shards)) for damage in each]
    store.check_unchanged()
    damages = [*_damaged_metadata(store), *damages]
    if damages:
        _log.warning("%s: damage in %d places, first: %s", store.url, len(damages), damages[0].what)
    n_bytes = layout.n_rows * layout.row_bytes
    return Verification(store.url, layout.n_shards, layout.n_chunks, n_bytes, tuple(damages), _others(store))


def check_source(source: Source, store: Store) -> None:
    """Refuse a source that cannot be what the store was made of.

    Raises
    ------
    SourceError
    """
    layout = store.layout
    if (source.shape, source.dtype) != (layout.shape, layout.dtype):
        raise SourceError(
            f"The source has shape {source.shape} and dtype {source.dtype}, but {store.url} has {layout.shape} and "
            f"{layout.dtype}. Give all that was ingested and appended, as a list if it was several."
        )


def shards_at_once(layout: Layout, source: Source, limit: Room, *, copies: int = 1) -> int:
    """Of how many shards the rows, in so many copies, may be compared with the source at once.

    Raises
    ------
    MemoryLimitError
        Not even of one.
    """
    shard = min(layout.shard_rows, layout.n_rows) * layout.row_bytes
    compared = min(max(_COMPARED_BYTES, layout.chunk_bytes), shard)
    needed = copies * shard + source.read_bytes + _COPIES_COMPARED * compared
    if needed > limit.n_bytes:
        raise MemoryLimitError(
            f"To compare rows with the source needs {format_bytes(needed)}, but the limit is {format_bytes(limit.n_bytes)} "
            f"({limit.bound_by}). Raise memory_limit."
        )
    return limit.n_bytes // needed


def first_difference(store: Store, start: int, rows: NDArray[Any], limit: Room) -> int | None:
    """The first of some rows of a source that is not as it is stored; None if all are.

    Raises
    ------
    DamagedStoreError
        The stored rows cannot be read.
    """
    layout = store.layout
    step = max(1, _COMPARED_BYTES // layout.chunk_bytes) * layout.chunk_rows
    own = np.tile(field_bytes(layout.dtype), math.prod(layout.row_shape))
    for i in range(0, len(rows), step):
        some = rows[i : i + step]
        stored = gather_now(store, [start + i], len(some), None, None, limit, "always", "auto")[0]
        differs = _as_bytes(stored) != _as_bytes(some)
        if not own.all():
            differs &= own
        different = np.flatnonzero(differs.any(axis=1))
        if different.size:
            return start + i + int(different[0])
    return None


def _as_bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)


def _differing(store: Store, shard: int, source: Source, limit: Room) -> list[Damage]:
    start, stop = store.layout.rows_of(shard)
    rows = np.zeros((stop - start, *store.layout.row_shape), store.layout.dtype)
    source.read_into(start, rows)
    row = first_difference(store, start, rows, limit)
    if row is None:
        return []
    path = f"{store.url}/{shard_key(store.layout, shard)}"
    what = f"{path}: row {row} differs from the source, and its checksum is sound. Give the source that was ingested."
    return [Damage(path, shard, (row, row + 1), what)]


def _damaged_metadata(store: Store) -> list[Damage]:
    """What is wrong with the ``zarr.json`` of an array of a group, which other programs read."""
    if not store.member:
        return []
    path = f"{store.url}/{METADATA}"
    try:
        facts = decode_metadata(store.folder.read(METADATA), store.url)
    except (FileNotFoundError, FormatError):
        pass
    else:  # an append commits the group, and then tells its arrays
        if facts.is_continued_by(store.facts) or store.facts.is_continued_by(facts):
            return []
    what = f"{path} is missing or damaged, and other programs read it. swath goes by {store.home.url}/{METADATA}: repair it."
    return [Damage(path, None, (0, 0), what)]


def _others(store: Store) -> tuple[str, ...]:
    """What is in the folder and is none of the store's, as it is by now. Objects are never listed."""
    if not isinstance(store.folder, LocalFolder):
        return ()
    layout = store.reopened().layout
    own = {METADATA, *(shard_key(layout, shard) for shard in range(layout.n_shards))}
    return tuple(sorted({entry.name for entry in os.scandir(store.folder.path)} - own))


class _Checker:
    """Compares chunks of shards with their checksums."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout = layout = store.layout
        stored = layout.chunk_bytes + CRC_BYTES
        # Raw chunks have one length, so that it is known what a run of them must have.
        self._sound_runs = (
            sound_runs(layout.chunk_bytes, max(1, _BLOCK_BYTES // stored)) if layout.codec == "raw" else []
        )
        (self._sound,) = sound_runs(0, 1)

    def check(self, shard: int) -> list[Damage]:
        """What is wrong with one shard."""
        store, layout = self._store, self._layout
        start, stop = layout.rows_of(shard)
        path = f"{store.url}/{shard_key(layout, shard)}"
        try:
            with contextlib.suppress(VersionError):  # it is longer than when it was met last
                return self._damages(shard, path)
            return self._damages(shard, path)
        except DamagedStoreError as error:
            return [Damage(path, shard, (start, stop), str(error))]
        except OSError as error:
            if error.errno not in _LOST:
                raise
            return [Damage(path, shard, (start, stop), f"{path} cannot be read ({error.strerror}). {MEND}")]

    def _damages(self, shard: int, path: str) -> list[Damage]:
        with self._store.open_shard(shard) as file:
            return [Damage(path, shard, rows, what) for rows, what in self._check(file, shard)]

    def _check(self, file: File, shard: int) -> Iterator[tuple[tuple[int, int], str]]:
        """Rows that are lost, and why: chunks that are missing, end early, or have a wrong checksum.

        Raises
        ------
        DamagedStoreError
            None of them can be found: the index, or the stamp, is wrong.
        """
        store, layout = self._store, self._layout
        file.read_ahead()
        count, first = layout.chunks_in(shard), shard * layout.shard_chunks
        index = store.indexes.read(file, store.facts.stamp(shard))  # anew: what was read before may be damaged since
        written = index.offsets != NO_CHUNK
        ends = index.offsets + index.lengths
        within = written & (ends >= index.offsets) & (ends <= file.size)
        regular = np.arange(count) < index.n_regular
        for k in np.flatnonzero(~(within[:count] & regular)).tolist():
            what = "is missing" if not written[k] else f"ends early: the file has {file.size} bytes"
            if written[k] and within[k]:
                what = "does not lie where swath writes it"
            yield self._lost(file, first + k, what)
        scratch = Scratch()
        for begin, end in _blocks(index.offsets, ends, np.flatnonzero(within[:count] & regular)):
            for k in self._wrong(file, scratch, index.offsets[begin:end].tolist(), ends[begin:end].tolist()):
                yield self._lost(file, first + begin + k, "has a wrong checksum")
        last = int(ends[within].max(initial=layout.head_bytes))
        if not (written & ~within).any() and file.size > last:
            rows = layout.rows_of(shard)
            what = f"{file.path} has {file.size - last} bytes after its last chunk, which nothing reads. {MEND}"
            yield (rows[1], rows[1]), what

    def _lost(self, file: File, chunk: int, what: str) -> tuple[tuple[int, int], str]:
        chunk_rows, n_rows = self._layout.chunk_rows, self._layout.n_rows
        rows = chunk * chunk_rows, min((chunk + 1) * chunk_rows, n_rows)
        return rows, str(self._store.damaged(file, chunk, what))

    def _wrong(self, file: File, scratch: Scratch, begins: list[int], ends: list[int]) -> list[int]:
        """Which of the chunks of a block, that lie one after another, have a wrong checksum."""
        base, n_bytes = begins[0], ends[-1] - begins[0]
        block = scratch.take("block", min(n_bytes, _BLOCK_BYTES))
        crc = 0
        whole = bool(self._sound_runs) or len(begins) == 1
        for at in range(0, n_bytes, _BLOCK_BYTES):
            some = block[: min(_BLOCK_BYTES, n_bytes - at)]
            if file.read_into([some], len(some), base + at) < len(some):
                return list(range(len(begins)))  # it was cut at this moment
            crc = crc32c(some, crc) if whole else 0
        if whole and crc == (self._sound_runs[len(begins) - 1] if self._sound_runs else self._sound):
            return []
        if len(begins) == 1:
            return [0]
        return [k for k, (a, b) in enumerate(zip(begins, ends)) if crc32c(block[a - base : b - base]) != self._sound]


def _blocks(
    offsets: NDArray[np.uint64], ends: NDArray[np.uint64], chunks: NDArray[np.intp]
) -> Iterator[tuple[int, int]]:
    """Half-open ranges of chunks that lie one after another and can be read at once; a large one is a range of its own."""
    if not chunks.size:
        return
    apart = (np.diff(chunks) != 1) | (offsets[chunks[1:]] != ends[chunks[:-1]])
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), chunks.size]
    for a, b in zip(edges, edges[1:]):
        begin, stop = int(chunks[a]), int(chunks[b - 1]) + 1
        while begin < stop:
            most = offsets[begin] + np.uint64(_BLOCK_BYTES)
            end = begin + int(np.searchsorted(ends[begin:stop], most, "right"))
            yield begin, max(end, begin + 1)
            begin = max(end, begin + 1)
