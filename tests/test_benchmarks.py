"""Every benchmark runs, at a size of no meaning, and every way that it compares gives the right batch.

A process for each: what it loads starts threads of its own. Runs within it are made one after another in that process
(`_DRIVER`), since a new one for each of some hundred runs would take minutes; `test_a_run_is_a_process` is without that.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from oracle import assert_same, expected

_BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
_WAYS = 29  # rows of the main table, but for the disk's

_DRIVER = """
import importlib, sys
import peers
from swath.measure import run_job

script = importlib.import_module(sys.argv[1])
if hasattr(script, "measure"):
    script.measure = lambda job, program, at_begin=None: run_job(job, peers.PEERS[job.way], at_begin)
script.main(sys.argv[2:])
"""

_BATCHES = """
import sys
from pathlib import Path
import numpy as np
from gather import ENTRIES
from peers import PEERS
from swath.measure import Job
from targets import write_targets

targets = write_targets(Path(sys.argv[1]), 300, 20, 16)
for entry in ENTRIES:
    for cold in (True, False):
        job = Job(entry.way, targets[entry.target], 40, 16, 7, cold)
        np.save(f"{sys.argv[1]}/{entry.label.replace('/', ' ')}, {cold}.npy", PEERS[entry.way](job))
"""


def _run(program: str, *arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python code among the benchmarks, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    environment = {**os.environ, "PATH": os.environ["PATH"] if path is None else path}
    return subprocess.run(command, cwd=_BENCHMARKS, env=environment, capture_output=True, text=True, check=False)


def _script(tmp_path: Path, name: str, *options: str, path: str | None = None) -> dict[str, Any]:
    """Run a benchmark, and read what it wrote."""
    (tmp_path / "work").mkdir()
    done = _run(_DRIVER, name, *options, "--folder", tmp_path / "work", "--results", tmp_path / "results", path=path)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "work").iterdir())
    return _read(tmp_path, name)


def _read(tmp_path: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert record["machine"]["cores"] >= 1
    return record


def _assert_plotted(tmp_path: Path, name: str) -> None:
    assert (tmp_path / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_each_way_gives_the_right_batch(tmp_path: Path) -> None:
    done = _run(_BATCHES, tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "contiguous.h5") as file:
        rows = file["A"][:]
    wanted = expected(rows, np.random.default_rng(7).integers(0, 300 - 16 + 1, 40), 16)
    batches = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    assert len(batches) == 2 * _WAYS
    for batch in batches.values():
        assert_same(batch, wanted)


def test_gather(tmp_path: Path) -> None:
    record = _script(tmp_path, "gather", "--rows=2000", "--columns=200", "--windows=20", "--rounds=2")
    assert len({(run["label"], run["cold"]) for run in record["runs"]}) == 2 * _WAYS
    assert all(len(run["results"]) == 2 for run in record["runs"])
    assert len(record["disk"]) == 2
    # Nothing was left out, so each ratio that is wanted is there: eight cold, seven warm.
    assert [figure["cold"] for figure in record["wanted"]].count(True) == 8
    assert len(record["wanted"]) == 15
    assert all(figure["met"] == (figure["ratio"] >= figure["wanted"]) for figure in record["wanted"])
    _assert_plotted(tmp_path, "gather")


def test_a_run_is_a_process(tmp_path: Path) -> None:
    only = "swath gather, verify never"
    options = ["--rows=2000", "--columns=200", "--windows=20", "--rounds=1", f"--only={only}"]
    places = [f"--folder={tmp_path}", f"--results={tmp_path / 'results'}"]
    command = [sys.executable, "gather.py", *options, *places]
    done = subprocess.run(command, cwd=_BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = _read(tmp_path, "gather")
    assert [(run["label"], run["cold"]) for run in record["runs"]] == [(only, True), (only, False)]
    assert all(result["peak_bytes"] > result["batch_bytes"] for run in record["runs"] for result in run["results"])
    assert record["wanted"] == []


def test_damage(tmp_path: Path) -> None:
    record = _script(tmp_path, "damage", "--flips=12", "--files=3")
    counts = {name: list(kinds.values()) for name, kinds in record["ways"].items()}
    assert len(counts) == 10
    for name, kinds in counts.items():
        assert all(kind["tries"] == kind["error"] + kind["right"] + kind["silent"] for kind in kinds)
        assert [kind["tries"] for kind in kinds] == ([12, 0, 3, 3, 3, 0] if "h5py" in name else [12, 12, 3, 3, 3, 3])
        assert "swath" not in name or sum(kind["silent"] for kind in kinds) == 0
    assert counts["zarr-python, uncompressed"][0]["silent"] == 12  # what nobody checks is seen to be wrong


def test_hostile_input(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    options = [
        "--tries=8",
        "--only=shards, (raw|at the end)",
        f"--folder={tmp_path}",
        f"--results={tmp_path / 'results'}",
    ]
    done = _run(_DRIVER, "hostile_input", *options)
    assert done.returncode == 0, done.stderr
    corpora = json.loads((tmp_path / "results" / "hostile.json").read_text())["corpora"]
    assert {name: list(by) for name, by in corpora.items()} == {name: ["swath", "zarr-python"] for name in corpora}
    assert [by["swath"]["tries"] for by in corpora.values()] == [4, 4]
    assert all(not by["swath"][bad] for by in corpora.values() for bad in ("other errors", "crashes", "hangs", "wrong"))


_PROBE = """
import gather
from swath.measure import Result

