"""What the benchmarks share: options, and how results are kept."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Where to work; nothing is left there.",
)
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(__file__).parent / "results",
    help="Where JSON and plots go; by default benchmarks/results.",
)
rounds_option = click.option("--rounds", default=5, show_default=True, help="Runs of each way, interleaved.")


def save(results: Path, name: str, record: dict[str, Any], figure: "Figure | None" = None) -> None:
    """Write ``NAME.json``, and ``NAME.png`` if there is a plot."""
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    if figure is not None:
        figure.savefig(results / f"{name}.png", dpi=150, bbox_inches="tight")


def plain_log(ax: "Axes", *names: Literal["x", "y"]) -> None:
    """Logarithmic axes with their ticks as people write numbers: 0.5, 1, 2, 5, 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    for name in names:
        ax.set(**{f"{name}scale": "log"})
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.minorticks_off()
    ax.grid(visible=True, alpha=0.25)
