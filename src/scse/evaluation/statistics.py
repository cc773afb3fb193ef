"""The mean paired difference over new cases and new trainings: variance, tests, interval, and Holm's correction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.optimize import elementwise

LEVEL = 0.05
FEWEST_CASES = 6
FEWEST_TRAININGS = 3
"""Least number of trainings for a verdict: two leave only one degree of freedom for differences between trainings."""

SMALLEST_P = 1e-100
"""Lower bound of reported p-values."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Mean differences of two-way tables (trainings x blocks) and their variances; arrays have one entry per table.

    A block is a case, or the cases of one subject, or in a cross-validation the cases of one fold.

    Attributes:
        difference: Mean difference.
        trainings: Number of trainings, K.
        blocks: Number of blocks, B.
        of_trainings: Contribution of trainings and of the residual to the variance of the mean.
        of_blocks: Contribution of blocks to the variance of the mean.
        mean_squares: Mean squares of trainings, blocks and the residual, in squared units of the table.
    """

    difference: Floats
    trainings: NDArray[np.intp]
    blocks: NDArray[np.intp]
    of_trainings: Floats
    of_blocks: Floats
    mean_squares: tuple[Floats, Floats, Floats]

    @property
    def error(self) -> Floats:
        """Standard error of the mean difference."""
        return np.sqrt(self.of_trainings + self.of_blocks)

    @property
    def components(self) -> tuple[Floats, Floats, Floats]:
        """Standard deviations of trainings, blocks and the residual; negative variance estimates count as zero."""
        trainings, blocks, rest = self.mean_squares
        variances = (trainings - rest) / self.blocks, (blocks - rest) / self.trainings, rest
        first, second, third = (np.sqrt(np.maximum(variance, 0.0)) for variance in variances)
        return first, second, third

    def interval(self) -> tuple[Floats, Floats]:
        """Lower and upper bound of the 95 % interval."""
        half = self.critical(LEVEL) * self.error
        return self.difference - half, self.difference + half

    def critical(self, level: ArrayLike) -> Floats:
        """Critical value: distance in standard errors at which a value is excluded at a two-sided level.

        It is the mean of the quantiles of Student's t for trainings (K - 1 degrees of freedom) and for blocks (B - 1),
        weighted by their contributions to the variance (Cochran and Cox 1957).
        """
        return critical(level, self.of_trainings, self.of_blocks, self.trainings, self.blocks)

    def p(self) -> Floats:
        """Two-sided p-value of the hypothesis of no difference."""
        return self._p(np.abs(self.difference))

    def p_equivalent(self, margin: float) -> Floats:
        """The larger p-value of two one-sided tests that the difference lies beyond a margin (Schuirmann 1987).

        Args:
            margin: Positive margin in units of the difference. A difference at or beyond it has a p-value of at least
                0.5.
        """
        inside = margin - np.abs(self.difference)
        half = self._p(np.abs(inside)) / 2
        return np.where(inside > 0, half, 1 - half)

    def _p(self, distance: Floats) -> Floats:
        """Two-sided level at which a value at this distance from the mean difference is just excluded."""

        def excess(log_p: Floats, away: Floats, *design: Floats) -> Floats:
            return critical(np.exp(log_p), *design) * np.sqrt(design[0] + design[1]) - away

        distance, *design = np.broadcast_arrays(
            distance, self.of_trainings, self.of_blocks, self.trainings, self.blocks
        )
        usual = np.isfinite(self.error) & (self.error > 0) & (distance > 0)
        p = np.where(distance > 0, SMALLEST_P, 1.0)  # for tables without variance
        p[np.isnan(self.error)] = np.nan
        if usual.any():
            arguments = tuple(values[usual].astype(np.float64) for values in (distance, *design))
            ends = np.full(usual.sum(), np.log(SMALLEST_P)), np.zeros(usual.sum())
            found = elementwise.find_root(excess, ends, args=arguments)
            p[usual] = np.where(found.success, np.exp(found.x), SMALLEST_P)
        return p


def critical(
    level: ArrayLike, of_trainings: ArrayLike, of_blocks: ArrayLike, trainings: ArrayLike, blocks: ArrayLike
) -> Floats:
    """See `Estimate.critical`; all arguments are broadcast."""
    first, second = np.asarray(of_trainings, dtype=np.float64), np.asarray(of_blocks, dtype=np.float64)
    half = np.asarray(level, dtype=np.float64) / 2
    both = first * special.stdtrit(np.asarray(trainings) - 1, half)
    # a single block contributes no variance and has no quantile
    both = both + np.where(second > 0, second * special.stdtrit(np.maximum(np.asarray(blocks) - 1, 1), half), 0.0)
    total = first + second
    quantile: Floats = -both / np.where(total == 0, 1.0, total)
    return quantile


def estimate(tables: Floats, *, overlap: ArrayLike = 0.0) -> Estimate:
    """Estimate the mean of two-way tables whose rows and columns are both samples of larger populations.

    Each cell is the sum of the mean and independent effects of training, block and residual (crossed random effects,
    the model of multi-reader multi-case studies with trainings as readers: Dorfman, Berbaum and Metz 1992). With the
    mean squares MS of the two-way analysis of variance, the variance of the mean is
    (MS_trainings + max(MS_blocks - MS_residual, 0)) / (K B).

    Args:
        tables: Paired differences (..., K, B) without gaps. The variances are NaN if K or B is below 2.
        overlap: The variance of blocks is multiplied by 1 + `overlap`. It is B / (B - 1) for a cross-validation, whose
            folds share training cases, so that their mean varies more than their spread suggests (Nadeau and Bengio
            2003); otherwise 0.

    Returns:
        An `Estimate` whose arrays have the shape (...).
    """
    trainings, blocks = tables.shape[-2:]
    count = trainings * blocks
    # for an empty table, everything is NaN
    mean = tables.sum(axis=(-2, -1)) / (count or np.nan)
    rows, columns = tables.sum(axis=-1) / (blocks or np.nan), tables.sum(axis=-2) / (trainings or np.nan)
    rest = tables - rows[..., None] - columns[..., None, :] + mean[..., None, None]
    squares = (
        blocks * ((rows - mean[..., None]) ** 2).sum(axis=-1) / (trainings - 1 or np.nan),
        trainings * ((columns - mean[..., None]) ** 2).sum(axis=-1) / (blocks - 1 or np.nan),
        (rest**2).sum(axis=(-2, -1)) / ((trainings - 1) * (blocks - 1) or np.nan),
    )
    between = (1 + np.asarray(overlap)) * np.maximum(squares[1] - squares[2], 0.0)
    whole = np.ones(mean.shape, dtype=np.intp)
    return Estimate(
        mean, trainings * whole, blocks * whole, squares[0] / (count or np.nan), between / (count or np.nan), squares
    )


def fold_overlap(folds: int) -> float:
    """The overlap of a cross-validation with this number of folds, see `estimate`."""
    return folds / max(folds - 1, 1)


def join(estimates: list[Estimate]) -> Estimate:
    """Combine estimates of single tables into one with one entry per table."""
    numbers = [
        (each.difference, each.trainings, each.blocks, each.of_trainings, each.of_blocks, *each.mean_squares)
        for each in estimates
    ]
    mean, trainings, blocks, first, second, *squares = np.array(numbers, dtype=np.float64).reshape(-1, 8).T
    whole = trainings.astype(np.intp), blocks.astype(np.intp)
    return Estimate(mean, *whole, first, second, (squares[0], squares[1], squares[2]))


def holm(p: Floats) -> Floats:
    """Correct the p-values (n,) of one family after Holm (1979). NaN values stay NaN and are not counted."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected
