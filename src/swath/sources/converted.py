"""A source in another dtype: are its values still the same, and which is the first that is not?

Rows are read a block at a time, cast by numpy, and compared value by value with what they were. Dtypes are compared by kind:
numbers with numbers, text with text, times with times, and records field by field; from one kind to another no value is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from swath.errors import OptionError, SourceError
from swath.sources import Source

Casting = Literal["exact", "rounded", "unsafe"]

# Rows of one block, as they were: enough for the calls not to count, and little beside a shard for each of some threads.
_BLOCK_BYTES = 2**20
# Beside the block: its values cast and cast back, and masks of a byte for each value, at most two at once.
_COPIES = 5

_NUMBERS, _TEXT = "biufc", "SU"


@dataclass(frozen=True, slots=True)
class ConvertedSource:
    """Rows of a source, cast."""

    source: Source
    dtype: np.dtype[Any]
    casting: Casting

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the source."""
        return self.source.shape

    @property
    def segments(self) -> tuple[int, ...]:
        """Those of the source."""
        return self.source.segments

    @property
    def in_order(self) -> bool:
        """As the source, or where a row is more than a block: only one at a time shall be held."""
        return self.source.in_order or self._row_bytes > _BLOCK_BYTES

    @property
    def _row_bytes(self) -> int:
        """Of the larger dtype."""
        return max(self.source.dtype.itemsize, self.dtype.itemsize) * math.prod(self.shape[1:])

    @property
    def read_bytes(self) -> int:
        """What the source takes, a block, and what it is compared with."""
        return self.source.read_bytes + (1 + _COPIES) * max(_BLOCK_BYTES, self._row_bytes)

    def describe(self) -> dict[str, Any]:
        """What the source is, and what it is cast to."""
        return {**self.source.describe(), "cast_to": str(self.dtype), "casting": self.casting}

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Read, cast and compare, a block after another.

        Raises
        ------
        SourceError
            A value would not be the same.
        """
        step = max(1, _BLOCK_BYTES // max(1, self._row_bytes))
        rows = np.empty((min(step, len(out)), *self.shape[1:]), self.source.dtype)
        for i in range(0, len(out), step):
            block = rows[: len(out) - i]
            self.source.read_into(start + i, block)
            out[i : i + step].reshape(-1).view(np.uint8)[...] = 0  # a long double has bytes that no cast writes
            self._cast(start + i, block, out[i : i + step])

    def _cast(self, start: int, rows: NDArray[Any], out: NDArray[Any]) -> None:
        try:
            _assign(rows, out)
        except (ValueError, TypeError, OverflowError) as error:
            at = _first(rows, lambda some: _fails(some, self.dtype))
            raise SourceError(
                f"{self._name(start, at)} is {rows[at]!r}, which cannot become {self.dtype} ({error}). {_MEND}"
            ) from None
        if self.casting == "unsafe":
            return
        same = kept(rows, out, rounded=self.casting == "rounded")
        if not same.all():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmin(same)), same.shape))
            raise SourceError(
                f"{self._name(start, at)} is {rows[at]!r}, but would be {out[at]!r} as {self.dtype}. {_MEND}"
            )

    def _name(self, start: int, at: tuple[int, ...]) -> str:
        inside = f" at {at[1:]}" if at[1:] else ""
        where = self.source.describe().get("path")
        return f"The value of row {start + at[0]}{inside}" + (f" of {where}" if where else "")


_MEND = "Choose a dtype that holds all values, or allow the loss: casting='rounded' lets floats round, 'unsafe' all that numpy does."


def convert(source: Source, dtype: np.dtype[Any], casting: Casting) -> Source:
    """``source`` in ``dtype``: itself if that is what it has.

    Parameters
    ----------
    dtype
        Of one value; one with a shape must be the shape of a row, or its end.
    casting
        ``"exact"``: each value is equal after the cast, and nan stays nan. ``"rounded"``: a float may also be the nearest that
        its dtype has, but no finite value becomes inf. ``"unsafe"``: whatever numpy's ``astype`` makes of it.

    Raises
    ------
    OptionError
        A ``casting`` that is none of these, or a dtype without a size.
    SourceError
        No value of the one dtype is the same in the other.

    Examples
    --------
    >>> import numpy as np
    >>> from swath.sources import open_source
    >>> source = convert(open_source(np.array([0.5, 0.1])), np.dtype("f4"), "exact")
    >>> out = np.empty(1, "f4")
    >>> source.read_into(0, out), out
    (None, array([0.5], dtype=float32))
    >>> source.read_into(1, out)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    swath.errors.SourceError: The value of row 1 is np.float64(0.1), but would be np.float32(0.1) as float32. Choose ...
    """
    check_casting(casting)
    if dtype.shape and source.shape[1:][-len(dtype.shape) :] != dtype.shape:
        raise OptionError(
            f"dtype is {dtype}, of shape {dtype.shape}, but rows have the shape {source.shape[1:]}. Give the dtype of one value."
        )
    wanted = np.result_type(dtype.base)
    if source.dtype in (wanted, dtype):  # which differ where records have padding
        return source
    unit_missing = _is_time(wanted) and np.datetime_data(wanted)[0] == "generic"
    if wanted.hasobject or not wanted.itemsize or unit_missing:
        raise OptionError(
            f"dtype is {dtype}, whose values have no size or unit of their own. Give one such as 'S10' or 'M8[ns]'."
        )
    if casting != "unsafe" and not _comparable(source.dtype, wanted):
        raise SourceError(
            f"The source has dtype {source.dtype}, of which no value is the same as {wanted}. Leave dtype out, or allow it with casting='unsafe'."
        )
    return ConvertedSource(source, wanted, casting)


def check_casting(casting: object) -> None:
    """Refuse what is no way of casting.

    Raises
    ------
    OptionError
    """
    if casting not in get_args(Casting):
        raise OptionError(f"casting is {casting!r}. Choose one of {', '.join(map(repr, get_args(Casting)))}.")


def kept(old: NDArray[Any], new: NDArray[Any], *, rounded: bool) -> NDArray[np.bool_]:
    """Which values are the same in the dtype of ``new``, to which ``old`` was cast.

    Examples
    --------
    >>> import numpy as np
    >>> old = np.array([1.0, 0.1, 1e300, np.nan])
    >>> with np.errstate(over="ignore"):
    ...     new = old.astype("f4")
    >>> kept(old, new, rounded=False), kept(old, new, rounded=True)
    (array([ True, False, False,  True]), array([ True,  True, False,  True]))
    """
    same: NDArray[np.bool_]
    with np.errstate(all="ignore"):
        if old.dtype.names is not None:
            same = np.ones(old.shape, np.bool_)
            for name in old.dtype.names:
                field = kept(old[name], new[name], rounded=rounded)
                same &= field.reshape((*old.shape, -1)).all(axis=-1)
            return same
        if "c" in (old.dtype.kind, new.dtype.kind):
            # Where there is no room for an imaginary part, it is not rounded but left out.
            imaginary = _number_kept(old.imag, new.imag, rounded and new.dtype.kind == "c")
            return _number_kept(old.real, new.real, rounded) & imaginary
        if old.dtype.kind in _NUMBERS:
            return _number_kept(old, new, rounded)
        same = new.astype(old.dtype) == old
        if _is_time(old.dtype):
            same |= np.isnat(old) & np.isnat(new)
        return same


def _number_kept(old: NDArray[Any], new: NDArray[Any], rounded: bool) -> NDArray[np.bool_]:
    """As `kept`, of real numbers. Cast back, a value that has left the range may be itself again: that is looked at first."""
    same: NDArray[np.bool_]
    if old.dtype.kind == "b":
        same = np.ones(old.shape, np.bool_)
    elif new.dtype.kind != "f":
        same = _within(old, new.dtype) & (new.astype(old.dtype) == old)
    elif old.dtype.kind == "f" and rounded:
        same = (np.isfinite(old) == np.isfinite(new)) & (np.isnan(old) == np.isnan(new))
    elif old.dtype.kind == "f":
        same = (new.astype(old.dtype) == old) | (np.isnan(old) & np.isnan(new))
    elif rounded:
        same = np.isfinite(new)
    else:
        same = _within(new, old.dtype) & (new.astype(old.dtype) == old)
    return same


def _within(values: NDArray[Any], integers: np.dtype[Any]) -> NDArray[np.bool_]:
    """Which values lie in the range of a dtype of integers."""
    lowest, highest = (0, 1) if integers.kind == "b" else (np.iinfo(integers).min, np.iinfo(integers).max)
    within: NDArray[np.bool_]
    if values.dtype.kind == "f":
        # One more than the highest is a power of two: every float dtype has it, or inf in its place.
        within = np.isfinite(values) & (values >= float(lowest)) & (values < float(highest + 1))
    else:
        within = (values >= lowest) & (values <= highest)
    return within


def _comparable(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    """Whether a value of the one dtype may be the same as one of the other."""
    old, new = old.base, new.base
    if old.names is not None or new.names is not None:
        if old.names != new.names:
            return False
        pairs = [(old[name], new[name]) for name in old.names or ()]
        return all(a.shape == b.shape and _comparable(a, b) for a, b in pairs)
    groups = (_NUMBERS, _TEXT, "M", "m")
    return old == new or any(old.kind in group and new.kind in group for group in groups)


def _is_time(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "mM"


def _assign(rows: NDArray[Any], out: NDArray[Any]) -> None:
    if rows.dtype.names is not None and rows.dtype.names == out.dtype.names:
        for name in rows.dtype.names:
            _assign(rows[name], out[name])
        return
    # numpy warns where it discards an imaginary part, which is compared here.
    real = rows.real if rows.dtype.kind == "c" and out.dtype.kind in "iuf" else rows
    with np.errstate(all="ignore"):
        np.copyto(out, real, casting="unsafe")


def _fails(rows: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    try:
        _assign(rows, np.empty(rows.shape, dtype))
    except (ValueError, TypeError, OverflowError):
        return True
    return False


def _first(rows: NDArray[Any], fails: Callable[[NDArray[Any]], bool]) -> tuple[int, ...]:
    """The index of the first value that fails, by halving."""
    flat = rows.reshape(-1)
    good, bad = 0, flat.size  # the first `good` values do not fail, the first `bad` ones do
    while bad - good > 1:
        middle = (good + bad) // 2
        if fails(flat[good:middle]):
            bad = middle
        else:
            good = middle
    return tuple(int(i) for i in np.unravel_index(good, rows.shape))
