"""What every gather must equal, and what is compared."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray


def expected(array: NDArray[Any], starts: Iterable[int], window: int) -> NDArray[Any]:
    """One line of numpy; it has no answer of its own for no starts at all."""
    windows = [array[s : s + window] for s in starts]
    return np.stack(windows) if windows else np.empty((0, window, *array.shape[1:]), np.result_type(array.dtype))


def assert_same(actual: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Shape, dtype and every bit, NaNs included; numpy itself copies no padding between fields."""
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype
    assert _bits(actual) == _bits(wanted)


def _bits(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(repack_fields(array, recurse=True)).tobytes()
