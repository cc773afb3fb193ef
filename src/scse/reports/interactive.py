"""The figures of a study's page, drawn by plotly in the reader's browser."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from scse.evaluation.comparison import ALL, Comparison
from scse.gates import SHUT
from scse.networks.titles import network_name, variant_name
from scse.reports.figures import COLORS, SPARE_COLORS, dice_per_case, variant_colors
from scse.variants import OPTIONS, Variant

LONGEST_NAME = 32
DIVERGING = "RdBu"
"""Red to blue through white, told apart by colour-blind readers too."""

PANELS = 4
"""Beside each other."""

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


def differences(comparison: Comparison, network: str, *, note: str = "") -> go.Figure:
    """Draw the median difference to the baseline with its 95 % interval: a panel per variant, a row per structure.

    Structures are sorted by the mean of their differences over the variants.
    """
    tests = comparison.tests
    tests = tests[(tests["network"] == network) & (tests["structure"] != ALL)].dropna(subset=["median_difference"])
    order = list(tests.groupby("structure")["median_difference"].mean().sort_values().index)
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
        middle = group["median_difference"]
        figure.add_scatter(
            row=1 + i // columns,
            col=1 + i % columns,
            x=middle.round(5).tolist(),
            y=group.index.tolist(),
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (group["high"] - middle).round(5).tolist(),
                "arrayminus": (middle - group["low"]).round(5).tolist(),
                "thickness": 1.4,
                "width": 0,
            },
            customdata=group[["low", "high", "n"]].round(4).to_numpy().tolist(),
            mode="markers",
            marker={"color": colors[variant], "size": 7},
            name=variant_name(variant),
            showlegend=False,
            hovertemplate="%{y}<br>%{x:+.3f} [%{customdata[0]:+.3f}, %{customdata[1]:+.3f}], n = %{customdata[2]}",
        )
    figure.update_layout(**{**style, "height": inside + style["margin"]["t"] + style["margin"]["b"]})
    figure.update_xaxes(zeroline=True, zerolinewidth=2, tickformat="+.2~f", nticks=5, showticklabels=True)
    # narrower than the names of brain structures would leave the panels no room
    figure.update_yaxes(automargin=True, categoryorder="array", categoryarray=order)
    return figure


def heat_map(comparison: Comparison, *, note: str = "") -> go.Figure:
    """Draw the median difference to the baseline of all networks: structures x variants, colours symmetric about 0."""
    tests = comparison.tests[comparison.tests["structure"] != ALL]
    networks = list(tests["network"].unique())
    structures = list(tests["structure"].unique())
    largest = float(tests["median_difference"].abs().max())
    figure = make_subplots(
        1,
        len(networks),
        shared_yaxes=True,
        horizontal_spacing=0.015,
        subplot_titles=[_shortened(network_name(n)) for n in networks],
    )
    for i, network in enumerate(networks, start=1):
        wide = tests[tests["network"] == network].pivot_table(
            index="structure", columns="variant", values="median_difference", sort=False
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
            "colorbar": {"title": "Dice", "tickformat": "+.2~f", "thickness": 12},
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
    where the values are no numbers, is a variant with all else equal; error bars are the 95 % intervals of the median
    difference over all structures.

    Returns:
        (caption, figure) for each option that has two values or more; [] if nothing was swept.
    """
    tests = comparison.tests[comparison.tests["structure"] == ALL].dropna(subset=["median_difference"])
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
        middle = line["median_difference"]
        told = ", ".join(f"{SWEPT[name]} {value}" for name, value in zip(others, rest, strict=True) if value)
        figure.add_scatter(
            x=line.index.tolist(),
            y=middle.round(5).tolist(),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (line["high"] - middle).round(5).tolist(),
                "arrayminus": (middle - line["low"]).round(5).tolist(),
                "thickness": 1.2,
                "width": 3,
            },
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
        title="median difference, Dice", zeroline=True, zerolinewidth=2, tickformat="+.3~f", automargin=True
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
