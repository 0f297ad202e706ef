"""Memory for batches: where it begins, and how it is used again once nobody looks at it any more.

Fresh memory costs a page fault for every 4 KiB, which takes longer than to read the same bytes from the page cache. An array of
numpy counts who refers to it, and views count for what they look at: while a caller holds a batch, or a part of one, or what torch
or jax made of it without a copy, its memory is left alone.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of a line of the processor's cache. numpy's own begin 16 bytes after one, where the system copies more slowly: 5,000 windows of
# 256 KB came at 4.1 GB/s there and at 5.0 here, those of a .npy file at 4.6 and 5.2 (warm, unchecked, 2 threads).
_LINE = 64


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """As `numpy.empty`, at the beginning of a line of the processor's cache; but for objects, which cannot be laid over bytes."""
    if dtype.hasobject:
        return np.empty(shape, dtype)
    return _laid(np.empty(_room(shape, dtype), np.uint8), shape, dtype)


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes in which an array has a place, wherever they begin."""
    return math.prod(shape) * dtype.itemsize + _LINE


def _laid(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ndarray(shape, dtype, memory, -memory.__array_interface__["data"][0] % _LINE)


class Buffers:
    """Buffers that were handed out, of which so many are remembered. One thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffers: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array that nobody else has, with rubbish in it; its memory is taken back when nobody refers to it."""
        n_bytes = _room(shape, dtype)
        for k in range(len(self._buffers)):
            if self._buffers[k].size >= n_bytes and _references(self._buffers, k) <= _UNUSED:
                return _laid(self._buffers[k], shape, dtype)
        if len(self._buffers) == self._most:
            del self._buffers[0]  # whoever holds it may keep it
        self._buffers.append(np.empty(n_bytes, np.uint8))
        return _laid(self._buffers[-1], shape, dtype)


def _references(buffers: list[NDArray[np.uint8]], k: int) -> int:
    return sys.getrefcount(buffers[k])


# How many of them are the interpreter's own differs from one version to another.
_UNUSED = _references([np.empty(0, np.uint8)], 0)
