"""On what machine, and with which versions, was this measured?"""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from swath.memory import detect_room, format_bytes


def describe_machine() -> dict[str, Any]:
    """What a reader needs to compare figures with their own."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    packages = ("numpy", "zarr", "dask", "h5py", "numcodecs", "crc32c")
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": format_bytes(detect_room().n_bytes),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
