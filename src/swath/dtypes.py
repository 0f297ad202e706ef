"""How is a dtype written in JSON, and read back?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def describe_dtype(dtype: np.dtype[Any]) -> Any:
    """What numpy writes of a dtype in a ``.npy`` file: text, or a list of fields.

    Examples
    --------
    >>> describe_dtype(np.dtype([("x", "i4"), ("y", "f8", (2,))]))
    [('x', '<i4'), ('y', '<f8', (2,))]
    """
    # numpy warns of metadata of a dtype (h5py's, of enums and text), which are no part of its values.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.lib.format.dtype_to_descr(dtype)


def parse_description(description: Any) -> np.dtype[Any]:
    """The dtype of a description that has been through JSON, which knows no tuples.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> parse_description([["x", "<i4"], ["y", "<f8", [2]]])
    dtype([('x', '<i4'), ('y', '<f8', (2,))])
    """
    return np.lib.format.descr_to_dtype(_tuples(description))


def _tuples(description: Any) -> Any:
    if isinstance(description, str):
        return description
    names = (
        tuple(field[0]) if isinstance(field[0], list) else field[0] for field in description
    )  # with a title, or not
    return [
        (name, _tuples(field[1]), *(tuple(shape) for shape in field[2:])) for name, field in zip(names, description)
    ]
