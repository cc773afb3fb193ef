"""The exceptions of scse's own, and other people's exceptions told in a line."""

LONGEST_LINE = 1200
"""Characters of a line of a message."""


class UserError(ValueError):
    """What was asked for or given cannot be used; the message says what was found, what is allowed and the remedy.

    Only this becomes one line on the command line. Any other exception is a bug of scse and shows its traceback. Of a
    line that repeats a long argument, the middle is left out.
    """

    def __init__(self, message: object) -> None:
        super().__init__("\n".join(map(_cut, str(message).split("\n"))))


class DataError(UserError):
    """A file or folder of the user's cannot be used; the message names it, what was found and the remedy."""


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE * 2 // 3]} ... {line[-LONGEST_LINE // 3 :]}"


def in_short(error: BaseException) -> str:
    """What someone else's code raised, as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
