"""Batches: fixed by (seed, epoch, step) alone, cut inside the slice, labels moved with their images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets import save_prepared
from scse.data.prepared import Prepared
from scse.training.augmentation import Augmentation, augmented
from scse.training.batches import Batches, step_seed
from scse.training.settings import Settings
from scse.training.setup import make_batches
from scse.training.task import Task

RANGES = Augmentation(rotation=10, scaling=0.1, shift=0.05, gain=0.1, offset=0.1)
PATCH = (10, 12)
SLICES = 9  # of two cases: 6 of 13 x 17 pixels, 3 of 10 x 12


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Prepared]:
    """Cases whose pixels all differ, and whose labels are told by their pixels."""
    folder = tmp_path_factory.mktemp("cases")
    pixels = np.arange(6 * 13 * 17).reshape(6, 13, 17)
    others = np.arange(10_000, 10_000 + 3 * 10 * 12).reshape(3, 10, 12)
    return [save_prepared(folder / str(n), a[:, None], a % 200) for n, a in enumerate((pixels, others))]


def make(
    cases: list[Prepared], *, seed: int = 0, batch_size: int = 2, limit: int | None = None, augment: bool = True
) -> Batches:
    return Batches(
        cases, patch=PATCH, batch_size=batch_size, limit=limit, augmentation=RANGES if augment else None, seed=seed
    )


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_shapes_and_types(cases: list[Prepared]) -> None:
    batches = make(cases)
    assert len(batches) == 4  # the ninth slice would be a smaller batch
    found = list(batches.epoch(0))
    assert len(found) == 4
    for images, labels in found:
        assert (tuple(images.shape), images.dtype) == ((2, 1, *PATCH), torch.float32)
        assert (tuple(labels.shape), labels.dtype) == ((2, *PATCH), torch.int64)


def test_a_batch_does_not_depend_on_what_came_before(cases: list[Prepared]) -> None:
    whole = list(make(cases).epoch(3))
    used = make(cases)
    list(used.epoch(0))
    np.random.default_rng(5).normal(size=7)
    torch.manual_seed(99)
    assert same(list(used.epoch(3)), whole)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_a_later_start_gives_the_tail_of_the_epoch(cases: list[Prepared], start: int) -> None:
    assert same(list(make(cases).epoch(2, start=start)), list(make(cases).epoch(2))[start:])


def test_epochs_and_seeds_differ(cases: list[Prepared]) -> None:
    first = list(make(cases).epoch(0))
    assert not same(first, list(make(cases).epoch(1)))
    assert not same(first, list(make(cases, seed=1).epoch(0)))


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, epoch, step) for seed in range(4) for epoch in range(8) for step in range(20)}
    assert len(seeds) == 4 * 8 * 20


def test_every_slice_comes_once_an_epoch(cases: list[Prepared]) -> None:
    for epoch in (0, 1):
        batches = list(make(cases, batch_size=3, augment=False).epoch(epoch))
        slices = [
            int(image.min()) // (13 * 17) if image.min() < 10_000 else int(image.min())
            for b in batches
            for image in b[0]
        ]
        assert len(set(slices)) == SLICES


def test_crops_lie_in_the_slice_and_labels_on_their_pixels(cases: list[Prepared]) -> None:
    corners = set()
    for epoch in range(30):
        for images, labels in make(cases, augment=False).epoch(epoch):
            assert torch.equal(images[:, 0].long() % 200, labels)
            steps = images[:, 0].diff(dim=2)
            assert (steps == 1).all()  # rows are not torn
            corners |= {int(image.min()) % (13 * 17) for image in images if image.min() < 10_000}
    rows, columns = {corner // 17 for corner in corners}, {corner % 17 for corner in corners}
    assert rows == set(range(13 - 10 + 1))  # the first and the last possible places, too
    assert columns == set(range(17 - 12 + 1))


def test_the_limit_draws_other_slices_each_epoch(cases: list[Prepared]) -> None:
    batches = make(cases, limit=4, augment=False)
    assert len(batches) == 2
    seen = [{int(image.min()) for images, _ in batches.epoch(epoch) for image in images} for epoch in range(8)]
    assert len({frozenset(epoch) for epoch in seen}) > 1


@pytest.mark.parametrize(("limit", "expected"), [(None, 9), (4, 4), (1, 1), (100, 9)])
def test_an_epoch_never_has_more_slices_than_the_limit(cases: list[Prepared], limit: int, expected: int) -> None:
    batches = make(cases, batch_size=50, limit=limit)
    assert [len(images) for images, _ in batches.epoch(0)] == [expected]


VOLUME_PATCH = (6, 8, 5)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Prepared]:
    """Two volumes of zeros with a structure of 4 voxels and one of 90; the second volume has ignored voxels too."""
    folder, found = tmp_path_factory.mktemp("volumes"), []
    for name in ("a", "b"):
        labels = np.zeros((1, 12, 14, 9), np.uint8)
        labels[0, 10, 12, 2:6] = 1
        labels[0, 1:4, 2:8, 1:6] = 2
        if name == "b":
            labels[0, :, 0] = 255
        found.append(save_prepared(folder / name, labels[:, None].astype(np.float32), labels))
    return found


def of_volumes(cases: list[Prepared], **changes: Any) -> Batches:
    options = {"patch": VOLUME_PATCH, "batch_size": 2, "limit": 50, "augmentation": None, "seed": 0, **changes}
    return Batches(cases, **options)


def test_an_epoch_of_volumes_has_as_many_patches_as_the_limit(volumes: list[Prepared]) -> None:
    batches = of_volumes(volumes, limit=7)
    assert len(batches) == 3
    found = list(batches.epoch(0))
    assert [tuple(images.shape) for images, _ in found] == [(2, 1, *VOLUME_PATCH)] * 3
    assert all(torch.equal(images[:, 0].long(), labels) for images, labels in found)
    assert len(of_volumes(volumes, limit=None)) == 1  # one patch of each volume


def test_patches_of_volumes_depend_on_seed_epoch_and_step_alone(volumes: list[Prepared]) -> None:
    options = {"foreground": 0.5, "augmentation": RANGES}
    whole = list(of_volumes(volumes, **options).epoch(2))
    assert same(list(of_volumes(volumes, **options).epoch(2, start=4)), whole[4:])
    assert not same(list(of_volumes(volumes, **options).epoch(3)), whole)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_patches_is_centred_on_a_structure_drawn_evenly(volumes: list[Prepared], share: float) -> None:
    batches = of_volumes(volumes, limit=400, foreground=share)
    labels = torch.cat([labels for _, labels in batches.epoch(0)])
    small = (labels == 1).flatten(1).any(1).float().mean().item()
    anywhere = torch.cat([labels for _, labels in of_volumes(volumes, limit=400).epoch(0)])
    by_chance = (anywhere == 1).flatten(1).any(1).float().mean().item()
    # half of the centred patches are around the small structure; around the large one, they never reach the small one
    assert small == pytest.approx((1 - share) * by_chance + share / 2, abs=0.08)


def test_the_centre_of_a_patch_is_in_the_structure_unless_it_is_near_an_edge(tmp_path: Path) -> None:
    labels = np.zeros((1, 30, 30, 30), np.uint8)
    labels[0, 12:18, 11:19, 14:17] = 3
    case = save_prepared(tmp_path / "case", labels[:, None].astype(np.float32), labels)
    batches = of_volumes([case], patch=(8, 8, 8), foreground=1.0)
    assert all((part[:, 4, 4, 4] == 3).all() for _, part in batches.epoch(0))


def test_variants_see_the_same_batches(task: Task) -> None:
    plain, scse = (make_batches(task, Settings(variant=variant)) for variant in ("none", "scse"))
    assert same(list(plain.epoch(1)), list(scse.epoch(1)))


def test_the_switch_of_augmentation(task: Task) -> None:
    images, labels = next(make_batches(task, Settings(augment=False)).epoch(0))
    stored = np.concatenate([case.images() for case in task.training])
    assert set(images.unique().tolist()) <= set(np.unique(stored).tolist())
    changed, moved = next(make_batches(task, Settings()).epoch(0))
    assert not torch.equal(changed, images)
    assert not torch.equal(moved, labels)


# Augmentation


def ramp(axis: int, *, size: int = 40, count: int = 64) -> Tensor:
    """(N, size, size) of pixel indices along an axis."""
    line = torch.arange(size)
    return (line[:, None] if axis == 0 else line[None]).expand(count, size, size)


@pytest.mark.parametrize("axis", [0, 1])
def test_labels_move_with_their_image(axis: int) -> None:
    labels = ramp(axis)
    images, moved = augmented(labels[:, None].float(), labels, RANGES, np.random.default_rng(0))
    assert not torch.equal(moved, labels)
    for image, label in zip(images[:, 0].double(), moved.double(), strict=True):
        # the label is the rounded ramp, the image the ramp with another gain and offset
        gain, offset = np.polyfit(label.flatten(), image.flatten(), 1)
        assert ((image - offset) / gain - label).abs().max() < 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_of_volumes_move_with_their_image(axis: int) -> None:
    line = torch.arange(24).reshape([24 if place == axis else 1 for place in range(3)])
    labels = line.expand(16, 24, 24, 24).contiguous()
    images, moved = augmented(labels[:, None].float(), labels, RANGES, np.random.default_rng(0))
    assert not torch.equal(moved, labels)
    for image, label in zip(images[:, 0].double(), moved.double(), strict=True):
        gain, offset = np.polyfit(label.flatten(), image.flatten(), 1)
        assert ((image - offset) / gain - label).abs().max() < 0.95


def test_a_volume_is_rotated_in_millimetres() -> None:
    """A ball stays a ball, and is as large as before, although the sides and the spacings of the volume differ."""
    spacing = np.array([1.0, 2.0, 4.0])
    shape = np.array([48, 32, 16])
    places = (np.indices(shape) - (shape[:, None, None, None] - 1) / 2) * spacing[:, None, None, None]
    inside = (np.square(places).sum(0) < 14**2).astype(np.int64)
    labels = torch.from_numpy(inside)[None].repeat(8, 1, 1, 1)
    turned = Augmentation(rotation=90, scaling=0, shift=0, gain=0, offset=0)
    _, moved = augmented(labels[:, None].float(), labels, turned, np.random.default_rng(0), extent=shape * spacing)
    assert (moved != labels).float().mean() < 0.02
    bar = torch.from_numpy((np.abs(places[0]) < 12) & (np.abs(places[1:]) < 8).all(0)).long()[None].repeat(8, 1, 1, 1)
    _, moved = augmented(bar[:, None].float(), bar, turned, np.random.default_rng(0), extent=shape * spacing)
    assert (moved != bar).float().mean() > 0.02
    volumes = moved.sum((1, 2, 3)) / bar[0].sum()
    assert 0.85 < volumes.min() <= volumes.max() < 1.15


def test_slices_are_changed_each_in_its_own_way() -> None:
    labels = ramp(0)
    images, moved = augmented(labels[:, None].float(), labels, RANGES, np.random.default_rng(0))
    assert len({tuple(label.flatten().tolist()) for label in moved}) == len(labels)
    assert len({image.mean().item() for image in images}) == len(labels)


def test_changes_are_small_and_never_mirror() -> None:
    for axis in (0, 1):
        labels = ramp(axis)
        _, moved = augmented(labels[:, None].float(), labels, RANGES, np.random.default_rng(1))
        # 10 degrees, 10 % and 5 % of the side, at the corner of a slice
        assert (moved - labels).abs().max() <= 40 * (0.5 * (np.sin(np.deg2rad(10)) * 1.1 + 0.115) + 0.05) + 1
        assert (moved.diff(dim=axis + 1).sum(dim=axis + 1) > 0).all()


def test_gain_and_offset_are_small() -> None:
    flat = torch.full((64, 1, 8, 8), 2.0)
    images, labels = augmented(flat, torch.ones(64, 8, 8, dtype=torch.int64), RANGES, np.random.default_rng(0))
    assert 2 * 0.9 - 0.1 <= images.min() < 1.9
    assert 2.1 < images.max() <= 2 * 1.1 + 0.1
    assert (labels == 1).all()


def test_large_label_numbers_survive() -> None:
    labels = torch.full((4, 8, 8), 255)
    _, moved = augmented(torch.zeros(4, 1, 8, 8), labels, RANGES, np.random.default_rng(0))
    assert torch.equal(moved, labels)


def test_ranges_of_the_augmentation_are_settings():
    images, labels = torch.randn(6, 1, 12, 10), torch.ones(6, 12, 10, dtype=torch.int64)
    still = Augmentation(rotation=0, scaling=0, shift=0, gain=0, offset=0)
    same, _ = augmented(images, labels, still, np.random.default_rng(0))
    torch.testing.assert_close(same, images, rtol=0, atol=1e-5)
    brighter = Augmentation(rotation=0, scaling=0, shift=0, gain=0.5, offset=0)
    changed, _ = augmented(images, labels, brighter, np.random.default_rng(0))
    gains = (changed / images).mean((1, 2, 3))
    assert 0.1 < (gains - 1).abs().max() <= 0.5 + 1e-4


def test_the_ranges_are_those_of_the_settings(task):
    loader = make_batches(task, Settings(rotation=30, offset=0.3))
    assert loader.augmentation == Augmentation(rotation=30, scaling=0.1, shift=0.05, gain=0.1, offset=0.3)
