"""How does an array become a file of another format?

1. Find the kind of the target by its extension, and refuse what it cannot hold, what is taken, and what has no room.
2. Read a block of rows through the engine, which checks every chunk, while a thread writes the one before.
3. Let the target appear.

Memory is two blocks, what a gather of one costs, and what the target holds of it, whatever the size of the array.
"""

from __future__ import annotations

import itertools
import operator
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swath.array import RowArray, rows_of
from swath.errors import DiskFullError, MemoryLimitError, OptionError
from swath.gather import gather, plan_for
from swath.memory import Room, format_bytes, resolve_limit
from swath.plan import INDEX_CACHE_BYTES, Plan
from swath.progress import progress_bar
from swath.rows import Rows
from swath.storage import local_path
from swath.targets import Item, Target, Write, open_target

# A block takes some 5 ms to be read and to be written: long beside the calls, and small beside any memory.
_BLOCK_BYTES = 32 * 2**20


def export(
    a: RowArray | Mapping[str, RowArray],
    target: str | os.PathLike[str],
    *,
    rows: slice | None = None,
    chunk_rows: int | None = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    overwrite: bool = False,
) -> None:
    """Write an array, or several, to a file of another format, every chunk checked on the way.

    The target appears when it is whole; after an error, or Ctrl-C, nothing of it is left, and what stood there before is
    untouched. A kill leaves at most a hidden file or folder beside it (``.NAME.*.swath-tmp``, or ``.swath-old`` for a
    Zarr folder that was just being replaced).

    Parameters
    ----------
    a
        What `swath.open` and `swath.ingest` give, or a mapping of names to such arrays.
    target
        Its extension, in either case, says what it is:

        - ``"out.h5::name"`` (``.h5``, ``.hdf5``): a dataset, contiguous unless ``chunk_rows`` is given. The file may exist: the
          dataset is added to it, and groups in its name are made. Of a mapping each array is a dataset, in the group
          ``name`` if it is given. HDF5 has no journal: a kill while an existing file is added to may leave it longer than
          it need be, with a group ``.swath-*`` in it, or damaged. Datetimes become opaque values, as h5py reads them.
        - ``"out.zarr"``: a plain Zarr v3 array, or a group of them for a mapping, in chunks of ``chunk_rows`` rows, or of
          about 8 MiB, compressed as zarr-python does by itself.
        - ``"out.npy"``: what `numpy.load` reads.
        - ``"out.raw"``, ``"out.bin"``, ``"out.dat"``: the bytes of the rows alone, in C order, little-endian.
    rows
        Which rows, such as ``slice(0, 1000)``; all if None. Of a mapping these rows of each.
    chunk_rows
        Rows of a chunk in HDF5 or Zarr.
    memory_limit
        What the call may add to this process: bytes, or text such as ``"1GiB"``. By default 90 % of what is left.
    progress
        Whether a bar shows how far it is; None for one after a second, on a terminal or in a notebook.
    overwrite
        Whether to replace the file, folder or dataset that is there. The old one stays until the new one is whole; HDF5
        does not give back the room of a dataset that was replaced (h5repack does).

    Raises
    ------
    OptionError
        An argument means nothing here, or the target is the array itself.
    LayoutError
        The format cannot hold values of this dtype.
    StoreExistsError, StoreBusyError, TargetError
        The place is taken, or cannot be written.
    MemoryLimitError
        Two blocks do not fit in the limit; nothing was read.
    DiskFullError
        No room.
    DamagedStoreError, StoreChangedError
        The rows cannot be read.

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.arange(1000).reshape(100, 10), tmp / "a.zarr")
    >>> swath.export(a, tmp / "part.npy", rows=slice(-2, None))
    >>> np.load(tmp / "part.npy")[:, :3]
    array([[980, 981, 982],
           [990, 991, 992]])
    >>> swath.export({"X": a, "y": a}, tmp / "both.h5")
    >>> swath.open(f"{tmp}/both.h5::y").shape
    (100, 10)
    """
    if chunk_rows is not None:
        chunk_rows = _whole("chunk_rows", chunk_rows)
    parts = _parts(a, rows, chunk_rows)
    path, dataset = _place(target)
    to = open_target(path, dataset, [part.item for part in parts], overwrite=overwrite)
    for part in parts:
        _check_apart(path, part.rows)
    to.check()
    limit = resolve_limit(memory_limit)
    blocks = [_blocks(part, to, limit) for part in parts]
    _check_disk(to)
    total = sum(part.item.n_bytes for part in parts)
    with progress_bar("export", total, progress) as advance, to.writing() as writes:
        for part, block, write in zip(parts, blocks, writes):
            _copy(part, block, write, advance)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows ``[start, stop)`` of an array, and what they shall be."""

    rows: Rows
    start: int
    stop: int
    item: Item


@dataclass(frozen=True, slots=True)
class _Blocks:
    """How the rows of one array are divided, so that they fit in memory."""

    edges: list[int]
    """The first row of each block, and the row after the last."""
    most_rows: int
    limit: Room
    """Of the gather of one block into memory that is there."""


def _parts(a: Any, rows: slice | None, chunk_rows: int | None) -> list[_Part]:
    if isinstance(a, Mapping):
        if not a:
            raise OptionError("There are no arrays to export: the mapping is empty. Give at least one.")
        for name in a:
            if not isinstance(name, str) or not name:
                raise OptionError(f"The name of an array is {name!r}. Give text such as 'X'.")
        named = {name: rows_of(array) for name, array in a.items()}
    else:
        named = {"": rows_of(a)}
    parts = []
    for name, array in named.items():
        layout = array.layout
        start, stop = _range(rows, layout.n_rows)
        parts.append(_Part(array, start, stop, Item(name, (stop - start, *layout.row_shape), layout.dtype, chunk_rows)))
    return parts


def _range(rows: Any, n_rows: int) -> tuple[int, int]:
    """The half-open range that a slice names.

    Raises
    ------
    OptionError
    """
    if rows is None:
        return 0, n_rows
    if not isinstance(rows, slice) or rows.step not in (None, 1):
        raise OptionError(f"rows is {rows!r}. Give a slice without a step, such as slice(0, 1000).")
    edges = []
    for given, otherwise in ((rows.start, 0), (rows.stop, n_rows)):
        try:
            edge = otherwise if given is None else operator.index(given)
        except TypeError:
            raise OptionError(f"rows is {rows!r}. Give a slice of whole numbers, such as slice(0, 1000).") from None
        edges.append(edge + n_rows if edge < 0 else edge)
    start, stop = edges
    if not 0 <= start < stop <= n_rows:
        raise OptionError(
            f"rows is {rows!r}, which is no range of rows of an array of {n_rows}. Give one with at least one row."
        )
    return start, stop


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{name} is {value!r}. Give a whole number of rows, at least 1.")
    return int(value)


def _place(target: Any) -> tuple[Path, str | None]:
    """The file or folder that ``target`` names, and the dataset in it if it names one.

    Raises
    ------
    OptionError
    """
    given = os.fspath(target) if isinstance(target, os.PathLike) else target
    if not isinstance(given, str):
        raise OptionError(f"The target is {target!r}, which is no path. Give one such as 'out.npy'.")
    name, separator, dataset = given.rpartition("::")
    try:
        path = local_path(name if separator else given)
        path.exists()
    except OSError as error:  # a name that is too long for the file system, or a loop of links
        raise OptionError(f"The target {given!r} is no path that can be ({error}). Choose another name.") from None
    return path, dataset if separator else None


def _check_apart(path: Path, rows: Rows) -> None:
    """Refuse a target that is a part of what is read, or holds it.

    Raises
    ------
    OptionError
    """
    if rows.reach.is_remote:
        return
    source = Path(rows.url)
    if not source.exists():
        source = Path(rows.url.rpartition("::")[0])
    target, source = path.resolve(), source.resolve()
    same = target.exists() and source.exists() and target.samefile(source)  # by a hard link
    if same or target.is_relative_to(source) or source.is_relative_to(target):
        raise OptionError(
            f"The target {path} and the array {rows.url} lie in one another. Choose another place for the target."
        )


def _blocks(part: _Part, target: Target, limit: Room) -> _Blocks:
    """Blocks as large as pay, and as leave room for the gather of one while another is written.

    Raises
    ------
    MemoryLimitError
    """
    row_bytes, layout = part.item.row_bytes, part.rows.layout
    step = target.step_rows(part.item)
    n_rows = part.stop - part.start
    most = min(n_rows, max(step, _BLOCK_BYTES // row_bytes // step * step))
    while True:
        held = (2 + target.held_copies) * most * row_bytes + min(
            INDEX_CACHE_BYTES, layout.n_shards * layout.index_bytes
        )
        room = Room(limit.n_bytes - held, limit.bound_by)
        plan = _plan(part, part.start, most, room)
        if plan.peak_bytes <= room.n_bytes:
            break
        if most <= step:
            raise MemoryLimitError(
                f"This export needs {format_bytes(held + plan.peak_bytes)} (blocks of {most} rows {format_bytes(held)}, to read one "
                f"{plan.cost}), but the limit is {format_bytes(limit.n_bytes)} ({limit.bound_by}). "
                "Raise memory_limit, or choose smaller chunk_rows."
            )
        most = max(step, most // 2 // step * step)
    # Where any rows may be written together, chunks that are read are not cut by the edges of blocks.
    every, origin = (most, part.start) if step > 1 or most < layout.chunk_rows else (most - most % layout.chunk_rows, 0)
    first = part.start + every - (part.start - origin) % every
    return _Blocks([part.start, *range(first, part.stop, every), part.stop], every, room)


def _plan(part: _Part, start: int, n_rows: int, limit: Room) -> Plan:
    return plan_for(part.rows, [start], n_rows, batch_in_memory=False, limit=limit)


def _check_disk(target: Target) -> None:
    """Refuse an export that the disk cannot take, where that is known before."""
    free = shutil.disk_usage(target.path.parent).free
    if target.n_bytes is not None and target.n_bytes > free:
        raise DiskFullError(
            f"{target.path.parent} has {format_bytes(free)} free, but {target.path.name} needs "
            f"{format_bytes(target.n_bytes)} ({target.n_bytes} bytes). Make room, or choose another place."
        )


def _copy(part: _Part, blocks: _Blocks, write: Write, advance: Callable[[int], None]) -> None:
    """Read one block while the one before is written.

    The thread that writes is not the caller's: after Ctrl-C it ends the block that it is at, and nobody writes any more.
    """
    shape = (1, blocks.most_rows, *part.item.shape[1:])
    edges = blocks.edges
    buffers = [np.empty(shape, part.item.dtype) for _ in range(min(2, len(edges) - 1))]
    with ThreadPoolExecutor(1, thread_name_prefix="swath-export") as writer:
        behind: Future[None] | None = None
        for k, (start, stop) in enumerate(itertools.pairwise(edges)):
            block = buffers[k % 2][:, : stop - start]
            gather(part.rows, _plan(part, start, stop - start, blocks.limit), block)
            if behind is not None:
                behind.result()
            advance(block.nbytes)
            behind = writer.submit(write, start - part.start, block[0])
        assert behind is not None
        behind.result()
