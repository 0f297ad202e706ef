"""How does a source become a store, or the end of one?

1. Open the source, choose the layout, and refuse what cannot be stored or has no room.
2. Write its shards (`swath.writing`), or those of an iterator of blocks (`swath.streaming`).
3. Commit (`swath.commit`).

A group is several arrays of as many rows each, written and committed together. A shard that is written stays: what was
interrupted, run again, carries on with the shards that are missing.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from swath.cluster import pickled, write_on_workers
from swath.committing import appending, building, check_vacant, locked, separators_for, settle
from swath.documents import longer_files, new_files, pending_facts
from swath.errors import OptionError, SourceError
from swath.gather import gather_now
from swath.gathered import by_engine, is_far
from swath.html import shown_place
from swath.labels import Labels
from swath.layout import CodecName, Location, choose_codec, choose_layout
from swath.memory import Room, machine_bytes, resolve_limit
from swath.metadata import (
    METADATA,
    Facts,
    attributes_of_others,
    check_name,
    encode_metadata,
)
from swath.plan import CACHED_BYTES_A_SECOND, DISK_BYTES_A_SECOND, Reach
from swath.progress import progress_bar
from swath.sample import sample_codecs
from swath.sources import Source, open_source, parse_dtype
from swath.sources.concatenated import ConcatenatedSource
from swath.sources.converted import Casting, check_casting
from swath.sources.groups import group_members
from swath.sources.memory import ArraySource
from swath.sources.segmented import in_segments
from swath.sources.sliced import take_rows
from swath.storage import Folder
from swath.store import Store, group_above, open_members, open_store
from swath.streaming import Blocks, write_blocks
from swath.windows import check_usual_window
from swath.workers import find_client, team_of
from swath.writing import Part, Writer, on_threads, write_parts

_log = logging.getLogger(__name__)

# What a source may hold so as not to decode the same twice, as a share of the memory limit; the rest is for shards.
_CACHE_IN_LIMIT = 0.5

# An array of this share of the memory stays in the page cache beside what else is there.
_FITS = 0.5

# A shard of default size shall leave room for several workers within the memory limit.
_SHARDS_IN_LIMIT = 8


_NO_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class Options:
    """How arrays are stored and read."""

    window: int = 16
    chunk_rows: int | Literal["auto"] = "auto"
    shard_rows: int | Literal["auto"] = "auto"
    codec: CodecName | Literal["auto"] = "auto"
    dtype: DTypeLike | None = None
    casting: Casting = "exact"
    row_shape: Sequence[int] | None = None
    rows: slice | None = None
    segments: ArrayLike | None = None
    memory_limit: int | str | None = None
    progress: bool | None = None
    resume: bool = True
    overwrite: bool = False
    client: Any = None


def ingest(source: Any, place: Folder, options: Options) -> None:
    """Write ``source`` as a store at ``place``; parameters and errors as `swath.ingest` describes them."""
    check_vacant(place, overwrite=options.overwrite)
    check_alone(place)
    limit = resolve_limit(options.memory_limit)
    opened = open_given(source, options, limit)
    if isinstance(opened, Blocks):
        if (options.dtype, options.row_shape, options.rows) != (None, None, None):
            raise OptionError(
                "dtype, row_shape and rows mean nothing for an iterator. Give blocks as they shall be stored."
            )
        _ingest_blocks(opened, place, options, limit)
    else:
        _ingest_sources({"": opened}, place, options, limit)


def ingest_group(
    sources: Mapping[str, Any] | str | os.PathLike[str],
    place: Folder,
    options: Options,
    labels: Labels = _NO_LABELS,
) -> None:
    """Write ``sources`` as a group at ``place``; parameters and errors as `swath.ingest_group` describes them."""
    check_vacant(place, overwrite=options.overwrite)
    check_alone(place)
    limit = resolve_limit(options.memory_limit)
    opened = _open_aligned(sources, options, limit)
    for name, source in labels.beside.items():
        check_name(name)
        opened[name] = open_source(source)
    _ingest_sources(opened, place, options, limit, labels)


def append(source: Any, place: Folder, options: Options, timeout: float) -> None:
    """Append ``source`` to the store at ``place``; parameters and errors as `RowArray.append` describes them."""
    limit = resolve_limit(options.memory_limit)
    check_alone(place)
    opened = open_given(source, _like(options, open_store(place)), limit)
    with locked(place, timeout=timeout) as place:
        settled = settle(place)
        store = open_store(place)
        _check_takes(opened.first.shape if isinstance(opened, Blocks) else opened.shape, opened.dtype, store)
        # The call that was killed may be this one.
        done = store.facts.sources[-1] if settled else None
        if isinstance(opened, Blocks):
            _append_blocks(opened, place, store, options, limit, done)
        elif opened.describe() != done:
            _append_sources({"": opened}, place, {"": store}, options, limit)


def append_group(
    sources: Mapping[str, Any] | str | os.PathLike[str], place: Folder, options: Options, timeout: float
) -> None:
    """Append ``sources`` to the group at ``place``; parameters and errors as `RowGroup.append` describes them."""
    limit = resolve_limit(options.memory_limit)
    stores, _ = open_members(place)
    opened = _open_aligned(sources, options, limit, stores)
    with locked(place, timeout=timeout) as place:
        settled = settle(place)
        stores, _ = open_members(place)
        if settled and all(stores[name].facts.sources[-1] == opened[name].describe() for name in stores):
            return
        for name, store in stores.items():
            _check_takes(opened[name].shape, opened[name].dtype, store)
        _append_sources({name: opened[name] for name in stores}, place, stores, options, limit)


def _ingest_sources(
    sources: Mapping[str, Source], place: Folder, options: Options, limit: Room, labels: Labels = _NO_LABELS
) -> None:
    pending = pending_facts(place) if options.resume else {}
    separators = separators_for(place, sources)
    parts = []
    for name, source in sources.items():
        facts = new_facts(source, place.reach, options, limit, pending.get(name), separators[name])
        parts.append(Part(name, replace(facts, dims=labels.dims.get(name)), source, 0))
    parts, writers = _writers(parts, options, limit, remote=place.reach.is_remote)
    for part in parts:
        _tell(place.within(part.name), part.facts)
    with building(
        place, new_files(parts, labels), separators, overwrite=options.overwrite, resume=options.resume
    ) as build:
        write_parts("ingest", build, parts, writers, options.progress)
        _check_unchanged(sources, parts)


def _append_sources(
    sources: Mapping[str, Source], place: Folder, stores: Mapping[str, Store], options: Options, limit: Room
) -> None:
    parts = []
    for name, source in sources.items():
        tail, first_row = _tail(stores[name], limit)
        limit = replace(limit, n_bytes=limit.n_bytes - tail.nbytes)
        facts = _longer(stores[name].facts, source)
        joined = ConcatenatedSource((ArraySource(tail, tail.dtype), source)) if len(tail) else source
        parts.append(Part(name, facts, joined, first_row))
    parts, writers = _writers(parts, options, limit, remote=place.reach.is_remote)
    with appending(place, longer_files(parts, stores), next(iter(stores.values())).encoded) as build:
        write_parts("append", build, parts, writers, options.progress)
        _check_unchanged(sources, parts)


def _writers(parts: Sequence[Part], options: Options, limit: Room, *, remote: bool) -> tuple[list[Part], list[Writer]]:
    """The workers of a dask cluster for those arrays whose sources they can read, and threads for the others."""
    client = find_client(options.client)
    chosen: list[Part] = []
    writers: list[Writer] = []
    for part in parts:
        encoded = None if client is None else pickled(part)
        if encoded is None:
            own = replace(part, source=by_engine(part.source, part.facts.layout.shard_rows))
            chosen.append(own)
            writers.append(on_threads(own, limit, remote=remote, far=is_far(own.source)))
        else:
            chosen.append(part)
            writers.append(partial(write_on_workers, client, encoded))
    return chosen, writers


def _ingest_blocks(blocks: Blocks, place: Folder, options: Options, limit: Room) -> None:
    """Write as it comes: nobody can read the blocks again, so that a run that was interrupted begins anew."""
    first = ArraySource(blocks.first, blocks.dtype)
    separators = separators_for(place, [""])
    facts = new_facts(first, place.reach, options, limit, None, separators[""])
    facts = replace(
        facts, layout=replace(facts.layout, n_rows=0), segments=(), sources=(blocks.describe(),), lengths=()
    )
    _tell(place, facts)
    with (
        building(place, {}, separators, overwrite=options.overwrite, resume=False) as build,
        progress_bar("ingest", None, options.progress) as advance,
    ):
        facts = write_blocks(build.folder, facts, 0, blocks, advance)
        build.files = {METADATA: encode_metadata(replace(facts, sources=(blocks.describe_given(),)))}


def _append_blocks(
    blocks: Blocks, place: Folder, store: Store, options: Options, limit: Room, done: Mapping[str, Any] | None
) -> None:
    """Append what comes. Only at its end is it known whether an earlier run has ``done`` the same."""
    tail, first_row = _tail(store, limit)
    facts = replace(store.facts, sources=(*store.facts.sources, blocks.describe()))
    with (
        appending(place, {}, store.encoded) as build,
        progress_bar("append", None, options.progress) as advance,
    ):
        facts = write_blocks(build.folder, facts, first_row, itertools.chain([tail], blocks), advance)
        described = blocks.describe_given()
        if described != done:
            facts = replace(facts, sources=(*facts.sources[:-1], described))
            build.files = {METADATA: encode_metadata(facts, attributes_of_others(store.encoded))}


def open_given(source: Any, options: Options, limit: Room) -> Source | Blocks:
    """The source of an ingest, or its blocks."""
    if isinstance(source, Iterator):
        if options.segments is not None:
            raise OptionError("The rows of an iterator are not known before it ends. Leave out segments.")
        return Blocks.of(source)
    check_casting(options.casting)
    opened = open_source(
        source,
        dtype=None if options.dtype is None else parse_dtype(options.dtype),
        row_shape=options.row_shape,
        casting=options.casting,
        cache_bytes=int(limit.n_bytes * _CACHE_IN_LIMIT),
    )
    taken = opened if options.rows is None else take_rows(opened, options.rows)
    return taken if options.segments is None else in_segments(taken, options.segments)


def _like(options: Options, store: Store) -> Options:
    """For a source whose rows are to be those of a store."""
    return replace(options, dtype=store.layout.dtype, row_shape=store.layout.row_shape)


def _open_aligned(
    sources: Mapping[str, Any] | str | os.PathLike[str],
    options: Options,
    limit: Room,
    stores: Mapping[str, Store] | None = None,
) -> dict[str, Source]:
    """Sources with as many rows each, for new arrays, or for those that there are.

    Raises
    ------
    OptionError, SourceError
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = group_members(sources, cache_bytes=int(limit.n_bytes * _CACHE_IN_LIMIT))
    if not isinstance(sources, Mapping) or not sources:
        raise OptionError(
            f"The sources of a group are {sources!r:.100}. Give a mapping of names to sources, or a file of several arrays."
        )
    if stores is not None and sources.keys() != stores.keys():
        raise SourceError(
            f"The sources are {sorted(sources)}, but the arrays of the group are {sorted(stores)}. Give one for each."
        )
    opened: dict[str, Source] = {}
    for name, source in sources.items():
        check_name(name)
        each = open_given(source, options if stores is None else _like(options, stores[name]), limit)
        if isinstance(each, Blocks):
            raise SourceError(
                f"The source of {name!r} is an iterator, whose length is not known before it ends. Ingest it by itself first."
            )
        opened[name] = each
    lengths = {name: source.shape[0] for name, source in opened.items()}
    if len(set(lengths.values())) > 1:
        raise SourceError(f"The arrays of a group have {lengths} rows. Give sources of as many rows each.")
    return opened


