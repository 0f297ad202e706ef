"""What HDF5's library says of a dataset, and the rows that it reads.

libhdf5 ends its process on some damaged files, hangs on others, and inflates what it is told to. So where a file is named by its path,
this runs in a process of its own (`swath.sources.hdf5_process`), which may end so. It answers requests in JSON through a socket: what
crosses it are numbers, text and the bytes of rows, all of which the caller checks.

The child runs this file by itself, without the package around it, which takes as long to import as h5py does.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# Open files that are kept, so that what HDF5 has cached of them is found again; caches of this size together at the most, since a
# request allows memory for its own alone.
_MOST_OPEN = 4
_KEPT_BYTES = 2**26

# What the library may take beside what a request allows: its caches of metadata, and its buffers.
_ROOM_BYTES = 2**27

# A child that nobody asks for so long ends. The next request starts another.
_IDLE_SECONDS = 60.0

# What is said of the process, and not of the file: what came before has left no memory, or h5py has failed without an error (once in
# the 4,958 tests, by Python 3.13, of a file that the next request read).
_SPENT = (MemoryError, SystemError)

_MOST_LINKS = 16

# Names of datasets that an error tells: to find all of them takes seconds in a large file.
_MOST_TOLD = 9

MOST_ANSWER_BYTES = 2**26
"""Of an answer but for its rows."""


class ElsewhereError(Exception):
    """A link that leads out of the file."""


def facts_of(dataset: h5py.Dataset) -> dict[str, Any]:
    """All that is asked of a dataset before its rows are read, as JSON values."""
    created, kind = dataset.id.get_create_plist(), dataset.id.get_type()
    facts: dict[str, Any] = {"name": dataset.name, "elsewhere": elsewhere(dataset), "dtype": None, "why": ""}
    facts |= {"shape": dataset.shape, "chunks": dataset.chunks, "value_bytes": kind.get_size()}
    try:
        facts |= {"dtype": describe_type(dataset.dtype), "exact": bool(h5py.h5t.py_create(dataset.dtype) == kind)}
    except (TypeError, ValueError) as error:
        facts["why"] = str(error)
    filters = [created.get_filter(i) for i in range(created.get_nfilters())]
    facts["filters"] = [
        {"number": n, "options": options, "name": name.decode(errors="replace"), "here": bool(h5py.h5z.filter_avail(n))}
        for n, _, options, name in filters
    ]
    facts["stored_bytes"] = dataset.id.get_storage_size()
    # Where nothing was ever written there are no bytes; behind a user block, HDF5 gives an offset all the same.
    has_offset = facts["stored_bytes"] and not facts["elsewhere"]
    facts["offset"] = dataset.id.get_offset() if has_offset else None
    return facts


def elsewhere(dataset: h5py.Dataset) -> bool:
    """Whether values lie in other files."""
    return bool(dataset.is_virtual or dataset.external)


def describe_type(dtype: np.dtype[Any]) -> Any:
    """A dtype in JSON, with the offsets of its fields, which HDF5 may have in any order."""
    if dtype.subdtype is not None:
        return [describe_type(dtype.base), list(dtype.shape)]
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": dtype.names,
        "formats": [describe_type(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
    }


def table_of(dataset: h5py.Dataset) -> np.ndarray[Any, Any]:
    """Offset, size and skipped filters of all chunks in the order of their grid: zeros for those that were never written."""
    grid = tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks))
    table = np.zeros((3, *grid), np.int64)
    # A callback for each chunk: one that only keeps what it is given takes 1 us, and one that looks at it several.
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    if chunks:
        index = np.array([chunk.chunk_offset for chunk in chunks]) // dataset.chunks
        facts = [(chunk.byte_offset, chunk.size, chunk.filter_mask) for chunk in chunks]
        table[(slice(None), *index.T)] = np.array(facts, np.int64).T
    return table


def fill_of(dataset: h5py.Dataset) -> Any:
    """Of chunks that were never written; None where the file says that it has none."""
    defined = dataset.id.get_create_plist().fill_value_defined()
    return None if defined == h5py.h5d.FILL_VALUE_UNDEFINED else dataset.fillvalue


def with_cache(dataset: h5py.Dataset, cache_bytes: int) -> h5py.Dataset:
    """The dataset with a chunk cache of so many bytes, so that no chunk is decoded twice.

    HDF5 takes the size of a cache when a dataset is opened and is not open already: the one that is given is closed.
    """
    if dataset.chunks is None or not cache_bytes:
        return dataset
    file, name = dataset.file, dataset.name.encode()
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    # Chunks that were read in part are not kept beyond the size of the cache unless the last number is 1.
    access.set_chunk_cache(10_007, max(cache_bytes, 2**20), 0.75)
    dataset.id.close()
    return h5py.Dataset(h5py.h5d.open(file.id, name, access))


def dataset_names(group: h5py.Group, most: int | None = None) -> list[str]:
    """Names of all datasets in a group, or of some, those in its groups too; links are not followed."""
    names: list[str] = []

    def note(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset):
            names.append(name)
        return True if len(names) == most else None  # None goes on

    group.visititems(note)
    return names


def find(file: h5py.File, name: str) -> Any:
    """What stands at a name, by links within the file; None if nothing does.

    Raises
    ------
    ElsewhereError
        A link leads to another file, which is not looked at.
    """
    found: Any = file
    left, links = [part for part in reversed(name.split("/")) if part not in ("", ".")], 0
    while left:
        part = left.pop()
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise ElsewhereError(f"{link.filename}::{link.path}")
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MOST_LINKS:
                return None
            found = file if link.path.startswith("/") else found
            left += [part for part in reversed(link.path.split("/")) if part not in ("", ".")]
        else:
            found = None if link is None else found.get(part)
        if found is None:
            return None
    return found


def _look(file: h5py.File, name: str) -> dict[str, Any]:
    """Facts of a dataset, or what there is instead."""
    found = find(file, name)
    if name and isinstance(found, h5py.Dataset):
        # Of a virtual dataset the shape alone may be looked up in other files.
        return {"facts": {"name": found.name, "elsewhere": True} if elsewhere(found) else facts_of(found)}
    return {"missing": "none" if found is None else "group", "has": dataset_names(file, _MOST_TOLD)}


def _names(file: h5py.File, name: str) -> dict[str, Any]:
    """Names of the datasets in a group."""
    found = find(file, name)
    return {"has": dataset_names(found)} if isinstance(found, h5py.Group) else {"missing": "none"}


class _Server:
    """Answers requests about files, some of which it keeps open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: OrderedDict[str, tuple[h5py.Dataset, int]] = OrderedDict()
        """With the size of the cache of each."""
        self._room = _used_bytes() + _ROOM_BYTES

    def answer(self, request: dict[str, Any]) -> None:
        """Do what is asked, within its limits."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + request["seconds"])
        _limit(resource.RLIMIT_DATA, self._room + request["room"])
        for plugin in request["plugins"]:
            __import__(plugin)
        body: Any = None
        try:
            reply, body = self._do(request)
        except ElsewhereError as error:
            reply = {"away": str(error)}
        except Exception as error:  # whatever h5py makes of it
            reply = {"broken": f"{type(error).__name__}: {error}", "is_spent": isinstance(error, _SPENT)}
        encoded = json.dumps(reply).encode()
        if len(encoded) > MOST_ANSWER_BYTES:
            encoded, body = json.dumps({"broken": f"what it has to tell takes {len(encoded)} bytes"}).encode(), None
        self._connection.send_bytes(encoded)
        if body is not None:
            self._connection.send_bytes(body)

    def _do(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        path, name = request["path"], request["name"]
        if request["what"] in ("look", "names"):
            # HDF5 opens no file with a lock, which tells whether somebody writes it, that is open without.
            while self._open:
                self._open.popitem()[1][0].file.close()
            try:
                file = h5py.File(path, "r")
            except OSError as error:
                return {"unopened": str(error)}, None
            with file:
                return (_look if request["what"] == "look" else _names)(file, name), None
        dataset = self._dataset(path, name, request["version"], request["cache"])
        if request["what"] == "table":
            fill = fill_of(dataset)
            body = np.ascontiguousarray(table_of(dataset))
            return {"fill": None if fill is None else np.asarray(fill, dataset.dtype).tobytes().hex()}, body
        rows = np.ascontiguousarray(dataset[tuple(slice(a, b) for a, b in request["part"])])
        if not rows.nbytes:
            raise ValueError("it has fewer rows than it had")
        return {"bytes": rows.nbytes}, rows.reshape(-1).view(np.uint8)

    def _dataset(self, path: str, name: str, version: list[int], cache: int) -> h5py.Dataset:
        """A dataset of a version of a file. No lock is held while it is kept: versions are compared."""
        key = json.dumps([path, name, version, cache])
        found = self._open.pop(key, None)
        while len(self._open) >= _MOST_OPEN or sum(kept for _, kept in self._open.values()) > _KEPT_BYTES:
            self._open.popitem(last=False)[1][0].file.close()
        if found is not None:
            self._open[key] = found
            return found[0]
        stat = Path(path).stat()
        if [stat.st_size, stat.st_mtime_ns] != version:
            raise ValueError("the file was changed since it was opened")
        dataset = find(h5py.File(path, "r", locking=False), name)
        if elsewhere(dataset):
            raise ValueError("its values lie in other files by now")
        self._open[key] = with_cache(dataset, cache), cache
        return self._open[key][0]


def _used_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def serve(socket_fd: int) -> None:
    """What the child does, until its socket is closed, or nobody asks."""
    connection = Connection(socket_fd)
    server = _Server(connection)
    while connection.poll(_IDLE_SECONDS):
        try:
            request = json.loads(connection.recv_bytes())
            server.answer(request)
        except (EOFError, OSError):
            break
    os._exit(0)  # HDF5 closes files when a process ends, and may crash then


if __name__ == "__main__":
    serve(int(sys.argv[1]))
