"""How an image looks is measured alike on prepared arrays, in training, and on images, in prediction."""

from pathlib import Path

import numpy as np
import pytest

from scse.data.files import Image
from scse.data.inspection import CaseFacts
from scse.data.prepared import Prepared, write_prepared
from scse.data.recipe import Recipe
from scse.inference.appearance import QUANTILES, Appearance
from scse.vocabulary.planes import View

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
"""The first stored axis is anterior, the second left, the third superior."""


def image(seed: int = 0, *, channels: int = 2) -> Image:
    array = np.random.default_rng(seed).gamma(3, 10, (channels, 20, 12, 9)).astype(np.float32)
    array[:, 5:9] = 0  # background
    return Image(array, AFFINE)


def prepared(scan: Image, recipe: Recipe, folder: Path) -> Appearance:
    images, grid = recipe.image_slices(scan)
    write_prepared(folder, images, recipe.label_slices(Image(scan.array[0].astype(np.uint8), AFFINE), grid))
    facts = CaseFacts("a", scan.shape, scan.spacing, scan.orientation, recipe.channels, (0, 1), {}, "")
    return Appearance.of_case(Prepared("a", folder), facts, recipe)


@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("view", ["coronal", "axial", "volume"])
def test_it_is_the_same_in_training_and_in_prediction(
    view: View, padding: bool, resampled: bool, tmp_path: Path
) -> None:
    axes = 3 if view == "volume" else 2
    patch, spacing = (32 if padding else 8,) * axes, (1.7, 2.3, 2.1)[:axes] if resampled else None
    recipe, scan = Recipe(view=view, spacing=spacing, patch=patch, channels=2), image()
    slices = recipe.slices(scan)
    found = Appearance.of_image(slices, AFFINE)
    assert found == prepared(scan, recipe, tmp_path / "case")
    assert found.spacing == pytest.approx((2.0, 1.5, 3.0))
    assert found.extent == pytest.approx((24.0, 30.0, 27.0))
    if view == "volume":
        place = tuple(slice(0, size) for size in slices.shape[2:])
        expected = recipe.image_slices(scan)[0][0]
        for _ in range(2):  # the volume that was kept, and one that is prepared again
            np.testing.assert_array_equal(slices.windows()(place), expected)


@pytest.mark.parametrize("view", ["coronal", "volume"])
def test_the_intensities_are_those_above_the_minimum(view: View) -> None:
    scan = Image(image(channels=1).array[:, :, :8], AFFINE)  # 8 rows along x, of which none is left out
    recipe = Recipe(view=view, spacing=None, patch=(8,) * (3 if view == "volume" else 2), channels=1)
    slices = recipe.slices(scan)
    planes = slices[:][0, 0] if view == "volume" else slices[np.array([1, 3, 6, 8, 11, 13, 16, 18])]
    above = planes[planes > planes.min()]
    assert Appearance.of_image(slices, AFFINE).intensities[0] == pytest.approx(np.quantile(above, QUANTILES).tolist())


def test_a_channel_without_contrast_has_zeros() -> None:
    scan = image()
    scan.array[1] = 7
    recipe = Recipe(view="axial", spacing=None, patch=(8, 8), channels=2)
    first, second = Appearance.of_image(recipe.slices(scan), AFFINE).intensities
    assert second == (0, 0, 0, 0, 0)
    assert first[0] < first[2] < first[4]
