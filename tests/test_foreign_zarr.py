"""Any Zarr array opens, whoever wrote it: every gather is one line of numpy over what zarr-python reads."""

import importlib.util
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.abc
import numpy as np
import pytest
import zarr
import zarr.abc.codec
import zarr.registry
from foreign import (
    BYTES_CODECS,
    CHECKED,
    PARTS,
    RECORD,
    STARTS,
    V2_COMPRESSORS,
    V2_DTYPES,
    WINDOW,
    Drawn,
    Json,
    Request,
    Rows,
    check,
    check_any,
    codec,
    sharded,
    tensorstores,
    write_tensorstore,
    write_zarr,
    zarr_v2,
    zarr_v3,
)
from hypothesis import strategies as st
from oracle import assert_same, expected
from test_gather_model import random_array
from zarr.codecs import ShardingCodec

import swath
from swath.errors import (
    DamagedStoreError,
    FormatError,
    MemoryLimitError,
    StoreNotFoundError,
    SwathError,
)

ROWS = np.random.default_rng(0).integers(0, 1000, (60, 6, 6)).astype("i4")
FLOATS = (ROWS / 4).astype("f8")
GRID = (8, 4, 6)
BYTES = codec("bytes", endian="little")
GZIP = codec("gzip", level=1)


def _check_zarr(url: Path, rows: Rows, request: Request = Request(), **options: Any) -> None:  # noqa: B008
    check(url, write_zarr(url, rows, **{"chunks": GRID[: rows.ndim], "compressors": None, **options}), request)


@pytest.mark.parametrize("arrays", [zarr_v3, zarr_v2, tensorstores])
def test_any_array_is_one_line_of_numpy(arrays: Callable[[], st.SearchStrategy[Drawn]]) -> None:
    check_any(arrays())


# --- Version 3


@pytest.mark.parametrize("name", BYTES_CODECS)
def test_v3_codecs(tmp_path: Path, name: str) -> None:
    _check_zarr(tmp_path / "a", ROWS, compressors=[BYTES_CODECS[name]])


V3_FILTERS: dict[str, tuple[Rows, list[Json]]] = {
    "transpose-reversed": (ROWS, [codec("transpose", order=[2, 1, 0])]),
    "transpose-cycled": (ROWS, [codec("transpose", order=[2, 0, 1])]),
    "transpose-twice": (ROWS, [codec("transpose", order=[2, 0, 1]), codec("transpose", order=[1, 0, 2])]),
    "transpose-rows-stay": (ROWS, [codec("transpose", order=[0, 2, 1])]),
    "delta": (ROWS, [codec("numcodecs.delta", dtype="<i4")]),
    "delta-astype": (ROWS, [codec("numcodecs.delta", dtype="<i4", astype="<i8")]),
    "fixed-scale-offset": (
        FLOATS,
        [codec("numcodecs.fixedscaleoffset", dtype="<f8", astype="<i4", scale=4, offset=3)],
    ),
    "astype": (ROWS, [codec("numcodecs.astype", encode_dtype="<i2", decode_dtype="<i4")]),
    "quantize": (FLOATS, [codec("numcodecs.quantize", digits=1, dtype="<f8")]),
    "quantize-astype": (FLOATS, [codec("numcodecs.quantize", digits=1, dtype="<f8", astype="<f8")]),
    "bitround": (FLOATS, [codec("numcodecs.bitround", keepbits=5)]),
    "delta-then-astype": (
        ROWS,
        [codec("numcodecs.delta", dtype="<i4"), codec("numcodecs.astype", encode_dtype="<i2", decode_dtype="<i4")],
    ),
    "packbits": (ROWS > 500, [codec("numcodecs.packbits")]),
    "scale-offset": (FLOATS, [codec("scale_offset", offset=5, scale=2)]),
    "transpose-then-delta": (ROWS, [codec("transpose", order=[1, 2, 0]), codec("numcodecs.delta", dtype="<i4")]),
}


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("name", V3_FILTERS)
def test_v3_filters(tmp_path: Path, name: str, endian: str) -> None:
    rows, filters = V3_FILTERS[name]
    _check_zarr(tmp_path / "a", rows, filters=filters, serializer=codec("bytes", endian=endian), compressors=[GZIP])


