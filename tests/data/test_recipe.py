"""The recipe: its choices, the preparation of images, and labels that are restored exactly."""

import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from scse.data.choices import LARGEST_VOLUME, advise_dims
from scse.data.files import Image
from scse.data.inspection import CaseFacts
from scse.data.recipe import Recipe

AXES = (("R", "L"), ("A", "P"), ("S", "I"))
CODES = [
    "".join(codes) for order in itertools.permutations(AXES) for codes in itertools.product(*order)
]  # all 48 orientations of a stored volume
VIEWS = ("sagittal", "coronal", "axial")


def facts(
    shape: Sequence[int], spacing: Sequence[float] = (1, 1, 1), orientation: str | None = "RAS", channels: int = 1
) -> CaseFacts:
    return CaseFacts("case", tuple(shape), tuple(spacing), orientation, channels, (0.0, 1.0), {}, "")


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"view": "coronal", "spacing": None, "patch": (8, 8), "channels": 1, **changes})


VOLUME = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)


def affine_of(codes: str, spacing: Sequence[float] = (1, 1, 1)) -> NDArray[np.float64]:
    """Affine of a volume whose stored axes point to `codes`, with a spacing along each."""
    to_ras = nib.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for axis, (target, sign) in enumerate(to_ras):
        affine[int(target), axis] = sign * spacing[axis]
    affine[:, 3] = [-7, 12, 3, 1]
    return affine


def oblique() -> NDArray[np.float64]:
    """LPS-like axes of three lengths, rotated by 20 degrees about x and 15 about z."""
    a, b = np.deg2rad([20, 15])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-0.8, -1.1, 2.0])
    return affine


def one_hot(labels: NDArray[np.uint8], classes: int) -> torch.Tensor:
    """One-hot output of a perfect network: (slices, height, width) -> (slices, classes, height, width)."""
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), classes).movedim(-1, 1).float()


def there_and_back(chosen: Recipe, label: Image, classes: int = 4) -> NDArray[np.integer]:
    _, grid = chosen.image_slices(Image(label.array[None].astype(np.float32), label.affine))
    return grid.restore(chosen.restore(one_hot(chosen.label_slices(label, grid), classes), grid))


def random_label(shape: Sequence[int], affine: NDArray[np.float64] | None = None) -> Image:
    return Image(np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8), affine, is_label=True)


# Choices


def test_isotropic_volumes_are_sliced_coronally() -> None:
    chosen = Recipe.derive([facts((30, 40, 20))])
    assert (chosen.view, chosen.spacing, chosen.patch, chosen.channels) == ("coronal", None, (32, 24), 1)


@pytest.mark.parametrize(
    ("orientation", "spacing", "view", "patch"),
    [
        ("RAS", (1, 1, 1.5), "axial", (16, 24)),
        ("RAS", (3, 1, 1), "sagittal", (24, 32)),
        ("RAS", (1, 3, 1), "coronal", (16, 32)),
        ("LIA", (1, 1, 3), "coronal", (16, 24)),  # the third axis runs from posterior to anterior
        ("PIR", (1, 3, 1), "axial", (32, 16)),
        ("RAS", (1, 1, 1.49), "coronal", (16, 32)),
    ],
)
def test_anisotropic_volumes_are_sliced_across_their_coarsest_axis(
    orientation: str, spacing: tuple[float, ...], view: str, patch: tuple[int, int]
) -> None:
    chosen = Recipe.derive([facts((16, 24, 32), spacing, orientation)])
    assert (chosen.view, chosen.patch) == (view, patch)


