from collections.abc import Iterator

import numpy as np
import pytest
from scipy import ndimage
from test_source import ball

from scse.simulation.head import FLUID, SCALP, SKULL, field_of_view, mean_size
from scse.simulation.source import Source
from scse.simulation.subjects import Variation, draw_subject

STILL = Variation(strains=(0, 0, 0), growth=0, rotation=0, scaling=(0, 0), shift=0)
SPACING = (4.0, 4.0, 4.0)


def brain() -> Source:
    """A masked ball of 60 mm: two structures of brightness 80 and 100 in a rim of 50."""
    size, middle = (36, 38, 34), (17.5, 18.5, 16.5)
    labels = np.where(ball(size, middle, 13), 1 + (np.indices(size)[0] > 17), 0).astype(np.uint8)
    inside = ball(size, middle, 15)
    image = np.select([labels == 1, labels == 2, inside], [80.0, 100.0, 50.0], 0.0)
    image += inside * np.random.default_rng(0).normal(0, 2, size)
    return Source.of(image[None].astype(np.float32), labels, spacing=SPACING)


def heads(count: int, **arguments: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Subjects with a head, which have another field of view than their source."""
    made, seed = brain(), 0
    while count:
        image, labels = draw_subject(made, (seed,), skull=True, variation=STILL, **arguments)
        seed += 1
        if tuple(labels.shape) != made.size:
            count -= 1
            yield image[0].numpy(), labels.numpy()


def test_three_quarters_of_the_subjects_have_a_head_and_the_others_are_masked_brains() -> None:
    made = brain()
    subjects = [draw_subject(made, (seed,), skull=True, variation=STILL)[0] for seed in range(40)]
    masked = [image for image in subjects if tuple(image.shape[1:]) == made.size]
    assert 4 <= len(masked) <= 16
    assert all((image[0, :2] == 0).all() for image in masked)


def test_a_head_is_given_by_its_key() -> None:
    for one, other in zip(heads(3), heads(3), strict=True):
        assert all(map(np.array_equal, one, other))


def test_only_the_brain_has_labels() -> None:
    source = brain()
    expected = [(source.labels == label).sum().item() for label in (1, 2)]
    for _, labels in heads(6):
        assert np.bincount(labels.ravel())[1:].tolist() == pytest.approx(expected, rel=0.1)
        assert ndimage.label(labels)[1] == 1


def test_the_skull_is_dark_between_the_brain_and_a_bright_scalp() -> None:
    """Means over the surface, at distances where every head has skull, and brightest where it may have scalp."""
    rim = 8  # of the brain
    dark, bright = [], []
    for image, labels in heads(8, spacing=(2.0, 2.0, 2.0)):
        away = 2 * ndimage.distance_transform_edt(labels == 0)
        above = np.indices(labels.shape)[2] > np.argwhere(labels)[:, 2].mean()  # without face and neck
        shells = [
            image[above & (away > mm) & (away <= mm + 2)].mean()
            for mm in np.arange(rim, rim + FLUID[1] + SKULL[1] + SCALP[1], 2)
        ]
        dark.append(min(shells[:6]))
        bright.append(max(shells[2:]))
    assert np.mean(dark) < 0.6 * np.mean(bright)
    assert np.mean(dark) < 50


def test_air_is_dark_and_noisy_or_exactly_empty() -> None:
    empty = []
    for image, labels in heads(24):
        corner = image[:2, :, -2:]
        assert image.min() >= 0
        assert corner.mean() < 0.3 * image[labels > 0].mean()
        empty.append((corner == 0).all())
    assert 2 <= sum(empty) <= 14


@pytest.mark.parametrize("contrast", ["source", "random"])
def test_heads_have_other_brightness_and_sizes(contrast: str) -> None:
    found = list(heads(5, contrast=contrast))
    assert len({labels.shape for _, labels in found}) == 5
    assert all(np.isfinite(image).all() for image, _ in found)


def test_the_field_of_view_has_room_for_a_head_around_the_brain() -> None:
    source = brain()
    places = 4 * np.argwhere(source.image[0].numpy() > 0)
    fields = np.stack([field_of_view(source, np.random.default_rng(seed)) for seed in range(200)])
    before, behind = places.min(0) - fields[..., 0], fields[..., 1] - places.max(0)
    assert before.min() >= 0
    assert behind.min() >= 5
    assert before.mean(0) == pytest.approx([32, 32, 55], abs=6)
    assert behind.mean(0) == pytest.approx([32, 35, 32], abs=6)
    sizes = [draw_subject(source, (seed,), skull=True)[1].shape for seed in range(60)]
    assert np.mean(sizes, 0) == pytest.approx(mean_size(source), rel=0.1)
