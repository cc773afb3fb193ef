"""The tidy table of scores as arrays in which every score has its place, also the ones that are not there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scse.support.errors import UserError

COLUMNS = ("network", "variant", "seed", "fold", "case", "structure", "metric", "value")
KEYS = list(COLUMNS[:-1])
LOWER_IS_BETTER = frozenset({"hd95", "msd", "hd", "assd", "asd", "masd", "mae", "mse", "rmse"})
HIGHER_IS_BETTER = frozenset(
    {"dice", "dsc", "iou", "jaccard", "nsd", "accuracy", "precision", "recall", "sensitivity", "specificity", "f1"}
)

Floats = NDArray[np.float64]


def lower_better(metric: str, said: bool | None = None) -> bool:
    """Whether lower values of a metric are better: what was said, or what is known of it.

    Raises:
        ValueError: nothing was said, and the metric is not known.
    """
    if said is None and metric.lower() not in LOWER_IS_BETTER | HIGHER_IS_BETTER:
        raise UserError(
            f"metric {metric!r}: it is not known whether lower or higher values are better; "
            "say it with --lower-is-better or --higher-is-better (in Python lower_is_better=True or False)"
        )
    return metric.lower() in LOWER_IS_BETTER if said is None else said


def check_scores(scores: pd.DataFrame, metric: str, baseline: str | None = None, *, name: str = "scores") -> None:
    """Check that a table can be compared; rows are named by the table's index.

    Raises:
        ValueError: columns are missing, a value is no number or infinite, a score is there twice, or metric or
            baseline does not occur.
    """
    absent = [column for column in COLUMNS if column not in scores.columns]
    if absent:
        raise UserError(f"{name}: no column {', '.join(absent)}; needed are {', '.join(COLUMNS)}")
    if not pd.api.types.is_numeric_dtype(scores["value"]):
        raise UserError(f"{name}: the column value must hold numbers, it holds {scores['value'].dtype}")
    of_metric = scores["metric"] == metric
    for what, value, found in (
        ("metric", metric, scores["metric"].unique()),
        ("baseline", baseline, scores.loc[of_metric, "variant"].unique()),
    ):
        if value is not None and value not in found:
            where = "" if what == "metric" else f" among the scores of {metric}"
            raise UserError(f"{name}: {what} {value!r} does not occur{where}; choose {', '.join(map(str, found))}")
    if np.isinf(scores["value"]).any():
        row = scores.index[np.isinf(scores["value"])][0]
        raise UserError(f"{name}, row {row}: the value is infinite; leave a score empty (NaN) that is not defined")
    twice = scores.duplicated(KEYS)
    if twice.any():
        again = scores[twice].iloc[0]
        same = scores.index[(scores[KEYS].fillna("") == again[KEYS].fillna("")).all(axis=1)]
        told = ", ".join(f"{key} {again[key]}" for key in KEYS)
        raise UserError(
            f"{name}: {twice.sum()} scores are there twice, the first in the rows {same[0]} and {same[1]} ({told}); "
            "keep one of each"
        )


@dataclass(frozen=True)
class Grid:
    """All scores of one network and metric.

    Attributes:
        network: its name.
        variants: V names.
        structures: S names.
        units: U rows seed, fold, case: in each fold every seed with every case, sorted by case.
        subject: (U,) number of the case, ascending.
        values: (V, U, S); NaN where the score is NaN or has no row.
        there: (V, U, S) whether the table has that row.
    """

    network: str
    variants: list[str]
    structures: list[str]
    units: pd.DataFrame
    subject: NDArray[np.intp]
    values: Floats
    there: NDArray[np.bool_]

    @property
    def seeds(self) -> tuple[NDArray[np.intp], list[Any]]:
        """(U,) number of each unit's seed, and the seeds in the order of their numbers."""
        numbers, seeds = pd.factorize(self.units["seed"], use_na_sentinel=False)
        return numbers, list(seeds)

    def by_training(self, values: Floats) -> Floats:
        """Values of units as a table: (U, ...) -> (seeds, cases, ...).

        A case that a seed tested in several folds has their mean; NaN where a seed did not test a case.
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
        """(cases,) number of the fold that tests each case; None without a cross-validation.

        That is, if there is one fold only, or a case that several of them test.
        """
        fold, names = pd.factorize(self.units["fold"], use_na_sentinel=False)
        pairs = np.unique(np.stack([self.subject, fold]), axis=1)
        several = len(names) > 1 and pairs.shape[1] == len(np.unique(self.subject))
        return pairs[1] if several else None

    def by_subject(self, values: Floats, *, units: NDArray[np.bool_] | None = None) -> Floats:
        """Mean over the (chosen) units of each case: (U, ...) -> (cases, ...); NaN left out."""
        chosen = slice(None) if units is None else units
        starts = np.flatnonzero(np.diff(self.subject[chosen], prepend=-1))
        return mean(values[chosen], axis=0, starts=starts)


def grids(scores: pd.DataFrame, metric: str, baseline: str | None = None) -> Iterator[Grid]:
    """The grid of each network; networks, variants and structures as they first occur, but the baseline first."""
    table = scores[scores["metric"] == metric]
    keys = ["network", "seed", "fold", "case"]
    members = table[["network", "fold", "case"]].drop_duplicates()
    units = table[["network", "fold", "seed"]].drop_duplicates().merge(members, on=["network", "fold"])
    variants = list(dict.fromkeys([*([] if baseline is None else [baseline]), *table["variant"]]))
    structures = list(table["structure"].unique())
    place = (
        pd.Index(variants).get_indexer(table["variant"]),
        table[keys].merge(units.assign(unit=np.arange(len(units))), on=keys, how="left")["unit"].to_numpy(),
        pd.Index(structures).get_indexer(table["structure"]),
    )
    values = np.full((len(variants), len(units), len(structures)), np.nan)
    there = np.zeros(values.shape, dtype=bool)
    values[place], there[place] = table["value"], True
    case, _ = pd.factorize(units["case"])
    for network, rows in units.groupby("network", sort=False).indices.items():
        chosen: NDArray[np.intp] = np.asarray(rows)[np.argsort(case[rows], kind="stable")]
        found = np.any(there[:, chosen], axis=1)
        has_variant, has_structure = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        block = np.ix_(has_variant, chosen, has_structure)
        yield Grid(
            network=str(network),
            variants=[variants[i] for i in has_variant],
            structures=[structures[i] for i in has_structure],
            units=units.loc[chosen, ["seed", "fold", "case"]].reset_index(drop=True),
            subject=case[chosen],
            values=values[block],
            there=there[block],
        )


def without_control(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The scores less the trainings that only the baseline has, in networks that have other variants.

    These have no partner to be paired with. A study runs them to see how far trainings of one network lie apart.
    """
    run = ["network", "seed"]
    others = scores.loc[scores["variant"] != baseline, [*run]].drop_duplicates()
    alone = ~scores["network"].isin(others["network"])
    keys = pd.MultiIndex.from_frame(scores[run])
    return scores[alone | keys.isin(pd.MultiIndex.from_frame(others))]


def mean(values: Floats, *, axis: int, starts: NDArray[np.intp] | tuple[int, ...] = (0,)) -> Floats:
    """Means along an axis of the parts that begin at `starts`, NaN left out; a part of NaN alone is NaN."""
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=axis)
    counts = np.add.reduceat(known.astype(int), starts, axis=axis)
    means: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means
