"""How are windows drawn into axes of matplotlib, by the shape of their rows?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
"""Of Okabe and Ito: colour-blind eyes tell them apart."""

MOST_TILES = 8
"""Of more windows, or pictures side by side, each is too small."""

# More lines than colours are not told apart; of more columns a screen has no points.
_MOST_LINES = len(COLOURS)
_MOST_COLUMNS = 512


def draw_windows(axes: Axes, values: NDArray[Any], names: list[str]) -> None:
    """Draw (n, window, *row_shape) numbers, each window under its name."""
    row = values.shape[2:]
    if row == ():
        _draw_series(axes, values, names)
    elif len(row) == 1 and row[0] <= _MOST_LINES:
        _draw_columns(axes, values, names)
    elif len(row) == 1:
        _draw_heat(axes, values, names)
    else:
        _draw_pictures(axes, values, names)


def _draw_series(axes: Axes, values: NDArray[Any], names: list[str]) -> None:
    for series, name, colour in zip(values, names, COLOURS):
        axes.plot(np.arange(values.shape[1]), series, color=colour, label=name, linewidth=1.2)
    axes.set(xlabel="row of the window", ylabel="value")
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_columns(axes: Axes, values: NDArray[Any], names: list[str]) -> None:
    n, window, n_columns = values.shape
    for column in range(n_columns):
        # A gap between windows: what follows one in the picture does not follow it in the array.
        gapped = np.full((n, window + 1), np.nan)
        gapped[:, :-1] = values[:, :, column]
        axes.plot(_at(n, window), gapped.ravel(), color=COLOURS[column], label=f"column {column}", linewidth=1.2)
    axes.set(ylabel="value")
    _name_windows(axes, n, window, names)
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _at(n: int, window: int) -> NDArray[np.float64]:
    """Where the rows of windows stand that follow one another, and the gap behind each."""
    at = np.arange(n * window, dtype=np.float64).reshape(n, window)
    return np.concatenate([at, at[:, -1:] + 0.5], axis=1).ravel()


def _draw_heat(axes: Axes, values: NDArray[Any], names: list[str]) -> None:
    n, window, n_columns = values.shape
    step = -(-n_columns // _MOST_COLUMNS)
    image = values.reshape(n * window, n_columns)[:, ::step].T
    drawn = axes.imshow(
        image,
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        extent=(-0.5, n * window - 0.5, n_columns - 0.5, -0.5),
    )
    axes.set(ylabel="column" if step == 1 else f"column (each {step}th)")
    _name_windows(axes, n, window, names)
    axes.figure.colorbar(drawn, ax=axes, label="value", pad=0.02)


def _name_windows(axes: Axes, n: int, window: int, names: list[str]) -> None:
    for k in range(1, n):
        axes.axvline(k * window - 0.5, color="white", linewidth=3)
        axes.axvline(k * window - 0.5, color="black", linewidth=0.6)
    axes.set_xlim(-0.5, n * window - 0.5)
    axes.set_xticks([k * window + (window - 1) / 2 for k in range(n)], names, rotation=20 if n > 4 else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(f"windows of {window:,} rows, one after another")


def _draw_pictures(axes: Axes, values: NDArray[Any], names: list[str]) -> None:
    n, window, height, width = values.shape[:4]
    shown = min(window, MOST_TILES)
    chosen = np.linspace(0, window - 1, shown).astype(int)
    is_colour = values.ndim == 5
    gap_y, gap_x = max(1, height // 20), max(1, width // 20)
    canvas = np.full((n * (height + gap_y) - gap_y, shown * (width + gap_x) - gap_x, *values.shape[4:]), np.nan)
    for i in range(n):
        for j, row in enumerate(chosen.tolist()):
            y, x = i * (height + gap_y), j * (width + gap_x)
            canvas[y : y + height, x : x + width] = values[i, row]
    if is_colour:
        most = 255.0 if values.dtype == np.uint8 else float(np.nanmax(np.abs(canvas))) or 1.0
        axes.imshow(np.nan_to_num(np.clip(canvas / most, 0, 1), nan=1.0), interpolation="nearest")
    else:
        is_bytes = values.dtype == np.uint8
        drawn = axes.imshow(canvas, cmap="gray" if is_bytes else "cividis", interpolation="nearest")
        if is_bytes and values.max() > 1:
            drawn.set_clim(0, 255)
        axes.figure.colorbar(drawn, ax=axes, label="value", pad=0.02)
    axes.set_xticks([j * (width + gap_x) + (width - 1) / 2 for j in range(shown)], chosen.tolist())
    axes.set_yticks([i * (height + gap_y) + (height - 1) / 2 for i in range(n)], names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="row of the window")
