"""Checks of arguments, with error messages of the same form."""

from collections.abc import Iterable

from scse.support.errors import UserError


def check_positive(name: str, value: int) -> int:
    """Return `value` if it is a whole number of at least 1, raise UserError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def check_choice(name: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, raise UserError that lists them otherwise."""
    options = list(allowed)
    if value not in options:
        raise UserError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value
