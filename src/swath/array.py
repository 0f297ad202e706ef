"""What users hold: `RowArray`, and the functions that make one. Each method is one call down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from swath import gather as _gather
from swath.gather import Direct, Verify
from swath.layout import CodecName
from swath.memory import resolve_limit
from swath.plan import Plan
from swath.rows import Rows
from swath.sources.converted import Casting

if TYPE_CHECKING:
    import dask.array


@dataclass(frozen=True, slots=True, repr=False)
class RowArray:
    """An array of rows on disk, from which windows of rows are gathered.

    It is the store as it was when it was opened. It holds no open file: pickle it, fork with it, share it between threads.
    """

    _rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array, rows first."""
        return self._rows.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array, and of every batch."""
        return self._rows.layout.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array in memory."""
        layout = self._rows.layout
        return layout.n_rows * layout.row_bytes

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._rows.url

    @property
    def window(self) -> int:
        """Rows of a window, unless a call says otherwise: what the store was laid out for."""
        return self._rows.window

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded and checksummed together."""
        return self._rows.layout.chunk_rows

    @property
    def shard_rows(self) -> int:
        """Rows of one file."""
        return self._rows.layout.shard_rows

    @property
    def codec(self) -> str:
        """How chunks are compressed; ``"raw"`` if not."""
        return self._rows.layout.codec

    @property
    def reason(self) -> str:
        """Why the codec was chosen."""
        return self._rows.reason

    @property
    def segments(self) -> NDArray[np.int64]:
        """(n, 2) half-open ranges of rows: the recordings, files or episodes that the rows came from."""
        stops = np.cumsum(self._rows.segments, dtype=np.int64)
        return np.stack([stops - self._rows.segments, stops], axis=1)

    def __repr__(self) -> str:
        return (
            f"<swath.RowArray {self.shape} {self.dtype}, windows of {self.window} rows, "
            f"chunks of {self.chunk_rows}, shards of {self.shard_rows}, {self.codec}: {self.url}>"
        )

    def plan(
        self,
        starts: ArrayLike,
        *,
        window: int | None = None,
        columns: Any = None,
        verify: Verify = "always",
        direct: Direct = "auto",
    ) -> Plan:
        """What `gather` would read and cost. Nothing is read.

        Parameters and errors are those of `gather`. For an array that swath did not write it also shows what ingesting
        it would gain.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.zeros((1000, 500)), tmp / "plan.zarr")
        >>> plan = a.plan([0, 500])
        >>> plan.bytes_wanted, plan.requests
        (128000, 3)
        """
        return _gather.plan_for(
            self._rows, starts, window, columns, limit=resolve_limit(None), verify=verify, direct=direct
        )

    def gather(
        self,
        starts: ArrayLike,
        *,
        window: int | None = None,
        columns: Any = None,
        out: NDArray[Any] | None = None,
        memory_limit: int | str | None = None,
        verify: Verify = "always",
        direct: Direct = "auto",
    ) -> NDArray[Any]:
        """Windows of rows, now: ``np.stack([A[s : s + window] for s in starts])``, bit for bit.

        Parameters
        ----------
        starts : (n,) integers
            First row of each window, in ``[0, rows - window]``; any order, repeats and overlaps allowed.
        window
            Rows of a window; the store's own if None.
        columns
            A slice or a list of positions along axis 1 to keep; all if None.
        out
            Where the batch goes: a numpy array or memmap of its shape and dtype. It holds rubbish after an error.
        memory_limit
            What the call may add to this process: bytes, or text such as ``"8GiB"``. By default 90 % of what is left.
        verify
            ``"always"`` compares every chunk that is touched with its checksum. ``"never"`` does not look at the crc32c of
            chunks, and reads of raw ones only the rows that are wanted.
        direct
            Whether reads pass by the page cache: ``"auto"`` does where the array is more than sixteen times as large as the
            memory and what is wanted is not cached.

        Returns
        -------
        numpy.ndarray
            (n, window, *row_shape), in the order asked.

        Raises
        ------
        StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, OutError, OptionError
            The call is wrong.
        MemoryLimitError
            It would pass the memory limit; nothing was read.
        DamagedStoreError
            A chunk that is needed is missing, or its checksum is wrong.
        StoreChangedError
            Another store has taken its place since it was opened.

        Examples
        --------
        >>> import swath, numpy as np
        >>> rows = np.arange(1000).reshape(100, 10)
        >>> a = swath.ingest(rows, tmp / "gather.zarr", window=4)
        >>> batch = a.gather([90, 7, 7])
        >>> batch.shape, np.array_equal(batch, np.stack([rows[s : s + 4] for s in [90, 7, 7]]))
        ((3, 4, 10), True)
        """
        limit = resolve_limit(memory_limit)
        return _gather.gather_now(self._rows, starts, window, columns, out, limit, verify, direct)

    def windows(
        self,
        starts: ArrayLike,
        *,
        window: int | None = None,
        columns: Any = None,
        block: int | None = None,
        memory_limit: int | str | None = None,
    ) -> dask.array.Array:
        """Windows of rows, lazily: the batch of `gather` as a dask array of ``ceil(n / block)`` tasks.

        Compute it with `swath.compute`, which keeps to a memory limit, or as any dask array.

        Parameters
        ----------
        starts, window, columns
            As in `gather`.
        block
            Windows of one block; by default 128 MiB, or a sixteenth of the memory limit if that is less.
        memory_limit
            Of the computation, in bytes or as text; by default 90 % of what is left.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.arange(1000.0).reshape(100, 10), tmp / "windows.zarr")
        >>> lazy = a.windows([3, 80, 0], block=2)
        >>> lazy.chunks[0], lazy.sum(axis=(1, 2)).compute()
        ((2, 1), array([ 17520., 140720.,  12720.]))
        """
        from swath import lazy

        return lazy.windows(self._rows, starts, window=window, columns=columns, block=block, memory_limit=memory_limit)


def open(
    url: str | os.PathLike[str],
    *,
    window: int | None = None,
    dtype: DTypeLike | None = None,
    row_shape: Sequence[int] | None = None,
) -> RowArray:
    """Open a store, or in place, without a copy, an array that another program wrote.

    Reads metadata only; the rows are read by `RowArray.gather` and its likes.

    Parameters
    ----------
    url
        A store; any Zarr array, v2 or v3; a ``.npy`` file; ``"file.h5::dataset"``; a raw binary file.
    window
        Rows that most windows will have; by default what a store was laid out for, and 16 for others.
    dtype, row_shape
        Dtype and shape of a row in a raw binary file; ``row_shape`` is ``()`` by default.

    Raises
    ------
    StoreNotFoundError
        There is no such file or store.
    IncompleteStoreError
        Its ingest has not finished.
    FormatError, SourceError
        Its metadata are damaged, or it is no array of rows.
    OptionError
        An argument that means nothing here.

    Examples
    --------
    >>> import swath, numpy as np
    >>> np.save(tmp / "rows.npy", np.arange(1000).reshape(100, 10))
    >>> swath.open(tmp / "rows.npy").gather([90, 7], window=2)[:, :, 0]
    array([[900, 910],
           [ 70,  80]])
    """
    from swath.opening import open_rows

    return RowArray(open_rows(url, window=window, dtype=dtype, row_shape=row_shape))


def ingest(
    source: Any,
    url: str | os.PathLike[str],
    *,
    window: int = 16,
    chunk_rows: int | Literal["auto"] = "auto",
    shard_rows: int | Literal["auto"] = "auto",
    codec: CodecName | Literal["auto"] = "auto",
    dtype: DTypeLike | None = None,
    casting: Casting = "exact",
    row_shape: Sequence[int] | None = None,
    rows: slice | None = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    resume: bool = True,
    overwrite: bool = False,
) -> RowArray:
    """Write an array as a store laid out for random windows, and open it.

    The store appears at ``url`` when it is whole. Interrupted and called again, it carries on where it was.

    Parameters
    ----------
    source
        A numpy, dask, zarr or xarray array, an h5py dataset, or any object with ``shape``, ``dtype`` and ``__getitem__``;
        the path of a ``.npy`` file, a Zarr array or a raw binary file, ``"file.h5::dataset"``, ``"file.npz::name"`` or
        ``"group.zarr::name"``; or a list of these, which is joined along axis 0, each a segment. A path may be a pattern, as
        ``"part-*.npy"``: its files are joined in the order of their names as text (``part-10`` before ``part-9``). What goes beside
        values (coordinates, units, a mask of nothing) is left behind.
    url
        The folder that shall be the store.
    window
        Rows that most windows will have.
    chunk_rows, shard_rows
        Rows that are decoded together, and rows of a file; by default chosen for the window.
    codec
        ``"raw"``, ``"lz4"`` or ``"zstd"``; ``"auto"`` compresses a sample and takes what gathers fastest: raw where the
        array fits in memory, a codec where it does not and the rows are much smaller encoded.
    dtype
        That of the store; of a raw binary file, that of its bytes. By default that of the source.
    casting
        What ``dtype`` may do to values: ``"exact"`` refuses the first that would not be equal (nan stays nan); ``"rounded"`` lets
        floats round to the nearest, but refuses what overflows, wraps or is cut; ``"unsafe"`` is numpy's ``astype``.
    row_shape
        Shape of a row in a raw binary file; ``()`` by default.
    rows
        Which rows to take, as ``slice(1000, 2000)``; all by default.
    memory_limit
        What the call may add to this process: bytes, or text such as ``"1GiB"``. By default 90 % of what is left.
    progress
        Whether a bar shows how far it is; by default if stderr is a terminal.
    resume
        Whether to carry on with what an interrupted call with the same arguments has written.
    overwrite
        Whether to replace an array that is at ``url``. The old one stays until the new one is whole.

    Returns
    -------
    RowArray

    Raises
    ------
    SourceError, SourceNotFoundError
        The source is no array of rows, or not there, or a value of it is lost in ``dtype``.
    LayoutError, OptionError
        The rows cannot be stored in this way.
    StoreExistsError, StoreBusyError
        The place is taken.
    MemoryLimitError
        One shard does not fit in the limit.
    DiskFullError
        No room; what has been written is kept for the next call.

    Examples
    --------
    >>> import swath, numpy as np
    >>> a = swath.ingest(np.random.default_rng(0).normal(size=(1000, 50)), tmp / "ingest.zarr", window=8)
    >>> a.shape, a.window, len(a.segments)
    ((1000, 50), 8, 1)
    >>> swath.ingest(np.arange(1000), tmp / "part.zarr", rows=slice(-500, None), dtype="u2").gather([0], window=2)
    array([[500, 501]], dtype=uint16)
    """
    from swath import ingestion

    ingestion.ingest(
        source,
        url,
        window=window,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        codec=codec,
        dtype=dtype,
        casting=casting,
        row_shape=row_shape,
        rows=rows,
        memory_limit=memory_limit,
        progress=progress,
        resume=resume,
        overwrite=overwrite,
    )
    return open(url)
