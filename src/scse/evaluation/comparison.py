"""Paired comparison of variants over the tidy score table, with a verdict in words."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from scse.networks.specs import title

COLUMNS = ("network", "variant", "seed", "fold", "case", "structure", "metric", "value")
LOWER_IS_BETTER = frozenset({"hd95", "msd"})
UNITS = {"dice": "Dice", "hd95": "mm 95 % Hausdorff distance", "msd": "mm mean surface distance"}
NETWORK_NAMES = {"unet": "U-Net", "sdnet": "SD-Net", "densenet": "FC-DenseNet"}
VARIANT_NAMES = {"none": "plain", "cse": "cSE", "sse": "sSE", "scse": "scSE"}
ALL = "all structures"
FEWEST_PAIRS = 6  # the exact two-sided p of five pairs cannot fall below 2 / 2**5 = 0.0625
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        baseline: the variant that the others are compared with.
        metric: "dice", "hd95" (mm) or "msd" (mm).
        summary: network, variant, mean, sd, cases, absent. Mean and standard deviation over test subjects of
            the mean over structures; `absent` counts the NaN scores that were left out.
        structures: network, variant, structure, mean, sd, n; the same for each structure alone.
        tests: network, variant, structure, n, missing, median_difference, mean_difference, better, equal,
            worse, p, p_holm. One row for `ALL` structures together and one for each, of every variant but
            the baseline. Differences are variant minus baseline; better and worse know the direction of the
            metric; `n` counts paired subjects, and `missing` the pairs (one per seed, fold and case) that
            could not be formed because one of the two scores is not there or NaN.
    """

    baseline: str
    metric: str
    summary: pd.DataFrame
    structures: pd.DataFrame
    tests: pd.DataFrame


def compare(scores: pd.DataFrame, *, baseline: str = "none", metric: str = "dice") -> Comparison:
    """Compare each variant with the baseline, network by network, on the same cases.

    Scores pair by seed, fold, case and structure. NaN (a structure absent from prediction and reference) is
    left out and counted. Differences are averaged over seeds, for `ALL` also over the structures that both
    variants have, so that one number per test subject remains, and go into a two-sided Wilcoxon signed-rank
    test (Wilcoxon 1945, scipy.stats.wilcoxon: exact where scipy allows). Holm's correction (1979) is made
    over two families in each network: A, the `ALL` tests of its variants; B, all its tests of single
    structures (structures x variants). With fewer than 6 paired subjects no significance can be reached, and
    p is NaN; if no subject differs, p is 1.

    Args:
        scores: the tidy table with the columns network, variant, seed, fold, case, structure, metric, value.
        baseline: the variant to compare with.
        metric: the metric to compare.

    Raises:
        ValueError: columns are missing, a score is there twice, or baseline or metric does not occur.
    """
    _check(scores, baseline, metric)
    table = scores[scores["metric"] == metric]
    per_case = _per_case(table)
    structures = _spread(per_case, ["network", "variant", "structure"], count="n")
    return Comparison(
        baseline=baseline,
        metric=metric,
        summary=_summary(table, per_case, baseline),
        structures=_ordered(structures, table, baseline),
        tests=_tests(table, baseline, metric),
    )


def _check(scores: pd.DataFrame, baseline: str, metric: str) -> None:
    absent = [c for c in COLUMNS if c not in scores.columns]
    if absent:
        raise ValueError(f"scores lack the columns {', '.join(absent)}; needed are {', '.join(COLUMNS)}")
    for name, value, column in (("metric", metric, "metric"), ("baseline", baseline, "variant")):
        found = list(map(str, scores[column].unique()))
        if value not in found:
            raise ValueError(
                f"{name} {value!r} does not occur in the scores; the column {column} has {', '.join(found)}"
            )
    twice = scores[scores.duplicated(list(COLUMNS[:-1]))]
    if len(twice):
        row = twice.iloc[0][list(COLUMNS[:-1])].to_dict()
        raise ValueError(f"{len(twice)} scores are there twice, the first is {row}; keep one of each")


def _per_case(table: pd.DataFrame) -> pd.DataFrame:
    """One value per network, variant, fold, case and structure: the mean over seeds."""
    keys = ["network", "variant", "fold", "case", "structure"]
    return table.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()


