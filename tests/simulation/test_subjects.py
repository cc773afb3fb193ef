import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_source import ball, scan, source

from scse.simulation.source import Source
from scse.simulation.subjects import LIKELY, Draws, Variation, acquired, deformation, draw_subject

STILL = Variation(strains=(0, 0, 0), growth=0, rotation=0, scaling=(0, 0), shift=0)


def test_a_subject_is_given_by_its_key() -> None:
    image, labels = draw_subject(source(), (3, 1, 4))
    again, same = draw_subject(source(), (3, 1, 4))
    other, _ = draw_subject(source(), (3, 1, 5))
    assert torch.equal(image, again)
    assert torch.equal(labels, same)
    assert not torch.equal(image, other)
    assert image.shape == (1, *labels.shape) == (1, 24, 20, 18)
    assert (image.dtype, labels.dtype) == (torch.float32, torch.uint8)


@pytest.mark.parametrize("contrast", ["source", "random"])
@pytest.mark.parametrize("seed", range(4))
def test_labels_are_those_of_the_source_at_the_same_positions(seed: int, contrast: str) -> None:
    made = source()
    _, labels = draw_subject(made, (seed,), contrast=contrast)
    positions = deformation(made, LIKELY, Draws.of((seed,), torch.device("cpu")), made.spacing).numpy()
    voxels = [np.clip((place + 1) / 2 * (n - 1), 0, n - 1) for place, n in zip(positions, made.size, strict=True)]
    expected = ndimage.map_coordinates(scan()[1], voxels, order=0)
    assert (labels.numpy() != expected).mean() < 1e-4  # positions half-way between two voxels
    assert set(labels.unique().tolist()) == {0, 1, 2}


def test_without_variation_the_shape_is_that_of_the_source() -> None:
    _, labels = draw_subject(source(), (0,), variation=STILL)
    assert np.array_equal(labels.numpy(), scan()[1])


def test_deformations_do_not_fold() -> None:
    made = source()
    for seed in range(5):
        positions = deformation(made, LIKELY, Draws.of((seed,), torch.device("cpu")), made.spacing)
        slopes = torch.stack([torch.stack(torch.gradient(part)) for part in positions])
        assert torch.linalg.det(slopes.flatten(2).permute(2, 0, 1)).min() > 0


def test_sizes_vary_about_the_mean_size() -> None:
    made = source()
    smaller = LIKELY.model_copy(update={"size": (0.8,)})
    counts = [
        [int((draw_subject(made, (seed,), variation=variation)[1] > 0).sum()) for seed in range(12)]
        for variation in (LIKELY, smaller)
    ]
    usual, small = np.mean(counts, 1)
    assert usual == pytest.approx((scan()[1] > 0).sum(), rel=0.2)
    assert small / usual == pytest.approx(0.8**3, abs=0.1)
    assert np.std(counts[0]) / usual > 0.05


def test_the_field_of_view_of_half_of_the_subjects_leaves_out_a_part() -> None:
    made, still = source(), STILL.model_copy(update={"cut": 0.3})
    whole = torch.from_numpy(scan()[1])
    shapes = []
    for seed in range(60):
        image, labels = draw_subject(made, (seed,), variation=still)
        assert image.shape[1:] == labels.shape
        starts = [(0, n - left) for n, left in zip(whole.shape, labels.shape, strict=True)]
        parts = [
            whole[tuple(slice(at, at + n) for at, n in zip(start, labels.shape, strict=True))]
            for start in itertools.product(*starts)
        ]
        assert any(torch.equal(labels, part) for part in parts)
        shapes.append(labels.shape)
    shares = np.array(shapes) / whole.shape
    assert (shares.min(1) == 1).mean() == pytest.approx(0.5, abs=0.2)
    assert (np.sort(shares, 1)[:, 1:] == 1).all()
    assert shares.min(0).max() < 0.85
    assert shares.min() > 0.65


def test_structures_swell_on_both_sides_alike() -> None:
    made = source(partners=[0, 2, 1])
    grown = STILL.model_copy(update={"swelling": {2: (0.999, 1.0, 1.001)}})
    counts = torch.bincount(draw_subject(made, (0,), variation=grown)[1].flatten().long())
    before = np.bincount(scan()[1].ravel())
    for label in (1, 2):  # a ball of radius 4 whose radius grows by up to 1
        assert 1.2 < counts[label] / before[label] < (5 / 4) ** 3


@pytest.mark.parametrize("seed", range(6))
def test_like_the_source_means_that_tissues_keep_their_order(seed: int) -> None:
    image, labels = draw_subject(source(partners=[0, 2, 1]), (seed,))
    inside = [image[0][labels == label].median().item() for label in (1, 2)]
    outside = image[0][(labels == 0) & (image[0] > 1)].median().item()
    assert inside == pytest.approx([50, 50], abs=12)
    assert outside == pytest.approx(20, abs=8)


def test_any_contrast_means_that_structures_are_darker_or_brighter_and_pairs_are_alike() -> None:
    made = source(partners=[0, 2, 1])
    differences, between = [], []
    for seed in range(30):
        image, labels = draw_subject(made, (seed,), contrast="random", variation=STILL)
        left, right = (image[0][labels == label].mean() for label in (1, 2))
        outside = image[0][(labels == 0) & (torch.from_numpy(scan()[0][0]) > 0)].mean()
        differences.append(((left + right) / 2 - outside).item())
        between.append(abs(left - right).item())
    assert min(differences) < -10
    assert max(differences) > 10
    assert np.mean(between) < 0.25 * np.mean(np.abs(differences))


