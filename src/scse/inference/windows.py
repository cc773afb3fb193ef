"""Images through a network: memory format, and overlapping windows for images larger than the training patch.

Windows and weights are those of MONAI's `sliding_window_inference`, whose import takes longer than a prediction.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise, product

import torch
from torch import Tensor

OVERLAP = 0.5
"""Share of a window that neighbouring windows have in common in prediction."""

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Memory format of maps and weights by number of spatial axes."""


def channels_last(maps: Tensor) -> Tensor:
    """The same maps (N, C, *spatial) in channels-last memory format, in which networks run."""
    return maps.contiguous(memory_format=CHANNELS_LAST[maps.ndim - 2])


def in_windows(
    images: Tensor,
    patch: Sequence[int],
    forward: Callable[[Tensor], Tensor],
    *,
    overlap: float = OVERLAP,
    batch_size: int | None = None,
) -> Tensor:
    """Apply `forward` to images in overlapping windows, and blend the results with Gaussian weights.

    Windows have the size of the training patch, because the squeeze of cSE changes on inputs of another size. The
    windows of one image are consecutive.

    Args:
        images: Images (N, C, *spatial), at least as large as the patch.
        patch: Size of the windows.
        forward: Function from windows (N, C, *patch) to maps of the same spatial size.
        overlap: Share of a window that neighbouring windows have in common.
        batch_size: Windows at a time; by default as many as there are images.
    """
    sizes = images.shape[2:]
    if tuple(sizes) == tuple(patch):
        return forward(images)
    windows = windows_of(sizes, patch, overlap=overlap)
    places = [(image, window) for image in range(len(images)) for window in windows]
    at_a_time = batch_size or len(images)
    importance = importance_of(patch, images.device)
    weights = importance.new_zeros(sizes)
    for window in windows:
        weights[window] += importance
    total = torch.empty(0)
    for start in range(0, len(places), at_a_time):
        chosen = places[start : start + at_a_time]
        parts = forward(channels_last(torch.stack([images[image][:, *window] for image, window in chosen]))).float()
        if not start:
            total = parts.new_zeros(len(images), parts.shape[1], *sizes)
        for (image, window), part in zip(chosen, parts, strict=True):
            total[image][:, *window].addcmul_(part, importance)
    return total.div_(weights)


