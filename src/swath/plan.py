"""What will this gather read, and what will it cost, before anything is read?

1. Merge the windows into spans of whole chunks (`swath.windows`).
2. Cut the spans into reads: a read lies in one shard, and is small enough to be a thread's scratch.
3. Choose how many threads may read at once, so that batch, plan and scratch stay under the limit.

The result is a frozen value. It holds no handle and touches no file: print it, refuse it, or carry
it out (`swath.gather`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from swath.drawing import BESIDE, READ, WANTED, Bar, bar_chart
from swath.errors import MemoryLimitError
from swath.html import card
from swath.layout import Layout, choose_chunk_rows
from swath.memory import GatherCost, Room, format_bytes, format_seconds
from swath.windows import IntArray, expand, merge_windows, windows_in

# A disk of today needs about 32 requests in flight for its full rate; more gave nothing (benchmarks/).
MOST_THREADS = 32

# Scratch of one thread: large enough that a read is bound by bytes and not by calls, small enough that its checksum
# finds it in the cache of the core: 5.7 GB/s with 1 MiB, 5.5 with 4.
BLOCK_BYTES = 2**20

# What zarr-python or h5py are asked for at once. A call of zarr-python costs a millisecond, and several threads that call it
# wait for one another: 230 MB in chunks of 1 MB took 317 ms by 4 MiB, 552 ms by one chunk; by two threads 401 and 506 ms.
_LIBRARY_BLOCK_BYTES = 2**22

# What they hold of it meanwhile: encoded, decoded, and in the shape of the block.
_LIBRARY_COPIES = 4

# A preadv takes 1024 buffers: a raw chunk needs two (rows, checksum), and each of up to 100 windows that share the
# read (`swath.gather`) may split a chunk where it begins and another where it ends.
_MOST_READ_CHUNKS = 400

# Windows, and encoded chunks, this near to each other are read together: the gap costs less than a read of its own, of some
# 10 us of calls, warm or cold.
GAP_BYTES = 2**14

# Within a read, a gap that nobody wants is skipped from this size on: that takes a call more, and a place for its pieces.
WIDE_GAP_BYTES = 2**16

# Windows up to this size are copied from scratch by one numpy call for all of them; the copy goes through a temporary of the
# same size, which for larger windows costs more than a call each: raw ones land in the batch itself ...
SMALL_WINDOW_BYTES = 2048

# ... if no more than these share a read, since a preadv takes 1024 buffers.
MOST_PIECES = 100

# Most bytes of that temporary, and, of each window of the read, where it lies in the read and in the batch while they are chosen.
TEMPORARY_BYTES = 2**20
_PLACE_BYTES = 48

# Indexes of shards that are kept while reading (see `swath.shard.IndexCache`).
INDEX_CACHE_BYTES = 32 * 2**20

# What is kept of a far shard of which no index is read: its version (see `swath.stamps`).
_VERSION_BYTES = 1024

# Chunks of several reads are decoded by one call up to so many bytes: of what two windows of 256 KB need, as a rule.
JOIN_BYTES = 2**19

# What a decoder allocates for itself, and the allocator keeps of it, a thread, at most so many bytes and so many chunks. Most with the
# lz4 of blosc, in a process that has freed an array of 10 MB before, as every second gather finds it: 1.2 MiB beside chunks of
# 128 KiB, 6.2 of 512 KiB, 12 of 1 MiB, 11 of 4 MiB; with zstd less than half of that.
_DECODER_SLACK = 14 * 2**20
_DECODER_COPIES = 14
_ZSTD_SLACK = 6 * 2**20
_ZSTD_COPIES = 6

# Stack, bookkeeping and allocator slack: of the call, and of each thread. Measured by tests/test_memory.py.
_CALL_OVERHEAD = 8 * 2**20
_THREAD_OVERHEAD = 2**18

# What comes from a server stands in the pieces that it came in, and as a whole; and a connection has buffers.
_COPIES_ARRIVING = 2
_REQUEST_OVERHEAD = 2**19


@dataclass(frozen=True, slots=True)
class Reach:
    """What a request costs where the bytes are, and so what is asked for at once."""

    is_remote: bool
    gap_bytes: int
    """Windows, and encoded chunks, this near to each other are read together: the gap costs less than a request."""
    wide_gap_bytes: int
    """Within a read, a gap that nobody wants is skipped from this size on."""
    block_bytes: int
    """Most bytes of a request."""
    requests: int
    """At once."""
    tries: int
    """How often what comes damaged is read: over a network it may come sound the next time."""
    latency_s: float = 0.0
    """Expected."""
    bytes_a_second: float = math.inf
    """Expected."""
    dollars_a_request: float = 0.0
    pins_versions: bool = False
    """Whether what is read of a file is of the version that was met first, or an error."""


# What random windows come at, from a local disk and from the page cache, on 2 cores with a virtual NVMe disk (benchmarks/).
DISK_BYTES_A_SECOND = 1.2e9
CACHED_BYTES_A_SECOND = 5e9

LOCAL = Reach(False, GAP_BYTES, WIDE_GAP_BYTES, BLOCK_BYTES, MOST_THREADS, tries=1)
"""Files: a read costs some 10 us of calls, warm or cold, and a call more, and a place for its pieces, for each gap."""

REMOTE = Reach(
    True,
    2**15,
    2**15,
    2**22,
    128,
    tries=3,
    latency_s=0.03,
    bytes_a_second=1.25e8,
    dollars_a_request=0.4e-6,
    pins_versions=True,
)
"""Objects: a request takes 0.2 ms of a core here, in which 1 Gbit/s bring 25 KB: about as much as gaps may have.
On a wider network more would be right. 30 ms, 1 Gbit/s and $0.40 for a million GETs (S3's list price) are assumed: they are
told, and a layout is chosen by the 1 Gbit/s."""


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """What a gather will read and cost. Made by `RowArray.plan`; ``print(plan)`` shows it as a table, and a notebook with bars."""

    layout: Layout
    window: int
    columns: IntArray | slice | None
    """Columns of each row (axis 1 of the array) that are kept; None for all."""
    batch_shape: tuple[int, ...]
    starts: IntArray
    """(n,) first rows, ascending."""
    order: IntArray
    """(n,) place in the batch of each of ``starts``."""
    first_chunk: IntArray
    """(m,) first chunk of each read, ascending. A read lies in one shard; reads never overlap."""
    stop_chunk: IntArray
    """(m,) chunk after the last of each read."""
    first_window: IntArray
    """(m,) first of the windows, by position in ``starts``, that have rows in the read."""
    stop_window: IntArray
    """(m,) window after the last of them."""
    verify: bool
    """Whether every chunk that is touched is read whole and compared with its checksum."""
    direct: bool
    """Whether what is not in the page cache is read past it."""
    tiles: Sequence[int]
    """Which of the chunks that lie side by side in a row are read (see `swath.layout.Tiles`)."""
    reach: Reach
    threads: int
    """The most threads that may read at once."""
    cost: GatherCost
    ingested_bytes: int | None
    """What `bytes_read` would be, on average, after `swath.ingest`; None for a store."""
    goes_by_stamps: bool
    """Whether stamps of shards are asked for beside their rows, and no index before: raw ones lie where can be calculated."""

    @property
    def bytes_wanted(self) -> int:
        """Bytes of the batch."""
        return math.prod(self.batch_shape) * self.layout.dtype.itemsize

    @property
    def joins(self) -> bool:
        """Whether chunks of several reads may be decoded by one call (`swath.joined`)."""
        return _joins(self.layout, self.columns, is_store=self.ingested_bytes is None)

    @cached_property
    def shards(self) -> IntArray:
        """The shards that are read, ascending."""
        return _distinct(self.first_chunk // self.layout.shard_chunks)

    def each(self, first: int, stop: int) -> Iterator[tuple[int, ...]]:
        """Some of the reads, one after another.

        Parameters
        ----------
        first, stop
            The half-open range of their numbers, in ``[0, first_chunk.size]``.

        Returns
        -------
        Iterator
            Of each its `first_chunk`, `stop_chunk`, `first_window` and `stop_window`.
        """
        columns = self.first_chunk, self.stop_chunk, self.first_window, self.stop_window
        return zip(*(column[first:stop].tolist() for column in columns))

    @property
    def reads(self) -> int:
        """Of rows, or of each tile where chunks do not hold whole rows."""
        return self.first_chunk.size * len(self.tiles)

    @property
    def requests(self) -> int:
        """Reads, and the index, or the stamp, of each shard that has one."""
        return self.reads + (self.shards.size if self.layout.head_bytes else 0)

    @property
    def chunks(self) -> int:
        """Chunks that are read, checked and decoded, each once."""
        return int((self.stop_chunk - self.first_chunk).sum())

    @property
    def reads_rows(self) -> bool:
        """Whether rows are read as they lie in the file, and no more of them than is wanted."""
        layout = self.layout
        return (layout.codec == "raw" or layout.is_plain) and not (self.verify and layout.crc_bytes)

    @cached_property
    def row_span(self) -> tuple[int, int]:
        """Which bytes of a row are read: all, unless the rest is no part of a checksum and would cost more than it saves."""
        row_bytes = self.layout.row_bytes
        if self.columns is None or not self.reads_rows or self.layout.codec != "raw":
            return 0, row_bytes
        kept = np.arange(self.layout.row_shape[0])[self.columns]
        a_column = row_bytes // self.layout.row_shape[0]
        begin, end = (int(kept.min()) * a_column, (int(kept.max()) + 1) * a_column) if kept.size else (0, 0)
        return (begin, end) if row_bytes - (end - begin) > WIDE_GAP_BYTES else (0, row_bytes)

    @cached_property
    def bytes_read(self) -> int:
        """Bytes of the chunks with their checksums, and of the indexes, or stamps. For compressed chunks this is the most it can be."""
        layout, starts = self.layout, self.starts
        index = self.shards.size * (layout.stamp_bytes if self.goes_by_stamps else layout.head_bytes)
        if not self.reads_rows:
            return self.chunks * (len(self.tiles) * layout.tile_bytes + layout.crc_bytes) + index
        if not starts.size:
            return index
        if layout.is_plain:  # each window alone, but for what it shares with the one before
            own = np.minimum(np.diff(starts, append=starts[-1] + self.window), self.window)
            return int(own.sum()) * layout.tile_bytes // layout.chunk_rows * len(self.tiles) + index
        first = np.maximum(starts[self.first_window], self.first_chunk * layout.chunk_rows)
        stop = np.minimum(starts[self.stop_window - 1] + self.window, self.stop_chunk * layout.chunk_rows)
        return int((stop - first).sum()) * (self.row_span[1] - self.row_span[0]) + index

    @property
    def bytes_decoded(self) -> int:
        """Bytes of rows that are decoded; 0 where rows lie in the file as they are."""
        is_encoded = self.layout.codec != "raw" and not self.layout.is_plain
        return self.chunks * len(self.tiles) * self.layout.tile_bytes if is_encoded else 0

    @property
    def amplification(self) -> float:
        """Bytes read for each byte wanted; below 1 where windows overlap."""
        return self.bytes_read / self.bytes_wanted if self.bytes_wanted else 1.0

    @property
    def peak_bytes(self) -> int:
        """The most memory that the gather adds to the process."""
        return self.cost.total

    def check(self, limit: Room) -> None:
        """Refuse what cannot fit.

        Parameters
        ----------
        limit
            The most bytes that `peak_bytes` may be, and what says so.

        Raises
        ------
        MemoryLimitError
            With the arithmetic and the ways out.
        """
        if self.peak_bytes <= limit.n_bytes:
            return
        ways_out = "Raise memory_limit."
        if self.cost.batch:
            a_window = self.bytes_wanted // self.starts.size
            fitting = max(0, limit.n_bytes - self.peak_bytes + self.cost.batch) // a_window
            ways_out = (
                f"Gather at most {fitting:,} windows at once (batches(starts=...) does), choose columns=, raise memory_limit, "
                "or land the batch on disk with out=numpy.memmap(...)."
            )
        raise MemoryLimitError(
            f"This gather needs {self.cost}, but the limit is {format_bytes(limit.n_bytes)} ({limit.bound_by}). "
            f"{ways_out}"
        )

    def __repr__(self) -> str:
        return (
            f"<swath.Plan {self.starts.size:,} windows of {self.window} rows: {format_bytes(self.bytes_wanted)} wanted, "
            f"{format_bytes(self.bytes_read)} read in {self.requests:,} requests, peak {format_bytes(self.peak_bytes)}>"
        )

    def __str__(self) -> str:
        return "\n".join(f"{name:<9} {value}" for name, value in self._facts().items())

    def _repr_html_(self) -> str:
        facts = self._facts()
        what = f"{self.starts.size:,} windows of {self.window} rows: {facts.pop('batch')}"
        decoded = (
            format_bytes(self.bytes_decoded) if self.bytes_decoded else "nothing: rows lie in the file as they are"
        )
        most = "at most " if self.layout.codec != "raw" else ""
        bars = [
            Bar("wanted", format_bytes(self.bytes_wanted), (("", self.bytes_wanted, WANTED),)),
            Bar("read", f"{most}{facts.pop('read')}", (("", self.bytes_read, READ),)),
            Bar("decoded", decoded, (("", self.bytes_decoded, READ),)),
        ]
        cost = self.cost
        parts = (
            ("batch", cost.batch, WANTED),
            ("what is being read", cost.scratch, READ),
            ("plan and calls", cost.plan + cost.overhead, BESIDE),
        )
        peak = Bar("peak memory, at most", format_bytes(cost.total), parts)
        del facts["windows"], facts["wanted"], facts["peak"]
        return card("swath.Plan", what, facts, bar_chart(bars), bar_chart([peak]))

    def _facts(self) -> dict[str, str]:
        layout = self.layout
        tiles = "" if layout.tiles.are_rows else f", {len(self.tiles)} of {layout.tiles.count} tiles of a row"
        checked = "every chunk is checked" if self.verify else "unchecked"
        if not layout.crc_bytes:
            checked = "checked as its own codecs do"
        rows = {
            "windows": f"{self.starts.size:,} of {self.window} rows",
            "batch": f"{self.batch_shape} {self.layout.dtype}",
            "wanted": format_bytes(self.bytes_wanted),
            "read": f"{format_bytes(self.bytes_read)}, {self.amplification:.2f} bytes for each byte wanted",
            "requests": f"{self.requests:,} in {self.shards.size:,} shards, at most {self.threads} at once",
            "chunks": f"{self.chunks:,} of {layout.chunk_rows} rows ({format_bytes(layout.tile_bytes)}{tiles}), {layout.codec}, {checked}",
            "peak": str(self.cost),
        }
        rows["expected"] = self._describe_reach() if self.reach.is_remote else self._describe_disk()
        if self.ingested_bytes is not None:
            rows["ingested"] = self._describe_gain(self.ingested_bytes)
        return rows

    @property
    def expected_seconds(self) -> float:
        """What the requests take: rounds of them, one after another, or the bytes, whichever is longer. 0 for local files."""
        reach = self.reach
        if not self.starts.size or not reach.is_remote:
            return 0.0
        # A shard may have its index before its rows; the metadata are looked at meanwhile, or at the end.
        first = int(self.layout.head_bytes > 0 and not self.goes_by_stamps)
        last = int(not self.asks_meanwhile)
        rounds = first + math.ceil(self.reads / self.threads) + last
        return max(
            rounds * reach.latency_s, (first + 1 + last) * reach.latency_s + self.bytes_read / reach.bytes_a_second
        )

    @property
    def asks_meanwhile(self) -> bool:
        """Whether a gather asks if the array is still there while its rows come, and not when they are there.

        The shards of a store say whose they are, so that no byte of another can be among those of the versions that were met.
        """
        return self.reach.pins_versions and self.ingested_bytes is None

    @property
    def expected_dollars(self) -> float:
        """What the requests cost. 0 for local files."""
        return (self.requests + 1) * self.reach.dollars_a_request

    def _describe_reach(self) -> str:
        reach = self.reach
        network = f"{reach.latency_s * 1e3:.0f} ms and {reach.bytes_a_second / 1.25e8:g} Gbit/s"
        price = f"${reach.dollars_a_request * 1e6:.2f} a million requests"
        return f"{format_seconds(self.expected_seconds)} at {network}; ${self.expected_dollars:.2g} at {price}"

    def _describe_disk(self) -> str:
        cached, disk = (self.bytes_read / rate for rate in (CACHED_BYTES_A_SECOND, DISK_BYTES_A_SECOND))
        return (
            f"{format_seconds(cached)} from memory, {format_seconds(disk)} from a disk, at {CACHED_BYTES_A_SECOND / 1e9:g} and "
            f"{DISK_BYTES_A_SECOND / 1e9:g} GB/s"
        )

    def _describe_gain(self, ingested_bytes: int) -> str:
        """What `swath.ingest` would gain."""
        gain = self.bytes_read / max(1, ingested_bytes)
        how = f"{gain:.1f} times less: see swath.ingest" if gain > 1.5 else "no less, but every chunk checked"
        return f"a store of swath would read about {format_bytes(ingested_bytes)}, {how}"


def _joins(layout: Layout, columns: IntArray | slice | None, *, is_store: bool) -> bool:
    return is_store and layout.codec != "raw" and columns is None and 2 * layout.chunk_bytes <= JOIN_BYTES


def plan_gather(
    layout: Layout,
    starts: IntArray,
    window: int,
    *,
    columns: IntArray | slice | None,
    batch_in_memory: bool,
    limit: Room,
    verify: bool = True,
    direct: bool = False,
    is_store: bool = True,
    reach: Reach = LOCAL,
    most_threads: int | None = None,
) -> Plan:
    """Plan the gather of checked ``starts``, with as many of ``most_threads`` as ``limit`` allows, and at least one.

    By default there are as many as ``reach`` has requests at once.

    `Plan.check` refuses a plan that does not fit even so.
    """
    row_shape = layout.row_shape
    if columns is not None:
        kept = len(range(*columns.indices(row_shape[0]))) if isinstance(columns, slice) else columns.size
        row_shape = (kept, *row_shape[1:])
    batch_shape = (starts.size, window, *row_shape)
    batch_bytes = math.prod(batch_shape) * layout.dtype.itemsize

    is_raw = layout.codec == "raw"
    a_chunk = layout.chunk_bytes if is_raw else layout.tile_bytes
    spans = merge_windows(starts, window, layout.chunk_rows, reach.gap_bytes // a_chunk)
    block_bytes = max(reach.block_bytes, _LIBRARY_BLOCK_BYTES if layout.by_library else 0)
    read_chunks = max(1, min(block_bytes // a_chunk, _MOST_READ_CHUNKS))
    first, stop = cut(spans.first, spans.stop, layout.shard_chunks, read_chunks)
    lo, hi = windows_in(spans.starts, window, first * layout.chunk_rows, stop * layout.chunk_rows)
    if not (wanted := lo < hi).all():  # a gap was cut off from the windows around it
        first, stop, lo, hi = first[wanted], stop[wanted], lo[wanted], hi[wanted]

    # Sorting and cutting hold a few temporaries of the same length, most of them gone when the batch is made.
    plan_bytes = 2 * sum(array.nbytes for array in (spans.starts, spans.order, first, stop, lo, hi))
    # What a thread holds of one read: its bytes, and what it decodes to; direct I/O lands in whole blocks first.
    most_chunks = int((stop - first).max()) if first.size else 1
    most_windows = int((hi - lo).max(initial=0))
    held = most_chunks * a_chunk
    if layout.is_plain and first.size:  # rows are read alone: at most all from the first to the last that a read wants
        rows = np.minimum(spans.starts[hi - 1] + window, stop * layout.chunk_rows) - np.maximum(
            spans.starts[lo], first * layout.chunk_rows
        )
        held = int(rows.max()) * a_chunk // layout.chunk_rows
    elif layout.by_library:
        held += _LIBRARY_COPIES * held
    elif is_raw:
        if (
            batch_in_memory
            and columns is None
            and window * layout.row_bytes > SMALL_WINDOW_BYTES
            and most_windows <= MOST_PIECES
        ):
            # What lands in the batch is not held besides: only chunks of which a part is wanted, and gaps.
            held = min(held, (most_windows + 1) * (reach.gap_bytes + 2 * a_chunk))
    else:  # neighbours are fetched with the gaps between them
        group = 1  # chunks that are decoded together; of what is far away each read is handed out by itself
        if _joins(layout, columns, is_store=is_store):
            group = min(JOIN_BYTES // a_chunk, most_chunks if reach.is_remote else int((stop - first).sum()))
        held = max(most_chunks, group) * a_chunk + min(reach.block_bytes, (most_chunks - 1) * reach.gap_bytes)
        held += layout.decode_copies * max(1, group) * a_chunk
        is_zstd = layout.codec == "zstd"
        held += min(_ZSTD_SLACK, _ZSTD_COPIES * a_chunk) if is_zstd else min(_DECODER_SLACK, _DECODER_COPIES * a_chunk)
    if columns is None and window * layout.row_bytes <= SMALL_WINDOW_BYTES:
        beside = most_windows * _PLACE_BYTES + min(TEMPORARY_BYTES, most_windows * window * layout.row_bytes)
    else:
        beside = 0
    by_stamps = is_store and is_raw and reach.pins_versions
    known_bytes = _known_bytes(layout, first, by_stamps=by_stamps)
    scratch = held * (2 if direct else 1) + beside + _THREAD_OVERHEAD
    if reach.is_remote:
        scratch += _COPIES_ARRIVING * most_chunks * (a_chunk + layout.crc_bytes) + _REQUEST_OVERHEAD
        if by_stamps:  # another thread may ask for a stamp meanwhile
            scratch += _THREAD_OVERHEAD + _REQUEST_OVERHEAD
    most_threads = reach.requests if most_threads is None else most_threads
    fixed = (batch_bytes if batch_in_memory else 0) + plan_bytes + _CALL_OVERHEAD + known_bytes
    threads = int(max(1, min(1 if layout.by_library else most_threads, (limit.n_bytes - fixed) // scratch, first.size)))
    cost = GatherCost(
        batch=batch_bytes if batch_in_memory else 0,
        plan=plan_bytes,
        scratch=threads * scratch,
        overhead=_CALL_OVERHEAD + known_bytes,
    )
    return Plan(
        layout=layout,
        window=window,
        columns=columns,
        batch_shape=batch_shape,
        starts=spans.starts,
        order=spans.order,
        first_chunk=first,
        stop_chunk=stop,
        first_window=lo,
        stop_window=hi,
        verify=verify,
        direct=direct,
        tiles=layout.tiles.holding(columns),
        reach=reach,
        threads=threads,
        cost=cost,
        ingested_bytes=None if is_store else _ingested_bytes(layout, starts.size, window),
        goes_by_stamps=by_stamps,
    )


def _ingested_bytes(layout: Layout, windows: int, window: int) -> int:
    """What random windows would read of a store: whole rows, in the chunks that it would have."""
    return windows * (choose_chunk_rows(window, layout.row_bytes) + window - 1) * layout.row_bytes


def _known_bytes(layout: Layout, first_chunk: IntArray, *, by_stamps: bool) -> int:
    """Memory of the shard indexes that are kept while reading (see `swath.shard.IndexCache`), or of versions (`swath.stamps`)."""
    shards = _distinct(first_chunk // layout.shard_chunks).size
    if by_stamps:
        return shards * _VERSION_BYTES
    return max(min(INDEX_CACHE_BYTES, shards * layout.head_bytes), layout.head_bytes if shards else 0)


def _distinct(ascending: IntArray) -> IntArray:
    """Each value once: `numpy.unique` would sort what is sorted."""
    return ascending[np.append(True, ascending[1:] != ascending[:-1])] if ascending.size else ascending


def cut(first: IntArray, stop: IntArray, shard_chunks: int, read_chunks: int) -> tuple[IntArray, IntArray]:
    """Cut runs of chunks ``[first, stop)`` at the borders of shards, then into reads of at most ``read_chunks``.

    >>> [edge.tolist() for edge in cut(np.array([6, 20]), np.array([13, 21]), shard_chunks=8, read_chunks=4)]
    [[6, 8, 12, 20], [8, 12, 13, 21]]
    """
    shard = first // shard_chunks
    run, k = expand((stop - 1) // shard_chunks - shard + 1)
    border = (shard[run] + k) * shard_chunks
    first, stop = np.maximum(first[run], border), np.minimum(stop[run], border + shard_chunks)

    run, k = expand(-((first - stop) // read_chunks))
    first = first[run] + k * read_chunks
    return first, np.minimum(first + read_chunks, stop[run])
