"""Image files, in a folder or a list: each is a row.

1. List the files, in order, with the classes that folders or labels name (`image_files`).
2. Read all headers (`_survey`). What has another size, is too large, or would lose values is refused before anything is decoded.
3. Decode images when their rows are read.

Headers and images are read in processes of their own (`image_process`), which a file may end.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from swath.errors import OptionError, SourceError, SourceNotFoundError
from swath.sources import Source, most_readers, parse_dtype
from swath.sources.image_files import FORMATS, ImageFiles, in_folder, in_list, stat_file
from swath.sources.image_process import image_processes

Mode = Literal["L", "RGB", "RGBA"]

# What a process takes of its own, as private pages: the interpreter, and Pillow.
_CHILD_BYTES = 24 * 2**20

# Decoding costs 4 bytes a pixel (baseline JPEG, PNG) to 19 (JPEG 2000: 32 bits a channel), and conversions 8 at other times.
_DECODE_BYTES = 24
# The resized image, its copy with alpha undone, and the bytes that numpy takes from it, in pieces and joined.
_RESIZE_BYTES = 16

# Of the processor, for one file; and pixels for which there is a second more: the slowest codecs do ten times as many.
_SECONDS = 4
_SECOND_PIXELS = 2**20

# Headers are asked for in blocks of files.
_BLOCK_FILES = 256


@dataclass(frozen=True, slots=True)
class ImagesSource:
    """Image files, each a row (H, W, C)."""

    files: ImageFiles
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    mode: Mode
    scale: float | None
    resized: bool
    """Whether images have other sizes than a row."""
    most_pixels: int
    most_bytes: int
    """Of any one file."""

    in_order = False

    @property
    def segments(self) -> tuple[int, ...]:
        """Images of each class folder; a flat folder or a list is one segment."""
        return self.files.segments

    @property
    def read_bytes(self) -> int:
        """For each process that reads: what it is, and `_room`. For each thread: a row before it is converted."""
        return image_processes().n * (_CHILD_BYTES + self._room) + most_readers() * math.prod(self.shape[1:])

    @property
    def _room(self) -> int:
        """The file, its image decoded and converted, and that resized."""
        return 2 * self.most_bytes + _DECODE_BYTES * self.most_pixels + _RESIZE_BYTES * math.prod(self.shape[1:3])

    def describe(self) -> dict[str, Any]:
        """A checksum of the files' names, sizes, times and labels, and how they are read."""
        digest = hashlib.sha256()
        for name in self.files.names:
            facts = stat_file(self.files.root + name)
            digest.update(b"%b\0%d\0%d\0" % (os.fsencode(name), facts.st_size, facts.st_mtime_ns))
        if self.files.labels is not None:
            digest.update(self.files.labels)
        return {
            "kind": "images",
            **({"path": self.files.root.rstrip("/")} if self.files.root else {}),
            "files": len(self.files.names),
            "sha256": digest.hexdigest(),
            "classes": list(self.files.classes),
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "mode": self.mode,
            "scale": self.scale,
        }

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Have each image decoded into its row."""
        paths = [self.files.root + name for name in self.files.names[start : start + len(out)]]
        height, width = self.shape[1:3]
        row = {
            "size": (width, height),
            "resized": self.resized,
            "mode": self.mode,
            "most_pixels": self.most_pixels,
            "most_bytes": self.most_bytes,
        }
        request = {"row": row, **_limits(self._room, self.most_pixels)}
        if self.dtype == np.uint8 and out.flags.c_contiguous:
            rows = [memoryview(place).cast("B") for place in out]
            image_processes().ask(request, paths, rows, lambda k, answer: self._check(paths[k], answer))
            return
        pixels = np.empty(self.shape[1:], np.uint8)
        scale = np.float32(1 if self.scale is None else self.scale)

        def take(k: int, answer: dict[str, Any]) -> None:
            self._check(paths[k], answer)
            np.multiply(pixels, scale, out=out[k], casting="unsafe")

        image_processes().ask(request, paths, [memoryview(pixels).cast("B")] * len(paths), take)

    def _check(self, path: str, answer: dict[str, Any]) -> None:
        if "other" in answer:
            wanted = "more than any image was" if self.resized else f"not {_size(self.shape[2:0:-1])}"
            raise SourceError(
                f"{path} is {_size(answer['other'])} by now, {wanted}: it changed while it was read. Run the ingest again."
            )
        if "grown" in answer:
            raise SourceError(
                f"{path} has grown to more bytes than any image had: it changed while it was read. Run the ingest again."
            )
        _check(path, answer)


def images(
    source: str | os.PathLike[str] | Sequence[tuple[str | os.PathLike[str], int | str]],
    *,
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    dtype: DTypeLike = "uint8",
    scale: float | None = None,
) -> dict[str, Source]:
    """Image files as sources to ingest: ``"images"``, rows of shape (H, W, C), and ``"labels"``, one int64 for each.

    Headers are read now, by Pillow (``pip install 'swath[images]'``), and images decoded when they are ingested. They are as
    Pillow gives them, as in torchvision and keras: the orientation that a camera notes in EXIF is not applied (but for TIFF and
    AVIF, where Pillow itself applies it), and of an animation or of several pages the first is taken.

    Parameters
    ----------
    source
        A folder of folders, each of which is a class: ``class/name.jpg``. Rows are sorted by class and name, a label is
        the position of its class, and each class is a segment. Or a folder of images: one segment, no labels. Or a list
        of ``(path, label)``: one segment in the order of the list; labels are integers, or text, of which each is then
        a class, sorted. In folders hidden files, and files without the extension of an image, are left out.
    size
        ``(H, W)`` to which images are resized (bilinear with antialias; proportions are not kept). By default all must
        have one size.
    mode
        ``"L"``, ``"RGB"`` or ``"RGBA"``: rows have 1, 3 or 4 channels, and images of other modes are converted as Pillow
        does, where alpha that has no place is dropped. By default all must have the mode of the first. Images with more than 8 bits
        a sample, which Pillow would clip or cut, are refused.
    dtype
        ``"uint8"`` or ``"float32"``.
    scale
        By what values are multiplied, as float32, such as ``1 / 255``; for float32 only.

    Returns
    -------
    dict
        The sources ``"images"`` and, unless the folder is flat, ``"labels"``. The names of classes are in
        ``describe()["classes"]`` of the images.

    Raises
    ------
    SourceNotFoundError
        There is no such file or folder.
    SourceError
        No images, a folder that is no class, a file that Pillow cannot read or has more pixels than its
        ``MAX_IMAGE_PIXELS``, images that are not alike, or no Pillow.
    OptionError
        An option that means nothing here.

    Examples
    --------
    >>> import numpy as np, swath
    >>> from PIL import Image
    >>> for name in ("cat", "dog"):
    ...     (tmp / "pets" / name).mkdir(parents=True)
    ...     for i in range(8):
    ...         Image.new("RGB", (32, 24), (i, 0, 0)).save(tmp / "pets" / name / f"{i}.png")
    >>> sources = swath.images(tmp / "pets")
    >>> sources["images"].shape, sources["labels"].shape, sources["images"].describe()["classes"]
    ((16, 24, 32, 3), (16,), ['cat', 'dog'])
    >>> swath.ingest(sources["images"], tmp / "pets.zarr", window=4).gather([8])[0, :, 0, 0, 0]
    array([0, 1, 2, 3], dtype=uint8)
    """
    _pillow()
    if isinstance(source, (str, os.PathLike)):
        files = in_folder(os.fspath(source))
    elif isinstance(source, Sequence):
        files = in_list(source)
    else:
        raise SourceError(
            f"A {type(source).__name__} holds no images that swath knows. Give a folder, or a list of (path, label) pairs."
        )
    found: dict[str, Source] = {"images": _source(files, size, mode, dtype, scale)}
    if files.labels is not None:
        from swath.sources import memory

        found["labels"] = memory.array_source(files.labels)
    return found


def open_folder(name: str) -> Source:
    """The images in a folder, which must be alike; errors as `images` describes them."""
    _pillow()
    return _source(in_folder(name), None, None, "uint8", None)


def _source(
    files: ImageFiles, size: tuple[int, int] | None, mode: Mode | None, dtype: DTypeLike, scale: float | None
) -> ImagesSource:
    wanted, factor = _value_options(dtype, scale)
    if mode is not None and mode not in get_args(Mode):
        raise OptionError(f"mode is {mode!r}. Choose one of {', '.join(map(repr, get_args(Mode)))}, or leave it out.")
    shape = None if size is None else _parse_size(size)
    found: list[_Header] = []
    _headers([files.root + files.names[0]], found.append)
    first = found[0]
    if mode is None and first.mode not in get_args(Mode):
        raise SourceError(
            f"{files.root}{files.names[0]} has Pillow's mode {first.mode!r}, which is no row of bytes. Say mode='L', 'RGB' or 'RGBA'."
        )
    most_pixels, most_bytes = _survey(files, first, alike=(shape is None, mode is None))
    row_mode: Any = mode or first.mode
    row_shape = (*(shape or first.size[::-1]), len(row_mode))
    return ImagesSource(
        files, (len(files.names), *row_shape), wanted, row_mode, factor, shape is not None, most_pixels, most_bytes
    )


def _value_options(dtype: DTypeLike, scale: float | None) -> tuple[np.dtype[Any], float | None]:
    wanted = parse_dtype(dtype)
    if wanted not in (np.dtype("uint8"), np.dtype("float32")):
        raise OptionError(f"dtype is {dtype!r}, but images become 'uint8' or 'float32'. Choose one of these.")
    if scale is None:
        return wanted, None
    with np.errstate(over="ignore"):
        good = isinstance(scale, numbers.Real) and not isinstance(scale, bool) and 0 < np.float32(scale) < np.inf
    if not good:
        raise OptionError(f"scale is {scale!r}. Give a number above 0 that float32 can hold, such as 1 / 255.")
    if wanted != np.dtype("float32"):
        raise OptionError(
            f"scale is {scale!r}, but uint8 cannot hold scaled values. Say dtype='float32', or leave scale out."
        )
    return wanted, float(scale)


def _parse_size(size: Any) -> tuple[int, int]:
    from PIL import Image

    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        height, width = 0, 0
    if height < 1 or width < 1 or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise OptionError(
            f"size is {size!r}. Give (H, W), two integers of at least 1 and at most {Image.MAX_IMAGE_PIXELS} pixels, such as (224, 224)."
        )
    return height, width


def _pillow() -> None:
    """See that Pillow is there.

    Raises
    ------
    SourceError
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise SourceError(
            "Images are read by Pillow, which is not installed. Run: pip install 'swath[images]'"
        ) from error