@pytest.mark.parametrize(
    ("shape", "spacing", "orientation", "view"),
    [
        ((40, 44, 1), (1, 1, 1), "RAS", "axial"),
        ((40, 44, 2), (1, 1, 1), "RAS", "axial"),
        ((40, 1, 44), (1, 1, 1), "RAS", "coronal"),
        ((1, 40, 44), (1, 1, 1), "RAS", "sagittal"),
        ((1, 40, 2), (1, 1, 1), "RAS", "sagittal"),  # one voxel is thinner than two, whatever the other axes are
        ((40, 44, 1), (1, 1, 1), "PIR", "sagittal"),  # the third axis points right
        ((40, 44, 1), (1, 3, 1), "RAS", "axial"),  # across the axis of one voxel, not across the coarse rows
        ((256, 256, 12), (1, 1, 6), "LPS", "axial"),
        ((256, 256, 30), (1, 1, 1), "RAS", "axial"),  # a stack whose header has no slice spacing
        ((64, 256, 256), (1, 1, 3), "RAS", "axial"),  # thick and narrow slices
        ((64, 256, 256), (1, 1, 1), "RAS", "sagittal"),
        ((2000, 2000, 50), (0.5, 0.5, 0.1), "RAS", "axial"),  # the finest axis is the short one
        ((160, 220, 180), (1, 1, 1), "LAS", "coronal"),
        ((35, 50, 35), (1, 1, 1), "RAS", "coronal"),
    ],
)
def test_thin_stacks_are_sliced_in_the_plane_of_their_long_axes(
    shape: tuple[int, ...], spacing: tuple[float, ...], orientation: str, view: str
) -> None:
    assert Recipe.derive([facts(shape, spacing, orientation)]).view == view


def test_the_view_is_that_of_most_volumes_however_they_are_stored() -> None:
    cases = [facts((40, 44, 1)), facts((1, 44, 40), orientation="SAR"), facts((44, 1, 40), orientation="ASL")]
    assert Recipe.derive([*cases, facts((60, 60, 60))]).view == "axial"


def test_a_volume_one_voxel_wide_in_the_plane_needs_a_view() -> None:
    cases = [facts((40, 44, 1)), facts((40, 44, 1)), replace(facts((40, 1, 44)), name="odd")]
    with pytest.raises(
        ValueError,
        match=r"the axial plane fits most volumes, but in its slices 1 of 3 volumes \(odd\) are one voxel wide",
    ):
        Recipe.derive(cases)
    assert Recipe.derive(cases, plane="axial").view == "axial"


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_spacings_are_compared_with_their_own_size(unit: float) -> None:
    same = [facts((20, 20, 20), (s * unit, unit, unit)) for s in (1.0, 1.0002)]
    assert Recipe.derive(same).spacing is None
    other = [facts((20, 20, 20), (s * unit, unit, unit)) for s in (1.0, 1.2)]
    assert Recipe.derive(other).spacing == pytest.approx((1.1 * unit, unit))


def test_one_slice_goes_through_the_network_as_one_slice_and_comes_back() -> None:
    label = random_label((40, 44, 1), np.eye(4))
    chosen = Recipe.derive([facts((40, 44, 1))])
    slices, _ = chosen.image_slices(Image(label.array[None].astype(np.float32), label.affine))
    assert slices.shape == (1, 1, 40, 48)
    np.testing.assert_array_equal(there_and_back(chosen, label), label.array)


def test_a_view_that_is_asked_for_is_taken() -> None:
    assert Recipe.derive([facts((16, 24, 32), (1, 1, 4))], plane="sagittal").view == "sagittal"


def test_pictures_have_a_view_of_their_own() -> None:
    chosen = Recipe.derive([facts((30, 41), (1, 1), None, channels=3)])
    assert (chosen.view, chosen.spacing, chosen.patch, chosen.channels) == ("picture", None, (32, 48), 3)


def test_the_patch_holds_the_largest_slice_up_to_a_limit() -> None:
    assert Recipe.derive([facts((30, 5, 90)), facts((61, 5, 40))]).patch == (64, 96)
    assert Recipe.derive([facts((300, 5, 1000))]).patch == (256, 256)


def test_differing_spacings_are_resampled_to_their_median() -> None:
    found = [facts((20, 20, 20), (s, 1, 2 * s)) for s in (1.0, 1.2, 1.3)]
    chosen = Recipe.derive(found, plane="coronal")
    assert chosen.spacing == pytest.approx((1.2, 2.4))
    assert chosen.patch == (24, 24)  # 20 voxels of 1.3 mm equal 21.7 voxels of 1.2 mm


