"""Which sources does the engine read? Arrays that are open already, here or far away; and chunked HDF5, of which h5py decodes one chunk
at a time in a process.

The latter's chunks are fetched and decoded as a gather does it, by each thread of an ingest for itself, on all cores: 80_000 x 2000 float64
in gzip chunks of 16 rows were ingested in 2.43 s, through h5py in 2.59 s, on two threads of one core; h5py alone reads them in 2.48 s.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import DamagedStoreError, SourceError, StoreChangedError
from swath.foreign import ForeignZarr
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

# Rows of an open array that are gathered at once: long beside the call, and beside a round trip.
_STEP_BYTES = 2**26

_NO_LIMIT = Room(2**62, "the ingest's own")


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """The rows of an array that is open, each chunk checked on the way."""

    rows: Rows
    opened: str
    """Of this source alone, where the array cannot tell whether its bytes are others by now; else empty."""

    in_order = False

    @classmethod
    def of(cls, rows: Rows) -> OpenedSource:
        """The source of an array that is open."""
        return cls(rows, uuid.uuid4().hex if isinstance(rows, ForeignZarr) else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return self.rows.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of its batches."""
        return self.rows.layout.dtype

    @property
    def segments(self) -> tuple[int, ...]:
        """Those of the array."""
        return self.rows.segments

    @property
    def read_bytes(self) -> int:
        """What the gathers of all threads of an ingest take beside their rows."""
        return _read_bytes(self.rows, min(self._step, self.shape[0]))

    @property
    def _step(self) -> int:
        return max(1, _STEP_BYTES // self.rows.layout.row_bytes)

    def describe(self) -> dict[str, Any]:
        """Where the array is, and which version of it."""
        version = hashlib.sha256(self.rows.version.encode()).hexdigest()
        facts = {"kind": "array", "path": self.rows.url, "shape": list(self.shape), "dtype": str(self.dtype)}
        return {**facts, "version": version, **({"opened": self.opened} if self.opened else {})}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Gather some rows after others.

        Raises
        ------
        SourceError
            A chunk is damaged, or other bytes have taken the place of these.
        """
        for i in range(0, len(out), self._step):
            _gather_rows(self.rows, start + i, out[i : i + self._step])


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
        return _read_bytes(self.rows, min(self.shard_rows, self.shape[0]))

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
        _gather_rows(self.rows, start, out)


def _gather_rows(rows: Rows, start: int, out: NDArray[Any]) -> None:
    try:
        gather(rows, _plan(rows, start, len(out)), out[None])
    except (DamagedStoreError, StoreChangedError) as error:
        raise SourceError(str(error)) from error


def _read_bytes(rows: Rows, n_rows: int) -> int:
    """What all threads of an ingest take that gather so many rows each."""
    cost = _plan(rows, 0, n_rows).cost
    return cost.overhead + most_readers() * (cost.scratch + cost.plan)


def _plan(rows: Rows, start: int, n_rows: int) -> Plan:
    """To gather some rows in one thread; in as many as pay from where each waits for a server."""
    plan = plan_for(rows, [start], n_rows, batch_in_memory=False, limit=_NO_LIMIT)
    if rows.reach.is_remote:
        return plan
    return replace(plan, threads=1, cost=replace(plan.cost, scratch=plan.cost.scratch // plan.threads))


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


def is_far(source: Source) -> bool:
    """Whether some of it comes from a server, for which it waits."""
    if isinstance(source, ConcatenatedSource):
        return any(map(is_far, source.parts))
    if isinstance(source, (SlicedSource, ConvertedSource, SegmentedSource)):
        return is_far(source.source)
    return isinstance(source, OpenedSource) and source.rows.reach.is_remote
