"""Attach blocks to host modules, the modules that they follow. All networks get their blocks in this way."""

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
"""Name of the submodule of a host that holds its block."""

Recalibration = str | Variant | Callable[[int], nn.Module] | None
"""Block to place: None or "none", a variant or its name (see `scse.variants`), or a function of the channel count."""

LAYOUTS = ("channels-first", "channels-last")
"""Layout of a host's output: (N, C, *spatial), or (N, *spatial, C), which includes tokens (N, tokens, C)."""

_HUNG = "_hung"
"""Attribute of a block that is attached to a host. The name is part of pickled models."""


def attach_block(host: nn.Module, block: nn.Module, *, layout: str = "channels-first") -> None:
    """Attach a block to a host: it becomes the submodule `recalibration` and recalibrates every output.

    The keys of the host in `state_dict` do not change. A copied or saved host keeps its block. An `nn.Sequential` runs
    its submodules in turn, so there the block is the last one; for other hosts a hook calls it. If a module replaces
    the host and takes over its submodules, as a converter of batch normalisation does, it gets the hook too.

    Raises:
        UserError: The host has a block already, or is an `nn.Sequential` with its own forward method.
    """
    if hasattr(host, NAME):
        raise UserError(f"{type(host).__name__} has a {NAME} block already; detach it first")
    if isinstance(host, nn.Sequential) and type(host).forward is not nn.Sequential.forward:
        raise UserError(
            f"{type(host).__name__} is an nn.Sequential with a forward of its own, which might run the block among "
            "its layers; attach to its last layer instead"
        )
    if layout == "channels-last":
        block.register_forward_pre_hook(_channels_to_front)
        block.register_forward_hook(_channels_to_back)
    setattr(block, _HUNG, True)
    host.add_module(NAME, block)  # this calls `_follow`, which registers the hook


def remove_block(host: nn.Module) -> None:
    """Remove the block and the hook that `attach_block` added."""
    delattr(host.get_submodule(NAME), _HUNG)
    delattr(host, NAME)
    for key in [key for key, hook in host._forward_hooks.items() if hook is _recalibrate]:
        del host._forward_hooks[key]


def block_of(host: nn.Module) -> nn.Module | None:
    """Return the block that runs after `host`, None if there is none."""
    if isinstance(host, torch.jit.ScriptModule):
        return None
    block = host._modules.get(NAME)
    runs = isinstance(host, nn.Sequential) or _recalibrate in host._forward_hooks.values()
    return block if runs else None


def is_attached(block: nn.Module) -> bool:
    """Return whether a block was attached and never removed, even if its host has been replaced since."""
    return hasattr(block, _HUNG)


def restore_hooks(model: nn.Module) -> list[str]:
    """Register the hooks of blocks again whose hooks were removed, and return the names of their hosts."""
    restored = []
    for name, host in model.named_modules():
        if not isinstance(host, torch.jit.ScriptModule) and (block := host._modules.get(NAME)) is not None:
            hooks = len(host._forward_hooks)
            _follow(host, NAME, block)
            restored += [name] if len(host._forward_hooks) > hooks else []
    return restored


def layout_of(block: nn.Module) -> str:
    """Return the layout for which a block was attached."""
    return LAYOUTS[_channels_to_back in block._forward_hooks.values()]


def recalibrate(places: Iterable[tuple[nn.Module, int]], recalibration: Recalibration) -> None:
    """Attach a new block to the host of every (host, output channels) in `places`.

    Raises:
        UserError: `recalibration` is not a variant.
    """
    if isinstance(recalibration, str):
        recalibration = Variant.parse(recalibration, name="recalibration")
    if recalibration is None or recalibration == PLAIN:
        return
    if isinstance(recalibration, Variant):
        recalibration = partial(BLOCKS[recalibration.kind], **recalibration.block_options)
    for host, channels in places:
        attach_block(host, recalibration(channels))


def _follow(host: nn.Module, name: str, block: nn.Module | None) -> None:
    """Register the hook that runs an attached block on the module in which the block is registered."""
    if name != NAME or block is None or not is_attached(block) or isinstance(host, nn.Sequential):
        return
    if _recalibrate not in host._forward_hooks.values():
        host.register_forward_hook(_recalibrate)


register_module_module_registration_hook(_follow)


def _check_there(host: nn.Module) -> None:
    if NAME not in host._modules:
        raise RuntimeError(
            f"the recalibration block of this {type(host).__name__} is gone: the module was replaced by one that took "
            "over its hooks but not its submodules; convert the model first and attach afterwards"
        )


# torch.jit.script compiles hooks and needs these annotations: a host takes one argument and returns one map.
# The names of hooks are part of pickled models.
def _recalibrate(self: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if not is_scripting():
        _check_there(self)
    recalibrated: Tensor = self.recalibration(output)  # type: ignore[operator]
    return recalibrated


def _channels_to_front(_block: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].movedim(-1, 1),)


def _channels_to_back(_block: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    return output.movedim(1, -1)