gather.load = lambda target: None
for seconds in (0.0009, 0.0011):
    gather.measure = lambda job, program: Result(seconds * job.windows, 1, 1, 1, job.check_against == "source")
    print(gather._probe(gather.ENTRIES[0], {"raw": "store", "contiguous": "source"}, 5000))
"""


def test_a_slow_way_gathers_a_tenth() -> None:
    done = _run(_PROBE)
    assert done.stdout.split() == ["5000", "500"], done.stderr


_WRONG = """
import peers

peers.PEERS["h5py loop"] = lambda job: peers.WAYS["h5py loop"](job)[::-1]
"""


def test_a_wrong_batch_is_an_error(tmp_path: Path) -> None:
    options = ["--rows=2000", "--columns=200", "--windows=20", "--only=h5py", f"--folder={tmp_path}"]
    done = _run(_WRONG + _DRIVER, "gather", *options, f"--results={tmp_path / 'results'}")
    assert done.returncode != 0
    assert "differs from h5py's" in done.stderr


# What fits into a batch of 2 MB.
_SWEPT = {
    "windows": [10, 100, 1000],
    "window": [1, 4, 16, 64],
    "row": [8, 64, 512, 4096, 32_768],
    "chunk": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "threads": [1, 2, 4, 8, 16, 32, 64],
}


def test_sweep(tmp_path: Path) -> None:
    record = _script(tmp_path, "sweep", "--array-bytes=6000000", "--batch-bytes=2000000", "--rounds=1")
    swept = {sweep: [run["x"] for run in record["runs"] if run["sweep"] == sweep][::4] for sweep in _SWEPT}
    assert swept == _SWEPT
    # Each is swath's and the floor's, warm and cold.
    assert len(record["runs"]) == 4 * sum(map(len, _SWEPT.values()))
    _assert_plotted(tmp_path, "sweep")


def test_codec_auto(tmp_path: Path) -> None:
    record = _script(tmp_path, "auto_codec", "--array-bytes=1500000", "--batch-bytes=800000", "--rounds=1")
    chosen = {kind["kind"]: kind["chosen"] for kind in record["kinds"]}
    assert len(chosen) == 5
    assert set(chosen.values()) <= {"raw", "lz4", "zstd"}
    smaller = {kind["kind"]: kind["smaller_by"]["lz4"] for kind in record["kinds"]}
    assert smaller["sparse int32 counts"] > 3
    _assert_plotted(tmp_path, "auto_codec")


def test_zarr_arrays_of_others(tmp_path: Path) -> None:
    record = _script(tmp_path, "foreign_zarr", "--array-bytes=2000000", "--windows=20", "--rounds=1")
    assert len(record["layouts"]) == 7
    assert {len(layout["runs"]) for layout in record["layouts"]} == {14}


_BLOCKS = """
import sys
import numpy as np, zarr
from peers import PEERS
from swath.measure import Job

