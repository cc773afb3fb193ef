"""U-Net (Ronneberger et al., MICCAI 2015) with the width and depth of the paper."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scse.networks.base import MAX_POOL, ConvUnit, UniformNetwork


class DoubleConv(nn.Module):
    """A block of U-Net: two units of convolution, batch normalisation and ReLU."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, spatial_dims: int) -> None:
        super().__init__()
        self.first = ConvUnit(in_channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)
        self.second = ConvUnit(channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output map: (N, in_channels, *spatial) -> (N, channels, *spatial)."""
        out: Tensor = self.second(self.first(x))
        return out


class UNet(UniformNetwork):
    """U-Net with the same width at every level and parameter-free (nearest neighbour) up-sampling.

    The arguments are those of `UniformNetwork`. With the defaults it has 2,153,792 convolution weights.
    """

    block = DoubleConv

    def _run(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = MAX_POOL[self.spatial_dims](x, 2)
        x = self.bottleneck(x)
        for block in self.decoder:
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([skip, x], dim=1))
        logits: Tensor = self.classifier(x)
        return logits