def test_a_spacing_that_is_asked_for_sets_the_patch() -> None:
    chosen = Recipe.derive([facts((64, 64, 48))], spacing=2)
    assert (chosen.spacing, chosen.patch) == ((2, 2), (32, 24))


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        ([], {}, "has no readable cases to derive a recipe from"),
        ([facts((4, 4, 4))], {"spacing": 0}, "spacing must be a positive number of mm, got 0"),
        ([facts((4, 4, 4))], {"spacing": float("nan")}, "spacing must be a positive"),
        ([facts((4, 4, 4))], {"spacing": 1e9}, r"got 1e\+09; 1e-08 to 1e\+08 are allowed"),
        ([facts((4, 4, 4), (1, 1, 1)), facts((4, 4, 4), (9e8, 9e8, 9e8))], {}, r"to 1e\+08 are allowed"),
        ([facts((4, 4, 4))], {"plane": "frontal"}, "plane must be one of 'sagittal', 'coronal', .* got 'frontal'"),
        ([facts((4, 4, 4))], {"plane": "picture"}, "needs 2D images, but these are volumes"),
        ([facts((4, 4), (1, 1), None)], {"plane": "axial"}, "plane='axial' needs volumes, but the images are 2D"),
        ([facts((4, 4), (1, 1), None), facts((4, 4, 4))], {}, "mixes 2D pictures and volumes"),
        ([facts((4, 4), (1, 1), None)], {"dims": 3}, "dims=3 needs volumes, but the images are 2D"),
        ([facts((4, 4, 4))], {"dims": 4}, "dims must be one of 2, 3, got 4"),
        ([facts((4, 4, 4))], {"dims": 3, "plane": "axial"}, "plane='axial' has no effect with dims=3"),
    ],
)
def test_choices_that_do_not_fit_are_refused(found: list[CaseFacts], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.derive(found, **options)


def test_a_patch_of_volumes_has_their_median_size() -> None:
    chosen = Recipe.derive([facts((30, 41, 35)), facts((32, 49, 36)), facts((90, 90, 90))], dims=3)
    assert (chosen.view, chosen.spacing, chosen.patch) == ("volume", (1, 1, 1), (32, 56, 40))


def test_a_large_volume_gives_a_patch_whose_longest_axes_are_cut() -> None:
    chosen = Recipe.derive([facts((160, 220, 40))], dims=3)
    assert np.prod(chosen.patch) <= LARGEST_VOLUME < np.prod(np.add(chosen.patch, 8))
    assert chosen.patch[2] == 40
    assert abs(chosen.patch[0] - chosen.patch[1]) <= 8


def test_axes_of_a_volume_are_those_of_the_body_however_it_is_stored() -> None:
    assert Recipe.derive([facts((20, 50, 40), (2, 3, 1), "SAR")], dims=3).patch == (40, 56, 24)
    assert Recipe.derive([facts((20, 50, 40), (2, 3, 1), "SAR")], dims=3).spacing == (1, 3, 2)


@pytest.mark.parametrize(
    ("thick", "spacing"),
    [
        ((3.0, 5.0, 6.0, 7.0, 8.0), 3.8),  # the 10th percentile, between 3 and 5 mm
        ((0.5, 5.0, 6.0, 7.0, 8.0), 2.3),
        ((2.0, 2.5, 2.5, 2.5, 2.5), 2.5),  # less than three times as coarse: the median
    ],
)
def test_a_coarse_axis_gets_a_spacing_that_few_volumes_are_coarser_than(
    thick: tuple[float, ...], spacing: float
) -> None:
    found = [facts((256, 256, 30), (1, 1, mm)) for mm in thick]
    assert Recipe.derive(found, dims=3).spacing == pytest.approx((1, 1, spacing))


def test_a_spacing_that_is_asked_for_is_that_of_all_axes_of_a_volume() -> None:
    chosen = Recipe.derive([facts((64, 80, 48))], spacing=2, dims=3)
    assert (chosen.spacing, chosen.patch) == ((2, 2, 2), (32, 40, 24))


@pytest.mark.parametrize(
    ("shape", "spacing", "fitting"),
    [
        ((35, 50, 36), (1, 1, 1), 3),
        ((256, 256, 40), (0.5, 0.5, 1.5), 3),
        ((256, 256, 40), (0.5, 0.5, 1.6), 2),  # more than three times as coarse
        ((256, 256, 15), (1, 1, 1), 2),  # too few voxels along an axis
    ],
)
def test_the_plan_says_when_the_other_number_of_dimensions_fits(
    shape: tuple[int, ...], spacing: tuple[float, ...], fitting: int
) -> None:
    found = [facts(shape, spacing)] * 3
    for dims in (2, 3):
        advice = advise_dims(found, Recipe.derive(found, dims=dims).view)
        assert bool(advice) == (dims != fitting)
        assert all(name == "dims" and text.startswith(f"{dims}; {fitting} fits these data") for name, text in advice)


def test_pictures_get_no_advice_on_dimensions() -> None:
    assert advise_dims([facts((64, 64), (1, 1), None)], "picture") == []


@pytest.mark.parametrize("changes", [{"view": "volume"}, {"patch": (8, 8, 8)}, {"spacing": (1, 1, 1)}])
def test_sizes_that_do_not_fit_the_view_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="values for view"):
        recipe(**changes)


