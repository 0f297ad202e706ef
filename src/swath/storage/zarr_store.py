"""The stores of zarr-python: reads through one that a user has made, and one for zarr-python to read a folder of ours."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from swath.errors import OptionError, StoreAccessError, StoreUnreachableError
from swath.plan import REMOTE, Reach
from swath.storage.connection import check_process
from swath.storage.folder import Folder
from swath.storage.gate import Gate, away
from swath.storage.local import Buffer, LocalFolder, Scratch, scatter
from swath.storage.objects import ObjectFolder

_UNPINNED = replace(REMOTE, pins_versions=False)


def is_zarr_store(place: object) -> bool:
    """Whether this is a store of zarr-python, or a mapping of fsspec."""
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(place).__mro__}
    return bool(kinds & {"zarr.Store", "fsspec.FSMap"})


def zarr_store_folder(place: Any) -> Folder:
    """The folder that a store of zarr-python is, or a mapping of fsspec."""
    if type(place).__module__.startswith("fsspec"):
        from zarr.storage import FsspecStore

        place = FsspecStore.from_mapper(place, read_only=True)
    if type(place).__name__ == "ObjectStore":
        check_process(str(place))
    return ZarrStoreFolder(place, "")


def as_zarr_store(folder: Folder) -> Any:
    """What zarr-python opens to read a folder."""
    if isinstance(folder, LocalFolder):
        from swath.storage.zarr_local import BeneathStore

        return BeneathStore(folder.path, read_only=True)
    from zarr.storage import ObjectStore, StorePath

    if isinstance(folder, ObjectFolder):
        store: Any = ObjectStore(folder.connection.client(), read_only=True)
        return StorePath(store, folder.prefix)
    assert isinstance(folder, ZarrStoreFolder)
    return StorePath(folder.store, folder.prefix)


def _now(store: Any, path: str, call: Coroutine[Any, Any, Any]) -> Any:
    """What a store answers.

    Raises
    ------
    FileNotFoundError, StoreAccessError, StoreUnreachableError
    """
    from zarr.core.sync import sync

    try:
        if type(store).__name__ == "ObjectStore":
            check_process(path)
        return sync(call)
    except (FileNotFoundError, StoreUnreachableError):
        raise
    except Exception as error:  # whatever a store of somebody else raises
        kind = StoreAccessError if isinstance(error, PermissionError) else StoreUnreachableError
        told = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise kind(f"{path} cannot be read ({told:.300}). Check the store that was given, and call again.") from error
    finally:
        call.close()


@dataclass(slots=True)
class ZarrStoreFile:
    """An object of a store of zarr-python. It has no version: what changes while it is read is met by checksums alone."""

    store: Any
    key: str
    url: str
    gate: Gate | None
    _size: int | None = None
    _whole: Buffer | None = None

    @property
    def path(self) -> str:
        """How messages name it."""
        return f"{self.url}/{self.key}"

    @property
    def size(self) -> int:
        """Its bytes."""
        if self._size is None:
            self._size = self._run(self.store.getsize(self.key))
        return self._size

    @property
    def version(self) -> tuple[Any, ...]:
        """Its name: nobody tells more."""
        return (self.key,)

    def read_into(self, buffers: list[Buffer], n_bytes: int, offset: int) -> int:
        """Fill ``buffers``, of ``n_bytes`` together, in order from ``offset``; return how many bytes there were."""
        content = self._get(offset, offset + n_bytes) if self._whole is None else self._whole[offset : offset + n_bytes]
        return scatter(content, buffers)

    def recall(self) -> None:
        """Nothing: it is read as it is."""

    def load(self) -> int:
        """Fetch all of it, and keep it."""
        if self._whole is None:
            self._whole = self._get(0, None)
        return len(self._whole)

    def _get(self, begin: int, end: int | None) -> Buffer:
        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype

        wanted = None if end is None else RangeByteRequest(begin, end)
        found = self._run(self.store.get(self.key, default_buffer_prototype(), wanted))
        if found is None:
            raise FileNotFoundError(f"There is no {self.path}")
        return memoryview(found.as_numpy_array()).cast("B")

    def _run(self, call: Any) -> Any:
        with away(self.gate):
            return _now(self.store, self.path, call)

    def announce(self, offset: int, n_bytes: int) -> None:
        """Nothing: a request is made once."""

    def read_ahead(self) -> None:
        """Nothing: each range is a request of its own."""

    def is_cached(self, offset: int) -> bool:
        """Nobody can say."""
        return False

    def mapped(self, n_bytes: int) -> mmap.mmap | None:
        """It is no file."""
        return None


@dataclass(frozen=True, slots=True)
class ZarrStoreFolder:
    """Keys of a store of zarr-python that begin alike. It is only read."""

    store: Any
    prefix: str
    gate: Gate | None = field(default=None, compare=False, repr=False)

    def __hash__(self) -> int:
        return hash((str(self.store), self.prefix))

    @property
    def url(self) -> str:
        """As zarr-python calls it."""
        return f"{self.store}/{self.prefix}".rstrip("/")

    @property
    def reach(self) -> Reach:
        """As far as an object store, as most are that nothing else opens."""
        return _UNPINNED

    @property
    def name(self) -> str:
        """The last part of its prefix."""
        return self.prefix.rpartition("/")[2]

    def within(self, name: str) -> ZarrStoreFolder:
        """A folder in this one."""
        return replace(self, prefix=self._key(name)) if name else self

    def above(self) -> ZarrStoreFolder:
        """The folder that this one is in; the root is in itself."""
        return replace(self, prefix=self.prefix.rpartition("/")[0])

    def through(self, gate: Gate) -> ZarrStoreFolder:
        """The same for threads that may be left behind."""
        return replace(self, gate=gate)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def anew(self) -> ZarrStoreFolder:
        """The same: nothing is kept of it."""
        return self

    def origin(self) -> ZarrStoreFolder:
        """The same."""
        return self

    @contextlib.contextmanager
    def open(self, key: str, direct: Scratch | None = None) -> Iterator[ZarrStoreFile]:
        """An object; that it is not there shows when it is read."""
        yield ZarrStoreFile(self.store, self._key(key), str(self.store), self.gate)

    def read(self, key: str) -> bytes:
        """All of a small object."""
        with self.open(key) as file:
            buffer = bytearray(file.load())
            file.read_into([memoryview(buffer)], len(buffer), 0)
        return bytes(buffer)

    def read_if_there(self, key: str) -> bytes:
        """The same; empty if it is not there."""
        try:
            return self.read(key)
        except FileNotFoundError:
            return b""

    def read_again(self, key: str, before: bytes) -> bytes:
        """The same."""
        return self.read(key)

    def has(self, key: str) -> bool:
        """Whether there is an object of this name."""
        return bool(_now(self.store, f"{self.url}/{key}", self.store.exists(self._key(key))))

    def put(self, key: str, buffers: Sequence[Buffer]) -> NoReturn:
        """Refused.

        Raises
        ------
        OptionError
        """
        raise OptionError(f"{self.url} can only be read. Give the URL of a place that is written to.")

    def make(self) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def remove_temporaries(self) -> None:
        """Nothing."""
