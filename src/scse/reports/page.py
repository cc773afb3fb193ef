"""The report of a study: a self-contained web page, the paper's table and figure, and a table for the terminal."""

import base64
import html
import json
import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich.table import Table
from rich.text import Text

from scse.evaluation import Comparison, compare, headlines, noise_texts, ranking, time_to_quality, verdicts
from scse.evaluation.comparison import ALL
from scse.evaluation.noise import FEWEST_TO_SPLIT
from scse.evaluation.pairing import grids, without_control
from scse.evaluation.power import MOST_TRAININGS, POWER
from scse.evaluation.scores import METRICS
from scse.evaluation.setups import of_setup, per_setup, setup_columns, setup_of, setups
from scse.evaluation.statistics import FEWEST_CASES, FEWEST_TRAININGS, LEVEL
from scse.evaluation.verdict import effect_text
from scse.gates.channel_gates import shut_channels
from scse.gates.computing import SHUT
from scse.reports.figures import box_plots
from scse.reports.interactive import (
    box_plots_interactive,
    differences,
    gate_strips,
    heat_map,
    learning_curves,
    sweeps,
    time_ratios,
    trainings,
)
from scse.reports.provenance import BIBTEX
from scse.reports.rendering import MINUS, NOTHING, PLANES, json_markup, read_scripts, render
from scse.support.atomic import write_atomic
from scse.support.events import UNWATCHED, Watch
from scse.support.figure_files import save_figure
from scse.support.timing import in_words
from scse.vocabulary.titles import Setup, slug, variant_name

