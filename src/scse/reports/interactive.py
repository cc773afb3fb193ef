"""Figures of the report, drawn by plotly in the browser."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from scse.evaluation.comparison import ALL, Comparison
from scse.evaluation.setups import of_setup, per_setup, setup_of
from scse.evaluation.verdict import effect_text
from scse.gates.computing import SHUT
from scse.reports.figures import COLORS, SPARE_COLORS, dice_per_case, variant_colors
from scse.support.text import counted
from scse.vocabulary.titles import Setup, network_name, variant_name
from scse.vocabulary.variants import OPTIONS, Variant

LONGEST_NAME = 32
DIVERGING = "RdBu"
"""Colour scale from red to blue through white, suitable for colour-blind readers."""

PANELS_PER_ROW = 4

ROW, ABOVE, BELOW = 34, 8, 48
"""Heights in pixels in the figure of trainings: of one variant, and of the space above and below all variants."""

GREY = "#808080"
"""Colour of marks that belong to no variant, visible on light and dark backgrounds."""

DASHES = ("solid", "dot", "dash", "dashdot")

SWEPT = {
    "epochs": "epochs",
    "train_cases": "training cases",
    "reduction": "reduction r",
    "aggregation": "aggregation",
    "placement": "placement",
}


def box_plots_interactive(scores: pd.DataFrame, setup: Setup, *, note: str = "") -> go.Figure:
    """Draw the paper's figure, see `box_plots`. Hovering over a point shows its case."""
    dice = dice_per_case(scores, setup)
    figure = go.Figure()
    for variant, color in variant_colors(dice).items():
        rows = dice[dice["variant"] == variant]
        figure.add_box(
            x=rows["structure"].tolist(),
            y=rows["value"].round(4).tolist(),
            text=rows["case"].astype(str).tolist(),
            name=variant_name(variant),
            boxpoints="all",
            pointpos=0,
            jitter=0.5,
            line={"width": 1},
            marker={"color": color, "size": 3, "opacity": 0.8},
            hovertemplate="%{x}<br>%{text}: %{y:.3f}",
        )
    figure.update_layout(**_style(_short_title(setup, note)), boxmode="group", boxgap=0.2, boxgroupgap=0.05)
    figure.update_xaxes(tickangle=-55, showgrid=False, automargin=True)
    figure.update_yaxes(title="Dice", automargin=True)
    return figure


def learning_curves(curves: pd.DataFrame, setup: Setup, *, note: str = "") -> go.Figure:
    """Draw Dice on held-out cases, one line per run, coloured by variant.

    `meta` of each line has the values of both horizontal axes: "minutes", which is drawn at first, and "epochs".

    Args:
        curves: Table with the columns network, variant, seed, fold, epoch, seconds, loss, dice.
        setup: Setup to draw.
        note: Addition to the title, such as "simulated data".
    """
    curves = of_setup(curves, setup)
    colors, figure, shown = variant_colors(curves), go.Figure(), set()
    dashes = dict(zip(colors, DASHES * len(colors), strict=False))  # distinguish variants without colour
    for key, run in curves.groupby(["variant", "seed", "fold"], sort=False, dropna=False):
        variant, seed, fold = map(str, key)
        minutes = (run["seconds"] / 60).round(3).tolist()
        figure.add_scatter(
            x=minutes,
            y=run["dice"].round(4).tolist(),
            meta={"minutes": minutes, "epochs": run["epoch"].tolist()},
            customdata=[
                f"seed {seed}, fold {fold}, epoch {epoch}, {minute:.1f} min"
                for epoch, minute in zip(run["epoch"], minutes, strict=True)
            ],
            mode="lines+markers",
            name=variant_name(variant),
            legendgroup=variant,
            showlegend=variant not in shown,
            line={"color": colors[variant], "width": 2, "dash": dashes[variant]},
            marker={"size": 5},
            hovertemplate="%{customdata}: %{y:.3f}",
        )
        shown.add(variant)
    figure.update_layout(**_style(_short_title(setup, note)))
    figure.update_xaxes(title="minutes of training", rangemode="tozero", automargin=True)
    figure.update_yaxes(title="Dice on held-out cases", automargin=True)
    return figure


