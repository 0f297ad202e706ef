"""Tables of text equal what Python reads of them, whoever parses; and what is no table is named by file and line."""

import gc
import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import children_that_run
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.errors import OptionError, SourceError, SourceNotFoundError
from swath.sources import files, lines, open_source, text
from swath.sources.ahead import Ahead
from swath.sources.parse import parse_rows
from swath.sources.table import Delimiter, LineError, is_row, parse_exactly, table_of
from swath.sources.text import TextSource

FIVE = [("chr", "S10"), ("pos", "<i4"), ("pct", "<f4"), ("c", "<i4"), ("t", "<i4")]


def _five(n: int, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    rows = np.empty(n, FIVE)
    rows["chr"] = [b"chr%d" % i for i in rng.integers(1, 23, n)]
    for name in ("pos", "c", "t"):
        rows[name] = rng.integers(-(2**31), 2**31, n)
    rows["pct"] = rng.normal(size=n)
    return rows


def _lines(rows: NDArray[Any], delimiter: str = ",") -> str:
    return "".join(delimiter.join([row[0].decode(), *map(repr, row[1:])]) + "\n" for row in rows.tolist())


def _all(source: Any) -> NDArray[Any]:
    rows = np.full(source.shape, 0, source.dtype)
    source.read_into(0, rows)
    return rows


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 1000)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    """Little text is parsed by processes too; those of a source that a traceback of another test held have ended."""
    gc.collect()
    monkeypatch.setattr(text, "_SMALL_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})


# Texts of one field, by kind; ints are made to fit where they are used.
_BLANK = st.sampled_from(["", "", "", " "])
_FLOATS = st.one_of(
    st.floats().map(repr),
    st.floats(width=32).map("{:.3e}".format),
    st.sampled_from(
        [
            "nan",
            "-nan",
            "NaN",
            "inf",
            "-Infinity",
            "1e400",
            "-1e400",
            "1e-400",
            "5e-324",
            "1e39",
            ".5",
            "5.",
            "+1.5",
            "-0",
        ]
    ),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.tuples(st.integers(), st.integers(0, 10**30), st.integers(-330, 310)).map(lambda t: f"{t[0]}.{t[1]}e{t[2]}"),
)
_WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp"), exclude_characters='",;#'),
    min_size=1,
    max_size=6,
)
_TEXTS = {
    "S": _WORDS,
    "U": _WORDS,
    "f": st.tuples(_BLANK, _FLOATS, _BLANK).map("".join),
    "b": st.sampled_from(["1", "0", "true", "False", "TRUE"]),
}


def _field(dtype: np.dtype[Any]) -> st.SearchStrategy[str]:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        numbers = st.integers(int(limits.min), int(limits.max))
        return st.tuples(_BLANK, numbers.map(str) | numbers.map("{:+d}".format) | st.just("-0"), _BLANK).map("".join)
    return _TEXTS[dtype.kind]


def _value(dtype: np.dtype[Any], field: str) -> Any:
    """What Python makes of a field."""
    if dtype.kind == "b":
        return field.lower() in ("1", "true")
    if dtype.kind == "S":
        return field.encode()
    return field if dtype.kind == "U" else int(field) if dtype.kind in "iu" else float(field)


