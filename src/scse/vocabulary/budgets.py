"""Times as users write them: "2h", "90m", "1h30m" or "45s"."""

import re

from scse.support.errors import UserError

_BUDGET = re.compile(r"(?:(?P<hours>\d+)h)?(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+)s)?")


def parse_budget(text: str) -> int:
    """Convert a time such as "2h", "90m", "1h30m" or "45s" to seconds.

    Raises:
        UserError: The text is not a time, or the time is zero.
    """
    match = _BUDGET.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UserError(f"budget must be a time such as 2h, 90m, 1h30m or 45s, got {text!r}")
    return total
