"""The gates that the blocks of a model compute for an input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scse import formulas
from scse.attachment.examples import Example, call, evaluating
from scse.attachment.hosts import block_of
from scse.blocks import ChannelSE, ConcurrentSE, SpatialSE
from scse.errors import UserError
from scse.fusing import ResidualChannelSE

Block = ChannelSE | SpatialSE | ConcurrentSE

SHUT = 0.1
"""A channel is shut whose gate stays below this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGates:
    """The gates of one block in one forward, before any scale: of a sigmoid, 0 to 1.

    Attributes:
        where: name of the module that the block is attached to, as in `scse.placements`; else the block's own name.
        block: its class.
        channel: (N, C) float32; None if the block has no channel gate.
        spatial: (N, *spatial) float32, at the resolution of the block's map; None if it has no spatial gate.
        identity: the gate, of both kinds, that leaves the block's input as it was: 0.5 for a block that can start as
            the identity and for scSE that adds, 1 for others; NaN where there is none ("multiply", "concat").
    """

    where: str
    block: str
    channel: NDArray[np.float32] | None
    spatial: NDArray[np.float32] | None
    identity: float


def find_blocks(model: nn.Module) -> dict[str, Block]:
    """The scse blocks of a model by their names in `named_modules`, the two within an scSE block included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Block)}


def gates_of(model: nn.Module, x: Example) -> list[BlockGates]:
    """Compute the gates of every scse block of a model for an input.

    The model runs once, in evaluation mode and without gradients, and stays as it was. The gates are computed by the
    plain formulas, in float32, from what goes into the blocks.

    Args:
        model: with blocks: one of `scse.networks`, any network after `scse.attach` or `scse.fuse`, or one that uses
            the blocks as its own modules.
        x: its input: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.

    Returns:
        The gates in the order in which the blocks ran; a block that ran twice is there twice.

    Raises:
        ValueError: the model has no block, or none of them ran as a module.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise UserError(f"{type(model).__name__} has no scse block, so there are no gates; scse.attach puts blocks in")
    hosts = {block_of(module): name for name, module in model.named_modules()}
    found: list[BlockGates] = []
    handles = []
    try:
        for name, block in blocks.items():
            watch = _watch(hosts.get(block, name), found)
            # after the block, which tells what is wrong with its input
            handles.append(block.register_forward_hook(watch, with_kwargs=True))
        with evaluating(model):
            call(model, x)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(
            f"{type(model).__name__} has {len(blocks)} blocks, but none of them ran as a module; if the model is "
            "compiled or traced, give the one that it was made from"
        )
    return found


def _watch(where: str, found: list[BlockGates]) -> Callable[..., None]:
    """A hook that computes a block's gates from its input."""

    def watch(block: Any, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor], _output: Tensor) -> None:
        x = inputs[0] if inputs else named["x"]
        channel, spatial = _parts(block)
        with torch.autocast(x.device.type, enabled=False):
            found.append(
                BlockGates(
                    where=where,
                    block=type(block).__name__,
                    channel=None if channel is None else _channel_gate(x.float(), channel),
                    spatial=None if spatial is None else _spatial_gate(x.float(), spatial),
                    identity=_identity(block),
                )
            )

    return watch


def _parts(block: Block) -> tuple[ChannelSE | None, SpatialSE | None]:
    if isinstance(block, ConcurrentSE):
        return block.channel, block.spatial
    return (block, None) if isinstance(block, ChannelSE) else (None, block)


def _channel_gate(x: Tensor, block: ChannelSE) -> NDArray[np.float32]:
    weights = (*_floats(block.squeeze), *_floats(block.excite))
    return _array(formulas.channel_gate(x, *weights, activation=block.activation, gate=block.gate))


def _spatial_gate(x: Tensor, block: SpatialSE) -> NDArray[np.float32]:
    return _array(formulas.spatial_gate(x, *_floats(block.project)).squeeze(1))


def _floats(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return layer.weight.float(), None if layer.bias is None else layer.bias.float()


def _array(gate: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = gate.cpu().numpy()
    return array


def _identity(block: Block) -> float:
    if isinstance(block, ConcurrentSE):
        return {"add": 0.5, "max": 1.0}.get(block.aggregation, nan) / block.scale
    return 0.0 if isinstance(block, ResidualChannelSE) else 1.0 / block.scale
