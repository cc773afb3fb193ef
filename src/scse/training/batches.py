"""Training batches of slices. Their order, crops and augmentation depend only on (seed, epoch, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scse.data.prepared import Prepared


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Ranges of random changes; each is drawn uniformly from -range to +range for every slice.

    Attributes:
        rotation: Degrees.
        scaling: Relative change of size.
        shift: Fraction of the slice's side.
        gain: Relative change of intensity.
        offset: Change of intensity in standard deviations of the image.
    """

    rotation: float
    scaling: float
    shift: float
    gain: float
    offset: float


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed for one step, so that a resumed run draws the same numbers as an uninterrupted one."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0])


class Batches:
    """Batches of (images, labels) for training.

    Args:
        cases: Training cases.
        patch: (height, width) of every slice in a batch; larger slices are cropped at random.
        batch_size: Slices per batch, at most `limit`; a last, smaller batch of an epoch is left out.
        limit: Most slices per epoch; None takes all.
        augmentation: Random changes of each slice; None makes none.
        seed: Seed of order, crops and augmentation.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        *,
        patch: tuple[int, int],
        batch_size: int,
        limit: int | None,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.images = [case.images() for case in cases]
        self.labels = [case.labels() for case in cases]
        self.slices = [(case, index) for case, images in enumerate(self.images) for index in range(len(images))]
        self.patch = patch
        self.limit = min(limit or len(self.slices), len(self.slices))
        self.batch_size = min(batch_size, self.limit)
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.limit // self.batch_size

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch from step `start` on: images (N, C, height, width), labels (N, height, width) int64."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.slices))
        for step in range(start, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._batch(chosen, np.random.default_rng(step_seed(self.seed, epoch, step)))

    def _batch(self, chosen: NDArray[np.integer], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pairs = [self._crop(self.slices[index], rng) for index in chosen]
        images = torch.from_numpy(np.stack([image for image, _ in pairs]))
        labels = torch.from_numpy(np.stack([label for _, label in pairs]))
        if self.augmentation is None:
            return images, labels.long()
        return augmented(images, labels.long(), self.augmentation, rng)

    def _crop(self, place: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        case, index = place
        image, label = self.images[case][index], self.labels[case][index]
        height, width = self.patch
        row = rng.integers(label.shape[0] - height + 1)
        column = rng.integers(label.shape[1] - width + 1)
        window = (slice(row, row + height), slice(column, column + width))
        return image[:, *window], label[window]


def augmented(images: Tensor, labels: Tensor, ranges: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rotate, scale and shift each slice with its labels, and change the image's gain and offset.

    Args:
        images: Standardised images, (N, C, height, width).
        labels: Class indices, (N, height, width) int64.
        ranges: Ranges of the changes.
        rng: Generator of all random numbers.
    """
    count = len(images)
    rotation, shift_range = np.deg2rad(ranges.rotation), 2 * ranges.shift  # the grid runs from -1 to 1
    angle = rng.uniform(-rotation, rotation, count)
    scale = rng.uniform(1 - ranges.scaling, 1 + ranges.scaling, count)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift = rng.uniform(-shift_range, shift_range, (2, count))
    theta = np.stack([np.stack([cos, sin, shift[1]], -1), np.stack([-sin, cos, shift[0]], -1)], 1)  # rows: x, y
    grid = F.affine_grid(torch.from_numpy(theta.astype(np.float32)), list(images.shape), align_corners=False)
    images = _sampled(images, grid, "bilinear")
    labels = _sampled(labels[:, None].float(), grid, "nearest")[:, 0].long()
    gain = rng.uniform(1 - ranges.gain, 1 + ranges.gain, count)
    offset = rng.uniform(-ranges.offset, ranges.offset, count)
    by_slice = torch.from_numpy(np.stack([gain, offset]).astype(np.float32))[..., None, None, None]
    return images * by_slice[0] + by_slice[1], labels


def _sampled(slices: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(slices, grid, mode=mode, padding_mode="border", align_corners=False)
