"""Ranks of variants, and their stability over cases and trainings."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from scse.evaluation.comparison import DECIMALS
from scse.evaluation.pairing import Floats, Grid, check_scores, grids, lower_better, mean
from scse.evaluation.setups import stack


def ranking(
    scores: pd.DataFrame, *, metric: str = "dice", lower_is_better: bool | None = None, resamples: int = 1000
) -> pd.DataFrame:
    """Rank the variants of each setup by their mean over cases, with their stability under bootstraps.

    A bootstrap draws cases and, independently, seeds with replacement (pigeonhole bootstrap, Owen 2007); cases of one
    subject are drawn together. With one seed, the result says nothing about other trainings. Only scores that all
    variants of a setup have are used, of cases that all seeds have. Variants with equal means share the better rank.
    The random seed of the bootstrap is fixed.

    Args:
        scores: Tidy table, see `compare`.
        metric: Metric that determines the ranks.
        lower_is_better: Whether lower values are better; required for unknown metrics.
        resamples: Number of bootstraps.

    Returns:
        A table sorted by rank, with the columns network (and epochs and train_cases if varied), variant, rank, first
        (share of bootstraps with rank 1), low and high (range of 95 % of the ranks in bootstraps), and cases (number
        of cases used). Without common cases, ranks and shares are NaN.

    Raises:
        UserError: As for `compare`.
    """
    check_scores(scores, metric)
    sign = 1 if lower_better(metric, lower_is_better) else -1
    tables = []
    for grid in grids(scores, metric):
        table, kept = _common(grid)
        seeds, n = table.shape[1:]
        rows = np.full((len(grid.variants), 4), np.nan)
        if n:
            rng = np.random.default_rng(0)
            groups = None if grid.groups is None else np.unique(grid.groups[kept], return_inverse=True)[1]
            drawn = n if groups is None else groups.max() + 1
            of_seeds, of_cases = (_weights(rng, count, resamples) for count in (seeds, drawn))
            if groups is not None:
                of_cases = of_cases[:, groups] / of_cases[:, groups].sum(axis=1, keepdims=True)
            means = np.stack([((of_seeds @ each) * of_cases).sum(axis=1) for each in table], axis=1)
            ranks = stats.rankdata(sign * means.round(DECIMALS), method="min", axis=1)
            low, high = np.percentile(ranks[1:], [2.5, 97.5], axis=0, method="inverted_cdf")
            rows = np.stack([ranks[0], (ranks[1:] == 1).mean(axis=0), low, high], axis=1)
        ranked = pd.DataFrame(rows, columns=["rank", "first", "low", "high"]).assign(cases=n)
        ranked.insert(0, "variant", grid.variants)
        tables.append((grid.setup, ranked.sort_values("rank", kind="stable")))
    return stack(tables)


def _common(grid: Grid) -> tuple[Floats, NDArray[np.bool_]]:
    """Means over the structures that all variants have, (V, seeds, cases), without gaps, and a mask of the cases."""
    common = np.where(np.isnan(grid.values).any(axis=0), np.nan, grid.values)
    table = np.stack([mean(grid.by_training(values), axis=2)[..., 0] for values in common])
    there = np.isfinite(table[0])
    seeds = there.any(axis=1)
    kept = np.asarray(there[seeds].all(axis=0) & seeds.any())
    return table[:, seeds][:, :, kept], kept


def _weights(rng: np.random.Generator, count: int, resamples: int) -> Floats:
    """Shares (1 + resamples, count) of each item in bootstraps; in the first row, all items have equal shares."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn]) / count
