"""The squeeze of cSE in volumes that are larger than the training patch.

In training, cSE pools its map over the patch. In prediction, every window has a mean of its own, so that one voxel is
seen under different gates, and a whole volume in one pass has a mean that training never saw. There are three ways:

- "window": as in training, over each window of the size of the patch;
- "local": the whole volume in one pass, where every voxel has the mean over a box of the size of the patch around it,
  as Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation" (ECCV 2022, arXiv
  2112.04491), do in image restoration;
- "volume": the means of all windows are gathered first, and their mean is used for all windows.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scse.attachment.fusing import ResidualChannelSE
from scse.blocks import formulas
from scse.blocks.modules import ChannelSE
from scse.inference.windows import Read, channels_last, windows_of
from scse.support.checks import check_choice
from scse.support.errors import UserError

SQUEEZES = ("window", "local", "volume")
"""Ways of the squeeze."""

_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def check_squeeze(squeeze: str, network: nn.Module) -> None:
    """Check a way of the squeeze.

    Raises:
        UserError: It is unknown, or the network has no cSE or scSE block whose squeeze it could change.
    """
    check_choice("squeeze", squeeze, SQUEEZES)
    if squeeze != "window" and not _channel_blocks(network):
        raise UserError(f"squeeze={squeeze!r} has no effect on a network without cSE and scSE blocks; leave it out")


def local_scores(network: nn.Module, read: Read, sizes: Sequence[int], patch: Sequence[int]) -> Iterator[Tensor]:
    """Apply a network to a whole volume in one pass, in which cSE pools over boxes of the size of the patch.

    Args:
        network: Network without compiled parts, in evaluation mode, from images (N, C, *spatial) of any size to logits
            (N, classes, *spatial), as `build_network` returns it.
        read: Function from a place in the volume to its part (C, *spatial).
        sizes: Size (x, y, z) of the volume, at least that of the patch.
        patch: Size of the images in training.

    Yields:
        The logits (classes, x, y, z), once.
    """
    volume = read(tuple(slice(0, size) for size in sizes))[None]
    local = locally(network, torch.zeros(1, volume.shape[1], *patch, device=volume.device))
    logits: Tensor = local(channels_last(volume))[0]
    yield logits


def locally(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network whose cSE blocks pool over a box around every position instead of over the whole map.

    The box has the size of the block's map when the network runs on the example. At the border of the map, it is moved
    inside.

    Args:
        network: Network without compiled parts, in evaluation mode.
        example: Images (N, C, *patch) of the size in training.
    """
    local = copy.deepcopy(network)
    for block in _channel_blocks(local):
        # an attribute of the instance, because the hooks of an attached block must stay
        block.forward = _LocalForward(block)  # type: ignore[method-assign]
    local(channels_last(example))
    return local


def gathered(network: nn.Module, read: Read, sizes: Sequence[int], patch: Sequence[int]) -> nn.Module:
    """A copy of a network whose cSE blocks use the mean of their squeezes over a volume, whatever their input is.

    The squeezes are those of windows that cover the volume without overlap, except at its end. In that pass, each block
    has the gates of its window, as in training.

    Args:
        network: Network without compiled parts, in evaluation mode.
        read: Function from a place in the volume to its part (C, *spatial).
        sizes: Size (x, y, z) of the volume, at least that of the patch.
        patch: Size of the windows.
    """
    held = copy.deepcopy(network)
    squeezes = {block: _Squeeze() for block in _channel_blocks(held)}
    for block, squeeze in squeezes.items():
        block.squeeze.register_forward_pre_hook(squeeze)
    for place in windows_of(sizes, patch, overlap=0.0):
        held(channels_last(read(place)[None]))
    for squeeze in squeezes.values():
        squeeze.holds = True
    return held


class _LocalForward:
    """Forward of a cSE block that pools over a box of the size of the first map that it gets."""

    def __init__(self, block: ChannelSE) -> None:
        self.block = block
        self.box: tuple[int, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        block = self.block
        if self.box is None:
            self.box = tuple(x.shape[2:])
        means = box_means(x, self.box).movedim(1, -1)
        hidden = formulas.activated(block.squeeze(means), block.activation)
        gates = formulas.gated(block.excite(hidden), block.gate).movedim(-1, 1)
        recalibrated = x * formulas.scaled(gates, block.scale)
        return recalibrated + x if isinstance(block, ResidualChannelSE) else recalibrated


class _Squeeze:
    """Squeeze of one block: a hook that first adds up the means that the block computes, and then replaces them."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.count = 0
        self.holds = False

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        (means,) = inputs
        if self.holds:
            return ((self.total / self.count).expand_as(means),)
        self.total, self.count = self.total.to(means.device) + means.sum(0), self.count + len(means)
        return None


def box_means(x: Tensor, box: Sequence[int]) -> Tensor:
    """Means over a box around every position, moved inside at the border: (N, C, *spatial) -> (N, C, *spatial).

    An axis that is not longer than the box is pooled as a whole: its length in the result is 1.
    """
    for axis, size in enumerate(box):
        length = x.shape[axis + 2]
        if size >= length:
            x = x.mean(axis + 2, keepdim=True)
            continue
        kernel = [1] * len(box)
        kernel[axis] = size
        pooled = _AVERAGE_POOL[len(box)](x, kernel, stride=1)
        first = torch.arange(length, device=x.device) - size // 2
        x = pooled.index_select(axis + 2, first.clamp_(0, length - size))
    return x


def _channel_blocks(network: nn.Module) -> list[ChannelSE]:
    return [module for module in network.modules() if isinstance(module, ChannelSE)]
