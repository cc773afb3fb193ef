"""Folds: the cases that a network is trained on and the cases that it is tested on."""

from dataclasses import dataclass

import numpy as np

from scse.data.dataset import Case, Dataset
from scse.support.errors import DataError, UserError

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

    Args:
        dataset: Data set with labelled cases.
        folds: Number of folds for cross-validation over the training cases. The folds of splits_final.json are used if
            it has this number of folds, otherwise a fixed shuffle. None uses the data set's own labelled test cases;
            without them splits_final.json; without that file, 5 folds.

    Raises:
        UserError: `folds` is below 2.
        DataError: There are too few cases for the folds, or a fold has no training or no test cases.
    """
    own_tests = tuple(case for case in dataset.test_cases if case.label is not None)
    if folds is None and own_tests:
        return [Fold(dataset.cases, own_tests)]
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
        return found
    return _shuffled(dataset, DEFAULT_FOLDS if folds is None else folds)


def _shuffled(dataset: Dataset, folds: int) -> list[Fold]:
    if folds < 2:
        raise UserError(f"folds must be at least 2, got {folds}")
    count = len(dataset.cases)
    if count < 2:
        tests = "test/images and test/masks" if dataset.format == "folders" else "imagesTs and labelsTs"
        remedy = f"add training cases, or labelled test cases in {tests}"
        raise DataError(f"{dataset.path}: has {count} labelled case, too few for training and testing; {remedy}")
    if count < folds:
        remedy = f"use fewer folds with --folds {count} (folds={count} in Python), or add cases"
        raise DataError(f"{dataset.path}: has {count} labelled cases, too few for {folds} folds; {remedy}")
    order = np.random.default_rng(0).permutation(len(dataset.cases))
    parts = [sorted(part.tolist()) for part in np.array_split(order, folds)]
    everything = range(len(dataset.cases))
    return [
        Fold(
            tuple(dataset.cases[i] for i in everything if i not in part),
            tuple(dataset.cases[i] for i in part),
        )
        for part in map(set, parts)
    ]
