"""The verdict: what a comparison found, in sentences made by fixed rules (docs/statistics.md)."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from scse.evaluation.comparison import ALL, Comparison, contradicted
from scse.evaluation.statistics import FEWEST_PAIRS, LEVEL
from scse.networks.titles import network_name, variant_name

Kind = Literal["better", "worse", "same", "few"]
UNITS = {"dice": "Dice", "hd95": "mm HD95", "msd": "mm MSD"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one variant over all structures.

    Attributes:
        network: as in the scores.
        variant: as in the scores.
        kind: by the rules of `compare`.
        text: a sentence, such as "scSE is better than plain: +0.031 Dice [0.024, 0.038], p < 0.001, 15 of 15
            subjects better, +1.2 % time per step".
    """

    network: str
    variant: str
    kind: Kind
    text: str


def verdicts(comparison: Comparison, costs: pd.DataFrame | None = None) -> list[Verdict]:
    """One verdict for each network and variant but the baseline.

    The effect is the median difference over subjects with its bootstrap 95 % interval; p is corrected after Holm
    over the variants of the network. Seeds agree whose mean difference has the sign of the effect.

    Args:
        comparison: what `compare` found.
        costs: network, variant and step_ratio (time of a training step relative to the plain network's).
    """
    ratios = {} if costs is None else costs.set_index(["network", "variant"])["step_ratio"].to_dict()
    base = variant_name(comparison.baseline)
    told = []
    for test in comparison.tests[comparison.tests["structure"] == ALL].to_dict("records"):
        network, variant = test["network"], test["variant"]
        name, effect = variant_name(variant), _effect(test, comparison.metric)
        counted = f"{test['n']} subject{'' if test['n'] == 1 else 's'}"
        p = f"p {p_text(test['p_holm'])}"
        texts = {
            "better": f"{name} is better than {base}: {effect}, {p}, {test['better']} of {counted} better",
            "worse": f"{name} is worse than {base}: {effect}, {p}, {test['worse']} of {counted} worse",
            "same": f"{name}: no detectable difference: {effect}, {p}{_doubt(test)}, {counted}",
            "few": f"{name}: too little data: {effect}, {counted}; no significance can be reached with fewer than "
            f"{FEWEST_PAIRS} paired subjects",
        }
        parts = [texts[test["kind"]], _seeds(test)]
        parts.append(f"{test['missing']} pairs missing" if test["missing"] else "")
        parts.append(_cost(ratios, network, variant, comparison.baseline))
        told.append(Verdict(network, variant, test["kind"], ", ".join(part for part in parts if part)))
    return told


def headlines(comparison: Comparison) -> dict[str, str]:
    """For each network, which variants are better than the baseline, if any, and which worse."""
    base = variant_name(comparison.baseline)
    tests = comparison.tests[comparison.tests["structure"] == ALL]
    lines = {}
    for network in comparison.summary["network"].unique():
        rows = tests[tests["network"] == network]
        names = {kind: [variant_name(v) for v in rows["variant"][rows["kind"] == kind]] for kind in ("better", "worse")}
        told = [
            f"{', '.join(found)} {'is' if len(found) == 1 else 'are'} {kind} than {base}"
            for kind, found in names.items()
            if found
        ]
        if rows.empty:
            told = [f"nothing to compare with {base}"]
        elif (rows["kind"] == "few").all():
            told = ["too little data"]
        elif not names["better"]:
            told = [f"no variant is detectably better than {base}", *told]
        lines[network] = "; ".join(told)
    return lines


def verdict_text(comparison: Comparison, costs: pd.DataFrame | None = None) -> str:
    """The headline of each network, and below it the verdicts on its variants."""
    found = verdicts(comparison, costs)
    lines = []
    for network, headline in headlines(comparison).items():
        lines.append(f"{network_name(network)}: {headline}.")
        lines += [f"  {verdict.text}." for verdict in found if verdict.network == network]
    return "\n".join(lines)


def p_text(p: float) -> str:
    """Write a p-value for reading after the letter p: "= 0.004", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3g}"


def effect_text(middle: float, low: float, high: float) -> tuple[str, str]:
    """A difference and its interval for reading, "+0.031" and "[0.024, 0.038]"; the latter is empty if it is NaN.

    Three decimals, or as many more (up to 6) as it takes to tell the ends of the interval from zero.
    """
    sizes = [abs(x) for x in ((middle,) if math.isnan(low) else (low, high)) if x]
    decimals = min(6, max([3, *(-math.floor(math.log10(size)) for size in sizes)]))
    interval = "" if math.isnan(low) else f"[{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{middle:+z.{decimals}f}", interval


def _effect(test: Mapping[Hashable, Any], metric: str) -> str:
    if not test["n"]:
        return "no effect can be estimated"
    middle, interval = effect_text(test["median_difference"], test["low"], test["high"])
    return f"{middle} {UNITS.get(metric, metric)} {interval}".rstrip()


def _doubt(test: Mapping[Hashable, Any]) -> str:
    if not test["p_holm"] < LEVEL or contradicted(test):
        return ""
    held = test["low"] <= 0 <= test["high"]
    return ", but the interval holds zero" if held else ", but the estimates differ in direction"


def _seeds(test: Mapping[Hashable, Any]) -> str:
    but = "but only " if test["p_holm"] < LEVEL and contradicted(test) else ""
    return f"{but}{test['seeds_agree']} of {test['seeds']} seeds agree" if test["seeds"] > 1 else ""


def _cost(ratios: Mapping[Hashable, float], network: str, variant: str, baseline: str) -> str:
    ratio = ratios.get((network, variant), math.nan) / ratios.get((network, baseline), math.nan)
    return "" if math.isnan(ratio) else f"{100 * (ratio - 1):+.1f} % time per step"
