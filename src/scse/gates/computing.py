"""The gates that the blocks of a model compute for an input."""

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
from scse.blocks.modules import ChannelSE, ConcurrentSE, SpatialSE
from scse.support.errors import UserError

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

    The model runs once, in evaluation mode and without gradients, and stays as it was. The gates are computed from what
    goes into the blocks, in float32, by calling their layers as they are.

    Args:
        model: with blocks: one of `scse.networks`, any network after `scse.attach` or `scse.fuse`, or one that uses
            the blocks as its own modules.
        x: its input: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.

    Returns:
        The gates in the order in which the blocks ran; a block that ran twice is there twice.

    Raises:
        ValueError: the model has no block, or none of them ran as a module.
    """
    model = uncompiled(model)
    blocks = find_blocks(model)
    if not blocks:
        raise UserError(f"{type(model).__name__} has no scse block, so there are no gates; scse.attach puts blocks in")
    hosts = {block_of(module): name for name, module in model.named_modules()}
    found: list[BlockGates] = []
    handles = []
    try:
        for name, block in _outermost(blocks).items():
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


def _outermost(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The blocks without the two within an scSE block, which makes their gates itself."""
    within = {id(part) for block in blocks.values() if isinstance(block, ConcurrentSE) for part in block.children()}
    return {name: block for name, block in blocks.items() if id(block) not in within}


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
                    channel=_gates(x.float(), channel),
                    spatial=_gates(x.float(), spatial),
                    identity=_identity(block),
                )
            )

    return watch


def _parts(block: Block) -> tuple[nn.Module | None, nn.Module | None]:
    if isinstance(block, ConcurrentSE):
        return block.channel, block.spatial
    return (block, None) if isinstance(block, ChannelSE) else (None, block)


def _gates(x: Tensor, part: nn.Module | None) -> NDArray[np.float32] | None:
    """The gates of cSE (N, C) or of sSE (N, *spatial), with the layers as they are: wrapped, hooked or quantised."""
    if part is None:
        return None
    if not isinstance(part, ChannelSE | SpatialSE):
        raise UserError(f"a {type(part).__name__} stands in for a part of scSE, so that its gates are not known")
    exact = all(p.dtype == torch.float32 for p in part.parameters())
    gates = (part if exact else copy.deepcopy(part).float()).gates(x)
    shape = x.shape[:2] if isinstance(part, ChannelSE) else (len(x), *x.shape[2:])
    array: NDArray[np.float32] = gates.reshape(shape).cpu().numpy()
    return array


def _identity(block: Block) -> float:
    if isinstance(block, ConcurrentSE):
        return {"add": 0.5, "max": 1.0}.get(block.aggregation, nan) / block.scale
    return 0.0 if isinstance(block, ResidualChannelSE) else 1.0 / block.scale
