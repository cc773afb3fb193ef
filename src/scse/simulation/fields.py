"""Smooth random fields and invertible deformations of images with two or three spatial axes.

Positions and displacements are in the units of `torch.nn.functional.grid_sample` with `align_corners=True`: an image
runs from -1 to 1 along each axis. Their components are in the order of the axes of the array, not reversed.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SQUARINGS = 6
"""A velocity is integrated over unit time in 2^SQUARINGS steps."""

LINEAR = {2: "bilinear", 3: "trilinear"}
"""Name of linear interpolation for `torch.nn.functional.interpolate`, by number of spatial axes."""


def smooth_noise(channels: int, size: Sequence[int], smoothness: Sequence[float], random: torch.Generator) -> Tensor:
    """Gaussian noise with standard deviation 1, smoothed by a Gaussian filter: (channels, *size).

    Args:
        channels: Number of independent fields.
        size: Points along each axis.
        smoothness: Standard deviation of the filter along each axis, in points.
        random: Generator, on the device of the result.
    """
    # smooth noise is drawn on a grid of two points for each standard deviation of the filter, and interpolated
    step = [max(1.0, sigma / 2) for sigma in smoothness]
    coarse = [max(2, math.ceil((points - 1) / by) + 1) for points, by in zip(size, step, strict=True)]
    noise = torch.randn(channels, *coarse, generator=random, device=random.device)
    noise = blurred(noise, [sigma / by for sigma, by in zip(smoothness, step, strict=True)])
    noise = noise / noise.flatten(1).std(1).clamp(min=1e-6).reshape(-1, *(1,) * len(size))
    return resized(noise, size)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (C, *spatial) on another grid with the same corners, by linear interpolation."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    whole: Tensor = F.interpolate(maps[None], tuple(size), mode=LINEAR[len(size)], align_corners=True)
    return whole.squeeze(0)


def blurred(maps: Tensor, deviations: Sequence[float]) -> Tensor:
    """Maps (C, *spatial) after a Gaussian filter with a standard deviation in voxels along each axis."""
    for axis, sigma in enumerate(deviations, start=1):
        if sigma > 0:
            maps = _blurred_along(maps, axis, sigma)
    return maps


def _blurred_along(maps: Tensor, axis: int, sigma: float) -> Tensor:
    """One axis of `blurred`: a sum of shifted maps, which is faster than torch's convolution of so few channels."""
    size = maps.shape[axis]
    reach = max(1, math.ceil(3 * sigma))
    heights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights = (heights / (2 * heights.sum() - heights[0])).tolist()
    ends = maps.narrow(axis, 0, 1), maps.narrow(axis, size - 1, 1)
    before, after = (end.expand(*end.shape[:axis], reach, *end.shape[axis + 1 :]) for end in ends)
    padded = torch.cat([before, maps, after], axis)
    total: Tensor = maps * weights[0]
    for shift, weight in enumerate(weights[1:], start=1):
        total.add_(padded.narrow(axis, reach - shift, size), alpha=weight)
        total.add_(padded.narrow(axis, reach + shift, size), alpha=weight)
    return total


def identity(size: Sequence[int], device: torch.device, reach: Sequence[float] | None = None) -> Tensor:
    """Position of every point of a grid: (axes, *size).

    Args:
        size: Points along each axis.
        device: Device of the result.
        reach: Position of the last point along each axis, by default 1: the centre of the grid is always at 0.
    """
    ends = [1.0] * len(size) if reach is None else reach
    lines = [
        torch.linspace(-end, end, points, device=device) if points > 1 else torch.zeros(1, device=device)
        for end, points in zip(ends, size, strict=True)
    ]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def sampled(maps: Tensor, positions: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Values of maps (C, *spatial) at positions (axes, *size): (C, *size). The border continues outwards.

    Args:
        maps: Maps of floats.
        positions: Where to take the values.
        mode: "bilinear" interpolates linearly along all axes, "nearest" takes the nearest voxel.
    """
    grid = positions.flip(0).movedim(0, -1)[None]  # grid_sample expects the last axis first
    whole: Tensor = F.grid_sample(maps[None], grid, mode=mode, padding_mode="border", align_corners=True)
    return whole.squeeze(0)


def flow(velocity: Tensor) -> Tensor:
    """Displacement after unit time in a velocity (axes, *size) that does not change with time: (axes, *size).

    By scaling and squaring (Arsigny et al., MICCAI 2006), which keeps the map invertible.
    """
    start = identity(velocity.shape[1:], velocity.device)
    displacement: Tensor = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        displacement = displacement + sampled(displacement, start + displacement)
    return displacement


def gradient(values: Tensor) -> Tensor:
    """Central differences of a map (*size) per point along each axis: (axes, *size); 0 along an axis of one point."""
    slopes: list[Tensor] = [
        torch.gradient(values, dim=axis)[0] if size > 1 else torch.zeros_like(values)
        for axis, size in enumerate(values.shape)
    ]
    return torch.stack(slopes)
