"""What a test needs to kill, starve and unplug a writer at any moment, and to see what it left.

A `Case` is one call that writes: an ingest, an overwrite, an append, of a store or of a group, from one kind of source. It is run
here or in a process of its own, undisturbed or with one of its system calls failing, killed, or recorded.
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import dask.array as da
import h5py
import numpy as np
from numpy.typing import NDArray

import swath
from swath.errors import IncompleteStoreError, StoreNotFoundError

SHARD_ROWS = 20
OPTIONS: dict[str, Any] = {"chunk_rows": 4, "shard_rows": SHARD_ROWS, "window": 4}

What = Literal["ingest", "overwrite", "append", "ingest-group", "overwrite-group", "append-group"]
WHATS: tuple[What, ...] = ("ingest", "overwrite", "append", "ingest-group", "overwrite-group", "append-group")
KINDS = ("npy", "raw", "hdf5", "hdf5-chunked", "dask", "list", "iterator")

# Processes are forked from one that has imported all this, and has no threads: cheap, and sound to kill.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["swath", "swath.group", "zarr", "dask.array", "h5py", "rich.progress"])


def rows_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that say which they are: no two are equal, none is zero, and none is made of parts of two others."""
    factors = np.array([1, 0x9E3779B97F4A7C1, 0x2545F4914F6CDD1, 0x1D8E4E27C47D125, 0x5851F42D4C957F3])
    with np.errstate(over="ignore"):
        return np.asarray((ids[:, None] + 1) * factors, np.int64)


@dataclass(frozen=True, slots=True)
class Case:
    """One call that writes."""

    what: What
    kind: str
    codec: str
    folder: Path
    """Of the sources."""
    n_rows: int = 110
    n_old: int = 50
    """Rows of the store that there was before; its last shard is not full."""
    storage_options: dict[str, Any] | None = None
    """Of the place that is written to, where it is not local."""

    @property
    def is_group(self) -> bool:
        return self.what.endswith("group")

    @property
    def is_append(self) -> bool:
        return self.what.startswith("append")

    @property
    def old(self) -> NDArray[np.int64] | None:
        """The rows before; None if there is nothing."""
        return None if self.what.startswith("ingest") else rows_of(np.arange(1000, 1000 + self.n_old))

    @property
    def new(self) -> NDArray[np.int64]:
        """The rows after."""
        rows = rows_of(np.arange(self.n_rows))
        return np.concatenate([self.old, rows]) if self.is_append and self.old is not None else rows

    def write_sources(self) -> None:
        """Files that hold the rows, of every kind."""
        rows = rows_of(np.arange(self.n_rows))
        np.save(self.folder / "rows.npy", rows)
        rows.tofile(self.folder / "rows.raw")
        with h5py.File(self.folder / "rows.h5", "w") as file:
            file["contiguous"] = rows
            file.create_dataset("chunked", data=rows, chunks=(7, 2), compression="gzip")
        for k, some in enumerate(np.split(rows, [33, 70])):
            np.save(self.folder / f"part-{k}.npy", some)

    def prepare(self, url: Path | str) -> None:
        """What there is before the call."""
        if self.old is None:
            return
        options = {**OPTIONS, "codec": self.codec, "storage_options": self.storage_options}
        if self.is_group:
            swath.ingest_group({"X": self.old, "y": self.old[:, 0]}, url, **options)
        else:
            swath.ingest(self.old, url, **options)

    def run(self, url: Path | str, *, overwrite: bool = False) -> None:
        """The call."""
        overwrite = overwrite or self.what.startswith("overwrite")
        stored: dict[str, Any] = {"storage_options": self.storage_options}
        options: dict[str, Any] = {**OPTIONS, **stored, "codec": self.codec, "overwrite": overwrite}
        source, raw = self._source()
        if self.what == "append":
            swath.open(url, **stored).append(source)
        elif self.what == "append-group":
            swath.open_group(url, **stored).append(self._sources(source))
        elif self.is_group:
            swath.ingest_group(self._sources(source), url, **options)
        else:
            swath.ingest(source, url, **options, **raw)

    def state(self, url: Path | str) -> Literal["nothing", "old", "new"]:
        """Which rows are there: the old or the new, whole; anything else is a failure of the test."""
        try:
            stored: dict[str, Any] = {"storage_options": self.storage_options}
            found = swath.open_group(url, **stored) if self.is_group else {"": swath.open(url, **stored)}
        except (StoreNotFoundError, IncompleteStoreError):
            assert self.old is None, "the store that there was cannot be found"
            return "nothing"
        held = {name: array.gather([0], window=len(array))[0] for name, array in found.items()}
        for state, rows in (("old", self.old), ("new", self.new)):
            wanted = {"X": rows, "y": rows[:, 0]} if self.is_group and rows is not None else {"": rows}
            if all(np.array_equal(held[name], each) for name, each in wanted.items() if each is not None) and (
                rows is not None
            ):
                return "old" if state == "old" else "new"
        raise AssertionError(f"neither old nor new: {held}")

    def _sources(self, source: Any) -> dict[str, Any]:
        return {"X": source, "y": rows_of(np.arange(self.n_rows))[:, 0].copy()}

    def _source(self) -> tuple[Any, dict[str, Any]]:
        at = self.folder
        if self.kind == "raw":
            typed = {"dtype": "i8", "row_shape": (5,)}
            if self.is_group:  # whose sources have no dtype of their own
                return np.memmap(at / "rows.raw", np.int64, "r", shape=(self.n_rows, 5)), {}
            return at / "rows.raw", typed
        rows = np.load(at / "rows.npy")
        return {
            "npy": at / "rows.npy",
            "hdf5": f"{at / 'rows.h5'}::contiguous",
            "hdf5-chunked": f"{at / 'rows.h5'}::chunked",
            "dask": da.from_array(rows, chunks=(13, 5)),
            "list": [at / f"part-{k}.npy" for k in range(3)],
            "iterator": iter(np.array_split(rows, 9)),
        }[self.kind], {}


