"""Random changes of training images and their labels: geometry, intensities and mirroring, for slices and volumes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


@dataclass(frozen=True, slots=True)
class Changes:
    """The random numbers of the changes of N slices or volumes, drawn on the host.

    Attributes:
        numbers: What changes all images at once: the affine maps of their grids (N, axes, axes + 1), the moves of the
            control points (N, axes, *points), or none of them, gain and offset (2, N), and for each axis of `mirror`
            whether each image is mirrored (mirrored axes, N).
        some: Change of some images -> its functions, one for each image; None leaves an image as it is.
    """

    numbers: tuple[NDArray[np.float32], ...]
    some: tuple[Sequence["Alter | None"], ...]

    def of(self, chosen: slice) -> "Changes":
        """Those of some of the images, one after the other."""
        affine, moves, intensities, mirrored = self.numbers
        numbers = affine[chosen], moves[chosen], intensities[:, chosen], mirrored[:, chosen]
        return Changes(numbers, tuple(alters[chosen] for alters in self.some))


Alter = Callable[[Tensor], Tensor]
"""Change of one image (C, *spatial)."""


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
    drawn = draw_changes(ranges, len(images), tuple(images.shape[2:]), rng, extent=extent)
    numbers = [torch.from_numpy(each).to(images.device) for each in drawn.numbers]
    return changed(images, labels, ranges, numbers, drawn.some)


def draw_changes(
    ranges: Augmentation,
    count: int,
    size: tuple[int, ...],
    rng: np.random.Generator,
    *,
    extent: NDArray[np.floating] | None = None,
) -> Changes:
    """Draw the changes of a batch.

    Args:
        ranges: Ranges of the changes.
        count: Slices or volumes.
        size: Their size.
        rng: Generator of all random numbers.
        extent: See `augmented`.
    """
    grids = _draw_grids(ranges, count, size, rng, np.asarray(size if extent is None else extent, np.float64))
    gain = rng.uniform(1 - ranges.gain, 1 + ranges.gain, count)
    offset = rng.uniform(-ranges.offset, ranges.offset, count)
    some = tuple(
        _draw_for_some(count, change, most, ranges.probability, rng)
        for change, most in (
            (_blurred, ranges.blur),
            (_coarse, ranges.low_resolution),
            (_with_gamma, ranges.gamma),
            (_noisy, ranges.noise),
        )
        if most
    )
    mirrored = [rng.random(count) < 0.5 for _ in ranges.mirror.axes]
    numbers = (*grids, np.stack([gain, offset]), np.reshape(mirrored, (len(mirrored), count)))
    return Changes(tuple(each.astype(np.float32) for each in numbers), some)


def changed(
    images: Tensor,
    labels: Tensor,
    ranges: Augmentation,
    numbers: Sequence[Tensor],
    some: Sequence[Sequence[Alter | None]] = (),
) -> tuple[Tensor, Tensor]:
    """Apply drawn changes: images (N, C, *spatial) and labels (N, *spatial) of any integers, which become int64.

    Args:
        images: Standardised images.
        labels: Class indices.
        ranges: Ranges of which the changes were drawn.
        numbers: `Changes.numbers` on the device of the images.
        some: `Changes.some`.
    """
    count, axes = len(images), images.ndim - 2
    affine, moves, intensities, mirrored = numbers
    grid = _grid(affine, moves, list(images.shape))
    images = _sampled(images, grid, "bilinear")
    labels = _sampled(labels[:, None].float(), grid, "nearest")[:, 0].long()
    gain, offset = intensities.reshape(2, count, 1, *(1,) * axes)
    images = images * gain + offset
    for alters in some:
        images = torch.stack(
            [image if alter is None else alter(image) for image, alter in zip(images, alters, strict=True)]
        )
    for axis, chosen in zip(ranges.mirror.axes, mirrored, strict=True):
        images, labels = _mirrored(images, labels, axis, ranges.mirror, chosen > 0)
    return images, labels


def _draw_grids(
    ranges: Augmentation, count: int, size: tuple[int, ...], rng: np.random.Generator, extent: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Affine maps (N, axes, axes + 1), and moves of control points (N, axes, *points) as fractions of half the side."""
    axes = len(size)
    rotation, shift_range = np.deg2rad(ranges.rotation), 2 * ranges.shift
    angles = rng.uniform(-rotation, rotation, (count,) if axes == 2 else (3, count))
    scale = rng.uniform(1 - ranges.scaling, 1 + ranges.scaling, count)
    shift = rng.uniform(-shift_range, shift_range, (axes, count))
    # the grid has the axes in reverse order: x is the last
    turned = scale[:, None, None] * _turns(angles, extent)
    affine = np.concatenate([turned, shift[::-1].T[:, :, None]], axis=2)
    if not ranges.elastic:
        return affine, np.empty((count, 0))
    points = 1 + np.maximum(1, np.ceil(np.array(size) / CONTROL_DISTANCE).astype(int))
    moves = rng.uniform(-ranges.elastic, ranges.elastic, (count, axes, *points))
    return affine, moves * 2 / (points[::-1, *[None] * axes] - 1)


