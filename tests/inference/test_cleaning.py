"""Clean-up of label maps: largest components and holes of small maps, and of random ones as by a reference."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from scse.inference.cleaning import clean, shared_cleaning
from scse.inference.saved import NO_CLEANING, Cleaning
from scse.support.errors import UserError

NAMES = ("a", "b", "c")


def cleaned(classes: Any, **steps: Any) -> NDArray[np.uint8]:
    found = np.array(classes, np.uint8)
    clean(found, Cleaning(**steps), NAMES)
    return found


def test_only_the_largest_component_of_a_named_structure_is_kept() -> None:
    classes = [
        [1, 0, 1, 1, 0],
        [0, 0, 1, 0, 2],
        [2, 2, 0, 0, 0],
        [0, 0, 1, 1, 0],
    ]
    expected = [
        [0, 0, 1, 1, 0],
        [0, 0, 1, 0, 2],
        [2, 2, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(cleaned(classes, keep_largest=("a",)), expected)
    np.testing.assert_array_equal(cleaned(classes), classes)
    np.testing.assert_array_equal(cleaned(classes, keep_largest=("c",)), classes)


def test_parts_that_touch_at_a_corner_are_one_component() -> None:
    picture = np.diag([1, 1, 1, 0, 0])
    picture[4, 4] = 1
    assert cleaned(picture, keep_largest=("a",)).sum() == 3
    volume = np.zeros((4, 4, 4), int)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[3, 3, 3] = 1
    expected = volume.copy()
    expected[3, 3, 3] = 0
    np.testing.assert_array_equal(cleaned(volume, keep_largest=("a",)), expected)


def test_of_components_of_equal_size_the_first_is_kept() -> None:
    np.testing.assert_array_equal(cleaned([[0, 1, 0, 1]], keep_largest=("a",)), [[0, 1, 0, 0]])


def test_the_largest_component_of_all_structures_together_keeps_their_parts_in_it() -> None:
    classes = [[1, 2, 2, 0, 2], [3, 0, 1, 0, 0], [0, 0, 0, 0, 3]]
    expected = [[1, 2, 2, 0, 0], [3, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(cleaned(classes, largest_foreground=True), expected)


def test_holes_of_a_named_structure_are_filled() -> None:
    classes = [
        [1, 1, 1, 0, 2, 2, 2],
        [1, 0, 1, 0, 2, 0, 2],
        [1, 1, 1, 0, 2, 2, 2],
    ]
    expected = np.array(classes)
    expected[1, 1] = 1
    np.testing.assert_array_equal(cleaned(classes, fill_holes=("a",)), expected)
    expected[1, 5] = 2
    np.testing.assert_array_equal(cleaned(classes, fill_holes=("b", "a", "c")), expected)


@pytest.mark.parametrize(
    "classes",
    [
        [[1, 0, 1], [1, 0, 1], [1, 1, 1]],  # open at the edge of the image
        [[1, 1, 1, 1], [1, 0, 2, 1], [1, 1, 1, 1]],  # another structure in it
        [[1, 1, 1], [1, 0, 2], [1, 1, 1]],  # between two structures
        [[1, 1, 1], [1, 2, 1], [1, 1, 1]],  # another structure alone
    ],
)
def test_what_is_no_hole_stays(classes: list[list[int]]) -> None:
    np.testing.assert_array_equal(cleaned(classes, fill_holes=("a", "b")), classes)


def test_a_hole_that_opens_only_at_a_corner_is_filled() -> None:
    classes = [[0, 1, 1], [1, 0, 1], [1, 1, 1]]
    np.testing.assert_array_equal(cleaned(classes, fill_holes=("a",)), [[0, 1, 1], [1, 1, 1], [1, 1, 1]])


def test_a_hole_of_a_volume_is_closed_in_all_directions() -> None:
    volume = np.zeros((5, 5, 5), int)
    volume[1:4, 1:4, 1:4] = 1
    volume[2, 2, 2] = 0
    filled = volume.copy()
    filled[2, 2, 2] = 1
    np.testing.assert_array_equal(cleaned(volume, fill_holes=("a",)), filled)
    volume[2, 2, 3] = 0  # a tunnel
    np.testing.assert_array_equal(cleaned(volume, fill_holes=("a",)), volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_a_picture(axis: int) -> None:
    classes, expected = np.ones((3, 3), int), np.ones((1, 3, 3), int)
    classes[1, 1] = 0
    found = cleaned(np.expand_dims(classes, axis), fill_holes=("a",))
    np.testing.assert_array_equal(found, np.moveaxis(expected, 0, axis))


def test_islands_are_removed_before_holes_are_filled() -> None:
    classes = [
        [1, 1, 1, 0, 0],
        [1, 2, 1, 2, 2],
        [1, 1, 1, 0, 0],
    ]
    found = cleaned(classes, keep_largest=("b",), fill_holes=("a",))
    np.testing.assert_array_equal(found, [[1, 1, 1, 0, 0], [1, 1, 1, 2, 2], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (1, 1, 1), (3, 4, 1), (7,)])
def test_an_empty_map_stays_empty(shape: tuple[int, ...]) -> None:
    everything = {"largest_foreground": True, "keep_largest": NAMES, "fill_holes": NAMES}
    assert not cleaned(np.zeros(shape), **everything).any()
    np.testing.assert_array_equal(cleaned(np.ones(shape), **everything), np.ones(shape))


def test_a_structure_that_is_not_one_of_the_segmenter_is_named() -> None:
    with pytest.raises(UserError, match="cleaning names the structure 'd', but the structures are a, b, c"):
        cleaned([[1]], keep_largest=("d",))


@pytest.mark.parametrize("shape", [(24, 20), (9, 12, 10)])
@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_random_maps_are_cleaned_as_by_a_plain_reference(shape: tuple[int, ...], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = (rng.integers(1, 4, shape) * (rng.random(shape) < share)).astype(np.uint8)
    classes = ndimage.median_filter(classes, 2 if share == 0.3 else 3) if seed else classes
    full = np.ones((3,) * len(shape))
    expected = classes.copy()
    regions, _ = ndimage.label(expected > 0, full)
    expected[(regions > 0) & (regions != np.bincount(regions[regions > 0]).argmax())] = 0
    for number in (1, 3):
        regions, _ = ndimage.label(expected == number, full)
        if regions.any():
            expected[(regions > 0) & (regions != np.bincount(regions[regions > 0]).argmax())] = 0
    padded = np.pad(expected, 1)
    regions, count = ndimage.label(padded == 0)
    for region in range(1, count + 1):
        inside = regions == region
        around = np.unique(padded[ndimage.binary_dilation(inside) & ~inside])
        if region != regions.flat[0] and around.tolist() in ([1], [2]):
            padded[inside] = around[0]
    expected = padded[(slice(1, -1),) * len(shape)]
    found = np.asfortranarray(classes)  # not in the order of its axes
    clean(found, Cleaning(largest_foreground=True, keep_largest=("a", "c"), fill_holes=("a", "b")), NAMES)
    np.testing.assert_array_equal(found, expected)
    assert (found != classes).any()


def test_shared_steps_are_those_that_all_have() -> None:
    first = Cleaning(largest_foreground=True, keep_largest=("a", "b"), fill_holes=("c",))
    second = Cleaning(largest_foreground=True, keep_largest=("c", "b"))
    assert shared_cleaning([first, first]) == first
    assert shared_cleaning([first, second]) == Cleaning(largest_foreground=True, keep_largest=("b",))
    assert shared_cleaning([first, NO_CLEANING]) == NO_CLEANING


def test_steps_are_described_in_their_order() -> None:
    assert str(NO_CLEANING) == "none"
    assert str(Cleaning(largest_foreground=True, keep_largest=("a", "b"), fill_holes=("c",))) == (
        "largest component of all structures together; largest component of a, b; holes filled of c"
    )
    assert (bool(NO_CLEANING), bool(Cleaning(fill_holes=("a",)))) == (False, True)
