"""Batches made on a device: those of the CPU, from arrays that stay there or are copied in every step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets import save_prepared
from scse.data.prepared import Prepared
from scse.training.augmentation import Augmentation, affine_grid
from scse.training.batches import Batches
from scse.training.resident import RESIDENT_SHARE, OnDevice, Resident, Streamed, on_device
from scse.vocabulary.sides import safe_mirroring

CPU = torch.device("cpu")
LIGHT: dict[str, Any] = {"rotation": 10, "scaling": 0.1, "shift": 0.05, "gain": 0.1, "offset": 0.1}
STRONG: dict[str, Any] = {
    **LIGHT,
    **{"elastic": 0.3, "gamma": 0.5, "noise": 0.3, "blur": 1.0, "low_resolution": 1.0, "probability": 0.5},
}
SIZES = {2: [(5, 20, 24), (3, 18, 31), (4, 16, 18)], 3: [(1, 20, 24, 18), (1, 18, 30, 22)]}
PATCHES = {2: (16, 18), 3: (16, 18, 16)}
KINDS = [Resident, Streamed]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Prepared]]:
    """Cases of two channels and different sizes, by number of spatial axes."""
    folder, rng = tmp_path_factory.mktemp("cases"), np.random.default_rng(0)

    def case(name: str, count: int, size: tuple[int, ...]) -> Prepared:
        images = rng.standard_normal((count, 2, *size), np.float32)
        return save_prepared(folder / name, images, rng.integers(0, 4, (count, *size), dtype=np.uint8))

    return {
        dims: [case(f"{dims}-{number}", count, tuple(size)) for number, (count, *size) in enumerate(shapes)]
        for dims, shapes in SIZES.items()
    }


def batches(cases: dict[int, list[Prepared]], dims: int, **changes: Any) -> Batches:
    options = {"patch": PATCHES[dims], "batch_size": 3, "limit": 10, "augmentation": None, "seed": 5, **changes}
    return Batches(cases[dims], **options)


def same(device: OnDevice, wanted: Batches, *, epoch: int, start: int = 0) -> None:
    """Assert that both give the same batches bit for bit."""
    pairs = list(zip(device.epoch(epoch, start=start), wanted.epoch(epoch, start=start), strict=True))
    assert len(pairs) == len(wanted) - start
    for sent, (images, labels) in pairs:
        found, classes = device.pixels(*device.moved(sent))
        assert classes.dtype == torch.int64
        assert torch.equal(found, images)
        assert torch.equal(classes, labels)


@every_kind
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("foreground", [0.0, 0.5])
@pytest.mark.parametrize("augmentation", ["none", "light", "mirrored", "strong"])
def test_they_are_the_batches_of_the_cpu(
    cases: dict[int, list[Prepared]],
    kind: Callable[[Batches, torch.device], OnDevice],
    dims: int,
    foreground: float,
    augmentation: str,
) -> None:
    mirror = safe_mirroring("coronal" if dims == 2 else "volume", ["left-a", "right-a", "b"])
    ranges = {
        "none": None,
        "light": Augmentation(**LIGHT),
        "mirrored": Augmentation(**LIGHT, mirror=mirror),
        "strong": Augmentation(**STRONG, mirror=mirror),
    }[augmentation]
    wanted = batches(cases, dims, foreground=foreground, augmentation=ranges)
    device = kind(batches(cases, dims, foreground=foreground, augmentation=ranges), CPU)
    assert (len(device), device.batch_size, device.seed) == (len(wanted), wanted.batch_size, wanted.seed)
    same(device, wanted, epoch=0)
    same(device, wanted, epoch=3, start=1)


@every_kind
def test_what_is_sent_has_the_same_shapes_in_every_step(
    cases: dict[int, list[Prepared]], kind: Callable[[Batches, torch.device], OnDevice]
) -> None:
    for ranges in (None, Augmentation(**LIGHT), Augmentation(**STRONG)):
        device = kind(batches(cases, 2, augmentation=ranges), CPU)
        sent = [[(part.shape, part.dtype) for part in each] for epoch in range(2) for each in device.epoch(epoch)]
        assert all(each == sent[0] for each in sent)


def test_one_small_tensor_is_sent_for_a_step_of_resident_arrays(cases: dict[int, list[Prepared]]) -> None:
    [sent] = next(Resident(batches(cases, 2, augmentation=Augmentation(**LIGHT)), CPU).epoch(0))
    # three slices: 5 whole numbers, and 6 + 2 floats of which two take the room of one
    assert (sent.dtype, sent.numel()) == (torch.int64, 3 * 5 + 3 * 8 // 2)


def test_arrays_stay_on_the_device_if_they_take_at_most_a_share_of_its_memory(
    cases: dict[int, list[Prepared]],
) -> None:
    made = batches(cases, 2)
    needed = sum(case.images().nbytes + case.labels().nbytes for case in cases[2])
    enough = int(needed / RESIDENT_SHARE)
    assert isinstance(on_device(made, CPU, free=enough), Resident)
    assert isinstance(on_device(made, CPU, free=enough - 2), Streamed)


@pytest.mark.parametrize("size", [(5, 8), (4, 7, 6)])
def test_the_affine_grid_without_a_product_of_matrices_is_that_of_torch(size: tuple[int, ...]) -> None:
    affine = torch.randn(3, len(size), len(size) + 1, generator=torch.Generator().manual_seed(0))
    wanted = F.affine_grid(affine, [3, 1, *size], align_corners=False)
    torch.testing.assert_close(affine_grid(affine, [3, 1, *size]), wanted, rtol=0, atol=2e-6)


@pytest.mark.cuda
@every_kind
@pytest.mark.parametrize("dims", [2, 3])
def test_on_a_card_they_differ_by_rounding_alone(
    cases: dict[int, list[Prepared]], kind: Callable[[Batches, torch.device], OnDevice], dims: int
) -> None:
    ranges = Augmentation(**LIGHT)
    device = kind(batches(cases, dims, augmentation=ranges), torch.device("cuda"))
    for sent, (images, labels) in zip(device.epoch(1), batches(cases, dims, augmentation=ranges).epoch(1), strict=True):
        found, classes = device.pixels(*device.moved(sent))
        torch.testing.assert_close(found.cpu(), images, rtol=0, atol=1e-3)
        assert (classes.cpu() != labels).float().mean() < 1e-3
