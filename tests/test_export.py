"""What is exported reads back bit for bit by the library of its format, in bounded memory; it appears whole or not at all."""

import fcntl
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from children import run, start
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same

import swath
from swath import exporting
from swath.errors import (
    DamagedStoreError,
    DiskFullError,
    LayoutError,
    MemoryLimitError,
    OptionError,
    StoreBusyError,
    StoreChangedError,
    StoreExistsError,
    SwathError,
    TargetError,
)
from swath.storage.staging import staged

ROWS = np.arange(3000.0).reshape(100, 5, 6)

HDF5, ZARR = "a.h5::group/a", "a.zarr"
TARGETS = ["a.npy", "a.raw", HDF5, ZARR]


def _by_h5py(place: str) -> NDArray[Any]:
    path, _, name = place.rpartition("::")
    with h5py.File(path) as file:
        return np.asarray(file[name][...])


def _by_zarr(place: str) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dtypes without a final specification
        return np.asarray(zarr.open_array(place, mode="r")[...])


def _read(place: object, like: NDArray[Any]) -> NDArray[Any]:
    """What another library makes of it; raw bytes have no shape."""
    text = str(place)
    if "::" in text:
        return _by_h5py(text)
    if text.endswith(".zarr"):
        return _by_zarr(text)
    if text.endswith(".npy"):
        loaded: NDArray[Any] = np.load(text, allow_pickle=False)
        return loaded
    return np.fromfile(text, like.dtype).reshape(like.shape)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def a(tmp_path: Path) -> swath.RowArray:
    return swath.ingest(ROWS, tmp_path / "store" / "a", chunk_rows=4, shard_rows=32)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# What may be in a store, and the targets that cannot hold it.
UNUSUAL: dict[str, tuple[Any, set[str]]] = {
    "long-double": ("g", {ZARR}),
    "text": ("U3", {HDF5}),
    "records-of-text": ([("a", "U2"), ("b", "M8[s]")], {HDF5}),
    "records-of-arrays": ([("a", "i4"), ("b", "f8", (2,))], {ZARR}),
    "unicode-names": ([("é", "i4"), ("中", "f8")], set()),
    "titles": ([(("title", "a"), "i4")], {HDF5, ZARR}),
}

PLAIN = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", "S3", "V5", "M8[s]", "m8[ms]"]
RECORD = np.dtype([("chr", "S10"), ("pos", "<i4"), ("pct", "<f4")])


@st.composite
def _arrays(draw: st.DrawFn) -> NDArray[Any]:
    dtype = np.dtype(draw(st.sampled_from([*PLAIN, RECORD])))
    shape = (draw(st.integers(1, 40)), *draw(st.lists(st.integers(1, 5), max_size=2)))
    bits = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    if dtype.kind == "b":
        bits &= 1
    elif draw(st.booleans()):  # so that there are chunks of nothing but -0.0
        bits[...] = 0
        bits[..., -1] = 128
    return np.frombuffer(bits.tobytes(), dtype).reshape(shape)


