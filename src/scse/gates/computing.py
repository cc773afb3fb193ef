"""Computation of the gates of a model's blocks for an input."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scse.attachment.compiled import uncompiled
from scse.attachment.examples import Example, call, evaluating
from scse.attachment.fusing import ResidualChannelSE
from scse.attachment.hosts import block_of
from scse.blocks.modules import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE
from scse.support.errors import UserError

_OneGate = ChannelSE | SpatialSE | ProjectExcite
Block = _OneGate | ConcurrentSE

SHUT = 0.1
"""A channel is shut if its gate is always below this value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGates:
    """Gates of one block in one forward pass: outputs of the sigmoid, 0 to 1, before scaling.

    Project & Excite has a gate for every channel at every position. Of these, `channel` is the mean over the positions
    and `spatial` the mean over the channels; `ProjectExcite.gates` computes all of them.

    Attributes:
        where: Name of the module to which the block is attached, as in `scse.placements`; for other blocks, the name
            of the block.
        block: Name of the block's class.
        channel: Channel gate (N, C) float32; None if the block has none.
        spatial: Spatial gate (N, *spatial) float32, at the resolution of the block's input; None if it has none.
        identity: Value of all gates for which the block returns its input: 0.5 for blocks that can start as the
            identity and for scSE with aggregation "add", 1 for others; NaN if there is none ("multiply", "concat").
    """

    where: str
    block: str
    channel: NDArray[np.float32] | None
    spatial: NDArray[np.float32] | None
    identity: float


def find_blocks(model: nn.Module) -> dict[str, Block]:
    """The scse blocks of a model, by name in `named_modules`, including the two parts of each scSE block."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Block)}


def gates_of(model: nn.Module, x: Example) -> list[BlockGates]:
    """Compute the gates of all scse blocks of a model for an input.

    The model runs once, in evaluation mode and without gradients, and is not changed. The gates are computed in float32
    from the inputs of the blocks, by calling their layers.

    Args:
        model: Model with blocks: one of `scse.networks`, a network after `scse.attach` or `scse.fuse`, or a network
            that contains blocks as modules.
        x: Input of the model: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.

    Returns:
        The gates in the order in which the blocks ran. A block that ran twice is listed twice.

    Raises:
        UserError: The model has no blocks, or none of them ran as a module.
    """
    model = uncompiled(model)
    blocks = find_blocks(model)
    if not blocks:
        raise UserError(f"{type(model).__name__} has no scse blocks and so no gates; add blocks with scse.attach")
    hosts = {block_of(module): name for name, module in model.named_modules()}
    found: list[BlockGates] = []
    handles = []
    try:
        for name, block in _outermost(blocks).items():
            watch = _watch(hosts.get(block, name), found)
            # a hook after the forward pass, so that the block checks its input first
            handles.append(block.register_forward_hook(watch, with_kwargs=True))
        with evaluating(model):
            call(model, x)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(
            f"{type(model).__name__} has {len(blocks)} blocks, but none of them ran as a module; if the model is "
            "compiled or traced, give the original model"
        )
    return found


def _outermost(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The blocks without the parts of scSE blocks, which compute the gates of their parts."""
    within = {id(part) for block in blocks.values() if isinstance(block, ConcurrentSE) for part in block.children()}
    return {name: block for name, block in blocks.items() if id(block) not in within}


def _watch(where: str, found: list[BlockGates]) -> Callable[..., None]:
    """A forward hook that computes the gates of a block from its input."""

    def watch(block: Any, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor], _output: Tensor) -> None:
        x = inputs[0] if inputs else named["x"]
        with torch.autocast(x.device.type, enabled=False):
            channel, spatial = _gates(x.float(), block)
        found.append(
            BlockGates(
                where=where,
                block=type(block).__name__,
                channel=None if channel is None else channel.cpu().numpy(),
                spatial=None if spatial is None else spatial.reshape(len(x), *x.shape[2:]).cpu().numpy(),
                identity=_identity(block),
            )
        )

    return watch


def _gates(x: Tensor, block: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Channel gate (N, C) and spatial gate (N, positions), by the actual layers, which may be wrapped or quantised."""
    if isinstance(block, ConcurrentSE):
        return _gates(x, block.channel)[0], _gates(x, block.spatial)[1]
    if not isinstance(block, _OneGate):
        found = f"a part of scSE was replaced by a {type(block).__name__}, whose gates are unknown"
        raise UserError(f"{found}; compute the gates before replacing it")
    exact = all(p.dtype == torch.float32 for p in block.parameters())
    gates = (block if exact else copy.deepcopy(block).float()).gates(x)
    channel = None if isinstance(block, SpatialSE) else gates.mean(2)
    return channel, None if isinstance(block, ChannelSE) else gates.mean(1)


def _identity(block: Block) -> float:
    if isinstance(block, ConcurrentSE):
        return {"add": 0.5, "max": 1.0}.get(block.aggregation, nan) / block.scale
    return 0.0 if isinstance(block, ResidualChannelSE) else 1.0 / block.scale
