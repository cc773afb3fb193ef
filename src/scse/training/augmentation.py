"""Random changes of training images and their labels: geometry, intensities and mirroring, for slices and volumes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import AdjustContrast, GaussianSmooth, RandSimulateLowResolution
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from scse.vocabulary.sides import UNMIRRORED, Mirroring

CONTROL_DISTANCE = 16
"""Pixels between two control points of an elastic deformation."""

LABELS = 256
"""Values of prepared labels."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of random changes, drawn for every slice or volume.

    Rotation, scaling, shift, elastic, gain and offset are drawn uniformly from -range to +range. The others are applied
    with a probability, and drawn from 0 to their range.

    Attributes:
        rotation: Degrees; volumes are rotated about each axis.
        scaling: Relative change of size.
        shift: Fraction of the side of the patch.
        gain: Relative change of intensity.
        offset: Change of intensity in standard deviations of the image.
        elastic: Displacement of control points, as a fraction of their distance of 16 pixels. Up to 0.5, no two points
            change places.
        gamma: Intensities between the least and the greatest are raised to a power from 1 / (1 + gamma) to 1 + gamma.
        noise: Standard deviation of Gaussian noise, in standard deviations of the image.
        blur: Standard deviation of a Gaussian filter in pixels.
        low_resolution: The image is resampled to a grid that is up to 1 + low_resolution times as coarse, and back.
        probability: Probability of each of gamma, noise, blur and low_resolution.
        mirror: Axes along which about every second slice or volume is mirrored.
    """

    rotation: float = 0.0
    scaling: float = 0.0
    shift: float = 0.0
    gain: float = 0.0
    offset: float = 0.0
    elastic: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    low_resolution: float = 0.0
    probability: float = 0.2
    mirror: Mirroring = UNMIRRORED


def augmented(
    images: Tensor,
    labels: Tensor,
    ranges: Augmentation,
    rng: np.random.Generator,
    *,
    extent: NDArray[np.floating] | None = None,
) -> tuple[Tensor, Tensor]:
    """Change each slice or volume with its labels, on the device of the images.

    Args:
        images: Standardised images, (N, C, *spatial).
        labels: Class indices, (N, *spatial) int64.
        ranges: Ranges of the changes.
        rng: Generator of all random numbers.
        extent: Millimetres of a volume along each spatial axis; by default its number of voxels. Slices are rotated as
            if they were square.
    """
    count, axes = len(images), images.ndim - 2
    grid = _grid(images, ranges, rng, np.asarray(images.shape[2:] if extent is None else extent, np.float64))
    images = _sampled(images, grid, "bilinear")
    labels = _sampled(labels[:, None].float(), grid, "nearest")[:, 0].long()
    gain = rng.uniform(1 - ranges.gain, 1 + ranges.gain, count)
    offset = rng.uniform(-ranges.offset, ranges.offset, count)
    by_image = _on(images, np.stack([gain, offset])).reshape(2, count, 1, *(1,) * axes)
    images = images * by_image[0] + by_image[1]
    for change, most in (
        (_blurred, ranges.blur),
        (_coarse, ranges.low_resolution),
        (_with_gamma, ranges.gamma),
        (_noisy, ranges.noise),
    ):
        images = _for_some(images, change, most, ranges.probability, rng)
    for axis in ranges.mirror.axes:
        images, labels = _mirrored(images, labels, axis, ranges.mirror, rng)
    return images, labels


def _grid(images: Tensor, ranges: Augmentation, rng: np.random.Generator, extent: NDArray[np.float64]) -> Tensor:
    """Places (N, *spatial, axes) from which the pixels are taken; the image runs from -1 to 1 along each axis."""
    count, axes = len(images), images.ndim - 2
    rotation, shift_range = np.deg2rad(ranges.rotation), 2 * ranges.shift
    angles = rng.uniform(-rotation, rotation, (count,) if axes == 2 else (3, count))
    scale = rng.uniform(1 - ranges.scaling, 1 + ranges.scaling, count)
    shift = rng.uniform(-shift_range, shift_range, (axes, count))
    # the grid has the axes in reverse order: x is the last
    turned = scale[:, None, None] * _turns(angles, extent)
    theta = np.concatenate([turned, shift[::-1].T[:, :, None]], axis=2)
    grid = F.affine_grid(_on(images, theta), list(images.shape), align_corners=False)
    if not ranges.elastic:
        return grid
    size = np.array(images.shape[2:])
    points = 1 + np.maximum(1, np.ceil(size / CONTROL_DISTANCE).astype(int))
    moved = (
        rng.uniform(-ranges.elastic, ranges.elastic, (count, axes, *points)) * 2 / (points[::-1, *[None] * axes] - 1)
    )
    mode = "bicubic" if axes == 2 else "trilinear"
    field_of_moves = F.interpolate(_on(images, moved), images.shape[2:], mode=mode, align_corners=True)
    return grid + field_of_moves.movedim(1, -1)


def _turns(angles: NDArray[np.float64], extent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations of a grid that runs from -1 to 1: (N, axes, axes), from angles (N,) of slices or (3, N) of volumes."""
    cos, sin = np.cos(angles), np.sin(angles)
    if angles.ndim == 1:
        return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    turns = np.broadcast_to(np.eye(3), (angles.shape[1], 3, 3))
    for about in range(3):
        first, second = (axis for axis in range(3) if axis != about)
        turn = np.zeros((angles.shape[1], 3, 3))
        turn[:, about, about] = 1
        turn[:, first, first] = turn[:, second, second] = cos[about]
        turn[:, first, second], turn[:, second, first] = sin[about], -sin[about]
        turns = turn @ turns
    # a rotation keeps lengths in millimetres, not in fractions of sides that differ
    sides = extent[::-1]
    turned: NDArray[np.float64] = turns * sides / sides[:, None]
    return turned


