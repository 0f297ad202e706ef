"""Stores to damage, ways to damage them, and every call that reads one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from numpy.typing import NDArray
from oracle import assert_same, expected
from places import LocalPlace, Place, contents, ingest, ingest_group, open_group, open_store, put

import swath
from swath.cli import cli
from swath.errors import DamagedStoreError, FormatError, StoreChangedError, SwathError

N_ROWS, WINDOW, CHUNK_ROWS, SHARD_ROWS = 95, 8, 4, 40
INDEX_BYTES = SHARD_ROWS // CHUNK_ROWS * 16 + 4
FIRST, STARTS = 70, np.arange(N_ROWS - WINDOW + 1)
ROWS = np.random.default_rng(0).integers(0, 99, (N_ROWS, 6))
LABELS = np.arange(N_ROWS, dtype="i4")
APPENDED = np.full((3, 6), 7)
KINDS = ["raw", "lz4", "zstd", "group"]
_OPTIONS: dict[str, Any] = {"window": WINDOW, "chunk_rows": CHUNK_ROWS, "shard_rows": SHARD_ROWS}

# What a caller may be told of a damaged store.
TYPED = (DamagedStoreError, FormatError, StoreChangedError)


@dataclass
class Target:
    """A store of three shards, the last two of which hold appended rows; or a group with one such array."""

    root: Place
    """Of the store, or of the group."""
    kind: str
    sound: dict[str, bytes]
    """All of it."""
    before: bytes
    """The second shard before the append."""
    other: dict[str, bytes]
    """A store of other rows, alike in all else."""
    apart: dict[str, bytes]
    """A copy, to which other rows were appended."""

    @property
    def is_local(self) -> bool:
        return isinstance(self.root, LocalPlace)

    @property
    def array(self) -> str:
        """Where the array is."""
        return self.path_of(self.inside("")).rstrip("/")

    def inside(self, name: str) -> str:
        """What is in the array, as it is named in the store or the group."""
        return f"X/{name}" if self.kind == "group" else name

    def shard(self, k: int) -> str:
        return self.inside(f"c.{k}.0")

    def path_of(self, name: str) -> str:
        """As messages name it."""
        return f"{self.root.url}/{name}"

    def open(self) -> swath.RowArray:
        return open_store(self.root, "X" if self.kind == "group" else "")

    def restore(self) -> None:
        put(self.root, self.sound)


def make_target(root: Place, kind: str, rows: NDArray[Any] = ROWS) -> Target:
    """Write a store, and what it may be mixed up with."""
    target = Target(root, kind, {}, b"", {}, {})
    other, apart = root.beside("other"), root.beside("apart")
    _write(root, kind, rows[:FIRST])
    _write(other, kind, -rows[:FIRST])
    target.before = root.read(target.shard(1))
    put(apart, contents(root))
    append(root, kind, rows[FIRST:])
    append(other, kind, -rows[FIRST:])
    append(apart, kind, rows[FIRST:] + 1)
    target.sound, target.other, target.apart = contents(root), contents(other), contents(apart)
    return target


def _write(place: Place, kind: str, rows: NDArray[Any]) -> None:
    if kind == "group":
        ingest_group(place, {"X": rows, "y": LABELS[: len(rows)]}, codec="raw", **_OPTIONS)
    else:
        ingest(place, rows, codec=kind, **_OPTIONS)


def append(place: Place, kind: str, rows: NDArray[Any]) -> swath.RowArray:
    if kind == "group":
        return open_group(place).append({"X": rows, "y": LABELS[: len(rows)]})["X"]
    return open_store(place).append(rows)


def damage_shard(target: Target, what: str, rng: np.random.Generator) -> set[str]:
    """Damage one shard, or two; their names."""
    k = int(rng.integers(3))
    if what == "stale":
        k = 1
    elif what == "grown apart":
        k = max(k, 1)
    shard, root = target.shard(k), target.root
    content = root.read(shard)
    if what == "missing":
        root.remove(shard)
    elif what == "swapped":
        second = target.shard((k + 1) % 3)
        root.swap(shard, second)
        return {shard, second}
    else:
        damaged = {
            "empty": b"",
            "cut by a byte": content[:-1],
            "cut": content[: int(rng.integers(len(content)))],
            "zeros": bytes(len(content)),
            "stale": target.before,
            "foreign": target.other[shard],
            "grown apart": target.apart[shard],
        }
        root.write(shard, damaged[what])
    return {shard}


DAMAGES = ["missing", "empty", "cut by a byte", "cut", "zeros", "swapped", "stale", "foreign", "grown apart"]


def readings(target: Target, tmp: Path) -> dict[str, Callable[[], object]]:
    """Every call that reads rows, each compared with numpy. What is opened here is opened now.

    The command line, which takes no options of a server, reads local stores.
    """
    wanted = expected(ROWS, STARTS, WINDOW)
    handle = target.open()
    handle.gather([0])
    calls: dict[str, Callable[[], object]] = {}

    def reads(call: Callable[[], None]) -> Callable[[], None]:
        calls[call.__name__] = call
        return call

    fresh = target.open

    @reads
    def gather() -> None:
        assert_same(fresh().gather(STARTS), wanted)

    @reads
    def gather_by_a_handle_from_before() -> None:
        assert_same(handle.gather(STARTS), wanted)

    @reads
    def gather_one_by_one() -> None:
        a = fresh()
        for start in (0, 37, 80, 87):
            assert_same(a.gather([start]), wanted[start : start + 1])
        assert_same(a.gather([40, 60]), wanted[[40, 60]])

    @reads
    def gather_columns() -> None:
        assert_same(fresh().gather(STARTS, columns=[4, 1]), wanted[:, :, [4, 1]])

    @reads
    def gather_direct() -> None:
        assert_same(fresh().gather(STARTS, direct="always"), wanted)

    @reads
    def gather_out() -> None:
        out = np.empty_like(wanted)
        fresh().gather(STARTS, out=out)
        assert_same(out, wanted)

    @reads
    def gather_all_rows() -> None:
        assert_same(fresh().gather([0], window=N_ROWS)[0], ROWS)

    @reads
    def many_small_windows() -> None:
        starts = np.random.default_rng(0).permutation(np.resize(np.arange(N_ROWS), 1500))
        a = fresh()
        assert a.plan(starts, window=1).bytes_wanted
        assert_same(a.gather(starts, window=1), ROWS[starts][:, None])

    @reads
    def windows_compute() -> None:
        assert_same(fresh().windows(STARTS, block=30).compute(scheduler="sync"), wanted)

    @reads
    def swath_compute() -> None:
        assert_same(np.asarray(swath.compute(fresh().windows(STARTS, block=30))), wanted)

    @reads
    def refresh() -> None:
        assert_same(handle.refresh().gather(STARTS), wanted)

    @reads
    def batches() -> None:
        found = list(fresh().batches(30, seed=None, across_segments=True))
        assert_same(np.concatenate(found), wanted)

    if target.is_local:

        @reads
        def command_line() -> None:
            out = tmp / "batch.npy"
            result = CliRunner().invoke(cli, ["gather", target.array, str(out), "--starts", "0,30,60,87"])
            assert list(tmp.glob("batch*")) == ([] if result.exception else [out])
            if result.exception is not None:
                raise result.exception
            assert_same(np.load(out), wanted[[0, 30, 60, 87]])
            out.unlink()

    if target.kind == "group":

        @reads
        def group_gather() -> None:
            batch = open_group(target.root).gather(STARTS)
            assert_same(batch["X"], wanted)

    return calls


def outcome(call: Callable[[], object]) -> SwathError | None:
    """Run a call that reads: the error that it ends with; None if it gives what is right."""
    try:
        call()
    except TYPED as error:
        return error
    return None
