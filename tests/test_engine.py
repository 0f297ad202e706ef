"""Every path of the engine gives the same rows: checked or not, past the page cache or not, mapped, decoded in part."""

import math
import mmap
import os
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.blosc import Blosc
from oracle import assert_same, expected
from page_cache import cached_pages

import swath
from swath.announcing import comes
from swath.blosc_buffers import blosc_part
from swath.buffers import Buffers, empty
from swath.checksum import crc32c
from swath.crew import is_worth_a_trial, run_best, threads_for
from swath.errors import DamagedStoreError, MemoryLimitError, OptionError, SourceError, StoreChangedError
from swath.landing import Lander
from swath.layout import STAMP_BYTES, Layout
from swath.measure import drop_cache
from swath.memory import Room
from swath.plan import Plan, plan_gather
from swath.storage import Buffer, LocalFile, LocalFolder, Scratch

ROWS = np.random.default_rng(0).integers(0, 1000, (5000, 300))
STARTS = np.random.default_rng(1).integers(0, 4984, 300)


@pytest.fixture(params=["raw", "lz4", "npy"])
def array(request: pytest.FixtureRequest, tmp_path: Path) -> swath.RowArray:
    if request.param == "npy":
        np.save(tmp_path / "rows.npy", ROWS)
        return swath.open(tmp_path / "rows.npy")
    return swath.ingest(ROWS, tmp_path / "a", codec=request.param, shard_rows=480, chunk_rows=3)


@pytest.mark.parametrize("verify", ["always", "never"])
@pytest.mark.parametrize("direct", ["auto", "always", "never"])
@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("columns", [None, slice(3, 50, 2), [7, 7, 0]], ids=["all", "slice", "list"])
def test_every_way_gives_the_same_rows(
    array: swath.RowArray, verify: Any, direct: Any, cold: bool, columns: Any
) -> None:
    if cold:
        drop_cache(array.url)
    wanted = expected(ROWS, STARTS, 16)
    batch = array.gather(STARTS, verify=verify, direct=direct, columns=columns)
    assert_same(batch, wanted if columns is None else wanted[:, :, columns])


