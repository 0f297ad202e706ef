"""What do ``zarr.json`` and the head of a shard say, and are they as swath wrote them?

A store is one plain Zarr v3 array, a group of stores a Zarr v3 group with consolidated metadata: whoever reads Zarr reads
them. Our own facts are the attribute ``swath``, with a crc32c over all that swath relies on. zarr-python makes the
metadata of arrays, so that it reads them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, get_args

import numpy as np

from swath.checksum import crc32c
from swath.dtypes import describe_dtype, parse_description
from swath.errors import FormatError, LayoutError, OptionError
from swath.layout import CodecName, Layout
from swath.memory import format_bytes
from swath.shard import IDENTITY_BYTES, Stamp
from swath.storage.regular import MOST_WHOLE_BYTES

FORMAT = 1
METADATA = "zarr.json"

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Facts:
    """What ``zarr.json`` says of a store."""

    layout: Layout
    window: int
    segments: tuple[int, ...]
    """Rows of each segment, in order; their sum is ``layout.n_rows``."""
    sources: tuple[Mapping[str, Any], ...]
    """What the store was ingested from, and what was appended, in order: JSON values."""
    lengths: tuple[int, ...]
    """Rows of each source; of one that is still written, nobody knows yet."""
    reason: str = "as asked"
    """Why the codec is what it is."""
    dims: tuple[str, ...] | None = None
    """Names of the axes, if they have any."""

    @cached_property
    def history(self) -> tuple[bytes, ...]:
        """What the store was, after its first source and after each that was appended: a hash of the layout and of these.

        Copies of one store to which different rows were appended share the beginning, and no more.
        """
        layout = self.layout
        before: Any = [
            layout.row_shape,
            describe_dtype(layout.dtype),
            layout.chunk_rows,
            layout.shard_rows,
            layout.codec,
        ]
        digests = []
        for source, begin in zip(self.sources, self._begins):
            # What blocks that come one after another have been is known only at their end, when their shards have been written.
            known = {name: value for name, value in source.items() if name != "given"}
            own = json.dumps([before, known, begin], sort_keys=True).encode()
            digests.append(hashlib.sha256(own).digest())
            before = digests[-1].hex()
        return tuple(digests)

    @cached_property
    def _begins(self) -> tuple[int, ...]:
        """First row of each source."""
        return tuple(itertools.islice(itertools.accumulate(self.lengths, initial=0), len(self.sources)))

    def stamp(self, shard: int) -> Stamp:
        """What the head of a shard says, if it is this one."""
        start, stop = self.layout.rows_of(shard)
        begun = self.history[bisect_right(self._begins, start) - 1]
        filled = self.history[bisect_left(self._begins, stop) - 1]
        return Stamp(shard, stop - start, begun[:IDENTITY_BYTES], filled[:IDENTITY_BYTES])

    def copied_chunks(self, shard: int) -> frozenset[int]:
        """Chunks of a shard, by number within it, that rows were appended to: not compressed (see `swath.shard`)."""
        layout = self.layout
        start, stop = layout.rows_of(shard)
        begun = self._begins[bisect_right(self._begins, start) : bisect_left(self._begins, stop)]
        return frozenset((row - start) // layout.chunk_rows for row in begun if row % layout.chunk_rows)

    def after(self, n_sources: int) -> Facts:
        """What they said when there were only the first sources."""
        n_rows = sum(self.lengths[:n_sources])
        ends = list(itertools.accumulate(self.segments))
        return replace(
            self,
            layout=replace(self.layout, n_rows=n_rows),
            segments=self.segments[: bisect_right(ends, n_rows)],
            sources=self.sources[:n_sources],
            lengths=self.lengths[:n_sources],
        )

    def is_continued_by(self, other: Facts) -> bool:
        """Whether another version of the metadata only appends to this one."""
        n = len(self.sources)
        return (other.history[:n], other.lengths[:n]) == (self.history, self.lengths)


def shard_key(layout: Layout, shard: int) -> str:
    """The key of a shard: Zarr's default encoding, by itself with ``.``, so that all shards lie in one folder."""
    return layout.separator.join(["c", str(shard), *("0" for _ in layout.row_shape)])


def check_name(name: object) -> None:
    """Refuse what is no name of an array in a group.

    Raises
    ------
    OptionError
    """
    if (
        not isinstance(name, str)
        or not name
        or name.startswith((".", "__"))
        or set(name) & set("/\\\0")
        or name == METADATA
    ):
        raise OptionError(
            f"{name!r} is no name for an array of a group. Give a text without slashes that does not begin with a dot."
        )


