"""The tables of docs/evidence.md, from what studies left in their folders: scores.parquet, costs.csv and curves.csv.

    python benchmarks/evidence.py docs/evidence/malc docs/evidence/hippocampus

The costs are ratios to the plain network, measured in turn; hours of training are wall-clock.
"""

import argparse
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from measuring import markdown

from scse.evaluation import Comparison, compare, ranking, read_scores, time_to_quality, verdict_text
from scse.evaluation.comparison import ALL
from scse.evaluation.pairing import without_control
from scse.evaluation.quality import run_columns
from scse.evaluation.setups import of_setup, per_setup, setup_columns, setup_of, with_setups
from scse.evaluation.statistics import FEWEST_TRAININGS
from scse.evaluation.verdict import effect_text, p_text
from scse.support.timing import in_words
from scse.vocabulary.titles import Setup, variant_name

HEADS = {"dice": "Dice", "hd95": "HD95 (mm)"}
NOTHING = "\N{EN DASH}"


def main() -> None:
    """Print the tables of each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of studies, or copies of their three tables")
    for folder in parser.parse_args().folders:
        print(f"\n{folder}\n\n" + "\n\n".join(parts(folder)))


def parts(folder: Path) -> Iterator[str]:
    """The parts of a study in Markdown, in their order on the page; the main ones if blocks or training were varied."""
    scores = read_scores(folder / "scores.parquet")
    dice = compare(scores)
    blocks, training = scores["variant"].str.contains("[", regex=False).any(), len(setup_columns(scores)) > 1
    everything = not (blocks or training)
    yield means(dice)
    if everything and "hd95" in set(scores["metric"]):
        yield means(compare(scores, metric="hd95"))
    costs = _read(folder / "costs.csv")
    if everything:
        yield sentences(dice, costs)
    yield effects(dice, scores)
    if everything:
        yield structures(dice)
        yield seeds(dice)
    if costs is not None and not training:
        yield prices(costs)
    curves = _read(folder / "curves.csv")
    if curves is not None:
        if everything:
            yield quality(curves)
        runs = curves.groupby(run_columns(curves))["seconds"].max()
        yield f"{len(runs)} runs, {in_words(runs.sum())} of training"


def _read(path: Path) -> pd.DataFrame | None:
    return with_setups(pd.read_csv(path, keep_default_na=False), str(path)) if path.exists() else None


def _each(table: pd.DataFrame) -> Iterator[tuple[tuple[Setup, str], pd.DataFrame]]:
    for setup, rows in per_setup(table):
        for variant, of_variant in rows.groupby("variant", sort=False):
            yield (setup, str(variant)), of_variant


def means(found: Comparison) -> str:
    """The paper's table: mean ± standard deviation over cases, setups by variants."""
    digits = 2 if found.lower_is_better else 3
    summary = found.summary.assign(
        text=[f"{m:.{digits}f} ± {s:.{digits}f}" for m, s in found.summary[["mean", "sd"]].to_numpy()]
    )
    variants = list(summary["variant"].unique())
    rows = [
        (setup.name, *of_one.set_index("variant")["text"].reindex(variants)) for setup, of_one in per_setup(summary)
    ]
    return markdown([HEADS[found.metric], *map(variant_name, variants)], rows)


def sentences(found: Comparison, costs: pd.DataFrame | None) -> str:
    """The verdicts, as a list."""
    return re.sub(r"^( *)", r"\1- ", verdict_text(found, costs), flags=re.MULTILINE)


def effects(found: Comparison, scores: pd.DataFrame) -> str:
    """Statistics over all structures, what varies by how much, and the stability of the ranks."""
    ranks = ranking(without_control(scores, found.baseline)).to_dict("records")
    firsts = {(setup_of(row), row["variant"]): row["first"] for row in ranks}
    rows = []
    for test in found.tests[found.tests["structure"] == ALL].to_dict("records"):
        first = firsts[setup_of(test), test["variant"]]
        sds = (_number(test[key]) for key in ("sd_trainings", "sd_blocks", "sd_rest"))
        rows.append(
            (
                setup_of(test).name,
                variant_name(test["variant"]),
                f"{test['trainings']} x {test['n']}",
                " ".join(effect_text(test["difference"], test["low"], test["high"])).rstrip(),
                _p(test["p_holm"]),
                _p(test["p_equivalent_holm"]),
                test["kind"].replace("_", " "),
                " / ".join(sds),
                _number(test["detectable"]),
                # a rank among one or two trainings says nothing about others
                f"{100 * first:.0f} %" if test["trainings"] >= FEWEST_TRAININGS else NOTHING,
            )
        )
    heads = ("network", "variant", "trainings x cases", "mean difference [95 %]", "p (Holm)", "p equivalent (Holm)")
    return markdown([*heads, "verdict", "sd of trainings / cases / rest", "detectable", "first in"], rows)


def structures(found: Comparison) -> str:
    """How many structures are better, worse and equivalent, and the largest difference on each side."""
    single = found.tests[found.tests["structure"] != ALL]
    rows = []
    for (setup, variant), tests in _each(single):
        ordered = tests.sort_values("difference")
        ends = [f"{row['structure']} {row['difference']:+.3f}" for _, row in ordered.iloc[[-1, 0]].iterrows()]
        counts = [str((tests["kind"] == kind).sum()) for kind in ("better", "worse", "equivalent")]
        rows.append((setup.name, variant_name(variant), *counts, *ends))
    heads = ["network", "variant", "structures better", "worse", "equivalent", "largest gain", "largest loss"]
    return markdown(heads, rows)


def seeds(found: Comparison) -> str:
    """The spread over cases and over seeds, and of each seed the mean over cases and its difference to plain."""
    rows = []
    for row in found.summary.to_dict("records"):
        each = of_setup(found.seeds[found.seeds["variant"] == row["variant"]], setup_of(row))
        rows.append(
            (
                setup_of(row).name,
                variant_name(row["variant"]),
                _number(row["sd"]),
                _number(row["sd_seeds"]),
                ", ".join(f"{mean:.4f}" for mean in each["mean"]),
                ", ".join(f"{difference:+.4f}" for difference in each["difference"].dropna()) or NOTHING,
            )
        )
    return markdown(
        ["network", "variant", "sd over cases", "sd over seeds", "mean of each seed", "difference to plain"], rows
    )


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def _p(value: float) -> str:
    return NOTHING if math.isnan(value) else p_text(value).removeprefix("= ")


def prices(costs: pd.DataFrame) -> str:
    """What the variants cost, relative to the plain network."""
    columns = ["parameters", "kept_mib", "step_ratio", "predict_ratio"]
    rows = []
    for setup, each in per_setup(costs):
        ratios = 100 * (each.set_index("variant")[columns] / each.set_index("variant").loc["none", columns] - 1)
        for variant, of_variant in ratios.drop("none").iterrows():
            rows.append((setup.name, variant_name(str(variant)), *(f"{ratio:+.1f} %" for ratio in of_variant)))
    return markdown(["network", "variant", "parameters", "memory of a step", "training step", "predicted case"], rows)


def quality(curves: pd.DataFrame) -> str:
    """How many runs become as good as the plain run in the end, and how soon."""
    rows = []
    for (setup, variant), runs in _each(time_to_quality(curves)):
        reached = f"{runs['epoch'].notna().sum()} of {len(runs)}"
        median = f"{runs['epoch'].median():g}" if runs["epoch"].notna().any() else NOTHING
        rows.append((setup.name, variant_name(variant), reached, median))
    return markdown(["network", "variant", "runs that reach plain's final Dice", "epochs, median of those"], rows)


if __name__ == "__main__":
    main()
