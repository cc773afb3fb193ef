"""Reading of JSON that others may have written: one error that names the file and the field."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from scse.support.errors import DataError
from scse.support.paths import check_regular_file

Model = TypeVar("Model", bound=BaseModel)

LARGEST_INTEGER = 2**63 - 1
"""What other programs, NumPy among them, hold in an integer."""


REMEDY = "correct it there"


def read_json(path: Path, *, remedy: str = REMEDY) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        remedy: what to do, for the message.

    Raises:
        DataError: it is no regular file, cannot be read, is no JSON in UTF-8, is nested too deeply, or holds a key
            twice in one object or an integer of more than 64 bits.
    """
    check_regular_file(path, remedy="put a JSON file there")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {remedy}") from error
    return parse_json(text, path=path, remedy=remedy)


def parse_json(text: str, *, path: Path, remedy: str = REMEDY) -> Any:
    """Parse JSON that stands in a file, as a line or in its header; see `read_json`.

    Raises:
        DataError: as `read_json`.
    """
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:
        raise DataError(f"{path}: is nested too deeply to be read as JSON; {remedy}") from None
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {remedy}") from error


def validated(
    model: type[Model], content: object, *, path: Path, remedy: str, within: str = "", strict: bool = False
) -> Model:
    """Check what a file holds against a model of its fields.

    Args:
        model: the fields, their types and their bounds.
        content: as `read_json` returned it.
        path: of the file, for the message.
        remedy: what to do, for the message.
        within: the field of the file that `content` is, for the message; "" if it is the whole.
        strict: take values of a field's own type alone: no text or truth value for a number. For files that scse
            itself writes.

    Raises:
        DataError: a field is missing, of another type, or out of bounds; the message names the file, the field and its
            value.
    """
    try:
        # only of JSON itself does a strict model take a list for a tuple
        return model.model_validate_json(json.dumps(content), strict=True) if strict else model.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, [*([within] if within else []), *problem["loc"]])) or "the whole"
        if problem["type"] == "value_error":  # raised by a check of scse, whose message contains the value
            raise DataError(f"{path}: {field}: {problem['ctx']['error']}; {remedy}") from error
        found = "" if problem["type"] == "missing" else f", got {shortened(problem['input'])}"
        raise DataError(f"{path}: {field}: {problem['msg']}{found}; {remedy}") from error


def _integer(text: str) -> int:
    if len(text) > len(str(LARGEST_INTEGER)) + 1 or abs(number := int(text)) > LARGEST_INTEGER:
        raise ValueError(f"{text[:24]}... is beyond 64 bits")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def shortened(value: object) -> str:
    """A value as it would be written, cut to 80 characters for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
