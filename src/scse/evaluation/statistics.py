"""The mean paired difference over new cases and new trainings: its variance, tests and interval; Holm's correction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.optimize import elementwise

LEVEL = 0.05
FEWEST_CASES = 6
FEWEST_TRAININGS = 3
"""With two trainings, one degree of freedom is left for the luck of a training: no verdict rests on that."""

SMALLEST_P = 1e-100
"""Smaller p-values are reported as this one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Mean difference of two-way tables trainings x blocks, and what it varies by; every array has an entry a table.

    A block is a case, or in a cross-validation the cases of one fold.

    Attributes:
        difference: the mean.
        trainings: how many, K.
        blocks: how many, B.
        of_trainings: the variance of the mean that trainings (and what is left of each cell) contribute.
        of_blocks: the variance of the mean that blocks contribute.
        mean_squares: of trainings, blocks and the rest, in the table's units squared.
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
        """Standard deviations of trainings, blocks and the rest; negative estimates of a variance count as zero."""
        trainings, blocks, rest = self.mean_squares
        variances = (trainings - rest) / self.blocks, (blocks - rest) / self.trainings, rest
        first, second, third = (np.sqrt(np.maximum(variance, 0.0)) for variance in variances)
        return first, second, third

    def interval(self) -> tuple[Floats, Floats]:
        """Both ends of the 95 % interval."""
        half = self.critical(LEVEL) * self.error
        return self.difference - half, self.difference + half

    def critical(self, level: ArrayLike) -> Floats:
        """Standard errors that the mean difference must be from a value to exclude it at a two-sided level.

        The quantiles of Student's t for trainings (K - 1 degrees of freedom) and for blocks (B - 1), weighed with the
        variances that they contribute (Cochran and Cox 1957).
        """
        return critical(level, self.of_trainings, self.of_blocks, self.trainings, self.blocks)

    def p(self) -> Floats:
        """Two-sided p of no difference."""
        return self._p(np.abs(self.difference))

    def p_equivalent(self, margin: float) -> Floats:
        """The larger p of two one-sided tests that the difference is beyond a margin on either side (Schuirmann 1987).

        Args:
            margin: positive, in units of the difference. A difference at the margin or beyond it has 0.5 or more.
        """
        inside = margin - np.abs(self.difference)
        half = self._p(np.abs(inside)) / 2
        return np.where(inside > 0, half, 1 - half)

    def _p(self, distance: Floats) -> Floats:
        """The two-sided level at which a value at this distance from the mean difference is just excluded."""

        def excess(log_p: Floats, away: Floats, *design: Floats) -> Floats:
            return critical(np.exp(log_p), *design) * np.sqrt(design[0] + design[1]) - away

        distance, *design = np.broadcast_arrays(
            distance, self.of_trainings, self.of_blocks, self.trainings, self.blocks
        )
        usual = np.isfinite(self.error) & (self.error > 0) & (distance > 0)
        p = np.where(distance > 0, SMALLEST_P, 1.0)  # equal scores everywhere: no variance
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
    """See `Estimate.critical`; everything broadcasts."""
    first, second = np.asarray(of_trainings, dtype=np.float64), np.asarray(of_blocks, dtype=np.float64)
    half = np.asarray(level, dtype=np.float64) / 2
    both = first * special.stdtrit(np.asarray(trainings) - 1, half)
    # one block contributes no variance, and has no quantile
    both = both + np.where(second > 0, second * special.stdtrit(np.maximum(np.asarray(blocks) - 1, 1), half), 0.0)
    total = first + second
    quantile: Floats = -both / np.where(total == 0, 1.0, total)
    return quantile


def estimate(tables: Floats, *, overlap: ArrayLike = 0.0) -> Estimate:
    """Estimate the mean of two-way tables whose rows and columns are both drawn from larger populations.

    Each cell is mean + training + block + rest, all independent (crossed random effects, the model of multi-reader
    multi-case studies with trainings as readers: Dorfman, Berbaum and Metz 1992). With the mean squares MS of the
    two-way analysis of variance, the mean has the variance (MS_trainings + max(MS_blocks - MS_rest, 0)) / (K B).

    Args:
        tables: (..., K, B) paired differences without gaps; K and B at least 2, else the variances are NaN.
        overlap: added to 1, the factor of the blocks' variance. For a cross-validation B / (B - 1): its folds share
            training cases, so that their mean varies by more than their spread shows (Nadeau and Bengio 2003).

    Returns:
        An `Estimate` of arrays with the shape (...).
    """
    trainings, blocks = tables.shape[-2:]
    count = trainings * blocks
    # of an empty table everything is NaN
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
    """The overlap of a cross-validation, see `estimate`; with one fold there is nothing to correct."""
    return folds / max(folds - 1, 1)


def join(estimates: list[Estimate]) -> Estimate:
    """Estimates of single tables as one whose arrays have an entry each."""
    numbers = [
        (each.difference, each.trainings, each.blocks, each.of_trainings, each.of_blocks, *each.mean_squares)
        for each in estimates
    ]
    mean, trainings, blocks, first, second, *squares = np.array(numbers, dtype=np.float64).reshape(-1, 8).T
    whole = trainings.astype(np.intp), blocks.astype(np.intp)
    return Estimate(mean, *whole, first, second, (squares[0], squares[1], squares[2]))


def holm(p: Floats) -> Floats:
    """Correct the p-values (n,) of one family after Holm (1979); NaN stay NaN and do not count."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected
