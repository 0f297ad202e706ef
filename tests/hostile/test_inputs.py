"""Hostile files that come in give their rows or a typed error, in time and in little memory; each test names what was once otherwise."""

import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

import swath
from hostile import hdf5_files, input_files
from hostile.corpora import Corpus, attempt
from hostile.harness import run
from hostile.input_files import ROWS
from hostile.inputs import CORPORA, warm_up
from swath.errors import SourceError, SourceNotFoundError, SwathError
from swath.sources import hdf5_process, open_source
from swath.sources.groups import group_members

# Without --full: some seconds each.
_FEW = 40


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.kind)
def test_hostile_files_give_their_rows_or_a_typed_error(corpus: Corpus, tmp_path: Path, full: bool) -> None:
    corpus.prepare(tmp_path)
    results = attempt(corpus, tmp_path, range(10_000 if full else _FEW), ["swath"])["swath"]
    bad = [result for result in results if not result.is_good]
    assert not bad, f"{len(bad)} of {len(results)}: {bad[:5]}"
    ends = {result.outcome for result in results}
    assert ends == {"ok", "typed error"}, "a corpus of which all is refused, or nothing, tests little"


# --- .npy


def _npy(folder: Path, header: str, content: bytes = ROWS.tobytes(), length: int | None = None) -> Path:
    raw = header.encode("latin-1")
    path = folder / "a.npy"
    path.write_bytes(b"\x93NUMPY\x02\0" + struct.pack("<I", len(raw) if length is None else length) + raw + content)
    return path


_SOUND = "{'descr': '<i4', 'fortran_order': False, 'shape': (40, 3), }"


@pytest.mark.parametrize(
    ("header", "length"),
    [
        pytest.param(_SOUND.replace("(40, 3)", "(-40, -3)"), None, id="negative-numbers-of-which-the-product-is-right"),
        pytest.param(_SOUND.replace("(40, 3)", "(True, 120)"), None, id="true-is-no-number"),
        pytest.param(_SOUND.replace("(40, 3)", "(0, 9223372036854775808)"), None, id="more-than-64-bits"),
        pytest.param(_SOUND.replace("40", "9" * 5000), None, id="5000-digits"),
        pytest.param(_SOUND.replace("'<i4'", "(" * 5000 + ")" * 5000), None, id="nested"),
        pytest.param(_SOUND.replace("'<i4'", "-" * 9000 + "1"), None, id="a-deep-tree"),
        pytest.param(_SOUND + "\0", None, id="a-zero-byte"),
        pytest.param(_SOUND[:-3], None, id="cut"),
        pytest.param(_SOUND, 2**32 - 1, id="four-gigabytes"),
        pytest.param(_SOUND, 2**31 - 1, id="two-gigabytes"),
        pytest.param(_SOUND.replace("'<i4'", "'|O'"), None, id="objects"),
        pytest.param(_SOUND.replace("'<i4'", "[('a', '|O')]"), None, id="objects-in-fields"),
    ],
)
def test_a_header_of_npy_that_lies_is_refused(tmp_path: Path, header: str, length: int | None) -> None:
    """Python's parser raises TokenError, RecursionError and MemoryError, and numpy reads as long a header as is said."""
    path = _npy(tmp_path, header, length=length)
    with pytest.raises(SourceError, match=r"a\.npy"):
        swath.open(path)
    with pytest.raises(SourceError, match=r"a\.npy"):
        swath.ingest(path, tmp_path / "a.zarr")


def test_a_pickle_in_npy_or_npz_is_never_loaded(tmp_path: Path) -> None:
    class Writes:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    rows = np.array([Writes(), Writes()], dtype=object)
    np.save(tmp_path / "a.npy", rows, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=rows)
    for source in (tmp_path / "a.npy", f"{tmp_path}/a.npz::x"):
        with pytest.raises(SwathError, match="object"):
            swath.ingest(source, tmp_path / "a.zarr")
    assert not (tmp_path / "harm").exists()