def test_json_round_trip() -> None:
    chosen = recipe(spacing=(1.1, 0.3), clip=(1, 99))
    assert Recipe.model_validate_json(chosen.model_dump_json()) == chosen
    with pytest.raises(ValidationError):
        Recipe.model_validate({**chosen.model_dump(), "flip": True})


def test_the_choices_are_described_in_words() -> None:
    rows = dict(recipe(spacing=(1.5, 2)).describe())
    assert rows["plane"] == "coronal"
    assert rows["spacing in the plane"] == "1.5 mm x 2 mm"
    assert rows["patch"] == "8 x 8 pixels"
    assert dict(recipe().describe())["spacing in the plane"] == "as stored"


# Geometry


@pytest.mark.parametrize("codes", CODES)
def test_labels_come_back_exactly_from_every_orientation(codes: str) -> None:
    label = random_label((5, 6, 7), affine_of(codes, (1, 2, 3)))
    assert nib.aff2axcodes(label.affine) == tuple(codes)
    for view in VIEWS:
        assert np.array_equal(there_and_back(recipe(view=view), label), label.array)

    assert np.array_equal(there_and_back(VOLUME, label), label.array)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (1.0, 2.0, 0.5)])
@pytest.mark.parametrize("patch", [(8, 8, 8), (12, 12, 12)])  # the second pads a coarser volume to its stored size
def test_windows_of_a_volume_are_parts_of_the_prepared_volume(
    spacing: tuple[float, float, float] | None, patch: tuple[int, int, int]
) -> None:
    chosen = Recipe(view="volume", spacing=spacing, patch=patch, channels=2)
    array = np.random.default_rng(0).normal(100, 20, (2, 12, 12, 12)).astype(np.float32)
    slices = chosen.slices(Image(array, affine_of("LIA")))
    place = (slice(1, 7), slice(2, 8), slice(0, 5))
    np.testing.assert_array_equal(slices.windows()(place), slices[:][0][(slice(None), *place)])


def test_labels_come_back_exactly_from_an_oblique_volume() -> None:
    label = random_label((5, 6, 7), oblique())
    for view in VIEWS:
        assert np.array_equal(there_and_back(recipe(view=view), label), label.array)
    assert np.array_equal(there_and_back(VOLUME, label), label.array)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PIR", "IPL"])
def test_a_volume_is_the_same_however_it_is_stored(codes: str) -> None:
    array = np.random.default_rng(0).normal(100, 20, (6, 9, 10)).astype(np.float32)
    spacing = (2.0, 1.0, 0.5)
    first, _ = VOLUME.image_slices(Image(array[None], np.diag([*spacing, 1])))
    stored = nib.Nifti1Image(array, np.diag([*spacing, 1])).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    again, _ = VOLUME.image_slices(Image(np.asarray(stored.dataobj)[None], stored.affine))
    assert first.shape == (1, 1, 8, 9, 10)
    np.testing.assert_allclose(again, first, atol=1e-5)


