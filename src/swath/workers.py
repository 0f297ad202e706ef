"""What does a dask cluster offer, and how is work handed to it a few tasks at a time?"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from swath.errors import OptionError, WorkersLostError
from swath.memory import detect_room

Key = Any
"""What dask names a task by."""

# Of a worker's memory dask leaves the last part to spilling and to pausing: from 60 % on it writes results to its disk.
_SHARE_OF_WORKER = 0.6

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

# How often the workers are looked at while they compute: it costs some milliseconds.
_LOOK_SECONDS = 1.0

# Between two looks at a client that is not connected yet.
_CONNECTING_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Team:
    """The workers of a cluster, as they are now."""

    threads: int
    """Of all together, at least 1."""
    thread_bytes: int
    """What a task may hold where a worker has least for each of its threads."""
    total_bytes: int
    """What all may hold."""


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks that share no result with those of another job."""

    graph: Mapping[Key, Any]
    outputs: tuple[Key, ...]


def find_client(client: Any = None) -> Any:
    """The client that is given, or the one that is active; None if there is none.

    Raises
    ------
    OptionError
        The client that is given answers to ``await`` only.
    """
    if client is not None:
        if client.asynchronous:
            raise OptionError(f"{client} is asynchronous. Give a client that was made without asynchronous=True.")
        return client
    if (distributed := sys.modules.get("distributed")) is None:
        return None
    try:
        found = distributed.default_client()
    except ValueError:
        return None
    return None if found.asynchronous else found


def team_of(client: Any, taken: int = 0) -> Team:
    """What the workers have; without workers, or without limits, as if there were one of any size.

    Workers beside this process share what the machine, or its memory cgroup, which dask may not know of, has left; ``taken``
    bytes of that are spoken for.

    Raises
    ------
    WorkersLostError
        The client is closed, or has lost its scheduler.
    """
    workers = _workers_of(client)
    beside = sum(worker["host"] in _LOOPBACK for worker in workers)
    room = max(0, detect_room().n_bytes - taken) // max(1, beside)
    limits = [
        (
            worker["nthreads"],
            int(
                min(worker["memory_limit"] or sys.maxsize, room if worker["host"] in _LOOPBACK else sys.maxsize)
                * _SHARE_OF_WORKER
            ),
        )
        for worker in workers
    ]
    return Team(
        threads=sum(threads for threads, _ in limits) or 1,
        thread_bytes=min((limit // threads for threads, limit in limits), default=sys.maxsize),
        total_bytes=sum(limit for _, limit in limits) or sys.maxsize,
    )


def _workers_of(client: Any) -> Sequence[Mapping[str, Any]]:
    """What the scheduler tells of each worker.

    dask answers with what it was told last: with nothing while the client connects, as that of a task does where another task
    of its worker has just made it, and without workers where its own look at the scheduler comes between.
    """
    while client.status in ("newly-created", "connecting", "running"):
        told = client.scheduler_info(n_workers=-1)
        workers = told.get("workers", {})
        if told and len(workers) == told.get("n_workers", len(workers)):
            return list(workers.values())
        time.sleep(_CONNECTING_SECONDS)
    raise WorkersLostError(
        f"The dask client {client.id} is {client.status}, so that its workers cannot be reached. "
        "Make a client that is connected to a scheduler."
    )


def computed(client: Any, jobs: Sequence[Job], at_once: Callable[[Team], int]) -> Iterator[tuple[Key, Any]]:
    """Each output of each job, as it is done; at most so many jobs are begun that have not been fetched.

    Results come from the workers themselves, unless the client was told not to ask them (``direct_to_workers=False``).

    Raises
    ------
    WorkersLostError
        A task has ended worker after worker.
    """
    import distributed

    direct = client.direct_to_workers is not False
    looked, most = time.monotonic(), at_once(team_of(client))
    waiting, begun = iter(jobs), 0
    of_job: dict[Key, list[int]] = {}
    futures: dict[Key, Any] = {}
    done = distributed.as_completed(loop=client.loop)  # type: ignore[no-untyped-call]

    def begin() -> None:
        nonlocal looked, most, begun
        if time.monotonic() > looked + _LOOK_SECONDS:  # workers come and go
            looked, most = time.monotonic(), at_once(team_of(client))
        for job in islice(waiting, max(0, most - begun)):
            begun += 1
            unfetched = [len(job.outputs)]
            of_job.update(dict.fromkeys(job.outputs, unfetched))
            some = client.get(job.graph, list(job.outputs), sync=False)
            futures.update((future.key, future) for future in some)
            done.update(some)  # type: ignore[no-untyped-call]

    try:
        with _thread_left_to_others():
            begin()
            for future in done:
                with _deaths_told():
                    value = client.gather(future, direct=direct)
                key = future.key
                futures.pop(key).release()  # here it is; the worker needs the room for the next
                unfetched = of_job.pop(key)
                unfetched[0] -= 1
                if not unfetched[0]:
                    begun -= 1
                    begin()  # workers go on while the caller puts this in its place
                yield key, value
                del future, value  # else both would be held while the next is fetched
    finally:
        # Not cancelled: another thread may compute the same, or have persisted it, by the same client.
        for future in futures.values():
            future.release()


def on_workers(client: Any, task: Callable[..., Any], items: Sequence[Any], name: str, **shared: Any) -> Iterator[Any]:
    """What ``task`` returns for each item, which should be little, as it is done; all are handed over at once.

    What is ``shared`` is sent to the cluster once, and sent again to a worker that takes the place of one that died. A task whose
    result was had is not run again where its worker dies: it might go on when the caller has ended.

    Raises
    ------
    WorkersLostError
        A task has ended worker after worker.
    """
    import distributed

    sent = {key: client.submit(_same, value, pure=False) for key, value in shared.items()}
    futures = {future.key: future for future in client.map(task, items, key=name, pure=False, **sent)}
    try:
        with _thread_left_to_others():
            for future in distributed.as_completed(list(futures.values()), loop=client.loop):  # type: ignore[no-untyped-call]
                with _deaths_told():
                    result = future.result()
                futures.pop(future.key).release()
                yield result
    finally:
        client.cancel(list(futures.values()))


@contextlib.contextmanager
def _deaths_told() -> Iterator[None]:
    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise WorkersLostError(
            f"Task {error.task} ended {error.allowed_failures + 1} workers one after another. "
            "Look into their logs; where they ran out of memory, choose smaller blocks or shards, or give them more."
        ) from error


@contextlib.contextmanager
def _thread_left_to_others() -> Iterator[None]:
    """What is called in a task waits for other tasks, which on a worker of one thread would wait for it."""
    from distributed import rejoin, secede

    try:
        secede()  # type: ignore[no-untyped-call]
    except (ValueError, KeyError):  # no task, or one that has left its thread
        yield
        return
    try:
        yield
    finally:
        rejoin()  # type: ignore[no-untyped-call]


def _same(value: Any) -> Any:
    """A task that is run again where its worker has died, as what is scattered is not."""
    return value
