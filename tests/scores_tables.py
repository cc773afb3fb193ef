"""Small tables of scores for the tests of the comparison."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from scse.evaluation import Comparison
from scse.evaluation.comparison import ALL
from scse.evaluation.pairing import SCORE_COLUMNS

CASES = 10
PLAIN = np.linspace(0.70, 0.79, CASES)
LUCK = (0.001, -0.001, 0.002)
"""What each of three trainings adds to the difference of every case."""


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
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def trainings(variants: Mapping[str, object], *, luck: Sequence[float] = LUCK, **options: object) -> pd.DataFrame:
    """A table of one training for each luck, which is added to the scores of every variant but the first."""
    first = next(iter(variants))
    tables = []
    for seed, shift in enumerate(luck):
        moved = {name: np.asarray(values) + shift * (name != first) for name, values in variants.items()}
        tables.append(runs(moved, seed=seed, **options))
    return pd.concat(tables, ignore_index=True)


def overall(comparison: Comparison, variant: str = "scse") -> dict:
    tests = comparison.tests
    (row,) = tests[(tests["variant"] == variant) & (tests["structure"] == ALL)].to_dict("records")
    return row


def gains() -> np.ndarray:
    return 0.01 + 0.001 * np.arange(CASES)
