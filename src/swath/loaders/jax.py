"""Batches on the devices of JAX.

JAX computes while Python goes on: a step that was called with one batch runs while the next is read, so nothing more is needed for that.
On a CPU its arrays share the memory of what they were made of, and refer to it: it is not used again before they are gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from swath.array import RowArray
from swath.errors import OptionError
from swath.group import RowGroup, arrays_of
from swath.windows import IntArray

try:
    import jax
except ImportError as error:
    raise ImportError("swath.loaders.jax needs JAX. Run: pip install 'swath[jax]'") from error


class Batches(Iterator[Any]):
    """The batches of `RowArray.batches` as arrays of JAX. It can be stopped and carried on with, as those can.

    As everywhere in JAX, what has 64 bits comes with 32, unless ``jax_enable_x64`` is set; integers that would be lost are refused.

    Parameters
    ----------
    rows
        An array, whose batches are arrays, or a group, whose batches are dicts of arrays.
    batch_size
        Windows of a batch.
    device
        A device or a sharding; that of ``jax.device_put`` if None.
    options
        Others of `RowArray.batches`. What ``transform`` returns may be any pytree of arrays.

    Raises
    ------
    OptionError
        JAX has no such dtype, or an integer has more than 32 bits; or as in `RowArray.batches`.
    StartsError, WindowError, WindowOutOfBoundsError, ColumnsError, MemoryLimitError

    Examples
    --------
    >>> import swath, numpy as np
    >>> from swath.loaders.jax import Batches
    >>> g = swath.ingest_group({"X": np.zeros((100, 5)), "y": np.arange(100)}, tmp / "jax.zarr", window=1)
    >>> for batch in Batches(g, 32, epochs=2):
    ...     pass
    >>> batch["X"].shape, batch["y"].dtype
    ((4, 1, 5), dtype('int32'))
    """

    def __init__(self, rows: RowArray | RowGroup, batch_size: int, *, device: Any = None, **options: Any) -> None:
        arrays = arrays_of(rows)
        if options.keys().isdisjoint(("dtype", "transform")):
            for array in arrays.values():
                numbers = array.dtype.kind in "biufc"
                advice = "Choose another by dtype=" if numbers else "Make numbers of it in transform="
                _check_dtype(array.dtype, f"{array.url} has", advice)
        self._batches = rows.batches(batch_size, **options)
        self._device = device

    def __len__(self) -> int:
        return len(self._batches)

    def __next__(self) -> Any:
        batch = next(self._batches)
        for leaf in jax.tree.leaves(batch):
            if isinstance(leaf, np.ndarray):
                _check_dtype(leaf.dtype, "A batch has", "Choose another dtype= or transform=")
                _check_integers(leaf)
        return jax.device_put(batch, self._device)

    @property
    def starts(self) -> IntArray:
        """Those of the batch that came last."""
        return self._batches.starts

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON values."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another was, that was made with the same arguments.

        Raises
        ------
        OptionError
            It was made with others.
        """
        self._batches.load_state_dict(state)


def _check_dtype(dtype: np.dtype[Any], what: str, advice: str) -> None:
    try:
        jax.eval_shape(lambda array: array, np.empty(0, dtype))
    except TypeError:
        raise OptionError(f"{what} dtype {dtype}, which JAX does not have. {advice}.") from None


def _check_integers(array: np.ndarray[Any, Any]) -> None:
    """Refuse what JAX would cut without a word."""
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind not in "iu" or kept == array.dtype or not array.size:
        return
    least, most = array.min(), array.max()
    if least < np.iinfo(kept).min or most > np.iinfo(kept).max:
        raise OptionError(
            f"A batch has integers from {least} to {most}, of which JAX keeps 32 bits. Call jax.config.update('jax_enable_x64', True)."
        )
