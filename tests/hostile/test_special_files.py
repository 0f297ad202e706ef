"""What stands in the place of a file and is none is refused at once; a file that is cut while it is read is an error."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

import swath
from swath.errors import SwathError

ROWS = np.arange(120, dtype="<i4").reshape(40, 3)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "socket": _socket,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "full": lambda path: path.symlink_to("/dev/full"),
    "folder": lambda path: path.mkdir(),
}

FILES: dict[str, dict[str, Any]] = {
    "a.npy": {},
    "a.npz::x": {},
    "a.h5::x": {},
    "a.csv": {},
    "a.csv.gz": {},
    "a.bin": {"dtype": "u1", "row_shape": (3,)},
    "a.jpg": {},
}


@pytest.fixture
def in_time() -> Callable[[Callable[[], Any]], Any]:
    """A call in a thread that is given up after some seconds: one that waits for a fifo would wait for ever."""

    def make(call: Callable[[], Any]) -> Any:
        ends: list[Any] = []

        def run() -> None:
            try:
                ends.append(call())
            except BaseException as error:
                ends.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(20)
        assert ends, "it waits"
        return ends[0]

    return make


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_no_source(tmp_path: Path, name: str, kind: str, in_time: Any) -> None:
    SPECIAL[kind](tmp_path / name.partition("::")[0])
    source, options = f"{tmp_path}/{name}", FILES[name]
    calls: list[Callable[[], Any]] = [
        lambda: swath.ingest(source, tmp_path / "a.zarr", progress=False, **options),
        lambda: swath.ingest([source, source], tmp_path / "a.zarr", progress=False, **options),
        lambda: swath.open(source, **options),
        lambda: swath.images([(tmp_path / name.partition("::")[0], 0)]),
    ]
    if "::" in name:
        calls.append(lambda: swath.ingest_group(source.partition("::")[0], tmp_path / "g.zarr", progress=False))
    for call in calls:
        end = in_time(call)
        assert isinstance(end, SwathError), end
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", ["v3/zarr.json", "v3/c/0/0", "v2/.zarray", "v2/0.0", "ours/zarr.json", "ours/c.0.0"])
def test_what_is_no_file_is_no_part_of_a_store(tmp_path: Path, place: str, kind: str, in_time: Any) -> None:
    store = tmp_path / place.partition("/")[0]
    if store.name == "ours":
        swath.ingest(ROWS, store, window=2, progress=False)
    else:
        version: Any = int(store.name[1])
        zarr.create_array(store, data=ROWS, chunks=ROWS.shape, zarr_format=version)
    (tmp_path / place).unlink()
    SPECIAL[kind](tmp_path / place)
    for call in (
        lambda: swath.open(store).gather([0], window=2),
        lambda: swath.ingest(store, tmp_path / "a.zarr", progress=False),
    ):
        end = in_time(call)
        assert isinstance(end, SwathError), end


def _written(path: Path) -> tuple[str, dict[str, Any]]:
    """A file of many rows, and how it is named."""
    rows = np.arange(6 * 10**6, dtype="<i4").reshape(-1, 3)
    match path.suffix:
        case ".npy":
            np.save(path, rows)
        case ".npz":
            np.savez(path, x=rows)
        case ".h5":
            with h5py.File(path, "w") as file:
                file["x"] = rows
        case ".csv":
            path.write_text("1,2,3\n" * 2_000_000)
        case _:
            rows.tofile(path)
    inner = "::x" if path.suffix in (".npz", ".h5") else ""
    return f"{path}{inner}", {"dtype": "<i4", "row_shape": (3,)} if path.suffix == ".bin" else {}


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.csv", "a.bin"])
def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path, name: str) -> None:
    """A mapped one would end the process."""
    place, options = _written(tmp_path / name)
    source = swath.sources.open_source(place, **options)
    first = np.empty((1000, 3), source.dtype)
    source.read_into(0, first)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    rest = np.empty((source.shape[0] - 1000, 3), source.dtype)
    with pytest.raises(SwathError, match=name):
        source.read_into(1000, rest)


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.bin"])
def test_a_file_that_is_cut_after_it_was_opened_in_place_is_an_error(tmp_path: Path, name: str) -> None:
    place, options = _written(tmp_path / name)
    a = swath.open(place, **options)
    starts = np.arange(0, len(a) - 2, 7)
    a.gather(starts, window=2)
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    for verify in ("always", "never"):
        with pytest.raises(SwathError, match=name):
            a.gather(starts, window=2, verify=verify)


def test_a_picture_that_is_cut_while_the_others_are_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(4):
        Image.effect_noise((64, 64), 50).save(tmp_path / "in" / f"{k}.png")
    source = swath.images(tmp_path / "in")["images"]
    os.truncate(tmp_path / "in" / "2.png", 100)
    with pytest.raises(SwathError, match=r"2\.png"):
        source.read_into(0, np.empty(source.shape, source.dtype))
