"""swath beside what people use today, from an object store that is far away: 30 ms of latency, and 1 Gbit/s for all requests.

python benchmarks/remote.py                  # 500_000 x 2000 float64, 8 GB, served by this machine itself
python benchmarks/remote.py --rows 2000000   # the reference array, 32 GB; 18 minutes
python benchmarks/remote.py --only swath --only tensorstore --at-once 64
python benchmarks/remote.py --bits 12        # of numbers of 12 bits, which zstd makes a fifth of

All read one store, which swath wrote: plain Zarr v3, in the chunks that an ingest into an object store would choose, or of
``--chunk-rows``, raw or, of fewer bits, compressed. nginx serves it (see `serving`), through a relay
that has latency and one bandwidth for all connections (see `slow_network`); the files that it sends are in memory. Server,
network and clients share the cores, and what the first two take is told.

First each way that can be told how much to do at once is tried with each of these numbers, which is the plot; then all ways are
measured at their best number, interleaved, medians. A run opens the store by a new client, in a process of its own, after one
window that is not timed; some windows of each batch are compared with what was written. A way that takes over 20 ms a window
gathers a tenth of the windows, and is told by its rate.

The bound is what nobody can beat who looks at each checksum: the bytes of the touched chunks by the bandwidth, and two rounds: one for
``zarr.json``, one for chunks. Who looks up where they lie, and does not calculate it, which only of raw ones can be done, reads
indexes besides, and has a round more.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from machine import describe_machine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from remote_peers import AT_ONCE, KEYS, PROGRAM, SINGLE, SWEPT, at_once, name_of, numbered_blocks
from report import folder_option, plain_log, results_option, save
from rich.console import Console
from rich.table import Table
from serving import cpu_seconds, serve
from slow_network import slow_network

import swath
from swath.layout import CodecName, choose_chunk_rows
from swath.measure import Job, Result, measure, random_starts
from swath.plan import REMOTE

_WINDOW = 16
_ROUNDS_OF_BOUND = 2
_SLOW_S = 0.02
_FEWEST = 40  # windows of a run
_OURS = "swath gather"
_RAW_ONLY = "bare ranges"
_RAW_BITS = 52  # all that a float64 has for a whole number: nothing to compress
_PACKAGES = ("obstore", "s3fs", "tensorstore")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A ratio: swath's rate by that of the best of the ways whose names begin and end so."""

    name: str
    begins: str
    ends: str
    least: float


_WANTED = (
    Wanted("the loop of zarr-python", "zarr-python", "loop", 10.0),
    Wanted("zarr-python at its best", "zarr-python", "", 2.0),
    Wanted("tensorstore", "tensorstore", "", 1.0),
)
_WANTED_OF_BOUND = 0.8


