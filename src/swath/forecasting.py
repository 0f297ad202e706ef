"""What would an ingest write, what would it need, and how long would it take? Nothing is written to find out.

1. Open the source and choose the layout, as an ingest does, with the same refusals.
2. Count what the shards take: exactly where rows are stored as they are, else by what some rows become.
3. Read and encode some rows of the source, which tells how fast that goes here.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from swath.commit import part_of
from swath.committing import check_vacant, separators_for
from swath.documents import pending_facts
from swath.errors import DiskFullError, OptionError
from swath.gathered import by_engine
from swath.ingestion import Options, check_alone, fits_in_cache, new_facts, open_given
from swath.layout import CodecName, Layout, read_amplification
from swath.memory import Room, format_bytes, format_seconds, resolve_limit
from swath.metadata import Facts, encode_metadata
from swath.shard import encode_shard
from swath.sources import Source
from swath.sources.concatenated import ConcatenatedSource
from swath.sources.converted import Casting, ConvertedSource
from swath.sources.segmented import SegmentedSource
from swath.sources.sliced import SlicedSource
from swath.sources.spooled import temporary_folder
from swath.storage import Folder, LocalFolder, place_of
from swath.streaming import Blocks
from swath.writing import Part, buffer_bytes, missing_shards, stored_bytes, workers_for

# Some rows from some places: enough that neither one odd place nor one interruption decides, some tenths of a second at most.
_PLACES = 4
_BYTES_A_PLACE = 2**23

# A local disk takes so many bytes a second while they are read and summed too (benchmarks/results/ingest.json: 0.8 to 1.3).
_WRITE_RATE = 0.9e9


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an ingest would write, need and take. Made by `swath.forecast`; ``print(forecast)`` shows it as a table."""

    url: str
    layout: Layout
    window: int
    reason: str
    """Why the codec was chosen."""
    segments: int
    store_bytes: int
    """Of all files of the store: exact for ``"raw"``, else by a sample."""
    written_bytes: int
    """Of them, what an interrupted ingest has left, with which this one would carry on."""
    free_bytes: int | None
    """On the disk of the store; None in an object store."""
    temporary_bytes: int
    """Of a file without a name in ``temporary_folder``, for a source whose chunks do not fit in memory; else 0."""
    temporary_folder: str
    temporary_free_bytes: int
    same_disk: bool
    """Whether both are on one disk."""
    memory_bytes: int
    """What the ingest would add to the process."""
    threads: int
    replaces: bool
    """Whether an array is at ``url``, which stays until the new one is whole, and then goes."""
    sampled_bytes: int
    """Rows that were read to tell the rates; 0 where that would have written a temporary file."""
    read_rate: float | None
    """Bytes of rows a second, as measured with what was sampled, of all threads."""
    encode_rate: float | None
    """The same of checksums and the codec."""
    write_rate: float
    """Bytes a second, as assumed of the place."""

    @property
    def source_bytes(self) -> int:
        """Of the rows."""
        return self.layout.n_rows * self.layout.row_bytes

    @property
    def needed_bytes(self) -> int:
        """On the disk of the store, beside what is there."""
        return self.store_bytes - self.written_bytes + (self.temporary_bytes if self.same_disk else 0)

    @property
    def expected_s(self) -> float | None:
        """The slowest of reading, encoding and writing, which overlap; None where nothing was sampled."""
        if self.read_rate is None or self.encode_rate is None:
            return None
        left = 1 - self.written_bytes / self.store_bytes
        steps = (
            self.source_bytes / self.read_rate,
            self.source_bytes / self.encode_rate,
            self.store_bytes / self.write_rate,
        )
        return left * max(steps)

    @property
    def fits(self) -> bool:
        """Whether the disks have room."""
        beside = self.same_disk or self.temporary_bytes <= self.temporary_free_bytes
        return beside and (self.free_bytes is None or self.needed_bytes <= self.free_bytes)

    def check(self) -> None:
        """Refuse what has no room.

        Raises
        ------
        DiskFullError
        """
        if self.fits:
            return
        if self.free_bytes is not None and self.needed_bytes > self.free_bytes:
            where, free, needed = self.url, self.free_bytes, self.needed_bytes
        else:
            where, free, needed = self.temporary_folder, self.temporary_free_bytes, self.temporary_bytes
        raise DiskFullError(
            f"The disk of {where} has {format_bytes(free)} free, but the ingest needs {format_bytes(needed)} there. "
            "Make room, or choose another place (TMPDIR= for temporary files)."
        )

    def __str__(self) -> str:
        layout = self.layout
        about = "" if layout.codec == "raw" else "about "
        free = "" if self.free_bytes is None else f" of {format_bytes(self.free_bytes)} free"
        rows = {
            "store": self.url + (", in place of the array that is there" if self.replaces else ""),
            "array": f"{layout.shape} {layout.dtype}, {format_bytes(self.source_bytes)}, segments: {self.segments}",
            "chunks": f"{layout.n_chunks:,} of {layout.chunk_rows} rows ({format_bytes(layout.chunk_bytes)}), "
            f"{read_amplification(layout.chunk_rows, self.window):.2f} bytes read for each byte of a random window of {self.window}",
            "shards": f"{layout.n_shards:,} of {layout.shard_rows:,} rows ({format_bytes(layout.shard_rows * layout.row_bytes)})",
            "codec": self.reason,
            "disk": f"{about}{format_bytes(self.store_bytes)}{free}",
        }
        if self.written_bytes:
            rows["there"] = (
                f"{about}{format_bytes(self.written_bytes)} from an interrupted ingest, which this one carries on"
            )
        rows["temporary"] = (
            f"{format_bytes(self.temporary_bytes)} of {format_bytes(self.temporary_free_bytes)} free in {self.temporary_folder}"
            if self.temporary_bytes
            else "nothing"
        )
        rows["memory"] = f"{format_bytes(self.memory_bytes)}, threads: {self.threads}"
        rows["time"] = self._describe_time()
        return "\n".join(f"{name:<9}  {value}" for name, value in rows.items())

    def _describe_time(self) -> str:
        if self.expected_s is None or self.read_rate is None or self.encode_rate is None:
            return "unknown: to read a sample would write the temporary file"
        told = "less than a second" if self.expected_s < 1 else f"about {format_seconds(self.expected_s)}"
        rates = f"reads {_rate(self.read_rate)} and encodes {_rate(self.encode_rate)}, as {format_bytes(self.sampled_bytes)} of it did"
        return f"{told} ({rates}; writes {_rate(self.write_rate)}, if the disk does)"


