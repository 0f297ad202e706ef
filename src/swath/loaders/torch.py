"""Datasets of PyTorch: `Windows` are asked for by number, as its samplers do; `Batches` come ready, as `RowArray.batches` gives them.

Both work in a ``DataLoader`` with any number of workers, forked or spawned: nothing is open between two batches. A store in an object
store is the exception: its client does not survive a fork, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swath.array import RowArray
from swath.batches import Batches as RowBatches
from swath.buffers import empty
from swath.errors import OptionError
from swath.group import RowGroup, arrays_of
from swath.loaders.numbered import numbered

try:
    import torch
except ImportError as error:
    raise ImportError("swath.loaders.torch needs PyTorch. Run: pip install 'swath[torch]'") from error

from torch.utils.data import Dataset, IterableDataset, default_collate, default_convert, get_worker_info


class Windows(Dataset):
    """Windows by number: a map-style dataset, for the samplers and ``batch_size=`` of a ``DataLoader``.

    A batch is one gather, however its windows lie. With ``collate_fn=collate`` it is handed on as it is; in a worker it is gathered
    into shared memory, so that it is not copied on its way to the process that trains.

    Parameters
    ----------
    rows
        An array, whose samples are tensors, or a group, whose samples are dicts of tensors.
    starts, window, columns, memory_limit
        As in `RowArray.batches`.
    options
        ``segments``, ``across_segments`` and ``stride``, as in `RowArray.batches`.

    Raises
    ------
    OptionError
        PyTorch has no such dtype, or as in `RowArray.batches`.
    StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, MemoryLimitError

    Examples
    --------
    >>> import swath, numpy as np
    >>> from torch.utils.data import DataLoader
    >>> from swath.loaders.torch import Windows, collate
    >>> a = swath.ingest(np.arange(1000.0).reshape(100, 10), tmp / "windows.zarr", window=4)
    >>> windows = Windows(a)
    >>> len(windows), windows[96].shape
    (97, torch.Size([4, 10]))
    >>> loader = DataLoader(windows, batch_size=32, shuffle=True, collate_fn=collate)
    >>> [batch.shape[0] for batch in loader]
    [32, 32, 32, 1]
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
        _check_dtypes(self._windows.arrays, "Ingest it with dtype=", "Ingest numbers for it")

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> Any:
        (sample,) = self.__getitems__([number])
        return sample

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Some samples, views of one batch that `collate` gives."""
        batch = self._windows.gather(numbers, _empty)
        if self._windows.is_alone:
            return _Views(batch[""].unbind(), batch[""])
        return _Views([dict(zip(batch, views)) for views in zip(*(each.unbind() for each in batch.values()))], batch)


class _Views(list[Any]):
    """Samples, and the batch that they are views of."""

    def __init__(self, samples: Sequence[Any], batch: Any) -> None:
        super().__init__(samples)
        self.batch = batch


def collate(samples: Any) -> Any:
    """A batch of samples: that which they are views of, without a copy, or what PyTorch makes of them.

    What is no list is one sample, of a ``DataLoader`` with ``batch_size=None``, and stays as it is.
    """
    if isinstance(samples, _Views):
        return samples.batch
    return default_collate(samples) if isinstance(samples, list) else samples


class Batches(IterableDataset):
    """The batches of `RowArray.batches` as tensors: an iterable dataset, for a ``DataLoader`` with ``batch_size=None``.

    Each worker reads every ``num_workers``-th batch of this rank, so that they come in the same order with any number of workers.
    An iterator over it has ``state_dict`` and ``load_state_dict``, by which torchdata's ``StatefulDataLoader`` goes on in the middle
    of an epoch, with as many workers as before.

    Parameters
    ----------
    rows
        An array, whose batches are tensors, or a group, whose batches are dicts of tensors.
    batch_size
        Windows of a batch.
    rank, world_size
        Of all batches this process gets every ``world_size``-th, from ``rank`` on; by default those of ``torch.distributed``, where
        it is initialised. Ranks may differ by one batch, unless ``drop_last=True``.
    epoch
        The number of the first epoch, until `set_epoch`.
    options
        Others of `RowArray.batches`. What ``transform`` returns may be arrays in dicts, tuples and lists.

    Raises
    ------
    OptionError
        PyTorch has no such dtype, or as in `RowArray.batches`.
    StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, MemoryLimitError

    Examples
    --------
    >>> import swath, numpy as np
    >>> from torch.utils.data import DataLoader
    >>> from swath.loaders.torch import Batches
    >>> a = swath.ingest(np.arange(1000.0).reshape(100, 10), tmp / "batches.zarr", window=4)
    >>> batches = Batches(a, 32, seed=7)
    >>> for epoch in range(2):
    ...     batches.set_epoch(epoch)
    ...     print([batch.shape[0] for batch in DataLoader(batches, batch_size=None)])
    [32, 32, 32, 1]
    [32, 32, 32, 1]
    """

    def __init__(
        self,
        rows: RowArray | RowGroup,
        batch_size: int,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        epoch: int = 0,
        **options: Any,
    ) -> None:
        arrays = arrays_of(rows)
        here, all_ranks = _place()
        self._rank = here if rank is None else rank
        self._world_size = all_ranks if world_size is None else world_size
        self._make = partial(rows.batches, batch_size, **options)
        self._length = len(self._make(rank=self._rank, world_size=self._world_size, epoch=epoch))
        if options.keys().isdisjoint(("dtype", "transform")):
            _check_dtypes(arrays, "Choose another by dtype=", "Make numbers of it in transform=")
        # Workers that live on from epoch to epoch see it change.
        self._epoch = torch.tensor(epoch).share_memory_()

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Begin with this epoch when it is iterated over next: with ``seed`` it decides the order."""
        self._make(epoch=epoch)  # refuses what is no number of an epoch
        self._epoch.fill_(epoch)

    def __iter__(self) -> Pass:
        """One pass over this rank's batches, or over those of them that are this worker's."""
        worker = get_worker_info()
        k, n = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return Pass(partial(self._share, k, n), int(self._epoch))

    def _share(self, k: int, n: int, *, epoch: int) -> RowBatches[Any]:
        return self._make(rank=self._rank, world_size=self._world_size, epoch=epoch).share(k, n)


