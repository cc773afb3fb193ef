"""New subjects from a labelled image: random invertible deformations, contrasts and acquisitions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from scse.simulation.fields import blurred, flow, identity, resized, sampled, smooth_noise
from scse.simulation.head import HEADS, field_of_view, with_head
from scse.simulation.source import EMPTY, LOOSE, Source
from scse.vocabulary.contrasts import Contrast


class Variation(BaseModel):
    """How much the shapes of subjects differ from the source.

    Attributes:
        strains: Standard deviation of the local relative change of lengths by deformations of large, medium and small
            smoothness; see `Source.smoothness`.
        growth: Standard deviation of the relative change of the radius of each structure, beyond that of the others.
        rotation: Standard deviation in degrees of the rotation about each axis.
        size: Mean size of subjects along each axis relative to the source; one value for all axes.
        scaling: Standard deviation of the logarithm of the size, of all axes together and of each axis.
        shift: Standard deviation of the shift in mm along each axis.
        swelling: Label -> least, most likely and greatest change of the radius in mm, in place of `growth`.
        cut: Greatest part of one axis that the field of view of half of the subjects leaves out, at one of its ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strains: tuple[float, float, float] = (0.1, 0.12, 0.1)
    growth: float = 0.06
    rotation: float = 5.0
    size: tuple[float, ...] = (1.0,)
    scaling: tuple[float, float] = (0.06, 0.04)
    shift: float = 1.0
    swelling: Mapping[int, tuple[float, float, float]] = {}
    cut: float = 0.0


LIKELY = Variation()
"""Variation of subjects of one species and one organ."""

IN_PART = Variation(cut=0.3)
"""The same, where images may show less than the source."""


TIGHT = 0.5
"""Share of subjects whose empty background reaches the structures, where that of the source is empty farther out."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The generators of one subject: small numbers on the host, fields on the device."""

    host: np.random.Generator
    device: torch.Generator

    @classmethod
    def of(cls, key: Sequence[int], device: torch.device) -> "Draws":
        """Generators for a key of whole numbers, such as (seed, epoch, number)."""
        sequence = np.random.SeedSequence(key)
        seed = int(sequence.generate_state(1, np.uint64)[0])
        return cls(np.random.default_rng(sequence.spawn(1)[0]), torch.Generator(device).manual_seed(seed))


def draw_subject(
    source: Source,
    key: Sequence[int],
    *,
    contrast: Contrast = "source",
    variation: Variation = LIKELY,
    spacing: Sequence[float] | None = None,
    skull: bool = False,
) -> tuple[Tensor, Tensor]:
    """Simulate one subject.

    Args:
        source: Source; the subject is made on its device.
        key: Whole numbers that select the subject, such as (seed, epoch, number).
        contrast: Intensities like those of the source, or any.
        variation: How much shapes differ.
        spacing: Millimetres per voxel of the subject along each axis; by default those of the source.
        skull: Whether most subjects have a head around a brain whose background is empty, and a random field of view,
            see `scse.simulation.head`. Axes of the source run to the right, anterior and superior.

    Returns:
        An image (C, *spatial) float32 in the unit of the source, and labels (*spatial) uint8. Voxels have the label at
        their centre. The grid has the centre of that of the source, unless there is a head or a part is cut off.
    """
    draws = Draws.of(key, source.image.device)
    head = skull and draws.host.random() < HEADS
    field = field_of_view(source, draws.host) if head else None
    positions = deformation(source, variation, draws, spacing or source.spacing, field)
    if variation.cut:
        positions = _cut(positions, variation.cut, draws.host)
    codes = sampled(source.labels[None], positions, mode="nearest")[0]
    # masks of brains are tighter or looser, as the tools that make them
    outside = codes >= EMPTY if draws.host.random() < TIGHT else (codes >= EMPTY) & (codes < LOOSE * EMPTY)
    labels = torch.where(codes >= EMPTY, 0, codes).to(torch.uint8)
    image = _painted_anew(source, contrast, draws)
    if spacing is not None:  # voxels that are larger than those of the source average over them
        ratios = np.divide(spacing, source.spacing)
        image = blurred(image, [0.42 * math.sqrt(max(0.0, ratio**2 - 1)) for ratio in ratios])
    image = sampled(image, positions)
    if head:
        outside |= positions.abs().amax(0) > 1
        labels[outside] = 0
        image, outside = with_head(
            image,
            outside,
            source,
            spacing=spacing or source.spacing,
            contrast=contrast,
            host=draws.host,
            device=draws.device,
        )
    return acquired(image, source, outside, contrast, draws), labels


