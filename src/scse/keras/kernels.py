"""The fused kernels of `scse.blocks` for the Keras layers on the torch backend, in the one place that chooses them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

FUNCTIONS: Mapping[str, Callable[..., Any]] = {}
"""Function of `scse.blocks.functional` by variant, for those that have kernels. Empty on all backends but torch."""

if keras.config.backend() == "torch":
    import torch

    from scse.blocks import functional

    FUNCTIONS = {"cse": functional.cse, "sse": functional.sse, "scse": functional.scse}


def recalibrated(
    variant: str, x: Any, layers: Sequence[keras.layers.Dense], *, channel_axis: int, **options: Any
) -> Any:
    """Compute a block as the torch modules do, with a fused kernel if there is one for the call; on torch alone.

    Args:
        variant: "cse", "sse" or "scse".
        x: Feature map, (N, *spatial, C) or (N, C, *spatial).
        layers: Dense layers of the block in the order of the function's arguments. All must be linear.
        channel_axis: Axis of the channels, -1 or 1.
        **options: Keyword arguments of the function in `scse.blocks.functional`.

    Returns:
        Recalibrated map with its axes in the order of `x`, or None if the layers themselves must compute it: for a
        symbolic map, in an exported program, which keeps Keras' order of axes, for cSE and sSE under `torch.compile`,
        and for weights of another dtype or device than the map.
    """
    if not isinstance(x, torch.Tensor) or _is_exporting():
        return None
    if variant != "scse" and torch.compiler.is_compiling():
        # compilers fuse the few operations of one gate themselves, and on small maps the call of a kernel takes longer
        return None
    weights: list[Any] = []
    for layer in layers:
        # `value` is cast to the compute dtype of the layer that is being called, and differentiable. The kernels would
        # copy the transposed matrix, too, but the operator for compilers returns the gradients of dense weights alone.
        weights += [layer.kernel.value.T.contiguous(), None if layer.bias is None else layer.bias.value]
    if any(weight is not None and (weight.dtype != x.dtype or weight.device != x.device) for weight in weights):
        return None
    function = FUNCTIONS[variant]
    if channel_axis == 1:
        return function(x, *weights, **options)
    # a view, channels-last in the sense of torch, which needs no copy
    return function(x.movedim(-1, 1), *weights, **options).movedim(1, -1)


def _is_exporting() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
