"""Several arrays of as many rows each, written, read and made longer together: `RowGroup`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.array import RowArray, rows_of
from swath.batches import Batches, BatchOptions, batches_of
from swath.errors import FormatError, OptionError, OutError, SourceError
from swath.html import card, shown_place
from swath.layout import CodecName
from swath.memory import format_bytes
from swath.metadata import attributes_of_others
from swath.sources.converted import Casting
from swath.storage import Folder, place_of
from swath.store import Store, open_members

if TYPE_CHECKING:
    import dask.array

    from swath.check import Damage, Verification

# Of more arrays than these only their number is told.
_SHOWN = 12


@dataclass(slots=True, repr=False, eq=False)
class RowGroup(Mapping[str, RowArray]):
    """Arrays of as many rows each, by name: a mapping of names to `RowArray`.

    It is the group as it was when it was opened, until `append` or `refresh` moves it on.
    """

    _home: Folder
    _arrays: dict[str, RowArray]
    _beside: dict[str, RowArray]
    """Those that do not go by rows."""

    @property
    def url(self) -> str:
        """Where it is."""
        return self._home.url

    def __getitem__(self, name: str) -> RowArray:
        try:
            return self._arrays[name]
        except KeyError:
            raise KeyError(
                f"There is no array {name!r} in {self.url}, but {sorted(self)}. Give one of these."
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def beside(self) -> Mapping[str, RowArray]:
        """Arrays that do not go by rows: labels of columns, which `swath.xarray` writes."""
        return dict(self._beside)

    @property
    def attributes(self) -> dict[str, Any]:
        """What others, such as xarray, have said of the group, as they would read it."""
        rows = rows_of(next(iter(self._arrays.values())))
        assert isinstance(rows, Store)
        return attributes_of_others(rows.encoded)

    @property
    def n_rows(self) -> int:
        """Rows of each array."""
        return len(next(iter(self._arrays.values())))

    @property
    def segments(self) -> NDArray[np.int64]:
        """(n, 2) half-open ranges of rows that no recording of any of the arrays begins or ends within."""
        edges = np.unique(np.concatenate([array.segments.ravel() for array in self._arrays.values()]))
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def __repr__(self) -> str:
        some = [
            f"{name}: {array.shape} {array.dtype}" for name, array in itertools.islice(self._arrays.items(), _SHOWN)
        ]
        more = [f"{len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return f"<swath.RowGroup {{{', '.join(some + more)}}}: {shown_place(self.url)}>"

    def _repr_html_(self) -> str:
        some = list(itertools.islice(self._arrays.items(), _SHOWN))
        facts = {
            "where": shown_place(self.url),
            "rows": f"{self.n_rows:,} committed, of each array",
            "size": f"{format_bytes(sum(array.nbytes for array in self._arrays.values()))} in memory",
            "segments": f"{len(self.segments):,}",
        }
        if len(self) > _SHOWN:
            facts["not shown"] = f"{len(self) - _SHOWN} arrays more"
        inside = [(f"{name}: {array.shape} {array.dtype}", array._repr_html_()) for name, array in some]
        return card("swath.RowGroup", f"{len(self)} arrays", facts, inside=inside)

    def gather(
        self, starts: ArrayLike, *, out: Mapping[str, NDArray[Any]] | None = None, **options: Any
    ) -> dict[str, NDArray[Any]]:
        """The same windows of each array, now; ``options`` are those of `RowArray.gather`, and ``out`` has one for each name.

        Returns
        -------
        dict of numpy.ndarray
            By name, (n, window, *row_shape) each.

        Raises
        ------
        OutError
            ``out`` has not one array for each name; and as in `RowArray.gather`.

        Examples
        --------
        >>> import swath, numpy as np
        >>> g = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "gather_group.zarr", window=4)
        >>> batch = g.gather([90, 7])
        >>> batch["X"].shape, batch["y"].tolist()
        ((2, 4, 5), [[90, 91, 92, 93], [7, 8, 9, 10]])
        """
        if out is None:
            return {name: array.gather(starts, **options) for name, array in self._arrays.items()}
        if not isinstance(out, Mapping) or out.keys() != self._arrays.keys():
            raise OutError(f"out has {list(out)}, but the arrays of {self.url} are {sorted(self)}. Give one for each.")
        return {name: array.gather(starts, out=out[name], **options) for name, array in self._arrays.items()}

    def windows(self, starts: ArrayLike, **options: Any) -> dict[str, dask.array.Array]:
        """The same windows of each array, lazily; ``options`` are those of `RowArray.windows`."""
        return {name: array.windows(starts, **options) for name, array in self._arrays.items()}

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> Batches[Any]:
        """Batches of the same windows of each array, as dicts; ``options`` are those of `RowArray.batches`.

        A window lies in one segment of each of the arrays, unless told otherwise. ``columns`` and ``dtype`` may be dicts with one for
        some of the arrays. ``transform`` is given the dict.

        Raises
        ------
        TypeError
            ``options`` has what is no option.
        OptionError, ColumnsError, WindowOutOfBoundsError, MemoryLimitError
            As `RowArray.batches`.

        Examples
        --------
        >>> import swath, numpy as np
        >>> g = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "batches_group.zarr", window=4)
        >>> batch = next(g.batches(32, dtype={"X": "float32"}))
        >>> batch["X"].dtype, batch["y"].shape
        (dtype('float32'), (32, 4))
        """
        if unknown := options.keys() - BatchOptions.__annotations__.keys():
            raise TypeError(
                f"Batches have no option {', '.join(map(repr, sorted(unknown)))}. They have {', '.join(BatchOptions.__annotations__)}."
            )
        rows = {name: rows_of(array) for name, array in self._arrays.items()}
        return batches_of(rows, self.segments, batch_size, is_group=True, **options)

    def append(
        self,
        sources: Mapping[str, Any] | str | os.PathLike[str],
        *,
        casting: Casting = "exact",
        segments: ArrayLike | None = None,
        memory_limit: int | str | None = None,
        progress: bool | None = None,
        client: Any = None,
        timeout: float = 60.0,
    ) -> RowGroup:
        """Write more rows behind the last of each array, in one commit, and move this handle on to them.

        Parameters
        ----------
        sources
            A source for each array, of as many rows each; or a file of several arrays, as in `ingest_group`.
        casting, segments, memory_limit, progress, client, timeout
            As in `RowArray.append`.

        Returns
        -------
        RowGroup
            This one.

        Raises
        ------
        SourceError
            There is not one for each array, or they differ in rows.
        StoreBusyError, MemoryLimitError, DiskFullError
            As in `RowArray.append`.

        Examples
        --------
        >>> import swath, numpy as np
        >>> g = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "append_group.zarr")
        >>> g.append({"X": np.ones((20, 5)), "y": np.arange(20)}).n_rows
        120
        """
        from swath import ingestion

        options = ingestion.Options(
            casting=casting, segments=segments, memory_limit=memory_limit, progress=progress, client=client
        )
        ingestion.append_group(sources, self._home, options, timeout)
        return self.refresh()

    def refresh(self) -> RowGroup:
        """Move this handle on to what the group is now, and return it."""
        now = _open(self._home)
        self._arrays, self._beside = now._arrays, now._beside
        return self

    def verify(self, sources: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Verification]:
        """Check each array, beside its source if there is one; ``options`` are those of `RowArray.verify`.

        Labels of columns that `swath.xarray` has written are checked too.

        Raises
        ------
        SourceError
            There is no array of one of the names, or as in `RowArray.verify`.
        """
        given = {} if sources is None else self._known(sources)
        return {name: array.verify(given.get(name), **options) for name, array in self._all().items()}

    def repair(self, sources: Mapping[str, Any], **options: Any) -> dict[str, tuple[Damage, ...]]:
        """Mend the arrays for which there are sources; ``options`` are those of `RowArray.repair`.

        Raises
        ------
        SourceError
            There is no array of one of the names, or as in `RowArray.repair`.
        """
        return {name: self._all()[name].repair(source, **options) for name, source in self._known(sources).items()}

    def _all(self) -> dict[str, RowArray]:
        return {**self._arrays, **self._beside}

    def _known(self, sources: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sources by name of an array.

        Raises
        ------
        SourceError
        """
        if not isinstance(sources, Mapping) or not sources.keys() <= self._all().keys():
            raise SourceError(
                f"The sources are {sorted(sources)}, but the arrays of {self.url} are {sorted(self)}. Give them by name."
            )
        return sources


