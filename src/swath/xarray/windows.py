"""Windows with the labels that their rows have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from swath.array import RowArray, rows_of
from swath.errors import OptionError
from swath.group import RowGroup
from swath.store import Store
from swath.xarray.encoding import decode

# The axis of windows, and the coordinate that has their first rows.
WINDOW = "window"
START = "start"


def inner_dim(dim: str) -> str:
    """The name of the axis of the rows of a window."""
    return f"{dim}_in_window"


def label_array(array: xr.DataArray, batch: Any, starts: Any, columns: Any) -> xr.DataArray:
    """A batch of windows of ``array``, with its labels.

    Raises
    ------
    OptionError
        It has names that the windows need.
    """
    dim, *others = map(str, array.dims)
    new = (WINDOW, inner_dim(dim))
    check_names({*map(str, array.dims), *map(str, array.coords)}, new)
    first = np.asarray(starts, np.int64)
    index = xr.Variable(new, first[:, None] + np.arange(batch.shape[1]))
    labels = array.coords.to_dataset()
    taken = labels.isel({dim: index} if dim in labels.dims else {})
    if columns is not None:
        taken = taken.isel({others[0]: columns}) if others and others[0] in taken.dims else taken
    return xr.DataArray(batch, taken.coords, (*new, *others), array.name, array.attrs).assign_coords(
        {START: (WINDOW, first)}
    )


def label_store(a: RowArray, batch: Any, starts: Any) -> xr.DataArray:
    """A batch of one array; without names of axes they are numbered."""
    rows = rows_of(a)
    dims = dims_of(a) or tuple(f"dim_{i}" for i in range(a.ndim))
    new = (WINDOW, inner_dim(dims[0]))
    check_names(dims, new)
    name = (rows.member or None) if isinstance(rows, Store) else None
    coords = {START: (WINDOW, np.asarray(starts, np.int64))}
    return xr.DataArray(batch, coords, (*new, *dims[1:]), name, attributes_of(a))


def label_group(g: RowGroup, batches: Mapping[str, Any], starts: Any) -> xr.Dataset:
    """Batches of the arrays of a group, with the labels that are in it."""
    arrays = {name: label_store(g[name], batch, starts).variable for name, batch in batches.items()}
    beside = {name: _whole(array) for name, array in g.beside.items()}
    check_names({*arrays, *beside}, (WINDOW,))
    attributes = dict(g.attributes)
    # An axis is labelled by the array of its name, as everywhere in xarray; others are named by the attribute of CF.
    own = {dims[0] for array in g.values() if (dims := dims_of(array))}
    axes = {name for name, variable in beside.items() if variable.dims == (name,)} | own
    named = axes | set(str(attributes.pop("coordinates", "")).split())
    variables = {
        name: decode(variable) if name in named else variable for name, variable in {**arrays, **beside}.items()
    }
    found = xr.Dataset(variables, {START: (WINDOW, np.asarray(starts, np.int64))}, attributes)
    return found.set_coords([name for name in found.variables if name in named])


def check_names(names: Any, new: tuple[str, ...]) -> None:
    """Refuse names that the windows need for themselves.

    Raises
    ------
    OptionError
    """
    if taken := [name for name in (*new, START) if name in names]:
        raise OptionError(f"The array has the name {taken[0]!r}, which windows need for themselves. Rename it first.")


def dims_of(a: RowArray) -> tuple[str, ...]:
    """Names of its axes, if it has any."""
    rows = rows_of(a)
    return (rows.facts.dims or ()) if isinstance(rows, Store) else ()


def attributes_of(a: RowArray) -> dict[str, Any]:
    """What xarray, or others, have said of it."""
    rows = rows_of(a)
    return rows.attributes if isinstance(rows, Store) else {}


def _whole(a: RowArray) -> xr.Variable:
    values: NDArray[Any] = a.gather([0], window=len(a))[0]
    return xr.Variable(dims_of(a), values, attributes_of(a))
