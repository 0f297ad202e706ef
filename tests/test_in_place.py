"""HDF5, .npy and raw files open where they lie: every gather is one line of numpy over what their own library reads."""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from children import bytes_read_by_hdf5, pid_of_hdf5
from foreign import (
    HDF5_FILTERS,
    PARTS,
    RECORD,
    STARTS,
    V2_DTYPES,
    WINDOW,
    Drawn,
    Request,
    Rows,
    check,
    check_any,
    codec,
    hdf5,
    npy,
    sharded,
    write_hdf5,
    write_npy,
    write_zarr,
)
from hypothesis import strategies as st
from oracle import assert_same, expected
from test_gather_model import random_array
from test_memory import _measure

import swath
from swath.errors import (
    ColumnsError,
    DamagedStoreError,
    MemoryLimitError,
    OptionError,
    OutError,
    SourceError,
    StoreChangedError,
    SwathError,
    WindowError,
    WindowOutOfBoundsError,
)

ROWS = np.random.default_rng(0).integers(0, 1000, (60, 6, 5)).astype("i4")
FLAT = ROWS[..., 0].copy()
GRID = (8, 4, 5)
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
COLUMNS = Request(columns=[5, 0, 3])


def _check_hdf5(folder: Path, rows: Rows = ROWS, request: Request = Request(), **options: Any) -> swath.RowArray:  # noqa: B008
    return check(*write_hdf5(folder / "rows.h5", rows, **options), request)


@pytest.mark.parametrize("arrays", [hdf5, npy])
def test_any_array_is_one_line_of_numpy(arrays: Callable[[], st.SearchStrategy[Drawn]]) -> None:
    check_any(arrays())


# --- HDF5

FILTERS: dict[str, dict[str, Any]] = {
    **HDF5_FILTERS,
    "scale-offset": {"scaleoffset": 0},
    "blosc": dict(hdf5plugin.Blosc(cname="zstd", shuffle=hdf5plugin.Blosc.BITSHUFFLE)),
    "blosc2": dict(hdf5plugin.Blosc2()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "lz4": dict(hdf5plugin.LZ4()),
    "zstd": dict(hdf5plugin.Zstd()),
    "zstd-shuffle-fletcher32": {**hdf5plugin.Zstd(), "shuffle": True, "fletcher32": True},
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("request_", [Request(), COLUMNS], ids=["whole-rows", "columns"])
def test_hdf5_filters(tmp_path: Path, name: str, request_: Request) -> None:
    a = _check_hdf5(tmp_path, request=request_, chunks=GRID, **FILTERS[name])
    assert a.chunk_rows == GRID[0]


@pytest.mark.parametrize("name", ["no-filter", "gzip"])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "maxshape",
    [
        pytest.param(None, id="fixed"),
        pytest.param((None, 6, 5), id="rows-grow"),
        pytest.param((None, None, 5), id="two-axes-grow"),
    ],
)
def test_hdf5_indexes_of_chunks(tmp_path: Path, name: str, libver: str, maxshape: Any) -> None:
    """Each of these HDF5 indexes in its own way: B-trees of two versions, an array that grows, one that does not."""
    _check_hdf5(tmp_path, chunks=GRID, libver=libver, maxshape=maxshape, **FILTERS[name])


@pytest.mark.parametrize("name", ["no-filter", "gzip-shuffle-fletcher32"])
@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param((13, 6, 5), id="whole-rows"),
        pytest.param((60, 6, 5), id="whole-dataset"),
        pytest.param((100, 9, 7), id="larger-than-the-dataset"),
        pytest.param((7, 5, 3), id="ragged"),
        pytest.param((1, 6, 5), id="single-rows"),
        pytest.param((60, 1, 1), id="single-columns"),
    ],
)
def test_hdf5_chunk_grids(tmp_path: Path, name: str, chunks: tuple[int, ...]) -> None:
    _check_hdf5(tmp_path, request=COLUMNS, chunks=chunks, maxshape=(None,) * 3, **FILTERS[name])


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({}, id="contiguous"),
        pytest.param({"chunks": GRID}, id="chunked"),
        pytest.param({"chunks": GRID, "compression": "gzip"}, id="gzip"),
    ],
)
def test_what_was_never_written_to_hdf5_is_the_fill_value(tmp_path: Path, layout: dict[str, Any], parts: str) -> None:
    _check_hdf5(tmp_path, parts=PARTS[parts], fillvalue=-7, **layout)


@pytest.mark.parametrize("userblock", [512, 4096])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("layout", [{}, {"chunks": GRID}, {"chunks": GRID, "compression": "gzip"}], ids=str)
def test_hdf5_behind_other_bytes(tmp_path: Path, userblock: int, parts: str, layout: dict[str, Any]) -> None:
    """Addresses within the file count from the end of the user block."""
    _check_hdf5(tmp_path, userblock=userblock, parts=PARTS[parts], fillvalue=-7, **layout)


