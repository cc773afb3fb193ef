"""What the kernels for CPUs and for GPUs have in common: arguments, buffers, and the form of their functions."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

KINDS = ("cse", "sse", "add", "max", "multiply")
"""Kinds of `formulas.recalibrate` that have kernels."""

Weights = tuple[Tensor | None, ...]
"""squeeze_weight, squeeze_bias, excite_weight, excite_bias, project_weight, project_bias; None for absent weights."""


class Options(NamedTuple):
    """Options of a block, see `formulas.recalibrate`."""

    kind: str
    activation: str
    gate: str
    scale: float


class Kernels(Protocol):
    """The kernels for a kind of device."""

    def forward(self, x: Tensor, weights: Weights, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the output, and the two buffers of `empty_gates` for the backward pass."""

    def backward(
        self,
        grad: Tensor,
        saved: tuple[Tensor, Tensor, Tensor],
        weights: Weights,
        options: Options,
        *,
        map_grad: Tensor | None,
    ) -> list[Tensor | None]:
        """Compute the gradients of the six weights, and write the gradient of the map to `map_grad`.

        `grad` has the layout of the map. `saved` holds the map, and the excitation and the spatial gate that `forward`
        returned. Without a `map_grad` the gradient of the map is not computed.
        """


def sums_dtype(x: Tensor) -> torch.dtype:
    """Dtype of the sums and gates of a map."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def empty_gates(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Allocate the buffers that the forward pass fills for the backward pass.

    The first is (N, C + hidden + C), for the means, the hidden layer before its activation, and the channel gates
    before their scale. The second is (N, 1, *spatial), for the spatial gates. The buffer of a gate that the block does
    not have is empty.
    """
    dtype, (samples, channels, *space) = sums_dtype(x), x.shape
    squeeze_weight, project_weight = weights[0], weights[4]
    width = 0 if squeeze_weight is None else 2 * channels + squeeze_weight.shape[0]
    excitation = x.new_empty((samples, width), dtype=dtype)
    return excitation, x.new_empty((0,) if project_weight is None else (samples, 1, *space), dtype=dtype)
