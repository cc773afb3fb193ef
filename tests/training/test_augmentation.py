"""Random changes of training images: each within its range, labels with their images, mirroring where it is safe."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scse.support.errors import UserError
from scse.training.augmentation import Augmentation, augmented
from scse.training.settings import RANGES, Settings, make_settings, reject_unused
from scse.training.setup import make_augmentation, make_batches
from scse.training.task import Task
from scse.vocabulary.sides import Mirroring, safe_mirroring

SIDED = ["left-a", "right-a", "b"]
SHAPES = [(8, 2, 24, 20), (8, 2, 16, 12, 10)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["slices", "volumes"])


def noise(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Smooth images whose two channels have mean 0 and deviation 1, and labels."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    return images, torch.from_numpy(rng.integers(0, 4, (shape[0], *shape[2:])))


def change(shape: tuple[int, ...], seed: int = 0, **ranges: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels before, and after a change."""
    images, labels = noise(shape)
    given = Augmentation(**{"probability": 1.0, **ranges})
    return images, labels, *augmented(images, labels, given, np.random.default_rng(seed))


@every_shape
def test_without_ranges_nothing_changes(shape: tuple[int, ...]) -> None:
    images, labels, changed, moved = change(shape)
    torch.testing.assert_close(changed, images, atol=1e-5, rtol=0)
    assert torch.equal(moved, labels)


@every_shape
@pytest.mark.parametrize("name", ["noise", "blur", "low_resolution", "gamma", "gain", "offset"])
def test_intensities_change_each_in_its_own_way_and_labels_stay(shape: tuple[int, ...], name: str) -> None:
    images, labels, changed, moved = change(shape, **{name: 0.5})
    assert torch.equal(moved, labels)
    differences = (changed - images).flatten(1).std(1) if name != "offset" else (changed - images).flatten(1).mean(1)
    assert type(changed) is Tensor
    assert (differences.abs() > 1e-3).sum() >= len(images) // 2  # a blur by less than a third of a pixel is too small
    assert len(set(differences.tolist())) == len(images)
    again = change(shape, **{name: 0.5})[2]
    assert torch.equal(again, changed)
    assert not torch.equal(change(shape, seed=1, **{name: 0.5})[2], changed)


@every_shape
def test_changes_of_intensity_are_what_their_names_say(shape: tuple[int, ...]) -> None:
    images, _, noisy, _ = change(shape, noise=0.5)
    added = (noisy - images).flatten(1).std(1)
    assert 0 < added.min() < added.max() < 0.55
    for name in ("blur", "low_resolution"):
        _, _, smooth, _ = change(shape, **{name: 1.0})
        assert (smooth.flatten(1).std(1) < images.flatten(1).std(1)).all()
    _, _, bent, _ = change(shape, gamma=0.5)
    for before, after in zip(images.flatten(1), bent.flatten(1), strict=True):
        channel = slice(0, len(before) // 2)
        order = before[channel].argsort()
        assert (after[channel][order].diff() >= -1e-5).all()  # the order of intensities stays
    torch.testing.assert_close(bent.flatten(2).mean(2), images.flatten(2).mean(2), atol=0.02, rtol=0)


@every_shape
def test_a_share_of_the_images_is_changed(shape: tuple[int, ...]) -> None:
    images = torch.zeros(200, 1, *shape[2:])
    labels = torch.zeros(200, *shape[2:], dtype=torch.int64)
    changed, _ = augmented(images, labels, Augmentation(noise=0.5, probability=0.3), np.random.default_rng(0))
    assert (changed != 0).flatten(1).any(1).float().mean().item() == pytest.approx(0.3, abs=0.1)


@every_shape
def test_an_elastic_deformation_moves_labels_with_their_image_and_folds_nothing(shape: tuple[int, ...]) -> None:
    for axis in range(len(shape) - 2):
        size = 48
        line = torch.arange(size).reshape([size if place == axis else 1 for place in range(len(shape) - 2)])
        labels = line.expand(4, *(size,) * (len(shape) - 2)).contiguous()
        bent = Augmentation(elastic=0.4)
        images, moved = augmented(labels[:, None].float(), labels, bent, np.random.default_rng(0))
        assert not torch.equal(moved, labels)
        assert (images[:, 0] - moved).abs().max() < 0.51
        assert (images[:, 0].diff(dim=axis + 1) >= -1e-3).all()
        assert (moved - labels).abs().max() <= 0.4 * 16 + 1


def test_left_and_right_change_places_in_a_mirrored_volume() -> None:
    labels = torch.zeros(64, 6, 4, 4, dtype=torch.int64)
    labels[:, 0], labels[:, 5], labels[:, 1], labels[:, 4] = 1, 2, 3, 255
    mirroring = Augmentation(mirror=safe_mirroring("volume", SIDED))
    images, moved = augmented(labels[:, None].float(), labels, mirroring, np.random.default_rng(0))
    images = images.round()  # of values between pixels
    flipped = images[:, 0, 0, 0, 0] == 2
    assert 16 < int(flipped.sum()) < 48
    for image, label, was in zip(images[:, 0], moved, flipped, strict=True):
        assert (label[0] == 1).all()  # left stays on its side of the image
        assert (label[5] == 2).all()
        assert (label[4 if not was else 1] == 255).all()
        assert (label[1 if not was else 4] == 3).all()
        assert (image[0] == (2 if was else 1)).all()


def test_a_strength_sets_the_ranges_that_are_not_given() -> None:
    strong = make_settings("quick", {"strength": "strong", "noise": 0.05})
    assert (strong.rotation, strong.noise, strong.mirror) == (30, 0.05, "safe")
    assert make_settings("quick", {"strength": "light"}) == make_settings("quick")
    with pytest.raises(UserError, match="strength must be one of 'light', 'strong', got 'huge'"):
        make_settings("quick", {"strength": "huge"})
    settings = make_settings("quick", {"augment": False})
    with pytest.raises(UserError, match="noise, strength have no effect without augmentation"):
        reject_unused([settings.network], [settings.variant], {"augment": False, "noise": 1, "strength": "strong"})


def test_the_ranges_of_a_run_are_those_of_its_settings(task: Task) -> None:
    chosen = dict(zip(RANGES, np.linspace(0.01, 0.4, len(RANGES)).tolist(), strict=True))
    made = make_augmentation(task, Settings(**chosen, mirror="safe"))
    assert {name: getattr(made, name) for name in RANGES} == chosen
    assert made.mirror == Mirroring((0, 1), (0,), (0, 2, 1))
    assert make_augmentation(task, Settings()).mirror == Mirroring()
    first, again = (next(make_batches(task, Settings(**chosen)).epoch(0)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
