"""Is every byte of a store as it was written, and is it what the source says?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.checksum import crc32c
from swath.errors import DamagedStoreError, SourceError
from swath.gather import gather_now
from swath.layout import CRC_BYTES, Layout
from swath.memory import Room, format_bytes
from swath.metadata import shard_key
from swath.progress import progress_bar
from swath.shard import index_entries
from swath.sources import Source
from swath.storage import LocalFile, Scratch
from swath.store import Store
from swath.writing import MORE_WORKERS

# One read of a shard from its first byte to its last: large enough for the disk, small enough for the cache of a core.
_BLOCK_BYTES = 2**21


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong at one place of a store."""

    path: str
    """The file."""
    shard: int
    rows: tuple[int, int]
    """Half-open range of rows of the array that cannot be read."""
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

    def __bool__(self) -> bool:
        return not self.damages

    def __str__(self) -> str:
        checked = f"{self.url}: {self.chunks:,} chunks in {self.shards:,} shards, {format_bytes(self.n_bytes)}"
        if not self.damages:
            return f"{checked}: all sound"
        bad = len({damage.shard for damage in self.damages})
        lines = (f"  {damage.what}" for damage in self.damages)
        return "\n".join((f"{checked}: damage in {bad:,} shards", *lines))


def verify(store: Store, source: Source | None, limit: Room, progress: bool | None) -> Verification:
    """Compare every chunk of every shard with its checksum, and each row with a source, if there is one.

    Raises
    ------
    SourceError
        The source has another shape or dtype.
    StoreChangedError
        Another store has taken this one's place.
    """
    layout = store.layout
    if source is not None:
        check_source(source, store)
    threads = min(len(os.sched_getaffinity(0)) + MORE_WORKERS, layout.n_shards)
    if source is not None:
        a_shard = 2 * layout.shard_rows * layout.row_bytes + source.read_bytes
        threads = 1 if source.in_order else max(1, min(threads, limit.n_bytes // a_shard))
    with (
        progress_bar("verify", layout.n_rows * layout.row_bytes, progress) as advance,
        ThreadPoolExecutor(threads, thread_name_prefix="swath-verify") as pool,
    ):
        found = pool.map(lambda shard: _check_shard(store, shard, source, limit, advance), range(layout.n_shards))
        damages = tuple(damage for each in found for damage in each)
    store.check_unchanged()
    return Verification(store.url, layout.n_shards, layout.n_chunks, layout.n_rows * layout.row_bytes, damages)


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


def _check_shard(
    store: Store, shard: int, source: Source | None, limit: Room, advance: Callable[[int], None]
) -> list[Damage]:
    layout = store.layout
    path = str(store.folder.path / shard_key(layout, shard))
    start, stop = layout.rows_of(shard)
    try:
        with store.open_shard(shard) as file:
            damages = [
                Damage(path, shard, rows_of(layout, chunk), str(error))
                for chunk, error in _bad_chunks(store, file, shard)
            ]
    except (DamagedStoreError, OSError) as error:
        damages = [Damage(path, shard, (start, stop), str(error))]
    if source is not None and not damages and (row := differing(store, shard, source, limit)) is not None:
        what = f"{path}: row {row} differs from the source. The checksums are sound: compare the source."
        damages = [Damage(path, shard, (row, row + 1), what)]
    advance((stop - start) * layout.row_bytes)
    return damages


def rows_of(layout: Layout, chunk: int) -> tuple[int, int]:
    """The half-open range of rows of the array in a chunk."""
    return chunk * layout.chunk_rows, min((chunk + 1) * layout.chunk_rows, layout.n_rows)


def differing(store: Store, shard: int, source: Source, limit: Room) -> int | None:
    """The first row of a sound shard that is not the source's; None if there is none."""
    start, stop = store.layout.rows_of(shard)
    stored = gather_now(store, [start], stop - start, None, None, limit, "always", "auto")[0]
    wanted = np.empty_like(stored)
    source.read_into(start, wanted)
    different = differing_rows(stored, wanted)
    return start + int(different[0]) if different.size else None


def differing_rows(stored: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.intp]:
    """Rows that are not the same, byte for byte."""
    a, b = (np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8) for rows in (stored, wanted))
    return np.flatnonzero((a != b).any(axis=1))


def _bad_chunks(store: Store, file: LocalFile, shard: int) -> Iterator[tuple[int, DamagedStoreError]]:
    """The chunks of one shard that are missing, end early, or have a wrong checksum.

    Raises
    ------
    DamagedStoreError
        None of them can be found: the index, or the stamp, is wrong.
    """
    layout = store.layout
    first, count = shard * layout.shard_chunks, layout.chunks_in(shard)
    entries = index_entries(store.indexes.get(file, store.facts.stamp(shard)), slice(0, count))
    scratch, k = Scratch(), 0
    while k < count:
        run, k = k, k + 1
        while k < count and _is_next(entries[run], entries[k - 1], entries[k]):
            k += 1
        begin = entries[run]
        if begin is None:
            yield first + run, store.damaged(file, first + run, "is missing")
            continue
        last = entries[k - 1] or begin
        n_bytes = last[0] + last[1] - begin[0]
        block = scratch.take("block", n_bytes)
        got = file.read_into([block], n_bytes, begin[0])
        for j in range(run, k):
            offset, length, _ = entries[j] or begin
            chunk = block[offset - begin[0] : offset - begin[0] + length]
            if offset - begin[0] + length > got:
                yield first + j, store.damaged(file, first + j, f"ends early: the file has {file.size} bytes")
            elif crc32c(chunk[:-CRC_BYTES]) != int.from_bytes(chunk[-CRC_BYTES:], "little"):
                yield first + j, store.damaged(file, first + j, "has a wrong checksum")


def _is_next(first: tuple[int, int, int] | None, before: tuple[int, int, int] | None, entry: tuple[int, int, int] | None) -> bool:  # fmt: skip
    """Whether a chunk lies behind the one before it, and in one read with the first."""
    if first is None or before is None or entry is None:
        return False
    return entry[0] == before[0] + before[1] and entry[0] + entry[1] - first[0] <= _BLOCK_BYTES
