"""Hostile files of each kind that can come in, by a seed: bytes that are damaged, and structures that lie."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from hostile import hdf5_files
from hostile.binary import inflating, mutate

ROWS = np.arange(120, dtype="<i4").reshape(40, 3)
_GIGABYTE = 2**30


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file, and how it is opened."""

    name: str
    content: bytes
    inner: str = ""
    """A name in the file."""
    options: dict[str, Any] = field(default_factory=dict)


# --- .npy

_DESCRIPTIONS = (
    "'|O'",
    "'O'",
    "'<i4'",
    "'>i4'",
    "'|V0'",
    "'|S0'",
    "'<U0'",
    "'|S4000000000'",
    "'<M8[ns]'",
    "'<M8[7000000000000Y]'",
    "'i4,O'",
    "'f16'",
    "'c32'",
    "[('a', '<i4'), ('a', '<i4')]",
    "[('a', '<i4'), ('b', '|O')]",
    "[('a', '<i4', (2**62,))]",
    "[('a', '<i4', (4611686018427387904,))]",
    "[('a', '<i4', (-3,))]",
    "[]",
    "[('', '|V12')]",
    "('<i4', (3,))",
    "('<i4', (3, -1))",
    "('<i4', (2147483647, 2147483647))",
    "{'names': ['a', 'b'], 'formats': ['<i4', '<f8'], 'offsets': [0, 2]}",
    "{'names': ['a', 'b'], 'formats': ['|O', '<i8'], 'offsets': [0, 0]}",
    "[(('t', 'a'), '<i4')]",
    "5",
    "None",
    "'<i4' * 9",
    "'__import__(\"os\")'",
    "[['a', '<i4']]",
    "[('a', [('b', [('c', '<i4')])])]",
    "b'<i4'",
)
_SHAPES = (
    "(40, 3)",
    "(3, 40)",
    "(120,)",
    "120",
    "()",
    "(-40, -3)",
    "(-1, -120)",
    "(40, 3, 1, 1)",
    "(9223372036854775807,)",
    "(9223372036854775808,)",
    "(18446744073709551616, 18446744073709551616)",
    "(0, 9223372036854775807)",
    "(40, 0)",
    "(True, 120)",
    "(40.0, 3)",
    "(40, '3')",
    "(40, None)",
    "[40, 3]",
    "(4294967296, 4294967296, 4294967296)",
    "(1,) * 70",
    "(%s)" % ("1, " * 70),
    "(%s)" % ("9" * 5000),
    "({}, 3)",
    "(-9223372036854775808, 3)",
)


def npy(random: Random) -> Hostile:
    """Header bombs, dtypes of objects, shapes that are not those of the bytes."""
    memory = io.BytesIO()
    rows = random.choice(
        (ROWS, ROWS.astype(">f8"), np.asfortranarray(ROWS), ROWS.ravel().astype("S3"), np.zeros(9, "i4,f8"))
    )
    np.lib.format.write_array(memory, rows, random.choice(((1, 0), (2, 0), (3, 0))))
    encoded = memory.getvalue()
    if random.randrange(2):
        return Hostile("a.npy", mutate(encoded, random))
    description = random.choice(_DESCRIPTIONS) if random.randrange(2) else "'<i4'"
    shape = random.choice(_SHAPES) if random.randrange(2) else "(40, 3)"
    if random.randrange(10) == 0:
        depth = random.choice((50, 150, 1000, 4000, 20_000))
        opening, closing = random.choice((("(", ")"), ("[", "]"), ("{1:", "}"), ("-", ""), ("[('a', ", ")]")))
        nested = opening * depth + random.choice(("1", "'<i4'")) + closing * depth
        description, shape = random.choice(((nested, shape), (description, nested)))
    order = random.choice(("False", "True", "1", "'False'", "None"))
    header = f"{{'descr': {description}, 'fortran_order': {order}, 'shape': {shape}, }}"
    header = random.choice(
        (header, header, header, header.replace("'descr'", "'descr': 1, 'descr'"), header + "\0", " " * 70_000 + header)
    )
    raw = header.encode() + b" " * random.randrange(64) + b"\n"
    version = random.choice((1, 2, 2, 3))
    length = (
        len(raw)
        if random.randrange(4)
        else random.choice((0, 1, len(raw) - 1, len(raw) + 1, 2**16 - 1, 2**31 - 1, 2**32 - 1))
    )
    packed = struct.pack("<H" if version == 1 else "<I", min(length, 2**16 - 1 if version == 1 else 2**32 - 1))
    return Hostile("a.npy", b"\x93NUMPY" + bytes([version, 0]) + packed + raw + ROWS.tobytes())


# --- .npz


