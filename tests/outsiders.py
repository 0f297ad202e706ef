"""Files that name, or lead to, other files: what each call does with them, and a look-out for who touches the bait.

Each case builds something in the folder ``root`` that would lead a careless reader, or writer, to the folder ``bait`` beside it.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

import swath
from swath import commit, metadata
from swath.errors import SwathError

ROWS = np.arange(400.0).reshape(100, 4)
MARK = 4242.0
"""All values in the bait."""

Call = Callable[[Path, Path], Any]
"""Given the root, and a folder for what it writes."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is built, and what is called."""

    build: Callable[[Path, Path], None]
    """Given the root, and the bait."""
    refused: tuple[Call, ...] = ()
    """Calls that end in an error of swath."""
    harmless: tuple[Call, ...] = ()
    """Calls that may do something else, in the root."""


def make_bait(bait: Path) -> None:
    """A Zarr array in many shapes, and an HDF5 file: whatever is read of it is `MARK`."""
    marked = np.full_like(ROWS, MARK)
    swath.ingest(marked, bait / "store", window=4, codec="raw")
    swath.ingest(marked, bait / "c", window=4, codec="raw")
    for name in ("arr", "nested"):
        zarr.create_array(bait / name, data=marked, chunks=(10, 4), compressors=None)
    zarr.create_array(bait / "v2", data=marked, chunks=(10, 4), zarr_format=2, compressors=None)
    (bait / "bytes").write_bytes(marked.tobytes())
    with h5py.File(bait / "file.h5", "w") as file:
        file["x"] = marked
    shutil.copy(bait / "file.h5", bait / "other.h5")


# The names that a file gives to others


def _group(name: str) -> Callable[[Path, Path], None]:
    def build(root: Path, bait: Path) -> None:
        swath.ingest_group({"X": ROWS}, root / "g", window=4, codec="raw")
        document = json.loads((root / "g/zarr.json").read_bytes())
        inline = document["consolidated_metadata"]["metadata"]
        document["attributes"]["swath"]["arrays"].append(name.format(bait=bait))
        inline[name.format(bait=bait)] = inline["X"]
        (root / "g/zarr.json").write_bytes(metadata._seal(document))

    return build


def _separator(separator: str) -> Callable[[Path, Path], None]:
    def build(root: Path, bait: Path) -> None:
        swath.ingest(ROWS, root / "a", window=4, codec="raw")
        document = json.loads((root / "a/zarr.json").read_bytes())
        document["chunk_key_encoding"]["configuration"]["separator"] = separator
        (root / "a/zarr.json").write_bytes(metadata._seal(document))

    return build


def _foreign_separator(separator: str) -> Callable[[Path, Path], None]:
    def build(root: Path, bait: Path) -> None:
        _foreign(root / "a")
        document = json.loads((root / "a/zarr.json").read_bytes())
        document["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": separator}}
        (root / "a/zarr.json").write_text(json.dumps(document))

    return build


def _v2_separator(separator: str) -> Callable[[Path, Path], None]:
    def build(root: Path, bait: Path) -> None:
        _foreign(root / "a", zarr_format=2)
        document = json.loads((root / "a/.zarray").read_bytes()) | {"dimension_separator": separator}
        (root / "a/.zarray").write_text(json.dumps(document))

    return build


