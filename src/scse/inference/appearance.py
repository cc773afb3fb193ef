"""How an image looks: its spacing, field of view and intensities, measured alike in training and in prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from scse.data.choices import in_view, resampled_size
from scse.data.inspection import CaseFacts
from scse.data.prepared import Prepared
from scse.data.recipe import Recipe, Slices
from scse.data.slicing import evenly_spread

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

PLANES = 8
"""Planes in which intensities are measured, evenly spread: those of all planes would take longer and differ little."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """How a volume looks.

    Attributes:
        spacing: Millimetres per voxel to the right, anterior and superior.
        extent: Millimetres from edge to edge in the same directions.
        intensities: The quantiles `QUANTILES` of the prepared intensities of each channel, which have mean 0 and
            standard deviation 1. Voxels at the minimum of the channel do not count: most are background.
    """

    spacing: tuple[float, ...]
    extent: tuple[float, ...]
    intensities: tuple[tuple[float, ...], ...]

    @classmethod
    def of_case(cls, case: Prepared, facts: CaseFacts, recipe: Recipe) -> Self:
        """That of a prepared case of volumes.

        Args:
            case: Prepared case.
            facts: Facts about it.
            recipe: Recipe with which it was prepared.
        """
        images, size = case.images(), resampled_size(*in_view(facts, recipe.view), recipe.spacing)
        if images.ndim == 5:
            planes = images[0][:, _chosen(size[0]), : size[1], : size[2]].swapaxes(0, 1)
        else:
            planes = images[_chosen(len(images)), :, : size[0], : size[1]]
        return cls._of(*in_view(facts, "volume"), planes)

    @classmethod
    def of_image(cls, slices: Slices, affine: NDArray[np.float64]) -> Self:
        """That of an image that is prepared for prediction.

        Args:
            slices: The image as a segmenter of volumes or of their slices sees it.
            affine: Affine (4, 4) of the image.
        """
        grid = slices.grid
        assert grid.to_view is not None  # pictures have no affine
        order = grid.to_view[:, 0].argsort()
        if len(slices.shape) == 5:
            planes = slices.rows(_chosen(grid.resampled[0])).swapaxes(0, 1)
        else:
            planes = slices[_chosen(len(slices))][..., : grid.resampled[0], : grid.resampled[1]]
        return cls._of([grid.shape[axis] for axis in order], voxel_sizes(affine)[order].tolist(), planes)

    @classmethod
    def _of(cls, shape: Sequence[int], spacing: Sequence[float], planes: NDArray[np.float32]) -> Self:
        extent = tuple(n * mm for n, mm in zip(shape, spacing, strict=True))
        return cls(tuple(spacing), extent, tuple(_quantiles(channel) for channel in planes.swapaxes(0, 1)))


def _chosen(count: int) -> NDArray[np.int64]:
    return evenly_spread(count, min(count, PLANES))


def _quantiles(values: NDArray[np.float32]) -> tuple[float, ...]:
    above = values[values > values.min()]
    return tuple(np.quantile(above if above.size else values, QUANTILES).tolist())
