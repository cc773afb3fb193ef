"""Averages over segmenters and mirrored images, compared with means that NumPy computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.inference.averaging import averaged
from scse.inference.saved import Cleaning
from scse.inference.segmenter import Segmenter
from scse.support.errors import UserError

VOLUME = Recipe(view="volume", spacing=None, patch=(8, 8, 8), channels=1)
SLICES = Recipe(view="coronal", spacing=None, patch=(8, 8), channels=1)
SIDED = {"left-a": 1, "right-a": 2, "b": 3}


def segmenter(seed: int = 0, *, recipe: Recipe = VOLUME, structures: dict[str, int] = SIDED) -> Segmenter:
    torch.manual_seed(seed)
    network = (nn.Conv3d if recipe.dims == 3 else nn.Conv2d)(1, len(structures) + 1, 3, padding=1)
    return Segmenter(network, "mine.py:make", {"in_channels": 1, "classes": 4}, "none", recipe, structures)


def shares(one: Segmenter, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return one.network(images).double().softmax(1).numpy()


def images(*size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, *size)).astype(np.float32))


def run(one: Segmenter, given: torch.Tensor) -> np.ndarray:
    assert one.engine is not None
    with torch.inference_mode():
        return one.engine.run(given).exp().numpy()


def test_probabilities_of_segmenters_are_averaged() -> None:
    given, members = images(8, 8, 8), [segmenter(seed) for seed in range(3)]
    expected = np.mean([shares(member, given) for member in members], axis=0)
    np.testing.assert_allclose(run(averaged(members), given), expected, atol=1e-6)
    assert str(averaged(members).engine) == "averaged (3 segmenters, 1 pass each)"


@pytest.mark.parametrize(
    ("recipe", "axes", "left_right"),
    [(VOLUME, [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], 0), (SLICES, [(), (0,), (1,), (0, 1)], 0)],
)
def test_mirrored_passes_are_averaged_and_sides_change_places(
    recipe: Recipe, axes: list[tuple[int, ...]], left_right: int
) -> None:
    one, given = segmenter(recipe=recipe), images(*recipe.patch)
    expected = []
    for flipped in axes:
        places = [axis + 2 for axis in flipped]
        found = np.flip(shares(one, given.flip(places) if places else given), places)
        expected.append(found[:, [0, 2, 1, 3]] if left_right in flipped else found)
    np.testing.assert_allclose(run(averaged([one], mirror=True), given), np.mean(expected, axis=0), atol=1e-6)


def test_labels_of_a_whole_volume_are_those_of_the_mean() -> None:
    members = [segmenter(seed) for seed in range(2)]
    volume = np.random.default_rng(0).normal(100, 10, (8, 8, 8)).astype(np.float32)
    labels = averaged(members, mirror=False).predict(volume)
    prepared, _ = VOLUME.image_slices(Image(volume[None], np.eye(4)))
    mean = np.mean([shares(member, torch.from_numpy(prepared)) for member in members], axis=0)
    np.testing.assert_array_equal(labels, mean[0].argmax(0))
    assert set(np.unique(labels)) > {0}


def test_the_steps_of_clean_up_that_all_members_have_are_kept() -> None:
    first = replace(segmenter(), cleaning=Cleaning(keep_largest=("left-a", "b"), fill_holes=("b",)))
    second = replace(segmenter(1), cleaning=Cleaning(largest_foreground=True, keep_largest=("b", "right-a")))
    assert averaged([first, first]).cleaning == first.cleaning
    assert averaged([first, second]).cleaning == Cleaning(keep_largest=("b",))
    assert not averaged([first, segmenter(2)]).cleaning


def test_members_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="segmenter 2 has another recipe than the first"):
        averaged([segmenter(), segmenter(recipe=SLICES)])
    other = replace(segmenter(), structures={"right-a": 2, "left-a": 1, "b": 3})
    with pytest.raises(UserError, match="segmenter 2 has other structures"):
        averaged([segmenter(), other])
    with pytest.raises(UserError, match="at least one, got none"):
        averaged([])
    picture = SLICES.model_copy(update={"view": "picture"})
    with pytest.raises(UserError, match="mirror: images cannot be mirrored without exchanging left and right"):
        averaged([segmenter(recipe=picture)], mirror=True)


def of_regions(seed: int = 0, *, structures: dict[str, int] = SIDED) -> Segmenter:
    regions = {name: (value, 9) for name, value in structures.items()}
    torch.manual_seed(seed)
    network = nn.Conv3d(1, len(structures), 3, padding=1)
    return replace(segmenter(structures=structures), network=network, regions=regions)


@pytest.mark.parametrize("mirror", [False, True])
def test_probabilities_of_regions_are_averaged_and_never_change_places(mirror: bool) -> None:
    given, members = images(8, 8, 8), [of_regions(seed) for seed in range(3)]
    axes: list[list[int]] = [[], [3], [4], [3, 4]] if mirror else [[]]  # not from left to right
    expected = []
    for member in members:
        for flipped in axes:
            with torch.inference_mode():
                expected.append(member.network(given.flip(flipped)).double().sigmoid().flip(flipped).numpy())
    one = averaged(members, mirror=mirror)
    assert one.engine is not None
    with torch.inference_mode():
        found = one.engine.run(given).sigmoid().numpy()
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-6)
    volume = np.random.default_rng(0).normal(100, 10, (8, 8, 8)).astype(np.float32)
    assert set(np.unique(one.predict(volume))) > {0}


def test_regions_and_exclusive_classes_are_not_averaged() -> None:
    one = of_regions()
    other = replace(one, regions={**one.regions, "b": (3,)})
    for members in ([one, other], [one, segmenter()], [segmenter(), one]):
        with pytest.raises(UserError, match="segmenter 2 has other regions of labels than the first"):
            averaged(members)
