"""The blocks as functions of a feature map and its weights.

Every function takes `x` of shape (N, C, *spatial), one spatial axis or more, in any memory format and any
floating dtype, and raises ValueError when shapes do not fit. `scale` multiplies the gates: with 2 a gate of
sigmoid(0) leaves its input as it was.

Source: Roy, Navab, Wachinger, MICCAI 2018 (arXiv 1803.02579), section 2; the aggregations other than "add" are
those of the journal version (IEEE TMI 38(2), 2019, arXiv 1808.08127).
"""

import torch
from torch import Tensor

from scse.blocks.kernels import recalibrate
from scse.support.checks import check_choice
from scse.support.errors import UserError
from scse.vocabulary.options import ACTIVATIONS, AGGREGATIONS, GATES


def cse(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor,
    excite_bias: Tensor | None,
    *,
    activation: str = "relu",
    gate: str = "sigmoid",
    scale: float = 1.0,
) -> Tensor:
    """Spatial squeeze and channel excitation (cSE): U * c.

    Args:
        x: feature map U, (N, C, *spatial).
        squeeze_weight: W1, (hidden, C).
        squeeze_bias: (hidden,) or None.
        excite_weight: W2, (C, hidden).
        excite_bias: (C,) or None.
        activation: after W1: "relu" (the paper), "silu" or "leaky-relu" (slope 0.01).
        gate: after W2: "sigmoid" (the paper), "hard-sigmoid" or "relu".
        scale: factor on the gate.

    Returns:
        (N, C, *spatial).

    Raises:
        ValueError: an unknown activation or gate, `x` has no spatial axis, or its channels or the shapes of the
            weights do not fit.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("gate", gate, GATES)
    _check_channel(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias)
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, None, None)
    return recalibrate(x, *weights, kind="cse", activation=activation, gate=gate, scale=scale)


def sse(x: Tensor, weight: Tensor, bias: Tensor | None, *, scale: float = 1.0) -> Tensor:
    """Channel squeeze and spatial excitation (sSE): U * s.

    Args:
        x: feature map U, (N, C, *spatial).
        weight: w, (1, C): one gate a position, never one a channel.
        bias: (1,) or None.
        scale: factor on the gate.

    Returns:
        (N, C, *spatial).

    Raises:
        ValueError: `x` has no spatial axis, its channels are not those of the weight, or the weight has another
            shape.
    """
    check_map(x, weight.shape[1])
    _check_layer("weight", weight, bias, outputs=1, inputs=x.shape[1])
    return recalibrate(x, None, None, None, None, weight, bias, kind="sse", scale=scale)


def scse(  # noqa: PLR0917 (the weights in the order of the formula)
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor,
    excite_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    *,
    aggregation: str = "add",
    scale: float = 1.0,
) -> Tensor:
    """Concurrent spatial and channel squeeze & excitation (scSE): both gates from the same input, joined.

    Args:
        x: feature map U, (N, C, *spatial).
        squeeze_weight: W1 of cSE, (hidden, C).
        squeeze_bias: (hidden,) or None.
        excite_weight: W2 of cSE, (C, hidden).
        excite_bias: (C,) or None.
        project_weight: w of sSE, (1, C).
        project_bias: (1,) or None.
        aggregation: "add" (the paper: U*c + U*s), "max" (of the two products), "multiply" (U*c times U*s) or
            "concat" (U*c, then U*s).
        scale: factor on both gates.

    Returns:
        (N, C, *spatial); with "concat" (N, 2C, *spatial).

    Raises:
        ValueError: an unknown aggregation, no spatial axis, or channels or shapes of the weights that do not fit.
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    _check_channel(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias)
    _check_layer("project_weight", project_weight, project_bias, outputs=1, inputs=x.shape[1])
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias)
    return recalibrate(x, *weights, kind=aggregation, scale=scale)


def check_map(x: Tensor, channels: int) -> None:
    """Check a feature map.

    Raises:
        ValueError: it has no spatial axis, or other than `channels` channels.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # sizes are tensors there, and comparing them would be told as a fault
    if x.ndim < 3:
        raise UserError(
            f"a feature map has shape (N, C, *spatial) with at least one spatial axis, got {tuple(x.shape)}"
        )
    if x.shape[1] != channels:
        raise UserError(
            f"the block was built for {channels} channels, but its input of shape {tuple(x.shape)} "
            f"has {x.shape[1]}; channels are axis 1"
        )


def _check_channel(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor,
    excite_bias: Tensor | None,
) -> None:
    check_map(x, squeeze_weight.shape[1])
    hidden, channels = squeeze_weight.shape
    _check_layer("squeeze_weight", squeeze_weight, squeeze_bias, outputs=hidden, inputs=channels)
    _check_layer("excite_weight", excite_weight, excite_bias, outputs=channels, inputs=hidden)


def _check_layer(name: str, weight: Tensor, bias: Tensor | None, *, outputs: int, inputs: int) -> None:
    """Refuse what broadcasting would accept: a gate or a bias of another length than the formula's."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    if weight.shape != (outputs, inputs):
        raise UserError(f"{name} must have shape {(outputs, inputs)}, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (outputs,):
        raise UserError(f"the bias that goes with {name} must have shape {(outputs,)}, got {tuple(bias.shape)}")
