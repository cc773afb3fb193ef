"""Requests: what a verb takes, declared once as the fields of a frozen model.

The Python call, the command line, the record on disk and the command in a report are made from the fields: their
types, defaults, and the docstrings below them, which are the help texts.
"""

import inspect
import shlex
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo

from scse.support.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., object])


def construct(model: type[Model], values: Mapping[str, Any], *, what: str) -> Model:
    """Make a model from values that a user gave.

    Args:
        model: Class of the model.
        values: Values of its fields; the model parses texts.
        what: Name of the model in the message, such as "training settings".

    Raises:
        UserError: A field is unknown or a value is not allowed. The message names every such field and its value.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
        unknown = any(entry["type"] == "extra_forbidden" for entry in error.errors())
        allowed = f" ({what.rsplit(maxsplit=1)[-1]} are {', '.join(model.model_fields)})" if unknown else ""
        raise UserError(f"wrong {what}: {problems}{allowed}") from error


def _problem(entry: Any) -> str:
    if entry["type"] == "value_error":  # raised by a check of scse, whose message names the field and its value
        return str(entry["ctx"]["error"])
    return f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}, got {entry['input']!r}"


def listed(value: object) -> object:
    """A text as the list that it is, separated by commas; anything else as it is."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def numbers(value: object, info: ValidationInfo) -> object:
    """A text of whole numbers that are separated by commas, as a list; anything else as it is.

    Raises:
        UserError: The text contains anything else.
    """
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UserError(f"{info.field_name} must be whole numbers with commas, such as 3,6,12, got {value!r}")
    return [int(word) for word in words]


REPEATED = ("notes",)
"""Fields whose entries may contain commas: their option is repeated for each entry."""

SEVERAL = ("source",)
"""Fields of several values, whose option takes them one after the other."""

Words = Annotated[tuple[str, ...], BeforeValidator(listed)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(numbers)]


class Request(BaseModel):
    """What a verb takes.

    A subclass declares its fields with a docstring each.

    Attributes:
        verb: Name of the command and of the function.
        flags: Field -> its option on the command line, where that is not `--field`.
        renamed: Former name of a field -> its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)

    verb: ClassVar[str]
    flags: ClassVar[Mapping[str, str]] = {}
    renamed: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """Make the request from the values of its fields.

        A former name of a field is accepted with a FutureWarning.

        Raises:
            UserError: A value is not allowed.
        """
        chosen = dict(values)
        for old in cls.renamed.keys() & chosen.keys():
            warnings.warn(f"{old}= is now {cls.renamed[old]}=", FutureWarning, stacklevel=3)
            chosen[cls.renamed[old]] = chosen.pop(old)
        return construct(cls, chosen, what=f"{cls.verb} arguments")

    @classmethod
    def flag(cls, name: str) -> str:
        """The option of a field on the command line."""
        return cls.flags.get(name, f"--{name.replace('_', '-')}")

    @classmethod
    def signature(cls, *further: inspect.Parameter) -> inspect.Signature:
        """The signature of the Python function: `dataset`, the other fields by keyword, then further parameters."""
        kinds = {"dataset": inspect.Parameter.POSITIONAL_OR_KEYWORD}
        fields = [
            inspect.Parameter(
                name,
                kinds.get(name, inspect.Parameter.KEYWORD_ONLY),
                default=inspect.Parameter.empty if field.is_required() else _plain_default(field.default),
                annotation=field.annotation,
            )
            for name, field in cls.model_fields.items()
        ]
        return inspect.Signature([*fields, *further])

    def given(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain values."""
        dumped = self.model_dump(mode="json")
        return {
            name: dumped[name]
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.default
        }

    def as_call(self) -> str:
        """The call of the Python function that makes the same request."""
        return f"scse.{self.verb}({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"

    def as_command(self) -> str:
        """The command that makes the same request."""
        words = ["scse", self.verb]
        for name, value in self.given().items():
            flag = self.flag(name)
            if name == "dataset":
                words.append(str(value))
            elif isinstance(value, bool):
                words.append(flag)
            elif isinstance(value, Mapping):
                words += [word for key, entry in value.items() for word in (flag, f"{key}={_plain(entry)}")]
            elif name in REPEATED:
                words += [word for entry in value for word in (flag, str(entry))]
            elif name in SEVERAL:
                words += [flag, *map(str, value)]
            elif isinstance(value, list):  # tuples are lists in JSON
                words += [flag, ",".join(map(str, value))]
            else:
                words += [flag, str(value)]
        return shlex.join(words)


def _plain_default(value: object) -> object:
    return tuple(map(str, value)) if isinstance(value, tuple) else value


def _plain(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def signed(request: type[Request]) -> Callable[[F], F]:
    """Show the fields of a request in the signature of a function that takes them as `**fields`."""

    def sign(function: F) -> F:
        own = inspect.signature(function).parameters.values()
        further = [p for p in own if p.kind is p.KEYWORD_ONLY]
        function.__signature__ = request.signature(*further)  # type: ignore[attr-defined]
        return function

    return sign
