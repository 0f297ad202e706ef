"""Which ratios are wanted of the main table, and were they met?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

Rates = Mapping[tuple[str, bool], Sequence[float]]
"""GB/s, or whatever is more where it is better, of each run, by the label of the way and whether its data were cold."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A ratio: the median rate of the best of ``ours`` by that of the best of ``theirs``."""

    name: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    cold: float | None
    warm: float | None


WANTED = (
    Wanted("bare preadv", ("swath gather, verify never",), ("bare preadv",), cold=0.9, warm=0.9),
    Wanted("fio", ("swath gather",), ("fio, 256 KiB direct, queue 32",), cold=0.9, warm=None),
    Wanted(
        "numpy.memmap", ("swath gather",), ("numpy.memmap loop", "numpy.memmap loop, MADV_RANDOM"), cold=4.0, warm=0.9
    ),
    Wanted("h5py", ("swath gather",), ("h5py loop, contiguous", "h5py loop, chunks of a window"), cold=6.0, warm=3.0),
    Wanted(
        "tensorstore",
        ("swath gather",),
        (
            "tensorstore, 64 futures",
            "tensorstore, 64 futures, direct I/O",
            "tensorstore, one Batch",
            "tensorstore, index array",
        ),
        cold=2.0,
        warm=3.0,
    ),
    Wanted(
        "zarr-python",
        ("swath gather",),
        (
            "zarr-python loop",
            "zarr-python oindex",
            "zarr-python loop, fused pipeline",
            "zarr-python oindex, fused pipeline",
        ),
        cold=12.0,
        warm=25.0,
    ),
    Wanted(
        "blosc2, raw",
        ("swath gather",),
        ("blosc2 loop, raw", "blosc2 loop, mapped, raw", "blosc2, index array, raw"),
        cold=2.0,
        warm=1.5,
    ),
    Wanted(
        "blosc2, lz4",
        ("swath gather, lz4",),
        ("blosc2 loop, lz4", "blosc2 loop, mapped, lz4", "blosc2, index array, lz4"),
        cold=2.0,
        warm=1.5,
    ),
)


def judge(rates: Rates, wanted: Sequence[Wanted] = WANTED) -> list[dict[str, Any]]:
    """Each figure as measured; those of which a way was not measured are left out."""
    figures = []
    for want in wanted:
        for cold, least in ((True, want.cold), (False, want.warm)):
            ours, theirs = _best(rates, want.ours, cold), _best(rates, want.theirs, cold)
            if least is not None and ours and theirs:
                ratio = ours[0] / theirs[0]
                figure = {"against": want.name, "cold": cold, "ours": ours[1], "best": theirs[1]}
                figures.append({**figure, "ratio": ratio, "wanted": least, "met": ratio >= least})
    return figures


def _best(rates: Rates, ways: Sequence[str], cold: bool) -> tuple[float, str] | None:
    """The highest median, and whose it is; None where none was measured."""
    return max(((median(rates[way, cold]), way) for way in ways if (way, cold) in rates), default=None)


def wanted_table(figures: list[dict[str, Any]], title: str = "What is wanted, against the best way of each") -> Table:
    """The figures, each with its verdict."""
    table = Table(title=title)
    for name in ("against", "data", "swath's way", "their best way", "ratio", "wanted", ""):
        table.add_column(name, justify="right" if name in ("ratio", "wanted") else "left")
    for figure in figures:
        table.add_row(
            figure["against"],
            "cold" if figure["cold"] else "warm",
            figure["ours"],
            figure["best"],
            f"{figure['ratio']:.2f}x",
            f"{figure['wanted']:g}x",
            "met" if figure["met"] else "missed",
        )
    return table
