"""Training batches of slices or patches of volumes. All that is drawn depends only on (seed, epoch, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.training.augmentation import Augmentation, Changes, changed, draw_changes

MOST_POSITIONS = 10_000
"""Positions of each structure in a case from which the centres of patches are drawn."""


def step_seed(seed: int, epoch: int, step: int, *part: int) -> int:
    """A seed for one step, so that a resumed run draws the same numbers as an uninterrupted one.

    Args:
        seed: Seed of the run.
        epoch: Epoch.
        step: Step in it.
        part: Number of a part of the batch that is to have numbers of its own.
    """
    return int(np.random.SeedSequence([seed, epoch, step, *part]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True, slots=True)
class Draw:
    """All that is drawn for a batch of N slices or patches.

    Attributes:
        chosen: Their indices in `Batches.slices`, (N,).
        corners: The first pixel of each along each axis, (N, axes).
        changes: Their augmentation; None without.
    """

    chosen: NDArray[np.integer]
    corners: NDArray[np.int64]
    changes: Changes | None

    def part(self, number: int, parts: int) -> "Draw":
        """One of so many equal parts."""
        share = len(self.chosen) // parts
        mine = slice(number * share, (number + 1) * share)
        changes = None if self.changes is None else self.changes.of(mine)
        return Draw(self.chosen[mine], self.corners[mine], changes)


class Batches:
    """Batches of (images, labels) for training.

    Args:
        cases: Training cases.
        patch: Size of every slice or volume in a batch; larger ones are cropped.
        batch_size: Slices or patches per batch, at most `limit`; a last, smaller batch of an epoch is left out.
        limit: Most slices per epoch; number of patches per epoch for volumes, of which each case may give several;
            None takes every slice or volume once.
        foreground: Share of the patches, from 0 to 1, that are centred on a voxel of a structure; the structure is
            drawn evenly from those of the slice or volume. Other patches are cropped anywhere.
        spacing: Millimetres per pixel along each axis of the patch.
        augmentation: Random changes of each slice or patch; None makes none.
        seed: Seed of order, crops and augmentation.
        part: The part of every batch that is made here, as its number and the number of parts.
    """

    fixed = True
    """Whether all epochs have the same arrays."""

    def __init__(
        self,
        cases: Sequence[Prepared],
        *,
        patch: Sequence[int],
        batch_size: int,
        limit: int | None,
        augmentation: Augmentation | None,
        seed: int,
        foreground: float = 0.0,
        spacing: Sequence[float] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.images = [case.images() for case in cases]
        self.labels = [case.labels() for case in cases]
        self.slices = [(case, index) for case, images in enumerate(self.images) for index in range(len(images))]
        self.patch = tuple(patch)
        count = len(self.slices)
        self.limit = (limit or count) if len(patch) == 3 else min(limit or count, count)
        self.batch_size = min(batch_size, self.limit)
        self.foreground = foreground
        self.extent = np.multiply(patch, spacing or 1.0)
        self.augmentation = augmentation
        self.seed, self.part = seed, part
        self._positions: dict[tuple[int, int], list[NDArray[np.intp]]] = {}

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.limit // self.batch_size

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch from step `start` on: images (N, C, *patch), labels (N, *patch) int64."""
        for draw in self.draws(epoch, start=start):
            yield self._batch(draw)

    def draws(self, epoch: int, *, start: int = 0) -> Iterator[Draw]:
        """What is drawn for the batches of an epoch from step `start` on, without a look at their pixels."""
        order = self._order(np.random.default_rng([self.seed, epoch]))
        for step in range(start, len(self)):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._draw(chosen, np.random.default_rng(step_seed(self.seed, epoch, step))).part(*self.part)

    def _order(self, rng: np.random.Generator) -> NDArray[np.integer]:
        """Indices in `slices` in the order of an epoch, at least `limit` of them."""
        count = len(self.slices)
        return np.concatenate([rng.permutation(count) for _ in range(-(-self.limit // count))])

    def cut(self, draw: Draw) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The drawn patches of images (N, C, *patch) and labels (N, *patch), not yet changed."""
        pairs = [
            self._crop(self.slices[index], corner) for index, corner in zip(draw.chosen, draw.corners, strict=True)
        ]
        return np.stack([image for image, _ in pairs]), np.stack([label for _, label in pairs])

    def _batch(self, draw: Draw) -> tuple[Tensor, Tensor]:
        images, labels = map(torch.from_numpy, self.cut(draw))
        if self.augmentation is None or draw.changes is None:
            return images, labels.long()
        numbers = [torch.from_numpy(each) for each in draw.changes.numbers]
        return changed(images, labels, self.augmentation, numbers, draw.changes.some)

    def _draw(self, chosen: NDArray[np.integer], rng: np.random.Generator) -> Draw:
        corners = np.array([self._corner(self.slices[index], rng) for index in chosen])
        if self.augmentation is None:
            return Draw(chosen, corners, None)
        changes = draw_changes(self.augmentation, len(chosen), self.patch, rng, extent=self.extent)
        return Draw(chosen, corners, changes)

    def _corner(self, place: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
        shape = self.labels[place[0]].shape[1:]
        room = np.subtract(shape, self.patch)
        positions = self._foreground(place) if self.foreground and rng.random() < self.foreground else []
        if positions:
            structure = positions[rng.integers(len(positions))]
            centre = np.array(np.unravel_index(structure[rng.integers(len(structure))], shape))
            centred: NDArray[np.int64] = np.clip(centre - np.array(self.patch) // 2, 0, room)
            return centred
        return np.array([rng.integers(size + 1) for size in room])

    def _crop(self, place: tuple[int, int], corner: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        case, index = place
        window = tuple(slice(first, first + size) for first, size in zip(corner, self.patch, strict=True))
        return self.images[case][index][:, *window], self.labels[case][index][window]

    def _foreground(self, place: tuple[int, int]) -> list[NDArray[np.intp]]:
        """Positions of each structure in a slice or volume as flat indices; a random choice if there are many."""
        if place not in self._positions:
            case, index = place
            label = self.labels[case][index].ravel()
            inside = np.flatnonzero((label > 0) & (label != IGNORED_CLASS))
            structures = label[inside]
            rng = np.random.default_rng(place)
            found = [inside[structures == value] for value in np.unique(structures)]
            self._positions[place] = [
                rng.choice(positions, MOST_POSITIONS, replace=False) if len(positions) > MOST_POSITIONS else positions
                for positions in found
            ]
        return self._positions[place]
