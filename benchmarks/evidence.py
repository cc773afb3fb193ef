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
from scse.evaluation.quality import RUN
from scse.evaluation.statistics import FEWEST_TRAININGS
from scse.evaluation.verdict import effect_text, p_text
from scse.support.timing import in_words
from scse.vocabulary.titles import network_name, variant_name

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
    blocks, training = (scores[column].str.contains("[", regex=False).any() for column in ("variant", "network"))
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
        runs = curves.groupby(RUN)["seconds"].max()
        yield f"{len(runs)} runs, {in_words(runs.sum())} of training"


def _read(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, keep_default_na=False) if path.exists() else None


def means(found: Comparison) -> str:
    """The paper's table: mean ± standard deviation over cases, networks by variants."""
    digits = 2 if found.lower_is_better else 3
    summary = found.summary.assign(
        text=[f"{m:.{digits}f} ± {s:.{digits}f}" for m, s in found.summary[["mean", "sd"]].to_numpy()]
    )
    table = summary.pivot_table(index="network", columns="variant", values="text", aggfunc="first", sort=False)
    rows = [(network_name(str(network)), *texts) for network, texts in zip(table.index, table.to_numpy(), strict=True)]
    return markdown([HEADS[found.metric], *map(variant_name, table.columns)], rows)


def sentences(found: Comparison, costs: pd.DataFrame | None) -> str:
    """The verdicts, as a list."""
    return re.sub(r"^( *)", r"\1- ", verdict_text(found, costs), flags=re.MULTILINE)


def effects(found: Comparison, scores: pd.DataFrame) -> str:
    """Statistics over all structures, what varies by how much, and the stability of the ranks."""
    ranks = ranking(without_control(scores, found.baseline)).set_index(["network", "variant"])
    rows = []
    for test in found.tests[found.tests["structure"] == ALL].to_dict("records"):
        rank = ranks.loc[(test["network"], test["variant"])]
        sds = (_number(test[key]) for key in ("sd_trainings", "sd_blocks", "sd_rest"))
        rows.append(
            (
                network_name(test["network"]),
                variant_name(test["variant"]),
                f"{test['trainings']} x {test['n']}",
                " ".join(effect_text(test["difference"], test["low"], test["high"])).rstrip(),
                _p(test["p_holm"]),
                _p(test["p_equivalent_holm"]),
                test["kind"].replace("_", " "),
                " / ".join(sds),
                _number(test["detectable"]),
                # a rank among one or two trainings says nothing about others
                f"{100 * rank['first']:.0f} %" if test["trainings"] >= FEWEST_TRAININGS else NOTHING,
            )
        )
    heads = ("network", "variant", "trainings x cases", "mean difference [95 %]", "p (Holm)", "p equivalent (Holm)")
    return markdown([*heads, "verdict", "sd of trainings / cases / rest", "detectable", "first in"], rows)


def structures(found: Comparison) -> str:
    """How many structures are better, worse and equivalent, and the largest difference on each side."""
    single = found.tests[found.tests["structure"] != ALL]
    rows = []
    for (network, variant), tests in single.groupby(["network", "variant"], sort=False):
        ordered = tests.sort_values("difference")
        ends = [f"{row['structure']} {row['difference']:+.3f}" for _, row in ordered.iloc[[-1, 0]].iterrows()]
        counts = [str((tests["kind"] == kind).sum()) for kind in ("better", "worse", "equivalent")]
        rows.append((network_name(str(network)), variant_name(str(variant)), *counts, *ends))
    heads = ["network", "variant", "structures better", "worse", "equivalent", "largest gain", "largest loss"]
    return markdown(heads, rows)


def seeds(found: Comparison) -> str:
    """The spread over cases and over seeds, and of each seed the mean over cases and its difference to plain."""
    rows = []
    for row in found.summary.to_dict("records"):
        of_row = (found.seeds["network"] == row["network"]) & (found.seeds["variant"] == row["variant"])
        each = found.seeds[of_row]
        rows.append(
            (
                network_name(row["network"]),
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
    plain = costs[costs["variant"] == "none"].set_index("network")[columns]
    rows = []
    for row in costs[costs["variant"] != "none"].to_dict("records"):
        ratios = [100 * (row[column] / plain.loc[row["network"], column] - 1) for column in columns]
        rows.append(
            (network_name(row["network"]), variant_name(row["variant"]), *(f"{ratio:+.1f} %" for ratio in ratios))
        )
    return markdown(["network", "variant", "parameters", "memory of a step", "training step", "predicted case"], rows)


def quality(curves: pd.DataFrame) -> str:
    """How many runs become as good as the plain run in the end, and how soon."""
    rows = []
    for (network, variant), runs in time_to_quality(curves).groupby(["network", "variant"], sort=False):
        reached = f"{runs['epochs'].notna().sum()} of {len(runs)}"
        median = f"{runs['epochs'].median():g}" if runs["epochs"].notna().any() else NOTHING
        rows.append((network_name(str(network)), variant_name(str(variant)), reached, median))
    return markdown(["network", "variant", "runs that reach plain's final Dice", "epochs, median of those"], rows)


if __name__ == "__main__":
    main()
