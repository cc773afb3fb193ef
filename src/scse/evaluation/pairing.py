"""Conversion of the tidy table of scores to arrays with one entry per possible score, NaN where a score is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scse.evaluation.setups import per_setup, setup_columns, with_numbers
from scse.support.errors import UserError
from scse.vocabulary.titles import Setup

SCORE_COLUMNS = ("network", "variant", "seed", "fold", "case", "structure", "metric", "value")
"""Columns of every table of scores; a study that varies epochs or training cases adds these as `setup_columns`."""

SUBJECT = "subject"
"""Column of a table of scores in which several cases are of one subject, or of another group that is one unit."""

LOWER_IS_BETTER = frozenset({"hd95", "msd", "hd", "assd", "asd", "masd", "mae", "mse", "rmse"})
HIGHER_IS_BETTER = frozenset(
    {"dice", "dsc", "iou", "jaccard", "nsd", "accuracy", "precision", "recall", "sensitivity", "specificity", "f1"}
)

Floats = NDArray[np.float64]


def lower_better(metric: str, lower_is_better: bool | None = None) -> bool:
    """Whether lower values of a metric are better: as given, or as known for common metrics.

    Raises:
        UserError: The metric is unknown and `lower_is_better` is None.
    """
    if lower_is_better is None and metric.lower() not in LOWER_IS_BETTER | HIGHER_IS_BETTER:
        raise UserError(
            f"metric {metric!r}: it is not known whether lower or higher values are better; "
            "add --lower-is-better or --higher-is-better (lower_is_better=True or False in Python)"
        )
    return metric.lower() in LOWER_IS_BETTER if lower_is_better is None else lower_is_better


def check_scores(scores: pd.DataFrame, metric: str, baseline: str | None = None, *, name: str = "scores") -> None:
    """Check that variants in a table can be compared; messages identify rows by the index of the table.

    Raises:
        UserError: A column is missing, a value is not a number or is infinite, a number of epochs or training cases is
            not a whole number, a score occurs twice, a case has two subjects, or the metric or the baseline does not
            occur.
    """
    absent = [column for column in SCORE_COLUMNS if column not in scores.columns]
    if absent:
        raise UserError(f"{name}: has no column {', '.join(absent)}; required: {', '.join(SCORE_COLUMNS)}")
    if not pd.api.types.is_numeric_dtype(scores["value"]):
        raise UserError(f"{name}: the column value must contain numbers, got {scores['value'].dtype}")
    with_numbers(scores, name)
    of_metric = scores["metric"] == metric
    for what, value, found in (
        ("metric", metric, scores["metric"].unique()),
        ("baseline", baseline, scores.loc[of_metric, "variant"].unique()),
    ):
        if value is not None and value not in found:
            where = "" if what == "metric" else f" in the scores of {metric}"
            raise UserError(f"{name}: {what} {value!r} does not occur{where}; choose {', '.join(map(str, found))}")
    if np.isinf(scores["value"]).any():
        row = scores.index[np.isinf(scores["value"])][0]
        raise UserError(f"{name}, row {row}: the value is infinite; leave undefined scores empty (NaN)")
    if SUBJECT in scores.columns:
        pairs = scores[["case", SUBJECT]].drop_duplicates()
        if (several := pairs["case"].duplicated()).any():
            case = pairs["case"][several].iloc[0]
            both = pairs.loc[pairs["case"] == case, SUBJECT].tolist()
            raise UserError(f"{name}: case {case} has the subjects {both[0]} and {both[1]}; give it one")
    keys = [*setup_columns(scores), *SCORE_COLUMNS[1:-1]]
    twice = scores.duplicated(keys)
    if twice.any():
        again = scores[twice].iloc[0]
        numbers = scores.groupby(keys, sort=False, dropna=False).ngroup()
        same = scores.index[numbers == numbers[twice].iloc[0]]
        first = ", ".join(f"{key} {again[key]}" for key in keys)
        raise UserError(
            f"{name}: {twice.sum()} scores are duplicates, the first in rows {same[0]} and {same[1]} ({first}); "
            "keep one of each"
        )


@dataclass(frozen=True)
class Grid:
    """All scores of one setup and metric.

    Attributes:
        setup: Network, with what a study varies in its training.
        variants: Names of the V variants.
        structures: Names of the S structures.
        units: Table with U rows and the columns seed, fold, case: all pairs of seed and case of each fold, sorted by
            case.
        subject: Number (U,) of the case of each unit, ascending.
        values: Scores (V, U, S); NaN where the score is NaN or has no row.
        present: Whether each score has a row in the table, (V, U, S).
        groups: Number (cases,) of the subject of each case, in the order of the cases; None if each is its own.
    """

    setup: Setup
    variants: list[str]
    structures: list[str]
    units: pd.DataFrame
    subject: NDArray[np.intp]
    values: Floats
    present: NDArray[np.bool_]
    groups: NDArray[np.intp] | None = None

    @property
    def seeds(self) -> tuple[NDArray[np.intp], list[Any]]:
        """Number (U,) of the seed of each unit, and the seeds in the order of their numbers."""
        numbers, seeds = pd.factorize(self.units["seed"], use_na_sentinel=False)
        return numbers, list(seeds)

    def by_training(self, values: Floats) -> Floats:
        """Values of units as a table: (U, ...) -> (seeds, cases, ...).

        A case that a seed tested in several folds gets their mean; a case that a seed did not test is NaN.
        """
        numbers, seeds = self.seeds
        cases, case = np.unique(self.subject, return_inverse=True)
        known = np.isfinite(values)
        sums, counts = np.zeros((2, len(seeds), len(cases), *values.shape[1:]))
        np.add.at(sums, (numbers, case), np.where(known, values, 0.0))
        np.add.at(counts, (numbers, case), known)
        table: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        return table

    def folds(self) -> NDArray[np.intp] | None:
        """Number (cases,) of the fold that tests each case; None without cross-validation.

        There is no cross-validation if there is only one fold, or if several folds test the same case.
        """
        fold, names = pd.factorize(self.units["fold"], use_na_sentinel=False)
        pairs = np.unique(np.stack([self.subject, fold]), axis=1)
        several = len(names) > 1 and pairs.shape[1] == len(np.unique(self.subject))
        return pairs[1] if several else None

    def by_subject(self, values: Floats, *, units: NDArray[np.bool_] | None = None) -> Floats:
        """Mean over the (selected) units of each case: (U, ...) -> (cases, ...). NaN is ignored."""
        chosen = slice(None) if units is None else units
        starts = np.flatnonzero(np.diff(self.subject[chosen], prepend=-1))
        return mean(values[chosen], axis=0, starts=starts)


def grids(scores: pd.DataFrame, metric: str, baseline: str | None = None) -> Iterator[Grid]:
    """The grid of each setup. Names are in order of first occurrence, except that the baseline comes first."""
    table = scores[scores["metric"] == metric]
    variants = list(dict.fromkeys([*([] if baseline is None else [baseline]), *table["variant"]]))
    structures = list(table["structure"].unique())
    for setup, rows in per_setup(table):
        has_variant, has_structure = set(rows["variant"]), set(rows["structure"])
        yield _grid(
            setup, rows, [v for v in variants if v in has_variant], [s for s in structures if s in has_structure]
        )


def _grid(setup: Setup, rows: pd.DataFrame, variants: list[str], structures: list[str]) -> Grid:
    members = rows[["fold", "case"]].drop_duplicates()
    units = rows[["seed", "fold"]].drop_duplicates().merge(members, on="fold")
    case, _ = pd.factorize(units["case"])
    order = np.argsort(case, kind="stable")
    units = units.iloc[order].reset_index(drop=True)
    keys = ["seed", "fold", "case"]
    place = (
        pd.Index(variants).get_indexer(pd.Index(rows["variant"])),
        rows[keys].merge(units.assign(unit=np.arange(len(units))), on=keys, how="left")["unit"].to_numpy(),
        pd.Index(structures).get_indexer(pd.Index(rows["structure"])),
    )
    values = np.full((len(variants), len(units), len(structures)), np.nan)
    present = np.zeros(values.shape, dtype=bool)
    values[place], present[place] = rows["value"], True
    groups = _groups(rows, list(dict.fromkeys(units["case"])))
    return Grid(setup, variants, structures, units, case[order], values, present, groups)


def _groups(rows: pd.DataFrame, cases: list[Any]) -> NDArray[np.intp] | None:
    """The number of the subject of each case; None if no two have the same."""
    if SUBJECT not in rows.columns:
        return None
    known = rows.drop_duplicates("case").set_index("case")[SUBJECT]
    subjects = [(case,) if pd.isna(subject) else subject for case, subject in known.reindex(cases).items()]
    numbers = list(map(list(dict.fromkeys(subjects)).index, subjects))
    return np.array(numbers) if len(set(numbers)) < len(numbers) else None


def without_control(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Remove trainings (seeds) that only the baseline has, in setups with other variants.

    They cannot be paired. A study runs them to measure how much trainings of one network differ.
    """
    table, keys = scores.assign(other=scores["variant"] != baseline), setup_columns(scores)
    compared, paired = (
        table.groupby(columns, sort=False, dropna=False)["other"].transform("any")
        for columns in (keys, [*keys, "seed"])
    )
    return scores[~compared | paired]


def mean(values: Floats, *, axis: int, starts: NDArray[np.intp] | tuple[int, ...] = (0,)) -> Floats:
    """Means along an axis of the parts that begin at `starts`. NaN is ignored; the mean of only NaN is NaN."""
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=axis)
    counts = np.add.reduceat(known.astype(int), starts, axis=axis)
    means: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means
