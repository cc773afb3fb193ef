"""The noise floor: comparison of the baseline with itself."""

from math import comb

import numpy as np
import pytest

from scse.evaluation.noise import noise_floor, splits
from scse.evaluation.statistics import estimate


@pytest.mark.parametrize(("count", "against", "ways"), [(4, 2, 6), (5, 2, 30), (6, 3, 60), (8, 4, 840)])
def test_few_trainings_are_split_in_every_way_once(count: int, against: int, ways: int) -> None:
    found, exact = splits(count, against)
    assert exact
    assert found.shape == (ways, 2, against)
    # a way is a set of pairs, regardless of which side is first
    distinct = {
        min(frozenset(zip(one, other, strict=True)), frozenset(zip(other, one, strict=True)), key=sorted)
        for one, other in found.tolist()
    }
    assert (
        len(distinct)
        == ways
        == comb(count, 2 * against) * comb(2 * against, against) // 2 * np.prod(np.arange(1, against + 1))
    )


def test_many_trainings_are_split_at_random_and_always_the_same() -> None:
    found, exact = splits(12, 6)
    assert (exact, found.shape) == (False, (1000, 2, 6))
    assert all(len(set(way.ravel().tolist())) == 12 for way in found)
    np.testing.assert_array_equal(found, splits(12, 6)[0])


def test_trainings_lie_apart_by_their_mean_absolute_difference() -> None:
    table = np.array([0.70, 0.71, 0.74])[:, None] + np.linspace(0, 0.1, 8)
    found = noise_floor(table)
    assert found.apart == pytest.approx((0.01 + 0.04 + 0.03) / 3)
    assert (found.trainings, found.against, found.splits) == (3, 0, 0)
    assert np.isnan(found.alarms)


def test_the_share_of_alarms_is_that_of_the_test_that_compares_variants() -> None:
    rng = np.random.default_rng(1)
    table = 0.01 * rng.normal(size=(6, 1)) + 0.01 * rng.normal(size=(6, 20))
    ways, _ = splits(6, 3)
    table = table[np.argsort(table.mean(axis=1))]
    p = [float(estimate(table[one] - table[other]).p()) for one, other in ways]
    found = noise_floor(table)
    assert (found.against, found.splits, found.exact) == (3, 60, True)
    assert found.alarms == pytest.approx(np.mean(np.array(p) < 0.05))


def test_the_order_of_the_trainings_does_not_matter() -> None:
    table = np.random.default_rng(3).normal(size=(10, 15))
    assert noise_floor(table) == noise_floor(table[::-1])


def test_alarms_over_many_networks_are_about_five_percent() -> None:
    rng = np.random.default_rng(2)
    shares = [
        noise_floor(0.8 + 0.01 * rng.normal(size=(6, 1)) + 0.02 * rng.normal(size=(6, 30))).alarms for _ in range(150)
    ]
    assert 0.03 < np.mean(shares) < 0.06