def test_the_process_of_hdf5_may_be_killed(tmp_path: Path) -> None:
    """Where memory runs out the kernel ends some process: while nobody asks that is no fault of a file, nor of who asks next."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = ROWS
    swath.open(f"{tmp_path}/a.h5::x")
    for _ in range(5):
        os.kill(pid_of_hdf5(), signal.SIGKILL)
        assert_same(swath.open(f"{tmp_path}/a.h5::x").gather([5], window=3), expected(ROWS, [5], 3))
    ended = threading.Event()

    def kill_each() -> None:
        while not ended.wait(0.01):
            with contextlib.suppress(ValueError, ProcessLookupError):  # there is none at this moment
                os.kill(pid_of_hdf5(), signal.SIGKILL)

    killer = threading.Thread(target=kill_each)
    killer.start()
    time.sleep(0.1)  # the one that is there answers at once; another would have to start
    try:
        with pytest.raises(SourceError, match=r"a\.h5::x cannot be read: .*SIGKILL.* no memory left"):
            swath.open(f"{tmp_path}/a.h5::x")
    finally:
        ended.set()
        killer.join()
    assert_same(swath.open(f"{tmp_path}/a.h5::x").gather([5], window=3), expected(ROWS, [5], 3))


@pytest.mark.parametrize("shape", [(75, 6, 5), (50, 6, 5), (50, 3, 5), (70, 9, 5)], ids=str)
def test_hdf5_that_has_grown_or_shrunk(tmp_path: Path, shape: tuple[int, ...]) -> None:
    request = Request([0, shape[0] - 16, 20], columns=[2, 0])
    _check_hdf5(
        tmp_path, ROWS, request, shape=shape, chunks=GRID, maxshape=(None, None, 5), fillvalue=3, compression="gzip"
    )


HDF5_DTYPES: dict[str, Rows] = {
    **{
        str(dtype): random_array((60, 6), dtype, 0)
        for dtype in ("i1", "u8", "f2", "f4", ">f8", ">i2", "c8", ">c16", "S7", "V5", RECORD)
    },
    "bool": FLAT > 500,
    "enum": (FLAT % 9).astype(h5py.enum_dtype({str(n): n for n in range(9)}, "u1")),
    "utf-8": np.array([["\u00e9".encode(), b"b"]] * 60, h5py.string_dtype("utf-8", 4)),
    "datetime": FLAT.astype("M8[s]").astype(h5py.opaque_dtype("M8[s]")),
    "nested": random_array((60,), [("a", RECORD), ("b", "u1")], 0),
    "aligned": random_array((60, 6), ALIGNED, 0),
    "subarrays": random_array((60,), [("a", "u1"), ("b", ">f4", (2, 2))], 0),
}


@pytest.mark.parametrize("name", HDF5_DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "chunked"])
def test_hdf5_dtypes(tmp_path: Path, name: str, layout: str) -> None:
    rows = HDF5_DTYPES[name]
    chunked: dict[str, Any] = {"chunks": (7, 2)[: rows.ndim], "compression": "gzip"}
    options = chunked if layout == "chunked" else {}
    _check_hdf5(tmp_path, rows, **options)


def _bits_within_a_number() -> h5py.h5t.TypeID:
    bits = h5py.h5t.STD_I32LE.copy()
    bits.set_precision(12)
    bits.set_offset(4)
    return bits


def _text(padding: int) -> h5py.h5t.TypeID:
    text = h5py.h5t.C_S1.copy()
    text.set_size(4)
    text.set_strpad(padding)
    return text


def _complex_with_a_gap() -> h5py.h5t.TypeID:
    parts = h5py.h5t.create(h5py.h5t.COMPOUND, 24)
    parts.insert(b"r", 0, h5py.h5t.IEEE_F64BE)
    parts.insert(b"i", 16, h5py.h5t.IEEE_F64BE)
    return parts


def _fields_out_of_order() -> h5py.h5t.TypeID:
    fields = h5py.h5t.create(h5py.h5t.COMPOUND, 12)
    fields.insert(b"y", 8, h5py.h5t.STD_I32BE)
    fields.insert(b"x", 0, h5py.h5t.STD_I16LE)
    return fields


def _truth() -> h5py.h5t.TypeID:
    truth = h5py.h5t.enum_create(h5py.h5t.STD_I8LE)
    truth.enum_insert(b"FALSE", 0)
    truth.enum_insert(b"TRUE", 1)
    return truth


def _float_of_another_bias() -> h5py.h5t.TypeID:
    number = h5py.h5t.IEEE_F32LE.copy()
    number.set_ebias(100)
    return number


HDF5_TYPES: dict[str, Callable[[], h5py.h5t.TypeID]] = {
    "bits-within-a-number": _bits_within_a_number,
    "float-of-another-bias": _float_of_another_bias,
    "bits": lambda: h5py.h5t.STD_B16BE,
    "truth-of-any-byte": _truth,
    "text-ended-by-zero": lambda: _text(h5py.h5t.STR_NULLTERM),
    "text-padded-by-zeros": lambda: _text(h5py.h5t.STR_NULLPAD),
    "text-padded-by-spaces": lambda: _text(h5py.h5t.STR_SPACEPAD),
    "complex-with-a-gap": _complex_with_a_gap,
    "complex-of-its-own": lambda: h5py.h5t.COMPLEX_IEEE_F64BE,
    "fields-out-of-order": _fields_out_of_order,
}


@pytest.mark.parametrize("name", HDF5_TYPES)
@pytest.mark.parametrize("chunks", [None, (7,)], ids=["contiguous", "chunked"])
def test_hdf5_types_whose_bytes_are_not_those_of_numpy(tmp_path: Path, name: str, chunks: Any) -> None:
    """HDF5 converts as it reads: of any stored bytes, the rows are what h5py makes of them."""
    stored = HDF5_TYPES[name]()
    with h5py.File(tmp_path / "rows.h5", "w", libver="latest") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if chunks:
            creation.set_chunk(chunks)
        dataset = h5py.h5d.create(file.id, b"rows", stored, h5py.h5s.create_simple((60,)), creation)
        content = np.random.default_rng(0).choice(np.frombuffer(b"\0 ab\1\x3f", "u1"), 60 * stored.get_size())
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, content.view(f"V{stored.get_size()}"), stored)
        rows = file["rows"][...]
    check(f"{tmp_path}/rows.h5::rows", rows)


@pytest.mark.parametrize("when", [h5py.h5d.ALLOC_TIME_EARLY, h5py.h5d.ALLOC_TIME_LATE, h5py.h5d.ALLOC_TIME_INCR])
@pytest.mark.parametrize("parts", ["whole", "nothing"])
def test_hdf5_space_that_is_taken_early_or_late(tmp_path: Path, when: int, parts: str) -> None:
    """Early, a dataset of fixed shape has no index of its chunks at all: they lie in order."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(when)
    _check_hdf5(tmp_path, parts=PARTS[parts], dcpl=creation, chunks=GRID, fillvalue=5, libver="latest")


