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
    return torch.sigmoid(F.linear(x.movedim(1, -1), weight, bias)).movedim(-1, 1)


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