def test_a_resampled_volume_keeps_its_extent_and_returns_to_its_grid() -> None:
    coarse = VOLUME.model_copy(update={"spacing": (2.0, 1.0, 4.0)})
    label = Image(np.zeros((20, 16, 24), np.uint8), affine_of("LIA", (1, 2, 1)), is_label=True)
    label.array[4:16, 4:12, 8:20] = 3
    images, grid = coarse.image_slices(Image(label.array[None].astype(np.float32), label.affine))
    assert images.shape == (1, 1, 10, 24, 8)  # 20 mm, 24 mm and 32 mm to the right, anterior and superior
    assert coarse.label_slices(label, grid).shape == (1, 10, 24, 8)
    np.testing.assert_array_equal(there_and_back(coarse, label), label.array)


@pytest.mark.parametrize("shape", [(5, 6), (12, 9)])
def test_labels_come_back_exactly_from_pictures(shape: tuple[int, int]) -> None:
    label = random_label(shape)
    restored = there_and_back(recipe(view="picture"), label)
    assert restored.shape == shape
    assert np.array_equal(restored, label.array)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PIR", "IPL"])
def test_slices_look_the_same_however_the_volume_is_stored(codes: str) -> None:
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    stored = nib.orientations.apply_orientation(volume, turn)
    slices, _ = recipe().image_slices(Image(stored[None], affine_of(codes)))
    reference, _ = recipe().image_slices(Image(volume[None], affine_of("RAS")))
    assert slices.shape == (6, 1, 8, 8)  # coronal slices of 5 x 7 voxels, padded
    assert np.array_equal(slices, reference)


def test_label_slices_lie_on_image_slices() -> None:
    label = random_label((9, 10, 11), oblique())
    chosen = recipe(view="axial")
    images, grid = chosen.image_slices(Image(label.array[None].astype(np.float32), label.affine))
    labels = chosen.label_slices(label, grid)
    for value in range(4):
        assert len(np.unique(images[:, 0][labels == value])) == 1


@pytest.mark.parametrize(
    ("codes", "spacing", "sizes"),
    [
        ("RAS", (1, 5, 1), (10, 12)),  # 20 x 24 voxels of 1 mm in 2 mm pixels
        ("RAS", (2, 5, 4), (20, 48)),
        ("SAR", (4, 5, 2), (24, 40)),  # stored as superior, anterior, right
        ("RAS", (0.5, 5, 0.7), (5, 8)),
    ],
)
def test_slices_are_resampled_to_the_spacing(codes: str, spacing: Sequence[float], sizes: tuple[int, int]) -> None:
    image = Image(np.zeros((1, 20, 3, 24), np.float32), affine_of(codes, spacing))
    slices, grid = recipe(spacing=(2, 2), patch=(1, 1)).image_slices(image)
    assert tuple(slices.shape) == (3, 1, *sizes)
    assert grid.resampled == sizes


def test_each_axis_of_the_plane_has_its_own_spacing() -> None:
    image = Image(np.zeros((1, 20, 3, 24), np.float32), affine_of("RAS", (1, 1, 3)))
    slices, _ = recipe(spacing=(2, 1.5), patch=(1, 1)).image_slices(image)
    assert slices.shape[2:] == (10, 48)


def test_resampled_labels_are_those_that_cover_most_of_a_pixel() -> None:
    array = np.zeros((8, 1, 8), np.uint8)
    array[:4, :, 4:] = 3
    array[0, 0, 0] = 2  # a quarter of the pixel
    label = Image(array, affine_of("RAS"), is_label=True)
    chosen = recipe(spacing=(2, 2), patch=(4, 4))
    _, grid = chosen.image_slices(Image(array[None].astype(np.float32), label.affine))
    assert chosen.label_slices(label, grid)[0].tolist() == [[0, 0, 3, 3], [0, 0, 3, 3], [0] * 4, [0] * 4]
    assert set(np.unique(there_and_back(chosen, label))) == {0, 3}
    assert (there_and_back(chosen, label) == 3).sum() == pytest.approx((array == 3).sum(), abs=6)