@pytest.mark.parametrize("chunks", [None, GRID], ids=["contiguous", "chunked"])
def test_hdf5_rows_within_the_dtype(tmp_path: Path, chunks: Any) -> None:
    """Array elements, which h5py gives as axes of their own."""
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file.create_dataset("rows", (60,), np.dtype(("i4", (6, 5))), chunks=chunks and chunks[:1])[...] = ROWS
    check(f"{tmp_path}/rows.h5::rows", ROWS)


def test_compact_hdf5(tmp_path: Path) -> None:
    """So few bytes that they lie within the description of the dataset."""
    rows = ROWS[:, 0, 0]
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(rows.shape)
        h5py.h5d.create(file.id, b"rows", h5py.h5t.NATIVE_INT32, space, creation).write(space, space, rows.copy())
    check(f"{tmp_path}/rows.h5::rows", rows)


def test_hdf5_chunks_that_a_filter_passed_over(tmp_path: Path) -> None:
    """Each chunk says which filters it went through: writers skip those that gain nothing."""
    url, _ = write_hdf5(tmp_path / "rows.h5", FLAT, chunks=(10, 6), compression="gzip", shuffle=True)
    with h5py.File(tmp_path / "rows.h5", "r+") as file:
        dataset = file["group/rows"]
        dataset.id.write_direct_chunk((20, 0), ROWS[:10, :, 0].tobytes(), filter_mask=0b11)
        rows = dataset[...]
    assert_same(rows[20:30], ROWS[:10, :, 0])
    check(url, rows)


def test_hdf5_by_other_names(tmp_path: Path) -> None:
    _, rows = write_hdf5(tmp_path / "rows.h5", ROWS, chunks=GRID)
    with h5py.File(tmp_path / "rows.h5", "r+") as file:
        file["hard"] = file["group/rows"]
        file["soft"] = h5py.SoftLink("/group/rows")
    for name in ("/group/rows", "hard", "soft"):
        check(f"{tmp_path}/rows.h5::{name}", rows)
    (tmp_path / "rows.h5").rename(tmp_path / "rows")
    check(f"{tmp_path}/rows::group/rows", rows)


