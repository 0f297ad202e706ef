"""Datasets of an HDF5 file, new or not.

HDF5 meets a full disk when it closes the file, and may then end the process: the room is taken before the file is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from swath.errors import LayoutError, StoreExistsError, TargetError
from swath.storage import MOST_WRITE_BYTES, staged, take_room, writing_to
from swath.targets import Item, Write, check_file, check_parent

# What a dataset needs beside its values: header, name and index of chunks, of which a node may be half full.
_DATASET_BYTES = 2**14
_CHUNK_ENTRY_BYTES = 64


@dataclass(frozen=True, slots=True)
class Hdf5Target:
    """Datasets, contiguous or in chunks of whole rows."""

    path: Path
    items: tuple[Item, ...]
    """Their names are those within the file."""
    overwrite: bool

    held_copies = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the values, and of what HDF5 keeps of them."""
        return sum(map(_stored_bytes, self.items))

    def step_rows(self, item: Item) -> int:
        """Any number of rows: chunks that are not compressed are written in parts."""
        return 1

    def check(self) -> None:
        """Refuse what cannot be written here; see `Target`."""
        for item in self.items:
            _stored_dtype(item)
        if not self.path.exists():
            check_parent(self.path)
            return
        check_file(self.path, overwrite=True)
        with self._opened(self.path, "r") as file:
            self._check_vacant(file)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Sequence[Write]]:
        """What takes the rows; see `Target`."""
        if self.path.exists():
            with self._adding(self.path) as writes:
                yield writes
            return
        with staged(self.path, self.n_bytes, overwrite=False) as temporary:
            with writing_to(self.path, self.n_bytes):
                h5py.File(temporary, "x").close()
            with self._adding(temporary) as writes:
                yield writes

    @contextlib.contextmanager
    def _adding(self, path: Path) -> Iterator[Sequence[Write]]:
        """Write to datasets of a hidden group, which get their names at the end; after an error the group is gone."""
        hidden = f".swath-{uuid.uuid4().hex}"
        with self._opened(path, "r+") as file:
            self._check_vacant(file)
        with writing_to(self.path, self.n_bytes):
            _reserve(path, self.n_bytes)
        with self._opened(path, "r+") as file:
            try:
                datasets = [_create(file, f"{hidden}/{i}", item) for i, item in enumerate(self.items)]
                yield [partial(self._write, dataset) for dataset in datasets]
                with writing_to(self.path, self.n_bytes):
                    file.flush()
                    for dataset, item in zip(datasets, self.items):
                        if item.name in file:
                            del file[item.name]
                        file.move(dataset.name, item.name)
            finally:
                with writing_to(self.path, self.n_bytes):
                    if hidden in file:
                        del file[hidden]
                    file.flush()
        with writing_to(self.path, self.n_bytes), path.open("rb") as written:
            os.fsync(written.fileno())

    def _write(self, dataset: h5py.Dataset, start: int, rows: NDArray[Any]) -> None:
        rows = rows.view(dataset.dtype)  # datetimes are opaque to HDF5; h5py says so by metadata of the dtype
        # HDF5 makes one system call for each chunk, and one for all of a block where there are none.
        step = len(rows) if dataset.chunks else max(1, MOST_WRITE_BYTES * len(rows) // rows.nbytes)
        with writing_to(self.path, self.n_bytes):
            for i in range(0, len(rows), step):
                some = rows[i : i + step]
                dataset.write_direct(some, dest_sel=np.s_[start + i : start + i + len(some)])

    def _opened(self, path: Path, mode: str) -> h5py.File:
        with writing_to(self.path, self.n_bytes):
            return h5py.File(path, mode)

    def _check_vacant(self, file: h5py.File) -> None:
        for item in self.items:
            parts = item.name.split("/")
            for i in range(1, len(parts)):
                parent = "/".join(parts[:i])
                link = file.get(parent, getlink=True)
                if link is None:
                    break
                if not isinstance(link, h5py.HardLink) or not isinstance(file[parent], h5py.Group):
                    raise TargetError(
                        f"{self.path} has {parent!r}, which is no group of this file. Choose another name."
                    )
            else:
                self._check_name(file, item.name)

    def _check_name(self, file: h5py.File, name: str) -> None:
        link = file.get(name, getlink=True)
        if link is None:
            return
        # Another link may lead to another file, which would be opened to be written to.
        if not isinstance(link, h5py.HardLink) or not isinstance(file.get(name), h5py.Dataset):
            raise StoreExistsError(f"{self.path} has {name!r}, which is no dataset. Choose another name.")
        if not self.overwrite:
            raise StoreExistsError(
                f"{self.path} has a dataset {name!r} already. Choose another name, or give overwrite=True to replace it."
            )


def _stored_dtype(item: Item) -> np.dtype[Any]:
    """The dtype that h5py is told, and gives back as the item's.

    Raises
    ------
    LayoutError
    """
    dtype = h5py.opaque_dtype(item.dtype) if item.dtype.kind in "mM" else item.dtype
    try:
        same = h5py.h5t.py_create(dtype, logical=True).dtype == item.dtype
    except (TypeError, ValueError) as error:
        raise LayoutError(f"HDF5 cannot hold the dtype {item.dtype} ({error}). Export to .npy, or to .zarr.") from None
    if not same:
        raise LayoutError(f"HDF5 would give the dtype {item.dtype} back as another. Export to .npy, or to .zarr.")
    return dtype


def _chunk_rows(item: Item) -> int | None:
    return None if item.chunk_rows is None else min(item.chunk_rows, item.shape[0])


def _stored_bytes(item: Item) -> int:
    chunk_rows = _chunk_rows(item)
    if chunk_rows is None:
        return item.n_bytes + _DATASET_BYTES
    chunks = -(-item.shape[0] // chunk_rows)
    an_entry = _CHUNK_ENTRY_BYTES * (len(item.shape) + 2)
    return chunks * (chunk_rows * item.row_bytes + an_entry) + _DATASET_BYTES


def _create(file: h5py.File, name: str, item: Item) -> h5py.Dataset:
    chunk_rows = _chunk_rows(item)
    # Every value is written: none is filled before. And no chunk waits in a cache, from where its error would come late.
    how = {} if chunk_rows is None else {"chunks": (chunk_rows, *item.shape[1:]), "rdcc_nbytes": 0}
    try:
        return file.create_dataset(name, item.shape, _stored_dtype(item), fill_time="never", **how)
    except (TypeError, ValueError) as error:
        raise LayoutError(
            f"HDF5 refuses an array of shape {item.shape} in {how} ({error}). Choose other chunk_rows."
        ) from error


def _reserve(path: Path, n_bytes: int) -> None:
    """Take room at the end of a file that nobody else is writing. HDF5 gives back what it did not need when it closes the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as HDF5 does
        size = os.fstat(descriptor).st_size
        try:
            take_room(descriptor, size, n_bytes)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
