"""The figures of a study: the paper's box plots, printed and interactive, and learning curves."""

import io
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scse.atomic import write_atomic
from scse.evaluation.comparison import network_name, variant_name

# Okabe and Ito's palette, made for colour-blind readers; the plain network is grey
COLORS = {"none": "#8a8a8a", "cse": "#e69f00", "sse": "#56b4e9", "scse": "#009e73"}
SPARE_COLORS = ("#cc79a7", "#d55e00", "#0072b2", "#f0e442")
LONGEST_NAME = 32


def box_plots(scores: pd.DataFrame, network: str, *, note: str = "") -> Figure:
    """Draw the paper's figure: Dice per structure, one box per variant, one point per test case.

    Args:
        scores: the tidy table; seeds are averaged.
        network: whose scores to draw.
        note: added to the title, such as "simulated data".
    """
    dice = _dice(scores, network)
    structures, colors = list(dice["structure"].unique()), _colors(dice)
    figure = Figure(figsize=(max(6.0, 2.0 + 0.5 * len(structures)), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(colors)
    jitter = np.random.default_rng(0)
    for i, (variant, color) in enumerate(colors.items()):
        groups = dice[dice["variant"] == variant].groupby("structure")["value"]
        places = np.arange(len(structures)) + (i - (len(colors) - 1) / 2) * width
        values = [groups.get_group(s).to_numpy() if s in groups.groups else np.array([]) for s in structures]
        axes.boxplot(
            values,
            positions=places,
            widths=0.85 * width,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": color, "alpha": 0.55, "linewidth": 0.6},
            medianprops={"color": "black", "linewidth": 1.2},
            whiskerprops={"linewidth": 0.6},
            capprops={"linewidth": 0.6},
        )
        x = np.repeat(places, [len(v) for v in values])
        x = x + jitter.uniform(-0.2, 0.2, len(x)) * width
        axes.scatter(x, np.concatenate(values), s=3, color=color, edgecolors="black", linewidths=0.2, zorder=3)
    axes.set_xticks(range(len(structures)), structures, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(structures) - 0.4)
    axes.set_ylabel("Dice")
    # networks of other libraries have names as long as their options
    title = re.sub(r",(?=\S)", ", ", _title(network, note))
    axes.set_title("\n".join(textwrap.wrap(title, int(9 * figure.get_figwidth()))))
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    handles = [Patch(facecolor=c, edgecolor="black", linewidth=0.6, label=variant_name(v)) for v, c in colors.items()]
    axes.legend(handles=handles, ncols=len(handles), loc="lower right", framealpha=0.9)
    return figure


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as `stem`.png (150 dpi) and `stem`.pdf; returns both paths."""
    paths = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    for path, metadata in zip(paths, ({}, {"CreationDate": None}), strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], dpi=150, metadata=metadata)
        write_atomic(path, buffer.getvalue())
    return paths


def box_plots_interactive(scores: pd.DataFrame, network: str, *, note: str = "") -> go.Figure:
    """Draw the figure of `box_plots` for a web page; hovering over a point names its case."""
    dice = _dice(scores, network)
    figure = go.Figure()
    for variant, color in _colors(dice).items():
        rows = dice[dice["variant"] == variant]
        figure.add_box(
            x=rows["structure"].tolist(),
            y=rows["value"].tolist(),
            text=rows["case"].astype(str).tolist(),
            name=variant_name(variant),
            boxpoints="all",
            pointpos=0,
            jitter=0.5,
            line={"width": 1},
            marker={"color": color, "size": 3, "opacity": 0.8},
            hovertemplate="%{x}<br>%{text}: %{y:.3f}",
        )
    figure.update_layout(**_style(_short_title(network, note)), boxmode="group", boxgap=0.2, boxgroupgap=0.05)
    figure.update_xaxes(tickangle=-55, showgrid=False, automargin=True)
    figure.update_yaxes(title="Dice", automargin=True)
    return figure


def learning_curves(curves: pd.DataFrame, network: str, *, note: str = "") -> go.Figure:
    """Draw Dice on held-out cases against wall-clock, one line per run, coloured by variant.

    Args:
        curves: table with the columns network, variant, seed, fold, epoch, seconds, loss, dice.
        network: whose curves to draw.
        note: added to the title, such as "simulated data".
    """
    curves = curves[curves["network"] == network]
    colors, figure, shown = _colors(curves), go.Figure(), set()
    for key, run in curves.groupby(["variant", "seed", "fold"], sort=False, dropna=False):
        variant, seed, fold = map(str, key)
        figure.add_scatter(
            x=(run["seconds"] / 60).tolist(),
            y=run["dice"].tolist(),
            customdata=run["epoch"].tolist(),
            mode="lines+markers",
            name=variant_name(variant),
            legendgroup=variant,
            showlegend=variant not in shown,
            line={"color": colors[variant], "width": 2},
            marker={"size": 5},
            hovertemplate=f"seed {seed}, fold {fold}, epoch %{{customdata}}<br>%{{x:.1f}} min: %{{y:.3f}}",
        )
        shown.add(variant)
    figure.update_layout(**_style(_short_title(network, note)))
    figure.update_xaxes(title="minutes of training", rangemode="tozero", automargin=True)
    figure.update_yaxes(title="Dice on held-out cases", automargin=True)
    return figure


def _dice(scores: pd.DataFrame, network: str) -> pd.DataFrame:
    rows = scores[(scores["network"] == network) & (scores["metric"] == "dice")]
    if rows.empty:
        found = ", ".join(map(str, scores["network"].unique()))
        raise ValueError(f"no Dice scores of network {network!r}; the scores hold the networks {found}")
    keys = ["variant", "fold", "case", "structure"]
    return rows.groupby(keys, sort=False, dropna=False)["value"].mean().dropna().reset_index()


def _colors(table: pd.DataFrame) -> dict[str, str]:
    """Variants in the order in which they occur, each with its colour."""
    variants = list(table["variant"].unique())
    spare = iter(SPARE_COLORS * len(variants))
    return {variant: COLORS.get(variant) or next(spare) for variant in variants}


def _title(network: str, note: str) -> str:
    return f"{network_name(network)}, {note}" if note else network_name(network)


def _short_title(network: str, note: str) -> str:
    """For the page, which is narrow on some screens and has all of the name in the caption."""
    name = network_name(network)
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return f"{short}, {note}" if note else short


def _style(title: str) -> dict[str, object]:
    """Transparent, so that the page's own background (dark or light) shows."""
    return {
        "title": {"text": title, "x": 0.01, "xanchor": "left"},
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 60, "r": 10, "t": 80, "b": 60},
        "height": 520,
    }
