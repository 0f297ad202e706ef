"""Which lines does a text file hold, and where?

One pass counts the rows, and cuts the file into blocks of whole lines, each small enough to be held in memory as text
and as rows. From then on a block can be read alone. A file in gzip is the same, in bytes of its text; to
come to one block all before it must be decompressed.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError, SourceNotFoundError
from swath.sources.table import Delimiter, is_row

# Some milliseconds of parsing: enough to forget what handing it over costs.
BLOCK_BYTES = 2**21

# Rows may take more bytes than their text ("1," is a float64); a block of them has no more, or is one row.
_ROWS_BYTES = 2**23

LINE_BYTES = 2**20
"""The longest line."""

GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

# Bytes that may begin a line that is no row.
_ODD = np.zeros(256, bool)
_ODD[list(b"# \t\n\r\v\f")] = True


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of one file."""

    path: str
    file: int
    """Its place among the files of the source."""
    delimiter: Delimiter
    gzipped: bool
    offset: int
    """In the text, decompressed."""
    size: int
    line: int
    """Number of the first line, from 1."""
    n_rows: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file."""

    text: bytes
    """Without the newline."""
    offset: int
    number: int
    """From 1."""


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Errors of reading a text file, as ours.

    Raises
    ------
    SourceError, SourceNotFoundError
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(f"There is no file {path}. Check the path.") from None
    except EOFError:
        raise SourceError(f"{path} is cut: its gzip data end before their end mark. Restore the file.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path} is damaged: its gzip data cannot be decompressed ({error}). Restore it.") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}). Check its permissions, and the disk.") from error


def is_gzipped(path: str) -> bool:
    """Whether a file begins as gzip does."""
    with Path(path).open("rb") as file:
        return file.read(2) == GZIP


def open_lines(path: str, gzipped: bool) -> BinaryIO:
    """The text of a file."""
    return cast(BinaryIO, gzip.open(path)) if gzipped else Path(path).open("rb")


def first_rows(path: str, gzipped: bool, n: int) -> list[Line]:
    r"""The first lines that are neither blank nor comments, at most ``n``.

    Raises
    ------
    SourceError
        The file cannot be read, is UTF-16, or has a line that is too long.

    Examples
    --------
    >>> _ = (tmp / "a.csv").write_text("# a comment\nx,y\n1,2\n")
    >>> first_rows(str(tmp / "a.csv"), False, 2)
    [Line(text=b'x,y', offset=12, number=2), Line(text=b'1,2', offset=16, number=3)]
    """
    found: list[Line] = []
    offset, number = 0, 1
    with reading(path), open_lines(path, gzipped) as file:
        while len(found) < n and (text := file.readline(LINE_BYTES + 2)):
            begin, offset = offset, offset + len(text)
            if number == 1:
                if text.startswith(_UTF16):
                    raise SourceError(f"{path} is UTF-16, not UTF-8. Write it again as UTF-8.")
                begin, text = (len(_BOM), text[len(_BOM) :]) if text.startswith(_BOM) else (begin, text)
            _check_length(path, number, len(text) + (not text.endswith(b"\n")))
            if is_row(text):
                found.append(Line(text.removesuffix(b"\n"), begin, number))
            number += 1
    return found


def cut(path: str, file: int, delimiter: Delimiter, gzipped: bool, start: Line, row_bytes: int) -> list[Block]:
    """The blocks of a file from the line ``start``.

    Raises
    ------
    SourceError
        The file cannot be read, or has a line that is too long.
    """
    most_lines = max(1, _ROWS_BYTES // row_bytes)
    blocks = []
    offset, number, rest = start.offset, start.number, b""
    with reading(path), open_lines(path, gzipped) as lines:
        lines.seek(offset)
        while True:
            got = lines.read(BLOCK_BYTES)
            text = rest + got
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
            if not got and text:  # no newline at the end of the file
                ends = np.append(ends, len(text))
            begins = np.concatenate([[0], ends])
            lengths = np.diff(begins, append=len(text))
            longest = int(lengths.argmax())
            _check_length(path, number + longest, int(lengths[longest]))
            rows = _which_are_rows(text, begins[:-1], ends)
            for i in range(0, len(ends), most_lines):
                n_rows = int(np.count_nonzero(rows[i : i + most_lines]))
                begin, end = int(begins[i]), int(ends[i : i + most_lines][-1])
                if n_rows:
                    blocks.append(
                        Block(path, file, delimiter, gzipped, offset + begin, end - begin, number + i, n_rows)
                    )
            if not got:
                return blocks
            whole = int(begins[-1])
            offset, number, rest = offset + whole, number + len(ends), text[whole:]


def _which_are_rows(text: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    rows = ~_ODD[np.frombuffer(text, np.uint8)[begins]]
    for i in np.flatnonzero(~rows).tolist():
        rows[i] = is_row(text[begins[i] : ends[i]])
    return rows


def _check_length(path: str, number: int, n_bytes: int) -> None:
    """``n_bytes`` with the newline."""
    if n_bytes > LINE_BYTES + 1:
        raise SourceError(
            f"{path}, line {number}: the line is longer than {LINE_BYTES} bytes. Check that the file is a table of text."
        )


@dataclass(slots=True)
class BlockReader:
    """Reads blocks. It keeps the last file open, so that gzip goes on where it was."""

    _path: str = ""
    _file: BinaryIO | None = None

    def read(self, block: Block) -> bytes:
        """The text of a block.

        Raises
        ------
        SourceError
            The file cannot be read any more, or ends before.
        """
        with reading(block.path):
            if self._file is None or self._path != block.path:
                self.close()
                self._path, self._file = block.path, open_lines(block.path, block.gzipped)
            self._file.seek(block.offset)
            text = self._file.read(block.size)
        if len(text) != block.size:
            raise SourceError(
                f"{block.path} ends before line {block.line + text.count(b'\n') + 1}, which it had when it was opened. Restore it."
            )
        return text

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        self.close()