rows = np.arange(9000).reshape(300, 30)
array = zarr.create_array(sys.argv[1], shape=rows.shape, chunks=(40, 7), dtype=rows.dtype)
array[:] = rows
job = Job("", sys.argv[1], 50, 16, 0, cold=False)
expected = PEERS["zarr-python loop"](job)
for way in ("zarr-python blocks", "zarr-python blocks, fused pipeline", "swath gather"):
    assert (PEERS[way](job) == expected).all(), way
"""


def test_block_reads_are_the_loop(tmp_path: Path) -> None:
    done = _run(_BLOCKS, tmp_path / "a.zarr")
    assert done.returncode == 0, done.stderr


def test_many_small_windows(tmp_path: Path) -> None:
    record = _script(tmp_path, "small", "--array-bytes=200000", "--windows=1000", "--rows=500", "--rounds=2")
    assert set(record["planning"]) == {"64", "256"}
    for plans in record["planning"].values():
        assert len(plans["plan_s"]) == len(plans["gather_s"]) == 2
        assert plans["peak_bytes"] >= plans["held_bytes"] > 0
    assert {len(times) for times in record["one_row"].values()} == {2}
    assert len(record["one_row"]) == 5


def test_a_loop_that_lasts(tmp_path: Path) -> None:
    record = _script(tmp_path, "long_loop", "--batches=400", "--rows=300", "--interval-s=0.002")
    assert record["batches_a_second"] > 0
    assert all(min(values) > 2**20 for values in record["samples"].values())
    figure = record["figures"]["VmRSS"]
    assert figure["met"] == (abs(figure["last_bytes"] / figure["first_bytes"] - 1) <= 0.05)


def test_orders_of_windows(tmp_path: Path) -> None:
    record = _script(tmp_path, "sampling", "--rows=2000", "--columns=50", "--rounds=1", "--batches=8")
    orders = {order["label"]: order for order in record["orders"]}
    assert len(orders) == 17
    random, as_they_lie = orders["full random"], orders["as they lie"]
    # 32 windows one row apart: no spread, and few labels.
    assert as_they_lie["spread"] < 0.01 < 0.8 < random["spread"] < 1.2
    assert as_they_lie["entropy"] < 0.5 < random["entropy"] == 1
    assert (
        0 < as_they_lie["bytes_read"] <= random["bytes_read"] < 0.1
    )  # windows overlap, and all of these are read in one go
    assert all(rate > 0 for order in orders.values() for rate in order["samples_a_second"]["cold"])
    _assert_plotted(tmp_path, "sampling")


def test_sharing(tmp_path: Path) -> None:
    sizes = ["--small-bytes=100000", "--large-bytes=3000000", "--array-bytes=4000000", "--served-bytes=600000"]
    record = _script(tmp_path, "sharing", *sizes, "--epochs=2", "--rounds=1")
    assert [sorted(sizes) for sizes in record["handed_s"].values()] == [["100000", "3000000"]] * 3
    assert {len(rates) for rates in record["gigabytes_a_second"].values()} == {1}
    assert len(record["gigabytes_a_second"]) == 4


@pytest.mark.parametrize("installed", [True, False])
def test_the_disk_itself(tmp_path: Path, installed: bool) -> None:
    path = None if installed else str(tmp_path)
    record = _script(tmp_path, "fio", "--gigabytes=0.004", "--rounds=1", path=path)
    tool = "fio" if installed and shutil.which("fio") else "Python threads"
    rates = [rate for run in record["runs"] for rate in run["rates"]]
    assert len(rates) == 5
    assert all(rate["tool"].startswith(tool) and rate["gigabytes_a_second"] > 0 for rate in rates)


def test_ingest(tmp_path: Path) -> None:
    record = _script(tmp_path, "ingest", "--rows=5000", "--columns=10", "--rounds=1")
    assert [(run["source"], run["cold"]) for run in record["runs"]] == [
        ("h5", True),
        ("h5", False),
        ("npy", True),
        ("npy", False),
    ]


def test_lazy(tmp_path: Path) -> None:
    record = _script(tmp_path, "lazy", "--rows=5000", "--columns=10", "--windows=100", "--rounds=1", "--many=1000")
    assert all(len(rates) == 1 and rates[0] > 0 for rates in record["rates"].values())
    assert record["graph"]["windows"] == 1000


def test_workers(tmp_path: Path) -> None:
    record = _script(tmp_path, "workers", "--rows=5000", "--windows=100", "--rounds=1", "--workers=1")
    assert [(run["way"], run["workers"]) for run in record["runs"]] == [
        ("windows, to the client", 1),
        ("their means", 1),
    ]
    assert all(min(run["cold_s"], run["warm_s"], run["scheduler_s"]) > 0 for run in record["runs"])


_REMOTE = """
import sys
import remote, remote_peers

