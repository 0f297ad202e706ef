"""Are the values of a dataset that lie in other files there? HDF5 gives fill values, or zeros, where they are not."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from swath.errors import SourceError

# Virtual datasets of virtual datasets.
_MOST_DEPTH = 8


def check_elsewhere(dataset: h5py.Dataset, depth: int = 0) -> None:
    """See that all files are there that a dataset, which the caller has opened and trusts, takes its values from.

    Raises
    ------
    SourceError
        One is missing, or has less than is wanted of it; or nobody can say which are wanted.
    """
    where = f"{dataset.file.filename}::{dataset.name}"
    if dataset.external:
        _check_external(dataset, where)
    if not dataset.is_virtual:
        return
    if depth > _MOST_DEPTH:
        raise SourceError(f"{where} is virtual datasets of virtual datasets without end. Copy it with h5repack.")
    for part in dataset.virtual_sources():
        if "%" in part.file_name or "%" in part.dset_name:
            raise SourceError(
                f"{where} takes all files there are like {part.file_name}, so none that is missing is missed. Ingest them as a pattern."
            )
        _check_part(dataset, part, where, depth)


def _check_part(dataset: h5py.Dataset, part: h5py.VDSmap, where: str, depth: int) -> None:
    if part.file_name == ".":
        _check_shape(dataset.file, part, where, depth)
        return
    # As HDF5 looks for it: beside the file, or from here.
    beside = Path(dataset.file.filename).parent / part.file_name
    path = next((path for path in (beside, Path(part.file_name)) if path.is_file()), None)
    if path is None:
        raise SourceError(f"{where} takes values from {part.file_name}, which is not there. Restore that file.")
    try:
        with h5py.File(path, "r") as file:
            _check_shape(file, part, where, depth)
    except OSError as error:
        raise SourceError(f"{where} takes values from {path}, which cannot be opened ({error}). Restore it.") from error


def _check_shape(file: h5py.File, part: h5py.VDSmap, where: str, depth: int) -> None:
    found = file.get(part.dset_name)
    if not isinstance(found, h5py.Dataset):
        raise SourceError(
            f"{where} takes values from {file.filename}::{part.dset_name}, which is not there. Restore it."
        )
    check_elsewhere(found, depth + 1)
    selected = part.src_space
    if selected.get_select_type() == h5py.h5s.SEL_ALL:  # of a shape that is not told: what is filled by it is
        wanted: int | tuple[int, ...] = part.vspace.get_select_npoints()
        has_all = math.prod(found.shape) >= wanted
    else:
        wanted = tuple(last + 1 for last in selected.get_select_bounds()[1])
        has_all = len(wanted) == len(found.shape) and all(n <= there for n, there in zip(wanted, found.shape))
    if not has_all:
        raise SourceError(
            f"{where} takes values up to {wanted} from {file.filename}::{part.dset_name}, which has shape {found.shape}. Restore it."
        )


def _check_external(dataset: h5py.Dataset, where: str) -> None:
    left = math.prod(dataset.shape) * dataset.id.get_type().get_size()
    for name, offset, n_bytes in dataset.external:
        wanted = min(left, n_bytes)
        left -= wanted
        has = Path(name).stat().st_size if Path(name).is_file() else None
        if has is None or has < offset + wanted:
            what = "is not there" if has is None else f"has {has} bytes and not {offset + wanted}"
            raise SourceError(
                f"{where} keeps values in {name}, which {what}. Restore it, or work in the folder from which it is seen."
            )
