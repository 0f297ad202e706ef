"""Chunked HDF5 that the engine reads for an ingest: the same rows, decoded by all threads, and never what is not in the file yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_same

import swath
from swath.errors import SourceError
from swath.gathered import GatheredSource, by_engine
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
