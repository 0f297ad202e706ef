"""On what machine, and with which versions, was this measured?"""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from swath.memory import detect_room, format_bytes

_PACKAGES = ("numpy", "zarr", "dask", "h5py", "numcodecs", "awscrt")
PEER_PACKAGES = ("tensorstore", "zarrs", "blosc2")


def describe_machine(*packages: str) -> dict[str, Any]:
    """What a reader needs to compare figures with their own: swath's dependencies are named, and ``packages`` too."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": format_bytes(detect_room().n_bytes),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in (*_PACKAGES, *packages)},
    }
