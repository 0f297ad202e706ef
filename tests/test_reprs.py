"""What is seen of a value: text, and HTML for notebooks, that is sound, escaped, to scale, quick, and reads nothing."""

import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import swath
from swath.drawing import READ, WANTED, Lying, layout_picture
from swath.html import array_card, card, shown_place
from swath.layout import Layout
from swath.population import Population
from swath.sampling import Blocks, Shuffled, Uniform, Weighted
from swath.windows import IntArray

ROWS = np.random.default_rng(0).normal(size=(5000, 40))
EVIL = "a <script>alert(1)</script> & \"b'"

# What has no end tag.
_ALONE = {"br"}


class _Reader(HTMLParser):
    """Refuses what a page would have to load or run, and tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.rects: list[dict[str, str]] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "style", "link", "img", "iframe", "image", "a", "b1"}, tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name == "xmlns" or "://" not in (value or ""), (name, value)
            assert "url(" not in (value or "")
        if tag == "rect":
            self.rects.append({name: value or "" for name, value in attrs})
        if tag not in _ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.said)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reprs")


@pytest.fixture(scope="module")
def a(folder: Path) -> swath.RowArray:
    parts = [ROWS[:2000], ROWS[2000:2500], ROWS[2500:]]
    return swath.ingest(parts, folder / "a.zarr", window=16, chunk_rows=16, shard_rows=512, codec="zstd")


def _html(value: Any) -> str:
    html: str = value._repr_html_()
    return html


def test_an_array_says_what_it_is(a: swath.RowArray) -> None:
    text = _Reader(_html(a)).text
    for fact in (
        "(5000, 40) float64",
        a.url,
        "5,000 committed",
        "320 B",
        "16 rows, 5.00 KiB",
        "10, of 512 rows",
        "zstd: as asked",
        "crc32c",
    ):
        assert fact in text, fact
    assert "3: rows 0 to 1,999, 2,000 to 2,499, 2,500 to 4,999" in text
    assert "5000 rows" not in text
    assert (
        repr(a)
        == f"<swath.RowArray (5000, 40) float64, windows of 16 rows, chunks of 16, shards of 512, zstd: {a.url}>"
    )


def test_an_array_of_another_program_says_so(folder: Path) -> None:
    np.save(folder / "rows.npy", ROWS)
    text = _Reader(_html(swath.open(folder / "rows.npy"))).text
    assert "committed" not in text
    assert "as its writer chose" in text
    assert "rows are read alone" in text


@pytest.mark.parametrize(("window", "chunk_rows"), [(16, 4), (16, 16), (1, 512), (100, 7), (16, 1)])
def test_the_picture_is_to_scale(window: int, chunk_rows: int) -> None:
    lying = Lying(10**6, 100, chunk_rows, 10 * chunk_rows, 1, window, False, 1, [0, 10**6])
    picture = _Reader(layout_picture(lying))
    # A window that begins in the middle of a chunk.
    touched = -(-(chunk_rows // 2 + window) // chunk_rows)
    wanted, read = (
        next(float(r["width"]) for r in picture.rects if r["fill"] == colour and r["height"] != "9.00")
        for colour in (WANTED, READ)
    )
    assert wanted == pytest.approx(max(2.0, read * window / (touched * chunk_rows)), abs=0.02)
    assert f"{(chunk_rows + window - 1) / window:.2f} bytes read" in picture.text


@given(
    st.builds(
        Layout,
        n_rows=st.integers(1, 2**50),
        row_shape=st.lists(st.integers(1, 10**4), max_size=3).map(tuple),
        dtype=st.sampled_from([np.dtype(kind) for kind in ("u1", "f8", "U7", "M8[ns]", "i4,f8")]),
        chunk_rows=st.integers(1, 2**31),
        shard_rows=st.integers(1, 2**40),
        codec=st.sampled_from(["raw", "zstd", EVIL]),
        crc_bytes=st.sampled_from([0, 4]),
        is_plain=st.booleans(),
    ),
    st.integers(1, 2**40),
    st.integers(1, 500),
)
def test_any_layout_is_drawn(layout: Layout, window: int, n_segments: int) -> None:
    edges = np.unique(np.linspace(0, layout.n_rows, n_segments + 1).astype(np.int64))
    segments = np.stack([edges[:-1], edges[1:]], axis=1)
    html = array_card("swath.RowArray", EVIL, layout, window, EVIL, segments, is_store=True)
    page = _Reader(html)
    assert EVIL in page.text
    assert len(html) < 100_000
    for rect in page.rects:
        x, width = float(rect["x"]), float(rect["width"])
        assert x >= 0
        assert width > 0
        assert x + width <= 602


def test_names_of_users_are_escaped(folder: Path, a: swath.RowArray) -> None:
    strange = folder / "<script>alert(1)<" / "b & 'c'"
    strange.parent.mkdir()
    record = np.zeros(100, [("<script>alert(2)", "f8"), ("y", "i4")])
    g = swath.ingest_group({"<b1>": np.zeros((100, 3)), "y": record}, strange)
    for value in (g, g["<b1>"], g["y"], g.batches(7), g["y"].plan([3]), g["y"].batches(3)):
        page = _Reader(_html(value))
        assert isinstance(value, swath.Plan) or "<" in page.text
    assert "<b1>" in _Reader(_html(g)).text
    assert _Reader(card(EVIL, EVIL, {EVIL: EVIL}, inside=[(EVIL, "")])).text.count("alert(1)") == 5


def test_long_names_and_many_arrays_are_cut(folder: Path) -> None:
    record = np.zeros(50, [(f"field_{k}", "f4") for k in range(300)])
    a = swath.ingest(record, folder / "record.zarr")
    assert len(_html(a)) < 10_000
    g = swath.ingest_group({f"x{k:02}": np.zeros(20) for k in range(15)}, folder / "many.zarr")
    assert "3 arrays more" in _Reader(_html(g)).text
    assert "x11: (20,) float64, 3 more}" in repr(g)


def test_nothing_is_read(folder: Path, a: swath.RowArray) -> None:
    shutil.copytree(folder / "a.zarr", folder / "gone.zarr")
    gone = swath.open(folder / "gone.zarr")
    batches = gone.batches(100)
    plan = gone.plan([3])
    shutil.rmtree(folder / "gone.zarr")
    for value in (gone, batches, plan):
        assert "swath." in _Reader(_html(value)).text
        assert repr(value).startswith("<swath.")


def test_it_is_quick(folder: Path, a: swath.RowArray) -> None:
    many = Layout(10**9, (2000,), np.dtype("f8"), 4, 4192, "raw")
    segments = np.stack([np.arange(0, 10**9, 10**4), np.arange(10**4, 10**9 + 1, 10**4)], axis=1)
    batches = a.batches(100, order=Blocks(3, 7))
    values: dict[str, Callable[[], str]] = {
        "segments": lambda: array_card("", "", many, 16, "", segments, is_store=True),
        "array": lambda: _html(a),
        "plan": lambda: _html(a.plan(np.arange(4000))),
        "batches": lambda: _html(batches),
        "mixed": lambda: _html(Blocks(2, 1000)),
    }
    for name, show in values.items():
        show()
        times = []
        for _ in range(10):
            begin = time.thread_time()
            show()
            times.append(time.thread_time() - begin)
        assert min(times) < 0.01, name


def test_a_plan_shows_what_it_costs(a: swath.RowArray) -> None:
    plan = a.plan([3, 700, 4000])
    page = _Reader(_html(plan))
    wanted, read = plan.bytes_wanted, plan.bytes_read
    assert plan.bytes_decoded == plan.chunks * 16 * 320
    bars = [r for r in page.rects if r["height"] == "10.00"]
    assert [r["fill"] for r in bars[:3]] == [WANTED, READ, READ]
    longest = max(wanted, read, plan.bytes_decoded)
    for bar, n_bytes in zip(bars, (wanted, read, plan.bytes_decoded)):
        assert float(bar["width"]) == pytest.approx(600 * n_bytes / longest, abs=0.01)
    assert sum(float(bar["width"]) for bar in bars[3:]) == pytest.approx(600, abs=10)  # the peak, in parts
    for fact in ("3 windows of 16 rows: (3, 16, 40) float64", "at most", "ms from memory", "GB/s", "6 in 3 shards"):
        assert fact in page.text, fact
    assert repr(plan).count("\n") == 0
    assert repr(plan).startswith("<swath.Plan 3 windows of 16 rows: 15.00 KiB wanted, ")
    assert "expected" in str(plan)


def test_rows_that_lie_as_they_are_are_not_decoded(folder: Path) -> None:
    plan = swath.ingest(ROWS, folder / "raw.zarr").plan([3])
    assert plan.bytes_decoded == 0
    assert "nothing: rows lie in the file as they are" in _Reader(_html(plan)).text


def test_a_plan_of_nothing_is_shown(a: swath.RowArray) -> None:
    assert "0 windows" in _Reader(_html(a.plan([]))).text


def test_batches_show_where_they_are(a: swath.RowArray) -> None:
    batches = a.batches(1000, order=Blocks(8), seed=3)
    next(batches)
    page = _Reader(_html(batches))
    for fact in (
        "5 batches",
        "1 of 5",
        "1,000 windows",
        "Blocks(block=8, mix=1), seed 3",
        "(1000, 16, 40) float64",
        "20%",
        a.url,
    ):
        assert fact in page.text, fact
    assert repr(batches) == "<swath.Batches 1 of 5 taken, Blocks(block=8, mix=1): (1000, 16, 40) float64>"
    batches.close()
    assert "rank 1 of 2" in re.sub(r"\s+", " ", _Reader(_html(a.batches(10, rank=1, world_size=2))).text)


class _Failing:
    identity = "Failing()"

    def check(self, population: Population) -> None:
        pass

    def draws(self, n: int) -> int:
        return n

    def numbers(self, positions: IntArray, population: Population, seed: int, epoch: int) -> IntArray:
        if np.ptp(positions) > 9:
            raise RuntimeError("no")
        return positions


def test_an_order_that_fails_is_still_shown(a: swath.RowArray) -> None:
    assert "batches" in _Reader(_html(a.batches(10, order=_Failing(), prefetch=0))).text


@pytest.mark.parametrize(
    "order",
    [
        Shuffled(),
        Blocks(64),
        Blocks(16, 4),
        Blocks(2**31 - 1, 2**31 - 1),
        Uniform(),
        Uniform(5),
        Weighted([1, 0, 3], 10),
    ],
    ids=repr,
)
def test_an_order_is_drawn(order: Any) -> None:
    html = _html(order)
    assert _Reader(html).text.startswith(repr(order))
    assert html.count("<circle") >= 100 or order == Uniform(5)


def test_weights_are_not_listed() -> None:
    assert repr(Weighted(np.ones(1000))) == "Weighted(1,000 weights, windows=None)"


def test_the_picture_of_an_order_shows_its_blocks() -> None:
    """Neighbours in the epoch are neighbours in the array, but for the borders of blocks."""
    points = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', _html(Blocks(64)))]
    heights = np.array([y for _, y in points])
    assert np.mean(np.abs(np.diff(heights)) < 5) > 0.8
    shuffled = np.array([float(y) for y in re.findall(r'cy="([\d.]+)"', _html(Shuffled()))])
    assert np.mean(np.abs(np.diff(shuffled)) < 5) < 0.3


def test_windows_look_as_dask_arrays_do(a: swath.RowArray) -> None:
    lazy = a.windows([3, 50])
    assert "dask" in repr(lazy)
    assert "<table" in lazy._repr_html_()


def test_shared_batches_say_what_they_are_and_no_token(a: swath.RowArray) -> None:
    with swath.share({"x": np.zeros((3, 4)), "y": np.zeros(3, "i4")}) as shared:
        assert "x: (3, 4) float64, y: (3,) int32" in repr(shared)
        assert repr(shared.handle.token) not in repr(shared.handle)
    assert repr(shared).endswith("closed>")
    with swath.serve_batches(a.batches(1000)) as server:
        assert repr(server).startswith("<swath.BatchServer of <swath.Batches 0 of 5 taken")
        assert server.handle.name not in repr(server.handle) + repr(server)
        with swath.consume(server.handle) as consumer:
            next(consumer)
            assert repr(consumer) == "<swath.Consumer, batch 0 came last: open>"
        assert "closed" in repr(consumer)
    assert "closed" in repr(server)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="/?#@:"), min_size=4),
    st.text(min_size=4),
)
def test_no_password_and_no_signature_is_shown(password: str, signature: str) -> None:
    shown = shown_place(f"https://0:{password}@h/1?{signature}")
    assert shown == "https://***@h/1?***"
    assert (
        shown_place("abfss://container@account.dfs.core.windows.net/a")
        == "abfss://container@account.dfs.core.windows.net/a"
    )
    assert shown_place("/data/what?@:#.npy") == "/data/what?@:#.npy"
