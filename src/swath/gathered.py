"""Which sources does the engine read better than their library? Chunked HDF5: h5py decodes one chunk at a time in a process.

The chunks are fetched and decoded as a gather does it, by each thread of an ingest for itself, on all cores: 80_000 x 2000 float64
in gzip chunks of 16 rows were ingested in 2.43 s, through h5py in 2.59 s, on two threads of one core; h5py alone reads them in 2.48 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import DamagedStoreError, SourceError, StoreChangedError
from swath.gather import gather, plan_for
from swath.in_place import EncodedChunks, open_in_place
from swath.memory import Room
from swath.plan import Plan
from swath.rows import Rows
from swath.sources import Source, most_readers
from swath.sources.concatenated import ConcatenatedSource
from swath.sources.converted import ConvertedSource
from swath.sources.hdf5 import ChunkedSource
from swath.sources.segmented import SegmentedSource
from swath.sources.sliced import SlicedSource

# A chunk on the border of two shards is decoded for both: of so many chunks in a shard, that is little.
_CHUNKS_IN_SHARD = 8

_NO_LIMIT = Room(2**62, "the ingest's own")


@dataclass(frozen=True, slots=True)
class GatheredSource:
    """A source whose rows are read by the engine, one thread a call."""

    source: Source
    rows: Rows
    shard_rows: int

    in_order = False

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the source."""
        return self.source.dtype

    @property
    def segments(self) -> tuple[int, ...]:
        """Those of the source."""
        return self.source.segments

    @property
    def read_bytes(self) -> int:
        """Scratch of all threads of an ingest."""
        cost = self._plan(0, min(self.shard_rows, self.shape[0])).cost
        return cost.overhead + most_readers() * (cost.scratch + cost.plan)

    def describe(self) -> dict[str, Any]:
        """What the source says."""
        return self.source.describe()

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Gather one window.

        Raises
        ------
        SourceError
            A chunk is damaged, or the file was changed.
        """
        try:
            gather(self.rows, self._plan(start, len(out)), out[None])
        except (DamagedStoreError, StoreChangedError) as error:
            raise SourceError(str(error)) from error

    def _plan(self, start: int, n_rows: int) -> Plan:
        plan = plan_for(self.rows, [start], n_rows, batch_in_memory=False, limit=_NO_LIMIT)
        scratch = plan.cost.scratch // plan.threads
        return replace(plan, threads=1, cost=replace(plan.cost, scratch=scratch))


def by_engine(source: Source, shard_rows: int) -> Source:
    """The source, with the parts of it that the engine reads better read by it."""
    if isinstance(source, ConcatenatedSource):
        return replace(source, parts=tuple(by_engine(part, shard_rows) for part in source.parts))
    if isinstance(source, (SlicedSource, ConvertedSource, SegmentedSource)):
        return replace(source, source=by_engine(source.source, shard_rows))
    # What the caller has open may have values that are not in the file yet.
    if isinstance(source, ChunkedSource) and "mtime_ns" in source.facts:
        rows = open_in_place(source, 1)
        if isinstance(rows.contents, EncodedChunks) and rows.layout.chunk_rows * _CHUNKS_IN_SHARD <= shard_rows:
            return GatheredSource(source, rows, shard_rows)
    return source