@given(
    rows=_arrays(),
    codec=st.sampled_from(["raw", "lz4", "zstd"]),
    target=st.sampled_from(TARGETS),
    data=st.data(),
    block=st.sampled_from([1, 100, 2**20]),
)
def test_what_is_exported_reads_back_bit_for_bit(
    rows: NDArray[Any], codec: Any, target: str, data: st.DataObject, block: int
) -> None:
    n = len(rows)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    chunk_rows = data.draw(st.none() | st.integers(1, 50)) if target[2:4] in ("h5", "za") else None
    store_chunk = data.draw(st.integers(1, 9))
    # The same rows, as numpy allows to name them.
    named = slice(
        *(
            data.draw(st.sampled_from([i, i - n])) if i < n else data.draw(st.sampled_from([i, None]))
            for i in (start, stop)
        )
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_BLOCK_BYTES", block)  # so that a few rows are many blocks
        store = swath.ingest(rows, f"{folder}/store", codec=codec, chunk_rows=store_chunk, shard_rows=2 * store_chunk)
        place = f"{folder}/{target}"
        swath.export(store, place, rows=named, chunk_rows=chunk_rows)
        assert_same(_read(place, rows[start:stop]), rows[start:stop])
        if not target.endswith(".raw"):
            again = swath.ingest(swath_source(place), f"{folder}/again")
            assert_same(again.gather([0], window=len(again))[0], rows[start:stop])
        assert not [name for name in _names(Path(folder)) if name.startswith(".")]


def swath_source(place: str) -> Any:
    """Zarr is no source of an ingest yet: its values are."""
    return _by_zarr(place) if place.endswith(".zarr") else place


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("target", TARGETS)
def test_unusual_dtypes_read_back_equal_or_are_refused(tmp_path: Path, out: Path, target: str, name: str) -> None:
    dtype, refused = UNUSUAL[name]
    rows = np.zeros((10, 3), dtype)
    if rows.dtype.kind == "U":
        rows[:] = "é中"
    a = swath.ingest(rows, tmp_path / "store")
    if target in refused:
        with pytest.raises(LayoutError, match=r"Export to \.npy"):
            swath.export(a, f"{out}/{target}")
        assert _names(out) == []
    else:
        swath.export(a, f"{out}/{target}")
        assert_same(_read(f"{out}/{target}", rows), rows)


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, out: Path) -> None:
    text = swath.ingest(np.full((5, 2), "é"), tmp_path / "text")
    long = swath.ingest(np.ones((5, 2), "g"), tmp_path / "long")
    with pytest.raises(LayoutError, match=r"HDF5 cannot hold the dtype <U1"):
        swath.export(text, out / "a.h5::a")
    with pytest.raises(LayoutError, match=r"Zarr cannot hold the dtype float128"):
        swath.export({"text": text, "long": long}, out / "a.zarr")
    assert _names(out) == []


@pytest.mark.parametrize("name", ["rows.npy", "f.npy", "rows.h5::x", "chunked.h5::x", "foreign.zarr", "rows.bin"])
@pytest.mark.parametrize("target", TARGETS)
def test_arrays_of_others_are_exported(tmp_path: Path, out: Path, name: str, target: str) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "f.npy", np.asfortranarray(ROWS))
    ROWS.tofile(tmp_path / "rows.bin")
    for file_name, chunks in (("rows.h5", None), ("chunked.h5", (7, 2, 6))):
        with h5py.File(tmp_path / file_name, "w") as file:
            file.create_dataset("x", data=ROWS, chunks=chunks, compression=chunks and "lzf")
    zarr.create_array(tmp_path / "foreign.zarr", data=ROWS, chunks=(9, 5, 4))
    raw = {"dtype": "f8", "row_shape": (5, 6)} if name == "rows.bin" else {}
    swath.export(swath.open(f"{tmp_path}/{name}", **raw), f"{out}/{target}", rows=slice(3, 97))  # type: ignore[arg-type]
    assert_same(_read(f"{out}/{target}", ROWS[3:97]), ROWS[3:97])


def test_chunks_are_as_asked(a: swath.RowArray, out: Path) -> None:
    swath.export(a, out / "a.h5::contiguous")
    swath.export(a, out / "a.h5::chunked", chunk_rows=7)
    swath.export(a, out / "a.h5::one-chunk", chunk_rows=1000)
    with h5py.File(out / "a.h5") as file:
        assert {name: dataset.chunks for name, dataset in file.items()} == {
            "contiguous": None,
            "chunked": (7, 5, 6),
            "one-chunk": (100, 5, 6),
        }
    swath.export(a, out / "a.zarr", chunk_rows=7)
    swath.export(a, out / "b.zarr")
    assert zarr.open_array(out / "a.zarr", mode="r").chunks == (7, 5, 6)
    assert zarr.open_array(out / "b.zarr", mode="r").chunks == (100, 5, 6)


def test_a_chunk_of_negative_zeros_is_no_empty_chunk(tmp_path: Path, out: Path) -> None:
    zeros = np.full((20, 3), complex(-0.0, -0.0))
    swath.export(swath.ingest(zeros, tmp_path / "zeros"), out / "a.zarr", chunk_rows=5)
    assert_same(_by_zarr(f"{out}/a.zarr"), zeros)


