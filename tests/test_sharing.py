"""Batches in shared memory: one, of which a handle travels, and a ring of them that one process fills for others."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharers
from faults import start
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import assert_same, expected

import swath
from swath.errors import DamagedStoreError, MemoryLimitError, OptionError, SharingError, StartsError, SwathError
from swath.sharing.channel import address_of, new_socket
from swath.sharing.form import Form, form_of, parse_form

ROWS = np.arange(1000 * 3).reshape(1000, 3)
_PADDED = np.dtype({"names": ["a", "b"], "formats": ["i2", "f8"], "offsets": [2, 16], "itemsize": 32})
_OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "u1"], "offsets": [0, 1], "itemsize": 8})
_RANDOM = np.random.default_rng(0).integers(0, 255, 960, np.uint8)

ARRAYS = {
    "float": np.arange(24.0).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24).reshape(4, 6)),
    "strided": np.arange(24)[::-2],
    "big-endian": np.arange(6, dtype=">f8").reshape(2, 3),
    "datetime": np.arange(6).astype("M8[ms]"),
    "bool": np.array([True, False, True]),
    "no-rows": np.empty((0, 5), "f4"),
    "no-columns": np.empty((5, 0, 2), "c16"),
    "scalar": np.array(3.5),
    "text": np.array(["ä", "日本語", ""]),
    "bytes": np.array([b"", b"abc"]),
    "nothing": np.empty(3, "V0"),
    "long-double": np.arange(5).astype(np.longdouble),
    "padded": _RANDOM.view(_PADDED),
    "records": _RANDOM.view([("x", ">i4", (2,)), ("y", [("z", "f2"), ("é", "S6")])]),
    "overlapping": _RANDOM.view(_OVERLAPPING),
}
_CONTEXT = multiprocessing.get_context("spawn")

# At once, on a machine that is busy; what waits for somebody would take 30 seconds, or for ever.
_SOON = 10


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    return swath.ingest(ROWS, tmp_path_factory.mktemp("sharing") / "a", window=8)


def _open_here() -> int:
    """Descriptors of memory and of processes."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder itself
            found += str(path.readlink()).startswith(("/memfd:swath", "anon_inode:[pidfd]"))
    return found


def _kill_forks(folder: Path) -> None:
    for path in folder.rglob("fork-*"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.name.partition("-")[2]), signal.SIGKILL)


@pytest.fixture(autouse=True)
def _nobody_hangs(full: bool) -> Iterator[None]:
    """A test that waits for who will never come is ended, and fails."""

    def end(*_: object) -> None:
        raise AssertionError("this hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(3600 if full else 240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _nothing_stays_open(tmp_path: Path) -> Iterator[None]:
    """No descriptor, no mapping, no thread after each test in this process, and no fork of another."""
    gc.collect()
    before = _open_here()
    try:
        yield
    finally:
        _kill_forks(tmp_path)
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("swath-serve")]
    assert _open_here() <= before
    assert "memfd:swath" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_as_it_was(name: str) -> None:
    array = ARRAYS[name]
    with swath.share(array) as shared:
        handle = pickle.loads(pickle.dumps(shared.handle))
        with swath.attach(handle) as attached:
            assert_same(attached.array, array)
            assert attached.array.dtype == array.dtype
            assert not attached.array.flags.writeable
            assert shared.array.flags.writeable


@given(array=hnp.arrays(st.one_of(hnp.array_dtypes(), hnp.scalar_dtypes()), hnp.array_shapes(min_dims=0, min_side=0)))
def test_any_array_comes_as_it_was(array: np.ndarray[Any, Any]) -> None:
    with swath.share({"a": array, "b": array}) as shared, swath.attach(shared.handle) as attached:
        for each in attached.arrays.values():
            assert_same(each, array)
        form = form_of(attached.arrays)
        assert parse_form(form.describe()) == form


def _hear_facts(path: Path, arrays: dict[str, Any]) -> None:
    found = sharers.hear(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        dtype, shape, content, writeable = found[name]
        assert (dtype, shape, writeable) == (array.dtype, array.shape, False)
        assert content == np.ascontiguousarray(array).tobytes()


_SCRIPT = """
import pickle, sys, pathlib
sys.path.insert(0, sys.argv[1])
import sharers
sharers.facts(pickle.loads(sys.stdin.buffer.read()), pathlib.Path(sys.argv[2]))
"""


def test_handles_travel_to_any_process(tmp_path: Path) -> None:
    arrays = {f"{name} é": array for name, array in ARRAYS.items() if not array.dtype.names}
    with swath.share(arrays) as shared:
        process = _CONTEXT.Process(target=sharers.facts, args=(shared.handle, tmp_path / "spawned"))
        process.start()
        command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parent), str(tmp_path / "unrelated")]
        subprocess.run(command, input=pickle.dumps(shared.handle), check=True, timeout=60)
        process.join(60)
        assert process.exitcode == 0
        process.close()
        assert len(pickle.dumps(shared.handle)) < 4000
    for name in ("spawned", "unrelated"):
        _hear_facts(tmp_path / name, arrays)


