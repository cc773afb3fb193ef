"""Text for messages."""

from collections.abc import Collection
from itertools import islice


def counted(count: int, what: str) -> str:
    """A number with its noun, such as "1 case" or "3 cases"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def shortened_list(items: Collection[object], shown: int = 5, *, separator: str = ", ") -> str:
    """The first items and the number of the others, such as "a, b and 3 more".

    Args:
        items: Items to list, in order.
        shown: Number of items to list.
        separator: Text between two items.
    """
    text = separator.join(map(str, islice(items, shown)))
    return text if len(items) <= shown else f"{text} and {len(items) - shown} more"
