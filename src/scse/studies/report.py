"""The report of a study: one self-contained web page, the paper's table and figure, and a table for the terminal."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.table import Table
from rich.text import Text

from scse.atomic import write_atomic
from scse.evaluation.comparison import (
    ALL,
    FEWEST_PAIRS,
    LEVEL,
    LOWER_IS_BETTER,
    Comparison,
    compare,
    finding,
    network_name,
    p_text,
    variant_name,
    verdict,
)
from scse.evaluation.scores import METRICS
from scse.networks.specs import slug
from scse.studies.figures import box_plots, box_plots_interactive, learning_curves, save_figure

METRIC_TITLES = {
    "dice": "Dice",
    "hd95": "95 % Hausdorff distance in mm",
    "msd": "Mean surface distance in mm",
}
SIMULATED = "simulated data"
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """What the report says about a study besides its numbers.

    Attributes:
        title: heading of the page.
        dataset: name of the data set.
        simulated: whether the scans are simulated; the page then says so everywhere.
        training_cases: how many cases a network is trained on.
        test_cases: how many unseen cases it is scored on.
        structures: how many structures are scored.
        caveats: sentences that a reader must know before believing the numbers.
        command: what to type to repeat the study.
        recipe: how images were prepared, as (name, value).
        settings: how networks were trained, as (name, value).
        versions: package -> version.
        machine: processor, threads, accelerator, in words.
        duration_seconds: wall-clock of all runs together.
    """

    title: str
    dataset: str
    simulated: bool
    training_cases: int
    test_cases: int
    structures: int
    caveats: Sequence[str]
    command: str
    recipe: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    versions: Mapping[str, str]
    machine: str
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the paper's table: mean and standard deviation over test subjects, and whether it is the best."""

    text: str
    best: bool


def write_report(
    folder: Path, *, scores: pd.DataFrame, costs: pd.DataFrame, curves: pd.DataFrame, facts: StudyFacts
) -> Path:
    """Write the report of a study.

    Writes `index.html` (self-contained: opens from disk, asks no network), `table.csv` (the paper's table
    for every metric) and the paper's figure as `boxplot_<network>.png` and `.pdf`, with the network's name as
    `slug` writes it. Variants are compared with "none", or, in a study without it, with the first variant.

    Args:
        folder: where to; made if need be, files of an earlier report are replaced.
        scores: the tidy table with the columns network, variant, seed, fold, case, structure, metric, value.
        costs: network, variant, parameters, step_seconds, step_ratio, predict_seconds, predict_ratio; ratios
            are to the plain network, NaN where there is none.
        curves: network, variant, seed, fold, epoch, seconds, loss, dice on held-out cases; may be empty.
        facts: the rest.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: the scores lack columns or Dice.
    """
    comparisons = _comparisons(scores)
    note = SIMULATED if facts.simulated else ""
    networks = list(comparisons["dice"].summary["network"].unique())
    for network in networks:
        save_figure(box_plots(scores, network, note=note), folder / f"boxplot_{slug(network)}")
    summaries = [c.summary.assign(metric=metric) for metric, c in comparisons.items()]
    table = pd.concat(summaries)[["network", "variant", "metric", "mean", "sd", "cases", "absent"]]
    write_atomic(folder / "table.csv", table.to_csv(index=False).encode())
    page = (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            note=f" ({SIMULATED})" if note else "",
            baseline=variant_name(comparisons["dice"].baseline),
            verdicts=[line.partition(": ") for line in verdict(comparisons["dice"]).splitlines()],
            tables=[_table(comparison) for comparison in comparisons.values()],
            costs=_cost_rows(costs),
            networks=[_network(n, scores, curves, comparisons["dice"], note) for n in networks],
            fewest=FEWEST_PAIRS,
            level=LEVEL,
            duration=_duration(facts.duration_seconds),
            plotly=Markup(get_plotlyjs()),
        )
    )
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def table_text(comparison: Comparison) -> Table:
    """The paper's table for the terminal: networks as rows, variants as columns, the best in bold."""
    content = _table(comparison)
    table = Table(title=f"{content['title']}, mean ± standard deviation over test subjects")
    table.add_column("network")
    for variant in content["variants"]:
        table.add_column(variant, justify="right")
    for network, cells in content["rows"]:
        # the brackets of a network's options are no markup
        table.add_row(Text(network), *(Text(cell.text, style="bold" if cell.best else "") for cell in cells))
    return table


