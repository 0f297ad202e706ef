"""Data that nobody here wrote, as packages ship them: HDF5 files of every age and kind, recordings, pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import pywt.data
import skimage
import tables
from numpy.typing import NDArray
from oracle import assert_same, expected

import swath
from swath.errors import SwathError

_FILES = [
    *sorted((Path(tables.__file__).parent / "tests").glob("*.h5")),
    *sorted((Path(h5py.__file__).parent / "tests/data_files").glob("*.h5")),
]


def _datasets(path: Path) -> Iterator[str]:
    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    yield from names


def _read(path: Path, name: str) -> NDArray[Any] | None:
    """A dataset by h5py, or None where h5py itself cannot read it."""
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file[name][()])
    except (OSError, ValueError, TypeError, RuntimeError, KeyError):
        return None


def test_every_dataset_of_every_file_is_itself_or_a_typed_error(tmp_path: Path) -> None:
    """PyTables' and h5py's own test files: old formats, big-endian, records, enums, lzo, szip, blosc, links, empties."""
    equal: list[str] = []
    refused: list[str] = []
    for path in _FILES:
        for name in _datasets(path):
            url = tmp_path / f"{len(equal) + len(refused)}.zarr"
            where = f"{path.name}::{name}"
            try:
                a = swath.ingest(f"{path}::{name}", url)
            except SwathError as error:
                refused.append(f"{where}: {error}")
                assert not url.exists()
                continue
            rows = _read(path, name)
            assert rows is not None, where
            window = min(3, len(a))
            starts = [0, len(a) - window, (len(a) - window) // 2, 0]
            assert_same(a.gather(starts, window=window), expected(rows, starts, window))
            equal.append(where)
    assert len(equal) > 100, equal
    assert len(refused) > 20, refused
    # Only what no array can hold, or what h5py cannot read either, is refused.
    known = ("Python objects", "single value", "no rows", "cannot be read", "numpy has no dtype for")
    assert [text for text in refused if not any(reason in text for reason in known)] == []


def test_recordings_are_segments_of_one_store(tmp_path: Path) -> None:
    """An electrocardiogram, sea surface temperatures and a drifting sensor, from PyWavelets."""
    recordings = [np.asarray(r, "f8") for r in (pywt.data.ecg(), pywt.data.nino()[1], pywt.data.aero()[:, 0])]
    paths = []
    for i, recording in enumerate(recordings):
        np.save(tmp_path / f"{i}.npy", recording)
        paths.append(tmp_path / f"{i}.npy")
    a = swath.ingest(paths, tmp_path / "a.zarr", window=64)
    assert a.segments[:, 1].tolist() == np.cumsum([len(r) for r in recordings]).tolist()
    joined = np.concatenate(recordings)
    starts = np.random.default_rng(0).integers(0, len(joined) - 64, 200)
    assert_same(a.gather(starts), expected(joined, starts, 64))


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
def test_pictures_as_rows_of_pixels_and_as_rows(tmp_path: Path, codec: Any) -> None:
    from matplotlib.image import imread

    folder = Path(skimage.__file__).parent / "data"
    pictures = [
        np.asarray(255 * imread(folder / name)[:300, :400, :3], "u1")
        for name in ("astronaut.png", "chelsea.png", "coffee.png")
    ]
    lines = swath.ingest(pictures, tmp_path / "lines.zarr", codec=codec, window=32)
    joined = np.concatenate(pictures)
    assert_same(lines.gather([0, 290, 590, 868]), expected(joined, [0, 290, 590, 868], 32))
    whole = swath.ingest(np.stack(pictures), tmp_path / "whole.zarr", codec=codec, window=1)
    assert_same(whole.gather([2, 0, 0]), expected(np.stack(pictures), [2, 0, 0], 1))
    assert_same(whole.gather([1], columns=slice(100, 200)), np.stack(pictures)[None, 1:2, 100:200])
