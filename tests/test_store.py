"""What is on disk: damage is an error that names the place, and a store is the old one or the new one, never a mixture."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from oracle import assert_same
from places import LOCAL, Place, flip, ingest, open_store, put
from servers import CONDITIONAL

import swath
from swath.errors import (
    DamagedStoreError,
    FormatError,
    IncompleteStoreError,
    LayoutError,
    OptionError,
    StoreBusyError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from swath.layout import STAMP_BYTES
from swath.shard import IndexCache
from swath.storage import LocalFile, LocalFolder

CODECS = ["raw", "lz4", "zstd"]
ROWS = np.random.default_rng(0).integers(0, 99, (95, 6))


@pytest.fixture(params=CODECS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Chunks of 4 rows, shards of 40: the last of each is not full."""
    swath.ingest(ROWS, tmp_path / "a", window=8, chunk_rows=4, shard_rows=40, codec=request.param)
    return tmp_path / "a"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def _all(url: Path) -> NDArray[Any]:
    return swath.open(url).gather([0], window=len(ROWS)).reshape(ROWS.shape)


@pytest.fixture(params=[*((LOCAL, codec) for codec in CODECS), *zip(CONDITIONAL, CODECS)], ids="-".join)
def stored(request: pytest.FixtureRequest, place_of_kind: Callable[[str], Place]) -> Place:
    """The same in any place; on a server in one codec."""
    kind, codec = request.param
    place = place_of_kind(kind)
    ingest(place, ROWS, window=8, chunk_rows=4, shard_rows=40, codec=codec)
    return place


def _all_of(place: Place) -> NDArray[Any]:
    return open_store(place).gather([0], window=len(ROWS)).reshape(ROWS.shape)


INDEX_BYTES = 10 * 16 + 4
HEAD_BYTES = INDEX_BYTES + STAMP_BYTES


@pytest.mark.parametrize(
    ("name", "first", "stop"),
    [
        pytest.param("zarr.json", 0, None, id="metadata"),
        pytest.param("c.0.0", 0, INDEX_BYTES, id="index"),
        pytest.param("c.0.0", INDEX_BYTES, HEAD_BYTES, id="stamp"),
        pytest.param("c.0.0", HEAD_BYTES, None, id="data"),
        pytest.param("c.2.0", 0, None, id="last-shard"),
    ],
)
def test_a_flipped_bit_is_never_believed(
    stored: Place, name: str, first: int, stop: int | None, trials: int, rng: np.random.Generator
) -> None:
    sound = stored.read(name)
    tries = 100 * trials if stored.kind == LOCAL else 5 * trials
    bits = rng.integers(8 * first, 8 * (stop or len(sound)), tries).tolist()
    errors = 0
    for bit in bits:
        flip(stored, name, bit)
        try:
            assert_same(_all_of(stored), ROWS)
        except (DamagedStoreError, FormatError) as error:
            assert f"{stored.url}/{name}" in str(error)  # noqa: PT017
            errors += 1
        stored.write(name, sound)
    # What changes nothing is white space in the metadata, or the empty places in the index of the last shard.
    assert errors > 0.6 * len(bits) or len(bits) < 100


