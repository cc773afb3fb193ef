"""The statistics of paired differences, against published examples, scipy, brute force and simulation."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scse.evaluation import compare
from scse.evaluation.comparison import ALL
from scse.evaluation.pairing import COLUMNS
from scse.evaluation.statistics import EXACT_PAIRS, hodges_lehmann, holm, median_interval, rank_biserial, wilcoxon

# Hollander & Wolfe 1973, p. 29: depression scores at two visits; the example of R's ?wilcox.test
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
# the example of en.wikipedia.org/wiki/Wilcoxon_signed-rank_test, with a zero and ties: W = 9 of 45
WIKIPEDIA = np.array([15, -7, 5, 20, 0, -9, 17, -12, 5, -10.0])
SLEEP = -np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])  # R's data set `sleep`, group 1 less group 2
LARGE = (0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238)
SUBJECTS, STUDIES = 15, 2000


def test_p_and_effects_are_those_of_r_on_hollander_and_wolfes_depression_data() -> None:
    differences = BEFORE - AFTER
    p, exact = wilcoxon(differences)
    assert exact
    assert p == pytest.approx(2 * 0.01953125)  # R: V = 40, p-value = 0.01953 (one-sided)
    assert round(hodges_lehmann(differences), 2) == 0.46  # Hollander & Wolfe's estimate, R's (pseudo)median
    assert rank_biserial(differences) == pytest.approx((40 - 5) / 45)  # R's effectsize: 0.78


def test_p_of_rs_sleep_data_is_exact_with_ties_and_a_zero() -> None:
    # R's wilcox.test falls back to the normal approximation, 0.009091; all nine signs are the same
    assert wilcoxon(SLEEP) == (2 / 2**9, True)
    assert rank_biserial(SLEEP) == -1
    assert hodges_lehmann(SLEEP[SLEEP != 0]) == pytest.approx(-1.4)  # R, which leaves out the zero: -1.400031


def test_rank_biserial_correlation_is_the_simple_difference_of_the_rank_sums() -> None:
    assert rank_biserial(WIKIPEDIA) == pytest.approx(9 / 45)
    assert rank_biserial(np.zeros(8)) == 0


@pytest.mark.parametrize("n", [6, 9, 15, 40])
def test_p_without_ties_is_scipys_exact_p(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    assert wilcoxon(differences)[0] == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_p_with_ties_and_zeros_is_the_share_of_all_signs(seed: int) -> None:
    differences = np.random.default_rng(seed).integers(-3, 6, 11).astype(float)
    there = differences[differences != 0]
    ranks = stats.rankdata(np.abs(there))
    signs = np.array(list(product([0, 1], repeat=len(there))))
    sums, found = signs @ ranks, ranks[there > 0].sum()
    expected = min(1, 2 * min((sums <= found).mean(), (sums >= found).mean()))
    assert wilcoxon(differences) == (pytest.approx(expected), True)
    permuted = stats.wilcoxon(there, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue
    assert wilcoxon(differences)[0] == pytest.approx(permuted)


def test_p_of_many_pairs_is_nearly_the_normal_approximation_and_above_the_limit_is_it() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1, EXACT_PAIRS + 1)
    p, exact = wilcoxon(differences[:-1])
    assert exact
    assert p == pytest.approx(stats.wilcoxon(differences[:-1], method="asymptotic").pvalue, rel=0.02)
    assert wilcoxon(differences) == (pytest.approx(stats.wilcoxon(differences, correction=True).pvalue), False)


def test_equal_scores_have_p_one() -> None:
    assert wilcoxon(np.zeros(10)) == (1.0, True)


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


@pytest.mark.parametrize("n", [7, 9, 11, 15, 21])
def test_interval_lies_between_the_order_statistics_of_the_exact_bootstrap(n: int) -> None:
    # Efron 1979: this is the chance that the median of a resample is at most the k-th of n values
    chances = stats.binom.sf((n - 1) // 2, n, np.arange(n + 1) / n)
    low = np.searchsorted(chances, 0.025)
    assert median_interval(np.arange(1.0, n + 1)[None]) == (low, n + 1 - low)


def test_interval_of_a_row_depends_neither_on_the_others_nor_on_the_order_of_the_cases() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 16))
    rows[3] = 0.25
    low, high = median_interval(rows)
    assert (low[3], high[3]) == (0.25, 0.25)
    assert median_interval(rows[29:]) == (low[29], high[29])
    np.testing.assert_array_equal(median_interval(rng.permuted(rows, axis=1)), (low, high))


def test_interval_covers_the_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for rows in (rng.normal(size=(600, 20)), rng.exponential(size=(600, 20)) - np.log(2)):
        low, high = median_interval(rows, resamples=999)
        assert 0.92 < ((low <= 0) & (high >= 0)).mean() < 0.97


def simulated(effects: list[float], *, studies: int, seed: int) -> pd.DataFrame:
    """Tests of simulated studies, one in each structure; effects in standard deviations of the difference."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(0.8, 0.05, (studies, SUBJECTS))
    noisy = [plain + 0.01 * rng.normal(effect, 1, plain.shape) for effect in effects]
    variant, study, case = np.indices((1 + len(effects), *plain.shape)).reshape(3, -1)
    values = np.stack([plain, *noisy]).ravel()
    columns = ("unet", variant.astype(str), 0, 0, case, study, "dice", values)
    scores = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    tests = compare(scores, baseline="0", resamples=99).tests
    return tests[tests["structure"] != ALL]


def test_without_a_difference_five_percent_of_the_studies_raise_an_alarm() -> None:
    p = simulated([0, 0, 0], studies=STUDIES, seed=0).pivot(index="structure", columns="variant", values="p")
    # the exact test of 15 pairs rejects 4.79 % of them: no attainable p is nearer below 0.05
    assert (p < 0.05).mean().between(0.04, 0.06).all()
    assert (p < 0.05).to_numpy().mean() == pytest.approx(0.0479, abs=0.006)
    corrected = np.apply_along_axis(holm, 1, p.to_numpy())
    assert 0.03 < (corrected < 0.05).any(axis=1).mean() < 0.05


@pytest.mark.parametrize("effect", [0.5, 0.8])
def test_a_planted_difference_is_found_with_the_power_that_theory_says(effect: float) -> None:
    # power of the t-test with n * 3 / pi pairs: the asymptotic relative efficiency of the signed-rank test on normal
    # differences (Lehmann 1975); its noncentral t is that of the two-sided test at 5 %
    critical, shift = stats.t.ppf(0.975, SUBJECTS - 1), effect * np.sqrt(SUBJECTS * 3 / np.pi)
    power = stats.nct.sf(critical, SUBJECTS - 1, shift) + stats.nct.cdf(-critical, SUBJECTS - 1, shift)
    found = simulated([effect], studies=1000, seed=1)
    assert (found["p"] < 0.05).mean() == pytest.approx(power, abs=0.04)
    assert found["median_difference"].mean() == pytest.approx(0.01 * effect, rel=0.05)
