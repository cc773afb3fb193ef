"""Verdicts: the result of a comparison in sentences made by fixed rules (docs/statistics.md)."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from scse.evaluation.comparison import ALL, Comparison
from scse.evaluation.setups import of_setup, setup_of
from scse.evaluation.statistics import FEWEST_CASES, FEWEST_TRAININGS, LEVEL
from scse.support.text import counted
from scse.vocabulary.titles import variant_name

Kind = Literal["better", "worse", "equivalent", "undecided", "few_trainings", "few_cases"]
UNITS = {"dice": "Dice", "hd95": "mm HD95", "msd": "mm MSD"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on one variant over all structures.

    Attributes:
        network: Name of the network, as in the scores.
        variant: Name of the variant, as in the scores.
        kind: Result by the rules of `compare`.
        text: Sentence, such as "scSE is better than plain: +0.031 Dice [0.024, 0.038], p < 0.001, 5 trainings and
            15 cases, +1.2 % time per step".
        epochs: Number of epochs if the scores have this column, else None.
        train_cases: Number of training cases if the scores have this column, else None.
    """

    network: str
    variant: str
    kind: Kind
    text: str
    epochs: int | None = None
    train_cases: int | None = None


def verdicts(comparison: Comparison, costs: pd.DataFrame | None = None) -> list[Verdict]:
    """One verdict for each setup and each variant except the baseline.

    The effect is the mean paired difference with its 95 % interval. The p-value is corrected after Holm over the
    variants of the setup.

    Args:
        comparison: Result of `compare`.
        costs: Table with the columns network, variant and step_ratio (time of a training step relative to that of the
            plain network), and epochs and train_cases if the scores have them.
    """
    found = []
    for setup, part in comparison.per_setup():
        ratios = {} if costs is None else of_setup(costs, setup).set_index("variant")["step_ratio"].to_dict()
        apart = max(part.noise["apart"], default=math.nan)
        for test in part.tests[part.tests["structure"] == ALL].to_dict("records"):
            parts = [
                _finding(comparison, test),
                f"{counted(test['trainings'], 'training')} and {counted(test['n'], 'case')}",
                f"{counted(test['missing'], 'pair')} missing" if test["missing"] else "",
                _cost(ratios, test["variant"], comparison.baseline),
            ]
            text = ", ".join(part for part in parts if part) + _advice(comparison, test, apart)
            found.append(Verdict(variant=test["variant"], kind=test["kind"], text=text, **asdict(setup)))
    return found


def headlines(comparison: Comparison) -> dict[str, str]:
    """One line for each setup that lists which variants are better than the baseline, worse, and so on.

    Keys are texts such as "unet", or "unet[epochs=3]" if epochs are varied; see `Setup.text`.
    """
    base = variant_name(comparison.baseline)
    results = {
        "better": f"better than {base}",
        "worse": f"worse than {base}",
        "equivalent": f"equivalent to {base} within {comparison.margin} {_unit(comparison)}",
        "undecided": "undecided",
    }
    lines = {}
    for setup, part in comparison.per_setup():
        rows = part.tests[part.tests["structure"] == ALL]
        names = {kind: [variant_name(v) for v in group["variant"]] for kind, group in rows.groupby("kind")}
        parts = [
            f"{', '.join(names[kind])} {'is' if len(names[kind]) == 1 else 'are'} {result}"
            for kind, result in results.items()
            if kind in names
        ]
        for kind, what in (("few_trainings", "trainings"), ("few_cases", "cases")):
            if kind in names:
                of_variants = "" if len(names[kind]) == len(rows) else f" of {', '.join(names[kind])}"
                parts.append(f"too few {what}{of_variants} to decide")
        lines[setup.text] = "; ".join(parts) or f"nothing to compare with {base}"
    return lines


def noise_texts(comparison: Comparison) -> dict[str, str]:
    """A sentence about the noise floor of each setup with at least two trainings of the baseline.

    Keys are those of `headlines`.
    """
    base, unit = variant_name(comparison.baseline), _unit(comparison)
    texts = {}
    for row in comparison.noise.to_dict("records"):
        apart, _ = effect_text(row["apart"], math.nan, math.nan)
        text = f"Two trainings of {base} differ by {apart.lstrip('+')} {unit} on average ({row['trainings']} trainings)"
        if row["splits"]:
            alarms = round(row["alarms"] * row["splits"])
            splits = f"all {row['splits']} splits" if row["exact"] else f"{row['splits']:,} random splits"
            text += (
                f"; {base} compared with itself, {row['against']} trainings against {row['against']}, has p < {LEVEL} "
                f"in {alarms} of {splits} ({100 * row['alarms']:.1f} %)"
            )
        texts[setup_of(row).text] = text
    return texts