@dataclass(frozen=True, slots=True)
class Place:
    """The store as the server has it, and as clients see it."""

    local: Path
    url: str
    server_pid: int
    network_pid: int

    def run(self, way: str, windows: int, seed: int) -> Result:
        job = Job(way, self.url, windows, _WINDOW, seed, cold=True)
        self._load(job)
        return measure(job, PROGRAM)

    def _load(self, job: Job) -> None:
        """Have what the server will send in its memory."""
        a = swath.open(self.local)
        a.gather(random_starts(len(a), job.windows, job.window, job.seed), window=job.window, direct="never")

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the server, and of the network."""
        return cpu_seconds(self.server_pid), cpu_seconds(self.network_pid)


@click.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--columns", default=2000, show_default=True)
@click.option("--windows", default=1000, show_default=True)
@click.option("--chunk-rows", type=int, help="By default what an ingest chooses for such rows far away.")
@click.option("--bits", type=click.IntRange(1, _RAW_BITS), default=_RAW_BITS, show_default=True, help="Of each number.")
@click.option("--latency-ms", default=30.0, show_default=True)
@click.option("--gbits", default=1.0, show_default=True)
@click.option("--at-once", "numbers", multiple=True, default=AT_ONCE, help="A number to try; may be given again.")
@click.option("--only", multiple=True, help="Only ways whose name begins so; may be given again.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each way, interleaved.")
@folder_option
@results_option
def main(
    rows: int,
    columns: int,
    windows: int,
    chunk_rows: int | None,
    bits: int,
    latency_ms: float,
    gbits: float,
    numbers: tuple[int, ...],
    only: tuple[str, ...],
    rounds: int,
    folder: Path,
    results: Path,
) -> None:
    os.environ.update(KEYS)
    console = Console(width=120)
    codec: CodecName = "raw" if bits == _RAW_BITS else "zstd"
    chunk_rows = chunk_rows or choose_chunk_rows(_WINDOW, columns * 8, codec, REMOTE.bytes_a_second)
    with _place(folder, (rows, columns), bits, codec, chunk_rows, latency_ms / 1e3, gbits) as place:
        swept = [way for way in SWEPT if way.startswith(only or "") and (codec == "raw" or way != _RAW_ONLY)]
        sweep = {way: {n: _sweep(place, way, n, windows) for n in numbers} for way in swept}
        best = {way: max(rates, key=lambda n: rates[n]) for way, rates in sweep.items()}
        counts = {way: _probe(place, way, windows) for way in SINGLE if way.startswith(only or "")}
        window_gigabytes = _WINDOW * columns * 8 / 1e9
        counts |= {at_once(way, n): _count(window_gigabytes / sweep[way][n], windows) for way, n in best.items()}
        before = place.cpu_seconds()
        runs = _interleaved(place, counts, rounds)
        took = [after - first for first, after in zip(before, place.cpu_seconds())]
        bytes_of_bound = _least_bytes(place.local, windows, rounds)
    gigabytes = sum(result.batch_bytes for some in runs.values() for result in some) / 1e9
    cpu = {name: seconds / gigabytes for name, seconds in zip(("server", "network"), took)}
    bound_s = bytes_of_bound / (gbits * 1e9 / 8) + _ROUNDS_OF_BOUND * latency_ms / 1e3
    bound = windows * _WINDOW * columns * 8 / bound_s / 1e9
    rates = {way: median(result.gigabytes_a_second for result in some) for way, some in runs.items()}
    figures = _judge(rates, bound)
    title = (
        f"{windows:,} random windows of {_WINDOW} rows from {rows:,} x {columns} float64 in chunks of {chunk_rows}, {codec}, "
        f"{latency_ms:g} ms, {gbits:g} Gbit/s"
    )
    console.print(_way_table(title, rates, runs, counts, windows, bound))
    console.print(f"Core-seconds for each GB: server {cpu['server']:.2f}, network {cpu['network']:.2f}.")
    console.print(_wanted_table(figures))
    record = {
        "machine": describe_machine(*_PACKAGES),
        "array": [rows, columns],
        "bits": bits,
        "codec": codec,
        "chunk_rows": chunk_rows,
        "windows": windows,
        "window": _WINDOW,
        "latency_s": latency_ms / 1e3,
        "gbits": gbits,
        "bound": {"bytes": bytes_of_bound, "rounds": _ROUNDS_OF_BOUND, "seconds": bound_s},
        "core_seconds_a_gigabyte": cpu,
        "wanted": figures,
        "sweep": sweep,
        "runs": {way: {"windows": counts[way], "results": [asdict(r) for r in some]} for way, some in runs.items()},
    }
    save(results, "remote" if codec == "raw" else "remote-encoded", record, _plot(title, sweep, rates, bound, gbits))


@contextmanager
def _place(
    folder: Path,
    shape: tuple[int, int],
    bits: int,
    codec: CodecName,
    chunk_rows: int,
    latency_s: float,
    gbits: float,
) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
        local = Path(name) / "buckets" / "bench" / name_of(bits)
        local.parent.mkdir(parents=True)
        blocks = numbered_blocks(*shape, bits)
        swath.ingest(blocks, local, window=_WINDOW, chunk_rows=chunk_rows, codec=codec, progress=False)
        with (
            serve(Path(name) / "buckets", Path(name) / "nginx") as (server, server_pid),
            slow_network(server, latency_s, gbits) as (address, network_pid),
        ):
            yield Place(local, f"http://{address}/bench/{local.name}", server_pid, network_pid)


def _sweep(place: Place, way: str, n: int, windows: int) -> float:
    """GB/s of one run; of so few windows where little is done at once that it is no longer than where much is."""
    return place.run(at_once(way, n), min(windows, max(_FEWEST, 16 * n)), seed=0).gigabytes_a_second


def _probe(place: Place, way: str, windows: int) -> int:
    """How many windows a way shall gather that is not in the sweep."""
    few = min(windows, _FEWEST)
    return _count(place.run(way, few, seed=0).seconds / few, windows)


def _count(seconds: float, windows: int) -> int:
    """How many windows a way shall gather that takes so long for one."""
    return max(1, windows // 10) if seconds > _SLOW_S else windows


def _interleaved(place: Place, counts: dict[str, int], rounds: int) -> dict[str, list[Result]]:
    runs: dict[str, list[Result]] = {way: [] for way in counts}
    for seed in range(1, rounds + 1):
        for way in sorted(counts, reverse=seed % 2 == 1):
            runs[way].append(place.run(way, counts[way], seed))
    return runs


def _least_bytes(local: Path, windows: int, rounds: int) -> float:
    """Bytes of the chunks that windows touch; the mean over the seeds."""
    a = swath.open(local)
    lengths = _chunk_lengths(a)
    sizes = []
    for seed in range(1, rounds + 1):
        starts = random_starts(len(a), windows, _WINDOW, seed)
        chunks = np.unique((starts[:, None] + np.arange(_WINDOW)) // a.chunk_rows)
        sizes.append(lengths[chunks].sum())
    return float(np.mean(sizes))


def _chunk_lengths(a: swath.RowArray) -> NDArray[np.uint64]:
    """Bytes of each chunk, with its checksum, as the indexes have them."""
    rows: Any = a._rows
    lengths = []
    for shard in range(rows.layout.n_shards):
        with rows.open_shard(shard) as file:
            lengths.append(rows.indexes.get(file, rows.facts.stamp(shard)).lengths)
    return np.concatenate(lengths)


def _judge(rates: dict[str, float], bound: float) -> list[dict[str, Any]]:
    """Each figure as measured; those of which a way was not measured are left out."""
    if _OURS not in rates:
        return []
    figures: list[dict[str, Any]] = []
    for want in _WANTED:
        theirs = [way for way in rates if way.startswith(want.begins) and way.endswith(want.ends)]
        if theirs:
            best = max(theirs, key=lambda way: rates[way])
            figures.append(
                {"against": want.name, "best": best, "ratio": rates[_OURS] / rates[best], "wanted": want.least}
            )
    share = {"against": "the bound", "best": "", "ratio": rates[_OURS] / bound, "wanted": _WANTED_OF_BOUND}
    return [{**figure, "met": figure["ratio"] >= figure["wanted"]} for figure in (*figures, share)]


def _wanted_table(figures: list[dict[str, Any]]) -> Table:
    table = Table(title=f"What is wanted of {_OURS}")
    for name in ("against", "their best way", "ratio", "wanted", ""):
        table.add_column(name, justify="right" if name in ("ratio", "wanted") else "left")
    for figure in figures:
        verdict = "met" if figure["met"] else "missed"
        table.add_row(figure["against"], figure["best"], f"{figure['ratio']:.2f}x", f"{figure['wanted']:g}x", verdict)
    return table


def _way_table(
    title: str,
    rates: dict[str, float],
    runs: dict[str, list[Result]],
    counts: dict[str, int],
    windows: int,
    bound: float,
) -> Table:
    table = Table(
        title=f"{title}: MB/s of wanted bytes, medians; ratio: {_OURS} against this way",
        caption="*: slow, so a tenth of the windows",
    )
    for name in ("way", "MB/s", "ratio", "of the bound", "peak memory"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, rate in sorted(rates.items(), key=lambda item: -item[1]):
        star = "*" if counts[way] < windows else ""
        ratio = f"{rates[_OURS] / rate:.2f}x" if _OURS in rates else ""
        peak = max(result.peak_bytes for result in runs[way]) / 1e9
        table.add_row(f"{way}{star}", f"{rate * 1e3:.1f}", ratio, f"{rate / bound:.0%}", f"{peak:.2f} GB")
    table.add_row("bound", f"{bound * 1e3:.1f}", "", "100%", "")
    return table


def _plot(
    title: str, sweep: dict[str, dict[int, float]], rates: dict[str, float], bound: float, gbits: float
) -> Figure:
    """Throughput against concurrency; beside it each way at its best."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_sweep(left, sweep)
    _plot_rates(right, rates)
    for line in (left.axhline, right.axvline):
        line(bound * 1e3, color="black", linewidth=1, linestyle=":")
    place = {"xycoords": left.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 8}
    left.annotate(f"bound of {gbits:g} Gbit/s", (0, bound * 1e3), (4, 3), **place)
    return figure