def test_several_arrays_in_one_target(tmp_path: Path, a: swath.RowArray, out: Path) -> None:
    y = np.arange(200, dtype="i4")
    arrays = {"X": a, "labels/é": swath.ingest(y, tmp_path / "y")}
    swath.export(arrays, out / "a.h5", rows=slice(10, 20))
    swath.export(arrays, out / "a.h5::deep/er")
    swath.export(arrays, out / "a.zarr")
    assert_same(_by_h5py(f"{out}/a.h5::X"), ROWS[10:20])
    assert_same(_by_h5py(f"{out}/a.h5::labels/é"), y[10:20])
    assert_same(_by_h5py(f"{out}/a.h5::deep/er/labels/é"), y)
    group = zarr.open_group(out / "a.zarr", mode="r")
    assert {name for name, _ in group.members(max_depth=None)} == {"X", "labels", "labels/é"}
    assert_same(np.asarray(group["X"][...]), ROWS)  # type: ignore[index]
    assert_same(_by_zarr(f"{out}/a.zarr/labels/é"), y)


def test_a_store_that_is_replaced_by_its_own_format_reads_as_zarr(a: swath.RowArray, out: Path) -> None:
    swath.ingest(-ROWS, out / "b.zarr")
    swath.export(a, out / "b.zarr", overwrite=True)
    assert_same(_by_zarr(f"{out}/b.zarr"), ROWS)
    assert _names(out) == ["b.zarr"]


