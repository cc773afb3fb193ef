"""FC-DenseNet: the version of the paper's authors, and the original Tiramisu (Jegou et al., CVPRW 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scse.attachment.hosts import Recalibration
from scse.networks.base import CONV, CONV_TRANSPOSE, MAX_POOL, NORM, EncoderDecoder, IndexUnpooling
from scse.support.checks import check_positive
from scse.vocabulary.options import TIRAMISU, check_layers, check_tiramisu


class PreConv(nn.Sequential):
    """Batch normalisation, ReLU, and convolution that keeps the size."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, spatial_dims: int) -> None:
        super().__init__(
            NORM[spatial_dims](in_channels),
            nn.ReLU(),
            CONV[spatial_dims](in_channels, channels, kernel_size, padding=kernel_size // 2),
        )


class DenseBlock(nn.Module):
    """A dense block of FCDenseNet: two convolutions of all preceding maps, then a 1x1 convolution to `channels`."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, spatial_dims: int) -> None:
        super().__init__()
        self.first = PreConv(in_channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)
        self.second = PreConv(in_channels + channels, channels, kernel_size=kernel_size, spatial_dims=spatial_dims)
        self.join = PreConv(in_channels + 2 * channels, channels, kernel_size=1, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output map: (N, in_channels, *spatial) -> (N, channels, *spatial)."""
        x = torch.cat([x, self.first(x)], dim=1)
        x = torch.cat([x, self.second(x)], dim=1)
        out: Tensor = self.join(x)
        return out


class FCDenseNet(IndexUnpooling):
    """FC-DenseNet as configured by the paper's authors: dense blocks, index un-pooling, the same width everywhere.

    The arguments are those of `UniformNetwork`. `width` is also the number of maps that every convolution adds inside a
    block. For the networks of the original publication see `tiramisu`.
    """

    block = DenseBlock

    @staticmethod
    def tiramisu(
        size: int,
        *,
        in_channels: int = 3,
        classes: int = 11,
        dropout: float = 0.2,
        spatial_dims: int = 2,
        recalibration: Recalibration = None,
    ) -> "Tiramisu":
        """Build the original FC-DenseNet56, 67 or 103 (Jegou et al. 2017, table 2). The defaults are for CamVid.

        Arguments and errors are those of `Tiramisu`.

        Raises:
            UserError: `size` is not 56, 67 or 103.
        """
        growth, layers, bottleneck = TIRAMISU[check_tiramisu(size)]
        return Tiramisu(
            in_channels,
            classes=classes,
            growth=growth,
            layers=layers,
            bottleneck_layers=bottleneck,
            dropout=dropout,
            spatial_dims=spatial_dims,
            recalibration=recalibration,
        )


class GrowthBlock(nn.Module):
    """A dense block of Tiramisu. Every layer adds `growth` maps; with `keep_input` the output includes the input."""

    def __init__(
        self,
        in_channels: int,
        *,
        growth: int,
        layers: int,
        keep_input: bool,
        dropout: float,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        self.keep_input = keep_input
        self.channels = layers * growth + (in_channels if keep_input else 0)
        self.layers = nn.ModuleList(
            nn.Sequential(
                PreConv(in_channels + i * growth, growth, kernel_size=3, spatial_dims=spatial_dims),
                nn.Dropout(dropout),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output maps: (N, in_channels, *spatial) -> (N, self.channels, *spatial)."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, dim=1)))
        return torch.cat(maps if self.keep_input else maps[1:], dim=1)


class Tiramisu(EncoderDecoder):
    """The original FC-DenseNet (Jegou et al. 2017) with transitions down and up; transposed convolutions upsample.

    Args:
        in_channels: Number of channels of the image.
        classes: Number of classes, including the background.
        growth: Number of maps that every layer adds.
        layers: Number of layers of each encoder block. The decoder has them in reverse order.
        bottleneck_layers: Number of layers of the bottleneck.
        first: Number of maps of the first convolution.
        dropout: Probability of dropping a value after each layer.
        spatial_dims: Number of spatial axes, 2 or 3.
        recalibration: Variant, as in `UNet`.

    Raises:
        UserError: A number is below 1, `spatial_dims` is neither 2 nor 3, or the variant is unknown.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        classes: int = 11,
        growth: int = 16,
        layers: Sequence[int] = TIRAMISU[103][1],
        bottleneck_layers: int = 15,
        first: int = 48,
        dropout: float = 0.2,
        spatial_dims: int = 2,
        recalibration: Recalibration = None,
    ) -> None:
        super().__init__(depth=len(check_layers(layers)), spatial_dims=spatial_dims)
        check_positive("growth", growth)

        def block(channels: int, count: int, *, keep_input: bool) -> GrowthBlock:
            return GrowthBlock(
                channels,
                growth=growth,
                layers=count,
                keep_input=keep_input,
                dropout=dropout,
                spatial_dims=spatial_dims,
            )

        conv = CONV[spatial_dims]
        self.first = conv(check_positive("in_channels", in_channels), check_positive("first", first), 3, padding=1)
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        channels, skips = first, []
        for count in layers:
            dense = block(channels, check_positive("layers", count), keep_input=True)
            channels = dense.channels
            skips.append(channels)
            self.encoder.append(dense)
            transition = PreConv(channels, channels, kernel_size=1, spatial_dims=spatial_dims)
            self.down.append(nn.Sequential(transition, nn.Dropout(dropout)))
        self.bottleneck = block(channels, check_positive("bottleneck_layers", bottleneck_layers), keep_input=False)
        channels = self.bottleneck.channels
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level, count in enumerate(reversed(layers), start=1):
            self.up.append(CONV_TRANSPOSE[spatial_dims](channels, channels, 3, stride=2))
            dense = block(channels + skips.pop(), count, keep_input=level == len(layers))
            channels = dense.channels
            self.decoder.append(dense)
        self.classifier = conv(channels, check_positive("classes", classes), 1)
        self.options = {
            "in_channels": in_channels,
            "classes": classes,
            "growth": growth,
            "layers": list(layers),
            "bottleneck_layers": bottleneck_layers,
            "first": first,
            "dropout": dropout,
            "spatial_dims": spatial_dims,
        }
        hosts = [*self.encoder, *self.decoder, self.bottleneck]
        self._place([host.channels for host in hosts if isinstance(host, GrowthBlock)], recalibration)

    def _run(self, x: Tensor) -> Tensor:
        skips = []
        x = self.first(x)
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = MAX_POOL[self.spatial_dims](down(x), 2)
        x = self.bottleneck(x)
        for up, block in zip(self.up, self.decoder, strict=True):
            skip = skips.pop()
            x = block(torch.cat([skip, _crop(up(x), skip)], dim=1))
        logits: Tensor = self.classifier(x)
        return logits


def _crop(x: Tensor, like: Tensor) -> Tensor:
    """Crop the centre of `x` to the spatial size of `like`. A transition up turns a size n into 2n + 1."""
    for axis in range(2, x.ndim):
        size = like.shape[axis]
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x
