"""Paired comparison of variants over the tidy table of scores."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scse.evaluation.noise import noise_floor
from scse.evaluation.pairing import (
    HIGHER_IS_BETTER,
    Floats,
    Grid,
    check_scores,
    grids,
    lower_better,
    mean,
    without_control,
)
from scse.evaluation.power import Design, Spread, detectable, trainings_needed
from scse.evaluation.setups import of_setup, setups, stack
from scse.evaluation.statistics import (
    FEWEST_CASES,
    FEWEST_TRAININGS,
    LEVEL,
    Estimate,
    estimate,
    fold_overlap,
    holm,
    join,
)
from scse.support.atomic import write_atomic
from scse.support.errors import UserError
from scse.vocabulary.titles import Setup

ALL = "all structures"
DECIMALS = 12  # differences are rounded, so that equal scores count as equal despite rounding errors of averages
MARGIN = 0.005
"""Default margin of metrics between 0 and 1, such as Dice."""

TABLES = ("summary", "structures", "tests", "seeds", "noise", "missing")
NOISE = ["trainings", "apart", "against", "splits", "exact", "alarms"]


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`. All folds of one seed of a variant are one training.

    Tables have the columns epochs and train_cases after network if the scores have them.

    Attributes:
        baseline: Variant with which the others are compared.
        metric: Metric, such as "dice", "hd95" (mm) or "msd" (mm).
        lower_is_better: Whether lower values of the metric are better.
        margin: Largest irrelevant difference, in units of the metric; None if it is neither given nor known.
        summary: Table with the columns network, variant, mean, sd, median, cases, absent, lacking, seeds, sd_seeds.
            Mean, standard deviation and median are taken over cases, of the mean over structures. `absent` is the
            number of NaN scores, `lacking` the number of scores without a row although the network has the case and
            seed of the fold and the structure. `sd_seeds` is the standard deviation over seeds of the mean over cases,
            NaN with one seed.
        structures: Table with the columns network, variant, structure, mean, sd, median, n: the same for each
            structure.
        tests: Table with the columns network, variant, structure, trainings, n, missing, difference, low, high, p,
            p_holm, p_equivalent, p_equivalent_holm, sd_trainings, sd_blocks, sd_rest, detectable, needed, better,
            equal, worse, kind. Each variant except the baseline has one row for `ALL` structures together and one for
            each structure. `difference` is the mean of variant minus baseline, `low` and `high` its 95 % interval, `p`
            the p-value of no difference, and `p_equivalent` that of a difference as large as the margin, all by the
            model of `estimate` with `trainings` x `n` cases. They are NaN with fewer than 3 trainings or 6 cases.
            `missing` is the number of pairs (one per seed, fold and case) that could not be formed. For the standard
            deviations see `Spread`. `detectable` is the smallest difference that a study of this size detects with
            80 % power, `needed` the number of trainings that detect the margin with this power (infinite: more than
            1,000); both are NaN except for `ALL`. `better`, `equal` and `worse` are numbers of cases and follow the
            direction of the metric. `kind` is "better", "worse", "equivalent", "undecided", "few_trainings" or
            "few_cases", by the rules of `compare`.
        seeds: Table with the columns network, variant, seed, mean, difference, cases: mean over cases, and mean
            difference to the baseline (NaN for the baseline), of each seed.
        noise: Table with the column network and the attributes of `Noise`, for networks with at least two trainings of
            the baseline.
        missing: Table with the columns network, variant, seed, fold, case, structure, why: all missing scores, where
            `why` is "NaN" or "no row".
    """

    baseline: str
    metric: str
    lower_is_better: bool
    margin: float | None
    summary: pd.DataFrame
    structures: pd.DataFrame
    tests: pd.DataFrame
    seeds: pd.DataFrame
    noise: pd.DataFrame
    missing: pd.DataFrame

    def per_setup(self) -> Iterator[tuple[Setup, Self]]:
        """Each setup, with the comparison within it."""
        for setup in setups(self.summary):
            tables: dict[str, Any] = {name: of_setup(getattr(self, name), setup) for name in TABLES}
            yield setup, replace(self, **tables)


class _Pairs(NamedTuple):
    """Paired differences of one test; `cases` has the mean over trainings of each case, of so many `subjects`."""

    variant: str
    structure: str
    missing: int
    cases: Floats
    estimate: Estimate
    overlap: float
    subjects: int


