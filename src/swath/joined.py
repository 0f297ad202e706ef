"""How are chunks that take less time to decode than a call takes decoded by few calls?

Reads of one shard are put in groups. Of a group each range of chunks is fetched behind the one before it, all checksums are compared, and
all chunks are decoded by one call: threads hand the interpreter's lock round at each, and what is reckoned for each range by itself holds
it. So what can be is reckoned by numpy for all reads of a task. Windows of 256 KB in memory, lz4 in chunks of 4 rows of 16 KB, two cores:
1.4 GB/s chunk by chunk with one thread, and no more with two; 2.7 GB/s with two.

Whatever is unusual makes a group fail, without a reason: who reads chunk by chunk (`swath.encoded`) finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from swath.blosc_buffers import join_room
from swath.decoder import Decoder
from swath.plan import JOIN_BYTES, Plan, cut
from swath.storage import Buffer, File, Scratch
from swath.windows import IntArray, expand, windows_in

Groups = list[tuple[int, int]]
"""Half-open ranges of the numbers of reads."""


@dataclass(frozen=True, slots=True)
class Join:
    """Reads of one shard in groups, and what of the rows of each goes where."""

    first_chunk: IntArray
    stop_chunk: IntArray
    """Of each read, of at most as many chunks as a group may have."""
    first_window: IntArray
    stop_window: IntArray
    """By position in the starts of the plan, as in `Plan`."""
    groups: Groups
    copies: list[list[tuple[int, int, int]]]
    """Of each group: where it goes in the batch, where it comes from in the rows of the group, and how much: all in bytes."""

    def reads(self, group: int) -> Iterator[tuple[int, ...]]:
        """The reads of a group, as `Plan.each` has them."""
        columns = self.first_chunk, self.stop_chunk, self.first_window, self.stop_window
        return zip(*(column[slice(*self.groups[group])].tolist() for column in columns))


def join_reads(plan: Plan, first: int, stop: int) -> Join:
    """Put the reads ``[first, stop)`` of a plan in groups."""
    layout, window, most = plan.layout, plan.window, JOIN_BYTES // plan.layout.chunk_bytes
    chunk_rows, row_bytes = layout.chunk_rows, layout.row_bytes
    first_chunk, stop_chunk = plan.first_chunk[first:stop], plan.stop_chunk[first:stop]
    lo, hi = plan.first_window[first:stop], plan.stop_window[first:stop]
    if (stop_chunk - first_chunk).max() > most:
        first_chunk, stop_chunk = cut(first_chunk, stop_chunk, layout.shard_chunks, most)
        lo, hi = windows_in(plan.starts, window, first_chunk * chunk_rows, stop_chunk * chunk_rows)
        wanted = lo < hi
        first_chunk, stop_chunk, lo, hi = first_chunk[wanted], stop_chunk[wanted], lo[wanted], hi[wanted]
    counts = stop_chunk - first_chunk
    groups = _groups(counts, most)
    # A line for each window of each read.
    read, k = expand(hi - lo)
    which = lo[read] + k
    starts, row0 = plan.starts[which], first_chunk[read] * chunk_rows
    begins = np.maximum(row0 - starts, 0)
    ends = np.minimum(np.minimum(stop_chunk[read] * chunk_rows, layout.n_rows) - starts, window)
    targets = plan.order[which] * window + begins
    sources = _within_groups(counts * chunk_rows, groups)[read] + starts + begins - row0
    lines = list(zip(*((rows * row_bytes).tolist() for rows in (targets, sources, ends - begins))))
    edges = [0, *np.cumsum(hi - lo).tolist()]
    return Join(first_chunk, stop_chunk, lo, hi, groups, [lines[edges[a] : edges[b]] for a, b in groups])


def _groups(counts: IntArray, most: int) -> Groups:
    """Neighbours that have at most so many chunks together."""
    groups, begin, total = [], 0, 0
    for i, count in enumerate(counts.tolist()):
        if total + count > most:
            groups.append((begin, i))
            begin, total = i, 0
        total += count
    groups.append((begin, counts.size))
    return groups


def _within_groups(sizes: IntArray, groups: Groups) -> IntArray:
    """Where each of these sizes begins in its group, if they lie one after another."""
    begins = np.cumsum(sizes) - sizes
    heads, stops = np.array(groups).T
    within: IntArray = begins - np.repeat(begins[heads], stops - heads)
    return within


def decoded_groups(
    file: File,
    offsets: IntArray,
    lengths: IntArray,
    counts: IntArray,
    groups: Groups,
    decoder: Decoder,
    scratch: Scratch,
) -> Iterator[Buffer | None]:
    """The bytes of all rows of the chunks of each group; None where they can't be had so.

    ``offsets`` and ``lengths`` are of the chunks of all reads, one after another; of each read, which has ``counts``, they lie so in
    the file too.
    """
    edges = np.cumsum(counts)
    heads = edges - counts
    begins = offsets[heads]
    sizes = offsets[edges - 1] + lengths[edges - 1] - begins
    heads_of_groups = [a for a, _ in groups]
    most_chunks = int(np.add.reduceat(counts, heads_of_groups).max())
    room = join_room(most_chunks, decoder.n_bytes)
    places = room + _within_groups(sizes, groups)
    encoded = scratch.take("encoded", room + int(np.add.reduceat(sizes, heads_of_groups).max()))
    decoded = scratch.take("chunk", most_chunks * decoder.n_bytes)
    moved = offsets + np.repeat(places - begins, counts)
    chunk_begins, chunk_ends = moved.tolist(), (moved + lengths).tolist()
    first_chunks = [*heads.tolist(), int(edges[-1])]
    reads = list(zip(places.tolist(), sizes.tolist(), begins.tolist()))
    for a, b in groups:
        i, j = first_chunks[a], first_chunks[b]
        came = all(
            file.read_into([encoded[place : place + size]], size, begin) == size for place, size, begin in reads[a:b]
        )
        out = decoded[: (j - i) * decoder.n_bytes]
        if came and decoder.decode_joined(encoded, chunk_begins[i:j], chunk_ends[i:j], out):
            yield out
        else:
            yield None
