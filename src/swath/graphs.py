"""What does a dask graph hold in memory while it is computed, and which of its tasks have to do with one another?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import convert_legacy_graph
from dask.order import order

from swath.lazy import block_of
from swath.workers import Job, Key

Sizes = Callable[[Key], int]
"""Bytes of the result of a task."""


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of a computation."""

    peak: int
    """The most that stands at once while tasks run one after another."""
    a_task: int
    """The most that one task has before it: its arguments, its result and as much again for what it makes on the way."""


def flat_graph(lazy: da.Array) -> dict[Key, Any]:
    """All tasks, as dask runs them, but for those whose results a cluster has already (``persist``).

    They are not fused: a fused task holds each of its steps until the last has been made.
    """
    graph: dict[Key, Any] = convert_legacy_graph(lazy.dask.to_dict())
    return graph


def sizes_of(lazy: da.Array) -> Sizes:
    """What each task makes: dask knows the chunks of each array that the graph goes through."""
    chunks = {name: _chunks(layer) for name, layer in lazy.dask.layers.items()}
    itemsizes = {name: _itemsize(layer) for name, layer in lazy.dask.layers.items()}

    def size(key: Key) -> int:
        name, index = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        known = chunks.get(name)
        if known is None or len(known) != len(index):
            return 0  # a number, a slice, a function: what is no part of an array is small
        return math.prod(int(sizes[i]) for sizes, i in zip(known, index)) * itemsizes[name]

    return size


def jobs_of(graph: Mapping[Key, Any], outputs: Sequence[Key]) -> list[Job]:
    """The graph in parts that share no task, in the order of their first outputs."""
    parts: dict[Key, Key] = {}

    def root(key: Key) -> Key:
        while (parent := parts.setdefault(key, key)) != key:
            parts[key] = parts[parent]
            key = parts[key]
        return key

    needed, left = set(outputs), list(outputs)
    while left:
        key = left.pop()
        for other in _unmade(graph, key):
            parts[root(other)] = root(key)
            if other not in needed:
                needed.add(other)
                left.append(other)
    tasks: dict[Key, dict[Key, Any]] = defaultdict(dict)
    wanted: dict[Key, list[Key]] = defaultdict(list)
    for key in needed & graph.keys():
        tasks[root(key)][key] = graph[key]
    for key in outputs:
        wanted[root(key)].append(key)
    return [Job(tasks[part], tuple(keys)) for part, keys in wanted.items()]


def held_by(job: Job, size: Sizes) -> Held:
    """What a job holds if its tasks run in the order that dask gives them, and each output leaves once it is there."""
    graph = job.graph
    users = dict.fromkeys(graph, 0)
    for key in graph:
        for other in _unmade(graph, key):
            users[other] += 1
    outputs = set(job.outputs)
    now = peak = a_task = 0
    for key in sorted(graph, key=order(dict(graph)).__getitem__):
        task = graph[key]
        own = size(key)
        now += own
        made_on_the_way = 0 if block_of(task) is not None else own
        peak = max(peak, now + made_on_the_way)
        a_task = max(a_task, own + made_on_the_way + sum(map(size, task.dependencies)))
        for other in _unmade(graph, key):
            users[other] -= 1
            if not users[other]:
                now -= size(other)
        if key in outputs and not users[key]:
            now -= own
    return Held(peak, a_task)


def _unmade(graph: Mapping[Key, Any], key: Key) -> list[Key]:
    """What a task needs that is not there yet."""
    return [other for other in graph[key].dependencies if other in graph] if key in graph else []


def _chunks(layer: Any) -> tuple[tuple[int, ...], ...] | None:
    known = (layer.collection_annotations or {}).get("chunks")
    return known if known is not None and not any(math.isnan(n) for sizes in known for n in sizes) else None


def _itemsize(layer: Any) -> int:
    dtype = (layer.collection_annotations or {}).get("dtype")
    return np.dtype(dtype).itemsize if dtype is not None else 0