def test_hdf5_chunks_as_long_as_the_dataset_in_little_memory(tmp_path: Path) -> None:
    """Windows from everywhere need every chunk, and each is as long as the dataset: 80 MB in chunks of 800 KB."""
    rows = np.random.default_rng(0).integers(0, 9, (100_000, 100), np.int64)
    url, _ = write_hdf5(tmp_path / "rows.h5", rows, chunks=(100_000, 1), compression="gzip", compression_opts=1)
    starts = np.random.default_rng(1).integers(0, 100_000 - 15, 500).tolist()
    a = swath.open(url)
    assert_same(a.gather(starts, memory_limit="40MB"), expected(rows, starts, WINDOW))


@pytest.mark.parametrize("chunks", [(1000, 100), (50_000, 2), (640, 16)], ids=["rows", "columns", "tiles"])
def test_each_hdf5_chunk_is_read_once(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    """40 MB in more chunks than HDF5 keeps by default; every row is in many windows."""
    rows = np.random.default_rng(0).integers(0, 9, (50_000, 100), np.int64)
    url, _ = write_hdf5(tmp_path / "rows.h5", rows, chunks=chunks, compression="lzf")
    starts = np.random.default_rng(1).integers(0, 50_000 - 15, 3000)
    a = swath.open(url)
    before = bytes_read_by_hdf5()
    batch = a.gather(starts)
    assert bytes_read_by_hdf5() - before <= 1.2 * (tmp_path / "rows.h5").stat().st_size + 2**20
    assert_same(batch, rows[starts[:, None] + np.arange(WINDOW)])


# --- .npy and raw binary


@pytest.mark.parametrize("dtype", [*V2_DTYPES, RECORD, ALIGNED], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, dtype: Any, order: Any) -> None:
    rows = np.array(random_array((60, 6), dtype, 0), order=order)
    check(tmp_path / "rows.npy", write_npy(tmp_path / "rows.npy", rows), COLUMNS)


@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 5, 3), (60, 2, 3, 4), (16, 40_000)], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_shapes(tmp_path: Path, shape: tuple[int, ...], order: Any) -> None:
    rows = np.array(random_array(shape, "f8", 0), order=order)
    request = Request() if len(rows) == 60 else Request([0, 0])
    check(tmp_path / "rows.npy", write_npy(tmp_path / "rows.npy", rows), request)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_npy_versions(tmp_path: Path, version: tuple[int, int]) -> None:
    check(tmp_path / "rows.npy", write_npy(tmp_path / "rows.npy", ROWS, version=version))


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_npy_with_fields_of_other_alphabets(tmp_path: Path) -> None:
    rows = random_array((60,), [("\u00e9", "f4"), ("b", "i2")], 0)
    check(tmp_path / "rows.npy", write_npy(tmp_path / "rows.npy", rows))


@pytest.mark.parametrize("dtype", ["f8", ">f4", "u1", ">i2", "c8", "S3", RECORD], ids=str)
@pytest.mark.parametrize("row_shape", [None, (5,), (2, 3)], ids=str)
def test_raw_files(tmp_path: Path, dtype: Any, row_shape: tuple[int, ...] | None) -> None:
    rows = random_array((60, *(row_shape or ())), dtype, 0)
    rows.tofile(tmp_path / "rows.bin")
    check(tmp_path / "rows.bin", rows, dtype=dtype, row_shape=row_shape)


def test_a_row_of_a_raw_file_may_be_in_the_dtype(tmp_path: Path) -> None:
    ROWS.tofile(tmp_path / "rows.bin")
    check(tmp_path / "rows.bin", ROWS, dtype="(6,5)i4")


# --- Handles of all kinds


KINDS: dict[str, Callable[[Path], swath.RowArray]] = {
    "zarr-v3": lambda f: _zarr(f, chunks=GRID, compressors=[codec("gzip", level=1)]),
    "zarr-v3-shards": lambda f: _zarr(f, chunks=GRID, serializer=sharded((2, 4, 5)), compressors=None),
    "zarr-v2": lambda f: _zarr(f, chunks=GRID, zarr_format=2),
    "hdf5": lambda f: swath.open(write_hdf5(f / "a.h5", ROWS)[0]),
    "hdf5-chunked": lambda f: swath.open(write_hdf5(f / "a.h5", ROWS, chunks=GRID)[0]),
    "hdf5-gzip": lambda f: swath.open(write_hdf5(f / "a.h5", ROWS, chunks=GRID, compression="gzip")[0]),
    "npy": lambda f: _npy(f, ROWS),
    "npy-f-order": lambda f: _npy(f, np.asfortranarray(ROWS)),
    "raw": lambda f: _raw(f),
    "store": lambda f: swath.ingest(ROWS, f / "a.zarr", progress=False),
}


