"""Random row windows from arrays bigger than memory.

>>> import numpy as np, swath
>>> a = swath.ingest(np.arange(20_000).reshape(1000, 20), tmp / "a.zarr", window=16)
>>> a.gather([3, 500, 3]).shape
(3, 16, 20)
"""

import logging
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

if TYPE_CHECKING:
    from swath import plot
    from swath.computing import compute

# What is logged is heard only where a program listens to "swath", or to all.
logging.getLogger("swath").addHandler(logging.NullHandler())

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
    "plot",
    "serve_batches",
    "share",
]


def __getattr__(name: str) -> Any:
    if name == "compute":  # dask takes half a second to import, and most programs never compute lazily
        from swath.computing import compute

        return compute
    if name == "plot":  # its functions load matplotlib
        from importlib import import_module

        return import_module("swath.plot")
    raise AttributeError(f"module 'swath' has no attribute {name!r}")
