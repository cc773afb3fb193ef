"""The recalibration blocks cSE, sSE and scSE as modules, for any number of spatial axes.

Source: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
Networks", MICCAI 2018 (arXiv 1803.02579). One class serves 1D, 2D and 3D, because the weights are matrices.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from scse import functional
from scse.checks import check_positive
from scse.options import IDENTITY_SCALE, REDUCTION, check_aggregation, check_channel_options, hidden_width


class ChannelSE(nn.Module):
    """Spatial squeeze and channel excitation (cSE; Hu et al. 2018, section 2.1 of the paper).

    One gate a channel: sigmoid(W2 relu(W1 z)), z the mean over all spatial axes.

    Args:
        channels: C, of the input and the output.
        reduction: the paper's r; the hidden width is max(1, C // r), so that few channels keep a live gate.
        hidden: the hidden width itself, instead of a reduction.
        activation: after W1: "relu" (the paper), "silu" or "leaky-relu" (slope 0.01).
        gate: after W2: "sigmoid" (the paper), "hard-sigmoid" or "relu", which has no identity.
        bias: whether the two linear layers have biases; the paper's count of parameters is without.
        identity: start as the identity, bit for bit: the last layer is zero and the gate is scaled by 2.

    Shape:
        (N, C, *spatial) -> (N, C, *spatial), one spatial axis or more.

    Raises:
        ValueError: at construction for `channels`, `reduction` or `hidden` below 1, both a `reduction` and
            `hidden`, an unknown `activation` or `gate`, or `identity=True` with a gate that has none; in a call
            for other channels than C.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = REDUCTION,
        hidden: int | None = None,
        activation: str = "relu",
        gate: str = "sigmoid",
        bias: bool = True,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)
        check_channel_options(reduction, hidden, activation, gate, identity=identity)
        self.reduction = reduction
        self.hidden = hidden
        self.activation = activation
        self.gate = gate
        self.identity = identity
        width = hidden_width(channels, reduction, hidden)
        self.squeeze = nn.Linear(channels, width, bias=bias)
        self.excite = nn.Linear(width, channels, bias=bias)
        self.scale = 2.0 if identity else 1.0
        if identity:
            _zero(self.excite)

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels of `x`."""
        squeeze, excite = self.squeeze, self.excite
        return functional.cse(
            x,
            squeeze.weight,
            squeeze.bias,
            excite.weight,
            excite.bias,
            activation=self.activation,
            gate=self.gate,
            scale=self.scale,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that make this block again."""
        return {
            "reduction": self.reduction,
            "hidden": self.hidden,
            "activation": self.activation,
            "gate": self.gate,
            "bias": self.squeeze.bias is not None,
            "identity": self.identity,
        }

    def extra_repr(self) -> str:
        """The arguments, as they would be written."""
        return _written(self.channels, self.options)


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

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that make this block again."""
        return {"bias": self.project.bias is not None, "identity": self.identity}

    def extra_repr(self) -> str:
        """The arguments, as they would be written."""
        return _written(self.channels, self.options)


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
        reduction: int = REDUCTION,
        aggregation: str = "add",
        bias: bool = True,
        identity: bool = False,
    ) -> None:
        super().__init__()
        check_aggregation(aggregation, identity=identity)
        self.aggregation = aggregation
        self.channels = channels
        self.identity = identity
        self.channel = ChannelSE(channels, reduction=reduction, bias=bias, identity=identity)
        self.spatial = SpatialSE(channels, bias=bias, identity=identity)
        self.scale = IDENTITY_SCALE[aggregation] if identity else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels and the positions of `x`."""
        channel = self.channel
        squeeze, excite, project = channel.squeeze, channel.excite, self.spatial.project
        return functional.scse(
            x,
            squeeze.weight,
            squeeze.bias,
            excite.weight,
            excite.bias,
            project.weight,
            project.bias,
            aggregation=self.aggregation,
            scale=self.scale,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that make this block again."""
        return {
            "reduction": self.channel.reduction,
            "aggregation": self.aggregation,
            "bias": self.spatial.project.bias is not None,
            "identity": self.identity,
        }

    def extra_repr(self) -> str:
        """The arguments, as they would be written."""
        return _written(self.channels, self.options)


BLOCKS: dict[str, Callable[[int], nn.Module]] = {"cse": ChannelSE, "sse": SpatialSE, "scse": ConcurrentSE}
"""The variants by name; "none" is the plain network and has no block."""

VARIANTS = ("none", *BLOCKS)
"""The four variants that the paper compares, in its order."""


def _written(channels: int, options: Mapping[str, Any]) -> str:
    return ", ".join([str(channels), *(f"{name}={value!r}" for name, value in options.items())])


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
