"""The paper's formulas in plain torch operations: the one definition of what a block computes.

Notation of Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional
Networks", MICCAI 2018 (arXiv 1803.02579): a feature map U is a tensor `x` of shape (N, C, *spatial) with one
spatial axis or more. Memory formats are kept: for a channels-last map, `flatten(2)` is a view.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu, "leaky-relu": F.leaky_relu}
"""What cSE has between its two layers: the paper's ReLU, and what other libraries have there."""

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard-sigmoid": F.hardsigmoid,
    "relu": F.relu,
}
"""What cSE makes its gates with: the paper's sigmoid, and what other libraries have there."""


def channel_gate(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor,
    excite_bias: Tensor | None,
    *,
    activation: str = "relu",
    gate: str = "sigmoid",
) -> Tensor:
    """sigmoid(W2 relu(W1 z)), or with another gate and activation, z the mean of `x` over all spatial axes.

    (N, C, *spatial) -> (N, C).
    """
    squeezed = x.flatten(2).mean(2)
    hidden = ACTIVATIONS[activation](F.linear(squeezed, squeeze_weight, squeeze_bias))
    return GATES[gate](F.linear(hidden, excite_weight, excite_bias))


def spatial_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """sigmoid(w . x), a 1x1 convolution of C channels to one: (N, C, *spatial) -> (N, 1, *spatial)."""
    if torch.compiler.is_exporting() and x.ndim in _CONVOLUTIONS:
        # engines that run exported programs would turn the whole map for the product and back
        return torch.sigmoid(_CONVOLUTIONS[x.ndim](x, over_space(weight, x), bias))
    return torch.sigmoid(F.linear(x.movedim(1, -1), weight, bias)).movedim(-1, 1)


_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def over_space(gate: Tensor, x: Tensor) -> Tensor:
    """A channel gate (N, C) with the axes that broadcast it over those of `x`: (N, C, 1, ..., 1)."""
    return gate.reshape(*gate.shape, *(1,) * (x.ndim - 2))


def add(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """U*c + U*s, written U*(c + s): the paper's scSE, one product less."""
    return x * (channel + spatial)


def maximum(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """max(U*c, U*s), of the products: where U is negative, the smaller gate wins."""
    return torch.maximum(x * channel, x * spatial)


def multiply(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """(U*c) * (U*s), element by element."""
    return (x * channel) * (x * spatial)


def concat(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """U*c and U*s one after the other on the channel axis: (N, 2C, *spatial)."""
    return torch.cat([x * channel, x * spatial], dim=1)


AGGREGATIONS = {"add": add, "max": maximum, "multiply": multiply, "concat": concat}
"""How scSE joins its two recalibrated maps; the paper adds, its journal version compares all four."""


def recalibrate(  # noqa: PLR0917 (the weights in the order of the formula)
    x: Tensor,
    squeeze_weight: Tensor | None,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor | None,
    excite_bias: Tensor | None,
    project_weight: Tensor | None,
    project_bias: Tensor | None,
    *,
    kind: str,
    activation: str = "relu",
    gate: str = "sigmoid",
    scale: float = 1.0,
) -> Tensor:
    """A block from its weights: `kind` is "cse", "sse" or, for scSE, the name of its aggregation.

    (N, C, *spatial) -> (N, C, *spatial), with "concat" (N, 2C, *spatial). The weights of a gate that the kind does
    not have are None. `scale` multiplies the gates.
    """
    channel = spatial = None
    if squeeze_weight is not None and excite_weight is not None:
        channel = channel_gate(
            x, squeeze_weight, squeeze_bias, excite_weight, excite_bias, activation=activation, gate=gate
        )
        channel = over_space(_scaled(channel, scale), x)
    if project_weight is not None:
        spatial = _scaled(spatial_gate(x, project_weight, project_bias), scale)
    if channel is not None and spatial is not None:
        return AGGREGATIONS[kind](x, channel, spatial)
    gates = channel if spatial is None else spatial
    return x if gates is None else x * gates


def _scaled(gate: Tensor, scale: float) -> Tensor:
    return gate if scale == 1.0 else gate * scale
