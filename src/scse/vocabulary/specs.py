"""Networks by name: "unet", "smp:Unet[encoder_name=resnet18]", "path/to/mine.py:make"."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scse.support.errors import UserError
from scse.vocabulary.grammar import parse_call

_HEAD = r".+?:[^\W\d]\w*"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Which network to build; two specs are equal if their texts are.

    Attributes:
        text: The name as the user wrote it; `str` returns it.
        source: "" for the paper's networks, a library ("smp", "monai", "nnunet"), or the path of a Python file.
        name: The network, or the function in that file.
        options: Keyword arguments of the network.
    """

    text: str
    source: str = field(compare=False)
    name: str = field(compare=False)
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(cls, text: str) -> "NetworkSpec":
        """Parse NAME, or SOURCE:NAME with or without [OPTION=VALUE,...].

        Values are Python literals; any other value is a string. Whether there is such a network is checked by
        `scse.zoo.catalogue.read_network`.

        Raises:
            UserError: The text does not have this form, or an option has no value or is repeated.
        """
        if text.isidentifier():
            return cls(text, "", text)
        call = parse_call(text, head=_HEAD)
        if call is None:
            form = "NAME, LIBRARY:CLASS or FILE.py:FUNCTION, the last two with or without [OPTION=VALUE,...]"
            raise UserError(f"network must have the form {form}, got {text!r}")
        source, _, name = call.head.rpartition(":")
        return cls(text, source, name, {option: _literal(value) for option, value in call.options.items()})

    def __str__(self) -> str:
        """The name as the user wrote it."""
        return self.text

    @property
    def is_own(self) -> bool:
        """Whether it is one of the paper's networks, which place their blocks themselves."""
        return not self.source

    @property
    def is_file(self) -> bool:
        """Whether it is a function in a Python file of the user."""
        return self.source.endswith(".py")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
