"""A ``.npy`` file, or the bytes of the rows alone."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import LayoutError
from swath.storage import MOST_WRITE_BYTES, staged, writing_to
from swath.targets import Item, Write, check_file


@dataclass(frozen=True, slots=True)
class FlatTarget:
    """Rows side by side in a file, in C order and little-endian, after a header if it is ``.npy``."""

    path: Path
    item: Item
    overwrite: bool
    is_npy: bool

    held_copies = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows; a header is the least of it."""
        return self.item.n_bytes

    def step_rows(self, item: Item) -> int:
        """Any number of rows."""
        return 1

    def check(self) -> None:
        """Refuse what cannot be written here; see `Target`."""
        if self.is_npy and np.lib.format.descr_to_dtype(_describe(self.item.dtype)) != self.item.dtype:
            raise LayoutError(
                f"numpy cannot describe the dtype {self.item.dtype} in a .npy file. Choose another format."
            )
        check_file(self.path, overwrite=self.overwrite)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Sequence[Write]]:
        """What takes the rows; see `Target`."""
        with staged(self.path, self.n_bytes, overwrite=self.overwrite) as temporary:
            with writing_to(self.path, self.n_bytes):
                offset = self._begin(temporary)
            with temporary.open("r+b", buffering=0) as file:
                yield [self._writer(file.fileno(), offset)]

    def _begin(self, path: Path) -> int:
        """Make the file, with its header; where the rows begin."""
        if not self.is_npy:
            path.touch(exist_ok=False)
            return 0
        with _without_warnings():
            mapped = np.lib.format.open_memmap(path, "w+", self.item.dtype, self.item.shape)
        begin = int(mapped.offset)
        os.truncate(
            path, begin
        )  # numpy made the file as long as it will be, and ext4 fills a hole slower than it appends
        return begin

    def _writer(self, descriptor: int, begin: int) -> Write:
        def write(start: int, rows: NDArray[Any]) -> None:
            left, offset = memoryview(rows.reshape(-1).view(np.uint8)), begin + start * self.item.row_bytes
            with writing_to(self.path, self.n_bytes):
                while left:
                    done = os.pwrite(descriptor, left[:MOST_WRITE_BYTES], offset)
                    left, offset = left[done:], offset + done

        return write


def _describe(dtype: np.dtype[Any]) -> Any:
    with _without_warnings():
        return np.lib.format.dtype_to_descr(dtype)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Numpy warns of metadata of a dtype, which are no part of its values, and of field names that old versions cannot read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