def _grid(affine: Tensor, moves: Tensor, shape: list[int]) -> Tensor:
    """Places (N, *spatial, axes) from which the pixels are taken; the image runs from -1 to 1 along each axis."""
    # on a GPU, torch's function rounds to TF32 where matrix products may: by a tenth of a pixel
    grid = (
        F.affine_grid(affine, shape, align_corners=False) if affine.device.type == "cpu" else affine_grid(affine, shape)
    )
    if not moves.numel():
        return grid
    mode = "bicubic" if len(shape) == 4 else "trilinear"
    return grid + F.interpolate(moves, shape[2:], mode=mode, align_corners=True).movedim(1, -1)


def affine_grid(affine: Tensor, shape: Sequence[int]) -> Tensor:
    """`torch.nn.functional.affine_grid` with `align_corners=False`, without a matrix product."""
    size = shape[2:]
    grid = affine[:, :, -1].reshape(-1, *(1,) * len(size), len(size))
    for axis, pixels in enumerate(size):
        line = (2 * torch.arange(pixels, device=affine.device) + 1) / pixels - 1
        along = affine[:, :, len(size) - 1 - axis].reshape(-1, *(1,) * len(size), len(size))
        grid = grid + along * line.reshape(-1, *(1,) * (len(size) - axis))
    return grid


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


Change = Callable[[float, np.random.Generator], Alter]
"""Draws the change of an image by an amount from 0 to the range."""


def _draw_for_some(
    count: int, change: Change, most: float, probability: float, rng: np.random.Generator
) -> list[Alter | None]:
    """Draw changes of some of the images, each by an amount of its own."""
    chosen, amounts = rng.random(count) < probability, rng.uniform(0, most, count)
    return [change(float(amount), rng) if of_this else None for of_this, amount in zip(chosen, amounts, strict=True)]


def _blurred(amount: float, _: np.random.Generator) -> Alter:
    return lambda image: _changed(image, "GaussianSmooth", sigma=amount)


def _coarse(amount: float, _: np.random.Generator) -> Alter:
    zoom = 1 / (1 + amount)

    def alter(image: Tensor) -> Tensor:
        mode = "bilinear" if image.ndim == 3 else "trilinear"
        options = {"prob": 1.0, "upsample_mode": mode, "zoom_range": (zoom, zoom)}
        return _changed(image, "RandSimulateLowResolution", **options)

    return alter


def _with_gamma(amount: float, rng: np.random.Generator) -> Alter:
    power = 1 + amount if rng.random() < 0.5 else 1 / (1 + amount)
    return lambda image: _changed(image, "AdjustContrast", gamma=power, retain_stats=True)


def _changed(image: Tensor, transform: str, **options: Any) -> Tensor:
    """An image after a transform of MONAI, without its metadata."""
    from monai import transforms, utils  # noqa: PLC0415 (takes seconds, and trainings without these changes need none)

    changed: Tensor = utils.convert_to_tensor(getattr(transforms, transform)(**options)(image), track_meta=False)
    return changed


def _noisy(amount: float, rng: np.random.Generator) -> Alter:
    seed = int(rng.integers(2**63))

    def alter(image: Tensor) -> Tensor:
        generator = torch.Generator(image.device).manual_seed(seed)
        return image + amount * torch.randn(image.shape, generator=generator, device=image.device)

    return alter


def _mirrored(images: Tensor, labels: Tensor, axis: int, mirroring: Mirroring, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror the chosen images along a spatial axis."""
    flipped = labels.flip(axis + 1)
    if axis in mirroring.swaps:
        flipped = _other_side(mirroring.other, labels.device)[flipped]
    by_image = chosen.reshape(-1, *(1,) * (labels.ndim - 1))
    return torch.where(by_image[:, None], images.flip(axis + 2), images), torch.where(by_image, flipped, labels)


@cache
def _other_side(other: tuple[int, ...], device: torch.device) -> Tensor:
    """The label on the other side of each label, (LABELS,); kept, because a copy to a GPU would wait for it."""
    return torch.tensor([*other, *range(len(other), LABELS)], device=device)
