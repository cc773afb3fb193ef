"""Which variant ranks first, and whether it would on other cases."""

import numpy as np
import pandas as pd
from scipy import stats

from scse.evaluation.comparison import DECIMALS
from scse.evaluation.pairing import check_scores, grids, lower_better, mean


def ranking(
    scores: pd.DataFrame, *, metric: str = "dice", lower_is_better: bool | None = None, resamples: int = 1000
) -> pd.DataFrame:
    """Rank the variants of each network by their mean over subjects, with the stability under bootstraps of the cases.

    Only scores that all variants of a network have take part. Equal means share the better rank. The bootstrap
    has always the same seed.

    Args:
        scores: the tidy table; see `compare`.
        metric: the metric to rank by.
        lower_is_better: needed for a metric that is not known.
        resamples: how often the cases are drawn with replacement.

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
        common = np.where(np.isnan(grid.values).any(axis=0), np.nan, grid.values)
        subjects = np.stack([mean(grid.by_subject(values), axis=1)[:, 0] for values in common])
        subjects = subjects[:, np.isfinite(subjects[0])]
        n = subjects.shape[1]
        rows = np.full((len(grid.variants), 4), np.nan)
        if n:
            drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
            means = np.concatenate([np.ones((1, n)), drawn]) @ subjects.T / n
            ranks = stats.rankdata(sign * means.round(DECIMALS), method="min", axis=1)
            low, high = np.percentile(ranks[1:], [2.5, 97.5], axis=0, method="inverted_cdf")
            rows = np.stack([ranks[0], (ranks[1:] == 1).mean(axis=0), low, high], axis=1)
        table = pd.DataFrame(rows, columns=columns[2:-1]).assign(network=grid.network, variant=grid.variants, cases=n)
        tables.append(table.sort_values("rank", kind="stable"))
    return pd.concat(tables, ignore_index=True)[columns]
