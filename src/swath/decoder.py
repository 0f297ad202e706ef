"""How do the encoded bytes of one chunk become rows?

A `Decoder` is the way back through the codecs that wrote a chunk:

1. bytes to bytes, in turn: compressors, checksums, byte shuffles;
2. bytes to values: byte order, filters of values (Zarr v2), the order of the axes.

It is made from metadata alone (`from_zarr_v3`, `from_zarr_v2`, `from_hdf5`), or not at all: None means that the chunk
needs a codec that only its own library can carry out. Nothing here knows of files, or of windows.

A chunk says in its metadata how many bytes it holds. What decodes to more is refused before it is decoded, wherever the
encoded bytes tell.
"""

from __future__ import annotations

import bz2
import lzma
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numcodecs import blosc
from numcodecs.blosc import Blosc
from numcodecs.registry import get_codec
from numpy.typing import NDArray

from swath.blosc_buffers import BLOSC_HEADER, blosc_part, joined_blosc
from swath.checksum import crc32c
from swath.errors import FormatError
from swath.layout import CRC_BYTES

Buffer = memoryview
"""A contiguous buffer of bytes (format ``B``)."""


class DecodeError(ValueError):
    """The bytes of a chunk are not what its codecs write; `swath.encoded` says which chunk."""


class Step(Protocol):
    """One codec from bytes to bytes."""

    def decode(self, encoded: Buffer, most_bytes: int, out: Buffer | None = None) -> Buffer:
        """The decoded bytes, at most so many: ``out`` itself, if they fill it and the codec can write there."""
        ...


