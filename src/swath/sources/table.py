"""What does a line of text say?

Its fields are what Python's own `float` and `int` make of them, and text is bytes as they are. All of that is here, field by
field, slow and exact; `swath.sources.parse` does the same with faster libraries.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swath.errors import OptionError

Delimiter = Literal[",", "\t", ";", " "]
"""What stands between two fields; a space means any run of blanks."""

COMMENT = b"#"

# Text that is parsed exactly in one go, but one line at least: Python's objects take thirty times the bytes of a short field.
_STEP_BYTES = 2**16

BOOLS = {"1": True, "true": True, "True": True, "TRUE": True, "0": False, "false": False, "False": False, "FALSE": False}  # fmt: skip


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
    return not line.startswith(COMMENT) and bool(line.strip())


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


def parse_exactly(text: bytes, delimiter: Delimiter, table: Table, rows: NDArray[np.uint8]) -> None:
    """Write the rows that are in whole lines of ``text``, field by field.

    Raises
    ------
    LineError
        A line is no row, or there are more or fewer.
    """
    converters = [_converter(column.dtype) for column in table.columns]
    lines = ((i, line) for i, line in enumerate(io.BytesIO(text)) if is_row(line))
    n_rows, done = rows.size // table.row_bytes, 0
    while some := list(_some(lines)):
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
            put(part, table, column, np.array(of_column, read_as(column.dtype)))
        done += len(values)
    if done < n_rows:
        raise LineError(text.count(b"\n"), "", _CHANGED)


def _some(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The next lines, until they have enough bytes."""
    n_bytes = 0
    for i, line in lines:
        yield i, line
        n_bytes += len(line)
        if n_bytes >= _STEP_BYTES:
            return


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
        return BOOLS[field.strip().decode("latin-1")]
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


def read_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Floats are read as Python reads them, and rounded then, as numpy does it."""
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


def put(rows: NDArray[np.uint8], table: Table, column: Column, values: NDArray[Any]) -> None:
    """Write the values of one column into the first rows."""
    stop = column.offset + column.dtype.itemsize
    fields = rows.reshape(-1, table.row_bytes)[: len(values), column.offset : stop].view(column.dtype)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in numpy
        fields[:, 0] = values
