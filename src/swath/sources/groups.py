"""Several arrays of one file that belong together row by row: ``X_train`` and ``y_train``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from swath.errors import OptionError, SourceError
from swath.sources import Source, open_source
from swath.sources.files import ZIP, sniff


def group_members(
    place: str | os.PathLike[str], names: Sequence[str] | None = None, *, cache_bytes: int = 2**30
) -> dict[str, Source]:
    """The arrays of an HDF5 file, of one of its groups (``"file.h5::group"``), of a ``.npz`` file, or of a Zarr group.

    Parameters
    ----------
    names
        Which of them; all, those in inner groups too, if None.
    cache_bytes
        What they may hold together so as not to decode the same twice.

    Returns
    -------
    dict
        Each by its name within the place.

    Raises
    ------
    SourceNotFoundError
        There is no such place, or no such array in it.
    SourceError
        It holds no arrays, or they have not the same number of rows.
    OptionError
        ``names`` is empty.

    Examples
    --------
    >>> import numpy as np
    >>> np.savez(tmp / "train.npz", X=np.zeros((100, 5)), y=np.arange(100))
    >>> {name: source.shape for name, source in group_members(tmp / "train.npz").items()}
    {'X': (100, 5), 'y': (100,)}
    """
    text = os.fspath(place)
    head, *group = text.rsplit("::", 1)
    path = Path(head).expanduser()
    if names is not None and (isinstance(names, str) or not names):
        raise OptionError(f"names is {names!r}. Give a list of at least one name, or None for all.")
    inner = "".join(group).strip("/")
    chosen = list(_names(path, inner) if names is None else names)
    if not chosen:
        raise SourceError(f"{text} holds no arrays. Give a file or group that does.")
    share = cache_bytes // len(chosen)
    prefix = f"{path}::{inner}/" if inner else f"{path}::"
    members = {name: open_source(prefix + name, cache_bytes=share) for name in chosen}
    counts = Counter(source.shape[0] for source in members.values())
    ((n_rows, _),) = counts.most_common(1)
    others = [f"{name} ({source.shape[0]})" for name, source in members.items() if source.shape[0] != n_rows]
    if others:
        raise SourceError(
            f"The arrays of {text} have not the same number of rows: most have {n_rows}, but not {', '.join(others)}. "
            "Give names= of those that belong together."
        )
    return members


def _names(path: Path, group: str) -> list[str]:
    if path.is_dir():
        from swath.sources import zarr

        return zarr.array_names(path, group)
    magic, is_hdf5 = sniff(path)
    if is_hdf5:
        from swath.sources import hdf5

        return hdf5.dataset_names(path, group)
    if magic[:4] in ZIP and not group:
        from swath.sources import npz

        return npz.member_names(path)
    raise SourceError(f"{path} is no HDF5 file, .npz file or Zarr group, so it has no arrays. Give one of these.")
