"""How a `RowArray` comes to be: `open` what is there, or `ingest` a source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike, DTypeLike

from swath.array import RowArray
from swath.layout import CodecName
from swath.sources.converted import Casting
from swath.storage import place_of
from swath.store import open_store


def open(
    url: Any,
    *,
    window: int | None = None,
    dtype: DTypeLike | None = None,
    row_shape: Sequence[int] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> RowArray:
    """Open a store, or in place, without a copy, an array that another program wrote.

    Reads metadata only; the rows are read by `RowArray.gather` and its likes.

    Parameters
    ----------
    url
        A store; any Zarr array, v2 or v3; a ``.npy`` file; ``"file.h5::dataset"``; a raw binary file. A store and a Zarr array
        may also be in an object store: ``s3://bucket/folder``, ``gs://``, ``az://container/folder``, ``http(s)://``; and whatever
        zarr-python can read is read through its store object, or a mapping of fsspec.
    window
        Rows that most windows will have; by default what a store was laid out for, and 16 for others.
    dtype, row_shape
        Dtype and shape of a row in a raw binary file; ``row_shape`` is ``()`` by default.
    storage_options
        Of an object store: the configuration of obstore for its kind, such as ``region``, ``endpoint``, ``access_key_id``, and
        ``allow_http``. What is not given is found in the environment, as the tools of each cloud do. Credentials that are given
        here stay in this process: workers that the array is sent to find their own.
    cache
        A folder of this machine, in which is kept what is read of an object store, for this and all later processes that name
        it. It may be lost or damaged: what is not sound there is read from the store. Of an array that another program wrote,
        each process asks once for each object whether it is another by now; a store of ours says so itself. `RowArray.verify`
        reads the store and not the cache.
    cache_limit
        Bytes on the disk that the folder may take, or text such as ``"100GiB"``; by default 10 GiB. What was used longest ago
        goes first.

    Raises
    ------
    StoreNotFoundError
        There is no such file or store.
    StoreAccessError, StoreUnreachableError
        A server refuses, or does not answer.
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

    rows = open_rows(
        url,
        window=window,
        dtype=dtype,
        row_shape=row_shape,
        storage_options=storage_options,
        cache=cache,
        cache_limit=cache_limit,
    )
    return RowArray(rows)


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
    segments: ArrayLike | None = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    resume: bool = True,
    overwrite: bool = False,
    client: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> RowArray:
    """Write an array as a store laid out for random windows, and open it.

    The store appears at ``url`` when it is whole. Interrupted and called again, it carries on where it was.

    Parameters
    ----------
    source
        A numpy, dask, zarr or xarray array, an h5py dataset, any object with ``shape``, ``dtype`` and ``__getitem__``, or what
        `swath.open` gives, also from far away; the path of a ``.npy`` file, a Zarr array, a raw binary file or a table of text
        (``.csv``, ``.tsv``, ``.txt``, with or without ``.gz``), ``"file.h5::dataset"``, ``"file.npz::name"`` or ``"group.zarr::name"``,
        a folder of images that are alike; or a list of these, which is joined along axis 0, each a segment. A path may be a pattern, as
        ``"part-*.npy"``: its files are joined in the order of their names as text (``part-10`` before ``part-9``). What goes
        beside values (units, a mask of nothing) is left behind, and coordinates of xarray with a warning: `swath.xarray` keeps
        them. For labels, and images that are not alike, a
        source that `swath.images` makes. Or an iterator of blocks of rows, whose number need not be known; it can't be read
        again, so an interrupted call begins anew.
    url
        The folder that shall be the store, here or in an object store (``s3://``, ``gs://``, ``az://``).
    window
        Rows that most windows will have.
    chunk_rows, shard_rows
        Rows that are decoded together, and rows of a file; by default chosen for the window, and for a disk or a network.
    codec
        ``"raw"``, ``"lz4"`` or ``"zstd"``; ``"auto"`` compresses a sample and takes what gathers fastest: raw where the
        array fits in memory, a codec where it does not, or lies behind a network, and the rows are much smaller encoded.
    dtype
        That of the store; by default that of the source. Of a raw binary file, that of its bytes; of a table of text that of
        a line, such as ``[("name", "S10"), ("pos", "<i4")]``, or of all values, by default float64.
    casting
        What ``dtype`` may do to values: ``"exact"`` refuses the first that would not be equal (nan stays nan); ``"rounded"`` lets
        floats round to the nearest, but refuses what overflows, wraps or is cut; ``"unsafe"`` is numpy's ``astype``.
    row_shape
        Shape of a row in a raw binary file; ``()`` by default.
    rows
        Which rows to take, as ``slice(1000, 2000)``; all by default.
    segments : (k, 2) integers
        Which of these rows are one recording each, such as `swath.segments_from_time` finds: half-open ranges that follow one
        another. By default each source of a list, and each file of a pattern, is one.
    memory_limit
        What the call may add to this process: bytes, or text such as ``"1GiB"``. By default 90 % of what is left.
    progress
        Whether a bar shows how far it is; None for one after a second, on a terminal or in a notebook.
    resume
        Whether to carry on with what an interrupted call with the same arguments has written.
    overwrite
        Whether to replace an array that is at ``url``. The old one stays until the new one is whole.
    client
        A ``distributed.Client``, whose workers write the shards, one task each; by default the active one, and threads if
        there is none. The workers must see the source and ``url``. What only this process has, such as a numpy array, is
        written by threads.
    storage_options
        As in `swath.open`.

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

    options = ingestion.Options(
        window=window,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        codec=codec,
        dtype=dtype,
        casting=casting,
        row_shape=row_shape,
        rows=rows,
        segments=segments,
        memory_limit=memory_limit,
        progress=progress,
        resume=resume,
        overwrite=overwrite,
        client=client,
    )
    place = place_of(url, storage_options)
    ingestion.ingest(source, place, options)
    return RowArray(open_store(place))
