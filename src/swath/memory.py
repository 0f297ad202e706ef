"""How much memory may a call use, and how much will it use?

Sizes are parsed once, at the door (`parse_bytes`); inside they are ints. The limit of a call is
what it may *add* to the process: the one the caller gave, or 90 % of what the system has left
for this process (`detect_room`). What a gather will add is written down in one place, `GatherCost`;
`swath.plan` fills it in, and it is compared with the limit before anything is read.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from swath.errors import OptionError

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{p}B": 1000 ** (i + 1) for i, p in enumerate("KMGTP")}
_UNITS |= {f"{p}IB": 1024 ** (i + 1) for i, p in enumerate("KMGTP")}
_UNITS |= {unit[:-1]: size for unit, size in _UNITS.items() if len(unit) > 1}

MOST_KEPT_BYTES = 32 * 2**20
"""glibc keeps what a thread has freed for that thread, but gives back at once what is larger than this (malloc's own threshold)."""

# A share is left for what nobody counts: the interpreter's own arenas, other threads, the kernel's pages.
_SHARE_OF_ROOM = 0.9


def parse_bytes(size: int | str, name: str = "memory_limit") -> int:
    """Bytes of a size given as an int or as text, with the units that dask knows.

    Examples
    --------
    >>> parse_bytes("8GiB"), parse_bytes("50MB"), parse_bytes("1.5 kB"), parse_bytes(64)
    (8589934592, 50000000, 1500, 64)
    """
    n_bytes = _bytes_of_text(size) if isinstance(size, str) else _bytes_of_number(size)
    if n_bytes is None:
        raise OptionError(
            f"{name} is {size!r}, which is no size. Give bytes as an int, or text such as '8GiB' or '50MB'."
        )
    if n_bytes < 1:
        raise OptionError(
            f"{name} is {size!r}, but a size is at least 1 byte. Give bytes as an int, or text such as '8GiB'."
        )
    return n_bytes


def _bytes_of_number(size: object) -> int | None:
    return int(size) if isinstance(size, (int, np.integer)) and not isinstance(size, bool) else None


def _bytes_of_text(text: str) -> int | None:
    match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text, re.ASCII)
    unit = match and _UNITS.get(match[2].upper())
    return int(float(match[1]) * unit) if match and unit else None


def format_bytes(n_bytes: int | float) -> str:
    """A size as people read it, in binary units.

    Examples
    --------
    >>> format_bytes(2_560_000_000), format_bytes(512)
    ('2.38 GiB', '512 B')
    """
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{int(n_bytes)} B"


def format_seconds(seconds: float) -> str:
    """A time as people read it.

    Examples
    --------
    >>> [format_seconds(seconds) for seconds in (0.00205, 2.56, 123, 4000, 20_000)]
    ['2.1 ms', '2.6 s', '123 s', '67 min', '5.6 h']
    """
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.2g} s" if seconds >= 0.1 or not seconds else f"{seconds * 1e3:.2g} ms"


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that this process can still take, and what sets the bound."""

    n_bytes: int
    bound_by: str


def detect_room(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Room:
    """The least of what the machine, the memory cgroups, the resource limits and a dask worker leave.

    Page cache is not counted as used, since the kernel gives it up under pressure. Nested cgroups,
    v1 and v2, are followed up to the root: the tightest of them holds.
    """
    rooms = [*_machine_room(proc), *_cgroup_rooms(proc, cgroup), *_rlimit_rooms(proc), *_worker_rooms(proc)]
    return min(rooms, key=lambda room: room.n_bytes, default=Room(2**63 - 1, "nothing that can be read here"))


@lru_cache(maxsize=1)
def machine_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The memory that files could be cached in: that of the machine, or of the tightest memory cgroup, when it was first asked.

    Each gather asks, and to look takes 80 us, as long as to read two windows.
    """
    total = _field_of(f"{proc}/meminfo", "MemTotal")
    limits = [limit for limit, _, _ in _cgroups(proc, cgroup)]
    return min([*limits, 2**63 - 1 if total is None else total])