@pytest.mark.parametrize("contrast", ["source", "random"])
def test_an_empty_background_stays_so(contrast: str) -> None:
    made = source()
    image, labels = draw_subject(made, (1,), contrast=contrast, variation=STILL)
    # images are standardised by the voxels above the least one, so that noise must not lie below what is empty
    assert all(draw_subject(made, (seed,), contrast=contrast)[0].min() == 0 for seed in range(10))
    empty = torch.from_numpy(scan()[0][0]) == 0
    assert (image[0][empty] == 0).all()
    assert (labels[empty] == 0).all()


@pytest.mark.parametrize("contrast", ["source", "random"])
@pytest.mark.parametrize("least", [-2.3899412, 0.1, 1e3])
def test_nothing_is_darker_than_an_empty_background_of_any_value(least: float, contrast: str) -> None:
    """Prepared images have one such as -2.39, whose mean over many voxels differs from it by rounding."""
    scanned, labels = scan((60, 50, 40), noise=10.0)
    scanned[:, :10] = 0  # as large a part as around a brain
    scanned = np.maximum(scanned, 0)
    image = np.concatenate([least + 0.05 * scanned, -scanned]).astype(np.float32)
    alone, both = (Source.of(channels, labels, spacing=(1, 1, 1)) for channels in (image[:1], image))
    assert None not in (alone.empty, both.empty)
    for seed in range(5):
        darker, brighter = draw_subject(both, (seed,), contrast=contrast)[0]
        assert darker.min() == draw_subject(alone, (seed,), contrast=contrast)[0].min() == image[0].min()
        assert brighter.min() < image[1].max()  # where it is the brightest, tissues stay darker


def test_an_empty_background_that_resampling_has_rounded_is_one_value() -> None:
    scanned, labels = scan((60, 50, 40), noise=10.0)
    scanned[:, :10] = 0
    image = (0.05 * np.maximum(scanned, 0) - 2.3899412).astype(np.float32)
    background = (image == image.min()) & (labels == 0)
    image[background] += np.random.default_rng(0).choice([-7e-7, 0, 0, 0, 5e-7], background.sum()).astype(np.float32)
    image[0, *np.argwhere(labels)[0]] = image.min()  # a structure may be as dark
    made = Source.of(image, labels, spacing=(1, 1, 1))
    assert (made.image[torch.from_numpy(background)] == made.empty).all()
    assert all(draw_subject(made, (seed,))[0].min() == made.empty for seed in range(5))


def test_intensities_with_a_unit_keep_it() -> None:
    """The means of tissues differ from those of the source by a part of their spread, as between CT scans."""
    image, labels = scan(noise=10.0)
    image = np.where(image == 0, np.float32(-1000), image)
    made = Source.of(image, labels, spacing=(1, 1, 1), calibrated=True)
    found = np.array(
        [
            [subject[0][labels == label].mean().item() for label in (1, 2)]
            for subject in (draw_subject(made, (seed,), variation=STILL)[0] for seed in range(20))
        ]
    )
    assert np.abs(found - 50).mean() < 10
    assert found.std(0).min() > 1


def test_pictures_of_several_channels_are_simulated_too() -> None:
    rng, labels = np.random.default_rng(0), ball((40, 50), (20, 25), 9).astype(np.uint8) * 200
    image = np.stack([np.where(labels, 200, 60), np.where(labels, 30, 90)]) + rng.normal(0, 4, (2, 40, 50))
    made = Source.of(image.astype(np.float32), labels, spacing=(1, 1))
    subject, found = draw_subject(made, (0,))
    assert subject.shape == (2, 40, 50)
    assert set(found.unique().tolist()) == {0, 200}
    inside = [channel[found == 200].median().item() for channel in subject]
    assert inside[0] > 120
    assert inside[1] < 60


def test_scans_of_thick_slices_have_their_resolution() -> None:
    """Among many subjects some are blurred along one axis, and none loses its mean."""
    made = source()
    sharp = torch.rand(1, *made.size, generator=torch.Generator().manual_seed(0)) * 50
    nowhere = torch.zeros(made.size, dtype=torch.bool)
    rough = []
    for seed in range(40):
        image = acquired(sharp, made, nowhere, "source", Draws.of((seed,), torch.device("cpu")))
        rough.append([image.diff(dim=axis).std().item() for axis in (1, 2, 3)])
    ratios = np.min(rough, 1) / np.max(rough, 1)
    assert 0.05 < (ratios < 0.7).mean() < 0.6


def test_about_half_of_the_subjects_of_a_masked_brain_have_a_tighter_mask() -> None:
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    image = np.where(labels > 0, 40, 0).astype(np.float32)
    image[4:12, 4:12, 12] = 20
    made = Source.of(image[None], labels, spacing=(1, 1, 1))
    subjects = [draw_subject(made, (seed,), variation=STILL) for seed in range(20)]
    tight = sum(bool((subject[0, 4:12, 4:12, 12] == 0).all()) for subject, _ in subjects)
    assert 4 < tight < 16
    assert all(np.array_equal(found.numpy(), labels) for _, found in subjects)
