"""Chunks that one call decodes are the same rows, and the same errors, as those that are decoded one by one."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import blosc
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.blosc_buffers import join_room, joined_blosc
from swath.errors import DamagedStoreError


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Only threads that are not the main one join chunks."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def _run(buffers: list[bytes], gaps: list[int]) -> tuple[memoryview, list[int], list[int]]:
    """Buffers with something between, and room before them; where each begins and ends."""
    run, begins = bytearray(join_room(len(buffers), 220_000)), []
    for buffer, gap in zip(buffers, gaps):
        run += b"\xff" * gap
        begins.append(len(run))
        run += buffer
    return memoryview(run), begins, [begin + len(buffer) for begin, buffer in zip(begins, buffers)]


@given(
    n=st.integers(1, 9),
    n_bytes=st.integers(128, 20_000),
    itemsize=st.sampled_from([1, 2, 4, 8, 24]),
    cname=st.sampled_from(["lz4", "zstd", "blosclz", "lz4hc", "zlib"]),
    shuffle=st.sampled_from([0, 1, 2]),
    blocksize=st.sampled_from([0, 512, 4096, 8192]),
    data=st.data(),
)
def test_a_joined_buffer_holds_what_its_parts_hold(
    n: int, n_bytes: int, itemsize: int, cname: str, shuffle: int, blocksize: int, data: st.DataObject
) -> None:
    n_bytes += -n_bytes % (data.draw(st.sampled_from([1, 4096, 8192])) * itemsize)
    raw = np.random.default_rng(n_bytes).integers(0, 3, (n, n_bytes), np.uint8)
    codec = Blosc(cname, 5, shuffle, blocksize, typesize=itemsize)
    buffers = [codec.encode(one) for one in raw]
    gaps = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    run, begins, ends = _run(buffers, gaps)
    joined = joined_blosc(run, begins, ends, n_bytes)
    blocks = {int.from_bytes(buffer[8:12], "little") for buffer in buffers}
    copied = any(buffer[2] & 2 for buffer in buffers)
    (block,) = blocks
    assert (joined is not None) == (not copied and n_bytes % block == 0 and block >= min(4096, n_bytes))
    if joined is not None:
        assert (np.frombuffer(blosc.decompress(joined), np.uint8) == raw.ravel()).all()
    assert [bytes(run[begin:end]) for begin, end in zip(begins, ends)] == buffers


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param(0, b"\x03", id="version"),
        pytest.param(2, b"\x03", id="copied"),
        pytest.param(3, b"\x04", id="itemsize"),
        pytest.param(4, b"\x00\x00\x10\x00", id="more-bytes"),
        pytest.param(8, b"\x00\x04\x00\x00", id="more-blocks"),
        pytest.param(12, b"\xff\xff\xff\x7f", id="longer-than-it-is"),
        pytest.param(16, b"\xff\xff\xff\x7f", id="a-block-outside"),
        pytest.param(16, b"\x04\x00\x00\x00", id="a-block-in-the-header"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_header_that_is_not_like_the_others_joins_nothing(place: int, value: bytes, which: int) -> None:
    raw = np.arange(2 * 512).reshape(2, 512)
    buffers = [bytearray(Blosc("lz4", 5, 1, typesize=8).encode(one)) for one in raw]
    assert joined_blosc(*_run([bytes(b) for b in buffers], [0, 0]), raw[0].nbytes) is not None
    buffers[which][place : place + len(value)] = value
    assert joined_blosc(*_run([bytes(b) for b in buffers], [0, 0]), raw[0].nbytes) is None
    assert joined_blosc(*_run([bytes(b[:19]) for b in buffers], [0, 0]), raw[0].nbytes) is None


@st.composite
def _arrays(draw: st.DrawFn) -> NDArray[Any]:
    shape = draw(st.integers(1, 150)), *draw(st.sampled_from([(), (40,), (30, 3), (700,)]))
    dtype = np.dtype(draw(st.sampled_from(["u1", "i2", "f4", "f8", ">f8", "M8[ns]", "V5"])))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, (*shape, dtype.itemsize), np.uint8)
    return values.view(dtype)[..., 0]


@given(
    array=_arrays(), codec=st.sampled_from(["lz4", "zstd"]), verify=st.sampled_from(["always", "never"]), data=st.data()
)
def test_a_gather_in_a_thread_is_one_line_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, array: NDArray[Any], codec: Any, verify: Any, data: st.DataObject
) -> None:
    n = len(array)
    window, chunk_rows = data.draw(st.integers(1, n)), data.draw(st.integers(1, 20))
    starts = data.draw(st.lists(st.integers(0, n - window), max_size=40))
    place = tmp_path_factory.mktemp("a") / "a"
    try:
        a = swath.ingest(
            array, place, chunk_rows=chunk_rows, shard_rows=chunk_rows * data.draw(st.integers(1, 6)), codec=codec
        )
        assert_same(
            in_a_thread(lambda: a.gather(starts, window=window, verify=verify)), expected(array, starts, window)
        )
    finally:
        shutil.rmtree(place.parent)


ROWS = np.random.default_rng(0).integers(0, 50, (2001, 500))


@pytest.fixture(scope="module", params=["lz4", "zstd"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    """Rows of 4 KB, chunks of 3: 43 may be joined."""
    place = tmp_path_factory.mktemp("wide") / "a.zarr"
    return swath.ingest(ROWS, place, chunk_rows=3, shard_rows=900, codec=request.param, window=8)


class _Calls:
    """Counts the calls of blosc."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        monkeypatch.setattr("swath.decoder.blosc", SimpleNamespace(decompress=self._decompress))

    def _decompress(self, *arguments: Any) -> Any:
        self.n += 1
        return blosc.decompress(*arguments)