_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Crc32c:
    """A crc32c after the bytes."""

    def decode(self, encoded: Buffer, most_bytes: int, out: Buffer | None = None) -> Buffer:
        """Check, and cut off."""
        body = encoded[:-CRC_BYTES]
        if len(encoded) < CRC_BYTES or crc32c(body) != int.from_bytes(encoded[-CRC_BYTES:], "little"):
            raise DecodeError("has a wrong checksum")
        return body


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A checksum after the bytes, which is not looked at."""

    n_bytes: int

    def decode(self, encoded: Buffer, most_bytes: int, out: Buffer | None = None) -> Buffer:
        """Cut off."""
        return encoded[: -self.n_bytes]


@dataclass(frozen=True, slots=True)
class Stream:
    """A decompressor of the standard library, which stops at a number of bytes."""

    make: Callable[[], Any]
    members: bool = False
    """Whether one stream may follow another, as gzip and bz2 have it."""

    def decode(self, encoded: Buffer, most_bytes: int, out: Buffer | None = None) -> Buffer:
        """Decompress, a piece at a time, to where it shall be: what is held beside is small, whatever the stream makes of itself.

        A checksum at the end of the stream is looked at.
        """
        place = memoryview(np.empty(most_bytes, np.uint8)) if out is None else out
        n = at = 0
        while at < len(encoded):
            decompress, size = self.make(), _FIRST_BYTES
            while not decompress.eof:
                # What zlib has not taken it gives back; the others keep it, and say so.
                fed = getattr(decompress, "unconsumed_tail", b"")
                if not fed and getattr(decompress, "needs_input", True):
                    fed = encoded[at : at + size]
                    at, size = at + len(fed), _PIECE_BYTES
                piece = decompress.decompress(fed, min(len(place) - n, _PIECE_BYTES) or 1)
                if n + len(piece) > len(place) or not (fed or piece or decompress.eof):
                    raise DecodeError(f"ends early, or holds more than {most_bytes} bytes")
                place[n : n + len(piece)] = piece
                n += len(piece)
            at = at - len(decompress.unused_data) if self.members else len(encoded)
        return place if n == len(place) else place[:n]


# Of a stream that others may follow: copies of what follows stay small beside decoding.
_FIRST_BYTES = 2**14

# That are taken, and made, in one call.
_PIECE_BYTES = 2**18

_ZLIB = Stream(partial(zlib.decompressobj, 15))
_GZIP = Stream(partial(zlib.decompressobj, 31), members=True)


def _step(codec: Any) -> Step:
    """The step of a codec of numcodecs; those that announce no size are bounded by the standard library."""
    match codec.codec_id:
        case "zlib":
            return _ZLIB
        case "gzip":
            return _GZIP
        case "bz2":
            return Stream(bz2.BZ2Decompressor, members=True)
        case "lzma":
            is_raw = codec.format == lzma.FORMAT_RAW  # of which the metadata say what others say themselves
            return Stream(
                partial(
                    lzma.LZMADecompressor,
                    codec.format,
                    None if is_raw else _LZMA_BYTES,
                    codec.filters if is_raw else None,
                )
            )
        case "blosc":
            return BloscStep()
        case _:
            return Numcodec(codec)


# What a decompressor may take for itself: xz -9 announces 65 MiB.
_LZMA_BYTES = 2**27


@dataclass(frozen=True, slots=True)
class Numcodec:
    """A codec of numcodecs."""

    codec: Any

    def decode(self, encoded: Buffer, most_bytes: int, out: Buffer | None = None) -> Buffer:
        """Decode, unless the bytes announce too many."""
        announced = announced_bytes(self.codec.codec_id, encoded)
        if announced is not None and announced > most_bytes:
            raise DecodeError(f"announces {announced} bytes, and a chunk has {most_bytes}")
        if out is not None and announced == len(out):
            self.codec.decode(encoded, out)
            return out
        if announced is None and self.codec.codec_id == "zstd":
            return self._decode_within(encoded, most_bytes)
        return _bytes(self.codec.decode(encoded))

    def _decode_within(self, encoded: Buffer, most_bytes: int) -> Buffer:
        """Decode what does not announce its size, as streams of zstd do: numcodecs takes what it is, unless it has a place to fill."""
        place = memoryview(np.empty(most_bytes, np.uint8))
        try:
            self.codec.decode(encoded, place)
        except RuntimeError as error:
            found = re.search(r"expected to decompress \d+, got (\d+)", str(error))
            if found is None:
                raise
            return place[: int(found[1])]
        return place


@dataclass(frozen=True, slots=True)
class BloscStep:
    """Blosc, without what numcodecs does around it: 6 instead of 8.5 us for 16 KiB."""

    def decode(self, encoded: Buffer, most_bytes: int, out: Buffer | None = None) -> Buffer:
        """Decode, unless the bytes announce too many."""
        announced, size = int.from_bytes(encoded[4:8], "little"), int.from_bytes(encoded[12:16], "little")
        if len(encoded) < BLOSC_HEADER.size or len(encoded) < size:  # blosc believes its header, and reads on
            raise DecodeError(f"ends early: {len(encoded)} of {size} encoded bytes")
        if announced > most_bytes:
            raise DecodeError(f"announces {announced} bytes, and a chunk has {most_bytes}")
        if out is None or announced != len(out):
            return _bytes(blosc.decompress(encoded))
        blosc.decompress(encoded, out)
        return out


@dataclass(frozen=True)
class Decoder:
    """The codecs of an array's chunks, from the encoded bytes back to the values."""

    shape: tuple[int, ...]
    """Of a chunk, whole even at the edge of the array."""
    stored: np.dtype[Any]
    """As it is encoded, in either byte order."""
    dtype: np.dtype[Any]
    """In native byte order."""
    steps: tuple[Step, ...] = ()
    """Bytes to bytes, in the order of decoding."""
    filters: tuple[Any, ...] = ()
    """Codecs of numcodecs that make values of values, in the order of decoding."""
    axes: tuple[int, ...] | None = None
    """The axis of the array that each axis of the encoded chunk is; None where they stand in order."""

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return math.prod(self.shape) * self.stored.itemsize

    @cached_property
    def most_bytes(self) -> int:
        """The most bytes that a chunk may have on its way: filters may widen its values, and no other codec adds much."""
        strange = any(isinstance(step, Numcodec) and step.codec.codec_id not in _BYTES_CODECS for step in self.steps)
        values = math.prod(self.shape)
        widths = [_encoded_width(codec, self.stored) for codec in self.filters]
        n_bytes = (
            16 * self.n_bytes
            if strange or None in widths
            else values * max([self.stored.itemsize, *filter(None, widths)])
        )
        return n_bytes + n_bytes // 16 + 4096

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row of a chunk."""
        return math.prod(self.shape[1:]) * self.stored.itemsize

    @cached_property
    def is_plain(self) -> bool:
        """Whether the decoded bytes are the rows, one after another, as they are in memory."""
        return self.axes is None and not self.filters and self.stored == self.dtype

    @cached_property
    def is_identity(self) -> bool:
        """Whether the bytes in the file are the rows, in either byte order."""
        return self.axes is None and not self.filters and not self.steps

    def without_checks(self) -> Decoder:
        """The same, without looking at checksums."""
        steps = tuple(Unchecked(CRC_BYTES) if isinstance(step, Crc32c) else step for step in self.steps)
        return Decoder(self.shape, self.stored, self.dtype, steps, self.filters, self.axes)

    def skipping(self, mask: int) -> Decoder:
        """The same, without the steps whose bits are set: HDF5 leaves out a filter that did not help a chunk."""
        kept = tuple(step for i, step in enumerate(reversed(self.steps)) if not mask >> i & 1)
        return Decoder(self.shape, self.stored, self.dtype, kept[::-1], self.filters, self.axes)

    def decode(self, encoded: Buffer, first: int, stop: int, out: Buffer) -> tuple[NDArray[Any], bool]:
        """Rows ``[first, stop)`` of a chunk, decoding no more than the codecs make needful.

        The last codec decodes into ``out``, of `n_bytes`, where it can: the second value says whether the rows are a view
        of it.

        Raises
        ------
        DecodeError
        """
        begin, end = 0, self.n_bytes
        try:
            for step in self.steps[:-1]:
                encoded = step.decode(encoded, self.most_bytes)
            if self.filters:
                return self._filtered(self.steps[-1].decode(encoded, self.most_bytes) if self.steps else encoded)[
                    first:stop
                ], False
            last = self.steps[-1] if self.steps else None
            if stop - first < self.shape[0] and self.axes is None and isinstance(last, BloscStep):
                encoded, begin, end = blosc_part(encoded, first * self.row_bytes, stop * self.row_bytes, self.n_bytes)
                out = out[begin:end]
            decoded = encoded if last is None else last.decode(encoded, end - begin, out)
        except (MemoryError, DecodeError):
            raise
        except Exception as error:  # whatever a codec raises: its own errors, IndexError, zlib.error, ...
            raise DecodeError(f"cannot be decoded ({error})") from error
        if len(decoded) != end - begin:
            raise DecodeError(f"decodes to {len(decoded)} bytes, not {end - begin}")
        if self.axes is not None:
            return self._in_order(np.frombuffer(decoded, np.uint8).view(self.stored))[first:stop], decoded is out
        shape = (stop - first, *self.shape[1:])
        return np.ndarray(shape, self.stored, decoded, first * self.row_bytes - begin), decoded is out

    def decode_joined(self, run: Buffer, begins: Sequence[int], ends: Sequence[int], out: Buffer) -> bool:
        """Decode all chunks that lie in ``run`` in this order, behind `join_room` bytes, one after another into ``out``.

        The codecs are blosc and a checksum, as a store has them. False where chunks can't be joined, or one of them is damaged: `decode`
        tells what is wrong.
        """
        bodies = [end - CRC_BYTES for end in ends]
        if isinstance(self.steps[0], Crc32c):
            for begin, end in zip(begins, bodies):
                if end < begin or crc32c(run[begin:end]) != _CRC.unpack_from(run, end)[0]:
                    return False
        joined = joined_blosc(run, begins, bodies, self.n_bytes)
        if joined is None:
            return False
        try:
            blosc.decompress(joined, out)
        except RuntimeError:
            return False
        return True

    def _filtered(self, encoded: Buffer) -> NDArray[Any]:
        values: Any = np.frombuffer(encoded, np.uint8)
        for codec in self.filters:
            if codec.codec_id in _BYTES_CODECS:  # a compressor among the filters decodes to no more than one by itself
                values = np.frombuffer(_step(codec).decode(_bytes(values), self.most_bytes), np.uint8)
            else:
                values = codec.decode(values)
        return self._in_order(np.ascontiguousarray(values).reshape(-1).view(self.stored))

    def _in_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """All values of a chunk, with the axes as the array has them."""
        if values.size != math.prod(self.shape):
            raise DecodeError(f"decodes to {values.size} values, not {math.prod(self.shape)}")
        axes = self.axes or tuple(range(len(self.shape)))
        return np.asarray(values.reshape([self.shape[axis] for axis in axes]).transpose(np.argsort(axes)))


def make_blosc(codec: str, itemsize: int, level: int = 5) -> Blosc | None:
    """The compressor of a store's codec, by its name (`swath.layout.CodecName`); None for raw. Level 0 only copies."""
    if codec == "raw":
        return None
    shuffle = Blosc.SHUFFLE if itemsize > 1 else Blosc.NOSHUFFLE
    return Blosc(cname=codec, clevel=level, shuffle=shuffle, typesize=min(itemsize, 255))


