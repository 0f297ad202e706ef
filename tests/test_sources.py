"""Everything that can come in equals itself after the ingest, and what cannot is refused with its name."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from children import bytes_read_by_hdf5
from dask.base import tokenize
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.errors import LayoutError, OptionError, SourceError, SourceNotFoundError, StoreNotFoundError, SwathError

ROWS = np.random.default_rng(0).normal(size=(500, 6, 4))
NUMBERS = np.arange(500, dtype="u1") % 9
RECORDS = np.array([(b"chr1", i, i / 7) for i in range(500)], [("chr", "S10"), ("pos", "<i4"), ("pct", "<f4")])
STARTS = [480, 0, 3, 3, 250, 484]


def _saved(folder: Path, array: NDArray[Any]) -> Path:
    np.save(folder / "rows.npy", array)
    return folder / "rows.npy"


def _memmap(folder: Path, mode: str, **options: Any) -> Any:
    return np.load(_saved(folder, ROWS), mmap_mode=mode)  # type: ignore[arg-type]


def _hdf5(folder: Path, array: NDArray[Any] = ROWS, *, userblock: int = 0, **options: Any) -> str:
    with h5py.File(folder / "rows.h5", "w", userblock_size=userblock) as file:
        file.create_dataset("group/rows", data=array, **options)
    return f"{folder}/rows.h5::group/rows"


def _hdf5_of_arrays(folder: Path) -> str:
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("rows", (500,), np.dtype((float, (6, 4))))[...] = ROWS
    return f"{folder}/rows.h5::rows"


def _open_hdf5(folder: Path) -> Any:
    file = h5py.File(folder / "unflushed.h5", "w")
    dataset = file.create_dataset("rows", ROWS.shape, "f8")
    for i, row in enumerate(ROWS):  # small writes stay in HDF5's buffers
        dataset[i] = row
    return dataset


def _core_hdf5(folder: Path) -> Any:
    return h5py.File(folder / "core.h5", "w", driver="core", backing_store=False).create_dataset("rows", data=ROWS)


def _private_memmap(folder: Path) -> Any:
    mapped = _memmap(folder, "c")
    mapped[3:5] = 7  # in memory only: the file still holds the old rows
    return mapped


SOURCES: dict[str, tuple[Callable[[Path], Any], NDArray[Any]]] = {
    "array": (lambda folder: ROWS, ROWS),
    "array-f-order": (lambda folder: np.asfortranarray(ROWS), ROWS),
    "array-strided": (lambda folder: np.repeat(ROWS, 2, axis=0)[::2, :, ::-1][..., ::-1], ROWS),
    "array-big-endian": (lambda folder: ROWS.astype(">f8"), ROWS),
    "array-1d": (lambda folder: ROWS[:, 0, 0], ROWS[:, 0, 0].copy()),
    "records": (lambda folder: RECORDS, RECORDS),
    "memmap": (lambda folder: _memmap(folder, "r"), ROWS),
    "memmap-part": (lambda folder: _memmap(folder, "r+")[7:], ROWS[7:]),
    "memmap-strided-part": (lambda folder: _memmap(folder, "r")[7::2], ROWS[7::2]),
    "memmap-private": (_private_memmap, np.concatenate([ROWS[:3], np.full((2, 6, 4), 7.0), ROWS[5:]])),
    "npy": (lambda folder: _saved(folder, ROWS), ROWS),
    "npy-as-text": (lambda folder: str(_saved(folder, ROWS)), ROWS),
    "npy-f-order": (lambda folder: _saved(folder, np.asfortranarray(ROWS)), ROWS),
    "npy-big-endian": (lambda folder: _saved(folder, ROWS.astype(">f8")), ROWS),
    "npy-records": (lambda folder: _saved(folder, RECORDS), RECORDS),
    "hdf5-contiguous": (_hdf5, ROWS),
    "hdf5-userblock": (lambda folder: _hdf5(folder, userblock=1024), ROWS),
    "hdf5-gzip": (
        lambda folder: _hdf5(folder, chunks=(13, 6, 4), compression="gzip", shuffle=True, fletcher32=True),
        ROWS,
    ),
    "hdf5-lzf": (lambda folder: _hdf5(folder, chunks=(64, 2, 4), compression="lzf"), ROWS),
    "hdf5-columns": (lambda folder: _hdf5(folder, chunks=(500, 1, 1)), ROWS),
    "hdf5-compact-records": (lambda folder: _hdf5(folder, RECORDS), RECORDS),
    "hdf5-big-endian": (lambda folder: _hdf5(folder, ROWS.astype(">f8")), ROWS),
    "hdf5-bool": (lambda folder: _hdf5(folder, ROWS > 0), ROWS > 0),
    "hdf5-complex": (lambda folder: _hdf5(folder, ROWS + 1j), ROWS + 1j),
    "hdf5-fixed-text": (lambda folder: _hdf5(folder, RECORDS["chr"].copy()), RECORDS["chr"].copy()),
    "hdf5-enum": (
        lambda folder: _hdf5(folder, NUMBERS, dtype=h5py.enum_dtype({str(n): n for n in range(9)}, "u1")),
        NUMBERS,
    ),
    "hdf5-utf-8": (
        lambda folder: _hdf5(folder, np.array([b"\xc3\xa9"] * 500, h5py.string_dtype("utf-8", 4))),
        np.array([b"\xc3\xa9"] * 500, "S4"),
    ),
    "hdf5-datetime": (
        lambda folder: _hdf5(folder, NUMBERS.astype("M8[s]").astype(h5py.opaque_dtype("M8[s]"))),
        NUMBERS.astype("M8[s]"),
    ),
    "hdf5-arrays": (_hdf5_of_arrays, ROWS),
    "hdf5-without-a-name": (
        lambda folder: h5py.File(folder / "rows.h5", "w").create_dataset(None, data=ROWS, chunks=(9, 6, 4)),
        ROWS,
    ),
    "hdf5-unflushed": (_open_hdf5, ROWS),
    "hdf5-in-memory": (_core_hdf5, ROWS),
    "dask": (lambda folder: da.from_array(ROWS, chunks=(77, 6, 4)), ROWS),
    "dask-columns": (lambda folder: da.from_array(ROWS, chunks=((1, 99, 400), 2, 3)), ROWS),
    "dask-one-block": (lambda folder: da.from_array(ROWS, chunks=-1) + 0, ROWS),
    "list": (
        lambda folder: [ROWS[:100], _saved(folder, ROWS[100:350]), _hdf5(folder, ROWS[350:], chunks=(9, 6, 4))],
        ROWS,
    ),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("shard_rows", [32, 256])
def test_a_source_equals_itself(tmp_path: Path, name: str, shard_rows: int) -> None:
    make, wanted = SOURCES[name]
    a = swath.ingest(make(tmp_path), tmp_path / "a.zarr", chunk_rows=4, shard_rows=shard_rows)
    assert a.shape == wanted.shape
    starts = [min(s, len(wanted) - 16) for s in STARTS]
    assert_same(a.gather(starts), expected(wanted, starts, 16))
    assert_same(a.gather([0], window=len(a)), wanted[None])


def test_raw_binary(tmp_path: Path) -> None:
    ROWS.astype(">f4").tofile(tmp_path / "rows.bin")
    a = swath.ingest(tmp_path / "rows.bin", tmp_path / "a.zarr", dtype=">f4", row_shape=(6, 4))
    assert_same(a.gather(STARTS), expected(ROWS.astype("f4"), STARTS, 16))
    assert swath.ingest(tmp_path / "rows.bin", tmp_path / "b.zarr", dtype="u1").shape == (500 * 24 * 4,)


def test_a_row_may_be_in_the_dtype(tmp_path: Path) -> None:
    ROWS.tofile(tmp_path / "rows.bin")
    a = swath.ingest(tmp_path / "rows.bin", tmp_path / "a.zarr", dtype="(6,4)f8")
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 16))


def test_files_of_a_list_are_segments(tmp_path: Path) -> None:
    paths = []
    for i, rows in enumerate((ROWS[:100], ROWS[100:101], ROWS[101:])):
        np.save(tmp_path / f"{i}.npy", rows)
        paths.append(tmp_path / f"{i}.npy")
    a = swath.ingest(paths, tmp_path / "a.zarr")
    assert a.segments.tolist() == [[0, 100], [100, 101], [101, 500]]
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 16))
    assert swath.ingest(ROWS, tmp_path / "b.zarr").segments.tolist() == [[0, 500]]


def test_each_dask_block_is_computed_once(tmp_path: Path) -> None:
    computed: list[int] = []

    def block(rows: NDArray[Any]) -> NDArray[Any]:
        computed.append(len(rows))
        return rows

    lazy = da.from_array(ROWS, chunks=(77, 3, 4)).map_blocks(block, meta=ROWS[:0])
    swath.ingest(lazy, tmp_path / "a.zarr", chunk_rows=4, shard_rows=32)
    assert len(computed) == lazy.npartitions


def test_each_hdf5_chunk_is_decoded_once(tmp_path: Path) -> None:
    """Chunks of 500 rows: with the chunk cache that h5py opens by default, each would be decoded for each shard."""
    from swath.sources import open_source

    rows = np.random.default_rng(0).integers(0, 9, (1000, 5000))
    source = open_source(_hdf5(tmp_path, rows, chunks=(500, 5000), compression="gzip"))
    assert source.read_bytes == 500 * 5000 * 8
    before = bytes_read_by_hdf5()
    for start in range(0, 1000, 10):
        source.read_into(start, np.empty((10, 5000), np.int64))
    assert bytes_read_by_hdf5() - before <= 1.2 * (tmp_path / "rows.h5").stat().st_size


def test_hdf5_chunks_as_long_as_the_array_are_read_in_little_memory(tmp_path: Path) -> None:
    """All chunks together would not fit: they are decoded again for each shard, rather than held."""
    rows = np.random.default_rng(0).integers(0, 9, (50_000, 100), np.int64)  # 40 MB, in chunks of 400 KB
    name = _hdf5(tmp_path, rows, chunks=(50_000, 1), compression="gzip")
    a = swath.ingest(name, tmp_path / "a.zarr", memory_limit="16MB", shard_rows=12_500, chunk_rows=500)
    assert_same(a.gather([49_000, 3], window=1000), expected(rows, [49_000, 3], 1000))


def _corrupt_hdf5(folder: Path) -> str:
    name = _hdf5(folder, chunks=(50, 6, 4), compression="gzip")
    with h5py.File(folder / "rows.h5") as file:
        info = file["group/rows"].id.get_chunk_info(5)
    with (folder / "rows.h5").open("r+b") as raw:
        raw.seek(info.byte_offset + 20)
        raw.write(b"\0" * 50)
    return name


def _truncated_hdf5(folder: Path) -> str:
    name = _hdf5(folder)
    content = (folder / "rows.h5").read_bytes()
    (folder / "rows.h5").write_bytes(content[: len(content) // 2])
    return name


def _virtual(folder: Path) -> str:
    layout = h5py.VirtualLayout((500,), "f8")
    layout[...] = h5py.VirtualSource(str(folder / "missing.h5"), "x", (500,))
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    return f"{folder}/virtual.h5::x"


def _external(folder: Path) -> str:
    (folder / "bytes").write_bytes(bytes(80))
    with h5py.File(folder / "external.h5", "w") as file:
        file.create_dataset("x", (10,), "f8", external=[(str(folder / "bytes"), 0, 80)])
    return f"{folder}/external.h5::x"


def _special_hdf5(folder: Path) -> str:
    with h5py.File(folder / "special.h5", "w") as file:
        file["scalar"] = 5
        file["null"] = h5py.Empty("f8")
        file["no-rows"] = np.empty((0, 3))
        file.create_dataset("text", data=["a", "bc"], dtype=h5py.string_dtype())
        file.create_group("group")
    return f"{folder}/special.h5"


def _hdf5_references(folder: Path) -> str:
    with h5py.File(folder / "references.h5", "w") as file:
        file.create_dataset("x", (5,), h5py.ref_dtype)
    return f"{folder}/references.h5::x"


def _npy(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    path = _saved(folder, ROWS)
    path.write_bytes(change(path.read_bytes()))
    return path


def _pickled(folder: Path) -> Path:
    np.save(folder / "objects.npy", np.array([{}, None]), allow_pickle=True)
    return folder / "objects.npy"


def _bytes(folder: Path, content: bytes) -> Path:
    (folder / "some.bin").write_bytes(content)
    return folder / "some.bin"


BAD: dict[str, tuple[Callable[[Path], Any], dict[str, Any], type[SwathError], str]] = {
    "missing-file": (lambda f: f / "nothing.npy", {}, SourceNotFoundError, "no file .*nothing.npy.*Check the path"),
    "missing-hdf5": (lambda f: f"{f}/nothing.h5::x", {}, SourceNotFoundError, "no file .*nothing.h5"),
    "missing-dataset": (lambda f: _hdf5(f) + "2", {}, SourceNotFoundError, "no dataset 'group/rows2'. It has: group/rows"),
    "no-dataset-named": (lambda f: _hdf5(f).partition("::")[0], {}, SourceError, "no dataset is named.*group/rows"),
    "hdf5-group": (lambda f: _special_hdf5(f) + "::group", {}, SourceNotFoundError, "a group 'group'"),
    "hdf5-scalar": (lambda f: _special_hdf5(f) + "::scalar", {}, SourceError, "::/scalar is a single value"),
    "hdf5-null": (lambda f: _special_hdf5(f) + "::null", {}, SourceError, "::/null is empty"),
    "hdf5-no-rows": (lambda f: _special_hdf5(f) + "::no-rows", {}, SourceError, r"no rows \(shape \(0, 3\)\)"),
    "hdf5-text": (lambda f: _special_hdf5(f) + "::text", {}, SourceError, r"::/text has dtype object.*astype\('S10'\)"),
    "hdf5-corrupt-chunk": (_corrupt_hdf5, {}, SourceError, r"chunk \d+ \(rows .*\) cannot be decoded"),
    "hdf5-truncated": (_truncated_hdf5, {}, SourceError, "cannot be opened as HDF5"),
    "hdf5-virtual": (_virtual, {}, SourceError, "::/x keeps its values in other files"),
    "hdf5-external": (_external, {}, SourceError, "::/x keeps its values in other files"),
    "hdf5-file-object": (lambda f: h5py.File(f / "file.h5", "w"), {}, SourceError, "File is no HDF5 dataset"),
    "dataset-of-npy": (lambda f: f"{_saved(f, ROWS)}::x", {}, SourceError, "neither HDF5 nor .npz, so it has no dataset 'x'"),
    "npy-cut": (lambda f: _npy(f, lambda b: b[:-1]), {}, SourceError, r"96127 bytes, but its header .* needs 96128"),
    "npy-trailing": (lambda f: _npy(f, lambda b: b + b"x"), {}, SourceError, "96129 bytes, but its header"),
    "npy-header-cut": (lambda f: _npy(f, lambda b: b[:40]), {}, SourceError, "no valid .npy header"),
    "npy-version": (lambda f: _npy(f, lambda b: b[:6] + b"\x09" + b[7:]), {}, SourceError, "no valid .npy header"),
    "npy-pickled": (_pickled, {}, SourceError, "objects.npy has dtype object"),
    "npy-scalar": (lambda f: _saved(f, np.array(5.0)), {}, SourceError, "single value"),
    "npy-no-rows": (lambda f: _saved(f, ROWS[:0]), {}, SourceError, "no rows"),
    "folder": (lambda f: f, {}, SourceError, "is a folder without images. Give a file"),
    "raw-without-dtype": (lambda f: _bytes(f, b"a\0c"), {}, SourceError, r"neither .npy, HDF5 nor text.*begins with b'a\\x00c'.*give dtype="),
    "raw-rest": (lambda f: _bytes(f, bytes(25)), {"dtype": "f8"}, SourceError, "25 bytes.*whole number of rows of 8 bytes.*1 are left"),
    "raw-empty": (lambda f: _bytes(f, b""), {"dtype": "f8"}, SourceError, "no rows"),
    "raw-row-shape": (lambda f: _bytes(f, bytes(8)), {"dtype": "f8", "row_shape": (0,)}, OptionError, r"row_shape is \(0,\)"),
    "raw-row-shape-float": (lambda f: _bytes(f, bytes(24)), {"dtype": "f8", "row_shape": (1.5,)}, OptionError, r"row_shape is \(1\.5,\)"),
    "raw-row-shape-int": (lambda f: _bytes(f, bytes(24)), {"dtype": "f8", "row_shape": 3}, OptionError, "row_shape is 3"),
    "raw-row-shape-negative": (lambda f: _bytes(f, bytes(24)), {"dtype": "f8", "row_shape": (-1,)}, OptionError, "row_shape is"),
    "unknown-dtype": (lambda f: ROWS, {"dtype": "float65"}, OptionError, "dtype is 'float65'"),
    "hdf5-references": (_hdf5_references, {}, SourceError, "dtype object"),
    "raw-objects": (lambda f: _bytes(f, bytes(8)), {"dtype": "O"}, SourceError, "dtype object"),
    "dtype": (lambda f: ROWS, {"dtype": "f4"}, SourceError, r"value of row 0 at \(0, 0\) is np.float64\(.* as float32"),
    "array-scalar": (lambda f: np.array(5), {}, SourceError, "single value"),
    "array-masked": (lambda f: np.ma.masked_array(ROWS, ROWS > 0), {}, SourceError, "lose its mask"),
    "array-no-rows": (lambda f: ROWS[:0], {}, SourceError, r"no rows \(shape \(0, 6, 4\)\)"),
    "array-objects": (lambda f: np.array(["a", None]), {}, SourceError, "dtype object"),
    "array-empty-rows": (lambda f: ROWS[:, :0], {}, LayoutError, r"shape \(0, 4\)"),
    "empty-list": (lambda f: [], {}, SourceError, "list of sources is empty"),
    "list-of-unlike-rows": (lambda f: [ROWS, ROWS[:, :3]], {}, SourceError, r"Source 1 .*\(3, 4\).*source 0 .*\(6, 4\)"),
    "list-of-unlike-dtypes": (lambda f: [ROWS, ROWS.astype("f4")], {}, SourceError, "Source 1 .*float32.*float64"),
    "dask-unknown": (lambda f: da.from_array(ROWS)[da.from_array(ROWS)[:, 0, 0] > 0], {}, SourceError, "compute_chunk_sizes"),
    "dask-no-rows": (lambda f: da.from_array(ROWS)[:0], {}, SourceError, "no rows"),
    "number": (lambda f: 5, {}, SourceError, "A int is no source"),
    "none": (lambda f: None, {}, SourceError, "A NoneType is no source"),
    "window": (lambda f: ROWS, {"window": 0}, OptionError, "window is 0"),
    "memory": (lambda f: ROWS, {"memory_limit": 1000}, swath.errors.MemoryLimitError, "needs .*limit is 1000 B"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_source_is_named_and_leaves_no_store(tmp_path: Path, name: str) -> None:
    make, options, error, message = BAD[name]
    source = make(tmp_path)
    with pytest.raises(error, match=message) as caught:
        swath.ingest(source, tmp_path / "a.zarr", **options)
    assert isinstance(caught.value, SwathError)
    with pytest.raises((StoreNotFoundError, swath.errors.IncompleteStoreError)):
        swath.open(tmp_path / "a.zarr")


def test_a_dask_array_that_lies_about_its_shape_is_refused(tmp_path: Path) -> None:
    lazy = da.from_array(ROWS, chunks=100).map_blocks(
        lambda rows: rows[:50], meta=ROWS[:0], chunks=ROWS.shape, name=tokenize(1)
    )
    with pytest.raises(SourceError, match="not as it said"):
        swath.ingest(da.Array(lazy.dask, lazy.name, ((100,) * 5, (6,), (4,)), meta=ROWS[:0]), tmp_path / "a.zarr")


def test_no_pickle_is_ever_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "trap.npy").write_bytes(_pickled(tmp_path).read_bytes()[:128] + pickle.dumps(Trap()))
    with pytest.raises(SourceError):
        swath.ingest(tmp_path / "trap.npy", tmp_path / "a.zarr")
    assert not (tmp_path / "sprung").exists()
