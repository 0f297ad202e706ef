"""Members of zip files, patterns of paths, and arrays that belong together."""

import contextlib
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same

import swath
from swath.errors import IncompleteStoreError, OptionError, SourceError, SourceNotFoundError, StoreNotFoundError
from swath.sources import Source, open_source
from swath.sources.groups import group_members

ROWS = np.random.default_rng(0).normal(size=(3000, 6, 4)).round(2)


def _npz(folder: Path, array: NDArray[Any] = ROWS, *, packed: bool = False) -> Path:
    (np.savez_compressed if packed else np.savez)(folder / "some.npz", rows=array, other=array[:5])
    return folder / "some.npz"


def _all(source: Source) -> NDArray[Any]:
    out = np.empty(source.shape, source.dtype)
    source.read_into(0, out)
    return out


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[:, 0, 0].copy(), ROWS.astype(">f4"), ROWS.astype("S3"), np.zeros(9, [("\u20ac\\", "i4"), ("b", "S3")])],
    ids=["f8", "1-d", "big-endian", "text", "unicode-fields"],
)
def test_a_member_equals_itself(tmp_path: Path, rows: NDArray[Any], packed: bool) -> None:
    with pytest.warns(UserWarning, match="format 3.0") if rows.dtype.names else contextlib.nullcontext():
        path = _npz(tmp_path, rows, packed=packed)
    wanted = rows.astype(np.result_type(rows.dtype))
    a = swath.ingest(f"{path}::rows", tmp_path / "a.zarr", chunk_rows=4, shard_rows=256)
    assert_same(a.gather([0], window=len(rows))[0], wanted)
    assert_same(_all(open_source(f"{path}::other")), wanted[:5])


def test_a_member_in_fortran_order_is_read_from_its_place(tmp_path: Path) -> None:
    path = _npz(tmp_path, np.asfortranarray(ROWS))
    a = swath.ingest(f"{path}::rows", tmp_path / "a.zarr")
    assert_same(a.gather([0], window=3000)[0], ROWS)


def test_the_only_member_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", ROWS)
    assert_same(_all(open_source(tmp_path / "one.npz")), ROWS)
    assert open_source(f"{tmp_path}/one.npz::arr_0").describe()["dataset"] == "arr_0"


@given(st.lists(st.tuples(st.integers(0, 2999), st.integers(1, 900)), min_size=1, max_size=6), st.booleans())
def test_rows_are_read_in_any_order(tmp_path_factory: pytest.TempPathFactory, reads: Any, packed: bool) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-order-{packed}.npz"
    if not path.exists():
        (np.savez_compressed if packed else np.savez)(path, rows=ROWS)
    source = open_source(path)
    for start, n in reads:
        out = np.empty_like(ROWS[start : start + n])
        source.read_into(start, out)
        assert_same(out, ROWS[start : start + n])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_codecs_of_zip(tmp_path: Path, method: int) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as file:
        file.write(tmp_path / "rows.npy", "rows.npy")
    assert_same(_all(open_source(tmp_path / "a.npz")), ROWS)


