"""What a file is; and those whose rows lie one after another: ``.npy``, raw binary, and contiguous HDF5 datasets."""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import operator
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import DamagedStoreError, OptionError, SourceError, SourceNotFoundError, SwathError
from swath.sources import Source, check_rows, facts_now, file_facts, parse_dtype
from swath.storage.regular import open_regular

_NPY = b"\x93NUMPY"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_SNIFFED = 512
ZIP = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class FlatSource:
    """Rows of one dtype, side by side in a file."""

    path: Path
    kind: str
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    """As in the file, in either byte order."""
    dtype: np.dtype[Any]
    facts: dict[str, Any]

    in_order = False

    @property
    def segments(self) -> tuple[int, ...]:
        """The file is one segment."""
        return (self.shape[0],)

    @property
    def read_bytes(self) -> int:
        """Nothing is held, but the bytes before they are swapped."""
        return 0 if self.stored == self.dtype else _SWAP_BYTES

    def describe(self) -> dict[str, Any]:
        """The file's name, size and time, and what of it is read."""
        return {
            "kind": self.kind,
            **facts_now(self.facts),
            "offset": self.offset,
            "dtype": self.stored.str,
            "shape": list(self.shape),
        }

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read straight into ``out``, or through a small buffer where bytes must be swapped."""
        row_bytes = self.stored.itemsize * math.prod(self.shape[1:])
        with self.path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            if self.stored == self.dtype:
                self._fill(file.fileno(), out, self.offset + start * row_bytes)
                return
            step = max(1, _SWAP_BYTES // row_bytes)
            for i in range(0, len(out), step):
                rows = np.empty((min(step, len(out) - i), *self.shape[1:]), self.stored)
                self._fill(file.fileno(), rows, self.offset + (start + i) * row_bytes)
                out[i : i + step] = rows

    def _fill(self, descriptor: int, out: NDArray[Any], offset: int) -> None:
        left = memoryview(out.reshape(-1).view(np.uint8))
        while left:
            got = os.preadv(descriptor, [left], offset)
            if got == 0:
                raise SourceError(
                    f"{self.path} ends at byte {offset}, before its last row: it was cut while it was read. Restore it."
                )
            left, offset = left[got:], offset + got


_SWAP_BYTES = 2**22


def open_file(name: str, dtype: DTypeLike | None, row_shape: Sequence[int] | None, cache_bytes: int) -> Source:
    """The source in a file, found by the file's first bytes.

    Raises
    ------
    SourceNotFoundError, SourceError
    """
    head, separator, dataset = name.rpartition("::")
    path = Path(head if separator else name).expanduser()
    if path.is_dir():
        from swath.sources import images, zarr

        if zarr.is_zarr(path):
            return zarr.open_path(path, dataset if separator else "", cache_bytes)
        if separator:
            raise SourceError(f"{path} is a folder, and no Zarr array. Leave out '::{dataset}'.")
        return images.open_folder(str(path))
    magic, is_hdf5 = sniff(path)
    if is_hdf5:
        from swath.sources import hdf5

        return hdf5.open_file(path, dataset if separator else "", cache_bytes)
    if magic[:4] in ZIP:
        from swath.sources import npz

        return npz.open_member(path, dataset if separator else "")
    if separator:
        raise SourceError(
            f"{path} is neither HDF5 nor .npz, so it has no dataset {dataset!r}. Leave out '::{dataset}'."
        )
    if is_text(path, dtype, row_shape):
        from swath.sources import text

        return text.open_text([str(path)], dtype, row_shape, cache_bytes)
    if magic[:6] == _NPY:
        return _open_npy(path)
    if dtype is None:
        raise SourceError(
            f"{path} is neither .npy, HDF5 nor text (it begins with {magic!r}). For raw binary give dtype= and row_shape=."
        )
    return _open_raw(path, parse_dtype(dtype), row_shape)


def sniff(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, and whether it is HDF5.

    Raises
    ------
    SourceNotFoundError, SourceError
    """
    try:
        with _opened(path) as file:
            return file.read(8), _is_hdf5(file)
    except SwathError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(f"There is no file {path}. Check the path.") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read ({error}). Check its name and its permissions.") from error


def _opened(path: Path) -> BinaryIO:
    """A file, and nothing else that could be read: a fifo would keep its reader waiting, and a device has no end.

    Raises
    ------
    SourceError
    OSError
    """
    try:
        return os.fdopen(open_regular(str(path))[0], "rb")
    except DamagedStoreError:
        raise SourceError(f"{path} is a folder, a fifo, a socket or a device, and no file. Give a file.") from None