METRIC_TITLES = {
    "dice": "Dice",
    "hd95": "95 % Hausdorff distance in mm",
    "msd": "Mean surface distance in mm",
}
SIMULATED = "simulated data"
SYMBOLS = {"better": "▲", "worse": "▼", "equivalent": "≈"}
"""Symbols of verdicts; "undecided" and too few trainings or cases have none."""


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Facts about a study for its report, apart from its scores.

    Attributes:
        title: Title of the page.
        dataset: Name of the data set.
        simulated: Whether the scans are simulated, which the page then repeats everywhere.
        training_cases: Number of training cases.
        test_cases: Number of unseen test cases.
        structures: Number of scored structures.
        caveats: Sentences about limitations of the results.
        command: Command or call that repeats the study.
        recipe: Preparation of images, as rows (name, value).
        settings: Settings of the training, as rows (name, value).
        versions: Versions of packages, by name.
        machine: Processor, memory and accelerator, as rows (name, value).
        duration_seconds: Wall-clock time of all runs together.
        code: Date, seeds, commit and other facts needed for a repetition, as rows (name, value).
        digests: SHA-256 of the files of each case, by name.
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
    machine: Sequence[tuple[str, str]]
    duration_seconds: float
    code: Sequence[tuple[str, str]] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the paper's table.

    Attributes:
        text: Mean and standard deviation over test cases.
        best: Whether the mean is the best of its row.
    """

    text: str
    best: bool


def write_report(
    folder: Path,
    *,
    scores: pd.DataFrame,
    facts: StudyFacts,
    costs: pd.DataFrame | None = None,
    curves: pd.DataFrame | None = None,
    gates: pd.DataFrame | None = None,
    viewer: str | None = None,
    margin: float | None = None,
    watch: Watch = UNWATCHED,
) -> Path:
    """Write the report of a study. Sections without data are omitted.

    The function writes `index.html` (self-contained: opens from disk without network access), `table.csv` (the paper's
    table for every metric), `table.tex` (its Dice, for LaTeX with booktabs) and the paper's figure as
    `boxplot_<network>.png`, `.pdf` and `.svg`, with the text of the setup converted by `slug`. Variants are compared
    with "none", or with the first variant in a study without "none". Trainings that only the baseline has are used
    only for the noise floor.

    Args:
        folder: Output folder. It is created if needed; files of an earlier report are replaced.
        scores: Tidy table with the columns network, variant, seed, fold, case, structure, metric, value, and epochs and
            train_cases if these are varied; the other tables have them too.
        facts: Facts about the study.
        costs: Result of `measure_costs`. Ratios are relative to the plain network, NaN without it.
        curves: Table with the columns network, variant, seed, fold, epoch, seconds, loss and dice (on held-out cases);
            may be empty.
        gates: Result of `channel_gates`.
        viewer: Result of `viewer_data`.
        margin: Largest irrelevant difference in Dice; by default that of `compare`.
        watch: Receives `Progress` before the figures of each setup and before the page; checked at the same times.

    Returns:
        The path of `index.html`.

    Raises:
        UserError: The scores lack columns or Dice, or the margin is not positive.
    """
    comparisons = _comparisons(scores, margin)
    dice = comparisons["dice"]
    paired = without_control(scores, dice.baseline)
    note = SIMULATED if facts.simulated else ""
    compared = setups(dice.summary)
    files: list[Path] = []
    count, total = watch.counter("report"), len(compared) + 1
    for done, setup in enumerate(compared):
        count(done, total)
        files += save_figure(box_plots(paired, setup, note=note), folder / f"boxplot_{slug(setup.text)}")
    count(len(compared), total)
    summaries = [c.summary.assign(metric=metric) for metric, c in comparisons.items()]
    table = pd.concat(summaries)[[*setup_columns(dice.summary), "variant", "metric", "mean", "sd", "cases", "absent"]]
    write_atomic(folder / "table.csv", table.to_csv(index=False).encode())
    write_atomic(folder / "table.tex", latex_table(dice).encode())
    curves = None if curves is None or curves.empty else without_control(curves, dice.baseline)
    tested = bool(dice.tests["difference"].notna().any())
    page = render(
        "report.html",
        scripts={"plotly": get_plotlyjs(), **read_scripts("report", "viewer")},
        facts=facts,
        note=f" ({SIMULATED})" if note else "",
        baseline=variant_name(dice.baseline),
        verdicts=_verdicts(dice, costs),
        tables=[_table(comparison) for comparison in comparisons.values()],
        seeds=_seed_rows(dice),
        detectable=_detectable_rows(dice),
        folds=any(grid.folds() is not None for grid in grids(paired, "dice", dice.baseline)),
        ranking=_ranking_rows(paired),
        costs=[] if costs is None else _cost_rows(costs),
        measured_on=_measured_on(costs),
        networks=[_network(setup, paired, curves, part, note) for setup, part in dice.per_setup()],
        heat_map=_figure_html(heat_map(dice, note=note), "heat-map") if tested else None,
        speed=_speed(costs, note),
        quality=[] if curves is None else _quality_rows(curves, dice.baseline),
        sweeps=[
            (caption, _figure_html(figure, f"sweep-{i}")) for i, (caption, figure) in enumerate(sweeps(dice, note=note))
        ],
        gates=[] if gates is None or gates.empty else _gate_sections(gates, note),
        viewer=None if viewer is None else json_markup(viewer),
        sides=("left", "right"),
        planes=PLANES if viewer is not None and json.loads(viewer)["view"] == "volume" else {},
        downloads=_downloads(scores, [folder / "table.csv", folder / "table.tex", *files]),
        bibtex=BIBTEX,
        fewest_cases=FEWEST_CASES,
        fewest_trainings=FEWEST_TRAININGS,
        level=LEVEL,
        power=POWER,
        most_trainings=MOST_TRAININGS,
        margin=dice.margin,
        symbols=SYMBOLS,
        shut=SHUT,
        duration=in_words(facts.duration_seconds),
    )
    write_atomic(folder / "index.html", page.encode())
    count(total, total)
    return folder / "index.html"


def latex_table(comparison: Comparison) -> str:
    """The paper's table for LaTeX with booktabs: networks as rows, variants as columns, best means in bold."""
    content = _table(comparison)
    cells = pd.DataFrame(
        [[_latex_cell(cell) for cell in row] for _, row in content["rows"]],
        index=[name for name, _ in content["rows"]],
        columns=content["variants"],
    )
    style = cells.style.format_index(escape="latex").format_index(escape="latex", axis="columns")
    text: str = style.to_latex(hrules=True, column_format="l" + "c" * len(cells.columns))
    return text


def _latex_cell(cell: Cell) -> str:
    text = cell.text.replace(NOTHING, "--").replace("±", "$\\pm$")
    return f"\\textbf{{{text}}}" if cell.best else text


