"""Tables of text as rows: ``.csv``, ``.tsv``, ``.txt`` and the like, in gzip or not; one file or many.

When it is opened the files are counted, so that the shape is known. Then block after block is parsed: a few in this
process, all others in processes that work ahead of the reader.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import OptionError, SourceError, SwathError
from swath.sources import check_rows, facts_now, file_facts, parse_dtype
from swath.sources.ahead import Ahead, child_bytes, parse_block, parse_bytes
from swath.sources.lines import BLOCK_BYTES, Block, BlockReader, Line, cut, first_rows, is_gzipped, reading
from swath.sources.table import (
    Delimiter,
    LineError,
    Table,
    check_parsable,
    is_number,
    parse_line,
    split_line,
    table_of,
)

# Lines from which delimiter, header and number of fields are found.
_FIRST = 6

# So little text is parsed in less time than processes take to start and to make up for it. On two threads of one core they never do:
# 211 MB took 0.84 s in the process and 2.06 s with two children, 845 MB 3.27 and 3.43 s.
_SMALL_BYTES = 2**29

# What a thread takes to count: some text, and where its lines end.
_COUNT_BYTES = 16 * BLOCK_BYTES

_DELIMITERS: tuple[Delimiter, ...] = (",", "\t", ";", " ")
_TABS_FIRST: tuple[Delimiter, ...] = ("\t", ",", ";", " ")


@dataclass(slots=True)
class TextSource:
    """Lines of text files as rows, each file a segment."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    segments: tuple[int, ...]
    table: Table
    blocks: tuple[Block, ...]
    files: tuple[dict[str, Any], ...]
    """What tells one version of each file from another, and how it is split."""
    n_processes: int
    _edges: NDArray[np.int64] = field(init=False, repr=False)
    """First row of each block, and the number of rows."""
    _reader: BlockReader = field(default_factory=BlockReader, repr=False)
    _ahead: Ahead | None = field(default=None, repr=False)
    _kept: tuple[int, NDArray[np.uint8]] | None = field(default=None, repr=False)
    """The block that was read last, of which the next shard may want the rest."""

    in_order = True

    def __post_init__(self) -> None:
        self._edges = np.fromiter(itertools.accumulate((b.n_rows for b in self.blocks), initial=0), np.int64)

    @property
    def read_bytes(self) -> int:
        """One block in this process, and all that the processes hold."""
        return self._slot_bytes + parse_bytes(self._text_bytes) + self.n_processes * self._child_bytes

    @property
    def _child_bytes(self) -> int:
        return child_bytes(self._text_bytes, self._slot_bytes)

    @property
    def _text_bytes(self) -> int:
        return max(block.size for block in self.blocks)

    @property
    def _slot_bytes(self) -> int:
        return max(block.n_rows for block in self.blocks) * self.table.row_bytes

    def describe(self) -> dict[str, Any]:
        """Name, size and time of each file, and how its lines become rows."""
        files = [facts_now(facts) for facts in self.files]
        only = {"path": files[0]["path"]} if len(files) == 1 else {}
        return {"kind": "text", **only, "files": files, "dtype": str(self.dtype), "shape": list(self.shape)}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Parse the blocks that hold the rows, each once if they are read in order."""
        left = out.reshape(-1).view(np.uint8)
        row_bytes, stop = self.table.row_bytes, start + len(out)
        while start < stop:
            k = int(np.searchsorted(self._edges, start, "right")) - 1
            begin, end = int(self._edges[k]), min(stop, int(self._edges[k + 1]))
            rows = self._rows(k)[(start - begin) * row_bytes : (end - begin) * row_bytes]
            left[: rows.size] = rows
            left, start = left[rows.size :], end

    def _rows(self, k: int) -> NDArray[np.uint8]:
        if self._kept is not None and self._kept[0] == k:
            return self._kept[1]
        goes_on = self._kept is not None and self._kept[0] == k - 1
        self._kept = None
        # One block alone is wanted for a sample. Whoever reads a second one after it reads on.
        if self._ahead is None and self.n_processes and goes_on:
            self._ahead = Ahead.start(self.table, self.blocks, self.n_processes, self._slot_bytes)
        try:
            if self._ahead is not None:
                rows = self._ahead.rows(k)
            else:
                rows = np.empty(self.blocks[k].n_rows * self.table.row_bytes, np.uint8)
                parse_block(self._reader, self.blocks[k], self.table, rows)
        except SwathError:
            self._end()
            raise
        if k == len(self.blocks) - 1:
            self._end()
        self._kept = k, rows
        return rows

    def _end(self) -> None:
        self._reader.close()
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def open_text(
    names: Sequence[str], dtype: DTypeLike | None, row_shape: Sequence[int] | None, cache_bytes: int
) -> TextSource:
    r"""The rows of text files, one file after another.

    Commas, tabs, semicolons or runs of blanks part the fields, whichever the first lines are parsed with. Lines that are
    blank or begin with ``#`` are skipped, and so is a first line that holds as many fields as the others, but no number
    where they have one. A field in quotation marks may hold the delimiter, but no end of a line.

    Parameters
    ----------
    names
        Paths of the files.
    dtype
        With fields: those of a line, and rows have the shape ``()``. Without: that of all values, and rows have the
        shape ``(fields,)``. If None, float64, for which all fields of the first lines must be numbers.
    row_shape
        Must be None.
    cache_bytes
        What this and the processes may hold; but one block is always held.

    Raises
    ------
    SourceNotFoundError
        A file is not there.
    SourceError
        It cannot be read, or is no table of this dtype; file and line are named.
    OptionError
        ``row_shape`` was given, or a dtype that is not read from text.

    Examples
    --------
    >>> _ = (tmp / "a.csv").write_text("name,x\nchr1,1.5\nchr2,2\n")
    >>> source = open_text([str(tmp / "a.csv")], [("name", "S10"), ("x", "<f4")], None, 2**30)
    >>> rows = np.empty(source.shape, source.dtype)
    >>> source.read_into(0, rows)
    >>> rows
    array([(b'chr1', 1.5), (b'chr2', 2. )],
          dtype=[('name', 'S10'), ('x', '<f4')])
    """
    if row_shape is not None:
        raise OptionError(
            f"row_shape is {tuple(row_shape)}, but {names[0]} is text, whose lines say it. Leave row_shape out."
        )
    wanted = parse_dtype(dtype if dtype is not None else np.float64)
    check_parsable(wanted)
    native = np.result_type(wanted)
    first = _head(names[0], native, dtype is not None, None)
    heads = [first, *(_head(name, native, dtype is not None, first.n_fields) for name in names[1:])]
    table = table_of(native, first.n_fields)

    def count(file: int) -> list[Block]:
        head = heads[file]
        return cut(head.path, file, head.delimiter, head.gzipped, head.start, table.row_bytes)

    cores = len(os.sched_getaffinity(0))
    threads = max(1, min(cores, len(names), cache_bytes // _COUNT_BYTES))
    with ThreadPoolExecutor(threads, thread_name_prefix="swath-count") as pool:
        of_files = list(pool.map(count, range(len(names))))
    segments = tuple(sum(block.n_rows for block in blocks) for blocks in of_files)
    shape = (sum(segments),) if native.names is not None else (sum(segments), first.n_fields)
    blocks = tuple(itertools.chain.from_iterable(of_files))
    files = tuple({**head.facts, "delimiter": head.delimiter, "first_line": head.start.number} for head in heads)
    source = TextSource(shape, check_rows(shape, native, names[0]), segments, table, blocks, files, 0)
    if sys.executable and sum(block.size for block in blocks) > _SMALL_BYTES:
        room = (cache_bytes - source.read_bytes) // source._child_bytes
        source.n_processes = max(0, min(cores, len(blocks), room))
    return source


@dataclass(frozen=True, slots=True)
class _Head:
    """What the first lines of a file say."""

    path: str
    facts: dict[str, Any]
    gzipped: bool
    delimiter: Delimiter
    n_fields: int
    start: Line
    """The first row."""


def _head(name: str, dtype: np.dtype[Any], asked: bool, n_fields: int | None) -> _Head:
    """Look at the first lines of a file; ``n_fields`` are those of the files before it.

    Raises
    ------
    SourceError, SourceNotFoundError
    """
    with reading(name):
        gzipped = is_gzipped(name)
    facts = file_facts(Path(name))
    lines = first_rows(name, gzipped, _FIRST)
    if not lines:
        raise SourceError(f"{name} has no rows: its lines are blank or comments. Give at least one row.")
    delimiter = _delimiter(name, lines, dtype)
    table = _table(lines[-1].text, delimiter, dtype, n_fields)
    rows = lines[1:] if _is_header(lines[0].text, delimiter, table) else lines
    for line in rows:
        try:
            parse_line(line.text, delimiter, table)
        except LineError as error:
            mend = "Mend the line, or give another dtype." if asked else _ASK
            raise SourceError(f"{error.where(name, line.number)} {mend}") from None
    if not rows:
        raise SourceError(f"{name} has no rows but a header, line {lines[0].number}. Give at least one row.")
    return _Head(name, facts, gzipped, delimiter, len(table.columns), rows[0])


_ASK = "If not all fields are numbers, give dtype=, such as [('name', 'S10'), ('x', '<f4')]."


def _table(line: bytes, delimiter: Delimiter, dtype: np.dtype[Any], n_fields: int | None) -> Table:
    return table_of(dtype, n_fields or _count(line, delimiter))


def _count(line: bytes, delimiter: Delimiter) -> int:
    try:
        return len(split_line(line, delimiter))
    except LineError:  # it is no row, which is said when it is parsed
        return 1


def _delimiter(name: str, lines: Sequence[Line], dtype: np.dtype[Any]) -> Delimiter:
    """The delimiter with which most lines are rows; if that does not tell, the first that is there, as the name has it."""

    def fitness(delimiter: Delimiter) -> tuple[int, int]:
        table = _table(lines[-1].text, delimiter, dtype, None)
        return (
            sum(_is_parsed(line.text, delimiter, table) for line in lines),
            sum(_count(line.text, delimiter) > 1 for line in lines),
        )

    is_tsv = ".tsv" in (suffix.lower() for suffix in Path(name).suffixes)
    return max(_TABS_FIRST if is_tsv else _DELIMITERS, key=fitness)


def _is_parsed(line: bytes, delimiter: Delimiter, table: Table) -> bool:
    try:
        parse_line(line, delimiter, table)
    except LineError:
        return False
    return True


def _is_header(line: bytes, delimiter: Delimiter, table: Table) -> bool:
    """Whether a first line has the fields of a row, but no number where there should be one."""
    if _count(line, delimiter) != len(table.columns) or _is_parsed(line, delimiter, table):
        return False
    fields = zip(table.columns, split_line(line, delimiter))
    return not any(is_number(field) for column, field in fields if column.dtype.kind not in "SU")
