"""Segmenters of several views joined into one, compared with means that NumPy and SciPy compute."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from datasets import save_nifti, save_picture
from scse.data.files import Image
from scse.inference.averaging import averaged
from scse.inference.joining import Joined, joined
from scse.inference.saved import Cleaning
from scse.inference.uncertainty import uncertain
from scse.support.errors import UserError
from scse.vocabulary.planes import View
from views import AXES, SHAPE, STRUCTURES, correlated, normalised, segmenter, shares, volume


def labels_of(mean: NDArray[np.float64]) -> NDArray[np.integer]:
    return np.array([0, *STRUCTURES.values()])[mean.argmax(0)]


def clear(mean: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Voxels whose two best classes are so far apart that sums in 16 bits decide as NumPy does."""
    first, second = np.sort(mean, 0)[::-1][:2]
    return first - second > 1e-4


@pytest.mark.parametrize(
    ("views", "weights"),
    [
        (("coronal", "axial", "sagittal"), (0.4, 0.4, 0.2)),
        (("coronal", "axial", "sagittal"), None),
        (("sagittal", "volume"), (1, 3)),
        (("volume", "axial"), None),
        (("coronal", "axial", "sagittal", "volume"), None),
    ],
)
def test_probabilities_of_views_are_averaged_in_the_grid_of_the_image(
    views: Sequence[View], weights: Sequence[float] | None
) -> None:
    members, image = [segmenter(view, seed) for seed, view in enumerate(views)], volume()
    mean = np.average([shares(one, normalised(image)) for one in members], axis=0, weights=weights)
    one = joined(members, weights=weights)
    found = one.predict(image)
    assert set(np.unique(found)) == {0, *STRUCTURES.values()}
    assert clear(mean).mean() > 0.99
    np.testing.assert_array_equal(found[clear(mean)], labels_of(mean)[clear(mean)])
    # probabilities themselves, row by row of the last view
    assert isinstance(one, Joined)
    prepared = Image(image[None], np.eye(4))
    rows = list(one.means([member.recipe.slices(prepared) for member in one.members]))
    axis = AXES.get(views[-1], 0)
    np.testing.assert_allclose(np.stack([row.numpy() for row in rows], axis + 1), mean, atol=5e-5)


@pytest.mark.parametrize("codes", ["RAS", "LIP", "SLA"])
def test_stored_axes_may_point_anywhere(codes: str) -> None:
    image = volume()
    stored = nib.Nifti1Image(image, np.diag([2.0, 1.5, 1.0, 1.0]))
    turn = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(codes))
    turned = stored.as_reoriented(turn)
    one = joined([segmenter("coronal"), segmenter("axial", 1), segmenter("volume", 2)])
    found = one.predict(turned)
    assert found.shape == turned.shape
    np.testing.assert_array_equal(found.affine, turned.affine)
    np.testing.assert_array_equal(nib.as_closest_canonical(found).dataobj, one.predict(stored).dataobj)


def test_members_may_differ_in_spacing_and_patch() -> None:
    image = volume()
    members = [segmenter("coronal"), segmenter("coronal", 1, spacing=(2, 2), patch=(8, 8))]
    fine, coarse = members
    prepared, grid = coarse.recipe.image_slices(Image(image[None], np.eye(4)))
    assert prepared.shape == (12, 1, 8, 8)
    assert grid.resampled == (4, 5)
    with torch.inference_mode():
        maps = coarse.network(torch.from_numpy(prepared)).double().softmax(1)[:, :, :4, :5]
    resampled = linear(linear(maps.numpy(), 2, 8), 3, 10)  # (slices, classes, 8, 10)
    mean = (shares(fine, normalised(image)) + resampled.transpose(1, 2, 0, 3)) / 2
    found = joined(members).predict(image)
    np.testing.assert_array_equal(found[clear(mean)], labels_of(mean)[clear(mean)])


def linear(maps: NDArray[np.float64], axis: int, size: int) -> NDArray[np.float64]:
    """Linear interpolation to a finer grid of the same extent, in NumPy; edges are repeated."""
    count = maps.shape[axis]
    places = (np.arange(size) + 0.5) * count / size - 0.5
    return np.apply_along_axis(lambda values: np.interp(places, np.arange(count), values), axis, maps)