def trainings(comparison: Comparison, setup: Setup) -> go.Figure:
    """Draw the differences behind the verdict: one row per variant with a dot per training, the mean and its interval.

    A dot is the mean difference to the baseline over all cases of one seed. The margin is a band around 0. Dotted lines
    mark the average difference of two trainings of the baseline. All setups have the same scale.
    """
    tests = of_setup(comparison.tests[comparison.tests["structure"] == ALL], setup)
    seeds = of_setup(comparison.seeds, setup).dropna(subset=["difference"])
    colors, figure = variant_colors(tests), go.Figure()
    for place, test in enumerate(tests.to_dict("records")):
        color, name = colors[test["variant"]], variant_name(test["variant"])
        rows = seeds[seeds["variant"] == test["variant"]]
        figure.add_scatter(
            x=rows["difference"].round(5).tolist(),
            y=[place + 0.24] * len(rows),
            text=[f"{name}, seed {seed}" for seed in rows["seed"]],
            mode="markers",
            marker={"size": 8, "color": color, "opacity": 0.8, "line": {"width": 1, "color": GREY}},
            name=f"{name}, each training",
            hovertemplate="%{text}: %{x:+.4f}<extra></extra>",
        )
        middle = pd.Series([test["difference"]]).dropna()
        figure.add_scatter(
            x=middle.round(5).tolist(),
            y=[place - 0.14] * len(middle),
            error_x=_interval(middle, test["low"], test["high"], thickness=4, width=0, color=color),
            text=[f"{name}, mean: {_difference_text(test)}" for _ in middle],
            mode="markers",
            marker={"size": 12, "color": color, "symbol": "diamond", "line": {"width": 1, "color": GREY}},
            name=f"{name}, mean",
            hovertemplate="%{text}<extra></extra>",
        )
    _mark_sizes(figure, comparison, setup)
    height = ABOVE + ROW * len(tests) + BELOW
    figure.update_layout(
        **{**_style(""), "height": height, "margin": {"l": 10, "r": 10, "t": ABOVE, "b": BELOW}},
        showlegend=False,
        dragmode=False,  # touch gestures scroll the page
    )
    reach = _reach(comparison)
    figure.update_xaxes(
        range=[-reach, reach], tickformat="~f", tickangle=0, zeroline=True, zerolinewidth=2, fixedrange=True
    )
    figure.update_yaxes(
        range=[len(tests) - 0.5, -0.5],
        tickvals=list(range(len(tests))),
        ticktext=["\n".join(textwrap.wrap(variant_name(v), 18)) for v in tests["variant"]],
        automargin=True,
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    return figure


def _mark_sizes(figure: go.Figure, comparison: Comparison, setup: Setup) -> None:
    """Mark the margin, the difference between trainings of the baseline, and the better and worse side."""
    margin, noise = comparison.margin, of_setup(comparison.noise, setup)
    if margin is not None:
        figure.add_vrect(x0=-margin, x1=margin, fillcolor=GREY, opacity=0.22, line_width=0, layer="below")
    for apart in noise["apart"]:
        for x in (-apart, apart):
            figure.add_vline(x=x, line={"width": 1.5, "dash": "dot", "color": GREY})
    sides = ("better", "worse") if comparison.lower_is_better else ("worse", "better")
    for x, anchor, text in ((0, "left", f"← {sides[0]}"), (1, "right", f"{sides[1]} →")):
        figure.add_annotation(
            text=text, showarrow=False, font={"size": 12}, x=x, xanchor=anchor, y=0, yanchor="top", yshift=-24,
            xref="paper", yref="paper",
        )  # fmt: skip


def _reach(comparison: Comparison) -> float:
    """The limit of the horizontal axis of all figures of trainings: the largest difference plus 8 %."""
    tests = comparison.tests[comparison.tests["structure"] == ALL]
    shown = [tests[["difference", "low", "high"]], comparison.seeds[["difference"]], comparison.noise[["apart"]]]
    sizes = [values.abs().max().max() for values in shown]
    return 1.08 * float(np.nanmax([*sizes, comparison.margin or 0.0])) or 1.0


def _interval(
    middle: pd.Series,
    low: pd.Series | float,
    high: pd.Series | float,
    *,
    thickness: float,
    width: int,
    color: str | None = None,
) -> dict[str, Any]:
    """Error bars of points; points without an interval have none."""
    above, below = (high - middle).round(5), (middle - low).round(5)
    bars = {"type": "data", "symmetric": False, "thickness": thickness, "width": width, "color": color}
    return {**bars, "array": _without_nan(above), "arrayminus": _without_nan(below)}


def _without_nan(values: pd.Series) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _difference_text(test: Mapping[Any, Any]) -> str:
    """Hover text of a difference: effect, interval, and numbers of trainings and cases."""
    effect = " ".join(effect_text(test["difference"], test["low"], test["high"])).rstrip()
    return ", ".join([effect, counted(test["trainings"], "training"), counted(test["n"], "case")])


def differences(comparison: Comparison, setup: Setup, *, note: str = "") -> go.Figure:
    """Draw the mean difference to the baseline with its 95 % interval: one panel per variant, one row per structure.

    Structures are sorted by their mean difference over the variants.
    """
    tests = of_setup(comparison.tests[comparison.tests["structure"] != ALL], setup).dropna(subset=["difference"])
    order = list(tests.groupby("structure")["difference"].mean().sort_values().index)
    variants = list(tests["variant"].unique())
    colors = variant_colors(tests)
    columns = min(len(variants), PANELS_PER_ROW)
    rows = -(-len(variants) // columns)
    style = _style(_short_title(setup, note))
    panel, gap = 24 * len(order) + 40, 70  # pixels; the gap contains an axis and the titles of the next row
    inside = rows * panel + (rows - 1) * gap
    figure = make_subplots(
        rows,
        columns,
        shared_yaxes=True,
        shared_xaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=gap / inside if rows > 1 else 0,
        subplot_titles=[variant_name(v) for v in variants],
    )
    for i, variant in enumerate(variants):
        group = tests[tests["variant"] == variant].set_index("structure").reindex(order).dropna(how="all")
        middle = group["difference"]
        figure.add_scatter(
            row=1 + i // columns,
            col=1 + i % columns,
            x=middle.round(5).tolist(),
            y=group.index.tolist(),
            error_x=_interval(middle, group["low"], group["high"], thickness=1.4, width=0),
            text=[_difference_text(test) for test in group.to_dict("records")],
            mode="markers",
            marker={"color": colors[variant], "size": 7},
            name=variant_name(variant),
            showlegend=False,
            hovertemplate="%{y}<br>%{text}",
        )
    figure.update_layout(**{**style, "height": inside + style["margin"]["t"] + style["margin"]["b"]})
    figure.update_xaxes(zeroline=True, zerolinewidth=2, tickformat="+~f", nticks=5, showticklabels=True)
    # automargin, because the names of structures may be long
    figure.update_yaxes(automargin=True, categoryorder="array", categoryarray=order)
    return figure


def heat_map(comparison: Comparison, *, note: str = "") -> go.Figure:
    """Draw the mean difference to the baseline of all setups: structures x variants, colours symmetric about 0."""
    tests = comparison.tests[comparison.tests["structure"] != ALL]
    groups = list(per_setup(tests))
    structures = list(tests["structure"].unique())
    largest = float(tests["difference"].abs().max())
    figure = make_subplots(
        1,
        len(groups),
        shared_yaxes=True,
        horizontal_spacing=0.015,
        subplot_titles=[_shortened(setup.name) for setup, _ in groups],
    )
    for i, (setup, rows) in enumerate(groups, start=1):
        wide = rows.pivot_table(index="structure", columns="variant", values="difference", sort=False)
        wide = wide.reindex(structures)
        values = wide.round(4).astype(object).where(wide.notna(), None).to_numpy().tolist()
        figure.add_heatmap(
            row=1,
            col=i,
            z=values,
            x=[variant_name(str(v)) for v in wide.columns],
            y=structures,
            coloraxis="coloraxis",
            texttemplate="%{z:+.3f}" if len(groups) * wide.shape[1] <= 12 else None,
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>%{z:+.4f}",
            name=setup.name,
        )
    figure.update_layout(
        **{**_style(note), "height": max(300, 170 + 24 * len(structures))},
        coloraxis={
            "colorscale": DIVERGING,
            "cmin": -largest,
            "cmid": 0,
            "cmax": largest,
            "colorbar": {"title": "Dice", "tickformat": "+~f", "thickness": 12},
        },
    )
    figure.update_xaxes(showgrid=False, side="bottom", tickangle=0)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    return figure


def time_ratios(costs: pd.DataFrame, *, note: str = "") -> go.Figure:
    """Draw the extra time of each variant in percent of the plain network, for a training step and a prediction."""
    rows = costs[costs["variant"] != "none"].dropna(subset=["step_ratio"])
    labels = [f"{_shortened(setup_of(r).name)} {variant_name(r['variant'])}" for r in rows.to_dict("records")]
    figure = go.Figure()
    for column, name, color, symbol in (
        ("step_ratio", "training step", SPARE_COLORS[2], "circle"),
        ("predict_ratio", "predicted case", SPARE_COLORS[1], "diamond"),
    ):
        figure.add_scatter(
            x=(100 * (rows[column] - 1)).round(2).tolist(),
            y=labels,
            mode="markers",
            marker={"size": 10, "color": color, "symbol": symbol},
            name=name,
            hovertemplate="%{y}: %{x:+.1f} %",
        )
    figure.update_layout(**{**_style(note), "height": 150 + 26 * len(labels)})
    figure.update_xaxes(title="extra time in %", rangemode="tozero", zeroline=True, zerolinewidth=2, automargin=True)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def sweeps(comparison: Comparison, *, note: str = "") -> list[tuple[str, go.Figure]]:
    """Draw the difference to the baseline over swept options: one figure per network and option.

    Options are the numbers of setups, and those in names of variants, such as "scse[reduction=4]". Each line is a
    variant with all other options equal; values that are not numbers are drawn as points only. Error bars are the 95 %
    intervals of the mean difference over all structures, if there are enough trainings and cases.

    Returns:
        Pairs (caption, figure) for each option with at least two values; [] if nothing was swept.
    """
    tests = comparison.tests[comparison.tests["structure"] == ALL].dropna(subset=["difference"])
    table = pd.DataFrame([{**row, **_options_of(row)} for row in tests.to_dict("records")])
    found = []
    for network, group in table.groupby("network", sort=False) if len(table) else []:
        varying = [option for option in SWEPT if option in group and group[option].nunique() > 1]
        found += [
            (f"{network_name(str(network))}: difference over {SWEPT[option]}", _sweep(group, option, varying, note))
            for option in varying
        ]
    return found


def _sweep(group: pd.DataFrame, option: str, varying: Sequence[str], note: str) -> go.Figure:
    others = [name for name in varying if name != option]
    figure = go.Figure()
    values = sorted(group[option].dropna().unique(), key=_natural)
    mode = "lines+markers" if all(value.isdecimal() for value in values) else "markers"
    spare = iter(SPARE_COLORS * len(group))
    # options that a variant does not have are ""
    for key, line in group.fillna(dict.fromkeys(others, "")).groupby(["plain_variant", *others], sort=False):
        variant, *rest = map(str, key)
        line = line.dropna(subset=[option]).set_index(option)  # noqa: PLW2901
        line = line.loc[sorted(line.index, key=_natural)]  # noqa: PLW2901
        if len(line) < 2:
            continue
        middle = line["difference"]
        options = ", ".join(f"{SWEPT[name]} {value}" for name, value in zip(others, rest, strict=True) if value)
        figure.add_scatter(
            x=line.index.tolist(),
            y=middle.round(5).tolist(),
            error_y=_interval(middle, line["low"], line["high"], thickness=1.2, width=3),
            mode=mode,
            name=variant_name(variant) + (f", {options}" if options else ""),
            line={"color": next(spare) if others else COLORS.get(variant, SPARE_COLORS[0]), "width": 2},
            marker={"size": 7},
            hovertemplate="%{x}: %{y:+.4f}",
        )
    figure.update_layout(**{**_style(note), "height": 420})
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=values, title=SWEPT[option], automargin=True
    )
    figure.update_yaxes(
        title="mean difference, Dice", zeroline=True, zerolinewidth=2, tickformat="+~f", automargin=True
    )
    return figure


def _options_of(row: Mapping[Any, Any]) -> dict[str, str]:
    """Swept options of a row's setup and in the name of its variant, and the name without them."""
    variant, options = str(row["variant"]), {name: str(number) for name, number in setup_of(row).varied.items()}
    try:
        chosen = Variant.parse(variant)
    except ValueError:  # a variant of another program
        return {"plain_variant": variant, **options}
    options |= {option: str(getattr(chosen, option)) for option in OPTIONS[chosen.kind]}
    return {"plain_variant": chosen.kind, **options}


def _natural(value: str) -> tuple[int, float, str]:
    return (0, float(value), "") if re.fullmatch(r"[\d.]+", value) else (1, 0.0, value)


def gate_strips(gates: pd.DataFrame, setup: Setup, *, note: str = "") -> go.Figure:
    """Draw the channel gates of a setup: one row per block, one point per channel, and a line for its range.

    The range is that over cases. Channels of a block are sorted by their median over cases, so that a row shows their
    distribution. The legend switches between variants; the last variant is shown at first.
    """
    gates = of_setup(gates, setup)
    blocks = list(gates["block"].unique())
    figure = go.Figure()
    variants = list(gates["variant"].unique())
    colors = variant_colors(gates)
    for variant in variants:
        x, y, low, high, text = [], [], [], [], []
        for place, block in enumerate(blocks):
            rows = gates[(gates["variant"] == variant) & (gates["block"] == block)]
            table = rows.groupby("channel")["gate"].agg(["min", "median", "max"]).sort_values("median")
            y += (place + np.linspace(0.36, -0.36, len(table))).round(3).tolist()
            x += table["median"].round(4).tolist()
            low += (table["median"] - table["min"]).round(4).tolist()
            high += (table["max"] - table["median"]).round(4).tolist()
            text += [f"{block}, channel {channel}" for channel in table.index]
        figure.add_scatter(
            x=x,
            y=y,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high,
                "arrayminus": low,
                "thickness": 0.8,
                "width": 0,
            },
            text=text,
            mode="markers",
            marker={"size": 4, "color": colors[variant]},
            name=variant_name(variant),
            visible=True if variant == variants[-1] else "legendonly",
            hovertemplate="%{text}: %{x:.3f}",
        )
    marks = {SHUT: "shut"}
    for identity in sorted(gates["identity"].dropna().unique()):
        having = gates[gates["identity"] == identity]["variant"].unique()
        marks[float(identity)] = f"identity ({', '.join(map(variant_name, having))})"
    for value, text_of_mark in marks.items():
        # on the inner side, so that the text is not cut off
        side = "top left" if value > 0.5 else "top right"
        line = {"width": 1, "dash": "dash", "color": "#808080"}
        figure.add_vline(x=value, line=line, annotation_text=text_of_mark, annotation_position=side)
    figure.update_layout(**{**_style(_short_title(setup, note)), "height": 190 + 62 * len(blocks)})
    figure.update_xaxes(title="channel gate", range=[0, 1], automargin=True)
    figure.update_yaxes(
        tickvals=list(range(len(blocks))),
        ticktext=blocks,
        autorange="reversed",
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _short_title(setup: Setup, note: str) -> str:
    """A short title for narrow screens; the caption of the figure has the full name."""
    short = _shortened(setup.name)
    return f"{short}, {note}" if note else short


def _style(title: str) -> dict[str, Any]:
    """Layout of all figures, with a transparent background for dark and light pages."""
    return {
        "title": {"text": title, "x": 0.01, "xanchor": "left"},
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 60, "r": 10, "t": 80 if title else 40, "b": 60},
        "height": 520,
    }
