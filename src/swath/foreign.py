"""How are rows read from a Zarr array that another program wrote?

zarr-python opens it, so that whatever it knows of (v2 or v3, any data type, any codec) is known here. Where chunks lie
and how they are encoded is then read from its metadata: chunks are fetched and decoded by the engine, each once. An array
with a codec that only zarr-python can decode is read through it, a block at a time.

Chunks that were never written hold the fill value, as Zarr says.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from swath.decoder import Decoder, from_zarr_v2, from_zarr_v3
from swath.encoded import ChunkReader, EncodedReader, Entries, LibraryReader
from swath.errors import FormatError, StoreChangedError
from swath.layout import INDEX_ENTRY_BYTES, Layout
from swath.plan import Reach
from swath.rows import Access
from swath.shard import IndexCache, index_entries
from swath.storage import File, Folder, Gate, Scratch, as_zarr_store

_METADATA = ("zarr.json", ".zarray")

# Chunks that may share a call to zarr-python.
_LIBRARY_CHUNKS = 256


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a shard holds chunks."""

    grid: tuple[int, ...]
    """Chunks along each axis of a shard."""
    indexes: IndexCache


@dataclass(frozen=True, slots=True)
class ForeignZarr:
    """A Zarr array as it was when it was opened."""

    folder: Folder
    encoded: bytes
    """The metadata as they were."""
    array: Any
    """What zarr-python makes of them: its `zarr.Array`."""
    layout: Layout
    window: int
    decoder: Decoder | None
    sharding: Sharding | None
    fill_value: Any

    is_store = False
    reason = "as its writer chose"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.window, self.encoded)

    @property
    def segments(self) -> tuple[int, ...]:
        """The array is one segment."""
        return (self.layout.n_rows,)

    @property
    def url(self) -> str:
        """The folder."""
        return self.folder.url

    @property
    def reach(self) -> Reach:
        """What a request costs."""
        return self.folder.reach

    def through(self, gate: Gate) -> ForeignZarr:
        """The same for threads that may be left behind."""
        return replace(self, folder=self.folder.through(gate))

    def find(self, shard: int) -> None:
        """Nothing: each tile of a shard has an index of its own, which is read where it is wanted."""

    @property
    def version(self) -> str:
        """Of the metadata; Zarr has none of the chunks."""
        return self.encoded.decode()

    @contextlib.contextmanager
    def reader(self, shard: int, access: Access, scratch: Scratch) -> Iterator[ChunkReader]:
        """What reads the chunks of one row of files."""
        if self.decoder is None:
            yield LibraryReader(
                self.array, lambda chunk, tile: f"{self.url}/{self.key(chunk, tile)}", self.layout, access.tiles
            )
            return
        decoder = self.decoder if access.verify else self.decoder.without_checks()
        with EncodedReader(
            self,
            decoder,
            self.layout,
            access.tiles,
            scratch,
            direct=access.direct,
            reach=self.reach,
            fill_value=self.fill_value,
        ) as reader:
            yield reader

    def key(self, chunk: int, tile: int) -> str:
        """The file that holds this tile of a chunk."""
        index = self._index(chunk, tile)
        if self.sharding is not None:
            index = tuple(i // n for i, n in zip(index, self.sharding.grid))
        return str(self.array.metadata.encode_chunk_key(index))

    def entries(self, file: File, first: int, stop: int, tile: int) -> Entries:
        """Where this tile of some chunks lies in its file."""
        if self.sharding is None:
            return [(0, file.load(), 0)]
        grid = self.sharding.grid
        inside = tuple(i % n for i, n in zip(self._index(first, tile), grid))
        a_row = math.prod(grid[1:])
        which = int(np.ravel_multi_index(inside, grid)) + a_row * np.arange(stop - first)
        return index_entries(self.sharding.indexes.get(file), which)

    def _index(self, chunk: int, tile: int) -> tuple[int, ...]:
        return (chunk, *map(int, np.unravel_index(tile, self.layout.tiles.grid))) if self.layout.row_shape else (chunk,)

    def is_cached(self, chunk: int) -> bool:
        """Whether a chunk's first byte is in the page cache; a chunk that was never written needs no disk."""
        if self.decoder is None:
            return True
        try:
            with self.folder.open(self.key(chunk, 0)) as file:
                (entry,) = self.entries(file, chunk, chunk + 1, 0)
                return entry is None or not entry[1] or file.is_cached(min(entry[0], file.size - 1))
        except FileNotFoundError:
            return True

    def recipe(self) -> tuple[Any, ...]:
        """What opens this version of the array elsewhere."""
        return _reopen, self.folder, self.window, self.encoded

    def reopened(self) -> ForeignZarr:
        """The array as it is now."""
        return open_zarr(self.folder.anew(), self.window)

    def check_unchanged(self) -> None:
        """Refuse what was read meanwhile, if the metadata have changed.

        Raises
        ------
        StoreChangedError
        """
        _check_unchanged(self.folder, self.encoded)


def _reopen(folder: Folder, window: int, encoded: bytes) -> ForeignZarr:
    """The array that was pickled, if it is still there."""
    _check_unchanged(folder, encoded)
    return open_zarr(folder, window)


def _check_unchanged(folder: Folder, encoded: bytes) -> None:
    if _read_metadata(folder, encoded) != encoded:
        raise StoreChangedError(f"The array at {folder.url} was changed since it was opened. Open it again.")


def open_zarr(folder: Folder, window: int) -> ForeignZarr:
    """Open the Zarr array in a folder.

    Raises
    ------
    FormatError
        It is a group, its metadata are damaged, or it is no array of rows of one size.
    """
    encoded = _read_metadata(folder)  # first: what is replaced from here on is found out by them
    array = _open_array(folder)
    try:
        document = json.loads(encoded)
    except ValueError as error:
        raise FormatError(
            f"The metadata of {folder.url} are no JSON ({error}). Open it again, or restore them."
        ) from None
    dtype = np.dtype(array.dtype)
    if not array.shape or 0 in array.shape or dtype.hasobject or dtype.itemsize == 0:
        raise FormatError(
            f"The Zarr array {folder.url} has shape {array.shape} and dtype {array.dtype}, so it has no rows of one size. "
            "Choose an array with at least one row and a dtype of fixed size."
        )
    grid = document if "chunks" in document else document.get("chunk_grid", {}).get("configuration", {})
    of_files = list(array.shards or array.chunks)
    told = grid.get("chunks", grid.get("chunk_shape", of_files))
    if told != of_files or 0 in told:  # zarr-python mends it in silence
        raise FormatError(
            f"The metadata of {folder.url} tell of chunks of {told} values, but a chunk has at least one along each of the "
            f"{len(array.shape)} axes. Restore the metadata."
        )
    native = np.result_type(dtype)
    decoder, chunks, shards, sharding, codec = _codecs(array, encoded, dtype)
    # What the indexes list for a row of chunks: the chunks of all shards side by side, those beyond the array too.
    shards_in_row = (-(-n // s) for n, s in zip(array.shape[1:], shards[1:]))
    side_by_side = math.prod(shards_in_row) * math.prod(sharding.grid[1:]) if sharding else 0
    layout = Layout(
        n_rows=array.shape[0],
        row_shape=array.shape[1:],
        dtype=native,
        chunk_rows=chunks[0],
        # Where zarr-python reads, the files are its own matter: many small chunks are asked for at once.
        shard_rows=shards[0] if decoder is not None else chunks[0] * _LIBRARY_CHUNKS,
        codec=codec,
        tile_shape=chunks[1:],
        crc_bytes=0,
        entry_bytes=INDEX_ENTRY_BYTES * side_by_side,
        stamp_bytes=0,
        is_plain=decoder is not None and decoder.is_identity,
        decode_copies=0 if decoder is None else 1 + len(decoder.steps) + 8 * len(decoder.filters),
        by_library=decoder is None,
    )
    if not layout.is_countable:
        raise FormatError(
            f"The Zarr array {folder.url} has shape {array.shape} and chunks {chunks}: more than 64 bits count. Restore its metadata."
        )
    fill_value = np.asarray(_fill_value(array), native)[()]
    return ForeignZarr(folder, encoded, array, layout, window, decoder, sharding, fill_value)


def _open_array(folder: Folder) -> Any:
    import zarr

    try:
        # zarr-python warns of data types without a final specification: what can be read is read.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = zarr.open(as_zarr_store(folder), mode="r")
            if isinstance(found, zarr.Array):
                _ = found.chunks, found.shards  # there are no such shapes where chunks are of unlike sizes
    except Exception as error:  # a codec or a data type that is not there, JSON of another kind, ...
        _read_metadata(folder)  # a server that does not answer, or refuses, is told of as ever
        where = next((f"{folder.url}/{name}" for name in _METADATA if folder.has(name)), folder.url)
        raise FormatError(
            f"zarr-python cannot make an array of {where} ({type(error).__name__}: {error}). Check that it is sound, and its codecs installed."
        ) from error
    if not isinstance(found, zarr.Array):
        try:
            names = ", ".join(sorted(found.array_keys())) or "none"
        except (KeyError, TypeError, ValueError, AttributeError):  # consolidated metadata that name what cannot be
            names = "which its metadata do not tell"
        raise FormatError(f"{folder.url} is a Zarr group, not an array. Open one of its arrays ({names}).")
    return found


def _fill_value(array: Any) -> Any:
    if array.fill_value is not None:
        return array.fill_value
    from zarr.dtype import parse_dtype

    return parse_dtype(array.dtype, zarr_format=2).default_scalar()  # as zarr-python reads chunks that are not there


# The index is read by swath if it is as all writers make it; else the shard is read by zarr-python.
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_INDEX_CODECS = ([_LITTLE, {"name": "crc32c"}], [_LITTLE, {"name": "crc32c", "configuration": {}}], [_LITTLE, "crc32c"])


def _codecs(
    array: Any, encoded: bytes, dtype: np.dtype[Any]
) -> tuple[Decoder | None, tuple[int, ...], tuple[int, ...], Sharding | None, str]:
    """The decoder, the shapes of chunk and file, the sharding, and a word for the codec."""
    if array.metadata.zarr_format == 2:
        compressor, filters = array.metadata.compressor, array.metadata.filters or ()
        decoder = from_zarr_v2(compressor, filters, array.order, array.chunks, dtype)
        names = [codec.codec_id for codec in (*filters, *([compressor] if compressor else []))]
        return decoder, array.chunks, array.chunks, None, _word(names)
    codecs = _named(json.loads(encoded)["codecs"])
    names = [codec["name"] for codec in codecs]
    if names != ["sharding_indexed"]:
        return from_zarr_v3(codecs, array.chunks, dtype), array.chunks, array.chunks, None, _word(names)
    options = codecs[0]["configuration"]
    own = _named(options.get("codecs", ["bytes"]))  # what zarr-python takes where nothing is said
    inner = [codec["name"] for codec in own]
    if options.get("index_codecs", _INDEX_CODECS[0]) not in _INDEX_CODECS:
        return None, array.shards, array.shards, None, _word(inner)
    grid = tuple(s // c for s, c in zip(array.shards, array.chunks))
    location = options.get("index_location", "end")
    sharding = Sharding(grid, IndexCache(math.prod(grid) * INDEX_ENTRY_BYTES + 4, location=location))
    return from_zarr_v3(own, array.chunks, dtype), array.chunks, array.shards, sharding, _word(inner)


def _named(codecs: Sequence[Any]) -> list[Any]:
    """Codecs as JSON has them, of which those without options may be a name alone."""
    return [{"name": codec} if isinstance(codec, str) else codec for codec in codecs]


def _word(names: Sequence[str]) -> str:
    """A word for a chain of codecs: what compresses."""
    packing = [name for name in names if name not in ("bytes", "crc32c", "transpose")]
    return "+".join(packing) or "uncompressed"


def _read_metadata(folder: Folder, before: bytes = b"") -> bytes:
    for name in _METADATA:
        with contextlib.suppress(FileNotFoundError):
            return folder.read_again(name, before)
    return b""
