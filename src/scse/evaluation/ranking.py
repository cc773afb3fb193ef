"""Which variant ranks first, and whether it would on other cases and with other trainings."""

import numpy as np
import pandas as pd
from scipy import stats

from scse.evaluation.comparison import DECIMALS
from scse.evaluation.pairing import Floats, Grid, check_scores, grids, lower_better, mean


def ranking(
    scores: pd.DataFrame, *, metric: str = "dice", lower_is_better: bool | None = None, resamples: int = 1000
) -> pd.DataFrame:
    """Rank the variants of each network by their mean over cases, with the stability under bootstraps.

    A bootstrap draws cases and, apart from them, seeds, each with replacement (Owen 2007, the pigeonhole bootstrap); a
    network with one seed says nothing about other trainings. Only scores that all variants of a network have take part,
    of cases that every seed has. Equal means share the better rank. The bootstrap has always the same seed.

    Args:
        scores: the tidy table; see `compare`.
        metric: the metric to rank by.
        lower_is_better: needed for a metric that is not known.
        resamples: how often cases and seeds are drawn.

    Returns:
        A table, best first: network, variant, rank, first (share of the bootstraps in which it ranks first), low
        and high (95 % of its ranks), cases (that took part). With no common case, all are NaN.

    Raises:
        ValueError: as `compare`.
    """
    check_scores(scores, metric)
    sign = 1 if lower_better(metric, lower_is_better) else -1
    columns = ["network", "variant", "rank", "first", "low", "high", "cases"]
    tables = []
    for grid in grids(scores, metric):
        table = _common(grid)
        seeds, n = table.shape[1:]
        rows = np.full((len(grid.variants), 4), np.nan)
        if n:
            rng = np.random.default_rng(0)
            of_seeds, of_cases = (_weights(rng, count, resamples) for count in (seeds, n))
            means = np.stack([((of_seeds @ each) * of_cases).sum(axis=1) for each in table], axis=1)
            ranks = stats.rankdata(sign * means.round(DECIMALS), method="min", axis=1)
            low, high = np.percentile(ranks[1:], [2.5, 97.5], axis=0, method="inverted_cdf")
            rows = np.stack([ranks[0], (ranks[1:] == 1).mean(axis=0), low, high], axis=1)
        ranked = pd.DataFrame(rows, columns=columns[2:-1]).assign(network=grid.network, variant=grid.variants, cases=n)
        tables.append(ranked.sort_values("rank", kind="stable"))
    return pd.concat(tables, ignore_index=True)[columns]


def _common(grid: Grid) -> Floats:
    """Means over the structures that all variants have, for the seeds and cases that all have: (V, seeds, cases)."""
    common = np.where(np.isnan(grid.values).any(axis=0), np.nan, grid.values)
    table = np.stack([mean(grid.by_training(values), axis=2)[..., 0] for values in common])
    there = np.isfinite(table[0])
    seeds = there.any(axis=1)
    return table[:, seeds][:, :, there[seeds].all(axis=0) & seeds.any()]


def _weights(rng: np.random.Generator, count: int, resamples: int) -> Floats:
    """How often each of `count` is drawn, as shares: (1 + resamples, count), the first row without drawing."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn]) / count