def forecast(
    source: Any,
    url: str | os.PathLike[str],
    *,
    window: int = 16,
    chunk_rows: int | Literal["auto"] = "auto",
    shard_rows: int | Literal["auto"] = "auto",
    codec: CodecName | Literal["auto"] = "auto",
    dtype: DTypeLike | None = None,
    casting: Casting = "exact",
    row_shape: Sequence[int] | None = None,
    rows: slice | None = None,
    segments: ArrayLike | None = None,
    memory_limit: int | str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Forecast:
    """Say what `swath.ingest` would write, need and take with the same arguments. Nothing is written.

    Reads metadata and up to 32 MiB of rows. It forecasts threads of this process, and not the workers of a cluster.
    Parameters and errors are those of `swath.ingest`.

    Raises
    ------
    OptionError
        The source is an iterator, which can be read once.
    SwathError
        What `swath.ingest` would raise before it writes; that a disk has no room is said by `Forecast.check`.

    Examples
    --------
    >>> import swath, numpy as np
    >>> found = swath.forecast(np.zeros((100_000, 50)), tmp / "forecast.zarr")
    >>> found.layout.codec, found.store_bytes // 10**6, found.fits, (tmp / "forecast.zarr").exists()
    ('raw', 40, True, False)
    """
    options = Options(
        window=window,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        codec=codec,
        dtype=dtype,
        casting=casting,
        row_shape=row_shape,
        rows=rows,
        segments=segments,
        memory_limit=memory_limit,
        resume=resume,
        overwrite=overwrite,
    )
    place = place_of(url, storage_options)
    check_vacant(place, overwrite=overwrite)
    check_alone(place)
    limit = resolve_limit(memory_limit)
    opened = open_given(source, options, limit)
    if isinstance(opened, Blocks):
        raise OptionError(
            "An iterator can be read once, and has no known length. Give a source that can be opened again."
        )
    return _forecast(opened, place, options, limit)


def _forecast(source: Source, place: Folder, options: Options, limit: Room) -> Forecast:
    pending = pending_facts(place).get("") if options.resume else None
    separator = separators_for(place, [""])[""]
    temporary = _temporary_bytes(source)
    reach = place.reach
    if temporary and options.codec == "auto" and not fits_in_cache(source, reach):
        # An ingest compresses a sample, for which it writes the temporary file.
        options = replace(options, codec="raw")
        facts = new_facts(source, reach, options, limit, pending, separator)
        facts = replace(facts, reason="raw, if a sample says so when the temporary file has been written; else smaller")
    else:
        facts = new_facts(source, reach, options, limit, pending, separator)
    layout, remote = facts.layout, reach.is_remote
    source = by_engine(source, layout.shard_rows)
    temporary = _temporary_bytes(source)
    part = Part("", facts, source, 0)
    threads = workers_for(part, limit, remote=remote)
    sampled, read_s, encode_s, ratio = (0, 0.0, 0.0, 1.0) if temporary else _sample(facts, source)
    cores = len(os.sched_getaffinity(0))
    metadata = encode_metadata(facts)
    stored = stored_bytes(layout, part.shards, ratio) + len(metadata)
    written = 0
    if pending is not None and encode_metadata(pending) == metadata and isinstance(place, LocalFolder):
        missing = set(missing_shards(LocalFolder(part_of(place.path)), part))
        written = stored_bytes(layout, [shard for shard in part.shards if shard not in missing], ratio)
    beside = _existing(place.path) if isinstance(place, LocalFolder) else None
    if beside is not None and not os.access(beside, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(beside))
    folder = temporary_folder()
    return Forecast(
        url=place.url,
        layout=layout,
        window=facts.window,
        reason=facts.reason,
        segments=len(facts.segments),
        store_bytes=stored,
        written_bytes=written,
        free_bytes=None if beside is None else shutil.disk_usage(beside).free,
        temporary_bytes=temporary,
        temporary_folder=folder,
        temporary_free_bytes=shutil.disk_usage(folder).free,
        same_disk=beside is not None and beside.stat().st_dev == Path(folder).stat().st_dev,
        memory_bytes=source.read_bytes + threads * buffer_bytes(layout, remote=remote),
        threads=threads,
        replaces=isinstance(place, LocalFolder) and place.path.exists() and any(place.path.iterdir()),
        sampled_bytes=sampled,
        read_rate=sampled / read_s * (1 if source.in_order else cores) if sampled else None,
        encode_rate=sampled / encode_s * cores if sampled else None,
        write_rate=min(_WRITE_RATE, reach.bytes_a_second),
    )


def _sample(facts: Facts, source: Source) -> tuple[int, float, float, float]:
    """Bytes of some rows, the seconds in which one thread read and encoded them, and how many bytes of them became one."""
    layout = facts.layout
    a_place = min(_BYTES_A_PLACE // layout.chunk_bytes, layout.shard_chunks, layout.n_chunks // _PLACES)
    rows = min(layout.n_rows, max(1, a_place) * layout.chunk_rows)
    buffer = np.zeros(-(-rows // layout.chunk_rows) * layout.chunk_bytes, np.uint8)
    out = buffer[: rows * layout.row_bytes].view(layout.dtype).reshape(rows, *layout.row_shape)
    n_bytes, stored, read_s, encode_s = 0, 0, 0.0, 0.0
    for start in _places(source, rows):
        begin = time.perf_counter()
        source.read_into(start, out)
        between = time.perf_counter()
        chunks = buffer.size // layout.chunk_bytes
        encoded = encode_shard(layout, buffer, chunks, replace(facts.stamp(0), rows=chunks * layout.chunk_rows))
        encode_s += time.perf_counter() - between
        read_s += between - begin
        n_bytes += out.nbytes
        stored += sum(memoryview(each).nbytes for each in encoded[2:]) - chunks * layout.crc_bytes
        full = chunks * layout.chunk_bytes / out.nbytes
    return n_bytes, read_s, encode_s, 1.0 if layout.codec == "raw" else n_bytes * full / stored


def _places(source: Source, rows: int) -> Iterator[int]:
    """First rows of some places; what is best read in order is read from its beginning."""
    last = source.shape[0] - rows
    places = [0] if source.in_order else np.linspace(0, last, _PLACES).astype(np.int64).tolist()
    yield from sorted(set(places))


@runtime_checkable
class _Spooling(Protocol):
    @property
    def temporary_bytes(self) -> int: ...


def _temporary_bytes(source: Source) -> int:
    """Of the temporary file that a source writes where its chunks do not fit in memory; of several parts one at a time."""
    if isinstance(source, ConcatenatedSource):
        return max(map(_temporary_bytes, source.parts))
    if isinstance(source, (SlicedSource, ConvertedSource, SegmentedSource)):
        return _temporary_bytes(source.source)
    return source.temporary_bytes if isinstance(source, _Spooling) else 0


def _existing(path: Path) -> Path:
    """The folder in which something will be made."""
    return next(each for each in path.parents if each.exists())


def _rate(rate: float) -> str:
    return f"{format_bytes(rate)}/s"
