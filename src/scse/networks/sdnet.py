"""SD-Net (SkipDeconv-Net, Roy et al. 2017)."""

from torch import Tensor, nn

from scse.networks.base import ConvUnit, IndexUnpooling


class SingleConv(nn.Module):
    """A block of SD-Net: one convolution, batch normalisation, and ReLU."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, spatial_dims: int) -> None:
        super().__init__()
        self.unit = ConvUnit(in_channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output map: (N, in_channels, *spatial) -> (N, channels, *spatial)."""
        out: Tensor = self.unit(x)
        return out


class SDNet(IndexUnpooling):
    """SD-Net: one convolution per block, un-pooling with the indices of the encoder's pooling, then the skip.

    The arguments are those of `UniformNetwork`.
    """

    block = SingleConv
