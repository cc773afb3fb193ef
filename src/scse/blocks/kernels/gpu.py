"""The launches of the GPU kernels: sizes of tiles by shape, buffers, and arguments."""

from typing import NamedTuple

import torch
from torch import Tensor

from scse.blocks.kernels import triton_kernels
from scse.blocks.kernels.interface import Options, Weights, empty_gates

# The numbers here were chosen from measurements on an H200, see benchmarks/gpu.

WARPS = 4
"""Warps of a program."""

MOST_CHANNELS = 1024
"""Channels of a tile, at most; kernels go through more of them tile by tile."""

FEW_CHANNELS = 128
"""Channels up to which tiles are smaller and programs take several of them."""

AHEAD = 1024
"""Items that start before the first item that may have to wait: more than a GPU runs at a time."""

MOST_PARTS = 512
"""Partial sums of a sample that one program adds up, if larger items can bring it about."""

ROWS = 16
"""Rows of a weight whose gradient one program computes."""


class Shape(NamedTuple):
    """Numbers of samples, channels, units of the hidden layer and positions, and strides of the first, second and last.

    They describe a dense map, contiguous or channels-last, of any number of spatial axes.
    """

    samples: int
    channels: int
    hidden: int
    positions: int
    strides: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, weights: Weights) -> "Shape":
        """Shape of a map."""
        samples, channels = x.shape[:2]
        positions = x.numel() // (samples * channels)
        hidden = 0 if weights[0] is None else weights[0].shape[0]
        inner = (positions, 1) if x.is_contiguous() else (1, channels)
        return cls(samples, channels, hidden, positions, (channels * positions, *inner))


class Sizes(NamedTuple):
    """Sizes of tiles, all powers of 2, and of items.

    They depend on the shape alone, so that all runs and ranks add in one order.

    Attributes:
        channels: Channels of a tile.
        blocks: Tiles that hold all channels.
        positions: Positions of a tile.
        steps: Positions of an item, as a multiple of those of a tile.
        hidden: Units of the hidden layer that are computed at a time.
        parts: Partial sums that are added at a time.
        columns: Columns of a weight whose gradient is computed at a time.
    """

    channels: int
    blocks: int
    positions: int
    steps: int
    hidden: int
    parts: int
    columns: int

    @classmethod
    def of(cls, shape: Shape) -> "Sizes":
        """Sizes for a map."""
        tile = min(_power(shape.channels), MOST_CHANNELS)
        few = tile <= FEW_CHANNELS
        beside = max(16, min(_power(shape.positions), (8192 if few else 16384) // tile))
        matrix = max(1, (4096 if few else 8192) // tile)
        of_sample = -(-shape.positions // beside)
        return cls(
            channels=tile,
            blocks=-(-shape.channels // tile),
            positions=beside,
            steps=_steps(of_sample, shape.samples) if few else 1,
            hidden=min(_power(max(shape.hidden, 1)), matrix),
            parts=min(128, matrix),
            columns=max(16, min(256, _power(max(shape.channels, shape.hidden)))),
        )

    def items(self, positions: int) -> int:
        """Items of a phase of a sample."""
        return -(-positions // (self.positions * self.steps))

    def stages(self, bytes_of_value: int) -> int:
        """Tiles that the backward pass loads ahead, where they fit into the shared memory of all GPUs."""
        return 3 if self.steps >= 4 and bytes_of_value == 2 else 1

    def constants(self) -> dict[str, int]:
        """Constants of both kernels."""
        return {
            "CHANNELS": self.channels,
            "BLOCKS": self.blocks,
            "POSITIONS": self.positions,
            "STEPS": self.steps,
            "HIDDEN": self.hidden,
            "PARTS": self.parts,
            "num_warps": WARPS,
        }


def _steps(of_sample: int, samples: int) -> int:
    """Tiles of an item: few if there are few tiles in all, which then run at a time; more if a sample has many."""
    steps = 1
    while steps < 4 and of_sample * samples >= 1024 * steps:
        steps *= 2
    while steps < 64 and of_sample > MOST_PARTS * steps:
        steps *= 2
    return steps


def _power(size: int) -> int:
    """The next power of 2."""
    return 1 << (size - 1).bit_length()


def forward(x: Tensor, weights: Weights, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the output and the buffers, see `interface.Kernels`."""
    shape = Shape.of(x, weights)
    samples, channels, _, positions, _ = shape
    sizes = Sizes.of(shape)
    items = sizes.items(positions)
    output = torch.empty_like(x)
    excitation, spatial = empty_gates(x, weights)
    partial = x.new_empty((samples, items, channels), dtype=torch.float32)
    state = torch.zeros(samples + 1, dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        triton_kernels.forward[(2 * items * samples,)](
            x,
            output,
            *_dense(weights),
            excitation,
            spatial,
            partial,
            state,
            *_numbers(shape, items, items),
            options.scale,
            KIND=options.kind,
            ACTIVATION=options.activation,
            GATE=options.gate,
            STAGES=1,
            **sizes.constants(),
        )
    return output, excitation, spatial


def backward(
    grad: Tensor, saved: tuple[Tensor, Tensor, Tensor], weights: Weights, options: Options, *, map_grad: Tensor | None
) -> list[Tensor | None]:
    """Compute the gradients, see `interface.Kernels`."""
    x, excitation, spatial = saved
    shape = Shape.of(x, weights)
    samples, channels, hidden, positions, _ = shape
    sizes = Sizes.of(shape)
    items = sizes.items(positions)
    second_items = 0 if map_grad is None else items
    weights = _dense(weights)
    grads = [w if w is None else torch.empty_like(w) for w in weights]
    partial = x.new_empty((samples, items, 2, channels), dtype=torch.float32)
    rows = -(-channels // ROWS) + (0 if options.kind == "sse" else -(-hidden // ROWS))
    with torch.cuda.device_of(x):
        triton_kernels.backward[((items + second_items) * samples + rows,)](
            x,
            grad,
            map_grad,
            weights[0],
            weights[2],
            weights[4],
            *grads,
            excitation,
            spatial,
            x.new_empty((samples, 3 * channels + hidden + 1), dtype=torch.float32),
            torch.empty_like(spatial),
            partial,
            x.new_empty((samples, items), dtype=torch.float32),
            torch.zeros(samples + 2, dtype=torch.int32, device=x.device),
            *_numbers(shape, items, second_items),
            options.scale,
            KIND=options.kind,
            ACTIVATION=options.activation,
            GATE=options.gate,
            STAGES=sizes.stages(x.element_size()),
            ROWS=ROWS,
            COLUMNS=sizes.columns,
            **sizes.constants(),
        )
    return grads


def _numbers(shape: Shape, items: int, second_items: int) -> tuple[int, ...]:
    lag = min(shape.samples, -(-AHEAD // items))
    return (*shape[:4], items, second_items, lag, *shape.strides)


def _dense(weights: Weights) -> Weights:
    return tuple([w if w is None else w.contiguous() for w in weights])
