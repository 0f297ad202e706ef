"""How are shards written by the workers of a dask cluster?

One task reads the rows of one shard and writes it, wherever it runs: the rows never pass through the scheduler or the client. A
task may run twice, since the same shard takes the same name. The workers see the same files as the client.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

from swath.errors import MemoryLimitError, SourceError
from swath.memory import format_bytes
from swath.metadata import shard_key
from swath.storage import Folder, LocalFolder
from swath.workers import on_workers, team_of
from swath.writing import Part, bytes_of_worker, put_shard, rows_in, shard_buffer

# What a worker needs to read a file is small; what is larger holds the rows themselves.
_MOST_PICKLED_BYTES = 2**20


def pickled(part: Part) -> bytes | None:
    """What a worker needs to write shards of an array; None where that would be the rows themselves, or an open file."""
    import cloudpickle  # as dask does, for functions of notebooks and scripts

    def refuse(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes > _MOST_PICKLED_BYTES:
            raise _TooLargeError
        return True  # in the stream, with the rest

    stream = io.BytesIO()
    try:
        cloudpickle.Pickler(stream, protocol=5, buffer_callback=refuse).dump(part)
    except (_TooLargeError, pickle.PicklingError, TypeError, AttributeError):
        return None
    return stream.getvalue() if stream.tell() <= _MOST_PICKLED_BYTES else None


class _TooLargeError(Exception):
    pass


def write_on_workers(
    client: Any, encoded: bytes, folder: Folder, part: Part, shards: Sequence[int], advance: Callable[[int], None]
) -> None:
    """Write some shards of an array, each by one task.

    Raises
    ------
    MemoryLimitError
        A worker has no room for a shard in each of its threads; nothing was read.
    SourceError
        The workers do not see the files of this process.
    WorkersLostError
        A task has ended worker after worker, or the client is not connected to a scheduler.
    """
    layout = part.facts.layout
    needed, team = bytes_of_worker(part, remote=folder.reach.is_remote), team_of(client)
    if needed > team.thread_bytes:
        raise MemoryLimitError(
            f"One shard of this ingest needs {format_bytes(needed)}, but a thread of a worker has {format_bytes(team.thread_bytes)}. "
            "Choose smaller shard_rows, give the workers more memory or fewer threads, or the source smaller chunks."
        )
    for shard in on_workers(client, _write, shards, "swath-ingest", encoded=encoded, folder=folder):
        start, stop = layout.rows_of(shard)
        advance((stop - start) * layout.row_bytes)
    if not isinstance(folder, LocalFolder):
        return
    unseen = [shard for shard in shards if not folder.has(shard_key(layout, shard))]
    if unseen:
        raise SourceError(
            f"{len(unseen)} of {len(shards)} shards were written where this process does not see them ({folder.path}). "
            "Choose a place that the client and all workers share."
        )


def _write(shard: int, encoded: bytes, folder: Folder) -> int:
    """The task: each has a source of its own, since not every source may be read by several threads."""
    part: Part = pickle.loads(encoded)  # noqa: S301 - of the client, from whom the task itself came as a pickle
    layout = part.facts.layout
    start, stop = layout.rows_of(shard)
    buffer = shard_buffer(layout)
    rows = rows_in(buffer, layout, stop - start)
    dask = sys.modules["dask"]
    with dask.config.set(scheduler="synchronous"):  # a dask array is computed here, and not by more tasks
        part.source.read_into(start - part.first_row, rows)
    put_shard(folder, part.facts, shard, buffer)
    return shard
