"""Stores in object stores: what is gathered, what is asked for, and what happens where things go wrong."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import children
import numpy as np
import obstore
import pytest
import servers
import zarr
from fault_proxy import READ_FAULTS, Proxy
from oracle import assert_same, expected
from servers import CONDITIONAL, Server, serve
from zarr.storage import ObjectStore

import swath
from swath.errors import (
    DamagedStoreError,
    IncompleteStoreError,
    OptionError,
    SourceError,
    StoreAccessError,
    StoreBusyError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
    StoreUnreachableError,
    SwathError,
)
from swath.layout import STAMP_BYTES
from swath.stamps import Stamps, Version
from swath.storage.asking import asked
from swath.storage.connection import Body, Connection
from swath.storage.options import Options
from swath.store import Store

ROWS = np.random.default_rng(0).normal(size=(6000, 100))
STARTS = np.random.default_rng(1).integers(0, 6000 - 8, 400)
LAYOUT: dict[str, Any] = {"window": 8, "chunk_rows": 4, "shard_rows": 400}
CODECS = ("raw", "lz4", "zstd")


def _url(server: Server, name: str) -> str:
    return f"{server.url}/tests/{name}.zarr"


def _keys(server: Server, name: str) -> list[str]:
    return sorted(each["path"].rpartition(".zarr/")[2] for each in obstore.list(server.store(f"tests/{name}.zarr")).collect())  # fmt: skip


@pytest.mark.parametrize("codec", CODECS)
def test_a_store_gathers_as_a_local_one(server: Server, codec: Any) -> None:
    url, options = _url(server, codec), server.storage_options
    a = swath.ingest(ROWS, url, codec=codec, storage_options=options, **LAYOUT)
    assert a.url == url
    for each in (a, swath.open(url, storage_options=options)):
        assert_same(each.gather(STARTS), expected(ROWS, STARTS, 8))
        assert_same(each.gather(STARTS, window=3, columns=[5, 99, 7]), expected(ROWS, STARTS, 3)[:, :, [5, 99, 7]])
        assert_same(each.gather(STARTS[:5], verify="never"), expected(ROWS, STARTS[:5], 8))
    assert_same(a.windows(STARTS, block=100).compute(scheduler="threads"), expected(ROWS, STARTS, 8))
    assert_same(swath.compute(a.windows(STARTS, block=100) * 2, scheduler="threads"), expected(ROWS, STARTS, 8) * 2)
    assert a.verify(ROWS)
    old = swath.open(url, storage_options=options)
    a.append(ROWS[:150]).append(ROWS[:1000])
    longer = np.concatenate([ROWS, ROWS[:150], ROWS[:1000]])
    starts = np.random.default_rng(2).integers(0, len(longer) - 8, 300)
    assert_same(a.gather(starts), expected(longer, starts, 8))
    assert_same(old.gather(STARTS), expected(ROWS, STARTS, 8))
    assert len(old) == 6000
    assert_same(old.refresh().gather(starts), expected(longer, starts, 8))
    assert a.verify()
    assert [name for name in _keys(server, codec) if not name.startswith("c.")] == ["zarr.json"]
    array = zarr.open_array(ObjectStore(server.store(f"tests/{codec}.zarr"), read_only=True))
    assert_same(np.asarray(array[:]), longer)


def test_a_store_is_replaced_at_one_instant(server: Server) -> None:
    url, options = _url(server, "replaced"), server.storage_options
    a = swath.ingest(ROWS, url, storage_options=options, **LAYOUT)
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        swath.ingest(ROWS, url, storage_options=options)
    for _ in range(3):
        b = swath.ingest(ROWS[:500] + 1, url, overwrite=True, storage_options=options, **LAYOUT)
        assert_same(b.gather([0, 480]), expected(ROWS + 1, np.array([0, 480]), 8))
        assert len(_keys(server, "replaced")) == 3  # nothing of the other is left
    with pytest.raises(StoreChangedError, match="was replaced"):
        a.gather([0])


def test_a_group_is_committed_together(server: Server) -> None:
    url, options = _url(server, "group"), server.storage_options
    g = swath.ingest_group({"X": ROWS, "y": np.arange(6000)}, url, window=8, storage_options=options)
    g.append({"X": ROWS[:30], "y": np.arange(30)})
    for each in (g, swath.open_group(url, storage_options=options)):
        batch = each.gather([6005, 3])
        assert_same(batch["y"], np.stack([np.arange(5, 13), np.arange(3, 11)]))
    assert len(swath.open(f"{url}/X", storage_options=options)) == 6030
    assert all(g.verify().values())


def test_iterators_and_repairs(server: Server) -> None:
    url, options = _url(server, "blocks"), server.storage_options
    a = swath.ingest((ROWS[i : i + 700] for i in range(0, 6000, 700)), url, storage_options=options, **LAYOUT)
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
    store = server.store("tests/blocks.zarr")
    shard = bytearray(obstore.get(store, "c.3.0").bytes())
    shard[-7] ^= 1
    obstore.put(store, "c.3.0", bytes(shard))
    obstore.delete(store, "c.5.0")
    a = swath.open(url, storage_options=options)
    with pytest.raises(DamagedStoreError, match=r"c\.3\.0: chunk 399 .* has a wrong checksum"):
        a.gather([1590])
    with pytest.raises(DamagedStoreError, match=r"c\.5\.0 \(rows 2000 to 2399\) is missing"):
        a.gather([2000])
    assert {damage.shard for damage in a.verify().damages} == {3, 5}
    a.repair(ROWS)
    assert a.verify(ROWS)


def test_a_zarr_array_of_another_program(server: Server, tmp_path: Path) -> None:
    options = server.storage_options
    kinds: dict[str, Any] = {
        "plain": {"chunks": (10, 7)},
        "sharded": {"chunks": (10, 100), "shards": (200, 100)},
        "v2": {"chunks": (64, 50), "zarr_format": 2},
    }
    for name, given in kinds.items():
        array: Any = zarr.create_array(
            ObjectStore(server.store(f"tests/{name}.zarr")), shape=(1000, 100), dtype="f4", **given
        )
        array[:900] = ROWS[:900].astype("f4")  # the rest was never written
        rows = array[:]
        starts = np.array([0, 500, 984, 20])
        for place in (_url(server, name), ObjectStore(server.store(f"tests/{name}.zarr"), read_only=True)):
            a = swath.open(place, storage_options=options if isinstance(place, str) else None)
            assert_same(a.gather(starts), expected(rows, starts, 16))


# What is asked for


def test_opening_takes_two_requests_and_nothing_is_listed(moto: Server, proxy: Proxy) -> None:
    url, behind = _url(moto, "requests"), moto.behind(proxy.port)
    swath.ingest(ROWS, url, storage_options=behind.storage_options, **LAYOUT)
    assert not any("list-type" in each.target for each in proxy.requests())
    proxy.clear()
    a = swath.open(url, storage_options=behind.storage_options)
    assert sum(proxy.counts().requests.values()) == 2
    proxy.clear()
    a.gather(STARTS)
    # The ranges, the index of each shard, and a look at the metadata.
    assert sum(proxy.counts().requests.values()) == a.plan(STARTS).requests + 1
    proxy.clear()
    a.gather(STARTS)
    assert sum(proxy.counts().requests.values()) == a.plan(STARTS).requests + 1 - a.plan(STARTS).shards.size


@pytest.mark.parametrize("codec", CODECS)
def test_a_refresh_forgets_the_shard_that_an_append_has_made_longer(moto: Server, proxy: Proxy, codec: Any) -> None:
    url, behind = _url(moto, f"refreshed-{codec}"), moto.behind(proxy.port).storage_options
    swath.ingest(ROWS[:5900], url, codec=codec, storage_options=moto.storage_options, **LAYOUT)
    a = swath.open(url, storage_options=behind)
    a.gather(np.arange(0, 5890, 20))
    swath.open(url, storage_options=moto.storage_options).append(ROWS[5900:])
    a = a.refresh()
    starts = np.arange(0, 5990, 40)
    proxy.clear()
    assert_same(a.gather(starts), expected(ROWS, starts, 8))
    assert sum(proxy.counts().requests.values()) == a.plan(starts).requests + 1


def test_many_requests_are_under_way_at_once(moto: Server, proxy: Proxy) -> None:
    url, behind = _url(moto, "at-once"), moto.behind(proxy.port)
    swath.ingest(ROWS, url, storage_options=moto.storage_options, window=1, chunk_rows=1, shard_rows=6000, codec="zstd")
    a = swath.open(url, storage_options=behind.storage_options)
    starts = np.arange(0, 6000, 500)
    proxy.set(latency_s=0.3)
    begun = time.monotonic()
    assert_same(a.gather(starts, window=1), expected(ROWS, starts, 1))
    assert time.monotonic() - begun < 0.3 * 6
    assert proxy.counts().at_once >= 4


def test_whether_a_store_is_still_there_is_asked_while_its_rows_come(moto: Server, proxy: Proxy) -> None:
    url, behind = _url(moto, "meanwhile"), moto.behind(proxy.port)
    swath.ingest(ROWS, url, storage_options=moto.storage_options, **LAYOUT)
    a = swath.open(url, storage_options=behind.storage_options)
    unpinned = swath.open(ObjectStore(behind.store("tests/meanwhile.zarr"), read_only=True))
    took: dict[str, list[float]] = {"pinned": [], "unpinned": []}
    for name, each in (("pinned", a), ("unpinned", unpinned)):
        each.gather(STARTS[:4])  # where the chunks lie is known now
        proxy.set(latency_s=0.5)
        for _ in range(2):
            begun = time.monotonic()
            assert_same(each.gather(STARTS[:4]), expected(ROWS, STARTS[:4], 8))
            took[name].append(time.monotonic() - begun)
        proxy.set(latency_s=0.0)
    assert 0.5 <= min(took["pinned"]) < 0.9
    assert min(took["unpinned"]) >= 1.0
    swath.ingest(-ROWS, url, storage_options=moto.storage_options, overwrite=True, **LAYOUT)
    with pytest.raises(StoreChangedError, match="was replaced"):
        a.gather(STARTS[:4])


@pytest.mark.parametrize(("codec", "rounds"), [("raw", 1), ("lz4", 2)])
def test_raw_rows_come_beside_the_stamp_of_their_shard(moto: Server, proxy: Proxy, codec: Any, rounds: int) -> None:
    url, behind = _url(moto, f"beside-{codec}"), moto.behind(proxy.port).storage_options
    swath.ingest(ROWS, url, codec=codec, storage_options=moto.storage_options, **LAYOUT)
    took = []
    for k in range(2):
        a = swath.open(url, storage_options=behind)
        starts = STARTS[4 * k : 4 * k + 4]
        proxy.clear()
        proxy.set(latency_s=0.5)
        begun = time.monotonic()
        assert_same(a.gather(starts), expected(ROWS, starts, 8))
        took.append(time.monotonic() - begun)
        proxy.set(latency_s=0.0)
        assert sum(proxy.counts().requests.values()) == a.plan(starts).requests + 1
        assert a.plan(starts).expected_seconds == pytest.approx(0.03 * rounds, rel=0.1)
    assert 0.5 * rounds <= min(took) < 0.5 * rounds + 0.4


@pytest.mark.parametrize("verify", ["always", "never"])
def test_of_far_raw_rows_no_index_is_read(moto: Server, verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = _url(moto, f"stamps-{verify}"), moto.storage_options
    swath.ingest(ROWS, url, codec="raw", storage_options=options, **LAYOUT)
    a = swath.open(url, storage_options=options)
    read: list[tuple[int, int]] = []
    get = Connection.get

    def noted(connection: Connection, path: str, begin: int = 0, end: int | None = None, seen: Any = None) -> Body:
        body = get(connection, path, begin, end, seen)
        read.append((begin, len(body.content)))
        return body

    monkeypatch.setattr(Connection, "get", noted)
    for shards in (15, 0):  # the second time they have been met
        read.clear()
        plan = a.plan(STARTS, verify=verify)
        assert_same(a.gather(STARTS, verify=verify), expected(ROWS, STARTS, 8))
        assert sum(begin < a._rows.layout.head_bytes for begin, _ in read) == shards
        planned = plan.bytes_read - (15 - shards) * STAMP_BYTES
        assert 0.98 * planned <= sum(n_bytes for _, n_bytes in read) <= planned


@pytest.mark.parametrize("verify", ["always", "never"])
def test_rows_and_stamp_of_two_versions_are_read_again(
    moto: Server, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, options = f"two-versions-{verify}", moto.storage_options
    url, objects = _url(moto, f"{folder}/this"), moto.store(f"tests/{folder}")
    swath.ingest(ROWS + 1, _url(moto, f"{folder}/other"), storage_options=options, **LAYOUT)
    swath.ingest(ROWS, url, storage_options=options, **LAYOUT)
    ours, theirs = (bytes(obstore.get(objects, f"{name}.zarr/c.3.0").bytes()) for name in ("this", "other"))
    obstore.put(objects, "this.zarr/c.3.0", theirs)
    ask = Store._ask_stamp

    def after_the_rows(_: Store, shard: int) -> Version:
        monkeypatch.undo()
        time.sleep(0.5)
        obstore.put(objects, "this.zarr/c.3.0", ours)
        of_its_own: Any = swath.open(url, storage_options=options)  # which does not know what version the rows are of
        return ask(of_its_own._rows, shard)

    monkeypatch.setattr(Store, "_ask_stamp", after_the_rows)
    a = swath.open(url, storage_options=options)
    assert_same(a.gather([1300], verify=verify), expected(ROWS, [1300], 8))
    assert Store._ask_stamp is ask


def test_a_version_that_was_a_lie_is_asked_for_by_nobody(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = _url(moto, "lie"), moto.storage_options
    swath.ingest(ROWS, url, codec="raw", storage_options=options, **LAYOUT)
    a = swath.open(url, storage_options=options)
    asked: list[str] = []
    get = Connection.get

    def lying(connection: Connection, path: str, begin: int = 0, end: int | None = None, seen: Any = None) -> Body:
        asked.append(seen.etag if seen else "")
        body = get(connection, path, begin, end, seen)
        if end == begin + STAMP_BYTES and asked.count("") <= 2:
            body = body._replace(seen=body.seen._replace(etag='"lie"'))
            time.sleep(0.1)  # so that it is what was met last
            connection.meet(path, body.seen)
        return body

    monkeypatch.setattr(Connection, "get", lying)
    assert_same(a.gather([1300]), expected(ROWS, [1300], 8))
    assert asked == 4 * [""]  # rows and stamp, twice


def test_a_forked_child_waits_for_no_stamp_that_its_parent_asked_for() -> None:
    stamps, answer = Stamps(20), threading.Event()
    found = ("a version",)

    def ask() -> Version:
        answer.wait()
        return found

    pending = stamps.asking(3, ask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if not child:
        with contextlib.suppress(TimeoutError):
            stamps.asking(3, lambda: found).result(timeout=10)
            os._exit(0)
        os._exit(1)
    answer.set()
    assert pending.result(timeout=10) is found
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("verify", ["always", "never"])
@pytest.mark.parametrize(
    ("number", "wrong", "what"),
    [
        (0, "other.zarr/c.0.0", "is a shard of another store"),
        (1, "this.zarr/c.0.0", "and stands in the place of shard 1"),
        (14, "this.zarr/c.14.0", "has 300 rows, and must have 400"),
    ],
)
def test_sound_rows_of_a_wrong_shard_are_refused(moto: Server, number: int, wrong: str, what: str, verify: Any) -> None:
    folder, options = f"wrong-{number}-{verify}", moto.storage_options
    url, objects = _url(moto, f"{folder}/this"), moto.store(f"tests/{folder}")
    swath.ingest(ROWS + 1, _url(moto, f"{folder}/other"), storage_options=options, **LAYOUT)
    a = swath.ingest(ROWS[:5900], url, storage_options=options, **LAYOUT)
    content = bytes(obstore.get(objects, wrong).bytes())
    a.append(ROWS[5900:])
    obstore.put(objects, f"this.zarr/c.{number}.0", content)
    with pytest.raises(DamagedStoreError, match=what):
        swath.open(url, storage_options=options).gather([400 * number + 5, 400 * number + 200], verify=verify)
    obstore.delete(objects, f"this.zarr/c.{number}.0")
    with pytest.raises(DamagedStoreError, match="is missing"):
        swath.open(url, storage_options=options).gather([400 * number + 5], verify=verify)


def test_http_is_read_only(tmp_path: Path) -> None:
    with serve("caddy", tmp_path / "caddy") as server:
        swath.ingest(ROWS, tmp_path / "caddy" / "files" / "a.zarr", **LAYOUT)
        a = swath.open(f"{server.url}/a.zarr")
        assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
        assert a.verify()
        with pytest.raises(OptionError, match="can only be read"):
            a.append(ROWS)
        with pytest.raises(OptionError, match="can only be read"):
            swath.ingest(ROWS, f"{server.url}/b.zarr")
        swath.export(a, tmp_path / "out.npy")
        assert_same(np.load(tmp_path / "out.npy"), ROWS)
        # On the command line a URL is a source too.
        here = str(tmp_path / "here.zarr")
        for words in (
            ["ingest", a.url, here],
            ["append", a.url, here],
            ["verify", here, "--source", a.url, "--source", a.url],
        ):
            subprocess.run([sys.executable, "-m", "swath.cli", *words], capture_output=True, check=True)
        assert_same(
            swath.open(here).gather([5990, 0], window=4000), expected(np.concatenate([ROWS, ROWS]), [5990, 0], 4000)
        )


def test_a_store_without_conditions_is_refused_for_appends(tmp_path: Path) -> None:
    with serve("nanio", tmp_path) as server:
        a = swath.ingest(ROWS, _url(server, "a"), storage_options=server.storage_options, **LAYOUT)
        assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
        with pytest.raises(StoreAccessError, match="conditional writes"):
            a.append(ROWS)
        assert len(a.refresh()) == 6000
        wrong = server.storage_options | {"secret_access_key": "another-secret"}
        with pytest.raises(StoreAccessError, match="is refused") as told:
            swath.open(_url(server, "a"), storage_options=wrong)
        assert "another-secret" not in str(told.value)


_PEAK = """
import numpy as np, swath
a = swath.open(arguments[0], storage_options=options["storage"])
starts = np.random.default_rng(0).integers(0, len(a) - 16, options["n"])
a.gather(starts[:3])