def test_it_is_the_same_memory(a: swath.RowArray) -> None:
    with swath.SharedBatch.empty((2, 8, 3), a.dtype) as shared, swath.attach(shared.handle) as attached:
        assert not attached.array.any()
        a.gather([3, 900], out=shared.array)
        assert_same(attached.array, expected(ROWS, [3, 900], 8))
    with swath.SharedBatch.empty(3, ("f4", (2,))) as shared:
        assert_same(shared.array, np.zeros((3, 2), "f4"))


def test_arrays_outlive_what_is_closed() -> None:
    shared = swath.share(np.arange(100_000))
    attached = swath.attach(shared.handle)
    mine, other = shared.array[5:], attached.array[5:]
    shared.close()
    shared.close()
    attached.close()
    assert_same(mine, np.arange(5, 100_000))
    assert_same(other, mine)
    mine[0] = -1
    assert other[0] == -1
    for closed in (shared, attached):
        with pytest.raises(SharingError, match="was closed"):
            _ = closed.array
        with pytest.raises(SharingError, match="was closed"):
            _ = closed.arrays
        with pytest.raises(SharingError, match="was closed"), closed:
            pass
    with pytest.raises(SharingError, match="Keep it open there"):
        swath.attach(shared.handle)


def test_one_array_has_no_name_and_several_have() -> None:
    with swath.share(np.arange(3)) as one, swath.share({"x": np.arange(3)}) as several, swath.share({}) as none:
        with pytest.raises(OptionError, match="without a name"):
            _ = one.arrays
        with pytest.raises(OptionError, match="x"):
            _ = several.array
        with swath.attach(none.handle) as attached:
            assert attached.arrays == {}


def test_a_forged_handle_is_refused(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with (
        swath.share(np.arange(100)) as shared,
        swath.share(np.arange(100)) as other,
        (tmp_path / "file").open("w+b") as file,
        socket.socket() as connection,
    ):
        handle = shared.handle
        foreign = os.memfd_create("swath")
        os.truncate(foreign, 64 + 800)
        forged = [
            replace(handle, token=bytes(16)),
            replace(handle, token=b""),
            replace(handle, descriptor=other.handle.descriptor),
            replace(handle, pid=2**22 + 1),
            replace(handle, pid=-1),
            replace(handle, pid=1),
            replace(handle, descriptor=10**6),
            *(replace(handle, descriptor=n) for n in (reading, writing, file.fileno(), connection.fileno(), foreign)),
            *(replace(handle, form=Form(None, (np.dtype("i8"),), (shape,))) for shape in [(101,), (10**12,), ()]),
        ]
        for each in forged[1:2]:
            assert swath.attach(replace(each, token=handle.token)).array[3] == 3
        for each in forged:
            if each.token == b"":
                each = replace(each, token=b"x")
            with pytest.raises(SharingError):
                swath.attach(each)
        for wrong in (None, b"", handle.token, shared):
            with pytest.raises(OptionError, match="is no handle"):
                swath.attach(wrong)  # type: ignore[arg-type]
    for descriptor in (reading, writing, foreign):
        os.close(descriptor)


def test_another_batch_under_the_same_number_is_not_taken_for_it() -> None:
    first = swath.share(np.arange(100))
    handle = first.handle
    first.close()
    with swath.share(np.arange(100)) as second:
        assert second.handle.descriptor == handle.descriptor
        with pytest.raises(SharingError, match="has another batch"):
            swath.attach(handle)


def test_nobody_else_can_write_or_cut_it() -> None:
    with swath.share(np.arange(1000)) as shared:
        descriptor = os.open(f"/proc/self/fd/{shared.handle.descriptor}", os.O_RDWR)
        for harm in (
            lambda: os.truncate(descriptor, 10),
            lambda: os.truncate(descriptor, 10**6),
            lambda: os.pwrite(descriptor, b"x", 100),
            lambda: mmap.mmap(descriptor, 8000),
            lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                harm()
        os.close(descriptor)
        with swath.attach(shared.handle) as attached, pytest.raises(ValueError):
            attached.array.flags.writeable = True


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.array([1, None]), "pointers"),
        (np.array([(1, "x")], [("a", "i4"), ("b", "O")]), "pointers"),
        (np.array(["a"], np.dtypes.StringDType()), "pointers"),
        (np.ma.masked_array([1, 2], np.array([False, True])), "mask"),
        ([1, 2], "A list cannot be shared"),
        (None, "NoneType"),
        ({"x": [1]}, "A list cannot be shared"),
        ({1: np.arange(3)}, "name 1"),
    ],
)
def test_what_cannot_be_shared_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        swath.share(batch)


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(MemoryLimitError, match="are left"):
        swath.SharedBatch.empty((10**7, 10**6), "f8")
    for shape, dtype in [((-1,), "f8"), ("x", "f8"), (3, "nothing"), (3, object), ((10**15, 10**15), "f8")]:
        with pytest.raises(OptionError):
            swath.SharedBatch.empty(shape, dtype)  # type: ignore[arg-type]