@st.composite
def _tables(draw: st.DrawFn) -> tuple[str, str, np.dtype[Any], NDArray[Any]]:
    """Name, text, dtype and rows of a table."""
    scalars = st.sampled_from(["S24", "U6", "f2", "f4", "f8", ">f8", "i1", "u1", "<i2", ">i4", "i8", "u8", "?"]).map(
        np.dtype
    )
    delimiter = draw(st.sampled_from([",", "\t", ";", " "]))
    n = draw(st.integers(1, 20))
    if draw(st.booleans()):
        dtypes = draw(st.lists(scalars, min_size=2, max_size=4))
        dtype = np.dtype([(f"n{i}", dtype) for i, dtype in enumerate(dtypes)], align=draw(st.booleans()))
    else:
        dtype = draw(scalars)
        dtypes = [dtype] * draw(st.integers(2, 4))
    fields = draw(st.lists(st.tuples(*map(_field, dtypes)), min_size=n, max_size=n))
    if delimiter == " ":
        fields = [tuple(field.strip() for field in row) for row in fields]
    with np.errstate(over="ignore"):
        columns = [
            np.array([_value(d, row[i]) for row in fields], "f8" if d.kind == "f" else d).astype(d)
            for i, d in enumerate(dtypes)
        ]
    native = np.result_type(dtype)
    rows = np.zeros(n, native) if native.names else np.zeros((n, len(dtypes)), native)
    for i, column in enumerate(columns):
        (rows[f"n{i}"] if native.names else rows[:, i])[...] = column
    end = draw(st.sampled_from(["\n", "\r\n"]))
    between = draw(st.lists(st.sampled_from(["", "", "", f"# {delimiter}", f" {end}"]), min_size=n, max_size=n))
    text = "".join(f"{extra}{end if extra else ''}{delimiter.join(row)}{end}" for extra, row in zip(between, fields))
    text = text if draw(st.booleans()) else text.removesuffix(end)
    return f"rows{draw(st.sampled_from(['.csv', '.tsv', '.txt', '.CSV']))}", text, dtype, rows


@pytest.mark.parametrize("library", ["pyarrow", "numpy"])
@given(_tables(), st.booleans(), st.sampled_from([40, 2**21]))
def test_a_table_equals_what_python_reads(
    tmp_path_factory: pytest.TempPathFactory, library: str, table: Any, zipped: bool, block_bytes: int
) -> None:
    name, content, dtype, rows = table
    folder = tmp_path_factory.mktemp("text")
    path = folder / (name + ".gz" if zipped else name)
    encoded = content.encode()
    path.write_bytes(gzip.compress(encoded) if zipped else encoded)
    with pytest.MonkeyPatch.context() as patch:
        if library == "numpy":
            patch.setitem(sys.modules, "pyarrow", None)
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        source = open_source(path, dtype=dtype)
        assert isinstance(source, TextSource)
        assert source.segments == (len(rows),)
        assert_same(_all(source), rows)


# What may be wrong with a field or a line, and what libraries take for something else.
_PIECES = st.one_of(
    st.sampled_from([b",", b",", b"\n", b"\n", b"\r\n", b"\r", b'"', b'""', b"#", b" ", b"\t", b"\0", b"\xa0", b"\x1c", b"\x85", b"\xef\xbb\xbf"]),
    st.sampled_from([b"0x1F", b"0X1", b"nan(1)", b"1_0", b"+5", b"-0", b"1e5", b"5.", b"inf", b"300", b"true", b"True", b"99999999999999999999"]),
    st.integers(0, 200).map(lambda i: b"%d" % i),
    st.binary(max_size=3),
)  # fmt: skip


@pytest.mark.parametrize("library", ["pyarrow", "numpy"])
@given(
    st.lists(_PIECES, max_size=12).map(b"".join),
    st.lists(st.sampled_from(["S3", "U3", "f4", "f8", "i1", "u4", "?"]), min_size=1, max_size=3),
    st.sampled_from([",", " "]),
)
@example(b'"1,5\n"2,6', ["S3", "i1"], ",")
@example(b"chrX,0X1F\n", ["S5", "i1"], ",")
@example(b"nan(1)\n", ["f8"], ",")
@example(b"1\r2\n", ["i1"], ",")
@example(b"a\0\n", ["S3"], ",")
@example(b"abcd\n", ["S3"], ",")
@example(b"1\x1c\n", ["i1"], ",")
@example(b"\n", ["S3", "S3"], ",")
def test_libraries_read_no_text_otherwise(
    library: str, content: bytes, dtypes: list[str], delimiter: Delimiter
) -> None:
    table = table_of(np.dtype([(f"n{i}", dtype) for i, dtype in enumerate(dtypes)]), 0)
    n = sum(is_row(line) for line in content.split(b"\n"))

    def result(parse: Callable[..., None]) -> bytes | str:
        rows = np.zeros(n * table.row_bytes, np.uint8)
        try:
            parse(content, delimiter, table, rows)
        except LineError as error:
            return error.where("file", 1)
        return rows.tobytes()

    with pytest.MonkeyPatch.context() as patch:
        if library == "numpy":
            patch.setitem(sys.modules, "pyarrow", None)
        assert result(parse_rows) == result(parse_exactly)