@pytest.mark.parametrize(
    ("codec", "window", "windows", "threads"),
    [
        ("raw", 16, 100, 1),  # over in a moment
        ("raw", 16, 300, 1),  # each opens a shard
        ("raw", 16, 4000, 4),
        ("raw", 1, 4000, 1),  # Python takes longer than the bytes
        ("lz4", 16, 4000, 4),  # decoded together
        ("lz4", 1, 4000, 4),
        ("zstd", 16, 4000, 4),
    ],
)
def test_threads_share_what_is_in_memory_where_they_gain(
    codec: Any, window: int, windows: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swath.crew.local_cores", lambda: 4)
    layout = Layout(500_000, (2000,), np.dtype("f8"), 4 if codec == "raw" else 16, 4192, codec)
    starts = np.random.default_rng(0).integers(0, 499_984, windows)
    limit = Room(2**40, "the test")
    plan = plan_gather(layout, starts, window, columns=None, batch_in_memory=True, limit=limit)
    assert threads_for(plan, near=True) == threads
    assert threads_for(plan, near=False) == plan.threads


def test_threads_share_what_is_in_memory(array: swath.RowArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.crew._COPIES_A_PYTHON", 0)
    monkeypatch.setattr("swath.crew._LEAST_COPY_SECONDS", 0)
    seen: set[str] = set()
    land = Lander.land

    def noted(lander: Lander, first: int, stop: int) -> None:
        seen.add(threading.current_thread().name)
        land(lander, first, stop)

    monkeypatch.setattr(Lander, "land", noted)
    assert_same(array.gather(STARTS), expected(ROWS, STARTS, 16))
    assert all(name.startswith("swath-gather") for name in seen)


@pytest.mark.parametrize(
    ("codec", "chunk_rows", "windows", "tried"),
    [
        ("raw", 4, 10_000, False),
        ("lz4", 4, 1000, False),  # over too soon
        ("lz4", 4, 10_000, True),
        ("lz4", 16, 10_000, False),  # decoded together, and large: clear
        ("lz4", 20, 10_000, True),  # too large for that
        ("zstd", 16, 10_000, False),
    ],
)
def test_threads_are_tried_where_it_is_not_clear_that_they_gain(
    codec: Any, chunk_rows: int, windows: int, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swath.crew.local_cores", lambda: 2)
    layout = Layout(500_000, (2000,), np.dtype("f8"), chunk_rows, 4200 // chunk_rows * chunk_rows, codec)
    starts = np.random.default_rng(0).integers(0, 499_984, windows)
    limit = Room(2**40, "the test")
    plan = plan_gather(layout, starts, 16, columns=None, batch_in_memory=True, limit=limit)
    assert is_worth_a_trial(plan) == tried
    monkeypatch.setattr("swath.crew.local_cores", lambda: 1)
    assert not is_worth_a_trial(plan)


@pytest.mark.parametrize(
    ("most", "rates", "ran"),
    [
        (2, {1: 10, 2: 15}, [1, 2, 2]),
        (2, {1: 10, 2: 6}, [1, 2, 1]),
        (2, {1: 10, 2: 10.2}, [1, 2, 1]),
        (6, {1: 10, 2: 19, 4: 30, 6: 33}, [1, 2, 4, 6, 6]),
        (8, {1: 10, 2: 19, 4: 12, 8: 40}, [1, 2, 4, 2]),
        (1, {1: 10}, [1, 1]),
    ],
)
def test_as_many_threads_go_on_as_are_fastest(
    most: int, rates: dict[int, float], ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    runs: list[tuple[int, bool]] = []

    def run(n: int, seconds: float) -> int:
        nonlocal now
        runs.append((n, math.isinf(seconds)))
        now += 1.0 if math.isinf(seconds) else 2 * seconds  # the last task of a trial takes its time
        return round(1000 * rates[n] * 2 * seconds) if seconds < 1 else 0

    monkeypatch.setattr("swath.crew.time", SimpleNamespace(perf_counter=lambda: now))
    run_best(run, most)
    assert runs == [*((n, False) for n in ran[:-1]), (ran[-1], True)]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 10.0])
def test_a_gather_that_tries_threads_gives_the_same_rows(
    array: swath.RowArray, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    array.gather(STARTS)  # all is in memory
    monkeypatch.setattr("swath.gather.is_worth_a_trial", lambda plan: True)
    monkeypatch.setattr("swath.gather.local_cores", lambda: 3)
    monkeypatch.setattr("swath.gather._READS_A_TASK", 2)
    monkeypatch.setattr("swath.crew._TRIAL_SECONDS", seconds)
    landed: list[tuple[int, int]] = []
    land = Lander.land

    def noted(lander: Lander, first: int, stop: int) -> None:
        landed.append((first, stop))
        land(lander, first, stop)

    monkeypatch.setattr(Lander, "land", noted)
    assert_same(array.gather(STARTS), expected(ROWS, STARTS, 16))
    assert sorted(read for first, stop in landed for read in range(first, stop)) == list(
        range(array.plan(STARTS).first_chunk.size)
    )


@pytest.mark.parametrize("name", ["verify", "direct"])
def test_an_unknown_way_is_refused(array: swath.RowArray, name: str) -> None:
    options: dict[str, Any] = {name: "sometimes"}
    with pytest.raises(OptionError, match=f"{name} is 'sometimes'. Choose one of"):
        array.gather([0], **options)


def _flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("direct", ["always", "never"])
def test_never_means_that_a_flipped_bit_is_not_seen(tmp_path: Path, direct: Any) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", shard_rows=480, chunk_rows=3)
    head = a.shard_rows // a.chunk_rows * 16 + 4 + STAMP_BYTES
    _flip(tmp_path / "a" / "c.0.0", head)  # of row 0
    with pytest.raises(DamagedStoreError, match=r"chunk 0 \(rows 0 to 2\) has a wrong checksum"):
        a.gather([1], direct=direct)
    assert a.gather([1], verify="never", direct=direct)[0, 0, 0] == ROWS[1, 0]
    assert a.gather([0], verify="never", direct=direct)[0, 0, 0] == ROWS[0, 0] ^ 1


def test_a_shard_that_ends_early_is_damage_however_it_is_read(tmp_path: Path) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", shard_rows=480, chunk_rows=3)
    os.truncate(tmp_path / "a" / "c.0.0", 600_000)
    for options in ({}, {"verify": "never"}, {"direct": "always"}, {"verify": "never", "direct": "always"}):
        with pytest.raises(DamagedStoreError, match=r"c\.0\.0: chunk \d+ .* ends early"):
            a.gather([400], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("starts", [[4984], [4980, 4984]])
def test_a_checksum_that_nobody_compares_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[int]
) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", shard_rows=480, chunk_rows=8)
    ends: list[int] = []
    read = LocalFile.read_into

    def noted(self: LocalFile, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        ends.append(offset + n_bytes)
        return read(self, buffers, n_bytes, offset)

    monkeypatch.setattr(LocalFile, "read_into", noted)
    size = (tmp_path / "a" / f"c.{4984 // 480}.0").stat().st_size
    assert_same(a.gather(starts, verify="never"), expected(ROWS, starts, 16))
    assert max(ends) == size - 4
    a.gather(starts)
    assert max(ends) == size


@pytest.mark.parametrize("verify", ["always", "never"])
def test_a_chunk_that_lies_elsewhere_is_damage_however_it_is_read(tmp_path: Path, verify: Any) -> None:
    """Rows are calculated to lie one after another: where the index says otherwise, those would be of another chunk."""
    a = swath.ingest(ROWS, tmp_path / "a", shard_rows=480, chunk_rows=3)
    path = tmp_path / "a" / "c.0.0"
    content, size = bytearray(path.read_bytes()), a.shard_rows // a.chunk_rows * 16
    index = np.frombuffer(content, "<u8", size // 8).reshape(-1, 2)
    index[[50, 51]] = index[[51, 50]]
    content[size : size + 4] = crc32c(bytes(content[:size])).to_bytes(4, "little")
    path.write_bytes(content)
    assert_same(a.gather([100], verify=verify), expected(ROWS, [100], 16))
    with pytest.raises(DamagedStoreError, match=r"c\.0\.0: chunk 50 .* does not lie where swath writes it"):
        a.gather([140], verify=verify)


def test_unchecked_rows_alone_are_read() -> None:
    layout = swath.layout.Layout(10**6, (1000,), np.dtype("f8"), 4, 4000, "raw")
    for verify, rows in ((True, 20), (False, 16)):
        plan = swath.plan.plan_gather(
            layout,
            np.array([5, 50_001]),
            16,
            columns=None,
            batch_in_memory=True,
            limit=swath.memory.Room(2**30, ""),
            verify=verify,
        )
        head = 2 * layout.head_bytes
        assert plan.bytes_read == 2 * rows * 8000 + head + (2 * 5 * 4 if verify else 0)
        assert ("every chunk is checked" in str(plan)) is verify


@pytest.mark.parametrize("columns", [[20_000], slice(100, 200), [5, 39_000], []], ids=str)
def test_a_few_columns_of_wide_rows_are_read_alone(tmp_path: Path, columns: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 40_000))
    np.save(tmp_path / "wide.npy", rows)
    a = swath.open(tmp_path / "wide.npy")
    plan = a.plan([3, 40], columns=columns)
    span = np.arange(40_000)[columns]
    wide = span.size == 0 or span[-1] - span[0] < 30_000
    whole = 2 * 16 * 320_000
    assert plan.bytes_read == (2 * 16 * 8 * (np.ptp(span) + 1 if span.size else 0) if wide else whole)
    before = _bytes_read()
    assert_same(a.gather([3, 40], columns=columns), expected(rows, [3, 40], 16)[:, :, columns])
    assert _bytes_read() - before < plan.bytes_read + 2**16


def _bytes_read() -> int:
    """What this process has asked the kernel to read."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError


# --- Small windows, from a mapping


@pytest.mark.parametrize("kind", ["npy", "raw", "shards"])
@pytest.mark.parametrize("window", [1, 3, 40])
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "c16", "S3", "V24"])
def test_many_small_windows_are_taken_from_memory(
    tmp_path: Path, kind: str, window: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (20_000, np.dtype(dtype).itemsize), np.uint8).view(dtype)[:, 0]
    if kind == "npy":
        np.save(tmp_path / "a.npy", rows)
        a = swath.open(tmp_path / "a.npy")
    else:
        shards: Any = {"shard_rows": 6000, "chunk_rows": 60} if kind == "shards" else {}
        a = swath.ingest(rows, tmp_path / "a", **shards)
    starts = np.random.default_rng(1).integers(0, len(rows) - window, 1200)
    wanted = expected(rows, starts, window)
    monkeypatch.setattr("swath.gather.plan_for", None)  # no plan is made
    assert_same(a.gather(starts, window=window, verify="never"), wanted)
    out = np.empty(wanted.shape, wanted.dtype)
    assert a.gather(starts, window=window, verify="never", out=out) is out
    assert_same(out, wanted)


def test_small_windows_that_cannot_be_mapped_are_read(tmp_path: Path) -> None:
    rows = np.arange(100_000)
    a = swath.ingest(rows, tmp_path / "a")
    starts = np.random.default_rng(1).integers(0, 99_000, 2000)
    wanted = expected(rows, starts, 4)
    options: dict[str, Any] = {"window": 4, "verify": "never"}
    assert_same(a.gather(starts, **options, direct="never"), wanted)
    strided = np.empty((2000, 8), "i8")[:, ::2]
    assert_same(a.gather(starts, **options, out=strided), wanted)
    drop_cache(a.url)
    assert_same(a.gather(starts, **options), wanted)
    with pytest.raises(MemoryLimitError):
        a.gather(starts, **options, memory_limit=1000)
    shard = tmp_path / "a" / "c.0"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(DamagedStoreError, match="ends early"):
        a.gather(starts, **options)
    shard.unlink()
    with pytest.raises(DamagedStoreError, match="is missing"):
        a.gather(starts, **options)


# --- Blosc, in part


@given(
    n_bytes=st.integers(1, 300_000),
    itemsize=st.sampled_from([1, 2, 4, 8]),
    cname=st.sampled_from(["lz4", "zstd", "blosclz", "lz4hc", "zlib"]),
    shuffle=st.sampled_from([0, 1, 2]),
    blocksize=st.sampled_from([0, 4096, 5000, 65536]),
    noise=st.booleans(),
    data=st.data(),
)
def test_part_of_a_blosc_buffer_is_part_of_its_bytes(
    n_bytes: int, itemsize: int, cname: str, shuffle: int, blocksize: int, noise: bool, data: st.DataObject
) -> None:
    n_bytes += -n_bytes % itemsize
    raw = np.random.default_rng(n_bytes).integers(0, 256 if noise else 3, n_bytes, np.uint8)
    encoded = memoryview(Blosc(cname, 5, shuffle, blocksize, typesize=itemsize).encode(raw))
    first = data.draw(st.integers(0, n_bytes - 1))
    stop = data.draw(st.integers(first + 1, n_bytes))
    part, begin, end = blosc_part(encoded, first, stop, n_bytes)
    decoded = np.frombuffer(Blosc().decode(part), np.uint8)
    assert decoded.size == end - begin
    assert (decoded[first - begin : stop - begin] == raw[first:stop]).all()


def test_a_window_of_a_large_blosc_chunk_decodes_a_small_part() -> None:
    raw = np.arange(2_000_000, dtype="f4")
    encoded = memoryview(Blosc("lz4", 5, 1, 2**15).encode(raw))
    part, begin, end = blosc_part(encoded, 4_000_000, 4_010_000, raw.nbytes)
    assert len(part) < len(encoded) / 50
    assert end - begin <= 2 * int.from_bytes(encoded[8:12], "little")  # blocks


# --- Direct I/O


@pytest.mark.parametrize(
    ("offset", "sizes"), [(0, [4096]), (1, [1, 5000, 3]), (4095, [2]), (9000, [1000]), (9990, [100])]
)
def test_direct_reads_are_reads(tmp_path: Path, offset: int, sizes: list[int]) -> None:
    content = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8).tobytes()
    (tmp_path / "file").write_bytes(content)
    with LocalFolder(tmp_path).open("file", Scratch()) as file:
        buffers = [memoryview(bytearray(size)) for size in sizes]
        got = file.read_into(buffers, sum(sizes), offset)
    assert got == min(sum(sizes), 10_000 - offset)
    assert b"".join(buffers)[:got] == content[offset : offset + got]


def test_direct_reads_leave_the_page_cache_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    a = swath.open(tmp_path / "rows.npy")
    drop_cache(a.url)
    a.gather(STARTS, direct="always")
    page = (128 + 8 * 300 * int(STARTS[0])) // mmap.PAGESIZE
    assert page not in cached_pages(tmp_path / "rows.npy")
    a.gather(STARTS)
    assert page in cached_pages(tmp_path / "rows.npy")


def test_what_is_announced_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2**20))
    drop_cache(str(path))
    assert not cached_pages(path)
    told = set(range(128, 168))
    with LocalFolder(tmp_path).open("file") as file:
        file.announce(128 * 4096, 40 * 4096)
        until = time.monotonic() + 10
        while cached_pages(path) != told and time.monotonic() < until:
            time.sleep(0.001)
        for offset, n_bytes in [(0, 0), (0, -1), (-1, 1), (2**64, 2**64), (2**20, 1)]:  # damaged indexes say so
            file.announce(offset, n_bytes)
        time.sleep(0.1)
    assert cached_pages(path) == told


@pytest.mark.parametrize("verify", ["always", "never"])
def test_the_disk_is_told_of_what_is_read_and_of_nothing_else(
    array: swath.RowArray, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    read: list[tuple[str, int, int]] = []
    announce, read_into = LocalFile.announce, LocalFile.read_into

    def noted(file: LocalFile, offset: int, n_bytes: int) -> None:
        told.append((file.path, offset, offset + n_bytes))
        announce(file, offset, n_bytes)

    def noted_read(file: LocalFile, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        read.append((file.path, offset, offset + n_bytes))
        return read_into(file, buffers, n_bytes, offset)

    array.gather(STARTS, verify=verify)  # the indexes are known now
    monkeypatch.setattr(LocalFile, "announce", noted)
    monkeypatch.setattr(LocalFile, "read_into", noted_read)
    array.gather(STARTS[:40], verify=verify)
    assert read
    assert not told  # from memory
    read.clear()
    monkeypatch.setattr("swath.announcing._READS_AHEAD", 4)  # others are told of while the first are read
    # A quick disk, while the cores are busy, has brought what is looked for before the look is over.
    monkeypatch.setattr("swath.gather.are_cached", lambda *_: False)
    monkeypatch.setattr("swath.gather.comes", lambda *asked: comes(*asked) or True)
    assert_same(array.gather(STARTS[:40], verify=verify), expected(ROWS, STARTS[:40], 16))

    def pages(ranges: list[tuple[str, int, int]]) -> set[tuple[str, int]]:
        return {(path, page) for path, a, b in ranges for page in range(a // 4096, -(-b // 4096))}

    data = [each for each in read if each[1]]  # but for what was read of indexes
    assert pages(data) <= pages(told)
    assert len(pages(told) - pages(data)) <= 10  # the first rows of five chunks, to see whether they come


def test_many_threads_wait_for_a_disk_that_does_not_listen(
    array: swath.RowArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    choose = threads_for

    def noted(plan: Plan, near: bool) -> int:
        threads.append(choose(plan, near))
        return threads[-1]

    monkeypatch.setattr("swath.gather.threads_for", noted)
    monkeypatch.setattr(LocalFile, "announce", lambda file, offset, n_bytes: None)
    monkeypatch.setattr(LocalFile, "is_cached", lambda file, offset: False)
    assert_same(array.gather(STARTS), expected(ROWS, STARTS, 16))
    assert threads == [1, array.plan(STARTS).threads]


def test_an_array_that_dwarfs_the_memory_is_read_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = swath.ingest(ROWS, tmp_path / "a")
    assert not a.plan(STARTS).direct
    assert a.plan(STARTS, direct="always").direct
    monkeypatch.setattr("swath.gather.machine_bytes", lambda: ROWS.nbytes // 17)
    assert a.plan(STARTS).direct
    assert not a.plan(STARTS, direct="never").direct
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 16))


# --- In place


def test_the_plan_says_what_ingesting_would_gain(tmp_path: Path) -> None:
    import zarr

    chunked = zarr.create_array(tmp_path / "z", shape=ROWS.shape, chunks=(1000, 300), dtype=ROWS.dtype)
    chunked[:] = ROWS
    plan = swath.open(tmp_path / "z").plan(STARTS[:3])
    assert "times less: see swath.ingest" in str(plan)
    assert plan.ingested_bytes is not None
    assert plan.ingested_bytes < plan.bytes_read / 10
    np.save(tmp_path / "rows.npy", ROWS)
    assert "no less, but every chunk checked" in str(swath.open(tmp_path / "rows.npy").plan([5, 3000]))
    assert swath.ingest(ROWS, tmp_path / "a").plan(STARTS).ingested_bytes is None


def test_a_handle_of_another_window_pickles(tmp_path: Path) -> None:
    swath.ingest(ROWS, tmp_path / "a")
    a = pickle.loads(pickle.dumps(swath.open(tmp_path / "a", window=5)))
    assert a.window == 5
    assert a.gather([7]).shape == (1, 5, 300)


@pytest.mark.parametrize("window", [0, -1, 2.5, True, "16"], ids=repr)
def test_a_window_of_a_handle_is_a_whole_number(tmp_path: Path, window: Any) -> None:
    swath.ingest(ROWS, tmp_path / "a")
    with pytest.raises(OptionError, match="Give the number of rows"):
        swath.open(tmp_path / "a", window=window)


@pytest.mark.parametrize("chunks", [(5000, 300), (5000, 100)], ids=["rows", "tiles"])
def test_of_a_large_chunk_without_a_codec_only_the_windows_are_read(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    import zarr

    array = zarr.create_array(tmp_path / "z", shape=ROWS.shape, chunks=chunks, dtype=ROWS.dtype, compressors=None)
    array[:] = ROWS
    a = swath.open(tmp_path / "z")
    starts = [4900, 3, 10, 2000]
    before = _bytes_read()
    assert_same(a.gather(starts), expected(ROWS, starts, 16))
    assert _bytes_read() - before < 1.5 * 4 * 16 * 2400 + 2**16


def test_of_a_large_blosc_chunk_a_window_is_decoded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    rows = np.arange(1_000_000, dtype="f4").reshape(2000, 500)
    array = zarr.create_array(
        tmp_path / "z", shape=rows.shape, chunks=rows.shape, dtype="f4", compressors=BloscCodec(blocksize=2**14)
    )
    array[:] = rows
    decoded = []

    def note(encoded: memoryview, first: int, stop: int, n_bytes: int) -> Any:
        part = blosc_part(encoded, first, stop, n_bytes)
        decoded.append(part[2] - part[1])
        return part

    monkeypatch.setattr("swath.decoder.blosc_part", note)
    assert_same(swath.open(tmp_path / "z").gather([1000]), expected(rows, [1000], 16))
    assert len(decoded) == 1
    assert decoded[0] < rows.nbytes / 20


# --- What a review found


def test_damage_between_the_windows_is_nobodys(tmp_path: Path) -> None:
    rows = np.arange(5000).reshape(1000, 5)
    a = swath.ingest(rows, tmp_path / "a", chunk_rows=100)
    _flip(
        tmp_path / "a" / "c.0.0", a.shard_rows // 100 * 16 + 4 + STAMP_BYTES + 5 * 4004
    )  # in chunk 5, rows 500 to 599
    assert_same(a.gather([450, 600], window=10), expected(rows, [450, 600], 10))
    for start in (495, 500, 599):
        with pytest.raises(DamagedStoreError, match=r"chunk 5 \(rows 500 to 599\) has a wrong checksum"):
            a.gather([450, start, 700], window=10)


def test_a_foreign_array_that_was_replaced_while_it_was_pickled_is_told_of(tmp_path: Path) -> None:
    import zarr

    zarr.create_array(tmp_path / "z", shape=(10, 3), dtype="f8")
    pickled = pickle.dumps(swath.open(tmp_path / "z"))
    assert len(pickle.loads(pickled)) == 10
    zarr.create_array(tmp_path / "z", shape=(20, 3), dtype="f8", overwrite=True)
    with pytest.raises(StoreChangedError, match="was changed since it was opened"):
        pickle.loads(pickled)


def test_others_may_speak_of_swaths(tmp_path: Path) -> None:
    import zarr

    names = {"dimension_names": ["swath", "track"], "attributes": {"swath": "S3A", "kind": "swath"}}
    zarr.create_array(tmp_path / "z", shape=(30, 3), dtype="f8", fill_value=7, **names)  # type: ignore[arg-type]
    assert (swath.open(tmp_path / "z").gather([3]) == 7).all()


@pytest.mark.parametrize("shape", [(10, 0), (10, 3, 0)], ids=str)
def test_rows_without_bytes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.empty(shape))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.empty(shape)
    for place in (tmp_path / "a.npy", f"{tmp_path}/a.h5::a"):
        with pytest.raises(SourceError, match="hold no bytes"):
            swath.open(place)


def test_a_few_rows_of_a_large_plain_chunk_need_little_memory(tmp_path: Path) -> None:
    import zarr

    array = zarr.create_array(tmp_path / "z", shape=(100_000, 300), chunks=(100_000, 300), dtype="i8", compressors=None)
    array[:5000] = ROWS
    a = swath.open(tmp_path / "z")
    plan = a.plan([3, 4000])
    assert plan.bytes_read == plan.bytes_wanted == 2 * 16 * 2400
    assert "no less" in str(plan)
    assert_same(a.gather([3], memory_limit="20MB"), expected(ROWS, [3], 16))


def test_a_gzip_chunk_may_have_several_members(tmp_path: Path) -> None:
    import gzip

    import zarr
    from zarr.codecs import GzipCodec

    zarr.create_array(tmp_path / "z", shape=(100, 300), chunks=(100, 300), dtype="i8", compressors=GzipCodec())[:] = 0
    (tmp_path / "z" / "c" / "0").mkdir(parents=True, exist_ok=True)
    content = ROWS[:100].tobytes()
    members = gzip.compress(content[:1000]) + gzip.compress(content[1000:])
    (tmp_path / "z" / "c" / "0" / "0").write_bytes(members)
    assert_same(swath.open(tmp_path / "z").gather([50]), expected(ROWS, [50], 16))


def test_a_mapping_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(100_000)
    np.save(tmp_path / "rows.npy", rows)

    def refuse(*args: object, **options: object) -> None:
        raise OSError("no room in the address space")

    monkeypatch.setattr("swath.storage.local.mmap.mmap", refuse)
    starts = np.random.default_rng(0).integers(0, 99_000, 2000)
    assert_same(swath.open(tmp_path / "rows.npy").gather(starts, window=4), expected(rows, starts, 4))


def test_batches_begin_on_a_line_of_the_cache(tmp_path: Path) -> None:
    """Where the system copies faster."""
    a = swath.ingest(np.arange(300.0).reshape(100, 3), tmp_path / "a", window=4, progress=False)
    wanted = np.dtype("f8")
    buffers = Buffers(1)
    for batch in (
        a.gather([1, 2, 3]),
        a.gather([5], verify="never"),
        a.gather([]),
        a.windows([1, 2]).compute(),
        buffers.take((3, 5), wanted),
        empty((7,), wanted),
    ):
        assert batch.__array_interface__["data"][0] % 64 == 0
        assert batch.dtype == wanted
        assert batch.flags.writeable
