"""How do blocks of rows that come one after another, nobody knows how many, become shards?

A shard is written when it is full, the last one when the blocks end; the length of the array is what it has become.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.checksum import crc32c
from swath.errors import SourceError
from swath.metadata import Facts
from swath.progress import Advance
from swath.sources import check_rows
from swath.storage import Folder
from swath.writing import put_shard, rows_in, shard_buffer


@dataclass(slots=True)
class Blocks:
    """Blocks of rows, of which the first has been looked at."""

    first: NDArray[Any]
    rest: Iterator[Any]
    dtype: np.dtype[Any]
    n_rows: int = 0
    """That have been given."""
    crc: int = 0
    """Of these."""

    @classmethod
    def of(cls, blocks: Iterable[Any]) -> Blocks:
        """Look at the first block.

        Raises
        ------
        SourceError
            There is none, or it is no block of rows.
        """
        rest = iter(blocks)
        for k, block in enumerate(rest):
            first = _as_rows(k, block)
            if first.ndim and len(first):
                return cls(first, rest, check_rows(first.shape, first.dtype, f"Block {k}"))
            if not first.ndim:
                check_rows(first.shape, first.dtype, f"Block {k}")
        raise SourceError("The iterator gave no rows. Give at least one block of rows, of shape (n, *row_shape).")

    def describe(self) -> dict[str, Any]:
        """The first block tells one stream from another, as far as anything does before the end."""
        return {"kind": "blocks", "dtype": self.dtype.str, "crc32c": crc32c(_bytes(self.first, self.dtype))}

    def describe_given(self) -> dict[str, Any]:
        """What has been given, whatever the blocks it came in."""
        return {**self.describe(), "given": {"rows": self.n_rows, "crc32c": self.crc}}

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for k, block in enumerate(itertools.chain([self.first], self.rest)):
            rows = _as_rows(k, block)
            if rows.shape[1:] != self.first.shape[1:] or not rows.ndim or np.result_type(rows.dtype) != self.dtype:
                raise SourceError(
                    f"Block {k} has shape {rows.shape} and dtype {rows.dtype}, but block 0 has rows of shape "
                    f"{self.first.shape[1:]} and dtype {self.dtype}. Give blocks of rows that are alike."
                )
            self.n_rows += len(rows)
            self.crc = crc32c(_bytes(rows, self.dtype), self.crc)
            yield rows


def _as_rows(k: int, block: Any) -> NDArray[Any]:
    if isinstance(block, np.ma.MaskedArray):
        raise SourceError(f"Block {k} is a masked array, which would lose its mask. Give block.filled(value).")
    return np.asarray(block)


def _bytes(rows: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(rows, dtype).reshape(-1).view(np.uint8))


def write_blocks(
    folder: Folder, facts: Facts, first_row: int, blocks: Iterable[NDArray[Any]], advance: Advance
) -> Facts:
    """Write shards from ``first_row`` on, with which one begins; the facts with the length that the array has now."""
    layout = facts.layout
    buffer = shard_buffer(layout)
    rows = rows_in(buffer, layout, layout.shard_rows)
    shard, filled = first_row // layout.shard_rows, 0

    def put() -> None:
        n_rows = shard * layout.shard_rows + filled
        longer = replace(facts, layout=replace(layout, n_rows=n_rows))
        put_shard(folder, longer, shard, buffer)

    n_rows = first_row
    for block in blocks:
        n_rows += len(block)
        while len(block):
            some = block[: layout.shard_rows - filled]
            advance(len(some) * layout.row_bytes)
            rows[filled : filled + len(some)] = some
            filled, block = filled + len(some), block[len(some) :]
            if filled == layout.shard_rows:
                put()
                shard, filled = shard + 1, 0
    if filled:
        put()
    before = facts.layout.n_rows
    return replace(
        facts,
        layout=replace(layout, n_rows=n_rows),
        segments=(*facts.segments, n_rows - before),
        lengths=(*facts.lengths, n_rows - before),
    )