BAD_CALLS: dict[str, tuple[Callable[[swath.RowArray, Path], Any], type[SwathError], str]] = {
    "no-array": (lambda a, out: swath.export(ROWS, out / "a.npy"), OptionError, "A ndarray is no array of swath"),  # type: ignore[arg-type]
    "a-path": (lambda a, out: swath.export(a.url, out / "a.npy"), OptionError, "A str is no array"),  # type: ignore[arg-type]
    "empty-mapping": (lambda a, out: swath.export({}, out / "a.h5"), OptionError, "mapping is empty"),
    "name-no-text": (lambda a, out: swath.export({3: a}, out / "a.h5"), OptionError, "name of an array is 3"),  # type: ignore[dict-item]
    "name-empty": (lambda a, out: swath.export({"": a}, out / "a.h5"), OptionError, "name of an array is ''"),
    "name-upwards": (lambda a, out: swath.export({"../x": a}, out / "a.zarr"), OptionError, "'../x'"),
    "name-absolute": (lambda a, out: swath.export(a, f"{out}/a.h5::/x"), OptionError, "'/x'"),
    "name-nul": (lambda a, out: swath.export(a, f"{out}/a.h5::x\0y"), OptionError, "none that a file can hold"),
    "name-of-zarr": (lambda a, out: swath.export({"zarr.json": a}, out / "a.zarr"), OptionError, "'zarr.json'"),
    "nested": (lambda a, out: swath.export({"x": a, "x/y": a}, out / "a.h5"), OptionError, "'x/y' would lie in"),
    "several-in-npy": (lambda a, out: swath.export({"x": a}, out / "a.npy"), OptionError, "takes one array"),
    "several-in-raw": (lambda a, out: swath.export({"x": a}, out / "a.bin"), OptionError, "takes one array"),
    "no-dataset": (lambda a, out: swath.export(a, out / "a.h5"), OptionError, "names no dataset"),
    "empty-dataset": (lambda a, out: swath.export(a, f"{out}/a.h5::"), OptionError, "names no dataset"),
    "dataset-of-npy": (lambda a, out: swath.export(a, f"{out}/a.npy::x"), OptionError, "no HDF5 file"),
    "csv": (lambda a, out: swath.export(a, out / "a.csv"), OptionError, "'a.csv' is of no kind"),
    "npz": (lambda a, out: swath.export(a, out / "a.npz"), OptionError, "'a.npz' is of no kind"),
    "no-extension": (lambda a, out: swath.export(a, out / "a"), OptionError, "'a' is of no kind"),
    "empty-target": (lambda a, out: swath.export(a, ""), OptionError, "no local path"),
    "remote-target": (lambda a, out: swath.export(a, "s3://bucket/a.npy"), OptionError, "no local path"),
    "target-no-path": (lambda a, out: swath.export(a, 3), OptionError, "The target is 3"),  # type: ignore[arg-type]
    "long-name": (lambda a, out: swath.export(a, out / f"{'é' * 200}.npy"), OptionError, "File name too long"),
    "no-folder": (lambda a, out: swath.export(a, out / "none" / "a.npy"), TargetError, "no folder .*none"),
    "no-folder-h5": (lambda a, out: swath.export(a, f"{out}/none/a.h5::x"), TargetError, "no folder .*none"),
    "no-folder-zarr": (lambda a, out: swath.export(a, out / "none" / "a.zarr"), TargetError, "no folder .*none"),
    "chunks-in-npy": (lambda a, out: swath.export(a, out / "a.npy", chunk_rows=3), OptionError, "has no chunks"),
    "chunks-of-0": (lambda a, out: swath.export(a, out / "a.zarr", chunk_rows=0), OptionError, "chunk_rows is 0"),
    "chunks-no-number": (lambda a, out: swath.export(a, out / "a.zarr", chunk_rows=1.5), OptionError, "chunk_rows is 1.5"),  # type: ignore[arg-type]
    "rows-empty": (lambda a, out: swath.export(a, out / "a.npy", rows=slice(5, 5)), OptionError, "no range of rows"),
    "rows-backwards": (lambda a, out: swath.export(a, out / "a.npy", rows=slice(5, 3)), OptionError, "no range of rows"),
    "rows-beyond": (lambda a, out: swath.export(a, out / "a.npy", rows=slice(0, 101)), OptionError, "array of 100"),
    "rows-before": (lambda a, out: swath.export(a, out / "a.npy", rows=slice(-101, 5)), OptionError, "array of 100"),
    "rows-step": (lambda a, out: swath.export(a, out / "a.npy", rows=slice(0, 9, 2)), OptionError, "without a step"),
    "rows-float": (lambda a, out: swath.export(a, out / "a.npy", rows=slice(0.5, 9)), OptionError, "whole numbers"),
    "rows-int": (lambda a, out: swath.export(a, out / "a.npy", rows=5), OptionError, "Give a slice"),  # type: ignore[arg-type]
    "memory": (lambda a, out: swath.export(a, out / "a.npy", memory_limit="1MiB"), MemoryLimitError, "limit is 1.00 MiB"),
    "memory-text": (lambda a, out: swath.export(a, out / "a.npy", memory_limit="much"), OptionError, "much"),
    "own-folder": (lambda a, out: swath.export(a, Path(a.url) / "a.npy"), OptionError, "lie in one another"),
    "itself": (lambda a, out: swath.export(a, a.url + ".zarr", overwrite=True), OptionError, "lie in one another"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_refused_and_leaves_nothing(tmp_path: Path, out: Path, name: str) -> None:
    call, error, message = BAD_CALLS[name]
    a = swath.ingest(ROWS, tmp_path / "store.zarr")
    (tmp_path / "store.zarr.zarr").symlink_to(tmp_path / "store.zarr")
    before = _names(tmp_path / "store.zarr")
    with pytest.raises(error, match=message):
        call(a, out)
    assert _names(out) == []
    assert _names(tmp_path / "store.zarr") == before
    assert_same(a.gather([0], window=100)[0], ROWS)


def test_a_file_is_not_exported_onto_itself(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "link.npy").hardlink_to(tmp_path / "a.npy")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = ROWS
    zarr.create_group(tmp_path / "group.zarr").create_array("a", data=ROWS)
    for source, target in (
        ("a.npy", "a.npy"),
        ("a.npy", "link.npy"),
        ("a.h5::x", "a.h5::y"),
        ("group.zarr/a", "group.zarr"),
    ):
        with pytest.raises(OptionError, match="lie in one another"):
            swath.export(swath.open(f"{tmp_path}/{source}"), f"{tmp_path}/{target}", overwrite=True)
    assert_same(np.load(tmp_path / "a.npy"), ROWS)
    assert_same(_by_zarr(f"{tmp_path}/group.zarr/a"), ROWS)


def _damage(a: swath.RowArray, shard: str = "c.3.0.0") -> None:
    with (Path(a.url) / shard).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))


@pytest.mark.parametrize("target", TARGETS)
def test_what_exists_stays_unless_it_is_to_be_replaced(a: swath.RowArray, out: Path, target: str) -> None:
    place = f"{out}/{target}"
    swath.export(a, place, rows=slice(0, 50))
    _damage(a)  # nothing is read
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        swath.export(a, place, rows=slice(50, 100))
    assert_same(_read(place, ROWS[:50]), ROWS[:50])
    with pytest.raises(DamagedStoreError):  # and the old one stays until the new one is whole
        swath.export(a, place, rows=slice(50, 100), overwrite=True)
    assert_same(_read(place, ROWS[:50]), ROWS[:50])
    swath.export(a, place, rows=slice(50, 90), overwrite=True)
    assert_same(_read(place, ROWS[50:90]), ROWS[50:90])
    assert len(_names(out)) == 1