@pytest.mark.parametrize(
    ("starts", "window", "calls"),
    [
        pytest.param([5], 8, 1, id="one"),
        pytest.param([895, 896, 1992, 0], 8, 3, id="over-shards"),
        pytest.param([7, 7, 7, 8, 6], 8, 1, id="repeated-and-overlapping"),
        pytest.param(range(0, 300, 30), 8, 1, id="several-reads"),
        pytest.param(range(0, 1980, 20), 8, 12, id="several-groups"),
        pytest.param([10, 1000], 400, 8, id="longer-than-a-group"),
        pytest.param(range(1994), 8, 18, id="every-window"),
        pytest.param([0], 2001, 18, id="everything"),
    ],
)
def test_few_calls_decode_many_chunks(
    wide: swath.RowArray, monkeypatch: pytest.MonkeyPatch, starts: Any, window: int, calls: int
) -> None:
    counted = _Calls(monkeypatch)
    assert_same(in_a_thread(lambda: wide.gather(starts, window=window)), expected(ROWS, starts, window))
    assert counted.n <= 1.5 * calls


def test_chunks_that_were_only_copied_are_decoded_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = swath.ingest(ROWS[:100], tmp_path / "a", chunk_rows=3, codec="lz4")
    a.append(ROWS[100:200])
    counted = _Calls(monkeypatch)
    assert_same(in_a_thread(lambda: a.gather([0, 90, 180], window=16)), expected(ROWS, [0, 90, 180], 16))
    assert 15 <= counted.n <= 18


def test_chunks_that_cannot_be_joined_are_fetched_once_in_vain(tmp_path: Path) -> None:
    """Of 198,000 bytes, in blocks of 128 KiB of which the last is short."""
    rows = np.random.default_rng(0).integers(0, 4, (3000, 6600), np.uint8)
    a = swath.ingest(rows, tmp_path / "a", chunk_rows=30, codec="lz4")
    starts = range(0, 2900, 90)

    def read_bytes() -> int:
        before = int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])
        assert_same(a.gather(starts, window=20), expected(rows, starts, 20))
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0]) - before

    stored = (tmp_path / "a" / "c.0.0").stat().st_size
    assert in_a_thread(read_bytes) < 0.5 * stored


@pytest.mark.parametrize("verify", ["always", "never"])
def test_damage_is_the_same_error_in_a_thread(tmp_path: Path, verify: Any) -> None:
    place = tmp_path / "a"
    swath.ingest(ROWS[:48], place, chunk_rows=3, codec="lz4")
    shard = place / "c.0.0"
    sound = shard.read_bytes()

    def told(run: Callable[[Callable[[], Any]], Any]) -> str:
        a = swath.open(place)
        try:
            batch = run(lambda: a.gather([1, 20, 32], window=9, verify=verify))
        except DamagedStoreError as error:
            return str(error)
        return batch.tobytes().hex() if verify == "always" else ""

    rng, damaged = np.random.default_rng(0), 0
    for kind in ("flip", "cut") * 60:
        at = int(rng.integers(len(sound)))
        shard.write_bytes(
            sound[:at] + (bytes([sound[at] ^ 1 << int(rng.integers(8))]) + sound[at + 1 :]) * (kind == "flip")
        )
        here, there = told(lambda call: call()), told(in_a_thread)
        damaged += here.startswith(str(shard))
        if verify == "always":
            assert here == there
        else:  # a wrong bit that blosc takes for a row is one there too; what blosc refuses is refused
            assert here == there or not (here and there)
    assert damaged > 60
    shard.write_bytes(sound)
    assert_same(in_a_thread(lambda: swath.open(place).gather([1, 32], window=9)), expected(ROWS, [1, 32], 9))


def test_damage_between_the_windows_of_a_group_is_nobodys(wide: swath.RowArray, tmp_path: Path) -> None:
    """Of rows 21 to 23."""
    place = tmp_path / "a"
    shutil.copytree(wide.url, place)
    a = swath.open(place)
    with (place / "c.0.0").open("r+b") as file:
        offset, length = np.frombuffer(file.read(16 * 300), "<u8").reshape(-1, 2)[7].tolist()
        file.seek(offset + length // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    assert_same(in_a_thread(lambda: a.gather([12, 25, 100], window=8)), expected(ROWS, [12, 25, 100], 8))
    with pytest.raises(DamagedStoreError, match="rows 21 to 23"):
        in_a_thread(lambda: a.gather([12, 20, 100], window=8))