def table_text(comparison: Comparison) -> Table:
    """The paper's table for the terminal: networks as rows, variants as columns, best means in bold."""
    content = _table(comparison)
    table = Table(title=f"{content['title']}, mean ± standard deviation over test cases")
    table.add_column("network")
    for variant in content["variants"]:
        table.add_column(Text(variant), justify="right")
    for network, cells in content["rows"]:
        # as Text, because brackets in names of networks are not markup
        table.add_row(Text(network), *(Text(cell.text, style="bold" if cell.best else "") for cell in cells))
    return table


def _comparisons(scores: pd.DataFrame, margin: float | None) -> dict[str, Comparison]:
    variants, found = list(scores["variant"].unique()), set(scores["metric"])
    baseline = "none" if "none" in variants else variants[0]
    wanted = [m for m in METRICS if m in found or m == "dice"]
    margins = {"dice": margin}  # distances in mm have no margin
    return {m: compare(scores, baseline=baseline, metric=m, margin=margins.get(m)) for m in wanted}


def _table(comparison: Comparison) -> dict[str, Any]:
    """The paper's table for the template: metric, title, variants (column names) and rows (network, cells)."""
    summary = comparison.summary
    variants = list(dict.fromkeys(summary["variant"]))
    rows = []
    for setup, group in per_setup(summary):
        means = group.set_index("variant")["mean"].round(3)
        best = means.min() if comparison.lower_is_better else means.max()
        texts = {row["variant"]: _mean_text(row["mean"], row["sd"]) for row in group.to_dict("records")}
        cells = [Cell(texts.get(v, NOTHING), len(means) > 1 and means.get(v) == best) for v in variants]
        rows.append((setup.name, cells))
    return {
        "metric": comparison.metric,
        "title": METRIC_TITLES[comparison.metric],
        "lower": comparison.lower_is_better,
        "variants": [variant_name(v) for v in variants],
        "rows": rows,
        "absent": int(summary["absent"].sum()),
        "cases": int(summary["cases"].max()),
    }


