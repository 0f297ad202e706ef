"""Batches of a group as what ``fit``, ``evaluate`` and ``predict`` of Keras take, whatever its backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from swath.array import RowArray
from swath.errors import OptionError
from swath.group import RowGroup, arrays_of

try:
    import keras
except ImportError as error:
    raise ImportError("swath.loaders.keras needs Keras. Run: pip install 'swath[keras]'") from error


class Batches(keras.utils.PyDataset):
    """The batches of `RowArray.batches`, one epoch after another, in the order that ``seed`` decides for each.

    Train with ``fit(..., shuffle=False)``: else Keras draws the order of the batches again, by a generator of its own. Each epoch is
    followed by the next, but Keras may end one early, when it has built a model from its first batch. Where ``fit`` shall have the same
    batches in whichever process it goes on, say which epoch it is, as in the example. And with more workers than one, have the
    model built first, by ``model.test_on_batch(*batches[0])``: what Keras has read of an epoch that it ends early, it takes for the
    beginning of the next. A gather has threads of its own, so that more workers are of use for a slow ``transform`` alone.

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
        The number of the first epoch.
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
    >>> import keras
    >>> model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> in_order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.set_epoch(epoch))
    >>> trained = model.fit(batches, initial_epoch=3, epochs=5, shuffle=False, callbacks=[in_order], verbose=0)
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
        if "epochs" in options:
            raise OptionError(
                f"epochs is {options['epochs']!r}, but Keras asks for one epoch after another. Give epochs= to fit."
            )
        self._make = partial(rows.batches, batch_size, epochs=1, **options)
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, k: int) -> Any:
        return self._transform(self._batches.at(k))

    def set_epoch(self, epoch: int) -> None:
        """Have the batches of this epoch from now on: with ``seed`` it decides their order."""
        self._batches = self._make(epoch=epoch)
        self._epoch = epoch

    def on_epoch_end(self) -> None:
        """Go on to the next epoch."""
        self.set_epoch(self._epoch + 1)


def _named(names: list[str], batch: Any) -> tuple[Any, ...]:
    return tuple(batch[name] for name in names)
