"""The blocks as functions of a feature map and weights.

Every function takes `x` of shape (N, C, *spatial) with at least one spatial axis, in any memory format and any
floating dtype, and raises UserError if shapes do not match. `scale` multiplies the gates: with a scale of 2, a gate of
sigmoid(0) leaves its input unchanged.

Source: Roy, Navab, Wachinger, MICCAI 2018 (arXiv 1803.02579), section 2. The aggregations other than "add" are from
the journal version (IEEE TMI 38(2), 2019, arXiv 1808.08127). Project & Excite is from Rickmann, Guha Roy, Sarasua,
Navab, Wachinger, MICCAI 2019 (arXiv 1906.04649).
"""

import torch
from torch import Tensor

from scse.blocks import formulas
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
        x: Feature map U, (N, C, *spatial).
        squeeze_weight: Weight W1, (hidden, C).
        squeeze_bias: Bias of the first layer, (hidden,), or None.
        excite_weight: Weight W2, (C, hidden).
        excite_bias: Bias of the second layer, (C,), or None.
        activation: Activation after W1: "relu" (the paper), "silu" or "leaky-relu" (slope 0.01).
        gate: Gate function after W2: "sigmoid" (the paper), "hard-sigmoid" or "relu".
        scale: Factor on the gate.

    Returns:
        Recalibrated map, (N, C, *spatial).

    Raises:
        UserError: `activation` or `gate` is unknown, `x` has no spatial axis, or its number of channels and the shapes
            of the weights do not match.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("gate", gate, GATES)
    _check_channel(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias)
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, None, None)
    return recalibrate(x, *weights, kind="cse", activation=activation, gate=gate, scale=scale)


def sse(x: Tensor, weight: Tensor, bias: Tensor | None, *, scale: float = 1.0) -> Tensor:
    """Channel squeeze and spatial excitation (sSE): U * s.

    Args:
        x: Feature map U, (N, C, *spatial).
        weight: Weight w, (1, C). One gate per position, shared by all channels.
        bias: Bias, (1,), or None.
        scale: Factor on the gate.

    Returns:
        Recalibrated map, (N, C, *spatial).

    Raises:
        UserError: `x` has no spatial axis, or its number of channels and the shapes of the weights do not match.
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
    """Concurrent spatial and channel squeeze & excitation (scSE): cSE and sSE of the same input, joined.

    Args:
        x: Feature map U, (N, C, *spatial).
        squeeze_weight: Weight W1 of cSE, (hidden, C).
        squeeze_bias: Bias of the first layer of cSE, (hidden,), or None.
        excite_weight: Weight W2 of cSE, (C, hidden).
        excite_bias: Bias of the second layer of cSE, (C,), or None.
        project_weight: Weight w of sSE, (1, C).
        project_bias: Bias of sSE, (1,), or None.
        aggregation: "add" (the paper: U*c + U*s), "max" (maximum of the two products), "multiply" (U*c times U*s) or
            "concat" (U*c, then U*s, along the channels).
        scale: Factor on both gates.

    Returns:
        Recalibrated map, (N, C, *spatial); with "concat" (N, 2C, *spatial).

    Raises:
        UserError: `aggregation` is unknown, `x` has no spatial axis, or its number of channels and the shapes of the
            weights do not match.
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    _check_channel(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias)
    _check_layer("project_weight", project_weight, project_bias, outputs=1, inputs=x.shape[1])
    weights = (squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias)
    return recalibrate(x, *weights, kind=aggregation, scale=scale)


def pe(
    x: Tensor,
    squeeze_weight: Tensor,
    squeeze_bias: Tensor | None,
    excite_weight: Tensor,
    excite_bias: Tensor | None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Project & Excite (PE): U times a gate for every element, from the means of U along the axes.

    Args:
        x: Feature map U, (N, C, *spatial).
        squeeze_weight: Weight V1, (hidden, C).
        squeeze_bias: Bias of the first layer, (hidden,), or None.
        excite_weight: Weight V2, (C, hidden).
        excite_bias: Bias of the second layer, (C,), or None.
        scale: Factor on the gate.

    Returns:
        Recalibrated map, (N, C, *spatial).

    Raises:
        UserError: `x` has no spatial axis, or its number of channels and the shapes of the weights do not match.
    """
    _check_channel(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias)
    gate = formulas.project_excite_gate(x, squeeze_weight, squeeze_bias, excite_weight, excite_bias)
    return x * formulas.scaled(gate, scale)


def check_map(x: Tensor, channels: int) -> None:
    """Check that a feature map has a spatial axis and `channels` channels, raise UserError otherwise."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # sizes are tensors there, and comparing them raises a tracer warning
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
    """Check the shapes of a layer, because broadcasting would accept wrong ones."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    if weight.shape != (outputs, inputs):
        raise UserError(f"{name} must have shape {(outputs, inputs)}, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (outputs,):
        raise UserError(f"the bias of {name} must have shape {(outputs,)}, got {tuple(bias.shape)}")