def test_a_flipped_bit_anywhere_in_a_chunk_is_an_error(stored: Place, trials: int, rng: np.random.Generator) -> None:
    sound = stored.read("c.1.0")
    for byte in rng.integers(HEAD_BYTES, len(sound), 50 if stored.kind == LOCAL else 3 * trials).tolist():
        flip(stored, "c.1.0", 8 * byte)
        with pytest.raises(DamagedStoreError, match=r"c\.1\.0: chunk 1\d \(rows \d+ to \d+\) has a wrong checksum"):
            _all_of(stored)
        stored.write("c.1.0", sound)
    assert_same(_all_of(stored), ROWS)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        pytest.param(lambda sound: None, r"c\.1\.0 \(rows 40 to 79\) is missing", id="missing"),
        pytest.param(
            lambda sound: b"", r"c\.1\.0 ends at byte 0, (inside its index|before its first chunk)", id="empty"
        ),
        pytest.param(lambda sound: sound[:-5], r"c\.1\.0: chunk 19 \(rows 76 to 79\) ends early", id="cut"),
        pytest.param(
            lambda sound: bytes(len(sound)), r"c\.1\.0 has (a wrong checksum in its index|no sound stamp)", id="zeros"
        ),
        pytest.param(
            lambda sound: sound[:INDEX_BYTES].ljust(len(sound), b"\0"),
            r"c\.1\.0 has no sound stamp",
            id="zeros-after-index",
        ),
        pytest.param(
            lambda sound: sound[:HEAD_BYTES].ljust(len(sound), b"\0"),
            r"c\.1\.0: chunk 10 \(rows 40 to 43\) has a wrong checksum",
            id="zeros-after-stamp",
        ),
    ],
)
def test_a_damaged_shard_is_named(stored: Place, damaged: Callable[[bytes], bytes | None], message: str) -> None:
    content = damaged(stored.read("c.1.0"))
    if content is None:
        stored.remove("c.1.0")
    else:
        stored.write("c.1.0", content)
    with pytest.raises(DamagedStoreError, match=message + r".*Restore the file, or write the array again"):
        _all_of(stored)
    a = open_store(stored)
    assert_same(a.gather([0, 32, 80], window=8), np.stack([ROWS[s : s + 8] for s in (0, 32, 80)]))  # others are sound


@pytest.mark.parametrize("value", [5, 0], ids=["written", "left-out"])
def test_a_shard_written_by_zarr_python_is_not_mistaken(url: Path, value: int) -> None:
    array = zarr.open_array(url)
    array[44:48] = value  # zarr-python writes the whole shard anew, and leaves out chunks of the fill value
    with pytest.raises(DamagedStoreError, match=r"c\.1\.0 has no sound stamp: .* written by another program"):
        _all(url)


@pytest.mark.parametrize("opened_before", [False, True])
def test_shards_that_traded_places_are_found(stored: Place, opened_before: bool) -> None:
    a = open_store(stored)
    if opened_before:  # their indexes are known then, by what they are, and not by what they are called
        a.gather([0, 40])
    stored.swap("c.0.0", "c.1.0")
    with pytest.raises(
        DamagedStoreError, match=r"c\.0\.0 is shard 1 of this store, and stands in the place of shard 0"
    ):
        (a if opened_before else open_store(stored)).gather([0], window=8)


def test_a_shard_of_another_store_is_found(stored: Place) -> None:
    codec: Any = open_store(stored).codec
    other = stored.beside("b")
    ingest(other, -ROWS, window=8, chunk_rows=4, shard_rows=40, codec=codec)
    stored.write("c.1.0", other.read("c.1.0"))
    with pytest.raises(DamagedStoreError, match=r"c\.1\.0 is a shard of another store"):
        _all_of(stored)


def test_a_last_shard_from_before_an_append_is_found(stored: Place) -> None:
    """The chunk that the appended rows are in was there before, padded with zeros, and its checksum is sound."""
    before = stored.read("c.2.0")
    a = open_store(stored).append(np.ones((1, 6), int))
    assert a.gather([95], window=1).tolist() == [[[1] * 6]]
    stored.write("c.2.0", before)
    with pytest.raises(DamagedStoreError, match=r"c\.2\.0 has 15 rows, and must have 16: it is as it was before"):
        open_store(stored).gather([95], window=1)


def test_a_store_that_zarr_resized_is_refused(url: Path) -> None:
    zarr.open_array(url).resize((200, 6))
    with pytest.raises(FormatError, match=r"zarr\.json is not as swath wrote it: its checksum is wrong"):
        swath.open(url)


def test_a_users_own_attributes_are_no_damage(url: Path) -> None:
    zarr.open_array(url).attrs["note"] = "of the second day"
    assert_same(_all(url), ROWS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", r"cannot make an array of .*zarr\.json", id="empty"),
        pytest.param(b"\xff\xfe", r"cannot make an array of .*zarr\.json", id="binary"),
        pytest.param(b"[1]", r"cannot make an array of .*zarr\.json", id="list"),
        pytest.param(
            b'{"zarr_format": 3, "node_type": "group"}',
            r"is a Zarr group, not an array\. Open one of its arrays \(none\)",
            id="group",
        ),
        pytest.param(b'{"attributes": {"swath": {"format": 2}}}', "has format 2, .* reads 1. Upgrade", id="later"),
        pytest.param(b'{"attributes": {"swath": "x"}}', "is a Zarr group, not an array", id="text"),
        pytest.param(b"[" * 10**5, r"cannot make an array of .*zarr\.json", id="deep"),
    ],
)
def test_what_is_no_store_of_this_version_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        swath.open(tmp_path)