def verdict_text(comparison: Comparison, costs: pd.DataFrame | None = None) -> str:
    """The headline of each setup, followed by the verdicts on its variants and the noise floor."""
    lines = []
    for setup, part in comparison.per_setup():
        texts = [*(verdict.text for verdict in verdicts(part, costs)), *noise_texts(part).values()]
        lines += [f"{setup.name}: {headlines(part)[setup.text]}.", *(f"  {text}." for text in texts)]
    return "\n".join(lines)


def p_text(p: float) -> str:
    """Format a p-value for use after the letter p: "= 0.004", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3g}"


def effect_text(middle: float, low: float, high: float) -> tuple[str, str]:
    """Format a difference and its interval: "+0.031" and "[0.024, 0.038]"; the latter is "" if the interval is NaN.

    They have three decimals, or up to six if needed to distinguish the bounds of the interval from zero.
    """
    sizes = [abs(x) for x in ((middle,) if math.isnan(low) else (low, high)) if x]
    decimals = min(6, max([3, *(-math.floor(math.log10(size)) for size in sizes)]))
    interval = "" if math.isnan(low) else f"[{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{middle:+z.{decimals}f}", interval


def _finding(comparison: Comparison, test: Mapping[Hashable, Any]) -> str:
    """The result of one variant, with its effect and p-value."""
    name, base, unit = variant_name(test["variant"]), variant_name(comparison.baseline), _unit(comparison)
    kind, effect, p = test["kind"], _effect(test, unit), f"p {p_text(test['p_holm'])}"
    if kind in {"few_cases", "few_trainings"}:
        return f"{name}: too {kind.replace('_', ' ')}: {effect} observed"
    if kind == "equivalent":
        equivalence = f"equivalence p {p_text(test['p_equivalent_holm'])}"
        difference = f", difference {p}" if test["p_holm"] < LEVEL else ""
        return f"{name} is equivalent to {base} within {comparison.margin} {unit}: {effect}, {equivalence}{difference}"
    if kind == "undecided":
        return f"{name}: undecided: {effect}, {p}"
    return f"{name} is {kind} than {base}: {effect}, {p}"


def _advice(comparison: Comparison, test: Mapping[Hashable, Any], apart: float) -> str:
    """What is needed for a decision, or "" if there is one.

    `apart` is the mean difference of two trainings of the baseline, or NaN.
    """
    if test["kind"] == "few_cases":
        return f"; a verdict needs {FEWEST_CASES} or more cases"
    if test["kind"] == "few_trainings":
        base = variant_name(comparison.baseline)
        known = "" if math.isnan(apart) else f"two trainings of {base} differ by {_size(apart)} on average, and "
        return f"; {known}a verdict needs {FEWEST_TRAININGS} or more trainings (--seeds {FEWEST_TRAININGS})"
    if test["kind"] != "undecided":
        return ""
    found = f"; a study of this size detects differences of {_size(test['detectable'])} or more"
    if comparison.margin is None:
        return found
    if math.isinf(test["needed"]):
        return f"{found}; detecting {comparison.margin} needs more cases, more trainings are not enough"
    return f"{found}; detecting {comparison.margin} needs about {test['needed']:.0f} trainings"


def _unit(comparison: Comparison) -> str:
    return UNITS.get(comparison.metric, comparison.metric)


def _effect(test: Mapping[Hashable, Any], unit: str) -> str:
    if not test["n"]:
        return "no effect"
    middle, interval = effect_text(test["difference"], test["low"], test["high"])
    return f"{middle} {unit} {interval}".rstrip()


def _size(value: float) -> str:
    return effect_text(value, math.nan, math.nan)[0].lstrip("+")


def _cost(ratios: Mapping[Hashable, float], variant: str, baseline: str) -> str:
    ratio = ratios.get(variant, math.nan) / ratios.get(baseline, math.nan)
    return "" if math.isnan(ratio) else f"{100 * (ratio - 1):+.1f} % time per step"