def _zarr(folder: Path, **options: Any) -> swath.RowArray:
    write_zarr(folder / "a.zarr", ROWS, **options)
    return swath.open(folder / "a.zarr")


def _npy(folder: Path, rows: Rows) -> swath.RowArray:
    write_npy(folder / "a.npy", rows)
    return swath.open(folder / "a.npy")


def _raw(folder: Path) -> swath.RowArray:
    ROWS.tofile(folder / "a.bin")
    return swath.open(folder / "a.bin", dtype="i4", row_shape=(6, 5))


WANTED = expected(ROWS, STARTS, WINDOW)

_SPAWNED = """
import pickle, sys
handles, starts = pickle.load(open(sys.argv[1], "rb"))
batches = {name: a.gather(starts) for name, a in handles.items()}
pickle.dump(batches, open(sys.argv[2], "wb"))
"""


def test_handles_of_all_kinds_travel(tmp_path: Path) -> None:
    handles = {}
    for name, make in KINDS.items():
        (tmp_path / name).mkdir()
        handles[name] = make(tmp_path / name)
        handles[name].gather(STARTS)  # what is cached stays here
        assert len(pickle.dumps(handles[name])) < 5000
    (tmp_path / "in").write_bytes(pickle.dumps((handles, STARTS)))
    subprocess.run([sys.executable, "-c", _SPAWNED, tmp_path / "in", tmp_path / "out"], check=True)
    batches: dict[str, Rows] = pickle.loads((tmp_path / "out").read_bytes())
    for name in KINDS:
        assert_same(batches[name], WANTED)


@pytest.mark.parametrize("name", KINDS)
def test_a_forked_child_gathers(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    assert_same(a.gather(STARTS), WANTED)  # threads have run in the parent
    with multiprocessing.get_context("fork").Pool(1) as pool:
        batch: Rows = pool.apply_async(a.gather, (STARTS,)).get(timeout=30)
    assert_same(batch, WANTED)
    assert_same(a.gather(STARTS), WANTED)


@pytest.mark.parametrize("name", KINDS)
def test_threads_share_a_handle(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    with ThreadPoolExecutor(4) as pool:
        for batch in pool.map(lambda _: a.gather(STARTS), range(12)):
            assert_same(batch, WANTED)
    lazy = a.windows(STARTS, block=2)
    assert_same(lazy.compute(scheduler="threads"), WANTED)
    assert_same(swath.compute(lazy[::-1, 3:, ::2]), WANTED[::-1, 3:, ::2])


@pytest.mark.parametrize("name", KINDS)
def test_batches_of_all_kinds_land_anywhere(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    strided = np.empty((*WANTED.shape[:-1], 10), "i4")[..., ::2]
    a.gather(STARTS, out=strided)
    assert_same(strided, WANTED)
    on_disk = np.memmap(tmp_path / "out", "i4", "w+", shape=WANTED.shape)
    swath.compute(a.windows(STARTS), out=on_disk)
    assert_same(np.asarray(on_disk), WANTED)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"starts": [45]}, WindowOutOfBoundsError, id="start"),
        pytest.param({"window": 61}, WindowError, id="window"),
        pytest.param({"columns": [6]}, ColumnsError, id="column"),
        pytest.param({"out": np.empty((1, 16, 6, 4), "i4")}, OutError, id="out"),
        pytest.param({"verify": "sometimes"}, OptionError, id="verify"),
    ],
)
def test_a_bad_request_is_refused(tmp_path: Path, name: str, options: dict[str, Any], error: type[SwathError]) -> None:
    with pytest.raises(error):
        KINDS[name](tmp_path).gather(**{"starts": [0], **options})


@pytest.mark.parametrize("name", KINDS)
def test_a_handle_does_not_depend_on_the_working_directory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    url = KINDS[name](tmp_path).url
    options: dict[str, Any] = {"dtype": "i4", "row_shape": (6, 5)} if name == "raw" else {}
    monkeypatch.chdir(tmp_path)
    a = swath.open(os.path.relpath(url), **options)
    monkeypatch.chdir("elsewhere")
    assert_same(a.gather(STARTS), WANTED)


