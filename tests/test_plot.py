"""What is drawn, by the data in the axes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

import swath
from swath.errors import OptionError, StartsError, WindowOutOfBoundsError
from swath.layout import choose_chunk_rows

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """No display is needed, no setting is changed, and no figure is left open."""
    with mpl.rc_context({"backend": "agg"}):
        before = dict(mpl.rcParams)
        yield
        assert dict(mpl.rcParams) == before
        plt.close("all")


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    rows = RANDOM.normal(size=(5000, 40))
    folder = tmp_path_factory.mktemp("plot")
    return swath.ingest([rows[:2000], rows[2000:2500], rows[2500:]], folder / "a.zarr", chunk_rows=16, shard_rows=512)


def _labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_single_values_are_a_line_a_window() -> None:
    batch = RANDOM.normal(size=(20, 50))
    ax = swath.plot.windows(batch, starts=np.arange(20) * 1000)
    assert len(ax.lines) == 8
    for line, window in zip(ax.lines, batch):
        assert np.array_equal(line.get_ydata(), window)
        assert np.array_equal(line.get_xdata(), np.arange(50))
    assert _labels(ax)[:2] == ["from row 0", "from row 1,000"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("row of the window", "value")
    assert len({line.get_color() for line in ax.lines}) == 8


def test_few_columns_are_a_line_each_window_after_window() -> None:
    batch = RANDOM.integers(-5, 5, (3, 10, 4))
    ax = swath.plot.windows(batch)
    columns = [line for line in ax.lines if len(np.asarray(line.get_ydata())) == 33]
    assert len(columns) == 4
    for k, line in enumerate(columns):
        values = np.asarray(line.get_ydata()).reshape(3, 11)
        assert np.array_equal(values[:, :10], batch[:, :, k])
        assert np.isnan(values[:, 10]).all()  # nothing joins the windows
    assert _labels(ax) == [f"column {k}" for k in range(4)]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["window 0", "window 1", "window 2"]


def test_many_columns_are_a_heat_map() -> None:
    batch = RANDOM.normal(size=(3, 10, 40))
    ax = swath.plot.windows(batch)
    (image,) = ax.images
    assert np.array_equal(np.asarray(image.get_array()), batch.reshape(30, 40).T)
    assert ax.get_ylabel() == "column"
    very_many = swath.plot.windows(RANDOM.normal(size=(2, 3, 2000)))
    assert np.asarray(very_many.images[0].get_array()).shape == (500, 6)
    assert very_many.get_ylabel() == "column (each 4th)"


@pytest.mark.parametrize("dtype", ["u1", "f4", "i2", "?"])
def test_rows_of_two_axes_are_pictures(dtype: str) -> None:
    batch = (RANDOM.random((3, 4, 20, 30)) * 2).astype(dtype)
    (image,) = swath.plot.windows(batch).images
    canvas = np.asarray(image.get_array())
    assert canvas.shape == (3 * 21 - 1, 4 * 31 - 1)
    assert np.array_equal(canvas[21:41, 62:92], batch[1, 2])


def test_rows_of_colours_are_pictures_in_colour() -> None:
    batch = RANDOM.integers(0, 256, (2, 12, 20, 20, 3)).astype(np.uint8)
    ax = swath.plot.windows(batch)
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas.shape == (41, 8 * 21 - 1, 3)
    assert np.allclose(canvas[:20, :20] * 255, batch[0, 0])
    assert np.allclose(canvas[21:, -20:] * 255, batch[1, 11])  # of more rows some, from the first to the last
    assert [label.get_text() for label in ax.get_xticklabels()][-1] == "11"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param({"X": np.ones((2, 3))}, r"batch\['X'\]", id="group"),
        pytest.param(np.ones(5), r"shape \(5,\)", id="one-axis"),
        pytest.param(np.ones((0, 5)), r"shape \(0, 5\)", id="empty"),
        pytest.param(np.ones((2, 3, 4, 5, 6)), "a picture", id="five-axes"),
        pytest.param(np.ones((2, 3), "c16"), "complex128", id="complex"),
        pytest.param(np.full((2, 3), "x"), "dtype <U1", id="text"),
    ],
)
def test_what_cannot_be_drawn_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        swath.plot.windows(batch)
    assert not plt.get_fignums()


def test_as_many_starts_as_windows() -> None:
    with pytest.raises(OptionError, match=r"starts have shape \(3,\), but there are 2 windows"):
        swath.plot.windows(np.ones((2, 5)), starts=[1, 2, 3])


def _counts(ax: Axes) -> Any:
    bars: list[Any] = list(ax.patches[:100])
    assert np.allclose([bar.get_x() for bar in bars], np.linspace(0, 5000, 101)[:-1])
    return np.array([bar.get_height() for bar in bars])


def test_starts_are_counted_where_they_fall(a: swath.RowArray) -> None:
    chosen = RANDOM.integers(0, 4985, 3000)
    for given in (chosen, a.plan(chosen)):
        ax = swath.plot.starts(a, given)
        assert np.array_equal(_counts(ax), np.histogram(chosen, np.linspace(0, 5000, 101))[0])
    shards = [line.get_xdata()[0] for line in ax.lines]  # type: ignore[index]
    assert shards == list(range(512, 5000, 512))
    bands: list[Any] = list(ax.patches[100:])
    assert [(band.get_x(), band.get_x() + band.get_width()) for band in bands] == [
        (0, 2000),
        (2000, 2500),
        (2500, 5000),
    ]
    assert set(_labels(ax)) == {"3,000 windows", "10 shards", "3 segments"}
    assert ax.get_ylabel() == "windows that begin in 50 rows"


def test_starts_of_batches_are_those_that_come(a: swath.RowArray) -> None:
    batches = a.batches(1000, seed=None, stride=2)
    next(batches)
    batches.close()
    counts = _counts(swath.plot.starts(a, batches))
    left = np.concatenate([batches.starts_at(k) for k in range(1, len(batches))])
    assert np.array_equal(counts, np.histogram(left, np.linspace(0, 5000, 101))[0])


def test_starts_without_arguments_are_random(a: swath.RowArray) -> None:
    counts = _counts(swath.plot.starts(a))
    assert counts.sum() == 10_000
    assert counts.min() > 50 or np.argmin(counts) == 99


def test_starts_outside_are_refused(a: swath.RowArray) -> None:
    with pytest.raises(WindowOutOfBoundsError):
        swath.plot.starts(a, [5000])
    with pytest.raises(StartsError):
        swath.plot.starts(a, [0.5])
    with pytest.raises(OptionError):
        swath.plot.starts(np.zeros(5))  # type: ignore[arg-type]


def test_the_amplification_is_that_of_random_windows(a: swath.RowArray) -> None:
    ax = swath.plot.amplification(a)
    read, taken, point = ax.lines[:3]
    chunks = np.asarray(read.get_xdata())
    # The oracle: chunks that windows touch at all starts, counted.
    for c, told in zip(chunks.tolist(), np.asarray(read.get_ydata()).tolist()):
        begins = np.arange(c)
        touched = (begins + 15) // c + 1
        assert told == pytest.approx(touched.mean() * c / 16)
    assert np.asarray(taken.get_ydata()).min() == 1
    assert chunks[np.argmin(taken.get_ydata())] == choose_chunk_rows(16, 320)
    assert set(np.asarray(point.get_xdata()).tolist()) == {a.chunk_rows}
    assert any("this array: chunks of 16 rows, 5.00 KiB" in label for label in _labels(ax))
    assert a.chunk_rows == choose_chunk_rows(16, 320) or any("ingest would choose" in label for label in _labels(ax))


def test_the_chosen_point_without_arguments() -> None:
    ax = swath.plot.amplification()
    assert np.asarray(ax.lines[2].get_xdata()).tolist() == [4, 4]
    assert (ax.get_xlabel(), ax.get_title()) == ("rows of a chunk", "windows of 16 rows of 15.62 KiB")
    with pytest.raises(OptionError, match="window is -1"):
        swath.plot.amplification(window=-1)
    with pytest.raises(OptionError, match="row_bytes is 0"):
        swath.plot.amplification(row_bytes=0)


def test_throughput_is_measured(a: swath.RowArray) -> None:
    ax = swath.plot.throughput(a)
    (line,) = ax.lines
    assert np.asarray(line.get_xdata()).tolist() == [4**k for k in range(len(np.asarray(line.get_xdata())))]
    assert (np.asarray(line.get_ydata()) > 0).all()
    assert ax.get_ylabel() == "wanted bytes, GB/s"
    few = swath.plot.throughput(a, numbers=[1, 2, 3], seconds=0.0)
    assert np.asarray(few.lines[0].get_xdata()).tolist() == [1]
    for wrong in ([], [0], [1.5], 3):
        with pytest.raises(OptionError, match="numbers are"):
            swath.plot.throughput(a, numbers=wrong)


def test_axes_that_are_given_are_used(a: swath.RowArray) -> None:
    figure, axes = plt.subplots(2, 2)
    assert swath.plot.windows(np.ones((2, 5)), ax=axes[0, 0]) is axes[0, 0]
    assert swath.plot.starts(a, ax=axes[0, 1]) is axes[0, 1]
    assert swath.plot.amplification(a, ax=axes[1, 0]) is axes[1, 0]
    assert swath.plot.throughput(a, numbers=[1], ax=axes[1, 1]) is axes[1, 1]
    assert plt.get_fignums() == [figure.number]


def test_all_can_be_drawn(a: swath.RowArray, tmp_path: Path) -> None:
    """No warning of matplotlib, whatever the layout."""
    drawn = [
        swath.plot.windows(a.gather([3, 50]), starts=[3, 50]),
        swath.plot.windows(np.ones((8, 16, 8, 8, 3), "u1")),
        swath.plot.starts(a, []),
        swath.plot.amplification(a),
        swath.plot.throughput(a, numbers=[1]),
    ]
    for k, ax in enumerate(drawn):
        ax.figure.savefig(tmp_path / f"{k}.png")  # type: ignore[union-attr]


def test_swath_loads_no_matplotlib_before_it_draws() -> None:
    code = "import sys, swath; swath.plot.windows; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = """
import sys, numpy as np, swath
sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = None
try:
    swath.plot.windows(np.ones((2, 5)))
except swath.errors.OptionError as error:
    assert "pip install 'swath[plot]'" in str(error)
else:
    sys.exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
