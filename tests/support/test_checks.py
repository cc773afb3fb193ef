"""Checks of arguments: accepted values, and the form of the messages for refused ones."""

import pytest

from scse.support.checks import check_choice, check_positive


@pytest.mark.parametrize("value", [1, 2, 10**12])
def test_whole_number_of_at_least_one_is_returned(value):
    assert check_positive("width", value) == value


@pytest.mark.parametrize("value", [0, -1, 1.0, True, False, "3", None, float("nan"), [1]])
def test_anything_else_is_named_with_its_value(value):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        check_positive("width", value)
    assert str(raised.value) == f"width must be a whole number of at least 1, got {value!r}"


def test_choice_is_returned():
    assert check_choice("view", "axial", ["axial", "coronal"]) == "axial"


@pytest.mark.parametrize("value", ["sagittal", "", "AXIAL", None, 1, ["axial"]])
def test_other_choice_is_named_with_all_allowed(value):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        check_choice("view", value, iter(["axial", "coronal"]))
    assert str(raised.value) == f"view must be one of 'axial', 'coronal', got {value!r}"
