"""How do the labels of a Dataset become arrays and attributes that Zarr holds, and labels again?

As xarray writes them itself, so that ``xarray.open_zarr`` reads them: names of axes, attributes, coordinates as arrays, times as whole
numbers since 1970 with ``units`` and ``calendar``. Coordinates that go by rows are arrays of the group like any other.
"""

from __future__ import annotations

import base64
import struct
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from swath.errors import OptionError, SourceError
from swath.labels import Labels
from swath.times import segments_from_time

# As CF and xarray call the units of numpy.
_UNITS = {
    "D": "days",
    "h": "hours",
    "m": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
_NUMPY_UNITS = {name: unit for unit, name in _UNITS.items() if unit in ("s", "ms", "us", "ns")}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A Dataset as it is stored."""

    rows: Mapping[str, xr.Variable]
    """All that goes by rows."""
    labels: Labels


def as_dataset(array: xr.DataArray) -> xr.Dataset:
    """A Dataset of one variable.

    Raises
    ------
    OptionError
        It has no name, or that of a coordinate.
    """
    if array.name is None or array.name in array.coords:
        raise OptionError(
            f"The array has the name {array.name!r}, but needs one that no coordinate has. Name it, as array.rename('temperature')."
        )
    return array.to_dataset()


def row_dim(ds: xr.Dataset) -> str:
    """The dimension that rows go along: each variable has it first, or not at all.

    Raises
    ------
    SourceError
        There is no one such dimension.
    """
    dims = [variable.dims for variable in ds.data_vars.values()]
    first = {str(each[0]) for each in dims if each}
    found = [name for name in sorted(first) if all(name not in each[1:] for each in dims)]
    if len(found) != 1:
        raise SourceError(
            f"The variables have the first dimensions {sorted(first)}, and rows go along one that no variable has in another place. "
            "Transpose them, or choose some of them."
        )
    return found[0]


def segments_of(ds: xr.Dataset, segments: ArrayLike | str | None) -> ArrayLike | None:
    """Segments, where the name of a time may stand for those that its gaps make.

    Raises
    ------
    OptionError
    """
    if not isinstance(segments, str):
        return segments
    dim = row_dim(ds)
    if segments not in ds.coords or ds[segments].dims != (dim,):
        raise OptionError(f"segments is {segments!r}, which is no coordinate along {dim!r} alone. Name one that is.")
    return segments_from_time(ds[segments].to_numpy())


def encode(ds: xr.Dataset, like: Mapping[str, Mapping[str, Any]]) -> Encoded:
    """What is stored of a Dataset; times have the units and the calendar that attributes of that name in ``like`` say.

    Raises
    ------
    SourceError
        A variable, a coordinate or an attribute that cannot be stored, or not without a loss.
    """
    dim = row_dim(ds)
    rows: dict[str, xr.Variable] = {}
    beside: dict[str, xr.Variable] = {}
    for key, each in ds.variables.items():
        name = str(key)
        if not each.dims:
            warnings.warn(
                f"{name!r} is a single value, which belongs to no axis, and is left behind. Keep it as an attribute, or expand it along "
                f"{dim!r}.",
                stacklevel=4,
            )
            continue
        stored = _encode(name, each, like.get(name, {})) if key in ds.coords else each
        if dim in each.dims:
            rows[name] = stored.transpose(dim, ...) if stored.dims[0] != dim else stored
        else:
            beside[name] = stored
    everything = rows | beside
    attributes = {name: _json(name, variable.attrs, variable.dtype) for name, variable in everything.items()}
    named = [str(key) for key in ds.coords if key not in ds.dims and str(key) in everything]
    if spaced := [name for name in named if " " in name]:
        raise SourceError(
            f"The coordinate {spaced[0]!r} has a space in its name, which CF has no way to say. Rename it."
        )
    attributes[""] = _json("", ds.attrs, None) | ({"coordinates": " ".join(named)} if named else {})
    dims = {name: tuple(map(str, variable.dims)) for name, variable in everything.items()}
    return Encoded(rows, Labels(dims, attributes, {name: variable.to_numpy() for name, variable in beside.items()}))


def decode(variable: xr.Variable) -> xr.Variable:
    """A coordinate as it was; nothing but times is changed."""
    units = str(variable.attrs.get("units", ""))
    unit: Any = _NUMPY_UNITS.get(units.partition(" ")[0], "ns")
    decoded: xr.Variable = xr.conventions.decode_cf_variable(
        "label",
        variable,
        concat_characters=False,
        mask_and_scale=False,
        decode_times=xr.coders.CFDatetimeCoder(time_unit=unit),
        decode_timedelta=str(variable.attrs.get("dtype", "")).startswith("timedelta64"),
    )
    return decoded


def _encode(name: str, variable: xr.Variable, like: Mapping[str, Any]) -> xr.Variable:
    """A coordinate as Zarr has it."""
    if variable.dtype.kind not in "mMOT" and not np.dtype(variable.dtype).hasobject:
        return variable
    values = variable.to_numpy()
    if variable.dtype.kind in "OT" and all(isinstance(value, str) for value in values.flat):
        return xr.Variable(variable.dims, values.astype(str), variable.attrs)
    encoding = _encoding(name, values)
    if like.get("calendar") == encoding.get("calendar"):
        encoding["units"] = like.get("units", encoding["units"])
    plain = xr.Variable(variable.dims, values, variable.attrs, {**encoding, "dtype": "int64"})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other units, which are refused here
            stored = xr.conventions.encode_cf_variable(plain, name=name)
        alike = (stored.dtype, stored.attrs["units"]) == (np.int64, encoding["units"])
        same = alike and bool(np.all(decode(stored).to_numpy() == values))
    except (ValueError, TypeError, OverflowError) as error:
        raise SourceError(f"The coordinate {name!r} cannot be stored ({error}). Convert or drop it.") from error
    if not same:
        raise SourceError(
            f"The coordinate {name!r} is not the same in whole {encoding['units']}: a time is missing, or lies between two of them. "
            "Mend it, or leave such rows out."
        )
    return stored


def _encoding(name: str, values: Any) -> dict[str, Any]:
    """Units in which these times are whole numbers."""
    if values.dtype.kind in "mM":
        unit = _UNITS.get(np.datetime_data(values.dtype)[0], "nanoseconds")
        return (
            {"units": unit}
            if values.dtype.kind == "m"
            else {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
        )
    calendars = {str(getattr(value, "calendar", "")) for value in values.flat}
    if len(calendars) != 1 or "" in calendars:
        raise SourceError(
            f"The coordinate {name!r} holds Python objects. Convert it to numbers, text or times, or drop it."
        )
    return {"units": "microseconds since 1970-01-01", "calendar": calendars.pop()}


def _json(name: str, attributes: Mapping[Hashable, Any], dtype: np.dtype[Any] | None) -> dict[str, Any]:
    """Attributes as Zarr has them.

    Raises
    ------
    SourceError
    """
    return {
        str(key): _fill(value, dtype) if key == "_FillValue" and dtype is not None else _value(name, str(key), value)
        for key, value in attributes.items()
        # What swath says of a store that the data were read from is not said of another.
        if not (key == "swath" and isinstance(value, dict) and {"format", "crc32c"} <= value.keys())
    }


def _value(name: str, key: str, value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind not in "mM":
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_value(name, key, each) for each in value]
    if isinstance(value, dict):
        return {str(inner): _value(name, key, each) for inner, each in value.items()}
    if key == "swath" or not isinstance(value, (str, int, float, bool, type(None))):
        raise SourceError(
            f"The attribute {key!r} of {name or 'the Dataset'} cannot be stored ({value!r:.100}). Convert, rename or drop it."
        )
    return value


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """A fill value as xarray writes it into Zarr v3."""
    if dtype.kind == "f":
        return base64.standard_b64encode(struct.pack("<d", float(value))).decode()
    return np.asarray(value).tolist()
