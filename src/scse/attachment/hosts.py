"""Blocks hung on the modules they follow: the one mechanism by which a network gets a variant."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

from scse.blocks import BLOCKS
from scse.errors import UserError
from scse.variants import Variant

NAME = "recalibration"
"""The name under which a host module holds its block."""

Recalibration = str | Callable[[int], nn.Module] | None
"""Which block to place: None or "none", a variant (see `scse.variants`), or a function of the channel count."""

LAYOUTS = ("channels-first", "channels-last")
"""Where a host's output has its channels: (N, C, *spatial), or (N, *spatial, C) such as tokens (N, tokens, C)."""


def hang(host: nn.Module, block: nn.Module, *, layout: str = "channels-first") -> None:
    """Let `block` follow `host`: it becomes the submodule `recalibration` and recalibrates every output.

    The keys of the host in `state_dict` stay as they were. Copying or saving the host keeps the block. An
    `nn.Sequential` runs its submodules in turn, so the block is simply its last one; elsewhere a hook calls it.

    Raises:
        ValueError: the host has a block already, or runs its submodules in a loop of its own.
    """
    if hasattr(host, NAME):
        raise UserError(f"{type(host).__name__} has a {NAME} block already; take it out first")
    sequential = isinstance(host, nn.Sequential)
    if sequential and type(host).forward is not nn.Sequential.forward:
        raise UserError(
            f"{type(host).__name__} is an nn.Sequential with a forward of its own, which might run the block among "
            "its layers; use the last of them instead"
        )
    if layout == "channels-last":
        block.register_forward_pre_hook(_channels_to_front)
        block.register_forward_hook(_channels_to_back)
    host.add_module(NAME, block)
    if not sequential:
        host.register_forward_hook(_recalibrate)


def take_off(host: nn.Module) -> None:
    """Undo `hang`: no block, no hook."""
    delattr(host, NAME)
    for key in [key for key, hook in host._forward_hooks.items() if hook is _recalibrate]:
        del host._forward_hooks[key]


def block_of(host: nn.Module) -> nn.Module | None:
    """The block that hangs on `host`, None if there is none."""
    block = host._modules.get(NAME)
    hung = isinstance(host, nn.Sequential) or _recalibrate in host._forward_hooks.values()
    return block if hung else None


def layout_of(block: nn.Module) -> str:
    """The layout for which a block was hung."""
    return LAYOUTS[_channels_to_back in block._forward_hooks.values()]


def recalibrate(places: Iterable[tuple[nn.Module, int]], recalibration: Recalibration) -> None:
    """Hang one new block on every (module, output channels) of `places`.

    Raises:
        ValueError: `recalibration` is no variant.
    """
    if recalibration is None or recalibration == "none":
        return
    if isinstance(recalibration, str):
        variant = Variant.parse(recalibration, name="recalibration")
        recalibration = partial(BLOCKS[variant.kind], **variant.block_options)
    for host, channels in places:
        hang(host, recalibration(channels))


def _recalibrate(host: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    recalibrated: Tensor = host.get_submodule(NAME)(output)
    return recalibrated


def _channels_to_front(_block: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].movedim(-1, 1),)


def _channels_to_back(_block: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    return output.movedim(1, -1)
