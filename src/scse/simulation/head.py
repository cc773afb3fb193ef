"""What surrounds a brain in a raw scan: fluid, skull, scalp, face, neck and air, simulated around a masked brain.

Only a network that saw such surroundings finds the brain in them. Their shapes are plausible for adults and no more:
all thicknesses and intensities are random, and what is below and in front of the brain is a random mixture of tissues.
Axes run to the right, anterior and superior.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from scse.simulation.fields import blurred, resized, smooth_noise
from scse.simulation.source import EMPTY, Source
from scse.vocabulary.contrasts import Contrast

HEADS = 0.75
"""Share of the subjects that have a head; the others are masked brains, so that a network works on both."""

MARGINS = ((5, 60), (5, 60)), ((5, 60), (10, 60)), ((0, 110), (5, 60))
"""Least and greatest mm of the field of view beyond the brain before and behind it along each axis. Some fields of view
cut the scalp, and most end in the neck."""

FLUID, SKULL, SCALP, FAT = (1.0, 4.0), (3.0, 9.0), (3.0, 10.0), (1.0, 6.0)
"""Least and greatest thickness in mm, as in adults; FAT is the outer part of the scalp and of all other skin."""

CANAL = 2.0, 6.0
"""Least and greatest thickness in mm of the fluid around the spinal cord."""

BRIGHTNESS = {
    "fluid": (0.1, 0.45),
    "bone": (0.02, 0.25),
    "marrow": (0.3, 1.1),
    "fat": (0.8, 1.8),
    "muscle": (0.3, 0.75),
    "cord": (0.5, 1.0),
    "air": (0.0, 0.04),
}
"""Intensities of a T1 scan: 0 is empty, 1 the brightest tissue of the brain."""

FLESH = ("muscle", "muscle", "muscle", "fat", "bone")
"""Tissues of the face and the neck, each as often as it is named."""

KINDS = 6
"""Intensities of the face and the neck."""

NO_NOISE = 0.3
"""Share of heads whose air is exactly empty, as some scanners and anonymisers leave it."""

STEP = 4.0
"""Millimetres between points of the grid on which distances and smooth fields are computed."""


def field_of_view(source: Source, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random field of view for a head: first and last mm from the first voxel along each axis, (axes, 2)."""
    least, greatest = np.moveaxis(np.array(MARGINS), -1, 0)
    field: NDArray[np.float64] = _box(source) + rng.uniform(least, greatest) * (-1, 1)
    return field


def mean_size(source: Source) -> NDArray[np.float64]:
    """Mean number of voxels of subjects with and without head along each axis, in the spacing of the source."""
    head = np.ptp(_box(source), 1) + np.mean(MARGINS, -1).sum(1)
    size: NDArray[np.float64] = HEADS * head / source.spacing + (1 - HEADS) * np.array(source.size)
    return size


def _box(source: Source) -> NDArray[np.float64]:
    """First and last mm of what is not empty along each axis, from the first voxel, (axes, 2)."""
    places = torch.nonzero(torch.remainder(source.labels, 2 * EMPTY) < EMPTY)
    ends = torch.stack([places.amin(0), places.amax(0)], 1).cpu().double().numpy()
    box: NDArray[np.float64] = ends * np.array(source.spacing)[:, None]
    return box


