"""Reading of a CSV file that lists the cases of a data set. No image is opened."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scse.data.descriptions import LONGEST_NAME, read_rows
from scse.data.endings import stem
from scse.support.errors import DataError

NEEDED, OPTIONAL = ("image", "label"), ("name", "split", "group")
SPLITS = ("train", "test")
SEPARATOR = ";"
"""Separator of the files of several channels in a cell."""

LONGEST_ENDING = len(".uncertainty.nii.gz")


@dataclass(frozen=True, slots=True)
class ListedFiles:
    """A case as a table or a BIDS folder has it.

    Attributes:
        name: Name of the case.
        images: Files of the image, in the order of the channels.
        label: File of the label map; None for a test case without one.
        group: What the case shares with others, such as their subject; None if it shares nothing.
        is_test: Whether it is a test case.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str | None
    is_test: bool = False


def read_cases(table: Path) -> tuple[list[ListedFiles], list[str]]:
    """Cases of a CSV file with the columns image and label, and optionally name, split and group.

    Args:
        table: Path of the file. Paths in it are relative to its folder.

    Returns:
        The cases in the order of the rows, and the names of the other columns, which are not used.

    Raises:
        DataError: The file cannot be read, a column is missing, a cell is not allowed, two cases have the same name,
            there are no training cases, or a group has training and test cases.
    """
    columns, rows = read_rows(table)
    if not {*NEEDED} <= {*columns}:
        found = f"the columns {','.join(columns)}" if columns else "no columns"
        allowed = f"needed: {', '.join(NEEDED)}; optional: {', '.join(OPTIONAL)}"
        raise DataError(f"{table}: found {found}; {allowed}; separate columns by commas")
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise DataError(f"{table}: the column {twice[0]!r} appears twice; remove one of them")
    if not rows:
        raise DataError(f"{table}: lists no cases; write a row for each")
    cases = [_case(table, number, row) for number, row in enumerate(rows, start=1)]
    _check_names(table, [case.name for case in cases])
    if all(case.is_test for case in cases):
        raise DataError(f"{table}: lists no training cases; write train in the column split of some rows")
    training, tests = ([case for case in cases if case.is_test == part] for part in (False, True))
    if divided := divided_group(_by_group(training), _by_group(tests)):
        remedy = "a group is on one side only: correct the column split or group"
        raise DataError(f"{table}: {divided}; {remedy}")
    return cases, [column for column in columns if column not in {*NEEDED, *OPTIONAL}]


def divided_group(training: Mapping[str, str], tests: Mapping[str, str]) -> str:
    """Say which group has cases on both sides; "" if there is none.

    Args:
        training: Name of a training case of each group, by group.
        tests: Name of a test case of each group, by group.
    """
    both = sorted(training.keys() & tests.keys())
    if not both:
        return ""
    return f"the group {both[0]} has training and test cases ({training[both[0]]} and {tests[both[0]]})"


def _by_group(cases: Iterable[ListedFiles]) -> dict[str, str]:
    return {case.group: case.name for case in reversed([*cases]) if case.group is not None}


def _case(table: Path, number: int, row: Mapping[str, str]) -> ListedFiles:
    where = f"{table}: row {number}"
    files = [file.strip() for file in row["image"].split(SEPARATOR)]
    if not row["image"]:
        raise DataError(f"{where}: image is empty; give a file, or several channels separated by semicolons")
    if not all(files):
        remedy = "separate the files of the channels by single semicolons"
        raise DataError(f"{where}: image is {row['image']!r}, with an empty place; {remedy}")
    split = row.get("split", "train")
    if split.lower() not in SPLITS:
        raise DataError(f"{where}: split is {repr(split) if split else 'empty'}; allowed: {', '.join(SPLITS)}")
    is_test = split.lower() == "test"
    if not row["label"] and not is_test:
        raise DataError(f"{where}: label is empty; give the label map (only a test case, of split test, may have none)")
    images = tuple(table.parent / file for file in files)
    name = row["name"] if "name" in row else stem(images[0].name).removesuffix("_0000")
    _check_name(where, name)
    label = table.parent / row["label"] if row["label"] else None
    return ListedFiles(name, images, label, row.get("group") or None, is_test)


def _check_name(where: str, name: str) -> None:
    """Refuse a name that cannot be that of a label map's file."""
    long = len(name.encode()) + LONGEST_ENDING > LONGEST_NAME
    if not name or name.startswith(".") or {"/", "\\"} & {*name} or not name.isprintable() or long:
        shown = f"{name[:40]!r}..." if long else repr(name)
        rule = "a name is that of a file: it has no slash, does not begin with a dot, and is not empty or very long"
        raise DataError(f"{where}: name is {shown}; {rule}")


def _check_names(table: Path, names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if name in first:
            remedy = "give each case its own name in the column name"
            raise DataError(f"{table}: rows {first[name]} and {number} are both called {name}; {remedy}")
        first[name] = number
