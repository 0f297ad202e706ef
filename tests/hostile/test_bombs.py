"""What holds gigabytes, and says that it holds one chunk, takes the memory of that chunk, and of the bytes that were read.

Each case has a process of its own, whose growth the kernel tells (VmHWM). For chunks of 40 MB, in MB, without the bytes that were read: zstd 39.8,
gzip 39.8 (in a shard 40.0), zlib 40.4, bz2 40.4, lzma 48.0 (8 are its dictionary), delta and zlib 42.8, gzip as a filter 42.3; lz4 and
blosc 0, since they announce what they hold. When streams were decoded in one go, gzip took 150 and zlib 129. For pictures of 36 MB, in the
process that decodes: PNG 39.8 (sound 36.9), TIFF 38.4 (sound 38.4), profiles and text beside the pixels 6 to 8, of which Pillow inflates 1 MiB.
"""

import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numcodecs
import pytest
import zarr
from PIL import Image
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ShardingCodec, ZstdCodec

import swath
from hostile.harness import run
from hostile.shards import bomb, zstd_stream
from swath.checksum import crc32c
from swath.sources.image_process import image_processes

# Of a declared chunk, in which each bomb but those of lzma holds a hundred times as much.
_SHAPE = (1000, 40_000)
_CHUNK = 40 * 10**6
_BOMB = 4 * 10**9

_MIB = bytes(2**20)

Codec = Literal["zstd", "gzip", "zlib", "bz2", "lzma", "lz4", "blosc"]

# What the process takes for its first error, and a decompressor of its own.
_FIXED = 3 * 10**6
_OF_CODEC: dict[Codec, int] = {"lzma": 9 * 10**6}

ARRAYS: dict[str, tuple[Codec, dict[str, Any]]] = {
    "v3 zstd": ("zstd", {"compressors": ZstdCodec()}),
    "v3 gzip": ("gzip", {"compressors": GzipCodec()}),
    "v3 blosc": ("blosc", {"compressors": BloscCodec(cname="lz4")}),
    "v3 sharded gzip": (
        "gzip",
        {
            "serializer": ShardingCodec(chunk_shape=_SHAPE, codecs=[BytesCodec(), GzipCodec()], index_location="start"),
            "compressors": None,
        },
    ),
    "v2 zlib": ("zlib", {"compressors": numcodecs.Zlib()}),
    "v2 gzip": ("gzip", {"compressors": numcodecs.GZip()}),
    "v2 bz2": ("bz2", {"compressors": numcodecs.BZ2()}),
    "v2 lzma": ("lzma", {"compressors": numcodecs.LZMA()}),
    "v2 zstd": ("zstd", {"compressors": numcodecs.Zstd()}),
    "v2 lz4": ("lz4", {"compressors": numcodecs.LZ4()}),
    "v2 blosc": ("blosc", {"compressors": numcodecs.Blosc(cname="zstd")}),
    "v2 delta, zlib": ("zlib", {"filters": [numcodecs.Delta("u1")], "compressors": numcodecs.Zlib()}),
    "v2 gzip as a filter": ("gzip", {"filters": [numcodecs.GZip()], "compressors": None}),
}


