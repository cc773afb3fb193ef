"""The one exception of scse's own, and other people's exceptions told in a line."""


class DataError(ValueError):
    """A file or folder of the user's cannot be used; the message names it, what was found and the remedy."""


def in_short(error: Exception) -> str:
    """What someone else's code raised, as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
