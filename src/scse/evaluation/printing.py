"""Text tables of a comparison for the terminal."""

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from scse.evaluation.comparison import ALL, Comparison
from scse.evaluation.setups import of_setup, per_setup
from scse.evaluation.verdict import UNITS, effect_text, p_text
from scse.support.text import counted, shortened_list
from scse.vocabulary.titles import variant_name

NOTHING = "-"
TEST_HEADINGS = (
    "variant",
    "difference [95 %]",
    "p",
    "p Holm",
    "p equivalent",
    "better/equal/worse",
    "trainings",
    "cases",
    "sd trainings",
    "sd cases",
    "sd rest",
    "detectable",
    "missing",
)


class Printed(NamedTuple):
    """A text table."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def printed(comparison: Comparison, ranks: pd.DataFrame) -> Iterator[Printed]:
    """Tables of each setup: scores, tests over all structures, tests of each structure, seeds, and ranking.

    Args:
        comparison: Result of `compare`.
        ranks: Result of `ranking`.
    """
    unit = UNITS.get(comparison.metric, comparison.metric)
    direction = "lower is better" if comparison.lower_is_better else "higher is better"
    base = variant_name(comparison.baseline)
    margin = "" if comparison.margin is None else f"; margin {comparison.margin}"
    for setup, part in comparison.per_setup():
        name, ranked = setup.name, of_setup(ranks, setup).to_dict("records")
        summary, tests = part.summary.to_dict("records"), part.tests.to_dict("records")
        yield Printed(
            f"{name}: {unit} over cases, mean over structures, {direction}",
            ("variant", "mean", "sd", "median", "cases", "seeds", "sd over seeds", "NaN", "no row"),
            [_summary(row) for row in summary],
        )
        overall = [row for row in tests if row["structure"] == ALL]
        if overall:
            yield Printed(
                f"{name}: all structures, mean difference to {base}; Holm over {len(overall)} variants{margin}",
                TEST_HEADINGS,
                [_test(row) for row in overall],
            )
            single = [row for row in tests if row["structure"] != ALL]
            yield Printed(
                f"{name}: each structure, mean difference to {base} [95 %]; Holm over {len(single)} tests",
                ("structure", *(variant_name(row["variant"]) for row in overall)),
                _by_structure(single),
            )
        if summary[0]["seeds"] > 1:
            yield Printed(
                f"{name}: each seed separately",
                ("variant", "seed", "mean", f"mean difference to {base}", "cases"),
                [_seed(row) for row in part.seeds.to_dict("records")],
            )
        common, alone = ranked[0]["cases"], summary[0]["seeds"] == 1
        drawn = "cases; with one seed, other trainings may rank differently" if alone else "cases and seeds"
        yield Printed(
            f"{name}: ranks by the mean over {common} common cases, and in bootstraps over {drawn}",
            ("variant", "rank", "ranked first", "95 % of ranks"),
            [_rank(row) for row in ranked],
        )


def missing_lines(comparison: Comparison) -> list[str]:
    """One line about missing scores for each setup, variant and reason; [] if no score is missing."""
    return [
        f"missing: {setup.name}, {variant_name(str(variant))}: {'NaN in' if why == 'NaN' else 'no row for'} "
        f"{counted(len(rows), 'score')} (cases {shortened_list(list(map(str, rows['case'].unique())), 3)}); "
        "left out of means and pairs"
        for setup, missing in per_setup(comparison.missing)
        for (variant, why), rows in missing.groupby(["variant", "why"], sort=False)
    ]


def _summary(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    numbers = (_number(row[key]) for key in ("mean", "sd", "median"))
    counts = (str(row["cases"]), str(row["seeds"]), _number(row["sd_seeds"]), str(row["absent"]), str(row["lacking"]))
    return variant_name(row["variant"]), *numbers, *counts


def _test(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    return (
        variant_name(row["variant"]),
        _effect(row),
        *(_p(row[key]) for key in ("p", "p_holm", "p_equivalent_holm")),
        f"{row['better']}/{row['equal']}/{row['worse']}",
        str(row["trainings"]),
        str(row["n"]),
        *(_number(row[key], digits=4) for key in ("sd_trainings", "sd_blocks", "sd_rest", "detectable")),
        str(row["missing"]),
    )


def _seed(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    numbers = (_number(row["mean"]), _number(row["difference"], "+"))
    return variant_name(row["variant"]), str(row["seed"]), *numbers, str(row["cases"])


def _by_structure(tests: list[dict[Hashable, Any]]) -> list[tuple[str, ...]]:
    cells: dict[str, list[str]] = {}
    for row in tests:
        lost = f", {row['n']} cases" if row["missing"] else ""
        few = {"few_trainings": "too few trainings", "few_cases": "too few cases"}
        p = few.get(row["kind"]) or f"p {p_text(row['p_holm'])}"
        cells.setdefault(row["structure"], []).append(f"{_effect(row)} {p}{lost}")
    return [(structure, *texts) for structure, texts in cells.items()]


def _rank(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    if not row["cases"]:
        return variant_name(row["variant"]), NOTHING, NOTHING, NOTHING
    span = f"{row['low']:.0f} to {row['high']:.0f}"
    return variant_name(row["variant"]), f"{row['rank']:.0f}", f"{100 * row['first']:.0f} %", span


def _effect(row: Mapping[Hashable, Any]) -> str:
    if not row["n"]:
        return NOTHING
    return " ".join(effect_text(row["difference"], row["low"], row["high"])).rstrip()


def _number(value: float, sign: str = "", *, digits: int = 3) -> str:
    return NOTHING if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _p(p: float) -> str:
    return NOTHING if math.isnan(p) else p_text(p).removeprefix("= ")