# --- HDF5


def inflating(folder: str, how: str) -> Callable[[], object]:
    """Ingests a bomb."""
    warm_up(folder, "hdf5")
    path = Path(folder) / "a.h5"
    path.write_bytes(hdf5_files.bomb(how))
    return lambda: swath.ingest(f"{path}::x", f"{folder}/a.zarr", overwrite=True, progress=False)


@pytest.mark.parametrize("kind", ["gzip", "records", "lzf"])
def test_a_chunk_of_hdf5_that_inflates_to_a_gigabyte_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """Of lzf, which inflates to a megabyte at most, HDF5 takes as much as a chunk has, and so does h5py."""
    (result,) = run("hostile.test_inputs:inflating", [[str(tmp_path), kind]])
    assert result.outcome == ("ok" if kind == "lzf" else "typed error")
    assert result.is_good, result


def test_a_library_that_dies_is_an_error_and_the_next_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kills it: here the process is told to import what ends it as libhdf5 would."""
    (tmp_path / "crash_now.py").write_text("import ctypes\nctypes.string_at(1)\n")
    (tmp_path / "hang_now.py").write_text("while True: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = ROWS
    process = hdf5_process.LibraryProcess()
    monkeypatch.setattr(hdf5_process, "_of_process", lambda pid: process)
    for module, how in (("crash_now", "SIGSEGV"), ("hang_now", "did not come to an end")):
        monkeypatch.setattr(hdf5_process, "_PLUGINS", (module,))
        monkeypatch.setitem(sys.modules, module, hdf5_process)  # as if it had been imported here
        with pytest.raises(SourceError, match=f"HDF5's library .*{how}"):
            swath.open(f"{tmp_path}/a.h5::x")
        monkeypatch.setattr(hdf5_process, "_PLUGINS", ())
        assert len(swath.open(f"{tmp_path}/a.h5::x")) == 40


@pytest.mark.parametrize("always", [False, True])
def test_a_library_that_has_no_memory_left_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    """What earlier requests have left in it is no fault of the file; one that is new is believed."""
    (tmp_path / "spent_now.py").write_text(
        f"import h5py, pathlib\nonce = pathlib.Path({str(tmp_path / 'once')!r})\n"
        f"if {always} or not once.exists():\n"
        "    once.touch()\n"
        "    def spent(*_, **__): raise SystemError('error return without exception set')\n"
        "    h5py.File = spent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"] = ROWS
    process = hdf5_process.LibraryProcess()
    monkeypatch.setattr(hdf5_process, "_of_process", lambda pid: process)
    assert len(swath.open(f"{tmp_path}/a.h5::x")) == 40
    first = process._running[0]
    monkeypatch.setattr(hdf5_process, "_PLUGINS", ("spent_now",))
    monkeypatch.setitem(sys.modules, "spent_now", hdf5_process)  # as if it had been imported here
    if always:
        with pytest.raises(SourceError, match="SystemError"):
            swath.open(f"{tmp_path}/b.h5::x")
    else:
        assert len(swath.open(f"{tmp_path}/b.h5::x")) == 40
    assert process._running[0] is not first


def test_rows_of_hdf5_that_are_not_in_its_file_are_refused_when_it_is_opened(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = ROWS
    encoded = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(encoded.replace(struct.pack("<QQ", 40, 3), struct.pack("<QQ", 2**40, 3)))
    with pytest.raises(SourceError, match=r"a\.h5"):
        swath.open(f"{tmp_path}/a.h5::x")


def test_a_grid_of_more_chunks_than_a_file_can_hold_takes_no_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (2**50, 3), "i4", chunks=(8, 3), fillvalue=7)
        dataset[8:16] = 5
    a = swath.open(f"{tmp_path}/a.h5::x")
    assert a.gather([7, 2**49], window=2)[..., 0].tolist() == [[7, 5], [7, 7]]


def _linked(folder: Path) -> Path:
    """A file of which each name leads elsewhere, and one outside of its folder."""
    inner = folder / "in"
    inner.mkdir()
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = ROWS
    ROWS.tofile(folder / "bytes")
    layout = h5py.VirtualLayout((40, 3), "<i4")
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (40, 3))
    with h5py.File(inner / "a.h5", "w") as file:
        file["external link"] = h5py.ExternalLink("../secret.h5", "/x")
        file["soft link to it"] = h5py.SoftLink("/external link")
        file["g/away"] = h5py.ExternalLink("../secret.h5", "/")
        file["soft link through it"] = h5py.SoftLink("g/away/x")
        file["to itself"] = h5py.SoftLink("/to itself")
        file.create_dataset("external", (40, 3), "<i4", external=[(str(folder / "bytes"), 0, ROWS.nbytes)])
        file.create_virtual_dataset("virtual", layout)
        file["rows"] = ROWS
        file["soft link"] = h5py.SoftLink("/rows")
    return inner / "a.h5"


_AWAY = ["external link", "soft link to it", "g/away/x", "soft link through it", "external", "virtual"]


@pytest.mark.parametrize("name", _AWAY)
def test_nothing_outside_of_an_hdf5_file_is_read_by_its_names(tmp_path: Path, name: str) -> None:
    path = _linked(tmp_path)
    calls: list[Callable[[Any], Any]] = [
        swath.open,
        lambda source: swath.ingest(source, tmp_path / "a.zarr"),
        lambda source: swath.ingest([source, source], tmp_path / "a.zarr"),
        lambda source: swath.ingest_group({"x": source}, tmp_path / "a.zarr"),
    ]
    for call in calls:
        with pytest.raises(SourceError, match=r"link to another file, \.\./secret\.h5|values in other files"):
            call(f"{path}::{name}")
    assert not (tmp_path / "a.zarr").exists()


def test_links_within_a_file_are_followed_and_those_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    path = _linked(tmp_path)
    assert (swath.open(f"{path}::soft link").gather([0], window=40)[0] == ROWS).all()
    with pytest.raises(SourceNotFoundError, match="no dataset 'to itself'"):
        swath.open(f"{path}::to itself")


def test_a_group_that_holds_values_of_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="values in other files"):
        swath.ingest_group(_linked(tmp_path), tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["virtual", "external"])
def test_values_of_other_files_are_read_from_a_dataset_that_the_caller_opens_if_all_are_there(
    tmp_path: Path, name: str
) -> None:
    path = _linked(tmp_path)
    with h5py.File(path) as file:
        a = swath.ingest(file[name], tmp_path / "a.zarr")
        assert (a.gather([0], window=40)[0] == ROWS).all()
    other = tmp_path / ("secret.h5" if name == "virtual" else "bytes")
    other.rename(tmp_path / "gone")
    with h5py.File(path) as file, pytest.raises(SourceError, match=f"{other.name}, which is not there"):
        swath.ingest(file[name], tmp_path / "b.zarr")


@pytest.mark.parametrize("name", ["virtual", "external"])
def test_a_file_of_other_values_that_is_too_short_is_an_error_and_not_zeros(tmp_path: Path, name: str) -> None:
    path = _linked(tmp_path)
    if name == "virtual":
        with h5py.File(tmp_path / "secret.h5", "w") as file:
            file["x"] = ROWS[:30]
    else:
        ROWS[:30].tofile(tmp_path / "bytes")
    with h5py.File(path) as file, pytest.raises(SourceError, match="Restore it"):
        swath.ingest(file[name], tmp_path / "b.zarr")


# --- images


@pytest.mark.parametrize("kind", ["EPS", "PDF", "DDS", "PSD", "ICNS"])
def test_formats_that_are_dangerous_or_rare_are_not_opened_under_any_name(tmp_path: Path, kind: str) -> None:
    """Of EPS Pillow has Ghostscript make an image, which runs programs."""
    (tmp_path / "in").mkdir()
    begins = {
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "PSD": b"8BPS\0\1" + bytes(60),
    }
    if kind in begins:
        (tmp_path / "in" / "a.png").write_bytes(begins[kind])
    else:
        Image.new("RGB", (16, 16)).save(tmp_path / "in" / "a.png", kind)
    with pytest.raises(SourceError, match=r"a\.png is no image of a format that is read here"):
        swath.ingest(tmp_path / "in", tmp_path / "a.zarr")


def test_an_image_that_grew_after_its_header_was_read_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "in" / "a.png")
    source = swath.images(tmp_path / "in", size=(8, 8))["images"]
    (tmp_path / "in" / "a.png").write_bytes(input_files._png_bomb(9000, 9000))
    with pytest.raises(SourceError, match=r"9000 x 9000 .* by now"):
        source.read_into(0, np.empty(source.shape, source.dtype))


# --- .npz and text


def test_a_name_in_a_zip_file_that_leads_outside_is_a_name_and_no_place(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("../../y.npy", input_files._saved(ROWS))
    with pytest.raises(SwathError, match=r"\.\./\.\./y"):
        swath.ingest_group(tmp_path / "a.npz", tmp_path / "g" / "h" / "a.zarr")
    assert not list(tmp_path.rglob("zarr.json"))


def test_a_gigabyte_of_text_in_one_line_is_refused_in_little_memory(tmp_path: Path) -> None:
    (result,) = run("hostile.test_inputs:bombed", [[str(tmp_path)]])
    assert result.outcome == "typed error", result
    assert "longer than" in result.text
    assert result.is_good, result


def bombed(folder: str) -> Callable[[], object]:
    """Opens a line of a gigabyte, in gzip."""
    warm_up(folder, "text")
    path = Path(folder) / "a.csv.gz"
    path.write_bytes(input_files._text_bomb() + zlib.compress(b""))
    return lambda: swath.ingest(path, f"{folder}/a.zarr", progress=False)


def test_of_a_file_of_many_datasets_some_are_told(tmp_path: Path) -> None:
    """To look for all of a hundred thousand took longer than a sound file may."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(100):
            file[f"x{i:02}"] = ROWS
    answer = hdf5_process.library_process().ask("look", tmp_path / "a.h5", "nothing")
    assert answer == {"missing": "none", "has": [f"x{i:02}" for i in range(9)]}
    with pytest.raises(SourceNotFoundError, match=r"It has: x00, .*, x07, \.\.\.\."):
        swath.open(f"{tmp_path}/a.h5::nothing")
    assert len(group_members(tmp_path / "a.h5")) == 100


def test_names_of_more_than_an_answer_holds_are_an_error_and_no_wait(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        group = file
        for _ in range(50):
            group = group.create_group("g" * 60_000)
            group["x"] = ROWS[:1]
    os.truncate(tmp_path / "a.h5", 400 * 2**20)  # a large file may take more memory
    with pytest.raises(SourceError, match=r"what it has to tell takes 7\d{7} bytes"):
        swath.ingest_group(tmp_path / "a.h5", tmp_path / "g")


def test_caches_of_several_files_do_not_add_up(tmp_path: Path) -> None:
    """What one request allows was taken by the caches of those before, so that sound files could not be read."""
    rows = np.zeros((32, 2**20), "f4")  # a row of chunks has 64 MiB
    for name in "abcd":
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("x", data=rows, chunks=(16, 2**16), compression="lzf")
    sources = [open_source(f"{tmp_path}/{name}.h5::x", cache_bytes=2**27) for name in "abcd"]
    out = np.empty((1, 2**20), "f4")
    for start in (0, 16):
        for source in sources:
            out[:] = 1
            source.read_into(start, out)
            assert not out.any()
