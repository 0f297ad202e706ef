"""Lines of text as rows, by the fastest library that reads what Python would read.

pyarrow if it is installed, else numpy. Each is asked only for what it reads as `swath.sources.table` does (pyarrow takes
hexadecimal numbers for integers, numpy cuts text), and where it refuses a block, that module reads it, and names the line.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.sources.table import BOOLS, COMMENT, Delimiter, Table, parse_exactly, put, read_as

_COMMENT_LINES = re.compile(rb"^#[^\n]*\n?", re.MULTILINE)
_NEWLINE, _QUOTE = ord("\n"), ord('"')
_BOM = b"\xef\xbb\xbf"

# Blanks to numpy, but not to Python's int and float of bytes.
_ODD_BLANKS = re.compile(rb"[\x1c-\x1f]")


def parse_rows(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> None:
    r"""Write the rows that are in whole lines of ``text``; padding between fields becomes zero.

    Parameters
    ----------
    rows : (n * table.row_bytes,)
        Of as many rows as there are lines that `swath.sources.table.is_row` says are rows.

    Raises
    ------
    LineError
        A line is no row, or there are more or fewer.

    Examples
    --------
    >>> from swath.sources.table import table_of
    >>> rows = np.empty(2 * 8, np.uint8)
    >>> parse_rows(b"1,2\n3,4\n", ",", table_of(np.dtype("<i4"), 2), rows)
    >>> rows.view("<i4")
    array([1, 2, 3, 4], dtype=int32)
    """
    rows[:] = 0
    plain = _without_comments(text)
    if _lines_are_plain(plain) and (
        _by_pyarrow(plain, delimiter, table, rows) or _by_numpy(plain, delimiter, table, rows)
    ):
        return
    parse_exactly(text, delimiter, table, rows)


def _without_comments(text: bytes) -> bytes:
    # One byte is found much faster than two, and is mostly not there.
    has_comments = COMMENT in text and (text.startswith(COMMENT) or b"\n#" in text)
    return _COMMENT_LINES.sub(b"", text) if has_comments else text


def _lines_are_plain(text: bytes) -> bool:
    """Whether all libraries see the same lines: no returns within one, no zero bytes, no mark, all quotations closed."""
    returns = text.count(b"\r")
    if (returns and returns != text.count(b"\r\n") + text.endswith(b"\r")) or b"\0" in text or text.startswith(_BOM):
        return False
    return b'"' not in text or _quotes_are_closed(text)


def _quotes_are_closed(text: bytes) -> bool:
    """Whether each line holds an even number of quotation marks."""
    data = np.frombuffer(text, np.uint8)
    begins = np.flatnonzero(data[:-1] == _NEWLINE) + 1
    return not np.any(np.add.reduceat(data == _QUOTE, np.concatenate([[0], begins]), dtype=np.int64) % 2)


def _by_numpy(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> bool:
    """Whether numpy has read what Python would read."""
    kinds = {column.dtype.kind for column in table.columns}
    if "b" in kinds or b'"' in text or not text.isascii() or not text.strip() or _ODD_BLANKS.search(text):
        return False
    # Text that does not fit is cut: with room for one character more, that is seen.
    wider = [
        np.dtype((column.dtype.char, column.dtype.itemsize // np.dtype(f"{column.dtype.char}1").itemsize + 1))
        if column.dtype.kind in "SU"
        else read_as(column.dtype)
        for column in table.columns
    ]
    fields = np.dtype([(f"f{i}", dtype) for i, dtype in enumerate(wider)])
    try:
        read = np.loadtxt(
            io.BytesIO(text),
            fields,
            comments=None,
            delimiter=None if delimiter == " " else delimiter,
            encoding="latin-1",
            ndmin=1,
        )
    except ValueError:
        return False
    if len(read) * table.row_bytes != rows.size:
        return False
    for name, column in zip(fields.names or (), table.columns):
        values = read[name]
        if column.dtype.kind in "SU" and np.any(values != values.astype(column.dtype)):
            return False
        put(rows, table, column, values)
    return True


def _by_pyarrow(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> bool:
    """Whether pyarrow is there, and has read what Python would read."""
    try:
        import pyarrow as pa
        from pyarrow import csv
    except ImportError:
        return False
    if _has_hexadecimal(text) and any(column.dtype.kind in "iu" for column in table.columns):
        return False
    if delimiter == " ":
        text = b"\n".join(map(b" ".join, map(bytes.split, text.split(b"\n"))))
    names = [str(i) for i in range(len(table.columns))]
    try:
        read = csv.read_csv(
            pa.BufferReader(text),
            csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text) + 1),
            csv.ParseOptions(delimiter=delimiter, quote_char='"' if b'"' in text and delimiter != " " else False),
            csv.ConvertOptions(
                check_utf8=False,
                column_types=dict(zip(names, (_arrow_type(column.dtype) for column in table.columns))),
                null_values=[],
                true_values=[word for word, value in BOOLS.items() if value],
                false_values=[word for word, value in BOOLS.items() if not value],
            ),
        )
        if read.num_rows * table.row_bytes != rows.size:
            return False
        for column, of_column in zip(table.columns, read.combine_chunks().columns):
            values = _fixed_text(of_column, column.dtype) if column.dtype.kind in "SU" else of_column.to_numpy()
            if column.dtype.kind == "f" and b"(" in text and np.isnan(values).any():
                return False  # nan(1) is a number to pyarrow
            put(rows, table, column, values)
    except (pa.ArrowException, _TooLongError, UnicodeDecodeError):
        return False
    return True


def _has_hexadecimal(text: bytes) -> bool:
    # One byte is found much faster than two, and is mostly not there.
    return (b"x" in text and b"0x" in text) or (b"X" in text and b"0X" in text)


def _arrow_type(dtype: np.dtype[Any]) -> Any:
    import pyarrow as pa

    return pa.binary() if dtype.kind in "SU" else pa.from_numpy_dtype(read_as(dtype))


class _TooLongError(Exception):
    """Text is longer than its column."""


def _fixed_text(column: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Text of any length as text of one length, without an object for each."""
    import pyarrow as pa
    from pyarrow import compute

    values = column.combine_chunks().view(pa.string())  # pyarrow pads strings, and looks at no encoding here
    longest = compute.max(compute.binary_length(values)).as_py() or 0
    # A character of UTF-8 has up to four bytes; what is no ASCII is decoded the exact way.
    width = dtype.itemsize if dtype.kind == "S" else dtype.itemsize // 4
    if longest > width:
        raise _TooLongError
    padded = compute.ascii_rpad(values, width=width, padding="\0")
    fixed: NDArray[Any] = np.frombuffer(padded.buffers()[2], f"S{width}", len(padded), padded.offset * width)
    return fixed if dtype.kind == "S" else fixed.astype(dtype)
