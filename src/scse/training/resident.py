"""Training batches whose pixels are cut and changed on a GPU.

The host draws the random numbers, the same ones as for batches on a CPU, and sends them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scse.training.augmentation import changed
from scse.training.batches import Batches, Draw

RESIDENT_SHARE = 0.5
"""Share of the free memory of a GPU that the arrays of the training cases may take."""

Sent = tuple[Tensor, ...]
"""What is sent to the device for a step: tensors whose shapes are those of every step."""


def on_device(batches: Batches, device: torch.device, *, free: int) -> "OnDevice":
    """The same batches on a device: from arrays that stay there if they can, otherwise copied in every step.

    Arrays stay if they fit and all epochs have the same.

    Args:
        batches: Training batches.
        device: A GPU.
        free: Bytes of its memory that are free.
    """
    needed = sum(array.nbytes for array in batches.images) + sum(array.nbytes for array in batches.labels)
    stays = batches.fixed and needed <= RESIDENT_SHARE * free
    return Resident(batches, device) if stays else Streamed(batches, device)


class OnDevice(ABC):
    """Batches that are made in two parts: what is sent for a step, and the pixels that the device makes of it.

    The second part has fixed shapes and never waits for the device, so that a CUDA graph can hold it. Changes of single
    images (`Changes.some`) follow no fixed course: with any, what is "sent" are the pixels of the step.

    Args:
        batches: Training batches.
        device: Where the pixels are made.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        first = next(batches.draws(0))
        self.batch_size, self.seed, changes = len(first.chosen), batches.seed, first.changes
        self._shapes = [] if changes is None else [each.shape for each in changes.numbers]
        self._single = changes is not None and len(changes.some) > 0

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Sent]:
        """What is sent for each step of an epoch from step `start` on: the arguments of `pixels`."""
        for draw in self.batches.draws(epoch, start=start):
            sent = self._sent(draw)
            yield self._changed(*self.moved(sent), draw=draw) if self._single else sent

    def moved(self, sent: Sent) -> Sent:
        """The same tensors on the device, which may still be copying them."""
        return tuple(part.to(self.device, non_blocking=True) for part in sent)

    def pixels(self, *sent: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, *patch) and labels (N, *patch) int64 of a step.

        Args:
            sent: A tuple of `epoch`, on the device.
        """
        if self._single:
            images, labels = sent
            return images, labels
        return self._changed(*sent)

    @abstractmethod
    def _sent(self, draw: Draw) -> Sent:
        """What is sent for a step."""

    @abstractmethod
    def _cut(self, *sent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers of the changes, images, and labels of any integers before the changes."""

    def _changed(self, *sent: Tensor, draw: Draw | None = None) -> tuple[Tensor, Tensor]:
        floats, images, labels = self._cut(*sent)
        if self.batches.augmentation is None:
            return images, labels.long()
        parts = floats.split([math.prod(shape) for shape in self._shapes])
        numbers = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        some = () if draw is None or draw.changes is None else draw.changes.some
        return changed(images, labels, self.batches.augmentation, numbers, some)

    def _floats(self, draw: Draw) -> NDArray[np.float32]:
        numbers = () if draw.changes is None else draw.changes.numbers
        return np.concatenate([np.empty(0, np.float32), *(each.ravel() for each in numbers)])

    def _pinned(self, array: NDArray[np.generic]) -> Tensor:
        """The array in memory from which a GPU copies while the host goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


class Resident(OnDevice):
    """Batches cut from arrays that stay on the device; one small tensor is sent for a step.

    The arrays of all cases, of any shapes, lie one after the other in one tensor of images and one of labels. A patch
    is known by the place of its first pixel and by the steps from a pixel to its neighbours.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        super().__init__(batches, device)
        self._images, self._labels = self._joined(batches.images), self._joined(batches.labels)
        self._channels: int = batches.images[0].shape[1]
        rows, image, label = [], 0, 0
        for labels in batches.labels:
            size = labels.shape[1:]
            steps = [math.prod(size[axis:]) for axis in range(len(size) + 1)]
            for _ in range(len(labels)):
                rows.append([image, label, *steps])
                image, label = image + self._channels * steps[0], label + steps[0]
        self._rows = np.array(rows)
        """Of each slice: its first values among images and labels, then the steps between channels and along axes."""

    def _joined(self, arrays: Sequence[NDArray[np.generic]]) -> Tensor:
        sizes = [array.size for array in arrays]
        joined = torch.from_numpy(np.empty(0, arrays[0].dtype)).new_empty(sum(sizes), device=self.device)
        for array, part in zip(arrays, joined.split(sizes), strict=True):
            part.copy_(torch.from_numpy(np.array(array).ravel()))
        return joined

    def _sent(self, draw: Draw) -> Sent:
        rows = self._rows[draw.chosen]
        rows[:, :2] += (draw.corners * rows[:, 3:]).sum(1, keepdims=True)
        floats = self._floats(draw)
        packed = np.zeros(rows.size + -(-floats.size // 2), np.int64)
        packed[: rows.size] = rows.ravel()
        packed[rows.size :].view(np.float32)[: floats.size] = floats
        return (self._pinned(packed),)

    def _cut(self, *sent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (packed,), axes = sent, len(self.batches.patch)
        count, width = self.batch_size, 3 + axes
        rows = packed[: count * width].reshape(count, width, *(1,) * axes)
        floats = packed[count * width :].view(torch.float32)[: sum(map(math.prod, self._shapes))]
        inside = torch.zeros((), dtype=torch.int64, device=self.device)
        for axis, size in enumerate(self.batches.patch):
            inside = inside + rows[:, 3 + axis] * self._range(size).reshape(-1, *(1,) * (axes - 1 - axis))
        labels = self._labels.take(rows[:, 1] + inside)
        channels = self._range(self._channels).reshape(-1, *(1,) * axes)
        images = self._images.take(rows[:, :1] + rows[:, 2:3] * channels + inside[:, None])
        return floats, images, labels

    def _range(self, size: int) -> Tensor:
        return torch.arange(size, device=self.device)


class Streamed(OnDevice):
    """Batches cut on the host, for arrays that do not fit on the device; patches are sent before any change.

    They are copied on a stream of their own, while the device still computes the step before.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        super().__init__(batches, device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _sent(self, draw: Draw) -> Sent:
        images, labels = self.batches.cut(draw)
        pinned = self._pinned(self._floats(draw)), self._pinned(images), self._pinned(labels)
        if self._stream is None:
            return self.moved(pinned)
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            sent = self.moved(pinned)
        current.wait_stream(self._stream)
        for part in sent:
            part.record_stream(current)
        return sent

    def _cut(self, *sent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        floats, images, labels = sent
        return floats, images, labels
