"""How do lines of text become rows?

Exactly as Python reads one field: `float`, `int`, bytes as they are. `_parse_exactly` does it that way, and is what names a
field that is wrong. pyarrow does the same some twenty times as fast; where it would differ (it takes hexadecimal
numbers, for one), or refuses, the exact way is gone.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swath.errors import OptionError

Delimiter = Literal[",", "\t", ";", " "]
"""What stands between two fields; a space means any run of blanks."""

_COMMENT = b"#"
_COMMENT_LINES = re.compile(rb"^#[^\n]*\n?", re.MULTILINE)
_NEWLINE, _QUOTE = ord("\n"), ord('"')

# Lines that are parsed exactly in one go: Python's objects take twenty times the bytes of a short field.
_LINES = 1000

_BOOLS = {"1": True, "true": True, "True": True, "TRUE": True, "0": False, "false": False, "False": False, "FALSE": False}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a line, and where its value lies in a row."""

    name: str
    """Empty in a row without names."""
    dtype: np.dtype[Any]
    offset: int


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text: all fields of a line in order."""

    columns: tuple[Column, ...]
    row_bytes: int


@dataclass(slots=True, eq=False)
class LineError(Exception):
    """A line that is no row."""

    line: int
    """From 0, among the lines that were given."""
    field: str
    """Its number, from 1, and its name; empty if the line as a whole is wrong."""
    why: str

    def where(self, path: str, line: int) -> str:
        """File, line and field, where ``line`` is the number of the first line that was given."""
        field = f", field {self.field}" if self.field else ""
        return f"{path}, line {line + self.line}{field}: {self.why}."


def table_of(dtype: np.dtype[Any], n_fields: int) -> Table:
    """The table of rows of a dtype: of its fields if it has any, else of ``n_fields`` values.

    Raises
    ------
    OptionError
        It holds values that have no text form here.

    Examples
    --------
    >>> table = table_of(np.dtype([("name", "S4"), ("xy", "<f4", 2)]), 3)
    >>> [(column.name, column.dtype.str, column.offset) for column in table.columns]
    [('name', '|S4', 0), ('xy', '<f4', 4), ('xy', '<f4', 8)]
    """
    columns = tuple(_leaves("", dtype, 0)) if dtype.names is not None else ()
    if dtype.names is None:
        columns = tuple(Column("", dtype, i * dtype.itemsize) for i in range(n_fields))
        return Table(columns, n_fields * dtype.itemsize)
    return Table(columns, dtype.itemsize)


def _leaves(name: str, dtype: np.dtype[Any], offset: int) -> Iterator[Column]:
    if dtype.subdtype is not None:
        base = dtype.base
        for i in range(dtype.itemsize // max(1, base.itemsize)):
            yield from _leaves(name, base, offset + i * base.itemsize)
    elif dtype.names is not None:
        for inner in dtype.names:
            described = dtype.fields[inner] if dtype.fields else (dtype, 0)
            yield from _leaves(f"{name}.{inner}" if name else inner, described[0], offset + described[1])
    else:
        yield Column(name, dtype, offset)


def check_parsable(dtype: np.dtype[Any]) -> None:
    """That all values of a dtype can be read from text.

    Raises
    ------
    OptionError
    """
    if dtype.subdtype is not None:
        raise OptionError(f"dtype is {dtype}, but lines of text are rows of one axis. Give dtype={str(dtype.base)!r}.")
    for column in table_of(dtype, 1).columns:
        if column.dtype.kind not in "biufSU" or not column.dtype.itemsize or column.dtype == np.longdouble:
            of = f" of {column.name!r}" if column.name else ""
            raise OptionError(
                f"dtype{of} is {column.dtype}, which is not read from text. "
                "Give integers, floats of at most 64 bits, bool, or text of a fixed length such as 'S10'."
            )


def is_row(line: bytes) -> bool:
    r"""Whether a line is neither blank nor a comment.

    Examples
    --------
    >>> [is_row(line) for line in (b"1,2", b"# 1,2", b" \r")]
    [True, False, False]
    """
    return not line.startswith(_COMMENT) and bool(line.strip())


def split_line(line: bytes, delimiter: Delimiter) -> list[bytes]:
    r"""The fields of one line, without its end.

    Raises
    ------
    LineError
        A quotation mark is not closed.

    Examples
    --------
    >>> split_line(b'"a,b",5\r', ","), split_line(b" a   5 ", " ")
    ([b'a,b', b'5'], [b'a', b'5'])
    """
    if delimiter == " ":
        return line.split()
    line = line.removesuffix(b"\r")
    if b'"' not in line:
        return line.split(delimiter.encode())
    try:
        (fields,) = csv.reader([line.decode("latin-1")], delimiter=delimiter, strict=False)
        if line.count(b'"') % 2:
            raise csv.Error("a quotation mark is not closed")
    except (csv.Error, ValueError) as error:
        raise LineError(0, "", str(error)) from None
    return [field.encode("latin-1") for field in fields]


def parse_line(line: bytes, delimiter: Delimiter, table: Table) -> list[Any]:
    """The values of one line.

    Raises
    ------
    LineError
    """
    return _values(line, delimiter, table, [_converter(column.dtype) for column in table.columns])


def is_number(field: bytes) -> bool:
    """Whether a field is a number.

    Examples
    --------
    >>> [is_number(field) for field in (b"1e3", b"nan", b"x", b"1_0")]
    [True, True, False, False]
    """
    try:
        _float(field)
    except ValueError:
        return False
    return True


def parse_rows(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> None:
    r"""Write the rows that are in whole lines of ``text``; padding between fields becomes zero.

    Parameters
    ----------
    rows : (n * table.row_bytes,)
        Of as many rows as there are lines that `is_row` says are rows.

    Raises
    ------
    LineError
        A line is no row, or there are more or fewer.

    Examples
    --------
    >>> rows = np.empty(2 * 8, np.uint8)
    >>> parse_rows(b"1,2\n3,4\n", ",", table_of(np.dtype("<i4"), 2), rows)
    >>> rows.view("<i4")
    array([1, 2, 3, 4], dtype=int32)
    """
    rows[:] = 0
    if not _parse_fast(text, delimiter, table, rows):
        _parse_exactly(text, delimiter, table, rows)


def _parse_exactly(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> None:
    converters = [_converter(column.dtype) for column in table.columns]
    lines = ((i, line) for i, line in enumerate(io.BytesIO(text)) if is_row(line))
    n_rows, done = rows.size // table.row_bytes, 0
    while some := list(itertools.islice(lines, _LINES)):
        values = []
        for i, line in some:
            try:
                values.append(_values(line.removesuffix(b"\n"), delimiter, table, converters))
            except LineError as error:
                raise LineError(i, error.field, error.why) from None
        if done + len(values) > n_rows:
            raise LineError(some[n_rows - done][0], "", _CHANGED)
        part = rows[done * table.row_bytes :]
        for column, of_column in zip(table.columns, zip(*values)):
            _put(part, table, column, np.array(of_column, _read_as(column.dtype)))
        done += len(values)
    if done < n_rows:
        raise LineError(text.count(b"\n"), "", _CHANGED)


_CHANGED = "here are more or fewer rows than when the file was opened: it was changed"


def _values(line: bytes, delimiter: Delimiter, table: Table, converters: Sequence[Callable[[bytes], Any]]) -> list[Any]:
    fields = split_line(line, delimiter)
    if len(fields) != len(converters):
        raise LineError(0, "", f"the line has {len(fields)} fields, not {len(converters)}")
    values = []
    for i, (field, convert) in enumerate(zip(fields, converters)):
        try:
            values.append(convert(field))
        except ValueError as error:
            name = table.columns[i].name
            shown = repr(field[:40].decode(errors="replace")) + ("..." if len(field) > 40 else "")
            raise LineError(0, f"{i + 1} ({name})" if name else str(i + 1), f"{shown} {error}") from None
    return values


def _converter(dtype: np.dtype[Any]) -> Callable[[bytes], Any]:
    """What makes a value of a field, or raises ValueError with why not."""
    if dtype.kind == "f":
        return _float
    if dtype.kind == "b":
        return _bool
    if dtype.kind == "S":
        return lambda field: _fitting(field, dtype.itemsize, f"bytes, but {dtype.str[1:]} holds {dtype.itemsize}")
    if dtype.kind == "U":
        most = dtype.itemsize // 4
        return lambda field: _fitting(_decoded(field), most, f"characters, but U{most} holds {most}")
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    return lambda field: _integer(field, least, most, dtype)


def _float(field: bytes) -> float:
    if b"_" not in field:
        try:
            return float(field)
        except ValueError:
            pass
    raise ValueError("is no number") from None


def _integer(field: bytes, least: int, most: int, dtype: np.dtype[Any]) -> int:
    try:
        value = int(field)
    except ValueError:
        raise ValueError("is no integer") from None
    if b"_" in field:
        raise ValueError("is no integer")
    if not least <= value <= most:
        raise ValueError(f"does not fit in {dtype}, which goes from {least} to {most}")
    return value


def _bool(field: bytes) -> bool:
    try:
        return _BOOLS[field.strip().decode("latin-1")]
    except KeyError:
        raise ValueError("is neither true nor false, 1 nor 0") from None


def _fitting(value: Any, most: int, what: str) -> Any:
    if len(value) > most:
        raise ValueError(f"has {len(value)} {what}")
    if ("\0" if isinstance(value, str) else b"\0") in value:
        raise ValueError("holds a zero byte, which ends text in numpy")
    return value


def _decoded(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None


def _read_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Floats are read as Python reads them, and rounded then, as numpy does it."""
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