@pytest.mark.parametrize("name", ["hdf5", "hdf5-gzip"])
def test_a_file_that_the_caller_has_open_too(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    with h5py.File(tmp_path / "a.h5") as file:
        assert_same(a.gather(STARTS), WANTED)
        assert_same(swath.open(a.url).gather(STARTS), WANTED)
        assert_same(file["group/rows"][...], ROWS)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_stays_open(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    a.gather(STARTS)
    swath.compute(a.windows(STARTS))
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [link for link in links if link.startswith(str(tmp_path))]


@pytest.mark.parametrize("name", KINDS)
def test_what_cannot_fit_is_refused(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    with pytest.raises(MemoryLimitError, match="limit is"):
        a.gather(STARTS, memory_limit="10kB")
    assert_same(a.gather(STARTS, memory_limit="1GiB"), WANTED)


@pytest.mark.parametrize("name", KINDS)
def test_the_window_of_a_handle(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    assert a.window == 16
    options: dict[str, Any] = {"dtype": "i4", "row_shape": (6, 5)} if name == "raw" else {}
    narrow = swath.open(a.url, window=3, **options)
    assert narrow.window == 3
    assert_same(narrow.gather(STARTS), expected(ROWS, STARTS, 3))


MEMORY: dict[str, Callable[[Path, Rows], str]] = {
    "zarr-columns": lambda f, rows: _large_zarr(f, rows, chunks=(4000, 10), compressors=[codec("gzip", level=1)]),
    "zarr-within-another-codec": lambda f, rows: _large_zarr(
        f, rows, chunks=(1000, 500), serializer=sharded((50, 100)), compressors=[codec("zstd", level=1, checksum=False)]
    ),
    "hdf5-gzip": lambda f, rows: write_hdf5(f / "a.h5", rows, chunks=(1000, 50), compression="gzip")[0],
    "npy-f-order": lambda f, rows: _saved(f, np.asfortranarray(np.tile(rows, 8))),
}


def _large_zarr(folder: Path, rows: Rows, **options: Any) -> str:
    write_zarr(folder / "a.zarr", rows, **options)
    return str(folder / "a.zarr")


@pytest.mark.parametrize("name", MEMORY)
def test_the_projected_peak_is_never_passed(tmp_path: Path, name: str) -> None:
    """Of 16 MB or more, of which the windows want all; by the kernel's count, in a fresh process."""
    rows = np.random.default_rng(0).normal(size=(4000, 500)).round(1)
    measured = _measure(MEMORY[name](tmp_path, rows), 300)
    assert measured["added"] <= measured["projected"], measured


# --- What is refused, and what is damaged


def _dataset(folder: Path, **options: Any) -> str:
    return write_hdf5(folder / "rows.h5", ROWS, **options)[0]


def _bytes(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def _changed_npy(folder: Path, change: Callable[[bytes], bytes]) -> str:
    write_npy(folder / "rows.npy", ROWS)
    return _bytes(folder, "rows.npy", change((folder / "rows.npy").read_bytes()))


def _saved(folder: Path, rows: Rows) -> str:
    write_npy(folder / "rows.npy", rows)
    return f"{folder}/rows.npy"


def _special(folder: Path) -> str:
    with h5py.File(folder / "rows.h5", "w") as file:
        file["scalar"] = 5
        file["null"] = h5py.Empty("f8")
        file["no-rows"] = ROWS[:0]
        file.create_dataset("text", data=["a", "bc"], dtype=h5py.string_dtype())
        file.create_dataset("ragged", (5,), h5py.vlen_dtype("i4"))
        file.create_dataset("references", (5,), h5py.ref_dtype)
        file.create_dataset("chunked-text", (5,), h5py.string_dtype(), chunks=(2,))
        file.create_group("group")
        file["dangling"] = h5py.SoftLink("/nowhere")
    return f"{folder}/rows.h5::"


def _virtual(folder: Path) -> str:
    _dataset(folder)
    layout = h5py.VirtualLayout((60, 6, 5), "i4")
    layout[...] = h5py.VirtualSource(str(folder / "rows.h5"), "group/rows", (60, 6, 5))
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    return f"{folder}/virtual.h5::x"


def _external(folder: Path) -> str:
    ROWS.tofile(folder / "bytes")
    with h5py.File(folder / "external.h5", "w") as file:
        file.create_dataset("x", ROWS.shape, "i4", external=[(str(folder / "bytes"), 0, ROWS.nbytes)])
    return f"{folder}/external.h5::x"


def _unknown_filter(folder: Path) -> str:
    """A filter that nobody has: as where its plugin is not installed."""
    with h5py.File(folder / "rows.h5", "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((8,))
        creation.set_filter(32_767, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((60,))
        dataset = h5py.h5d.create(file.id, b"rows", h5py.h5t.NATIVE_INT32, space, creation)
        for row in range(0, 60, 8):
            dataset.write_direct_chunk((row,), b"encoded")
    return f"{folder}/rows.h5::rows"


def _pickled(folder: Path) -> str:
    np.save(folder / "rows.npy", np.array([{}, None] * 30), allow_pickle=True)
    return f"{folder}/rows.npy"


REFUSED: dict[str, tuple[Callable[[Path], str], dict[str, Any], type[SwathError], str]] = {
    "missing-npy": (lambda f: f"{f}/rows.npy", {}, SwathError, r"rows\.npy"),
    "missing-hdf5": (lambda f: f"{f}/rows.h5::x", {}, SwathError, r"rows\.h5"),
    "missing-raw": (lambda f: f"{f}/rows.bin", {"dtype": "f8"}, SwathError, r"rows\.bin"),
    "missing-dataset": (lambda f: _dataset(f) + "2", {}, SwathError, r"rows\.h5.*group/rows2"),
    "no-dataset-named": (lambda f: _dataset(f).partition("::")[0], {}, SwathError, r"rows\.h5.*group/rows"),
    "dataset-of-npy": (lambda f: _changed_npy(f, bytes) + "::x", {}, SwathError, r"rows\.npy"),
    "hdf5-group": (lambda f: _special(f) + "group", {}, SwathError, r"rows\.h5.*group"),
    "hdf5-scalar": (lambda f: _special(f) + "scalar", {}, SwathError, "scalar"),
    "hdf5-null": (lambda f: _special(f) + "null", {}, SwathError, "null"),
    "hdf5-no-rows": (lambda f: _special(f) + "no-rows", {}, SwathError, r"no-rows.*\(0, 6, 5\)"),
    "hdf5-dangling": (lambda f: _special(f) + "dangling", {}, SwathError, "dangling"),
    "hdf5-text": (lambda f: _special(f) + "text", {}, SwathError, "text.* object"),
    "hdf5-chunked-text": (lambda f: _special(f) + "chunked-text", {}, SwathError, "chunked-text.* object"),
    "hdf5-ragged": (lambda f: _special(f) + "ragged", {}, SwathError, "ragged.* object"),
    "hdf5-references": (lambda f: _special(f) + "references", {}, SwathError, "references.* object"),
    "hdf5-virtual": (_virtual, {}, SourceError, "::/x keeps its values in other files"),
    "hdf5-external": (_external, {}, SourceError, "::/x keeps its values in other files"),
    "hdf5-cut": (lambda f: _cut_hdf5(f), {}, SwathError, r"rows\.h5"),
    "no-hdf5": (lambda f: _bytes(f, "rows.h5", b"text") + "::x", {}, SwathError, r"rows\.h5"),
    "npy-cut": (lambda f: _changed_npy(f, lambda b: b[:-1]), {}, SwathError, r"rows\.npy.*7327 bytes"),
    "npy-trailing": (lambda f: _changed_npy(f, lambda b: b + b"x"), {}, SwathError, r"rows\.npy.*7329 bytes"),
    "npy-header-cut": (lambda f: _changed_npy(f, lambda b: b[:40]), {}, SwathError, r"rows\.npy"),
    "npy-huge": (lambda f: _changed_npy(f, lambda b: b.replace(b"(60, 6, 5)", b"(60 ,2**59)")), {}, SwathError, r"rows\.npy"),
    "npy-scalar": (lambda f: _saved(f, np.array(5.0)), {}, SwathError, r"rows\.npy"),
    "npy-no-rows": (lambda f: _saved(f, ROWS[:0]), {}, SwathError, r"rows\.npy.*\(0, 6, 5\)"),
    "npy-pickled": (_pickled, {}, SwathError, r"rows\.npy.* object"),
    "raw-without-dtype": (lambda f: _bytes(f, "rows.bin", bytes(80)), {}, SwathError, r"rows\.bin.*dtype="),
    "raw-rest": (lambda f: _bytes(f, "rows.bin", bytes(81)), {"dtype": "f8"}, SwathError, r"rows\.bin.*81 bytes"),
    "raw-objects": (lambda f: _bytes(f, "rows.bin", bytes(80)), {"dtype": "O"}, SwathError, "object"),
    "raw-unknown-dtype": (lambda f: _bytes(f, "rows.bin", bytes(80)), {"dtype": "float65"}, SwathError, "float65"),
    "raw-row-shape": (
        lambda f: _bytes(f, "rows.bin", bytes(80)),
        {"dtype": "f8", "row_shape": (-1,)},
        SwathError,
        "row_shape",
    ),
    "window": (lambda f: _changed_npy(f, bytes), {"window": 0}, SwathError, "window is 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_array_of_rows_is_refused(tmp_path: Path, name: str) -> None:
    make, options, error, message = REFUSED[name]
    url = make(tmp_path)
    with pytest.raises(error, match=message):
        swath.open(url, **options)


def test_a_filter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SwathError, match=r"rows\.h5.*32767"):
        swath.open(_unknown_filter(tmp_path)).gather([0])


@pytest.mark.parametrize("name", ["missing-npy", "missing-hdf5", "missing-raw", "missing-dataset"])
def test_what_is_missing_is_also_the_builtin_error(tmp_path: Path, name: str) -> None:
    make, options, _, _ = REFUSED[name]
    with pytest.raises(FileNotFoundError):
        swath.open(make(tmp_path), **options)


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    header = Path(_pickled(tmp_path)).read_bytes()[:128]
    with pytest.raises(SwathError):
        swath.open(_bytes(tmp_path, "trap.npy", header + pickle.dumps(Trap())))
    assert not (tmp_path / "sprung").exists()


def _cut_hdf5(folder: Path) -> str:
    url = _dataset(folder)
    content = (folder / "rows.h5").read_bytes()
    (folder / "rows.h5").write_bytes(content[: len(content) // 2])
    return url


def _damage(folder: Path, change: Callable[[bytes], bytes], **options: Any) -> str:
    """The chunk of rows 8 to 15, columns 4 and 5, is changed where it lies."""
    url = _dataset(folder, chunks=GRID, **options)
    with h5py.File(folder / "rows.h5") as file:
        chunk = file["group/rows"].id.get_chunk_info_by_coord((8, 4, 0))
    content = (folder / "rows.h5").read_bytes()
    start, stop = chunk.byte_offset, chunk.byte_offset + chunk.size
    (folder / "rows.h5").write_bytes(content[:start] + change(content[start:stop]) + content[stop:])
    return url


@pytest.mark.parametrize("name", ["fletcher32", "gzip", "gzip-shuffle-fletcher32"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda b: b[:30] + bytes([b[30] ^ 16]) + b[31:], id="flipped"),
        pytest.param(lambda b: b[:-20] + bytes(20), id="tail"),
        pytest.param(lambda b: bytes([0x55] * len(b)), id="all"),  # zeros have the fletcher32 checksum zero
    ],
)
def test_a_damaged_hdf5_chunk_is_told(tmp_path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    a = swath.open(_damage(tmp_path, change, **FILTERS[name]))
    with pytest.raises(DamagedStoreError, match=r"rows\.h5"):
        a.gather(STARTS)
    with pytest.raises(DamagedStoreError, match=r"rows\.h5"):
        swath.compute(a.windows(STARTS))
    assert_same(a.gather([40, 16, 30]), expected(ROWS, [40, 16, 30], WINDOW))


@pytest.mark.parametrize("name", ["npy", "raw", "hdf5", "hdf5-chunked", "hdf5-gzip"])
def test_a_file_cut_after_it_was_opened_is_an_error(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if path.is_file())
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SwathError, match=path.name):
        a.gather(STARTS)


@pytest.mark.parametrize("name", ["npy", "raw", "hdf5", "hdf5-chunked", "hdf5-gzip"])
def test_a_file_deleted_after_it_was_opened_is_an_error(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if path.is_file())
    path.unlink()
    with pytest.raises(SwathError, match=path.name):
        a.gather(STARTS)


@pytest.mark.parametrize("name", ["npy", "raw", "hdf5", "hdf5-chunked", "hdf5-gzip"])
def test_a_file_rewritten_after_it_was_opened_is_told(tmp_path: Path, name: str) -> None:
    """Where its chunks lay is no longer true: none of the old places is read."""
    a = KINDS[name](tmp_path)
    a.gather(STARTS)
    (path,) = (path for path in tmp_path.iterdir() if path.is_file())
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(StoreChangedError, match=path.name):
        a.gather(STARTS)


@pytest.mark.parametrize("name", ["zarr-v3", "zarr-v3-shards", "zarr-v2"])
def test_an_array_replaced_after_it_was_opened_is_told(tmp_path: Path, name: str) -> None:
    a = KINDS[name](tmp_path)
    a.gather(STARTS)
    shutil.rmtree(tmp_path / "a.zarr")
    write_zarr(tmp_path / "a.zarr", ROWS.astype("f4"), chunks=GRID, zarr_format=2 if name == "zarr-v2" else 3)
    with pytest.raises(StoreChangedError, match=r"a\.zarr"):
        a.gather(STARTS)


def test_a_relative_path_of_hdf5_is_one_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that opens HDF5 was begun in another folder, where there may be a file of the same name."""
    for k in range(2):
        (tmp_path / f"{k}").mkdir()
        monkeypatch.chdir(tmp_path / f"{k}")
        with h5py.File("a.h5", "w") as file:
            file["x"] = np.full((10 + k, 2), k)
        assert len(swath.open("a.h5::x")) == len(swath.ingest("a.h5::x", "a.zarr")) == 10 + k