def encode_metadata(facts: Facts, others: Mapping[str, Any] = _NONE) -> bytes:
    """The bytes of the ``zarr.json`` of a store, with a checksum over all that swath relies on.

    The attributes of ``others`` stand beside our own, and nothing relies on them.

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
        "sources": facts.sources,
        "lengths": facts.lengths,
    }
    files: dict[str, Any] = {}
    try:
        # Fixed-length text, datetimes and records have no final specification in Zarr v3: the docs say so once.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own["dtype"] = describe_dtype(layout.dtype)
            zarr.create_array(
                MemoryStore(files),
                shape=layout.shape,
                dtype=_zarr_dtype(layout.dtype),
                chunks=(layout.chunk_rows, *layout.row_shape),
                shards={"shape": (layout.shard_rows, *layout.row_shape), "index_location": "start"},
                filters=None,
                serializer=BytesCodec(endian="little"),
                compressors=compressors,
                chunk_key_encoding={"name": "default", "separator": layout.separator},
                attributes={"swath": own},
                dimension_names=facts.dims,
            )
    except (ValueError, TypeError) as error:
        raise LayoutError(
            f"Zarr cannot hold rows of dtype {layout.dtype} and shape {layout.row_shape} ({error}). Choose another dtype."
        ) from error
    document = json.loads(files[METADATA].to_bytes())
    own = document["attributes"]["swath"]
    if parse_description(own["dtype"]) != layout.dtype:
        raise LayoutError(f"The dtype {layout.dtype} has no description that numpy reads back. Choose another dtype.")
    document["attributes"] |= others
    return _seal(document)


def encode_group(members: Mapping[str, bytes], others: Mapping[str, Any] = _NONE, beside: Iterable[str] = ()) -> bytes:
    """The bytes of the ``zarr.json`` of a group, from those of its arrays; ``others`` is as in `encode_metadata`.

    It holds the metadata of all arrays (consolidated, as zarr-python calls it), so that one file commits them together. Those
    named ``beside`` do not go by rows.
    """
    own: dict[str, Any] = {"format": FORMAT, "arrays": list(members)}
    if names := list(beside):
        own["beside"] = names
    inline = {name: json.loads(encoded) for name, encoded in members.items()}
    return _seal(
        {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"swath": own, **others},
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": inline},
        }
    )


def decode_group(encoded: bytes, folder: str) -> dict[str, bytes]:
    """The bytes of the ``zarr.json`` of each array of a group, as they were given to `encode_group`.

    Raises
    ------
    FormatError
        It is no metadata of a group, of a later version, or not as it was written.
    """
    document = _unseal(encoded, f"{folder}/{METADATA}")
    try:
        _inline(document, document["attributes"]["swath"].get("beside", []))
        return _inline(document, document["attributes"]["swath"]["arrays"])
    except (OptionError, KeyError, TypeError) as error:
        raise _not_ours(f"{folder}/{METADATA}", error) from None


def decode_beside(encoded: bytes) -> dict[str, bytes]:
    """The same of the arrays that do not go by rows, of metadata that `decode_group` has found sound."""
    document = json.loads(encoded)
    return _inline(document, document["attributes"]["swath"].get("beside", []))


def _inline(document: dict[str, Any], names: Any) -> dict[str, bytes]:
    """The metadata of some arrays, which those of their group hold."""
    for name in names:
        check_name(name)  # it is a folder in this one, and nowhere else
    return {name: _dump(document["consolidated_metadata"]["metadata"][name]) for name in names}


def decode_metadata(encoded: bytes, folder: str) -> Facts:
    """What the ``zarr.json`` of a store says.

    Raises
    ------
    FormatError
        It is no metadata of a store, of a later version, or not as it was written.
    """
    where = f"{folder}/{METADATA}"
    document = _unseal(encoded, where)
    try:
        own = document["attributes"]["swath"]
        dtype = parse_description(own["dtype"])
        if own["codec"] not in get_args(CodecName):
            raise FormatError(
                f"{where} names the codec {own['codec']!r}, which this version cannot decode. Upgrade swath."
            )
        codec: CodecName = own["codec"]
        inner = document["codecs"][0]["configuration"]["chunk_shape"]
        shape, shard = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        separator = document["chunk_key_encoding"]["configuration"]["separator"]
        layout = Layout(shape[0], tuple(shape[1:]), dtype, inner[0], shard[0], codec, separator=separator)
        sources, lengths = tuple(own["sources"]), tuple(own["lengths"])
        names = document.get("dimension_names")
        dims = None if names is None else tuple(names)
        facts = Facts(layout, own["window"], tuple(own["segments"]), sources, lengths, own["reason"], dims)
        if (what := _untrue(facts, shape, inner, shard)) is not None:
            raise ValueError(what)
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _not_ours(where, error) from None
    return facts


def _untrue(facts: Facts, *shapes: Any) -> str | None:
    """What can't be true of a store, whoever made the checksum right; None if all may be."""
    layout = facts.layout
    if not all(map(_are_sizes, (*shapes, [facts.window], facts.lengths))) or not _are_sizes(facts.segments, least=0):
        return "a size is no whole number of rows or values"
    if any(shape[1:] != list(layout.row_shape) for shape in shapes) or layout.shard_rows % layout.chunk_rows:
        return "chunks or shards do not hold whole rows"
    if layout.dtype.hasobject or not layout.dtype.itemsize or not layout.is_countable:
        return f"rows of shape {layout.shape} and dtype {layout.dtype} cannot be stored"
    if len(facts.sources) != len(facts.lengths) or not all(isinstance(source, dict) for source in facts.sources):
        return "sources and their lengths do not belong together"
    if {sum(facts.segments), sum(facts.lengths)} != {layout.n_rows}:
        return f"segments or sources have other rows than the {layout.n_rows} of the array"
    if layout.separator not in (".", "/") or not isinstance(facts.reason, str):
        return "a text is another value"
    if facts.dims is not None and list(map(type, facts.dims)) != [str] * len(layout.shape):
        return "the names of the dimensions are others"
    return None


