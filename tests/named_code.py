"""Files of each kind that bring a pickle, or name code; and a child that opens them and notes what the interpreter then does.

    python named_code.py KIND FOLDER

It prints JSON: for each file the kinds of events ("found", the benign one first), all imports, and traces of what was run.
"""

import base64
import contextlib
import importlib
import io
import json
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import zarr

import swath
from swath import cli, metadata
from swath.errors import SwathError
from swath.sharing.form import parse_form

ROWS = np.arange(400.0).reshape(100, 4)

MODULE = "planted_by_a_file"
"""A module that could be imported, and leaves a file if it is."""
TRACE = "was-run"

# What the interpreter tells of itself (docs.python.org, "Audit events table") that no file should bring about.
WATCHED = {
    "compile", "exec", "import", "pickle.find_class", "marshal.loads", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
    "subprocess.Popen", "ctypes.dlopen", "ctypes.dlsym", "socket.connect", "webbrowser.open",
}  # fmt: skip


class Payload:
    """What unpickles by running something."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.trace}'",)


def _pickle(folder: Path) -> bytes:
    return pickle.dumps(Payload(folder / TRACE))


# What is built, by name: the first is benign.
Built = Iterator[tuple[str, Any]]


def _npy_bytes(descr: str, content: bytes) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (10,), }}"
    header = header.ljust(-(len(header) + 11) % 64 + len(header)) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


def _npys(folder: Path) -> Iterator[tuple[str, bytes]]:
    yield "benign", _npy_bytes("'<f8'", bytes(80))
    yield "pickle", _npy_bytes("'|O'", _pickle(folder))
    yield "pickle-of-the-right-size", _npy_bytes("'|O'", _pickle(folder)[:80].ljust(80, b"."))
    yield "field-of-pickles", _npy_bytes("[('a', '|O')]", _pickle(folder))
    yield "named", _npy_bytes(f"'{MODULE}.thing'", bytes(80))
    yield "called", _npy_bytes(f"__import__('{MODULE}').thing", bytes(80))
    yield "nothing-but-a-pickle", _pickle(folder)


def _npy(folder: Path) -> Built:
    for name, content in _npys(folder):
        (folder / f"{name}.npy").write_bytes(content)
        yield name, folder / f"{name}.npy"


def _npz(folder: Path) -> Built:
    for name, content in _npys(folder):
        for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(folder / f"{name}{how}.npz", "w", how) as file:
                file.writestr("a.npy", content)
            yield f"{name}{how}", f"{folder}/{name}{how}.npz::a"


def _changed(folder: Path, name: str, file: str, base: Path, change: dict[str, Any]) -> Path:
    """A copy of an array, whose metadata have other values, and whose chunks are pickles."""
    place = folder / name
    for path in base.rglob("*"):
        if path.is_file():
            (place / path.relative_to(base)).parent.mkdir(parents=True, exist_ok=True)
            is_changed = path.name == file
            content = json.dumps(json.loads(path.read_text()) | change).encode() if is_changed else _pickle(folder)
            (place / path.relative_to(base)).write_bytes(content)
    return place


def _zarr_v2(folder: Path) -> Built:
    zarr.create_array(folder / "benign", data=ROWS, chunks=(10, 4), zarr_format=2, compressors=None)
    yield "benign", folder / "benign"
    changes: dict[str, dict[str, Any]] = {
        "filter": {"filters": [{"id": "pickle"}]},
        "compressor": {"compressor": {"id": "pickle", "protocol": 5}},
        "behind-a-filter": {"filters": [{"id": "delta", "dtype": "<f8"}, {"id": "pickle"}]},
        "before-a-filter": {"filters": [{"id": "pickle"}, {"id": "delta", "dtype": "<f8"}]},
        "both": {"filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}, "dtype": "|O", "fill_value": ""},
        "objects": {"filters": [{"id": "pickle"}], "dtype": "|O", "fill_value": None},
        "fill": {
            "dtype": "|O",
            "fill_value": base64.b64encode(_pickle(folder)).decode(),
            "filters": [{"id": "pickle"}],
        },
        "void-fill": {"dtype": "|V8", "fill_value": base64.b64encode(_pickle(folder)).decode()},
        "codec": {"compressor": {"id": MODULE}},
        "codec-path": {"compressor": {"id": f"{MODULE}:Codec"}},
        "dtype": {"dtype": f"{MODULE}.thing"},
        "dtype-list": {"dtype": [["a", MODULE]]},
        "json": {"filters": [{"id": "json2"}], "dtype": "|O", "fill_value": None},
        "msgpack": {"filters": [{"id": "msgpack2"}], "dtype": "|O", "fill_value": None},
    }
    for name, change in changes.items():
        yield name, _changed(folder, name, ".zarray", folder / "benign", change)


def _zarr_v3(folder: Path) -> Built:
    zarr.create_array(folder / "benign", data=ROWS, chunks=(10, 4), compressors=None)
    yield "benign", folder / "benign"
    named = {"name": MODULE, "configuration": {}}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharded = {"chunk_shape": [5, 4], "codecs": [little, {"name": "numcodecs.pickle"}], "index_codecs": [little]}
    changes: dict[str, dict[str, Any]] = {
        "codec": {"codecs": [little, named]},
        "codec-path": {"codecs": [little, {"name": f"{MODULE}:Codec"}]},
        "pickle": {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
        "pickle-too": {"codecs": [little, {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]},
        "numcodecs": {"codecs": [little, {"name": f"numcodecs.{MODULE}", "configuration": {}}]},
        "in-a-shard": {"codecs": [{"name": "sharding_indexed", "configuration": sharded}]},
        "dtype": {"data_type": MODULE},
        "dtype-object": {"data_type": named},
        "objects": {"data_type": "object"},
        "grid": {"chunk_grid": {"name": MODULE, "configuration": {"chunk_shape": [10, 4]}}},
        "keys": {"chunk_key_encoding": named},
        "transformers": {"storage_transformers": [named]},
        "extension": {MODULE: {"name": MODULE, "must_understand": False}},
        "attributes": {"attributes": {"py/object": MODULE, "__class__": MODULE, "!!python/name": MODULE}},
    }
    for name, change in changes.items():
        yield name, _changed(folder, name, "zarr.json", folder / "benign", change)


def _store(folder: Path) -> Built:
    swath.ingest(ROWS, folder / "benign", window=4, codec="raw")
    yield "benign", folder / "benign"
    for k, change in enumerate([
        {"dtype": "|O"},
        {"dtype": [["a", "|O"]]},
        {"dtype": f"{MODULE}.thing"},
        {"codec": MODULE},
        {"codec": "pickle"},
        {"sources": [{"kind": MODULE, "path": f"{MODULE}.py"}]},
    ]):  # fmt: skip
        place = _changed(folder, str(k), "none", folder / "benign", {})
        document = json.loads((folder / "benign/zarr.json").read_bytes())
        document["attributes"]["swath"] |= change
        (place / "zarr.json").write_bytes(metadata._seal(document))
        yield str(k), place


def _hdf5(folder: Path) -> Built:
    with h5py.File(folder / "a.h5", "w") as file:
        file["benign"] = ROWS
        file["pickled"] = np.void(_pickle(folder))
        file["text"] = np.array(["x"] * 10, h5py.string_dtype())
        file.create_dataset("opaque", data=np.array([_pickle(folder)] * 10, "V"))
        file["named"] = ROWS
        # PyTables takes such attributes for pickles.
        file["named"].attrs["CLASS"], file["named"].attrs["FLAVOR"] = f"{MODULE}.thing", np.void(_pickle(folder))
    for name in ("benign", "pickled", "text", "opaque", "named"):
        yield name, f"{folder}/a.h5::{name}"


def _text(folder: Path) -> Built:
    for name, field in {
        "benign": "1.5",
        "call": f"__import__('{MODULE}')",
        "pickle": "cos\nsystem\n(S'x'\ntR.",
    }.items():
        (folder / f"{name}.csv").write_text(f"1.0,2.0\n{field},3.0\n" * 5)
        yield name, folder / f"{name}.csv"


def _images(folder: Path) -> Built:
    from PIL import Image

    image = Image.new("RGB", (4, 4))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(was-run) (w) file\nshowpage\n"
    for name, content in {"benign": encoded.getvalue(), "postscript": postscript, "pickle": _pickle(folder)}.items():
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(content)
        yield name, folder / name


def _starts(folder: Path) -> Built:
    """Of the command line."""
    swath.ingest(ROWS, folder / "store", window=4)
    for name, content in _npys(folder):
        (folder / f"{name}.npy").write_bytes(content.replace(b"<f8", b"<i8"))
        yield name, folder / f"{name}.npy"


def _forms(folder: Path) -> Built:
    """What a server of batches says of its memory."""
    for name, dtype in {"benign": "<f8", "objects": "|O", "named": f"{MODULE}.thing", "field": [["a", "|O"]]}.items():
        yield name, {"names": None, "dtypes": [dtype], "shapes": [[2, 2]]}


def _control(folder: Path) -> Built:
    """What a careless reader would do."""
    (folder / "benign").write_bytes(pickle.dumps(1))
    yield "benign", folder / "benign"
    (folder / "pickle").write_bytes(_pickle(folder))
    yield "pickle", folder / "pickle"
    yield "module", MODULE


def _careless(place: Any) -> None:
    if place == MODULE:
        importlib.import_module(MODULE)
    else:
        pickle.loads(place.read_bytes())


def _open(place: Any) -> None:
    swath.open(place).gather([0], window=2)


def _ingest(place: Any) -> None:
    swath.ingest(place, Path.cwd() / "out", window=2, overwrite=True)


def _plan(place: Any) -> None:
    cli.cli.main(["plan", str(place.parent / "store"), "--starts", str(place)], standalone_mode=False)


KINDS: dict[str, tuple[Callable[[Path], Built], tuple[Callable[[Any], Any], ...]]] = {
    "npy": (_npy, (_open, _ingest)),
    "npz": (_npz, (_ingest,)),
    "zarr-v2": (_zarr_v2, (_open, _ingest)),
    "zarr-v3": (_zarr_v3, (_open, _ingest)),
    "store": (_store, (_open, _ingest)),
    "hdf5": (_hdf5, (_open, _ingest)),
    "text": (_text, (_ingest,)),
    "images": (_images, (_ingest,)),
    "starts": (_starts, (_plan,)),
    "control": (_control, (_careless,)),
    "forms": (_forms, (lambda form: parse_form(form).views(np.zeros(64, np.uint8)),)),
}


def main(kind: str, folder: Path) -> None:
    os.chdir(folder)
    (folder / f"{MODULE}.py").write_text(f"open({str(folder / TRACE)!r}, 'w').close()\nthing = Codec = float\n")
    sys.path.insert(0, str(folder))
    # Whoever has allowed pickles to zarr-python has not allowed them to us.
    zarr.config.set({"array.allow_unsafe_pickle_decode": True})
    os.environ["NUMCODECS_ALLOW_UNSAFE_PICKLE_DECODE"] = "1"
    import numcodecs.pickles

    numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE = True
    (folder / "files").mkdir()
    build, calls = KINDS[kind]
    files = dict(build(folder / "files"))

    events: set[str] = set()
    imports: list[str] = []

    class Noting:
        """Asked for whatever is not imported yet: the audit event is none of `importlib.import_module`."""

        def find_spec(self, name: str, *_: Any) -> None:
            imports.append(name)

    sys.meta_path.insert(0, Noting())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in WATCHED:
            events.add(event)

    def call_all(place: Any) -> None:
        for call in calls:
            with contextlib.suppress(SwathError, ValueError, TypeError, click.ClickException):
                call(place)

    warnings.simplefilter("ignore")
    sys.stdout = io.StringIO()
    call_all(next(iter(files.values())))
    sys.addaudithook(hook)
    found = []
    for place in files.values():  # what is imported with the first error
        call_all(place)
    for name, place in files.items():
        events.clear()
        call_all(place)
        found.append((name, sorted(events)))
    sys.stdout = sys.__stdout__
    print(json.dumps({"found": found, "imports": imports, "run": [str(p) for p in folder.rglob(TRACE)]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