SHARDS: dict[str, Json] = {
    "whole-rows": {"serializer": sharded((2, 4, 6))},
    "index-at-the-start": {"serializer": sharded((2, 4, 6), location="start")},
    "index-without-checksum": {"serializer": sharded((2, 2, 6), index=[BYTES])},
    "index-big-endian": {"serializer": sharded((2, 2, 6), index=[codec("bytes", endian="big"), codec("crc32c")])},
    "not-whole-rows": {"serializer": sharded((4, 1, 3))},
    "one-inner-chunk": {"serializer": sharded(GRID)},
    "columns": {"serializer": sharded((8, 1, 2), location="start")},
    "compressed-within": {"serializer": sharded((2, 2, 6), [BYTES, GZIP, codec("crc32c")])},
    "transposed-within": {"serializer": sharded((2, 2, 6), [codec("transpose", order=[2, 0, 1]), BYTES])},
    "transposed-around": {
        "filters": [codec("transpose", order=[2, 1, 0])],
        "chunks": (6, 6, 6),
        "serializer": sharded((3, 2, 6)),
    },
    "delta-within": {"serializer": sharded((2, 2, 6), [codec("numcodecs.delta", dtype="<i4"), BYTES, GZIP])},
    "big-endian-within": {"serializer": sharded((2, 2, 6), [codec("bytes", endian="big")])},
    "shards-within-shards": {"serializer": sharded((4, 4, 3), [sharded((2, 2, 3), [BYTES, GZIP], location="start")])},
    "compressed-around": {"serializer": sharded((2, 2, 6)), "compressors": [GZIP]},
    "checksum-around": {"serializer": sharded((2, 2, 6)), "compressors": [codec("crc32c")]},
    "larger-than-the-array": {"chunks": (64, 8, 8), "serializer": sharded((4, 4, 4))},
}


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("parts", ["whole", "some"])
def test_v3_shards(tmp_path: Path, name: str, parts: str) -> None:
    options = {"chunks": GRID, "compressors": None, "fill_value": -7, **SHARDS[name]}
    rows = write_zarr(tmp_path / "a", ROWS, parts=PARTS[parts], **options)
    check(tmp_path / "a", rows, Request(columns=None if parts == "whole" else [5, 0, 3]))


@pytest.mark.parametrize("order", ["morton", "unordered", "lexicographic", "colexicographic"])
def test_v3_shards_hold_their_chunks_in_any_order(tmp_path: Path, order: Any) -> None:
    serializer = ShardingCodec(chunk_shape=(2, 2, 6), subchunk_write_order=order)
    _check_zarr(tmp_path / "a", ROWS, serializer=serializer)


@pytest.mark.parametrize("name", ["default", "v2"])
@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("ndim", [1, 3])
def test_v3_chunk_keys(tmp_path: Path, name: str, separator: str, ndim: int) -> None:
    _check_zarr(tmp_path / "a", ROWS[:, 0, 0] if ndim == 1 else ROWS, chunk_key_encoding=_keys(name, separator))


def _keys(name: str, separator: str) -> Json:
    return {"name": name, "separator": separator}


# --- Version 2


@pytest.mark.parametrize("name", V2_COMPRESSORS)
def test_v2_compressors(tmp_path: Path, name: str) -> None:
    _check_zarr(tmp_path / "a", ROWS, zarr_format=2, compressors=V2_COMPRESSORS[name])


V2_FILTERS: dict[str, tuple[Rows, list[Json]]] = {
    "delta": (ROWS, [{"id": "delta", "dtype": "<i4"}]),
    "delta-big-endian": (ROWS.astype(">i4"), [{"id": "delta", "dtype": ">i4"}]),
    "delta-astype": (ROWS, [{"id": "delta", "dtype": "<i4", "astype": "<i8"}]),
    "fixed-scale-offset": (
        FLOATS,
        [{"id": "fixedscaleoffset", "dtype": "<f8", "astype": "<i2", "scale": 4, "offset": 3}],
    ),
    "astype": (ROWS, [{"id": "astype", "encode_dtype": "<i2", "decode_dtype": "<i4"}]),
    "quantize": (FLOATS, [{"id": "quantize", "digits": 1, "dtype": "<f8"}]),
    "bitround": (FLOATS, [{"id": "bitround", "keepbits": 5}]),
    "packbits": (ROWS > 500, [{"id": "packbits"}]),
    "shuffle": (ROWS, [{"id": "shuffle", "elementsize": 4}]),
    "crc32": (ROWS, [{"id": "crc32"}]),
    "fletcher32": (ROWS, [{"id": "fletcher32"}]),
    "delta-then-shuffle": (ROWS, [{"id": "delta", "dtype": "<i4"}, {"id": "shuffle", "elementsize": 4}]),
}


