"""How long will it take on a cluster, what limits it, and is that so where it can be tried?

python benchmarks/simulate.py calibrate    # measures what a task, a request and a byte cost here; predicts real gathers; 4 minutes
python benchmarks/simulate.py page         # the tables of docs/cluster.md, from what was measured; --write puts them there

`calibrate` gathers 2 GB of windows of 16 rows of 16 KB from a store in memory, in blocks of two sizes, with 1, 2 and 4 workers of
one thread, landing them in the client and not. Client, scheduler and workers share the cores of the machine, and so they do in the
simulation. It prints each prediction as a share of the median run: as it is, and with the cores that others on the machine
left, so that a busy machine is seen for what it is. The third ratio is of seconds of the cores alone. It writes ``benchmarks/results/simulate.json``.
"""

import json
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
from calibration import Machine, Parameters, Scale, check, from_record, measure
from machine import describe_machine
from petabyte import tables
from report import folder_option, results_option, save
from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).parent.parent / "docs/cluster.md"

_WANTED = 1.3


@click.group()
def main() -> None:
    """Predict gathers and ingests on a cluster."""


@main.command()
@click.option("--rows", default=125_000, show_default=True, help="Of the store, 16 KB each.")
@click.option("--windows", default=8000, show_default=True, help="Of one gather.")
@click.option("--tasks", default=400, show_default=True, help="Tasks that are measured.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each gather.")
@folder_option
@results_option
def calibrate(rows: int, windows: int, tasks: int, rounds: int, folder: Path, results: Path) -> None:
    """Measure this machine, and compare predicted with real gathers."""
    scale = Scale(rows, tasks, (16, 128), windows, rounds)
    machine = Machine()
    try:
        with tempfile.TemporaryDirectory(prefix="swath-bench-", dir=folder) as name:
            parameters = measure(machine, Path(name), scale)
            compared = list(check(machine, parameters, Path(name), scale))
    finally:
        machine.close()
    Console(width=130).print(_comparison(compared))
    record = {"machine": describe_machine("distributed"), "parameters": asdict(parameters), "windows": windows}
    save(results, "simulate", {**record, "check": compared})


def _comparison(compared: list[dict[str, Any]]) -> Table:
    table = Table(title="Predicted gathers, warm, and real ones")
    heads = (
        "workers",
        "block",
        "lands",
        "measured s",
        "predicted s",
        "ratio",
        "with cores left",
        "core seconds",
        "limit",
    )
    for head in heads:
        table.add_column(head)
    for row in compared:
        ratios = [row["ratio"], row["ratio_of_cores_left"], row["ratio_of_core_s"]]
        table.add_row(
            *(str(row["workers"]), str(row["block"]), "yes" if row["landing"] else "no"),
            f"{median(run['seconds'] for run in row['runs']):.2f}",
            f"{row['predicted_s']:.2f}",
            *(f"{ratio:.2f}" + ("" if 1 / _WANTED <= ratio <= _WANTED else " !") for ratio in ratios),
            row["limit"],
        )
    return table


@main.command()
@click.option("--write", is_flag=True, help="Put the tables in docs/cluster.md.")
@results_option
def page(write: bool, results: Path) -> None:
    """Print the tables of docs/cluster.md."""
    parts = page_parts(results)
    click.echo("\n\n".join(parts.values()))
    if write:
        PAGE.write_text(
            _MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{parts[found[1]]}\n<!-- /{found[1]} -->", PAGE.read_text())
        )


_MARKED = re.compile(r"<!-- (\w+) -->\n(.*?)\n?<!-- /\1 -->", re.DOTALL)


def page_parts(results: Path = Path(__file__).parent / "results") -> dict[str, str]:
    """What the page should say of what was measured last, by the names of its parts."""
    record = json.loads((results / "simulate.json").read_text())
    parameters = from_record(record["parameters"])
    return {
        "predicted": tables(parameters),
        "measured": _measured(parameters, record["machine"]),
        "checked": _checked(record["check"]),
    }


def parts_in(text: str) -> dict[str, str]:
    """What the page says."""
    return {found[1]: found[2] for found in _MARKED.finditer(text)}


def _measured(parameters: Parameters, machine: dict[str, Any]) -> str:
    bulk, landing = parameters.bulk_costs, parameters.landing_costs
    rows = [
        ("a task of one graph: scheduler", f"{(bulk.begin_s + bulk.finish_s) * 1e3:.2f} ms"),
        ("of it before any task begins", f"{bulk.begin_s * 1e3:.2f} ms"),
        ("a task of one graph: worker", f"{bulk.worker_s * 1e3:.2f} ms"),
        ("a task whose result is landed: scheduler", f"{(landing.begin_s + landing.finish_s) * 1e3:.2f} ms"),
        ("a task whose result is landed: client", f"{landing.client_s * 1e3:.2f} ms"),
        ("a task whose result is landed: worker", f"{landing.worker_s * 1e3:.2f} ms"),
        ("a message, one way", f"{landing.hop_s * 1e3:.2f} ms"),
        ("a gather of many windows, beside its task", f"{parameters.gather_s * 1e3:.2f} ms"),
        ("a request, from the page cache", f"{parameters.request_s * 1e6:.0f} µs"),
        ("bytes read, checked and placed, on one core", f"{1e-9 / parameters.read_byte_s:.2f} GB/s"),
        ("cores that one gather keeps busy", f"{parameters.gather_cores:.2f}"),
        ("a result sent, on one core of the worker", f"{1e-9 / parameters.send_byte_s:.2f} GB/s"),
        ("a result received, on one core of the client", f"{1e-9 / parameters.receive_byte_s:.2f} GB/s"),
        ("a result put in its place", f"{1e-9 / parameters.place_byte_s:.2f} GB/s"),
        ("an ingest, raw, on one core", f"{1e-9 / parameters.ingest_byte_s:.2f} GB/s"),
    ]
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, distributed {machine['distributed']}"
    )
    lines = [(f"measured ({where})", "figure"), ("---", "---"), *rows]
    return "\n".join(f"| {what} | {figure} |" for what, figure in lines)


def _checked(compared: list[dict[str, Any]]) -> str:
    heads = [
        "workers",
        "windows a block",
        "lands",
        "measured s",
        "predicted s",
        "ratio",
        "with the cores that others left",
    ]
    rows = [
        [
            *(str(row["workers"]), str(row["block"]), "yes" if row["landing"] else "no"),
            f"{median(run['seconds'] for run in row['runs']):.2f}",
            *(f"{row[name]:.2f}" for name in ("predicted_s", "ratio", "ratio_of_cores_left")),
        ]
        for row in compared
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *rows])


if __name__ == "__main__":
    main()
