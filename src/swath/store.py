"""What is a whole store, and how does it become one?

A store is a folder that holds one plain Zarr v3 array: ``zarr.json`` and shards ``c.0.0``, ``c.1.0``, ... Its
committed length is ``shape[0]`` in ``zarr.json``; our own facts are the attribute ``swath``. zarr-python makes
the metadata, so that it reads them.

A store is built beside its place, in ``.NAME.swath-part``, and takes its place by a rename when it is
whole: there is no moment at which half a store could be opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from swath.checksum import crc32c
from swath.decoder import BloscStep, Crc32c, Decoder
from swath.encoded import ChunkReader, EncodedReader, Entries
from swath.errors import (
    DamagedStoreError,
    FormatError,
    IncompleteStoreError,
    LayoutError,
    OptionError,
    StoreBusyError,
    StoreChangedError,
    StoreExistsError,
    StoreNotFoundError,
)
from swath.layout import CodecName, Layout
from swath.raw import RawReader
from swath.rows import Access
from swath.shard import MEND, IndexCache, index_entries
from swath.storage import LocalFile, LocalFolder, Scratch
from swath.storage.local import sync_folder

FORMAT = 1
_METADATA = "zarr.json"
# The metadata of a store that is being built: what it will be, and so whether a second run may carry on.
_PENDING = "pending.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """What ``zarr.json`` says of a store."""

    layout: Layout
    window: int
    segments: tuple[int, ...]
    """Rows of each segment, in order; their sum is ``layout.n_rows``."""
    source: Mapping[str, Any]
    """What the store was ingested from: JSON values."""
    reason: str = "as asked"
    """Why the codec is what it is."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store as it was when it was opened. Pickles small; each process opens files of its own."""

    folder: LocalFolder
    encoded: bytes
    """``zarr.json`` as it was."""
    facts: Facts
    """What it says."""
    indexes: IndexCache

    is_store = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_store, (self.folder, self.encoded, self.window)

    @property
    def layout(self) -> Layout:
        """How rows lie in chunks and shards."""
        return self.facts.layout

    @property
    def window(self) -> int:
        """Rows of a window, unless a call says otherwise."""
        return self.facts.window

    @property
    def segments(self) -> tuple[int, ...]:
        """Rows of each segment."""
        return self.facts.segments

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.folder.path)

    @property
    def reason(self) -> str:
        """Why the layout is what it is."""
        return self.facts.reason

    @property
    def version(self) -> str:
        """Of the metadata, which name the source and its version."""
        return repr(self.facts)

    def check_unchanged(self) -> None:
        """Refuse what was read meanwhile, if another store has taken this one's place since it was opened.

        Raises
        ------
        StoreChangedError
        """
        if not _holds(self.folder.path / _METADATA, self.encoded):
            raise StoreChangedError(
                f"The store at {self.folder.path} was replaced or removed since it was opened. Open it again."
            )

    @contextlib.contextmanager
    def reader(self, shard: int, access: Access, scratch: Scratch) -> Iterator[RawReader | ChunkReader]:
        """What reads the chunks of one shard."""
        if self.layout.codec == "raw":
            with self._open(shard, scratch if access.direct else None) as file:
                index = self.indexes.get(file)
                offset = self.layout.index_bytes
                yield RawReader(file, self.layout, shard, scratch, offset=offset, index=index, verify=access.verify)
        else:
            decoder = _decoder(self.layout)
            chosen = decoder if access.verify else decoder.without_checks()
            with EncodedReader(self, chosen, self.layout, access.tiles, scratch, direct=access.direct) as reader:
                yield reader

    @contextlib.contextmanager
    def _open(self, shard: int, direct: Scratch | None) -> Iterator[LocalFile]:
        try:
            with self.folder.open(shard_key(self.layout, shard), direct) as file:
                yield file
        except FileNotFoundError:
            a, b = self.layout.rows_of(shard)
            missing = self.folder.path / shard_key(self.layout, shard)
            raise DamagedStoreError(f"{missing} (rows {a} to {b - 1}) is missing. {MEND}") from None

    def key(self, chunk: int, tile: int) -> str:
        """The shard that holds a chunk."""
        return shard_key(self.layout, chunk // self.layout.shard_chunks)

    def entries(self, file: LocalFile, first: int, stop: int, tile: int) -> Entries:
        """Where chunks of one shard lie."""
        origin = first - first % self.layout.shard_chunks
        return index_entries(self.indexes.get(file), slice(first - origin, stop - origin))

    def is_cached(self, chunk: int) -> bool:
        """Whether a chunk's first byte is in the page cache."""
        shard, k = divmod(chunk, self.layout.shard_chunks)
        with self._open(shard, None) as file:
            return file.is_cached(min(int(self.indexes.get(file).offsets[k]), max(0, file.size - 1)))


def _make_store(folder: LocalFolder, encoded: bytes, window: int | None) -> Store:
    facts = decode_metadata(encoded, folder.path)
    if window is not None:
        facts = replace(facts, window=window)
    raw_chunk_bytes = facts.layout.chunk_bytes if facts.layout.codec == "raw" else 0
    return Store(folder, encoded, facts, IndexCache(facts.layout.index_bytes, raw_chunk_bytes=raw_chunk_bytes))


def _decoder(layout: Layout) -> Decoder:
    shape = (layout.chunk_rows, *layout.row_shape)
    return Decoder(shape, layout.dtype, layout.dtype, (Crc32c(), BloscStep()))


def shard_key(layout: Layout, shard: int) -> str:
    """The key of a shard: Zarr's default encoding with ``.``, so that all shards lie in one folder."""
    return ".".join(["c", str(shard), *("0" for _ in layout.row_shape)])


def local_path(url: str | os.PathLike[str]) -> Path:
    """The folder that ``url`` names.

    Raises
    ------
    OptionError
        It is no path.
    """
    if not isinstance(url, (str, os.PathLike)) or "://" in str(url) or "\0" in str(url) or not str(url):
        raise OptionError(f"The place of a store is {url!r}, which is no local path. Give the path of a folder.")
    path = Path(os.path.abspath(Path(url).expanduser()))
    # A rename would replace a link, and not the folder that it stands for.
    return path.resolve() if path.is_symlink() else path


def open_store(url: str | os.PathLike[str], window: int | None = None) -> Store:
    """Open the committed store at ``url``, for windows of so many rows, or as it says.

    Raises
    ------
    StoreNotFoundError, IncompleteStoreError, FormatError
    """
    path = local_path(url)
    if not path.exists() and _retired(path).exists():
        path = _retired(path)  # a kill fell between the two renames of `building`
    try:
        encoded = (path / _METADATA).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if _part(path).exists():
            raise IncompleteStoreError(
                f"The ingest into {path} has not finished. Run the same ingest again: it carries on where it was."
            ) from None
        raise StoreNotFoundError(
            f"There is no store at {path} (no {_METADATA}). Check the path, or ingest into it first."
        ) from None
    return _make_store(LocalFolder(path), encoded, window)


def is_store(path: Path) -> bool:
    """Whether a folder holds metadata that swath wrote, damaged or not."""
    try:
        encoded = (path / _METADATA).read_bytes()
        own = json.loads(encoded)["attributes"]["swath"]
    except (KeyError, TypeError):
        return False
    except (ValueError, RecursionError):
        return b'"swath"' in encoded
    except OSError:
        return False
    # Anybody may have an attribute of this name; ours has these.
    return isinstance(own, dict) and {"format", "crc32c"} & own.keys() != set()


def encode_metadata(facts: Facts) -> bytes:
    """The bytes of ``zarr.json``, with a checksum over all that swath relies on.

    Raises
    ------
    LayoutError
        Zarr refuses these rows.
    """
    import zarr
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    layout = facts.layout
    itemsize = layout.dtype.itemsize
    compressors: list[Any] = [Crc32cCodec()]
    if layout.codec != "raw":
        shuffle: Any = "shuffle" if itemsize > 1 else "noshuffle"
        cname: Any = layout.codec
        compressors.insert(0, BloscCodec(cname=cname, clevel=5, shuffle=shuffle, typesize=min(itemsize, 255)))
    own: dict[str, Any] = {
        "format": FORMAT,
        "dtype": None,
        "codec": layout.codec,
        "reason": facts.reason,
        "window": facts.window,
        "segments": facts.segments,
        "source": facts.source,
    }
    files: dict[str, Any] = {}
    try:
        # Fixed-length text, datetimes and records have no final specification in Zarr v3: the docs say so once.
        # And numpy warns of metadata of a dtype (h5py's, of enums and text), which are no part of its values.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own["dtype"] = np.lib.format.dtype_to_descr(layout.dtype)
            zarr.create_array(
                MemoryStore(files),
                shape=layout.shape,
                dtype=_zarr_dtype(layout.dtype),
                chunks=(layout.chunk_rows, *layout.row_shape),
                shards={"shape": (layout.shard_rows, *layout.row_shape), "index_location": "start"},
                filters=None,
                serializer=BytesCodec(endian="little"),
                compressors=compressors,
                chunk_key_encoding={"name": "default", "separator": "."},
                attributes={"swath": own},
            )
    except (ValueError, TypeError) as error:
        raise LayoutError(
            f"Zarr cannot hold rows of dtype {layout.dtype} and shape {layout.row_shape} ({error}). Choose another dtype."
        ) from error
    document = json.loads(files[_METADATA].to_bytes())
    own = document["attributes"]["swath"]
    if np.lib.format.descr_to_dtype(_tuples(own["dtype"])) != layout.dtype:
        raise LayoutError(f"The dtype {layout.dtype} has no description that numpy reads back. Choose another dtype.")
    own["crc32c"] = _checksum(document)
    return json.dumps(document, indent=2).encode()


def decode_metadata(encoded: bytes, path: Path) -> Facts:
    """What ``zarr.json`` says.

    Raises
    ------
    FormatError
        It is no metadata of a store, of a later version, or not as it was written.
    """
    where = path / _METADATA
    try:
        document = json.loads(encoded)
        own = document["attributes"]["swath"]
        if own["format"] != FORMAT:
            raise FormatError(
                f"{where} has format {own['format']!r}, and this version of swath reads {FORMAT}. Upgrade swath."
            )
        if own["crc32c"] != _checksum(document):
            raise FormatError(
                f"{where} is not as swath wrote it: its checksum is wrong. Restore the file, or ingest the source again."
            )
        dtype = np.lib.format.descr_to_dtype(_tuples(own["dtype"]))
        if own["codec"] not in get_args(CodecName):
            raise FormatError(
                f"{where} names the codec {own['codec']!r}, which this version cannot decode. Upgrade swath."
            )
        codec: CodecName = own["codec"]
        inner = document["codecs"][0]["configuration"]["chunk_shape"]
        shape, shard = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        layout = Layout(shape[0], tuple(shape[1:]), dtype, inner[0], shard[0], codec)
        return Facts(layout, own["window"], tuple(own["segments"]), own["source"], own["reason"])
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise FormatError(
            f"{where} is no metadata of a swath store ({type(error).__name__}: {error}). Ingest the array with swath.ingest."
        ) from None


def pending_facts(path: Path) -> Facts | None:
    """What an interrupted ingest into ``path`` was to make; None if there was none."""
    with contextlib.suppress(OSError, FormatError):
        return decode_metadata((_part(path) / _PENDING).read_bytes(), _part(path))
    return None


@contextlib.contextmanager
def building(path: Path, facts: Facts, *, overwrite: bool, resume: bool) -> Iterator[LocalFolder]:
    """A folder to write the shards of ``facts`` into; leaving the block without an error commits it as ``path``.

    The folder holds the shards that an earlier run with the same facts has finished, unless ``resume`` is False. An
    error, or a kill, leaves what stood at ``path`` before.

    Raises
    ------
    StoreExistsError
        ``path`` exists and ``overwrite`` is False, or it is not a Zarr array.
    StoreBusyError
        Another process is building the same store.
    """
    part, retired = _part(path), _retired(path)
    pending = encode_metadata(facts)
    check_vacant(path, overwrite=overwrite)
    part.mkdir(parents=True, exist_ok=True)
    folder = LocalFolder(part)
    with _locked(part, path):
        if retired.exists():
            if path.exists():
                shutil.rmtree(retired)
            else:
                retired.rename(path)
        if _holds(part / _METADATA, pending):  # a kill fell between the last shard and the commit
            (part / _METADATA).rename(part / _PENDING)
        if not resume or not _holds(part / _PENDING, pending):
            for entry in part.iterdir():
                entry.unlink()
            folder.put(_PENDING, [memoryview(pending)])
        folder.remove_temporaries()

        yield folder

        # From here a kill leaves the old or the new: the shards are on the disk before their metadata get the
        # name that makes an array of them, and the folder gets its name last.
        (part / _PENDING).rename(part / _METADATA)
        folder.sync()
        check_vacant(path, overwrite=overwrite)
        if path.exists():
            path.rename(retired)
        part.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(retired, ignore_errors=True)


def check_vacant(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is not to be replaced.

    Raises
    ------
    StoreExistsError
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / _METADATA).is_file() and not (path / ".zarray").is_file():
        raise StoreExistsError(
            f"{path} exists and is not a Zarr array, so swath will not touch it. Choose another place."
        )
    if not overwrite:
        raise StoreExistsError(
            f"There is an array at {path} already. Choose another place, or give overwrite=True to replace it."
        )


@contextlib.contextmanager
def _locked(part: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a store that is being built: of the folder itself, so that no file stays behind.

    The kernel frees it when its holder dies.
    """
    finished = StoreBusyError(f"Another process finished {path} at this moment. Open it, or run the call again.")
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise finished from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreBusyError(
                f"Process {_holder(descriptor)} is ingesting into {path}. Wait until it has finished, or stop it."
            ) from None
        if not part.exists() or not os.path.samestat(part.stat(), os.fstat(descriptor)):
            raise finished  # the folder that is locked has become the store
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """The process that holds the lock of an open file, as the kernel lists it."""
    inode = str(os.fstat(descriptor).st_ino)
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                return words[4]
    return "unknown"


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.swath-part")


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.swath-old")


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _checksum(document: dict[str, Any]) -> int:
    """A crc32c of the metadata without itself, and without the attributes that are not ours."""
    own = {name: value for name, value in document["attributes"]["swath"].items() if name != "crc32c"}
    return crc32c(json.dumps({**document, "attributes": own}, sort_keys=True).encode())


def _tuples(descr: Any) -> Any:
    """A dtype's description as numpy wants it, from JSON, which knows no tuples."""
    if isinstance(descr, str):
        return descr
    names = (tuple(field[0]) if isinstance(field[0], list) else field[0] for field in descr)  # with a title, or without
    return [(name, _tuples(field[1]), *(tuple(shape) for shape in field[2:])) for name, field in zip(names, descr)]


def _zarr_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that Zarr is told: raw bytes for what Zarr has no name for (long double, records with subarrays)."""
    from zarr.dtype import parse_dtype

    try:
        same = parse_dtype(dtype, zarr_format=3).to_native_dtype() == dtype
    except (ValueError, TypeError):
        same = False
    return dtype if same else np.dtype(f"V{dtype.itemsize}")
