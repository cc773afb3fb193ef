"""Blocks that were attached and do not run any more, because something replaced the modules that they followed.

`attach` leaves a record on the model and a hook that looks at it before each forward, so that the loss is noticed
there, and by `placements`, `detach` and `save_attached`.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn.modules.module import register_module_module_registration_hook

from scse.attachment.hosts import block_of, is_hung, rehang
from scse.support.text import shortened_list

_RECORD = "_attached"
"""Under which a model keeps its blocks by the names of their modules."""


class LostBlockWarning(UserWarning):
    """Blocks that were attached to a model do not run any more, or did not until now."""


def remember(model: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
    """Keep what is attached, and look at it before each forward.

    Args:
        model: that was attached to.
        blocks: by the names of the modules that they follow; added to those that are kept already.
    """
    record = model.__dict__.get(_RECORD, {})
    setattr(model, _RECORD, {**record, **blocks})
    if _notice not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_notice)


def forget(model: nn.Module) -> bool:
    """Undo `remember` in a model and all in it; returns whether there was anything."""
    found = False
    for module in model.modules():
        found |= module.__dict__.pop(_RECORD, None) is not None
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _notice]:
            del module._forward_pre_hooks[key]
    return found


def lost_blocks(model: nn.Module) -> list[str]:
    """Restore what can be restored of the blocks in a model, warn of it and of what is lost, and name the latter.

    Warns:
        LostBlockWarning: hooks were removed, which are there again, or modules were replaced by others without a block.
    """
    return [place for module in model.modules() if _RECORD in module.__dict__ for place in _lost(module)]


def _lost(model: nn.Module) -> list[str]:
    record: dict[str, nn.Module] = model.__dict__[_RECORD]
    if all(_runs_at(model, place) for place in record):
        return []
    if restored := rehang(model):
        _warn(f"{_listed(restored, model)} had lost their hooks, which are there again: they did not run until now")
    running = {id(block_of(module)) for module in model.modules()}
    # what wraps modules changes their names; what was taken off is not lost
    gone = [
        place
        for place, block in record.items()
        if not _runs_at(model, place) and id(block) not in running and is_hung(block)
    ]
    if gone:
        _warn(
            f"{_listed(gone, model)} do not run any more: their modules were replaced by others without a block, as by "
            "a converter; convert the model first and attach afterwards, or, if they are to go, detach and attach "
            "without them"
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
    """Warn when torch.fx puts a module with a block, which it took as a whole, into a graph."""
    in_graph = type(parent) is nn.Module or isinstance(parent, torch.fx.GraphModule)
    if in_graph and module is not None and block_of(module) is not None:
        _warn(
            f"torch.fx takes a {type(module).__name__} with its block as one module: what folds it into another, as "
            "prepare_fx does, drops the block; fold first and attach afterwards"
        )


register_module_module_registration_hook(_notice_folding)