def _change(path: Path, at: int, value: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(value)
    return path


def _central(path: Path, which: int, field: int, value: bytes) -> str:
    """A field of the directory at the end, of one member."""
    content = path.read_bytes()
    at = -1
    for _ in range(which + 1):
        at = content.index(b"PK\x01\x02", at + 1)
    return f"{_change(path, at + field, value)}::rows"


def _member(folder: Path, content: bytes, method: int = zipfile.ZIP_STORED, times: int = 1) -> str:
    with zipfile.ZipFile(folder / "made.npz", "w", method) as file:
        for _ in range(times):
            file.writestr("rows.npy", content)
    return f"{folder}/made.npz::rows"


def _npy(folder: Path) -> bytes:
    np.save(folder / "rows.npy", ROWS)
    return (folder / "rows.npy").read_bytes()


def _duplicate(folder: Path) -> str:
    with pytest.warns(UserWarning, match="Duplicate"):
        return _member(folder, _npy(folder), times=2)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no-name": (lambda f: _npz(f), "no array is named. Give '.*::NAME', with one of: rows, other"),
    "unknown-name": (lambda f: f"{_npz(f)}::row", "no array 'row'. It has: rows, other"),
    "missing": (lambda f: f"{f}/nothing.npz::rows", "no file .*nothing.npz"),
    "data-flipped": (lambda f: f"{_change(_npz(f), 5000, b'?')}::rows", "has not the crc32"),
    "packed-flipped": (lambda f: f"{_change(_npz(f, packed=True), 5000, b'?????')}::rows", "cannot be decoded|has not the crc32"),
    "crc-flipped": (lambda f: _central(_npz(f), 0, 16, b"????"), "has not the crc32"),
    "packed-crc-flipped": (lambda f: _central(_npz(f, packed=True), 0, 16, b"????"), "has not the crc32"),
    "fortran-crc-flipped": (lambda f: _central(_npz(f, np.asfortranarray(ROWS)), 0, 16, b"????"), "has not the crc32"),
    "size-less": (lambda f: _central(_npz(f), 0, 24, struct.pack("<I", 50_000)), "has 50000 bytes, but its header"),
    "packed-size-more": (lambda f: _central(_npz(f, packed=True), 0, 24, struct.pack("<I", 10**9)), "1000000000 bytes, but its header"),
    "stored-said-packed": (lambda f: _central(_npz(f), 0, 10, b"\x08\0"), "no valid .npy header"),
    "unknown-method": (lambda f: _central(_npz(f), 0, 10, b"\x63\0"), "no valid .npy header"),
    "encrypted": (lambda f: _central(_npz(f), 0, 8, b"\x01\0"), "is encrypted"),
    "local-size": (lambda f: f"{_change(Path(_member(f, _npy(f))[:-6]), 18, b'1234')}::rows", "described in two ways"),
    "local-name": (lambda f: f"{_change(Path(_member(f, _npy(f))[:-6]), 30, b'x')}::rows", "no valid .npy header .*differ"),
    "local-magic": (lambda f: _central(_npz(f), 1, 42, b"\x09\0\0\0").replace("::rows", "::other"), "no valid .npy header"),
    "name-twice": (_duplicate, "two members of the name 'rows.npy'"),
    "no-arrays": (lambda f: _no_arrays(f), "no array is named.*none"),
    "empty-zip": (lambda f: _empty(f), "no array is named.*none"),
    "cut": (lambda f: f"{_cut(_npz(f))}::rows", "none that can be read"),
    "pickled": (lambda f: f"{_npz(f, np.array([{}, None]))}::rows", "dtype object"),
    "no-rows": (lambda f: f"{_npz(f, ROWS[:0])}::rows", "no rows"),
    "no-bytes": (lambda f: f"{_npz(f, ROWS[:, :0])}::rows", "hold no bytes"),
    "scalar": (lambda f: _member(f, _scalar(f)), "single value"),
    "not-npy": (lambda f: _member(f, b"hello"), "no valid .npy header"),
    "npy-cut": (lambda f: _member(f, _npy(f)[:-1]), r"bytes, but its header"),
    "npy-cut-in-header": (lambda f: _member(f, _npy(f)[:20]), r"no valid .npy header"),
    "huge-claim": (lambda f: _member(f, _npy(f).replace(b"(3000, 6, 4)", b"(99999999, )")), "bytes, but its header .* needs 8000"),
    "packed-fortran": (lambda f: f"{_npz(f, np.asfortranarray(ROWS), packed=True)}::rows", "compressed and in Fortran order"),
}  # fmt: skip


