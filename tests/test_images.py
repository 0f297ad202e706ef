"""Images in folders and lists equal what Pillow makes of them, and what Pillow would spoil or cannot read is refused by name."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import assert_same, expected
from PIL import Image, ImageFile

import swath
from swath.errors import (
    IncompleteStoreError,
    MemoryLimitError,
    OptionError,
    SourceError,
    SourceNotFoundError,
    StoreNotFoundError,
    SwathError,
)
from swath.sources import Source, open_source

MODES = ("L", "RGB", "RGBA")


def _noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def _save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def _by_pillow(
    path: Path, mode: str, size: tuple[int, int] | None = None, dtype: str = "u1", scale: float | None = None
) -> NDArray[Any]:
    """The row that an image shall be."""
    with warnings.catch_warnings(), Image.open(path) as opened:
        warnings.simplefilter("ignore")  # of palettes with alpha
        image = opened.convert(mode)
        if size is not None:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.array(image).reshape(image.height, image.width, len(mode)).astype(dtype)
    return pixels if scale is None else pixels * np.float32(scale)


def _read(source: Source) -> NDArray[Any]:
    out = np.empty(source.shape, source.dtype)
    source.read_into(0, out)
    return out


def _palette(height: int, width: int) -> Image.Image:
    return _noise(height, width).quantize(32)


PICTURES: dict[str, tuple[Callable[[], Image.Image], dict[str, Any]]] = {
    "rgb.jpg": (lambda: _noise(40, 30), {"quality": 80}),
    "rgb-progressive.jpeg": (lambda: _noise(40, 30), {"progressive": True, "subsampling": 0}),
    "l.jpg": (lambda: _noise(40, 30, 1), {}),
    "cmyk.jpg": (lambda: _noise(40, 30).convert("CMYK"), {}),
    "rotated.jpg": (lambda: _noise(40, 30), {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    "rgb.png": (lambda: _noise(40, 30), {}),
    "rgba.png": (lambda: _noise(40, 30, 4), {}),
    "la.png": (lambda: _noise(40, 30, 4).convert("LA"), {}),
    "l.png": (lambda: _noise(40, 30, 1), {}),
    "rgb-keyed.png": (lambda: _noise(40, 30), {"transparency": (1, 2, 3)}),
    "1.png": (lambda: _noise(40, 30, 1).convert("1"), {}),
    "p.png": (lambda: _palette(40, 30), {}),
    "p-keyed.png": (lambda: _palette(40, 30), {"transparency": 3}),
    "p-alpha.png": (lambda: _palette(40, 30), {"transparency": bytes(range(0, 256, 8))}),
    "p.gif": (lambda: _palette(40, 30), {}),
    "pages.gif": (lambda: _palette(40, 30), {"save_all": True, "append_images": [_noise(40, 30, seed=1).quantize(9)]}),
    "rgb.bmp": (lambda: _noise(40, 30), {}),
    "p.bmp": (lambda: _palette(40, 30), {}),
    "1.bmp": (lambda: _noise(40, 30, 1).convert("1"), {}),
    "rgb.tif": (lambda: _noise(40, 30), {}),
    "rgb-lzw.tiff": (lambda: _noise(40, 30), {"compression": "tiff_lzw"}),
    "rotated.tif": (lambda: _noise(40, 30), {"tiffinfo": {274: 6}}),
    "cmyk.tif": (lambda: _noise(40, 30).convert("CMYK"), {}),
    "lab.tif": (lambda: Image.merge("LAB", _noise(40, 30).split()), {}),
    "pages.tif": (lambda: _noise(40, 30), {"save_all": True, "append_images": [_noise(9, 9, seed=1)]}),
    "rgb.webp": (lambda: _noise(40, 30), {}),
    "rgba.webp": (lambda: _noise(40, 30, 4), {"lossless": True}),
    "rgb.ppm": (lambda: _noise(40, 30), {}),
    "rgb.jp2": (lambda: _noise(40, 30), {}),
    "rgba.tga": (lambda: _noise(40, 30, 4), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("mode", MODES)
def test_every_format_and_mode_is_what_pillow_makes_of_it(tmp_path: Path, name: str, mode: Any) -> None:
    make, options = PICTURES[name]
    path = _save(make(), tmp_path / "in" / name, **options)
    if (name, mode) == ("lab.tif", "L"):
        with pytest.raises(SourceError, match=r"lab\.tif cannot be read as an image \(conversion from LAB to RGB"):
            _read(swath.images(tmp_path / "in", mode=mode)["images"])
        return
    for size in (None, (17, 50)):
        source = swath.images(tmp_path / "in", mode=mode, size=size)["images"]
        a = swath.ingest(source, tmp_path / "a.zarr", window=1, overwrite=True)
        assert_same(a.gather([0])[0], _by_pillow(path, mode, size)[None])


@pytest.mark.parametrize("name", ["rotated.jpg", "rotated.tif"])
def test_the_orientation_of_exif_is_as_pillow_leaves_it(tmp_path: Path, name: str) -> None:
    """Applied to TIFF alone, as the docstring says."""
    make, options = PICTURES[name]
    path = _save(make(), tmp_path / name, **options)
    with Image.open(path) as image:
        assert image.getexif()[274] == 6
    assert swath.images(tmp_path)["images"].shape[1:3] == ((30, 40) if name == "rotated.tif" else (40, 30))


@st.composite
def _trees(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "counts": draw(st.lists(st.integers(1, 5), max_size=4)),
        "sizes": draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3)),
        "channels": draw(st.sampled_from([1, 3, 4])),
        "size": draw(st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40))),
        "mode": draw(st.none() | st.sampled_from(MODES)),
        "dtype": draw(st.sampled_from(["u1", "f4"])),
        "scale": draw(st.none() | st.just(1 / 255) | st.floats(1e-3, 1e3)),
        "names": draw(st.permutations(["é", "cat", "Dog", "a b", "10", "9"])),
    }


@settings(max_examples=40)
@given(_trees())
def test_any_tree_of_classes_equals_a_stack_of_its_images(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in")
        paths: list[Path] = []
        sizes: list[tuple[int, int]] = tree["sizes"] if tree["size"] else tree["sizes"][:1]
        for name, count in zip(tree["names"], tree["counts"]):
            for i in range(count):
                image = _noise(*sizes[i % len(sizes)], channels=tree["channels"], seed=len(paths))
                paths.append(_save(image, root / name / f"{i}.png"))
        if not paths:  # a flat folder
            paths = [
                _save(_noise(*shape, channels=tree["channels"]), root / f"{i}.png") for i, shape in enumerate(sizes)
            ]
        scale = tree["scale"] if tree["dtype"] == "f4" else None
        sources = swath.images(root, size=tree["size"], mode=tree["mode"], dtype=tree["dtype"], scale=scale)

        paths.sort(key=lambda path: (path.parent.name, path.name))
        mode = tree["mode"] or {1: "L", 3: "RGB", 4: "RGBA"}[tree["channels"]]
        wanted = np.stack([_by_pillow(path, mode, tree["size"], tree["dtype"], scale) for path in paths])
        classes = sorted(tree["names"][: len(tree["counts"])])
        a = swath.ingest(sources["images"], Path(folder, "a.zarr"), window=2 if len(paths) > 1 else 1)
        starts = [len(paths) - a.window, 0]
        assert_same(a.gather(starts), expected(wanted, starts, a.window))
        assert_same(a.gather([0], window=len(a)), wanted[None])
        assert sources["images"].describe()["classes"] == classes
        if not classes:
            assert set(sources) == {"images"}
            assert a.segments.tolist() == [[0, len(paths)]]
            return
        assert_same(_read(sources["labels"]), np.array([classes.index(path.parent.name) for path in paths], np.int64))
        parts = np.split(_read(sources["labels"]), a.segments[1:, 0])
        assert [set(part.tolist()) for part in parts] == [{i} for i in range(len(classes))]


def _pairs(folder: Path, *labels: Any) -> list[tuple[Path, Any]]:
    return [(_save(_noise(8, 6, seed=i), folder / f"{9 - i}.png"), label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "wanted", "classes"),
    [
        pytest.param((7, -2, 7), [7, -2, 7], [], id="integers"),
        pytest.param((np.int32(1), np.uint64(2), 2**63 - 1), [1, 2, 2**63 - 1], [], id="integers-of-numpy"),
        pytest.param(("dog", "cat", "é"), [1, 0, 2], ["cat", "dog", "é"], id="text"),
    ],
)
def test_a_list_keeps_its_order(tmp_path: Path, labels: Any, wanted: list[int], classes: list[str]) -> None:
    pairs = _pairs(tmp_path, *labels)
    sources = swath.images(pairs)
    assert_same(_read(sources["labels"]), np.array(wanted, np.int64))
    assert sources["images"].describe()["classes"] == classes
    assert sources["images"].segments == (3,)
    a = swath.ingest(sources["images"], tmp_path / "a.zarr", window=1)
    assert_same(a.gather([0], window=3)[0], np.stack([_by_pillow(path, "RGB") for path, _ in pairs]))


def test_a_file_of_a_list_is_known_by_its_content(tmp_path: Path) -> None:
    _save(_noise(4, 4), tmp_path / "a.png").rename(tmp_path / "blob")
    assert swath.images([(str(tmp_path / "blob"), 0)])["images"].shape == (1, 4, 4, 3)


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    wanted = [
        _save(_noise(4, 4, seed=i), tmp_path / "in" / name) for i, name in enumerate(["a.PNG", "b.x.Jpg", "ç.png"])
    ]
    for name in ("notes.txt", "jpg", ".hidden.jpg", "table.h5", "figure.eps", "._a.png", "Thumbs.db"):
        (tmp_path / "in" / name).write_bytes(b"")
    (tmp_path / "in/.cache").mkdir()
    rows = _read(swath.images(tmp_path / "in")["images"])
    assert_same(rows, np.stack([_by_pillow(path, "RGB") for path in wanted]))


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    _save(_noise(4, 4), tmp_path / "a/1.png")
    (tmp_path / "a/2.png").symlink_to("1.png")
    (tmp_path / "b").symlink_to("a")
    assert swath.images(tmp_path)["labels"].shape == (4,)
    seen = tmp_path.parent / f"{tmp_path.name}-link"
    seen.symlink_to(tmp_path)
    assert swath.images(seen)["images"].shape == (4, 4, 4, 3)


def test_a_name_that_is_no_utf_8_reaches_the_store(tmp_path: Path) -> None:
    _save(_noise(4, 4), tmp_path / "in" / os.fsdecode(b"\xff") / os.fsdecode(b"\xfe.png"))
    source = swath.images(tmp_path / "in")["images"]
    a = swath.ingest(source, tmp_path / "a.zarr", window=1)
    assert_same(swath.open(a.url).gather([0])[0], _read(source))


def test_a_folder_is_ingested_directly(tmp_path: Path) -> None:
    paths = [_save(_noise(8, 6, seed=i), tmp_path / "in" / f"{i % 2}" / f"{i}.png") for i in range(9)]
    wanted = np.stack([_by_pillow(path, "RGB") for path in sorted(paths)])
    for i, folder in enumerate((tmp_path / "in", str(tmp_path / "in"))):
        a = swath.ingest(folder, tmp_path / f"{i}.zarr", window=2)
        assert_same(a.gather([0, 5]), expected(wanted, [0, 5], 2))
        assert a.segments.tolist() == [[0, 5], [5, 9]]
    a = swath.ingest([tmp_path / "in", wanted, swath.images(tmp_path / "in/1")["images"]], tmp_path / "list.zarr")
    assert_same(a.gather([0], window=22)[0], np.concatenate([wanted, wanted, wanted[5:]]))


def test_a_source_is_passed_through(tmp_path: Path) -> None:
    source = swath.images(_pairs(tmp_path, 1, 2))["images"]
    assert open_source(source) is source


# What is no image, or not like the others.


def _bytes(path: Path, content: bytes | bytearray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _png_claiming(path: Path, width: int, height: int) -> Path:
    """A PNG of 70 bytes that says it is huge."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND")
    body = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return _bytes(path, b"\x89PNG\r\n\x1a\n" + body)