def _bytes(batch: Any) -> Any:
    return {name: array.tobytes() for name, array in batch.items()} if isinstance(batch, dict) else batch.tobytes()


@pytest.mark.parametrize("consumers", [1, 2, 3])
def test_batches_are_dealt_in_turn(a: swath.RowArray, consumers: int) -> None:
    batches = a.batches(64, seed=4, epochs=2)
    alone = a.batches(64, seed=4, epochs=2)
    wanted = [(_bytes(batch), alone.starts.tolist()) for batch in alone]
    with swath.serve_batches(batches, consumers=consumers, slots=2) as server:
        assert not server.join(0)
        handle = pickle.loads(pickle.dumps(server.handle))
        for i in range(consumers):
            with swath.consume(handle, consumer=i) as consumer:
                found = [(_bytes(batch), consumer.starts.tolist(), consumer.number) for batch in consumer]
                assert found == [(*wanted[k], k) for k in range(i, len(wanted), consumers)]
                with pytest.raises(StopIteration):
                    next(consumer)
        assert server.join(5)
        assert list(swath.consume(handle)) == []
    assert server.join()
    assert batches.state_dict()["next"] == 0


def test_groups_and_what_is_left_of_batches(tmp_path: Path) -> None:
    g = swath.ingest_group({"X": ROWS, "é": np.arange(1000).astype("M8[s]")}, tmp_path / "g", window=4)
    batches = g.batches(100, seed=5)
    for _ in range(7):
        next(batches)
    with swath.serve_batches(batches, consumers=2, slots=1) as server:
        for i, numbers in ((1, [7, 9]), (0, [8])):
            consumer = swath.consume(server.handle, consumer=i)
            for k, batch in zip(numbers, consumer, strict=True):
                assert consumer.number == k
                assert_same(batch["X"], expected(ROWS, consumer.starts, 4))
                assert_same(batch["é"], expected(g["é"].gather([0], window=1000)[0], consumer.starts, 4))
                assert not batch["X"].flags.writeable


def test_an_epoch_of_any_length_takes_no_memory(a: swath.RowArray) -> None:
    with swath.serve_batches(a.batches(10, epochs=10**12), consumers=2) as server:
        assert next(swath.consume(server.handle, consumer=1)).shape == (10, 8, 3)


def test_no_batches_end_at_once(a: swath.RowArray) -> None:
    with swath.serve_batches(a.batches(10, starts=[]), consumers=2) as server:
        assert server.join(5)
        assert list(swath.consume(server.handle, consumer=1)) == []


def test_a_batch_stays_until_the_next_is_asked_for(a: swath.RowArray) -> None:
    with swath.serve_batches(a.batches(100, seed=None, epochs=3), slots=2) as server:
        consumer = swath.consume(server.handle)
        for batch in consumer:
            time.sleep(0.01)
            assert_same(batch, expected(ROWS, consumer.starts, 8))


def test_what_was_made_of_a_batch_is_copied(a: swath.RowArray) -> None:
    def named(batch: Any) -> Any:
        return {"all": batch[:, :, ::-1], "first": batch[:, 0]}

    with swath.serve_batches(a.batches(64, transform=lambda batch: batch[:, :1])) as server:
        consumer = swath.consume(server.handle)
        for batch in consumer:
            assert_same(batch, expected(ROWS, consumer.starts, 8)[:, :1])
    with swath.serve_batches(a.batches(64, transform=named, dtype="f4")) as server:
        consumer = swath.consume(server.handle)
        for batch in consumer:
            whole = expected(ROWS, consumer.starts, 8).astype("f4")
            assert_same(batch["all"], np.ascontiguousarray(whole[:, :, ::-1]))
            assert_same(batch["first"], np.ascontiguousarray(whole[:, 0]))


