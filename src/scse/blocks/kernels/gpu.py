"""The launches of the GPU kernels: block sizes by shape, buffers, and the conditions of use."""

from typing import NamedTuple

import torch
from torch import Tensor

from scse.blocks.kernels import triton_kernels
from scse.blocks.kernels.interface import Options, Weights, empty_gates

MOST_CHANNELS = 1024
"""Channels of a tile, at most; kernels go through more of them tile by tile."""

ROWS = 16
"""Rows of a weight whose gradient one program computes."""


class Sizes(NamedTuple):
    """Sizes of the tiles of a launch. They depend on the shape alone, so that all runs and ranks add in one order.

    Attributes:
        channels: Channels of a tile, a power of 2.
        blocks: Tiles that hold all channels.
        positions: Positions of a tile, a power of 2.
        hidden: Units of the hidden layer that are computed at a time, a power of 2.
        parts: Partial sums that are added at a time, a power of 2.
        warps: Warps of a program.
        ahead: Items that run before the first item that may have to wait.
    """

    channels: int
    blocks: int
    positions: int
    hidden: int
    parts: int
    warps: int
    ahead: int

    def items(self, positions: int) -> int:
        """Items of a phase for one sample."""
        return -(-positions // self.positions)

    def lag(self, items: int, samples: int) -> int:
        """Samples between the two phases."""
        return min(samples, -(-self.ahead // items))


def sizes(channels: int, hidden: int, positions: int, *, elements: int, warps: int, ahead: int) -> Sizes:
    """Choose the sizes of tiles of about `elements` values."""
    tile = min(_power(channels), MOST_CHANNELS)
    beside = max(16, min(_power(positions), elements // tile))
    small = max(1, min(_power(max(hidden, 1)), 4096 // tile))
    return Sizes(tile, -(-channels // tile), beside, small, max(1, min(64, 4096 // tile)), warps, ahead)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def forward_sizes(channels: int, hidden: int, positions: int) -> Sizes:
    """Sizes for a forward pass."""
    return sizes(channels, hidden, positions, elements=8192, warps=8, ahead=1024)


def backward_sizes(channels: int, hidden: int, positions: int) -> Sizes:
    """Sizes for a backward pass."""
    return sizes(channels, hidden, positions, elements=4096, warps=8, ahead=1024)


class Shape(NamedTuple):
    """Sizes and strides of a map: as many samples, channels, units of the hidden layer and positions."""

    samples: int
    channels: int
    hidden: int
    positions: int
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, weights: Weights) -> "Shape":
        """Shape of a dense map, contiguous or channels-last."""
        samples, channels = x.shape[:2]
        positions = x.numel() // (samples * channels)
        hidden = 0 if weights[0] is None else weights[0].shape[0]
        inner = (positions, 1) if x.is_contiguous() else (1, channels)
        return cls(samples, channels, hidden, positions, (channels * positions, *inner))


def forward(x: Tensor, weights: Weights, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the output, and the two buffers of `empty_gates`."""
    shape = Shape.of(x, weights)
    chosen = forward_sizes(shape.channels, shape.hidden, shape.positions)
    items = chosen.items(shape.positions)
    output = torch.empty_like(x)
    excitation, spatial = empty_gates(x, weights)
    partial = x.new_empty((shape.samples, items, shape.channels), dtype=torch.float32)
    state = torch.zeros(shape.samples + 1, dtype=torch.int32, device=x.device)
    triton_kernels.forward[(2 * items * shape.samples,)](
        x,
        output,
        *_dense(weights),
        excitation,
        spatial,
        partial,
        state,
        *shape[:4],
        items,
        items,
        chosen.lag(items, shape.samples),
        *shape.strides,
        options.scale,
        KIND=options.kind,
        ACTIVATION=options.activation,
        GATE=options.gate,
        **_constants(chosen),
    )
    return output, excitation, spatial


def backward(
    grad: Tensor, saved: tuple[Tensor, Tensor, Tensor], weights: Weights, options: Options, *, map_grad: Tensor | None
) -> list[Tensor | None]:
    """Compute the gradients of the six weights, in their dtypes, and write the gradient of the map to `map_grad`."""
    x, excitation, spatial = saved
    shape = Shape.of(x, weights)
    chosen = backward_sizes(shape.channels, shape.hidden, shape.positions)
    samples, channels, hidden, positions = shape[:4]
    items = chosen.items(positions)
    second_items = 0 if map_grad is None else items
    dense = _dense(weights)
    grads = [w if w is None else torch.empty_like(w) for w in dense]
    excitation_grads = x.new_empty((samples, 3 * channels + hidden + 1), dtype=torch.float32)
    spatial_grad = torch.empty_like(spatial)
    partial = x.new_empty((samples, items, 2, channels), dtype=torch.float32)
    bias_partial = x.new_empty((samples, items), dtype=torch.float32)
    state = torch.zeros(samples + 2, dtype=torch.int32, device=x.device)
    rows = -(-channels // ROWS) + (0 if options.kind == "sse" else -(-hidden // ROWS))
    triton_kernels.backward[((items + second_items) * samples + rows,)](
        x,
        grad,
        map_grad,
        dense[0],
        dense[2],
        dense[4],
        *grads,
        excitation,
        spatial,
        excitation_grads,
        spatial_grad,
        partial,
        bias_partial,
        state,
        *shape[:4],
        items,
        second_items,
        chosen.lag(items, samples),
        *shape.strides,
        options.scale,
        KIND=options.kind,
        ACTIVATION=options.activation,
        GATE=options.gate,
        ROWS=ROWS,
        **_constants(chosen),
    )
    return grads


def _constants(chosen: Sizes) -> dict[str, int]:
    return {
        "CHANNELS": chosen.channels,
        "BLOCKS": chosen.blocks,
        "POSITIONS": chosen.positions,
        "HIDDEN": chosen.hidden,
        "PARTS": chosen.parts,
        "num_warps": chosen.warps,
    }


def _dense(weights: Weights) -> Weights:
    return tuple([w if w is None else w.contiguous() for w in weights])
