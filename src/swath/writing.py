"""How do the rows of a source become shards?

Each worker takes the next shard, reads its rows into a buffer of its own, and writes checksums and bytes in one go. A source
that is best read in order is read under a lock, one shard after another; encoding and writing overlap. Memory is the
workers' buffers and what the source holds, whatever the size of the array.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swath.commit import Build
from swath.errors import DamagedStoreError, DiskFullError, MemoryLimitError
from swath.html import shown_place
from swath.layout import Layout, field_bytes
from swath.memory import Room, format_bytes
from swath.metadata import Facts, shard_key
from swath.progress import progress_bar
from swath.shard import NO_CHUNK, IndexCache, encode_shard
from swath.sources import Source, most_readers
from swath.storage import Folder, Gate, LocalFolder, VersionError, away, run_threads

_log = logging.getLogger(__name__)

# Objects that are sent at once.
_UPLOADS = 4

# Shards of an interrupted run that are looked at at once.
_PROBES = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One array of what is written."""

    name: str
    """In its group; empty for a store by itself."""
    facts: Facts
    """Of the whole array, when this is written."""
    source: Source
    first_row: int
    """Of the array, which is row 0 of the source; a shard begins with it."""

    @property
    def shards(self) -> range:
        """The shards that are written."""
        layout = self.facts.layout
        return range(self.first_row // layout.shard_rows, layout.n_shards)


class Writer(Protocol):
    """What writes some shards of an array into a folder, and tells of bytes that are done."""

    def __call__(self, folder: Folder, part: Part, shards: Sequence[int], advance: Callable[[int], None]) -> None:
        """Return when all are on the disk."""
        ...


def write_parts(
    label: str, build: Build, parts: Sequence[Part], writers: Sequence[Writer], progress: bool | None
) -> None:
    """Write the shards of some arrays that are not there yet, each array by a writer of its own, and show a bar with a label.

    Raises
    ------
    DiskFullError
        There is no room; what has been written stays.
    """
    folders = [build.folder.within(part.name) for part in parts]
    for place in folders:
        place.make()
    missing = [
        list(part.shards) if build.is_fresh else missing_shards(place, part) for place, part in zip(folders, parts)
    ]
    if isinstance(build.folder, LocalFolder):
        _check_disk(build.folder, parts, missing)
    total, left = (
        sum(_bytes_of(part.facts.layout, shards) for part, shards in zip(parts, each))
        for each in ([part.shards for part in parts], missing)
    )
    if left < total:
        there = sum(len(part.shards) - len(shards) for part, shards in zip(parts, missing))
        _log.info("%s into %s: %d shards are there from an earlier run", label, shown_place(build.folder.url), there)
    with progress_bar(label, total, progress, done=total - left) as advance:
        for place, part, shards, write in zip(folders, parts, missing, writers):
            write(place, part, shards, advance)


def on_threads(part: Part, limit: Room, *, remote: bool, far: bool) -> Writer:
    """A writer of threads, as many as pay, and as ``limit`` leaves room for; of rows that come from ``far`` away, or from here.

    Raises
    ------
    MemoryLimitError
        There is no room for one.
    """
    return partial(_write_shards, workers_for(part, limit, remote=remote), far)


def _bytes_of(layout: Layout, shards: Sequence[int]) -> int:
    return sum(b - a for a, b in map(layout.rows_of, shards)) * layout.row_bytes


def _write_shards(
    workers: int, far: bool, folder: Folder, part: Part, shards: Sequence[int], advance: Callable[[int], None]
) -> None:
    layout, source = part.facts.layout, part.source
    shared = iter(shards)
    reading: contextlib.AbstractContextManager[Any] = threading.Lock() if source.in_order else contextlib.nullcontext()
    # dask makes a pool for each thread that computes, and each of its threads keeps some memory: one thread reads.
    reader = ThreadPoolExecutor(1, thread_name_prefix="swath-read")

    def read(start: int, out: NDArray[Any]) -> None:
        if source.in_order:
            reader.submit(source.read_into, start, out).result()
        else:
            source.read_into(start, out)

    def work(folder: Folder, waiting: Gate | None = None) -> None:
        buffer = shard_buffer(layout)
        while True:
            with reading:  # in order: the shard is chosen and read in one turn
                shard = next(shared, None)
                if shard is None:
                    return
                start, stop = layout.rows_of(shard)
                with away(waiting):  # the buffer is this thread's own, which may be left behind
                    read(start - part.first_row, rows_in(buffer, layout, stop - start))
            put_shard(folder, part.facts, shard, buffer)
            advance((stop - start) * layout.row_bytes)

    if folder.reach.is_remote or far:
        with reader:
            run_threads(lambda gate: work(folder.through(gate), gate if far else None), workers, workers)
        return
    with reader, ThreadPoolExecutor(workers, thread_name_prefix="swath-ingest") as pool:
        futures = [pool.submit(work, folder) for _ in range(workers)]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            # After an error, or Ctrl-C, no worker finds another shard.
            for _ in shared:
                pass


def shard_buffer(layout: Layout) -> NDArray[np.uint8]:
    """Room for the rows of one shard."""
    return np.empty(layout.shard_rows * layout.row_bytes, np.uint8)


def missing_shards(folder: Folder, part: Part) -> list[int]:
    """Which shards an earlier run has not finished."""
    layout = part.facts.layout
    if not folder.reach.is_remote:
        return [shard for shard in part.shards if not folder.has(shard_key(layout, shard))]
    # Others may have left an object of this name: the stamp says whose it is, and an object is whole or not there.
    with ThreadPoolExecutor(_PROBES, thread_name_prefix="swath-probe") as pool:
        written = pool.map(partial(_is_written, folder, part.facts), part.shards)
        return [shard for shard, is_written in zip(part.shards, written) if not is_written]


def _is_written(folder: Folder, facts: Facts, shard: int) -> bool:
    indexes = IndexCache(facts.layout.index_bytes)
    try:
        with folder.open(shard_key(facts.layout, shard)) as file:
            index = indexes.read(file, facts.stamp(shard))
            written = index.offsets != NO_CHUNK
            end = int((index.offsets + index.lengths)[written].max(initial=0))
            return end == file.size and int(written.sum()) == facts.layout.chunks_in(shard)
    except (FileNotFoundError, DamagedStoreError, VersionError):
        return False


def rows_in(buffer: NDArray[np.uint8], layout: Layout, n_rows: int) -> NDArray[Any]:
    """The first rows of a shard's buffer, to be filled."""
    if not field_bytes(layout.dtype).all():
        buffer[:] = 0  # no copy fills what is between fields, and what lay in memory is not to be stored
    return buffer[: n_rows * layout.row_bytes].view(layout.dtype).reshape(n_rows, *layout.row_shape)


def put_shard(folder: Folder, facts: Facts, shard: int, buffer: NDArray[np.uint8]) -> None:
    """Write one shard, whose rows are in ``buffer``."""
    layout = facts.layout
    start, stop = layout.rows_of(shard)
    chunks = layout.chunks_in(shard)
    buffer[(stop - start) * layout.row_bytes : chunks * layout.chunk_bytes] = 0  # pads the last chunk
    encoded = encode_shard(layout, buffer, chunks, facts.stamp(shard), facts.copied_chunks(shard))
    folder.put(shard_key(layout, shard), encoded)


def workers_for(part: Part, limit: Room, *, remote: bool) -> int:
    """As many workers as pay, and as their buffers leave room for.

    Raises
    ------
    MemoryLimitError
        There is no room for one.
    """
    layout, source = part.facts.layout, part.source
    buffers = buffer_bytes(layout, remote=remote)
    fitting = (limit.n_bytes - source.read_bytes) // buffers
    if fitting < 1:
        raise MemoryLimitError(
            f"This ingest needs {format_bytes(source.read_bytes + buffers)} (the source reads "
            f"{format_bytes(source.read_bytes)} at once, one shard is {format_bytes(buffers)}), but the limit is "
            f"{format_bytes(limit.n_bytes)} ({limit.bound_by}). Raise memory_limit, choose smaller shard_rows, or give the source smaller chunks."
        )
    most = max(most_readers(), _UPLOADS) if remote else most_readers()
    return int(min(fitting, most, max(1, len(part.shards))))


def bytes_of_worker(part: Part, *, remote: bool) -> int:
    """What one that writes a shard by itself holds."""
    return part.source.read_bytes + buffer_bytes(part.facts.layout, remote=remote)


def buffer_bytes(layout: Layout, *, remote: bool) -> int:
    """The rows of a shard, as they are; where they are encoded, encoded; and an object as a whole."""
    shard = layout.shard_rows * layout.row_bytes
    return (1 + (layout.codec != "raw") + remote) * shard + layout.head_bytes


def stored_bytes(layout: Layout, shards: Sequence[int], ratio: float = 1.0) -> int:
    """What some shards take on the disk, if ``ratio`` bytes of rows become one: exact for raw chunks."""
    chunks = sum(layout.chunks_in(shard) for shard in shards)
    return int(chunks * (layout.chunk_bytes / ratio + layout.crc_bytes)) + len(shards) * layout.head_bytes


def _check_disk(folder: LocalFolder, parts: Sequence[Part], missing: Sequence[Sequence[int]]) -> None:
    """Refuse what the disk cannot take, where that is known before."""
    needed = 0
    for part, shards in zip(parts, missing):
        if part.facts.layout.codec == "raw":
            needed += stored_bytes(part.facts.layout, shards)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise DiskFullError(
            f"{folder.path.parent} has {format_bytes(free)} free, but the store needs {format_bytes(needed)} ({needed} bytes) more. "
            "Make room, choose another place, or try codec='zstd'."
        )
