"""Memory that is used again once nobody looks at it any more.

Fresh memory costs a page fault for every 4 KiB, which takes longer than to read the same bytes from the page cache. An array of
numpy counts who refers to it, and views count for what they look at: while a caller holds a batch, or a part of one, or what torch
or jax made of it without a copy, its memory is left alone.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Buffers that were handed out, of which so many are remembered. One thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffers: list[NDArray[np.uint8]] = []

    def take(self, n_bytes: int) -> NDArray[np.uint8]:
        """A buffer that nobody else has, with rubbish in it; it is taken back when nobody refers to it."""
        for k in range(len(self._buffers)):
            if self._buffers[k].size >= n_bytes and _references(self._buffers, k) <= _UNUSED:
                return self._buffers[k][:n_bytes]
        if len(self._buffers) == self._most:
            del self._buffers[0]  # whoever holds it may keep it
        self._buffers.append(np.empty(n_bytes, np.uint8))
        return self._buffers[-1][:]


def _references(buffers: list[NDArray[np.uint8]], k: int) -> int:
    return sys.getrefcount(buffers[k])


# How many of them are the interpreter's own differs from one version to another.
_UNUSED = _references([np.empty(0, np.uint8)], 0)
