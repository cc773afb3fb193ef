"""Tables of scores: optional columns, and one clear message for each kind of error."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scores_tables import PLAIN, gains, runs
from scse.evaluation import compare, read_scores
from scse.support.errors import DataError

HEAD = "network,variant,seed,fold,case,structure,metric,value\n"
ROWS = "unet,none,0,0,a,left,dice,0.8\nunet,scse,0,0,a,left,dice,0.9\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "scores.csv", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


def test_csv_and_parquet_give_the_table_that_was_written(tmp_path: Path) -> None:
    table = runs({"none": PLAIN, "scse": [*PLAIN[:-1], np.nan]}).reset_index(drop=True)
    table.to_csv(tmp_path / "scores.csv", index=False)
    table.to_parquet(tmp_path / "scores.parquet", index=False)
    from_csv, from_parquet = (read_scores(tmp_path / f"scores.{ending}") for ending in ("csv", "parquet"))
    pd.testing.assert_frame_equal(from_csv, table)
    pd.testing.assert_frame_equal(from_parquet, table)


def test_names_stay_text_and_what_is_empty_or_nan_is_not_defined(write) -> None:
    text = "\ufeff" + HEAD + "1,none,s1,0,007,NA,dice,\n\n1,null, s1,0,007,NA,dice, NaN\n1,none,s1,0,008,NA,dice,1e-1\n"
    table = read_scores(write(text))
    assert table["variant"].tolist() == ["none", "null", "none"]
    assert table.loc[0, ["network", "seed", "case", "structure"]].tolist() == ["1", "s1", "007", "NA"]
    np.testing.assert_array_equal(table["value"], [np.nan, np.nan, 0.1])


def test_columns_that_may_be_absent_are_filled_in_and_told(write) -> None:
    notes: list[str] = []
    path = write("case,variant,value,seed,who\na,none,0.8,,x\na,scse,0.9,,y\n")
    table = read_scores(path, metric="hd95", on_note=notes.append)
    expected = {"network": "network", "structure": "structure", "seed": 0, "fold": 0, "metric": "hd95"}
    assert {key: table[key].unique().tolist() for key in expected} == {key: [v] for key, v in expected.items()}
    assert notes == [f"no column {key}: using {value} for all scores" for key, value in expected.items()]
    assert compare(table, metric="hd95").tests["kind"].tolist() == ["few_cases", "few_cases"]


def test_labels_of_earlier_versions_are_read_as_columns(write) -> None:
    rows = "3,unet,none,0,0,a,left,dice,0.8\n,unet,scse,0,0,a,left,dice,0.9\n"
    table = read_scores(write(f"epochs,{HEAD}{rows}"))
    assert table.columns.tolist() == ["network", "epochs", *HEAD.strip().split(",")[1:]]
    assert table["epochs"].tolist() == [3, pd.NA]
    unused = read_scores(write(f"train_cases,{HEAD}{rows.replace('3,', ',')}"))
    assert unused.columns.tolist() == HEAD.strip().split(",")
    earlier = read_scores(write(HEAD + ROWS.replace("unet", '"unet[epochs=3,train_cases=6]"')))
    pd.testing.assert_frame_equal(
        earlier, read_scores(write(f"epochs,train_cases,{HEAD}3,6,{ROWS}".replace("\nunet", "\n3,6,unet")))
    )
    assert earlier.loc[0, ["network", "epochs", "train_cases"]].tolist() == ["unet", 3, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as CSV .*EmptyDataError"),
        (HEAD, "contains no scores"),
        ("network;variant;value\nunet;none;0.5\n", "no column variant, case, value, but .*separated by commas"),
        ("network;variant;value\nunet;none;0,5\n", "more fields .*separate them by commas"),
        (HEAD + ROWS + "unet,cse,0,0,a,left,dice,good\n", "row 4: the value 'good' is not a number"),
        (
            HEAD + ROWS + "\nunet,cse,0,0,a,left,dice,-inf\n",
            "row 5: the value is infinite; leave undefined scores empty",
        ),
        (HEAD + ROWS + "unet,,0,0,a,left,dice,0.5\n", "row 4: variant is empty"),
        (HEAD + ROWS + ROWS, "2 scores are duplicates, the first in rows 2 and 4 .*variant none"),
        (HEAD + ROWS.splitlines()[0], "the only variant is none; a comparison needs at least two"),
        (HEAD + ROWS.replace("\n", ",7\n"), "more fields"),
        (HEAD + ROWS + "unet,cse,0,0,a,left,dice,0.5,7\n", "cannot be read as CSV .*line 4"),
        (HEAD + ROWS.replace("none", "plain"), "baseline 'none' does not occur .*choose plain, scse"),
        (HEAD + ROWS.replace("dice", "iou"), "metric 'dice' does not occur; choose iou"),
        (f"epochs,{HEAD}3,{ROWS}".replace("unet,scse", "2.5,unet,scse"), "row 3: epochs is '2.5'; allowed: .*rename"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_message(write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(DataError, match=message) as told:
        read_scores(path, baseline="none")
    assert str(told.value).startswith(str(path))


def test_files_that_are_no_tables_are_refused(tmp_path: Path, write) -> None:
    with pytest.raises(DataError, match=r"missing.csv: does not exist"):
        read_scores(tmp_path / "missing.csv")
    with pytest.raises(DataError, match=r"is a folder, not a file; give a CSV or Parquet file"):
        read_scores(tmp_path)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_scores(write(HEAD + ROWS, "scores.parquet"))
    with pytest.raises(DataError, match=r"cannot be read as CSV .*UnicodeDecodeError"):
        read_scores(write(HEAD + ROWS.replace("left", "höchst"), encoding="latin-1"))
    table = runs({"none": PLAIN, "scse": PLAIN + gains()})
    table.assign(value=table["value"].astype(str)).to_parquet(tmp_path / "text.parquet")
    assert read_scores(tmp_path / "text.parquet")["value"].tolist() == table["value"].tolist()


@pytest.mark.parametrize("column", ["variant", "seed", "case", "value"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", pd.Timestamp("2020-01-01")], ids=str)
def test_columns_that_hold_neither_text_nor_numbers_are_refused(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "scores.parquet"
    table = pd.DataFrame({"variant": ["none", "cse"], "seed": [0, 0], "case": ["a", "a"], "value": [0.5, 0.6]})
    table.assign(**{column: [value, value]}).to_parquet(path)
    with pytest.raises(DataError, match=f"the column {column} has values that are not text or numbers"):
        read_scores(path)


def test_a_repeated_column_is_refused_and_blanks_are_stripped(write) -> None:
    lines = "none,a,0.5,0.5\ncse,a,0.6,0.6\n"
    with pytest.raises(DataError, match="has the column 'value' twice; remove one of them"):
        read_scores(write(f"variant,case,value, value\n{lines}"))
    table = read_scores(write(f"variant, case ,value, note\n{lines}"))
    assert table["value"].tolist() == [0.5, 0.6]