def _sampled(maps: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)


def _on(like: Tensor, values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)


Change = Callable[[Tensor, float, np.random.Generator], Tensor]
"""Change of an image (C, *spatial) by an amount from 0 to the range."""


def _for_some(images: Tensor, change: Change, most: float, probability: float, rng: np.random.Generator) -> Tensor:
    """Change some of the images (N, C, *spatial), each by an amount of its own."""
    if not most:
        return images
    chosen, amounts = rng.random(len(images)) < probability, rng.uniform(0, most, len(images))
    parts = [
        change(image, float(amount), rng) if of_this else image
        for image, of_this, amount in zip(images, chosen, amounts, strict=True)
    ]
    return torch.stack(parts)


def _blurred(image: Tensor, amount: float, _: np.random.Generator) -> Tensor:
    return _plain(GaussianSmooth(sigma=amount)(image))


def _coarse(image: Tensor, amount: float, _: np.random.Generator) -> Tensor:
    zoom, mode = 1 / (1 + amount), "bilinear" if image.ndim == 3 else "trilinear"
    return _plain(RandSimulateLowResolution(prob=1.0, upsample_mode=mode, zoom_range=(zoom, zoom))(image))


def _with_gamma(image: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    power = 1 + amount if rng.random() < 0.5 else 1 / (1 + amount)
    return _plain(AdjustContrast(gamma=power, retain_stats=True)(image))


def _plain(image: Any) -> Tensor:
    """The result of a transform of MONAI without its metadata."""
    tensor: Tensor = convert_to_tensor(image, track_meta=False)
    return tensor


def _noisy(image: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    generator = torch.Generator(image.device).manual_seed(int(rng.integers(2**63)))
    return image + amount * torch.randn(image.shape, generator=generator, device=image.device)


def _mirrored(
    images: Tensor, labels: Tensor, axis: int, mirroring: Mirroring, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror about half of the images along a spatial axis."""
    chosen = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device)
    flipped = labels.flip(axis + 1)
    if axis in mirroring.swaps:
        table = torch.arange(LABELS, device=labels.device)
        table[: len(mirroring.other)] = torch.tensor(mirroring.other, device=labels.device)
        flipped = table[flipped]
    by_image = chosen.reshape(-1, *(1,) * (labels.ndim - 1))
    return torch.where(by_image[:, None], images.flip(axis + 2), images), torch.where(by_image, flipped, labels)
