"""Power of studies, compared with theory and simulations."""

import numpy as np
import pytest
from scipy import stats

from scse.evaluation.power import Design, Spread, detectable, power, trainings_needed
from scse.evaluation.statistics import estimate

SPREAD = Spread(trainings=0.006, blocks=0.004, rest=0.012)


@pytest.mark.parametrize("trainings", [3, 6])
def test_where_only_trainings_vary_it_is_the_power_of_the_t_test_over_them(trainings: int) -> None:
    spread, difference = Spread(trainings=0.006, blocks=0.0, rest=0.0), 0.012
    shift = difference / (0.006 / np.sqrt(trainings))
    theory = stats.nct.sf(stats.t.ppf(0.975, trainings - 1), trainings - 1, shift)
    assert power(spread, Design(40), trainings, difference) == pytest.approx(theory)


@pytest.mark.parametrize(
    ("design", "trainings"), [(Design(40), 3), (Design(15), 5), (Design(200), 8), (Design(5, overlap=5 / 4), 4)]
)
def test_the_detectable_difference_is_found_in_four_of_five_studies(design: Design, trainings: int) -> None:
    planted = detectable(SPREAD, design, trainings)
    rng = np.random.default_rng(0)
    shapes = (2000, trainings, 1), (2000, 1, design.blocks), (2000, trainings, design.blocks)
    # folds are correlated, because their training sets overlap
    sd = SPREAD.trainings, SPREAD.blocks * np.sqrt(1 + design.overlap), SPREAD.rest
    tables = planted + sum(s * rng.normal(size=shape) for s, shape in zip(sd, shapes, strict=True))
    overlap = 0.0 if design.overlap else design.overlap
    found = estimate(tables, overlap=overlap)
    assert ((found.p() < 0.05) & (found.difference > 0)).mean() == pytest.approx(0.8, abs=0.06)


def test_power_is_that_which_was_asked_for_at_the_detectable_difference() -> None:
    for design in (Design(15), Design(15, tests=3), Design(5, overlap=5 / 4)):
        assert power(SPREAD, design, 4, detectable(SPREAD, design, 4)) == pytest.approx(0.8, abs=1e-6)


def test_more_of_anything_sees_less_and_more_tests_or_overlap_see_more() -> None:
    base = detectable(SPREAD, Design(15), 3)
    assert detectable(SPREAD, Design(15), 6) < base
    assert detectable(SPREAD, Design(60), 3) < base
    assert detectable(SPREAD, Design(15, tests=3), 3) > base
    assert detectable(SPREAD, Design(15, overlap=1.25), 3) > base


def test_the_trainings_that_a_difference_needs_are_the_fewest_that_find_it() -> None:
    needed = trainings_needed(SPREAD, Design(40), 0.005)
    assert needed is not None
    assert detectable(SPREAD, Design(40), needed) <= 0.005 < detectable(SPREAD, Design(40), needed - 1)
    assert trainings_needed(SPREAD, Design(40), 1.0) == 3


def test_no_number_of_trainings_makes_up_for_too_few_cases() -> None:
    assert trainings_needed(Spread(trainings=0.001, blocks=0.05, rest=0.01), Design(6), 0.005) is None


def test_without_spread_everything_is_seen() -> None:
    nothing = Spread(0.0, 0.0, 0.0)
    assert detectable(nothing, Design(15), 3) == 0
    assert trainings_needed(nothing, Design(15), 0.005) == 3