@pytest.mark.parametrize(
    ("name", "content", "dtype", "wanted"),
    [
        pytest.param("a.csv", "1,2\n3,4\n", None, [[1.0, 2.0], [3.0, 4.0]], id="float64-by-default"),
        pytest.param("a.csv", "x,y\n3,4\n", None, [[3.0, 4.0]], id="header"),
        pytest.param("a.csv", "\ufeffx,y\r\n3,4", None, [[3.0, 4.0]], id="mark-header-returns-no-end"),
        pytest.param("a.csv", "\ufeff3,4", None, [[3.0, 4.0]], id="mark"),
        pytest.param("a.csv", "#x,y\n\n3,4\n# 5,6\n \n7,8\n", "i2", [[3, 4], [7, 8]], id="comments-and-blank-lines"),
        pytest.param("a.csv", "1\n2\n", "u1", [[1], [2]], id="one-column"),
        pytest.param("a.csv", "1;2\n3;4\n", "u1", [[1, 2], [3, 4]], id="semicolon"),
        pytest.param("a.txt", "  1   2\n 3 \t4\n", "u1", [[1, 2], [3, 4]], id="blanks"),
        pytest.param("a.tsv", "a b\tc,d\n", "S3", [[b"a b", b"c,d"]], id="tab-first"),
        pytest.param("a.csv", "a b,c\td\n", "S3", [[b"a b", b"c\td"]], id="comma-first"),
        pytest.param("a.csv", '"a,b","1"\n', [("x", "S3"), ("y", "i1")], [(b"a,b", 1)], id="quoted"),
        pytest.param("a.csv", '"a""b",c"d"\n', "S4", [[b'a"b', b'c"d"']], id="quotes-in-fields"),
        pytest.param("a.csv", ",\na,b\n", "S1", [[b"", b""], [b"a", b"b"]], id="empty-text"),
        pytest.param("numbers", "1 2\n3 4\n", None, [[1.0, 2.0], [3.0, 4.0]], id="sniffed"),
        pytest.param("a.csv", "1,2,3\n", [("a", "u1"), ("b", "u1", 2)], [(1, [2, 3])], id="subarray"),
        pytest.param("a.csv", "1,2\n", [("a", "u1"), ("b", [("c", "u1")])], [(1, (2,))], id="nested"),
        pytest.param("a.csv", "0x1,5\n0X,6\n", [("a", "S3"), ("b", "u1")], [(b"0x1", 5), (b"0X", 6)], id="hexadecimal-text"),
    ],
)  # fmt: skip
def test_a_table(tmp_path: Path, name: str, content: str, dtype: Any, wanted: Any) -> None:
    (tmp_path / name).write_bytes(content.encode())
    rows = np.array(wanted, dtype if dtype is not None else "f8")
    a = swath.ingest(tmp_path / name, tmp_path / "a.zarr", dtype=dtype, window=1)
    assert_same(a.gather([0], window=len(a)), rows[None])


def test_ingest_and_gather(tmp_path: Path, processes: None) -> None:
    parts = [_five(n, seed=n) for n in (1000, 1, 300)]
    paths = []
    for i, part in enumerate(parts):
        paths.append(tmp_path / f"{i}.csv{'.gz' if i == 2 else ''}")
        content = _lines(part).encode()
        paths[-1].write_bytes(gzip.compress(content) if i == 2 else content)
    a = swath.ingest(paths, tmp_path / "a.zarr", dtype=FIVE, chunk_rows=8, shard_rows=64)
    rows = np.concatenate(parts)
    assert a.segments.tolist() == [[0, 1000], [1000, 1001], [1001, 1301]]
    assert_same(a.gather([1285, 0, 995]), expected(rows, [1285, 0, 995], 16))
    assert_same(a.gather([0], window=len(a)), rows[None])


