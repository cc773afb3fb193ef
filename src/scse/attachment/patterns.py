"""Which modules of a model a pattern, a class or a function names."""

import re
from collections.abc import Callable, Sequence

from torch import nn

from scse.attachment.hosts import block_of
from scse.support.errors import UserError
from scse.vocabulary.patterns import matches, named

Where = str | type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool]
"""Modules of a model: patterns of their names, their classes, or a function of name and module."""


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of a model by its first name in `named_modules`, without the blocks and what is in them."""
    blocks = [block for host in model.modules() if (block := block_of(host)) is not None]
    inside = {id(module) for block in blocks for module in block.modules()}
    return {name: module for name, module in model.named_modules() if id(module) not in inside}


def choose(model: nn.Module, to: Where) -> dict[str, nn.Module]:
    """The modules that `to` names, in the model's order.

    Args:
        model: whose modules.
        to: patterns joined by "|": names with the wildcards of file names, where `*` and `?` stay within one part
            of the dotted name and `**` stands for any number of parts; or a class, a tuple of classes, or a
            function of (name, module) that says yes or no.

    Raises:
        ValueError: a pattern, or `to` as a whole, names no module.
    """
    modules = candidates(model)
    if isinstance(to, str):
        chosen = named(to, [name for name in modules if name], what=f"module of {type(model).__name__}")
        return {name: module for name, module in modules.items() if name in chosen}
    if isinstance(to, type | tuple):
        found = {name: module for name, module in modules.items() if isinstance(module, to)}
    else:
        found = {name: module for name, module in modules.items() if to(name, module)}
    if not found:
        raise UserError(f"no module of {type(model).__name__} is what to={to!r} asks for; see model.named_modules()")
    return found


def generalize(names: Sequence[str], everything: Sequence[str]) -> str:
    """The fewest patterns that match exactly `names` among `everything`: numbers become `*` where that is exact."""
    patterns: dict[str, None] = {}
    for name in names:
        pattern = re.sub(r"\d+", "*", name)
        exact = all(other in names for other in everything if matches(other, pattern))
        patterns[pattern if exact else name] = None
    return "|".join(patterns)
