"""What is logged, where, and that it costs nothing and tells no secret."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from fault_proxy import Proxy
from servers import Server

import swath
import swath.writing

ROWS = np.random.default_rng(0).normal(size=(2000, 100))


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "swath")
    return caplog


def _of(heard: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.getMessage() for record in heard.records if record.name == name]


def test_nothing_is_said_unless_somebody_listens(tmp_path: Path) -> None:
    code = f"import swath, numpy as np; swath.ingest(np.ones((100, 5)), {str(tmp_path / 'a')!r}).verify()"
    code += f"; open({str(tmp_path / 'a')!r} + '/c.0.0', 'r+b').write(b'xxxx'); assert not swath.open({str(tmp_path / 'a')!r}).verify()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_ingest_says_what_it_chose_and_why(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    swath.ingest(ROWS, tmp_path / "a.zarr", window=8)
    (said,) = _of(heard, "swath.ingestion")
    assert said == (
        f"ingest into {tmp_path}/a.zarr: rows of (100,) float64, for windows of 8; chunks of 8 rows, shards of 83880, "
        "raw: the array fits in memory, from where no codec gathers faster"
    )
    swath.ingest(iter([ROWS]), tmp_path / "b.zarr", codec="zstd")
    assert "zstd: as asked" in _of(heard, "swath.ingestion")[1]


def test_shards_of_an_earlier_run_are_told(
    tmp_path: Path, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    put = swath.writing.put_shard

    def interrupted(folder: Any, facts: Any, shard: int, buffer: Any) -> None:
        if shard == 5:
            raise KeyboardInterrupt
        put(folder, facts, shard, buffer)

    with monkeypatch.context() as patch:
        patch.setattr("swath.writing.put_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            swath.ingest(tmp_path / "rows.npy", tmp_path / "a.zarr", shard_rows=256, chunk_rows=8)
    swath.ingest(tmp_path / "rows.npy", tmp_path / "a.zarr", shard_rows=256, chunk_rows=8)
    (said,) = _of(heard, "swath.writing")
    assert said.startswith("ingest into ")
    assert said.endswith(" shards are there from an earlier run")


def test_a_gather_tells_its_plan_to_who_debugs(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    a = swath.ingest(ROWS, tmp_path / "a.zarr")
    starts = np.arange(100)
    a.gather(starts)
    assert _of(heard, "swath.gather") == [f"{a.url}: {a.plan(starts)!r}"]
    heard.clear()
    heard.set_level(logging.INFO, "swath")
    a.gather(starts)
    assert not heard.records


def test_damage_and_its_repair_are_told(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    a = swath.ingest(ROWS, tmp_path / "a.zarr", shard_rows=512, chunk_rows=8)
    (tmp_path / "a.zarr" / "c.1.0").unlink()
    a.repair(ROWS)
    (found,) = _of(heard, "swath.check")
    assert found.startswith(f"{a.url}: damage in 1 places, first: {a.url}/c.1.0 (rows 512 to 1023) is missing.")
    assert _of(heard, "swath.repair") == [f"{a.url}: wrote shard 1 again, rows [512, 1024)"]


def test_every_logger_is_below_one(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    swath.ingest(ROWS, tmp_path / "a.zarr").gather([3])
    assert heard.records
    assert {record.name.partition(".")[0] for record in heard.records} == {"swath"}
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("swath").handlers)


def test_a_request_that_is_made_again_is_told_without_secrets(
    moto: Server, proxy: Proxy, heard: pytest.LogCaptureFixture
) -> None:
    options = {**moto.storage_options, "secret_access_key": "marker-of-a-secret"}
    swath.ingest(ROWS, f"{moto.url}/logged.zarr", storage_options=options)
    behind = moto.behind(proxy.port)
    a = swath.open(
        f"{behind.url}/logged.zarr",
        storage_options={**behind.storage_options, "secret_access_key": "marker-of-a-secret"},
    )
    heard.clear()
    proxy.set(faults=("503",), share=1.0, once=True)
    a.gather([3, 1500])
    said = _of(heard, "swath.storage.asking")
    assert said
    assert all("logged.zarr" in each and "try 1 failed" in each and "503" in each for each in said)
    assert "marker-of-a-secret" not in heard.text


def test_a_lease_that_is_taken_over_is_a_warning(
    moto: Server, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swath.commit_objects._LEASE_SECONDS", 1.0)
    a = swath.ingest(ROWS[:100], f"{moto.url}/leased.zarr", storage_options=moto.storage_options)
    lease = {"holder": "x-1", "told": "Process 1 on far", "host": "x", "pid": 1}
    obstore.put(moto.store("leased.zarr"), ".swath-lease", json.dumps(lease).encode())
    a.append(ROWS)
    (record,) = [record for record in heard.records if record.name == "swath.commit_objects"]
    assert record.levelno == logging.WARNING
    assert "Process 1 on far has not renewed it for 1 s" in record.getMessage()