@pytest.mark.parametrize("target", ["a.npy", "a.raw", "a.h5::a", "a.zarr"])
def test_what_is_of_another_kind_is_never_replaced(a: swath.RowArray, out: Path, target: str) -> None:
    path = Path(f"{out}/{target}".partition("::")[0])
    path.mkdir()
    (path / "precious").touch()
    with pytest.raises(StoreExistsError, match="will not touch it"):
        swath.export(a, f"{out}/{target}", overwrite=True)
    assert _names(path) == ["precious"]


@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_an_error_and_leaves_nothing(a: swath.RowArray, out: Path, target: str) -> None:
    _damage(a)
    with pytest.raises(DamagedStoreError, match=r"c\.3\.0\.0: .*wrong checksum"):
        swath.export(a, f"{out}/{target}")
    assert _names(out) == []


def test_a_store_that_is_replaced_meanwhile_is_an_error(a: swath.RowArray, out: Path) -> None:
    swath.ingest(-ROWS, a.url, overwrite=True)
    with pytest.raises(StoreChangedError):
        swath.export(a, out / "a.npy")
    assert _names(out) == []


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "folder"])
@pytest.mark.parametrize(
    "appears", [Path.touch, lambda path: (path / "precious").mkdir(parents=True)], ids=["a-file", "a-folder"]
)
def test_what_appears_meanwhile_is_not_lost(
    tmp_path: Path, make: Callable[[Path], None], appears: Callable[[Path], None]
) -> None:
    path = tmp_path / "a"

    def meanwhile() -> None:
        with staged(path, 0, overwrite=False) as temporary:
            make(temporary)
            appears(path)
            appeared.append(path.stat().st_ino)

    appeared: list[int] = []
    with pytest.raises(StoreExistsError, match="somebody else"):
        meanwhile()
    assert [path.stat().st_ino] == appeared
    assert _names(tmp_path) == ["a"]


class TestHdf5:
    """A file that is there already."""

    def test_other_datasets_stay(self, a: swath.RowArray, out: Path) -> None:
        with h5py.File(out / "a.h5", "w") as file:
            file["old"] = [1, 2, 3]
            file["group/old"] = 5
            file.attrs["note"] = "mine"
        swath.export(a, out / "a.h5::group/new")
        with pytest.raises(StoreExistsError, match="'group', which is no dataset"):
            swath.export(a, out / "a.h5::group", overwrite=True)
        with pytest.raises(TargetError, match="'old', which is no group"):
            swath.export(a, out / "a.h5::old/new", overwrite=True)
        with h5py.File(out / "a.h5") as file:
            assert file["old"][...].tolist() == [1, 2, 3]
            assert set(file["group"]) == {"old", "new"}
            assert file.attrs["note"] == "mine"
            assert set(file) == {"old", "group"}

    @pytest.mark.parametrize("chunk_rows", [None, 7])
    def test_after_an_error_it_is_as_it_was(self, a: swath.RowArray, out: Path, chunk_rows: int | None) -> None:
        with h5py.File(out / "a.h5", "w") as file:
            file["old"] = np.arange(1000)
        size = (out / "a.h5").stat().st_size
        _damage(a)
        with pytest.raises(DamagedStoreError):
            swath.export({"x": a, "y": a}, out / "a.h5", chunk_rows=chunk_rows)
        with h5py.File(out / "a.h5") as file:
            assert set(file) == {"old"}
            assert file["old"][...].tolist() == list(range(1000))
        assert (out / "a.h5").stat().st_size - size < 4096  # what HDF5 keeps of a group that is gone

    def test_a_file_that_is_open_elsewhere_is_busy(self, a: swath.RowArray, out: Path) -> None:
        swath.export(a, out / "a.h5::x")
        content = (out / "a.h5").read_bytes()
        with (out / "a.h5").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does
            with pytest.raises(StoreBusyError, match="open in another process"):
                swath.export(a, out / "a.h5::y")
        assert (out / "a.h5").read_bytes() == content

    def test_what_is_no_hdf5_stays(self, a: swath.RowArray, out: Path) -> None:
        for content in (b"", b"precious" * 1000):
            (out / "a.h5").write_bytes(content)
            with pytest.raises(TargetError, match="cannot be written"):
                swath.export(a, out / "a.h5::x", overwrite=True)
            assert (out / "a.h5").read_bytes() == content

    def test_a_link_to_another_file_is_no_group(self, a: swath.RowArray, out: Path) -> None:
        with h5py.File(out / "other.h5", "w") as file:
            file.create_group("g")
        with h5py.File(out / "a.h5", "w") as file:
            file["g"] = h5py.ExternalLink("other.h5", "g")
            file["nowhere"] = h5py.SoftLink("/none")
        with pytest.raises(TargetError, match="no group of this file"):
            swath.export(a, out / "a.h5::g/x")
        with pytest.raises(StoreExistsError, match="'nowhere'"):
            swath.export(a, out / "a.h5::nowhere", overwrite=True)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "swath-tests", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
        if done is None or done.returncode:
            pytest.skip(f"NOT TESTED HERE: a full disk needs a tmpfs, and root to mount it ({done and done.stderr})")
        return disk

    yield mounted
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def large(tmp_path: Path) -> swath.RowArray:
    """8 MB that nothing compresses."""
    return swath.ingest(np.random.default_rng(0).integers(0, 256, (8000, 1000), np.uint8), tmp_path / "large")


