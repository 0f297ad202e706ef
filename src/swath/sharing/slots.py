"""How a batch lies in a slot of the ring: what it is, the starts, and the arrays.

::

    0    bytes of the description, as a 64-bit number
    8    the description: JSON, of dtypes and shapes, and how many starts
         the starts, and behind them the arrays, each from a multiple of 64 bytes on
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import OptionError
from swath.sharing.form import Batch, Form, aligned, parse_form
from swath.windows import IntArray

_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Slots:
    """Slots of one size in a run of bytes."""

    memory: NDArray[np.uint8]
    slot_bytes: int

    def slot(self, i: int) -> NDArray[np.uint8]:
        """The bytes of one.

        Raises
        ------
        ValueError
            There is none of that number.
        """
        if not 0 <= i < self.memory.size // self.slot_bytes:
            raise ValueError(f"slot={i}")
        return self.memory[i * self.slot_bytes : (i + 1) * self.slot_bytes]


def slot_bytes(form: Form, n_starts: int) -> int:
    """What a slot takes for batches of at most this form."""
    return _bytes_of(len(_described(form, n_starts)), form, n_starts)


def begin(slot: NDArray[np.uint8], form: Form, n_starts: int) -> tuple[IntArray, Batch]:
    """Write what will be there; return the places of the starts and of the arrays.

    Raises
    ------
    OptionError
        It does not fit.
    """
    text = _described(form, n_starts)
    if _bytes_of(len(text), form, n_starts) > slot.size:
        raise OptionError(
            f"A batch of shapes {form.shapes} is larger than the {slot.size} bytes that there are for each. "
            "Make all as large as the first."
        )
    slot[:_LENGTH].view("<u8")[0] = len(text)
    slot[_LENGTH : _LENGTH + len(text)] = np.frombuffer(text, np.uint8)
    return _places(slot, len(text), form, n_starts)


def read(slot: NDArray[np.uint8]) -> tuple[IntArray, Batch]:
    """The starts and the arrays of a slot.

    Raises
    ------
    ValueError, TypeError, KeyError
        They are not there.
    """
    length = int(slot[:_LENGTH].view("<u8")[0])
    description = json.loads(slot[_LENGTH : _LENGTH + length].tobytes())
    return _places(slot, length, parse_form(description), int(description["starts"]))


def _described(form: Form, n_starts: int) -> bytes:
    return json.dumps({**form.describe(), "starts": n_starts}).encode()


def _bytes_of(described: int, form: Form, n_starts: int) -> int:
    return aligned(_LENGTH + described) + aligned(8 * n_starts) + aligned(form.n_bytes)


def _places(slot: NDArray[np.uint8], length: int, form: Form, n_starts: int) -> tuple[Any, Batch]:
    begin = aligned(_LENGTH + length)
    end = begin + aligned(8 * n_starts)
    return slot[begin : begin + 8 * n_starts].view(np.int64), form.views(slot[end:])
