"""The reference job at full size inside a memory cgroup: 2_000_000 x 2000 float64, 32 GB, with 8 GB of memory.

sudo python benchmarks/reference.py               # needs 65 GB of disk, and the right to make a cgroup
sudo python benchmarks/reference.py --limit 4GiB

Runs ``swath demo --full`` in a child of this process's memory cgroup (v1 or v2), page cache and all processes
included, then prints what the kernel counted. The loops of h5py and numpy.memmap run in the same group.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
from machine import describe_machine
from report import folder_option, results_option, save

from swath.memory import format_bytes, parse_bytes


@click.command()
@click.option("--limit", default="8GB", show_default=True)
@click.option("--rows", type=int, help="Rows of the source, to try this program; by default the whole question.")
@folder_option
@results_option
def main(limit: str, rows: int | None, folder: Path, results: Path) -> None:
    group, is_v1 = make_group(parse_bytes(limit))
    peak = {"rss": 0}
    ended = threading.Event()
    watcher = threading.Thread(target=watch_rss, args=(group, is_v1, peak, ended))
    watcher.start()
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            in_group(group, _demo(folder, rows)),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begin
    finally:
        ended.set()
        watcher.join()
        killed = oom_kills(group, is_v1)
        remove_group(group)
    print(done.stdout)
    record = {
        "machine": describe_machine(),
        "limit_bytes": parse_bytes(limit),
        "exit_status": done.returncode,
        "oom_kills": killed,
        "peak_rss_bytes": peak["rss"],
        "seconds": round(seconds, 1),
        "table": done.stdout.splitlines(),
    }
    print(
        f"Memory cgroup of {limit}: exit status {done.returncode}, {killed} out-of-memory kills, the most anonymous memory of all "
        f"processes together {format_bytes(peak['rss'])}, {seconds:.0f} s in all."
    )
    save(results, "reference", record)
    sys.exit(done.returncode)


def _demo(folder: Path, rows: int | None) -> list[str]:
    size = ["--full"] if rows is None else ["--rows", str(rows)]
    return [sys.executable, "-m", "swath.cli", "demo", "--folder", str(folder), *size]


def in_group(group: Path, command: list[str]) -> list[str]:
    """A command that runs in a group: a shell enters it, and becomes the command."""
    return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]


def make_group(n_bytes: int) -> tuple[Path, bool]:
    """A child of this process's memory cgroup, with a limit, and whether it is of version 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            group = Path("/sys/fs/cgroup/memory" + path) / f"swath-reference-{os.getpid()}"
            group.mkdir(exist_ok=True)
            (group / "memory.limit_in_bytes").write_text(str(n_bytes))
            return group, True
    group = Path("/sys/fs/cgroup" + path) / f"swath-reference-{os.getpid()}"
    group.mkdir(exist_ok=True)
    (group / "memory.max").write_text(str(n_bytes))
    return group, False


def remove_group(group: Path) -> None:
    """Remove a group once the last of its processes, which may be a helper of one that has ended, is gone."""
    deadline = time.monotonic() + 10
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    group.rmdir()


def watch_rss(group: Path, is_v1: bool, peak: dict[str, int], ended: threading.Event) -> None:
    """The kernel's own peak counts page cache, which always fills the limit: watch what cannot be given back."""
    field = "total_rss" if is_v1 else "anon"
    while not ended.wait(0.02):
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        peak["rss"] = max(peak["rss"], int(stat[field]))


def oom_kills(group: Path, is_v1: bool) -> int:
    text = (group / ("memory.oom_control" if is_v1 else "memory.events")).read_text()
    return int(dict(line.split() for line in text.splitlines())["oom_kill"])


if __name__ == "__main__":
    main()
