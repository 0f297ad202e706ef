"""How do the arrays of a batch lie in one run of bytes?

One after another, rows first, each from a multiple of 64 bytes on. Pure but for numpy's views.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.dtypes import describe_dtype, parse_description
from swath.errors import OptionError

type Batch = NDArray[Any] | dict[str, NDArray[Any]]

_ALIGNED = 64


def aligned(n_bytes: int) -> int:
    """So many bytes, or a few more, so that what follows begins where processors like it."""
    return -(-n_bytes // _ALIGNED) * _ALIGNED


@dataclass(frozen=True, slots=True)
class Form:
    """Dtypes and shapes of the arrays of a batch."""

    names: tuple[str, ...] | None
    """None for one array, which has no name."""
    dtypes: tuple[np.dtype[Any], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def ends(self) -> list[int]:
        """Bytes up to the end of each array."""
        ends, end = [], 0
        for dtype, shape in zip(self.dtypes, self.shapes):
            end = aligned(end) + dtype.itemsize * math.prod(shape)
            ends.append(end)
        return ends

    @property
    def n_bytes(self) -> int:
        """Bytes of all."""
        return self.ends[-1] if self.dtypes else 0

    def with_windows(self, n: int) -> Form:
        """The same arrays of so many windows."""
        return Form(self.names, self.dtypes, tuple((n, *shape[1:]) for shape in self.shapes))

    def views(self, memory: NDArray[np.uint8]) -> Batch:
        """The arrays that lie in these bytes. They can be written if the bytes can, and keep them alive."""
        arrays: list[NDArray[Any]] = [
            np.ndarray(shape, dtype, buffer=memory, offset=end - dtype.itemsize * math.prod(shape))
            for dtype, shape, end in zip(self.dtypes, self.shapes, self.ends)
        ]
        return arrays[0] if self.names is None else dict(zip(self.names, arrays))

    def describe(self) -> dict[str, Any]:
        """The same in JSON.

        Raises
        ------
        OptionError
            JSON cannot say what one of the dtypes is.
        """
        descriptions = []
        for dtype in self.dtypes:
            try:
                description = describe_dtype(dtype)
                told = parse_description(description) == dtype
            except (ValueError, TypeError):
                told = False
            if not told:
                raise OptionError(f"Arrays of {dtype} cannot be handed out as batches. Give them another dtype.")
            descriptions.append(description)
        return {"names": self.names, "dtypes": descriptions, "shapes": self.shapes}


def parse_form(description: Any) -> Form:
    """The form that `Form.describe` told, through JSON.

    Raises
    ------
    ValueError, TypeError, KeyError
    """
    names = description["names"]
    form = Form(
        None if names is None else tuple(names),
        tuple(map(parse_description, description["dtypes"])),
        tuple(tuple(shape) for shape in description["shapes"]),
    )
    check_form(form)
    return form


def check_form(form: Any) -> None:
    """Refuse a form that came from elsewhere and is none: bytes would be taken for pointers, or lie elsewhere.

    Raises
    ------
    ValueError
    """
    sound = (
        isinstance(form, Form)
        and all(
            isinstance(each, tuple) for each in (() if form.names is None else form.names, form.dtypes, form.shapes)
        )
        and all(isinstance(shape, tuple) for shape in form.shapes)
        and len(form.dtypes) == len(form.shapes) == (1 if form.names is None else len(form.names))
        and all(isinstance(dtype, np.dtype) and not dtype.hasobject for dtype in form.dtypes)
        and all(type(n) is int and n >= 0 for shape in form.shapes for n in shape)
    )
    if not sound:
        raise ValueError(f"{form!r:.200} are no arrays")


def form_of(batch: Any) -> Form:
    """The form of an array, or of arrays by name.

    Raises
    ------
    OptionError
        Something in it cannot be shared.

    Examples
    --------
    >>> form = form_of({"X": np.zeros((3, 5), "f4"), "y": np.zeros(3, "i8")})
    >>> form.ends, form.n_bytes
    ([60, 88], 88)
    """
    if not isinstance(batch, Mapping):
        return _checked(None, [batch])
    for name in batch:
        if not isinstance(name, str):
            raise OptionError(f"An array has the name {name!r}. Give names as text.")
    return _checked(tuple(batch), list(batch.values()))


def _checked(names: tuple[str, ...] | None, arrays: list[Any]) -> Form:
    for array in arrays:
        if not isinstance(array, np.ndarray):
            raise OptionError(f"A {type(array).__name__} cannot be shared. Give a numpy array, or a dict of them.")
        if isinstance(array, np.ma.MaskedArray):
            raise OptionError("A masked array would lose its mask. Share array.filled(value).")
        check_dtype(array.dtype)
    return Form(names, tuple(array.dtype for array in arrays), tuple(array.shape for array in arrays))


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse what is not all in the array itself.

    Raises
    ------
    OptionError
    """
    if dtype.hasobject:
        raise OptionError(
            f"Values of {dtype} are pointers, which mean nothing to another process. Give numbers, or text of a fixed length."
        )