def compare(
    scores: pd.DataFrame,
    *,
    baseline: str = "none",
    metric: str = "dice",
    lower_is_better: bool | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compare each variant with the baseline in each setup, on the same cases and seeds.

    If the scores have the column subject, cases of one subject count as one: the model has their mean difference in the
    place of a case, and what needs 6 cases needs 6 subjects.

    A setup is a network or, if the scores have the columns epochs or train_cases, a network with these numbers.

    The mean paired difference over new cases and new trainings of the recipe is estimated by a model in which both are
    random samples (docs/statistics.md, `estimate`). Scores are paired by seed, fold, case and structure; for `ALL`,
    differences are first averaged over the structures that both variants have. Holm's correction (1979) is applied to
    two families in each setup: A, the `ALL` tests of its variants; B, all its tests of single structures
    (structures x variants).

    Rules of `kind`: "few_cases" with fewer than 6 paired cases; "few_trainings" with fewer than 3 trainings;
    "equivalent" if the corrected p-value of a difference as large as the margin is below 0.05; "better" or "worse" if
    the corrected p-value of no difference is below 0.05; otherwise "undecided". The first rule that applies counts.

    Trainings that only the baseline has are used only for the noise floor. The model needs every case in every
    training: trainings that lack more than half of the cases are left out, then cases that lack a training.

    Args:
        scores: Tidy table with the columns network, variant, seed, fold, case, structure, metric, value, and epochs and
            train_cases if these are varied.
        baseline: Variant with which the others are compared.
        metric: Metric to compare.
        lower_is_better: Whether lower values are better; required for unknown metrics.
        margin: Largest irrelevant difference, in units of the metric. The default is 0.005 for metrics between 0 and
            1, and None for others, for which no variant is called equivalent.

    Raises:
        UserError: A column is missing, a value is infinite, a number of epochs or training cases is not a whole number,
            a score occurs twice, the baseline or metric does not occur, it is not known whether lower values are
            better, or the margin is not positive.
    """
    check_scores(scores, metric, baseline)
    lower, margin = lower_better(metric, lower_is_better), chosen_margin(metric, margin)
    paired = grids(without_control(scores, baseline), metric, baseline)
    found = [(grid.setup, _tables(grid, baseline, lower, margin)) for grid in paired]
    everything = grids(scores, metric, baseline)
    return Comparison(
        baseline=baseline,
        metric=metric,
        lower_is_better=lower,
        margin=margin,
        noise=stack((grid.setup, pd.DataFrame(_noise_rows(grid, baseline), columns=NOISE)) for grid in everything),
        **{name: stack((setup, tables[name]) for setup, tables in found) for name in found[0][1]},
    )


def chosen_margin(metric: str, margin: float | None = None) -> float | None:
    """The given margin, or the default of the metric.

    Raises:
        UserError: The margin is not positive.
    """
    if margin is None:
        return MARGIN if metric.lower() in HIGHER_IS_BETTER else None
    if not margin > 0:
        raise UserError(f"margin must be positive, in units of {metric}, got {margin}")
    return margin


def table_paths(folder: Path) -> list[Path]:
    """Paths of the files that `write_tables` writes."""
    return [folder / f"{name}.csv" for name in (*TABLES, "ranking")]


def write_tables(comparison: Comparison, ranks: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the tables of a comparison and of `ranking` as CSV files into `folder`, and return their paths."""
    tables = [getattr(comparison, name) for name in TABLES]
    paths = table_paths(folder)
    for path, table in zip(paths, [*tables, ranks], strict=True):
        write_atomic(path, table.to_csv(index=False).encode())
    return paths


def _tables(grid: Grid, baseline: str, lower: bool, margin: float | None) -> dict[str, pd.DataFrame]:
    """The tables of one setup, without its columns."""
    seeds = pd.DataFrame(_seed_rows(grid, baseline), columns=["variant", "seed", "mean", "difference", "cases"])
    structures = pd.DataFrame(_structure_rows(grid), columns=["variant", "structure", "mean", "sd", "median", "n"])
    missing, tests = _missing(grid), _tests(list(_pairs(grid, baseline)), lower, margin)
    summary = _summary(grid, seeds, missing)
    return {"summary": summary, "structures": structures, "tests": tests, "seeds": seeds, "missing": missing}


def _summary(grid: Grid, seeds: pd.DataFrame, missing: pd.DataFrame) -> pd.DataFrame:
    subjects = mean(_subjects(grid), axis=2)[:, :, 0]
    rows = [(variant, *_spread(values)) for variant, values in zip(grid.variants, subjects, strict=True)]
    summary = pd.DataFrame(rows, columns=["variant", "mean", "sd", "median", "cases"])
    for column, why in (("absent", "NaN"), ("lacking", "no row")):
        counts = missing.loc[missing["why"] == why, "variant"].value_counts()
        summary[column] = [int(counts.get(variant, 0)) for variant in grid.variants]
    return summary.join(seeds.groupby("variant")["mean"].agg(seeds="size", sd_seeds="std"), on="variant")


def _subjects(grid: Grid) -> Floats:
    """Means over seeds and folds: (variants, cases, structures)."""
    return np.stack([grid.by_subject(values) for values in grid.values])


def _spread(values: Floats) -> tuple[float, float, float, int]:
    """Mean, standard deviation, median and number of all values that are not NaN."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan, np.nan, 0
    sd = float(known.std(ddof=1)) if len(known) > 1 else np.nan
    return float(known.mean()), sd, float(np.median(known)), len(known)


def _structure_rows(grid: Grid) -> Iterator[tuple[Any, ...]]:
    for variant, values in zip(grid.variants, _subjects(grid), strict=True):
        for structure, column in zip(grid.structures, values.T, strict=True):
            yield variant, structure, *_spread(column)


def _with_all(single: Floats) -> Floats:
    """Prepend the mean over structures to values (units, structures)."""
    return np.concatenate([mean(single, axis=1), single], axis=1)


def _others(grid: Grid, baseline: str) -> Iterator[tuple[str, Floats]]:
    """Variants to be compared, with their differences (units, 1 + structures): of `ALL`, then of each structure.

    Nothing is yielded for a network without the baseline.
    """
    if grid.variants[0] == baseline:
        for place, variant in enumerate(grid.variants[1:], start=1):
            yield variant, _with_all(grid.values[place] - grid.values[0])


def _seed_rows(grid: Grid, baseline: str) -> Iterator[tuple[Any, ...]]:
    differences = dict(_others(grid, baseline))
    numbers, seeds = grid.seeds
    for variant, values in zip(grid.variants, grid.values, strict=True):
        for number, seed in enumerate(seeds):
            chosen = numbers == number
            average, _, _, cases = _spread(mean(grid.by_subject(values, units=chosen), axis=1)[:, 0])
            difference = np.nan
            if variant in differences:
                difference = _spread(grid.by_subject(differences[variant][:, 0], units=chosen))[0]
            yield variant, seed, average, difference, cases


def _missing(grid: Grid) -> pd.DataFrame:
    variant, unit, structure = np.nonzero(np.isnan(grid.values))
    return pd.DataFrame(
        {
            "variant": np.array(grid.variants, dtype=object)[variant],
            **{key: grid.units[key].to_numpy()[unit] for key in ("seed", "fold", "case")},
            "structure": np.array(grid.structures, dtype=object)[structure],
            "why": np.where(grid.present[variant, unit, structure], "NaN", "no row"),
        }
    )


def _pairs(grid: Grid, baseline: str) -> Iterator[_Pairs]:
    blocks_of = _blocks_of(grid)
    for variant, differences in _others(grid, baseline):
        tables = grid.by_training(differences.round(DECIMALS))
        missing = np.isnan(differences).sum(axis=0)
        for place, structure in enumerate([ALL, *grid.structures]):
            table, kept = _complete(tables[:, :, place])
            blocks, overlap = blocks_of(table, kept)
            # the mean is taken over cases, because folds and subjects may differ in size
            found = replace(estimate(blocks, overlap=overlap), difference=table.sum() / (table.size or np.nan))
            cases = table.mean(axis=0).round(DECIMALS)
            subjects = len(cases) if grid.groups is None else len(np.unique(grid.groups[kept]))
            yield _Pairs(variant, structure, int(missing[place]), cases, found, overlap, subjects)


def _complete(table: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The part (K, n) of a table (seeds, cases) without gaps, and a mask of its cases.

    Seeds that lack more than half of the cases are left out, then cases that lack a seed. If nothing is left, all
    seeds count as one training, with the mean over the existing seeds for each case.
    """
    there = np.isfinite(table)
    cases = np.asarray(there.any(axis=0))
    seeds = there.any(axis=1) & (2 * there.sum(axis=1) >= cases.sum())
    both = np.asarray(cases & there[seeds].all(axis=0))
    if seeds.any() and both.any():
        return table[np.ix_(seeds, both)], both
    return mean(table[:, cases], axis=0), cases


def _blocks_of(grid: Grid) -> Callable[[Floats, NDArray[np.bool_]], tuple[Floats, float]]:
    """Function from a table (K, n) of the cases of a mask to that of `estimate`, (K, blocks), and the overlap.

    Blocks are folds in a cross-validation, otherwise subjects, or cases where no two are of one subject.
    """
    folds = grid.folds()
    numbers = grid.groups if folds is None else folds

    def blocks(table: Floats, kept: NDArray[np.bool_]) -> tuple[Floats, float]:
        if numbers is None or not kept.any():  # a structure without scores has no cases
            return table, 0.0
        of_case = numbers[kept]
        means = np.stack([table[:, of_case == number].mean(axis=1) for number in np.unique(of_case)], axis=1)
        return means, 0.0 if folds is None else fold_overlap(means.shape[1])

    return blocks


def _noise_rows(grid: Grid, baseline: str) -> Iterator[dict[str, Any]]:
    if grid.variants[0] != baseline:
        return
    table, kept = _complete(grid.by_training(_with_all(grid.values[0])[:, :1])[:, :, 0])
    if len(table) < 2:
        return
    blocks, overlap = _blocks_of(grid)(table, kept)
    yield asdict(noise_floor(blocks, overlap=overlap))


def _tests(pairs: list[_Pairs], lower: bool, margin: float | None) -> pd.DataFrame:
    tests = pd.DataFrame([each[:3] for each in pairs], columns=["variant", "structure", "missing"])
    found = join([each.estimate for each in pairs])
    gains = [-each.cases if lower else each.cases for each in pairs]
    tests["trainings"] = found.trainings
    tests["n"] = [len(each.cases) for each in pairs]
    tests["difference"] = found.difference
    few = np.array([each.subjects < FEWEST_CASES for each in pairs], dtype=bool)
    enough = (tests["trainings"] >= FEWEST_TRAININGS).to_numpy() & ~few
    low, high = found.interval()
    values = {
        "low": low,
        "high": high,
        "p": found.p(),
        "p_equivalent": found.p_equivalent(margin) if margin else np.full(len(tests), np.nan),
        **dict(zip(("sd_trainings", "sd_blocks", "sd_rest"), found.components, strict=True)),
    }
    for name, column in values.items():
        tests[name] = np.where(enough, column, np.nan)
    for name in ("p", "p_equivalent"):
        tests[f"{name}_holm"] = tests.groupby(tests["structure"] == ALL)[name].transform(
            lambda p: holm(p.to_numpy(dtype=np.float64))
        )
    tests["detectable"], tests["needed"] = _detectable(tests, pairs, margin)
    for name, counted in (("better", np.greater), ("equal", np.equal), ("worse", np.less)):
        tests[name] = [int(counted(gain, 0).sum()) for gain in gains]
    return tests.assign(kind=_kinds(tests, few, lower))


def _detectable(tests: pd.DataFrame, pairs: list[_Pairs], margin: float | None) -> tuple[list[float], list[float]]:
    """The columns `detectable` and `needed`."""
    detected, needed = [], []
    compared = int(((tests["structure"] == ALL) & tests["p"].notna()).sum())
    for row, each in zip(tests.to_dict("records"), pairs, strict=True):
        if row["structure"] != ALL or np.isnan(row["p"]):
            detected.append(np.nan)
            needed.append(np.nan)
            continue
        spread = Spread(row["sd_trainings"], row["sd_blocks"], row["sd_rest"])
        design = Design(int(each.estimate.blocks), compared, each.overlap)
        detected.append(detectable(spread, design, row["trainings"]))
        enough = trainings_needed(spread, design, margin) if margin else np.nan
        needed.append(np.inf if enough is None else enough)
    return detected, needed


def _kinds(tests: pd.DataFrame, few: NDArray[np.bool_], lower: bool) -> list[str]:
    """Apply the rules of `kind`, see `compare`."""
    up = ((tests["difference"] > 0) != lower).to_numpy()
    apart = (tests["p_holm"] < LEVEL).to_numpy()
    rules = {
        "few_cases": few,
        "few_trainings": (tests["trainings"] < FEWEST_TRAININGS).to_numpy(),
        "equivalent": (tests["p_equivalent_holm"] < LEVEL).to_numpy(),
        "better": apart & up,
        "worse": apart & ~up,
    }
    return [str(kind) for kind in np.select(list(rules.values()), list(rules), "undecided")]
