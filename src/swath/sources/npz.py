"""Members of ``.npz`` files: stored ones are read where they lie in the zip, deflated ones are streamed.

Both are read in order, so that the zip's crc32 of a member is compared when its last row has been read. It is not where reading
began further on: for a part of the rows, or by an ingest that carries on. A stored member in Fortran order is compared when it is opened.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError, SourceNotFoundError
from swath.sources import Source, check_rows, facts_now, file_facts
from swath.sources.files import FlatSource, read_npy_header
from swath.sources.memory import ArraySource

_NPY = ".npy"
_ENCRYPTED = 1
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# Sizes that a local header leaves to what follows the data, or to its extra field.
_ELSEWHERE = (0, 0xFFFFFFFF)

_STEP_BYTES = 2**20
_DECODER_BYTES = 2**24

_MEND = "Write the file again with numpy.savez."


@dataclass(slots=True)
class StoredMember:
    """A member that is not compressed: rows in the zip itself."""

    rows: FlatSource
    crc: int
    """That the zip gives, of header and rows."""
    header_crc: int
    facts: dict[str, Any]
    _seen: tuple[int, int] = (0, 0)
    """Rows that have been read in order, and the crc32 up to there."""

    in_order = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """In native byte order."""
        return self.rows.dtype

    @property
    def segments(self) -> tuple[int, ...]:
        """The member is one segment."""
        return self.rows.segments

    @property
    def read_bytes(self) -> int:
        """The bytes before they are swapped, and as they are summed."""
        return self.rows.read_bytes + _STEP_BYTES

    def describe(self) -> dict[str, Any]:
        """The file's name, size and time, and the member's name and crc32."""
        return facts_now(self.facts)

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read from the zip, and sum what was read if it follows what was summed.

        Raises
        ------
        SourceError
            The sum of all rows is not that of the zip.
        """
        self.rows.read_into(start, out)
        n_rows, crc = (0, self.header_crc) if start == 0 else self._seen
        if start != n_rows:
            return
        step = max(1, _STEP_BYTES * len(out) // max(1, out.nbytes))
        for i in range(0, len(out), step):
            as_stored = np.ascontiguousarray(out[i : i + step], self.rows.stored)
            crc = zlib.crc32(memoryview(as_stored.reshape(-1).view(np.uint8)), crc)
        self._seen = start + len(out), crc
        if start + len(out) == self.shape[0] and crc != self.crc:
            raise _wrong_crc(self.facts)


@dataclass(slots=True)
class StreamedMember:
    """A member that is compressed: it is decoded from its beginning, and again if earlier rows are read."""

    shape: tuple[int, ...]
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    facts: dict[str, Any]
    _stream: tuple[IO[bytes], int] | None = field(default=None, repr=False)
    """What decodes, and the row that comes next."""

    in_order = True

    @property
    def segments(self) -> tuple[int, ...]:
        """The member is one segment."""
        return (self.shape[0],)

    @property
    def _row_bytes(self) -> int:
        return self.stored.itemsize * math.prod(self.shape[1:])

    @property
    def read_bytes(self) -> int:
        """Some rows, as they are put together, and what the decoder holds (lzma's is the largest)."""
        return 3 * max(_STEP_BYTES, self._row_bytes) + _DECODER_BYTES

    def describe(self) -> dict[str, Any]:
        """The file's name, size and time, and the member's name and crc32."""
        return facts_now(self.facts)

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Decode on from where the last call ended, or anew.

        Raises
        ------
        SourceError
            The member ends too early, cannot be decoded, or its crc32 is wrong.
        """
        row_bytes = self._row_bytes
        try:
            # With the last byte zipfile compares the crc32, and the stream is closed, as it is after an error.
            with contextlib.ExitStack() as closing:
                stream, row = self._stream or self._open()
                self._stream = None
                closing.callback(stream.close)
                if row > start:
                    stream.close()
                    stream, row = self._open()
                    closing.callback(stream.close)
                _skip(stream, (start - row) * row_bytes)
                step = max(1, _STEP_BYTES // row_bytes)
                for i in range(0, len(out), step):
                    block = _read(stream, min(step, len(out) - i) * row_bytes)
                    out[i : i + step] = np.frombuffer(block, self.stored).reshape(-1, *self.shape[1:])
                if start + len(out) < self.shape[0]:
                    self._stream = stream, start + len(out)
                    closing.pop_all()
        except Exception as error:  # of zlib, bz2 or lzma, which have no base in common
            if isinstance(error, zipfile.BadZipFile) and "CRC" in str(error):
                raise _wrong_crc(self.facts) from None
            raise SourceError(
                f"{_where(self.facts)} cannot be decoded ({type(error).__name__}: {error}). {_MEND}"
            ) from error

    def _open(self) -> tuple[IO[bytes], int]:
        with zipfile.ZipFile(self.facts["path"]) as file:
            stream = file.open(self.facts["member"])
        try:
            read_npy_header(stream)
        except BaseException:
            stream.close()
            raise
        return stream, 0


def open_member(path: Path, name: str) -> Source:
    """The array ``name`` of a ``.npz`` file, or the only one it has.

    Raises
    ------
    SourceNotFoundError
        There is none of this name; the message lists those there are.
    SourceError
        It is no sound zip file, or no array of rows.
    """
    members = _members(path)
    listed = ", ".join(list(members)[:8]) + (", ..." if len(members) > 8 else "") or "none"
    if not name and len(members) != 1:
        raise SourceError(f"{path} is a zip file, and no array is named. Give '{path}::NAME', with one of: {listed}.")
    chosen = name or next(iter(members))
    if chosen not in members:
        raise SourceNotFoundError(f"{path} has no array {chosen!r}. It has: {listed}.")
    info = members[chosen]
    where = f"{path}::{chosen}"
    if info.flag_bits & _ENCRYPTED:
        raise SourceError(f"{where} is encrypted. {_MEND}")
    facts = {"kind": "npz", **file_facts(path), "dataset": chosen, "member": info.filename, "crc32": info.CRC}
    try:
        with zipfile.ZipFile(path) as file, file.open(info) as stream:
            shape, fortran, stored = read_npy_header(stream)
            header_bytes = stream.tell()
    except Exception as error:  # of zipfile, of each decoder, of numpy's header
        raise SourceError(f"{where} has no valid .npy header ({type(error).__name__}: {error}). {_MEND}") from None
    dtype = check_rows(shape, stored, where)
    expected = header_bytes + stored.itemsize * math.prod(shape)
    if info.file_size != expected:
        raise SourceError(
            f"{where} has {info.file_size} bytes, but its header (shape {shape}, dtype {stored}) needs {expected}. {_MEND}"
        )
    if 0 in shape or not stored.itemsize:
        raise SourceError(f"{where} has shape {shape}, whose rows hold no bytes. Give rows with at least one element.")
    facts |= {"shape": list(shape), "dtype": str(stored)}
    fortran = fortran and len(shape) > 1
    if info.compress_type != zipfile.ZIP_STORED:
        if fortran:
            raise SourceError(
                f"{where} is compressed and in Fortran order, so its first row ends where the file does. Give numpy.load(...)[{chosen!r}]."
            )
        return StreamedMember(shape, stored, dtype, facts)
    offset = _data_offset(path, info, where)
    if fortran:
        _check_crc(path, offset, info, facts)
        with path.open("rb") as raw:
            mapping = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)
        array = np.ndarray(shape, stored, mapping, offset + header_bytes, order="F")
        return ArraySource(array, dtype, mapping)
    with path.open("rb") as raw:
        raw.seek(offset)
        header_crc = zlib.crc32(raw.read(header_bytes))
    rows = FlatSource(path, "npz", offset + header_bytes, shape, stored, dtype, facts)
    return StoredMember(rows, info.CRC, header_crc, facts)


def member_names(path: Path) -> list[str]:
    """Names of all arrays in a ``.npz`` file, in its order.

    Raises
    ------
    SourceError
    """
    return list(_members(path))


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as file:
            infos = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(
            f"{path} begins as a zip file does, but is none that can be read ({error}). {_MEND}"
        ) from None
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removesuffix(_NPY)
        if name == info.filename:
            continue
        if name in found:
            raise SourceError(f"{path} has two members of the name {info.filename!r}. {_MEND}")
        found[name] = info
    return found


def _data_offset(path: Path, info: zipfile.ZipInfo, where: str) -> int:
    """Where the bytes of a stored member begin: its own header says so, after what the directory at the end says of it.

    Raises
    ------
    SourceError
        The two differ, or the bytes would not lie in the file.
    """
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER.size)
        if len(head) == _LOCAL_HEADER.size:
            signature, _, flags, method, _, _, _, packed, unpacked, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
            offset: int = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
            sizes = {n for n in (packed, unpacked) if n not in _ELSEWHERE} | {info.compress_size}
            alike = signature == b"PK\x03\x04" and not flags & _ENCRYPTED and method == zipfile.ZIP_STORED
            if alike and sizes == {info.file_size} and offset + info.file_size <= path.stat().st_size:
                return offset
    raise SourceError(f"{where} is described in two ways in its zip file, at its beginning and at its end. {_MEND}")


def _check_crc(path: Path, offset: int, info: zipfile.ZipInfo, facts: dict[str, Any]) -> None:
    crc, left = 0, info.file_size
    with path.open("rb") as file:
        file.seek(offset)
        while left and (block := file.read(min(left, _STEP_BYTES))):
            crc, left = zlib.crc32(block, crc), left - len(block)
    if crc != info.CRC:
        raise _wrong_crc(facts)


def _wrong_crc(facts: dict[str, Any]) -> SourceError:
    return SourceError(
        f"{_where(facts)} has not the crc32 that its zip file says: its bytes are damaged. Restore the file."
    )


def _where(facts: dict[str, Any]) -> str:
    return f"{facts['path']}::{facts['dataset']}"


def _skip(stream: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        n_bytes -= len(_read(stream, min(n_bytes, _STEP_BYTES)))


def _read(stream: IO[bytes], n_bytes: int) -> bytes:
    """Exactly so many bytes; a row may be more than a decoder gives at once."""
    block = stream.read(n_bytes)
    while len(block) < n_bytes:
        more = stream.read(n_bytes - len(block))
        if not more:
            raise EOFError(f"it ends {n_bytes - len(block)} bytes too early")
        block += more
    return block
