"""The crossed model, compared with limiting cases, least squares, published values, and simulated studies."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from scse.evaluation.statistics import SMALLEST_P, critical, estimate, holm, join

RNG = np.random.default_rng(0)
TABLES = RNG.normal(size=(6, 4, 15)) + RNG.normal(size=(6, 4, 1)) + RNG.normal(size=(6, 1, 15)) + 0.4
LARGE = (0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238)


def studies(
    count: int, trainings: int, cases: int, *, sd: tuple[float, float, float], seed: int, difference: float = 0.0
) -> np.ndarray:
    """Random tables of paired differences, with standard deviations of trainings, cases and the residual."""
    rng = np.random.default_rng(seed)
    shapes = (count, trainings, 1), (count, 1, cases), (count, trainings, cases)
    return difference + sum(s * rng.normal(size=shape) for s, shape in zip(sd, shapes, strict=True))


def least_squares(table: np.ndarray, columns: list[np.ndarray]) -> float:
    """Residual sum of squares of a table fitted by these columns, which have one value per cell."""
    design = np.stack([column.ravel() for column in columns], axis=1)
    fitted = design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
    return float(((table.ravel() - fitted) ** 2).sum())


def test_mean_squares_are_those_of_the_analysis_of_variance_by_least_squares() -> None:
    table = TABLES[0]
    row, column = np.indices(table.shape)
    rows, columns = ([(index == i).astype(float) for i in range(index.max() + 1)] for index in (row, column))
    rest = least_squares(table, rows + columns)
    found = estimate(table).mean_squares
    assert found[0] == pytest.approx((least_squares(table, columns) - rest) / 3)
    assert found[1] == pytest.approx((least_squares(table, rows) - rest) / 14)
    assert found[2] == pytest.approx(rest / (3 * 14))


def test_the_variance_of_the_mean_is_that_of_the_crossed_model() -> None:
    drawn = studies(20_000, 3, 8, sd=(0.5, 0.8, 1.0), seed=0)
    found = estimate(drawn)
    true = 0.5**2 / 3 + 0.8**2 / 8 + 1.0 / 24
    assert drawn.mean(axis=(1, 2)).var() == pytest.approx(true, rel=0.03)
    # truncation of negative variances at zero makes it a little larger
    assert (found.error**2).mean() == pytest.approx(true, rel=0.04)
    for component, sd in zip(found.components, (0.5, 0.8, 1.0), strict=True):
        assert np.mean(component**2) == pytest.approx(sd**2, rel=0.2)


def test_where_cases_agree_it_is_the_t_test_over_trainings() -> None:
    means = RNG.normal(0.3, 1, 4)
    found = estimate(np.repeat(means[:, None], 9, axis=1))
    expected = stats.ttest_1samp(means, 0)
    assert found.p() == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_where_trainings_agree_it_is_the_t_test_over_cases() -> None:
    cases = RNG.normal(0.3, 1, 9)
    found = estimate(np.repeat(cases[None], 4, axis=0))
    expected = stats.ttest_1samp(cases, 0)
    assert found.p() == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    margin = 1.2
    sides = [
        stats.ttest_1samp(cases, value, alternative=side).pvalue
        for value, side in ((-margin, "greater"), (margin, "less"))
    ]
    assert found.p_equivalent(margin) == pytest.approx(max(sides))


def test_folds_that_agree_give_the_t_test_of_nadeau_and_bengio() -> None:
    folds = RNG.normal(0.3, 1, 5)
    found = estimate(np.repeat(folds[None], 3, axis=0), overlap=5 / 4)
    t = folds.mean() / np.sqrt((1 / 5 + 1 / 4) * folds.var(ddof=1))  # n_test / n_train is 1 / (folds - 1)
    assert found.p() == pytest.approx(2 * stats.t.sf(abs(t), 4))


def test_the_critical_value_is_cochrans_weighted_mean_of_two_quantiles() -> None:
    quantiles = stats.t.ppf(0.975, [2, 14])
    assert critical(0.05, 1.0, 3.0, 3, 15) == pytest.approx((quantiles[0] + 3 * quantiles[1]) / 4)
    assert critical(0.05, 2.0, 0.0, 3, 1) == pytest.approx(quantiles[0])


def test_p_is_the_level_at_which_the_interval_just_excludes_zero() -> None:
    found = estimate(TABLES)
    assert found.p().shape == (6,)
    np.testing.assert_allclose(
        critical(found.p(), found.of_trainings, found.of_blocks, 4, 15) * found.error, np.abs(found.difference)
    )
    low, high = found.interval()
    np.testing.assert_array_equal(found.p() < 0.05, (low > 0) | (high < 0))


def test_equivalence_is_what_a_ninety_percent_interval_within_the_margin_says() -> None:
    found = estimate(TABLES)
    half = critical(0.10, found.of_trainings, found.of_blocks, 4, 15) * found.error
    for margin in (0.5, 1.5, 2.5):
        inside = (found.difference - half > -margin) & (found.difference + half < margin)
        np.testing.assert_array_equal(found.p_equivalent(margin) < 0.05, inside)
        at_margin = np.abs(found.difference) >= margin
        assert (found.p_equivalent(margin)[at_margin] >= 0.5).all()


def test_without_variance_zero_has_p_one_and_anything_else_the_smallest() -> None:
    assert estimate(np.zeros((3, 6))).p() == 1
    assert estimate(np.full((3, 6), 0.125)).p() == SMALLEST_P
    assert estimate(np.zeros((3, 6))).p_equivalent(0.1) == SMALLEST_P / 2


@pytest.mark.parametrize("shape", [(1, 6), (3, 1), (1, 1)])
def test_one_training_or_one_block_has_neither_p_nor_interval(shape: tuple[int, int]) -> None:
    found = estimate(RNG.normal(size=shape))
    assert np.isfinite(found.difference)
    assert np.isnan([found.p(), *found.interval(), found.p_equivalent(1.0)]).all()


def test_tables_of_different_sizes_are_joined() -> None:
    parts = [estimate(TABLES[0]), estimate(TABLES[1, :3, :8], overlap=0.5), estimate(RNG.normal(size=(1, 4)))]
    np.testing.assert_allclose(join(parts).p(), [part.p() for part in parts])
    assert join([]).p().shape == (0,)


@pytest.mark.parametrize(("trainings", "most"), [(3, 0.07), (4, 0.06), (8, 0.06)])
@pytest.mark.parametrize("sd", [(0, 0, 6), (6, 0, 6), (2, 3, 6), (6, 12, 6), (0, 6, 6)])
def test_without_a_difference_about_five_percent_of_the_studies_raise_an_alarm(
    trainings: int, most: float, sd: tuple[float, float, float]
) -> None:
    for cases in (15, 60):
        p = estimate(studies(3000, trainings, cases, sd=sd, seed=trainings)).p()
        assert 0.015 < (p < 0.05).mean() < most + 0.008  # two standard errors of the share


def test_a_test_over_cases_alone_takes_luck_for_an_effect() -> None:
    drawn = studies(400, 1, 40, sd=(6, 0, 6), seed=1)[:, 0]
    assert (stats.wilcoxon(drawn, axis=1).pvalue < 0.05).mean() > 0.6


@pytest.mark.parametrize("correlated", [False, True])
def test_overlapping_training_sets_raise_no_more_alarms(correlated: bool) -> None:
    folds, rng = 5, np.random.default_rng(2)
    tables = studies(3000, 4, folds, sd=(2, 2, 3), seed=2)
    if correlated:  # the correlation that Nadeau and Bengio assume: the share of cases in the test set
        rho = 1 / folds
        tables += 4 * (
            np.sqrt(rho) * rng.normal(size=(3000, 1, 1)) + np.sqrt(1 - rho) * rng.normal(size=(3000, 1, folds))
        )
    alarms = (estimate(tables, overlap=folds / (folds - 1)).p() < 0.05).mean()
    assert alarms < 0.065
    if correlated:
        assert (estimate(tables).p() < 0.05).mean() > 1.5 * alarms


@pytest.mark.parametrize(
    "draw", [lambda rng, shape: rng.standard_t(3, shape), lambda rng, shape: rng.exponential(size=shape) - 1]
)
def test_heavy_tails_and_skew_raise_few_more_alarms(draw: Callable) -> None:
    rng = np.random.default_rng(3)
    tables = 0.5 * draw(rng, (3000, 4, 1)) + draw(rng, (3000, 1, 40)) + draw(rng, (3000, 4, 40))
    assert (estimate(tables).p() < 0.05).mean() < 0.08


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        # en.wikipedia.org/wiki/Holm-Bonferroni_method
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # R's multtest, from statsmodels/stats/tests/test_multi.py
        (
            [
                0.838541367553,
                0.177096952723,
                5.23656777208e-05,
                0.0202732688798,
                0.00028140506198,
                0.0149877310796,
                *LARGE,
            ],
            [1, 1, 5.23656777208e-04, 0.1419128821586, 2.53264555782e-03, 0.119901848636800, 1, 1, 1, 1],
        ),
        ([np.nan, 0.6, 0.02, 0.7], [np.nan, 1.0, 0.06, 1.0]),
        ([], []),
    ],
)
def test_holm_gives_the_published_values(p: list[float], corrected: list[float]) -> None:
    np.testing.assert_allclose(holm(np.array(p)), corrected)
