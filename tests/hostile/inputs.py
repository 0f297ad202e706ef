"""Files that come in: what is done with hostile ones by swath, and by the libraries that people use without it.

The answer of a call is what the array is, and its first rows, so that libraries can be compared.
"""

import ctypes
import hashlib
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click.testing
import h5py
import numpy as np
import pyarrow.compute
import pyarrow.csv
import zarr
from numpy.typing import NDArray
from PIL import Image

import swath
import swath.gathered
import swath.opening
import swath.sources.hdf5
import swath.sources.text
from hostile.corpora import Corpus
from hostile.harness import MOST_GROWTH, Refused, Wrong
from hostile.input_files import ROWS, Hostile, hostile, write_pictures
from swath.cli import cli
from swath.sources import open_source

# What is imported late is no doing of a file.
_ = pyarrow.compute, pyarrow.csv, zarr, swath.gathered, swath.opening, swath.sources.hdf5, swath.sources.text

# A file may say that it has any number of rows: of so many bytes all are taken, of more the first.
_MOST_BYTES = 2**22
_FIRST = 8


def _written(folder: str, file: Hostile) -> Path:
    """The file, alone in a folder."""
    place = Path(folder) / "in"
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(_target(folder), ignore_errors=True)
    place.mkdir(parents=True)
    (place / file.name).write_bytes(file.content)
    return place / file.name


def _target(folder: str) -> str:
    return f"{folder}/out.zarr"


def answer(n_rows: int, first: NDArray[Any]) -> str:
    """What the array is: the first eight rows, and how many there are."""
    native = np.ascontiguousarray(first[:_FIRST], np.result_type(first.dtype))
    content = native.view(np.uint8) if native.nbytes else b""  # a copy would count as growth
    return f"{n_rows} rows, {native.shape[1:]} {native.dtype}, {hashlib.sha256(content).hexdigest()[:16]}"


@cache
def warm_up(folder: str, kind: str) -> None:
    """Import all that is imported late, and start the process of HDF5: neither is the doing of a file."""
    swath.ingest(ROWS, _target(folder), progress=False, overwrite=True)
    if kind == "text":
        (Path(folder) / "sound.csv").write_text("1,2\n3,4\n")
        swath.ingest(f"{folder}/sound.csv", _target(folder), progress=False, overwrite=True)
    if kind == "hdf5":
        with h5py.File(f"{folder}/sound.h5", "w") as opened:
            opened["x"] = ROWS
        swath.open(f"{folder}/sound.h5::x")


def by_swath(folder: str, kind: str, seed: int) -> Callable[[], object]:
    """Opened in place, ingested, ingested as a group, or given to the command line, with a memory limit as what is not trusted should have."""
    warm_up(folder, kind)
    file = hostile(folder, kind, seed)
    path = _written(folder, file)
    way = ("ingest", "open", "ingest", "command", "group")[seed % 5]
    source: Any = path.parent if kind == "image" else f"{path}::{file.inner}" if file.inner else path

    def call() -> str:
        if way == "open" and kind in ("npy", "hdf5", "raw"):
            a = swath.open(source, **file.options)
            return answer(len(a), a.gather([0], window=min(_FIRST, len(a)))[0])
        if way == "group" and kind in ("npz", "hdf5"):
            whole = _few(f"{path}::x", file) is None
            if whole:
                a = swath.ingest_group(path, _target(folder), progress=False)["x"]
                return answer(len(a), a.gather([0], window=min(_FIRST, len(a)))[0])
        few = _few(source, file)
        n_rows = open_source(source, **file.options).shape[0]
        if way == "command":
            _command(source, _target(folder), file, few)
            a = swath.open(_target(folder))
        else:
            a = swath.ingest(
                source, _target(folder), rows=few, memory_limit=MOST_GROWTH, progress=False, **file.options
            )
        rows = a.gather([0], window=len(a))[0]
        if kind == "text":
            _check_text(file, rows)
        return answer(n_rows, rows)

    return call


def _few(source: Any, file: Hostile) -> slice | None:
    """All rows, or the first of so many that the file must lie."""
    found = open_source(source, **file.options)
    row_bytes = found.dtype.itemsize * int(np.prod(found.shape[1:], dtype=object))
    return None if found.shape[0] * row_bytes <= _MOST_BYTES else slice(0, min(_FIRST, found.shape[0]))


