"""Small HDF5 files of every kind of storage, and how they are made to lie with checksums that are right."""

import io
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any, Literal

import h5py
import numpy as np

from hostile.binary import inflating, mutate

ROWS = np.arange(120, dtype="<i4").reshape(40, 3)
_FIELDS = np.dtype([("a", "<i4"), ("b", "<f8")])
_BOMB_BYTES = 2**30


def _chunked(**options: Any) -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        file.create_dataset("x", data=ROWS, chunks=(8, 3), **options)

    return make


def _plain(file: h5py.File) -> None:
    file["x"] = ROWS


def _big_endian(file: h5py.File) -> None:
    file["g/x"] = ROWS.astype(">i4")
    file["x"] = h5py.SoftLink("/g/x")


def _compact(file: h5py.File) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(ROWS.shape)
    dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.STD_I32LE, space, created)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, ROWS)


def _records(file: h5py.File) -> None:
    rows = np.zeros(40, _FIELDS)
    rows["a"] = range(40)
    file.create_dataset("x", data=rows, chunks=(8,), compression="gzip")


def _texts(file: h5py.File) -> None:
    file.create_dataset("x", data=[f"row {i}" for i in range(40)], dtype=h5py.string_dtype())


def _references(file: h5py.File) -> None:
    file["y"] = ROWS
    file.create_dataset("x", (40,), h5py.ref_dtype)
    file["x"][0] = file["y"].ref


def _enums(file: h5py.File) -> None:
    file.create_dataset("x", (40, 3), h5py.enum_dtype({"A": 0, "B": 1}, "i2"), chunks=(8, 3), fletcher32=True)
    file["x"][:20] = 1


def _many(file: h5py.File) -> None:
    for i in range(12):
        file[f"g/y{i}"] = ROWS[i]
        file["g"].attrs[f"note {i}"] = f"{i}"
    file["x"] = ROWS.astype("f4")


def _growing(file: h5py.File) -> None:
    file.create_dataset("x", data=ROWS, chunks=(8, 3), maxshape=(None, 3), compression="gzip", shuffle=True)


def _growing_both_ways(file: h5py.File) -> None:
    file.create_dataset("x", data=ROWS, chunks=(8, 2), maxshape=(None, None), compression="lzf")


MAKERS: dict[str, Callable[[h5py.File], None]] = {
    "contiguous": _plain,
    "big-endian": _big_endian,
    "compact": _compact,
    "chunked": _chunked(),
    "gzip": _chunked(compression="gzip", shuffle=True),
    "lzf": _chunked(compression="lzf"),
    "fletcher32": _chunked(fletcher32=True),
    "scaleoffset": _chunked(scaleoffset=0),
    "records": _records,
    "texts": _texts,
    "references": _references,
    "enums": _enums,
    "many": _many,
    "growing": _growing,
    "growing-both-ways": _growing_both_ways,
}

Version = Literal["earliest", "latest"]


@cache
def sound(name: str, version: Version) -> bytes:
    """A file whose dataset is ``x``."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=version) as file:
        MAKERS[name](file)
    return memory.getvalue()


def hostile(random: Random) -> bytes:
    """One that is damaged, or lies."""
    if random.randrange(500) == 0:
        return bomb(random.choice(("gzip", "records", "lzf")))
    name, version = random.choice(list(MAKERS)), random.choice(("earliest", "earliest", "latest"))
    encoded = sound(name, version)
    if version == "latest" and random.randrange(4):
        return _with_sums(encoded, random)
    return mutate(encoded, random)


@cache
def bomb(kind: str) -> bytes:
    """One small chunk that decodes to a gigabyte."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        dtype = _FIELDS if kind == "records" else np.dtype("<i4")
        compression = "lzf" if kind == "lzf" else "gzip"
        dataset = file.create_dataset("x", (64,), dtype, chunks=(64,), compression=compression)
        encoded = inflating(_BOMB_BYTES, zlib.MAX_WBITS)
        if kind == "lzf":
            encoded = b"\x00\x00" + b"\xe0\xff\x00" * 4000
        dataset.id.write_direct_chunk((0,), encoded)
    return memory.getvalue()


