"""Images through a network: memory format, and overlapping windows for images larger than the training patch."""

from collections.abc import Callable, Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

OVERLAP = 0.5
"""Share of a window that neighbouring windows have in common in prediction."""

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Memory format of maps and weights by number of spatial axes."""


def channels_last(maps: Tensor) -> Tensor:
    """The same maps (N, C, *spatial) in channels-last memory format, in which networks run."""
    return maps.contiguous(memory_format=CHANNELS_LAST[maps.ndim - 2])


def in_windows(
    images: Tensor, patch: Sequence[int], forward: Callable[[Tensor], Tensor], *, overlap: float = OVERLAP
) -> Tensor:
    """Apply `forward` to images in overlapping windows, and blend the results with Gaussian weights.

    Windows have the size of the training patch, because the squeeze of cSE changes on inputs of another size. The
    windows of one image are consecutive.

    Args:
        images: Images (N, C, *spatial), at least as large as the patch.
        patch: Size of the windows.
        forward: Function from windows (N, C, *patch) to maps of the same spatial size.
        overlap: Share of a window that neighbouring windows have in common.
    """
    if tuple(images.shape[2:]) == tuple(patch):
        return forward(images)
    blended = sliding_window_inference(images, patch, len(images), forward, overlap=overlap, mode="gaussian")
    return torch.as_tensor(blended)
