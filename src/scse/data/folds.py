"""Folds: the cases that a network is trained on and the cases that it is tested on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scse.data.dataset import Case, Dataset, groups_of
from scse.data.tables import divided_group
from scse.support.errors import DataError, UserError
from scse.support.text import counted

DEFAULT_FOLDS = 5
"""Number of folds of a data set that has neither labelled test cases nor its own splits."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold.

    Attributes:
        training: Training cases.
        test: Test cases.
    """

    training: tuple[Case, ...]
    test: tuple[Case, ...]


def make_folds(dataset: Dataset, folds: int | None) -> list[Fold]:
    """Split a data set for training and testing.

    Cases of one group, such as the scans of one subject, are always on the same side.

    Args:
        dataset: Data set with labelled cases.
        folds: Number of folds for cross-validation over the training cases. The folds of splits_final.json are used if
            it has this number of folds, otherwise a fixed shuffle. None uses the data set's own labelled test cases;
            without them splits_final.json; without that file, 5 folds.

    Raises:
        UserError: `folds` is below 2.
        DataError: There are too few cases or groups for the folds, a fold has no training or no test cases, or the data
            set's own test cases or splits divide a group.
    """
    own_tests = tuple(case for case in dataset.test_cases if case.label is not None)
    if folds is None and own_tests:
        return [_undivided(dataset, Fold(dataset.cases, own_tests))]
    if dataset.splits and folds in {None, len(dataset.splits)}:
        cases = {case.name: case for case in dataset.cases}
        found = [
            Fold(*(tuple(cases[name] for name in names if name in cases) for names in split))
            for split in dataset.splits
        ]
        for number, fold in enumerate(found):
            if not (fold.training and fold.test):
                what = "test" if fold.training else "training"
                remedy = "fix or add cases, or choose another number of folds"
                raise DataError(f"{dataset.path}: fold {number} of splits_final.json has no {what} case left; {remedy}")
            _undivided(dataset, fold, f" in fold {number} of splits_final.json")
        return found
    return _shuffled(dataset, DEFAULT_FOLDS if folds is None else folds)


def _undivided(dataset: Dataset, fold: Fold, where: str = "") -> Fold:
    """The fold, after checking that it divides no group."""

    def by_group(cases: Iterable[Case]) -> dict[str, str]:
        return {case.group: case.name for case in reversed([*cases]) if case.group is not None}

    if divided := divided_group(by_group(fold.training), by_group(fold.test)):
        remedy = "keep each group on one side"
        raise DataError(f"{dataset.path}: {divided}{where}; {remedy}")
    return fold


def _shuffled(dataset: Dataset, folds: int) -> list[Fold]:
    if folds < 2:
        raise UserError(f"folds must be at least 2, got {folds}")
    groups = groups_of(dataset.cases)
    cases, count = len(dataset.cases), len(groups)
    alone = count == cases
    if count < 2:
        found = counted(cases, "labelled case") + ("" if alone else " in 1 group")
        remedy = (
            f"add training cases{'' if alone else ' of other groups'}, or labelled test cases{_TESTS[dataset.format]}"
        )
        raise DataError(f"{dataset.path}: has {found}, too few for training and testing; {remedy}")
    if count < folds:
        found = f"{cases} labelled cases" + ("" if alone else f" in {count} groups")
        remedy = f"use fewer folds with --folds {count} (folds={count} in Python), or add cases"
        raise DataError(f"{dataset.path}: has {found}, too few for {folds} folds; {remedy}")
    order = np.random.default_rng(0).permutation(count)
    if alone:
        parts = [sorted(part.tolist()) for part in np.array_split(order, folds)]
    else:
        parts = _balanced([groups[place] for place in order], folds)
    everything = range(cases)
    return [
        Fold(
            tuple(dataset.cases[i] for i in everything if i not in part),
            tuple(dataset.cases[i] for i in part),
        )
        for part in map(set, parts)
    ]


def _balanced(groups: Iterable[list[int]], folds: int) -> list[list[int]]:
    """Distribute groups: the largest first, each to the fold with the fewest cases so far."""
    parts: list[list[int]] = [[] for _ in range(folds)]
    for group in sorted(groups, key=len, reverse=True):  # groups of one size stay in the order given
        min(parts, key=len).extend(group)
    return [sorted(part) for part in parts]


_TESTS = {
    "nnunet": " in imagesTs and labelsTs",
    "msd": " in imagesTs and labelsTs",
    "folders": " in test/images and test/masks",
    "bids": " in a table of cases instead of the BIDS folder",
    "table": ", whose column split says test",
}
