"""Random row windows from arrays bigger than memory.

>>> import numpy as np, swath
>>> a = swath.ingest(np.arange(20_000).reshape(1000, 20), tmp / "a.zarr", window=16)
>>> a.gather([3, 500, 3]).shape
(3, 16, 20)
"""

from typing import TYPE_CHECKING, Any

from swath import errors
from swath.array import RowArray
from swath.batches import Batches
from swath.doors import ingest, open
from swath.errors import SwathError
from swath.exporting import export
from swath.group import RowGroup, ingest_group, open_group
from swath.plan import Plan
from swath.sharing import (
    BatchServer,
    SharedBatch,
    attach,
    consume,
    serve_batches,
    share,
)
from swath.sources.images import images
from swath.times import segments_from_time

if TYPE_CHECKING:
    from swath.computing import compute

__version__ = "0.1.0"
__all__ = [
    "BatchServer",
    "Batches",
    "Plan",
    "RowArray",
    "RowGroup",
    "SharedBatch",
    "SwathError",
    "attach",
    "compute",
    "consume",
    "errors",
    "export",
    "images",
    "ingest",
    "ingest_group",
    "open",
    "open_group",
    "segments_from_time",
    "serve_batches",
    "share",
]


def __getattr__(name: str) -> Any:
    if name == "compute":  # dask takes half a second to import, and most programs never compute lazily
        from swath.computing import compute

        return compute
    raise AttributeError(f"module 'swath' has no attribute {name!r}")
