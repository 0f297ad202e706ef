"""The dask face of a gather: few tasks, each of many windows, and a computation that lands in one place.

``windows`` makes ``ceil(n / block)`` tasks, each with its slice of the starts; the same engine carries each out.
``compute`` allocates the result once and lands in it, so that its peak is the result and what is in flight, where
dask's own ``compute`` holds every block and then the whole beside them.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import dask.local
import dask.threaded
import dask.widgets
import numpy as np
from dask.base import compute as compute_together
from dask.base import get_scheduler, tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import ArrayLike, NDArray

from swath.errors import MemoryLimitError, OptionError, OutError
from swath.gather import Columns, check_columns, gather, plan_for
from swath.memory import Room, format_bytes, resolve_limit
from swath.plan import Plan
from swath.rows import Rows
from swath.windows import IntArray, check_starts, check_window

# Without jinja2, dask keeps the ImportError of its first import, with it the frames of all who were importing then, and so
# the arrays of a caller whose first `compute` brought dask in, for as long as the process lives.
if isinstance(getattr(dask.widgets, "exception", None), ImportError):
    dask.widgets.exception.__traceback__ = None

# A block of 128 MiB takes some 50 ms, against about 1 ms for a task and its threads.
_MOST_BLOCK_BYTES = 128 * 2**20

# Share of the memory limit that one block may take, so that the blocks in flight fit beside a result.
_BLOCKS_IN_LIMIT = 16

# dask holds a block while it is made from others, and again while it is handed over.
_COPIES_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class WindowsBlock:
    """The task of one block. Called without arguments, as dask does, it returns the block."""

    rows: Rows
    starts: IntArray
    window: int
    columns: Columns

    def __call__(self) -> NDArray[Any]:
        return gather(self.rows, self.plan(resolve_limit(None)))

    def plan(self, limit: Room, *, batch_in_memory: bool = True) -> Plan:
        """The plan of this block."""
        return plan_for(self.rows, self.starts, self.window, self.columns, batch_in_memory=batch_in_memory, limit=limit)


def windows(
    rows: Rows,
    starts: ArrayLike,
    *,
    window: int | None,
    columns: Any,
    block: int | None,
    memory_limit: int | str | None,
) -> da.Array:
    """The batch as a dask array; parameters and errors as `RowArray.windows` describes them."""
    layout = rows.layout
    window = check_window(rows.window if window is None else window, layout.n_rows)
    checked = check_starts(starts, window, layout.n_rows)
    kept = check_columns(columns, layout)
    meta = np.empty((0, window, *layout.row_shape), layout.dtype)
    if kept is not None:
        meta = meta[:, :, kept]
    a_window = math.prod(meta.shape[1:]) * layout.dtype.itemsize
    if block is None:
        limit = resolve_limit(memory_limit)
        block = max(1, min(_MOST_BLOCK_BYTES, limit.n_bytes // _BLOCKS_IN_LIMIT) // max(1, a_window))
    elif not isinstance(block, (int, np.integer)) or isinstance(block, bool) or block < 1:
        raise OptionError(f"block is {block!r}. Give the number of windows of one block, at least 1.")
    name = "windows-" + tokenize(rows.url, rows.version, checked, window, kept, block)
    sizes = tuple(min(block, checked.size - i) for i in range(0, checked.size, block)) or (0,)
    edges = itertools.accumulate(sizes, initial=0)
    tail = (0,) * (meta.ndim - 1)
    graph: dict[Any, Any] = {
        (name, i, *tail): (WindowsBlock(rows, checked[a:b], window, kept),)
        for i, (a, b) in enumerate(itertools.pairwise(edges))
    }
    chunks = (sizes, *((n,) for n in meta.shape[1:]))
    return da.Array(HighLevelGraph.from_collections(name, graph), name, chunks, meta=meta)


def compute(
    lazy: da.Array, *, out: Any = None, memory_limit: int | str | None = None, scheduler: str | None = None
) -> Any:
    """Compute a dask array into one result, with a bounded number of blocks in memory.

    Parameters
    ----------
    lazy
        What `RowArray.windows` returned, or anything that dask made of it.
    out
        Where the result goes, of the shape and dtype of ``lazy``: a numpy array or memmap, a Zarr array, an HDF5
        dataset. A new numpy array if None.
    memory_limit
        What the call may add to this process: bytes, or text such as ``"8GiB"``. By default 90 % of what is left.
    scheduler
        As dask knows them: ``"threads"``, ``"synchronous"``, ``"processes"``, or None for the current one.

    Returns
    -------
    numpy.ndarray or out

    Raises
    ------
    MemoryLimitError
        Result and blocks would pass the limit; nothing was read.
    OutError
        ``out`` has another shape or dtype.
    OptionError
        ``lazy`` is no dask array, or its shape is not known.

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.arange(1000).reshape(100, 10), tmp / "lazy.zarr")
    >>> swath.compute(a.windows([3, 50]).mean(axis=2)).shape
    (2, 16)
    """
    if not isinstance(lazy, da.Array):
        raise OptionError(
            f"A {type(lazy).__name__} is no dask array. Give what windows() returned, or what dask made of it."
        )
    if any(math.isnan(n) for n in lazy.shape):
        raise OptionError(
            f"The shape {lazy.shape} is not known before it is computed. Call compute_chunk_sizes() first."
        )
    _check_out(out, lazy)
    limit = resolve_limit(memory_limit)
    tasks = [lazy.dask.get(key) for key in _keys(lazy)] if lazy.name in lazy.dask.layers else []
    blocks = [task[0] for task in tasks if isinstance(task, tuple) and isinstance(task[0], WindowsBlock)]
    if len(blocks) == len(tasks) and _shares_memory(lazy, scheduler):
        return _land(lazy, blocks, out, limit)
    return _compute_blocks(lazy, out, limit, scheduler)


def _land(lazy: da.Array, blocks: list[WindowsBlock], out: Any, limit: Room) -> Any:
    """Windows as they are, by the engine itself, each block on all cores.

    In memory they are one gather: its result stands whole in any case, and rows that two blocks share are read once.
    On disk one block follows another, so that what is written is written in order.
    """
    in_memory = out is None or (isinstance(out, np.ndarray) and not isinstance(out, np.memmap))
    in_place = isinstance(out, np.ndarray) or out is None
    if in_memory:
        blocks = [replace(blocks[0], starts=np.concatenate([block.starts for block in blocks]))]
    result_bytes = 0 if out is not None else int(lazy.nbytes)
    left = Room(limit.n_bytes - result_bytes, limit.bound_by)
    largest = max(blocks, key=lambda block: block.starts.size)
    _check(result_bytes, largest.plan(left, batch_in_memory=not in_place).peak_bytes, limit)
    result = np.empty(lazy.shape, lazy.dtype) if out is None else out
    first = 0
    for block in blocks:
        stop = first + block.starts.size
        plan = block.plan(left, batch_in_memory=not in_place)
        if in_place:
            gather(block.rows, plan, result[first:stop])
        else:
            result[first:stop] = gather(block.rows, plan)
        first = stop
    return result


def _compute_blocks(lazy: da.Array, out: Any, limit: Room, scheduler: str | None) -> Any:
    """Any graph, any scheduler: a few blocks of the result at a time are computed, fetched and put in place."""
    result_bytes = 0 if out is not None else int(lazy.nbytes)
    at_once = len(os.sched_getaffinity(0))
    largest = max(math.prod(map(max, lazy.chunks)) * lazy.dtype.itemsize, _largest_input(lazy))
    in_flight = _COPIES_IN_FLIGHT * at_once * largest
    _check(result_bytes, in_flight, limit)
    result = np.empty(lazy.shape, lazy.dtype) if out is None else out
    indexes = np.ndindex(*lazy.numblocks)
    edges = [list(itertools.accumulate(sizes, initial=0)) for sizes in lazy.chunks]
    while some := list(itertools.islice(indexes, at_once)):
        blocks = [lazy.blocks[index] if index else lazy for index in some]
        for index, block in zip(some, compute_together(*blocks, scheduler=scheduler)):
            place = tuple(slice(edge[i], edge[i + 1]) for edge, i in zip(edges, index))
            result[place or ...] = block
    return result


def _largest_input(lazy: da.Array) -> int:
    """Bytes of the largest block of windows that the graph begins with."""
    blocks = (task[0] for task in lazy.dask.values() if isinstance(task, tuple) and isinstance(task[0], WindowsBlock))
    # Planning each block of a large graph would sort all its starts: one of each size tells as much.
    kinds = {(id(block.rows), block.starts.size, block.window): block for block in blocks}
    return max((block.plan(Room(0, "")).bytes_wanted for block in kinds.values()), default=0)


def _keys(lazy: da.Array) -> list[tuple[Any, ...]]:
    return [(lazy.name, *index) for index in np.ndindex(*lazy.numblocks)]


def _shares_memory(lazy: da.Array, scheduler: str | None) -> bool:
    """Whether dask would compute in this process, so that the engine may write where the result shall be."""
    get = get_scheduler(collections=[lazy], scheduler=scheduler)
    return get in (dask.threaded.get, dask.local.get_sync)


def _check_out(out: Any, lazy: da.Array) -> None:
    if out is None:
        return
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    wanted = f"an array of shape {lazy.shape} and dtype {lazy.dtype}"
    if shape != lazy.shape or dtype != lazy.dtype or not hasattr(out, "__setitem__"):
        raise OutError(f"out is a {type(out).__name__} of shape {shape} and dtype {dtype}. Give {wanted}.")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise OutError(f"out is read-only. Give {wanted} that can be written.")


def _check(result: int, in_flight: int, limit: Room) -> None:
    """Refuse what cannot fit.

    Raises
    ------
    MemoryLimitError
    """
    if result + in_flight > limit.n_bytes:
        raise MemoryLimitError(
            f"This computation needs {format_bytes(result + in_flight)} (result {format_bytes(result)}, blocks in flight "
            f"{format_bytes(in_flight)}), but the limit is {format_bytes(limit.n_bytes)} ({limit.bound_by}). "
            "Choose a smaller block=, fewer windows or columns, raise memory_limit, or land the result on disk with out=numpy.memmap(...)."
        )
