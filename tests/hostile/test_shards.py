"""Chunks that decode to more than the metadata say take no more memory than was planned; an index that lies is damage."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from oracle import assert_same
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

import swath
from hostile.harness import run
from hostile.metadata import ROWS
from hostile.shards import bomb, zstd_stream
from swath.checksum import crc32c
from swath.errors import DamagedStoreError

# Of a declared chunk: 4 MB; and what bombs hold.
_SHAPE = (500, 8000)
_CHUNK = 4 * 10**6
_BOMB = 100 * 10**6

BOMBS: dict[str, dict[str, Any]] = {
    "v3 zstd": {"compressors": ZstdCodec()},
    "v3 gzip": {"compressors": GzipCodec()},
    "v2 zlib": {"compressors": numcodecs.Zlib()},
    "v2 gzip": {"compressors": numcodecs.GZip()},
    "v2 bz2": {"compressors": numcodecs.BZ2()},
    "v2 lzma": {"compressors": numcodecs.LZMA()},
    "v2 zstd": {"compressors": numcodecs.Zstd()},
    "v2 blosc": {"compressors": numcodecs.Blosc(cname="zstd")},
    "v2 lz4": {"compressors": numcodecs.LZ4()},
    "v2 zstd as a filter": {"filters": [numcodecs.Zstd()], "compressors": None},
    "v2 shuffle, zstd": {"filters": [numcodecs.Shuffle(1)], "compressors": numcodecs.Zstd()},
    "v2 delta, zlib": {"filters": [numcodecs.Delta("u1")], "compressors": numcodecs.Zlib()},
    "sharded": {
        "serializer": ShardingCodec(chunk_shape=_SHAPE, codecs=[BytesCodec(), ZstdCodec()], index_location="start"),
        "compressors": None,
    },
}


def _packed(name: str, n_bytes: int) -> bytes:
    zeros = np.zeros(n_bytes, np.uint8)
    match name.split()[1:2]:
        case ["blosc"]:
            return bytes(numcodecs.Blosc(cname="zstd").encode(zeros))
        case ["lz4"]:
            return bytes(numcodecs.LZ4().encode(zeros))
        case _:
            known = next((codec for codec in ("zlib", "gzip", "bz2", "lzma") if codec in name), "zstd")
            return bomb(known, n_bytes)


def gathering(url: str) -> Callable[[], object]:
    """Gather half of a chunk, and say what came."""
    a = swath.open(url)
    return lambda: a.gather([0], window=250).sum()


def _write_bombs(folder: Path, name: str) -> list[Path]:
    """A sound array of one chunk, and three whose chunk holds other than it should."""
    version: Any = 2 if name.startswith("v2") else 3
    sound = folder / "sound"
    a = zarr.create_array(sound, shape=_SHAPE, dtype="u1", chunks=_SHAPE, zarr_format=version, **BOMBS[name])
    a[:] = np.random.default_rng(0).integers(0, 4, _SHAPE, "u1")
    (chunk,) = [path for path in sound.rglob("*0") if path.is_file()]
    cases = [sound]
    for n_bytes in (_BOMB, _CHUNK + 1, _CHUNK - 1):
        cases.append(shutil.copytree(sound, folder / str(n_bytes)))
        packed = _packed(name, n_bytes)
        if name == "sharded":
            index = (20).to_bytes(8, "little") + len(packed).to_bytes(8, "little")
            packed = index + crc32c(index).to_bytes(4, "little") + packed
        (cases[-1] / chunk.relative_to(sound)).write_bytes(packed)
    return cases


def test_bombs_take_no_more_memory_than_is_planned_for_their_chunk(tmp_path: Path) -> None:
    cases = [case for name in BOMBS for case in _write_bombs(tmp_path / name, name)]
    for result in run("hostile.test_shards:gathering", [[str(case)] for case in cases]):
        case = Path(result.case[0])
        assert result.outcome == ("ok" if case.name == "sound" else "typed error"), result
        assert case.name == "sound" or "DamagedStoreError" in result.text
        planned = swath.open(case).plan([0], window=250).peak_bytes
        assert result.growth < planned < _BOMB, result


def test_streams_of_zstd_that_do_not_say_their_size_are_read(tmp_path: Path) -> None:
    """As tensorstore and others write them: alone, and under a checksum, where nobody knows how much it is."""
    chains: dict[str, Any] = {"last": [ZstdCodec()], "first": [Crc32cCodec(), ZstdCodec()]}
    for name, compressors in chains.items():
        a = zarr.create_array(tmp_path / name, shape=(10, 1000), dtype="u1", chunks=(10, 1000), compressors=compressors)
        a[:] = 1
        body = bytes(10_000) if name == "last" else b""
        (chunk,) = [path for path in (tmp_path / name).rglob("0") if path.is_file()]
        if name == "last":
            chunk.write_bytes(zstd_stream(len(body)))
            assert_same(swath.open(tmp_path / name).gather([3], window=2), np.zeros((1, 2, 1000), "u1"))
        else:
            chunk.write_bytes(zstd_stream(10_004))  # zeros have another checksum
            with pytest.raises(DamagedStoreError, match="wrong checksum"):
                swath.open(tmp_path / name).gather([3], window=2)


def test_very_many_members_that_hold_nothing_take_no_time(tmp_path: Path) -> None:
    a = zarr.create_array(tmp_path / "a", shape=_SHAPE, dtype="u1", chunks=_SHAPE, compressors=GzipCodec())
    a[:] = 1
    (chunk,) = [path for path in (tmp_path / "a").rglob("0") if path.is_file()]
    chunk.write_bytes(bomb("many", 0))
    begin = time.process_time()
    with pytest.raises(DamagedStoreError, match="decodes to 0 bytes"):
        swath.open(tmp_path / "a").gather([0], window=2)
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_an_index_of_ours_whose_chunks_trade_places_is_damage(tmp_path: Path, codec: Any) -> None:
    """Each has a sound checksum, and so has the index."""
    swath.ingest(ROWS, tmp_path / "a", codec=codec, chunk_rows=4, shard_rows=40, progress=False)
    shard = tmp_path / "a" / "c.0.0"
    content = shard.read_bytes()
    index = np.frombuffer(content, "<u8", 20).reshape(-1, 2).copy()
    index[[5, 6]] = index[[6, 5]]
    body = index.tobytes()
    shard.write_bytes(body + crc32c(body).to_bytes(4, "little") + content[164:])
    a = swath.open(tmp_path / "a")
    with pytest.raises(DamagedStoreError, match="does not lie where swath writes it"):
        a.gather([18], window=5)
    assert not a.verify(progress=False)
    assert_same(a.gather([3], window=5)[0], ROWS[3:8])