def from_zarr_v3(codecs: Sequence[Mapping[str, Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Decoder | None:
    """The decoder of a Zarr v3 chain of codecs, in the order of ``zarr.json``; None if it has one that is not known here."""
    native = np.result_type(dtype)
    stored = values = native
    axes = in_order = tuple(range(len(shape)))
    filters: list[Any] = []
    steps: list[Step] = []
    has_bytes = False
    for codec in codecs:
        name, options = codec["name"], codec.get("configuration") or {}
        if name == "transpose" and not has_bytes and not filters:
            axes = tuple(axes[i] for i in options["order"])
        elif name == "bytes" and not has_bytes:
            has_bytes = True
            stored = native.newbyteorder(">" if options.get("endian") == "big" else "<")
        elif not has_bytes:
            found = _filter(name, options, values)
            if found is None:
                return None
            filters.insert(0, found[0])
            values = found[1]
        elif (step := _bytes_step(name, options)) is None:
            return None
        else:
            steps.insert(0, step)
    # Filters of numcodecs take the bytes for values of this machine's byte order.
    if not has_bytes or (filters and stored != native):
        return None
    return Decoder(shape, stored, native, tuple(steps), tuple(filters), None if axes == in_order else axes)


def _filter(name: str, options: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[Any, np.dtype[Any]] | None:
    """A filter of numcodecs over values of this dtype, and the dtype that it makes of them; None if it is not known here.

    zarr-python fills in what the options leave out, and reads what the filter wrote as the dtype that is given here.
    """
    filled: dict[str, Any]
    match name:
        case "numcodecs.delta" | "numcodecs.fixedscaleoffset":
            filled = {"dtype": dtype.str, **options}
            encoded = np.dtype(filled.get("astype") or dtype)
        case "numcodecs.quantize":
            filled, encoded = {"dtype": dtype.str, **options}, dtype
            if np.dtype(filled.get("astype") or dtype) != dtype:
                return None
        case "numcodecs.astype":
            filled = {"decode_dtype": dtype.str, **options}
            encoded = np.dtype(filled["encode_dtype"])
        case "numcodecs.bitround":
            filled, encoded = dict(options), dtype
        case "numcodecs.packbits":
            filled, encoded = dict(options), np.dtype("u1")
        case _:
            return None
    if np.dtype(filled.get("decode_dtype", filled.get("dtype", dtype))) != dtype:
        return None
    return get_codec({"id": name.removeprefix("numcodecs."), **filled}), encoded


# Codecs from bytes to bytes. The rest of numcodecs make values of values, or Python objects.
_BYTES_CODECS = {"zlib", "gzip", "bz2", "lzma", "blosc", "zstd", "lz4", "shuffle", "crc32", "adler32", "fletcher32", "jenkins_lookup3"}  # fmt: skip


def _encoded_width(codec: Any, dtype: np.dtype[Any]) -> int | None:
    """Bytes of a value as a filter writes it, at the most; None if that is not known here."""
    if codec.codec_id in _BYTES_CODECS or codec.codec_id in ("bitround", "packbits"):
        return dtype.itemsize
    encoded = getattr(codec, "astype", None) or getattr(codec, "encode_dtype", None)
    return None if encoded is None else np.dtype(encoded).itemsize


def _bytes_step(name: str, options: Mapping[str, Any]) -> Step | None:
    identifier = name.removeprefix("numcodecs.")
    if name in ("crc32c", "numcodecs.crc32c"):
        # numcodecs puts its checksum in front unless told otherwise.
        return Crc32c() if name == "crc32c" or options.get("location") == "end" else None
    if name in ("gzip", "blosc"):
        return _GZIP if name == "gzip" else BloscStep()
    if identifier == "zstd" or (name != identifier and identifier in _BYTES_CODECS):
        return _step(get_codec({"id": identifier, **options}))
    return None


def from_zarr_v2(
    compressor: Any, filters: Sequence[Any], order: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Decoder:
    """The decoder of a Zarr v2 array: all its codecs are those of numcodecs.

    Raises
    ------
    FormatError
        Its chunks are pickles.
    """
    if any(codec.codec_id == "pickle" for codec in (compressor, *filters) if codec is not None):
        raise FormatError(
            "The chunks are encoded by 'pickle', which runs whatever they say. Write the array again with another codec."
        )
    steps: list[Step] = []
    if compressor is not None:
        steps.append(_step(compressor))
    axes = tuple(reversed(range(len(shape)))) if order == "F" and len(shape) > 1 else None
    return Decoder(shape, dtype, np.result_type(dtype), tuple(steps), tuple(reversed(filters)), axes)


HDF5_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32001: "blosc", 32015: "zstd"}
"""The filters of HDF5 that are decoded here, by their registered numbers."""


def from_hdf5(filters: Sequence[tuple[int, tuple[int, ...]]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Decoder | None:  # fmt: skip
    """The decoder of a pipeline of HDF5 filters ``(number, options)``; None if it has one that is not known here."""
    steps: list[Step] = []
    for number, options in filters:
        name = HDF5_FILTERS.get(number)
        if name is None:
            return None
        shuffle = {"elementsize": options[0] if options else dtype.itemsize} if name == "shuffle" else {}
        steps.insert(0, _ZLIB if name == "deflate" else _step(get_codec({"id": name, **shuffle})))
    return Decoder(shape, dtype, np.result_type(dtype), tuple(steps))


def announced_bytes(codec_id: str, encoded: Buffer) -> int | None:
    """How many bytes the encoded ones say that they decode to; None where they do not say.

    Sources of the formats: RFC 8878, 3.1.1.1; numcodecs, lz4.pyx.
    """
    if codec_id == "shuffle":
        return len(encoded)
    if codec_id == "lz4":
        return int.from_bytes(encoded[:4], "little")
    if codec_id == "zstd" and len(encoded) > 5:
        descriptor = encoded[4]
        single_segment = descriptor >> 5 & 1
        width = (single_segment, 2, 4, 8)[descriptor >> 6]
        at = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
        if width:
            return int.from_bytes(encoded[at : at + width], "little") + (256 if width == 2 else 0)
    return None


def _bytes(decoded: Any) -> Buffer:
    if isinstance(decoded, np.ndarray):
        return memoryview(np.ascontiguousarray(decoded).reshape(-1).view(np.uint8))
    return memoryview(decoded).cast("B")
