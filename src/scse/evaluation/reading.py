"""Reading of tables of scores from CSV and Parquet files."""

from collections.abc import Callable
from numbers import Number
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from scse.evaluation.pairing import SCORE_COLUMNS, SUBJECT, check_scores
from scse.evaluation.setups import setup_columns, with_setups
from scse.support.errors import DataError, in_short
from scse.support.paths import check_regular_file

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

    The columns variant, case and value are required. If the columns network, structure, seed or fold are missing or
    empty, all scores belong to one network, structure, seed or fold; if metric is, they belong to the requested
    metric. The columns epochs and train_cases, of a study that varies these, may have empty cells, and tables of
    earlier versions get them from their networks' names, such as "unet[epochs=3]". Cases with the same value in the
    column subject count as one in statistics. Other columns are ignored. An empty or NaN value is an undefined score.
    "none" is read as a name.

    Args:
        path: Parquet file (`.parquet`), or CSV file in UTF-8 with commas and decimal points.
        metric: Metric to be compared.
        baseline: Variant with which the others will be compared, to check that it occurs; None skips this check.
        on_note: Called with a message for each assumption.

    Returns:
        The tidy table with the columns network, epochs and train_cases (each only if it is not empty), variant, seed,
        fold, case, structure, metric, value, and subject (if it is not empty).

    Raises:
        DataError: The file cannot be read, or its variants cannot be compared. The message names the file, the row
            (for CSV the line) and the remedy.
    """
    path = Path(path)
    table = read_table(path)
    absent = [column for column in NEEDED if column not in table.columns]
    if absent:
        raise DataError(
            f"{path}: has no column {', '.join(absent)}, but {', '.join(map(str, table.columns))}; required: "
            f"{', '.join(SCORE_COLUMNS)}, separated by commas"
        )
    for column, value in fill(table, metric=metric).items():
        on_note(f"no column {column}: using {value} for all scores")
    table = tidy(table, path)
    if table["variant"].nunique() < 2:
        found = f"the only variant is {table['variant'].iloc[0]}"
        raise DataError(f"{path}: {found}; a comparison needs at least two: add the scores of another variant")
    try:
        check_scores(table, metric, baseline, name=str(path))
    except ValueError as error:
        raise DataError(str(error)) from None
    return table.reset_index(drop=True)


def fill(table: pd.DataFrame, *, metric: str, fold: int = 0) -> dict[str, str | int]:
    """Fill absent or empty optional columns in place, and return the value of each filled column."""
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
    """Select the columns of a tidy table, with names as text and values as numbers.

    Raises:
        DataError: A column is missing, a name is empty, or a value is not a number of its kind.
    """
    if absent := [column for column in SCORE_COLUMNS if column not in table.columns]:
        found = ", ".join(map(str, table.columns))
        raise DataError(f"{path}: has no column {', '.join(absent)}, but {found}; add the missing columns")
    table = with_setups(table, str(path))
    grouped = SUBJECT in table.columns and table[SUBJECT].notna().any()
    table = table[[*setup_columns(table), *SCORE_COLUMNS[1:], *([SUBJECT] if grouped else [])]]
    for column in SCORE_COLUMNS[:-1]:
        empty = table[column].isna()
        if empty.any():
            raise DataError(f"{path}, row {table.index[empty][0]}: {column} is empty; fill it in, or remove the row")
    for column in NAMES:
        table[column] = table[column].astype(str)
    table["value"] = _numbers(table["value"], path)
    return table


def read_table(path: Path, *, separator: str = ",") -> pd.DataFrame:
    """Read a CSV or Parquet file. Rows are numbered as in the file, and empty cells are NaN.

    Raises:
        DataError: The file cannot be read, or has no rows.
    """
    check_regular_file(path, remedy="give a CSV or Parquet file of scores, such as the scores.csv of a study")
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
                    f"{path}: its rows have more fields than the first line has names ({', '.join(table.columns)}); "
                    "name all columns, separate them by commas, and write decimal points"
                )
            headings = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, encoding=CODING)
            table.columns = headings.iloc[0].fillna("").str.strip().to_list()
            if (twice := table.columns[table.columns.duplicated()]).size:
                raise DataError(f"{path}: has the column {twice[0]!r} twice; remove one of them")
            table.index += 2  # line numbers of the file, whose first line has the names
            table = table.apply(lambda column: column.str.strip()).replace("", np.nan).dropna(how="all")
            for column in {"seed", "fold"} & set(table.columns):
                numbers = pd.to_numeric(table[column], errors="coerce")
                table[column] = table[column] if numbers.isna().any() else numbers
    except (ValueError, OSError, ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as {_format(path)} ({in_short(error)}); save it again") from None
    if table.empty:
        raise DataError(f"{path}: contains no scores; write one row for each score")
    return table


def _check_plain(table: pd.DataFrame, path: Path) -> None:
    """Refuse types that only Parquet has: lists, structures, dates and bytes."""
    for column in table.columns:
        if table[column].dtype.kind in "mM" or not all(map(_is_plain, table[column])):
            raise DataError(f"{path}: the column {column} has values that are not text or numbers; convert them")


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
            f"{path}, row {row}: the value {values[row]!r} is not a number; write numbers with a decimal point, "
            "and leave undefined scores empty"
        )
    return numbers