def test_every_member_is_mirrored_along_its_own_axes() -> None:
    members, image = [segmenter("coronal"), segmenter("sagittal", 1)], volume()
    array, means = normalised(image), []
    for one, axes in zip(members, ([(), (0,), (2,), (0, 2)], [(), (1,), (2,), (1, 2)]), strict=True):
        passes = []
        for flipped in axes:
            found = np.flip(shares(one, np.flip(array, flipped)), [axis + 1 for axis in flipped])
            passes.append(found[[0, 2, 1, 3]] if 0 in flipped else found)
        means.append(np.mean(passes, 0))
    mean = np.mean(means, 0)
    one = joined(members, mirror=True)
    np.testing.assert_array_equal(one.predict(image)[clear(mean)], labels_of(mean)[clear(mean)])
    assert str(one) == "joined (coronal: 1 segmenter, 4 passes each; sagittal: 1 segmenter, 4 passes each)"


def test_members_of_one_recipe_are_averaged_by_window() -> None:
    same = [segmenter("coronal", seed) for seed in range(2)]
    found = joined(same, weights=[1, 2])
    assert not isinstance(found, Joined)
    np.testing.assert_array_equal(found.predict(volume()), averaged(same, weights=[1, 2]).predict(volume()))
    mixed = joined([same[0], segmenter("axial", 2), same[1]], weights=[1, 2, 3])
    assert isinstance(mixed, Joined)
    assert str(mixed) == "joined (coronal: 2 segmenters, 1 pass each; axial: 1 segmenter, 1 pass each)"
    assert mixed.weights == [4 / 6, 2 / 6]
    array = normalised(volume())
    members = [same[0], same[1], segmenter("axial", 2)]
    mean = np.average([shares(one, array) for one in members], axis=0, weights=[1, 3, 2])
    np.testing.assert_array_equal(mixed.predict(volume())[clear(mean)], labels_of(mean)[clear(mean)])


def test_the_order_of_members_changes_no_clear_label() -> None:
    members = [segmenter(view, seed) for seed, view in enumerate(("coronal", "axial", "sagittal"))]
    array = normalised(volume())
    sure = clear(np.mean([shares(one, array) for one in members], 0))
    first, last = joined(members).predict(volume()), joined(members[::-1]).predict(volume())
    np.testing.assert_array_equal(first[sure], last[sure])


def test_pictures_of_two_resolutions_are_joined(tmp_path: Path) -> None:
    sizes = [(16, 16), (24, 24)]
    members = [segmenter("picture", seed, patch=patch, values=(1, 2, 3)) for seed, patch in enumerate(sizes)]
    picture = np.random.default_rng(0).integers(0, 256, (20, 18)).astype(np.uint8)
    path = save_picture(tmp_path / "p.png", picture)
    found = joined(members).predict(path)
    assert found.shape == (20, 18)
    assert len(np.unique(found)) > 1


def test_many_images_are_written_and_a_failure_loses_no_other(tmp_path: Path) -> None:
    paths = {name: [save_nifti(tmp_path / f"{name}.nii.gz", volume(seed))] for seed, name in enumerate("ab")}
    flat = save_nifti(tmp_path / "flat.nii.gz", np.ones(SHAPE, np.float32))
    one = joined([segmenter("coronal"), segmenter("axial", 1)])
    (failed,) = one.predict_files({"flat": [flat], **paths}, tmp_path / "out")
    assert failed.startswith(f"{flat}: all voxels have the same value")
    for name, (path,) in paths.items():
        written = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(written.dataobj, one.predict(path).dataobj)


