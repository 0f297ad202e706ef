"""Stores to damage, ways to damage them, and every call that reads one."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from numpy.typing import NDArray
from oracle import assert_same, expected

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

    root: Path
    """Of the store, or of the group."""
    kind: str
    before: Path
    """The second shard before the append."""
    other: Path
    """A store of other rows, alike in all else."""
    apart: Path
    """A copy, to which other rows were appended."""

    @property
    def array(self) -> Path:
        return self.root / "X" if self.kind == "group" else self.root

    def shard(self, k: int) -> Path:
        return self.array / f"c.{k}.0"

    def restore(self, sound: Path) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(sound, self.root)


def make_target(folder: Path, kind: str, rows: NDArray[Any] = ROWS) -> Target:
    """Write a store, and what it may be mixed up with."""
    target = Target(folder / "a", kind, folder / "before", folder / "other", folder / "apart")
    _write(target.root, kind, rows[:FIRST])
    _write(target.other, kind, -rows[:FIRST])
    shutil.copy(target.shard(1), target.before)
    shutil.copytree(target.root, target.apart)
    _append(target.root, kind, rows[FIRST:])
    _append(target.other, kind, -rows[FIRST:])
    _append(target.apart, kind, rows[FIRST:] + 1)
    return target


def _write(url: Path, kind: str, rows: NDArray[Any]) -> None:
    if kind == "group":
        swath.ingest_group({"X": rows, "y": LABELS[: len(rows)]}, url, codec="raw", **_OPTIONS)
    else:
        swath.ingest(rows, url, codec=kind, **_OPTIONS)  # type: ignore[arg-type]


def _append(url: Path, kind: str, rows: NDArray[Any]) -> None:
    if kind == "group":
        swath.open_group(url).append({"X": rows, "y": LABELS[: len(rows)]})
    else:
        swath.open(url).append(rows)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0] ^ 1 << bit % 8
        file.seek(bit // 8)
        file.write(bytes([byte]))


def damage_shard(target: Target, what: str, rng: np.random.Generator) -> set[str]:
    """Damage one shard, or two; their names."""
    k = int(rng.integers(3))
    shard = target.shard(k)
    inside = Path("X") if target.kind == "group" else Path()
    if what == "missing":
        shard.unlink()
    elif what == "empty":
        os.truncate(shard, 0)
    elif what == "cut by a byte":
        os.truncate(shard, shard.stat().st_size - 1)
    elif what == "cut":
        os.truncate(shard, int(rng.integers(shard.stat().st_size)))
    elif what == "zeros":
        shard.write_bytes(bytes(shard.stat().st_size))
    elif what == "swapped":
        second = target.shard((k + 1) % 3)
        content = shard.read_bytes()
        shard.write_bytes(second.read_bytes())
        second.write_bytes(content)
        return {str(shard), str(second)}
    elif what == "stale":
        shard = target.shard(1)
        shutil.copy(target.before, shard)
    elif what == "foreign":
        shutil.copy(target.other / inside / shard.name, shard)
    else:
        assert what == "grown apart"
        shard = target.shard(max(k, 1))
        shutil.copy(target.apart / inside / shard.name, shard)
    return {str(shard)}


DAMAGES = ["missing", "empty", "cut by a byte", "cut", "zeros", "swapped", "stale", "foreign", "grown apart"]


def readings(target: Target, tmp: Path) -> dict[str, Callable[[], object]]:
    """Every call that reads rows, each compared with numpy. What is opened here is opened now."""
    wanted = expected(ROWS, STARTS, WINDOW)
    handle = swath.open(target.array)
    handle.gather([0])
    calls: dict[str, Callable[[], object]] = {}

    def reads(call: Callable[[], None]) -> Callable[[], None]:
        calls[call.__name__] = call
        return call

    def fresh() -> swath.RowArray:
        return swath.open(target.array)

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
    def command_line() -> None:
        out = tmp / "batch.npy"
        result = CliRunner().invoke(cli, ["gather", str(target.array), str(out), "--starts", "0,30,60,87"])
        assert list(tmp.glob("batch*")) == ([] if result.exception else [out])
        if result.exception is not None:
            raise result.exception
        assert_same(np.load(out), wanted[[0, 30, 60, 87]])
        out.unlink()

    if target.kind == "group":

        @reads
        def group_gather() -> None:
            batch = swath.open_group(target.root).gather(STARTS)
            assert_same(batch["X"], wanted)

    return calls


def outcome(call: Callable[[], object]) -> SwathError | None:
    """Run a call that reads: the error that it ends with; None if it gives what is right."""
    try:
        call()
    except TYPED as error:
        return error
    return None