def _are_sizes(values: Any, *, least: int = 1) -> bool:
    """Whether these are whole numbers, which a bool is not."""
    return isinstance(values, (list, tuple)) and all(type(value) is int and value >= least for value in values)


def check_metadata(encoded: bytes, folder: str) -> None:
    """Refuse a ``zarr.json``, of a store or a group, that is not as swath wrote it.

    Raises
    ------
    FormatError
    """
    _unseal(encoded, f"{folder}/{METADATA}")


def is_ours(encoded: bytes) -> bool:
    """Whether metadata were written by swath, and damaged since or not."""
    try:
        document = json.loads(encoded)
    except (ValueError, RecursionError):
        return b'"swath"' in encoded
    # Anybody may have an attribute of this name; ours has these. And one wrong bit may have changed the name.
    dicts = [value for value in document.values() if isinstance(value, dict)] if isinstance(document, dict) else []
    named = [(name, own.keys()) for each in dicts for name, own in each.items() if isinstance(own, dict)]
    return any(len({"format", "crc32c"} & keys) >= (1 if name == "swath" else 2) for name, keys in named)


def is_group(encoded: bytes) -> bool:
    """Whether metadata of ours are those of a group, damaged or not."""
    try:
        document = json.loads(encoded)
    except (ValueError, RecursionError):
        return b'"group"' in encoded
    return isinstance(document, dict) and (document.get("node_type") == "group" or "consolidated_metadata" in document)


def attributes_of_others(encoded: bytes) -> dict[str, Any]:
    """The attributes in sound metadata that are not ours; none of no metadata."""
    return (
        {name: value for name, value in json.loads(encoded)["attributes"].items() if name != "swath"} if encoded else {}
    )


def _seal(document: dict[str, Any]) -> bytes:
    document["attributes"]["swath"]["crc32c"] = _checksum(document)
    encoded = _dump(document)
    if len(encoded) > MOST_WHOLE_BYTES:
        raise LayoutError(
            f"The metadata would have {format_bytes(len(encoded))}, and at most {format_bytes(MOST_WHOLE_BYTES)} are read. "
            "Ingest the array anew, from fewer sources."
        )
    return encoded


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


def _unseal(encoded: bytes, where: str) -> dict[str, Any]:
    """Metadata of ours, as they were written.

    Raises
    ------
    FormatError
    """
    try:
        document: dict[str, Any] = json.loads(encoded)
        own = document["attributes"]["swath"]
        if not isinstance(own, dict):
            raise TypeError(f"the attribute swath is a {type(own).__name__}")
        if own["format"] != FORMAT:
            raise FormatError(
                f"{where} has format {own['format']!r}, and this version of swath reads {FORMAT}. Upgrade swath."
            )
        if own["crc32c"] != _checksum(document):
            raise FormatError(
                f"{where} is not as swath wrote it: its checksum is wrong. Restore the file, or ingest the source again."
            )
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _not_ours(where, error) from None
    return document


def _not_ours(where: str, error: Exception) -> FormatError:
    return FormatError(
        f"{where} is no metadata of a swath store ({type(error).__name__}: {error}). Ingest the array with swath.ingest."
    )


def _checksum(document: dict[str, Any]) -> int:
    """A crc32c of the metadata without itself, and without the attributes that are not ours."""
    own = {name: value for name, value in document["attributes"]["swath"].items() if name != "crc32c"}
    return crc32c(json.dumps({**document, "attributes": own}, sort_keys=True).encode())


def _zarr_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that Zarr is told: raw bytes for what Zarr has no name for (long double, records with subarrays)."""
    from zarr.dtype import parse_dtype

    try:
        same = parse_dtype(dtype, zarr_format=3).to_native_dtype() == dtype
    except (ValueError, TypeError):
        same = False
    return dtype if same else np.dtype(f"V{dtype.itemsize}")