def test_there_is_no_store_where_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name in ("nothing", "folder", "file/x"):
        with pytest.raises(StoreNotFoundError, match=rf"There is no store at {tmp_path}/{name}"):
            swath.open(tmp_path / name)


@pytest.mark.parametrize("url", ["ftp://bucket/a", "", 5, None], ids=repr)
def test_a_place_is_a_local_path(url: Any) -> None:
    with pytest.raises(OptionError, match="no local path"):
        swath.open(url)
    with pytest.raises(OptionError, match="no local path"):
        swath.ingest(ROWS, url)


# Overwriting


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_array_is_overwritten_only_when_told(url: Path) -> None:
    with pytest.raises(StoreExistsError, match=rf"array at {url} already.*overwrite=True"):
        swath.ingest(-ROWS, url)
    assert_same(_all(url), ROWS)
    swath.ingest(-ROWS, url, overwrite=True)
    assert_same(_all(url), -ROWS)
    assert _names(url.parent) == ["a"]


def test_a_zarr_array_of_another_program_may_be_overwritten(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(10, 2), dtype="f8", zarr_format=2)
    swath.ingest(ROWS, tmp_path / "a", overwrite=True)
    assert_same(_all(tmp_path / "a"), ROWS)


def test_what_is_no_array_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(StoreExistsError, match="is not a Zarr array, so swath will not touch it"):
            swath.ingest(ROWS, tmp_path / name, overwrite=True)
    assert _names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"


def test_an_empty_folder_is_a_vacant_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    swath.ingest(ROWS, tmp_path / "a")
    assert_same(_all(tmp_path / "a"), ROWS)


def test_a_link_is_followed(url: Path) -> None:
    link, store = url.parent / "link", url.parent / "a"
    link.symlink_to(store)
    for rows in (-ROWS, ROWS + 1):
        swath.ingest(rows, link, overwrite=True)
        assert_same(_all(store), rows)
    assert link.is_symlink()
    assert _names(url.parent) == ["a", "link"]


def _fail(block: NDArray[Any]) -> NDArray[Any]:
    if block.size > 1:
        raise OSError("the sensor is gone")
    return block


def test_the_old_stays_when_the_new_fails(url: Path) -> None:
    failing = da.concatenate([da.zeros((40, 6)), da.ones((55, 6)).map_blocks(_fail, dtype="f8")])
    with pytest.raises(OSError, match="the sensor is gone"):
        swath.ingest(failing, url, overwrite=True, shard_rows=40, chunk_rows=4)
    assert_same(_all(url), ROWS)


def test_an_ingest_that_was_not_finished_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the sensor is gone"):
        swath.ingest(da.ones((55, 6)).map_blocks(_fail, dtype="f8"), tmp_path / "a")
    with pytest.raises(IncompleteStoreError, match=r"has not finished. Run the same ingest again"):
        swath.open(tmp_path / "a")


def test_a_kill_between_the_two_renames_leaves_the_old(url: Path) -> None:
    retired = url.with_name(".a.swath-old")
    url.rename(retired)
    assert_same(_all(url), ROWS)
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        swath.ingest(-ROWS, url)
    swath.ingest(-ROWS, url, overwrite=True)
    assert_same(_all(url), -ROWS)
    assert _names(url.parent) == ["a"]


def test_a_kill_before_the_old_is_removed_leaves_the_new(url: Path) -> None:
    shutil.copytree(url, url.with_name(".a.swath-old"))
    swath.ingest(-ROWS, url, overwrite=True)
    assert_same(_all(url), -ROWS)
    assert _names(url.parent) == ["a"]


# One writer at a time

_HOLDER = """
import sys, dask.array as da, swath
def wait(block):
    if block.size > 1:
        print("writing", flush=True)
        sys.stdin.readline()
    return block
swath.ingest(da.ones((95, 6)).map_blocks(wait, dtype="f8"), sys.argv[1])
"""


