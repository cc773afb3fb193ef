"""Reading of untrusted JSON, with errors that name the file and the field."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scse.support.errors import DataError
from scse.support.paths import check_regular_file

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")

LARGEST_INTEGER = 2**63 - 1
"""Largest integer in NumPy and other programs."""


REMEDY = "correct it there"


def read_json(path: Path, *, remedy: str = REMEDY) -> Any:
    """Read a JSON file.

    Args:
        path: Path of the file.
        remedy: Remedy for the error message.

    Raises:
        DataError: The file is not a regular file, cannot be read, is not JSON in UTF-8, is nested too deeply, has a key
            twice in one object, or has an integer of more than 64 bits.
    """
    check_regular_file(path, remedy="put a JSON file there")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {remedy}") from error
    return parse_json(text, path=path, remedy=remedy)


def parse_json(text: str, *, path: Path, remedy: str = REMEDY) -> Any:
    """Parse JSON that is part of a file, such as a line or a header, see `read_json`.

    Raises:
        DataError: The text cannot be used, for the reasons of `read_json`.
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
    """Check the content of a file against a model of its fields.

    Args:
        model: Fields, with their types and bounds.
        content: Content of the file, as `read_json` returned it.
        path: Path of the file for the error message.
        remedy: Remedy for the error message.
        within: Field of the file that holds `content`, for the error message; "" for the whole file.
        strict: Whether values must have exactly the type of their field, so that text or a bool is no number. For files
            that scse itself writes.

    Returns:
        Validated content.

    Raises:
        DataError: A field is missing, has another type, or is out of bounds. The message names the file, the field and
            its value.
    """
    from pydantic import ValidationError  # noqa: PLC0415 (what only parses JSON works without pydantic)

    try:
        # a strict model accepts a list for a tuple only when it parses JSON
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
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return found


def shortened(value: object) -> str:
    """Return the repr of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
