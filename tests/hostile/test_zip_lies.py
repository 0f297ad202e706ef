"""What the directory of a zip file says of a member is compared with the member: rows, or a typed error, in little memory."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import assert_same

import swath
from hostile.harness import run
from swath.errors import SwathError

ROWS = np.arange(120, dtype="<i4").reshape(40, 3)


def _sound(method: int) -> bytearray:
    """Of two members of one content."""
    npy, file = io.BytesIO(), io.BytesIO()
    np.save(npy, ROWS)
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, npy.getvalue())
    return bytearray(file.getvalue())


def _put(encoded: bytearray, at: int, number: int) -> None:
    encoded[at : at + 4] = struct.pack("<I", number)


def _zip64(encoded: bytearray, entry: int) -> None:
    """Say that its sizes of 2^62 bytes stand in an extra field."""
    extra = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    (n_name,) = struct.unpack_from("<H", encoded, entry + 28)
    encoded[entry + 20 : entry + 28] = b"\xff" * 8
    encoded[entry + 30 : entry + 32] = struct.pack("<H", len(extra))
    encoded[entry + 46 + n_name : entry + 46 + n_name] = extra
    end = encoded.rfind(b"PK\x05\x06")
    _put(encoded, end + 12, struct.unpack_from("<I", encoded, end + 12)[0] + len(extra))


# What is changed of the entry of "y", which begins at a byte of the directory.
LIES: dict[str, Callable[[bytearray, int], None]] = {
    "the place of the other": lambda encoded, entry: _put(encoded, entry + 42, 0),
    "a place behind the end": lambda encoded, entry: _put(encoded, entry + 42, len(encoded)),
    "another crc": lambda encoded, entry: _put(encoded, entry + 16, 1),
    "four gigabytes": lambda encoded, entry: _put(encoded, entry + 24, 2**32 - 2),
    "a hundred bytes": lambda encoded, entry: _put(encoded, entry + 24, 100),
    "2^62 bytes": _zip64,
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("lie", LIES)
def test_a_member_of_which_the_directory_lies_is_refused_and_the_other_is_read(
    tmp_path: Path, lie: str, method: int
) -> None:
    encoded = _sound(method)
    LIES[lie](encoded, encoded.rfind(b"PK\x01\x02"))
    path = tmp_path / "a.npz"
    path.write_bytes(encoded)
    with pytest.raises(SwathError, match=r"a\.npz"):
        swath.ingest(f"{path}::y", tmp_path / "y.zarr", progress=False)
    assert not (tmp_path / "y.zarr").exists()
    a = swath.ingest(f"{path}::x", tmp_path / "x.zarr", progress=False)
    assert_same(a.gather([0], window=40)[0], ROWS)


def inflating(folder: str, header: bool) -> Callable[[], object]:
    """Ingests a member of 500 MB, of which the header says that it has 120 bytes, or that it is itself four gigabytes."""
    swath.ingest(ROWS, f"{folder}/a.zarr", overwrite=True, progress=False)
    npy = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": (40, 3)}
    np.lib.format.write_array_header_1_0(npy, facts)
    begin = b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) if header else npy.getvalue()
    with zipfile.ZipFile(f"{folder}/a.npz", "w", 8) as archive, archive.open("x.npy", "w") as member:
        member.write(begin)
        for _ in range(500):
            member.write(b" " * 10**6)
    return lambda: swath.ingest(f"{folder}/a.npz::x", f"{folder}/a.zarr", overwrite=True, progress=False)


def test_a_member_that_inflates_to_more_than_its_header_says_is_refused(tmp_path: Path) -> None:
    """It grows by less than 1 MB."""
    for result in run("hostile.test_zip_lies:inflating", [[str(tmp_path), header] for header in (False, True)]):
        assert result.outcome == "typed error", result
        assert result.growth < 4 * 10**6, result
