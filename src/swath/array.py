"""What users hold: `RowArray`. Each method is one call down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from swath import gather as _gather
from swath.batches import Batches, batches_of
from swath.errors import OptionError
from swath.gather import Direct, Verify
from swath.html import array_card, shown_place
from swath.memory import Room, resolve_limit
from swath.plan import Plan
from swath.rows import Rows
from swath.sampling import Order
from swath.sources.converted import Casting

if TYPE_CHECKING:
    import dask.array

    from swath.check import Damage, Verification
    from swath.lazy import Order as WindowOrder
    from swath.sources import Source
    from swath.store import Store


@dataclass(slots=True, repr=False, eq=False)
class RowArray:
    """An array of rows on disk, from which windows of rows are gathered.

    It is the store as it was when it was opened, until `append` or `refresh` moves it on. It holds no open file: pickle it,
    fork with it, share it between threads.
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
            f"chunks of {self.chunk_rows}, shards of {self.shard_rows}, {self.codec}: {shown_place(self.url)}>"
        )

    def _repr_html_(self) -> str:
        rows = self._rows
        return array_card(
            "swath.RowArray", self.url, rows.layout, self.window, self.reason, self.segments, is_store=rows.is_store
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
        progress: bool | None = None,
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
        progress
            Whether a bar shows how far it is; None for one after a second, on a terminal or in a notebook.

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
        return _gather.gather_now(self._rows, starts, window, columns, out, limit, verify, direct, progress)

    def windows(
        self,
        starts: ArrayLike,
        *,
        window: int | None = None,
        columns: Any = None,
        block: int | None = None,
        order: WindowOrder = "asked",
        memory_limit: int | str | None = None,
    ) -> dask.array.Array:
        """Windows of rows, lazily: the batch of `gather` as a dask array of ``ceil(n / block)`` tasks.

        Compute it with `swath.compute`, which keeps to a memory limit, or as any dask array. Its name is that of its content: the
        same version of the store and the same starts give the same. Tasks pickle small, and open the store where they run.

        Parameters
        ----------
        starts, window, columns
            As in `gather`.
        block
            Windows of one block; by default 128 MiB, or less where a sixteenth of the memory limit is less, or a quarter of what
            each thread has, here or on the workers of the active dask client.
        order
            ``"asked"``: windows as ``starts`` has them. ``"storage"``: by ascending start, so that each block reads rows that lie
            near to one another, and those of windows that overlap once.
        memory_limit
            Of the computation, in bytes or as text; by default 90 % of what is left.

        Returns
        -------
        dask.array.Array
            (n, window, *row_shape), in blocks of ``block`` windows.

        Raises
        ------
        StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, OptionError
            The call is wrong.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.arange(1000.0).reshape(100, 10), tmp / "windows.zarr")
        >>> lazy = a.windows([3, 80, 0], block=2)
        >>> lazy.chunks[0], lazy.sum(axis=(1, 2)).compute()
        ((2, 1), array([ 17520., 140720.,  12720.]))
        """
        from swath import computing, lazy

        plain = lazy.windows(
            self._rows, starts, window=window, columns=columns, block=block, order=order, memory_limit=memory_limit
        )
        return computing.Windows(plain.dask, plain.name, plain.chunks, meta=plain._meta)  # type: ignore[no-untyped-call]

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = 0,
        order: Order | None = None,
        epoch: int = 0,
        epochs: int = 1,
        rank: int = 0,
        world_size: int = 1,
        starts: ArrayLike | None = None,
        segments: ArrayLike | None = None,
        across_segments: bool = False,
        stride: int = 1,
        drop_last: bool = False,
        window: int | None = None,
        columns: Any = None,
        dtype: DTypeLike | None = None,
        transform: Callable[[NDArray[Any]], Any] | None = None,
        prefetch: int | str | None = None,
        memory_limit: int | str | None = None,
        progress: bool | None = False,
    ) -> Batches[Any]:
        """Batches of windows one after another: each window once an epoch, in an order that ``seed`` decides.

        Nothing is drawn beforehand: 10^9 windows take no more memory than one batch. Which batch comes when does not depend on how
        many ranks share them. While one is used the next are gathered, into memory that is used again once nobody holds it.

        Parameters
        ----------
        batch_size
            Windows of a batch; the last of an epoch has what is left.
        seed
            Another number is another order, and each epoch has its own; None for windows as they lie, or as ``starts`` has them.
        order
            How the windows of an epoch follow one another: `sampling.Shuffled` if None, `sampling.Blocks`, `sampling.Uniform`,
            `sampling.Weighted`.
        epoch
            Number of the first epoch.
        epochs
            How many there are, one after another.
        rank, world_size
            Of all batches this one gets every ``world_size``-th, from ``rank`` on.
        starts
            The windows to choose from; by default all that lie in one segment, or with ``across_segments`` all of the array.
        segments
            Numbers of the segments to draw from, such as `sampling.split_segments` gives; all if None.
        across_segments
            Whether a window may begin in one segment and end in another.
        stride
            Rows from the start of one window to that of the next in its segment; ``window`` for windows that share no row.
        drop_last
            Leave out, of each epoch, what does not fill a batch, or what would give some ranks a batch more than others.
        window, columns
            As in `gather`.
        dtype
            Of the batches: one that holds all values of the array, or a float, to which they are rounded.
        transform
            What to make of each batch, in the thread that gathers ahead; its result is what comes.
        prefetch
            How much may be gathered ahead, in bytes or as text: as many whole batches as fit, and as the memory limit allows; 0 for
            none. By default 64 MiB, or one batch.
        memory_limit
            What all this may add to this process, as in `gather`.
        progress
            Show a bar; None for one after a second, where stderr is a terminal or in a notebook.

        Returns
        -------
        Batches
            An iterator with a length, ``state_dict``, ``load_state_dict``, and the ``starts`` of the batch that came last.

        Raises
        ------
        OptionError, StartsError, WindowError, WindowOutOfBoundsError, ColumnsError
        MemoryLimitError
            A batch would pass the limit; nothing was read.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.arange(1000).reshape(100, 10), tmp / "batches.zarr", window=4)
        >>> batches = a.batches(32, seed=7)
        >>> len(batches), [batch.shape for batch in batches][-1], batches.starts.tolist()
        (4, (1, 4, 10), [28])
        >>> in_blocks = a.batches(97, order=swath.sampling.Blocks(8), dtype="f4", transform=lambda batch: batch.mean())
        >>> float(next(in_blocks))
        499.5
        """
        return batches_of(
            {"": self._rows},
            self.segments,
            batch_size,
            is_group=False,
            seed=seed,
            order=order,
            epoch=epoch,
            epochs=epochs,
            rank=rank,
            world_size=world_size,
            starts=starts,
            segments=segments,
            across_segments=across_segments,
            stride=stride,
            drop_last=drop_last,
            window=window,
            columns=columns,
            dtype=dtype,
            transform=transform,
            prefetch=prefetch,
            memory_limit=memory_limit,
            progress=progress,
        )

    def append(
        self,
        source: Any,
        *,
        casting: Casting = "exact",
        segments: ArrayLike | None = None,
        memory_limit: int | str | None = None,
        progress: bool | None = None,
        client: Any = None,
        timeout: float = 60.0,
    ) -> RowArray:
        """Write more rows behind the last, each recording a segment, and move this handle on to them.

        They become visible at one instant, and only when all are on the disk; a call that is killed leaves the store as it
        was, or longer by all of them, and called again it carries on. Other handles stay as they are until `refresh`. Two
        processes take turns.

        Parameters
        ----------
        source
            As in `swath.ingest`; its rows have the shape of this array, and those of a raw binary file its dtype too.
        casting
            How values become the dtype of this array, as in `swath.ingest`; blocks of an iterator must have it.
        segments
            Of the new rows, counted from the first of them, as in `swath.ingest`.
        memory_limit, progress, client
            As in `swath.ingest`.
        timeout
            Seconds to wait for another process that writes this store.

        Returns
        -------
        RowArray
            This one.

        Raises
        ------
        SourceError, SourceNotFoundError
            The source is no array of such rows, or not there.
        OptionError
            This is not a store of its own: a file, a Zarr array of another program, or an array of a group.
        StoreBusyError
            Another process still writes after ``timeout``.
        MemoryLimitError, DiskFullError
            No room; the store is as it was.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.zeros((100, 5)), tmp / "append.zarr")
        >>> a.append(np.ones((20, 5))).shape
        (120, 5)
        >>> a.segments
        array([[  0, 100],
               [100, 120]])
        """
        from swath import ingestion

        store = self._own_store("append to")
        options = ingestion.Options(
            casting=casting, segments=segments, memory_limit=memory_limit, progress=progress, client=client
        )
        ingestion.append(source, store.folder, options, timeout)
        return self.refresh()

    def refresh(self) -> RowArray:
        """Move this handle on to what the store is now, and return it.

        Raises
        ------
        StoreError
            What is there now cannot be opened.
        """
        self._rows = self._rows.reopened()
        return self

    def verify(
        self,
        source: Any = None,
        *,
        casting: Casting = "exact",
        memory_limit: int | str | None = None,
        progress: bool | None = None,
    ) -> Verification:
        """Compare every chunk with its checksum, and with ``source``, if it is given, row by row.

        Parameters
        ----------
        source
            All that was ingested and appended, a list if it was several.
        casting, memory_limit, progress
            As in `swath.ingest`.

        Returns
        -------
        Verification
            True if all is sound; else ``damages`` says which file, which rows, and what.

        Raises
        ------
        SourceError
            The source has another shape or dtype.
        OptionError
            This is not a store: nothing else has the checksums.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.zeros((100, 5)), tmp / "verify.zarr")
        >>> bool(a.verify()), a.verify(np.ones((100, 5))).damages[0].rows
        (True, (0, 1))
        """
        from swath import check

        store = self._own_store("verify", member=True)
        limit = resolve_limit(memory_limit)
        return check.verify(
            store, None if source is None else self._open_source(source, casting, limit), limit, progress
        )

    def repair(
        self,
        source: Any,
        *,
        casting: Casting = "exact",
        memory_limit: int | str | None = None,
        progress: bool | None = None,
        timeout: float = 60.0,
    ) -> tuple[Damage, ...]:
        """Write what `verify` finds damaged again, from the source; return what was mended.

        Parameters
        ----------
        source
            All that was ingested and appended, a list if it was several.
        casting, memory_limit, progress
            As in `swath.ingest`.
        timeout
            Seconds to wait for another process that writes this store.

        Returns
        -------
        tuple of Damage
            What was mended; empty if all was sound.

        Raises
        ------
        SourceError
            It is not what the store was made of: it differs from rows that are sound.
        OptionError
            This is not a store.

        Examples
        --------
        >>> import swath, numpy as np
        >>> a = swath.ingest(np.zeros((100, 5)), tmp / "repair.zarr")
        >>> (tmp / "repair.zarr" / "c.0.0").unlink()
        >>> [damage.rows for damage in a.repair(np.zeros((100, 5)))], bool(a.verify())
        ([(0, 100)], True)
        """
        from swath.repair import repair

        store = self._own_store("repair", member=True)
        limit = resolve_limit(memory_limit)
        return repair(store, self._open_source(source, casting, limit), limit, progress, timeout)

    def __swath_source__(self) -> Source:
        """What is read where this array is ingested, appended, or compared with."""
        from swath.gathered import OpenedSource

        return OpenedSource.of(self._rows)

    def _own_store(self, what: str, *, member: bool = False) -> Store:
        from swath.store import Store

        if not isinstance(self._rows, Store):
            raise OptionError(f"{self.url} was not written by swath, which cannot {what} it. Ingest it first.")
        if self._rows.member and not member:
            raise OptionError(
                f"{self.url} is an array of a group, whose arrays have as many rows each. Append to the group."
            )
        return self._rows

    def _open_source(self, source: Any, casting: Casting, limit: Room) -> Source:
        from swath.sources import open_source
        from swath.sources.converted import check_casting

        check_casting(casting)
        layout, share = self._rows.layout, limit.n_bytes // 2
        return open_source(source, dtype=layout.dtype, row_shape=layout.row_shape, casting=casting, cache_bytes=share)


def rows_of(a: object) -> Rows:
    """What the layers below know of an array.

    Raises
    ------
    OptionError
        It is something else.
    """
    if not isinstance(a, RowArray):
        raise OptionError(f"A {type(a).__name__} is no array of swath. Give what swath.open or swath.ingest return.")
    return a._rows
