"""Statistics of paired differences: interval of the median, Hodges-Lehmann, rank-biserial, Wilcoxon's p, Holm."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 9_999
EXACT_PAIRS = 300
"""Up to so many differences that are not zero, p is exact; above, the normal approximation is as good and faster."""
FEWEST_PAIRS = 6
"""The exact two-sided p of five pairs cannot fall below 2 / 2**5 = 0.0625."""
LEVEL = 0.05

_CHUNK = 4_000_000  # numbers resampled at a time

Floats = NDArray[np.float64]


def median_interval(differences: Floats, *, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """Percentile bootstrap 95 % interval of the median of each row (scipy.stats.bootstrap, always the same seed).

    Args:
        differences: (rows, n), n at least 2. A row's interval depends neither on the other rows nor on the order
            within the row.
        resamples: how often the n differences are drawn with replacement.

    Returns:
        Lower and upper ends, each (rows,).
    """
    # unsorted, the same draws would pick other ranks in every row, so that the order of the cases would matter
    ordered = np.sort(differences, axis=1)
    count = max(1, _CHUNK // (resamples * differences.shape[1]))
    ends = [
        stats.bootstrap(
            (ordered[start : start + count],),
            np.median,
            axis=1,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _CHUNK // differences.shape[1]),
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        for start in range(0, len(ordered), count)
    ]
    return np.concatenate([end.low for end in ends]), np.concatenate([end.high for end in ends])


def hodges_lehmann(differences: Floats) -> float:
    """Median of the means of all pairs of differences (n,), each with itself too (Hodges and Lehmann 1963)."""
    first, second = np.triu_indices(len(differences))
    return float(np.median((differences[first] + differences[second]) / 2))


def rank_biserial(differences: Floats) -> float:
    """Matched-pairs rank-biserial correlation of differences (n,), from -1 to 1 (Kerby 2014).

    The share of the rank sum that belongs to positive differences less the share of the negative ones. Zeros
    are left out before ranking, as in `wilcoxon`; if all are zero, it is 0.
    """
    signed = _signed_ranks(differences)
    return float(signed.sum() / np.abs(signed).sum()) if len(signed) else 0.0


def wilcoxon(differences: Floats) -> tuple[float, bool]:
    """Two-sided p of the signed-rank test of differences (n,) (Wilcoxon 1945), and whether it is exact.

    Zeros are left out before ranking, as Wilcoxon did; if all are zero, p is 1. Ties share their mean rank, and p
    is taken from the distribution of the rank sum over all signs of these ranks (Streitberg and Roehmel 1986), so
    that it is exact with ties too, for which scipy.stats.wilcoxon has the normal approximation from 14 pairs on.
    With more than `EXACT_PAIRS` that are not zero, it is that approximation.
    """
    signed = _signed_ranks(differences)
    if not len(signed):
        return 1.0, True
    if len(signed) > EXACT_PAIRS:
        # with so many pairs, scipy chooses the approximation
        return float(stats.wilcoxon(differences, correction=True).pvalue), False
    doubled = (2 * signed).astype(int)  # mean ranks are halves
    chances = _null(tuple(sorted(abs(doubled).tolist())))
    positive = doubled[doubled > 0].sum()
    return float(min(1.0, 2 * min(chances[: positive + 1].sum(), chances[positive:].sum()))), True


def _signed_ranks(differences: Floats) -> Floats:
    there = differences[differences != 0]
    signed: Floats = np.sign(there) * stats.rankdata(np.abs(there))
    return signed


@lru_cache(maxsize=64)
def _null(ranks: tuple[int, ...]) -> Floats:
    """Chance of each sum 0, 1, ... of the positive ranks, if every sign is a coin's throw."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] += chances[:-rank].copy()
        chances /= 2
    return chances


def holm(p: Floats) -> Floats:
    """Correct the p-values (n,) of one family after Holm (1979); NaN stay NaN and do not count."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected
