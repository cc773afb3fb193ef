"""Networks as people name them: "unet", "smp:Unet[encoder_name=resnet18]", "path/to/mine.py:make"."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from scse.support.errors import UserError

_NAMED = re.compile(r"(?P<source>.+?):(?P<name>[^\W\d]\w*)(?:\[(?P<options>.*)\])?", re.DOTALL)
_FOLDER = re.compile(r"^[^\[]*[/\\](?=[^/\\\[]*\.py:)")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
SLUG_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Spec:
    """A network as it was named.

    Attributes:
        text: as it was written.
        source: "" for the paper's networks, a library ("smp", "monai"), or the path of a Python file.
        name: of the network, or of the function in that file.
        options: what stands in brackets.
    """

    text: str
    source: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read NAME, or SOURCE:NAME with or without [OPTION=VALUE,...]; values are Python literals, else strings.

        Raises:
            ValueError: it is none of these, or an option has no value or is there twice.
        """
        if text.isidentifier():
            return cls(text, "", text)
        match = _NAMED.fullmatch(text)
        if match is None:
            form = "NAME, LIBRARY:CLASS or FILE.py:FUNCTION, the last two with or without [OPTION=VALUE,...]"
            raise UserError(f"network must have the form {form}, got {text!r}")
        return cls(text, match["source"], match["name"], _options(text, match["options"] or ""))

    @property
    def is_file(self) -> bool:
        """Whether it is a function in a file of the user's own."""
        return self.source.endswith(".py")


def title(text: str) -> str:
    """A network's name for people: a file without its folder."""
    return _FOLDER.sub("", text).replace(": ", ":")


def slug(text: str) -> str:
    """A network's name for files and folders: letters, digits, "_" and "-", another one for every text."""
    if text.isidentifier():
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "_", title(text))[:SLUG_LENGTH].strip("_")
    return f"{readable}-{sha256(text.encode()).hexdigest()[:8]}"


def split_specs(text: str) -> list[str]:
    """Split at commas that do not stand in brackets: "unet,smp:Unet[a=1,b=(2,3)]" are two.

    Raises:
        ValueError: brackets or quotes that are not closed.
    """
    return _split(text, text, in_brackets=False)


def _options(spec: str, text: str) -> Mapping[str, Any]:
    options: dict[str, Any] = {}
    for pair in _split(text, spec, in_brackets=True) if text.strip() else []:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and name.isidentifier() and value):
            raise UserError(f"{spec}: what stands in brackets must be OPTION=VALUE,..., got {pair!r}")
        if name in options:
            raise UserError(f"{spec}: the option {name} is there twice; give it once")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _split(text: str, spec: str, *, in_brackets: bool) -> list[str]:
    """Parts between the commas outside of inner brackets and of quotes, which count in brackets only."""
    parts: list[str] = []
    waiting: list[str] = []
    start = 0
    for place, character in enumerate(text):
        if waiting and character == waiting[-1]:
            waiting.pop()
        elif waiting and waiting[-1] in "'\"":
            continue
        elif character in _CLOSING:
            waiting.append(_CLOSING[character])
        elif (waiting or in_brackets) and character in "'\"":
            waiting.append(character)
        elif character in _CLOSING.values():
            raise UserError(f"{spec}: {character!r} closes what was not opened")
        elif character == "," and not waiting:
            parts.append(text[start:place].strip())
            start = place + 1
    if waiting:
        raise UserError(f"{spec}: {waiting[-1]!r} is missing")
    return [*parts, text[start:].strip()]
