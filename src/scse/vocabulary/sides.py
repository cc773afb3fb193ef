"""Left and right structures by name: "left-hippocampus" and "right-hippocampus" are a pair."""

import re
from collections.abc import Sequence

SIDE = re.compile(r"(?<![a-z])(left|right|lh|rh)(?![a-z])[\s_-]*", re.IGNORECASE)

_OPPOSITE = {"left": "right", "right": "left", "lh": "rh", "rh": "lh"}


def without_side(name: str) -> str:
    """The name of a structure without its side, the same for both structures of a pair."""
    return SIDE.sub("", name).strip(" _-")


def partners(names: Sequence[str]) -> list[int] | None:
    """Index of the structure on the other side of each structure, and its own index if it has no side.

    Returns:
        None if a structure with a side has no partner among the names, so that a mirrored image has no labels.
    """
    sides = [SIDE.search(name) for name in names]
    known = {
        (without_side(name).lower(), side[1].lower()): place
        for place, (name, side) in enumerate(zip(names, sides, strict=True))
        if side
    }
    found = [
        known.get((without_side(name).lower(), _OPPOSITE[side[1].lower()])) if side else place
        for place, (name, side) in enumerate(zip(names, sides, strict=True))
    ]
    return None if None in found else [place for place in found if place is not None]
