"""Broken and lying metadata: an answer that is right, or a typed error, soon and in little memory."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from oracle import assert_same

import swath
from hostile import metadata, shards
from hostile.corpora import Corpus, attempt_all
from hostile.metadata import ROWS, reseal
from swath.errors import DamagedStoreError, FormatError, MemoryLimitError, StoreError

# Of each corpus; with --full as many as make 10,000 together.
_FEW = 15


@pytest.mark.parametrize("module", [metadata, shards], ids=["metadata", "shards"])
def test_whatever_is_broken_is_a_typed_error_and_soon(module: Any, tmp_path: Path, full: bool) -> None:
    module.write_sound(tmp_path)
    every: list[Corpus] = module.CORPORA
    seeds = range(-(-10_000 // len(every))) if full else range(_FEW)
    for name, by in attempt_all(every, tmp_path, seeds, ["swath"]).items():
        for result in by["swath"]:
            assert result.is_good, (name, result)


# --- What the corpora found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    swath.ingest(ROWS, tmp_path / "a", codec="zstd", chunk_rows=4, shard_rows=40, progress=False)
    return tmp_path / "a"


def _lie(url: Path, change: Callable[[Any], Any]) -> None:
    document = json.loads((url / "zarr.json").read_text())
    change(document)
    (url / "zarr.json").write_text(json.dumps(reseal(document)))


LIES: dict[str, Callable[[Any], Any]] = {
    "segments of other rows": lambda d: _own(d).update(segments=[96]),
    "a negative segment": lambda d: _own(d).update(segments=[100, -5]),
    "a segment that no integer holds": lambda d: _own(d).update(segments=[2**70]),
    "a segment that is a text": lambda d: _own(d).update(segments=["95"]),
    "a window of no rows": lambda d: _own(d).update(window=0),
    "a window that is a text": lambda d: _own(d).update(window="16"),
    "sources that are none": lambda d: _own(d).update(sources=[1]),
    "no sources": lambda d: _own(d).update(sources=[], lengths=[]),
    "lengths of other rows": lambda d: _own(d).update(lengths=[94]),
    "values of no bytes": lambda d: _own(d).update(dtype="|V0"),
    "Python objects": lambda d: _own(d).update(dtype="|O"),
    "a negative shape": lambda d: d.update(shape=[95, -6]),
    "a shape that is true": lambda d: d.update(shape=[95, True]),
    "rows that 64 bits don't count": lambda d: _with_rows(d, 2**63 - 1),
    "chunks of no rows": lambda d: _grid(d, 0, 40),
    "chunks that are no part of shards": lambda d: _grid(d, 3, 40),
    "a shard of a list": lambda d: _grid(d, 4, [40]),
    "another separator": lambda d: d["chunk_key_encoding"]["configuration"].update(separator="/../"),
}


def _own(document: Any) -> Any:
    return document["attributes"]["swath"]


def _with_rows(document: Any, n_rows: int) -> None:
    document["shape"][0] = n_rows
    _own(document).update(segments=[n_rows], lengths=[n_rows])


def _grid(document: Any, chunk_rows: Any, shard_rows: Any) -> None:
    document["codecs"][0]["configuration"]["chunk_shape"][0] = chunk_rows
    document["chunk_grid"]["configuration"]["chunk_shape"][0] = shard_rows


@pytest.mark.parametrize("name", LIES)
def test_lies_with_a_sound_checksum_are_refused(store: Path, name: str) -> None:
    _lie(store, LIES[name])
    with pytest.raises(FormatError, match=r"zarr\.json"):
        swath.open(store)


def test_an_attribute_that_is_no_dict_is_refused(store: Path) -> None:
    document = json.loads((store / "zarr.json").read_text())
    document["attributes"] = {"swath": [], "x": _own(document)}
    (store / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(FormatError):
        swath.open(store)


def test_an_index_of_any_size_is_not_made_room_for(store: Path) -> None:
    """Its checksum and all: the shard ends before it."""
    _lie(store, lambda document: _grid(document, 4, 4 * 10**9))
    a = swath.open(store)
    with pytest.raises(MemoryLimitError):
        a.gather([0], window=2, memory_limit="100MB")
    assert "inside its index" in a.verify(progress=False).damages[0].what


def test_shards_of_any_number_are_not_looked_for_one_by_one(store: Path) -> None:
    _lie(store, lambda document: _with_rows(document, 10**12))
    with pytest.raises(DamagedStoreError, match="25000000000 shards"):
        swath.open(store).verify(progress=False)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**36)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES: dict[str, Callable[[Path], None]] = {
    "fifo": _fifo,
    "folder": Path.mkdir,
    "loop": _loop,
    "device": _device,
    "giant": _giant,
}


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("name", ["zarr.json", "c.1.0"])
def test_what_is_no_file_in_a_store_is_an_error_and_no_hang(store: Path, name: str, what: str) -> None:
    (store / name).unlink()
    NO_FILES[what](store / name)
    with pytest.raises(StoreError, match=name):
        swath.open(store).gather([38], window=5)


@pytest.mark.parametrize("what", ["fifo", "folder", "loop"])
@pytest.mark.parametrize("name", [".zarray", ".zattrs", "0.0"])
def test_what_is_no_file_in_an_array_of_others_is_an_error_and_no_hang(tmp_path: Path, name: str, what: str) -> None:
    url = tmp_path / "a"
    zarr.create_array(url, data=ROWS, chunks=(10, 6), zarr_format=2, attributes={"a": 1})
    (url / name).unlink()
    NO_FILES[what](url / name)
    with pytest.raises(
        StoreError, match=url.name if name == ".zarray" else name
    ):  # without it there is no array at all
        swath.open(url).gather([0], window=2)


def test_a_folder_whose_group_would_be_giant_is_opened_alone(store: Path) -> None:
    """Ours never is; that of another program may be."""
    _giant(store.parent / "zarr.json")
    assert_same(swath.open(store).gather([7], window=3)[0], ROWS[7:10])


def test_a_shape_that_64_bits_do_not_count_is_refused(tmp_path: Path) -> None:
    """Rows at the end of 2^63 - 1 were those of another place."""
    zarr.create_array(tmp_path / "a", data=ROWS, chunks=(10, 6))
    path = tmp_path / "a" / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "shape": [2**63 - 1, 6]}))
    with pytest.raises(FormatError, match="64 bits"):
        swath.open(tmp_path / "a")


@pytest.mark.parametrize("lacking", ["index_codecs", "codecs"])
def test_what_a_shard_does_not_say_is_as_zarr_python_takes_it(tmp_path: Path, lacking: str) -> None:
    sharding = zarr.codecs.ShardingCodec(chunk_shape=(5, 6), codecs=[zarr.codecs.BytesCodec()])
    zarr.create_array(tmp_path / "a", data=ROWS, chunks=(10, 6), serializer=sharding, compressors=None)
    path = tmp_path / "a" / "zarr.json"
    document = json.loads(path.read_text())
    del document["codecs"][0]["configuration"][lacking]
    path.write_text(json.dumps(document))
    assert_same(np.asarray(zarr.open_array(tmp_path / "a")[7:10]), ROWS[7:10])
    assert_same(swath.open(tmp_path / "a").gather([7], window=3)[0], ROWS[7:10])


def test_rows_of_any_number_of_chunks_are_refused_by_their_size(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(20, 2**40), dtype="u1", chunks=(10, 1))
    with pytest.raises(MemoryLimitError):
        swath.open(tmp_path / "a").gather([0], window=2, memory_limit="100MB")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=ROWS, chunks=(95, 6), zarr_format=2, compressors=numcodecs.Zlib())
    path = tmp_path / "a" / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), "compressor": {"id": "pickle"}}))
    mark = tmp_path / "mark"
    (tmp_path / "a" / "0.0").write_bytes(b"cos\nsystem\n(S'touch " + bytes(mark) + b"'\ntR.")
    with pytest.raises(FormatError, match="pickle"):
        swath.open(tmp_path / "a").gather([0], window=2)
    assert not mark.exists()


def test_options_of_a_group_are_no_paths(tmp_path: Path) -> None:
    swath.ingest_group({"X": ROWS}, tmp_path / "g", progress=False)
    shutil.copytree(tmp_path / "g" / "X", tmp_path / "X")

    def change(document: Any) -> None:
        inline = document["consolidated_metadata"]["metadata"]
        inline["../X"] = inline.pop("X")
        _own(document)["arrays"] = ["../X"]

    _lie(tmp_path / "g", change)
    with pytest.raises(FormatError, match="name"):
        swath.open_group(tmp_path / "g")


def test_metadata_that_could_not_be_read_again_are_not_written(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.metadata.MOST_WHOLE_BYTES", 2000)
    a = swath.open(store)
    with pytest.raises(swath.SwathError, match="are read"):
        a.append([ROWS[:1]] * 20, progress=False)
    monkeypatch.undo()
    assert swath.open(store).verify(progress=False)
    assert np.array_equal(swath.open(store).gather([0], window=95)[0], ROWS)
