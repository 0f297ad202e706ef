"""Windows as a data source of Grain, which shuffles, shards and batches them, in processes of its own if it shall.

Grain knows a source by its methods, so that nothing of it is loaded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.array import RowArray
from swath.buffers import empty
from swath.group import RowGroup
from swath.loaders.numbered import numbered


class Windows:
    """Windows by number, for ``grain.MapDataset.source`` and ``grain.DataLoader``.

    These ask for one at a time, which takes 0.1 ms and more for each. Shuffle and batch their numbers instead, and `gather` those of a
    batch at once, as in the example.

    Parameters
    ----------
    rows
        An array, whose samples are arrays, or a group, whose samples are dicts of arrays.
    starts, window, columns, memory_limit
        As in `RowArray.batches`.
    options
        ``segments``, ``across_segments`` and ``stride``, as in `RowArray.batches`.

    Raises
    ------
    OptionError, StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, MemoryLimitError

    Examples
    --------
    >>> import grain, swath, numpy as np
    >>> from swath.loaders.grain import Windows
    >>> a = swath.ingest(np.arange(1000.0).reshape(100, 10), tmp / "grain.zarr", window=4)
    >>> windows = Windows(a)
    >>> windows[96].shape
    (4, 10)
    >>> data = grain.MapDataset.range(len(windows)).shuffle(seed=7).batch(32).map(windows.gather)
    >>> len(data), data[0].shape
    (4, (32, 4, 10))
    """

    def __init__(
        self,
        rows: RowArray | RowGroup,
        *,
        starts: ArrayLike | None = None,
        window: int | None = None,
        columns: Any = None,
        memory_limit: int | str | None = None,
        **options: Any,
    ) -> None:
        self._windows = numbered(
            rows, starts=starts, window=window, columns=columns, memory_limit=memory_limit, **options
        )

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> Any:
        (sample,) = self._getitems([number])
        return sample

    def gather(self, numbers: Sequence[int]) -> Any:
        """A batch of some windows, in the order asked.

        Raises
        ------
        OptionError, WindowOutOfBoundsError
            These are no numbers of windows.
        """
        batch = self._windows.gather(numbers, _empty)
        return batch[""] if self._windows.is_alone else batch

    def _getitems(self, numbers: Sequence[int]) -> list[Any]:
        """Some samples at once: where Grain looks for this, which is an experiment yet."""
        batch = self.gather(numbers)
        if self._windows.is_alone:
            return list(batch)
        return [dict(zip(batch, each)) for each in zip(*batch.values())]


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    batch = empty(shape, dtype)
    return batch, batch
