"""Folds: the data set's test cases, then its splits file, then a fixed shuffle; training and test never overlap."""

from dataclasses import replace
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


def grouped(groups: str, tests: str = "", **changes: Any) -> Dataset:
    """Cases a, b, c, ... of these groups; "-" is a case without a group."""
    plain = dataset("abcdefghijklmnopqrstuvwxyz"[: len(groups)], tests, **changes)
    pairs = zip(plain.cases, groups, strict=True)
    return replace(plain, cases=tuple(replace(case, group=None if g == "-" else g) for case, g in pairs))


@pytest.mark.parametrize(("groups", "folds"), [("112233445566", 3), ("1111222--3344556", 4), ("11111112345", 5)])
def test_a_group_is_in_one_fold_and_folds_are_balanced(groups: str, folds: int) -> None:
    data = grouped(groups)
    found = make_folds(data, folds)
    assert found == make_folds(data, folds)
    assert "".join(sorted("".join(names(fold.test) for fold in found))) == names(data.cases)
    for fold in found:
        assert "".join(sorted(names(fold.training) + names(fold.test))) == names(data.cases)
        assert not {case.group for case in fold.training} & {case.group for case in fold.test} - {None}
    sizes = sorted(len(fold.test) for fold in found)
    largest = max(groups.replace("-", "").count(group) for group in set(groups))
    assert sizes[-1] <= max(largest, -(-len(groups) // folds))
    assert sizes[0] >= 1


def test_groups_of_one_case_change_no_fold() -> None:
    plain, single = make_folds(dataset("abcdefgh"), 3), make_folds(grouped("12345-67"), 3)
    assert [names(fold.test) for fold in single] == [names(fold.test) for fold in plain]


EARLIER = ["cekltyz", "adgiqvx", "fhmnsu", "bjoprw"]
"""Folds of the letters before there were groups, in their order."""


def test_the_folds_without_groups_are_those_of_earlier_versions() -> None:
    assert [names(fold.test) for fold in make_folds(dataset("abcdefgh"), 3)] == ["cde", "afg", "bh"]
    everything = "abcdefghijklmnopqrstuvwxyz"
    assert [names(fold.test) for fold in make_folds(dataset(everything), 4)] == EARLIER
    assert [names(fold.test) for fold in make_folds(grouped("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 4)] == EARLIER


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match=r"set: has 5 labelled cases in 2 groups, too few for 3 folds; .*--folds 2"):
        make_folds(grouped("11112"), 3)
    with pytest.raises(DataError, match=r"set: has 3 labelled cases in 1 group, too few for training and testing"):
        make_folds(grouped("111"), None)


def test_splits_that_divide_a_group_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"the group 1 has training and test cases \(a and c\) in fold 0"):
        make_folds(grouped("121", splits=SPLITS), None)
    tests = replace(grouped("12"), test_cases=(Case("x", (Path("x.png"),), Path("y.png"), "2"),))
    with pytest.raises(DataError, match=r"the group 2 has training and test cases \(b and x\)"):
        make_folds(tests, None)
