"""Paired comparison of variants over the tidy table of scores."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scse.atomic import write_atomic
from scse.evaluation.pairing import Floats, Grid, check_scores, grids, lower_better, mean
from scse.evaluation.statistics import (
    FEWEST_PAIRS,
    LEVEL,
    RESAMPLES,
    hodges_lehmann,
    holm,
    median_interval,
    rank_biserial,
    wilcoxon,
)

ALL = "all structures"
DECIMALS = 12  # equal scores must count as equal whatever the rounding of their averages


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. Subjects are cases; scores of a case are averaged over seeds and folds.

    Attributes:
        baseline: the variant that the others are compared with.
        metric: such as "dice", "hd95" (mm) or "msd" (mm).
        lower_is_better: whether lower values of it are better.
        summary: network, variant, mean, sd, median, cases, absent, lacking, seeds, sd_seeds. Mean, standard
            deviation and median over subjects of the mean over structures; `absent` counts the NaN scores,
            `lacking` the ones that have no row although that network has the fold's case and seed and the
            structure; `sd_seeds` is the standard deviation over seeds of the mean over subjects, NaN with one seed.
        structures: network, variant, structure, mean, sd, median, n; the same for each structure alone.
        tests: network, variant, structure, n, missing, median_difference, low, high, mean_difference,
            hodges_lehmann, rank_biserial, better, equal, worse, p, exact, seeds, seeds_agree, p_holm, kind. One row for
            `ALL` structures together and one for each, of every variant but the baseline. Differences are variant minus
            baseline; better and worse know the direction of the metric; `n` counts paired subjects, `missing` the
            pairs (one per seed, fold and case) that could not be formed; low and high are the bootstrap 95 %
            interval of the median difference; `exact` tells whether p is; `seeds` counts the seeds with pairs, and
            `seeds_agree` those of them whose mean difference has the sign of the median; `kind` is "better",
            "worse", "same" (no detectable difference) or "few" (too little data), by the rules of `compare`.
        seeds: network, variant, seed, mean, difference, cases. Mean over subjects, and mean difference to the
            baseline (NaN for itself), of one seed alone.
        missing: network, variant, seed, fold, case, structure, why. Every score that is not there: "NaN" or "no row".
    """

    baseline: str
    metric: str
    lower_is_better: bool
    summary: pd.DataFrame
    structures: pd.DataFrame
    tests: pd.DataFrame
    seeds: pd.DataFrame
    missing: pd.DataFrame


class _Pairs(NamedTuple):
    network: str
    variant: str
    structure: str
    missing: int
    differences: Floats
    of_seeds: Floats