def _spread(values: pd.DataFrame, keys: list[str], *, count: str) -> pd.DataFrame:
    spread = values.groupby(keys, sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    return spread.rename(columns={"std": "sd", "count": count})


def _summary(table: pd.DataFrame, per_case: pd.DataFrame, baseline: str) -> pd.DataFrame:
    subjects = per_case.groupby(["network", "variant", "fold", "case"], sort=False, dropna=False)["value"].mean()
    summary = _spread(subjects.reset_index(), ["network", "variant"], count="cases")
    absent = table["value"].isna().groupby([table["network"], table["variant"]]).sum().rename("absent")
    return _ordered(summary.join(absent, on=["network", "variant"]), table, baseline)


def _ordered(frame: pd.DataFrame, table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Networks and structures as they first occur, variants too but the baseline first."""
    variants = [baseline, *(v for v in table["variant"].unique() if v != baseline)]
    orders = {"network": list(table["network"].unique()), "variant": variants}
    if "structure" in frame:
        orders["structure"] = list(table["structure"].unique())
    places = [frame[column].map(order.index) for column, order in orders.items()]
    return frame.iloc[np.lexsort(places[::-1])].reset_index(drop=True)


def _tests(table: pd.DataFrame, baseline: str, metric: str) -> pd.DataFrame:
    rows = [
        (network, *row)
        for network, group in table.groupby("network", sort=False)
        for row in _network_tests(group, baseline, metric)
    ]
    columns = ["n", "missing", "median_difference", "mean_difference", "better", "equal", "worse", "p"]
    tests = pd.DataFrame(rows, columns=["network", "variant", "structure", *columns])
    tests["p_holm"] = np.nan
    families = tests.groupby(["network", tests["structure"] == ALL]).indices
    for family in families.values():
        tests.loc[family, "p_holm"] = holm(tests.loc[family, "p"].to_numpy(dtype=np.float64))
    return tests


def _network_tests(group: pd.DataFrame, baseline: str, metric: str) -> Iterator[tuple[Any, ...]]:
    wide = group.pivot(index=["seed", "fold", "case", "structure"], columns="variant", values="value")
    structures = list(group["structure"].unique())
    variants = [v for v in group["variant"].unique() if v != baseline]
    for variant in variants if baseline in wide else []:
        difference = (wide[variant] - wide[baseline]).unstack("structure")[structures]
        yield variant, ALL, *_test(difference.mean(axis=1), metric)
        for structure in structures:
            yield variant, structure, *_test(difference[structure], metric)


def _test(difference: pd.Series, metric: str) -> tuple[int, int, float, float, int, int, int, float]:
    """n, missing, median, mean, better, equal, worse and p of the differences by (seed, fold, case)."""
    per_subject = difference.groupby(level=["fold", "case"], dropna=False).mean().dropna()
    # equal scores must count as equal whatever the rounding of their averages
    values = per_subject.to_numpy(dtype=np.float64).round(12)
    gain = -values if metric in LOWER_IS_BETTER else values
    counts = (int((gain > 0).sum()), int((gain == 0).sum()), int((gain < 0).sum()))
    middle = (float(np.median(values)), float(values.mean())) if len(values) else (np.nan, np.nan)
    return len(values), int(difference.isna().sum()), *middle, *counts, _p_value(values)


def _p_value(differences: NDArray[np.float64]) -> float:
    if len(differences) < FEWEST_PAIRS:
        return float("nan")
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct the p-values (n,) of one family after Holm (1979); NaN stay NaN and do not count."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def finding(test: Mapping[Hashable, Any], metric: str) -> str:
    """Judge a row of `Comparison.tests`: "better", "worse", "same" or "few", by the rules in `verdict`."""
    if test["n"] < FEWEST_PAIRS:
        return "few"
    sign = -1 if metric in LOWER_IS_BETTER else 1
    middle, mean = sign * test["median_difference"], sign * test["mean_difference"]
    if not test["p_holm"] < LEVEL or middle * mean <= 0:
        return "same"
    return "better" if mean > 0 else "worse"


def verdict(comparison: Comparison) -> str:
    """Say what the comparison found, one line per network, by these rules.

    A variant is better (worse) if its test over all structures has a Holm-corrected p below 0.05 and both
    its mean and its median difference point to better (worse) scores. Anything else is "no detectable
    difference". With fewer than 6 paired subjects the line says that no significance can be reached. The
    size of an effect is the mean difference over subjects.
    """
    return "\n".join(_sentence(comparison, network) for network in comparison.summary["network"].unique())


def _sentence(comparison: Comparison, network: str) -> str:
    chosen = (comparison.tests["network"] == network) & (comparison.tests["structure"] == ALL)
    tests = comparison.tests[chosen].to_dict("records")
    base = "the plain network" if comparison.baseline == "none" else variant_name(comparison.baseline)
    if not tests:
        return f"{network_name(network)}: nothing to compare with {base}."
    groups: dict[str, list[Mapping[Hashable, Any]]] = {"better": [], "worse": [], "same": [], "few": []}
    for test in tests:
        groups[finding(test, comparison.metric)].append(test)
    told = [_effect(test, kind, comparison.metric) for kind in ("better", "worse") for test in groups[kind]]
    if groups["better"]:
        told[0] = told[0].replace("better", f"better than {base}", 1)
    elif not groups["few"]:
        told.insert(0, f"no variant is better than {base}")
    if groups["same"]:
        told.append(f"{_names(groups['same'])}: no detectable difference")
    if groups["few"]:
        few = f"no significance can be reached with fewer than {FEWEST_PAIRS} paired subjects"
        told.append(f"{_names(groups['few'])}: {few}")
    return f"{network_name(network)}: {'; '.join(told)}. Wilcoxon, Holm-corrected; {_subjects(tests)}."


def _effect(test: Mapping[Hashable, Any], kind: str, metric: str) -> str:
    size = abs(test["mean_difference"])
    amount = "less than 0.001" if size < 0.0005 else f"{size:.3f}"
    return f"{variant_name(test['variant'])} is {kind} by {amount} {UNITS[metric]} (p {p_text(test['p_holm'])})"


def _names(tests: Sequence[Mapping[Hashable, Any]]) -> str:
    return ", ".join(variant_name(test["variant"]) for test in tests)


def _subjects(tests: Sequence[Mapping[Hashable, Any]]) -> str:
    counts = [test["n"] for test in tests]
    span = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    lost = [f"{test['missing']} missing for {variant_name(test['variant'])}" for test in tests if test["missing"]]
    return ", ".join([f"{span} subjects", *lost])


def p_text(p: float) -> str:
    """Write a p-value for reading after the letter p: "= 0.004", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def network_name(network: str) -> str:
    """The network's name in the literature, or as the user named it, without folders."""
    return NETWORK_NAMES.get(network) or title(network)


def variant_name(variant: str) -> str:
    """The variant's name in the paper."""
    return VARIANT_NAMES.get(variant, variant)