def deformation(
    source: Source,
    variation: Variation,
    draws: Draws,
    spacing: Sequence[float],
    field: NDArray[np.float64] | None = None,
) -> Tensor:
    """Position in the source of each voxel of a subject, (axes, *spatial), see `scse.simulation.fields`.

    A random affine map after the flow of a random stationary velocity, which is invertible. The field of view is that
    of the source, or from the first to the last mm from its first voxel along each axis, (axes, 2).
    """
    extent, device, size = np.array(source.extent), source.image.device, source.lattice
    velocity = _growth(source, variation, draws.host)
    for sigma, strain in zip(source.smoothness, variation.strains, strict=True):
        velocity += sigma * strain * smooth_noise(len(size), size, (sigma / source.steps).tolist(), draws.device)
    unit = torch.tensor(2 / extent, dtype=torch.float32, device=device).reshape(-1, *(1,) * len(size))
    lengths = extent if field is None else np.ptp(field, 1)
    voxels = [math.ceil(length / mm - 1e-6) + 1 for length, mm in zip(lengths, spacing, strict=True)]
    reach = (np.array(voxels) - 1) * spacing / extent
    start = identity(voxels, device, reach.tolist())
    if field is not None:
        start += torch.tensor(field.sum(1) / extent - 1, dtype=torch.float32, device=device).reshape(-1, 1, 1, 1)
    positions = start + sampled(flow(velocity * unit), start)
    matrix, shift = _affine(variation, len(size), draws.host)
    # from fractions of the sides to mm and back
    matrix = matrix * extent[None, :] / extent[:, None]
    moved = torch.tensor(matrix, dtype=torch.float32, device=device) @ positions.flatten(1)
    moved += torch.tensor(2 * shift / extent, dtype=torch.float32, device=device)[:, None]
    return moved.reshape(positions.shape)


def _growth(source: Source, variation: Variation, rng: np.random.Generator) -> Tensor:
    """A velocity in mm (axes, *lattice) that makes each structure larger or smaller, both of a pair alike.

    Positions that move into a structure make it larger.
    """
    drawn = rng.normal(0, variation.growth * source.radius[1], 256)
    for label, limits in variation.swelling.items():
        drawn[source.label_groups[label]] = rng.triangular(*limits)
    amounts = torch.tensor(drawn[source.label_groups], dtype=torch.float32, device=source.image.device)
    amounts[0] = 0.0
    return source.inward(amounts / source.steepness)


