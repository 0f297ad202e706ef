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

# A variance is made of counts, sums and squares, and other reductions of fewer.
_REDUCED_VALUES = 3

Sizes = Callable[[Key], int]
"""Bytes of the result of a task."""


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of a computation."""

    peak: int
    """The most that stands at once while tasks run one after another."""
    tasks: tuple[int, int]
    """What the two largest of the tasks hold: arguments, result, and what is made on the way."""


def flat_graph(lazy: da.Array) -> dict[Key, Any]:
    """All tasks, as dask runs them, but for those whose results a cluster has already (``persist``).

    They are not fused: a fused task holds each of its steps until the last has been made.
    """
    graph: dict[Key, Any] = convert_legacy_graph(lazy.dask.to_dict())
    return graph


def sizes_of(lazy: da.Array, graph: Mapping[Key, Any]) -> Sizes:
    """What each task makes: dask knows the chunks of each array that the graph goes through."""
    chunks = {name: _chunks(layer) for name, layer in lazy.dask.layers.items()}
    value_bytes = {name: _itemsize(layer) for name, layer in lazy.dask.layers.items()}
    for name in _partial_reductions(lazy):
        value_bytes[name] *= _REDUCED_VALUES

    def size(key: Key) -> int:
        name, index = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        known = chunks.get(name)
        if known is None or len(known) != len(index):
            return 0  # a number, a slice, a function: what is no part of an array is small
        # Of the first step of a reduction dask tells the chunks that go in.
        gone = _reduced_axes(graph.get(key))
        shape = (int(sizes[i]) for axis, (sizes, i) in enumerate(zip(known, index)) if axis not in gone)
        return math.prod(shape) * value_bytes[name]

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


def held_by(job: Job, size: Sizes, *, landing: bool) -> Held:
    """What a job holds if its tasks run in the order that dask gives them, and each output leaves once it is there.

    With ``landing`` it goes where memory is taken as it is filled; that of all outputs is counted elsewhere.
    """
    graph = job.graph
    users = dict.fromkeys(graph, 0)
    for key in graph:
        for other in _unmade(graph, key):
            users[other] += 1
    outputs = set(job.outputs)
    now = peak = landed = 0
    tasks = [0, 0]
    for key in sorted(graph, key=order(dict(graph)).__getitem__):
        task = graph[key]
        own, arguments = size(key), sum(map(size, task.dependencies))
        on_the_way = _made_on_the_way(task, own, arguments)
        now += own
        if landing and key in outputs:
            landed += own
        peak = max(peak, now + on_the_way + landed)
        tasks = sorted((*tasks, own + on_the_way + arguments))[1:]
        for other in _unmade(graph, key):
            users[other] -= 1
            if not users[other]:
                now -= size(other)
        if not users[key]:
            now -= own
    return Held(max(0, peak - landed), (tasks[1], tasks[0]))


def _made_on_the_way(task: Any, own: int, arguments: int) -> int:
    """Nothing where the engine fills its block, or blocks are joined; as much as goes in or out where a function is called."""
    if block_of(task) is not None or len(task.dependencies) > 1:
        return 0
    return max(own, arguments) if _reduced_axes(task) else own


def _reduced_axes(task: Any) -> tuple[int, ...]:
    """The axes of which the first step of a reduction leaves one value."""
    options = getattr(task, "kwargs", None) or {}
    return tuple(options["axis"]) if options.get("keepdims") is True and "axis" in options else ()


def _partial_reductions(lazy: da.Array) -> set[str]:
    """The layers between an array and what it is reduced to; dask gives the steps these names."""
    steps = {name for name in lazy.dask.layers if "-aggregate-" in name or "-partial-" in name}
    return {before for name in steps for before in lazy.dask.dependencies[name]}


def _unmade(graph: Mapping[Key, Any], key: Key) -> list[Key]:
    """What a task needs that is not there yet."""
    return [other for other in graph[key].dependencies if other in graph] if key in graph else []


def _chunks(layer: Any) -> tuple[tuple[int, ...], ...] | None:
    known = (layer.collection_annotations or {}).get("chunks")
    return known if known is not None and not any(math.isnan(n) for sizes in known for n in sizes) else None


def _itemsize(layer: Any) -> int:
    dtype = (layer.collection_annotations or {}).get("dtype")
    return np.dtype(dtype).itemsize if dtype is not None else 0
