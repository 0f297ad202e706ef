"""How are damaged shards written again from their source?

Only what is broken is written. The rows that are still sound in a damaged shard, and some of sound shards, are compared with the
source before, so that another source does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.check import Damage, check_source, differing_rows, verify
from swath.commit import locked, settle
from swath.errors import MemoryLimitError, SourceError
from swath.gather import gather_now
from swath.memory import Room, format_bytes
from swath.progress import progress_bar
from swath.sources import Source
from swath.store import Store
from swath.writing import put_shard, rows_in, shard_buffer

# Sound shards of which one chunk is compared with the source.
_SAMPLED_SHARDS = 16


def repair(store: Store, source: Source, limit: Room, progress: bool | None, timeout: float) -> tuple[Damage, ...]:
    """Write the damaged shards of a store again; what was mended.

    Raises
    ------
    SourceError
        It is not what the store was made of. Nothing was written.
    MemoryLimitError
        One shard does not fit in the limit.
    """
    with locked(store.home, timeout=timeout):
        settle(store.home)
        store = store.reopened()
        check_source(source, store)
        damages = verify(store, None, limit, progress).damages
        layout = store.layout
        needed = 2 * layout.shard_rows * layout.row_bytes + source.read_bytes
        if damages and needed > limit.n_bytes:
            raise MemoryLimitError(
                f"This repair needs {format_bytes(needed)}, but the limit is {format_bytes(limit.n_bytes)} ({limit.bound_by}). "
                "Raise memory_limit."
            )
        damaged = sorted({damage.shard for damage in damages})
        _check_samples(store, source, damaged, limit)
        total = sum(stop - start for start, stop in map(layout.rows_of, damaged)) * layout.row_bytes
        buffer = shard_buffer(layout)
        with progress_bar("repair", total, progress) as advance:
            for shard in damaged:
                start, stop = layout.rows_of(shard)
                rows = rows_in(buffer, layout, stop - start)
                source.read_into(start, rows)
                _check_sound_rows(store, shard, rows, [each.rows for each in damages if each.shard == shard], limit)
                put_shard(store.folder, store.facts, shard, buffer)
                advance((stop - start) * layout.row_bytes)
        store.folder.sync()
    return damages


def _check_samples(store: Store, source: Source, damaged: Sequence[int], limit: Room) -> None:
    layout = store.layout
    sound = np.setdiff1d(np.arange(layout.n_shards), damaged)
    for shard in sound[:: -(-sound.size // _SAMPLED_SHARDS) or 1].tolist():
        start = shard * layout.shard_rows
        rows = np.empty((min(layout.chunk_rows, layout.n_rows - start), *layout.row_shape), layout.dtype)
        source.read_into(start, rows)
        _compare(store, start, rows, limit)


def _check_sound_rows(
    store: Store, shard: int, rows: NDArray[Any], damaged: Sequence[tuple[int, int]], limit: Room
) -> None:
    """Compare the rows of a damaged shard that can still be read."""
    start, stop = store.layout.rows_of(shard)
    edges = [start, *(row for pair in sorted(damaged) for row in pair), stop]
    for a, b in zip(edges[::2], edges[1::2]):
        if a < b:
            _compare(store, a, rows[a - start : b - start], limit)


def _compare(store: Store, start: int, rows: NDArray[Any], limit: Room) -> None:
    stored = gather_now(store, [start], len(rows), None, None, limit, "always", "auto")[0]
    different = differing_rows(stored, rows)
    if different.size:
        raise SourceError(
            f"Row {start + int(different[0])} of the source is not that of {store.url}, which is sound there. "
            "Give the source that the store was made of; nothing more was written."
        )
