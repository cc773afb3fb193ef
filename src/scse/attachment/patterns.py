"""Which modules of a model a pattern, a class or a function names."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from scse.attachment.hosts import block_of

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
        chosen: set[str] = set()
        for pattern in to.split("|"):
            matched = {name for name in modules if name and matches(name, pattern)}
            if not matched:
                raise ValueError(_no_match(model, pattern, [name for name in modules if name]))
            chosen |= matched
        return {name: module for name, module in modules.items() if name in chosen}
    if isinstance(to, type | tuple):
        found = {name: module for name, module in modules.items() if isinstance(module, to)}
    else:
        found = {name: module for name, module in modules.items() if to(name, module)}
    if not found:
        raise ValueError(f"no module of {type(model).__name__} is what to={to!r} asks for; see model.named_modules()")
    return found


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name matches one pattern."""
    return _matches(name.split("."), pattern.strip().split("."))


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        return any(_matches(name[start:], rest) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], head) and _matches(name[1:], rest)


def generalize(names: Sequence[str], everything: Sequence[str]) -> str:
    """The fewest patterns that match exactly `names` among `everything`: numbers become `*` where that is exact."""
    patterns: dict[str, None] = {}
    for name in names:
        pattern = re.sub(r"\d+", "*", name)
        exact = all(other in names for other in everything if matches(other, pattern))
        patterns[pattern if exact else name] = None
    return "|".join(patterns)


def _no_match(model: nn.Module, pattern: str, names: Sequence[str]) -> str:
    close = get_close_matches(pattern, names, n=3, cutoff=0.4)
    tops = dict.fromkeys(name.split(".")[0] for name in names)
    nearest = f"the nearest names are {', '.join(close)}" if close else f"its parts are {', '.join(tops)}"
    return f"pattern {pattern!r} matches no module of {type(model).__name__}; {nearest}"
