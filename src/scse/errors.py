"""The one exception of scse's own: something is wrong with the user's files."""


class DataError(ValueError):
    """A file or folder of the user's cannot be used; the message names it, what was found and the remedy."""