def test_padding_is_zero(tmp_path: Path) -> None:
    dtype = np.dtype([("a", "u1"), ("b", "f8")], align=True)
    (tmp_path / "a.csv").write_text("1,2\n" * 100)
    source = open_source(tmp_path / "a.csv", dtype=dtype)
    raw = np.full(100 * source.dtype.itemsize, 7, np.uint8)
    source.read_into(0, raw.view(source.dtype))
    assert raw.reshape(100, -1)[:, 1:8].max(initial=0) == 0


def _many(folder: Path, n_files: int, *, zipped: bool) -> tuple[list[Path], NDArray[Any]]:
    parts = [_five(50 + 37 * i, seed=i) for i in range(n_files)]
    paths = []
    for i, part in enumerate(parts):
        content = _lines(part, "\t").encode()
        paths.append(folder / f"{i}.tsv.gz" if zipped else folder / f"{i}.tsv")
        paths[-1].write_bytes(gzip.compress(content) if zipped else content)
    return paths, np.concatenate(parts)


def _children() -> set[int]:
    return children_that_run("swath.sources.ahead")


@pytest.mark.parametrize("zipped", [False, True])
def test_processes_hand_rows_over_in_order_and_after_jumps(tmp_path: Path, processes: None, zipped: bool) -> None:
    paths, rows = _many(tmp_path, 5, zipped=zipped)
    source = open_source(paths, dtype=FIVE)
    assert isinstance(source, TextSource)
    assert source.n_processes == 3
    assert len(source.blocks) > 30
    places = [(start, 70) for start in range(0, 350, 70)] + [(500, 100), (10, 30), (600, 20), (0, len(rows))]
    for start, n in places:
        out = np.empty(n, source.dtype)
        source.read_into(start, out)
        assert_same(out, rows[start : start + n])
    assert _children() == set()  # the last block was read


def test_processes_end_with_their_source(tmp_path: Path, processes: None) -> None:
    paths, _rows = _many(tmp_path, 3, zipped=False)
    source = open_source(paths, dtype=FIVE)
    source.read_into(0, np.empty(100, source.dtype))
    assert len(_children()) == 3
    del source
    assert _children() == set()


def test_one_block_starts_no_process(tmp_path: Path, processes: None) -> None:
    paths, _rows = _many(tmp_path, 3, zipped=False)
    source = open_source(paths, dtype=FIVE)
    source.read_into(200, np.empty(5, source.dtype))
    assert _children() == set()


def test_little_memory_means_fewer_processes(tmp_path: Path, processes: None) -> None:
    paths, rows = _many(tmp_path, 3, zipped=False)
    for cache_bytes, n in ((2**30, 3), (200 * 2**20, 2), (2**26, 0)):
        source = open_source(paths, dtype=FIVE, cache_bytes=cache_bytes)
        assert isinstance(source, TextSource)
        assert source.n_processes == n
        assert source.read_bytes <= cache_bytes
        assert_same(_all(source), rows)


def test_a_bad_line_far_away_is_named_when_its_rows_are_read(tmp_path: Path, processes: None) -> None:
    content = _lines(_five(300)).splitlines()
    content[280] = content[280].replace("chr", "chromosome")
    (tmp_path / "a.csv").write_text("# first\n" + "\n".join(content))
    source = open_source(tmp_path / "a.csv", dtype=FIVE)
    assert_same(_part(source, 0, 250), _five(300)[:250])
    with pytest.raises(
        SourceError, match=r"a\.csv, line 282, field 1 \(chr\): 'chromosome\d+' has 1\d bytes, but S10 holds 10"
    ):
        _part(source, 250, 40)
    assert _children() == set()
    assert_same(_part(source, 0, 100), _five(300)[:100])