@pytest.mark.parametrize("name", V2_FILTERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_v2_filters(tmp_path: Path, name: str, order: str) -> None:
    rows, filters = V2_FILTERS[name]
    _check_zarr(
        tmp_path / "a", rows, zarr_format=2, filters=filters, order=order, compressors={"id": "zlib", "level": 1}
    )


GROWN: dict[str, tuple[str, list[Json], Json | None]] = {
    "bits": ("?", [{"id": "packbits"}], V2_COMPRESSORS["blosc-lz4-1"]),
    "twice": ("u1", [{"id": "gzip", "level": 1}], {"id": "gzip", "level": 1}),
    "checksums": ("u1", [{"id": "crc32"}, {"id": "adler32"}, {"id": "fletcher32"}], V2_COMPRESSORS["lzma"]),
    "wider": ("u1", [{"id": "fixedscaleoffset", "dtype": "|u1", "astype": "<f8", "scale": 1, "offset": 0}], None),
    "wider-and-stored": (
        "u1",
        [{"id": "fixedscaleoffset", "dtype": "|u1", "astype": "<f8", "scale": 1, "offset": 0}],
        {"id": "zlib", "level": 0},
    ),
    "text": ("u1", [{"id": "base64"}, {"id": "base64"}], {"id": "base64"}),
}


@pytest.mark.parametrize("name", GROWN)
@pytest.mark.parametrize("n_columns", [1, 5000])
def test_v2_chunks_that_grow_as_they_are_encoded(tmp_path: Path, name: str, n_columns: int) -> None:
    """There is no telling how long an encoded chunk may be: of one byte it is many times as long."""
    dtype, filters, compressor = GROWN[name]
    rows = random_array((20, n_columns), dtype, 0)
    _check_zarr(
        tmp_path / "a",
        rows,
        Request([0, 3, 3], 5),
        zarr_format=2,
        chunks=(1, n_columns),
        filters=filters,
        compressors=compressor,
    )


@pytest.mark.parametrize("name", sorted({*BYTES_CODECS} - {"numcodecs-shuffle"}))
def test_v3_chunks_that_grow_as_they_are_encoded(tmp_path: Path, name: str) -> None:
    rows = random_array((10,), "u1", 0)
    chain = [BYTES_CODECS[name]] * 3
    _check_zarr(tmp_path / "a", rows, Request([0, 3, 3], 5), chunks=(1,), compressors=chain)
    shards = sharded((1,), [codec("bytes"), *chain])
    _check_zarr(tmp_path / "b", rows, Request([0, 3, 3], 5), chunks=(5,), serializer=shards)


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("ndim", [1, 3])
def test_v2_chunk_keys(tmp_path: Path, separator: str, ndim: int) -> None:
    rows = ROWS[:, 0, 0] if ndim == 1 else ROWS
    _check_zarr(tmp_path / "a", rows, zarr_format=2, chunk_key_encoding=_keys("v2", separator))


def test_v2_metadata_of_other_writers(tmp_path: Path) -> None:
    """Without the keys that are optional; attributes beside, and a copy consolidated in the group above."""
    rows = write_zarr(tmp_path / "group" / "a", ROWS, zarr_format=2, chunks=GRID)
    metadata = json.loads((tmp_path / "group" / "a" / ".zarray").read_text())
    del metadata["dimension_separator"]
    (tmp_path / "group" / "a" / ".zarray").write_text(json.dumps(metadata))
    (tmp_path / "group" / "a" / ".zattrs").write_text('{"swath": "a word of theirs"}')
    (tmp_path / "group" / ".zgroup").write_text('{"zarr_format": 2}')
    check(tmp_path / "group" / "a", rows)


# --- Both versions


@pytest.mark.parametrize("dtype", [*V2_DTYPES, RECORD], ids=str)
@pytest.mark.parametrize("version", [2, 3])
def test_dtypes(tmp_path: Path, dtype: Any, version: int) -> None:
    """None of them warns, though zarr-python warns of those that have no final specification."""
    rows = random_array((60, 5), dtype, 0)
    _check_zarr(tmp_path / "a", rows, zarr_format=version, parts=[slice(0, 40)])


CHUNKS: dict[str, tuple[int, ...]] = {
    "whole-rows": (13, 9, 5),
    "whole-array": (60, 9, 5),
    "larger": (100, 10, 7),
    "ragged": (7, 4, 3),
    "single-rows": (1, 9, 5),
    "single-columns": (60, 1, 5),
    "long-and-thin": (59, 1, 2),
}


@pytest.mark.parametrize("grid", CHUNKS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_chunk_grids(tmp_path: Path, grid: str, ndim: int) -> None:
    chunks = CHUNKS[grid][:ndim]
    rows = write_zarr(tmp_path / "a", random_array((60, 9, 5)[:ndim], "f4", 0), chunks=chunks)
    a = check(tmp_path / "a", rows)
    assert a.chunk_rows in (chunks[0], min(chunks[0], 60))
    if ndim > 1:
        check(tmp_path / "a", rows, Request(columns=slice(7, 1, -2)))


def test_windows_of_many_reads(tmp_path: Path) -> None:
    """Wide rows and long arrays: more of everything than one read, one thread or one buffer takes."""
    wide = write_zarr(tmp_path / "wide", random_array((60, 20_000), "f8", 0), chunks=(7, 3000))
    check(tmp_path / "wide", wide, Request(columns=[19_999, 0, 2999, 3000]))
    check(tmp_path / "wide", wide)
    tiled = write_zarr(
        tmp_path / "tiled",
        np.random.default_rng(0).normal(size=(3000, 300)).round(1),
        chunks=(1000, 300),
        serializer=sharded((50, 20), [BYTES, BYTES_CODECS["zstd"]]),
        compressors=None,
    )
    check(tmp_path / "tiled", tiled, Request([0, 2984, 990, 1500, 40, 2000, 5]))
    check(tmp_path / "tiled", tiled, Request([0, 2984, 990, 1500, 40, 2000, 5], columns=[299, 20, 19, 100]))
    long = write_zarr(tmp_path / "long", random_array((300_000, 2), "i2", 0), chunks=(1000, 1), zarr_format=2)
    starts = np.random.default_rng(0).integers(0, 300_000 - 15, 5000)
    a = swath.open(tmp_path / "long")
    assert_same(a.gather(starts), long[starts[:, None] + np.arange(16)])
    assert_same(a.gather(starts, window=1, columns=[1]), long[starts[:, None]][:, :, [1]])


FILLS: dict[str, tuple[str, Any]] = {
    "zero": ("i4", 0),
    "minus-one": ("i4", -1),
    "largest": ("u8", 2**64 - 1),
    "true": ("?", True),
    "nan": ("f8", np.nan),
    "minus-zero": ("f8", -0.0),
    "infinity": ("f2", -np.inf),
    "complex": ("c8", complex(1, np.nan)),
    "big-endian": (">f8", -1.5),
    "not-a-time": ("M8[s]", np.datetime64("NaT", "s")),
    "text": ("S3", b"ab"),
}


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("version", [2, 3])
def test_missing_chunks_are_the_fill_value(tmp_path: Path, name: str, version: int) -> None:
    dtype, fill = FILLS[name]
    rows = random_array((60, 6), dtype, 1)
    read = write_zarr(tmp_path / "a", rows, chunks=(8, 4), parts=PARTS["some"], fill_value=fill, zarr_format=version)
    assert_same(read[24:26], np.full((2, 6), fill, read.dtype))
    check(tmp_path / "a", read)


def test_a_fill_value_of_any_bits(tmp_path: Path) -> None:
    """Version 3 can say which of the many NaNs it is."""
    url = _array(tmp_path, rows=FLOATS, parts=PARTS["some"], fill_value=np.nan)
    _edited(url, lambda metadata: metadata.update(fill_value="0x7ff8000000012345"))
    rows = np.asarray(zarr.open_array(url)[...])
    assert rows.view("u8")[44, 0, 0] == 0x7FF8000000012345
    check(url, rows)


@pytest.mark.parametrize("dtype", ["f8", ">i2", "?", "S3", "M8[s]"])
def test_v2_without_a_fill_value(tmp_path: Path, dtype: str) -> None:
    _check_zarr(tmp_path / "a", random_array((60, 6), dtype, 1), zarr_format=2, fill_value=None, parts=PARTS["some"])
    assert json.loads((tmp_path / "a" / ".zarray").read_text())["fill_value"] is None


def test_a_deleted_chunk_is_the_fill_value(tmp_path: Path) -> None:
    """As Zarr says of an array that swath did not write; of a store of its own it is damage (`test_store.py`)."""
    write_zarr(tmp_path / "a", ROWS, chunks=GRID, fill_value=-1)
    (tmp_path / "a" / "c" / "1" / "0" / "0").unlink()
    rows = np.asarray(zarr.open_array(tmp_path / "a")[...])
    assert_same(rows[8:16, :4], np.full((8, 4, 6), -1, "i4"))
    check(tmp_path / "a", rows)


def test_what_was_written_after_it_was_opened_is_read(tmp_path: Path) -> None:
    rows = write_zarr(tmp_path / "a", ROWS, chunks=GRID, parts=[slice(0, 16)]).copy()
    a = swath.open(tmp_path / "a")
    assert_same(a.gather(STARTS), expected(rows, STARTS, WINDOW))
    zarr.open_array(tmp_path / "a")[16:24] = rows[16:24] = ROWS[16:24]
    assert_same(a.gather(STARTS), expected(rows, STARTS, WINDOW))


def test_metadata_in_other_words(tmp_path: Path) -> None:
    """What need not be understood; names of dimensions; and values of one byte, which need no endianness."""
    url = _array(tmp_path, serializer=codec("bytes", endian="big"), compressors=None, dimension_names=["t", None, "x"])
    _edited(url, lambda metadata: metadata.update(novelty={"name": "x", "must_understand": False}))
    check(url, ROWS)
    bytes_ = (ROWS % 251).astype("u1")
    write_zarr(tmp_path / "bytes", bytes_, chunks=GRID, compressors=None)
    _edited(tmp_path / "bytes", lambda metadata: metadata.update(codecs=[{"name": "bytes"}]))
    check(tmp_path / "bytes", bytes_)


def test_an_array_within_a_group(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g", zarr_format=2)
    group.create_array("deep/er", data=ROWS, chunks=GRID)
    zarr.consolidate_metadata(tmp_path / "g")
    check(tmp_path / "g" / "deep" / "er", ROWS)


def test_an_array_that_has_grown_and_one_that_has_shrunk(tmp_path: Path) -> None:
    for name, n_rows in {"grown": 75, "shrunk": 50}.items():
        write_zarr(tmp_path / name, ROWS, chunks=GRID, fill_value=3)
        array = zarr.open_array(tmp_path / name)
        array.resize((n_rows, 5, 6))
        check(tmp_path / name, np.asarray(array[...]), Request([0, 34, 20], columns=slice(1, 4)))


def test_the_window_of_a_handle(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a", ROWS, chunks=GRID)
    a = swath.open(tmp_path / "a")
    assert a.window == 16
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 16))
    a = swath.open(tmp_path / "a", window=3)
    assert a.window == 3
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 3))
    assert_same(swath.compute(a.windows(STARTS)), expected(ROWS, STARTS, 3))
    assert a.plan(STARTS).batch_shape == (len(STARTS), 3, 6, 6)


