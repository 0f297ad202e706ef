"""Shards whose index or stamp lies, with its checksum made right again; chunks that decode to far more or less; no file at all.

The metadata are sound, so that an answer must be the rows that were written: but for chunks without a checksum, of which another
program may have changed the bytes. There an answer is compared with that of zarr-python.
"""

import bz2
import gzip
import lzma
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

import swath
from hostile.corpora import Corpus
from hostile.harness import Wrong
from hostile.metadata import ROWS, WINDOW, no_file, read_by_swath, read_by_zarr, reads_ours
from hostile.mutations import Rng, mutate_bytes, pick
from swath.checksum import crc32c
from swath.errors import SwathError

_SHARD_CHUNKS = 10
_INDEX_BYTES = _SHARD_CHUNKS * 16 + 4
_STAMP_BYTES = 20

OURS: list[Literal["raw", "zstd"]] = ["raw", "zstd"]
SHARDED = ["at the end", "at the start"]
CODECS: dict[str, dict[str, Any]] = {
    "v3 zstd": {"compressors": ZstdCodec()},
    "v3 gzip": {"compressors": GzipCodec()},
    "v3 blosc lz4": {"compressors": BloscCodec(cname="lz4")},
    "v3 blosc zstd": {"compressors": BloscCodec(cname="zstd", shuffle="bitshuffle")},
    "v3 gzip, crc32c": {"compressors": [GzipCodec(), Crc32cCodec()]},
    "v3 raw": {"compressors": None},
    "v2 zlib": {"compressors": numcodecs.Zlib()},
    "v2 gzip": {"compressors": numcodecs.GZip()},
    "v2 bz2": {"compressors": numcodecs.BZ2()},
    "v2 lzma": {"compressors": numcodecs.LZMA()},
    "v2 lz4": {"compressors": numcodecs.LZ4()},
    "v2 zstd": {"compressors": numcodecs.Zstd()},
    "v2 blosc blosclz": {"compressors": numcodecs.Blosc(cname="blosclz")},
    "v2 blosc zlib": {"compressors": numcodecs.Blosc(cname="zlib")},
    "v2 shuffle, zlib": {"filters": [numcodecs.Shuffle(4)], "compressors": numcodecs.Zlib()},
    "v2 gzip as a filter": {"filters": [numcodecs.GZip()], "compressors": numcodecs.LZ4()},
    "v2 delta, zlib": {"filters": [numcodecs.Delta("<i4")], "compressors": numcodecs.Zlib()},
}


def write_sound(folder: Path) -> None:
    """The arrays that are broken."""
    for codec in OURS:
        swath.ingest(ROWS, folder / codec, codec=codec, window=WINDOW, chunk_rows=4, shard_rows=40, progress=False)
    locations: list[Literal["end", "start"]] = ["end", "start"]
    for name, location in zip(SHARDED, locations, strict=True):
        sharding = ShardingCodec(
            chunk_shape=(4, 6), codecs=[zarr.codecs.BytesCodec(), GzipCodec()], index_location=location
        )
        zarr.create_array(folder / name, data=ROWS, chunks=(40, 6), serializer=sharding, compressors=None)
    for name, options in CODECS.items():
        version: Any = int(name[1])
        zarr.create_array(folder / name, data=ROWS, chunks=(40, 6), zarr_format=version, **options)


def _chunks(url: Path) -> list[Path]:
    """The files that are no metadata."""
    return sorted(
        path for path in url.rglob("*") if path.is_file() and not path.name.startswith(".") and path.suffix != ".json"
    )


def make(folder: str, kind: str, seed: int) -> Path:
    """The array of a seed; the last one of this process goes."""
    rng = np.random.default_rng([seed, 8])
    url = Path(folder) / f"try-{os.getpid()}"
    shutil.rmtree(url, ignore_errors=True)
    shutil.copytree(Path(folder) / kind, url)
    path = pick(rng, _chunks(url))
    if rng.random() < 0.05:
        no_file(path, rng)
        return url
    content = path.read_bytes()
    if kind in CODECS:
        path.write_bytes(_bomb(kind, content, rng) if rng.random() < 0.3 else mutate_bytes(content, rng))
    elif kind in OURS and rng.random() < 0.3:
        path.write_bytes(_with_other_stamp(content, rng))
    else:
        path.write_bytes(_with_other_index(content, at_end=kind == "at the end", rng=rng))
    return url


