"""Handles of shared memory that were changed on their way: a typed error, and no bytes taken for pointers."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import swath
from hostile.harness import run
from swath.sharing.form import Form, parse_form

VALUES: list[Any] = [0, -1, 1, 2**31, 2**40, 2**63, None, "x", 1.5, [], True]
FIELDS = ["pid", "descriptor", "token", "form", "shape", "shapes", "names"]
DTYPES: list[Any] = ["O", "V0", "S0", "f4", "V8", "f8,f8"]


def attaching(field: str, k: int) -> Any:
    """Attach by a handle of which one field has one of the values."""
    shared = swath.share(np.arange(12.0).reshape(3, 4))
    handle, form = shared.handle, shared.handle.form
    forms: dict[str, Any] = {
        "shape": lambda: Form(None, form.dtypes, ((VALUES[k], 4),)),
        "shapes": lambda: Form(None, form.dtypes, (VALUES[k],)),
        "names": lambda: Form(VALUES[k], form.dtypes, form.shapes),
        "dtype": lambda: Form(None, (np.dtype(DTYPES[k]),), ((96 // max(1, np.dtype(DTYPES[k]).itemsize),),)),
    }
    change = {"form": forms[field]()} if field in forms else {field: VALUES[k]}
    changed = dataclasses.replace(handle, **change)

    def call() -> None:
        with shared, swath.attach(changed) as attached:
            repr(attached.array)

    return call


def test_a_handle_that_was_changed_is_a_typed_error_and_no_crash() -> None:
    cases = [[field, k] for field in FIELDS for k in range(len(VALUES))]
    cases += [["dtype", k] for k in range(len(DTYPES))]
    for result in run("hostile.test_handles:attaching", cases):
        assert result.is_good, result


def test_a_server_that_tells_of_pointers_is_not_believed() -> None:
    with pytest.raises(ValueError, match="no arrays"):
        parse_form({"names": None, "dtypes": ["|O"], "shapes": [[12]]})
