"""U-Net (Ronneberger et al., MICCAI 2015) as the paper sizes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scse.networks.base import MAX_POOL, ConvUnit, UniformNetwork


class DoubleConv(nn.Module):
    """A block of U-Net: convolution, batch normalisation and ReLU, twice."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, spatial_dims: int) -> None:
        super().__init__()
        self.first = ConvUnit(in_channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)
        self.second = ConvUnit(channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, *spatial) -> (N, channels, *spatial)."""
        out: Tensor = self.second(self.first(x))
        return out


class UNet(UniformNetwork):
    """U-Net with the same width at every level and a parameter-free (nearest) up-sampling.

    Arguments as in `UniformNetwork`. With its defaults the convolution weights number 2,153,792.
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
