"""The noise floor: how far trainings of one network lie apart, and what the test says when it compares them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from scse.evaluation.statistics import LEVEL, Floats, estimate

MOST_SPLITS = 1000
FEWEST_TO_SPLIT = 4
"""Two trainings against two others."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What trainings of one network that differ in nothing but the seed say of each other.

    Attributes:
        trainings: how many there are.
        apart: mean absolute difference between two of them, each the mean over cases, in units of the metric.
        against: how many trainings are compared with as many others; 0 with fewer than 4.
        splits: how many such comparisons were made.
        exact: whether these are all that there are.
        alarms: the share of them with p < 0.05, NaN without any.
    """

    trainings: int
    apart: float
    against: int
    splits: int
    exact: bool
    alarms: float


def noise_floor(table: Floats, *, overlap: float = 0.0) -> Noise:
    """Compare trainings of one network with each other, by the test that compares variants.

    Args:
        table: (trainings, blocks) scores without gaps, at least two trainings; see `estimate`.
        overlap: see `estimate`.
    """
    # the order in which trainings are given must not choose the splits that are drawn
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
    """Ways to pair trainings with as many others: (ways, 2, against) numbers, and whether these are all ways.

    All of them up to 1,000, otherwise 1,000 drawn at random, always the same. Which training is paired with which
    counts, which side is called the first does not.
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
