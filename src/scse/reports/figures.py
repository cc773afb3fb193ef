"""The printed figure of a study (the paper's box plots), and the colours of all figures."""

import re
import textwrap

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scse.evaluation.setups import of_setup, setups
from scse.support.errors import UserError
from scse.support.figure_files import PLAIN_TEXT
from scse.vocabulary.titles import Setup, variant_name

# Okabe and Ito's palette for colour-blind readers; the plain network is grey, and PE, which came later, a darker purple
COLORS = {"none": "#8a8a8a", "cse": "#e69f00", "sse": "#56b4e9", "scse": "#009e73", "pe": "#7b3fa0"}
SPARE_COLORS = ("#cc79a7", "#d55e00", "#0072b2", "#b8a800", "#882255", "#44aa99", "#999933", "#332288")

DRAWN = "Boxes: quartiles and median. Whiskers: up to 1.5 interquartile ranges. Points: test cases (means over seeds)."


@rc_context(PLAIN_TEXT)
def box_plots(scores: pd.DataFrame, setup: Setup, *, note: str = "") -> Figure:
    """Draw the paper's figure: Dice per structure, one box per variant, one point per test case.

    Args:
        scores: Tidy table of scores; seeds are averaged.
        setup: Setup to draw.
        note: Addition to the title, such as "simulated data".

    Raises:
        UserError: The table has no Dice of the setup.
    """
    dice = dice_per_case(scores, setup)
    structures, colors = list(dice["structure"].unique()), variant_colors(dice)
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
    figure.supxlabel(textwrap.fill(DRAWN, int(13 * figure.get_figwidth())), fontsize="small")
    # names of networks of other libraries include their options, so long titles are wrapped
    heading = re.sub(r",(?=\S)", ", ", title(setup, note))
    axes.set_title("\n".join(textwrap.wrap(heading, int(9 * figure.get_figwidth()))))
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    handles = [Patch(facecolor=c, edgecolor="black", linewidth=0.6, label=variant_name(v)) for v, c in colors.items()]
    # in one row if they fit; the legend lies inside the axes and must not shrink them
    columns = len(handles) if 0.1 * sum(len(variant_name(v)) + 6 for v in colors) < figure.get_figwidth() else 1
    axes.legend(handles=handles, ncols=columns, loc="lower right", framealpha=0.9).set_in_layout(False)
    return figure


def dice_per_case(scores: pd.DataFrame, setup: Setup) -> pd.DataFrame:
    """Dice of one setup by variant, fold, case and structure. Seeds are averaged, and NaN is ignored."""
    rows = of_setup(scores[scores["metric"] == "dice"], setup)
    if rows.empty:
        found = ", ".join(each.text for each in setups(scores))
        raise UserError(f"there are no Dice scores of the network {setup.text!r}; choose one of {found}")
    keys = ["variant", "fold", "case", "structure"]
    return rows.groupby(keys, sort=False, dropna=False)["value"].mean().dropna().reset_index()


def variant_colors(table: pd.DataFrame) -> dict[str, str]:
    """Colour of each variant, in order of occurrence."""
    variants = list(table["variant"].unique())
    spare = iter(SPARE_COLORS * len(variants))
    return {variant: COLORS.get(variant) or next(spare) for variant in variants}


def title(setup: Setup, note: str) -> str:
    """The title of the figure of a setup."""
    return f"{setup.name}, {note}" if note else setup.name