def _with_sums(encoded: bytes, random: Random) -> bytes:
    """Mutated within parts that have a checksum, which is then made right."""
    parts = random.choices(_summed(encoded), k=random.randint(1, 2))
    found = bytearray(encoded)
    for begin, end in parts:
        for _ in range(random.randint(1, 3)):
            part = bytes(found[begin + 4 : end])
            changed = mutate(part, random, 1)[: len(part)].ljust(len(part), b"\0")
            found[begin + 4 : end] = changed
        found[end : end + 4] = _lookup3(bytes(found[begin:end])).to_bytes(4, "little")
    return bytes(found)


_SIGNATURES = (
    b"\x89HDF",
    b"OHDR",
    b"OCHK",
    b"FRHP",
    b"FHDB",
    b"BTHD",
    b"BTLF",
    b"BTIN",
    b"FAHD",
    b"FADB",
    b"EAHD",
    b"EAIB",
    b"EADB",
)


@cache
def _summed(encoded: bytes) -> list[tuple[int, int]]:
    """Where parts that have a checksum begin, and where it stands."""
    found = []
    for signature in _SIGNATURES:
        begin = encoded.find(signature)
        while begin >= 0:
            for end in range(begin + 8, min(begin + 600, len(encoded) - 3)):
                if _lookup3(encoded[begin:end]) == int.from_bytes(encoded[end : end + 4], "little"):
                    found.append((begin, end))
                    break
            begin = encoded.find(signature, begin + 1)
    return found


def _lookup3(key: bytes) -> int:
    """The checksum of HDF5's metadata: Bob Jenkins' hashlittle."""

    def rot(x: int, k: int) -> int:
        return (x << k | x >> 32 - k) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(key)) & 0xFFFFFFFF
    while len(key) > 12:
        x, y, z = (int.from_bytes(key[i : i + 4], "little") for i in (0, 4, 8))
        a, b, c = (a + x) & 0xFFFFFFFF, (b + y) & 0xFFFFFFFF, (c + z) & 0xFFFFFFFF
        a = ((a - c) & 0xFFFFFFFF) ^ rot(c, 4)
        c = (c + b) & 0xFFFFFFFF
        b = ((b - a) & 0xFFFFFFFF) ^ rot(a, 6)
        a = (a + c) & 0xFFFFFFFF
        c = ((c - b) & 0xFFFFFFFF) ^ rot(b, 8)
        b = (b + a) & 0xFFFFFFFF
        a = ((a - c) & 0xFFFFFFFF) ^ rot(c, 16)
        c = (c + b) & 0xFFFFFFFF
        b = ((b - a) & 0xFFFFFFFF) ^ rot(a, 19)
        a = (a + c) & 0xFFFFFFFF
        c = ((c - b) & 0xFFFFFFFF) ^ rot(b, 4)
        b = (b + a) & 0xFFFFFFFF
        key = key[12:]
    if not key:
        return c
    padded = key.ljust(12, b"\0")
    x, y, z = (int.from_bytes(padded[i : i + 4], "little") for i in (0, 4, 8))
    a, b, c = (a + x) & 0xFFFFFFFF, (b + y) & 0xFFFFFFFF, (c + z) & 0xFFFFFFFF
    c = ((c ^ b) - rot(b, 14)) & 0xFFFFFFFF
    a = ((a ^ c) - rot(c, 11)) & 0xFFFFFFFF
    b = ((b ^ a) - rot(a, 25)) & 0xFFFFFFFF
    c = ((c ^ b) - rot(b, 16)) & 0xFFFFFFFF
    a = ((a ^ c) - rot(c, 4)) & 0xFFFFFFFF
    b = ((b ^ a) - rot(a, 14)) & 0xFFFFFFFF
    return ((c ^ b) - rot(b, 24)) & 0xFFFFFFFF
