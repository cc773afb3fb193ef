"""The paper's formulas in plain torch operations. They define what a block computes.

The notation is that of Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully
Convolutional Networks", MICCAI 2018 (arXiv 1803.02579): a feature map U is a tensor `x` of shape (N, C, *spatial)
with at least one spatial axis. The memory format is preserved: `flatten(2)` of a channels-last map is a view.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The modules call these functions in TorchScript too, which supports chains of if but no tables of functions.


def mean_over_space(x: Tensor) -> Tensor:
    """Compute z, the squeeze of cSE: (N, C, *spatial) -> (N, C)."""
    return x.flatten(2).mean(2)


def activated(hidden: Tensor, activation: str) -> Tensor:
    """Apply the activation between the two layers of cSE, see `options.ACTIVATIONS`."""
    if activation == "silu":
        return F.silu(hidden)
    if activation == "leaky-relu":
        return F.leaky_relu(hidden)
    return F.relu(hidden)


def gated(excitation: Tensor, gate: str) -> Tensor:
    """Apply the gate function of cSE, see `options.GATES`."""
    if gate == "hard-sigmoid":
        return F.hardsigmoid(excitation)
    if gate == "relu":
        return F.relu(excitation)
    return torch.sigmoid(excitation)


def join(x: Tensor, channel: Tensor, spatial: Tensor, aggregation: str) -> Tensor:
    """Recalibrate `x` with both gates of scSE and join the two maps, see `options.AGGREGATIONS`.

    The gates must broadcast over `x`.
    """
    # U * (c + s) takes one product less than U*c + U*s
    return x * (channel + spatial) if aggregation == "add" else join_maps(x * channel, x * spatial, aggregation)


def join_maps(by_channel: Tensor, by_position: Tensor, aggregation: str) -> Tensor:
    """Join the two recalibrated maps U*c and U*s of scSE, see `options.AGGREGATIONS`."""
    if aggregation == "max":
        # maximum of the products, not of the gates: where U is negative, the smaller gate wins
        return torch.maximum(by_channel, by_position)
    if aggregation == "multiply":
        return by_channel * by_position
    if aggregation == "concat":
        return torch.cat([by_channel, by_position], dim=1)
    return by_channel + by_position


def scaled(gates: Tensor, scale: float) -> Tensor:
    """Multiply the gates by the factor of an identity start."""
    return gates if scale == 1.0 else gates * scale


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
    """Compute the gate of cSE, sigmoid(W2 relu(W1 z)): (N, C, *spatial) -> (N, C).

    z is the mean of `x` over all spatial axes. `activation` replaces the ReLU, and `gate` the sigmoid.
    """
    hidden = activated(F.linear(mean_over_space(x), squeeze_weight, squeeze_bias), activation)
    return gated(F.linear(hidden, excite_weight, excite_bias), gate)


def spatial_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the gate of sSE, sigmoid(w . x): (N, C, *spatial) -> (N, 1, *spatial).

    w . x is a 1x1 convolution of all channels to one.
    """
    exporting = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if exporting and x.ndim in _CONVOLUTIONS:
        # Inference engines would transpose the whole map before and after the linear layer. The TorchScript exporter
        # to ONNX writes these transpositions with a negative axis, which the engines reject.
        return torch.sigmoid(_CONVOLUTIONS[x.ndim](x, over_space(weight, x), bias))
    return torch.sigmoid(F.linear(x.movedim(1, -1), weight, bias)).movedim(-1, 1)


_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def over_space(gate: Tensor, x: Tensor) -> Tensor:
    """Add the axes to a channel gate that broadcast it over `x`: (N, C) -> (N, C, 1, ..., 1)."""
    return gate.reshape(*gate.shape, *(1,) * (x.ndim - 2))


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
    """Compute a block from its weights: (N, C, *spatial) -> (N, C, *spatial), with "concat" (N, 2C, *spatial).

    `kind` is "cse", "sse", or the aggregation of an scSE block. The weights of a gate that the block does not have
    are None. `scale` multiplies the gates.
    """
    channel = spatial = None
    if squeeze_weight is not None and excite_weight is not None:
        channel = channel_gate(
            x, squeeze_weight, squeeze_bias, excite_weight, excite_bias, activation=activation, gate=gate
        )
        channel = over_space(scaled(channel, scale), x)
    if project_weight is not None:
        spatial = scaled(spatial_gate(x, project_weight, project_bias), scale)
    if channel is not None and spatial is not None:
        return join(x, channel, spatial, kind)
    gates = channel if spatial is None else spatial
    return x if gates is None else x * gates