def _check_takes(shape: tuple[int, ...], dtype: np.dtype[Any], store: Store) -> None:
    store.check_writable()
    layout = store.layout
    if shape[1:] != layout.row_shape or dtype != layout.dtype:
        raise SourceError(
            f"The source has rows of shape {shape[1:]} and dtype {dtype}, but those of {store.url} have "
            f"{layout.row_shape} and {layout.dtype}. Give rows that are alike."
        )


def check_alone(place: Folder) -> None:
    """Refuse to write one array of a group without the others.

    Raises
    ------
    OptionError
    """
    if group_above(place):
        raise OptionError(
            f"{place.url} is an array of the group {place.above().url}, whose arrays have as many rows each. Write to the group."
        )


def _check_unchanged(sources: Mapping[str, Source], parts: Sequence[Part]) -> None:
    for part in parts:
        described = part.facts.sources[-1]
        if sources[part.name].describe() != described:
            name = described.get("path", described["kind"])
            raise SourceError(
                f"The source changed while it was read ({name}). Run the call again, once nothing writes to it."
            )


def new_facts(
    source: Source, reach: Reach, options: Options, limit: Room, pending: Facts | None, separator: str
) -> Facts:
    """What a store of a source will be, so far away."""
    window = check_usual_window(options.window)
    described = source.describe()
    codec, reason = _choose_codec(options.codec, source, reach, window, pending, described)
    layout = choose_layout(
        source.shape,
        source.dtype,
        window=window,
        chunk_rows=options.chunk_rows,
        shard_rows=options.shard_rows,
        codec=codec,
        most_shard_bytes=max(1, _most_shard_bytes(source, options, limit)),
        most_rate=reach.bytes_a_second,
    )
    layout = replace(layout, separator=separator)
    return Facts(layout, window, source.segments, (described,), source.shape[:1], reason)


