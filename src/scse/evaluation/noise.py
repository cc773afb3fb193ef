"""The noise floor: differences between trainings of one network, and how often the test reports them as significant."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from scse.evaluation.statistics import LEVEL, Floats, estimate

MOST_SPLITS = 1000
FEWEST_TO_SPLIT = 4
"""Least number of trainings to compare with each other: two against two."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Comparison of trainings of one network that differ only in the seed.

    Attributes:
        trainings: Number of trainings.
        apart: Mean absolute difference between the means over cases of two trainings, in units of the metric.
        against: Number of trainings on each side of a comparison; 0 with fewer than 4 trainings.
        splits: Number of comparisons.
        exact: Whether these are all possible comparisons.
        alarms: Share of comparisons with p < 0.05; NaN without comparisons.
    """

    trainings: int
    apart: float
    against: int
    splits: int
    exact: bool
    alarms: float


def noise_floor(table: Floats, *, overlap: float = 0.0) -> Noise:
    """Compare trainings of one network with each other by the test for variants.

    Args:
        table: Scores (trainings, blocks) without gaps, of at least two trainings; see `estimate`.
        overlap: See `estimate`.
    """
    # sorted, so that the order of trainings does not affect the random splits
    table = table[np.argsort(table.mean(axis=1), kind="stable")]
    count, means = len(table), table.mean(axis=1)
    first, second = np.triu_indices(count, k=1)
    apart = float(np.abs(means[first] - means[second]).mean())
    if count < FEWEST_TO_SPLIT:
        return Noise(count, apart, 0, 0, True, np.nan)
    against = count // 2
    pairs, exact = splits(count, against)
    p = estimate(table[pairs[:, 0]] - table[pairs[:, 1]], overlap=overlap).p()
    return Noise(count, apart, against, len(pairs), exact, float((p < LEVEL).mean()))


def splits(count: int, against: int) -> tuple[NDArray[np.intp], bool]:
    """Ways to pair trainings with equally many others: indices (ways, 2, against), and whether these are all ways.

    If there are more than 1,000 ways, 1,000 are drawn at random with a fixed seed. Different pairings of the same two
    sides are different ways; swapped sides are the same way.
    """
    ways = factorial(count) // (factorial(count - 2 * against) * factorial(against) * 2)
    if ways <= MOST_SPLITS:
        return np.array(list(_all_splits(count, against))), True
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(count)[: 2 * against].reshape(2, against) for _ in range(MOST_SPLITS)]
    return np.stack(drawn), False


def _all_splits(count: int, against: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for order in permutations(range(count), 2 * against):
        first, second = order[:against], order[against:]
        if first == tuple(sorted(first)) and min(first) < min(second):
            yield first, second