def npz(random: Random) -> Hostile:
    """Zip files that lie, are encrypted, overlap, lead outside, or inflate."""
    kind = random.randrange(12)
    if kind == 0 and random.randrange(10) == 0:
        return Hostile("a.npz", _zip_bomb(), "x")
    members: list[tuple[str, bytes, int]] = [("x.npy", _saved(ROWS), random.choice((0, 8, 12, 14)))]
    if kind == 1:
        members.append(
            (
                random.choice(
                    ("../../y.npy", "/etc/y.npy", "y\0.npy", "..\\y.npy", "x.npy", "\N{SNOWMAN}.npy", "y.npy/z.npy")
                ),
                _saved(ROWS),
                0,
            )
        )
    if kind == 2:
        members = [("x.npy", npy(random).content, random.choice((0, 8)))]
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        for name, content, method in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with file.open(info, "w", force_zip64=random.randrange(4) == 0) as member:
                member.write(content)
    encoded = bytearray(memory.getvalue())
    directory = encoded.rindex(b"PK\x01\x02")
    inner = random.choice(("x", "x", "x", "../../y", "/etc/y", ""))
    if kind == 3:
        encoded[directory + 8] |= 1
    if kind in (4, 5):
        # crc, sizes, offset: in the directory, or in the local header
        where, width = random.choice(((16, 4), (20, 4), (24, 4), (42, 4), (10, 2), (28, 2), (30, 2)))
        number = random.choice((0, 1, 2**32 - 1, 2**31, len(encoded), random.randrange(2**32)))
        encoded[directory + where : directory + where + width] = (number % 256**width).to_bytes(width, "little")
    if kind == 6:
        where, width = random.choice(((14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (8, 2), (6, 2)))
        encoded[where : where + width] = random.randbytes(width)
    return Hostile("a.npz", bytes(encoded) if kind < 6 else mutate(bytes(encoded), random), inner)


def _saved(rows: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, rows)
    return memory.getvalue()


@cache
def _zip_bomb() -> bytes:
    """A member that says it has forty rows, and inflates to a gigabyte."""
    header, name = _saved(ROWS)[:128], b"x.npy"
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packed.compress(header) + packed.flush(zlib.Z_FULL_FLUSH) + inflating(_GIGABYTE, -zlib.MAX_WBITS)
    sizes = (0, len(body), len(_saved(ROWS)))
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, *sizes, len(name), 0) + name
    directory = (
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, 0) + name
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local) + len(body), 0)
    return local + body + directory + end


# --- HDF5


def hdf5(random: Random) -> Hostile:
    """Whole small files, mutated; metadata with sums made right; bombs."""
    return Hostile("a.h5", hdf5_files.hostile(random), "x")


# --- raw binary


def raw(random: Random) -> Hostile:
    """Of any size, with any dtype and shape."""
    dtype = random.choice(("<i4", ">f8", "S3", "i4,f8", "O", "V0", "U1", "c16", "i1", "(2,3)i2", "M8[s]"))
    row_shape = random.choice(((), (3,), (0,), (-1,), (2**31, 2**31, 2**31), (2**62,), (3, 1), (1,) * 40))
    return Hostile(
        "a.bin",
        random.randbytes(random.choice((0, 1, 12, 120, 1200, random.randrange(2000)))),
        "",
        {"dtype": dtype, "row_shape": row_shape},
    )


# --- text


_WORDS = (
    b"9" * 5000,
    b"-",
    b"nan",
    b"inf",
    b"1e400",
    b"0x1F",
    b"1_000",
    b"\0",
    b"\xff\xfe",
    b"\xe9",
    b'"',
    b'""',
    b"'",
    b"",
    b"\xef\xbb\xbf",
    b"1 2",
    b"=1+1",
    b"\x1c",
    b"\xd9\xa1",
    b"nan(1)",
    b"1e-400",
    b"9223372036854775808",
    b"1.5",
    b"(1)",
)
_ENDS = (b"\n", b"\r\n", b"\r", b"\n\n", b"\x0b", b"\x0c", b"\xc2\x85", b"\xe2\x80\xa8", b"")


def text(random: Random) -> Hostile:
    """Lines and fields of all sorts, in gzip or not."""
    delimiter = random.choice((b",", b"\t", b";", b" "))
    lines = [delimiter.join(str(n).encode() for n in row) for row in ROWS.tolist()]
    if random.randrange(3) == 0:
        lines.insert(0, delimiter.join((b"a", b"b", b"c")))
    end = random.choice((b"\n", b"\n", b"\r\n"))
    for _ in range(random.randrange(4)):
        i = random.randrange(len(lines))
        fields = lines[i].split(delimiter)
        match random.randrange(4):
            case 0:
                fields[random.randrange(len(fields))] = random.choice(_WORDS)
            case 1:
                fields.append(random.choice(_WORDS))
            case 2:
                fields[-1] += random.choice(_ENDS)
            case 3:
                fields.insert(0, b"#")
        lines[i] = delimiter.join(fields)
    encoded = end.join(lines) + random.choice((b"", end))
    if random.randrange(3) == 0:
        encoded = mutate(encoded, random)
    options = {"dtype": random.choice((None, None, "i4", "f4", "S5", "U5", "bool", "i4,f8,S9", "u1", "f2"))}
    name = random.choice(("a.csv", "a.tsv", "a.txt"))
    match random.randrange(60):
        case 0:
            return Hostile(name + ".gz", _text_bomb(), "", options)
        case 1:
            return Hostile(name, b"1," * 2**21 + encoded, "", options)
        case n if n < 15:
            packed = gzip.compress(encoded, mtime=0)
            packed = random.choice(
                (
                    packed,
                    packed + packed,
                    packed[: random.randrange(len(packed))],
                    mutate(packed, random),
                    packed + b"\0" * 9,
                    packed + b"rest",
                )
            )
            return Hostile(random.choice((name + ".gz", name, "a.data")), packed, "", options)
        case _:
            return Hostile(name, encoded, "", options)


@cache
def _text_bomb() -> bytes:
    """A gigabyte in one line."""
    return inflating(_GIGABYTE, zlib.MAX_WBITS + 16, b"1")


# --- images

_KINDS = (
    "PNG",
    "TIFF",
    "GIF",
    "WEBP",
    "JPEG",
    "BMP",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "DDS",
    "SGI",
    "QOI",
    "AVIF",
    "ICNS",
    "MPO",
    "SPIDER",
    "MSP",
    "BLP",
    "XBM",
    "EPS",
    "PDF",
)
_PICTURES = "pictures"
_EXTENSIONS = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif", "SPIDER": "spi"}
_TIFF = ("raw", "tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate", "jpeg", "group4", "zstd", "webp", "lzma")


def write_pictures(folder: Path) -> None:
    """One of each format and mode that Pillow writes, for `image`."""
    place = folder / _PICTURES
    place.mkdir()
    for i, (extension, encoded) in enumerate(_made()):
        (place / f"{i:03}.{extension}").write_bytes(encoded)


@cache
def _pictures(folder: str) -> list[tuple[str, bytes]]:
    return [(path.suffix[1:], path.read_bytes()) for path in sorted((Path(folder) / _PICTURES).iterdir())]


def _made() -> list[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 4), np.uint8)
    made = []
    for kind in _KINDS:
        for mode in ("RGB", "L", "RGBA", "P", "1", "I;16", "CMYK", "LA"):
            image = (
                Image.fromarray(pixels[..., 0].astype("u2"))
                if mode == "I;16"
                else Image.fromarray(pixels).convert(mode)
            )
            variants: list[dict[str, Any]] = [{}]
            if kind == "TIFF":
                variants = [{"compression": each} for each in _TIFF]
            if kind in ("GIF", "TIFF", "WEBP", "PNG") and mode in ("RGB", "P"):
                variants.append({"save_all": True, "append_images": [image, image]})
            if kind == "JPEG":
                variants.append({"progressive": True})
            for options in variants:
                memory = io.BytesIO()
                try:
                    image.save(memory, kind, **options)
                except (OSError, ValueError, KeyError, TypeError, RuntimeError):
                    continue  # it has no such mode
                made.append((_EXTENSIONS.get(kind, kind.lower()), memory.getvalue()))
    return made


def image(random: Random, folder: str) -> Hostile:
    """Pictures of all formats that Pillow writes, mutated, cut, or of a size that they have not; and under each other's names."""
    extension, encoded = random.choice(_pictures(folder))
    if random.randrange(40) == 0:
        size = random.choice((2**31 - 1, 2**16, 2**14, 0, 13_000))
        return Hostile("a.png", _png_bomb(size, random.choice((size, 1, 16))))
    if random.randrange(8) == 0:
        extension = random.choice(_pictures(folder))[0]
    if random.randrange(12) == 0:
        return Hostile(f"a.{extension}", encoded[: random.randrange(len(encoded))])
    at = random.randrange(2)  # headers stand at the beginning
    head = encoded[: 200 if at else len(encoded)]
    return Hostile(f"a.{extension}", mutate(head, random) + encoded[len(head) :])


@cache
def _png_bomb(width: int, height: int) -> bytes:
    """All of its rows are there, one small stream of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    n_bytes = min(2**28, height * (width + 1))
    pixels = zlib.compress(bytes(n_bytes), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


KINDS: dict[str, Callable[[Random], Hostile]] = {
    "npy": npy,
    "npz": npz,
    "hdf5": hdf5,
    "raw": raw,
    "text": text,
}


def hostile(folder: str, kind: str, seed: int) -> Hostile:
    """The file of a seed; pictures are those that were written into the folder."""
    random = Random(f"{kind} {seed}")
    return image(random, folder) if kind == "image" else KINDS[kind](random)
