"""No file brings code: nothing is unpickled, imported, compiled or run because of what stands in it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import named_code
import numcodecs
import numpy as np
import pytest
from named_code import KINDS, MODULE

from swath.decoder import from_zarr_v2
from swath.errors import FormatError


def _found(kind: str, folder: Path) -> dict[str, Any]:
    """What the interpreter told while files of a kind were opened, in a process of its own: a hook can't be taken off."""
    command = [sys.executable, named_code.__file__, kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "control"])
def test_no_file_brings_code(tmp_path: Path, kind: str) -> None:
    found = _found(kind, tmp_path)
    assert found["run"] == []
    assert not [name for name in found["imports"] if MODULE in name]
    (_, benign), *others = found["found"]
    assert len(others) > 1
    # Each call was made once before, so that what is imported with the first error is no part of this.
    for name, events in others:
        assert set(events) <= set(benign), name
    assert "pickle.find_class" not in benign


def test_code_would_be_seen(tmp_path: Path) -> None:
    found = _found("control", tmp_path)
    events = dict(found["found"])
    assert {"pickle.find_class", "os.system"} <= set(events["pickle"])
    assert MODULE in found["imports"]
    assert len(found["run"]) == 2


@pytest.mark.parametrize("as_filter", [True, False])
def test_the_engine_decodes_no_pickle(as_filter: bool) -> None:
    """Whatever zarr-python makes of the metadata."""
    codec = numcodecs.Pickle()
    with pytest.raises(FormatError, match="'pickle', which runs"):
        from_zarr_v2(None if as_filter else codec, [codec] if as_filter else [], "C", (10,), np.dtype("f8"))


def test_hdf5_is_not_opened_by_modules_of_the_folder_in_which_one_works(tmp_path: Path) -> None:
    """An interactive Python looks for modules there, and so did the process that it starts, which imports all anew."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((10, 2))
    for module in ("h5py", "json", "pkgutil", "resource", "swath"):
        (tmp_path / f"{module}.py").write_text("open('run', 'w').close()")
    program = f"""
import os, pkgutil, swath, swath.in_place  # and all else that is wanted here
swath.open
os.chdir({str(tmp_path)!r})
print(len(swath.open("a.h5::x")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("10\n", "")
    assert not (tmp_path / "run").exists()
