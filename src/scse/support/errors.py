"""The exceptions of scse, and one-line descriptions of other exceptions."""

LONGEST_LINE = 1200
"""Largest number of characters per line of a message."""


class UserError(ValueError):
    """An argument or input of the user cannot be used. The message states the value, what is allowed, and the remedy.

    The command line prints only the message of this exception. Any other exception is a bug in scse and shows its
    traceback. The middle of long lines is omitted, for instance if they repeat a long argument.
    """

    def __init__(self, message: object) -> None:
        super().__init__("\n".join(map(_cut, str(message).split("\n"))))


class DataError(UserError):
    """A file or folder of the user cannot be used. The message names it, states what was found, and the remedy."""


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE * 2 // 3]} ... {line[-LONGEST_LINE // 3 :]}"


def in_short(error: BaseException) -> str:
    """Describe an exception of other code in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