def test_padding_is_background_in_image_and_label() -> None:
    array = np.full((5, 6), 2, np.uint8)  # a label map without background
    array[2, 2] = 1
    chosen = recipe(view="picture")
    images, grid = chosen.image_slices(Image(array[None].astype(np.float32), None))
    labels = chosen.label_slices(Image(array, None, is_label=True), grid)
    assert labels.shape == (1, 8, 8)
    assert (labels[0, 5:] == 0).all()
    assert (labels[0, :, 6:] == 0).all()
    assert (images[0, 0, 5:] == images.min()).all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("spacing", [None, (1.5, 0.7)])
def test_slices_made_one_by_one_are_those_made_at_once(view: str, spacing: tuple[float, float] | None) -> None:
    image = Image(np.random.default_rng(0).normal(size=(2, 20, 23, 37)).astype(np.float32), affine_of("PIL", (1, 2, 3)))
    chosen = recipe(view=view, spacing=spacing, patch=(24, 24), channels=2)
    slices = chosen.slices(image)
    expected, grid = chosen.image_slices(image)
    assert slices.shape == expected.shape
    assert len(slices) == len(expected)
    assert slices.grid.resampled == grid.resampled
    for number in range(len(slices)):
        assert np.array_equal(slices[number : number + 1], expected[number : number + 1])
    assert np.array_equal(slices[[7, 2]], expected[[7, 2]])


# Intensities


def test_intensities_are_those_of_the_whole_volume_at_once_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scse.data.recipe.STRETCH", 1000)
    array = np.random.default_rng(0).normal(100, 30, (1, 40, 37, 41)).astype(np.float32).clip(60)
    values = np.moveaxis(array[0], 1, 0)
    foreground = values[values > values.min()]
    low, high = np.percentile(foreground, (0.5, 99.5))
    clipped = np.clip(foreground, low, high)
    expected = ((np.clip(values, low, high) - clipped.mean()) / clipped.std()).astype(np.float32)
    assert np.array_equal(slices_of(array, view="coronal")[:, 0], expected)


@pytest.mark.parametrize(
    "values",
    [
        lambda rng, shape: rng.normal(0, 1e20, shape),
        lambda rng, shape: np.abs(rng.normal(0, 1e-40, shape)),  # subnormal numbers
        lambda rng, shape: rng.integers(-3, 4, shape),  # many equal values, and 0
        lambda rng, shape: -rng.exponential(1, shape),
    ],
)
@pytest.mark.parametrize("clip", [(0.5, 99.5), (0, 100), (25, 50)])
def test_clipping_is_at_the_percentiles_of_the_foreground_to_the_last_bit(
    values: Any, clip: tuple[float, float]
) -> None:
    for shape in ((1, 1, 3), (3, 5, 7), (20, 33, 40)):
        array = values(np.random.default_rng(0), shape).astype(np.float32)
        foreground = array[array > array.min()]
        low, high = np.percentile(foreground, clip)
        clipped = np.clip(foreground, low, high)
        expected = ((np.clip(array, low, high) - clipped.mean()) / (clipped.std() or 1)).astype(np.float32)
        found = slices_of(array[None], view="sagittal", clip=clip)[:, 0]
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("patch", "spacing", "share"),
    [
        ((64, 64), None, 0.6),  # slices
        ((32, 32, 32), None, 0.6),
        ((32, 136, 32), None, 0.6),  # padded
        ((32, 32, 32), (2.0, 2.0, 2.0), 1.0),  # resampled: with the planes that are resampled first, a quarter
    ],
)
def test_preparation_takes_less_memory_than_the_volume(
    patch: tuple[int, ...], spacing: tuple[float, ...] | None, share: float
) -> None:
    view = "axial" if len(patch) == 2 else "volume"
    chosen = Recipe(view=view, spacing=spacing, patch=patch, channels=1)
    array = np.zeros((1, 192, 128, 256), np.float32)
    array[:, 64:] = np.random.default_rng(0).random((1, 128, 128, 256), np.float32)
    image = Image(array, np.eye(4))
    chosen.slices(image)  # torch is loaded
    tracemalloc.start()
    try:
        slices = chosen.slices(image)
        if view == "volume":
            window = slices.windows()
            window(tuple(slice(0, size) for size in patch))
        else:
            slices[:4]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < share * array.nbytes


