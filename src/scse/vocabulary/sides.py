"""Left and right structures by name: "left-hippocampus" and "right-hippocampus" are a pair."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scse.vocabulary.planes import View

RIGHT = 0
"""The axis from left to right of a volume in RAS orientation."""

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


def partner_classes(names: Sequence[str]) -> list[int] | None:
    """The same for classes, where the background is class 0 and its own partner, see `partners`."""
    places = partners(names)
    return None if places is None else [0, *(place + 1 for place in places)]


@dataclass(frozen=True, slots=True)
class Mirroring:
    """Axes along which an image can be mirrored so that its labels stay right.

    Attributes:
        axes: Spatial axes of the network's input.
        swaps: Those of `axes` along which left and right structures change places.
        other: Class on the other side of each class, background first.
    """

    axes: tuple[int, ...] = ()
    swaps: tuple[int, ...] = ()
    other: tuple[int, ...] = ()


UNMIRRORED = Mirroring()


def safe_mirroring(view: View, structures: Sequence[str], *, swapping: bool = True) -> Mirroring:
    """Find the axes along which an image can be mirrored.

    Left and right structures of a pair change places if an image is mirrored from left to right. Without a pair for
    every such structure, and in pictures with such structures, whose orientation is unknown, an image cannot be
    mirrored from left to right.

    Args:
        view: What the network sees of an image.
        structures: Names of the structures in the order of their classes.
        swapping: Whether structures can change places. Without, images with a left or right structure are not mirrored
            from left to right.
    """
    sided = any(SIDE.search(name) for name in structures)
    if view == "picture":
        return Mirroring(axes=() if sided else (0, 1))
    shown = {"volume": (0, 1, 2), "sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}[view]
    places = partners(structures) if swapping or not sided else None
    usable = [axis for axis in shown if axis != RIGHT or places is not None]
    axes = tuple(shown.index(axis) for axis in usable)
    if not sided or RIGHT not in usable or places is None:
        return Mirroring(axes)
    return Mirroring(axes, swaps=(shown.index(RIGHT),), other=(0, *(place + 1 for place in places)))