def test_a_broken_network_is_named_by_its_image(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", volume())
    broken = segmenter("coronal")
    with torch.no_grad():
        broken.network.get_parameter("weight").fill_(np.nan)
    for members in ([broken, segmenter("axial")], [segmenter("axial"), broken]):
        (failed,) = joined(members).predict_files({"a": [path]}, tmp_path / "out")
        assert failed.startswith(f"{path}: the network returned NaN or infinite probabilities")


def test_progress_counts_members() -> None:
    calls: list[tuple[int, int]] = []
    one = joined([segmenter("coronal"), segmenter("axial"), segmenter("volume")])
    one.predict_image(Image(volume()[None], np.eye(4)), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    coronal, axial = segmenter("coronal"), segmenter("axial")
    with pytest.raises(UserError, match="at least one, got none"):
        joined([])
    other = replace(axial, structures={"right-a": 300, "left-a": 10, "b": 3})
    with pytest.raises(UserError, match="segmenter 2 has other structures"):
        joined([coronal, other])
    colour = replace(axial, recipe=axial.recipe.model_copy(update={"channels": 3}))
    with pytest.raises(UserError, match="segmenter 2 has another number of channels"):
        joined([coronal, colour])
    with pytest.raises(UserError, match=r"pictures and of volumes \(coronal, picture\)"):
        joined([coronal, segmenter("picture")])
    for weights in ([1.0], [1, 0], [1, np.nan], [1, np.inf], [1, -1], [1, 2, 3]):
        with pytest.raises(UserError, match="weights must be 2 positive numbers, one for each segmenter; got"):
            joined([coronal, axial], weights=weights)
    one = joined([coronal, axial])
    with pytest.raises(UserError, match="cannot be saved as one"):
        one.save(tmp_path)
    with pytest.raises(UserError, match="call with_engine of each before"):
        one.with_engine("torch")


def test_label_maps_are_cleaned_up_by_the_steps_that_all_members_have() -> None:
    steps = (Cleaning(keep_largest=("left-a", "right-a")), Cleaning(keep_largest=("left-a",), largest_foreground=True))
    plain = [segmenter("coronal"), segmenter("axial", 1)]
    members = [replace(one, cleaning=cleaning) for one, cleaning in zip(plain, steps, strict=True)]
    one, image = joined(members), Image(volume()[None], np.eye(4))
    assert one.cleaning == Cleaning(keep_largest=("left-a",))
    raw = joined(plain).predict_image(image)
    regions, count = ndimage.label(raw == STRUCTURES["left-a"], np.ones((3, 3, 3)))
    assert count > 1
    largest = np.bincount(regions[regions > 0]).argmax()
    expected = np.where((regions > 0) & (regions != largest), 0, raw)
    np.testing.assert_array_equal(one.predict_image(image), expected)
    np.testing.assert_array_equal(uncertain(members).estimate(image).labels, expected)
    np.testing.assert_array_equal(one.with_cleaning("none").predict_image(image), raw)


def test_regions_of_several_views_are_joined() -> None:
    regions = {name: (value, 9) for name, value in STRUCTURES.items()}
    members, image = [segmenter("coronal"), segmenter("volume", 1)], volume()
    # the first output, which is that of the background in exclusive classes, is left out
    members = [replace(one, network=without_first(one.network), regions=regions) for one in members]
    probabilities = []
    for one in members:
        axis = AXES.get(one.recipe.view)
        logits = (
            correlated(normalised(image), one.network)
            if axis is None
            else np.stack([correlated(each, one.network) for each in np.moveaxis(normalised(image), axis, 0)], axis + 1)
        )
        probabilities.append(1 / (1 + np.exp(-logits)))
    mean = np.mean(probabilities, axis=0)
    wanted = np.zeros(SHAPE, int)
    for inside, value in zip(mean > 0.5, STRUCTURES.values(), strict=True):
        wanted[inside] = value
    sure = (np.abs(mean - 0.5) > 1e-4).all(0)
    found = joined(members).predict(image)
    assert set(np.unique(found)) == {0, *STRUCTURES.values()}
    np.testing.assert_array_equal(found[sure], wanted[sure])
    with pytest.raises(UserError, match="uncertainty is measured for exclusive structures"):
        uncertain(members)


def without_first(network: torch.nn.Module) -> torch.nn.Module:
    """The same convolution without its first output."""
    weight, bias = network.get_parameter("weight"), network.get_parameter("bias")
    fewer = type(network)(1, len(bias) - 1, 3, padding=1)
    fewer.load_state_dict({"weight": weight[1:], "bias": bias[1:]})
    return fewer