def _good(folder: Path, size: tuple[int, int] = (4, 4)) -> Path:
    _save(_noise(*size), folder / "a.png")
    return folder


def _classes(folder: Path) -> Path:
    _good(folder / "x")
    return folder


def _with(folder: Path, other: Any, name: str = "b.png") -> Path:
    """A folder of one good image, and another."""
    _save(other, _good(folder) / name) if isinstance(other, Image.Image) else _bytes(_good(folder) / name, other)
    return folder


def _with_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder


def _link(folder: Path, name: str, target: Path | str) -> Path:
    (folder / name).symlink_to(target)
    return folder


def _pipe(folder: Path) -> Path:
    os.mkfifo(_good(folder) / "pipe.png")
    return folder


def _tiff16(folder: Path, planar: str) -> Path:
    pixels = np.zeros((4, 4, 3) if planar == "contig" else (3, 4, 4), np.uint16)
    tifffile.imwrite(folder / "deep.tif", pixels, photometric="rgb", planarconfig=planar)
    return folder


def _png16(folder: Path, colour: int) -> Path:
    path = _png_claiming(folder / "deep.png", 4, 4)
    raw = bytearray(path.read_bytes())
    raw[24], raw[25] = 16, colour
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return _bytes(path, raw).parent


DEEP = "has more than 8 bits a sample"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"

