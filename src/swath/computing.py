"""How is a dask array computed into one place, with a bounded number of its blocks in memory?

The result is allocated once, and blocks land in it as they come; dask's own ``compute`` holds every block and then the whole
beside them. What is windows and nothing else is gathered by the engine itself, in this process. Any other graph is run by dask:
on threads each block is put in its place by the thread that made it; from processes and from a cluster blocks come a few at a
time, and the next are begun as these are fetched.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask
import dask.array as da
import dask.local
import dask.multiprocessing
import dask.threaded
import numpy as np
from dask._task_spec import Task
from dask.base import get_scheduler
from numpy.typing import NDArray

from swath.buffers import empty
from swath.crew import local_cores
from swath.errors import MemoryLimitError, OptionError, OutError
from swath.gather import PROBES, gather
from swath.graphs import Sizes, flat_graph, held_by, jobs_of, sizes_of
from swath.lazy import WindowsBlock, block_of, blocks_of, engine_bytes, local_threads
from swath.memory import MOST_KEPT_BYTES, Room, format_bytes, resolve_limit
from swath.progress import Advance, progress_bar
from swath.workers import Job, Key, Team, computed, team_of

# A block that comes from another process is there as the bytes that arrived, and as the array that they are made into.
_COPIES_ARRIVING = 2

# Jobs for each thread of a cluster: one runs while another waits to be fetched, or to be begun.
_JOBS_A_THREAD = 2

# What the scheduler is configured to be while a client is active.
_OF_CLIENT = "dask.distributed"

# What zarr-python holds of the chunks of which a block has a part: as read, decoded, merged, encoded (measured: 4.1 to 5.3 chunks).
_COPIES_MERGING = 4

# Of a block that h5py copies before it writes it.
_SLAB_BYTES = 4 * 2**20

# Where one thread computes, it keeps up to twice the largest that was freed (mallopt(3), M_TRIM_THRESHOLD); of threads that have heaps of
# their own no more than one such place beside what they use was ever seen, in 280 configurations of tests/test_projection.py.
_PLACES_KEPT_ALONE = 2

# Stack, arguments and the allocator's slack of a thread that runs tasks.
_TASK_OVERHEAD = 2**20


class Windows(da.Array):
    """Windows of rows as a dask array. Its own ``compute`` is `swath.compute`; what is made of it is a plain dask array."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return Windows, super().__reduce__()[1]  # type: ignore[no-untyped-call]

    def compute(self, **options: Any) -> Any:
        """The batch. With other options than dask's ``scheduler`` as dask would compute it."""
        if options.keys() <= {"scheduler"}:
            return compute(self, **options)
        return super().compute(**options)  # type: ignore[no-untyped-call]


def plain(lazy: da.Array) -> da.Array:
    """The same as an array of dask's own type, for a library that refuses to mix types."""
    return da.Array(lazy.dask, lazy.name, lazy.chunks, meta=lazy._meta)