def _mean_text(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _cost_rows(costs: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["parameters", "kept_mib"]
    plain = {setup: rows.set_index("variant")[columns].reindex(["none"]).iloc[0] for setup, rows in per_setup(costs)}
    return [
        {
            "network": setup.name,
            "variant": variant_name(row["variant"]),
            "parameters": f"{row['parameters']:,}",
            "more": _percent(row["parameters"] / plain[setup]["parameters"], digits=2),
            "step": _time(row["step_seconds"]),
            "step_more": _percent(row["step_ratio"]),
            "predict": _time(row["predict_seconds"]),
            "predict_more": _percent(row["predict_ratio"]),
            "kept": f"{row['kept_mib']:,.0f} MiB",
            "kept_more": _percent(row["kept_mib"] / plain[setup]["kept_mib"]),
        }
        for setup, rows in per_setup(costs)
        for row in rows.to_dict("records")
    ]


def _measured_on(costs: pd.DataFrame | None) -> str:
    """The device on which costs were measured; "" if that is not known, as in tables of earlier versions."""
    return "" if costs is None or "device" not in costs else ", ".join(dict.fromkeys(costs["device"].astype(str)))


def _verdicts(comparison: Comparison, costs: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Name, headline, sentences, noise floor and figure of each setup; the figure is None without a comparison."""
    rows = []
    for setup, part in comparison.per_setup():
        sentences, figure, apart = verdicts(part, costs), None, part.noise["apart"]
        if sentences:
            figure = _figure_html(trainings(comparison, setup), f"trainings-{slug(setup.text)}", still=True)
        rows.append(
            {
                "name": setup.name,
                "headline": headlines(part)[setup.text],
                "sentences": sentences,
                "noise": _noise_sentence(part),
                "apart": effect_text(apart.item(), math.nan, math.nan)[0].lstrip("+") if len(apart) else None,
                "figure": figure,
                "interval": bool(part.tests.loc[part.tests["structure"] == ALL, "p"].notna().any()),
            }
        )
    return rows


def _noise_sentence(comparison: Comparison) -> str | None:
    """A sentence about the noise floor of one setup, or about how to measure it; None without the baseline."""
    base, known = variant_name(comparison.baseline), max(comparison.noise["trainings"], default=1)
    if comparison.baseline not in set(comparison.summary["variant"]):
        return None
    text = next(iter(noise_texts(comparison).values()), f"The difference between two trainings of {base} is unknown")
    if comparison.baseline == "none" and known < FEWEST_TO_SPLIT:
        purpose = "to compare plain with itself" if known > 1 else "to measure it"
        text += f"; scse study --control trains plain at least {FEWEST_TO_SPLIT} times {purpose}"
    return f"{text}."


def _detectable_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Detectable differences of each variant; [] with too few trainings or cases."""
    tests = comparison.tests.dropna(subset=["detectable"])
    return [
        {
            "network": setup_of(row).name,
            "variant": variant_name(row["variant"]),
            "detectable": row["detectable"],
            "needed": _needed(row["needed"]),
            "spreads": [row["sd_trainings"], row["sd_blocks"], row["sd_rest"]],
        }
        for row in tests.to_dict("records")
    ]


def _needed(trainings: float) -> str:
    return "more cases" if math.isinf(trainings) else f"{trainings:.0f}"


def _seed_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Standard deviations over cases and seeds, and the difference to the baseline of each seed; [] with one seed."""
    return [
        {
            "network": setup.name,
            "variant": variant_name(row["variant"]),
            "sd": row["sd"],
            "sd_seeds": row["sd_seeds"],
            "means": ", ".join(f"{mean:.3f}" for mean in seeds["mean"]),
            "differences": ", ".join(f"{change:+.3f}" for change in seeds["difference"].dropna()) or NOTHING,
        }
        for setup, part in comparison.per_setup()
        for row in part.summary[part.summary["seeds"] > 1].to_dict("records")
        for seeds in [part.seeds[part.seeds["variant"] == row["variant"]]]
    ]


def _ranking_rows(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Variants by rank, of setups with at least two variants."""
    return [
        {
            "network": setup.name,
            "variant": variant_name(row["variant"]),
            "rank": f"{row['rank']:.0f}",
            "first": f"{100 * row['first']:.0f} %",
            "range": f"{row['low']:.0f} to {row['high']:.0f}",
        }
        for setup, rows in per_setup(ranking(scores).dropna(subset=["rank"]))
        if len(rows) > 1
        for row in rows.to_dict("records")
    ]


def _quality_rows(curves: pd.DataFrame, baseline: str) -> list[dict[str, Any]]:
    """Number of runs of each variant that reach the final Dice of the baseline, with their median time and epochs."""
    table = time_to_quality(curves, baseline=baseline).dropna(subset=["target"])
    return [
        {
            "network": setup.name,
            "variant": variant_name(str(variant)),
            "reached": f"{runs['seconds'].notna().sum()} of {len(runs)}",
            "minutes": f"{minutes:.1f}" if (minutes := runs["seconds"].median() / 60) >= 0 else NOTHING,
            "epochs": f"{epochs:g}" if (epochs := runs["epoch"].median()) >= 0 else NOTHING,
        }
        for setup, rows in per_setup(table)
        for variant, runs in rows.groupby("variant", sort=False)
    ]


def _speed(costs: pd.DataFrame | None, note: str) -> Markup | None:
    if costs is None or costs.loc[costs["variant"] != "none", "step_ratio"].isna().all():
        return None
    return _figure_html(time_ratios(costs, note=note), "speed")


def _gate_sections(gates: pd.DataFrame, note: str) -> list[dict[str, Any]]:
    """The figure of channel gates and the numbers of shut channels (blocks x variants) of each setup."""
    sections = []
    table = shut_channels(gates)
    table["which"] = [", ".join(map(str, found)) if isinstance(found, list) else "" for found in table["which"]]
    for setup, counts in per_setup(table):
        cells = {(row["variant"], row["block"]): row for row in counts.to_dict("records")}
        variants = list(counts["variant"].unique())
        sections.append(
            {
                "name": setup.name,
                "figure": _figure_html(gate_strips(gates, setup, note=note), f"gates-{slug(setup.text)}"),
                "variants": [variant_name(v) for v in variants],
                "rows": [(block, [cells.get((v, block)) for v in variants]) for block in counts["block"].unique()],
                "totals": [
                    {"shut": group["shut"].sum(), "channels": group["channels"].sum()}
                    for _, group in counts.groupby("variant", sort=False)
                ],
                "cases": of_setup(gates, setup)["case"].nunique(),
            }
        )
    return sections


TYPES = {
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".tex": "application/x-tex",
    ".pdf": "application/pdf",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""MIME types of the files that can be downloaded from the page."""


def _downloads(scores: pd.DataFrame, files: Sequence[Path]) -> Markup:
    """Files for download as JSON: name, type, size and content, deflated if it is text."""
    contents = {
        "scores.csv": scores.to_csv(index=False).encode(),
        "scores.parquet": scores.to_parquet(index=False),
        **{file.name: file.read_bytes() for file in files},
    }
    packed = []
    for name, content in contents.items():
        ending = Path(name).suffix
        text = ending in {".csv", ".tex", ".svg"}
        data = zlib.compress(content, 9, wbits=-zlib.MAX_WBITS) if text else content
        row = {"name": name, "type": TYPES[ending], "deflated": text, "size": len(content)}
        packed.append({**row, "data": base64.b64encode(data).decode()})
    return json_markup(json.dumps(packed))


def _percent(ratio: float, *, digits: int = 1) -> str:
    return NOTHING if math.isnan(ratio) else f"{100 * (ratio - 1):+.{digits}f} %".replace("-", MINUS)


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return NOTHING
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _network(
    setup: Setup, scores: pd.DataFrame, curves: pd.DataFrame | None, comparison: Comparison, note: str
) -> dict[str, Any]:
    tests = comparison.tests
    rows = [_test_row(test) for test in tests.to_dict("records")]
    name = slug(setup.text)
    compared = (tests["structure"] != ALL) & tests["difference"].notna()
    drawn = None
    if curves is not None and setup in setups(curves):
        drawn = _figure_html(learning_curves(curves, setup, note=note), f"curves-{name}")
    return {
        "name": setup.name,
        "columns": tests["variant"].nunique(),
        "overall": [row for row in rows if row["structure"] == ALL],
        "tested": bool(tests["p"].notna().any()),
        "structures": _structure_rows(comparison, rows),
        "variants": [variant_name(v) for v in dict.fromkeys(row["variant"] for row in rows)],
        "boxes": _figure_html(box_plots_interactive(scores, setup, note=note), f"boxes-{name}"),
        "differences": _figure_html(differences(comparison, setup, note=note), f"differences-{name}")
        if compared.any()
        else None,
        "curves": drawn,
    }


def _test_row(test: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """A test with the display name of its variant, and its difference and interval as text."""
    effect, interval = effect_text(test["difference"], test["low"], test["high"]) if test["n"] else (NOTHING, "")
    return {**test, "name": variant_name(test["variant"]), "effect": effect, "interval": interval}


def _structure_rows(comparison: Comparison, tests: Sequence[Mapping[Hashable, Any]]) -> list[dict[str, Any]]:
    """One row per structure: scores of the baseline, and the test of each variant against it."""
    table = comparison.structures[comparison.structures["variant"] == comparison.baseline].set_index("structure")
    return [
        {
            "structure": structure,
            "baseline": _mean_text(table.loc[structure, "mean"], table.loc[structure, "sd"]),
            "tests": [test for test in tests if test["structure"] == structure],
        }
        for structure in table.index
    ]


def _figure_html(figure: go.Figure, name: str, *, still: bool = False) -> Markup:
    """A figure as HTML; a `still` figure has no buttons."""
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False if still else "hover"}
    content = {**_as_text(json.loads(figure.to_json())), "config": config}
    return Markup(
        '<div><div id="{}" class="plotly-graph-div" style="height:{}px; width:100%;"></div>'
        '<script type="application/json" class="figure">{}</script></div>'
    ).format(name, figure.layout.height, json_markup(json.dumps(content)))


def _as_text(part: Any, key: str = "") -> Any:
    """Escape texts of a figure, because plotly interprets HTML, placeholders and formulas in all texts.

    Templates, which contain no names, are not changed. Line feeds become line breaks.
    """
    if isinstance(part, dict):
        return {key: _as_text(value, key) for key, value in part.items()}
    if isinstance(part, list):
        return [_as_text(value, key) for value in part]
    if not isinstance(part, str) or key.endswith("template"):
        return part
    return html.escape(part, quote=False).replace("%{", "%&#123;").replace("$", "&#36;").replace("\n", "<br>")
