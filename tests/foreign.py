"""Arrays that swath did not write: writers, what their own library reads from them, and strategies that draw both."""

import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numcodecs
import numpy as np
import tensorstore
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same, expected
from test_gather_model import random_array

import swath

type Rows = NDArray[Any]
type Json = dict[str, Any]

# What a test asks, where nothing is drawn: repeated, overlapping, the first and the last rows of 60.
STARTS = [44, 0, 3, 3, 5, 31, 30]
WINDOW = 16


# What is written of 60 rows; what is not is the fill value: the first and last shards hold few rows, one a corner.
PARTS: dict[str, list[Any]] = {
    "whole": [...],
    "some": [slice(5, 18), (slice(30, 39), slice(1, 3)), slice(50, 51)],
    "nothing": [],
}


class Request(NamedTuple):
    """What is asked of an array."""

    starts: list[int] = STARTS
    window: int = WINDOW
    columns: Any = None


def check(url: str | Path, rows: Rows, request: Request = Request(), **options: Any) -> swath.RowArray:  # noqa: B008
    """Open, and read by each of the ways: all are one line of numpy over what the array's own library reads."""
    starts, window, columns = request
    wanted = expected(rows, starts, window)
    if columns is not None:
        wanted = wanted[:, :, columns]
    a = swath.open(url, **options)
    assert (a.shape, a.dtype, len(a)) == (rows.shape, wanted.dtype, len(rows))
    assert_same(a.gather(starts, window=window, columns=columns), wanted)
    out = np.empty(wanted.shape, wanted.dtype)
    assert a.gather(starts, window=window, columns=columns, out=out, verify="never") is out
    assert_same(out, wanted)
    assert_same(swath.compute(a.windows(starts, window=window, columns=columns, block=3)), wanted)
    assert a.plan(starts, window=window, columns=columns).batch_shape == wanted.shape
    return a


# --- Writers: each writes `rows`, or only the `parts` of them that are named, and gives what its library then reads.


def write_zarr(url: Path, rows: Rows, *, parts: Iterable[Any] = (...,), **options: Any) -> Rows:
    """By zarr-python; ``options`` are those of `zarr.create_array`, codecs as JSON in both formats."""
    if options.get("zarr_format") == 2 and options.get("filters"):
        options["filters"] = [numcodecs.get_codec(dict(f)) for f in options["filters"]]
    with warnings.catch_warnings():
        # Which dtypes have a final specification, and shards within another codec, are the writer's business.
        warnings.filterwarnings("ignore", "The data type .* does not have a Zarr V3 specification")
        warnings.filterwarnings("ignore", "Combining a `sharding_indexed` codec disables partial reads")
        warnings.filterwarnings("ignore", "invalid value encountered in equal")  # complex NaNs beside the fill value
        array = zarr.create_array(url, shape=rows.shape, dtype=rows.dtype, **options)
        for part in parts:
            array[part] = rows[part]
        return np.asarray(zarr.open_array(url, mode="r")[...])


def write_tensorstore(url: Path, rows: Rows, metadata: Json, *, parts: Iterable[Any] = (...,)) -> Rows:
    """By tensorstore, of which zarr-python then reads the same."""
    driver = "zarr3" if "codecs" in metadata else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{url}/"}, "metadata": metadata}
    array = tensorstore.open(spec, create=True, dtype=rows.dtype.newbyteorder("="), shape=rows.shape).result()
    for part in parts:
        array[part].write(rows[part]).result()
    return np.asarray(zarr.open_array(url, mode="r")[...])


