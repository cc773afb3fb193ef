"""Folds: the data set's test cases, then its splits file, then a fixed shuffle; training and test never overlap."""

from pathlib import Path
from typing import Any

import pytest

from scse.data.dataset import Case, Dataset
from scse.data.folds import make_folds
from scse.support.errors import DataError


def dataset(names: str, tests: str = "", **changes: Any) -> Dataset:
    def cases(letters: str) -> tuple[Case, ...]:
        return tuple(Case(name, (Path(f"{name}.png"),), Path(f"{name}_mask.png")) for name in letters)

    return Dataset(Path("set"), "set", "folders", (), {"a": 1}, cases(names), cases(tests), **changes)


def names(cases: tuple[Case, ...]) -> str:
    return "".join(case.name for case in cases)


def test_own_test_cases_are_the_default() -> None:
    splits = ((("a",), ("b",)),)
    [fold] = make_folds(dataset("abc", "xy", splits=splits), None)
    assert (names(fold.training), names(fold.test)) == ("abc", "xy")


def test_test_cases_without_labels_are_no_test_cases() -> None:
    unlabelled = (Case("x", (Path("x.png"),), None),)
    found = make_folds(Dataset(Path("set"), "set", "folders", (), {"a": 1}, dataset("abcdef").cases, unlabelled), None)
    assert len(found) == 5
    assert all("x" not in names(fold.test) for fold in found)


SPLITS = ((("a", "b"), ("c",)), (("c", "b"), ("a",)))


@pytest.mark.parametrize("folds", [None, 2])
def test_splits_of_the_data_set_are_honoured(folds: int | None) -> None:
    found = make_folds(dataset("abc", splits=SPLITS), folds)
    assert [(names(fold.training), names(fold.test)) for fold in found] == [("ab", "c"), ("cb", "a")]


def test_another_number_of_folds_than_the_splits_is_shuffled() -> None:
    found = make_folds(dataset("abc", splits=SPLITS), 3)
    assert sorted(names(fold.test) for fold in found) == ["a", "b", "c"]


def test_asked_for_folds_leave_the_own_test_cases_alone() -> None:
    assert all("x" not in names((*fold.training, *fold.test)) for fold in make_folds(dataset("abcd", "x"), 2))


@pytest.mark.parametrize(("count", "folds"), [(5, None), (7, 3), (4, 4), (9, 2)])
def test_folds_are_disjoint_and_complete(count: int, folds: int | None) -> None:
    everything = "abcdefghi"[:count]
    found = make_folds(dataset(everything), folds)
    assert len(found) == (folds or 5)
    assert "".join(sorted("".join(names(fold.test) for fold in found))) == everything
    for fold in found:
        assert "".join(sorted(names(fold.training) + names(fold.test))) == everything
    sizes = [len(fold.test) for fold in found]
    assert max(sizes) - min(sizes) <= 1


def test_the_shuffle_is_fixed() -> None:
    assert make_folds(dataset("abcdefgh"), 4) == make_folds(dataset("abcdefgh"), 4)


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_too_small_a_number_of_folds_is_refused(folds: int) -> None:
    with pytest.raises(ValueError, match=f"folds must be at least 2, got {folds}"):
        make_folds(dataset("abc"), folds)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_too_few_cases_for_five_folds_are_refused_with_a_remedy(count: int) -> None:
    few = dataset("abcd"[:count])
    remedy = rf"too few for 5 folds; use fewer folds with --folds {count} \(folds={count} in Python\), or add cases"
    with pytest.raises(DataError, match=f"set: has {count} labelled cases, {remedy}"):
        make_folds(few, None)
    assert len(make_folds(few, count)) == count
    with pytest.raises(DataError, match=f"too few for 9 folds; use fewer folds with --folds {count}"):
        make_folds(few, 9)


@pytest.mark.parametrize("folds", [None, 2])
def test_one_case_cannot_be_split_but_can_be_trained_on_for_test_cases(folds: int | None) -> None:
    with pytest.raises(DataError, match=r"has 1 labelled case, too few for training and testing; add .* test/images"):
        make_folds(dataset("a"), folds)
    [fold] = make_folds(dataset("a", "x"), None)
    assert (names(fold.training), names(fold.test)) == ("a", "x")


@pytest.mark.parametrize(("split", "what"), [((("a",), ()), "test"), (((), ("a",)), "training")])
def test_a_split_that_lost_all_cases_of_one_side_is_refused(split: Any, what: str) -> None:
    with pytest.raises(DataError, match=f"fold 1 of splits_final.json has no {what} case"):
        make_folds(dataset("abc", splits=(SPLITS[0], split)), None)