def _tell(place: Folder, facts: Facts) -> None:
    """Log what was chosen for a new store."""
    layout = facts.layout
    _log.info(
        "ingest into %s: rows of %s %s, for windows of %d; chunks of %d rows, shards of %d, %s",
        shown_place(place.url),
        layout.row_shape,
        layout.dtype,
        facts.window,
        layout.chunk_rows,
        layout.shard_rows,
        facts.reason,
    )


def _most_shard_bytes(source: Source, options: Options, limit: Room) -> int:
    """What a shard of default size may be, so that there is room for it and, encoded, for it again: here, or in each worker."""
    client = find_client(options.client)
    most = (limit.n_bytes - source.read_bytes) // _SHARDS_IN_LIMIT
    return most if client is None else min(most, (team_of(client).thread_bytes - source.read_bytes) // 2)


def _longer(facts: Facts, source: Source) -> Facts:
    """What a store is with a source behind it."""
    return replace(
        facts,
        layout=replace(facts.layout, n_rows=facts.layout.n_rows + source.shape[0]),
        segments=(*facts.segments, *source.segments),
        sources=(*facts.sources, source.describe()),
        lengths=(*facts.lengths, source.shape[0]),
    )


def _tail(store: Store, limit: Room) -> tuple[NDArray[Any], int]:
    """The rows of the last shard, if it is not full, and the first row of the shard that comes next."""
    layout = store.layout
    first = layout.n_rows - layout.n_rows % layout.shard_rows
    n_rows = layout.n_rows - first
    if not n_rows:
        return np.empty((0, *layout.row_shape), layout.dtype), first
    return gather_now(store, [first], n_rows, None, None, limit, "always", "auto")[0], first


def _choose_codec(
    codec: CodecName | Literal["auto"],
    source: Source,
    reach: Reach,
    window: int,
    pending: Facts | None,
    described: dict[str, Any],
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
    if pending is not None and (pending.sources[0], pending.window) == (described, window):
        kept: Any = pending.layout.codec
        return kept, pending.reason
    if fits_in_cache(source, reach):
        return "raw", "raw: the array fits in memory, from where no codec gathers faster"
    row_bytes = source.dtype.itemsize * math.prod(source.shape[1:])
    cores, most_rate = len(os.sched_getaffinity(0)), reach.bytes_a_second
    location = Location(DISK_BYTES_A_SECOND, CACHED_BYTES_A_SECOND, machine_bytes(), cores, most_rate)
    return choose_codec(window, source.shape[0], row_bytes, sample_codecs(source, window, most_rate), location)


def fits_in_cache(source: Source, reach: Reach) -> bool:
    """Whether the rows of a store so far away stay in the page cache."""
    return not reach.is_remote and math.prod(source.shape) * source.dtype.itemsize <= _FITS * machine_bytes()
