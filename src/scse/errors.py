"""The exceptions of scse's own, and other people's exceptions told in a line."""


class UserError(ValueError):
    """What was asked for or given cannot be used; the message says what was found, what is allowed and the remedy.

    Only this becomes one line on the command line. Any other exception is a bug of scse and shows its traceback.
    """


class DataError(UserError):
    """A file or folder of the user's cannot be used; the message names it, what was found and the remedy."""


def in_short(error: BaseException) -> str:
    """What someone else's code raised, as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
