import numpy as np
import pytest
import torch

from scse.simulation.source import EMPTY, LOOSE, Source, radii
from scse.support.errors import UserError


def ball(size: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    places = np.indices(size).astype(float)
    return sum((place - middle) ** 2 for place, middle in zip(places, centre, strict=True)) <= radius**2


def scan(size: tuple[int, ...] = (24, 20, 18), noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """A left and a right ball of brightness 50 in tissue of 20, in an empty background of 0."""
    rng, labels = np.random.default_rng(0), np.zeros(size, np.uint8)
    middle = tuple(n / 2 for n in size[1:])
    labels[ball(size, (size[0] / 3, *middle), 4)] = 1
    labels[ball(size, (2 * size[0] / 3, *middle), 4)] = 2
    image = np.where(labels > 0, 50.0, 20.0) + rng.normal(0, noise, size)
    image[:, :3] = image[:, -3:] = 0
    return image[None].astype(np.float32), labels


def source(**arguments: object) -> Source:
    image, labels = scan()
    return Source.of(image, labels, spacing=(1, 1, 1), **arguments)


def test_tissues_have_the_means_and_spreads_of_the_image() -> None:
    found = source()
    image, labels = scan()
    assert found.labels_found == (0, 1, 2)
    # empty background, tissue without a label, two balls
    assert found.means[:, 0].tolist() == pytest.approx([0, 20, 50, 50], abs=0.2)
    assert found.spreads[:, 0].tolist() == pytest.approx([0, 0.5, 0.5, 0.5], abs=0.1)
    for label, tissue in ((1, 2), (2, 3)):
        assert (found.tissues.numpy()[labels == label] == tissue).all()
    assert torch.allclose(found.painted(found.means) + found.texture, torch.from_numpy(image))
    assert found.span.item() == pytest.approx(50, abs=0.2)


def test_a_structure_of_two_tissues_is_split_and_one_of_noise_is_not() -> None:
    image, labels = scan()
    half = np.indices(labels.shape)[2] < 9
    for place, brightness in ((half, 10), (~half, 90)):
        image[0, (labels == 1) & place] += brightness - 50
    found = Source.of(image, labels, spacing=(1, 1, 1))
    means = sorted(found.means[np.unique(found.tissues.numpy()[labels == 1]), 0].tolist())
    assert means == pytest.approx([10, 90], abs=3)
    assert len(np.unique(found.tissues.numpy()[labels == 2])) == 1


def test_both_sides_of_a_pair_are_one_group() -> None:
    alone, paired = source(), source(partners=[0, 2, 1])
    assert alone.groups[2] != alone.groups[3]
    assert paired.groups[2] == paired.groups[3]
    assert paired.label_groups[1] == paired.label_groups[2]
    assert alone.label_groups[1] != alone.label_groups[2]


def test_an_empty_background_is_found_only_where_it_is_exactly_one_value() -> None:
    found = source()
    image, labels = scan()
    assert found.empty is not None
    assert found.empty.tolist() == [0]
    assert ((found.labels.numpy() >= EMPTY) == (image[0] == 0)).all()
    noisy = np.where(image == 0, np.random.default_rng(2).normal(0, 1, image.shape), image).astype(np.float32)
    assert Source.of(noisy, labels, spacing=(1, 1, 1)).empty is None
    full = np.ones((4, 4), np.uint8)
    assert Source.of(np.ones((1, 4, 4), np.float32), full, spacing=(1, 1)).empty is None


def test_radii_are_those_of_balls_and_discs() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:4, :4, :4], labels[10:, 10:, 10:] = 1, 2
    whole, small = radii(labels, (1, 1, 2))
    volumes = np.array([64, 1000]) * 2
    assert whole == pytest.approx((volumes.sum() * 3 / (4 * np.pi)) ** (1 / 3))
    assert small == pytest.approx((np.percentile(volumes, 10) * 3 / (4 * np.pi)) ** (1 / 3))
    disc = np.zeros((10, 10), np.uint8)
    disc[:4, :4] = 7
    assert radii(disc, (1, 1)) == pytest.approx([(16 / np.pi) ** 0.5] * 2)


def test_deformations_are_smoother_than_small_structures_and_the_lattice_follows() -> None:
    found = source()
    large, medium, fine = found.smoothness
    assert large > medium > fine > 0
    assert all(2 <= points <= size for points, size in zip(found.lattice, found.size, strict=True))
    assert found.steps.max() <= fine


def test_vectors_at_an_outline_point_into_the_structure() -> None:
    found = source()
    values = torch.zeros(256)
    values[1] = 1
    vectors = found.inward(values / found.steepness)
    assert vectors.norm(dim=0).max().item() == pytest.approx(1, abs=1e-5)
    centre = torch.tensor([n / 3 if axis == 0 else n / 2 for axis, n in enumerate(found.size)])
    places = torch.stack(torch.meshgrid(*[torch.arange(n) for n in found.lattice], indexing="ij")).float()
    places = places * torch.from_numpy(found.steps).float().reshape(3, 1, 1, 1)
    towards = centre.reshape(3, 1, 1, 1) - places
    strong = vectors.norm(dim=0) > 0.5
    assert ((vectors * towards).sum(0)[strong] > 0).all()


def test_a_structure_of_three_voxels_and_memory_maps_are_taken() -> None:
    image, labels = scan()
    labels[12, 4, 4:7] = 9
    image.setflags(write=False)
    labels.setflags(write=False)
    found = Source.of(image, labels, spacing=(1, 1, 1))
    assert found.labels_found == (0, 1, 2, 9)
    assert torch.isfinite(found.steepness).all()


def test_a_label_map_without_a_label_is_refused() -> None:
    with pytest.raises(UserError, match="no label but 0; give one with at least one structure"):
        Source.of(np.ones((1, 4, 4), np.float32), np.zeros((4, 4), np.uint8), spacing=(1, 1))


def test_only_a_thin_rim_of_tissue_may_be_masked() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4:16, 4:16, 4:16] = 1
    labels[9:11, 9:11, 9:11] = 0  # a hole, which stays
    rim = np.zeros(labels.shape, bool)
    rim[4:16, 4:16, 16] = True
    image = np.where((labels > 0) | rim, 40, 0).astype(np.float32)
    image[9:11, 9:11, 9:11] = 20
    found = Source.of(image[None], labels, spacing=(1, 1, 1))
    assert ((found.labels.numpy() >= LOOSE * EMPTY) == rim).all()
    image, labels = scan()  # two balls in much other tissue
    assert (Source.of(image, labels, spacing=(1, 1, 1)).labels < LOOSE * EMPTY).all()