def compare(
    scores: pd.DataFrame,
    *,
    baseline: str = "none",
    metric: str = "dice",
    lower_is_better: bool | None = None,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare each variant with the baseline, network by network, on the same cases.

    Scores pair by seed, fold, case and structure. Differences are averaged over seeds and folds, for `ALL` first
    over the structures that both variants have, so that one number per subject remains. On these numbers
    (docs/statistics.md): the median with a bootstrap 95 % interval, the Hodges-Lehmann estimate, the matched-pairs
    rank-biserial correlation and the exact two-sided Wilcoxon signed-rank test. Holm's correction (1979) is made
    over two families in each network: A, the `ALL` tests of its variants; B, all its tests of single structures
    (structures x variants).

    The rules of `kind`: with fewer than 6 paired subjects "few", and interval and p are NaN. "better" or "worse" if
    the corrected p is below 0.05, the median, the Hodges-Lehmann estimate and both ends of the interval lie on
    that side of zero, and so does, if there are several seeds, the mean difference of more than half of them.
    Anything else is "same".

    Args:
        scores: the tidy table with the columns network, variant, seed, fold, case, structure, metric, value.
        baseline: the variant to compare with.
        metric: the metric to compare.
        lower_is_better: needed for a metric that is not known.
        resamples: of the bootstrap.

    Raises:
        ValueError: columns are missing, a value is infinite, a score is there twice, baseline or metric does not
            occur, or it is not known whether lower values are better.
    """
    check_scores(scores, metric, baseline)
    lower = lower_better(metric, lower_is_better)
    found = list(grids(scores, metric, baseline))
    seeds = pd.DataFrame(
        [row for grid in found for row in _seed_rows(grid, baseline)],
        columns=["network", "variant", "seed", "mean", "difference", "cases"],
    )
    missing = pd.concat([_missing(grid) for grid in found], ignore_index=True)
    return Comparison(
        baseline=baseline,
        metric=metric,
        lower_is_better=lower,
        summary=_summary(found, seeds, missing),
        structures=pd.DataFrame(
            [row for grid in found for row in _structure_rows(grid)],
            columns=["network", "variant", "structure", "mean", "sd", "median", "n"],
        ),
        tests=_tests([pairs for grid in found for pairs in _pairs(grid, baseline)], lower, resamples),
        seeds=seeds,
        missing=missing,
    )


def contradicted(tests: Mapping[Hashable, Any] | pd.DataFrame) -> Any:
    """Whether half of several seeds, or more, are not on the side of the effect: of one row of `tests`, or of all."""
    return (tests["seeds"] > 1) & (2 * tests["seeds_agree"] <= tests["seeds"])


def write_tables(comparison: Comparison, ranks: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the tables of a comparison and of `ranking` as CSV files into `folder`; returns their paths."""
    tables = {name: getattr(comparison, name) for name in ("summary", "structures", "tests", "seeds", "missing")}
    paths = []
    for name, table in {**tables, "ranking": ranks}.items():
        paths.append(folder / f"{name}.csv")
        write_atomic(paths[-1], table.to_csv(index=False).encode())
    return paths


def _summary(found: list[Grid], seeds: pd.DataFrame, missing: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for grid in found:
        subjects = mean(_subjects(grid), axis=2)[:, :, 0]
        rows += [(grid.network, v, *_spread(values)) for v, values in zip(grid.variants, subjects, strict=True)]
    summary = pd.DataFrame(rows, columns=["network", "variant", "mean", "sd", "median", "cases"])
    keys = ["network", "variant"]
    for column, why in (("absent", "NaN"), ("lacking", "no row")):
        counts = missing[missing["why"] == why].groupby(keys).size().rename(column)
        summary = summary.join(counts, on=keys)
        summary[column] = summary[column].fillna(0).astype(int)
    spread = seeds.groupby(keys)["mean"].agg(seeds="size", sd_seeds="std")
    return summary.join(spread, on=keys)


def _subjects(grid: Grid) -> Floats:
    """Means over seeds and folds: (variants, cases, structures)."""
    return np.stack([grid.by_subject(values) for values in grid.values])


def _spread(values: Floats) -> tuple[float, float, float, int]:
    """Mean, standard deviation, median and number of the values that are not NaN."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan, np.nan, 0
    sd = float(known.std(ddof=1)) if len(known) > 1 else np.nan
    return float(known.mean()), sd, float(np.median(known)), len(known)


def _structure_rows(grid: Grid) -> Iterator[tuple[Any, ...]]:
    for variant, values in zip(grid.variants, _subjects(grid), strict=True):
        for structure, column in zip(grid.structures, values.T, strict=True):
            yield grid.network, variant, structure, *_spread(column)


def _differences(grid: Grid, place: int) -> Floats:
    """Variant minus baseline for each unit: `ALL`, then each structure, (units, 1 + structures)."""
    single = grid.values[place] - grid.values[0]
    return np.concatenate([mean(single, axis=1), single], axis=1)


def _others(grid: Grid, baseline: str) -> Iterator[tuple[str, Floats]]:
    """Each variant to be compared, with its differences; none in a network without the baseline."""
    if grid.variants[0] == baseline:
        for place, variant in enumerate(grid.variants[1:], start=1):
            yield variant, _differences(grid, place)


def _seed_rows(grid: Grid, baseline: str) -> Iterator[tuple[Any, ...]]:
    differences = {variant: _of_seeds(grid, values)[:, 0] for variant, values in _others(grid, baseline)}
    for variant, values in zip(grid.variants, grid.values, strict=True):
        for number, (seed, chosen) in enumerate(_seeds(grid)):
            average, _, _, cases = _spread(mean(grid.by_subject(values, units=chosen), axis=1)[:, 0])
            difference = differences[variant][number] if variant in differences else np.nan
            yield grid.network, variant, seed, average, difference, cases


def _seeds(grid: Grid) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
    """Each seed, and which units are its."""
    numbers, seeds = pd.factorize(grid.units["seed"], use_na_sentinel=False)
    for number, seed in enumerate(seeds):
        yield seed, numbers == number


def _of_seeds(grid: Grid, differences: Floats) -> Floats:
    """Mean difference over subjects of each seed alone: (units, ...) -> (seeds, ...)."""
    return np.stack([mean(grid.by_subject(differences, units=chosen), axis=0)[0] for _, chosen in _seeds(grid)])


def _missing(grid: Grid) -> pd.DataFrame:
    variant, unit, structure = np.nonzero(np.isnan(grid.values))
    return pd.DataFrame(
        {
            "network": grid.network,
            "variant": np.array(grid.variants, dtype=object)[variant],
            **{key: grid.units[key].to_numpy()[unit] for key in ("seed", "fold", "case")},
            "structure": np.array(grid.structures, dtype=object)[structure],
            "why": np.where(grid.there[variant, unit, structure], "NaN", "no row"),
        }
    )


def _pairs(grid: Grid, baseline: str) -> Iterator[_Pairs]:
    for variant, differences in _others(grid, baseline):
        subjects = grid.by_subject(differences).round(DECIMALS)
        missing = np.isnan(differences).sum(axis=0)
        of_seeds = _of_seeds(grid, differences)
        columns = zip([ALL, *grid.structures], missing, subjects.T, of_seeds.T, strict=True)
        for structure, lost, column, each in columns:
            known = column[np.isfinite(column)]
            yield _Pairs(grid.network, variant, structure, int(lost), known, each[np.isfinite(each)])


def _tests(pairs: list[_Pairs], lower: bool, resamples: int) -> pd.DataFrame:
    rows = [(*each[:3], len(each.differences), each.missing, *_statistics(each, lower)) for each in pairs]
    columns = ["network", "variant", "structure", "n", "missing", "median_difference", "low", "high"]
    columns += ["mean_difference", "hodges_lehmann", "rank_biserial", "better", "equal", "worse", "p", "exact"]
    columns += ["seeds", "seeds_agree"]
    tests = pd.DataFrame(rows, columns=columns)
    counts = tests["n"].to_numpy()
    for n in np.unique(counts[counts >= FEWEST_PAIRS]):
        alike = np.flatnonzero(counts == n)
        ends = median_interval(np.stack([pairs[i].differences for i in alike]), resamples=resamples)
        tests.loc[alike, "low"], tests.loc[alike, "high"] = ends
    families = tests.groupby(["network", tests["structure"] == ALL])["p"]
    tests["p_holm"] = families.transform(lambda p: holm(p.to_numpy(dtype=np.float64)))
    return tests.assign(kind=_kinds(tests, lower))


def _statistics(pairs: _Pairs, lower: bool) -> tuple[float | int | bool, ...]:
    """The columns from median_difference to seeds_agree; the interval is put in later, for many rows at once."""
    differences = pairs.differences
    gain = -differences if lower else differences
    counts = (int((gain > 0).sum()), int((gain == 0).sum()), int((gain < 0).sum()))
    if not len(differences):
        return (*[np.nan] * 6, *counts, np.nan, False, 0, 0)
    p, exact = wilcoxon(differences) if len(differences) >= FEWEST_PAIRS else (np.nan, False)
    median = float(np.median(differences))
    middle = (median, np.nan, np.nan, float(differences.mean()))
    agree = int((pairs.of_seeds * median > 0).sum())
    estimates = (hodges_lehmann(differences), rank_biserial(differences))
    return (*middle, *estimates, *counts, p, exact, len(pairs.of_seeds), agree)


def _kinds(tests: pd.DataFrame, lower: bool) -> list[str]:
    """The rules of `compare`."""
    ends = tests[["median_difference", "hodges_lehmann", "low", "high"]].to_numpy(dtype=np.float64)
    significant = (tests["p_holm"] < LEVEL).to_numpy() & ~contradicted(tests).to_numpy()
    up, down = significant & (ends > 0).all(axis=1), significant & (ends < 0).all(axis=1)
    better, worse = (down, up) if lower else (up, down)
    few = (tests["n"] < FEWEST_PAIRS).to_numpy()
    return [str(kind) for kind in np.select([few, better, worse], ["few", "better", "worse"], "same")]
