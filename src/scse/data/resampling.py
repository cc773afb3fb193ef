"""Resampling of slices and volumes to another grid of the same extent. It alone needs torch, which is loaded on use."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V", np.float32, np.uint8)


def resized(maps: "Tensor", size: Sequence[int]) -> "Tensor":
    """Resample maps (N, C, *spatial) to another size: linear, with antialiasing where the grid becomes coarser.

    Args:
        maps: Slices (N, C, height, width) or volumes (N, C, x, y, z).
        size: Size of the spatial axes.
    """
    size = tuple(size)
    if maps.shape[2:] == size:
        return maps
    if len(size) == 3:
        # torch has antialiasing for two axes only; linear resampling is separable, so the first axis follows on its own
        in_planes = resized(maps.flatten(1, 2), size[1:]).unflatten(1, maps.shape[1:3])
        return (
            in_planes if maps.shape[2] == size[0] else _weighted_rows(linear_weights(maps.shape[2], size[0]), in_planes)
        )
    from torch.nn.functional import interpolate  # noqa: PLC0415 (only resampling needs torch)

    return interpolate(maps, size, mode="bilinear", antialias=True)


def resized_array(maps: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Resample an array (N, C, *spatial), see `resized`."""
    if maps.shape[2:] == tuple(size):
        return maps
    from torch import from_numpy  # noqa: PLC0415 (as above)

    array: NDArray[np.float32] = resized(from_numpy(maps), size).numpy()
    return array


def resized_labels(labels: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Resample a label map (*spatial) to `size`; each pixel gets the label that covers the largest part of it."""
    best = np.full(tuple(size), -1, np.float32)
    chosen = np.zeros(tuple(size), np.uint8)
    # one label at a time, because the shares of all labels of a volume would need much memory
    for value in np.unique(labels):
        share = resized_array((labels == value).astype(np.float32)[None, None], size)[0, 0]
        larger = share > best
        best[larger] = share[larger]
        chosen[larger] = value
    return chosen


def cropped(maps: "Tensor", size: Sequence[int]) -> "Tensor":
    """The near end of maps (N, C, *spatial), up to `size` along each spatial axis; undoes `padded`."""
    for axis, length in enumerate(size, start=2):
        maps = maps.narrow(axis, 0, length)
    return maps


def padded(maps: NDArray[V], size: Sequence[int], *, fill: V) -> NDArray[V]:
    """Pad maps (..., *spatial) at the far end of each spatial axis up to `size`."""
    missing = [wanted - there for wanted, there in zip(size, maps.shape[-len(size) :], strict=True)]
    if not any(missing):
        return maps
    edges = [(0, 0)] * (maps.ndim - len(size)) + [(0, pixels) for pixels in missing]
    return np.pad(maps, edges, constant_values=fill)


def linear_weights(size: int, target: int) -> NDArray[np.float32]:
    """Weights (target, size) of linear resampling along an axis, with antialiasing where the grid becomes coarser."""
    scale = size / target
    distances = np.abs(np.arange(size) + 0.5 - (np.arange(target)[:, None] + 0.5) * scale)
    weights = np.maximum(0, 1 - distances / max(scale, 1.0))
    normalised: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return normalised


def resampled_rows(parts: "Iterable[Tensor]", size: Sequence[int], target: Sequence[int]) -> "Iterator[Tensor]":
    """Resample a volume that comes in parts along its first axis, see `resized`.

    Args:
        parts: Consecutive rows (C, rows, y, z) of maps of `size`.
        size: Size (x, y, z) of the maps.
        target: Size of the result.

    Yields:
        Consecutive rows (C, rows, y, z) of the result; only the rows that the next ones need are kept in memory.
    """
    from torch import cat  # noqa: PLC0415 (as above)

    weights = linear_weights(size[0], target[0])
    last = size[0] - 1 - (weights[:, ::-1] > 0).argmax(1)  # the last row that each row of the result needs
    rows: Tensor | None = None
    first = done = 0  # the first row that is kept, and the rows of the result that are done
    for part in parts:
        in_plane = resized(part.transpose(0, 1), target[1:]).transpose(0, 1)
        rows = in_plane if rows is None else cat([rows, in_plane], 1)
        ready = int(np.searchsorted(last, first + rows.shape[1]))
        if ready > done:
            yield _weighted_rows(weights[done:ready, first : first + rows.shape[1]], rows)
            done = ready
            if done < target[0]:
                needed = int((weights[done] > 0).argmax())
                rows, first = rows[:, needed - first :], needed


def _weighted_rows(weights: NDArray[np.float32], rows: "Tensor") -> "Tensor":
    """Sums (..., target, y, z) of rows (..., size, y, z) by their weights (target, size)."""
    from torch import einsum, from_numpy  # noqa: PLC0415 (as above)

    return einsum("or,...ryz->...oyz", from_numpy(weights).to(rows.device), rows)
