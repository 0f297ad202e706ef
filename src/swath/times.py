"""Where is there a gap in the times of rows?"""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.errors import OptionError


def segments_from_time(times: ArrayLike, step: Any = None) -> NDArray[np.int64]:
    """Runs of rows that follow one another in time: no window of a segment spans a gap, a reset or a repeated time.

    Two rows follow one another where the later comes after between half a step and one step and a half, so that times may be
    unsteady, and months of different lengths.

    Parameters
    ----------
    times : (n,)
        The time of each row: ``datetime64``, dates of cftime or `datetime.datetime`, or numbers, such as those of "hours since" in
        CF. A coordinate of xarray is one.
    step
        From one row to the next, in the units of ``times``: a ``timedelta64``, a `datetime.timedelta`, or a number. By default the
        median of all differences.

    Returns
    -------
    (k, 2) integers
        Half-open ranges of rows, as `RowArray.segments` has them: ``segments=`` of `swath.ingest`.

    Raises
    ------
    OptionError
        They are no times, one of them is missing (NaT, NaN), or ``step`` is not positive.

    Examples
    --------
    >>> import numpy as np, swath
    >>> hours = np.array(["2001-01-01T00", "2001-01-01T01", "2001-01-01T02", "2001-01-03T00", "2001-01-03T01"], "M8[h]")
    >>> swath.segments_from_time(hours)
    array([[0, 3],
           [3, 5]])
    >>> swath.segments_from_time([0, 6, 12, 18, 0, 6, 12, 24])  # hours since a reset
    array([[0, 4],
           [4, 7],
           [7, 8]])
    """
    apart, forward = _differences(_checked(times))
    steps = apart[forward]
    usual = _checked_step(step, steps)
    follows = forward.copy()
    if steps.size:
        steps, usual = np.broadcast_arrays(*_alike(steps, usual))
        off = np.where(steps > usual, steps - usual, usual - steps)  # of numbers without a sign, too
        follows[forward] = off <= (usual / 2 if usual.dtype.kind == "f" else usual // 2)
    edges = np.concatenate([[0], np.flatnonzero(~follows) + 1, [len(apart) + 1]]).astype(np.int64)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _checked(times: ArrayLike) -> NDArray[Any]:
    values = np.asarray(times)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iufMO":
        raise OptionError(
            f"times have the shape {values.shape} and dtype {values.dtype}. Give one time for each row: datetime64, dates, or numbers."
        )
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
        values = values.astype(np.float64)
    else:
        missing = np.isnat(values) if values.dtype.kind == "M" else np.array([value is None for value in values])
        values = values.astype(np.int64) if values.dtype.kind == "i" else values
    if missing.any():
        row = int(np.argmax(missing))
        raise OptionError(f"The time of row {row} is {values[row]}. Give a time for each row, or leave such rows out.")
    return values


def _differences(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """From each row to the next, and whether time goes on there."""
    earlier, later = values[:-1], values[1:]
    try:
        with np.errstate(over="ignore"):
            apart = later - earlier
        if values.dtype.kind == "O":
            apart = np.array(list(apart), "m8[us]")
            return apart, apart > np.timedelta64(0, "us")
    except (TypeError, ValueError) as error:  # of two calendars, or no dates at all
        raise OptionError(f"times cannot be subtracted ({error}). Give dates of one calendar.") from None
    # What is further apart than whole numbers count has the wrong sign.
    return apart, (later > earlier) & (apart > np.array(0, apart.dtype))


def _checked_step(step: Any, steps: NDArray[Any]) -> NDArray[Any]:
    """That from one row to the next; the lower median if nobody says."""
    if step is None:
        return np.sort(steps)[(len(steps) - 1) // 2 :][:1]
    usual = np.asarray(step)
    if usual.dtype.kind == "O":
        usual = usual.astype("m8[us]") if isinstance(step, dt.timedelta) else usual
    alike = usual.dtype.kind == "m" if steps.dtype.kind == "m" else usual.dtype.kind in "iuf"
    if usual.ndim or not alike or not usual > np.array(0, usual.dtype):
        given = "a timedelta" if steps.dtype.kind == "m" else "a number"
        raise OptionError(f"step is {step!r}. Give {given} that is positive, as times are subtracted.")
    return usual.reshape(1)


def _alike(steps: NDArray[Any], usual: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both in one unit, or as numbers of one kind."""
    try:
        common = np.result_type(steps.dtype, usual.dtype)
    except TypeError:
        raise OptionError(
            f"step is in {np.datetime_data(usual.dtype)[0]}, and times are in {np.datetime_data(steps.dtype)[0]}, which have no "
            "fixed ratio. Give times in days."
        ) from None
    if common.kind == "u" or (usual.dtype.kind == "i" and steps.dtype.kind == "u"):
        return steps, usual.astype(steps.dtype)
    return steps.astype(common), usual.astype(common)
