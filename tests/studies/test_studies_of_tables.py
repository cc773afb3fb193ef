"""A study on a table of cases with groups: its scores name the subjects, and its statistics count them once."""

from pathlib import Path

import pandas as pd
import pytest

from datasets import write_table
from quick_studies import study_once
from scse.evaluation.comparison import ALL
from scse.evaluation.reading import read_scores

SETTINGS = {"width": 4, "depth": 2, "epochs": 1, "batch_size": 8, "precision": "32"}


@pytest.mark.parametrize("folds", [None, 2])
def test_a_study_of_groups(tmp_path: Path, folds: int | None) -> None:
    table = write_table(tmp_path / "set", cases=4, tests=4, shape=(9, 6, 9))
    found = study_once(table, tmp_path, variants=["none", "cse"], seeds=1, folds=folds, settings=SETTINGS)
    of_case = dict(zip(found.scores["case"], found.scores["subject"], strict=True))
    first, groups = ("c", "g") if folds else ("t", "h")
    assert of_case == {f"{first}{n}": f"{groups}{n // 2}" for n in range(4)}
    [row] = found.comparison.tests.query(f"structure == {ALL!r}").to_dict("records")
    assert row["n"] == 4
    kept = read_scores(tmp_path / "study" / "scores.csv")
    pd.testing.assert_frame_equal(kept, found.scores, check_dtype=False)
    assert "8 cases in 4 groups" in found.report.read_text()
