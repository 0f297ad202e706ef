"""What does a dask graph hold in memory while it is computed, and which of its tasks have to do with one another?"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import dask.array.chunk
import dask.array.reductions
import numpy as np
from dask._task_spec import Alias, convert_legacy_graph
from dask.order import order

from swath.lazy import block_of
from swath.workers import Job, Key

# A variance is made of counts, sums and squares, and other reductions of fewer.
_REDUCED_VALUES = 3

# What selects a part of a block.
_SELECT = (dask.array.chunk.getitem, operator.getitem)

# Functions that make their result and nothing beside it, as `numpy.ufunc`s do.
_FILL_THEIR_RESULT = (
    *_SELECT,
    dask.array.chunk.astype,
    *(getattr(operator, name) for name in ("abs", "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow")),
    *(getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "invert")),
)

# First steps of reductions that make nothing of the size of their block; others are said to make a copy of it, and a mask.
_READ_THEIR_BLOCK = (
    *(getattr(dask.array.chunk, name) for name in ("sum", "prod", "min", "max", "any", "all")),
    *(getattr(dask.array.reductions, name) for name in ("chunk_min", "chunk_max")),
)
_COPIES_REDUCED = 1.25

# Those of means and variances call another for their sums. Before that, variances make of each value how far it is from the mean, and
# the square of that.
_SUM = {dask.array.reductions.mean_chunk: 0, dask.array.reductions.moment_chunk: 2}

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
            # A piece that `rechunk` cuts off; or a number, a slice, a function: what is no part of an array is small.
            return _piece_bytes(graph.get(key), value_bytes)
        # Of the first step of a reduction dask tells the chunks that go in.
        gone = _reduced_axes(graph.get(key))
        shape = (int(sizes[i]) for axis, (sizes, i) in enumerate(zip(known, index)) if axis not in gone)
        return math.prod(shape) * value_bytes[name]

    return size


def _piece_bytes(task: Any, value_bytes: Mapping[str, int]) -> int:
    """Bytes of a slice of a block; 0 for what is none, or has no given edges."""
    if not _is_slice(task) or len(task.dependencies) != 1:
        return 0
    (before,) = task.dependencies
    index = task.args[1]
    edges = [(i.start, i.stop) for i in index if isinstance(i, slice)] if isinstance(index, tuple) else []
    if not edges or not isinstance(before, tuple) or any(None in edge for edge in edges):
        return 0
    values: int = math.prod(stop - start for start, stop in edges)
    return values * value_bytes.get(before[0], 0)


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
    memory = {key: _whose_memory(graph, key, size) for key in graph}
    outputs = set(job.outputs)
    uses: dict[Key, set[Key]] = {}
    users: dict[Key, int] = defaultdict(int)
    for key in graph:
        used = {memory[other] for other in _unmade(graph, key)} if memory[key] == key else set()
        uses[key] = used | {memory[key]} if key in outputs else used
        for other in uses[key]:
            users[other] += 1
    now = peak = landed = 0
    tasks = [0, 0]
    for key in sorted(graph, key=order(dict(graph)).__getitem__):
        task = graph[key]
        if landing and key in outputs:
            landed += size(key)
        if memory[key] == key:
            own, arguments = size(key), sum(size(memory.get(other, other)) for other in task.dependencies)
            on_the_way = _made_on_the_way(task, own, arguments)
            now += own
            tasks = sorted((*tasks, own + on_the_way + arguments))[1:]
        else:
            on_the_way = 0
        peak = max(peak, now + on_the_way + landed)
        for other in uses[key]:
            users[other] -= 1
            if not users[other]:
                now -= size(other)
    return Held(max(0, peak - landed), (tasks[1], tasks[0]))


def _whose_memory(graph: Mapping[Key, Any], key: Key, size: Sizes) -> Key:
    """The task whose result a result is a view of; its own if it is none."""
    while (task := graph.get(key)) is not None and len(task.dependencies) == 1:
        (before,) = task.dependencies
        own, whole = size(key), size(before)
        # dask copies what is selected if it is no more than half.
        is_view = isinstance(task, Alias) or (_is_slice(task) and 2 * own > whole)
        if before not in graph or not is_view or own > whole:
            break
        key = before
    return key


def _is_slice(task: Any) -> bool:
    func = getattr(task, "func", None)
    if not any(func is known for known in _SELECT):
        return False
    index = task.args[1]
    return all(isinstance(i, (slice, int)) or i is Ellipsis for i in (index if isinstance(index, tuple) else (index,)))


def _made_on_the_way(task: Any, own: int, arguments: int) -> int:
    """Nothing where a result is filled in place or blocks are joined; else as much as goes in or out of the function."""
    if block_of(task) is not None or len(task.dependencies) > 1 or _fills_its_result(task):
        return 0
    if not _reduced_axes(task):
        return own
    func, bound = _function(task)
    copies: float = _SUM.get(func, 0)
    summed = bound.get("sum", dask.array.chunk.sum) if func in _SUM else func
    if not any(summed is known for known in _READ_THEIR_BLOCK):
        copies += _COPIES_REDUCED
    return int(max(own, arguments) * copies)


def _fills_its_result(task: Any) -> bool:
    func, _ = _function(task)
    return isinstance(func, np.ufunc) or any(func is known for known in _FILL_THEIR_RESULT)


def _function(task: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a task calls, and the arguments by name that are bound to it."""
    func, bound = getattr(task, "func", None), dict[str, Any]()
    while isinstance(func, partial):
        bound = {**func.keywords, **bound}
        func = func.func
    return func, bound


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
