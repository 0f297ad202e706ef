"""How are very many very small windows gathered, where every call would cost more than the window?

A read costs some microseconds; numpy takes an item from memory in nanoseconds. Where rows lie in the file as they are,
nothing is to be checked, and the file is in the page cache, windows are taken from a mapping of it, as numpy's own fancy
indexing of a memmap does. No plan is made: to sort the starts would take longer.

What is not cached goes the usual way, since a page fault reads one page at a time. So does what is large, for which a
mapping gains nothing: a file that is cut while it is mapped ends the process, where a read says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.layout import Layout
from swath.raw import RawReader
from swath.rows import Access, Rows
from swath.storage import Scratch
from swath.windows import IntArray

# Up to this size a read costs more than its bytes.
_MOST_WINDOW_BYTES = 2048

# For fewer windows a plan is as fast; each file is mapped, and all starts are compared with its rows.
_LEAST_WINDOWS = 1000
_MOST_FILES = 64

_ITEMS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("u2"), 4: np.dtype("u4"), 8: np.dtype("u8")}


def is_small(layout: Layout, window: int, windows: int) -> bool:
    """Whether windows of so many rows are better taken from a mapping."""
    small = window * layout.row_bytes <= _MOST_WINDOW_BYTES and windows >= _LEAST_WINDOWS
    return layout.codec == "raw" and small and layout.n_shards <= _MOST_FILES


def take_mapped(rows: Rows, starts: IntArray, window: int, out: NDArray[Any]) -> bool:
    """Fill ``out``, contiguous, with small windows from the page cache; False if they are to be read in the usual way."""
    layout = rows.layout
    item: np.dtype[Any] = _ITEMS.get(layout.row_bytes, np.dtype(f"V{layout.row_bytes}"))
    batch = out.reshape(-1).view(np.uint8).view(item)
    wanted = starts if window == 1 else (starts[:, None] + np.arange(window)).ravel()
    for shard in range(layout.n_shards):
        first, stop = layout.rows_of(shard)
        if layout.n_shards == 1:
            places: Any = slice(None)
            inside = wanted
        else:
            places = np.flatnonzero((wanted >= first) & (wanted < stop))
            inside = wanted[places] - first
        if not inside.size:
            continue
        with rows.reader(shard, Access(verify=False, direct=False, tiles=(0,)), Scratch()) as reader:
            mapping = reader.mapping(stop - first, inside, item) if isinstance(reader, RawReader) else None
        if mapping is None:
            return False
        if layout.crc_bytes:
            batch[places] = mapping[np.divmod(inside, layout.chunk_rows)]
        else:
            batch[places] = mapping[inside]
    return True
