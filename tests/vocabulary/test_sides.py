"""Left and right structures by name."""

import pytest

from scse.vocabulary.planes import View
from scse.vocabulary.sides import partners, safe_mirroring, without_side

SIDED = ["left-a", "right-a", "b"]


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


@pytest.mark.parametrize(
    ("view", "names", "axes", "swaps"),
    [
        ("volume", SIDED, (0, 1, 2), (0,)),
        ("volume", ["a", "b"], (0, 1, 2), ()),
        ("volume", ["left-a", "b"], (1, 2), ()),
        ("coronal", SIDED, (0, 1), (0,)),
        ("coronal", ["Left A", "b"], (1,), ()),
        ("axial", SIDED, (0, 1), (0,)),
        ("sagittal", SIDED, (0, 1), ()),
        ("sagittal", ["left-a"], (0, 1), ()),
        ("picture", SIDED, (), ()),
        ("picture", ["a"], (0, 1), ()),
    ],
)
def test_images_are_mirrored_only_where_labels_stay_right(
    view: View, names: list[str], axes: tuple[int, ...], swaps: tuple[int, ...]
) -> None:
    found = safe_mirroring(view, names)
    assert (found.axes, found.swaps) == (axes, swaps)
    assert found.other == ((0, 2, 1, 3) if swaps else ())