def _part(source: Any, start: int, n: int) -> NDArray[Any]:
    rows = np.empty(n, source.dtype)
    source.read_into(start, rows)
    return rows


def test_a_killed_process_is_an_error(tmp_path: Path, processes: None, trials: int) -> None:
    paths, rows = _many(tmp_path, 5, zipped=False)
    before = _in_shared_memory()
    for trial in range(3 * trials):
        source = open_source(paths, dtype=FIVE)
        _part(source, 0, 100)
        children = sorted(_children())
        assert len(children) == 3
        for child in children[: 1 + trial % 3]:
            os.kill(child, signal.SIGKILL)
        with pytest.raises(
            SourceError, match=r"The process that parsed .*\.tsv from line \d+ was ended by signal 9 \(SIGKILL\)"
        ):
            _all(source)
        assert _children() == set()
        assert_same(_all(source), rows)
        assert _in_shared_memory() <= before


_PARENT = """
import os, sys, numpy as np
from swath.sources import open_source, lines, text
lines.BLOCK_BYTES, text._SMALL_BYTES = 1000, 0
source = open_source(sys.argv[1], dtype=[('chr', 'S10'), ('pos', '<i4'), ('pct', '<f4'), ('c', '<i4'), ('t', '<i4')])
out = np.empty(100, source.dtype)
print("ready", flush=True)
while True:
    for start in range(0, len(source._edges) and source.shape[0] - 100, 100):
        source.read_into(start, out)
        if start == 100:
            print(*(child.process.pid for child in source._ahead._children), flush=True)
"""