def _consolidated(name: str) -> Callable[[Path, Path], None]:
    def build(root: Path, bait: Path) -> None:
        group = zarr.create_group(root / "g")
        group.create_array("X", data=ROWS, chunks=(10, 4), compressors=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(root / "g")
        document = json.loads((root / "g/zarr.json").read_bytes())
        inline = document["consolidated_metadata"]["metadata"]
        inline[name.format(bait=bait)] = inline["X"]
        (root / "g/zarr.json").write_text(json.dumps(document))

    return build


def _sources(root: Path, bait: Path) -> None:
    swath.ingest(ROWS, root / "a", window=4, codec="raw")
    document = json.loads((root / "a/zarr.json").read_bytes())
    document["attributes"]["swath"]["sources"][0] = {"kind": "npy", "path": str(bait / "bytes"), "given": True}
    (root / "a/zarr.json").write_bytes(metadata._seal(document))


def _zip(root: Path, bait: Path) -> None:
    encoded = io.BytesIO()
    np.save(encoded, ROWS)
    with zipfile.ZipFile(root / "a.npz", "w") as file:
        for name in ("../bait/bytes.npy", f"{bait}/bytes.npy"):
            file.writestr(name, encoded.getvalue())


# Links


def _linked_shard(root: Path, bait: Path) -> None:
    swath.ingest(ROWS, root / "a", window=4, codec="raw")
    _link(root / "a/c.0.0", bait / "store/c.0.0")


def _linked_metadata(root: Path, bait: Path) -> None:
    swath.ingest(ROWS, root / "a", window=4, codec="raw")
    _link(root / "a/zarr.json", bait / "store/zarr.json")


def _linked_member(root: Path, bait: Path) -> None:
    swath.ingest_group({"X": ROWS}, root / "g", window=4, codec="raw")
    _link(root / "g/X", bait / "c")


def _linked_stage(root: Path, bait: Path) -> None:
    """As if an append to a group had been killed after its commit: it would be completed in the array that is a link."""
    _linked_member(root, bait)
    stage = root / ".g.swath-append"
    (stage / "X").mkdir(parents=True)
    shutil.copy(root / "g/zarr.json", stage / "zarr.json")
    (stage / "X/c.0.0").write_bytes(b"overwritten")


def _linked_chunk(root: Path, bait: Path) -> None:
    _foreign(root / "a")
    _link(root / "a/c/1/0", bait / "arr/c/1/0")


def _linked_way(root: Path, bait: Path) -> None:
    """The folder of all chunks, through a second link."""
    _foreign(root / "a")
    (root / "way").symlink_to(bait / "arr/c")
    _link(root / "a/c", root / "way")


def _linked_v2(root: Path, bait: Path) -> None:
    _foreign(root / "a", zarr_format=2)
    _link(root / "a/1.0", bait / "v2/1.0")


def _linked_v2_metadata(root: Path, bait: Path) -> None:
    _foreign(root / "a", zarr_format=2)
    _link(root / "a/.zarray", bait / "v2/.zarray")


def _linked_for_library(root: Path, bait: Path) -> None:
    """An index of shards that only zarr-python reads."""
    index_codecs = [zarr.codecs.BytesCodec(endian="big")]
    codec = zarr.codecs.ShardingCodec(chunk_shape=(5, 4), codecs=[zarr.codecs.BytesCodec()], index_codecs=index_codecs)
    _foreign(root / "a", serializer=codec)
    assert swath.open(root / "a")._rows.layout.by_library
    _link(root / "a/c/1/0", bait / "arr/c/1/0")


def _linked_array(root: Path, bait: Path) -> None:
    group = zarr.create_group(root / "g")
    group.create_array("X", data=ROWS, chunks=(10, 4), compressors=None)
    _link(root / "g/X", bait / "arr")


def _linked_in_a_circle(root: Path, bait: Path) -> None:
    _foreign(root / "a")
    _link(root / "a/c/1/0", root / "a/c/1/0")


def _foreign(path: Path, **options: Any) -> None:
    zarr.create_array(path, data=ROWS, chunks=(10, 4), **({"compressors": None} | options))


def _link(path: Path, target: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


# HDF5


def _hdf5(root: Path, bait: Path) -> None:
    with h5py.File(root / "a.h5", "w") as file:
        file["x"] = ROWS
        file["external-link"] = h5py.ExternalLink(str(bait / "file.h5"), "x")
        file["other-file"] = h5py.ExternalLink(str(bait / "other.h5"), "/")
        file["soft"] = h5py.SoftLink("/external-link")
        file["around"] = h5py.SoftLink("around")
        file.create_dataset("external", ROWS.shape, "f8", external=[(str(bait / "bytes"), 0, ROWS.nbytes)])
        virtual = h5py.VirtualLayout(ROWS.shape, "f8")
        virtual[:] = h5py.VirtualSource(bait / "file.h5", "x", ROWS.shape)
        file.create_virtual_dataset("virtual", virtual)


def _of_hdf5(name: str) -> tuple[Call, ...]:
    return (
        lambda root, out: swath.open(f"{root}/a.h5::{name}"),
        lambda root, out: swath.ingest(f"{root}/a.h5::{name}", out / "a"),
    )


def _open(name: str) -> Call:
    return lambda root, out: swath.open(root / name).gather(np.arange(0, 96), window=4)


def _ingest(name: str) -> Call:
    return lambda root, out: swath.ingest(root / name, out / "a", overwrite=True).gather(np.arange(0, 96), window=4)


def _append(root: Path, out: Path) -> Any:
    return swath.open(root / "a").append(ROWS)


def _verify(root: Path, out: Path) -> Any:
    found = swath.open(root / "a").verify()
    if not found:
        raise SwathError(str(found))


def _repair(root: Path, out: Path) -> Any:
    return swath.open(root / "a").repair(ROWS)


def _read_group(root: Path, out: Path) -> Any:
    return swath.open_group(root / "g").gather(np.arange(0, 96), window=4)


def _append_group(root: Path, out: Path) -> Any:
    return swath.open_group(root / "g").append({"X": ROWS})


def _replace_group(root: Path, out: Path) -> Any:
    return swath.ingest_group({"X": ROWS}, root / "g", overwrite=True)


def _ingest_group(root: Path, out: Path) -> Any:
    return swath.ingest_group(root / "g", out / "g", overwrite=True)


def _export(name: str) -> Call:
    return lambda root, out: swath.export(
        swath.ingest(ROWS, out / "rows", overwrite=True), f"{root}/a.h5::{name}", overwrite=True
    )


def _export_names(root: Path, out: Path) -> Any:
    a = swath.ingest(ROWS, out / "rows")
    return swath.export({"../bait/new": a, "y": a}, root / "b.zarr")


_NAMES = ("../../bait/store", "{bait}/store", "X/../../../bait/store", "..", ".", "", "a\0b", "a\\..\\b", "%2e%2e/bait")
_SEPARATORS = ("/../../bait/", "/../../../bait/", "\0", "", "\\..\\")
_OURS: tuple[Call, ...] = (_open("a"), _verify, _append, _repair, _ingest("a"))
_FOREIGN: tuple[Call, ...] = (_open("a"), _ingest("a"))

CASES = {
    **{f"group-{name!r}": Case(_group(name), (_read_group, _append_group), (_replace_group,)) for name in _NAMES},
    **{f"separator-{each!r}": Case(_separator(each), _OURS[:-1], _OURS[-1:]) for each in _SEPARATORS},
    **{f"foreign-separator-{each!r}": Case(_foreign_separator(each), _FOREIGN) for each in _SEPARATORS},
    **{f"v2-separator-{each!r}": Case(_v2_separator(each), _FOREIGN) for each in _SEPARATORS},
    **{f"consolidated-{name!r}": Case(_consolidated(name), (_ingest_group, _open("g"))) for name in _NAMES if name},
    "sources": Case(_sources, (), (_open("a"), lambda root, out: swath.open(root / "a").verify(), _repair)),
    "zip": Case(_zip, (), (_ingest("a.npz::../bait/bytes"),)),
    "linked-shard": Case(_linked_shard, (_open("a"), _verify, _append, _ingest("a"))),
    "linked-metadata": Case(_linked_metadata, (_open("a"), _append, _ingest("a"))),
    "linked-member": Case(_linked_member, (_read_group, _append_group), (_replace_group,)),
    "linked-stage": Case(_linked_stage, (lambda root, out: commit.settle(root / "g"),)),
    "linked-chunk": Case(_linked_chunk, _FOREIGN),
    "linked-way": Case(_linked_way, _FOREIGN),
    "linked-v2": Case(_linked_v2, _FOREIGN),
    "linked-v2-metadata": Case(_linked_v2_metadata, _FOREIGN),
    "linked-for-library": Case(_linked_for_library, _FOREIGN),
    "linked-array": Case(_linked_array, (_ingest_group, _ingest("g::X"))),
    "linked-in-a-circle": Case(_linked_in_a_circle, _FOREIGN),
    **{
        f"hdf5-{name}": Case(_hdf5, _of_hdf5(name))
        for name in ("external-link", "other-file/x", "soft", "around", "external", "virtual")
    },
    "hdf5-group": Case(_hdf5, (lambda root, out: swath.ingest_group(f"{root}/a.h5::other-file", out / "g"),)),
    "hdf5-export": Case(_hdf5, tuple(map(_export, ("external-link", "other-file/x", "other-file/new", "soft")))),
    "export-names": Case(lambda root, bait: None, (_export_names,)),
}


def run(case: Case, root: Path, out: Path) -> Iterator[tuple[bool, SwathError | None, Any]]:
    """Make the calls: whether each shall be refused, with what it was, and what it gave."""
    for call in (*case.refused, *case.harmless):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield call in case.refused, None, call(root, out)
            except SwathError as error:
                yield call in case.refused, error, None


def main() -> None:
    """Make the calls of all cases that were built in a folder; for a tracer to watch."""
    folder = Path(sys.argv[1])
    for name, case in CASES.items():
        for _ in run(case, folder / name_of(name) / "root", folder / name_of(name) / "out"):
            pass


def name_of(case: str) -> str:
    """A name for a folder."""
    return str(list(CASES).index(case))


# Of <sys/inotify.h>: read, changed, attributes, written, opened, moved, made, removed. To be closed is to have been opened.
_ANY_USE = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200
_EVENT = struct.Struct("iIII")


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """What the kernel saw of uses of a folder, and of all in it: by any process, in whatever language. Needs no rights."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    try:
        folders: dict[int, Path] = {}
        for each in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            number = libc.inotify_add_watch(descriptor, os.fsencode(each), _ANY_USE)
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(each))
            folders[number] = each
        _events(descriptor, folders)  # those of the walk itself
        yield lambda: _events(descriptor, folders)
    finally:
        os.close(descriptor)


def _events(descriptor: int, folders: dict[int, Path]) -> list[str]:
    found, content = [], b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(descriptor, 2**16):
            content += more
    while content:
        number, mask, _, length = _EVENT.unpack_from(content)
        name = content[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode()
        found.append(f"{folders.get(number)}/{name}: {mask:#x}")
        content = content[_EVENT.size + length :]
    return found


if __name__ == "__main__":
    main()
