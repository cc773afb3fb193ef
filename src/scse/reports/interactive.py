"""The figures of a study's page, drawn by plotly in the reader's browser."""

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
from scse.evaluation.verdict import effect_text
from scse.gates.computing import SHUT
from scse.reports.figures import COLORS, SPARE_COLORS, dice_per_case, variant_colors
from scse.vocabulary.titles import network_name, variant_name
from scse.vocabulary.variants import OPTIONS, Variant

LONGEST_NAME = 32
DIVERGING = "RdBu"
"""Red to blue through white, told apart by colour-blind readers too."""

PANELS = 4
"""Beside each other."""

ROW, ABOVE, BELOW = 34, 8, 48
"""Pixels of the figure of trainings: a variant, and what stands above and below all of them."""

GREY = "#808080"
"""Of what belongs to no variant; seen on light and dark paper."""

DASHES = ("solid", "dot", "dash", "dashdot")

SWEPT = {
    "epochs": "epochs",
    "train_cases": "training cases",
    "reduction": "reduction r",
    "aggregation": "aggregation",
    "placement": "placement",
}


def box_plots_interactive(scores: pd.DataFrame, network: str, *, note: str = "") -> go.Figure:
    """Draw the paper's figure, `box_plots`; hovering over a point names its case."""
    dice = dice_per_case(scores, network)
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
    figure.update_layout(**_style(_short_title(network, note)), boxmode="group", boxgap=0.2, boxgroupgap=0.05)
    figure.update_xaxes(tickangle=-55, showgrid=False, automargin=True)
    figure.update_yaxes(title="Dice", automargin=True)
    return figure


def learning_curves(curves: pd.DataFrame, network: str, *, note: str = "") -> go.Figure:
    """Draw Dice on held-out cases, one line per run, coloured by variant.

    Each line carries both of its possible x: `meta` has "minutes", which are drawn first, and "epochs".

    Args:
        curves: table with the columns network, variant, seed, fold, epoch, seconds, loss, dice.
        network: whose curves to draw.
        note: added to the title, such as "simulated data".
    """
    curves = curves[curves["network"] == network]
    colors, figure, shown = variant_colors(curves), go.Figure(), set()
    dashes = dict(zip(colors, DASHES * len(colors), strict=False))  # a second mark beside the colour
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
    figure.update_layout(**_style(_short_title(network, note)))
    figure.update_xaxes(title="minutes of training", rangemode="tozero", automargin=True)
    figure.update_yaxes(title="Dice on held-out cases", automargin=True)
    return figure