remote.measure = lambda job, program: remote_peers.run(job)
remote.main(sys.argv[1:])
"""


def test_remote(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    sizes = [
        "--rows=3000",
        "--columns=200",
        "--windows=12",
        "--latency-ms=4",
        "--rounds=2",
        "--at-once=2",
        "--at-once=8",
    ]
    places = [f"--folder={tmp_path / 'work'}", f"--results={tmp_path / 'results'}"]
    done = _run(_REMOTE, *sizes, *places)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "work").iterdir())
    record = _read(tmp_path, "remote")
    assert len(record["runs"]) == 18
    assert {tuple(rates) for rates in record["sweep"].values()} == {("2", "8")}
    assert all(len(run["results"]) == 2 for run in record["runs"].values())
    # Four latencies at least: a handshake, what zarr.json says, an index, and chunks.
    futures = next(run for way, run in record["runs"].items() if way.startswith("tensorstore, futures"))
    assert all(result["seconds"] > 4 * 0.004 for result in futures["results"])
    assert [figure["wanted"] for figure in record["wanted"]] == [10.0, 2.0, 1.0, 0.8]
    assert all(figure["met"] == (figure["ratio"] >= figure["wanted"]) for figure in record["wanted"])
    _assert_plotted(tmp_path, "remote")

    done = _run(
        _REMOTE, *sizes, *places, "--bits=12", "--only=swath gather", "--only=bare", "--only=tensorstore, index"
    )
    assert done.returncode == 0, done.stderr
    encoded = _read(tmp_path, "remote-encoded")
    assert len(encoded["runs"]) == 3
    assert not any(way.startswith("bare") for way in encoded["runs"])
    assert encoded["bound"]["bytes"] < record["bound"]["bytes"] / 3


_WRONG_REMOTE = """
import numpy as np
import remote_peers

remote_peers.WAYS["bare ranges, 2 at once"] = lambda job: np.zeros((job.windows, job.window, 200))
"""


def test_a_wrong_batch_from_afar_is_an_error(tmp_path: Path) -> None:
    options = ["--rows=3000", "--columns=200", "--windows=12", "--at-once=2", "--only=bare", f"--folder={tmp_path}"]
    done = _run(_WRONG_REMOTE + _REMOTE, *options, f"--results={tmp_path / 'results'}")
    assert done.returncode != 0
    assert "is not what was written" in done.stderr


_LINK = """
import socket, threading, time
from slow_network import slow_network

SIZE = 2_000_000


def serve():
    while True:
        client, _ = server.accept()
        threading.Thread(target=answer, args=(client,)).start()


def answer(client):
    while client.recv(1):
        client.sendall(bytes(SIZE))


def ask(times):
    with socket.create_connection(address) as client:
        for _ in range(times):
            client.sendall(b"?")
            left = SIZE
            while left:
                left -= len(client.recv(left))


def seconds(clients, times):
    threads = [threading.Thread(target=ask, args=(times,)) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, daemon=True).start()
with slow_network(f"127.0.0.1:{server.getsockname()[1]}", 0.05, 0.8) as (name, _):
    host, port = name.split(":")
    address = host, int(port)
    print(seconds(1, 1), seconds(1, 3), seconds(10, 1))
"""


def test_a_slow_network_is_as_slow_as_it_says() -> None:
    done = _run(_LINK)
    assert done.returncode == 0, done.stderr
    # 2 MB take 0.02 s of 0.8 Gbit/s, whoever asks; a handshake and each answer, one after another, take the latency.
    once, thrice, by_ten = map(float, done.stdout.split())
    for took, least in ((once, 0.12), (thrice, 0.26), (by_ten, 0.30)):
        assert least - 0.005 < took < least + 0.5


def test_the_reference_job_on_a_cluster(tmp_path: Path) -> None:
    options = ["--rows=2000", "--windows=100", "--limit=2GB", f"--folder={tmp_path}"]
    command = [sys.executable, str(_BENCHMARKS / "reference_cluster.py"), *options, f"--results={tmp_path}/results"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr or "Read-only file system" in done.stderr:
        pytest.skip("no right to make a memory cgroup here")
    assert done.returncode == 0, done.stderr
    (run,) = _read(tmp_path, "reference_cluster")["runs"]
    assert (run["same"], run["oom_kills"], run["exit_status"]) == (True, 0, 0)


def test_reliability(tmp_path: Path) -> None:
    record = _script(tmp_path, "reliability", "--kills=1", "--opens=4")
    systems = {"swath", "zarr-python", "h5py", "icechunk"}
    assert set(record["kills"]) == set(record["readers"]) == systems
    assert set(record["kills"]["swath"]["stores"].values()) == {0}
    assert record["readers"]["swath"]["errors"] == 0


_SIMULATED = """
import sys
import simulate

simulate.main(["calibrate", *sys.argv[1:]], standalone_mode=False)
simulate.main(["page", "--results", sys.argv[-1]])
"""


def test_a_simulated_cluster(tmp_path: Path) -> None:
    options = ["--rows=2000", "--windows=256", "--tasks=16", "--rounds=1", f"--folder={tmp_path}"]
    done = _run(_SIMULATED, *options, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    record = _read(tmp_path, "simulate")
    tried = {(row["workers"], row["block"], row["landing"]) for row in record["check"]}
    assert len(tried) == len(record["check"]) == 3 * 2 * 2
    assert all(row["predicted_s"] > 0 and row["runs"][0]["core_s"] > 0 for row in record["check"])
    assert done.stdout.count("scheduler") >= 2
    assert "4,000 workers" in done.stdout


_NO_DEMO = """
import sys
import reference

reference._demo = lambda folder, rows: [sys.executable, "-c", f"print('{rows} rows')"]
reference.main(sys.argv[1:])
"""


def test_the_reference_job(tmp_path: Path) -> None:
    """All but the demo, which is the command line's: it takes gigabytes."""
    done = _run(_NO_DEMO, "--rows=1000", "--limit=1GB", f"--folder={tmp_path}", f"--results={tmp_path / 'results'}")
    if "PermissionError" in done.stderr or "Read-only file system" in done.stderr:
        pytest.skip("no right to make a memory cgroup here")
    assert done.returncode == 0, done.stderr
    record = _read(tmp_path, "reference")
    assert (record["limit_bytes"], record["oom_kills"], record["table"]) == (10**9, 0, ["1000 rows"])
