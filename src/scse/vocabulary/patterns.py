"""Names with wildcards: what they match, and what is said of those that match nothing."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from scse.support.errors import UserError

LONGEST = 10_000
"""Characters of all patterns together; the search for near names takes seconds on more."""


def matches(name: str, pattern: str, *, separator: str = ".") -> bool:
    """Whether a name of several parts matches one pattern.

    Args:
        name: such as "encoder.layer1".
        pattern: with the wildcards of file names, where `*` and `?` stay within one part of the name and `**` stands
            for any number of parts.
        separator: between the parts.
    """
    return _matches(name.split(separator), pattern.strip().split(separator))


def named(patterns: str, names: Sequence[str], *, what: str, separator: str = ".") -> set[str]:
    """The names that patterns match.

    Args:
        patterns: joined by "|", see `matches`.
        names: all there are.
        what: has these names, for the message, such as "module of UNet".
        separator: between the parts of a name.

    Raises:
        ValueError: one of the patterns matches none; the message has the nearest names.
    """
    chosen: set[str] = set()
    if len(patterns) > LONGEST:
        raise UserError(f"a pattern (--to, to=) may have {LONGEST} characters, got {len(patterns)}: {patterns[:40]}...")
    for pattern in patterns.split("|"):
        matched = {name for name in names if matches(name, pattern, separator=separator)}
        if not matched:
            close = get_close_matches(pattern, names, n=3, cutoff=0.4)
            tops = dict.fromkeys(name.split(separator)[0] for name in names)
            nearest = f"the nearest names are {', '.join(close)}" if close else f"its parts are {', '.join(tops)}"
            raise UserError(f"pattern {pattern!r} matches no {what}; {nearest}")
        chosen |= matched
    return chosen


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        return any(_matches(name[start:], rest) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], head) and _matches(name[1:], rest)
