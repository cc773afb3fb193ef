"""Setups in tables: the columns network, epochs and train_cases, the last two only where they are varied.

A table of earlier versions has all of them in the column network, as "unet[epochs=3,train_cases=6]".
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from scse.support.errors import DataError
from scse.vocabulary.titles import Setup

VARIED = ["epochs", "train_cases"]
SETUP_COLUMNS = ["network", *VARIED]
LARGEST = 999_999_999
EARLIER = r"(?s)(?P<network>.+)\[(?:epochs=(?P<epochs>\d{1,9}))?,?(?:train_cases=(?P<train_cases>\d{1,9}))?(?<=\d)\]\Z"


def setup_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that tell setups apart; columns without a number do not."""
    varied = [column for column in VARIED if column in table.columns and table[column].notna().any()]
    return ["network", *varied]


def setup_of(row: Mapping[Hashable, Any]) -> Setup:
    """The setup of one row of a table."""
    numbers = {column: int(row[column]) for column in VARIED if column in row and not pd.isna(row[column])}
    return Setup(str(row["network"]), **numbers)


def per_setup(table: pd.DataFrame) -> Iterator[tuple[Setup, pd.DataFrame]]:
    """Each setup of a table with its rows, in order of first occurrence."""
    columns = setup_columns(table)
    for key, rows in table.groupby(columns, sort=False, dropna=False):
        yield setup_of(dict(zip(columns, key, strict=True))), rows


def setups(table: pd.DataFrame) -> list[Setup]:
    """The setups of a table, in order of first occurrence."""
    return [setup for setup, _ in per_setup(table)]


def of_setup(table: pd.DataFrame, setup: Setup) -> pd.DataFrame:
    """The rows of one setup; none if it does not occur."""
    return dict(per_setup(table)).get(setup, table.iloc[:0])


def stack(tables: Iterable[tuple[Setup, pd.DataFrame]]) -> pd.DataFrame:
    """One table of the tables of one or more setups, with the columns of the setups first."""
    every = list(tables)
    columns = ["network", *(c for c in VARIED if any(getattr(setup, c) is not None for setup, _ in every))]
    rest = every[0][1].columns.drop(SETUP_COLUMNS, errors="ignore")
    # the columns of empty tables have no types, and would change those of the others
    full = [pair for pair in every if len(pair[1])] or every[:1]
    found = [rows.assign(**{column: getattr(setup, column) for column in columns}) for setup, rows in full]
    return with_numbers(pd.concat(found, ignore_index=True)[[*columns, *rest]])


def with_setups(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table that was read from a file, with the columns of its setups first; names of earlier versions are split.

    Args:
        table: Table with the column network, and with epochs and train_cases if these are varied.
        name: The file, for messages.

    Raises:
        DataError: See `with_numbers`.
    """
    if not set(VARIED) & set(table.columns):
        parts = table["network"].astype(str).str.extract(EARLIER)
        if (earlier := parts["network"].notna()).any():
            table = table.assign(**parts).assign(network=table["network"].where(~earlier, parts["network"]))
    return with_numbers(table[[*setup_columns(table), *table.columns.drop(SETUP_COLUMNS, errors="ignore")]], name)


def with_numbers(table: pd.DataFrame, name: str = "scores") -> pd.DataFrame:
    """A table with numbers of epochs and training cases as integers.

    Raises:
        DataError: One is neither a whole number nor empty.
    """
    for column in table.columns.intersection(VARIED):
        values, numbers = table[column], pd.to_numeric(table[column], errors="coerce")
        wrong = values.notna() & ~((numbers % 1 == 0) & numbers.between(0, LARGEST))
        if wrong.any():
            raise DataError(
                f"{name}, row {table.index[wrong][0]}: {column} is {values[wrong].tolist()[0]!r}; allowed: whole "
                f"numbers from 0 to {LARGEST:,}, or nothing, because variants are compared within each number; correct "
                "it, or rename the column if it is something else"
            )
        table = table.assign(**{column: numbers.astype("Int64" if numbers.isna().any() else "int64")})
    return table