def open_group(
    url: Any,
    *,
    storage_options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> RowGroup:
    """Open a group that `ingest_group` wrote.

    Parameters
    ----------
    url, storage_options, cache, cache_limit
        As in `swath.open`.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, FormatError, OptionError

    Examples
    --------
    >>> import swath, numpy as np
    >>> _ = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "open_group.zarr")
    >>> sorted(swath.open_group(tmp / "open_group.zarr"))
    ['X', 'y']
    """
    return _open(place_of(url, storage_options, cache, cache_limit))


def _open(folder: Folder) -> RowGroup:
    stores, beside = open_members(folder)
    lengths = {name: store.layout.n_rows for name, store in stores.items()}
    if not stores or len(set(lengths.values())) > 1:
        raise FormatError(f"The arrays of the group {folder.url} have {lengths} rows. Restore its zarr.json.")
    first = next(iter(stores.values()))
    by_rows, others = ({name: RowArray(store) for name, store in each.items()} for each in (stores, beside))
    return RowGroup(first.home, by_rows, others)


def ingest_group(
    sources: Mapping[str, Any] | str | os.PathLike[str],
    url: str | os.PathLike[str],
    *,
    window: int = 16,
    chunk_rows: int | Literal["auto"] = "auto",
    shard_rows: int | Literal["auto"] = "auto",
    codec: CodecName | Literal["auto"] = "auto",
    segments: ArrayLike | None = None,
    memory_limit: int | str | None = None,
    progress: bool | None = None,
    resume: bool = True,
    overwrite: bool = False,
    client: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> RowGroup:
    """Write several arrays of as many rows each, in one commit, and open them.

    Parameters
    ----------
    sources
        A source for each name, as `swath.ingest` takes them, of as many rows each; no iterators. Or an HDF5 file, a group in
        it (``"file.h5::group"``), a ``.npz`` file or a Zarr group: all arrays of it.
    url
        The folder that shall be the group: a Zarr v3 group, each array of which is a store.
    window, chunk_rows, shard_rows, codec, segments, memory_limit, progress, resume, overwrite, client, storage_options
        As in `swath.ingest`, for each array.

    Raises
    ------
    SourceError
        They differ in rows, or one is no source.
    OptionError
        A name is no name of a folder.
    StoreExistsError, StoreBusyError, LayoutError, MemoryLimitError, DiskFullError
        As in `swath.ingest`.

    Examples
    --------
    >>> import swath, numpy as np
    >>> g = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "group.zarr")
    >>> g["X"].shape, g["y"].shape
    ((100, 5), (100,))
    """
    from swath import ingestion

    options = ingestion.Options(
        window=window,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        codec=codec,
        segments=segments,
        memory_limit=memory_limit,
        progress=progress,
        resume=resume,
        overwrite=overwrite,
        client=client,
    )
    place = place_of(url, storage_options)
    ingestion.ingest_group(sources, place, options)
    return _open(place)


def arrays_of(rows: RowArray | RowGroup) -> dict[str, RowArray]:
    """The arrays of a group by name, or the one that is given, by the name ``""``.

    Raises
    ------
    OptionError
        It is something else.
    """
    if isinstance(rows, RowGroup):
        return dict(rows)
    if isinstance(rows, RowArray):
        return {"": rows}
    raise OptionError(f"A {type(rows).__name__} is no array of swath. Give what swath.open or swath.open_group return.")