def resolve_limit(memory_limit: int | str | None) -> Room:
    """The limit of one call: the caller's, or a share of the room that is left."""
    if memory_limit is not None:
        return Room(parse_bytes(memory_limit), "memory_limit")
    room = detect_room()
    return Room(int(room.n_bytes * _SHARE_OF_ROOM), f"90 % of what {room.bound_by} leaves")


@dataclass(frozen=True, slots=True)
class GatherCost:
    """What a gather adds to the process, in bytes."""

    batch: int
    """The result; 0 when the caller gave ``out``."""
    plan: int
    """The sorted starts, the reads and the placements."""
    scratch: int
    """Buffers of all reading threads together."""
    overhead: int
    """Thread stacks, shard indexes and the allocator's slack."""

    @property
    def total(self) -> int:
        """The projected peak."""
        return self.batch + self.plan + self.scratch + self.overhead

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {format_bytes(getattr(self, name))}" for name in ("batch", "plan", "scratch", "overhead")
        )
        return f"{format_bytes(self.total)} ({parts})"


def _machine_room(proc: Path) -> Iterator[Room]:
    available = _field_of(f"{proc}/meminfo", "MemAvailable")
    if available is not None:
        yield Room(available, "the machine")


def _cgroup_rooms(proc: Path, cgroup: Path) -> Iterator[Room]:
    for limit, used, group in _cgroups(proc, cgroup):
        yield Room(max(0, limit - used), f"the memory cgroup {group}")


def _cgroups(proc: Path, cgroup: Path) -> Iterator[tuple[int, int, str]]:
    """Limit of each memory cgroup of this process, what is used of it but for page cache, and its folder."""
    for line in _read(f"{proc}/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            names, root = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"), f"{cgroup}/memory"
        elif controllers == "":
            names, root = ("memory.max", "memory.current", ""), f"{cgroup}"
        else:
            continue
        # In a container the path may be the host's, and the group's own files lie at the root of the mount.
        group = f"{root}/{path.strip('/')}".rstrip("/")
        while True:
            yield from _one_cgroup(group, *names)
            if group == root:
                break
            group = group.rpartition("/")[0]


def _one_cgroup(group: str, limit_name: str, usage_name: str, prefix: str) -> Iterator[tuple[int, int, str]]:
    limit = _read(f"{group}/{limit_name}").strip()
    if not limit.isdigit() or int(limit) >= 2**60:  # v1 says "no limit" with a huge number
        return
    usage = _read(f"{group}/{usage_name}").strip()
    if usage.isdigit():
        stat = dict(line.split() for line in _read(f"{group}/memory.stat").splitlines())
        cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield int(limit), int(usage) - cached, group


def _rlimit_rooms(proc: Path) -> Iterator[Room]:
    for name, which, field in (
        ("RLIMIT_AS", resource.RLIMIT_AS, "VmSize"),
        ("RLIMIT_DATA", resource.RLIMIT_DATA, "VmData"),
    ):
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY and (used := _field_of(f"{proc}/self/status", field)) is not None:
            yield Room(max(0, soft - used), name)


def _worker_rooms(proc: Path) -> Iterator[Room]:
    """A share for each thread: the tasks of a worker run side by side, and it ends itself where they pass its limit."""
    worker = dask_worker()
    limit = worker and worker.memory_manager.memory_limit
    if limit and (resident := _field_of(f"{proc}/self/status", "VmRSS")) is not None:
        room = (limit - resident) // worker.state.nthreads
        yield Room(
            max(0, room), f"the dask worker (memory_limit {format_bytes(limit)}, {worker.state.nthreads} threads)"
        )


def dask_worker() -> Any:
    """The worker whose task is running in this thread; None elsewhere."""
    module = sys.modules.get("distributed.worker")
    try:
        return module and module.get_worker()
    except ValueError:
        return None


def _field_of(path: str, field: str) -> int | None:
    """Bytes that the kernel says, of this process or of the machine."""
    said = re.search(rf"^{field}:\s*(\d+) kB", _read(path), re.MULTILINE)
    return int(said[1]) * 1024 if said else None


def _read(path: str) -> str:
    """A small file of the kernel, or nothing. Each gather reads some: pathlib and a text file took 35 us for each, this takes 9."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(descriptor, 2**16):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
