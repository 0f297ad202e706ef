"""How do the bytes get from the shards into the batch?

Reads are handed out in the order of storage, a few at a time, to threads that live as long as the call; each lands what it
reads (`swath.landing`). This is the only pool of threads that reads.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.announcing import Announcer, comes, lead
from swath.buffers import empty
from swath.crew import BYTES_FOR_THREADS, is_worth_a_thread, is_worth_a_trial, local_cores, run_best, threads_for
from swath.errors import (
    ColumnsError,
    DamagedStoreError,
    OptionError,
    OutError,
    StoreAccessError,
    StoreChangedError,
    StoreUnreachableError,
)
from swath.html import shown_place
from swath.landing import Lander
from swath.layout import Layout
from swath.mapped import is_small, take_mapped
from swath.memory import Room, machine_bytes
from swath.plan import Plan, plan_gather
from swath.progress import Advance, progress_bar
from swath.rows import Access, Rows
from swath.storage import Gate, run_threads
from swath.windows import IntArray, as_array, check_starts, check_window

_log = logging.getLogger(__name__)

Columns = IntArray | slice | None
Verify = Literal["always", "never"]
Direct = Literal["auto", "always", "never"]

# Direct I/O where the array is this many times the memory: what has been read is gone before it is read again, and the cache
# is left to others. It costs 10 % there (0.95 GB/s, buffered 1.05); at 4 times the memory, buffered reads are 1.3 times as
# fast, and at twice 1.8 times, since some of what they want is cached.
_DWARFS = 16

# Reads that a thread takes at once: few enough that threads end together, enough that handing them out, and opening the shard for them,
# costs nothing: of what is in memory, in windows of 256 KB, one takes 33.4 us by 48, 31.8 by 128, 31.9 by 1000, of two threads.
_READS_A_TASK = 16
_CACHED_READS_A_TASK = 128

# Threads that decode hand the interpreter's lock round, and their requests are larger: 2.1 GB/s with 4 on 2 cores, 1.6 with 32.
_DECODERS_A_CORE = 2

# A local gather of less takes no second, even from a slow disk.
_MAYBE_LONG_BYTES = 2**26

# Chunks whose pages are looked up in the page cache before the number of threads is chosen: one of eight reads at most, since to look
# costs as much as to read what is cached.
PROBES = 32
_READS_A_PROBE = 8


def plan_for(
    rows: Rows,
    starts: ArrayLike,
    window: int | None,
    columns: Any = None,
    *,
    batch_in_memory: bool = True,
    limit: Room,
    verify: Verify = "always",
    direct: Direct = "auto",
    most_threads: int | None = None,
) -> Plan:
    """Check the request at the door, and plan it. The errors are those of `RowArray.gather`, but for the memory limit."""
    layout = rows.layout
    window = check_window(rows.window if window is None else window, layout.n_rows)
    _check_access(verify, direct)
    reach = rows.reach
    most = reach.requests if most_threads is None else most_threads
    if layout.codec != "raw" and not reach.is_remote:  # what is far away waits for its server, and not for the cores
        most = min(most, _DECODERS_A_CORE * local_cores())
    return plan_gather(
        layout,
        check_starts(starts, window, layout.n_rows),
        window,
        columns=check_columns(columns, layout),
        batch_in_memory=batch_in_memory,
        limit=limit,
        verify=verify == "always",
        direct=direct == "always"
        or (direct == "auto" and not reach.is_remote and layout.n_rows * layout.row_bytes > _DWARFS * machine_bytes()),
        is_store=rows.is_store,
        reach=reach,
        most_threads=most,
    )


def gather_now(
    rows: Rows,
    starts: ArrayLike,
    window: int | None,
    columns: Any,
    out: NDArray[Any] | None,
    limit: Room,
    verify: Verify,
    direct: Direct,
    progress: bool | None = False,
) -> NDArray[Any]:
    """Check the request, plan it, and carry it out; or take small windows from memory without a plan.

    The errors are those of `RowArray.gather`.
    """
    _check_access(verify, direct)
    near = not rows.reach.is_remote
    if near and (verify == "never" or not rows.layout.crc_bytes) and direct != "always" and columns is None:
        starts = as_array(starts)
        batch = _take_mapped(rows, starts, window, out, limit)
        if batch is not None:
            return batch
    plan = plan_for(
        rows, starts, window, columns, batch_in_memory=out is None, limit=limit, verify=verify, direct=direct
    )
    plan.check(limit)
    if progress is None and near and plan.bytes_read < _MAYBE_LONG_BYTES:
        progress = False
    with progress_bar("gather", plan.bytes_wanted, progress) as advance:
        return gather(rows, plan, out, advance if progress is not False else None)


def _check_access(verify: Any, direct: Any) -> None:
    for name, value, kinds in (("verify", verify, get_args(Verify)), ("direct", direct, get_args(Direct))):
        if value not in kinds:
            raise OptionError(f"{name} is {value!r}. Choose one of {', '.join(map(repr, kinds))}.")


def _take_mapped(
    rows: Rows, starts: NDArray[Any], window: int | None, out: NDArray[Any] | None, limit: Room
) -> NDArray[Any] | None:
    """The batch, if its windows are small and in the page cache (`swath.mapped`); None if not."""
    layout = rows.layout
    size = check_window(rows.window if window is None else window, layout.n_rows)
    if not is_small(layout, size, starts.size):
        return None
    checked = check_starts(starts, size, layout.n_rows)
    shape = (checked.size, size, *layout.row_shape)
    # Beside the batch stand a part of it, and positions of its rows.
    if (math.prod(shape) * layout.dtype.itemsize + 3 * 8 * checked.size * size) * 2 > limit.n_bytes:
        return None
    if out is not None:
        check_out(out, shape, layout.dtype)
        if not out.flags.c_contiguous:
            return None
    batch = empty(shape, layout.dtype) if out is None else out
    try:
        if not take_mapped(rows, checked, size, batch):
            return None
    except DamagedStoreError:
        return None  # the usual way says what is wrong
    rows.check_unchanged()
    return batch


def gather(rows: Rows, plan: Plan, out: NDArray[Any] | None = None, advance: Advance | None = None) -> NDArray[Any]:
    """Carry out a plan: the batch, in the order that was asked, bit for bit; ``advance`` is told of bytes of it that are there.

    Raises
    ------
    OutError
        ``out`` cannot take the batch.
    DamagedStoreError
        A chunk that is needed is missing or wrong; ``out`` then holds rubbish.
    StoreChangedError
        Another store has taken its place since it was opened.
    """
    if out is None:
        out = empty(plan.batch_shape, plan.layout.dtype)
    else:
        check_out(out, plan.batch_shape, plan.layout.dtype)
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("%s: %r", shown_place(rows.url), plan)
    if out.size:
        try:
            _carry_out(rows, plan, out, advance)
        except (StoreUnreachableError, StoreAccessError):
            raise
        except OSError:
            # A replaced store is why a shard is missing; or why, below, its bytes are sound and yet not these rows.
            rows.check_unchanged()
            raise
        if not plan.asks_meanwhile:
            rows.check_unchanged()
    return out


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an ``out`` that cannot take the batch.

    Raises
    ------
    OutError
    """
    wanted = f"an array of shape {shape} and dtype {dtype}"
    if not isinstance(out, np.ndarray):
        raise OutError(f"out is a {type(out).__name__}. Give {wanted}.")
    if out.shape != shape or out.dtype != dtype:
        raise OutError(f"out has shape {out.shape} and dtype {out.dtype}. Give {wanted}.")
    if not out.flags.writeable:
        raise OutError(f"out is read-only. Give {wanted} that can be written.")