BAD: dict[str, tuple[Callable[[Path], Any], dict[str, Any], type[SwathError], str]] = {
    "missing-folder": (lambda f: f / "nothing", {}, SourceNotFoundError, "no folder .*nothing"),
    "file": (lambda f: _good(f) / "a.png", {}, SourceError, r"a\.png cannot be listed as a folder .*Not a directory"),
    "nul-in-name": (lambda f: [("a\0b", 1)], {}, SourceError, "null"),
    "number": (lambda f: 5, {}, SourceError, "A int holds no images"),
    "none": (lambda f: None, {}, SourceError, "A NoneType holds no images"),
    "empty-folder": (lambda f: f, {}, SourceError, "is a folder without images"),
    "no-images": (lambda f: _bytes(f / "x.txt", b"").parent, {}, SourceError, "is a folder without images"),
    "empty-class": (lambda f: _with_folder(_classes(f), "y"), {}, SourceError, "y holds no images, so it is no class"),
    "class-of-text": (lambda f: (_classes(f), _bytes(f / "y/1.txt", b""))[0], {}, SourceError, "y holds no images"),
    "class-of-hidden": (lambda f: (_classes(f), _bytes(f / "y/.1.png", b""))[0], {}, SourceError, "y holds no images"),
    "images-and-classes": (lambda f: _good(_classes(f)), {}, SourceError, r"both images \(a\.png\) and folders \(x\)"),
    "nested-classes": (lambda f: (_classes(f), _good(f / "x/y"))[0], {}, SourceError, "x holds the folder y, but a class"),
    "link-out": (lambda f: _link(_classes(f) / "x", "b.png", _good(f.parent / "out") / "a.png"), {}, SourceError, "b.png is a link that leads out"),
    "class-link-out": (lambda f: _link(_classes(f), "y", _good(f.parent / "out")), {}, SourceError, "y is a link that leads out"),
    "link-to-nothing": (lambda f: _link(_good(f), "b.png", "gone.png"), {}, SourceError, "b.png is no file"),
    "link-to-itself": (lambda f: _link(_good(f), "b.png", "b.png"), {}, SourceError, "cannot be listed .*symbolic links"),
    "pipe": (_pipe, {}, SourceError, r"pipe\.png is no file"),
    "listed-pipe": (lambda f: [(_pipe(f) / "pipe.png", 0)], {}, SourceError, r"pipe\.png is no regular file"),
    "listed-folder": (lambda f: [(f, 0)], {}, SourceError, "is no regular file"),
    "empty-list": (lambda f: [], {}, SourceError, "list of images is empty"),
    "list-of-paths": (lambda f: [_good(f) / "a.png"], {}, SourceError, "Item 0 of the list of images is .*a.png"),
    "list-of-texts": (lambda f: ["ab", "cd"], {}, SourceError, "Item 0 of the list of images is 'ab'"),
    "list-of-triples": (lambda f: [("a", 1, 2)], {}, SourceError, "Give .path, label. pairs"),
    "list-of-numbers": (lambda f: [(1, 2)], {}, SourceError, r"Item 0 .* is \(1, 2\)"),
    "list-with-missing": (lambda f: [*_pairs(f, 1), (f / "no.png", 2)], {}, SourceNotFoundError, r"no file .*no\.png"),
    "list-below-a-file": (lambda f: [(_pairs(f, 1)[0][0] / "a.png", 2)], {}, SourceNotFoundError, r"no file .*a\.png"),
    "labels-mixed": (lambda f: _pairs(f, "cat", 2), {}, SourceError, "label of image 1 is 2"),
    "labels-mixed-2": (lambda f: _pairs(f, 2, "cat"), {}, SourceError, "label of image 1 is 'cat'"),
    "labels-float": (lambda f: _pairs(f, 2, 0.5), {}, SourceError, r"label of image 1 is 0\.5"),
    "labels-bool": (lambda f: _pairs(f, True), {}, SourceError, "label of image 0 is True"),
    "labels-none": (lambda f: _pairs(f, None), {}, SourceError, "label of image 0 is None"),
    "labels-too-large": (lambda f: _pairs(f, 2**63), {}, SourceError, "label of image 0 is 9223372036854775808"),
    "sizes": (lambda f: _with(f, _noise(4, 5)), {}, SourceError, r"b\.png is 4 x 5 .*first image is 4 x 4 .*a\.png.*Say size=\(H, W\)"),
    "modes": (lambda f: _with(f, _noise(4, 4, 1)), {}, SourceError, r"b\.png has the mode 'L', but the first image has 'RGB' .*Say mode="),
    "mode-of-first": (lambda f: _save(_palette(4, 4), f / "a.png").parent, {}, SourceError, r"a\.png has Pillow's mode 'P'.*Say mode="),
    "16-bit": (lambda f: _save(Image.fromarray(np.full((4, 4), 999, np.uint16)), f / "a.png").parent, {"mode": "L"}, SourceError, f"a.png {DEEP}"),
    "16-bit-later": (lambda f: _with(f, Image.fromarray(np.full((4, 4), 999, np.uint16))), {"mode": "RGB"}, SourceError, f"b.png {DEEP}"),
    "32-bit": (lambda f: _save(Image.fromarray(np.full((4, 4), 999, np.int32)), f / "a.tif").parent, {"mode": "L"}, SourceError, DEEP),
    "float": (lambda f: _save(Image.fromarray(np.full((4, 4), 0.5, np.float32)), f / "a.tif").parent, {"mode": "L"}, SourceError, DEEP),
    "16-bit-rgb-tiff": (lambda f: _tiff16(f, "contig"), {"mode": "RGB"}, SourceError, f"deep.tif {DEEP}"),
    "16-bit-planar-tiff": (lambda f: _tiff16(f, "separate"), {}, SourceError, f"deep.tif {DEEP}"),
    "16-bit-rgb-png": (lambda f: _png16(f, 2), {}, SourceError, f"deep.png {DEEP}"),
    "16-bit-la-png": (lambda f: _png16(f, 4), {"mode": "L"}, SourceError, f"deep.png {DEEP}"),
    "16-bit-rgba-png": (lambda f: _png16(f, 6), {}, SourceError, f"deep.png {DEEP}"),
    "16-bit-pgm": (lambda f: _bytes(f / "a.pgm", b"P5 2 1 4095\n" + bytes(4)).parent, {"mode": "L"}, SourceError, DEEP),
    "empty-file": (lambda f: _with(f, b""), {}, SourceError, r"b\.png is no image of a format that is read here \(AVIF"),
    "text": (lambda f: _with(f, b"hello"), {}, SourceError, r"b\.png is no image of a format"),
    "magic-alone": (lambda f: _with(f, b"\x89PNG\r\n\x1a\n"), {}, SourceError, r"b\.png is no image of a format"),
    "postscript": (lambda f: _with(f, EPS), {}, SourceError, r"b\.png is no image of a format"),
    "no-pixels": (lambda f: _png_claiming(f / "a.png", 0, 4).parent, {}, SourceError, r"a\.png is no image of a format"),
    "bomb": (lambda f: _png_claiming(f / "a.png", 10_000, 10_000).parent, {}, SourceError, r"a\.png .*pixels"),
    "larger-bomb": (lambda f: _png_claiming(f / "a.png", 2**31 - 1, 2**31 - 1).parent, {}, SourceError, r"a\.png .*pixels"),
    "bomb-to-resize": (lambda f: _png_claiming(_good(f) / "b.png", 30_000, 30_000).parent, {"size": (4, 4)}, SourceError, r"b\.png .*pixels"),
    "mode": (_good, {"mode": "P"}, OptionError, "mode is 'P'. Choose one of 'L', 'RGB', 'RGBA'"),
    "mode-unhashable": (_good, {"mode": ["L"]}, OptionError, "mode is"),
    "dtype": (_good, {"dtype": "u2"}, OptionError, "dtype is 'u2'"),
    "dtype-big-endian": (_good, {"dtype": ">f4"}, OptionError, "dtype is '>f4'"),
    "dtype-unknown": (_good, {"dtype": "float65"}, OptionError, "dtype is 'float65'"),
    "scale-of-bytes": (_good, {"scale": 2}, OptionError, "scale is 2, but uint8"),
    "size-zero": (_good, {"size": (0, 4)}, OptionError, r"size is \(0, 4\)"),
    "size-number": (_good, {"size": 4}, OptionError, "size is 4"),
    "size-triple": (_good, {"size": (4, 4, 3)}, OptionError, "size is"),
    "size-float": (_good, {"size": (4.0, 4)}, OptionError, "size is"),
    "size-huge": (_good, {"size": (10**9, 10**9)}, OptionError, "size is .* at most 89478485 pixels"),
    **{
        f"scale-{scale}": (_good, {"scale": scale, "dtype": "f4"}, OptionError, "scale is")
        for scale in (0, -1, float("nan"), float("inf"), 1e300, 1e-300, "2", True, 1j)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_before_anything_is_decoded(tmp_path: Path, name: str) -> None:
    make, options, error, message = BAD[name]
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    with pytest.raises(error, match=message):
        swath.images(source, **options)
    if not options and isinstance(source, Path) and source.is_dir():
        with pytest.raises(error, match=message):
            swath.ingest(source, tmp_path / "a.zarr")
        assert {path.name for path in tmp_path.iterdir()} <= {"in", "out"}


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (20_000, 20_000)])
def test_a_bomb_is_an_error_where_pillow_only_warns(tmp_path: Path, width: int, height: int) -> None:
    _png_claiming(tmp_path / "a.png", width, height)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SourceError, match=r"a\.png .*limit|a\.png is .* more than the 89478485 pixels"):
            swath.images(tmp_path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _good(tmp_path, (100, 101))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(SourceError, match="pixels"):
        swath.images(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert swath.images(tmp_path, size=(10_000, 10_000))["images"].shape == (1, 10_000, 10_000, 3)


@pytest.mark.parametrize("position", [0, 255, 256, 700, 1023])
def test_the_first_file_that_differs_is_named(tmp_path: Path, position: int) -> None:
    first, other, last = (_save(_noise(n, 4), tmp_path / f"{n}.png") for n in (4, 5, 6))
    paths = [first] * 1024
    paths[position] = other
    paths[position + 1 :] = [last] * (1023 - position)
    wanted = r"6\.png is 6 x 4 .* is 5 x 4 .*5\.png" if position == 0 else r"5\.png is 5 x 4 .* is 4 x 4"
    with pytest.raises(SourceError, match=wanted):
        swath.images([(path, 0) for path in paths])


# What goes wrong once headers have been read.


def _assert_nothing_opens(url: Path) -> None:
    with pytest.raises((StoreNotFoundError, IncompleteStoreError)):
        swath.open(url)


@pytest.mark.parametrize("name", ["rgb.jpg", "rgb.png", "p.gif", "rgb.bmp", "rgb.tif", "rgb-lzw.tiff", "rgb.webp", "rgb.ppm", "rgb.jp2"])  # fmt: skip
def test_a_cut_file_is_named(tmp_path: Path, name: str) -> None:
    make, options = PICTURES[name]
    path = _save(make(), tmp_path / "in" / name, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(SourceError, match=f"{name} (cannot be read as an image|is no image)"):
        swath.ingest(swath.images(tmp_path / "in", mode="RGB")["images"], tmp_path / "a.zarr", window=1)
    _assert_nothing_opens(tmp_path / "a.zarr")


_ENCODED = {}
for _name, (_make, _options) in PICTURES.items():
    _file = io.BytesIO()
    _file.name = _name
    _make().save(_file, **_options)
    _ENCODED[_name] = _file.getvalue()


@given(name=st.sampled_from(sorted(_ENCODED)), data=st.data())
def test_no_damage_raises_anything_but_our_own(name: str, data: st.DataObject) -> None:
    content = bytearray(_ENCODED[name])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    with tempfile.TemporaryDirectory() as folder:
        path = _bytes(Path(folder, name), content)
        try:
            rows = _read(swath.images([(path, 0)], mode="RGB", size=(8, 8))["images"])
        except SourceError as error:
            named = name in str(error)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                named = np.array_equal(rows[0], _by_pillow(path, "RGB", (8, 8)))
    assert named


def test_what_is_decoded_has_the_size_that_the_header_had(tmp_path: Path) -> None:
    source = swath.images(_good(tmp_path))["images"]
    _save(_noise(5, 4), tmp_path / "a.png")
    with pytest.raises(SourceError, match=r"a\.png is 5 x 4 .* by now, not 4 x 4"):
        _read(source)
    _png_claiming(tmp_path / "a.png", 30_000, 30_000)
    with pytest.raises(SourceError, match=r"a\.png .*pixels"):
        _read(source)
    (tmp_path / "a.png").unlink()
    with pytest.raises(SourceNotFoundError, match=r"no file .*a\.png"):
        _read(source)
    with pytest.raises(SourceNotFoundError, match=r"no file .*a\.png"):
        source.describe()


def test_a_folder_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    folder = _good(tmp_path / "in")

    class Touching:
        """The images, the first of which changes when it has been read."""

        def __init__(self, inner: Source) -> None:
            self.inner = inner
            self.shape, self.dtype, self.segments = inner.shape, inner.dtype, inner.segments
            self.in_order, self.read_bytes, self.describe = inner.in_order, inner.read_bytes, inner.describe

        def read_into(self, start: int, out: NDArray[Any]) -> None:
            self.inner.read_into(start, out)
            os.utime(folder / "a.png", ns=(0, 0))

    with pytest.raises(SourceError, match="changed while it was read"):
        swath.ingest(Touching(swath.images(folder)["images"]), tmp_path / "a.zarr", window=1)
    _assert_nothing_opens(tmp_path / "a.zarr")


# What a source says of itself.


def _rewritten(folder: Path) -> None:
    _save(_noise(4, 4, seed=7), folder / "x/a.png")


def _touched(folder: Path) -> None:
    os.utime(folder / "x/a.png", ns=(1, 1))


def _renamed(folder: Path) -> None:
    (folder / "x/a.png").rename(folder / "x/b.png")


def _added(folder: Path) -> None:
    _save(_noise(4, 4), folder / "x/c.png")


def _class_renamed(folder: Path) -> None:
    (folder / "x").rename(folder / "y")


@pytest.mark.parametrize("change", [_rewritten, _touched, _renamed, _added, _class_renamed])
def test_any_change_of_the_files_is_described(tmp_path: Path, change: Callable[[Path], None]) -> None:
    _classes(tmp_path)
    before = swath.images(tmp_path)["images"].describe()
    assert swath.images(tmp_path)["images"].describe() == before
    change(tmp_path)
    assert swath.images(tmp_path)["images"].describe() != before


def test_any_other_option_or_label_is_described(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 0, 1)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (pairs, {}),
        (pairs[::-1], {}),
        (_pairs(tmp_path / "b", 0, 2), {}),
        ([(path, 1 - label) for path, label in pairs], {}),
        (pairs, {"mode": "L"}),
        (pairs, {"size": (5, 5)}),
        (pairs, {"dtype": "f4"}),
        (pairs, {"dtype": "f4", "scale": 0.5}),
    ]
    described = [repr(swath.images(source, **options)["images"].describe()) for source, options in calls]
    assert len(set(described)) == len(calls)


def test_the_description_is_small_and_reaches_the_store(tmp_path: Path) -> None:
    path = _good(tmp_path / "in") / "a.png"
    source = swath.images([(path, "cat")] * 3000)["images"]
    assert len(repr(source.describe())) < 1000
    assert len(repr(source)) < 1000
    swath.ingest(source, tmp_path / "a.zarr", window=1)
    assert '"cat"' in (tmp_path / "a.zarr/zarr.json").read_text()


def test_rows_are_the_same_from_many_threads(tmp_path: Path) -> None:
    source = swath.images(_pairs(tmp_path, *range(10)) * 20, size=(30, 20))["images"]
    wanted, out = _read(source), np.zeros(source.shape, source.dtype)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: source.read_into(i, out[i : i + 7]), range(0, 200, 7)))
    assert_same(out, wanted)


