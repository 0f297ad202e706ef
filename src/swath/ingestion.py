"""How does a source become a store?

1. Open the source, choose the layout, and refuse what cannot be stored or has no room.
2. Each worker takes the next shard, reads its rows into a buffer of its own, and writes checksums and bytes in one go.
   A source that is best read in order is read under a lock, one shard after another; encoding and writing overlap.
3. Commit (`swath.store.building`).

Memory is the workers' buffers and what the source holds, whatever the size of the array. A shard that is
written stays: an interrupted ingest, run again, carries on with the shards that are missing.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import DiskFullError, MemoryLimitError, OptionError, SourceError
from swath.layout import CRC_BYTES, CodecName, Layout, Location, choose_codec, choose_layout
from swath.memory import Room, format_bytes, machine_bytes, resolve_limit
from swath.sample import sample_codecs
from swath.shard import encode_shard
from swath.sources import Source, open_source, parse_dtype
from swath.sources.converted import Casting, check_casting
from swath.sources.sliced import take_rows
from swath.storage import LocalFolder
from swath.store import Facts, building, check_vacant, local_path, pending_facts, shard_key
from swath.windows import check_usual_window

# Two workers more than cores: while some wait for the disk to take their bytes, others read and sum.
_WAITING_WORKERS = 2

# What a source may hold so as not to decode the same twice, as a share of the memory limit; the rest is for shards.
_CACHE_IN_LIMIT = 0.5

# Random windows from a local disk and from the page cache, in bytes a second (benchmarks/, 2 cores, a virtual NVMe disk).
_READ_RATE = 1.2e9
_CACHED_RATE = 5e9

# An array of this share of the memory stays in the page cache beside what else is there.
_FITS = 0.5

# A shard of default size shall leave room for several workers within the memory limit.
_SHARDS_IN_LIMIT = 8


def ingest(
    source: Any,
    url: str | os.PathLike[str],
    *,
    window: int,
    chunk_rows: int | Literal["auto"],
    shard_rows: int | Literal["auto"],
    codec: CodecName | Literal["auto"],
    dtype: DTypeLike | None,
    casting: Casting,
    row_shape: Sequence[int] | None,
    rows: slice | None,
    memory_limit: int | str | None,
    progress: bool | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Write ``source`` as a store at ``url``; parameters and errors as `swath.ingest` describes them."""
    path = local_path(url)
    check_vacant(path, overwrite=overwrite)
    limit = resolve_limit(memory_limit)
    window = check_usual_window(window)
    stored = None if dtype is None else parse_dtype(dtype)
    cache_bytes = int(limit.n_bytes * _CACHE_IN_LIMIT)
    check_casting(casting)
    opened = open_source(source, dtype=stored, row_shape=row_shape, casting=casting, cache_bytes=cache_bytes)
    taken = opened if rows is None else take_rows(opened, rows)
    described = taken.describe()
    chosen, reason = _choose_codec(codec, taken, window, pending_facts(path) if resume else None, described)
    layout = choose_layout(
        taken.shape,
        taken.dtype,
        window=window,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        codec=chosen,
        most_shard_bytes=max(1, (limit.n_bytes - taken.read_bytes) // _SHARDS_IN_LIMIT),
    )
    workers = _workers(layout, taken, limit)
    facts = Facts(layout, window, taken.segments, described, reason)
    with building(path, facts, overwrite=overwrite, resume=resume) as folder:
        missing = [shard for shard in range(layout.n_shards) if not folder.has(shard_key(layout, shard))]
        _check_disk(folder, layout, missing)
        with _progress(layout, missing, progress) as advance:
            _write_shards(folder, layout, taken, missing, workers, advance)
        if taken.describe() != facts.source:
            raise SourceError(
                f"The source changed while it was read ({_label(facts)}). Run the ingest again, once nothing writes to it."
            )


def _choose_codec(
    codec: CodecName | Literal["auto"], source: Source, window: int, pending: Facts | None, described: dict[str, Any]
) -> tuple[CodecName, str]:
    """The codec, and why. What an interrupted ingest of the same source has chosen stays: its shards shall be used.

    Raises
    ------
    OptionError
    """
    if codec not in (*get_args(CodecName), "auto"):
        raise OptionError(f"codec is {codec!r}. Choose one of 'auto', {', '.join(map(repr, get_args(CodecName)))}.")
    if codec != "auto":
        return codec, f"{codec}: as asked"
    if pending is not None and (pending.source, pending.window) == (described, window):
        kept: Any = pending.layout.codec
        return kept, pending.reason
    row_bytes = source.dtype.itemsize * math.prod(source.shape[1:])
    location = Location(_READ_RATE, _CACHED_RATE, machine_bytes(), len(os.sched_getaffinity(0)))
    if source.shape[0] * row_bytes <= _FITS * location.cache_bytes:
        return "raw", "raw: the array fits in memory, from where no codec gathers faster"
    return choose_codec(window, source.shape[0], row_bytes, sample_codecs(source, window), location)


def _write_shards(
    folder: LocalFolder, layout: Layout, source: Source, shards: list[int], workers: int, advance: Any
) -> None:
    shared = iter(shards)
    reading: contextlib.AbstractContextManager[Any] = threading.Lock() if source.in_order else contextlib.nullcontext()
    # dask makes a pool for each thread that computes, and each of its threads keeps some memory: one thread reads.
    reader = ThreadPoolExecutor(1, thread_name_prefix="swath-read")

    def read(start: int, out: NDArray[Any]) -> None:
        if source.in_order:
            reader.submit(source.read_into, start, out).result()
        else:
            source.read_into(start, out)

    def work() -> None:
        buffer = np.empty(layout.shard_rows * layout.row_bytes, np.uint8)
        while True:
            with reading:  # in order: the shard is chosen and read in one turn
                shard = next(shared, None)
                if shard is None:
                    return
                start, stop = layout.rows_of(shard)
                read(start, _rows(buffer, layout, stop - start))
            chunks = layout.chunks_in(shard)
            buffer[(stop - start) * layout.row_bytes : chunks * layout.chunk_bytes] = 0  # pads the last chunk
            folder.put(shard_key(layout, shard), encode_shard(layout, buffer, chunks))
            advance(stop - start)

    with reader, ThreadPoolExecutor(workers, thread_name_prefix="swath-ingest") as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            # After an error, or Ctrl-C, no worker finds another shard.
            for _ in shared:
                pass


def _rows(buffer: NDArray[np.uint8], layout: Layout, n_rows: int) -> NDArray[Any]:
    return buffer[: n_rows * layout.row_bytes].view(layout.dtype).reshape(n_rows, *layout.row_shape)


def _workers(layout: Layout, source: Source, limit: Room) -> int:
    """As many workers as pay, and as their buffers leave room for.

    Raises
    ------
    MemoryLimitError
        There is no room for one.
    """
    shard = layout.shard_rows * layout.row_bytes
    buffers = shard if layout.codec == "raw" else 2 * shard
    fitting = (limit.n_bytes - source.read_bytes) // (buffers + layout.index_bytes)
    if fitting < 1:
        raise MemoryLimitError(
            f"This ingest needs {format_bytes(source.read_bytes + buffers + layout.index_bytes)} (the source reads "
            f"{format_bytes(source.read_bytes)} at once, one shard is {format_bytes(buffers)}), but the limit is "
            f"{format_bytes(limit.n_bytes)} ({limit.bound_by}). Raise memory_limit, choose smaller shard_rows, or give the source smaller chunks."
        )
    return int(min(fitting, len(os.sched_getaffinity(0)) + _WAITING_WORKERS, layout.n_shards))


def _check_disk(folder: LocalFolder, layout: Layout, missing: list[int]) -> None:
    """Refuse an ingest that the disk cannot take, where that is known before."""
    if layout.codec != "raw":
        return
    chunks = sum(layout.chunks_in(shard) for shard in missing)
    needed = chunks * (layout.chunk_bytes + CRC_BYTES) + len(missing) * layout.index_bytes
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise DiskFullError(
            f"{folder.path.parent} has {format_bytes(free)} free, but the store needs {format_bytes(needed)} ({needed} bytes) more. "
            "Make room, choose another place, or try codec='zstd'."
        )


@contextlib.contextmanager
def _progress(layout: Layout, missing: list[int], wanted: bool | None) -> Iterator[Any]:
    """A function to be told of rows that are written; it moves a bar on stderr, with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    shown = console.is_terminal if wanted is None else wanted
    if not shown:
        yield lambda n_rows: None
        return
    columns = (TextColumn("ingest"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        to_write = sum(b - a for a, b in map(layout.rows_of, missing))
        total = layout.n_rows * layout.row_bytes
        task = bar.add_task("ingest", total=total, completed=total - to_write * layout.row_bytes)
        yield lambda n_rows: bar.advance(task, n_rows * layout.row_bytes)


def _label(facts: Facts) -> str:
    return str(facts.source.get("path", facts.source["kind"]))
