"""Which files are images, in which order, and of which classes?

A folder is listed without an object for each file, which a million would notice; a link that leads out of it is refused.
"""

from __future__ import annotations

import numbers
import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import SourceError, SourceNotFoundError

# Formats that are opened, whatever a file is named. For others Pillow runs Ghostscript (EPS), asks Windows, needs a plug-in, or has
# code that hardly anybody runs, and so nobody mends.
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Files of images, in the order of their rows."""

    root: str
    """The folder, with a slash at its end, or nothing where names are whole paths."""
    names: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.int64] | None = field(repr=False)
    classes: tuple[str, ...]
    segments: tuple[int, ...] = field(repr=False)


def in_folder(name: str) -> ImageFiles:
    """The images of a folder, or of the folders in it.

    Raises
    ------
    SourceNotFoundError, SourceError
    """
    from PIL import Image

    root = Path(name).expanduser().absolute()
    known = frozenset(
        end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind in FORMATS
    )
    folders, pictures = _scan(root, root, known)
    if folders and pictures:
        raise SourceError(
            f"{root} holds both images ({pictures[0]}) and folders ({folders[0]}). Give a folder of one kind, or a list of (path, label) pairs."
        )
    if pictures:
        return ImageFiles(f"{root}/", tuple(pictures), None, (), (len(pictures),))
    if not folders:
        raise SourceError(
            f"{root} is a folder without images. Give a file, a list of files, or a folder of images or of classes."
        )
    names: list[str] = []
    counts = []
    for folder in folders:
        inner, pictures = _scan(root / folder, root, known)
        if inner:
            raise SourceError(
                f"{root / folder} holds the folder {inner[0]}, but a class is a folder of images alone. Give a list of (path, label) pairs."
            )
        if not pictures:
            raise SourceError(
                f"{root / folder} holds no images, so it is no class. Remove it, or give a list of (path, label) pairs."
            )
        names += [f"{folder}/{picture}" for picture in pictures]
        counts.append(len(pictures))
    return ImageFiles(
        f"{root}/", tuple(names), np.repeat(np.arange(len(folders)), counts), tuple(folders), tuple(counts)
    )


def _scan(folder: Path, root: Path, known: frozenset[str]) -> tuple[list[str], list[str]]:
    """Names of the folders and of the images in a folder, sorted."""
    folders: list[str] = []
    pictures: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder, (_, dot, end) = entry.is_dir(), entry.name.rpartition(".")
                if entry.name.startswith(".") or not (is_folder or (dot + end).lower() in known):
                    continue
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root.resolve()):
                    raise SourceError(
                        f"{entry.path} is a link that leads out of {root}. Copy what it leads to, or give a list of (path, label) pairs."
                    )
                if not (is_folder or entry.is_file()):
                    raise SourceError(f"{entry.path} is no file, but a pipe or a link to nothing. Remove it.")
                (folders if is_folder else pictures).append(entry.name)
    except FileNotFoundError:
        raise SourceNotFoundError(f"There is no folder {folder}. Check the path.") from None
    except OSError as error:
        raise SourceError(
            f"{folder} cannot be listed as a folder ({error}). Check what it is, and its permissions."
        ) from error
    return sorted(folders), sorted(pictures)


def in_list(pairs: Sequence[Any]) -> ImageFiles:
    """The images of a list of pairs.

    Raises
    ------
    SourceError
    """
    if not pairs:
        raise SourceError("The list of images is empty. Give at least one (path, label) pair.")
    for i, pair in enumerate(pairs):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], (str, os.PathLike))):
            raise SourceError(f"Item {i} of the list of images is {reprlib.repr(pair)}. Give (path, label) pairs.")
    labels: list[Any] = [label for _, label in pairs]
    classes: tuple[str, ...] = ()
    if isinstance(labels[0], str):
        _check_labels(labels, str)
        classes = tuple(sorted(set(labels)))
        position = {name: i for i, name in enumerate(classes)}
        labels = [position[label] for label in labels]
    _check_labels(labels, numbers.Integral)
    names = tuple(os.path.abspath(os.fsdecode(path)) for path, _ in pairs)
    return ImageFiles("", names, np.array(labels, np.int64), classes, (len(names),))


def _check_labels(labels: list[Any], kind: type) -> None:
    for i, label in enumerate(labels):
        fits = isinstance(label, kind) and not isinstance(label, bool)
        if not fits or (kind is not str and not -(2**63) <= label < 2**63):
            raise SourceError(
                f"The label of image {i} is {reprlib.repr(label)}. Give labels that are all text, or all integers of 64 bits."
            )


def stat_file(path: str) -> os.stat_result:
    """Size, time and kind of a file.

    Raises
    ------
    SourceNotFoundError, SourceError
    """
    try:
        return os.stat(path)  # noqa: PTH116 (a Path for each of a million files takes longer than the call)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFoundError(f"There is no file {path}. Check the path.") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path!r} cannot be read ({error}). Check the path, and its permissions.") from error
