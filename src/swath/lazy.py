"""The dask face of a gather: few tasks, each of many windows.

``windows`` makes ``ceil(n / block)`` tasks, each with its slice of the starts, and the same engine carries each out. A task that
leaves this process takes a recipe of a few hundred bytes along, and opens the rows where it runs, once a process.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import dask
import dask.array as da
import dask.system
import dask.widgets
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import ArrayLike, NDArray

from swath.crew import local_cores
from swath.errors import OptionError
from swath.gather import Columns, are_cached, check_columns, gather, plan_for
from swath.memory import Room, dask_worker, resolve_limit
from swath.plan import Plan
from swath.rows import Rows
from swath.windows import IntArray, check_starts, check_window
from swath.workers import find_client, team_of

Order = Literal["asked", "storage"]

# Without jinja2, dask keeps the ImportError of its first import, with it the frames of all who were importing then, and so
# the arrays of a caller whose first `compute` brought dask in, for as long as the process lives.
if isinstance(getattr(dask.widgets, "exception", None), ImportError):
    dask.widgets.exception.__traceback__ = None

# A block of 128 MiB takes some 50 ms, against about 1 ms for a task and its threads.
_MOST_BLOCK_BYTES = 128 * 2**20

# Blocks that the limit shall hold beside a result: of all threads that compute, and of the one that has least memory.
_BLOCKS_IN_LIMIT = 16
_BLOCKS_A_THREAD = 4

_ANY_ROOM = Room(2**63 - 1, "nothing")

# Arrays that a process keeps open for the tasks that come to it: those of one batch, and of a few others.
_KEPT_OPEN = 8


@dataclass(frozen=True, slots=True)
class WindowsBlock:
    """The task of one block. Called without arguments, as dask does, it returns the block."""

    rows: Rows
    starts: NDArray[np.integer[Any]]
    """(n,) a slice of those that were asked, in the smallest dtype that holds a row."""
    window: int
    columns: Columns
    threads: int | None = None
    """The most that may read for it; None for as many as its rows want."""

    def __call__(self) -> NDArray[Any]:
        return gather(self.rows, self.bounded().plan(resolve_limit(None)))

    def __reduce__(self) -> tuple[Any, ...]:
        return UnopenedBlock, (self.rows.recipe(), self.starts, self.window, self.columns)

    def opened(self) -> WindowsBlock:
        """The block itself."""
        return self

    def beside(self, others: int, *, in_memory: bool = False) -> WindowsBlock:
        """The same with no more threads than so many tasks at once want each: all together keep the disk busy, or the cores."""
        most = local_cores() if in_memory else self.rows.reach.requests
        return replace(self, threads=max(1, most // others))

    def bounded(self) -> WindowsBlock:
        """The same, beside as many tasks as run at once where it is now, unless its threads are given."""
        if self.threads is not None:
            return self
        worker = dask_worker()
        return self.beside(local_threads() if worker is None else worker.state.nthreads)

    def in_memory(self, probes: int) -> bool:
        """Whether its rows are in the page cache, by as many of its windows."""
        step = max(1, -(-self.starts.size // probes))
        return are_cached(self.rows, self.starts[::step].astype(np.int64) // self.rows.layout.chunk_rows)

    def plan(self, limit: Room, *, batch_in_memory: bool = True) -> Plan:
        """The plan of this block."""
        starts = self.starts.astype(np.int64)
        return plan_for(
            self.rows,
            starts,
            self.window,
            self.columns,
            batch_in_memory=batch_in_memory,
            limit=limit,
            most_threads=self.threads,
        )


@dataclass(frozen=True, slots=True)
class UnopenedBlock:
    """A task that came from another process."""

    recipe: tuple[Any, ...]
    starts: NDArray[np.integer[Any]]
    window: int
    columns: Columns

    def __call__(self) -> NDArray[Any]:
        return self.opened()()

    def opened(self) -> WindowsBlock:
        """The task with its rows open.

        Raises
        ------
        StoreError
            They are not here, or have changed.
        """
        return WindowsBlock(_opened(self.recipe), self.starts, self.window, self.columns)


# Tasks of a process share the indexes of shards that they have read. Nothing in it is a handle, so that a fork does it no harm.
@functools.lru_cache(_KEPT_OPEN)
def _opened(recipe: tuple[Any, ...]) -> Rows:
    open_rows, *arguments = recipe
    rows: Rows = open_rows(*arguments)
    return rows


def windows(
    rows: Rows,
    starts: ArrayLike,
    *,
    window: int | None,
    columns: Any,
    block: int | None,
    order: Order,
    memory_limit: int | str | None,
) -> da.Array:
    """The batch as a dask array; parameters and errors as `RowArray.windows` describes them."""
    layout = rows.layout
    window = check_window(rows.window if window is None else window, layout.n_rows)
    checked = _compact(check_starts(starts, window, layout.n_rows), layout.n_rows)
    if order not in get_args(Order):
        raise OptionError(f"order is {order!r}. Choose one of {', '.join(map(repr, get_args(Order)))}.")
    if order == "storage":
        checked.sort()
    kept = check_columns(columns, layout)
    meta = np.empty((0, window, *layout.row_shape), layout.dtype)
    if kept is not None:
        meta = meta[:, :, kept]
    if block is None:
        a_window = max(1, _window_bytes(rows, window, kept))
        block = max(1, _block_bytes(resolve_limit(memory_limit)) // a_window)
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


def blocks_of(lazy: da.Array) -> list[WindowsBlock] | None:
    """The blocks of an array that is windows and nothing else."""
    if lazy.name not in lazy.dask.layers:
        return None
    layer = lazy.dask.layers[lazy.name]
    tasks = [layer.get((lazy.name, *index)) for index in np.ndindex(*lazy.numblocks)]
    found = [block for task in tasks if (block := block_of(task)) is not None]
    return [block.opened() for block in found] if len(found) == len(tasks) else None


def block_of(task: Any) -> WindowsBlock | UnopenedBlock | None:
    """What a task of a graph is, if it is one of windows."""
    # dask writes a task as a tuple, or, after some of its own steps, as an object.
    call = task[0] if isinstance(task, tuple) and task else getattr(task, "func", None)
    return call if isinstance(call, (WindowsBlock, UnopenedBlock)) else None


def engine_bytes(block: WindowsBlock | UnopenedBlock) -> int:
    """What the gather of a block takes beside it; 0 for one whose rows are not open here."""
    if not isinstance(block, WindowsBlock):
        return 0
    cost = block.bounded().plan(_ANY_ROOM).cost
    in_64_bits = block.starts.size * 8  # which are gone when rows are read, but the allocator may keep their place
    return cost.total - cost.batch + in_64_bits


def local_threads() -> int:
    """How many tasks dask runs at once in this process."""
    pool = dask.config.get("pool", None)
    return getattr(pool, "_max_workers", None) or dask.config.get("num_workers", None) or dask.system.CPU_COUNT


def _compact(starts: IntArray, n_rows: int) -> NDArray[np.integer[Any]]:
    """A copy of half the bytes, since they travel with the graph: of 10^7 windows it is 40 MB and not 80."""
    return starts.astype(np.uint32) if n_rows <= 2**32 else starts.copy()


def _window_bytes(rows: Rows, window: int, columns: Columns) -> int:
    layout = rows.layout
    row_bytes = layout.row_bytes
    if columns is not None:
        n_columns = layout.row_shape[0]
        kept = len(range(*columns.indices(n_columns))) if isinstance(columns, slice) else columns.size
        row_bytes = row_bytes // n_columns * kept
    return window * row_bytes


def _block_bytes(limit: Room) -> int:
    """What a block may be, so that those of all threads fit beside a result, and that of each in its worker."""
    client = find_client()
    if client is None:
        at_most = limit.n_bytes // max(_BLOCKS_IN_LIMIT, _BLOCKS_A_THREAD * local_threads())
    else:
        at_most = min(limit.n_bytes // _BLOCKS_IN_LIMIT, team_of(client).thread_bytes // _BLOCKS_A_THREAD)
    return min(_MOST_BLOCK_BYTES, at_most)