def trainings(comparison: Comparison, network: str) -> go.Figure:
    """Draw what the verdict rests on: a row per variant, a dot per training, and their mean with its 95 % interval.

    A dot is the mean difference to the baseline over all cases, of one seed. The margin is a band around 0; dotted
    lines are as far from 0 as two trainings of the baseline lie apart on average. All networks have the same scale.
    """
    tests = comparison.tests[(comparison.tests["network"] == network) & (comparison.tests["structure"] == ALL)]
    seeds = comparison.seeds[comparison.seeds["network"] == network].dropna(subset=["difference"])
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
            text=[f"{name}, mean: {_told(test)}" for _ in middle],
            mode="markers",
            marker={"size": 12, "color": color, "symbol": "diamond", "line": {"width": 1, "color": GREY}},
            name=f"{name}, mean",
            hovertemplate="%{text}<extra></extra>",
        )
    _mark_sizes(figure, comparison, network)
    height = ABOVE + ROW * len(tests) + BELOW
    figure.update_layout(
        **{**_style(""), "height": height, "margin": {"l": 10, "r": 10, "t": ABOVE, "b": BELOW}},
        showlegend=False,
        dragmode=False,  # a finger scrolls the page
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


def _mark_sizes(figure: go.Figure, comparison: Comparison, network: str) -> None:
    """Mark which differences matter, how far trainings of the baseline lie apart, and which side is better."""
    margin, noise = comparison.margin, comparison.noise[comparison.noise["network"] == network]
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
    """The largest difference that a figure of trainings must show, and a little more."""
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
    """Error bars of the points whose interval is known."""
    above, below = (high - middle).round(5), (middle - low).round(5)
    bars = {"type": "data", "symmetric": False, "thickness": thickness, "width": width, "color": color}
    return {**bars, "array": _without_nan(above), "arrayminus": _without_nan(below)}


def _without_nan(values: pd.Series) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _told(test: Mapping[Any, Any]) -> str:
    """A difference and what it is the mean of, for hovering over it."""
    effect = " ".join(effect_text(test["difference"], test["low"], test["high"])).rstrip()
    counts = ((test["trainings"], "training"), (test["n"], "case"))
    return ", ".join([effect, *(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)])


def differences(comparison: Comparison, network: str, *, note: str = "") -> go.Figure:
    """Draw the mean difference to the baseline with its 95 % interval: a panel per variant, a row per structure.

    Structures are sorted by the mean of their differences over the variants.
    """
    tests = comparison.tests
    tests = tests[(tests["network"] == network) & (tests["structure"] != ALL)].dropna(subset=["difference"])
    order = list(tests.groupby("structure")["difference"].mean().sort_values().index)
    variants = list(tests["variant"].unique())
    colors = variant_colors(tests)
    columns = min(len(variants), PANELS)
    rows = -(-len(variants) // columns)
    style = _style(_short_title(network, note))
    panel, gap = 24 * len(order) + 40, 70  # pixels; the gap has an axis and the next row's titles
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
            text=[_told(test) for test in group.to_dict("records")],
            mode="markers",
            marker={"color": colors[variant], "size": 7},
            name=variant_name(variant),
            showlegend=False,
            hovertemplate="%{y}<br>%{text}",
        )
    figure.update_layout(**{**style, "height": inside + style["margin"]["t"] + style["margin"]["b"]})
    figure.update_xaxes(zeroline=True, zerolinewidth=2, tickformat="+~f", nticks=5, showticklabels=True)
    # narrower than the names of brain structures would leave the panels no room
    figure.update_yaxes(automargin=True, categoryorder="array", categoryarray=order)
    return figure


def heat_map(comparison: Comparison, *, note: str = "") -> go.Figure:
    """Draw the mean difference to the baseline of all networks: structures x variants, colours symmetric about 0."""
    tests = comparison.tests[comparison.tests["structure"] != ALL]
    networks = list(tests["network"].unique())
    structures = list(tests["structure"].unique())
    largest = float(tests["difference"].abs().max())
    figure = make_subplots(
        1,
        len(networks),
        shared_yaxes=True,
        horizontal_spacing=0.015,
        subplot_titles=[_shortened(network_name(n)) for n in networks],
    )
    for i, network in enumerate(networks, start=1):
        wide = tests[tests["network"] == network].pivot_table(
            index="structure", columns="variant", values="difference", sort=False
        )
        wide = wide.reindex(structures)
        values = wide.round(4).astype(object).where(wide.notna(), None).to_numpy().tolist()
        figure.add_heatmap(
            row=1,
            col=i,
            z=values,
            x=[variant_name(str(v)) for v in wide.columns],
            y=structures,
            coloraxis="coloraxis",
            texttemplate="%{z:+.3f}" if len(networks) * wide.shape[1] <= 12 else None,
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, %{x}<br>%{z:+.4f}",
            name=network_name(network),
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
    """Draw the extra time of each variant in percent of the plain network's: training step and prediction."""
    rows = costs[costs["variant"] != "none"].dropna(subset=["step_ratio"])
    labels = [f"{_shortened(network_name(r['network']))} {variant_name(r['variant'])}" for r in rows.to_dict("records")]
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
    """Draw the difference to the baseline over what was swept: a figure per network and swept option.

    Options are read from the names: "unet[epochs=3,train_cases=6]", "scse[reduction=4]". A line, or points alone
    where the values are no numbers, is a variant with all else equal; error bars are the 95 % intervals of the mean
    difference over all structures, where there are trainings and cases enough for one.

    Returns:
        (caption, figure) for each option that has two values or more; [] if nothing was swept.
    """
    tests = comparison.tests[comparison.tests["structure"] == ALL].dropna(subset=["difference"])
    table = pd.DataFrame([{**row, **_options_of(row)} for row in tests.to_dict("records")])
    found = []
    for network, group in table.groupby("plain_network", sort=False) if len(table) else []:
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
    # an option that a variant does not have is empty
    for key, line in group.fillna(dict.fromkeys(others, "")).groupby(["plain_variant", *others], sort=False):
        variant, *rest = map(str, key)
        line = line.dropna(subset=[option]).set_index(option)  # noqa: PLW2901
        line = line.loc[sorted(line.index, key=_natural)]  # noqa: PLW2901
        if len(line) < 2:
            continue
        middle = line["difference"]
        told = ", ".join(f"{SWEPT[name]} {value}" for name, value in zip(others, rest, strict=True) if value)
        figure.add_scatter(
            x=line.index.tolist(),
            y=middle.round(5).tolist(),
            error_y=_interval(middle, line["low"], line["high"], thickness=1.2, width=3),
            mode=mode,
            name=variant_name(variant) + (f", {told}" if told else ""),
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
    """What the names of a row's network and variant say about swept options."""
    network, variant = str(row["network"]), str(row["variant"])
    options = {
        name: match[1] for name in ("epochs", "train_cases") if (match := re.search(rf"[\[,]{name}=(\d+)", network))
    }
    plain = re.sub(r"(?<=[\[,])(epochs|train_cases)=\d+,?", "", network).replace("[]", "")
    try:
        chosen = Variant.parse(variant)
    except ValueError:  # a variant of somebody else's
        return {"plain_network": plain, "plain_variant": variant, **options}
    options |= {option: str(getattr(chosen, option)) for option in OPTIONS[chosen.kind]}
    return {"plain_network": plain, "plain_variant": chosen.kind, **options}


def _natural(value: str) -> tuple[int, float, str]:
    return (0, float(value), "") if re.fullmatch(r"[\d.]+", value) else (1, 0.0, value)


def gate_strips(gates: pd.DataFrame, network: str, *, note: str = "") -> go.Figure:
    """Draw the channel gates of a network: a row per block, a point per channel, its range over cases as a line.

    Channels of a block are sorted by their median over cases, so that a row is their distribution; variants are
    switched in the legend, the first with channel gates is shown.
    """
    gates = gates[gates["network"] == network]
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
        marks[float(identity)] = f"as it is ({', '.join(map(variant_name, having))})"
    for value, words in marks.items():
        # inside the figure, where the words stay whole
        side = "top left" if value > 0.5 else "top right"
        line = {"width": 1, "dash": "dash", "color": "#808080"}
        figure.add_vline(x=value, line=line, annotation_text=words, annotation_position=side)
    figure.update_layout(**{**_style(_short_title(network, note)), "height": 190 + 62 * len(blocks)})
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


def _short_title(network: str, note: str) -> str:
    """For the page, which is narrow on some screens and has all of the name in the caption."""
    short = _shortened(network_name(network))
    return f"{short}, {note}" if note else short


def _style(title: str) -> dict[str, Any]:
    """Transparent, so that the page's own background (dark or light) shows."""
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
