"""The papers' formulas in plain torch operations. They define what a block computes.

The notation is that of Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully
Convolutional Networks", MICCAI 2018 (arXiv 1803.02579): a feature map U is a tensor `x` of shape (N, C, *spatial)
with at least one spatial axis. The memory format is preserved: `flatten(2)` of a channels-last map is a view.

Project & Excite is that of Rickmann, Guha Roy, Sarasua, Navab, Wachinger, "'Project & Excite' Modules for Segmentation
of Volumetric Medical Scans", MICCAI 2019 (arXiv 1906.04649).
"""

import torch
import torch.fx
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
    # OpenVINO copies a whole map to flatten its axes, which takes as long as the convolutions before it
    squeezed = x.mean(list(range(2, x.ndim))) if _is_exporting() else mean_over_space(x)
    hidden = activated(F.linear(squeezed, squeeze_weight, squeeze_bias), activation)
    return gated(F.linear(hidden, excite_weight, excite_bias), gate)


def spatial_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the gate of sSE, sigmoid(w . x): (N, C, *spatial) -> (N, 1, *spatial).

    w . x is a 1x1 convolution of all channels to one.
    """
    if _is_exporting() and x.ndim in _CONVOLUTIONS:
        # Inference engines would transpose the whole map before and after the linear layer. The TorchScript exporter
        # to ONNX writes these transpositions with a negative axis, which the engines reject.
        return torch.sigmoid(_CONVOLUTIONS[x.ndim](x, over_space(weight, x), bias))
    return torch.sigmoid(F.linear(x.movedim(1, -1), weight, bias)).movedim(-1, 1)


_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def _is_exporting() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def projections(x: Tensor) -> list[Tensor]:
    """Compute the projections of Project & Excite, the means over all spatial axes but one: (N, C, size) per axis.

    A map of one spatial axis is its own projection.
    """
    found: list[Tensor] = []
    while x.ndim > 3:
        found.append(x.mean(list(range(2, x.ndim - 1))))
        # the other projections are means of this mean, so that the map is read twice, however many axes it has
        x = x.mean(-1)
    found.append(x)
    return found[::-1]


def tiled_sum(parts: list[Tensor], axis: int) -> Tensor:
    """Tile one part per spatial axis over the other axes, and add all.

    Args:
        parts: A part per spatial axis: (N, C, size) for `axis` 2, (N, size, C) for `axis` 1.
        axis: Axis of the sizes.

    Returns:
        Sum, (N, C, *spatial) for `axis` 2, (N, *spatial, C) for `axis` 1.
    """
    total = parts[0]
    for part in parts[1:]:
        for _ in range(total.ndim - 2):
            part = part.unsqueeze(axis)  # noqa: PLW2901 (TorchScript)
        total = total.unsqueeze(axis - 3) + part
    return total


def tiled_projections(x: Tensor) -> Tensor:
    """Compute Z, the squeeze of Project & Excite: (N, C, *spatial) -> (N, C, *spatial)."""
    return tiled_sum(projections(x), 2)


# a symbolic trace has no number of axes, so it calls this function as a whole
torch.fx.wrap("tiled_projections")


def project_excite_gate(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor,
    excite_bias: Tensor | None,
) -> Tensor:
    """Compute the gate of Project & Excite, sigmoid(V2 relu(V1 Z)): (N, C, *spatial) -> (N, C, *spatial).

    Z is the tiled sum of the projections of `x`, and V1 and V2 are 1x1 convolutions.
    """
    # V1 is linear, so it is applied to the projections, which are small, instead of to Z; its bias counts once.
    squeezed = [
        F.linear(part.transpose(1, 2), squeeze_weight, squeeze_bias if number == 0 else None)
        for number, part in enumerate(projections(x))
    ]
    # either way, the gate has the memory format of the map
    if not (x.is_contiguous() or _is_exporting()):
        return torch.sigmoid(F.linear(F.relu(tiled_sum(squeezed, 1)), excite_weight, excite_bias).movedim(-1, 1))
    hidden = F.relu(tiled_sum([part.transpose(1, 2) for part in squeezed], 2)).flatten(2)
    weight = excite_weight.expand(hidden.shape[0], -1, -1)
    if excite_bias is None:
        excitation = torch.bmm(weight, hidden)
    else:
        excitation = torch.baddbmm(excite_bias[:, None], weight, hidden)
    gate: Tensor = torch.sigmoid(excitation).unflatten(2, x.shape[2:])
    return gate


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
