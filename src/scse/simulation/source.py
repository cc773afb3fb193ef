"""What is learned from a labelled image before subjects are simulated: its tissues, and the sizes of structures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor

from scse.simulation.fields import blurred, gradient, identity, sampled
from scse.support.errors import UserError

BORDER = 0.6
"""Standard deviation in voxels of the Gaussian by which tissues merge at their borders: partial volume."""

MOST_TISSUES = {"background": 5, "structure": 3}
"""Most tissues of what has no label, and of a structure."""

EXPLAINED = (0.82, 0.9, 0.94, 0.96)
"""Share of the variance of intensities that 2, 3, 4 and 5 tissues explain if they are tissues and not noise: they leave
half of what as many parts of a normal distribution leave unexplained (which explain 0.64, 0.81, 0.88 and 0.92)."""

LEAST_VOXELS = 50
"""Voxels of a structure below which it is one tissue."""

SAMPLE = 20_000
"""Voxels of a structure from which its tissues are found."""

EMPTY_SHARE = 0.2
"""Share of the background with the same value from which on it is empty, as after skull-stripping."""

ROUNDING = 1e-5
"""Differences of intensities, as a share of their range, up to which they are the same: resampling rounds."""

BACKGROUND = 0


@dataclass(frozen=True)
class Source:
    """A labelled image from which subjects are simulated.

    Attributes:
        image: Image (C, *spatial) float32, in any unit.
        labels: Number of the label of each voxel, plus what EMPTY says: (*spatial) float32, because labels are sampled
            like images.
        labels_found: Numbers of the labels that occur, in order.
        spacing: Millimetres per voxel along each axis.
        tissues: Number of the tissue of each voxel, (*spatial) int64.
        means: Mean intensity of each tissue, (tissues, C).
        spreads: Standard deviation of the intensities of each tissue, (tissues, C).
        groups: Number of the group of each tissue, (tissues,): tissues of left and right structures are of one group.
        label_groups: Number of the group of each label, (256,).
        radius: Typical and small radius of structures in mm, see `radii`.
        empty: Value (C,) of the background where it is empty; None if it is not.
        calibrated: Whether intensities have a unit, as in CT: then tissues have about the same in all subjects.
    """

    image: Tensor
    labels: Tensor
    labels_found: tuple[int, ...]
    spacing: tuple[float, ...]
    tissues: Tensor
    means: Tensor
    spreads: Tensor
    groups: NDArray[np.int64]
    label_groups: NDArray[np.int64]
    radius: tuple[float, float]
    empty: Tensor | None
    calibrated: bool

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.labels.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """Millimetres between the centres of the first and the last voxel along each axis, at least one voxel."""
        return tuple(max(n - 1, 1) * mm for n, mm in zip(self.size, self.spacing, strict=True))

    @cached_property
    def texture(self) -> Tensor:
        """What is left of the image without the means of its tissues: (C, *spatial)."""
        return self.image - self.painted(self.means)

    @cached_property
    def span(self) -> Tensor:
        """Difference of the brightest and the darkest tissue in each channel, (C,)."""
        span = self.means.amax(0) - self.means.amin(0)
        return torch.where(span > 0, span, self.image.flatten(1).std(1).clamp(min=1e-6))

    @cached_property
    def floor(self) -> Tensor:
        """Least intensity (C,) of subjects: of an empty background than which nothing in the source is darker, or -inf.

        Images are standardised by the voxels above the least one, so that these must be the same as in the source.
        """
        least, most = self.image.flatten(1).aminmax(dim=1)
        lowest = torch.full_like(least, -math.inf)
        if self.empty is None:
            return lowest
        return torch.where(self.empty - least <= ROUNDING * (most - least), self.empty, lowest)

    @cached_property
    def smoothness(self) -> tuple[float, float, float]:
        """Standard deviations in mm of the Gaussian filters of random velocities: large, medium and small.

        The large one moves whole groups of structures, the small one changes the outline of a small structure.
        """
        whole, small = self.radius
        large, fine = max(0.3 * whole, 1.5 * small), 0.75 * small
        return large, math.sqrt(large * fine), fine

    @cached_property
    def lattice(self) -> tuple[int, ...]:
        """Points along each axis of the coarser grid of velocities, which has the same corners as the image."""
        step = self.smoothness[2] / 1.5
        return tuple(
            min(n, max(4, math.ceil(length / step) + 1)) for n, length in zip(self.size, self.extent, strict=True)
        )

    @property
    def steps(self) -> NDArray[np.float64]:
        """Millimetres between the points of the lattice along each axis."""
        steps: NDArray[np.float64] = np.array(self.extent) / np.maximum(np.array(self.lattice) - 1, 1)
        return steps

    @cached_property
    def coarse_labels(self) -> Tensor:
        """Numbers of the labels on the lattice, int64; 0 where the background is empty."""
        codes = sampled(self.labels[None], identity(self.lattice, self.labels.device), mode="nearest")[0]
        return torch.where(codes >= EMPTY, 0, codes).long()

    def inward(self, values: Tensor) -> Tensor:
        """Vectors in mm on the lattice (axes, *lattice) that point into structures at their outlines.

        Args:
            values: Length of the longest vectors at the outline of each label, (256,).
        """
        width = 1.5 * self.steps.min()
        smooth = blurred(values[self.coarse_labels][None], (width / self.steps).tolist())[0]
        steps = torch.tensor(self.steps, dtype=torch.float32, device=smooth.device)
        return gradient(smooth) / steps.reshape(-1, *(1,) * len(self.size))

    @cached_property
    def steepness(self) -> Tensor:
        """Length of the longest vector that `inward` has for a label alone with value 1, (256,); at least 1e-6."""
        found = torch.ones(256, device=self.labels.device)
        for label in self.labels_found[1:] if self.labels_found[0] == BACKGROUND else self.labels_found:
            alone = torch.zeros_like(found)
            alone[label] = 1
            found[label] = self.inward(alone).norm(dim=0).max().clamp(min=1e-6)
        return found

    def painted(self, values: Tensor) -> Tensor:
        """An image (C, *spatial) with a value for each tissue (tissues, C), which merge at borders."""
        painted = torch.stack([channel[self.tissues] for channel in values.T])
        return blurred(painted, [BORDER] * len(self.size))

    def to(self, device: torch.device) -> "Source":
        """The same source on a device."""
        names = ("image", "labels", "tissues", "means", "spreads", *(() if self.empty is None else ("empty",)))
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @classmethod
    def of(
        cls,
        image: NDArray[np.float32],
        labels: NDArray[np.uint8],
        *,
        spacing: Sequence[float],
        partners: Sequence[int] | None = None,
        calibrated: bool = False,
    ) -> "Source":
        """Learn what a simulation needs from a labelled image.

        Args:
            image: Image (C, *spatial), with two or three spatial axes.
            labels: Number of the label of each voxel, (*spatial); 0 is what has no label.
            spacing: Millimetres per voxel along each axis.
            partners: Number of the label on the other side of each label, and its own without one; None without sides.
            calibrated: Whether intensities have a unit, as in CT.

        Raises:
            UserError: The label map has no label.
        """
        image, labels = np.array(image, order="C"), np.array(labels, order="C")  # memory maps cannot be written
        found = np.unique(labels)
        if not found.any():
            raise UserError("the label map of the source has no label but 0; give one with at least one structure")
        empty = _empty(image, labels)
        value = None
        if empty is not None:
            first = image[:, *(place[0] for place in np.nonzero(empty))].copy()
            image[:, empty] = first[:, None]
            value = torch.from_numpy(first)
        tissues, means, spreads, keys = _tissues(image, labels, empty)
        other = np.arange(256)
        if partners is not None:
            other[: len(partners)] = np.minimum(partners, np.arange(len(partners)))
        named = [(other[label], number) for label, number in keys]
        order = {key: place for place, key in enumerate(dict.fromkeys(named))}
        coded = torch.from_numpy(labels.astype(np.float32))
        if empty is not None:
            coded += EMPTY * torch.from_numpy(empty + LOOSE * _loose(labels, empty))
        return cls(
            torch.from_numpy(image),
            coded,
            tuple(map(int, found)),
            tuple(map(float, spacing)),
            torch.from_numpy(tissues),
            torch.from_numpy(means),
            torch.from_numpy(spreads),
            np.array([order[key] for key in named]),
            other,
            radii(labels, spacing),
            value,
            calibrated,
        )


EMPTY, LOOSE = 256, 2
"""EMPTY is added to the number of the label of voxels where the background is empty, and LOOSE times as much where a
tighter mask would make it empty, see `_loose`."""

LOOSE_SHARE = 0.25
"""Voxels between structures and what is empty, as a share of those of structures, up to which they may be masked."""


def radii(labels: NDArray[np.uint8], spacing: Sequence[float]) -> tuple[float, float]:
    """Radius in mm of a ball (or disc) of the volume of all structures together, and of a small structure.

    The small one is the 10th percentile of the structures. Without any structure, a tenth of the image's side counts.
    """
    counts = np.bincount(labels.ravel())[1:]
    counts = counts[counts > 0]
    axes = labels.ndim
    ball = np.pi if axes == 2 else 4 / 3 * np.pi
    volumes = counts * np.prod(spacing)
    small, whole = (float((volume / ball) ** (1 / axes)) for volume in (np.percentile(volumes, 10), volumes.sum()))
    return whole, small


def _empty(image: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Where the background has its most frequent value in all channels, if this is a large part of it."""
    outside = labels == BACKGROUND
    if not outside.any():
        return None
    values, counts = np.unique(image[0][outside], return_counts=True)
    most = values[counts.argmax()]
    first = image[:, *(place[0] for place in np.nonzero(outside & (image[0] == most)))]
    shape = (-1, *(1,) * labels.ndim)
    alike = np.abs(image - first.reshape(shape)) <= ROUNDING * np.ptp(image.reshape(len(image), -1), axis=1).reshape(
        shape
    )
    empty: NDArray[np.bool_] = outside & alike.all(0)
    return empty if empty.sum() >= EMPTY_SHARE * outside.sum() else None


