"""`dtype=` loses nothing that it does not say, and `rows=` takes the part that numpy would."""

import itertools
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from oracle import assert_same

import swath
from swath.errors import OptionError, SourceError, StoreNotFoundError
from swath.sources import open_source
from swath.sources.converted import convert, kept
from swath.sources.sliced import take_rows

NUMBERS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", "F", "D", "G"]
REALS = [name for name in NUMBERS if name not in "FDG"]


def _exact(value: Any) -> Any:
    """A number as Python knows it without loss: a pair of fractions, or words for what is none."""
    if np.iscomplexobj(value):
        return _exact(value.real), _exact(value.imag)
    if np.isnan(value):
        return "nan", Fraction(0)
    if np.isinf(value):
        return ("inf" if value > 0 else "-inf"), Fraction(0)
    return Fraction(*value.as_integer_ratio()) if isinstance(value, np.floating) else Fraction(int(value)), Fraction(0)


def _assert_cast(actual: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Bit for bit, but for long doubles, of which numpy leaves six bytes as they were."""
    if wanted.dtype.char in "gG":
        assert actual.dtype == wanted.dtype
        np.testing.assert_array_equal(actual, wanted)
    else:
        assert_same(actual, wanted)


def _parts(value: Any) -> tuple[Any, Any]:
    if np.iscomplexobj(value):
        return _exact(value.real)[0], _exact(value.imag)[0]
    return _exact(value)[0], Fraction(0)


def _edges(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values about every edge of every other dtype, as far as this one has them."""
    wanted = [
        0,
        1,
        2,
        3,
        *(
            s * (2**k + d)
            for k in (7, 8, 10, 11, 15, 16, 24, 31, 32, 53, 62, 63, 64, 65)
            for s in (1, -1)
            for d in (-1, 0, 1)
        ),
    ]
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.array([v for v in wanted if info.min <= v <= info.max], dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    floats = [*wanted, 0.5, -0.0, 1e-8, 1e-40, 1e-300, 65504, 65520, 3.4e38, 3.5e38, 1e300, np.inf, -np.inf, np.nan]
    with np.errstate(all="ignore"):
        real = np.array(floats, "g").astype(dtype.char.lower() if dtype.kind == "c" else dtype)
        if dtype.kind != "c":
            return real
        both = np.empty(2 * len(real), dtype)
        both.real, both.imag = np.tile(real, 2), np.repeat([0, 1], len(real)) * np.roll(np.tile(real, 2), 1)
        return both


@pytest.mark.parametrize(("old", "new"), list(itertools.product(NUMBERS, NUMBERS)))
def test_numbers_are_kept_as_python_would_say(old: str, new: str) -> None:
    values = _edges(np.dtype(old))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cast = values.astype(new)
    exact, rounded = kept(values, cast, rounded=False), kept(values, cast, rounded=True)
    for value, then, is_exact, is_rounded in zip(values, cast, exact, rounded):
        before, after = _parts(value), _parts(then)
        assert is_exact == (before == after), (value, then)
        fits = [
            a == b or (np.dtype(new).kind in "fc" and not isinstance(a, str) and not isinstance(b, str))
            for a, b in zip(before, after)
        ]
        if np.dtype(new).kind != "c":
            fits[1] = before[1] == after[1]
        assert is_rounded == all(fits), (value, then)


@given(st.data(), st.sampled_from(REALS), st.sampled_from(NUMBERS))
def test_a_cast_source_equals_astype_or_names_the_first_loss(data: st.DataObject, old: str, new: str) -> None:
    dtypes = np.dtype(old)
    values = data.draw(hnp.arrays(dtypes if old != "g" else "f8", st.tuples(st.integers(1, 30), st.integers(1, 3))))
    rows = values.astype(dtypes)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wanted = rows.astype(new)
    same = np.array([_parts(a) == _parts(b) for a, b in zip(rows.flat, wanted.flat)]).reshape(rows.shape)
    out = np.empty(rows.shape, new)
    source = convert(open_source(rows), np.dtype(new), "exact")
    if same.all():
        source.read_into(0, out)
        _assert_cast(out, wanted)
    else:
        first = int(np.argwhere(~same)[0][0])
        with pytest.raises(SourceError, match=rf"value of row {first} at"):
            source.read_into(0, out)
    convert(open_source(rows), np.dtype(new), "unsafe").read_into(0, out)
    _assert_cast(out, wanted)


KINDS: dict[str, tuple[NDArray[Any], str, int | None]] = {
    "text-longer": (np.array([b"ab", b"c"]), "S9", None),
    "text-cut": (np.array([b"ab", b"abc"]), "S2", 1),
    "text-cut-of-nothing": (np.array(["ab", "b"], "U9"), "U2", None),
    "unicode-to-bytes": (np.array(["ab", "b"]), "S2", None),
    "unicode-to-bytes-not-ascii": (np.array(["ab", "b", "\u00e9"]), "S2", 2),
    "bytes-to-unicode": (np.array([b"ab", b"b"]), "U2", None),
    "bytes-to-unicode-not-ascii": (np.array([b"ab"] * 9 + [b"\xff"]), "U2", 9),
    "time-finer": (np.array([1, "NaT"], "M8[s]"), "M8[ns]", None),
    "time-coarser": (np.array([2000, 1500], "M8[ms]"), "M8[s]", 1),
    "time-overflow": (np.array([5, 2**62], "M8[s]"), "M8[ns]", 1),
    "timedelta": (np.array([5, "NaT"], "m8[s]"), "m8[us]", None),
    "record": (np.array([(1, 0.5), (2, 0.25)], "i8,f8"), "i1,f2", None),
    "record-lost": (np.array([(1, 0.5), (2, 0.1)], "i8,f8"), "i1,f2", 1),
    "record-arrays": (np.array([(1, [1, 2]), (2, [3, 400])], "i8,(2,)i8"), "i1,(2,)u1", 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_text_times_and_records(name: str) -> None:
    rows, new, lost = KINDS[name]
    for casting in ("exact", "rounded"):
        source = convert(open_source(rows), np.dtype(new), casting)
        out = np.empty(rows.shape, new)
        if lost is None:
            source.read_into(0, out)
            assert_same(out, rows.astype(new))
        elif name != "record-lost" or casting == "exact":
            with pytest.raises(SourceError, match=rf"value of row {lost} is"):
                source.read_into(0, out)


@pytest.mark.parametrize(
    ("rows", "dtype", "options", "error", "message"),
    [
        (np.array([b"5"]), "i4", {}, SourceError, "no value is the same as int32"),
        (np.array([5]), "S4", {}, SourceError, "no value is the same"),
        (np.array([5]), "M8[s]", {"casting": "rounded"}, SourceError, "no value is the same"),
        (np.array([5], "M8[s]"), "m8[s]", {}, SourceError, "no value is the same"),
        (np.array([(1, 2)], "i4,i4"), [("a", "i4"), ("b", "i4")], {}, SourceError, "no value is the same"),
        (np.array([(1,)], "i4,"), "i4", {}, SourceError, "no value is the same"),
        (np.array(["x"]), "i4", {"casting": "unsafe"}, SourceError, "value of row 0 is .* cannot become int32"),
        (np.array(["x"]), "S", {}, OptionError, "no size or unit"),
        (np.array([5], "M8[s]"), "M8", {}, OptionError, "no size or unit"),
        (np.array([5]), "O", {}, OptionError, "no size or unit"),
        (np.array([5]), "f4", {"casting": "safe"}, OptionError, "casting is 'safe'. Choose one of 'exact'"),
        (np.array([5]), None, {"casting": None}, OptionError, "casting is None"),
        (np.array([[5, 6]]), "(3,)f4", {}, OptionError, r"rows have the shape \(2,\)"),
        (np.array([5, 300]), "u1", {}, SourceError, r"row 1 is np.int64\(300\), but would be np.uint8\(44\)"),
        (np.array([5, -1]), "u1", {"casting": "rounded"}, SourceError, "row 1 is"),
        (np.array([5, 0.5]), "i4", {"casting": "rounded"}, SourceError, "row 1 is"),
        (np.array([5, 1e39]), "f4", {"casting": "rounded"}, SourceError, r"would be np.float32\(inf\)"),
        (np.array([5, np.nan]), "i4", {"casting": "rounded"}, SourceError, "row 1 is np.float64"),
        (np.arange(9), None, {"rows": slice(5, 5)}, OptionError, "takes none of the 9 rows"),
        (np.arange(9), None, {"rows": slice(9, None)}, OptionError, "takes none of the 9 rows"),
        (np.arange(9), None, {"rows": slice(0, 9, 2)}, OptionError, "of step 2"),
        (np.arange(9), None, {"rows": slice(None, None, -1)}, OptionError, "of step -1"),
        (np.arange(9), None, {"rows": slice(0, 9, 0)}, OptionError, "rows is slice"),
        (np.arange(9), None, {"rows": slice(0.5, 9)}, OptionError, "no whole numbers"),
        (np.arange(9), None, {"rows": (0, 9)}, OptionError, "no slice"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    tmp_path: Path, rows: Any, dtype: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        swath.ingest(rows, tmp_path / "a.zarr", dtype=dtype, window=1, **options)
    with pytest.raises((StoreNotFoundError, swath.errors.IncompleteStoreError)):
        swath.open(tmp_path / "a.zarr")


def test_every_kind_of_source_is_cast(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 100, (500, 7)).astype(float)
    np.save(tmp_path / "a.npy", rows)
    rows[:100].astype("f4").tofile(tmp_path / "a.bin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=rows, chunks=(13, 3), compression="gzip")
    lazy = da.from_array(rows, chunks=(77, 3))
    for i, source in enumerate([rows, tmp_path / "a.npy", f"{tmp_path}/a.h5::x", lazy]):
        a = swath.ingest(source, tmp_path / f"{i}.zarr", dtype="f4", shard_rows=64, chunk_rows=4)
        assert_same(a.gather([0], window=500)[0], rows.astype("f4"))
    # Of a list each part is cast, and raw bytes are what they are.
    mixed = [rows.astype("i8"), tmp_path / "a.npy", rows.astype("f4")]
    a = swath.ingest(mixed, tmp_path / "list.zarr", dtype="f4")
    assert_same(a.gather([0], window=1500)[0], np.concatenate([rows] * 3).astype("f4"))
    a = swath.ingest(tmp_path / "a.bin", tmp_path / "raw.zarr", dtype="f4", row_shape=(7,))
    assert_same(a.gather([0], window=100)[0], rows[:100].astype("f4"))


def test_the_row_and_the_file_of_a_loss_are_named_far_inside(tmp_path: Path) -> None:
    rows = np.zeros((300_000, 3))  # of several blocks
    rows[250_001, 2] = 0.1
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(SourceError, match=r"row 250001 at \(2,\) of .*a.npy is np.float64\(0.1\)"):
        swath.ingest(tmp_path / "a.npy", tmp_path / "a.zarr", dtype="f4")
    a = swath.ingest(tmp_path / "a.npy", tmp_path / "a.zarr", dtype="f4", casting="rounded")
    assert_same(a.gather([250_000], window=3)[0], rows[250_000:250_003].astype("f4"))


def test_an_interrupted_ingest_of_another_cast_is_not_carried_on() -> None:
    source = open_source(np.arange(9.0))
    described = [
        convert(source, np.dtype(dtype), casting).describe()  # type: ignore[arg-type]
        for dtype, casting in (("f4", "exact"), ("f4", "unsafe"), ("i4", "exact"), ("f8", "exact"))
    ]
    described.append(take_rows(source, slice(1, 5)).describe())
    assert all(a != b for a, b in itertools.combinations(described, 2))


bounds = st.none() | st.integers(-40, 40)


@given(bounds, bounds, st.sampled_from([None, 1]), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_rows_are_those_of_numpy_and_so_are_the_segments(
    start: int | None, stop: int | None, step: int | None, lengths: list[int]
) -> None:
    rows = np.arange(2 * sum(lengths)).reshape(-1, 2)
    number = np.repeat(np.arange(len(lengths)), lengths)
    parts = [rows[number == i] for i in range(len(lengths))]
    taken = slice(start, stop, step)
    if not len(rows[taken]):
        with pytest.raises(OptionError, match="takes none"):
            take_rows(open_source(parts), taken)
        return
    source = take_rows(open_source(parts), taken)
    out = np.empty(source.shape, source.dtype)
    source.read_into(0, out)
    assert_same(out, rows[taken])
    assert list(source.segments) == [n for n in np.bincount(number[taken]).tolist() if n]


def test_rows_are_taken_by_ingest(tmp_path: Path) -> None:
    rows = np.arange(1000).reshape(-1, 2)
    a = swath.ingest([rows[:100], rows[100:]], tmp_path / "a.zarr", rows=slice(90, -10), dtype="i2")
    assert_same(a.gather([0], window=400)[0], rows[90:-10].astype("i2"))
    assert a.segments.tolist() == [[0, 10], [10, 400]]