@pytest.fixture
def volume() -> NDArray[np.float32]:
    """A head of random voxels on an empty background."""
    rng = np.random.default_rng(0)
    array = np.zeros((1, 16, 12, 16), np.float32)
    array[:, 4:12, :, 4:12] = rng.normal(100, 20, (1, 8, 12, 8)).clip(1)
    return array


def slices_of(array: NDArray[np.float32], **changes: Any) -> NDArray[np.float32]:
    return recipe(patch=(1, 1), channels=len(array), **changes).image_slices(Image(array, np.eye(4)))[0]


def test_the_foreground_is_standardised(volume: NDArray[np.float32]) -> None:
    foreground = slices_of(volume)[:, 0, 4:12, 4:12]
    assert foreground.mean() == pytest.approx(0, abs=1e-3)
    assert foreground.std() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("scale", [1e6, 1e-6, 2.0])
def test_scale_and_offset_leave_no_trace(volume: NDArray[np.float32], scale: float) -> None:
    expected = slices_of(volume)
    np.testing.assert_allclose(slices_of(volume * np.float32(scale)), expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(slices_of(volume - 300), expected, atol=1e-3, rtol=1e-3)


def test_single_bright_voxels_do_not_set_the_scale(volume: NDArray[np.float32]) -> None:
    spiked = volume.copy()
    spiked[0, 8, 6, 8] = 1e9
    spiked_slices, expected = slices_of(spiked), slices_of(volume)
    assert np.abs(spiked_slices).max() < 5
    assert np.median(np.abs(spiked_slices - expected)) < 0.05


def test_channels_are_standardised_each_on_its_own(volume: NDArray[np.float32]) -> None:
    both = slices_of(np.concatenate([volume, volume[:, ::-1] * 1000]))
    np.testing.assert_allclose(both[:, :1], slices_of(volume), atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(both[:, 1:], slices_of(np.ascontiguousarray(volume[:, ::-1])), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("values", [(0, 0), (7e5, 7e5), (0, 255), (-3, 0.1)])
def test_images_of_one_or_two_values_stay_finite(values: tuple[float, float]) -> None:
    array = np.full((1, 4, 4, 4), values[0], np.float32)
    array[0, 1:3, :, 1:3] = values[1]
    slices = slices_of(array)
    assert np.isfinite(slices).all()
    assert np.abs(slices).max() <= 10


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(volume: NDArray[np.float32], wrong: float) -> None:
    volume[0, 0, 0, 0] = wrong
    with pytest.raises(ValueError, match="NaN or infinite"):
        slices_of(volume)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="has 2 channels, but the model expects 1"):
        recipe().image_slices(Image(np.zeros((2, 4, 4, 4), np.float32), np.eye(4)))
    with pytest.raises(ValueError, match=r"coronal slices of volumes, got shape \(4, 4\)"):
        recipe().image_slices(Image(np.zeros((1, 4, 4), np.float32), None))
    with pytest.raises(ValueError, match=r"2D pictures, got an image of shape \(4, 4, 4\)"):
        recipe(view="picture").image_slices(Image(np.zeros((1, 4, 4, 4), np.float32), np.eye(4)))


def test_images_in_their_own_spacing_are_prepared_without_torch() -> None:
    code = """
import sys
import numpy as np
from scse.data.choices import LARGEST_VOLUME, advise_dims
from scse.data.files import Image
from scse.data.recipe import Recipe

label = Image(np.random.default_rng(0).integers(0, 4, (5, 6, 7)), np.diag([-1, 1, 1, 1]), is_label=True)
recipe = Recipe(view="coronal", spacing=None, patch=(8, 8), channels=1)
slices, grid = recipe.image_slices(Image(label.array[None].astype(np.float32), label.affine))
classes = recipe.label_slices(label, grid)
print(slices.shape, np.array_equal(grid.restore(classes[:, :5, :7]), label.array), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(6, 1, 8, 8) True False\n"
