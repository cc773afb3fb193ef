"""Small tables of scores for the tests of the comparison."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scse.evaluation import Comparison
from scse.evaluation.comparison import ALL
from scse.evaluation.pairing import COLUMNS

CASES = 10
PLAIN = np.linspace(0.70, 0.79, CASES)
# 15 differences: large gains, enough for the signed ranks, but so many small losses that the median may be zero
UNSURE = np.array([*(-0.0001 * np.arange(1, 6)), *(0.01 * np.arange(1, 11))])


def runs(
    variants: Mapping[str, object],
    *,
    network: str = "unet",
    metric: str = "dice",
    seed: int = 0,
    fold: object = 0,
    structure: str = "caudate",
) -> pd.DataFrame:
    """A score table in which each variant has the given values, one a case."""
    rows = [
        (network, variant, seed, fold, f"case{i}", structure, metric, value)
        for variant, values in variants.items()
        for i, value in enumerate(np.asarray(values, dtype=float))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def overall(comparison: Comparison, variant: str = "scse") -> dict:
    tests = comparison.tests
    (row,) = tests[(tests["variant"] == variant) & (tests["structure"] == ALL)].to_dict("records")
    return row


def gains() -> np.ndarray:
    return 0.01 + 0.001 * np.arange(CASES)