def call():
    a.gather(starts)
"""


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_what_a_gather_takes_is_what_was_planned(tmp_path: Path, codec: Any) -> None:
    with serve("caddy", tmp_path / "caddy") as server:
        rows = np.round(np.random.default_rng(0).normal(size=(4000, 2000)), 1)
        a = swath.ingest(rows, tmp_path / "caddy" / "files" / "a.zarr", codec=codec)
        url = f"{server.url}/a.zarr"
        for n in (5, 300):
            plan = swath.open(url).plan(np.random.default_rng(0).integers(0, len(a) - 16, n))
            status, added, told = children.run(_PEAK, url, n=n, storage=None)
            assert status == 0, told
            print(f"{codec}, {n}: {int(added)} of {plan.peak_bytes}")
            assert int(added) <= plan.peak_bytes


# What goes wrong on the way


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize("name", [*CONDITIONAL, "caddy"])
def test_a_faulty_network_gives_right_rows(name: str, codec: Any, tmp_path: Path, full: bool) -> None:
    rows = np.random.default_rng(3).integers(0, 99, (10_000, 1000), np.int32)
    with serve(name, tmp_path / "served") as server, Proxy(server.port) as proxy:
        url, options = _url(server, "faulty"), server.storage_options
        if name == "caddy":
            (tmp_path / "served" / "files" / "tests").mkdir()
            url, options = str(tmp_path / "served" / "files" / "tests" / "faulty.zarr"), {}
        swath.ingest(rows, url, codec=codec, storage_options=options, window=8, chunk_rows=8, shard_rows=2000)
        behind = server.behind(proxy.port)
        a = swath.open(_url(behind, "faulty"), storage_options={**behind.storage_options, "read_timeout": "1s"})
        asked = trial = 0
        while asked < (10_000 if full else 200):
            proxy.set(faults=READ_FAULTS, share=0.1, seed=trial, stall_s=2)
            starts = np.random.default_rng(trial).integers(0, 10_000 - 8, 100)
            assert_same(a.gather(starts), expected(rows, starts, 8))
            plan = a.plan(starts)
            asked += plan.requests + 1 - (plan.shards.size if trial else 0)
            trial += 1
        counts = proxy.counts()
    made, faults = sum(counts.requests.values()), sum(counts.faults.values())
    print(f"{name}, {codec}: {made} requests for {asked}, {made / asked:.3f}; {faults} faults: {counts.faults}")
    assert faults >= 0.05 * asked
    assert made <= 1.25 * asked + (0 if full else 20)


@pytest.mark.parametrize("faults", [("lost_reply",), ("late_500",), ("503", "reset", "500")], ids="+".join)
def test_lost_replies_double_nothing(server: Server, faults: tuple[str, ...], full: bool) -> None:
    name = f"lost-{faults[0]}"
    with Proxy(server.port) as proxy:
        behind = server.behind(proxy.port)
        a = swath.ingest(ROWS[:100], _url(behind, name), storage_options=behind.storage_options, **LAYOUT)
        rows = ROWS[:100]
        for trial in range(70 if full else 4):
            proxy.set(faults=faults, share=0.4, seed=trial, methods=("PUT",))
            some = ROWS[trial * 10 : trial * 10 + 130]
            a.append(some)
            rows = np.concatenate([rows, some])
            assert len(a) == len(rows)
        faulted = sum(proxy.counts().faults.values())
        print(f"{server.name}, {faults}: {faulted} faults")
        assert faulted
        proxy.set()
        assert a.verify()
    starts = np.arange(0, len(rows) - 8, 3)
    assert_same(
        swath.open(_url(server, name), storage_options=server.storage_options).gather(starts), expected(rows, starts, 8)
    )


def test_a_shard_that_is_replaced_is_not_spliced(server: Server) -> None:
    url, options = _url(server, "spliced"), server.storage_options
    a = swath.ingest(ROWS, url, storage_options=options, **LAYOUT)
    a.gather([0])  # knows the index of shard 0, and its version
    swath.ingest(ROWS + 1, _url(server, "other"), storage_options=options, **LAYOUT)
    other = bytes(obstore.get(server.store("tests/other.zarr"), "c.0.0").bytes())
    obstore.put(server.store("tests/spliced.zarr"), "c.0.0", other)
    with pytest.raises(DamagedStoreError, match="is a shard of another store"):
        a.gather([0, 100])


def test_nobody_listens(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.storage.asking._NOBODY_SECONDS", 1.0)
    options = {**moto.storage_options, "endpoint": "http://127.0.0.1:9"}
    with pytest.raises(StoreUnreachableError, match=r"no sound answer.*nobody listens there"):
        swath.open("s3://bucket/a", storage_options=options)


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        ("s3://bucket/a", {"no_such_option": "x"}, "No store can be made"),
        ("s3://bucket/a?x=secret-in-url", None, "more than a place"),
        ("s3://user:secret-in-url@bucket/a", None, "more than a place"),
        ("s3://bucket/../a", None, "names no place"),
        ("s3:///a", None, "names no place"),
        ("s3://bucket/a", "region=x", "is a str"),
        ("s3://bucket/a", {"endpoint": "127.0.0.1:9000"}, "endpoint is '127.0.0.1:9000', which is no URL"),
        ("s3://bucket/a", {"aws_endpoint_url": "localhost"}, "aws_endpoint_url is 'localhost', which is no URL"),
        ("s3://bucket/a", {"key": "x"}, "such as endpoint, region, access_key_id"),
        ("az://container/a", {"account": "x"}, "such as account_name, account_key"),
        ("s3:/bucket/a", None, r"with one slash\. Give s3://"),
        ("minio://bucket/a", None, "a URL that begins with s3://"),
        ("s3://bucket/a.h5::A", None, "reads Zarr alone"),
    ],
)
def test_places_that_are_none(url: str, options: Any, what: str) -> None:
    with pytest.raises(OptionError, match=what) as told:
        swath.open(url, storage_options=options)
    assert "secret-in-url" not in str(told.value)


def test_an_endpoint_of_the_environment_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(OptionError, match="AWS_ENDPOINT_URL is 'localhost:9000', which is no URL"):
        swath.open("s3://bucket/a")


def test_files_that_are_sources_are_local() -> None:
    with pytest.raises(SourceError, match=r"s3://bucket/a\.npy is a URL") as told:
        swath.ingest("s3://bucket/a.npy", "never.zarr")
    assert "Copy the file here" in str(told.value)
    with pytest.raises(SourceError, match="is a URL") as told:
        swath.ingest(["https://user:secret-in-url@host/a.h5::A"], "never.zarr")
    assert "secret-in-url" not in str(told.value)


def test_plain_http_must_be_allowed(moto: Server) -> None:
    options = {name: value for name, value in moto.storage_options.items() if name != "allow_http"}
    with pytest.raises(StoreAccessError, match="Give allow_http=True"):
        swath.open("s3://bucket/a", storage_options=options)


def test_https_of_a_plain_server(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.storage.asking._NOBODY_SECONDS", 1.0)
    options = moto.storage_options | {"endpoint": f"https://127.0.0.1:{moto.port}"}
    with pytest.raises(StoreUnreachableError, match="a server that speaks plain HTTP"):
        swath.open("s3://bucket/a", storage_options=options)


def test_a_server_without_ranges(tmp_path: Path) -> None:
    swath.ingest(ROWS, tmp_path / "www" / "a.zarr", **LAYOUT)
    port = servers.free_port()
    command = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(tmp_path / "www"),
    ]
    with servers.child(command, port, tmp_path / "log"):
        a = swath.open(f"http://127.0.0.1:{port}/a.zarr")
        with pytest.raises(StoreAccessError, match="Take one that knows Range requests"):
            a.gather([0])


@pytest.mark.parametrize(
    ("url", "what"), [("s3://bucket/a", "AWS_ACCESS_KEY_ID"), ("gs://bucket/a", "GOOGLE_APPLICATION_CREDENTIALS")]
)
def test_no_credentials(url: str, what: str) -> None:
    def ask() -> None:
        raise obstore.exceptions.GenericError("Error performing PUT http://169.254.169.254/latest/api/token")

    with pytest.raises(StoreAccessError, match=f"is asked for with credentials.*Give {what}"):
        asked(url, ask, missing_tries=1, options=Options({}))


def test_a_request_that_is_made_again_draws_no_random_number_of_the_callers() -> None:
    answers = iter([False, False, True])

    def ask() -> None:
        if not next(answers):
            raise obstore.exceptions.GenericError("HTTP error: 503 Service Unavailable")

    state = random.getstate()
    asked("s3://bucket/a", ask, missing_tries=1, options=Options({}))
    assert next(answers, None) is None
    assert random.getstate() == state


def test_options_are_for_object_stores(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is a local path"):
        swath.open(tmp_path, storage_options={"region": "x"})


def test_there_is_no_store(moto: Server) -> None:
    with pytest.raises(StoreNotFoundError, match="There is no store at s3://bucket/nothing"):
        swath.open("s3://bucket/nothing", storage_options=moto.storage_options)
    with pytest.raises(StoreAccessError, match="no bucket"):
        swath.ingest(ROWS, "s3://no-such-bucket/a", storage_options=moto.storage_options)


def test_secrets_stay_here(moto: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ("marker-of-a-key", "marker-of-a-secret", "marker-of-a-token")
    options = {
        **moto.storage_options,
        **dict(zip(("access_key_id", "secret_access_key", "session_token"), secrets)),
    }
    url = _url(moto, "secrets")
    a = swath.ingest(ROWS, url, storage_options=options, **LAYOUT)
    lazy = a.windows([0])
    told = [repr(a), str(a.plan([0])), repr(a._rows), repr(vars(swath)), caplog.text, "".join(capfd.readouterr())]
    calls: list[Callable[[], Any]] = [
        lambda: swath.open("s3://bucket/nothing", storage_options=options),
        lambda: swath.ingest(ROWS, "s3://no-such-bucket/a", storage_options=options),
        lambda: swath.open("s3://bucket/a", storage_options={**options, "unknown": "x"}),
    ]
    for call in calls:
        with pytest.raises(SwathError) as error:
            call()
        told += traceback.format_exception(error.value)
    kept = [pickle.dumps(each) for each in (a, lazy, a._rows.recipe())]
    kept += [bytes(obstore.get(moto.store("tests/secrets.zarr"), key).bytes()) for key in _keys(moto, "secrets")]
    for secret in secrets:
        assert not any(secret in each for each in told)
        assert not any(secret.encode() in each for each in kept)


# What is interrupted

_INGEST = """
import json, sys
import numpy as np, swath
url, options, rows, layout = json.loads(sys.argv[1])
ROWS = np.random.default_rng(0).normal(size=(6000, 100))
print("ready", flush=True)
a = swath.ingest(ROWS, url, storage_options=options, **layout) if rows is None else swath.open(url, storage_options=options).append(ROWS[:rows])
print(len(a), flush=True)
"""


def _start(server: Server, url: str, rows: int | None = None) -> subprocess.Popen[str]:
    job = json.dumps([url, server.storage_options, rows, LAYOUT])
    child = subprocess.Popen(
        [sys.executable, "-c", _INGEST, job], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_killed_ingest_carries_on(moto: Server, proxy: Proxy) -> None:
    url, behind = _url(moto, "killed"), moto.behind(proxy.port)
    proxy.set(latency_s=0.05)
    child = _start(behind, url)
    while len(_keys(moto, "killed")) < 6:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    with pytest.raises(IncompleteStoreError, match="carries on"):
        swath.open(url, storage_options=moto.storage_options)
    there = sum(name.startswith("c.") for name in _keys(moto, "killed"))
    proxy.set()
    proxy.clear()
    given = np.random.default_rng(0).normal(size=(6000, 100))
    a = swath.ingest(given, url, storage_options=behind.storage_options, **LAYOUT)
    written = sum(each.method == "PUT" and "/c." in each.target for each in proxy.requests())
    assert written <= 15 - there + 1
    assert_same(a.gather(STARTS), expected(ROWS, STARTS, 8))
    assert [name for name in _keys(moto, "killed") if name.startswith(".")] == []


def test_kills_leave_the_old_or_the_new(moto: Server, proxy: Proxy, full: bool) -> None:
    url, behind = _url(moto, "old-or-new"), moto.behind(proxy.port)
    a = swath.ingest(ROWS[:130], url, storage_options=moto.storage_options, **LAYOUT)
    rows = ROWS[:130]
    proxy.set(latency_s=0.02)
    delays = np.linspace(0, 0.6, 60 if full else 6)
    for delay in delays:
        child = _start(behind, url, 900)
        time.sleep(delay)
        child.kill()
        child.communicate()
        new = np.concatenate([rows, ROWS[:900]])
        a = swath.open(url, storage_options=moto.storage_options)
        assert len(a) in (len(rows), len(new))
        assert_same(a.gather(np.arange(len(a) - 8)), expected(new, np.arange(len(a) - 8), 8))
        # The same call again finds out whether it was carried out.
        again = _start(moto, url, 900)
        out, told = again.communicate()
        assert again.returncode == 0, told
        assert int(out) == len(new)
        rows = new
    assert a.refresh().verify()


def test_two_who_append_take_turns(moto: Server) -> None:
    url, options = _url(moto, "turns"), moto.storage_options
    swath.ingest(ROWS[:100], url, storage_options=options, **LAYOUT)
    children = [_start(moto, url, 30) for _ in range(2)]
    for child in children:
        _, told = child.communicate()
        assert child.returncode == 0, told
    a = swath.open(url, storage_options=options)
    assert len(a) == 160
    assert a.verify()


_HOLD = """
import json, sys, time
import swath, swath.commit_objects as commit_objects
from swath.storage import place_of
commit_objects._RENEW_SECONDS = 0.2
url, options = json.loads(sys.argv[1])
with commit_objects.locked(place_of(url, options), timeout=0):
    print("ready", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def _holding(server: Server, name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the store."""
    job = json.dumps([_url(server, name), server.storage_options])
    child = subprocess.Popen([sys.executable, "-c", _HOLD, job], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_who_writes_is_named(moto: Server) -> None:
    a = swath.ingest(ROWS[:100], _url(moto, "busy"), storage_options=moto.storage_options, **LAYOUT)
    with _holding(moto, "busy") as child:
        with pytest.raises(StoreBusyError, match=rf"Process {child.pid} on .* is writing"):
            a.append(ROWS, timeout=0.5)
        with pytest.raises(StoreBusyError, match=rf"Process {child.pid} on .* is writing"):
            swath.ingest(ROWS, _url(moto, "busy"), overwrite=True, storage_options=moto.storage_options)


def test_the_lease_of_a_dead_process_is_taken_over(moto: Server) -> None:
    a = swath.ingest(ROWS[:100], _url(moto, "dead"), storage_options=moto.storage_options, **LAYOUT)
    with _holding(moto, "dead"):
        pass
    assert ".swath-lease" in _keys(moto, "dead")
    begun = time.monotonic()
    assert len(a.append(ROWS)) == 6100
    assert time.monotonic() - begun < 20
    assert ".swath-lease" not in _keys(moto, "dead")


def test_a_lease_of_another_machine_ends_when_it_is_not_renewed(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swath.commit_objects._LEASE_SECONDS", 2.0)
    a = swath.ingest(ROWS[:100], _url(moto, "away"), storage_options=moto.storage_options, **LAYOUT)
    lease = {"holder": "x-1", "told": "Process 1 on far", "host": "x", "pid": 1, "count": 0}
    obstore.put(moto.store("tests/away.zarr"), ".swath-lease", json.dumps(lease).encode())
    assert len(a.append(ROWS, timeout=0)) == 6100


_GATHER = """
import json, sys, time
import numpy as np, swath
url, options = json.loads(sys.argv[1])
a = swath.open(url, storage_options=options)
print("ready", flush=True)
out = np.zeros((400, 8, 100))
begun = time.monotonic()
try:
    a.gather(np.random.default_rng(1).integers(0, 5992, 400), out=out)
except KeyboardInterrupt:
    before = out.copy()
    time.sleep(0.3)
    print("left alone" if (out == before).all() else "written to", flush=True)
"""


_BATCHES = """
import json, sys
import swath
url, options = json.loads(sys.argv[1])
batches = swath.open(url, storage_options=options).batches(50)
next(batches)
print("ready", flush=True)
try:
    for _ in batches:
        pass
except KeyboardInterrupt:
    print("left alone", flush=True)
"""


_COPY = """
import json, sys, tempfile
import swath
url, options = json.loads(sys.argv[1])
a = swath.open(url, storage_options=options)
with tempfile.TemporaryDirectory() as folder:
    print("ready", flush=True)
    try:
        swath.ingest(a, folder + "/here.zarr", codec="raw", shard_rows=400)
    except KeyboardInterrupt:
        print("left alone", flush=True)
"""


@pytest.mark.parametrize("ours", [True, False], ids=["a-store", "foreign"])
def test_what_is_far_away_is_a_source(server: Server, tmp_path: Path, ours: bool) -> None:
    name = f"source-{ours}"
    url, options = _url(server, name), server.storage_options
    if ours:
        swath.ingest(ROWS, url, storage_options=options, codec="zstd", **LAYOUT)
    else:
        zarr.create_array(ObjectStore(server.store(f"tests/{name}.zarr")), data=ROWS, chunks=(70, 30), overwrite=True)
    a = swath.open(url, storage_options=options)
    here = swath.ingest(a, tmp_path / "here.zarr", rows=slice(5, 5000), window=20)
    assert_same(here.gather([0], window=4995)[0], ROWS[5:5000])
    secrets = [str(options[name]) for name in options if "key" in name and name != "access_key_id"]
    metadata = (tmp_path / "here.zarr" / "zarr.json").read_text()
    assert url in metadata
    assert not any(secret in metadata for secret in secrets)
    there = swath.ingest([here, a], _url(server, f"{name}-copy"), storage_options=options, codec="lz4", **LAYOUT)
    assert_same(there.gather([0, 4990], window=1000), expected(np.concatenate([ROWS[5:5000], ROWS]), [0, 4990], 1000))


def test_batches_are_those_of_a_local_store(server: Server, tmp_path: Path) -> None:
    url = _url(server, "batches")
    remote = swath.ingest(ROWS, url, storage_options=server.storage_options, **LAYOUT)
    local = swath.ingest(ROWS, tmp_path / "a", **LAYOUT)
    for order in (None, swath.sampling.Blocks(20, 4), swath.sampling.Uniform(500)):
        options: dict[str, Any] = {"order": order, "seed": 5, "stride": 8}
        wanted = [hash(batch.tobytes()) for batch in local.batches(64, **options)]
        assert [hash(batch.tobytes()) for batch in remote.batches(64, **options)] == wanted
        ranks = [remote.batches(64, **options, rank=rank, world_size=2) for rank in range(2)]
        assert [hash(next(ranks[k % 2]).tobytes()) for k in range(len(wanted))] == wanted


@pytest.mark.parametrize("program", [_GATHER, _BATCHES, _COPY], ids=["gather", "batches", "copy"])
def test_ctrl_c_ends_a_gather_at_once(moto: Server, proxy: Proxy, program: str) -> None:
    url, behind = _url(moto, "ctrl-c"), moto.behind(proxy.port)
    swath.ingest(ROWS, url, storage_options=moto.storage_options, overwrite=True, **LAYOUT)
    job = json.dumps([url, behind.storage_options])
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", begin + program, job], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    proxy.set(faults=["stall"], share=1.0, stall_s=60)
    time.sleep(1)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, told = child.communicate(timeout=20)
    assert (out, told) == ("left alone\n", "")
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(("how", "answer"), [("spawn", 6000), ("forkserver", 6000), ("fork", "forked")])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_another_process_reads_or_says_why_not(moto: Server, how: str, answer: Any) -> None:
    url = _url(moto, "processes")
    with contextlib.suppress(StoreExistsError):
        swath.ingest(ROWS, url, storage_options=moto.storage_options, **LAYOUT)
    context: Any = multiprocessing.get_context(how)
    queue = context.Queue()
    child = context.Process(target=children.tell_length, args=(url, moto.storage_options, queue))
    child.start()
    got = queue.get(timeout=60)
    child.join(10)
    assert got == answer if isinstance(answer, int) else answer in got
    queue.close()
    queue.join_thread()


def test_workers_read_and_write_the_store_themselves(
    moto: Server, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client, LocalCluster

    # Credentials do not travel: each process finds its own.
    behind = moto.behind(proxy.port)
    secret = {"access_key_id", "secret_access_key"}
    for key in secret:
        monkeypatch.setenv(f"AWS_{key.upper()}", str(behind.storage_options[key]))
    options = {k: v for k, v in behind.storage_options.items() if k not in secret}
    np.save(tmp_path / "rows.npy", ROWS)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        a = swath.ingest(tmp_path / "rows.npy", _url(moto, "cluster"), storage_options=options, client=client, **LAYOUT)
        lazy = a.windows(STARTS, block=50)
        assert_same(swath.compute(lazy, scheduler=client), expected(ROWS, STARTS, 8))
        proxy.clear()
        total = client.compute(lazy.sum()).result()
        assert np.isclose(total, expected(ROWS, STARTS, 8).sum())
        assert proxy.counts().requests["GET"] >= 8
