"""Detect attached blocks that no longer run because their hosts were replaced.

`attach` stores a record of the blocks on the model, and a hook that checks it before each forward pass. `placements`,
`detach` and `save_attached` check it too.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn.modules.module import register_module_module_registration_hook

from scse.attachment.hosts import block_of, is_attached, restore_hooks
from scse.support.text import shortened_list

_RECORD = "_attached"
"""Attribute of a model with its attached blocks by the names of their hosts. The name is part of pickled models."""


class LostBlockWarning(UserWarning):
    """Attached blocks no longer run, or did not run until now."""


def record_blocks(model: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
    """Record attached blocks, and check before each forward pass that they still run.

    Args:
        model: Model to which the blocks were attached.
        blocks: Blocks by the names of their hosts. They are added to the blocks recorded before.
    """
    record = model.__dict__.get(_RECORD, {})
    setattr(model, _RECORD, {**record, **blocks})
    if _notice not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_notice)


def drop_records(model: nn.Module) -> bool:
    """Undo `record_blocks` in a model and its submodules, and return whether there was a record."""
    found = False
    for module in model.modules():
        found |= module.__dict__.pop(_RECORD, None) is not None
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _notice]:
            del module._forward_pre_hooks[key]
    return found


def lost_blocks(model: nn.Module) -> list[str]:
    """Find the lost blocks of a model, and restore the hooks of blocks that only lost their hook.

    Returns:
        Names of the hosts whose blocks are lost.

    Warns:
        LostBlockWarning: Hooks were removed and have been restored, or hosts were replaced by modules without a block.
    """
    return [place for module in model.modules() if _RECORD in module.__dict__ for place in _lost(module)]


def _lost(model: nn.Module) -> list[str]:
    record: dict[str, nn.Module] = model.__dict__[_RECORD]
    if all(_runs_at(model, place) for place in record):
        return []
    if restored := restore_hooks(model):
        _warn(f"{_listed(restored, model)} had lost their hooks and did not run; the hooks have been restored")
    running = {id(block_of(module)) for module in model.modules()}
    # a block still runs if its host was wrapped, which changes its name; a block that was removed is not lost
    gone = [
        place
        for place, block in record.items()
        if not _runs_at(model, place) and id(block) not in running and is_attached(block)
    ]
    if gone:
        _warn(
            f"{_listed(gone, model)} no longer run: their modules were replaced by modules without a block, for "
            "instance by a converter; convert the model first and attach afterwards or, if you do not need these "
            "blocks, detach and attach without them"
        )
    return gone


def _runs_at(model: nn.Module, place: str) -> bool:
    module: nn.Module | None = model
    for part in place.split(".") if place else []:
        module = None if module is None else module._modules.get(part)
    return module is not None and block_of(module) is not None


def _listed(places: list[str], model: nn.Module) -> str:
    return f"{len(places)} blocks that were attached to {type(model).__name__} ({shortened_list(places)})"


def _warn(message: str) -> None:
    warnings.warn(message, LostBlockWarning, stacklevel=2)


def _notice(self: nn.Module, _inputs: tuple[Tensor]) -> None:
    if not is_scripting():
        _lost_unless_compiling(self)


def _lost_unless_compiling(model: nn.Module) -> None:
    if not torch.compiler.is_compiling():
        _lost(model)


def _notice_folding(parent: nn.Module, _name: str, module: nn.Module | None) -> None:
    """Warn when torch.fx adds a module with a block to a graph as one node."""
    in_graph = type(parent) is nn.Module or isinstance(parent, torch.fx.GraphModule)
    if in_graph and module is not None and block_of(module) is not None:
        _warn(
            f"torch.fx treats a {type(module).__name__} with its block as one module: folding it into another, as "
            "prepare_fx does, drops the block; fold first and attach afterwards"
        )


register_module_module_registration_hook(_notice_folding)