def _loose(labels: NDArray[np.uint8], empty: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels between the structures and what is empty, without holes of structures, if these are few.

    Where structures fill nearly all that is not empty, as in a skull-stripped brain, its mask has been made by a tool,
    and others make tighter ones. Where there is much else, as in a trunk in air, nothing is masked.
    """
    structures = ndimage.binary_fill_holes(labels > 0)
    loose: NDArray[np.bool_] = ~structures & ~empty
    return loose if loose.sum() <= LOOSE_SHARE * structures.sum() else np.zeros_like(loose)


def _tissues(
    image: NDArray[np.float32], labels: NDArray[np.uint8], empty: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], list[tuple[int, int]]]:
    """Split labels into tissues by intensity.

    Returns:
        The tissue of each voxel (*spatial), mean and standard deviation of each tissue (tissues, C), and label and
        number of each tissue.
    """
    tissues = np.zeros(labels.shape, np.int64)
    means: list[NDArray[np.float32]] = []
    spreads: list[NDArray[np.float32]] = []
    keys: list[tuple[int, int]] = []

    def add(voxels: NDArray[np.float32], label: int, number: int) -> None:
        means.append(voxels.mean(1))
        spreads.append(voxels.std(1))
        keys.append((label, number))

    boxes = ndimage.find_objects(labels.astype(np.int32) + 1)
    for label, box in enumerate(boxes):
        if box is None:
            continue
        inside, most = labels[box] == label, MOST_TISSUES["background" if label == BACKGROUND else "structure"]
        if label == BACKGROUND and empty is not None:
            tissues[empty] = len(means)
            add(image[:, empty], BACKGROUND, -1)
            inside &= ~empty[box]
        if not inside.any():
            continue
        voxels = image[:, *box][:, inside]
        smooth = _blurred_inside(image[:, *box], inside)
        centres = _centres(smooth.T, most)
        nearest = ((smooth.T[:, None] - centres) ** 2).sum(2).argmin(1)
        _, nearest = np.unique(nearest, return_inverse=True)
        tissues[box][inside] = nearest + len(means)
        for number in range(nearest.max() + 1):
            add(voxels[:, nearest == number], label, number)
    return tissues, np.stack(means), np.stack(spreads), keys


def _blurred_inside(image: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Intensities (C, n) of the voxels inside, averaged with neighbours inside, so that noise makes no tissues."""
    weights = torch.from_numpy(inside[None].astype(np.float32))
    deviations = [BORDER] * inside.ndim
    smooth = blurred(torch.from_numpy(np.ascontiguousarray(image)) * weights, deviations) / blurred(
        weights, deviations
    ).clamp(min=1e-6)
    found: NDArray[np.float32] = smooth.numpy()[:, inside]
    return found


def _centres(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Mean intensities (k, C) of the tissues in values (n, C), in the order of the first channel."""
    rng = np.random.default_rng(0)
    if len(values) > SAMPLE:
        values = rng.choice(values, SAMPLE, replace=False)
    scale = values.std(0, dtype=np.float64)
    scale[scale == 0] = 1
    scaled = values / scale
    best = scaled.mean(0, keepdims=True)
    whole = left = ((scaled - best) ** 2).sum()
    if len(values) >= LEAST_VOXELS and whole > 0:
        distinct = len(np.unique(scaled, axis=0))
        for count, least in zip(range(2, min(most, distinct) + 1), EXPLAINED, strict=False):
            try:
                centres, nearest = kmeans2(scaled, count, minit="++", rng=rng, missing="raise")
            except ClusterError:  # there are not as many
                break
            now = ((scaled - centres[nearest]) ** 2).sum()
            if 1 - now / whole >= least and now < left / 2:
                best, left = centres, now
    return np.asarray(best[best[:, 0].argsort()] * scale, np.float32)