def test_what_was_made_of_a_batch_must_fit(a: swath.RowArray) -> None:
    sizes = iter((1, 1))

    def longer(batch: Any) -> Any:
        return np.concatenate([batch] * next(sizes, 3))

    with swath.serve_batches(a.batches(64, transform=longer)) as server:
        consumer = swath.consume(server.handle)
        assert len(next(consumer)) == 64
        consumer.close()
        with pytest.raises(OptionError, match="larger than"):
            next(swath.consume(server.handle))
        with pytest.raises(OptionError, match="larger than"):
            server.join(5)


@pytest.mark.parametrize("after", [0, 3])
def test_an_error_reaches_every_consumer(tmp_path: Path, after: int) -> None:
    a = swath.ingest(ROWS, tmp_path / "a", window=8)
    batches = a.batches(50, seed=None)
    if not after:
        next(Path(a.url).glob("c.*")).unlink()
    with swath.serve_batches(batches, consumers=3, slots=1) as server:
        first = swath.consume(server.handle, consumer=0)
        if after:
            next(first)
            next(Path(a.url).glob("c.*")).unlink()
        with pytest.raises(DamagedStoreError) as told:
            for _ in first:
                pass
        with pytest.raises(DamagedStoreError) as met:
            server.join(5)
        assert str(told.value) == str(met.value)
        with pytest.raises(SharingError, match="was closed"):
            next(first)
        for i in (0, 1, 2):  # those who come later too
            with pytest.raises(DamagedStoreError, match="missing"):
                list(swath.consume(server.handle, consumer=i))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (StartsError("no such start " * 10_000), StartsError, "no such start"),
        (KeyError("ä"), SharingError, "KeyError: 'ä'"),
        (KeyboardInterrupt(), SharingError, "KeyboardInterrupt"),
    ],
)
def test_errors_of_any_kind_are_told(
    a: swath.RowArray, error: BaseException, kind: type[SwathError], message: str
) -> None:
    errors = iter((None, error))

    def fail(batch: Any) -> Any:
        found = next(errors)
        if found is not None:
            raise found
        return batch

    with (
        swath.serve_batches(a.batches(64, transform=fail)) as server,
        pytest.raises(kind, match=message),
    ):
        next(swath.consume(server.handle))


