"""The ``swath`` command, run as a user runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import swath


def _run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swath.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def rows() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(1000, 30))


@pytest.fixture
def store(tmp_path: Path, rows: NDArray[np.float64]) -> Path:
    swath.ingest(rows, tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def test_ingest_then_info_plan_and_gather(tmp_path: Path, rows: NDArray[np.float64]) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["group/rows"] = rows
    store = tmp_path / "a.zarr"

    ingested = _run("ingest", f"{tmp_path}/rows.h5::group/rows", store, "--window", 8, "--codec", "zstd")
    assert (ingested.returncode, ingested.stderr) == (0, "")  # no bar in a pipe
    assert "(1000, 30)" in ingested.stdout

    info = json.loads(_run("info", store, "--json").stdout)
    assert (info["shape"], info["window"], info["codec"]) == ([1000, 30], 8, "zstd")
    assert "zstd" in _run("info", store).stdout

    assert "bytes for each byte wanted" in _run("plan", store, "--random", 100).stdout

    gathered = _run("gather", store, tmp_path / "batch.npy", "--starts", "3,500,3")
    assert gathered.returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "batch.npy"), np.stack([rows[s : s + 8] for s in (3, 500, 3)]))


def test_several_sources_are_joined(tmp_path: Path, rows: NDArray[np.float64]) -> None:
    np.save(tmp_path / "1.npy", rows[:400])
    np.save(tmp_path / "2.npy", rows[400:])
    assert _run("ingest", tmp_path / "1.npy", tmp_path / "2.npy", tmp_path / "a.zarr").returncode == 0
    a = swath.open(tmp_path / "a.zarr")
    assert a.segments.tolist() == [[0, 400], [400, 1000]]
    np.testing.assert_array_equal(a.gather([395]), rows[None, 395:411])


def test_raw_binary(tmp_path: Path, rows: NDArray[np.float64]) -> None:
    rows.tofile(tmp_path / "rows.bin")
    done = _run("ingest", tmp_path / "rows.bin", tmp_path / "a.zarr", "--dtype", "float64", "--row-shape", "30")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(swath.open(tmp_path / "a.zarr").gather([7]), rows[None, 7:23])


def test_a_part_of_a_pattern_is_cast(tmp_path: Path, rows: NDArray[np.float64]) -> None:
    np.save(tmp_path / "1.npy", rows[:400])
    np.save(tmp_path / "2.npy", rows[400:])
    words = ["ingest", f"{tmp_path}/?.npy", tmp_path / "a.zarr", "--rows", "-700:", "--dtype", "float32"]
    refused = _run(*words)
    assert refused.returncode == 2
    assert re.search(r"row 300 at .* as float32", refused.stderr)
    done = _run(*words, "--casting", "rounded")
    assert done.returncode == 0, done.stderr
    a = swath.open(tmp_path / "a.zarr")
    assert a.segments.tolist() == [[0, 100], [100, 700]]
    np.testing.assert_array_equal(a.gather([95]), rows[None, 395:411].astype("f4"))


def test_starts_come_from_a_file(tmp_path: Path, store: Path, rows: NDArray[np.float64]) -> None:
    starts = [9, 0, 984]
    np.save(tmp_path / "starts.npy", starts)
    (tmp_path / "starts.txt").write_text("9 0\n984\n")
    for name in ("starts.npy", "starts.txt"):
        out = tmp_path / f"{name}.batch.npy"
        assert _run("gather", store, out, "--starts", tmp_path / name).returncode == 0
        np.testing.assert_array_equal(np.load(out), np.stack([rows[s : s + 16] for s in starts]))


def test_a_list_of_starts_is_longer_than_a_name_of_a_file_may_be(store: Path) -> None:
    planned = _run("plan", store, "--starts", ",".join(["500"] * 1000), "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["windows"] == 1000


def test_starts_that_are_no_numbers_of_64_bits_are_refused(tmp_path: Path, store: Path) -> None:
    (tmp_path / "starts.bin").write_bytes(b"\xff\xfe\0\x80")
    for starts in (tmp_path / "starts.bin", 10**25):
        refused = _run("plan", store, "--starts", starts)
        assert (refused.returncode, refused.stderr[:18]) == (2, "swath: --starts is"), refused.stderr


def test_columns_are_chosen(tmp_path: Path, store: Path, rows: NDArray[np.float64]) -> None:
    for columns, kept in (("3,29,4", [3, 29, 4]), (":7", slice(7)), ("-2:", slice(-2, None))):
        planned = _run("plan", store, "--starts", "7", "--columns", columns, "--json")
        assert json.loads(planned.stdout)["bytes_wanted"] == rows[7:23, kept].nbytes
        out = tmp_path / "some.npy"
        assert _run("gather", store, out, "--starts", "7", "--columns", columns).returncode == 0
        np.testing.assert_array_equal(np.load(out), rows[None, 7:23, kept])
        out.unlink()
    refused = _run("plan", store, "--starts", "7", "--columns", "a,b", "--json")
    assert (refused.returncode, json.loads(refused.stderr)["error"]) == (2, "OptionError")


def test_append_casts_as_it_is_told(tmp_path: Path, store: Path, rows: NDArray[np.float64]) -> None:
    np.save(tmp_path / "whole.npy", np.full((3, 30), 2**53 + 1))
    assert _run("append", tmp_path / "whole.npy", store).returncode == 2
    assert _run("append", tmp_path / "whole.npy", store, "--casting", "unsafe").returncode == 0
    assert swath.open(store).shape == (1003, 30)


def test_append_then_verify_and_repair(tmp_path: Path, store: Path, rows: NDArray[np.float64]) -> None:
    np.save(tmp_path / "1.npy", rows)
    np.save(tmp_path / "2.npy", rows[:20])
    appended = _run("append", tmp_path / "2.npy", tmp_path / "2.npy", store)
    assert appended.returncode == 0, appended.stderr
    assert "(1040, 30)" in appended.stdout
    sources = (tmp_path / "1.npy", tmp_path / "2.npy", tmp_path / "2.npy")

    sound = _run("verify", store)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert re.fullmatch(rf"{store}: \d+ chunks in 1 shard, 243.75 KiB: all sound\n", sound.stdout)
    (store / "c.0.0").write_bytes((store / "c.0.0").read_bytes()[:-9])
    damaged = _run("verify", store)
    assert (damaged.returncode, damaged.stderr) == (1, "")
    assert re.search(r"damage in 1 file\n  .*c\.0\.0: chunk \d+ \(rows \d+ to 1039\) ends early", damaged.stdout)

    repaired = _run("repair", store, *sources)
    assert repaired.returncode == 0, repaired.stderr
    assert ": mended\n" in repaired.stdout
    assert "nothing to mend" in _run("repair", store, *sources).stdout
    assert _run("verify", store, *(word for source in sources for word in ("--source", source))).returncode == 0
    np.save(tmp_path / "2.npy", rows[:20] + 1)
    other = _run("verify", store, *(word for source in sources for word in ("--source", source)))
    assert other.returncode == 1
    assert "row 1000 differs from the source" in other.stdout


def test_a_group_is_shown_verified_and_repaired(tmp_path: Path, rows: NDArray[np.float64]) -> None:
    group, labels = tmp_path / "g.zarr", np.arange(len(rows))
    swath.ingest_group({"X": rows, "y": labels}, group)
    np.save(tmp_path / "y.npy", labels)
    info = json.loads(_run("info", group, "--json").stdout)
    assert info["url"] == str(group)
    assert {name: array["shape"] for name, array in info["arrays"].items()} == {"X": [1000, 30], "y": [1000]}
    assert re.search(r"X:\nurl .*g\.zarr/X\n(.*\n)*y:\nurl .*g\.zarr/y\n", _run("info", group).stdout)
    assert _run("verify", group, "--source", f"y={tmp_path}/y.npy").returncode == 0
    (group / "y" / "c.0").unlink()
    damaged = _run("verify", group)
    assert damaged.returncode == 1
    assert re.search(r"g\.zarr/X: .* all sound\n.*g\.zarr/y: .* damage in 1 file", damaged.stdout)
    wrong = _run("repair", group, tmp_path / "y.npy")
    assert wrong.returncode == 2
    assert "Give NAME=SOURCE" in wrong.stderr
    assert _run("repair", group, f"y={tmp_path}/y.npy").returncode == 0
    assert _run("verify", group).returncode == 0


def test_bench_prints_a_table(store: Path) -> None:
    done = _run("bench", store, "--windows", 50)
    assert done.returncode == 0, done.stderr
    assert "swath gather" in done.stdout
    assert "zarr-python loop" in done.stdout


def test_a_file_in_place_is_shown_planned_and_measured(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(200_000).reshape(1000, 200))
    info = _run("info", tmp_path / "rows.npy")
    assert "as its writer chose" in info.stdout
    plan = _run("plan", tmp_path / "rows.npy", "--random", 10)
    assert "ingested" in plan.stdout
    bench = _run("bench", tmp_path / "rows.npy", "--windows", 50)
    assert bench.returncode == 0, bench.stderr
    assert "swath compute" in bench.stdout
    assert "zarr-python loop" not in bench.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["info", "nothing"], r"There is no store at .*nothing", id="no-store"),
        pytest.param(["gather", "{store}", "o.npy", "--starts", "985"], r"starts\[0\] = 985", id="out-of-range"),
        pytest.param(["gather", "{store}", "o.npy", "--starts", "1.5"], r"--starts is '1.5'", id="no-integers"),
        pytest.param(
            ["gather", "{store}", "o.npy", "--starts", "1", "--memory-limit", "1kB"], "limit is 1000 B", id="memory"
        ),
        pytest.param(["gather", "{store}", "o.npy"], "either --starts or --random", id="no-starts"),
        pytest.param(["plan", "{store}", "--random", "5", "--window", "5000"], "window is 5000", id="window"),
        pytest.param(["ingest", "nothing.npy", "b.zarr"], "no file .*nothing.npy", id="no-source"),
        pytest.param(["ingest", "{store}/zarr.json", "b.zarr"], "give --dtype", id="unknown-kind"),
        pytest.param(["ingest", "{npy}", "{store}"], "give --overwrite", id="exists"),
        pytest.param(["ingest", "{npy}", "b.zarr", "--rows", "5"], "--rows is '5'", id="rows"),
        pytest.param(["ingest", "{npy}", "b.zarr", "--rows", "5:5"], "takes none of the 5 rows", id="no-rows"),
        pytest.param(["ingest", "*.nothing", "b.zarr"], "No file fits .*nothing", id="pattern"),
        pytest.param(["append", "{npy}", "{store}"], "rows of shape .5,. .* Give rows that are alike", id="append"),
        pytest.param(["append", "{npy}", "{npy}"], "cannot append to it", id="append-to-a-file"),
        pytest.param(["verify", "nothing"], "There is no store at", id="verify"),
        pytest.param(["verify", "{store}", "--source", "{npy}"], r"shape .5, 5.", id="verify-other-source"),
        pytest.param(["repair", "{store}", "{npy}"], r"shape .5, 5.", id="repair"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(tmp_path: Path, store: Path, words: list[str], message: str) -> None:
    np.save(tmp_path / "rows.npy", np.ones((5, 5)))
    words = [word.format(store=store, npy=tmp_path / "rows.npy") for word in words]
    done = _run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "rows.npy"]


def test_the_demo_prints_its_table_and_leaves_nothing(tmp_path: Path) -> None:
    done = _run("demo", "--rows", 4000, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    for way in ("swath gather", "swath compute", "numpy.memmap loop", "h5py loop"):
        assert way in done.stdout
    assert "83 random windows of 16 rows from 4,000 x 2000 float64" in done.stdout
    assert "compared with h5py's" in " ".join(done.stdout.split())  # as wide as a pipe is taken for
    assert list(tmp_path.iterdir()) == []
