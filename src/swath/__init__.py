"""Random row windows from arrays bigger than memory.

>>> import numpy as np, swath
>>> a = swath.ingest(np.arange(20_000).reshape(1000, 20), tmp / "a.zarr", window=16)
>>> a.gather([3, 500, 3]).shape
(3, 16, 20)
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from swath import errors
from swath.errors import SwathError

if TYPE_CHECKING:
    from swath import plot
    from swath.array import RowArray
    from swath.batches import Batches
    from swath.computing import compute
    from swath.doors import ingest, open
    from swath.exporting import export
    from swath.forecasting import Forecast, forecast
    from swath.group import RowGroup, ingest_group, open_group
    from swath.plan import Plan
    from swath.sharing import BatchServer, SharedBatch, attach, consume, serve_batches, share
    from swath.sources.images import images
    from swath.times import segments_from_time

# What is logged is heard only where a program listens to "swath", or to all.
logging.getLogger("swath").addHandler(logging.NullHandler())

__version__ = "0.1.0"
__all__ = [
    "BatchServer",
    "Batches",
    "Forecast",
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
    "forecast",
    "images",
    "ingest",
    "ingest_group",
    "open",
    "open_group",
    "plot",
    "segments_from_time",
    "serve_batches",
    "share",
]

# Where each is, to be imported when it is first asked for: numpy alone takes a fifth of a second, and `swath --help`, and
# every Tab in a shell, need none of it.
_HOMES = {
    "array": ["RowArray"],
    "batches": ["Batches"],
    "computing": ["compute"],
    "doors": ["ingest", "open"],
    "exporting": ["export"],
    "forecasting": ["Forecast", "forecast"],
    "group": ["RowGroup", "ingest_group", "open_group"],
    "plan": ["Plan"],
    "sharing": ["BatchServer", "SharedBatch", "attach", "consume", "serve_batches", "share"],
    "sources.images": ["images"],
    "times": ["segments_from_time"],
}


def __getattr__(name: str) -> Any:
    if name == "plot":  # a module, whose functions load matplotlib
        return import_module("swath.plot")
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"swath.{home}"), name)
            return found
    raise AttributeError(f"module 'swath' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