def _put(rows: NDArray[np.uint8], table: Table, column: Column, values: NDArray[Any]) -> None:
    """Write the values of one column into the first rows."""
    view: NDArray[Any] = np.ndarray(values.shape, column.dtype, rows, column.offset, (table.row_bytes,))
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in numpy
        view[:] = values


def _parse_fast(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> bool:
    """Whether pyarrow is there, and has read what Python would read."""
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv
    except ImportError:
        return False
    quoted = b'"' in text and delimiter != " "
    if _needs_python(text) or (quoted and not _quotes_are_closed(text)):
        return False
    if text.startswith(_COMMENT) or b"\n#" in text:
        text = _COMMENT_LINES.sub(b"", text)
    if delimiter == " ":
        text = b"\n".join(map(b" ".join, map(bytes.split, text.split(b"\n"))))
    names = [str(i) for i in range(len(table.columns))]
    try:
        read = arrow_csv.read_csv(
            pa.BufferReader(text),
            arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text) + 1),
            arrow_csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False),
            arrow_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict(zip(names, (_arrow_type(column.dtype) for column in table.columns))),
                null_values=[],
                true_values=[word for word, value in _BOOLS.items() if value],
                false_values=[word for word, value in _BOOLS.items() if not value],
            ),
        )
        if read.num_rows * table.row_bytes != rows.size:
            return False
        for column, of_column in zip(table.columns, read.combine_chunks().columns):
            values = _fixed_text(of_column, column.dtype) if column.dtype.kind in "SU" else of_column.to_numpy()
            if column.dtype.kind == "f" and b"(" in text and np.isnan(values).any():
                return False  # nan(1) is a number to pyarrow
            _put(rows, table, column, values)
    except (pa.ArrowException, _TooLongError, UnicodeDecodeError):
        return False
    return True


def _needs_python(text: bytes) -> bool:
    """Whether something is in a text that pyarrow takes for something else: returns in lines, zero bytes, hexadecimal numbers, a mark."""
    returns = text.count(b"\r")
    return (
        (returns > 0 and returns != text.count(b"\r\n") + text.endswith(b"\r"))
        or b"\0" in text
        or b"0x" in text
        or b"0X" in text
        or text.startswith(b"\xef\xbb\xbf")
    )


def _quotes_are_closed(text: bytes) -> bool:
    """Whether each line holds an even number of quotation marks."""
    data = np.frombuffer(text, np.uint8)
    begins = np.flatnonzero(data[:-1] == _NEWLINE) + 1
    return not np.any(np.add.reduceat(data == _QUOTE, np.concatenate([[0], begins]), dtype=np.int64) % 2)


def _arrow_type(dtype: np.dtype[Any]) -> Any:
    import pyarrow as pa

    if dtype.kind in "SU":
        return pa.binary()
    return pa.from_numpy_dtype(_read_as(dtype))


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
