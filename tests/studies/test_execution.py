"""Scores of one run, as an earlier call left them."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from scores_tables import PLAIN, runs
from scse.evaluation.pairing import SCORE_COLUMNS
from scse.studies.execution import SCORES, read_scores
from scse.studies.grid import Run
from scse.support.errors import DataError
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import PLAIN as NONE

TABLE = runs({"none": PLAIN})


def read(folder: Path, table: pd.DataFrame, network: str, *varied: int) -> pd.DataFrame:
    """The scores of a run of seed 0 and fold 0, from a table in its folder."""
    table.to_parquet(folder / SCORES, index=False)
    return read_scores(SimpleNamespace(folder=lambda run: folder), Run(NetworkSpec.parse(network), NONE, 0, 0, *varied))


def test_names_of_earlier_versions_become_columns(tmp_path: Path) -> None:
    found = read(tmp_path, TABLE.assign(network="unet[epochs=3,train_cases=6]"), "unet", 3, 6)
    assert found.columns.tolist() == ["network", "epochs", "train_cases", *SCORE_COLUMNS[1:]]
    assert found.loc[0, ["network", "epochs", "train_cases"]].tolist() == ["unet", 3, 6]
    pd.testing.assert_frame_equal(read(tmp_path, found, "unet", 3, 6), found)


def test_a_networks_own_option_is_not_mistaken_for_the_epochs_of_a_study(tmp_path: Path) -> None:
    network = "mine.py:make[epochs=3]"
    pd.testing.assert_frame_equal(read(tmp_path, TABLE.assign(network=network), network), TABLE.assign(network=network))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"network": "unet[epochs=2]"},
            r"network is 'unet\[epochs=2\]', where the run has 'unet\[epochs=3\]'; delete it",
        ),
        ({"epochs": 3.5}, r"scores.parquet, row 1: epochs is 3.5; allowed: whole numbers .*; delete it"),
        ({"epochs": 3, "variant": "scse"}, "variant is 'scse', where the run has 'none'; delete it"),
    ],
)
def test_scores_of_another_run_are_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, TABLE.assign(**changed), "unet", 3)