@dataclass(frozen=True, slots=True)
class _Header:
    path: str
    size: tuple[int, int]
    """Width, height: Pillow's order."""
    mode: str
    n_bytes: int


def _survey(files: ImageFiles, first: _Header, *, alike: tuple[bool, bool]) -> tuple[int, int]:
    """The most pixels and bytes of a file.

    Raises
    ------
    SourceNotFoundError, SourceError
        The first file, in order, that cannot be read, or is not of the first one's size or mode where it must be `alike`.
    """

    def check(start: int) -> tuple[int, int]:
        most_pixels = most_bytes = 0

        def take(header: _Header) -> None:
            nonlocal most_pixels, most_bytes
            if alike[0] and header.size != first.size:
                raise SourceError(
                    f"{header.path} is {_size(header.size)}, but the first image is {_size(first.size)} ({first.path}). "
                    "Say size=(H, W) to swath.images to resize all."
                )
            if alike[1] and header.mode != first.mode:
                raise SourceError(
                    f"{header.path} has the mode {header.mode!r}, but the first image has {first.mode!r} ({first.path}). "
                    "Say mode='L', 'RGB' or 'RGBA' to swath.images to convert all."
                )
            most_pixels, most_bytes = max(most_pixels, math.prod(header.size)), max(most_bytes, header.n_bytes)

        _headers([files.root + name for name in files.names[start : start + _BLOCK_FILES]], take)
        return most_pixels, most_bytes

    with ThreadPoolExecutor(image_processes().n, thread_name_prefix="swath-headers") as pool:
        pixels, n_bytes = zip(*pool.map(check, range(0, len(files.names), _BLOCK_FILES)))
    return max(pixels), max(n_bytes)