def _comparisons(scores: pd.DataFrame) -> dict[str, Comparison]:
    variants, found = list(scores["variant"].unique()), set(scores["metric"])
    baseline = "none" if "none" in variants else variants[0]
    wanted = [m for m in METRICS if m in found or m == "dice"]
    return {metric: compare(scores, baseline=baseline, metric=metric) for metric in wanted}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scse.studies"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p"] = lambda p: NOTHING if math.isnan(p) else p_text(p).removeprefix("= ")
    environment.filters["signed"] = lambda x: NOTHING if math.isnan(x) else f"{x:+.3f}".replace("-", MINUS)
    return environment


def _table(comparison: Comparison) -> dict[str, Any]:
    """The paper's table: metric, title, variants (names of the columns) and rows of (network, cells)."""
    summary = comparison.summary
    variants = list(dict.fromkeys(summary["variant"]))
    rows = []
    for network, group in summary.groupby("network", sort=False):
        means = group.set_index("variant")["mean"].round(3)
        best = means.min() if comparison.metric in LOWER_IS_BETTER else means.max()
        texts = {row["variant"]: _mean_text(row["mean"], row["sd"]) for row in group.to_dict("records")}
        cells = [Cell(texts.get(v, NOTHING), len(means) > 1 and means.get(v) == best) for v in variants]
        rows.append((network_name(str(network)), cells))
    return {
        "metric": comparison.metric,
        "title": METRIC_TITLES[comparison.metric],
        "lower": comparison.metric in LOWER_IS_BETTER,
        "variants": [variant_name(v) for v in variants],
        "rows": rows,
        "absent": int(summary["absent"].sum()),
        "subjects": int(summary["cases"].max()),
    }


def _mean_text(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _cost_rows(costs: pd.DataFrame) -> list[dict[str, Any]]:
    plain = costs[costs["variant"] == "none"].set_index("network")["parameters"]
    return [
        {
            "network": network_name(row["network"]),
            "variant": variant_name(row["variant"]),
            "parameters": f"{row['parameters']:,}",
            "more": _percent(row["parameters"] / plain.get(row["network"], math.nan), digits=2),
            "step": _time(row["step_seconds"]),
            "step_more": _percent(row["step_ratio"]),
            "predict": _time(row["predict_seconds"]),
            "predict_more": _percent(row["predict_ratio"]),
        }
        for row in costs.to_dict("records")
    ]


def _percent(ratio: float, *, digits: int = 1) -> str:
    return NOTHING if math.isnan(ratio) else f"{100 * (ratio - 1):+.{digits}f} %".replace("-", MINUS)


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return NOTHING
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _network(
    network: str, scores: pd.DataFrame, curves: pd.DataFrame, comparison: Comparison, note: str
) -> dict[str, Any]:
    tests = comparison.tests[comparison.tests["network"] == network].to_dict("records")
    rows = [
        {**test, "name": variant_name(test["variant"]), "finding": finding(test, comparison.metric)} for test in tests
    ]
    boxes = box_plots_interactive(scores, network, note=note)
    trained = (curves["network"] == network).any()
    return {
        "name": network_name(network),
        "overall": [row for row in rows if row["structure"] == ALL],
        "structures": _structure_rows(network, comparison, rows),
        "variants": [variant_name(v) for v in dict.fromkeys(row["variant"] for row in rows)],
        "boxes": _figure_html(boxes, f"boxes-{slug(network)}"),
        "curves": _figure_html(learning_curves(curves, network, note=note), f"curves-{slug(network)}")
        if trained
        else None,
    }


def _structure_rows(
    network: str, comparison: Comparison, tests: Sequence[Mapping[Hashable, Any]]
) -> list[dict[str, Any]]:
    """One row per structure: the baseline's scores, and the test of each variant against them."""
    table = comparison.structures
    table = table[(table["network"] == network) & (table["variant"] == comparison.baseline)].set_index("structure")
    return [
        {
            "structure": structure,
            "baseline": _mean_text(table.loc[structure, "mean"], table.loc[structure, "sd"]),
            "tests": [test for test in tests if test["structure"] == structure],
        }
        for structure in table.index
    ]


def _figure_html(figure: go.Figure, name: str) -> Markup:
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height="520px",
        config={"displaylogo": False, "responsive": True},
    )
    return Markup(html)
