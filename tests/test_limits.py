import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swath import memory
from swath.errors import OptionError
from swath.memory import Room, detect_room, format_bytes, parse_bytes, resolve_limit

_GB = 10**9


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        *(
            (1, 1),
            ("1", 1),
            ("8GiB", 8 * 2**30),
            ("8 gb", 8 * _GB),
            ("1.5kB", 1500),
            (".5MiB", 2**19),
            ("3PB", 3 * 10**15),
        ),
        *(("8G", 8 * _GB), ("8Gi", 8 * 2**30), ("8 k", 8000)),
    ],
)
def test_sizes_are_read_as_dask_reads_them(size: int | str, n_bytes: int) -> None:
    from dask.utils import parse_bytes as dask_parse_bytes

    assert parse_bytes(size) == n_bytes == dask_parse_bytes(size)


def test_a_size_may_be_an_integer_of_numpy() -> None:
    assert parse_bytes(np.int64(5)) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size", [0, -5, "", "GiB", "8 potatoes", "-1GB", "9" * 400, "٣GB", 1.5, True, None, "1e3"], ids=repr
)
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(OptionError, match="memory_limit is "):
        parse_bytes(size)


def test_sizes_are_written_for_people() -> None:
    assert [format_bytes(n) for n in (0, 1023, 2**20, 2.5 * 2**40)] == ["0 B", "1023 B", "1.00 MiB", "2.50 TiB"]


def _tree(root: Path, files: dict[str, object]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root / "proc", root / "sys"


_MEMINFO = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 40000000 kB"}


@pytest.mark.parametrize(
    ("files", "n_bytes", "bound_by"),
    [
        pytest.param({}, 40_000_000 * 1024, "the machine", id="machine"),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/a/b\n0::/",
                "sys/memory/memory.limit_in_bytes": 9223372036854771712,
                "sys/memory/memory.usage_in_bytes": 1,
                "sys/memory/a/memory.limit_in_bytes": 8 * _GB,
                "sys/memory/a/memory.usage_in_bytes": 7 * _GB,
                "sys/memory/a/memory.stat": f"total_active_file {_GB}\ntotal_inactive_file {_GB}\nrss 5",
                "sys/memory/a/b/memory.limit_in_bytes": 30 * _GB,
                "sys/memory/a/b/memory.usage_in_bytes": 7 * _GB,
            },
            3 * _GB,
            "memory/a",
            id="v1-nested-with-cache",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/a/memory.max": "max",
                "sys/a/memory.current": 5,
                "sys/a/b/memory.max": 2 * _GB,
                "sys/a/b/memory.current": _GB,
                "sys/a/b/memory.stat": "active_file 0\ninactive_file 500",
            },
            _GB + 500,
            "a/b",
            id="v2",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/the/hosts/path", "sys/memory.max": _GB, "sys/memory.current": 2 * _GB},
            0,
            "sys",
            id="container-that-is-over-its-limit",
        ),
    ],
)
def test_the_tightest_limit_is_found(tmp_path: Path, files: dict[str, object], n_bytes: int, bound_by: str) -> None:
    room = detect_room(*_tree(tmp_path, {**_MEMINFO, **files}))
    assert room.n_bytes == n_bytes
    assert room.bound_by.endswith(bound_by)


def test_resource_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, cgroup = _tree(tmp_path, {**_MEMINFO, "proc/self/status": "VmSize:\t 1000 kB\nVmData:\t 10 kB"})
    limits = {resource.RLIMIT_AS: 5_000_000, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], limits[which]))
    assert detect_room(proc, cgroup) == Room(5_000_000 - 1_024_000, "RLIMIT_AS")


def test_a_system_that_says_nothing_sets_no_limit(tmp_path: Path) -> None:
    assert detect_room(tmp_path, tmp_path).n_bytes > 10**18


def test_this_machine_says_something() -> None:
    assert 10**7 < detect_room().n_bytes < 10**14


def test_the_callers_limit_holds_and_by_default_nine_tenths_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_limit("1kB") == Room(1000, "memory_limit")
    monkeypatch.setattr(memory, "detect_room", lambda: Room(1000, "the test"))
    assert resolve_limit(None) == Room(900, "90 % of what the test leaves")