def _headers(paths: Sequence[str], take: Callable[[_Header], None]) -> None:
    """Call ``take`` with the header of each file in turn.

    Raises
    ------
    SourceNotFoundError, SourceError
    """

    def check(k: int, answer: dict[str, Any]) -> None:
        _check(paths[k], answer)
        take(_Header(paths[k], tuple(answer["size"]), answer["mode"], answer["bytes"]))

    image_processes().ask(_limits(0, 0), paths, [memoryview(bytearray())] * len(paths), check)


def _limits(room: int, most_pixels: int) -> dict[str, Any]:
    """What a request is told of what its files may take, and how they are opened: as Pillow was told here."""
    from PIL import Image, ImageFile

    return {
        "room": room,
        "seconds": _SECONDS + most_pixels // _SECOND_PIXELS,
        "limit": Image.MAX_IMAGE_PIXELS,
        "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,
        "formats": FORMATS,
    }


def _check(path: str, answer: dict[str, Any]) -> None:
    """See that a file has been read.

    Raises
    ------
    SourceNotFoundError, SourceError
        What is wrong with it.
    """
    match answer:
        case {"mode": _}:
            return
        case {"gone": _}:
            raise SourceNotFoundError(f"There is no file {path}. Check the path, or restore it.")
        case {"irregular": _}:
            raise SourceError(f"{path} is no regular file. Give files of images.")
        case {"unknown": _}:
            raise SourceError(
                f"{path} is no image of a format that is read here ({', '.join(FORMATS)}). Mend it, or leave it out."
            )
        case {"large": size, "limit": limit}:
            raise SourceError(
                f"{path} is {_size(size)}, more than the {limit} pixels of PIL.Image.MAX_IMAGE_PIXELS. Leave it out, or raise that limit."
            )
        case {"deep": mode}:
            raise SourceError(
                f"{path} has more than 8 bits a sample (mode {mode!r}), which do not fit in the bytes of a row. Scale it to 8 bits first."
            )
        case _:
            raise SourceError(f"{path} cannot be read as an image ({answer.get('broken')}). Mend it, or leave it out.")


def _size(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]} (H x W)"