def test_the_rows_of_an_inner_chunk_are_those_of_the_array(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a", ROWS, chunks=GRID, serializer=sharded((2, 4, 6)), compressors=None)
    assert swath.open(tmp_path / "a").chunk_rows == 2


def test_unlike_ways_to_write_one_array_agree(tmp_path: Path) -> None:
    """Tensorstore's own spelling of each format, of records and of what it leaves out."""
    v2 = {"zarr_format": 2, "dtype": RECORD.descr, "shape": [60], "chunks": [7], "order": "C", "filters": None}
    records = random_array((60,), RECORD, 0)
    spec = {"compressor": {"id": "zstd", "level": 1}, "fill_value": None, **v2}
    fields = [list(field) for field in RECORD.descr]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / ".zarray").write_text(json.dumps(spec | {"dtype": fields}))
    array = zarr.open_array(tmp_path / "records", mode="r+")
    array[...] = records
    check(tmp_path / "records", np.asarray(array[...]))
    v3 = {
        "shape": [60, 6, 6],
        "data_type": "int32",
        "chunk_grid": codec("regular", chunk_shape=[16, 4, 6]),
        "codecs": [sharded((4, 2, 6), [codec("transpose", order=[2, 1, 0]), BYTES, GZIP], location="start")],
        "fill_value": -1,
    }
    check(tmp_path / "v3", write_tensorstore(tmp_path / "v3", ROWS, v3, parts=PARTS["some"]))