class Pass(Iterator[Any]):
    """One pass over `Batches`."""

    def __init__(self, make: Callable[..., RowBatches[Any]], epoch: int) -> None:
        self._make = make
        self._batches = make(epoch=epoch)

    def __next__(self) -> Any:
        return _tensors(next(self._batches))

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and in which epoch."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another was, in the epoch that it was in.

        Raises
        ------
        OptionError
            It was made with other arguments, or as another rank or worker.
        """
        batches = self._make(epoch=state.get("epoch"))
        batches.load_state_dict(state)
        self._batches = batches


def _place() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _check_dtypes(arrays: Mapping[str, RowArray], of_numbers: str, of_others: str) -> None:
    """Refuse what no tensor holds, with advice for numbers, and for texts, times and records."""
    for array in arrays.values():
        try:
            torch.from_numpy(np.empty(0, array.dtype))
        except (TypeError, ValueError):
            advice = of_numbers if array.dtype.kind in "biufc" else of_others
            raise OptionError(f"{array.url} has dtype {array.dtype}, which PyTorch does not have. {advice}.") from None


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, NDArray[Any]]:
    """A tensor, in a worker in shared memory, and the array that it is."""
    if get_worker_info() is None:
        tensor = torch.from_numpy(empty(shape, dtype))
    else:  # as default_collate does
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize, device="cpu")
        tensor = torch.empty(0, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).set_(storage, 0, shape)
    return tensor, tensor.numpy()


def _tensors(batch: Any) -> Any:
    """The same with tensors for arrays, without a copy."""
    try:
        return default_convert(batch)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"A batch is nothing that PyTorch has ({error}). Choose another dtype= or transform=."
        ) from None