Operation = tuple[str, str, str]
"""The name of a system call, the path that it is of, and the path that it renames to, or nothing."""

_CALLS = ("writev", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open", "ftruncate", "pwrite")


class Hooks:
    """Sees the system calls that change what is below a folder, one at a time, before and after they are made."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.count = 0
        self.lock = threading.RLock()

    def before(self, operation: Operation, arguments: Sequence[Any]) -> None:
        """What may fail, or end the process, instead of the call number `count`."""

    def after(self, operation: Operation, arguments: Sequence[Any]) -> None:
        """What is done after it."""

    def __enter__(self) -> Self:
        self._real = {name: getattr(os, name) for name in _CALLS}
        for name in _CALLS:
            setattr(os, name, self._hooked(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _hooked(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                return real(*arguments, **options)
            path = _path_of(arguments[0], options.get("dir_fd"))
            if not path.startswith(self.root):
                return real(*arguments, **options)
            other = os.fspath(arguments[1]) if name in ("rename", "replace") else ""
            operation = (name, path, other)
            with self.lock:
                self.count += 1
                self.before(operation, arguments)
                answer = real(*arguments, **options)
                self.after(operation, arguments)
                return answer

        return call


def _path_of(target: Any, dir_fd: int | None) -> str:
    """The path that a system call is of, which has it as a descriptor, or beside one."""
    if isinstance(target, int):
        return str(Path(f"/proc/self/fd/{target}").readlink())
    path = os.fspath(target)
    return path if dir_fd is None else str(Path(f"/proc/self/fd/{dir_fd}").readlink() / path)


class Counting(Hooks):
    """Counts the calls."""


class Failing(Hooks):
    """The call of one number fails; of a write, half has been done."""

    def __init__(self, root: Path, at: int, error: int) -> None:
        super().__init__(root)
        self.at, self.error = at, error

    def before(self, operation: Operation, arguments: Sequence[Any]) -> None:
        if self.count == self.at:
            if operation[0] == "writev":
                _write_half(*arguments)
            raise OSError(self.error, os.strerror(self.error), operation[1])


class Killing(Hooks):
    """The process is killed at the call of one number, of a write half-way; other threads are where they are."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.at = at

    def before(self, operation: Operation, arguments: Sequence[Any]) -> None:
        if self.count == self.at:
            if operation[0] == "writev":
                _write_half(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)


def _write_half(descriptor: int, buffers: Sequence[Any]) -> None:
    content = b"".join(map(bytes, buffers))
    os.write(descriptor, content[: len(content) // 2])


@dataclass(frozen=True, slots=True)
class Event:
    """One call that was made."""

    name: str
    path: str
    target: str = ""
    """Of a rename."""
    content: bytes = b""
    """Of a write."""


class Recording(Hooks):
    """Keeps what was done."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.events: list[Event] = []

    def after(self, operation: Operation, arguments: Sequence[Any]) -> None:
        content = b"".join(map(bytes, arguments[1])) if operation[0] == "writev" else b""
        self.events.append(Event(*operation, content))


def start(target: Callable[..., None], *arguments: Any) -> Any:
    """A process of its own."""
    # By file and name: a module of tests has one name for pytest, and another for a process that imports it.
    named = Path(target.__code__.co_filename).stem, target.__name__
    child = _CONTEXT.Process(target=_call, args=(*named, arguments), daemon=True)
    child.start()
    return child


def _call(module: str, name: str, arguments: tuple[Any, ...]) -> None:
    getattr(importlib.import_module(module), name)(*arguments)


def run_case(case: Case, url: Path, begun: Path, kill_at: int | None) -> None:
    """What a child does; the file ``begun`` says that it has begun, and ``begun.ended`` that the call returned."""
    begun.touch()
    with Killing(url.parent, kill_at) if kill_at else contextlib.nullcontext():
        case.run(url)
    begun.with_suffix(".ended").touch()


def run_killed(case: Case, url: Path, begun: Path, *, at: int | None = None, after: float = 0.0) -> bool:
    """Run the call in a process that is killed at its call number ``at``, or after some seconds; whether it returned before."""
    ended = begun.with_suffix(".ended")
    begun.unlink(missing_ok=True)
    ended.unlink(missing_ok=True)
    child = start(run_case, case, url, begun, at)
    if at is None:
        while not begun.exists() and child.is_alive():
            time.sleep(0.0005)
        time.sleep(after)
        child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return ended.exists()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, and in those in it; empty folders too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"a folder"
        for path in sorted(folder.rglob("*"))
    }


def beside(url: Path) -> list[str]:
    """What swath has left beside a store."""
    return sorted(path.name for path in url.parent.iterdir() if ".swath-" in path.name)


def finished(url: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard that a call has finished so far; one that is written again has others."""
    part, stage = (url.with_name(f".{url.name}.swath-{name}") for name in ("part", "append"))
    # When all of an append is written, shards move into the store.
    places = [url, part, stage] if (stage / "zarr.json").exists() else [part, stage]
    return {name: each for place in places for name, each in shards(place).items()}


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard in a folder, and in those in it."""
    found = {}
    for path in folder.rglob("c.*"):
        stat = path.stat()
        found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_mtime_ns)
    return found


def clear(url: Path) -> None:
    """Nothing is there any more."""
    for path in [url, *(url.parent / name for name in beside(url))]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """A copy of a store, with its times."""
    if source.exists():
        shutil.copytree(source, target)


@contextlib.contextmanager
def undisturbed(case: Case, folder: Path) -> Iterator[tuple[Path, Path, int]]:
    """The store before the call, and after it, and how many system calls it makes."""
    folder.mkdir()
    before, after = folder / "before", folder / "after"
    case.write_sources()
    case.prepare(before)
    copy(before, after)
    with Counting(folder) as hooks:
        case.run(after)
    assert case.state(after) == "new"
    yield before, after, hooks.count


def is_done(case: Case, url: Path, state: str) -> bool:
    """Whether there is nothing left that the same call would do: called again it would refuse, or append once more."""
    stage = url.with_name(f".{url.name}.swath-append")
    return state == "new" and not (case.is_append and (stage / "zarr.json").exists()) and case.what[:9] != "overwrite"