def test_a_number_is_that_of_one_process(a: swath.RowArray) -> None:
    with swath.serve_batches(a.batches(10, seed=None), slots=3) as server:
        first = swath.consume(server.handle)
        assert next(first)[0, 0, 0] == 0
        for _ in range(3):
            with pytest.raises(SharingError, match=f"process {os.getpid()}, which is running"):
                swath.consume(server.handle)
        next(first)
        first.close()
        with pytest.raises(SharingError, match="was closed"):
            next(first)
        second = swath.consume(server.handle)
        assert next(second)[0, 0, 0] == 20 * 3
        del second
        third = swath.consume(server.handle)
        assert next(third)[0, 0, 0] == 30 * 3
        third.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consumers": 0}, "consumers is 0"),
        ({"consumers": True}, "consumers is True"),
        ({"slots": 65}, "slots is 65"),
        ({"slots": 1.5}, r"slots is 1\.5"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(a: swath.RowArray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        swath.serve_batches(a.batches(10), **options)


def test_what_is_no_batches_or_no_handle_is_refused(a: swath.RowArray) -> None:
    with pytest.raises(OptionError, match="RowArray is no batches"):
        swath.serve_batches(a)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="str is no handle"):
        swath.consume("x")  # type: ignore[arg-type]
    with swath.serve_batches(a.batches(10), consumers=2) as server:
        for wrong in (2, -1, True, "0"):
            with pytest.raises(OptionError, match="consumer is"):
                swath.consume(server.handle, consumer=wrong)  # type: ignore[arg-type]
    with pytest.raises(MemoryLimitError):
        swath.serve_batches(a.batches(1000), consumers=2**16, slots=64)


def test_who_closes_the_server_says_so_to_all(a: swath.RowArray) -> None:
    with swath.serve_batches(a.batches(10), slots=1) as server:
        consumer = swath.consume(server.handle)
        batch = next(consumer)
        begun = time.monotonic()
    assert time.monotonic() - begun < _SOON
    assert batch.shape == (10, 8, 3)
    with pytest.raises(SharingError, match="before the last batch"):
        list(consumer)
    with pytest.raises(SharingError, match="closed before all batches"):
        server.join()
    with pytest.raises(SharingError, match="Nobody serves"):
        swath.consume(server.handle)
    server.close()


def test_a_gather_that_lasts_holds_nobody_up(a: swath.RowArray) -> None:
    release = threading.Event()

    waits = iter((0, 30))

    def last(batch: Any) -> Any:
        release.wait(next(waits))
        return batch

    with swath.serve_batches(a.batches(64, transform=last)) as server:
        consumer = swath.consume(server.handle)
        begun = time.monotonic()
    assert time.monotonic() - begun < _SOON
    with pytest.raises(SharingError):
        next(consumer)
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("swath-serve"):
            thread.join(10)


def _in_a_fork(work: Any) -> str:
    """What a child says that is forked here."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if not pid:
        try:
            os.write(writing, str(work()).encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told


def test_in_a_fork_they_are_errors_and_harm_nobody(a: swath.RowArray) -> None:
    with swath.share(np.arange(3)) as shared, swath.serve_batches(a.batches(100, seed=None), slots=1) as server:
        consumer = swath.consume(server.handle)
        first = next(consumer)
        assert _in_a_fork(lambda: next(consumer)).startswith("SharingError: The consumer is that of process")
        assert _in_a_fork(server.join).startswith("SharingError: The server is that of process")
        assert _in_a_fork(server.__enter__).startswith("SharingError: The server is that of process")
        assert _in_a_fork(server.close) == "None"
        assert _in_a_fork(consumer.close) == "None"
        assert _in_a_fork(lambda: server.handle == pickle.loads(pickle.dumps(server.handle))) == "True"
        assert _in_a_fork(lambda: shared.array.tolist()) == "[0, 1, 2]"
        assert _in_a_fork(shared.close) == "None"
        assert _in_a_fork(lambda: swath.attach(shared.handle).array.tolist()) == "[0, 1, 2]"
        assert_same(first, expected(ROWS, range(100), 8))
        assert len(list(consumer)) == 9
        with swath.attach(shared.handle) as attached:
            assert attached.array[2] == 2


def _raw(handle: Any) -> socket.socket:
    connection = new_socket()
    connection.connect(address_of(handle.name))
    connection.settimeout(5)
    return connection


def test_what_is_closed_beside_a_fork_is_closed(a: swath.RowArray) -> None:
    """A child that was forked has the sockets too, and lives on."""
    ends, waits = os.pipe()
    server = swath.serve_batches(a.batches(64), slots=2)
    consumer = swath.consume(server.handle)
    next(consumer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads is forked
        pid = os.fork()
    if not pid:
        os.close(waits)
        os.read(ends, 1)
        os._exit(0)
    os.close(ends)
    try:
        consumer.close()
        other = swath.consume(server.handle, timeout=10)
        assert len(next(other)) == 64
        server.close()
        with pytest.raises(SharingError, match="The server has ended"):
            for _ in other:
                pass
        with pytest.raises(SharingError, match="Nobody serves"):
            swath.consume(server.handle, timeout=10)
    finally:
        os.close(waits)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("where", ["receive", "send", "read"])
def test_who_is_interrupted_begins_again_as_another(
    a: swath.RowArray, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Wherever Ctrl-C comes between two messages: no batch is skipped without a word, and nobody hangs."""
    with swath.serve_batches(a.batches(64, seed=None), slots=2) as server:
        consumer = swath.consume(server.handle)
        next(consumer)
        whole = getattr(swath.sharing.consumer, where)

        def interrupted(*arguments: Any) -> Any:
            whole(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(swath.sharing.consumer, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(consumer)
        with pytest.raises(SharingError, match="closed"):
            next(consumer)
        again = swath.consume(server.handle, timeout=10)
        numbers = [again.number for _ in again]
        # The batch in hand is not given again: whether he had it already depends on where.
        assert numbers in (list(range(1, 16)), list(range(2, 16)))


def test_a_shared_batch_is_not_copied_by_mistake() -> None:
    with swath.share(np.arange(5)) as shared, pytest.raises(SharingError, match=r"Send shared\.handle"):
        pickle.dumps(shared)


def test_what_was_made_of_batches_goes_on_before_a_short_one(a: swath.RowArray) -> None:
    batches = a.batches(100, transform=lambda batch: batch[:, 0], epochs=2, seed=None)
    batches.load_state_dict({**batches.state_dict(), "next": 9})
    with swath.serve_batches(batches) as server:
        assert [len(batch) for batch in swath.consume(server.handle)] == [93, *[100] * 9, 93]
    for _ in range(30):
        with swath.serve_batches(batches) as server:
            for _ in swath.consume(server.handle):
                pass
        assert server.join(0)


def test_an_error_that_cannot_be_told_is_told(a: swath.RowArray) -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    for error in (UnspeakableError(), ValueError("\N{SLIGHTLY SMILING FACE}" * 20_000)):
        calls = iter((None, error))

        def fail(batch: Any, calls: Any = calls) -> Any:
            found = next(calls)
            if found is not None:
                raise found
            return batch

        with (
            swath.serve_batches(a.batches(64, transform=fail)) as server,
            pytest.raises(SharingError, match="could not gather the next batch"),
        ):
            next(swath.consume(server.handle))


@pytest.mark.parametrize("timeout", [None, "1", -1, float("nan"), float("inf"), 1e8, True])
def test_a_timeout_is_seconds(a: swath.RowArray, timeout: Any) -> None:
    with swath.serve_batches(a.batches(64)) as server, pytest.raises(OptionError, match="timeout is"):
        swath.consume(server.handle, timeout=timeout)


def test_strangers_harm_nobody(a: swath.RowArray) -> None:
    rng = np.random.default_rng(0)
    with swath.serve_batches(a.batches(10, seed=None), consumers=2, slots=2) as server, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(_raw(server.handle)) for _ in range(100)]
        texts = [
            b"",
            b"{",
            b"\xff\xfe",
            b"[1]",
            b"7",
            b"{}",
            b'{"consumer": -1}',
            b'{"consumer": 2}',
            b'{"consumer": 1e300}',
            b'{"consumer": true}',
            b'{"consumer": "1"}',
            b'{"consumer": ' + b"9" * 5000 + b"}",
            b'{"take": 0}',
            b"[" * 60_000,
            b'{"consumer": 1, "x": "' + b"x" * 70_000 + b'"}',
            *(rng.bytes(int(n)) for n in rng.integers(1, 5000, 20)),
        ]
        consumer = swath.consume(server.handle)
        assert next(consumer)[0, 0, 0] == 0
        for text in texts:
            with _raw(server.handle) as connection:
                connection.send(text)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100) == b"", text
        # One that is let in, and then takes or releases what is not his, is let go.
        for text in (b'{"take": 7}', b'{"take": 3}', b'{"release": 1}', b'{"release": 0}', b"{}", b"x"):
            with _raw(server.handle) as connection:
                socket.send_fds(connection, [b'{"consumer": 1}'], [0, 1, 2])
                assert b"ring_bytes" in connection.recv(1000)
                connection.send(text)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(1000):
                        pass
        assert sum(1 for _ in consumer) == 49
        assert len(list(swath.consume(server.handle, consumer=1))) == 50
        assert server.join(5)
        gone = 0
        for connection in silent:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                gone += connection.recv(1) == b""
        assert gone >= 36


def test_thousands_of_connections_harm_nobody(a: swath.RowArray) -> None:
    """Those that say nothing, go at once, or stop in the middle; a consumer goes on meanwhile, and another is let in after."""
    with swath.serve_batches(a.batches(10, seed=None), consumers=2, slots=2) as server, contextlib.ExitStack() as stack:
        consumer = swath.consume(server.handle)
        opened = len(list(Path("/proc/self/fd").iterdir()))
        for k in range(3000):
            with _raw(server.handle) as connection:
                if k % 3:
                    connection.send(b'{"consumer": ' if k % 3 == 1 else b"\0" * 60_000)
            if k % 100 == 0:
                assert next(consumer)[0, 0, 0] == 60 * (k // 100)  # the others are those of the other consumer
        for _ in range(300):
            stack.enter_context(_raw(server.handle))
        assert len(list(swath.consume(server.handle, consumer=1))) == 50
        assert sum(1 for _ in consumer) == 20
        assert server.join(5)
        # Of those that are held here, the server has kept some.
        assert len(list(Path("/proc/self/fd").iterdir())) < opened + 2 * 300


_OTHER_USER = """
import os, socket, sys
os.setgid(65534), os.setuid(65534)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.settimeout(10)
connection.connect("\\0swath-" + sys.argv[1])
try:
    connection.send(b'{"consumer": 0}')
    print(connection.recv(1000))
except OSError:
    print(b"")
try:
    os.open(sys.argv[2], os.O_RDONLY)
except PermissionError:
    print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused(a: swath.RowArray) -> None:
    with swath.serve_batches(a.batches(10)) as server, swath.share(np.arange(3)) as shared:
        path = f"/proc/{os.getpid()}/fd/{shared.handle.descriptor}"
        command = [sys.executable, "-c", _OTHER_USER, server.handle.name, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.stdout.split() == ["b''", "refused"], done.stderr
        assert next(swath.consume(server.handle)).shape == (10, 8, 3)


_CTRL_C = """
import pathlib, signal, sys
import swath
signal.signal(signal.SIGINT, signal.default_int_handler)
with swath.serve_batches(swath.open(sys.argv[1]).batches(10, epochs=1000)) as server:
    print("ready", flush=True)
    server.join()
"""


def test_ctrl_c_ends_the_server(a: swath.RowArray) -> None:
    child = subprocess.Popen([sys.executable, "-c", _CTRL_C, a.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert time.monotonic() - begun < _SOON
    assert b"KeyboardInterrupt" in told
    assert child.returncode


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """503 rows, whose windows are 63 batches, the last of four."""
    folder = tmp_path_factory.mktemp("rows")
    swath.ingest(sharers.rows_of(503), folder / "a", window=sharers.WINDOW)
    return folder / "a"


def _wait(process: Any, seconds: float = 30) -> None:
    process.join(seconds)
    assert process.exitcode == 0


def _log(folder: Path, i: int) -> list[int]:
    path = folder / f"log-{i}"
    return np.fromfile(path, np.int64).tolist() if path.exists() else []


@pytest.mark.parametrize("fork", [False, True])
def test_a_server_that_is_killed_is_an_error_within_seconds(rows: Path, tmp_path: Path, fork: bool) -> None:
    server = start(sharers.serve, rows, tmp_path, fork, {"slots": 1}, 10**6)
    consumer = swath.consume(sharers.hear(tmp_path / "server"))
    next(consumer)
    os.kill(server.pid, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(SharingError, match="before the last batch"):
        list(consumer)
    with pytest.raises(SharingError, match=r"Nobody serves|has ended"):  # though a fork has its socket
        swath.consume(sharers.hear(tmp_path / "server"))
    assert time.monotonic() - begun < _SOON
    server.join()


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_is_stopped_does_not_answer(rows: Path, tmp_path: Path) -> None:
    server = start(sharers.serve, rows, tmp_path, False, {}, 1)
    handle = sharers.hear(tmp_path / "server")
    os.kill(server.pid, signal.SIGSTOP)
    _wait_until(lambda: set(sharers.states(server.pid)) == {"T"})
    with pytest.raises(SharingError, match=r"not answered within 0\.2 s"):
        swath.consume(handle, timeout=0.2)
    os.kill(server.pid, signal.SIGCONT)
    assert len(list(swath.consume(handle))) == 63
    _wait(server)


@pytest.mark.parametrize("fork", [False, True])
def test_after_a_consumer_was_killed_another_goes_on(rows: Path, tmp_path: Path, fork: bool) -> None:
    server = start(sharers.serve, rows, tmp_path, False, {"slots": 2}, 1)
    first = start(sharers.consume, tmp_path, 0, 503, fork, 0.01)
    while len(_log(tmp_path, 0)) < 5:
        time.sleep(0.001)
    first.kill()
    first.join()
    before = _log(tmp_path, 0)
    _wait(start(sharers.consume, tmp_path, 0, 503, False, 0.0))
    _wait(server)
    after = _log(tmp_path, 0)[len(before) :]
    assert before == list(range(len(before)))
    # It had one in hand, which nobody else gets; or it was killed between two.
    assert after in (list(range(len(before), 63)), list(range(len(before) + 1, 63)))


def test_who_stops_holds_up_nobody_else(rows: Path, tmp_path: Path) -> None:
    server = start(sharers.serve, rows, tmp_path, False, {"slots": 1, "consumers": 2}, 4)
    stopped = start(sharers.consume, tmp_path, 1, 503, False, 0.01)
    while not _log(tmp_path, 1):
        time.sleep(0.001)
    os.kill(stopped.pid, signal.SIGSTOP)
    other = start(sharers.consume, tmp_path, 0, 503, False, 0.0)
    _wait(other)
    assert _log(tmp_path, 0) == list(range(0, 252, 2))
    os.kill(stopped.pid, signal.SIGCONT)
    _wait(stopped)
    assert _log(tmp_path, 1) == list(range(1, 252, 2))
    _wait(server)


def test_memory_of_a_consumer_stays_as_it_is(rows: Path, tmp_path: Path, full: bool) -> None:
    server = start(sharers.serve, rows, tmp_path, False, {}, 1600 if full else 50)
    _wait(start(sharers.peaks, tmp_path), 300)
    _wait(server)
    early, middle, late = sharers.hear(tmp_path / "peaks")
    assert late <= early * 1.02, (early, middle, late)


_CONSUMERS = 3


def test_no_batch_of_many_is_torn_lost_or_doubled(rows: Path, tmp_path: Path, full: bool) -> None:
    """Three consumers; one or another is killed and begun again, and one is stopped for a while."""
    epochs = 1600 if full else 50
    count, rng = 63 * epochs, np.random.default_rng(epochs)
    server = start(sharers.serve, rows, tmp_path, True, {"consumers": _CONSUMERS, "slots": 3}, epochs)
    running = [start(sharers.consume, tmp_path, i, 503, i == 1, 0.0) for i in range(_CONSUMERS)]
    kills = 0
    deadline = time.monotonic() + (3000 if full else 200)
    while not (tmp_path / "joined").exists():
        assert time.monotonic() < deadline
        time.sleep(rng.uniform(0, 0.4))
        i = int(rng.integers(_CONSUMERS))
        if not running[i].is_alive():
            continue
        if rng.random() < 0.2:
            with contextlib.suppress(ProcessLookupError):  # it may end between the look at it and the signal
                os.kill(running[i].pid, signal.SIGSTOP)
                time.sleep(0.3)
                os.kill(running[i].pid, signal.SIGCONT)
            continue
        running[i].kill()
        running[i].join()
        kills += 1
        running[i] = start(sharers.consume, tmp_path, i, 503, False, 0.0)
    for each in running:
        each.join(30)
        assert each.exitcode in (0, -signal.SIGKILL)
    _wait(server)
    logs = [_log(tmp_path, i) for i in range(_CONSUMERS)]
    assert [k % _CONSUMERS for log in logs for k in log] == [i for i in range(_CONSUMERS) for _ in logs[i]]
    assert all(log == sorted(set(log)) for log in logs)
    assert count - kills <= sum(map(len, logs)) <= count
    assert kills
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("wrong", "torn"))] == []


def test_who_dies_in_whatever_order_leaves_nothing(rows: Path, tmp_path: Path, full: bool) -> None:
    """Creator, server, consumers, and forks of each are killed one after another, and those that wait for them end."""
    rng = np.random.default_rng(full)
    files, before = sharers.shared_memory(), sharers.shmem()
    kills = 0
    for k in range(100):
        folder = tmp_path / f"{k}"
        folder.mkdir()
        kills += _one_order(rows, folder, rng)
        if kills >= (200 if full else 20):
            break
    # Names of other programs come and go; those that were left behind would stay.
    _wait_until(lambda: sharers.shared_memory() <= files)
    deadline = time.monotonic() + 30
    while sharers.shmem() > before + sharers.SHARED_BYTES // 2:  # others on this machine have some too
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _one_order(rows: Path, folder: Path, rng: np.random.Generator) -> int:
    """How many were killed."""
    forks = rng.random(4) < 0.5
    running = {
        "server": start(sharers.serve, rows, folder, bool(forks[0]), {"consumers": 2, "slots": 2}, 10**6),
        "consumer-0": start(sharers.consume, folder, 0, 503, bool(forks[1]), 0.0),
        "consumer-1": start(sharers.consume, folder, 1, 503, False, 0.0),
        "creator": start(sharers.create, folder, bool(forks[2])),
        "attached": start(sharers.attach, folder, bool(forks[3])),
    }
    sharers.hear(folder / "server")
    sharers.hear(folder / "shared")
    time.sleep(rng.uniform(0, 0.3))
    pids = [each.pid for each in running.values()] + [int(path.name[5:]) for path in folder.glob("fork-*")]
    # Server and creator are among those that are killed; of the others some are left, and end by themselves.
    mortal = [pid for pid in pids if pid in (running["server"].pid, running["creator"].pid) or rng.random() < 0.6]
    for pid in rng.permutation(mortal).tolist():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(rng.uniform(0, 0.02))
    for name, each in running.items():
        each.join(10)
        assert each.exitcode is not None, f"{name} hangs"
        # Of those that were to be killed some have ended before, since one that they need was killed.
        assert each.exitcode in ((0, -signal.SIGKILL) if each.pid in mortal else (0,)), name
    wrong = [path.name for path in folder.iterdir() if path.name.startswith(("wrong", "torn"))]
    assert wrong == []
    for i in range(2):
        log = _log(folder, i)
        assert log == list(range(i, i + 2 * len(log), 2))
    _kill_forks(folder)
    killed = [each for each in running.values() if each.exitcode]
    return len(killed) + len(set(mortal) - {*pids[:5]})


_NO_FILES = """
import resource, sys, pickle, os
import swath

handle = pickle.load(sys.stdin.buffer)
attach = swath.attach if sys.argv[1] == "attach" else swath.consume
kept = [os.open("/dev/null", os.O_RDONLY)]
least = kept[-1] + 1 + (0 if sys.argv[1] == "attach" else 2)  # a consumer has a socket, and watches a process
resource.setrlimit(resource.RLIMIT_NOFILE, (least, least))
try:
    attach(handle)
except swath.errors.SharingError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["attach", "consume"])
def test_who_can_open_no_file_more_is_told_that(a: swath.RowArray, how: str) -> None:
    with swath.share(np.arange(10)) as shared, swath.serve_batches(a.batches(10), consumers=1) as server:
        handle = pickle.dumps(shared.handle if how == "attach" else server.handle)
        done = subprocess.run([sys.executable, "-c", _NO_FILES, how], input=handle, capture_output=True, check=False)
    assert b"as many files open as it may" in done.stdout, done.stderr.decode()