def importance_of(patch: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Gaussian weights of the voxels of a window, greatest in the middle: (*patch).

    Args:
        patch: Size of the window. Standard deviations are an eighth of it.
        device: Where the weights are needed.
    """
    weights = torch.ones((), device=device)
    for size in patch:
        distances = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
        weights = weights[..., None] * torch.exp(distances**2 / (-2 * (size / 8) ** 2))
    return weights.clamp(min=1e-3)


Read = Callable[[tuple[slice, ...]], Tensor]
"""Function from a place in a volume to its part (C, *spatial)."""


def windows_of(sizes: Sequence[int], patch: Sequence[int], *, overlap: float = OVERLAP) -> list[tuple[slice, ...]]:
    """Places of the overlapping windows that cover a volume.

    Args:
        sizes: Size of the volume, at least that of the patch.
        patch: Size of the windows.
        overlap: Least share of a window that neighbouring windows have in common.
    """
    along_axes = []
    for size, whole in zip(patch, sizes, strict=True):
        step = max(1, int(size * (1 - overlap)))
        starts = [*range(0, whole - size, step), whole - size]
        along_axes.append([slice(start, start + size) for start in starts])
    return list(product(*along_axes))


def in_band(windows: Sequence[tuple[slice, ...]], band: slice) -> list[tuple[slice, ...]]:
    """The windows that have voxels in a part of the last axis, in the same order."""
    return [window for window in windows if window[-1].start < band.stop and window[-1].stop > band.start]


def bands_of(windows: Sequence[tuple[slice, ...]], most: int) -> list[slice]:
    """Divide the last axis of a volume into parts that are blended one after the other, to save memory.

    The windows across a border run once for each side. Borders are where windows begin, so that these are few.

    Args:
        windows: Windows that cover the volume, see `windows_of`.
        most: Most voxels of a part along the axis; where windows begin farther apart, it has more.
    """
    starts, end = sorted({window[-1].start for window in windows}), max(window[-1].stop for window in windows)
    borders = [0]
    for start, following in zip(starts[1:], [*starts[2:], end], strict=True):
        if following - borders[-1] > most:
            borders.append(start)
    return [slice(*pair) for pair in pairwise([*borders, end])]


class Room:
    """Memory of sums that one band after the other uses.

    If each band took its own, smaller blocks would settle in what the one before released, and the process would grow.

    Args:
        bands: All bands.
    """

    def __init__(self, bands: Sequence[slice]) -> None:
        self._longest = max(band.stop - band.start for band in bands)
        self._kept: dict[str, Tensor] = {}

    def zeros(self, name: str, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Zeros in the memory of this name, whose shapes differ along the last axis only; of the type of `like`."""
        if name not in self._kept:
            self._kept[name] = like.new_empty(math.prod(shape[:-1]) * self._longest)
        return self._kept[name][: math.prod(shape)].view(*shape).zero_()


def blended_rows(
    read: Read,
    sizes: Sequence[int],
    patch: Sequence[int],
    forward: Callable[[Tensor], Tensor],
    *,
    overlap: float = OVERLAP,
    batch_size: int = 1,
    band: slice | None = None,
    room: "Room | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """Apply `forward` to a volume in overlapping windows, and blend the results, see `in_windows`.

    The result is returned in parts along the first axis, as soon as no other window covers them: instead of the whole
    volume, only as many rows as a window has are in memory, for all classes in float32.

    Args:
        read: Function from the place of a window to its part (C, *patch).
        sizes: Size (x, y, z) of the volume, at least that of the patch.
        patch: Size of the windows.
        forward: Function from windows (N, C, *patch) to maps (N, classes, *patch).
        overlap: Share of a window that neighbouring windows have in common.
        batch_size: Most windows at a time, of those that begin at the same row.
        band: Part of the last axis to which the result is limited, see `bands_of`; by default all of it.
        room: Memory of the sums, for several bands; by default that of this call alone.
        progress: Called with the numbers of finished and of all windows of the band after each batch.

    Yields:
        Consecutive rows (classes, rows, y, z) of the blended maps, which are overwritten when the next ones are made;
        of a band, z counts from its start.
    """
    band = slice(0, sizes[2]) if band is None else band
    room = Room([band]) if room is None else room
    windows = in_band(windows_of(sizes, patch, overlap=overlap), band)
    total = weights = importance = torch.empty(0)
    first = done = 0
    for start, group in groupby(windows, key=lambda window: window[0].start):
        if finished := start - first:
            yield total[:, :finished].div_(weights[:finished])
            for sums in (total.transpose(0, 1), weights):
                for row in range(patch[0] - finished):  # one by one, because the parts may overlap
                    sums[row] = sums[row + finished]
                sums[patch[0] - finished :] = 0
            first = start
        beside = list(group)
        for chosen in (beside[place : place + batch_size] for place in range(0, len(beside), batch_size)):
            parts = forward(channels_last(torch.stack([read(window) for window in chosen]))).float()
            if not done:
                plane = (sizes[1], band.stop - band.start)
                total = room.zeros("total", parts, (parts.shape[1], patch[0], *plane))
                weights = room.zeros("weights", parts, (patch[0], *plane))
                importance = importance_of(patch, parts.device)
            for window, part in zip(chosen, parts, strict=True):
                z = window[2]
                begin, end = max(z.start, band.start), min(z.stop, band.stop)
                inside, place = slice(begin - z.start, end - z.start), slice(begin - band.start, end - band.start)
                total[:, :, window[1], place].addcmul_(part[..., inside], importance[..., inside])
                weights[:, window[1], place] += importance[..., inside]
            done += len(chosen)
            if progress is not None:
                progress(done, len(windows))
    yield total.div_(weights)