def _color(way: str) -> str:
    colors = {"swath": "red", "tensorstore": "blue", "zarr-python + obstore": "green", "zarr-python + s3fs": "olive"}
    return next((f"tab:{color}" for name, color in colors.items() if way.startswith(name)), "tab:gray")


def _plot_sweep(ax: Axes, sweep: dict[str, dict[int, float]]) -> None:
    used: dict[str, int] = {}
    for way, rates in sweep.items():
        style = ("o-", "s--", "^:", "v-.")[used.setdefault(_color(way), 0) % 4]
        used[_color(way)] += 1
        some = [rate * 1e3 for rate in rates.values()]
        ax.plot(list(rates), some, style, color=_color(way), markersize=4, linewidth=1.2, label=way)
    plain_log(ax, "x", "y")
    numbers = sorted({n for rates in sweep.values() for n in rates})
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.set(xlabel="done at once", ylabel="MB/s of wanted bytes", title="One run each")
    if sweep:
        ax.legend(fontsize=7)


def _plot_rates(ax: Axes, rates: dict[str, float]) -> None:
    ways = sorted(rates, key=lambda way: rates[way])
    ax.barh(ways, [rates[way] * 1e3 for way in ways], color=[_color(way) for way in ways])
    for y, way in enumerate(ways):
        ax.annotate(
            f"{rates[way] * 1e3:.1f}",
            (rates[way] * 1e3, y),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.tick_params(axis="y", labelsize=8)
    ax.set(xlabel="MB/s of wanted bytes", title="Each at its best: medians")
    ax.margins(x=0.15)


if __name__ == "__main__":
    main()
