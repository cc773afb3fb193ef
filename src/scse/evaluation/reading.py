"""Tables of scores from anywhere: CSV or Parquet files, checked."""

from collections.abc import Callable
from numbers import Number
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from scse.evaluation.pairing import COLUMNS, check_scores
from scse.support.errors import DataError, in_short

NAMES = ("network", "variant", "case", "structure", "metric")
CODING = "utf-8-sig"
NEEDED = ("variant", "case", "value")
NOT_A_NUMBER = frozenset({"", "nan", "na", "n/a"})


def read_scores(
    path: Path | str,
    *,
    metric: str = "dice",
    baseline: str | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> pd.DataFrame:
    """Read the scores of any set of runs.

    The columns variant, case and value are needed. Without (or with empty) columns network, structure, seed, fold or
    metric, all scores are of one network, structure, seed and fold, and of the metric asked for; other columns are
    left alone. An empty or NaN value is a score that is not defined. "none" is a name.

    Args:
        path: Parquet (`.parquet`), or CSV in UTF-8 with commas and decimal points.
        metric: that will be compared.
        baseline: that the variants will be compared with, if it is to be checked.
        on_note: told, in a line each, what was taken for granted.

    Returns:
        The tidy table: network, variant, seed, fold, case, structure, metric, value.

    Raises:
        DataError: the file cannot be read or compared; the message names it, the row (for CSV the line) and the
            remedy.
    """
    path = Path(path)
    table = read_table(path)
    absent = [column for column in NEEDED if column not in table.columns]
    if absent:
        raise DataError(
            f"{path}: no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}. Needed are "
            f"{', '.join(COLUMNS)}, separated by commas"
        )
    for column, value in fill(table, metric=metric).items():
        on_note(f"no column {column}: taken as {value} for all scores")
    table = tidy(table, path)
    if table["variant"].nunique() < 2:
        raise DataError(f"{path}: the only variant is {table['variant'].iloc[0]}; at least two are needed to compare")
    try:
        check_scores(table, metric, baseline, name=str(path))
    except ValueError as error:
        raise DataError(str(error)) from None
    return table.reset_index(drop=True)


def fill(table: pd.DataFrame, *, metric: str, fold: int = 0) -> dict[str, str | int]:
    """Fill in, in place, the columns that may be absent or empty; returns the value of each filled column."""
    defaults: dict[str, str | int] = {
        "network": "network",
        "structure": "structure",
        "seed": 0,
        "fold": fold,
        "metric": metric,
    }
    filled = {key: value for key, value in defaults.items() if key not in table.columns or table[key].isna().all()}
    for column, value in filled.items():
        table[column] = value
    return filled


def tidy(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of a tidy table, names as text and values as numbers.

    Raises:
        DataError: a name is empty, or a value is no number.
    """
    if absent := [column for column in COLUMNS if column not in table.columns]:
        raise DataError(f"{path}: no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}")
    table = table[list(COLUMNS)]
    for column in COLUMNS[:-1]:
        empty = table[column].isna()
        if empty.any():
            raise DataError(f"{path}, row {table.index[empty][0]}: {column} is empty; fill it in or drop the row")
    for column in NAMES:
        table[column] = table[column].astype(str)
    table["value"] = _numbers(table["value"], path)
    return table


def read_table(path: Path, *, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file with rows numbered as in the file; what is empty is NaN.

    Raises:
        DataError: the file cannot be read, or holds no rows.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "there is no such file"
        raise DataError(f"{path}: {found}; give a CSV or Parquet file of scores, such as a study's scores.csv")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            table.index = pd.RangeIndex(1, len(table) + 1)
            _check_plain(table, path)
        else:
            table = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding=CODING
            )
            if not isinstance(table.index, pd.RangeIndex):
                raise DataError(
                    f"{path}: its rows have more fields than its first line has names ({', '.join(table.columns)}); "
                    "name every column, and separate columns by commas and decimals by points"
                )
            headings = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, encoding=CODING)
            table.columns = headings.iloc[0].fillna("").str.strip().to_list()
            if (twice := table.columns[table.columns.duplicated()]).size:
                raise DataError(f"{path}: has the column {twice[0]!r} twice; remove one of them")
            table.index += 2  # lines of the file: the first one holds the names
            table = table.apply(lambda column: column.str.strip()).replace("", np.nan).dropna(how="all")
            for column in {"seed", "fold"} & set(table.columns):
                numbers = pd.to_numeric(table[column], errors="coerce")
                table[column] = table[column] if numbers.isna().any() else numbers
    except (ValueError, OSError, ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as {_format(path)}: {in_short(error)}") from None
    if table.empty:
        raise DataError(f"{path}: holds no scores; there must be a row for each score")
    return table


def _check_plain(table: pd.DataFrame, path: Path) -> None:
    """Refuse what only Parquet can hold: lists, structures, dates and bytes."""
    for column in table.columns:
        if table[column].dtype.kind in "mM" or not all(map(_is_plain, table[column])):
            raise DataError(f"{path}: the column {column} holds other things than text and numbers; write these alone")


def _is_plain(value: object) -> bool:
    return value is None or value is pd.NA or isinstance(value, str | Number | np.generic)


def _format(path: Path) -> str:
    return "Parquet" if path.suffix == ".parquet" else "CSV (UTF-8, commas; Parquet files end in .parquet)"


def _numbers(values: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    undefined = values.isna() | values.astype(str).str.lower().isin(NOT_A_NUMBER)
    wrong = numbers.isna() & ~undefined
    if wrong.any():
        row = values.index[wrong][0]
        raise DataError(
            f"{path}, row {row}: the value {values[row]!r} is no number; write it with a decimal point, "
            "and leave it empty where a score is not defined"
        )
    return numbers