def _inflating(n_bytes: int) -> bytes:
    """One stream of zlib: what it has packed once, after a flush, stands for as many zeros wherever it is."""
    packer = zlib.compressobj()
    first = packer.compress(_MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (packer.compress(_MIB) + packer.flush(zlib.Z_FULL_FLUSH)) * (n_bytes // 2**20)


def _packed(codec: Codec) -> bytes:
    """Zeros, some gigabytes of them."""
    times = _BOMB // 2**20
    match codec:
        case "zstd":
            return zstd_stream(_BOMB)
        case "gzip" | "bz2":  # one stream after another is one file
            return bomb(codec, 2**20) * times
        case "zlib":
            return _inflating(_BOMB)
        case "lzma":
            squeezing = lzma.LZMACompressor()
            return b"".join([*(squeezing.compress(_MIB) for _ in range(300)), squeezing.flush()])
        case "lz4":  # sound, but for the size that it announces
            return struct.pack("<I", 2**31 - 1) + bytes(numcodecs.LZ4().encode(_MIB))[4:]
        case "blosc":
            sound = bytes(numcodecs.Blosc(cname="zstd").encode(_MIB))
            return sound[:4] + struct.pack("<I", 2**31 - 1) + sound[8:]


def gathering(small: str, url: str) -> Callable[[], object]:
    """Gather from a small array of the same kind, and then from the other."""
    swath.open(small).gather([0], window=2)
    a = swath.open(url)
    return lambda: a.gather([0], window=2)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_chunk_that_holds_gigabytes_takes_the_memory_of_a_chunk(tmp_path: Path, name: str) -> None:
    codec, options = ARRAYS[name]
    version: Any = 2 if name.startswith("v2") else 3
    for part, shape in (("small", (10, 100)), ("bomb", _SHAPE)):
        made = options if part == "bomb" or "serializer" not in options else ARRAYS["v3 gzip"][1]
        zarr.create_array(tmp_path / part, shape=shape, dtype="u1", chunks=shape, zarr_format=version, **made)
    zarr.open_array(tmp_path / "small")[:] = 1
    chunk = tmp_path / "bomb" / ("0.0" if version == 2 else "c/0/0")
    chunk.parent.mkdir(parents=True, exist_ok=True)
    packed = _packed(codec)
    if "sharded" in name:
        index = struct.pack("<QQ", 20, len(packed))
        packed = index + crc32c(index).to_bytes(4, "little") + packed
    assert len(packed) < 1.1 * _CHUNK, "else it would be refused for its size"
    chunk.write_bytes(packed)
    (result,) = run("hostile.test_bombs:gathering", [[str(tmp_path / "small"), str(tmp_path / "bomb")]])
    assert result.outcome == "typed error", result
    assert "DamagedStoreError" in result.text
    assert result.growth < 1.1 * _CHUNK + len(packed) + _FIXED + _OF_CODEC.get(codec, 0), result


# --- pictures

# Of a picture, L: as many bytes as Pillow holds of it.
_SIDE = 6000
_PIXELS = _SIDE * _SIDE


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(inflated: int, beside: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + beside + _chunk(b"IDAT", _inflating(inflated)) + _chunk(b"IEND", b"")


def _tiff(path: Path) -> None:
    """One of Pillow's, in strips."""
    Image.new("L", (_SIDE, _SIDE)).save(path, compression="tiff_adobe_deflate")


def _swell(path: Path) -> None:
    """Have the first strip of a TIFF hold far more."""
    raw = bytearray(path.read_bytes())
    with Image.open(path) as image:
        tags: Any = image
        places, sizes = tags.tag_v2[273], tags.tag_v2[279]
    strip = _inflating(10**9)
    for (old, after), new in ((places[:2], len(raw)), (sizes[:2], len(strip))):
        at = raw.rindex(struct.pack("<II", old, after))
        raw[at : at + 4] = struct.pack("<I", new)
    path.write_bytes(bytes(raw) + strip)


def ingesting(folder: str) -> Callable[[], str]:
    """Ingest a small picture, and then the other; the answer is by how much the process that decodes has grown."""
    swath.ingest(f"{folder}/small", f"{folder}/small.zarr", window=1, progress=False)
    (child,) = image_processes()._idle
    proc = Path(f"/proc/{child.process.pid}")
    (proc / "clear_refs").write_text("5")
    before = _memory(proc, "VmRSS")

    def call() -> str:
        try:
            swath.ingest(f"{folder}/in", f"{folder}/a.zarr", window=1, progress=False)
        except swath.SwathError as error:
            return f"{_memory(proc, 'VmHWM') - before} {error}"
        return f"{_memory(proc, 'VmHWM') - before} ok"

    return call


def _memory(proc: Path, field: str) -> int:
    lines = (proc / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


PICTURES: dict[str, Callable[[], bytes]] = {
    "sound": lambda: _png(_PIXELS + _SIDE),
    "pixels": lambda: _png(_BOMB),
    "profile": lambda: _png(_PIXELS + _SIDE, _chunk(b"iCCP", b"a\0\0" + _inflating(_BOMB))),
    "text": lambda: _png(_PIXELS + _SIDE, _chunk(b"zTXt", b"a\0\0" + _inflating(_BOMB))),
}


@pytest.mark.parametrize("kind", [*PICTURES, "sound tiff", "strip of tiff"])
def test_a_picture_that_inflates_to_gigabytes_takes_the_memory_of_its_pixels(tmp_path: Path, kind: str) -> None:
    for folder in ("in", "small"):
        (tmp_path / folder).mkdir()
    if kind in PICTURES:
        path = tmp_path / "in" / "a.png"
        path.write_bytes(PICTURES[kind]())
        Image.new("L", (64, 64)).save(tmp_path / "small" / "a.png")
    else:
        path = tmp_path / "in" / "a.tif"
        _tiff(path)
        Image.new("L", (64, 64)).save(tmp_path / "small" / "a.tif", compression="tiff_adobe_deflate")
        if kind == "strip of tiff":
            _swell(path)
    (result,) = run("hostile.test_bombs:ingesting", [[str(tmp_path)]])
    assert result.outcome == "ok", result
    growth, _, end = result.text.partition(" ")
    assert end.startswith("ok") or "MAX_TEXT_CHUNK" in end, result
    assert int(growth) < 1.1 * _PIXELS + path.stat().st_size + _FIXED, result
