"""Blocks hung on the modules they follow: the one mechanism by which a network gets a variant."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from scse.blocks import BLOCKS
from scse.checks import check_choice

NAME = "recalibration"
"""The name under which a host module holds its block."""

Recalibration = str | Callable[[int], nn.Module] | None
"""Which block to place: None or "none", the name of a variant, or a function of the channel count."""


def hang(host: nn.Module, block: nn.Module) -> None:
    """Let `block` follow `host`: it becomes the submodule `recalibration` and recalibrates every output.

    The keys of the host in `state_dict` stay as they were. Copying or saving the host keeps the block.

    Raises:
        ValueError: the host has a block already, or is an `nn.Sequential`, which would run it as a layer too.
    """
    if hasattr(host, NAME):
        raise ValueError(f"{type(host).__name__} has a {NAME} block already; take it out first")
    if isinstance(host, nn.Sequential):
        raise ValueError("a block cannot hang on an nn.Sequential, which would run it twice; use its last layer")
    host.add_module(NAME, block)
    host.register_forward_hook(_recalibrate)


def recalibrate(places: Iterable[tuple[nn.Module, int]], recalibration: Recalibration) -> None:
    """Hang one new block on every (module, output channels) of `places`.

    Raises:
        ValueError: `recalibration` is no known name.
    """
    if recalibration is None or recalibration == "none":
        return
    if isinstance(recalibration, str):
        recalibration = BLOCKS[check_choice("recalibration", recalibration, ["none", *BLOCKS])]
    for host, channels in places:
        hang(host, recalibration(channels))


def _recalibrate(host: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    recalibrated: Tensor = host.get_submodule(NAME)(output)
    return recalibrated
