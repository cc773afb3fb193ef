"""The recalibration blocks cSE, sSE and scSE as modules, for any number of spatial axes.

Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
Networks", MICCAI 2018 (arXiv 1803.02579). One class serves 1D, 2D and 3D, because the weights are matrices.
"""

from collections.abc import Callable

from torch import Tensor, nn

from scse import functional
from scse.checks import check_choice, check_positive
from scse.formulas import AGGREGATIONS

IDENTITY_SCALE = {"add": 1.0, "max": 2.0}
"""Factor on the gates that makes gates of sigmoid(0) = 0.5 the identity; the other aggregations have none."""


class ChannelSE(nn.Module):
    """Spatial squeeze and channel excitation (cSE; Hu et al. 2018, section 2.1 of the paper).

    One gate a channel: sigmoid(W2 relu(W1 z)), z the mean over all spatial axes.

    Args:
        channels: C, of the input and the output.
        reduction: the paper's r; the hidden width is max(1, C // r), so that few channels keep a live gate.
        bias: whether the two linear layers have biases; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the last layer is zero and the gate is scaled by 2.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), one spatial axis or more.

    Raises:
        ValueError: at construction for `channels` or `reduction` below 1; in a call for other channels than C.
    """

    def __init__(self, channels: int, *, reduction: int = 2, bias: bool = True, identity: bool = False) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        self.reduction = check_positive("reduction", reduction)
        self.identity = identity
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden, bias=bias)
        self.excite = nn.Linear(hidden, channels, bias=bias)
        self.scale = 2.0 if identity else 1.0
        if identity:
            _zero(self.excite)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels of `x`."""
        return functional.cse(
            x,
            self.squeeze.weight,
            self.squeeze.bias,
            self.excite.weight,
            self.excite.bias,
            scale=self.scale,
        )

    def extra_repr(self) -> str:
        """Every option, as it would be written."""
        return (
            f"{self.channels}, reduction={self.reduction}, bias={self.squeeze.bias is not None}, "
            f"identity={self.identity}"
        )


class SpatialSE(nn.Module):
    """Channel squeeze and spatial excitation (sSE; section 2.2 of the paper).

    One gate a position: sigmoid(w . x), a 1x1 convolution of all channels to one.

    Args:
        channels: C, of the input and the output.
        bias: whether the projection has a bias; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the projection is zero and the gate is scaled by 2.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), one spatial axis or more.

    Raises:
        ValueError: at construction for `channels` below 1; in a call for other channels than C.
    """

    def __init__(self, channels: int, *, bias: bool = True, identity: bool = False) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        self.identity = identity
        self.project = nn.Linear(channels, 1, bias=bias)
        self.scale = 2.0 if identity else 1.0
        if identity:
            _zero(self.project)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the positions of `x`."""
        return functional.sse(x, self.project.weight, self.project.bias, scale=self.scale)

    def extra_repr(self) -> str:
        """Every option, as it would be written."""
        return f"{self.channels}, bias={self.project.bias is not None}, identity={self.identity}"


class ConcurrentSE(nn.Module):
    """Concurrent spatial and channel squeeze & excitation (scSE; section 2.3 of the paper).

    Both gates see the same input; `aggregation` joins the two recalibrated maps.

    Args:
        channels: C, of the input.
        reduction: the paper's r, see `ChannelSE`.
        aggregation: "add" (the paper), "max" (the authors' later code), "multiply", or "concat", which returns
            2C channels.
        bias: whether all linear layers have biases; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the last layers are zero; with "max" the gates are
            scaled by 2. "multiply" and "concat" have no identity.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), with "concat" (N, 2C, *spatial); one spatial axis or more.

    Raises:
        ValueError: at construction for `channels` or `reduction` below 1, an unknown `aggregation`, or
            `identity=True` with one that has none; in a call for other channels than C.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 2,
        aggregation: str = "add",
        bias: bool = True,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.aggregation = check_choice("aggregation", aggregation, AGGREGATIONS)
        if identity and aggregation not in IDENTITY_SCALE:
            raise ValueError(
                f"aggregation {aggregation!r} cannot start as the identity; "
                f"use identity=False, or one of {', '.join(map(repr, IDENTITY_SCALE))}"
            )
        self.identity = identity
        self.channel = ChannelSE(channels, reduction=reduction, bias=bias, identity=identity)
        self.spatial = SpatialSE(channels, bias=bias, identity=identity)
        self.scale = IDENTITY_SCALE[aggregation] if identity else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels and the positions of `x`."""
        return functional.scse(
            x,
            self.channel.squeeze.weight,
            self.channel.squeeze.bias,
            self.channel.excite.weight,
            self.channel.excite.bias,
            self.spatial.project.weight,
            self.spatial.project.bias,
            aggregation=self.aggregation,
            scale=self.scale,
        )

    def extra_repr(self) -> str:
        """Every option, as it would be written."""
        channel = self.channel
        return (
            f"{channel.channels}, reduction={channel.reduction}, aggregation={self.aggregation!r}, "
            f"bias={channel.squeeze.bias is not None}, identity={self.identity}"
        )


BLOCKS: dict[str, Callable[[int], nn.Module]] = {"cse": ChannelSE, "sse": SpatialSE, "scse": ConcurrentSE}
"""The variants by name; "none" is the plain network and has no block."""

VARIANTS = ("none", *BLOCKS)
"""The four variants that the paper compares, in its order."""


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
