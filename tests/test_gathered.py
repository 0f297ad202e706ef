"""Chunked HDF5 that the engine reads for an ingest: the same rows, decoded by all threads, and never what is not in the file yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_same

import swath
from swath.errors import SourceError
from swath.gathered import GatheredSource, OpenedSource, by_engine
from swath.sources import Source, open_source
from swath.sources.segmented import SegmentedSource, in_segments

ROWS = np.random.default_rng(0).integers(0, 99, (500, 6)).astype("f4")


def _hdf5(path: Path, rows: Any = ROWS, **options: Any) -> str:
    with h5py.File(path, "w") as file:
        file.create_dataset("A", data=rows, **options)
    return f"{path}::A"


def test_chunks_shorter_than_a_shard_are_read_by_the_engine(tmp_path: Path) -> None:
    source = open_source(_hdf5(tmp_path / "a.h5", chunks=(16, 4), compression="gzip"))
    assert isinstance(by_engine(source, 128), GatheredSource)
    assert not isinstance(by_engine(source, 100), GatheredSource)
    in_two = by_engine(in_segments(source, [[0, 300], [300, 500]]), 128)
    assert isinstance(in_two, SegmentedSource)
    assert isinstance(in_two.source, GatheredSource)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"chunks": (16, 4), "compression": "lzf"}, id="a-filter-of-h5py"),
        pytest.param({}, id="contiguous"),
    ],
)
def test_others_are_left_to_h5py(tmp_path: Path, options: dict[str, Any]) -> None:
    source = open_source(_hdf5(tmp_path / "a.h5", **options))
    assert by_engine(source, 500) is source


def test_what_the_caller_has_open_is_read_by_h5py(tmp_path: Path) -> None:
    _hdf5(tmp_path / "a.h5", chunks=(16, 6), compression="gzip", maxshape=(None, 6))
    with h5py.File(tmp_path / "a.h5", "r+", driver="core") as file:
        file["A"][:] = -ROWS  # in memory, and not in the file
        a = swath.ingest(file["A"], tmp_path / "a.zarr", chunk_rows=4, shard_rows=128)
        assert_same(a.gather([0], window=500)[0], -ROWS)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_the_same_rows_through_lists_parts_and_casts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("rows")
    chunks = (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 6)))
    place = _hdf5(tmp_path / "a.h5", chunks=chunks, compression="gzip", compression_opts=1, shuffle=True)
    begin = data.draw(st.integers(0, 400))
    rows = slice(begin, data.draw(st.integers(begin + 1, 900)))
    dtype = data.draw(st.sampled_from(["f4", "f8", "i2"]))
    shard_rows = 4 * data.draw(st.integers(1, 60))
    a = swath.ingest(
        [place, place], tmp_path / "a", rows=rows, dtype=dtype, chunk_rows=4, shard_rows=shard_rows, overwrite=True
    )
    wanted = np.concatenate([ROWS, ROWS])[rows].astype(dtype)
    assert_same(a.gather([0], window=len(wanted))[0], wanted)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    source: Source = by_engine(open_source(_hdf5(tmp_path / "a.h5", chunks=(16, 6), compression="gzip")), 500)
    _hdf5(tmp_path / "b.h5", -ROWS, chunks=(8, 6))
    (tmp_path / "b.h5").rename(tmp_path / "a.h5")
    with pytest.raises(SourceError, match=r"a\.h5"):
        source.read_into(0, np.empty_like(ROWS))


@pytest.mark.parametrize("kind", ["store", "npy", "npy-swapped", "hdf5", "zarr"])
def test_what_is_open_is_a_source(tmp_path: Path, kind: str) -> None:
    a = _opened(tmp_path, kind)
    b = swath.ingest(a, tmp_path / "b.zarr", window=4, chunk_rows=4, shard_rows=48, rows=slice(7, 400))
    assert_same(b.gather([0], window=393)[0], ROWS[7:400])
    b.append(a)
    assert_same(b.gather([393], window=500)[0], ROWS)
    assert b.verify([ROWS[7:400], a])
    joined = swath.ingest([a, ROWS[:3], a], tmp_path / "joined.zarr", dtype="f8")
    assert_same(joined.gather([0], window=1003)[0], np.concatenate([ROWS, ROWS[:3], ROWS]).astype("f8"))
    assert joined.segments.tolist()[-1] == [503, 1003]
    group = swath.ingest_group({"X": a, "y": np.arange(500)}, tmp_path / "group.zarr")
    assert_same(group["X"].gather([490], window=10)[0], ROWS[490:])


def _opened(folder: Path, kind: str) -> swath.RowArray:
    if kind == "store":
        return swath.ingest(ROWS, folder / "a.zarr", codec="zstd", chunk_rows=8, shard_rows=64)
    if kind == "hdf5":
        return swath.open(_hdf5(folder / "a.h5", chunks=(16, 4), compression="gzip"))
    if kind == "zarr":
        zarr.create_array(folder / "foreign.zarr", data=ROWS, chunks=(30, 4))
        return swath.open(folder / "foreign.zarr")
    np.save(folder / "a.npy", ROWS.astype(">f4") if kind == "npy-swapped" else ROWS)
    return swath.open(folder / "a.npy")


def test_segments_of_what_is_open_are_kept(tmp_path: Path) -> None:
    a = swath.ingest([ROWS[:200], ROWS[200:]], tmp_path / "a.zarr")
    b = swath.ingest(a, tmp_path / "b.zarr", codec="zstd")
    assert b.segments.tolist() == a.segments.tolist() == [[0, 200], [200, 500]]


def test_a_store_may_be_laid_out_anew_in_its_own_place(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a.zarr", codec="raw")
    b = swath.ingest(a, tmp_path / "a.zarr", codec="zstd", window=50, overwrite=True)
    assert (b.codec, b.window) == ("zstd", 50)
    assert_same(b.gather([0], window=500)[0], ROWS)


def test_damage_of_what_is_open_is_not_copied(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a.zarr", codec="raw", chunk_rows=8, shard_rows=64)
    shard = tmp_path / "a.zarr" / "c.3.0"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SourceError, match="wrong checksum"):
        swath.ingest(a, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_what_was_replaced_since_it_was_opened_is_no_source(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a.zarr")
    swath.ingest(-ROWS, tmp_path / "a.zarr", overwrite=True)
    with pytest.raises(SourceError, match="Open it again"):
        swath.ingest(a, tmp_path / "b.zarr")


def test_an_ingest_of_what_is_open_carries_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swath.ingest(ROWS, tmp_path / "a.zarr", chunk_rows=8, shard_rows=64)
    read = OpenedSource.read_into
    begun: list[int] = []

    def stops(self: OpenedSource, start: int, out: Any) -> None:
        begun.append(start)
        if len(begun) > 4:
            raise KeyboardInterrupt
        read(self, start, out)

    options: dict[str, Any] = {"chunk_rows": 4, "shard_rows": 40}
    with monkeypatch.context() as patch:
        patch.setattr(OpenedSource, "read_into", stops)
        with pytest.raises(KeyboardInterrupt):
            swath.ingest(swath.open(tmp_path / "a.zarr"), tmp_path / "b.zarr", **options)
    begun.clear()

    def tells(self: OpenedSource, start: int, out: Any) -> None:
        begun.append(start)
        read(self, start, out)

    with monkeypatch.context() as patch:
        patch.setattr(OpenedSource, "read_into", tells)
        b = swath.ingest(swath.open(tmp_path / "a.zarr"), tmp_path / "b.zarr", **options)
    assert 0 < len(begun) < 13
    assert_same(b.gather([0], window=500)[0], ROWS)
