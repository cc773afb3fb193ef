"""Base classes of the networks: layers, the check of the input size, and the places of the blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scse.attachment.hosts import Recalibration, recalibrate
from scse.support.checks import check_positive
from scse.support.errors import UserError
from scse.vocabulary.options import check_kernel_size, check_size, check_spatial_dims
from scse.vocabulary.variants import PLACEMENTS, Variant

CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {2: F.max_pool2d, 3: F.max_pool3d}
MAX_UNPOOL = {2: F.max_unpool2d, 3: F.max_unpool3d}


class ConvUnit(nn.Sequential):
    """Convolution without bias that keeps the size, batch normalisation, and ReLU."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, spatial_dims: int) -> None:
        super().__init__(
            CONV[spatial_dims](in_channels, channels, kernel_size, padding=kernel_size // 2, bias=False),
            NORM[spatial_dims](channels),
            nn.ReLU(inplace=True),
        )


class EncoderDecoder(nn.Module):
    """A network of `depth` encoder blocks, a bottleneck, `depth` decoder blocks and a 1x1 classifier.

    A subclass builds `encoder`, `bottleneck`, `decoder` and `classifier` without recalibration blocks, then calls
    `_place`.

    Args:
        depth: Number of halvings.
        spatial_dims: Number of spatial axes, 2 or 3.
    """

    encoder: nn.ModuleList
    bottleneck: nn.Module
    decoder: nn.ModuleList

    options: dict[str, Any]
    """Keyword arguments that construct this network again, without its recalibration blocks."""

    def __init__(self, *, depth: int, spatial_dims: int) -> None:
        super().__init__()
        self.depth = check_positive("depth", depth)
        self.spatial_dims = check_spatial_dims(spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of all classes: (N, in_channels, *spatial) -> (N, classes, *spatial).

        Raises:
            UserError: `x` has another number of spatial axes, or a spatial axis shorter than 2 ** depth.
        """
        size = tuple(x.shape[2:])
        if len(size) != self.spatial_dims:
            raise UserError(
                f"{type(self).__name__} takes (N, channels, {self.spatial_dims} spatial axes), "
                f"got shape {tuple(x.shape)}"
            )
        check_size(type(self).__name__, self.depth, size)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _place(self, channels: Sequence[int], recalibration: Recalibration) -> None:
        """Attach blocks to the parts of the variant: by default, to every encoder and decoder block.

        Subclasses call this at the end of construction, so that all variants draw the same values for shared weights.

        Args:
            channels: Output channels of the encoder blocks, of the decoder blocks, and of the bottleneck.
            recalibration: Blocks to attach.
        """
        parts = PLACEMENTS["both"]
        if isinstance(recalibration, str):
            recalibration = Variant.parse(recalibration, name="recalibration")
        if isinstance(recalibration, Variant):
            parts = recalibration.parts
        hosts = [*self.encoder, *self.decoder, self.bottleneck]
        part_of_host = ["encoder"] * self.depth + ["decoder"] * self.depth + ["bottleneck"]
        places = [
            (host, width) for host, part, width in zip(hosts, part_of_host, channels, strict=True) if part in parts
        ]
        recalibrate(places, recalibration)


class UniformNetwork(EncoderDecoder):
    """A network of the same kind of block and the same width at every level, as the three networks of the paper.

    The defaults are those of the paper (MICCAI 2018, section 3): 4 + 4 blocks, 64 channels, 5x5 kernels, 28 classes.

    Args:
        in_channels: Number of channels of the image.
        classes: Number of classes, including the background.
        width: Number of channels of every block.
        depth: Number of encoder blocks, which is also the number of decoder blocks. Any image whose axes have at least
            2 ** depth pixels is supported, and the output has its size.
        kernel_size: Kernel size of all convolutions except 1x1 convolutions. Must be odd.
        spatial_dims: Number of spatial axes, 2 or 3.
        recalibration: Variant: None, "cse", "sse", "scse" or "pe". All but None may have options, such as
            "scse[reduction=4,placement=encoder]", see `scse.variants`. Or a function of the number of channels that
            returns a block. Without the option `placement`, one block follows every encoder and decoder block.

    Raises:
        UserError: A number is below 1, the kernel size is even, `spatial_dims` is neither 2 nor 3, or the variant is
            unknown.
    """

    block: ClassVar[Callable[..., nn.Module]]
    """Class of the blocks, called with (in_channels, channels=, kernel_size=, spatial_dims=)."""

    def __init__(
        self,
        in_channels: int = 1,
        *,
        classes: int = 28,
        width: int = 64,
        depth: int = 4,
        kernel_size: int = 5,
        spatial_dims: int = 2,
        recalibration: Recalibration = None,
    ) -> None:
        super().__init__(depth=depth, spatial_dims=spatial_dims)
        check_positive("width", width)
        check_kernel_size(kernel_size)
        block = partial(type(self).block, channels=width, kernel_size=kernel_size, spatial_dims=spatial_dims)
        inputs = [check_positive("in_channels", in_channels), *[width] * (depth - 1)]
        self.encoder = nn.ModuleList(block(channels) for channels in inputs)
        self.bottleneck = block(width)
        self.decoder = nn.ModuleList(block(2 * width) for _ in range(depth))
        self.classifier = CONV[spatial_dims](width, check_positive("classes", classes), 1)
        self.options = {
            "in_channels": in_channels,
            "classes": classes,
            "width": width,
            "depth": depth,
            "kernel_size": kernel_size,
            "spatial_dims": spatial_dims,
        }
        self._place([width] * (2 * depth + 1), recalibration)


class IndexUnpooling(UniformNetwork):
    """A network whose decoder un-pools with the indices of the encoder's pooling, then concatenates the skip."""

    def _run(self, x: Tensor) -> Tensor:
        pool, unpool = MAX_POOL[self.spatial_dims], MAX_UNPOOL[self.spatial_dims]
        skips = []
        for block in self.encoder:
            skip = block(x)
            x, indices = pool(skip, 2, return_indices=True)
            skips.append((skip, indices))
        x = self.bottleneck(x)
        for block in self.decoder:
            skip, indices = skips.pop()
            x = unpool(x, indices, [2] * self.spatial_dims, output_size=skip.shape)
            x = block(torch.cat([skip, x], dim=1))
        logits: Tensor = self.classifier(x)
        return logits
