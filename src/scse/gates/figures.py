"""Figures of gates: spatial gates over slices of an image, and channel gates of each block."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scse.support.figure_files import PLAIN_TEXT

COLORS = "viridis"
"""Colour map with increasing brightness, suitable for colour-blind readers and greyscale printing."""

OPACITY = 0.6
"""Opacity of the colours of a gate over the image."""

OPEN_COLOR, SHUT_COLOR = "#0072b2", "#d55e00"
PANELS_PER_ROW = 4
LEAST_RANGE = 0.01
"""Least range of the colours, which avoids amplifying noise of almost constant gates."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Background image for gates: slices side by side, or one picture.

    Attributes:
        image: Grey values (rows, columns).
        slices: Indices of the slices of a volume, from left to right; () for a picture.
        labels: Axis labels of columns and rows.
        aspect: Height of a pixel divided by its width.
    """

    image: NDArray[np.float32]
    slices: tuple[int, ...]
    labels: tuple[str, str]
    aspect: float

    @property
    def grey(self) -> NDArray[np.float32]:
        """The image scaled to 0 to 1, with the darkest and brightest 0.5 % clipped."""
        low, high = np.percentile(self.image, (0.5, 99.5))
        grey: NDArray[np.float32] = np.clip((self.image - low) / (high - low or 1.0), 0, 1)
        return grey


def color_range(gate: NDArray[np.float32]) -> tuple[float, float]:
    """The gates shown in the first and last colour: the 0.5th and 99.5th percentile, at least LEAST_RANGE apart."""
    low, high = (float(value) for value in np.percentile(gate, (0.5, 99.5)))
    if high - low >= LEAST_RANGE:
        return low, high
    middle = min(max((low + high) / 2, LEAST_RANGE / 2), 1 - LEAST_RANGE / 2)
    return middle - LEAST_RANGE / 2, middle + LEAST_RANGE / 2


def overlay(sheet: Sheet, gate: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with the colours of a gate over it: (rows, columns, 3)."""
    low, high = color_range(gate)
    colors = matplotlib.colormaps[COLORS](np.clip((gate - low) / (high - low), 0, 1))[..., :3]
    blended = OPACITY * colors + (1 - OPACITY) * sheet.grey[..., None]
    pixels: NDArray[np.uint8] = np.rint(255 * blended).astype(np.uint8)
    return pixels


@rc_context(PLAIN_TEXT)
def spatial_figure(sheet: Sheet, gates: Mapping[str, NDArray[np.float32]], *, title: str) -> Figure:
    """Draw the image, followed by a panel for each block with its spatial gate over the image.

    Args:
        sheet: Background image.
        gates: Gate (rows, columns) of each block on the sheet, by block name. Each gate has its own colour range.
        title: Title of the figure.
    """
    wide = 1 if sheet.slices else min(PANELS_PER_ROW, len(gates) + 1)
    rows, columns = sheet.image.shape
    width = 11.0 / wide - 1.0
    size = (11.0, 0.8 + -(-(len(gates) + 1) // wide) * (0.5 + width * sheet.aspect * rows / columns))
    figure, panels = _panels(len(gates) + 1, wide, size, title)
    _show(panels[0], sheet, sheet.grey, cmap="gray")
    panels[0].set_title("image", fontsize=9, loc="left")
    for axes, (name, gate) in zip(panels[1:], gates.items(), strict=True):
        low, high = color_range(gate)
        _show(axes, sheet, overlay(sheet, gate))
        axes.set_title(name, fontsize=9, loc="left")
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), COLORS)
        bar = figure.colorbar(scale, ax=axes, alpha=OPACITY, extend="both", pad=0.01, aspect=12)
        bar.set_label("gate", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


@rc_context(PLAIN_TEXT)
def channel_figure(channels: pd.DataFrame, *, title: str) -> Figure:
    """Draw the channel gates of each block, sorted by their mean, with their range over the slices.

    Args:
        channels: Table with one row for each channel and the columns block, mean, min, max, change and shut.
        title: Title of the figure.
    """
    blocks = list(channels.groupby("block", sort=False))
    wide = min(PANELS_PER_ROW, len(blocks))
    size = (max(4.5, 2.8 * wide), 1.3 + 2.2 * -(-len(blocks) // wide))
    figure, panels = _panels(len(blocks), wide, size, title)
    for axes, (name, block) in zip(panels, blocks, strict=True):
        table = block.sort_values("mean", ignore_index=True)
        rank = np.arange(1, len(table) + 1)
        axes.fill_between(rank, table["min"], table["max"], color=OPEN_COLOR, alpha=0.25, linewidth=0, step="mid")
        for shut, color, marker in ((False, OPEN_COLOR, "o"), (True, SHUT_COLOR, "x")):
            axes.scatter(rank[table["shut"] == shut], table["mean"][table["shut"] == shut], s=9, c=color, marker=marker)
        identity = float((table["mean"] - table["change"]).iloc[0])
        if np.isfinite(identity):
            axes.axhline(identity, color="black", linestyle="--", linewidth=0.8)
        axes.set_title(f"{name}: {int(table['shut'].sum())} of {len(table)} shut", fontsize=9)
        axes.set_ylim(-0.03, max(1.03, 1.03 * float(table["max"].max())))
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("channels, sorted by mean gate", fontsize=8)
        axes.set_ylabel("gate", fontsize=8)
    handles = [
        Line2D([], [], color=OPEN_COLOR, marker="o", linestyle="", markersize=4, label="mean over slices"),
        Patch(color=OPEN_COLOR, alpha=0.25, linewidth=0, label="range over slices"),
        Line2D([], [], color=SHUT_COLOR, marker="x", linestyle="", markersize=4, label="shut"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="identity"),
    ]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", fontsize=8, frameon=False)
    return figure


def _panels(count: int, wide: int, size: tuple[float, float], title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-count // wide), wide, squeeze=False).ravel()
    for unused in grid[count:]:
        unused.remove()
    figure.suptitle(textwrap.fill(title, int(12 * size[0])), fontsize=10)
    return figure, list(grid[:count])


def _show(axes: Axes, sheet: Sheet, pixels: NDArray[np.generic], *, cmap: str | None = None) -> None:
    axes.imshow(pixels, cmap=cmap, aspect=sheet.aspect, interpolation="nearest")
    columns, rows = sheet.labels
    axes.set_xlabel(columns, fontsize=8)
    axes.set_ylabel(rows, fontsize=8)
    axes.tick_params(labelsize=7)
    if sheet.slices:
        width = sheet.image.shape[1] / len(sheet.slices)
        for number in range(1, len(sheet.slices)):
            axes.axvline(number * width - 0.5, color="white", linewidth=2)
        places = [(number + 0.5) * width - 0.5 for number in range(len(sheet.slices))]
        axes.set_xticks(places, [str(index) for index in sheet.slices])
        axes.set_yticks([])