def test_a_disk_that_is_known_to_be_too_small_is_refused_before_writing(
    mount: Callable[[str], Path], large: swath.RowArray
) -> None:
    disk = mount("size=6m")
    for target in ("a.npy", "a.raw", "a.h5::x"):
        with pytest.raises(DiskFullError, match=r"disk has 6.00 MiB free, but a\.\w+ needs 7.6\d MiB \(8\d+ bytes\)"):
            swath.export(large, f"{disk}/{target}")
    assert _names(disk) == []


@pytest.mark.parametrize(
    ("target", "options"),
    [
        pytest.param("a.npy", {}, id="npy"),
        pytest.param("a.raw", {}, id="raw"),
        pytest.param("a.zarr", {"chunk_rows": 500}, id="zarr"),
        pytest.param("a.h5::x", {}, id="hdf5"),
        pytest.param("a.h5::x", {"chunk_rows": 7}, id="hdf5-chunked"),
        pytest.param("old.h5::x", {"chunk_rows": 7}, id="hdf5-added"),
        pytest.param("old.h5::old", {"overwrite": True}, id="hdf5-replaced"),
    ],
)
@pytest.mark.parametrize("room", [0, 20_000, 4_000_000], ids=["nothing", "a-little", "half"])
def test_a_disk_that_is_full_leaves_nothing(
    mount: Callable[[str], Path],
    large: swath.RowArray,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    options: dict[str, Any],
    room: int,
) -> None:
    """As if the room had gone after it was looked at."""
    monkeypatch.setattr(exporting, "_check_disk", lambda target: None)
    disk = mount("size=32m")
    with h5py.File(disk / "old.h5", "w") as file:
        file["old"] = [1, 2, 3]
    stat = os.statvfs(disk)
    (disk / "other").write_bytes(bytes(stat.f_bavail * stat.f_frsize - room))
    before = {path.name: path.stat().st_size for path in disk.iterdir()}
    with pytest.raises(DiskFullError, match=r"no room for an export of 7.\d\d MiB \(8\d+ bytes\) to .*disk"):
        swath.export(large, f"{disk}/{target}", **options)
    assert {path.name: path.stat().st_size for path in disk.iterdir()} == before
    with h5py.File(disk / "old.h5") as file:
        assert {name: dataset[...].tolist() for name, dataset in file.items()} == {"old": [1, 2, 3]}
    (disk / "other").unlink()
    swath.export(large, f"{disk}/{target}", **options)
    wanted = large.gather([0], window=len(large))[0]
    assert_same(_read(f"{disk}/{target}", wanted), wanted)


def test_a_file_system_without_hard_links_will_do(mount: Callable[[str], Path], a: swath.RowArray) -> None:
    disk = mount("size=6m,nr_inodes=2")  # of the root, and of one file: a link would need a third
    swath.export(a, disk / "a.npy")
    assert_same(np.load(disk / "a.npy"), ROWS)
    assert _names(disk) == ["a.npy"]


_EXPORT = """
import h5py, zarr, rich.progress, swath

url, target = arguments
a = swath.open(url)
swath.export(a, target.partition("::")[0] + ".first.zarr", rows=slice(0, 1))  # what a first call does once
call = lambda: swath.export(a, target, **options)
"""


