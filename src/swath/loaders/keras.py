"""Batches of a group as what ``fit``, ``evaluate`` and ``predict`` of Keras take, whatever its backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from swath.array import RowArray
from swath.errors import OptionError
from swath.group import RowGroup
from swath.loaders.numbered import arrays_of

try:
    import keras
except ImportError as error:
    raise ImportError("swath.loaders.keras needs Keras. Run: pip install 'swath[keras]'") from error


class Batches(keras.utils.PyDataset):
    """The batches of `RowArray.batches`, one epoch after another, in the order that ``seed`` decides for each.

    Parameters
    ----------
    rows
        A group; or an array, with ``transform``.
    batch_size
        Windows of a batch.
    inputs, targets
        Names of arrays of the group; no targets if None.
    transform
        Makes what Keras gets of a batch, such as ``(x, y)``, instead.
    epoch
        The number of the first epoch: to go on with ``fit(initial_epoch=3)``, give 3 here too.
    workers, use_multiprocessing, max_queue_size
        As in ``keras.utils.PyDataset``.
    options
        Others of `RowArray.batches`.

    Raises
    ------
    OptionError
        There is no array of one of the names, or as in `RowArray.batches`.
    StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, MemoryLimitError

    Examples
    --------
    >>> import swath, numpy as np
    >>> from swath.loaders.keras import Batches
    >>> g = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "keras.zarr", window=1)
    >>> batches = Batches(g, 32, workers=2)
    >>> x, y = batches[0]
    >>> len(batches), x.shape, y.shape
    (4, (32, 1, 5), (32, 1))
    """

    def __init__(
        self,
        rows: RowArray | RowGroup,
        batch_size: int,
        *,
        inputs: str = "X",
        targets: str | None = "y",
        transform: Callable[[Any], Any] | None = None,
        epoch: int = 0,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
        **options: Any,
    ) -> None:
        arrays = arrays_of(rows)
        super().__init__(workers, use_multiprocessing, max_queue_size)
        names = [inputs] if targets is None else [inputs, targets]
        self._transform = partial(_named, names) if transform is None else transform
        missing = set(names) - set(arrays)
        if transform is None and missing:
            raise OptionError(
                f"There is no array {', '.join(map(repr, sorted(missing)))} in {rows!r}. Give inputs= and targets=, or a transform=."
            )
        self._epoch = epoch
        self._make = partial(rows.batches, batch_size, epochs=1, **options)
        self._batches = self._make(epoch=epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, k: int) -> Any:
        return self._transform(self._batches.at(k))

    def on_epoch_end(self) -> None:
        """Go on to the next epoch, which has an order of its own."""
        self._epoch += 1
        self._batches = self._make(epoch=self._epoch)


def _named(names: list[str], batch: Any) -> tuple[Any, ...]:
    return tuple(batch[name] for name in names)
