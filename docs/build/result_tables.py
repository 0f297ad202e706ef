"""The JSON of benchmarks/results as tables of Markdown: one function a file, each a row a way."""

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
Record = Any
_USUAL = ("cpu", "cores", "memory", "kernel", "python")


def results(name: str) -> str:
    """A result: on what machine and when, its table, and its plot if there is one."""
    record = json.loads((RESULTS / f"{name}.json").read_text())
    parts = [_machine(record["machine"], name), TABLES[name](record)]
    if (RESULTS / f"{name}.png").exists():
        parts.append(f"![The same as a plot](results/{name}.png)")
    return "\n\n".join(parts)


def _machine(machine: Record, name: str) -> str:
    versions = ", ".join(f"{key} {value}" for key, value in machine.items() if key not in _USUAL)
    date = _date(RESULTS / f"{name}.json")
    return (
        f"<small>{machine['cores']} virtual cores ({machine['cpu']}), {machine['memory']} of memory left, Linux {machine['kernel']}, "
        f"Python {machine['python']}; {versions}.{f' {date}.' if date else ''} `benchmarks/results/{name}.json`</small>"
    )


def _date(path: Path) -> str:
    """The day on which a result was committed; nothing where there is no git."""
    command = ["git", "log", "-1", "--format=%cs", "--", path.name]
    try:
        return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """The first column is text, and the others are numbers."""
    titles = list(head)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rate(results: Record) -> float:
    """GB/s of wanted bytes."""
    return float(median(result["batch_bytes"] / result["seconds"] / 1e9 for result in results))


def _cold_and_warm(runs: Record, key: str) -> dict[str, dict[bool, Record]]:
    ways: dict[str, dict[bool, Record]] = {}
    for run in runs:
        ways.setdefault(run[key], {})[run["cold"]] = run["results"]
    return ways


def _gather(record: Record) -> str:
    ways = _cold_and_warm(record["runs"], "label")
    rows = (
        (
            label,
            f"{_rate(runs[False]):.2f}",
            f"{_rate(runs[True]):.2f}",
            f"{max(result['peak_bytes'] for result in runs[False] + runs[True]) / 1e9:.2f}",
        )
        for label, runs in ways.items()
    )
    return _table(("way", "warm GB/s", "cold GB/s", "peak memory GB"), rows)


def _foreign_zarr(record: Record) -> str:
    rows = []
    for layout in record["layouts"]:
        ways = _cold_and_warm(layout["runs"], "way")
        ours = ways.pop("swath gather")
        best = {cold: max(_rate(runs[cold]) for runs in ways.values()) for cold in (False, True)}
        rates = (f"{rate:.2f}" for cold in (False, True) for rate in (_rate(ours[cold]), best[cold]))
        rows.append((layout["layout"], *rates))
    return _table(("layout", "swath warm GB/s", "zarr-python warm", "swath cold", "zarr-python cold"), rows)


def _remote(record: Record) -> str:
    rows = ((way, f"{_rate(run['results']) * 1e3:.1f}") for way, run in record["runs"].items())
    return _table(("way", "MB/s"), rows)


def _training(record: Record) -> str:
    best: dict[str, dict[tuple[str, bool], tuple[float, float]]] = {}
    for run in record["runs"]:
        for model in ("none", "linear"):
            epochs = [outcome["epochs"][model] for outcome in run["outcomes"]]
            rate = median(epoch["samples"] / epoch["seconds"] for epoch in epochs)
            waits = median(epoch["waited_s"] / epoch["seconds"] for epoch in epochs)
            of_way = best.setdefault(run["label"], {})
            of_way[model, run["cold"]] = max(of_way.get((model, run["cold"]), (0.0, 0.0)), (rate, waits))
    rows = (
        (
            label,
            f"{of_way['none', False][0]:,.0f}",
            f"{of_way['none', True][0]:,.0f}",
            *(f"{of_way['linear', cold][0]:,.0f} ({of_way['linear', cold][1]:.0%})" for cold in (False, True)),
        )
        for label, of_way in best.items()
    )
    return _table(("samples a second", "no model, warm", "cold", "linear model, warm (waits)", "cold (waits)"), rows)


def _sampling(record: Record) -> str:
    rows = (
        (
            order["label"],
            *(f"{median(order['samples_a_second'][state]):,.0f}" for state in ("warm", "cold")),
            f"{order['bytes_read']:.2f}",
            f"{order['entropy']:.2f}",
        )
        for order in record["orders"]
    )
    return _table(("order", "warm samples/s", "cold samples/s", "bytes read for each wanted", "entropy"), rows)


def _sharing(record: Record) -> str:
    handed = _table(
        ("a batch, to another process", *(f"{int(size) / 1e6:,.0f} MB, ms" for size in (1e6, 256e6))),
        (
            (way, *(f"{median(of_size[size]) * 1e3:.2f}" for size in ("1000000", "256000000")))
            for way, of_size in record["handed_s"].items()
        ),
    )
    rates = _table(
        ("way", "GB/s"), ((way, f"{median(rates):.1f}") for way, rates in record["gigabytes_a_second"].items())
    )
    return f"{handed}\n\n{rates}"


