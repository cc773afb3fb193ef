"""The one grammar of names with options: HEAD[OPTION=VALUE,...], and lists of such names."""

import re
from dataclasses import dataclass, field

from scse.support.errors import UserError

_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Call:
    """A name with options.

    Attributes:
        head: Text before the brackets.
        options: Option -> value as text, in the order of the text.
    """

    head: str
    options: dict[str, str] = field(default_factory=dict)


def parse_call(text: str, *, head: str) -> Call | None:
    """Parse HEAD or HEAD[OPTION=VALUE,...].

    Args:
        text: Text as the user wrote it.
        head: Regular expression of the head.

    Returns:
        The parts, or None if the text does not have this form.

    Raises:
        UserError: An option has no value or is repeated, or brackets or quotes are not balanced.
    """
    match = re.fullmatch(rf"(?P<head>{head})(?:\[(?P<options>.*)\])?", text, re.DOTALL)
    if match is None:
        return None
    options: dict[str, str] = {}
    inside = match["options"] or ""
    for pair in _split(inside, text, in_brackets=True) if inside.strip() else []:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and name.isidentifier() and value):
            raise UserError(f"{text}: the brackets must contain OPTION=VALUE,..., got {pair!r}")
        if name in options:
            raise UserError(f"{text}: the option {name} is repeated; give it once")
        options[name] = value
    return Call(match["head"], options)


def split_names(text: str) -> list[str]:
    """Split a list of names at commas outside of brackets: "unet,smp:Unet[a=1,b=(2,3)]" has two.

    Raises:
        UserError: Brackets or quotes are not balanced.
    """
    return _split(text, text, in_brackets=False)


def _split(text: str, whole: str, *, in_brackets: bool) -> list[str]:
    """Split at commas outside of inner brackets and of quotes; quotes have a meaning within brackets only."""
    parts: list[str] = []
    open_brackets: list[str] = []
    start = 0
    for place, character in enumerate(text):
        if open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif open_brackets and open_brackets[-1] in "'\"":
            continue
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif (open_brackets or in_brackets) and character in "'\"":
            open_brackets.append(character)
        elif character in _CLOSING.values():
            raise UserError(f"{whole}: {character!r} closes a bracket that was not opened")
        elif character == "," and not open_brackets:
            parts.append(text[start:place].strip())
            start = place + 1
    if open_brackets:
        raise UserError(f"{whole}: {open_brackets[-1]!r} is missing")
    return [*parts, text[start:].strip()]
