"""Left and right structures by name."""

import pytest

from scse.vocabulary.sides import partners, without_side


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["left-a", "right-a", "b"], [1, 0, 2]),
        (["Right_Lung", "Left_Lung"], [1, 0]),
        (["b", "c"], [0, 1]),
        (["left-a", "b"], None),
        (["left-a", "right-b"], None),
        (["lh cortex", "rh cortex", "leftover"], [1, 0, 2]),
        ([], []),
    ],
)
def test_partners(names: list[str], expected: list[int] | None) -> None:
    assert partners(names) == expected


def test_a_pair_has_one_name_without_its_side() -> None:
    assert without_side("left-cerebral-white-matter") == without_side("right-cerebral-white-matter")
    assert without_side("3rd ventricle") == "3rd ventricle"
