"""Resampling of slices and volumes, compared with NumPy and with torch's own three-axis interpolation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scse.data.resampling import padded, resampled_rows, resized, resized_labels


def maps(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def triangle(size: int, coarse: int) -> np.ndarray:
    """Weights (coarse, size) of linear interpolation; the triangle is as wide as a pixel of the coarser grid."""
    scale = size / coarse
    width = max(scale, 1.0)
    centres = (np.arange(coarse) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centres[:, None]) / width)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(9, 11, 8), (3, 4, 5), (6, 12, 3), (5, 7, 6)])
def test_a_volume_is_resampled_along_each_axis_by_a_triangle(size: tuple[int, ...]) -> None:
    volume = maps(2, 3, 5, 7, 6)
    expected = volume.double().numpy()
    for axis, pixels in enumerate(size, start=2):
        moved = np.moveaxis(expected, axis, -1) @ triangle(volume.shape[axis], pixels).T
        expected = np.moveaxis(moved, -1, axis)
    np.testing.assert_allclose(resized(volume, size), expected, atol=2e-6)


def test_a_finer_volume_is_that_of_torch() -> None:
    volume = maps(1, 2, 4, 5, 6)
    expected = F.interpolate(volume, (8, 9, 13), mode="trilinear")
    torch.testing.assert_close(resized(volume, (8, 9, 13)), expected)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 3, 5, 7, 6)])
def test_maps_of_the_wanted_size_are_returned_as_they_are(shape: tuple[int, ...]) -> None:
    given = maps(*shape)
    assert resized(given, shape[2:]) is given


@pytest.mark.parametrize("axes", [2, 3])
def test_a_coarser_pixel_has_the_label_that_covers_most_of_it(axes: int) -> None:
    labels = np.zeros((6,) * axes, np.uint8)
    labels[:4] = 7
    labels[4:, 3:] = 255
    coarse = resized_labels(labels, (3,) * axes)
    assert (coarse[:2] == 7).all()
    assert (coarse[2, 2] == 255).all()
    assert (coarse[2, 0] == 0).all()


def test_padding_is_at_the_far_ends_of_the_spatial_axes() -> None:
    given = np.ones((2, 3, 4, 5, 6), np.float32)
    filled = padded(given, (5, 5, 8), fill=np.float32(-2))
    assert filled.shape == (2, 3, 5, 5, 8)
    np.testing.assert_array_equal(filled[..., :4, :5, :6], given)
    assert (filled[..., 4:, :, :] == -2).all()
    assert (filled[..., 6:] == -2).all()


@pytest.mark.parametrize("target", [(9, 11, 8), (5, 7, 6), (3, 4, 5), (1, 7, 6), (26, 7, 6), (12, 7, 6)])
@pytest.mark.parametrize("rows", [1, 4, 13])
def test_a_volume_in_parts_is_resampled_as_a_whole_one(target: tuple[int, ...], rows: int) -> None:
    whole = maps(2, 13, 7, 6)
    parts = list(resampled_rows(whole.split(rows, dim=1), (13, 7, 6), target))
    torch.testing.assert_close(torch.cat(parts, 1), resized(whole[None], target)[0], rtol=1e-5, atol=1e-5)
    assert all(part.shape[1] for part in parts)
