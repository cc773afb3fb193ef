"""Blocks hung on the modules they follow: the one mechanism by which a network gets a variant."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn.modules.module import register_module_module_registration_hook

from scse.blocks.modules import BLOCKS
from scse.support.errors import UserError
from scse.vocabulary.variants import PLAIN, Variant

NAME = "recalibration"
"""The name under which a host module holds its block."""

Recalibration = str | Variant | Callable[[int], nn.Module] | None
"""Block to place: None or "none", a variant or its name (see `scse.variants`), or a function of the channel count."""

LAYOUTS = ("channels-first", "channels-last")
"""Where a host's output has its channels: (N, C, *spatial), or (N, *spatial, C) such as tokens (N, tokens, C)."""

_HUNG = "_hung"
"""On a block while it hangs on a module."""


def hang(host: nn.Module, block: nn.Module, *, layout: str = "channels-first") -> None:
    """Let `block` follow `host`: it becomes the submodule `recalibration` and recalibrates every output.

    The keys of the host in `state_dict` stay as they were. Copying or saving the host keeps the block. An
    `nn.Sequential` runs its submodules in turn, so the block is simply its last one; elsewhere a hook calls it. A
    module that replaces the host and takes over its submodules, as a converter of batch normalisation makes it, gets
    the hook too.

    Raises:
        ValueError: the host has a block already, or runs its submodules in a loop of its own.
    """
    if hasattr(host, NAME):
        raise UserError(f"{type(host).__name__} has a {NAME} block already; take it out first")
    if isinstance(host, nn.Sequential) and type(host).forward is not nn.Sequential.forward:
        raise UserError(
            f"{type(host).__name__} is an nn.Sequential with a forward of its own, which might run the block among "
            "its layers; use the last of them instead"
        )
    if layout == "channels-last":
        block.register_forward_pre_hook(_channels_to_front)
        block.register_forward_hook(_channels_to_back)
    setattr(block, _HUNG, True)
    host.add_module(NAME, block)  # whereupon `_follow` hooks it


def take_off(host: nn.Module) -> None:
    """Undo `hang`: no block, no hook."""
    delattr(host.get_submodule(NAME), _HUNG)
    delattr(host, NAME)
    for key in [key for key, hook in host._forward_hooks.items() if hook is _recalibrate]:
        del host._forward_hooks[key]


def block_of(host: nn.Module) -> nn.Module | None:
    """The block that hangs on `host` and runs after it, None if there is none."""
    if isinstance(host, torch.jit.ScriptModule):
        return None
    block = host._modules.get(NAME)
    runs = isinstance(host, nn.Sequential) or _recalibrate in host._forward_hooks.values()
    return block if runs else None


def is_hung(block: nn.Module) -> bool:
    """Whether a block was hung on a module and not taken off, whatever became of the module."""
    return hasattr(block, _HUNG)


def rehang(model: nn.Module) -> list[str]:
    """Hook the blocks again whose hooks were removed; returns the names of their modules."""
    mended = []
    for name, host in model.named_modules():
        if not isinstance(host, torch.jit.ScriptModule) and (block := host._modules.get(NAME)) is not None:
            hooks = len(host._forward_hooks)
            _follow(host, NAME, block)
            mended += [name] if len(host._forward_hooks) > hooks else []
    return mended


def layout_of(block: nn.Module) -> str:
    """The layout for which a block was hung."""
    return LAYOUTS[_channels_to_back in block._forward_hooks.values()]


def recalibrate(places: Iterable[tuple[nn.Module, int]], recalibration: Recalibration) -> None:
    """Hang one new block on every (module, output channels) of `places`.

    Raises:
        ValueError: `recalibration` is no variant.
    """
    if isinstance(recalibration, str):
        recalibration = Variant.parse(recalibration, name="recalibration")
    if recalibration is None or recalibration == PLAIN:
        return
    if isinstance(recalibration, Variant):
        recalibration = partial(BLOCKS[recalibration.kind], **recalibration.block_options)
    for host, channels in places:
        hang(host, recalibration(channels))


def _follow(host: nn.Module, name: str, block: nn.Module | None) -> None:
    """Hook a block that is hung to the module in which it is registered."""
    if name != NAME or block is None or not is_hung(block) or isinstance(host, nn.Sequential):
        return
    if _recalibrate not in host._forward_hooks.values():
        host.register_forward_hook(_recalibrate)


register_module_module_registration_hook(_follow)


def _check_there(host: nn.Module) -> None:
    if NAME not in host._modules:
        raise RuntimeError(
            f"the recalibration block of this {type(host).__name__} is gone: what replaced the module took over its "
            "hooks and not its submodules; convert the model first and attach afterwards"
        )


# hooks are compiled by torch.jit.script, with the annotations that it wants: a host of one argument that returns a map
def _recalibrate(self: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if not is_scripting():
        _check_there(self)
    recalibrated: Tensor = self.recalibration(output)  # type: ignore[operator]
    return recalibrated


def _channels_to_front(_block: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].movedim(-1, 1),)


def _channels_to_back(_block: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    return output.movedim(1, -1)