def _with_other_index(content: bytes, *, at_end: bool, rng: Rng) -> bytes:
    begin = len(content) - _INDEX_BYTES if at_end else 0
    index = np.frombuffer(content, "<u8", 2 * _SHARD_CHUNKS, begin).reshape(-1, 2).copy()
    for _ in range(int(rng.integers(1, 4))):
        k, field = int(rng.integers(_SHARD_CHUNKS)), int(rng.integers(2))
        value = int(index[k, field])
        size = len(content)
        edges = [2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8]
        numbers = [0, 1, value + 1, max(0, value - 1), value // 2, size, size - 1, size + 1, *edges]
        match int(rng.integers(4)):
            case 0:
                index[k] = index[int(rng.integers(_SHARD_CHUNKS))]
            case 1:
                index = index[rng.permutation(_SHARD_CHUNKS)]
            case 2:
                index[k] = pick(rng, numbers) % 2**64, pick(rng, numbers) % 2**64
            case _:
                index[k, field] = pick(rng, numbers) % 2**64
    body = index.tobytes()
    changed = body + crc32c(body).to_bytes(4, "little")
    return content[:begin] + changed + content[begin + _INDEX_BYTES :]


def _with_other_stamp(content: bytes, rng: Rng) -> bytes:
    stamp = bytearray(content[_INDEX_BYTES : _INDEX_BYTES + _STAMP_BYTES - 4])
    if rng.random() < 0.5:
        at = 4 * int(rng.integers(4))
        stamp[at : at + 4] = pick(rng, [0, 1, 2, 41, 2**31, 2**32 - 1]).to_bytes(4, "little")
    else:
        stamp[int(rng.integers(len(stamp)))] ^= 1 << int(rng.integers(8))
    return (
        content[:_INDEX_BYTES]
        + bytes(stamp)
        + crc32c(stamp).to_bytes(4, "little")
        + content[_INDEX_BYTES + _STAMP_BYTES :]
    )


def _bomb(kind: str, content: bytes, rng: Rng) -> bytes:
    n_bytes = pick(rng, [0, 1, 40 * 6 * 4 - 1, 40 * 6 * 4 + 1, 40 * 6 * 8, 10**6, 2 * 10**8])
    return (
        bomb(next((name for name in ("zlib", "gzip", "bz2", "lzma", "zstd") if name in kind), ""), n_bytes)
        or content[:-1]
    )


def zstd_stream(n_bytes: int) -> bytes:
    """A frame of zstd that does not say how much it holds: blocks of one repeated byte (RFC 8878, 3.1.1.2)."""
    whole, rest = divmod(n_bytes, 2**17)
    blocks = [2**17] * whole + [rest] * bool(rest) or [0]
    frame = bytearray(b"\x28\xb5\x2f\xfd\x00" + bytes([7 << 3]))
    for k, size in enumerate(blocks):
        frame += (int(k == len(blocks) - 1) | 1 << 1 | size << 3).to_bytes(3, "little") + b"\0"
    return bytes(frame)


def bomb(codec: str, n_bytes: int) -> bytes:
    """So many zeros, in few bytes, as a codec writes them; nothing for a codec that is not known here."""
    zeros = bytes(min(n_bytes, 2**20))
    times, rest = divmod(n_bytes, 2**20)
    parts = [zeros] * times + [bytes(rest)]
    match codec:
        case "zlib" | "gzip":
            packer = zlib.compressobj(wbits=31 if codec == "gzip" else 15)
            return b"".join([*map(packer.compress, parts), packer.flush()])
        case "bz2":
            packing = bz2.BZ2Compressor()
            return b"".join([*map(packing.compress, parts), packing.flush()])
        case "lzma":
            squeezing = lzma.LZMACompressor()
            return b"".join([*map(squeezing.compress, parts), squeezing.flush()])
        case "zstd":
            return zstd_stream(n_bytes)
        case "many":  # members of gzip that hold nothing
            return gzip.compress(b"") * 50_000
        case _:
            return b""


def through_swath(folder: str, kind: str, seed: int) -> Callable[[], str]:
    """Open and gather; a store is verified too."""
    url = make(folder, kind, seed)

    def call() -> str:
        sound = bool(swath.open(url).verify(progress=False)) if kind in OURS and seed % 3 == 0 else None
        try:
            found = read_by_swath(url)
        except SwathError as error:
            if sound:
                raise Wrong(f"verify says that all is sound, and gather: {error}") from None
            raise
        if kind in OURS:
            reads_ours(found)
        return found

    return call


def through_zarr(folder: str, kind: str, seed: int) -> Callable[[], str]:
    """Open and read the same windows."""
    url = make(folder, kind, seed)
    return lambda: read_by_zarr(url)


def _corpus(kind: str, group: str) -> Corpus:
    return Corpus(
        name=f"{group}, {kind}",
        kind=kind,
        prepare=write_sound,
        entries={"swath": "hostile.shards:through_swath", "zarr-python": "hostile.shards:through_zarr"},
        oracle=None if kind in OURS else "zarr-python",
    )


CORPORA = [_corpus(kind, "shards") for kind in [*OURS, *SHARDED]] + [_corpus(kind, "chunks") for kind in CODECS]