def _small(record: Record) -> str:
    rows = ((way, f"{median(seconds) * 1e3:,.1f}") for way, seconds in record["one_row"].items())
    return _table((f"{record['windows']:,} windows of one row, of {record['rows']:,} rows", "ms"), rows)


def _lazy(record: Record) -> str:
    return _table(("way", "GB/s"), ((way, f"{median(rates):.2f}") for way, rates in record["rates"].items()))


def _ingest(record: Record) -> str:
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for run in record["runs"]:
        found.setdefault((run["source"], run["cold"]), []).append((run["ingest_s"], run["cp_and_sync_s"]))
    rows = (
        (f"{source}, {'cold' if cold else 'warm'}", *(f"{median(column):.1f}" for column in zip(*times)))
        for (source, cold), times in found.items()
    )
    return _table(("source of 8 GB", "swath ingest s", "cp and sync s"), rows)


def _writing(record: Record) -> str:
    return _table(("way", "s"), ((way, f"{median(times):.2f}") for way, times in record["seconds"].items()))


def _auto_codec(record: Record) -> str:
    rows = []
    for kind in record["kinds"]:
        rates = {(run["codec"], run["cold"]): _rate(run["results"]) for run in kind["runs"]}
        figures = (f"{rates[codec, False]:.2f} / {rates[codec, True]:.2f}" for codec in ("auto", "raw", "lz4", "zstd"))
        rows.append((kind["kind"], kind["chosen"], *figures))
    return _table(("rows", "chosen", "auto, warm / cold GB/s", "raw", "lz4", "zstd"), rows)


def _source_memory(record: Record) -> str:
    rows = ((source, f"{run['added_mib']:.0f}", f"{run['seconds']:.1f}") for source, run in record["runs"].items())
    return _table((f"source, within {record['limit']}", "added MiB", "s"), rows)


def _long_loop(record: Record) -> str:
    rows = (
        (
            name,
            f"{figure['first_bytes'] / 2**20:.1f}",
            f"{figure['last_bytes'] / 2**20:.1f}",
            f"{figure['drift']:+.1%}",
        )
        for name, figure in record["figures"].items()
    )
    return _table((f"memory, in {record['batches']:,} batches", "at first, MiB", "at last, MiB", "drift"), rows)


def _reference(record: Record) -> str:
    """What the command printed, of which the lines that are drawn are left out."""
    cells = [[cell.strip() for cell in line.split(line[0])[1:-1]] for line in record["table"] if line[0] in "┃│"]
    around = [line.strip() for line in record["table"] if line[0] not in "┏┃┡│└"]
    return f"{' '.join(around[:2])}.\n\n{_table(cells[0], cells[1:])}\n\n{' '.join(around[2:])}"


def _reference_cluster(record: Record) -> str:
    rows = (
        (run["out"], f"{run['ingest_s']:.1f}", f"{run['gather_s']:.1f}", f"{run['peak_rss_bytes'] / 1e9:.2f}")
        for run in record["runs"]
    )
    head = (f"{record['workers']} workers, result into", "ingest s", "gather s", "peak memory of the client GB")
    return _table(head, rows)


def _workers(record: Record) -> str:
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for run in record["runs"]:
        figures = run["cold_s"], run["warm_s"], run["scheduler_s"]
        found.setdefault((run["way"], run["workers"]), []).append(figures)
    rows: list[tuple[str, ...]] = []
    for (way, workers), runs in found.items():
        cold, warm, scheduler = map(median, zip(*runs))
        rows.append((way, str(workers), f"{cold:.2f}", f"{warm:.2f}", f"{scheduler:.3f}", f"{scheduler / cold:.1%}"))
    rows.sort(key=lambda row: row[0], reverse=True)
    head = (f"{record['windows']:,} windows of {record['rows']:,} rows", "workers", "cold s", "warm s")
    return _table((*head, "as many tasks of nothing s", "of the cold run"), rows)


def _hostile(record: Record) -> str:
    """Corpora of one kind together."""
    kinds: dict[tuple[str, str], list[Record]] = {}
    for name, by_program in record["corpora"].items():
        for program, tally in by_program.items():
            kinds.setdefault((name.partition(",")[0], program), []).append(tally)
    counted = ("tries", "answers", "typed errors", "other errors", "crashes", "hangs", "too slow", "too large", "wrong")
    rows = (
        (
            kind,
            program,
            *(f"{sum(tally[each] for tally in of):,}" for each in counted),
            f"{max(tally['most growth'] for tally in of) / 1e6:.0f}",
        )
        for (kind, program), of in sorted(kinds.items())
    )
    return _table(("what", "program", *counted, "most growth MB"), rows)


TABLES: dict[str, Callable[[Record], str]] = {
    "auto_codec": _auto_codec,
    "foreign_zarr": _foreign_zarr,
    "gather": _gather,
    "hostile": _hostile,
    "ingest": _ingest,
    "lazy": _lazy,
    "long_loop": _long_loop,
    "reference": _reference,
    "reference_cluster": _reference_cluster,
    "remote": _remote,
    "remote-encoded": _remote,
    "sampling": _sampling,
    "sharing": _sharing,
    "small": _small,
    "source_memory": _source_memory,
    "training": _training,
    "training-small": _training,
    "workers": _workers,
    "writing": _writing,
}