def check_columns(columns: Any, layout: Layout) -> Columns:
    """``columns`` as a slice or an array of positions along axis 1.

    Raises
    ------
    ColumnsError
    """
    if columns is None:
        return None
    if not layout.row_shape:
        raise ColumnsError(f"columns is {columns!r}, but rows of this array are single values. Leave columns out.")
    n_columns = layout.row_shape[0]
    if isinstance(columns, slice):
        try:
            columns.indices(n_columns)
        except (TypeError, ValueError):
            raise ColumnsError(
                f"columns is {columns!r}, which is no slice of {n_columns} columns. Give a slice of whole numbers."
            ) from None
        return columns
    given = as_array(columns)
    if given.ndim != 1 or given.dtype.kind not in "iu" or ((given < 0) | (given >= n_columns)).any():
        raise ColumnsError(f"columns is {columns!r}. Give a slice, or a list of whole numbers in [0, {n_columns - 1}].")
    return given.astype(np.int64)


def _carry_out(rows: Rows, plan: Plan, out: NDArray[Any], advance: Advance | None) -> None:
    probes = plan.first_chunk[:: max(_READS_A_PROBE, -(-plan.first_chunk.size // PROBES))]
    cached = are_cached(rows, probes)
    access = Access(plan.verify, plan.direct and not cached, plan.tiles)
    tells = not (cached or access.direct or plan.reach.is_remote or plan.layout.by_library)
    tried = cached and is_worth_a_trial(plan)
    threads = min(plan.threads, local_cores()) if tried else threads_for(plan, near=cached or tells)
    tasks = _tasks(plan, threads, _CACHED_READS_A_TASK if cached and not tried else _READS_A_TASK)
    announced = iter(tasks if tells else ())
    if tells:
        announcer = Announcer(rows, plan, access)
        for some in itertools.islice(announced, lead(plan, len(tasks))):
            announcer.announce(*some)
        # Less is read by one thread, whoever listens.
        if plan.bytes_read >= BYTES_FOR_THREADS and not comes(rows, plan, access):
            threads = threads_for(plan, near=False)
            tasks, announced = _tasks(plan, threads, _READS_A_TASK), iter(())
    threads = min(threads, len(tasks))
    bytes_a_chunk = 0.0 if advance is None else plan.bytes_wanted / plan.chunks
    shared = iter(tasks)  # `next` on it is one step for the interpreter: threads share it without a lock

    def work(rows: Rows, until: float = math.inf) -> int:
        """Carry out tasks until there are none, or it is this late; how many reads that were."""
        lander, announcer, done = Lander(rows, plan, access, out), Announcer(rows, plan, access), 0
        for first, stop in shared:
            if (ahead := next(announced, None)) is not None:
                announcer.announce(*ahead)
            lander.land(first, stop)
            if advance is not None:
                chunks = int((plan.stop_chunk[first:stop] - plan.first_chunk[first:stop]).sum())
                advance(chunks * bytes_a_chunk)
            done += stop - first
            if time.perf_counter() > until:
                break
        return done

    if plan.reach.is_remote:
        if not plan.goes_by_stamps:
            _find(rows, plan, tasks)

        def ask(gate: Gate) -> None:
            with gate.away():  # it touches nothing of the caller's
                rows.check_unchanged()

        parts: list[Callable[[Gate], object]] = [lambda gate: work(rows.through(gate))] * threads
        if plan.asks_meanwhile:
            parts.insert(0, ask)
        chosen = iter(parts)
        run_threads(lambda gate: next(chosen)(gate), len(parts), local_cores())
        return
    if threads == 1 and not is_worth_a_thread(plan):
        work(rows)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="swath-gather") as pool:

        def run(n: int, seconds: float) -> int:
            until = time.perf_counter() + seconds
            return sum([future.result() for future in [pool.submit(work, rows, until) for _ in range(n)]])

        try:
            if tried:
                run_best(run, threads)
            else:
                run(threads, math.inf)
        finally:
            # After an error, or Ctrl-C, no thread finds another task.
            for _ in shared:
                pass


def _find(rows: Rows, plan: Plan, tasks: list[tuple[int, int]]) -> None:
    """Learn where the chunks lie of those shards that several threads will read, which would each ask for the index."""
    shards, counts = np.unique(
        plan.first_chunk[[first for first, _ in tasks]] // plan.layout.shard_chunks, return_counts=True
    )
    several = shards[counts > 1].tolist()
    shared = iter(several)

    def work(gate: Gate) -> None:
        through = rows.through(gate)
        for shard in shared:
            # What is wrong with a shard whoever reads it will tell; a server that does not answer need not be asked again.
            with contextlib.suppress(DamagedStoreError, StoreChangedError):
                through.find(shard)

    if several:
        run_threads(work, min(plan.threads, len(several)), local_cores())


def _tasks(plan: Plan, threads: int, most_reads: int) -> list[tuple[int, int]]:
    """Ranges of reads ``[first, stop)``, each within one shard."""
    shards = plan.first_chunk // plan.layout.shard_chunks
    borders = np.flatnonzero(np.diff(shards)) + 1
    edges = [0, *borders.tolist(), shards.size]
    # A request takes so much longer than handing it out that each is handed out by itself.
    share = shards.size // (4 * threads) if threads > 1 else most_reads
    most = 1 if plan.reach.is_remote else max(1, min(most_reads, share))
    return [(i, min(i + most, b)) for a, b in itertools.pairwise(edges) for i in range(a, b, most)]


def are_cached(rows: Rows, chunks: IntArray) -> bool:
    """Whether nine of ten of these chunks begin in the page cache."""
    try:
        return not rows.reach.is_remote and sum(map(rows.is_cached, chunks.tolist())) >= 0.9 * chunks.size
    except (OSError, DamagedStoreError):
        return True  # the read itself will tell
