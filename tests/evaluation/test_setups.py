"""Setups in tables: columns where a study varies the training, names of earlier versions, and one error."""

import pandas as pd
import pytest

from scse.evaluation.setups import (
    of_setup,
    per_setup,
    setup_columns,
    setup_of,
    setups,
    stack,
    with_numbers,
    with_setups,
)
from scse.support.errors import DataError
from scse.vocabulary.titles import Setup

VARIED = Setup("unet", 3, 6)


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"network": "unet", "variant": ["none", "scse"], **columns})


def test_only_columns_that_have_a_number_tell_setups_apart() -> None:
    assert setup_columns(table()) == ["network"]
    assert setup_columns(table(epochs=None, train_cases=[None, 3])) == ["network", "train_cases"]


def test_rows_are_found_by_their_setup_in_order_of_occurrence() -> None:
    both = pd.concat([table(epochs=12, train_cases=[6, 6]), table(epochs=[3, 3], train_cases=6), table()])
    every = [Setup("unet", 12, 6), VARIED, Setup("unet")]
    assert setups(both) == every
    assert [setup for setup, rows in per_setup(both) for _ in range(len(rows))] == [s for s in every for _ in range(2)]
    assert [setup_of(row) for row in both.to_dict("records")[::2]] == every
    assert of_setup(both, VARIED)["epochs"].tolist() == [3, 3]
    assert of_setup(both, Setup("unet", 4, 6)).empty


def test_tables_of_setups_are_stacked_with_the_columns_that_vary() -> None:
    rows = table().drop(columns="network").assign(n=1)
    assert stack([(Setup("unet"), rows)]).columns.tolist() == ["network", "variant", "n"]
    found = stack([(VARIED, rows), (Setup("sdnet", 3, 9), rows.iloc[:0])])
    assert found.columns.tolist() == ["network", "epochs", "train_cases", "variant", "n"]
    assert found.dtypes[["epochs", "train_cases", "n"]].tolist() == ["int64"] * 3
    mixed = stack([(VARIED, rows), (Setup("unet"), rows)])
    assert setups(mixed) == [VARIED, Setup("unet")]
    assert mixed["epochs"].dtype == "Int64"
    # an empty table, such as that of missing scores, has the columns too
    assert stack([(VARIED, rows.iloc[:0])]).columns.tolist() == found.columns.tolist()


@pytest.mark.parametrize(
    ("networks", "found"),
    [
        (["unet[epochs=3]", "unet[epochs=12]"], [Setup("unet", 3), Setup("unet", 12)]),
        (["unet[epochs=3,train_cases=6]", "unet"], [VARIED, Setup("unet")]),
        (["a/m.py:f[width=4][train_cases=6]", "1"], [Setup("a/m.py:f[width=4]", None, 6), Setup("1")]),
        (["smp:Unet[encoder_name=resnet18]", "smp:Unet[]"], None),
        (["net[epochs=]", "net[epochs=x]"], None),
        ([1, 2], None),
    ],
)
def test_names_of_earlier_versions_are_split(networks: list[object], found: list[Setup] | None) -> None:
    read = with_setups(table().assign(network=networks), "scores.csv")
    assert setups(read) == (found or [Setup(str(network)) for network in networks])
    assert read.columns.tolist() == [*setup_columns(read), "variant"]


def test_columns_are_not_read_from_names_as_well() -> None:
    read = with_setups(table(epochs=["3", "3"]).assign(network="mine[epochs=9]"), "scores.csv")
    assert setups(read) == [Setup("mine[epochs=9]", 3)]
    assert read["epochs"].dtype == "int64"


@pytest.mark.parametrize("wrong", ["many", 2.5, "2.5", -1, float("inf"), 10**12])
def test_what_is_no_whole_number_is_refused(wrong: object) -> None:
    with pytest.raises(DataError, match=r"^scores\.csv, row 1: epochs is .*; allowed: whole numbers from 0 .* rename"):
        with_numbers(table(epochs=pd.Series([3, wrong], dtype=object)), "scores.csv")


def test_empty_cells_are_setups_without_a_number() -> None:
    read = with_numbers(table(epochs=["3.0", None], train_cases=[None, None]), "scores.csv")
    assert [setup_of(row) for row in read.to_dict("records")] == [Setup("unet", 3), Setup("unet")]