def compute(
    lazy: da.Array,
    *,
    out: Any = None,
    memory_limit: int | str | None = None,
    scheduler: Any = None,
    progress: bool | None = None,
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
        What the call may add to this process: bytes, or text such as ``"8GiB"``. By default 90 % of what is left. On a cluster
        each worker has its own limit besides.
    scheduler
        As dask knows them: ``"threads"``, ``"synchronous"``, ``"processes"``, a ``distributed.Client``, or None for the
        current one.
    progress
        Whether a bar shows how far it is; None for one after a second, on a terminal or in a notebook.

    Returns
    -------
    numpy.ndarray or out

    Raises
    ------
    MemoryLimitError
        Result and blocks would pass the limit, or a block that of a worker; nothing was read.
    OutError
        ``out`` has another shape or dtype.
    OptionError
        ``lazy`` is no dask array, or its shape is not known; or there is no such scheduler.
    WorkersLostError
        A task has ended worker after worker of a cluster, or the client is not connected to one.

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
    if any(np.isnan(n) for n in lazy.shape):
        raise OptionError(
            f"The shape {lazy.shape} is not known before it is computed. Call compute_chunk_sizes() first."
        )
    _check_out(out, lazy)
    limit = resolve_limit(memory_limit)
    get = _get_of(lazy, scheduler)
    blocks = blocks_of(lazy) if get in (dask.threaded.get, dask.local.get_sync) else None
    with progress_bar("compute", int(lazy.nbytes), progress) as advance:
        if blocks is not None:
            return _gather_blocks(lazy, blocks, out, limit, advance)
        return _run_graph(lazy, get, out, limit, advance)


def _get_of(lazy: da.Array, scheduler: Any) -> Any:
    """What computes a graph.

    Raises
    ------
    OptionError
        dask knows no such scheduler, or it is a client that answers to ``await`` only.
    """
    try:
        return get_scheduler(collections=[lazy], scheduler=scheduler)
    except (ValueError, RuntimeError) as error:
        if scheduler is None and dask.config.get("scheduler", None) == _OF_CLIENT:
            return lazy.__dask_scheduler__  # the client answers to ``await`` only
        raise OptionError(
            f"dask cannot compute with scheduler={scheduler!r} ({error}). Give 'threads', 'synchronous', 'processes', or a Client "
            "that was made without asynchronous=True."
        ) from error


def _gather_blocks(lazy: da.Array, blocks: list[WindowsBlock], out: Any, limit: Room, advance: Advance) -> Any:
    """Windows as they are, by the engine itself, each block on all cores.

    In memory they are one gather: its result stands whole in any case, and rows that two blocks share are read once.
    On disk one block follows another, so that what is written is written in order.
    """
    in_place = isinstance(out, np.ndarray) or out is None
    if in_place and not isinstance(out, np.memmap):
        blocks = [replace(blocks[0], starts=np.concatenate([block.starts for block in blocks]))]
    if _are_in_memory(blocks):
        blocks = [replace(block, threads=local_cores()) for block in blocks]
    made = out is None or not in_place  # a batch: that is the result, or a block that is copied
    widest = max(blocks, key=lambda block: block.starts.size)
    largest = widest.plan(limit, batch_in_memory=made)
    writing = _writing_bytes(lazy, out, largest.bytes_wanted)
    result = _checked_result(lazy, out, largest.peak_bytes - _result_bytes(lazy, out) + writing, limit)
    first = 0
    for block in blocks:
        stop = first + block.starts.size
        plan = largest if block is widest else block.plan(limit, batch_in_memory=made)
        if in_place:
            gather(block.rows, plan, result[first:stop], advance)
        else:
            result[first:stop] = gather(block.rows, plan, advance=advance)
        first = stop
    return result


def _run_graph(lazy: da.Array, get: Any, out: Any, limit: Room, advance: Advance) -> Any:
    """Any graph, any scheduler."""
    is_local = get in (dask.threaded.get, dask.local.get_sync)
    graph = flat_graph(lazy)
    if is_local:
        graph |= tasks_here(graph, 1 if get is dask.local.get_sync else local_threads())
    outputs = {(lazy.name, *index): index for index in np.ndindex(*lazy.numblocks)}
    jobs = jobs_of(graph, list(outputs))
    cost = _cost(graph, jobs, sizes_of(lazy, graph), landing=is_local and out is None)
    writing = _writing_bytes(lazy, out, cost.a_result)
    left = Room(limit.n_bytes - _result_bytes(lazy, out), limit.bound_by)
    client = getattr(get, "__self__", None)
    arriving: Iterator[tuple[Key, Any]]

    if is_local:
        # No more tasks run beside one another than there are to begin with, or blocks to end with.
        begins = sum(not task.dependencies for task in graph.values())
        most = 1 if get is dask.local.get_sync else min(local_threads(), max(begins, len(outputs)))
        least = cost.first_task + writing + cost.kept * (_PLACES_KEPT_ALONE if most == 1 else 1)
        threads = max(1, min(most, 1 + (left.n_bytes - least) // cost.next_task))
        result = _checked_result(lazy, out, least + (threads - 1) * cost.next_task, limit)
        land = _Landing(lazy, result, advance)
        landed = {(f"land-{lazy.name}", *index): (partial(land, index), key) for key, index in outputs.items()}
        get({**graph, **landed}, list(landed), num_workers=threads)
        return result

    if client is not None:
        result = _checked_result(lazy, out, _COPIES_ARRIVING * cost.a_result + writing, limit)
        _check_workers(team_of(client, taken=_result_bytes(lazy, out)), cost)
        arriving = computed(client, jobs, partial(_jobs_on, cost))
    else:
        most = local_threads()
        each = _COPIES_ARRIVING * max(cost.outputs, 1)
        at_once = max(1, min(most, left.n_bytes // each))
        result = _checked_result(lazy, out, at_once * each + writing, limit)
        arriving = _in_turns(get, jobs, at_once, most)
    land = _Landing(lazy, result, advance)
    for key, block in arriving:
        land(outputs[key], block)
        del block  # before the next is made
    return result


def tasks_here(graph: Mapping[Key, Any], at_once: int) -> dict[Key, Any]:
    """The tasks of a graph that gather, for this process: their rows are open, and no more threads read for them than are counted."""
    blocks = {key: block.opened() for key, task in graph.items() if (block := block_of(task)) is not None}
    in_memory = _are_in_memory(list(blocks.values()))
    others = min(at_once, len(blocks))
    return {key: Task(key, block.beside(others, in_memory=in_memory)) for key, block in blocks.items()}


def _are_in_memory(blocks: Sequence[WindowsBlock]) -> bool:
    """Whether the rows of all are in the page cache, by some of them: then few threads read as fast as many, and take less memory."""
    some = blocks[:: max(1, -(-len(blocks) // PROBES))]
    return all(block.in_memory(PROBES // len(some)) for block in some)


@dataclass(frozen=True, slots=True)
class _Cost:
    """Bytes, of the largest job of a graph."""

    first_task: int
    """What one thread holds at most."""
    next_task: int
    """What each further thread adds."""
    a_result: int
    """One block of the result, while it is put in its place."""
    outputs: int
    """All blocks that a job makes."""
    kept: int
    """What the allocator keeps of results that are gone."""


def _cost(graph: Mapping[Key, Any], jobs: Sequence[Job], size: Sizes, *, landing: bool) -> _Cost:
    # Thousands of jobs are alike: one of each kind tells as much.
    alike: dict[Any, list[Job]] = defaultdict(list)
    for job in jobs:
        alike[len(job.graph), tuple(map(size, job.outputs))].append(job)
    kinds = [same[0] for same in alike.values()]
    held = [held_by(job, size, landing=landing) for job in kinds]
    # Beside the largest task runs the next, of the same job or of another.
    tasks = sorted(n for each, same in zip(held, alike.values()) for n in (*each.tasks, *each.tasks[: len(same) > 1]))
    blocks = [block for task in graph.values() if (block := block_of(task)) is not None]
    engine = max(map(engine_bytes, {block.starts.size: block for block in blocks}.values()), default=0)
    largest = max((size(key) for job in kinds for key in job.outputs), default=0)
    return _Cost(
        first_task=max((each.peak for each in held), default=0) + engine,
        next_task=(tasks[-2] if tasks else 0) + (engine if len(blocks) > 1 else 0) + _TASK_OVERHEAD,
        a_result=largest,
        outputs=max((sum(map(size, job.outputs)) for job in kinds), default=0),
        kept=max((n for job in kinds for key in job.graph if (n := size(key)) <= MOST_KEPT_BYTES), default=0),
    )


def _check_workers(team: Team, cost: _Cost) -> None:
    """Refuse what a cluster cannot hold.

    Raises
    ------
    MemoryLimitError
        Not even one job.
    """
    needed = min(cost.first_task, cost.next_task)
    if needed > team.thread_bytes or cost.first_task > team.total_bytes:
        raise MemoryLimitError(
            f"A task of this computation holds {format_bytes(needed)}, and all that belong together {format_bytes(cost.first_task)}, but "
            f"a thread of a worker has {format_bytes(team.thread_bytes)}, and the cluster {format_bytes(team.total_bytes)}. "
            "Choose a smaller block=, or give the workers more memory or fewer threads."
        )


def _jobs_on(cost: _Cost, team: Team) -> int:
    """How many jobs a cluster may have at once."""
    return max(1, min(_JOBS_A_THREAD * team.threads, team.total_bytes // max(1, cost.first_task)))


def _in_turns(get: Any, jobs: Sequence[Job], at_once: int, processes: int) -> Iterator[tuple[Key, Any]]:
    """Some jobs, their results, and the next ones, by whatever dask was told to compute with."""
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {}
        if get is dask.multiprocessing.get and dask.config.get("pool", None) is None:
            # One pool for all turns: dask would make one for each.
            context = dask.multiprocessing.get_context()
            pool = stack.enter_context(ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context))
            options = {"pool": pool, "chunksize": 1}
        for some in itertools.batched(jobs, at_once):
            keys = [key for job in some for key in job.outputs]
            blocks = list(get({key: task for job in some for key, task in job.graph.items()}, keys, **options))
            for key in keys:
                yield key, blocks.pop(0)


class _Landing:
    """Puts blocks in their places."""

    def __init__(self, lazy: da.Array, result: Any, advance: Advance) -> None:
        self._result, self._advance = result, advance
        self._edges = [list(itertools.accumulate(sizes, initial=0)) for sizes in lazy.chunks]
        # Two blocks may have parts of one chunk of a file, which takes one writer at a time.
        self._lock = contextlib.nullcontext() if isinstance(result, np.ndarray) else threading.Lock()

    def __call__(self, index: tuple[int, ...], block: Any) -> None:
        place = tuple(slice(edges[i], edges[i + 1]) for edges, i in zip(self._edges, index))
        with self._lock:
            if _is_of("h5py", self._result) and not block.flags.c_contiguous:
                self._put_slabs(place, block)
            else:
                self._result[place or ...] = block
        self._advance(block.nbytes)

    def _put_slabs(self, place: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Whole chunks of the file at a time: h5py copies what does not lie in the order of the file."""
        (start, stop), tail = (place[0].start, place[0].stop), place[1:]
        chunk_rows = self._result.chunks[0] if self._result.chunks else 1
        step = chunk_rows * max(1, _SLAB_BYTES // (chunk_rows * (block.nbytes // len(block))))
        for first in range(start - start % step, stop, step):
            a, b = max(first, start), min(first + step, stop)
            self._result[(slice(a, b), *tail)] = block[a - start : b - start]


def _is_of(library: str, out: Any) -> bool:
    return type(out).__module__.partition(".")[0] == library


def _result_bytes(lazy: da.Array, out: Any) -> int:
    return 0 if out is not None else int(lazy.nbytes)


def _writing_bytes(lazy: da.Array, out: Any, block_bytes: int) -> int:
    """What the library of a file takes to write a block, beside the block.

    It encodes what it writes, and for a chunk of which the block has a part it does so after it has read and decoded it. The threads of
    zarr-python take turns, and each of them keeps what its last chunk took.
    """
    if out is None or isinstance(out, np.ndarray):
        return 0
    chunk = getattr(out, "shards", None) or getattr(out, "chunks", None) or ()
    a_chunk: int = math.prod(chunk) * out.dtype.itemsize if chunk else 0
    if _is_of("h5py", out) and out.shape:
        chunk_rows: int = chunk[0] if chunk else 1
        row_bytes: int = math.prod(map(max, lazy.chunks[1:])) * out.dtype.itemsize
        return min(block_bytes, max(_SLAB_BYTES, chunk_rows * row_bytes)) + 2 * a_chunk
    if not _is_of("zarr", out):
        return block_bytes + 2 * a_chunk
    edges = (itertools.accumulate(sizes[:-1]) for sizes in lazy.chunks)
    has_parts = any(edge % n for in_axis, n in zip(edges, chunk) for edge in in_axis)
    threads = min(32, (os.cpu_count() or 1) + 4)  # as many as asyncio has
    n_chunks = math.prod(-(-n // c) for n, c in zip(lazy.shape, chunk))
    # A chunk that is written once leaves two copies at most, whatever there are of threads.
    kept = 2 * threads if has_parts else min(threads, 2 * n_chunks)
    copies: int = (_COPIES_MERGING if has_parts else 0) + (kept if a_chunk <= MOST_KEPT_BYTES else 0)
    return block_bytes + copies * a_chunk


def _checked_result(lazy: da.Array, out: Any, in_flight: int, limit: Room) -> Any:
    """Where the result goes, allocated now unless it was given.

    Raises
    ------
    MemoryLimitError
        It does not fit beside what is in flight.
    """
    result = _result_bytes(lazy, out)
    if result + in_flight > limit.n_bytes:
        raise MemoryLimitError(
            f"This computation needs {format_bytes(result + in_flight)} (result {format_bytes(result)}, blocks in flight "
            f"{format_bytes(in_flight)}), but the limit is {format_bytes(limit.n_bytes)} ({limit.bound_by}). "
            "Choose a smaller block=, fewer windows or columns, raise memory_limit, or land the result on disk with out=numpy.memmap(...)."
        )
    return empty(lazy.shape, lazy.dtype) if out is None else out


def _check_out(out: Any, lazy: da.Array) -> None:
    if out is None:
        return
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    wanted = f"an array of shape {lazy.shape} and dtype {lazy.dtype}"
    if shape != lazy.shape or dtype != lazy.dtype or not hasattr(out, "__setitem__"):
        raise OutError(f"out is a {type(out).__name__} of shape {shape} and dtype {dtype}. Give {wanted}.")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise OutError(f"out is read-only. Give {wanted} that can be written.")