def write_hdf5(
    path: Path,
    rows: Rows,
    *,
    parts: Iterable[Any] = (...,),
    libver: str = "earliest",
    userblock: int = 0,
    shape: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[str, Rows]:
    """By h5py; ``options`` are those of `create_dataset`. A ``shape`` is what the dataset is given in the end."""
    options = {"dtype": rows.dtype, **options}
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        dataset = file.create_dataset("group/rows", rows.shape, **options)
        for part in parts:
            dataset[part] = rows[part]
        if shape is not None:
            dataset.resize(shape)
    with h5py.File(path) as file:
        return f"{path}::group/rows", file["group/rows"][...]


def write_npy(path: Path, rows: Rows, *, version: tuple[int, int] | None = None) -> Rows:
    with path.open("wb") as file:
        np.lib.format.write_array(file, rows, version=version)
    return np.asarray(np.load(path))


def sharded(
    chunk_shape: Iterable[int],
    codecs: list[Json] | None = None,
    *,
    location: str = "end",
    index: list[Json] | None = None,
) -> Json:
    """The codec of a shard, as zarr.json has it."""
    little = codec("bytes", endian="little")
    return codec(
        "sharding_indexed",
        chunk_shape=list(chunk_shape),
        codecs=codecs or [little],
        index_codecs=index or [little, codec("crc32c")],
        index_location=location,
    )


def codec(name: str, **configuration: Any) -> Json:
    return {"name": name, "configuration": configuration}


# --- Codecs that change bytes, and so go with any dtype.

BLOSC_NAMES = ["blosclz", "lz4", "lz4hc", "zlib", "zstd"]

BYTES_CODECS: dict[str, Json] = {
    **{
        f"blosc-{name}-{shuffle}": codec("blosc", cname=name, clevel=5, shuffle=shuffle, typesize=4, blocksize=0)
        for name in BLOSC_NAMES
        for shuffle in ("noshuffle", "shuffle", "bitshuffle")
    },
    "zstd": codec("zstd", level=1, checksum=False),
    "zstd-checksum": codec("zstd", level=3, checksum=True),
    "gzip": codec("gzip", level=1),
    "crc32c": codec("crc32c"),
    "numcodecs-adler32": codec("numcodecs.adler32"),
    "numcodecs-blosc": codec("numcodecs.blosc", cname="zstd", clevel=1, shuffle=2),
    "numcodecs-bz2": codec("numcodecs.bz2", level=1),
    "numcodecs-crc32": codec("numcodecs.crc32"),
    "numcodecs-crc32c": codec("numcodecs.crc32c"),
    "numcodecs-fletcher32": codec("numcodecs.fletcher32"),
    "numcodecs-gzip": codec("numcodecs.gzip", level=1),
    "numcodecs-jenkins": codec("numcodecs.jenkins_lookup3"),
    "numcodecs-lz4": codec("numcodecs.lz4"),
    "numcodecs-lzma": codec("numcodecs.lzma", preset=0),
    "numcodecs-shuffle": codec("numcodecs.shuffle", elementsize=4),
    "numcodecs-zlib": codec("numcodecs.zlib", level=1),
    "numcodecs-zstd": codec("numcodecs.zstd", level=1),
}

V2_COMPRESSORS: dict[str, Json | None] = {
    "none": None,
    **{
        f"blosc-{name}-{shuffle}": {"id": "blosc", "cname": name, "clevel": 5, "shuffle": shuffle, "blocksize": 0}
        for name in BLOSC_NAMES
        for shuffle in (0, 1, 2, -1)
    },
    "zstd": {"id": "zstd", "level": 1},
    "zlib": {"id": "zlib", "level": 1},
    "gzip": {"id": "gzip", "level": 1},
    "bz2": {"id": "bz2", "level": 1},
    "lz4": {"id": "lz4", "acceleration": 1},
    "lzma": {"id": "lzma", "preset": 0},
}

# Those that tell a flipped bit: of all others, an array is what its bytes say.
CHECKED = ["crc32c", "gzip", "zstd-checksum", "numcodecs-adler32", "numcodecs-crc32", "numcodecs-fletcher32"]

NUMBERS = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"]
V2_DTYPES: list[Any] = [*NUMBERS, ">f8", ">i2", ">c8", "S3", "U2", ">U2", "V5", "M8[ns]", ">m8[s]"]
RECORD = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", ">f4")])


# --- Strategies. Each draws how to write, readable in a falsifying example; `write` of the drawn value writes it.


class Drawn(NamedTuple):
    """An array to be written, and what to ask of it."""

    kind: str
    shape: tuple[int, ...]
    dtype: Any
    seed: int
    options: Json
    request: Request

    def write(self, folder: Path) -> tuple[str, Rows]:
        """Where `swath.open` finds it, and what is there."""
        place = folder / f"rows.{self.kind}"
        rows = random_array(self.shape, self.dtype, self.seed)
        match self.kind:
            case "zarr":
                return str(place), write_zarr(place, rows, **self.options)
            case "tensorstore":
                return str(place), write_tensorstore(place, rows, **self.options)
            case "h5":
                return write_hdf5(place, rows, **self.options)
            case _:
                order = self.options["order"]
                return str(place), write_npy(place, np.array(rows, order=order))


def check_any(arrays: st.SearchStrategy[Drawn]) -> None:
    """`check` whatever is drawn, each in a folder of its own."""

    @given(arrays)
    def property_(drawn: Drawn) -> None:
        with tempfile.TemporaryDirectory() as folder:
            url, rows = drawn.write(Path(folder))
            check(url, rows, drawn.request)

    property_()


@st.composite
def requests(draw: st.DrawFn, shape: tuple[int, ...]) -> Request:
    """Any windows of an array of this shape, in any order, and any columns."""
    n_rows = shape[0]
    window = draw(st.integers(1, n_rows) | st.integers(1, min(n_rows, 5)))
    columns: Any = None
    if len(shape) > 1:
        some = st.lists(st.integers(0, shape[1] - 1), max_size=5)
        columns = draw(st.none() | some | st.slices(shape[1]) | st.just(slice(None, None, -1)))
    return Request(draw(st.lists(st.integers(0, n_rows - window), max_size=12)), window, columns)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return (draw(st.integers(1, 60)), *draw(st.lists(st.integers(1, 7), max_size=3)))


def grids(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """Chunks that divide the array or not, along any axes, and some larger than it; never very many."""
    return st.tuples(*(st.integers(1 + n // 4, n + 3) for n in shape))


def parts(n_rows: int) -> st.SearchStrategy[list[slice]]:
    """All rows, or some: what is not written is the fill value."""
    return st.just([slice(None)]) | st.lists(
        st.tuples(st.integers(0, n_rows), st.integers(0, n_rows)).map(lambda ends: slice(min(ends), max(ends))),
        max_size=2,
    )


def fill_values(dtype: Any) -> st.SearchStrategy[Any]:
    """The usual, and any: NaN, -1, the largest."""
    usual: dict[str, list[Any]] = {
        "f": [0, np.nan, -1.5, np.inf],
        "c": [0, complex(np.nan, 1)],
        "b": [False, True],
        "i": [0, -1],
        "u": [0, 9],
    }
    return st.sampled_from(usual.get(np.dtype(dtype).kind, [None]))


@st.composite
def bytes_codecs(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Json]:
    """A chain from array to bytes: transposed or not, of either endianness, and a few codecs on top."""
    chain = []
    if draw(st.booleans()):
        chain.append(codec("transpose", order=draw(st.permutations(range(len(shape))))))
    chain.append(codec("bytes", endian=draw(st.sampled_from(["little", "big"]))))
    names = draw(st.lists(st.sampled_from(sorted({*BYTES_CODECS} - {"numcodecs-shuffle"})), max_size=2))
    return [*chain, *(BYTES_CODECS[name] for name in names)]


@st.composite
def shard_codecs(draw: st.DrawFn, shard: tuple[int, ...], depth: int = 1) -> Json:
    """Shards of inner chunks that are not whole rows either, whose own codec may be shards again."""
    inner = tuple(draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0 and n // d <= 4])) for n in shard)
    within = draw(bytes_codecs(inner))
    if depth and draw(st.booleans()):
        within = [draw(shard_codecs(inner, depth - 1))]
    return sharded(inner, within, location=draw(st.sampled_from(["start", "end"])))


@st.composite
def zarr_v3(draw: st.DrawFn) -> Drawn:
    shape, dtype = draw(shapes()), draw(st.sampled_from(NUMBERS))
    grid = draw(grids(shape))
    chain = [draw(shard_codecs(grid))] if draw(st.booleans()) else draw(bytes_codecs(grid))
    filters = [each for each in chain if each["name"] == "transpose"]
    serializer, compressors = chain[len(filters)], chain[len(filters) + 1 :]
    if serializer["name"] == "bytes" and np.dtype(dtype).kind in "iu" and draw(st.booleans()):
        filters.append(codec("numcodecs.delta", dtype=np.dtype(dtype).str))
    options = {
        "chunks": grid,
        "filters": filters,
        "serializer": serializer,
        "compressors": compressors,
        "fill_value": draw(fill_values(dtype)),
        "parts": draw(parts(shape[0])),
        "chunk_key_encoding": {
            "name": draw(st.sampled_from(["default", "v2"])),
            "separator": draw(st.sampled_from([".", "/"])),
        },
    }
    return Drawn("zarr", shape, dtype, draw(st.integers(0, 99)), options, draw(requests(shape)))


@st.composite
def zarr_v2(draw: st.DrawFn) -> Drawn:
    shape, dtype = draw(shapes()), draw(st.sampled_from(V2_DTYPES))
    described = np.dtype(dtype)
    filters: list[Json] = [{"id": "shuffle", "elementsize": described.itemsize}]
    if described.kind in "iu":
        filters.append({"id": "delta", "dtype": described.str})
    if described.kind == "b":
        filters = [{"id": "packbits"}]
    options = {
        "zarr_format": 2,
        "chunks": draw(grids(shape)),
        "order": draw(st.sampled_from("CF")),
        "filters": draw(st.none() | st.lists(st.sampled_from(filters), min_size=1, max_size=1)),
        "compressors": V2_COMPRESSORS[draw(st.sampled_from(sorted(V2_COMPRESSORS)))],
        "fill_value": draw(st.none() | fill_values(dtype)),
        "parts": draw(parts(shape[0])),
        "chunk_key_encoding": {"name": "v2", "separator": draw(st.sampled_from([".", "/"]))},
    }
    return Drawn("zarr", shape, dtype, draw(st.integers(0, 99)), options, draw(requests(shape)))


@st.composite
def tensorstores(draw: st.DrawFn) -> Drawn:
    """Either format, by the C++ implementation, in options that it shares with zarr-python."""
    shape = draw(shapes())
    grid = list(draw(grids(shape)))
    metadata: Json
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([">f8", "<f4", ">i2", "|u1", "<c8", "|b1"]))
        metadata = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": grid,
            "dtype": dtype,
            "order": draw(st.sampled_from("CF")) if len(shape) > 1 else "C",
            "compressor": draw(
                st.sampled_from([V2_COMPRESSORS[name] for name in ("none", "blosc-lz4-1", "zlib", "zstd", "bz2")])
            ),
            "filters": None,
            "fill_value": None if dtype in ("|b1", "<c8") else draw(st.sampled_from([None, 0])),
            "dimension_separator": draw(st.sampled_from("./")),
        }
    else:
        dtype = draw(st.sampled_from(["float64", "float32", "int16", "uint8", "complex64"]))
        names = ["zstd", "gzip", "crc32c", "blosc-lz4-shuffle"]
        chain = [
            codec("transpose", order=draw(st.permutations(range(len(shape))))),
            codec("bytes", endian=draw(st.sampled_from(["little", "big"]))),
            *(BYTES_CODECS[name] for name in draw(st.lists(st.sampled_from(names), max_size=2, unique=True))),
        ]
        metadata = {
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": codec("regular", chunk_shape=grid),
            "chunk_key_encoding": codec(
                draw(st.sampled_from(["default", "v2"])), separator=draw(st.sampled_from("./"))
            ),
            "codecs": draw(
                st.sampled_from([chain, [sharded(grid, chain, location=draw(st.sampled_from(["start", "end"])))]])
            ),
        }
    options = {"metadata": metadata, "parts": draw(parts(shape[0]))}
    return Drawn("tensorstore", shape, dtype, draw(st.integers(0, 99)), options, draw(requests(shape)))


HDF5_FILTERS: dict[str, Json] = {
    "no-filter": {},
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "lzf": {"compression": "lzf"},
    "shuffle": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "gzip-shuffle-fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf-shuffle": {"compression": "lzf", "shuffle": True},
}


@st.composite
def hdf5(draw: st.DrawFn) -> Drawn:
    """Contiguous or chunked; growing along no axes, the first or all, for each has its own index of chunks."""
    shape = draw(shapes())
    dtype: Any = draw(st.sampled_from([*NUMBERS, ">f8", ">i2", "S3", "V5", RECORD]))
    options: Json = {
        "libver": draw(st.sampled_from(["earliest", "latest"])),
        "userblock": draw(st.sampled_from([0, 512])),
        "fillvalue": draw(fill_values(dtype)) if np.dtype(dtype).kind != "c" else None,
        "parts": draw(parts(shape[0])),
    }
    if draw(st.integers(0, 3)):
        room = tuple(n + 3 for n in shape)
        options["chunks"] = draw(grids(shape))
        options["maxshape"] = draw(st.sampled_from([(None, *room[1:]), (None,) * len(shape), room]))
        options |= HDF5_FILTERS[draw(st.sampled_from(sorted(HDF5_FILTERS)))]
    return Drawn("h5", shape, dtype, draw(st.integers(0, 99)), options, draw(requests(shape)))


@st.composite
def npy(draw: st.DrawFn) -> Drawn:
    shape = draw(shapes())
    dtype = draw(st.sampled_from([*V2_DTYPES, RECORD, "g"]))
    return Drawn(
        "npy", shape, dtype, draw(st.integers(0, 99)), {"order": draw(st.sampled_from("CF"))}, draw(requests(shape))
    )