# --- Codecs of others, and how often they are called


class _Decodes:
    """How often each chunk was decoded since `clear`: a chunk is known by its bytes, of which all differ."""

    def __init__(self) -> None:
        self.of: Counter[bytes] = Counter()
        self.lock = threading.Lock()

    def add(self, chunk: bytes) -> None:
        with self.lock:
            self.of[chunk] += 1


DECODES = _Decodes()


class Counting(numcodecs.abc.Codec):  # type: ignore[misc]
    """A codec of version 2 that leaves bytes as they are, and counts."""

    codec_id = "swath-test-counting"

    def encode(self, buf: Any) -> bytes:
        return bytes(np.ascontiguousarray(buf).data)

    def decode(self, buf: Any, out: Any = None) -> Any:
        DECODES.add(bytes(np.ascontiguousarray(buf).data))
        return numcodecs.compat.ndarray_copy(np.frombuffer(buf, "u1"), out)


@dataclass(frozen=True)
class CountingV3(zarr.abc.codec.BytesBytesCodec):
    """The same, as a codec of version 3 that somebody has registered with zarr-python."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CountingV3":
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return codec("swath-test-counting")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        return input_byte_length

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        DECODES.add(chunk_data.to_bytes())
        return chunk_data

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return chunk_data


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Callable[[str], tuple[swath.RowArray, Rows]]]:
    """Writes (60, 6, 6) rows in chunks of (4, 2, 6), of which all differ, and counts from then on."""
    numcodecs.registry.register_codec(Counting)
    zarr.registry.register_codec("swath-test-counting", CountingV3)
    rows = np.arange(60 * 6 * 6).reshape(60, 6, 6)
    chunks = (4, 2, 6)
    options: dict[str, Json] = {
        "v2": {"zarr_format": 2, "chunks": chunks, "compressors": Counting()},
        "v2-then-zlib": {
            "zarr_format": 2,
            "chunks": chunks,
            "filters": [{"id": "swath-test-counting"}],
            "compressors": {"id": "zlib", "level": 1},
        },
        "v3": {"chunks": chunks, "compressors": [CountingV3()]},
        "v3-shards": {
            "chunks": (12, 4, 6),
            "serializer": sharded(chunks, [BYTES, codec("swath-test-counting")]),
            "compressors": None,
        },
    }

    def make(name: str) -> tuple[swath.RowArray, Rows]:
        write_zarr(tmp_path / name, rows, **options[name])
        a = swath.open(tmp_path / name)
        DECODES.of.clear()
        return a, rows

    yield make
    numcodecs.registry.codec_registry.pop("swath-test-counting")


COUNTED = ["v2", "v2-then-zlib", "v3", "v3-shards"]


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize(
    ("request_", "chunks"),
    [
        pytest.param(Request([0, 1, 2, 3, 3, 0], 5), 2 * 3, id="overlapping"),
        pytest.param(Request(list(range(45, -1, -1)), 15), 15 * 3, id="every-window-backwards"),
        pytest.param(Request([9, 50, 10, 11, 51], 1), 2 * 3, id="single-rows"),
        pytest.param(Request([0, 30, 5], 30, [4, 5, 4]), 15, id="columns-of-one-chunk"),
        pytest.param(Request([0, 1], 4, slice(1, 3)), 2 * 2, id="columns-of-two-chunks"),
        pytest.param(Request([], 4), 0, id="nothing"),
    ],
)
def test_each_chunk_is_decoded_once(
    counted: Callable[[str], tuple[swath.RowArray, Rows]], name: str, request_: Request, chunks: int
) -> None:
    a, rows = counted(name)
    starts, window, columns = request_
    wanted = expected(rows, starts, window)
    assert_same(a.gather(starts, window=window, columns=columns), wanted if columns is None else wanted[:, :, columns])
    assert set(DECODES.of.values()) <= {1}
    assert DECODES.of.total() == chunks


@pytest.mark.parametrize("name", COUNTED)
def test_what_cannot_fit_is_refused_before_it_is_read(
    counted: Callable[[str], tuple[swath.RowArray, Rows]], name: str
) -> None:
    a, rows = counted(name)
    with pytest.raises(MemoryLimitError, match="limit is"):
        a.gather(STARTS, memory_limit="10kB")
    with pytest.raises(MemoryLimitError, match=r"limit is 95\.37 MiB"):  # the batch alone is of 323 MB
        a.gather(STARTS * 10_000, memory_limit="100MB")
    assert not DECODES.of
    assert_same(a.gather(STARTS, memory_limit="1GiB"), expected(rows, STARTS, WINDOW))


# --- What is refused, and what is damaged


def _array(folder: Path, *, rows: Rows = ROWS, **options: Any) -> Path:
    write_zarr(folder / "rows", rows, **{"chunks": GRID, **options})
    return folder / "rows"


def _edited(url: Path, change: Callable[[Json], Any], file: str = "zarr.json") -> Path:
    metadata = json.loads((url / file).read_text())
    change(metadata)
    (url / file).write_text(json.dumps(metadata))
    return url


def _written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path.parent


def _group(folder: Path, version: int) -> Path:
    zarr.create_group(folder / "rows", zarr_format=version).create_array("x", data=ROWS)  # type: ignore[arg-type]
    return folder / "rows"


def _strings(folder: Path, version: int) -> Path:
    array = zarr.create_array(folder / "rows", shape=(5,), dtype=str, zarr_format=version)  # type: ignore[arg-type]
    array[...] = np.array(["a", "bcd", "", "é", "f"], dtype=object)
    return folder / "rows"


def _objects(folder: Path) -> Path:
    url = _array(folder, zarr_format=2)
    return _edited(url, lambda m: m.update(dtype="|O", filters=[{"id": "pickle"}], fill_value=None), ".zarray")


REFUSED: dict[str, tuple[Callable[[Path], Path], type[SwathError], str]] = {
    "nothing": (lambda f: f / "rows", StoreNotFoundError, "rows"),
    "empty-folder": (lambda f: _written(f / "rows" / "readme", ""), StoreNotFoundError, "rows"),
    "v3-group": (lambda f: _group(f, 3), SwathError, "rows.* group"),
    "v2-group": (lambda f: _group(f, 2), SwathError, "rows.* group"),
    "v3-no-json": (lambda f: _written(_array(f) / "zarr.json", "{"), FormatError, "zarr.json"),
    "v3-empty": (lambda f: _written(_array(f) / "zarr.json", ""), FormatError, "zarr.json"),
    "v3-no-object": (lambda f: _written(_array(f) / "zarr.json", "[1, 2]"), FormatError, "zarr.json"),
    "v3-no-text": (lambda f: _written(_array(f) / "zarr.json", b"\xff\xfe"), FormatError, "zarr.json"),
    "v3-deep": (lambda f: _written(_array(f) / "zarr.json", "[" * 100_000), FormatError, "zarr.json"),
    "v2-no-json": (lambda f: _written(_array(f, zarr_format=2) / ".zarray", "{"), FormatError, ".zarray"),
    "unknown-version": (lambda f: _edited(_array(f), lambda m: m.update(zarr_format=4)), FormatError, "rows"),
    "unknown-dtype": (lambda f: _edited(_array(f), lambda m: m.update(data_type="float65")), FormatError, "float65"),
    "unknown-codec": (
        lambda f: _edited(_array(f), lambda m: m["codecs"].append({"name": "zip9"})),
        FormatError,
        "zip9",
    ),
    "unknown-v2-codec": (
        lambda f: _edited(_array(f, zarr_format=2), lambda m: m.update(compressor={"id": "zip9"}), ".zarray"),
        FormatError,
        "zip9",
    ),
    "unknown-chunk-grid": (
        lambda f: _edited(_array(f), lambda m: m["chunk_grid"].update(name="hexagonal")),
        FormatError,
        "rows",
    ),
    "unknown-chunk-keys": (
        lambda f: _edited(_array(f), lambda m: m["chunk_key_encoding"].update(name="roman")),
        FormatError,
        "rows",
    ),
    "must-understand": (
        lambda f: _edited(_array(f), lambda m: m.update(novelty={"name": "x", "must_understand": True})),
        FormatError,
        "novelty",
    ),
    "storage-transformers": (
        lambda f: _edited(_array(f), lambda m: m.update(storage_transformers=[{"name": "mirror"}])),
        FormatError,
        "rows",
    ),
    "no-rows": (lambda f: _edited(_array(f), lambda m: m.update(shape=[0, 6, 6])), SwathError, r"rows.*\(0, 6, 6\)"),
    "no-shape": (lambda f: _edited(_array(f), lambda m: m.pop("shape")), FormatError, "shape"),
    "negative-shape": (lambda f: _edited(_array(f), lambda m: m.update(shape=[-1, 6, 6])), FormatError, "rows"),
    "text-shape": (lambda f: _edited(_array(f), lambda m: m.update(shape="60")), FormatError, "rows"),
    "zero-chunks": (
        lambda f: _edited(_array(f, zarr_format=2), lambda m: m.update(chunks=[0, 4, 6]), ".zarray"),
        FormatError,
        "rows",
    ),
    "zero-chunks-v3": (
        lambda f: _edited(
            _array(f), lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[0, 4, 6]), "zarr.json"
        ),
        FormatError,
        "rows",
    ),
    "unlike-dimensions": (
        lambda f: _edited(_array(f, zarr_format=2), lambda m: m.update(chunks=[8, 4]), ".zarray"),
        FormatError,
        "rows",
    ),
    "no-codecs": (lambda f: _edited(_array(f), lambda m: m.update(codecs=[])), FormatError, "rows"),
    "v3-strings": (lambda f: _strings(f, 3), SwathError, "rows.*(?i:string|object)"),
    "v2-strings": (lambda f: _strings(f, 2), SwathError, "rows.*(?i:string|object)"),
    "v2-objects": (_objects, SwathError, "rows.*(object|pickle)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_array_of_rows_is_refused(tmp_path: Path, name: str) -> None:
    make, error, message = REFUSED[name]
    url = make(tmp_path)
    with pytest.raises(error, match=message):
        swath.open(url)


def test_a_single_value_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "rows", shape=(), dtype="f8")
    with pytest.raises(SwathError, match=r"rows.*(single value|shape \(\))"):
        swath.open(tmp_path / "rows")


@pytest.mark.skipif(importlib.util.find_spec("pcodec") is not None, reason="its package is installed")
def test_a_codec_whose_package_is_missing_is_refused(tmp_path: Path) -> None:
    url = _array(tmp_path, compressors=None)
    _edited(url, lambda metadata: metadata.update(codecs=[codec("numcodecs.pcodec")]))
    with pytest.raises(SwathError, match="pcodec"):
        swath.open(url).gather(STARTS)


@pytest.mark.filterwarnings("ignore:Rectilinear chunk grids are experimental")
def test_chunks_of_unlike_sizes_are_read_or_refused(tmp_path: Path) -> None:
    """Zarr-python reads these where it is told to, and refuses them otherwise."""
    with zarr.config.set({"array.rectilinear_chunks": True}):
        write_zarr(tmp_path / "rows", ROWS, chunks=[[10, 20, 30], [2, 4], [6]])
    with pytest.raises(FormatError, match=r"rows.*rectilinear"):
        swath.open(tmp_path / "rows")


def _cut(content: bytes) -> bytes:
    return content[:-1]


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _emptied(content: bytes) -> bytes:
    return b""


def _flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 16]) + content[len(content) // 2 + 1 :]


CHUNK = "c/1/1/0"  # of rows 8 to 15, columns 4 and 5


def _check_damage(url: Path) -> None:
    a = swath.open(url)
    with pytest.raises(DamagedStoreError, match=CHUNK):
        a.gather(STARTS)
    sound = [40, 16, 30]
    assert_same(a.gather(sound), expected(ROWS, sound, WINDOW))


def test_damage_in_a_lazy_batch(tmp_path: Path) -> None:
    url = _array(tmp_path, compressors=[codec("crc32c")])
    (url / CHUNK).write_bytes(_flipped((url / CHUNK).read_bytes()))
    a = swath.open(url)
    with pytest.raises(DamagedStoreError, match=CHUNK):
        swath.compute(a.windows(STARTS))
    with pytest.raises(DamagedStoreError, match=CHUNK):
        swath.compute(a.windows(STARTS, block=2).mean(axis=1))


@pytest.mark.parametrize("name", ["raw", *BYTES_CODECS])
def test_a_chunk_that_was_cut_is_damage(tmp_path: Path, name: str) -> None:
    url = _array(tmp_path, compressors=None if name == "raw" else [BYTES_CODECS[name]])
    content = (url / CHUNK).read_bytes()
    for cut in (_cut, _half, _emptied):
        (url / CHUNK).write_bytes(cut(content))
        _check_damage(url)


@pytest.mark.parametrize("name", CHECKED)
def test_a_flipped_bit_is_damage_where_a_codec_can_tell(tmp_path: Path, name: str) -> None:
    url = _array(tmp_path, compressors=[BYTES_CODECS[name]])
    content = (url / CHUNK).read_bytes()
    rng = np.random.default_rng(0)
    flips = zip(rng.integers(0, len(content), 30).tolist(), rng.integers(0, 8, 30).tolist(), strict=True)
    for byte, bit in flips:
        (url / CHUNK).write_bytes(content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :])
        try:
            # A bit that says nothing of the rows (gzip: its time, its system) may be anything.
            assert_same(swath.open(url).gather(STARTS), expected(ROWS, STARTS, WINDOW))
        except DamagedStoreError as error:
            assert CHUNK in str(error)  # noqa: PT017
    (url / CHUNK).write_bytes(_flipped(content))
    _check_damage(url)


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_shard_that_was_cut_is_damage(tmp_path: Path, location: str) -> None:
    url = _array(tmp_path, serializer=sharded((2, 2, 6), location=location), compressors=None)
    content = (url / CHUNK).read_bytes()
    for cut in (_cut, _half, _emptied):
        (url / CHUNK).write_bytes(cut(content))
        _check_damage(url)


@pytest.mark.parametrize("location", ["start", "end"])
def test_flipped_bits_of_a_shard(tmp_path: Path, location: str) -> None:
    """In its index, which has a checksum, and in chunks that have one."""
    serializer = sharded((2, 2, 6), [BYTES, codec("crc32c")], location=location)
    url = _array(tmp_path, serializer=serializer, compressors=None)
    content = (url / CHUNK).read_bytes()
    for byte in np.random.default_rng(0).integers(0, len(content), 30).tolist():
        (url / CHUNK).write_bytes(content[:byte] + bytes([content[byte] ^ 64]) + content[byte + 1 :])
        _check_damage(url)


@pytest.mark.parametrize("field", [0, 1], ids=["offset", "length"])
@pytest.mark.parametrize("value", [2**40, 2**63, 2**64 - 1], ids=["far", "negative", "missing"])
def test_an_index_that_points_outside_its_shard_is_damage(tmp_path: Path, field: int, value: int) -> None:
    """Sound by its checksum, for it has none: one field of the index is no place within the file."""
    url = _array(tmp_path, serializer=sharded((2, 4, 6), location="start", index=[BYTES]), compressors=None)
    content = bytearray((url / CHUNK).read_bytes())
    content[8 * field : 8 * field + 8] = value.to_bytes(8, "little")
    (url / CHUNK).write_bytes(content)
    _check_damage(url)


@pytest.mark.parametrize("codec_name", ["gzip", "zstd", "blosc-lz4-shuffle", "numcodecs-lzma", "numcodecs-lz4", "raw"])
@pytest.mark.parametrize("scale", [0.5, 2], ids=["half", "double"])
def test_a_chunk_of_another_size_is_damage(tmp_path: Path, codec_name: str, scale: float) -> None:
    """A sound stream of too few or too many bytes: never rows of which some are made up or left out."""
    compressors = None if codec_name == "raw" else [BYTES_CODECS[codec_name]]
    url = _array(tmp_path, compressors=compressors)
    other = tmp_path / "other"
    write_zarr(other, ROWS, chunks=(int(GRID[0] * scale), *GRID[1:]), compressors=compressors)
    shutil.copy(other / CHUNK, url / CHUNK)
    _check_damage(url)


BOMBS: dict[str, Json] = {name: BYTES_CODECS[name] for name in ("zstd", "gzip", "blosc-lz4-noshuffle")} | {
    f"numcodecs-{name}": codec(f"numcodecs.{name}") for name in ("zlib", "bz2", "lzma", "lz4")
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_chunk_that_would_fill_the_memory_is_damage(tmp_path: Path, name: str) -> None:
    """64 MB of zeros, in a few kilobytes: no more is decoded than the chunk has place for."""
    bomb = np.zeros((1, 2**26), "u1")
    write_zarr(tmp_path / "bomb", bomb, chunks=bomb.shape, compressors=[BOMBS[name]], config=_EMPTY_TOO)
    small = write_zarr(tmp_path / "a", bomb[:, :1000].repeat(20, 0), chunks=(10, 1000), compressors=[BOMBS[name]])
    shutil.copytree(tmp_path / "bomb" / "c", tmp_path / "a" / "c", dirs_exist_ok=True)
    del bomb
    a = swath.open(tmp_path / "a")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _status("VmRSS")
    with pytest.raises(DamagedStoreError, match="c/0/0"):
        a.gather([0], window=5)
    assert _status("VmHWM") - before < 32 * 2**20
    assert_same(a.gather([12], window=5), expected(small, [12], 5))


_EMPTY_TOO = {"write_empty_chunks": True}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
