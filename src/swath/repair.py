"""How are damaged shards written again from their source?

Only what is broken is written. The rows that are still sound in all damaged shards, and some of sound shards, are compared with
the source before the first is written, so that another source does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from swath.check import Damage, check_source, first_difference, shards_at_once, verify
from swath.committing import locked, settle
from swath.errors import SourceError
from swath.memory import Room
from swath.metadata import METADATA, decode_group
from swath.progress import progress_bar
from swath.sources import Source
from swath.store import Store
from swath.writing import put_shard, rows_in, shard_buffer

_log = logging.getLogger(__name__)

# Sound shards of which one chunk is compared with the source.
_SAMPLED_SHARDS = 16


def repair(store: Store, source: Source, limit: Room, progress: bool | None, timeout: float) -> tuple[Damage, ...]:
    """Write the damaged shards of a store again; what was mended.

    Raises
    ------
    SourceError
        It is not what the store was made of. Nothing was written, unless it has changed meanwhile.
    MemoryLimitError
        One shard does not fit in the limit; nothing was written.
    FormatError
        It is a copy of an object store that can only be read.
    """
    store.check_writable()
    with locked(store.home, timeout=timeout) as home:
        settle(home)
        store = replace(store, folder=home.within(store.member)).reopened()
        store.folder.remove_temporaries()  # of a repair that was killed
        check_source(source, store)
        damages = verify(store, None, limit, progress).damages
        if not damages:
            return ()
        shards_at_once(store.layout, source, limit, copies=2)  # as it is read, and encoded
        _write_again(store, source, damages, limit, progress)
        if any(damage.shard is None for damage in damages):
            store.folder.put(METADATA, [memoryview(decode_group(store.encoded, store.home.url)[store.member])])
        store.folder.sync()
    return damages


def _write_again(store: Store, source: Source, damages: Sequence[Damage], limit: Room, progress: bool | None) -> None:
    layout = store.layout
    buffer = shard_buffer(layout)
    damaged = sorted({damage.shard for damage in damages if damage.shard is not None})
    lost = {shard: [damage.rows for damage in damages if damage.shard == shard] for shard in damaged}

    def read(shard: int) -> None:
        """Put the rows of a shard, as the source has them, in the buffer."""
        start, stop = layout.rows_of(shard)
        rows = rows_in(buffer, layout, stop - start)
        source.read_into(start, rows)
        # What is left between the lost rows.
        edges = [start, *chain.from_iterable(sorted(lost[shard])), stop]
        for a, b in zip(edges[::2], edges[1::2]):
            _compare(store, a, rows[a - start : b - start], limit)
        advance((stop - start) * layout.row_bytes)

    total = sum(stop - start for start, stop in map(layout.rows_of, damaged)) * layout.row_bytes
    with progress_bar("repair", 2 * total, progress) as advance:
        _compare_samples(store, source, damaged, limit)
        for shard in damaged:
            read(shard)
        for shard in damaged:
            read(shard)
            put_shard(store.folder, store.facts, shard, buffer)
            _log.info("%s: wrote shard %d again, rows [%d, %d)", store.url, shard, *layout.rows_of(shard))


def _compare_samples(store: Store, source: Source, damaged: Sequence[int], limit: Room) -> None:
    layout = store.layout
    sound = np.setdiff1d(np.arange(layout.n_shards), damaged)
    for shard in sound[:: max(1, -(-sound.size // _SAMPLED_SHARDS))].tolist():
        start = shard * layout.shard_rows
        rows = np.zeros((min(layout.chunk_rows, layout.n_rows - start), *layout.row_shape), layout.dtype)
        source.read_into(start, rows)
        _compare(store, start, rows, limit)


def _compare(store: Store, start: int, rows: NDArray[np.generic], limit: Room) -> None:
    row = first_difference(store, start, rows, limit)
    if row is not None:
        raise SourceError(
            f"Row {row} of the source is not that of {store.url}, which is sound there. Give the source that the store "
            "was made of."
        )
