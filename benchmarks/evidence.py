"""The tables of docs/evidence.md, from what studies left in their folders: scores.parquet, costs.csv and curves.csv.

    python benchmarks/evidence.py docs/evidence/malc docs/evidence/hippocampus

The costs are ratios to the plain network, measured in turn; hours of training are wall-clock.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from measuring import markdown

from scse.evaluation import Comparison, compare, ranking, read_scores, time_to_quality, verdict_text
from scse.evaluation.comparison import ALL
from scse.evaluation.quality import RUN
from scse.evaluation.verdict import effect_text, p_text
from scse.networks.titles import network_name, variant_name
from scse.timing import in_words

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
    costs = pd.read_csv(folder / "costs.csv", keep_default_na=False)
    curves = pd.read_csv(folder / "curves.csv", keep_default_na=False)
    dice, several = compare(scores), scores["seed"].nunique() > 1
    blocks, training = (scores[column].str.contains("[", regex=False).any() for column in ("variant", "network"))
    everything = not (blocks or training)
    yield means(dice)
    if everything:
        yield means(compare(scores, metric="hd95"))
        yield sentences(dice, costs)
    yield effects(dice, scores)
    if everything:
        yield structures(dice)
        yield seeds(dice)
    if several:
        yield each_seed(scores)
    if not training:
        yield prices(costs)
    if everything:
        yield quality(curves)
    runs = curves.groupby(RUN)["seconds"].max()
    yield f"{len(runs)} runs, {in_words(runs.sum())} of training"


def means(found: Comparison) -> str:
    """The paper's table: mean ± standard deviation over subjects, networks by variants."""
    digits = 2 if found.lower_is_better else 3
    summary = found.summary.assign(
        text=[f"{m:.{digits}f} ± {s:.{digits}f}" for m, s in found.summary[["mean", "sd"]].to_numpy()]
    )
    table = summary.pivot_table(index="network", columns="variant", values="text", aggfunc="first", sort=False)
    rows = [(network_name(str(network)), *texts) for network, texts in zip(table.index, table.to_numpy(), strict=True)]
    return markdown([HEADS[found.metric], *map(variant_name, table.columns)], rows)


def sentences(found: Comparison, costs: pd.DataFrame) -> str:
    """The verdicts, as a list."""
    return re.sub(r"^( *)", r"\1- ", verdict_text(found, costs), flags=re.MULTILINE)


def effects(found: Comparison, scores: pd.DataFrame) -> str:
    """Statistics over all structures, and the stability of the ranks."""
    ranks = ranking(scores).set_index(["network", "variant"])
    rows = []
    for test in found.tests[found.tests["structure"] == ALL].to_dict("records"):
        rank = ranks.loc[(test["network"], test["variant"])]
        rows.append(
            (
                network_name(test["network"]),
                variant_name(test["variant"]),
                " ".join(effect_text(test["median_difference"], test["low"], test["high"])),
                f"{test['hodges_lehmann']:+.4f}",
                f"{test['rank_biserial']:+.2f}",
                f"{test['better']}/{test['equal']}/{test['worse']}",
                p_text(test["p_holm"]).removeprefix("= "),
                f"{100 * rank['first']:.0f} %",
            )
        )
    heads = ("network", "variant", "median difference [95 %]", "Hodges-Lehmann", "rank-biserial")
    return markdown([*heads, "better/equal/worse", "p (Holm)", "first in"], rows)


def structures(found: Comparison) -> str:
    """How many structures are better and worse after Holm's correction, and the largest difference on each side."""
    single = found.tests[found.tests["structure"] != ALL]
    rows = []
    for (network, variant), tests in single.groupby(["network", "variant"], sort=False):
        ordered = tests.sort_values("median_difference")
        ends = [f"{row['structure']} {row['median_difference']:+.3f}" for _, row in ordered.iloc[[-1, 0]].iterrows()]
        counts = [str((tests["kind"] == kind).sum()) for kind in ("better", "worse")]
        rows.append((network_name(str(network)), variant_name(str(variant)), *counts, *ends))
    return markdown(["network", "variant", "structures better", "worse", "largest gain", "largest loss"], rows)


def seeds(found: Comparison) -> str:
    """Mean over subjects of each seed, beside the spread over subjects."""
    rows = []
    for row in found.summary.to_dict("records"):
        of_row = (found.seeds["network"] == row["network"]) & (found.seeds["variant"] == row["variant"])
        each = ", ".join(f"{mean:.4f}" for mean in found.seeds[of_row]["mean"])
        names = network_name(row["network"]), variant_name(row["variant"])
        rows.append((*names, f"{row['sd']:.4f}", f"{row['sd_seeds']:.4f}", each))
    return markdown(["network", "variant", "sd over subjects", "sd over seeds", "mean of each seed"], rows)


def each_seed(scores: pd.DataFrame) -> str:
    """What a study of one of the seeds would have found: median difference, p after Holm's correction, verdict."""
    alone = {seed: compare(scores[scores["seed"] == seed]).tests for seed in scores["seed"].unique()}
    tests = [tests[tests["structure"] == ALL].set_index(["network", "variant"]) for tests in alone.values()]
    rows = []
    for network, variant in tests[0].index:
        found = [each.loc[(network, variant)] for each in tests]
        told = [f"{test['median_difference']:+.4f}, p {p_text(test['p_holm'])}: {test['kind']}" for test in found]
        rows.append((network_name(network), variant_name(variant), *told))
    return markdown(["network", "variant", *(f"seed {seed} alone" for seed in alone)], rows)


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