def _no_arrays(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("rows.txt", b"hello")
    return folder / "a.zip"


def _empty(folder: Path) -> Path:
    zipfile.ZipFile(folder / "a.zip", "w").close()
    return folder / "a.zip"


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def _scalar(folder: Path) -> bytes:
    np.save(folder / "scalar.npy", 5.0)
    return (folder / "scalar.npy").read_bytes()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_member_is_named_and_leaves_no_store(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    source = make(tmp_path)
    with pytest.raises(SourceError, match=message):
        swath.ingest(source, tmp_path / "a.zarr", shard_rows=256, chunk_rows=4)
    with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
        swath.open(tmp_path / "a.zarr")


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A member that says it is small, and decodes to much more, is cut where it said it ends."""
    content = _npy(tmp_path) + bytes(2**26)
    name = _member(tmp_path, content, zipfile.ZIP_DEFLATED)
    path = Path(name.removesuffix("::rows"))
    _central(path, 0, 24, struct.pack("<I", len(content) - 2**26))
    with pytest.raises(SourceError, match="crc32"):
        _all(open_source(name))


def test_a_member_is_not_opened_in_place(tmp_path: Path) -> None:
    for rows, packed in ((ROWS, False), (ROWS, True), (np.asfortranarray(ROWS), False)):
        with pytest.raises(SourceError, match="cannot be read at random where it is"):
            swath.open(f"{_npz(tmp_path, rows, packed=packed)}::rows")


def test_a_pattern_is_its_files_by_name_each_a_segment(tmp_path: Path) -> None:
    for name, rows in (("part-9", ROWS[:100]), ("part-10", ROWS[100:101]), ("part-\u00e9", ROWS[101:200])):
        np.save(tmp_path / f"{name}.npy", rows)
    wanted = np.concatenate([ROWS[100:101], ROWS[:100], ROWS[101:200]])
    for i, source in enumerate((f"{tmp_path}/part-*.npy", tmp_path / "part-*.npy", [f"{tmp_path}/part-*.npy"])):
        a = swath.ingest(source, tmp_path / f"{i}.zarr")
        assert_same(a.gather([0], window=200)[0], wanted)
        assert a.segments.tolist() == [[0, 1], [1, 101], [101, 200]]


def test_a_pattern_of_hdf5_of_raw_files_and_of_zarr(tmp_path: Path) -> None:
    for i in range(3):
        with h5py.File(tmp_path / f"run-{i}.h5", "w") as file:
            file["group/x"] = ROWS[i * 100 : i * 100 + 100]
        ROWS[i * 100 : i * 100 + 100].tofile(tmp_path / f"run-{i}.bin")
        zarr.create_array(tmp_path / f"run-{i}.zarr", data=ROWS[i * 100 : i * 100 + 100], chunks=(7, 3, 4))
    for place, options in (
        ("run-*.h5::group/x", {}),
        ("run-?.bin", {"dtype": "f8", "row_shape": (6, 4)}),
        ("run-[012].zarr", {}),
    ):
        source = open_source(f"{tmp_path}/{place}", **options)  # type: ignore[arg-type]
        assert source.segments == (100, 100, 100)
        assert_same(_all(source), ROWS[:300])


def test_a_file_with_a_star_in_its_name_is_itself(tmp_path: Path) -> None:
    for name in ("a*.npy", "ab.npy", "[x].npy", "x.npy"):
        np.save(tmp_path / name, ROWS[: len(name)])
    assert open_source(tmp_path / "a*.npy").shape[0] == 6
    assert open_source(tmp_path / "[x].npy").shape[0] == 7
    with pytest.raises(SourceNotFoundError, match=r"No file fits .*z\*.npy"):
        open_source(tmp_path / "z*.npy")


def _write_group(folder: Path, kind: str, **arrays: NDArray[Any]) -> str:
    if kind == "npz":
        np.savez(folder / "group.npz", **arrays)  # type: ignore[arg-type]
        return f"{folder}/group.npz"
    if kind == "hdf5":
        with h5py.File(folder / "group.h5", "w") as file:
            for name, array in arrays.items():
                file[f"train/{name}"] = array
            file["unlike"] = np.arange(5)
        return f"{folder}/group.h5::/train"
    group = zarr.open_group(folder / "group.zarr", mode="w")
    for name, array in arrays.items():
        group.create_array(f"train/{name}", data=array)
    group.create_array("unlike", data=np.arange(5))
    return f"{folder}/group.zarr::train"


@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr"])
def test_members_of_a_group(tmp_path: Path, kind: str) -> None:
    place = _write_group(tmp_path, kind, X=ROWS, y=ROWS[:, 0, 0].copy())
    members = group_members(place)
    assert list(members) == ["X", "y"]
    assert_same(_all(members["X"]), ROWS)
    assert_same(_all(members["y"]), ROWS[:, 0, 0].copy())
    assert list(group_members(place, ["y"])) == ["y"]
    with pytest.raises(SourceNotFoundError, match=r"no .* '.*z'"):
        group_members(place, ["z"])
    with pytest.raises(OptionError, match="names is"):
        group_members(place, [])


@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr"])
def test_members_of_unlike_length_are_named(tmp_path: Path, kind: str) -> None:
    place = _write_group(tmp_path, kind, X=ROWS, y=ROWS[:-1, 0, 0].copy(), z=ROWS[:, 0])
    with pytest.raises(SourceError, match=r"most have 3000, but not y \(2999\)"):
        group_members(place)
    assert list(group_members(place, ["X", "z"])) == ["X", "z"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "nothing.h5", "no file"),
        (lambda f: f, "no Zarr|cannot open"),
        (lambda f: f"{_write_group(f, 'hdf5', X=ROWS)}x", "no group 'trainx'"),
        (lambda f: f"{_write_group(f, 'zarr', X=ROWS)}x", "no Zarr group 'trainx'"),
        (lambda f: f"{_write_group(f, 'npz', X=ROWS)}::x", "so it has no arrays"),
        (lambda f: _no_arrays(f), "holds no arrays"),
    ],
)
def test_a_group_that_is_none(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        group_members(make(tmp_path))
