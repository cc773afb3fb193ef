"""Power of a study: the smallest difference that it detects, and the number of trainings that a difference needs."""

import math
from dataclasses import dataclass

from scipy import optimize, stats

from scse.evaluation.statistics import FEWEST_TRAININGS, LEVEL, critical

POWER = 0.8
MOST_TRAININGS = 1000
"""Largest number of trainings that `trainings_needed` considers."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviations of paired differences, in units of the metric.

    Attributes:
        trainings: Between trainings, of the mean over all cases.
        blocks: Between cases or subjects (in a cross-validation between folds), of the mean over all trainings.
        rest: Residual of one case (or subject, or fold) in one training.
    """

    trainings: float
    blocks: float
    rest: float


@dataclass(frozen=True, slots=True)
class Design:
    """Design of a study.

    Attributes:
        blocks: Number of test cases or subjects, or of folds in a cross-validation.
        tests: Number of variants that share Holm's correction.
        overlap: See `estimate`.
    """

    blocks: int
    tests: int = 1
    overlap: float = 0.0


def detectable(spread: Spread, design: Design, trainings: int) -> float:
    """The smallest true difference that a study of this design detects with 80 % power, in units of the metric.

    The test is that of `estimate` at the level of Holm's first step, 0.05 / tests. Variances are treated as known
    except for their degrees of freedom.
    """
    error = math.sqrt(sum(_variances(spread, design, trainings)))
    if not error:
        return 0.0
    excess = _critical(spread, design, trainings)

    def lacking(difference: float) -> float:
        return power(spread, design, trainings, difference * error) - POWER

    # at the critical value, the power is about 50 %
    return float(optimize.brentq(lacking, excess / 2, 4 * excess)) * error


def power(spread: Spread, design: Design, trainings: int, difference: float) -> float:
    """The probability that a study detects a true difference, given in units of the metric; see `detectable`."""
    first, second = _variances(spread, design, trainings)
    if not first + second:
        return 1.0
    # approximate degrees of freedom of the sum of both variances (Satterthwaite 1946)
    freedom = (first + second) ** 2 / (first**2 / (trainings - 1) + second**2 / max(design.blocks - 1, 1))
    shift = difference / math.sqrt(first + second)
    return float(stats.nct.sf(_critical(spread, design, trainings), freedom, shift))


def trainings_needed(spread: Spread, design: Design, difference: float) -> int | None:
    """The least number of trainings of each variant that detects a difference with 80 % power.

    Returns:
        At least 3; None if 1,000 are not enough because there are too few test cases.
    """
    low, high = FEWEST_TRAININGS - 1, MOST_TRAININGS
    if power(spread, design, high, difference) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(spread, design, middle, difference) < POWER:
            low = middle
        else:
            high = middle
    return high


def _variances(spread: Spread, design: Design, trainings: int) -> tuple[float, float]:
    """Contributions of trainings and blocks to the variance of the mean; the residual is added to the trainings."""
    of_trainings = (spread.trainings**2 + spread.rest**2 / design.blocks) / trainings
    return of_trainings, (1 + design.overlap) * spread.blocks**2 / design.blocks


def _critical(spread: Spread, design: Design, trainings: int) -> float:
    level = LEVEL / design.tests
    return float(critical(level, *_variances(spread, design, trainings), trainings, design.blocks))