def _command(source: Any, target: str, file: Hostile, few: slice | None) -> None:
    words = ["ingest", str(source), target, f"--memory-limit={MOST_GROWTH}"]
    for name, value in file.options.items():
        if value:
            text = value if isinstance(value, str) else ",".join(map(str, value))
            words += [f"--{name.replace('_', '-')}", text]
    if few is not None:
        words += ["--rows", f"{few.start}:{few.stop}"]
    result = click.testing.CliRunner().invoke(cli, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise Refused(result.output)


def _check_text(file: Hostile, rows: NDArray[Any]) -> None:
    """Lines of plain numbers are what Python reads, with some delimiter, with a header or without.

    Raises
    ------
    Wrong
    """
    if file.options["dtype"] is not None or file.content[:2] == b"\x1f\x8b" or b'"' in file.content:
        return
    text = file.content.removeprefix(b"\xef\xbb\xbf")
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n") if line.strip() and not line.startswith(b"#")]
    for delimiter in (b",", b"\t", b";", None):
        for skipped in (0, 1):
            try:
                wanted = np.array([[float(field) for field in line.split(delimiter)] for line in lines[skipped:]])
            except ValueError:
                continue
            if wanted.shape == rows.shape and wanted.tobytes() == rows.tobytes():
                return
    raise Wrong(f"{rows.shape}: {rows[:3]} of {file.content[:200]!r}")


def by_others(folder: str, kind: str, seed: int) -> Callable[[], object]:
    """By numpy, h5py and Pillow, as they are."""
    file = hostile(folder, kind, seed)
    path = _written(folder, file)

    def call() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return _by_library(kind, path, file)
            # What their users would expect of a file that is damaged.
            except (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, *_OTHERS) as error:
                raise Refused(f"{type(error).__name__}: {error}"[:500]) from None

    return call


_LIBC = ctypes.CDLL(None)
_M_PERTURB = -6

_OTHERS = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    SyntaxError,  # Pillow's, of a broken PNG
    Image.DecompressionBombError,
)


def _by_library(kind: str, path: Path, file: Hostile) -> str:
    if kind == "hdf5":
        return _by_h5py(path)
    if kind == "image":
        with Image.open(path) as image:
            pixels = np.asarray(image)
            return answer(1, pixels.reshape(1, *image.size[::-1], -1))
    if kind == "raw":
        dtype = np.dtype(file.options["dtype"])
        rows = np.fromfile(path, dtype.base).reshape(-1, *file.options["row_shape"], *dtype.shape)
    elif kind == "text":
        rows = np.loadtxt(path, file.options["dtype"] or "f8", delimiter=",", ndmin=2)
    else:
        loaded = np.load(path, allow_pickle=False)
        rows = loaded[file.inner or loaded.files[0]] if kind == "npz" else loaded
    return answer(len(rows), rows)


def _by_h5py(path: Path) -> str:
    """What h5py reads, if that is in the file.

    Where a filter decodes a chunk to too little, HDF5 gives what lay in memory for the rest: so memory is filled in two ways.

    Raises
    ------
    Refused
    """
    answers = set()
    for fill in (0x55, 0xAA):
        _LIBC.mallopt(_M_PERTURB, fill)
        try:
            with h5py.File(path) as opened:
                dataset = opened["x"]
                if dataset.chunks is not None:
                    _check_table(dataset)
                answers.add(answer(dataset.shape[0], dataset[:_FIRST]))
        finally:
            _LIBC.mallopt(_M_PERTURB, 0)
    if len(answers) > 1:
        raise Refused("what HDF5 gives lay in memory before")
    return answers.pop()


def _check_table(dataset: h5py.Dataset) -> None:
    """HDF5 finds a chunk by the keys above it, and lists it without: where the two differ, it has no one answer.

    Raises
    ------
    Refused
    """
    listed: list[Any] = []
    dataset.id.chunk_iter(listed.append)
    for chunk in listed:
        try:
            dataset.id.read_direct_chunk(chunk.chunk_offset)
        except RuntimeError as error:
            raise Refused(f"the chunk at {chunk.chunk_offset} is listed, and not found ({error})") from None


def _nothing(folder: Path) -> None:
    """Each try makes its own file."""


_LIBRARIES = {"npy": "numpy", "npz": "numpy", "hdf5": "h5py", "raw": "numpy", "text": "numpy", "image": "Pillow"}

CORPORA = [
    Corpus(
        f"{kind} files",
        kind,
        write_pictures if kind == "image" else _nothing,
        {"swath": "hostile.inputs:by_swath", library: "hostile.inputs:by_others"},
        None if kind == "text" else library,
    )
    for kind, library in _LIBRARIES.items()
]
