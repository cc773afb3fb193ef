"""Selection of modules of a model by patterns, classes or a function."""

import re
from collections.abc import Callable, Sequence

from torch import nn

from scse.attachment.hosts import block_of
from scse.support.errors import UserError
from scse.vocabulary.patterns import matches, named

Where = str | type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool]
"""Selection of modules: patterns of names, a class or classes, or a function of name and module."""


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model by their first names in `named_modules`, without blocks and their submodules."""
    blocks = [block for host in model.modules() if (block := block_of(host)) is not None]
    inside = {id(module) for block in blocks for module in block.modules()}
    return {name: module for name, module in model.named_modules() if id(module) not in inside}


def choose(model: nn.Module, to: Where) -> dict[str, nn.Module]:
    """Select modules of a model.

    Args:
        model: Model whose modules are selected.
        to: Patterns joined by "|", where `*` and `?` match within one part of a dotted name and `**` matches any number
            of parts; or a class, a tuple of classes, or a function of (name, module) that returns a bool.

    Returns:
        Selected modules by name, in the order of the model.

    Raises:
        UserError: A pattern, or `to` as a whole, matches no module.
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
        raise UserError(f"no module of {type(model).__name__} matches to={to!r}; see model.named_modules()")
    return found


def generalize(names: Sequence[str], everything: Sequence[str]) -> str:
    """Return patterns that match exactly `names` among `everything`. Numbers become `*` where the match stays exact."""
    patterns: dict[str, None] = {}
    for name in names:
        pattern = re.sub(r"\d+", "*", name)
        exact = all(other in names for other in everything if matches(other, pattern))
        patterns[pattern if exact else name] = None
    return "|".join(patterns)