def with_head(
    image: Tensor,
    outside: Tensor,
    source: Source,
    *,
    spacing: Sequence[float],
    contrast: Contrast,
    host: np.random.Generator,
    device: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Put a head around a masked brain.

    Args:
        image: Image of the brain (C, x, y, z).
        outside: Where there is no brain, (x, y, z).
        source: Source of the subject.
        spacing: Millimetres per voxel.
        contrast: With "random", tissues have any intensity.
        host: Generator of small numbers.
        device: Generator of fields.

    Returns:
        The image with a head, and where its air is exactly empty, (x, y, z).
    """
    inner, outer, depth, skin, fluid, cord, blobs, shade = resized(
        _geometry(outside, spacing, host, device), outside.shape
    )
    width = max(spacing)

    def beyond(distance: Tensor) -> Tensor:
        return (distance / width + 0.5).clamp_(0, 1)  # a voxel at a border is of both sides

    water, bone, marrow, fat, white, air = _intensities(
        ("fluid", "bone", "marrow", "fat", "cord", "air"), source, contrast, host
    )
    compact = host.uniform(0.8, 2.5) * (1 + 0.5 * blobs)  # mm of each table of the skull
    within = torch.lerp(bone, marrow, beyond(torch.minimum(inner, -outer) - compact))
    flesh = _intensities(host.choice(FLESH, KINDS).tolist(), source, contrast, host).flatten(1).T
    kinds = ((blobs / 4 + 0.5).clamp_(0, 0.999) * KINDS).long()
    around = torch.lerp(torch.lerp(water, within, beyond(inner)), flesh[:, kinds], beyond(outer))
    for tissue, distance in ((fat, skin), (water, fluid), (white, cord)):
        around = torch.lerp(around, tissue, beyond(distance))
    around = torch.lerp(air + (around - air) * (1 + 0.1 * shade), air, beyond(-depth))
    exactly = depth < -width if host.random() < NO_NOISE else torch.zeros_like(outside)
    return torch.where(outside, around, image), exactly


def _intensities(names: Sequence[str], source: Source, contrast: Contrast, rng: np.random.Generator) -> Tensor:
    """Random intensities of tissues (tissues, C, 1, 1, 1)."""
    limits = [BRIGHTNESS[name] if contrast == "source" or name == "air" else (0.0, 1.3) for name in names]
    low = source.means.amin(0)
    least, greatest = np.array(limits).T[..., None]
    drawn = rng.uniform(least, greatest, (len(names), len(low)))
    found: Tensor = low + torch.tensor(drawn, dtype=torch.float32, device=low.device) * source.span
    return found.reshape(*found.shape, 1, 1, 1)


def _geometry(outside: Tensor, spacing: Sequence[float], rng: np.random.Generator, device: torch.Generator) -> Tensor:
    """Maps (8, *points) on a coarser grid with the same corners.

    Distance in mm beyond the inner and the outer table of the skull, below the surface of the head, from within into
    its fat, into the fluid of the eyes and around the cord, and into the cord; noise for blobs, and for shading.
    """
    extent = (np.array(outside.shape) - 1) * spacing
    points = [max(2, math.ceil(length / STEP) + 1) for length in extent]
    steps = extent / (np.array(points) - 1)

    def noise(count: int, smoothness: float) -> Tensor:
        return smooth_noise(count, points, (smoothness / steps).tolist(), device)

    def thickness(limits: tuple[float, float], varied: Tensor) -> Tensor:
        return torch.exp(0.25 * varied) * rng.uniform(*limits)

    gap, skull, scalp, skin, bumps, shade = noise(6, 20.0)
    blobs = noise(1, rng.uniform(4, 10))[0]
    brain = resized((~outside).float()[None], points)
    # the skull does not follow sulci
    hull = ((blurred(brain, (8 / steps).tolist()) > 0.45) | (brain > 0.5))[0]
    away = ndimage.distance_transform_edt(~hull.cpu().numpy(), sampling=steps) - steps.mean() / 2
    distance = blurred(torch.from_numpy(away).float().to(hull.device)[None], [0.7] * 3)[0]
    inner = distance - thickness(FLUID, gap)
    outer = inner - thickness(SKULL, skull)
    neck, eyes, cord = _below(hull, steps, rng)
    depth = torch.maximum(thickness(SCALP, scalp) - outer, neck + 4 * bumps)
    fat, fluid = thickness(FAT, skin) - depth, torch.maximum(eyes, cord + rng.uniform(*CANAL))
    return torch.stack([inner, outer, depth, fat, fluid, cord, blobs, shade])


def _below(hull: Tensor, steps: NDArray[np.float64], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Distance in mm into neck and face, eyes, and spinal cord, on the grid of a brain's hull.

    Sizes and places are relative to those of the brain, and vary by a tenth.
    """
    found = torch.nonzero(hull).double().cpu().numpy() * steps
    first, last = found.min(0), found.max(0)
    half = torch.tensor((last - first) / 2, dtype=torch.float32, device=hull.device).reshape(3, 1, 1, 1)
    lines = [
        torch.arange(n, dtype=torch.float32, device=hull.device) * step - middle
        for n, step, middle in zip(hull.shape, steps, (first + last) / 2, strict=True)
    ]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij")) / half

    def ball(centre: Sequence[float], radii: Sequence[float]) -> Tensor:
        """1 at the centre of an ellipsoid, 0 at its surface; an infinite radius makes a column."""
        middle, radius = (torch.tensor(values, dtype=torch.float32, device=hull.device) for values in (centre, radii))
        away: Tensor = ((place - middle.reshape(3, 1, 1, 1)) / radius.reshape(3, 1, 1, 1)).norm(dim=0)
        return 1 - away

    def varied(*values: float) -> list[float]:
        return [value * rng.normal(1, 0.1) for value in values]

    def column(centre: Sequence[float], radii: Sequence[float], top: float) -> Tensor:
        return radius * torch.minimum(ball((*centre, 0), (*radii, math.inf)), top - place[2])

    radius = float(half.mean())
    neck = column(varied(0, -0.2), varied(1, 0.85), 0)
    face = radius * ball(varied(0, 0.65, -0.95), varied(0.88, 0.65, 0.9))
    side, front, below, eye, cord = varied(0.47, 0.92, -0.62, 0.16, 0.09)
    eyes = eye * radius * torch.maximum(*(ball((sign * side, front, below), [eye] * 3) for sign in (-1, 1)))
    return torch.maximum(neck, face), eyes, cord * column(varied(0, -0.24), [cord] * 2, -0.85)