def _affine(
    variation: Variation, axes: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A random matrix (axes, axes) and a shift (axes,) in mm, from positions in a subject to those in the source."""
    angles = np.deg2rad(rng.normal(0, variation.rotation, 3 if axes == 3 else 1))
    turn = np.zeros((axes, axes))
    for angle, (first, second) in zip(angles, ((1, 2), (0, 2), (0, 1)) if axes == 3 else ((0, 1),), strict=True):
        turn[first, second], turn[second, first] = -angle, angle
    together, each = variation.scaling
    size = np.array(variation.size) * np.exp(rng.normal(0, together) + rng.normal(0, each, axes))
    rotation = np.eye(axes) + turn + turn @ turn / 2
    return rotation / size, rng.normal(0, variation.shift, axes)


def _cut(positions: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """Positions (axes, *spatial) without up to the part `most` of one axis at one end, in half of the cases."""
    axis = int(rng.integers(1, positions.ndim))
    size = positions.shape[axis]
    lost = max(0, round(rng.uniform(-most, most) * size))
    return positions.narrow(axis, int(rng.integers(2)) * lost, size - lost)


def _painted_anew(source: Source, contrast: Contrast, draws: Draws) -> Tensor:
    """The source's image (C, *spatial) with other intensities."""
    rng = draws.host
    if contrast == "random" and rng.random() < 0.5:
        values = _any_means(source, rng)
        gain = rng.uniform(-1, 1)
        return source.painted(values) + gain * source.texture
    offsets = _offsets(source, rng)
    image = source.image + source.painted(offsets)
    image = image + (math.exp(rng.normal(0, 0.2)) - 1) * source.texture
    channels = [_curved(channel, source, number, contrast, rng) for number, channel in enumerate(image)]
    return torch.stack(channels)


def _offsets(source: Source, rng: np.random.Generator) -> Tensor:
    """Changes of the means of tissues (tissues, C): of each group by about its spread, and less of each tissue."""
    count, channels = source.means.shape
    groups = rng.normal(0, 0.8, (source.groups.max() + 1, channels))[source.groups]
    own = rng.normal(0, 0.2, (count, channels))
    return torch.tensor(groups + own, dtype=torch.float32, device=source.image.device) * source.spreads


def _any_means(source: Source, rng: np.random.Generator) -> Tensor:
    """Means of tissues (tissues, C) that have nothing to do with those of the source."""
    count, channels = source.means.shape
    groups = rng.uniform(0, 1, (source.groups.max() + 1, channels))[source.groups]
    own = rng.normal(0, 0.02, (count, channels))
    drawn = torch.tensor(groups + own, dtype=torch.float32, device=source.image.device)
    return source.means.amin(0) + drawn * source.span


def _curved(channel: Tensor, source: Source, number: int, contrast: Contrast, rng: np.random.Generator) -> Tensor:
    """One channel with a random curve of intensities: a power, or with a contrast that is random any curve."""
    if source.calibrated and contrast == "source":
        return channel
    low, span = source.means[:, number].min(), source.span[number]
    fractions = (channel - low) / span
    if contrast == "source":
        power = math.exp(rng.normal(0, 0.15))
        return low + span * torch.where(fractions > 0, fractions.clamp(min=1e-6) ** power, fractions)
    drawn = rng.uniform(0, 1, rng.integers(2, 7))
    drawn = (drawn - drawn.min()) / (drawn.max() - drawn.min())  # so that no subject is without contrast
    knots = torch.tensor(drawn, dtype=torch.float32, device=channel.device)
    place = fractions.clamp(-0.1, 1.1).add_(0.1).mul_((len(knots) - 1) / 1.2)
    before = place.long().clamp_(max=len(knots) - 2)
    curve = knots[before] + (place - before) * (knots[before + 1] - knots[before])
    return low + span * curve


def acquired(image: Tensor, source: Source, outside: Tensor, contrast: Contrast, draws: Draws) -> Tensor:
    """Simulate the scan of an image (C, *spatial): blur, resolution, bias field, noise, and an empty background.

    Args:
        image: Image without flaws.
        source: Source of the subject.
        outside: Where the background is empty, (*spatial).
        contrast: With "random", flaws are stronger.
        draws: Generators.
    """
    rng, axes = draws.host, len(source.size)
    strength = 1.0 if contrast == "source" else 1.5
    image = blurred(image, [rng.uniform(0, 0.6) * strength] * axes)
    if rng.random() < 0.25 * strength:
        image = _thick(image, int(rng.integers(axes)), 1 + rng.uniform(0, 1.5) * strength)
    if not source.calibrated:
        knots = [max(2, round(3 * length / max(source.extent))) + 1 for length in source.extent]
        bias = torch.randn(1, *knots, generator=draws.device, device=image.device)
        low = source.means.amin(0).reshape(-1, *(1,) * axes)
        image = low + (image - low) * torch.exp(rng.uniform(0, 0.1) * strength * resized(bias, image.shape[1:]))
    noise = torch.randn(image.shape, generator=draws.device, device=image.device)
    if contrast == "source":
        deviation = rng.uniform(0.1, 0.8) * source.spreads.median(0).values
    else:
        inside = image[:, ~outside] if source.empty is not None else image.flatten(1)
        deviation = rng.uniform(0.03, 0.3) * inside.std(1)
    image = image + noise * deviation.reshape(-1, *(1,) * axes)
    if source.empty is None:
        return image
    empty, floor = (values.reshape(-1, *(1,) * axes) for values in (source.empty, source.floor))
    return torch.where(outside, empty, torch.maximum(image, floor))


def _thick(image: Tensor, axis: int, factor: float) -> Tensor:
    """An image (C, *spatial) with slices `factor` times as thick along an axis, interpolated to its own grid."""
    size = list(image.shape[1:])
    coarse = size.copy()
    coarse[axis] = max(2, round(size[axis] / factor))
    smooth = blurred(image, [0.42 * factor if place == axis else 0.0 for place in range(len(size))])
    return resized(resized(smooth, coarse), size)
