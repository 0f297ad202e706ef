"""The harness sees what it is there to see: a test that cannot fail is none."""

import ctypes
import time
from collections.abc import Callable

import numpy as np

from hostile.harness import MOST_GROWTH, Refused, Result, Wrong, run
from swath.errors import FormatError


def behave(how: str) -> Callable[[], object]:
    """A call that ends in a certain way."""

    def call() -> object:
        match how:
            case "answers":
                return 1
            case "refuses":
                raise FormatError("It is no array. Restore it.")
            case "is refused by another":
                raise Refused("no")
            case "raises":
                raise KeyError("shape")
            case "lies":
                raise Wrong("row 3")
            case "crashes":
                return ctypes.string_at(1)
            case "hangs":
                time.sleep(60)
            case "grows":
                return np.ones(2 * MOST_GROWTH, np.uint8).sum()
            case "asks for all memory":
                return np.ones(2**40, np.uint8)
        return None

    return call


def test_each_end_of_a_case_is_told_apart() -> None:
    wanted = {
        "answers": "ok",
        "crashes": "crash",
        "refuses": "typed error",
        "is refused by another": "typed error",
        "raises": "other error",
        "hangs": "hang",
        "lies": "wrong",
        "grows": "ok",
        "asks for all memory": "other error",
    }
    # Long enough that the others end before on a machine that is busy: a crash may write a core dump.
    results = {
        result.case[0]: result
        for result in run("hostile.test_harness:behave", [[how] for how in wanted], seconds=10, waits=1)
    }
    assert {how: result.outcome for how, result in results.items()} == wanted
    assert results["grows"].growth > 1.9 * MOST_GROWTH
    assert results["answers"].growth < MOST_GROWTH / 10
    assert "string_at" in results["crashes"].text
    assert "MemoryError" in results["asks for all memory"].text
    good = [how for how, result in results.items() if result.is_good]
    assert good == ["answers", "refuses", "is refused by another"]
    assert not Result([], "ok", seconds=6).is_good
