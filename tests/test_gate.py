"""Threads that wait for a server: few are at work at once, all may wait at once, and none goes on once the call is over."""

import threading
import time

import pytest

from swath.storage import Gate, run_threads

_THREADS = 20


def test_all_may_wait_at_once_and_few_are_inside() -> None:
    waiting = threading.Barrier(_THREADS, timeout=20)
    lock = threading.Lock()
    inside = most = 0

    def work(gate: Gate) -> None:
        nonlocal inside, most
        for _ in range(3):
            with gate.away():
                waiting.wait()
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.005)
            with lock:
                inside -= 1

    run_threads(work, _THREADS, 3)
    assert most == 3


def test_nobody_goes_on_when_one_has_failed() -> None:
    answers, others_work = threading.Event(), threading.Event()
    touched: list[int] = []

    def work(gate: Gate, number: int) -> None:
        if number == 0:
            others_work.wait(20)
            raise ValueError("a server said no")
        if number % 2:  # one that waits for a server; others wait for a place
            with gate.away():
                answers.wait(20)
        touched.append(number)
        others_work.set()
        time.sleep(0.05)
        touched.append(number)  # still inside

    numbers = iter(range(_THREADS))
    with pytest.raises(ValueError, match="said no"):
        run_threads(lambda gate: work(gate, next(numbers)), _THREADS, 2)
    before = list(touched)
    answers.set()
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("swath-remote") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread waits for ever"
        time.sleep(0.01)
    assert touched == before