def _is_hdf5(file: BinaryIO) -> bool:
    """Whether HDF5's signature stands at byte 0, or after a user block (MATLAB writes one): at 512, 1024, 2048, ..."""
    size, offset = os.fstat(file.fileno()).st_size, 0
    while offset + len(_HDF5) <= size:
        file.seek(offset)
        if file.read(len(_HDF5)) == _HDF5:
            return True
        offset = 2 * offset or 512
    return False


def is_text(path: Path, dtype: DTypeLike | None, row_shape: Sequence[int] | None) -> bool:
    """Whether a file is a table of text.

    It is none if it begins as ``.npy`` or HDF5 does. It is one if its name ends in .txt, .csv or .tsv, with or without
    .gz. Otherwise ``row_shape`` says that it is raw binary. Otherwise it is one if it is gzip, and what is in it begins
    with text. Otherwise ``dtype`` says that it is raw binary; without it, it is a table if it begins with text.
    """
    begin = b""
    if path.is_dir():
        return False
    with contextlib.suppress(OSError), _opened(path) as file:
        begin = file.read(_SNIFFED)
        if begin[: len(_NPY)] == _NPY or _is_hdf5(file):
            return False
    if path.name.lower().removesuffix(".gz").endswith((".txt", ".csv", ".tsv")):
        return True
    if row_shape is not None:
        return False
    if begin.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            return _is_printable(zlib.decompressobj(31).decompress(begin, _SNIFFED))
    return dtype is None and _is_printable(begin)


def _is_printable(begin: bytes) -> bool:
    """Whether bytes, which may end within a character, are UTF-8 without control characters."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(begin)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\t\r\n" for c in text)


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype, of what stands at the head of a ``.npy`` file; no pickle is loaded.

    Raises
    ------
    ValueError, struct.error
        There is no such header.
    """
    version = np.lib.format.read_magic(file)
    if version not in _NPY_LENGTHS:
        raise ValueError(f"version {version}")
    form = _NPY_LENGTHS[version]
    (length,) = struct.unpack(form, file.read(struct.calcsize(form)))
    if length > _MOST_HEADER:
        raise ValueError(f"a header of {length} bytes, and {_MOST_HEADER} at most are read")
    header = file.read(length)
    if version == (3, 0):
        # It differs from 2 in one thing: field names are UTF-8, not latin-1.
        header = header.decode().encode("ascii", "backslashreplace")
        length = len(header)
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(io.BytesIO(struct.pack("<I", length) + header))
    except Exception as error:  # of Python's parser: tokens, depth, memory
        raise ValueError(f"{type(error).__name__}: {error}"[:_MOST_SAID]) from None
    if any(type(n) is not int or not 0 <= n < 2**63 for n in shape):
        raise ValueError(f"shape {shape}"[:_MOST_SAID])
    return shape, fortran, dtype


_NPY_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_MOST_HEADER = 2**16
_MOST_SAID = 300


def _open_npy(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            shape, fortran, stored = read_npy_header(file)
            offset = file.tell()
    except (ValueError, struct.error) as error:
        raise SourceError(f"{path} has no valid .npy header ({error}). Write the file again with numpy.save.") from None
    dtype = check_rows(shape, stored, str(path))
    expected = offset + stored.itemsize * math.prod(shape)
    facts = file_facts(path)
    if facts["bytes"] != expected:
        raise SourceError(
            f"{path} has {facts['bytes']} bytes, but its header (shape {shape}, dtype {stored}) needs {expected}. "
            "Write the file again with numpy.save."
        )
    if fortran and len(shape) > 1:
        from swath.sources import memory

        return memory.array_source(np.load(path, mmap_mode="r", allow_pickle=False))
    return FlatSource(path, "npy", offset, shape, stored, dtype, facts)


def _open_raw(path: Path, stored: np.dtype[Any], row_shape: Sequence[int] | None) -> Source:
    try:
        row = (*map(operator.index, () if row_shape is None else row_shape), *stored.shape)
    except TypeError:
        raise OptionError(
            f"row_shape is {row_shape!r}. Give the shape of one row, such as (), (5,) or (3, 4)."
        ) from None
    stored = stored.base
    row_bytes = stored.itemsize * math.prod(row)
    if row_bytes < 1 or min(row, default=1) < 1:
        raise OptionError(
            f"row_shape is {row} and dtype {stored}, which is a row of no bytes. Give the shape and dtype of one row."
        )
    facts = file_facts(path)
    n_rows, rest = divmod(facts["bytes"], row_bytes)
    if rest:
        raise SourceError(
            f"{path} has {facts['bytes']} bytes, which is no whole number of rows of {row_bytes} bytes "
            f"(row_shape {row}, dtype {stored}): {rest} are left over. Check dtype and row_shape."
        )
    dtype = check_rows((n_rows, *row), stored, str(path))
    return FlatSource(path, "raw", 0, (n_rows, *row), stored, dtype, facts)