@pytest.mark.parametrize("target", TARGETS)
def test_a_limit_on_the_size_of_files_is_a_full_disk_too(out: Path, large: swath.RowArray, target: str) -> None:
    code, _, stderr = run(_EXPORT, large.url, f"{out}/{target.replace('group/', '')}", file_bytes=500_000)
    assert code
    assert "DiskFullError" in stderr
    assert len(_names(out)) == 1  # the child's first


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of 256 MB: raw, and compressed."""
    folder = tmp_path_factory.mktemp("huge")
    rows = np.random.default_rng(0).integers(0, 99, (32_000, 1000))
    swath.ingest(rows, folder / "raw")
    swath.ingest(rows, folder / "zstd", codec="zstd")
    return folder


@pytest.mark.parametrize("store", ["raw", "zstd"])
@pytest.mark.parametrize(
    ("target", "options"),
    [
        pytest.param("a.npy", {}, id="npy"),
        pytest.param("a.raw", {}, id="raw"),
        pytest.param("a.h5::x", {}, id="hdf5"),
        pytest.param("a.h5::x", {"chunk_rows": 50}, id="hdf5-chunked"),
        pytest.param("a.zarr", {"chunk_rows": 200}, id="zarr"),
        pytest.param("a.zarr", {}, id="zarr-large-chunks"),
    ],
)
def test_memory_stays_below_the_limit(huge: Path, out: Path, store: str, target: str, options: dict[str, Any]) -> None:
    code, stdout, stderr = run(_EXPORT, huge / store, f"{out}/{target}", memory_limit="64MiB", **options)
    assert code == 0, stderr
    assert int(stdout) <= 64 * 2**20


@pytest.mark.parametrize("target", TARGETS)
def test_ctrl_c_leaves_nothing(huge: Path, out: Path, target: str) -> None:
    child = start(_EXPORT, huge / "zstd", f"{out}/{target}", memory_limit="64MiB")
    while child.poll() is None and not any("swath-tmp" in name for name in _names(out)):
        time.sleep(0.0005)
    time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.communicate()[1]
    assert [name for name in _names(out) if "first" not in name] == []


def test_ctrl_c_leaves_a_file_that_is_added_to_as_it_was(huge: Path, out: Path) -> None:
    with h5py.File(out / "a.h5", "w") as file:
        file["old"] = [1, 2, 3]
    child = start(_EXPORT, huge / "zstd", f"{out}/a.h5::x", memory_limit="64MiB")
    while child.poll() is None and (out / "a.h5").stat().st_size < 10**8:
        time.sleep(0.0005)
    time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.communicate()[1]
    with h5py.File(out / "a.h5") as file:
        assert {name: dataset[...].tolist() for name, dataset in file.items()} == {"old": [1, 2, 3]}
    assert (out / "a.h5").stat().st_size < 10**4


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        pytest.param({}, False, id="no-terminal"),
        pytest.param({"progress": False}, False, id="off"),
        pytest.param({"progress": True}, True, id="on"),
    ],
)
def test_a_bar_is_shown_where_it_is_wanted(
    a: swath.RowArray, out: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], seen: bool
) -> None:
    swath.export(a, out / "a.npy", **options)
    stderr = capsys.readouterr().err
    assert ("export" in stderr and "24.0/24.0 kB" in stderr) if seen else stderr == ""


def _command(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swath.cli", "export", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(a: swath.RowArray, out: Path) -> None:
    done = _command(a.url, f"{out}/a.h5::x", "--rows", "-50:", "--chunk-rows", 10)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{out}/a.h5::x" in done.stdout
    assert_same(_by_h5py(f"{out}/a.h5::x"), ROWS[50:])
    refused = _command(a.url, f"{out}/a.h5::x")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "give --overwrite" in refused.stderr
    assert _command(a.url, f"{out}/a.h5::x", "--overwrite").returncode == 0
    assert_same(_by_h5py(f"{out}/a.h5::x"), ROWS)


@pytest.mark.parametrize("rows", ["5", "a:b", "1:2:3", "", "1.5:2"])
def test_the_command_knows_no_other_rows(a: swath.RowArray, out: Path, rows: str) -> None:
    done = _command(a.url, out / "a.npy", "--rows", rows)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--rows is" in done.stderr
    assert _names(out) == []
