"""A plain Zarr v3 array, or a group of them: regular chunks of whole rows, compressed as zarr-python does by itself."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, MemoryStore

from swath.errors import LayoutError, StoreExistsError
from swath.storage import staged, writing_to
from swath.targets import Item, Write, check_parent

# A chunk where nobody has said: small enough that a reader of a few rows does not wait, one file each.
_CHUNK_BYTES = 8 * 2**20

# What Zarr's compressors take at once.
_MOST_CHUNK_BYTES = 2**31 - 2**20

# Chunks that are compressed at once; they and their encoded bytes are counted as `held_copies`.
_WRITERS = 4


@dataclass(frozen=True, slots=True)
class ZarrTarget:
    """One array, or arrays in a group."""

    path: Path
    items: tuple[Item, ...]
    overwrite: bool

    n_bytes = None
    held_copies = 2  # encoded, and as the compressor made it

    def step_rows(self, item: Item) -> int:
        """A whole chunk, so that none is written twice."""
        return item.chunk_rows or max(1, _CHUNK_BYTES // item.row_bytes)

    def check(self) -> None:
        """Refuse what cannot be written here; see `Target`."""
        for item in self.items:
            chunk_bytes = self._chunk_rows(item) * item.row_bytes
            if chunk_bytes > _MOST_CHUNK_BYTES:
                raise LayoutError(
                    f"A chunk of {chunk_bytes} bytes is over the limit of {_MOST_CHUNK_BYTES}. Choose smaller chunk_rows."
                )
        for array, item in zip(self._create(MemoryStore()), self.items):
            if array.dtype != item.dtype:
                raise LayoutError(
                    f"Zarr would give the dtype {item.dtype} back as {array.dtype}. Export to .npy, or to HDF5."
                )
        check_parent(self.path)
        if not self.path.exists():
            return
        if not any((self.path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
            raise StoreExistsError(
                f"{self.path} exists and is not Zarr, so swath will not touch it. Choose another place."
            )
        if not self.overwrite:
            raise StoreExistsError(
                f"{self.path} exists already. Choose another place, or give overwrite=True to replace it."
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[Sequence[Write]]:
        """What takes the rows; see `Target`."""
        with staged(self.path, self._values_bytes, overwrite=self.overwrite) as temporary:
            with writing_to(self.path, self._values_bytes):
                arrays = self._begin(temporary)
            yield [partial(self._write, array) for array in arrays]

    def _begin(self, folder: Path) -> list[Any]:
        """Put the metadata in the folder; the arrays, to be written."""
        files: dict[str, Any] = {}
        self._create(MemoryStore(files))
        for key, encoded in files.items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(encoded.to_bytes())
        # Chunks of nothing but the fill value are written too: complex -0.0 would be left out, and read as 0.0.
        config: Any = {"write_empty_chunks": True}
        with _without_warnings():
            return [
                zarr.open_array(LocalStore(folder), path=item.name, mode="r+", config=config) for item in self.items
            ]

    @property
    def _values_bytes(self) -> int:
        return sum(item.n_bytes for item in self.items)

    def _chunk_rows(self, item: Item) -> int:
        return min(self.step_rows(item), item.shape[0])

    def _create(self, store: MemoryStore) -> list[Any]:
        """The arrays, empty.

        Raises
        ------
        LayoutError
        """
        with _without_warnings():
            if self.items[0].name:
                zarr.create_group(store)
            return [self._create_array(store, item) for item in self.items]

    def _create_array(self, store: MemoryStore, item: Item) -> Any:
        try:
            return zarr.create_array(
                store,
                name=item.name or None,
                shape=item.shape,
                dtype=item.dtype,
                chunks=(self._chunk_rows(item), *item.shape[1:]),
            )
        except (TypeError, ValueError) as error:
            raise LayoutError(
                f"Zarr cannot hold the dtype {item.dtype} ({error}). Export to .npy, or to HDF5."
            ) from error

    def _write(self, array: Any, start: int, rows: NDArray[Any]) -> None:
        """Write each chunk by a call of its own: of several in one call, zarr goes on with others after one has failed."""

        def write(i: int) -> None:
            some = rows[i : i + array.chunks[0]]
            array[start + i : start + i + len(some)] = some

        with writing_to(self.path, self._values_bytes), ThreadPoolExecutor(_WRITERS) as pool:
            for future in [pool.submit(write, i) for i in range(0, len(rows), array.chunks[0])]:
                future.result()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Fixed-length text, datetimes and records have no final specification in Zarr v3: the docs say so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