def test_a_second_writer_is_told_of_the_first(tmp_path: Path) -> None:
    url = tmp_path / "a"
    command = [sys.executable, "-c", _HOLDER, str(url)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "writing\n"
        with pytest.raises(StoreBusyError, match=rf"Process {first.pid} on .* is writing {url}"):
            swath.ingest(ROWS, url)
        first.stdin.write("\n")
        first.stdin.close()
    assert first.returncode == 0
    assert_same(_all(url), np.ones((95, 6)))


def test_the_lock_holds_until_the_store_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = LocalFolder.sync
    refused: list[StoreError] = []

    def sync_while_another_begins(folder: LocalFolder) -> None:
        monkeypatch.setattr(LocalFolder, "sync", sync)
        with pytest.raises(StoreBusyError) as info:
            swath.ingest(-ROWS, tmp_path / "a")
        refused.append(info.value)
        sync(folder)

    monkeypatch.setattr(LocalFolder, "sync", sync_while_another_begins)
    swath.ingest(ROWS, tmp_path / "a")
    assert refused
    assert_same(_all(tmp_path / "a"), ROWS)
    assert _names(tmp_path / "a") == ["c.0.0", "zarr.json"]


def test_threads_share_a_full_cache_of_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = IndexCache(100, most_bytes=300)
    monkeypatch.setattr(IndexCache, "read", lambda self, file, stamp: None)  # the race is in the cache alone
    files = [LocalFile(str(k), -1, 0, (k, 0, 0)) for k in range(11)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def read(step: int) -> None:
        for i in range(60_000):
            cache.get(files[i * step % len(files)])

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, (1, 3, 5, 7)))
    finally:
        sys.setswitchinterval(before)


# The format


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param([(("a title", "x"), "i4"), ("y", "f8")], id="titles"),
        pytest.param(np.dtype("i1", metadata={"unit": "m"}), id="metadata"),
        pytest.param([("é", "i4"), ("日", "f8")], id="names-in-unicode"),
        pytest.param(np.dtype([("a", "i1"), ("b", "f8")], align=True), id="aligned"),
    ],
)
def test_a_dtype_comes_back_as_it_was(tmp_path: Path, dtype: Any) -> None:
    rows = np.zeros((20, 2), dtype)
    a = swath.ingest(rows, tmp_path / "a")
    assert a.dtype == rows.dtype
    assert a.gather([0]).dtype == np.stack([rows]).dtype


def test_a_dtype_that_numpy_cannot_describe_is_refused(tmp_path: Path) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    with pytest.raises(LayoutError, match="bfloat16"):
        swath.ingest(np.zeros((20, 2), bfloat16), tmp_path / "a")
    with pytest.raises(StoreNotFoundError):
        swath.open(tmp_path / "a")


def test_the_metadata_say_what_the_store_is(url: Path) -> None:
    own = json.loads((url / "zarr.json").read_bytes())["attributes"]["swath"]
    assert (own["format"], own["dtype"], own["window"], own["segments"]) == (1, "<i8", 8, [95])
    assert [source["kind"] for source in own["sources"]] == ["numpy"]
    a = swath.open(url)
    assert (a.shape, a.window, a.chunk_rows, a.shard_rows, a.codec) == ((95, 6), 8, 4, 40, own["codec"])
    assert a.segments.tolist() == [[0, 95]]
    assert str(url) in repr(a)


def test_a_store_that_was_replaced_is_not_read_with_old_metadata(place: Place) -> None:
    """Shards of the new store are sound: only the metadata tell that they are not those rows."""
    old = ingest(place, np.ones((100, 4)))
    assert old.gather([5]).dtype == np.float64
    new = ingest(place, np.ones((100, 4), np.int64), overwrite=True)
    calls: list[Callable[[], object]] = [
        lambda: old.gather([5]),
        lambda: old.windows([5]).compute(scheduler="sync"),
        lambda: list(old.batches(10)),
        old.verify,
    ]
    for call in calls:
        with pytest.raises(swath.errors.StoreChangedError, match="was replaced or removed since it was opened"):
            call()
    assert new.gather([5]).dtype == np.int64
    put(place, {})
    with pytest.raises(swath.errors.StoreChangedError):
        new.gather([5])