def test_children_of_a_killed_parent_end(tmp_path: Path, trials: int) -> None:
    (tmp_path / "a.csv").write_text(_lines(_five(3000)))
    before = _in_shared_memory()
    for trial in range(3 * trials):
        command = [sys.executable, "-c", _PARENT, str(tmp_path / "a.csv")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            children = [int(pid) for pid in parent.stdout.readline().split()]
            assert children
            time.sleep(0.05 * trial)
            parent.kill()
        end = time.monotonic() + 20
        while any(_is_running(pid) for pid in children):
            assert time.monotonic() < end, "a child goes on"
            time.sleep(0.01)
        assert _in_shared_memory() <= before


def _in_shared_memory() -> set[Path]:
    """What has a name there, but for the locks that other tests may be making at this moment."""
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.")}


def _is_running(pid: int) -> bool:
    try:
        return "swath.sources.ahead" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(_lines(_five(1000)))
    script = (
        "import swath\nfrom swath.sources import lines, text\nlines.BLOCK_BYTES, text._SMALL_BYTES = 1000, 0\n"
        f"print('once')\na = swath.ingest('a.csv', 'a.zarr', dtype={FIVE!r})\nprint(len(a))\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n1000\n", "")


def test_no_process_can_be_started(tmp_path: Path, processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = _many(tmp_path, 3, zipped=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match="No process could be started to parse text"):
        _all(open_source(paths, dtype=FIVE))


def _csv(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


_PAIR = [("name", "S3"), ("n", "u1")]

BAD: dict[str, tuple[Callable[[Path], Any], dict[str, Any], type[Exception], str]] = {
    "missing": (lambda f: f / "no.csv", {}, SourceNotFoundError, "no file .*no.csv"),
    "missing-of-many": (lambda f: [_csv(f, "1,2\n"), f / "no.csv"], {}, SourceNotFoundError, "no file .*no.csv"),
    "empty": (lambda f: _csv(f, ""), {}, SourceError, "a.csv has no rows"),
    "only-comments": (lambda f: _csv(f, "# 1\n\n"), {}, SourceError, "a.csv has no rows"),
    "only-header": (lambda f: _csv(f, "x,y\n"), {}, SourceError, "no rows but a header, line 1"),
    "no-numbers": (lambda f: _csv(f, "a,1\nb,2\n"), {}, SourceError, r"a.csv, line 1, field 1: 'a' is no number. If not .* give dtype="),
    "text-too-long": (lambda f: _csv(f, "abc,1\nabcd,2\n"), {"dtype": _PAIR}, SourceError, r"line 2, field 1 \(name\): 'abcd' has 4 bytes, but S3"),
    "unicode-too-long": (lambda f: _csv(f, "é\néé\n"), {"dtype": "U1"}, SourceError, "line 2, field 1: 'éé' has 2 characters, but U1 holds 1"),
    "not-utf-8": (lambda f: _csv(f, b"a\n\xff\n"), {"dtype": "U1"}, SourceError, "line 2, field 1: .* is not UTF-8"),
    "overflow": (lambda f: _csv(f, "abc,1\nabc,256\n"), {"dtype": _PAIR}, SourceError, r"line 2, field 2 \(n\): '256' does not fit in uint8"),
    "below": (lambda f: _csv(f, "abc,1\nabc,-1\n"), {"dtype": _PAIR}, SourceError, r"'-1' does not fit in uint8, which goes from 0 to 255"),
    "float-for-int": (lambda f: _csv(f, "abc,1\nabc,1.0\n"), {"dtype": _PAIR}, SourceError, r"field 2 \(n\): '1.0' is no integer"),
    "hexadecimal": (lambda f: _csv(f, "abc,1\nabc,0x1\n"), {"dtype": _PAIR}, SourceError, "'0x1' is no integer"),
    "underscore": (lambda f: _csv(f, "1,1\n1,1_0\n"), {}, SourceError, "'1_0' is no number"),
    "no-bool": (lambda f: _csv(f, "1\n2\n"), {"dtype": "?"}, SourceError, "'2' is neither true nor false"),
    "empty-field": (lambda f: _csv(f, "abc,1\nabc,\n"), {"dtype": _PAIR}, SourceError, r"line 2, field 2 \(n\): '' is no integer"),
    "field-missing": (lambda f: _csv(f, "abc,1\nabc\n"), {"dtype": _PAIR}, SourceError, "line 2: the line has 1 fields, not 2"),
    "fields-too-many": (lambda f: _csv(f, "abc,1\nabc,1,2\n"), {"dtype": _PAIR}, SourceError, "line 2: the line has 3 fields, not 2"),
    "far-field-missing": (lambda f: _csv(f, "1,2\n" * 1000 + "3\n"), {}, SourceError, "line 1001: the line has 1 fields, not 2"),
    "broken-first-line": (lambda f: _csv(f, "a,1x,2\na,1,2\n"), {"dtype": [*_PAIR, ("m", "u1")]}, SourceError, "line 1, field 2 .n.: '1x' is no"),
    "quote": (lambda f: _csv(f, 'a,1\n"b,2\n'), {"dtype": _PAIR}, SourceError, "line 2: a quotation mark is not closed"),
    "zero-byte": (lambda f: _csv(f, "a,1\nb\0,2\n"), {"dtype": _PAIR}, SourceError, "line 2, field 1 .*zero byte"),
    "long-first-line": (lambda f: _csv(f, "1" * (2**20 + 1)), {}, SourceError, "line 1: the line is longer than 1048576 bytes"),
    "long-line": (lambda f: _csv(f, "1\n" * 10 + "1" * (2**20 + 1) + "\n"), {}, SourceError, "line 11: the line is longer"),
    "endless-line": (lambda f: _csv(f, "1\n" * 10 + "1" * 2**23), {}, SourceError, "line 11: the line is longer"),
    "utf-16": (lambda f: _csv(f, "1,2\n".encode("utf-16")), {}, SourceError, "UTF-16, not UTF-8"),
    "unlike": (lambda f: [_csv(f, "1,2\n"), _csv(f, "1,2,3\n", "b.csv")], {}, SourceError, "b.csv, line 1: the line has 3 fields, not 2"),
    "folder": (lambda f: _folder(f / "a.csv"), {}, SourceError, "is a folder"),
    "folder-in-list": (lambda f: [_csv(f, "1,2\n", "b.csv"), _folder(f / "a.csv")], {}, SourceError, "a.csv is a folder"),
    "gzip-cut": (lambda f: _csv(f, gzip.compress(b"1,2\n" * 10**5)[:-20], "a.csv.gz"), {}, SourceError, "a.csv.gz is cut"),
    "gzip-head": (lambda f: _csv(f, gzip.compress(b"1,2\n")[:5], "a.csv.gz"), {}, SourceError, "a.csv.gz is cut"),
    "gzip-crc": (lambda f: _csv(f, _flipped(gzip.compress(b"1,2\n" * 10**5), -6), "a.csv.gz"), {}, SourceError, "a.csv.gz is damaged"),
    "gzip-bytes": (lambda f: _csv(f, _flipped(gzip.compress(os.urandom(9999).hex().encode()), 50), "a.csv.gz"), {}, SourceError, "a.csv.gz"),
    "gzip-trailing": (lambda f: _csv(f, gzip.compress(b"1,2\n") + b"xyz", "a.csv.gz"), {}, SourceError, "a.csv.gz is damaged"),
    "row-shape": (lambda f: _csv(f, "1,2\n"), {"dtype": "f8", "row_shape": (2,)}, OptionError, r"row_shape is \(2,\), but .*a.csv is text"),
    "complex": (lambda f: _csv(f, "1,2\n"), {"dtype": "c16"}, OptionError, "dtype is complex128, which is not read from text"),
    "datetime": (lambda f: _csv(f, "a,2\n"), {"dtype": [("x", "S1"), ("t", "M8[s]")]}, OptionError, "dtype of 't' is datetime64"),
    "long-double": (lambda f: _csv(f, "1,2\n"), {"dtype": "g"}, OptionError, "which is not read from text"),
    "objects": (lambda f: _csv(f, "1,2\n"), {"dtype": "O"}, OptionError, "which is not read from text"),
    "no-length": (lambda f: _csv(f, "1,2\n"), {"dtype": "S"}, OptionError, "which is not read from text"),
    "subarray": (lambda f: _csv(f, "1,2\n"), {"dtype": "(2,)f8"}, OptionError, "rows of one axis. Give dtype='float64'"),
    "unknown-dtype": (lambda f: _csv(f, "1,2\n"), {"dtype": "float65"}, OptionError, "float65"),
    "unicode-name": (lambda f: _csv(f, "1,2\n1,x\n", "tåble\udcff 1.csv"), {}, SourceError, "line 2, field 2: 'x' is no number"),
}  # fmt: skip


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_named(tmp_path: Path, name: str) -> None:
    make, options, error, message = BAD[name]
    source = make(tmp_path)
    with pytest.raises(error, match=message):
        swath.ingest(source, tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


def test_the_longest_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("# \n" + ("x" * 2**20 + "\n") * 10)
    source = open_source(tmp_path / "a.csv", dtype=f"S{2**20}")
    assert_same(_all(source), np.full((10, 1), b"x" * 2**20))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("change", ["cut", "gone", "rows", "fewer"])
def test_a_file_that_changes_after_it_was_opened(tmp_path: Path, small_blocks: None, zipped: bool, change: str) -> None:
    def write(content: str) -> None:
        encoded = content.encode()
        path.write_bytes(gzip.compress(encoded) if zipped else encoded)

    path = tmp_path / "a.txt"
    content = _lines(_five(300), ";")
    write(content)
    source = open_source(path, dtype=FIVE)
    described = source.describe()
    assert described == source.describe()
    changes: dict[str, Callable[[], Any]] = {
        "cut": lambda: write(content[: len(content) // 2]),
        "gone": path.unlink,
        "rows": lambda: write(content.replace("chr", "\n")),
        "fewer": lambda: write("#" + content.replace("chr", "#hr").replace("\n#", "\n##")),
    }
    changes[change]()
    with pytest.raises(SourceError, match=r"a\.txt"):
        _all(source)
    if change != "gone":
        assert source.describe() != described


def test_what_is_parsed_otherwise_is_described_otherwise(tmp_path: Path) -> None:
    _csv(tmp_path, "1,2\n3,4\n")
    dtypes: list[Any] = ["f4", "f8", [("a", "u1"), ("b", "u1")], [("c", "u1"), ("b", "u1")]]
    assert len({str(open_source(tmp_path / "a.csv", dtype=dtype).describe()) for dtype in dtypes}) == 4


_RULE = {
    "csv": ("a.csv", b"1,2\n", "f8", None, True),
    "csv-in-capitals": ("a.CSV", b"1,2\n", "f8", None, True),
    "tsv-gz": ("a.tsv.gz", gzip.compress(b"1\t2\n"), "f8", None, True),
    "csv-gz-that-is-none": ("a.csv.gz", b"1,2\n", "f8", None, True),
    "gzip-of-text": ("a.data", gzip.compress(b"1,2\n"), "f8", None, True),
    "gzip-of-bytes": ("a.data", gzip.compress(bytes(range(9))), "f8", None, False),
    "gzip-of-text-as-raw": ("a.data", gzip.compress(b"1,2\n"), "u1", (1,), False),
    "raw-that-looks-like-text": ("a.bin", b"1,2,3,4\n", "f8", None, False),
    "text-without-dtype": ("a.bin", b"1,2,3,4\n", None, None, True),
    "bytes-without-dtype": ("a.bin", b"1,2\x01", None, None, False),
    "npy-named-as-text": ("a.txt", b"\x93NUMPY", None, None, False),
    "hdf5-named-as-text": ("a.txt", b"\x89HDF\r\n\x1a\n", None, None, False),
    "character-that-is-cut": ("a", b"1" + "é".encode() * 300, None, None, True),
    "latin-1": ("a", b"1\xe9\n", None, None, False),
    "empty": ("a", b"", None, None, False),
    "broken-gzip": ("a", b"\x1f\x8b\x08 not gzip at all", None, None, False),
}


@pytest.mark.parametrize("name", _RULE)
def test_what_is_text(tmp_path: Path, name: str) -> None:
    file_name, content, dtype, row_shape, is_text = _RULE[name]
    assert files.is_text(_csv(tmp_path, content, file_name), dtype, row_shape) is is_text


def test_raw_binary_stays_raw(tmp_path: Path) -> None:
    path = _csv(tmp_path, b"1,2,3,4\n", "a.bin")
    assert_same(swath.open(path, dtype="u1").gather([0], window=8), np.frombuffer(path.read_bytes(), "u1")[None])


def test_text_is_not_opened_in_place(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.csv is a table of text.*Ingest it first"):
        swath.open(_csv(tmp_path, "1,2\n"))


def test_a_list_of_text_and_others_is_joined(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    a = swath.ingest([_csv(tmp_path, "5,6\n"), tmp_path / "a.npy"], tmp_path / "a.zarr", window=1)
    assert_same(a.gather([0], window=4), np.array([[[5, 6], [1, 1], [1, 1], [1, 1.0]]]))


def test_an_interrupted_ingest_carries_on(tmp_path: Path, processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, rows = _many(tmp_path, 4, zipped=False)
    options: dict[str, Any] = {"dtype": FIVE, "chunk_rows": 8, "shard_rows": 64}
    handed_out, once = Ahead.rows, _failing(4)

    def interrupted(self: Ahead, k: int) -> NDArray[np.uint8]:
        next(once)
        return handed_out(self, k)

    with monkeypatch.context() as patch:
        patch.setattr(Ahead, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            swath.ingest(paths, tmp_path / "a.zarr", **options)
    written = {path.name for path in (tmp_path / ".a.zarr.swath-part").glob("c.*")}
    assert written
    a = swath.ingest(paths, tmp_path / "a.zarr", **options)
    assert_same(a.gather([0], window=len(a)), rows[None])


def _failing(after: int) -> Iterator[None]:
    yield from [None] * after
    raise KeyboardInterrupt