def test_a_source_is_read_in_another_process(tmp_path: Path) -> None:
    source = swath.images(_pairs(tmp_path, 1, 2))["images"]
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(source))
    code = (
        "import pickle, sys, numpy as np; source = pickle.load(open(sys.argv[1], 'rb'));"
        "out = np.empty(source.shape, source.dtype); source.read_into(0, out); np.save(sys.argv[2], out)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "source.pickle", tmp_path / "rows.npy"], check=True)
    assert_same(np.load(tmp_path / "rows.npy"), _read(source))


def test_without_pillow_it_says_what_to_install(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['PIL'] = None; import swath; swath.images({str(_good(tmp_path))!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        "SourceError: Images are read by Pillow, which is not installed. Run: pip install 'swath[images]'"
        in done.stderr
    )


# Memory.


_PEAK = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])  # one core is one process that decodes
import numpy as np, swath

def status(process, field):
    lines = open(f"/proc/{process}/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

folder, size = sys.argv[1], eval(sys.argv[2])
for i in range(2):  # the first read of a small image imports what is imported
    source = swath.images(f"{folder}/{i}", size=size, mode="RGBA")["images"]
    out = np.ones(source.shape, source.dtype)
    if i:
        (child,) = open("/proc/self/task/%d/children" % os.getpid()).read().split()
        before = status("self", "VmRSS") + status(child, "RssFile")
    source.read_into(0, out)
print(status("self", "VmHWM") + status(child, "VmHWM") - before, source.read_bytes)
"""


@pytest.mark.parametrize(
    ("name", "size"),
    [("a.jp2", None), ("a.webp", None), ("a.tif", None)]
    + [(name, (900, 1400)) for name in ("a.webp", "a.png", "a.jpg", "p.png")],
)
def test_a_read_takes_no_more_memory_than_it_says(tmp_path: Path, name: str, size: tuple[int, int] | None) -> None:
    options: dict[str, dict[str, Any]] = {
        "a.png": {"compress_level": 1},
        "p.png": {"compress_level": 1, "transparency": bytes(32)},
        "a.jpg": {"progressive": True},
        "a.webp": {"lossless": True, "method": 0, "quality": 0},
    }
    for i, (height, width) in enumerate(((8, 8), (1000, 1500))):
        # Smooth, as photographs are: the file is small, and the bound holds by what it says of pixels.
        image = _noise(4, 4, 4).resize((width, height), Image.Resampling.BICUBIC)
        image = {"a.jpg": image.convert("RGB"), "p.png": image.convert("RGB").quantize(32)}.get(name, image)
        _save(image, tmp_path / f"{i}" / name, **options.get(name, {}))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, tmp_path, repr(size)], capture_output=True, text=True, check=True
    )
    added, read_bytes = map(int, done.stdout.split())
    assert added <= read_bytes + 2**21
    assert read_bytes < 4 * added


def test_images_that_do_not_fit_in_the_limit_are_refused(tmp_path: Path) -> None:
    folder = _good(tmp_path / "in", (1000, 1000))
    with pytest.raises(MemoryLimitError, match=r"the source reads .* at once.*limit is 8\.00 MiB"):
        swath.ingest(folder, tmp_path / "a.zarr", window=1, memory_limit="8MiB")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_truncated_images_are_read_where_the_user_tells_pillow_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(_noise(40, 30), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-200])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert_same(_read(swath.images(tmp_path)["images"])[0], _by_pillow(path, "RGB"))
