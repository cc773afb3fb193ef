"""Clean-up of predicted label maps: the largest connected component of structures, and holes.

The steps are applied in this order: the largest component of all structures together, the largest component of single
structures, and the holes of single structures. Everything else becomes background, or keeps its class.

Voxels of a structure that share a face, an edge or a corner are connected (26 neighbours in a volume, 8 in a picture),
as in nnU-Net: a part that is connected only diagonally is kept. A hole is a region of background that is connected by
faces, the counterpart of this, and that has only voxels of one structure as neighbours. So no other structure is ever
overwritten, and a region that reaches the edge of the image is no hole.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scse.inference.saved import Cleaning
from scse.support.errors import UserError

Classes = NDArray[np.uint8]


def clean(classes: Classes, cleaning: Cleaning, structures: Sequence[str]) -> None:
    """Clean up a map of classes in place.

    Each structure is processed in its bounding box, which takes up to 7 bytes of memory for each of its voxels.

    Args:
        classes: Classes of a volume (X, Y, Z) or picture (rows, columns), 0 for the background. Axes of length one do
            not count, so that a volume of one slice is a picture.
        cleaning: Steps to apply. Of components of equal size, the first in memory is kept.
        structures: Name of each class from 1 on.

    Raises:
        UserError: The clean-up names a structure that is not listed.
    """
    numbers = {name: number for number, name in enumerate(structures, start=1)}
    for name in (*cleaning.keep_largest, *cleaning.fill_holes):
        if name not in numbers:
            raise UserError(f"cleaning names the structure {name!r}, but the structures are {', '.join(structures)}")
    classes = np.atleast_2d(classes.squeeze())  # a view
    if cleaning.largest_foreground and (box := _union(_boxes(classes, len(structures)))):
        _keep_largest(classes[box], classes[box] != 0)
    boxes = _boxes(classes, len(structures))
    for name in cleaning.keep_largest:
        if box := boxes[numbers[name] - 1]:
            _keep_largest(classes[box], classes[box] == numbers[name])
    if cleaning.fill_holes and (box := _union(boxes)):
        _fill_holes(classes[box], [numbers[name] for name in cleaning.fill_holes])


def shared_cleaning(cleanings: Sequence[Cleaning]) -> Cleaning:
    """The steps that all of several clean-ups have, in the order of the first."""
    first = cleanings[0]
    return Cleaning(
        largest_foreground=all(each.largest_foreground for each in cleanings),
        keep_largest=tuple(name for name in first.keep_largest if all(name in each.keep_largest for each in cleanings)),
        fill_holes=tuple(name for name in first.fill_holes if all(name in each.fill_holes for each in cleanings)),
    )


Box = tuple[slice, ...]


def _boxes(classes: Classes, count: int) -> list[Box | None]:
    """Bounding box of each class from 1 on; None for one that is absent."""
    return list(ndimage.find_objects(classes, max_label=count))


def _union(boxes: Sequence[Box | None]) -> Box | None:
    """The box that contains all others; None if there are none."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))


def _keep_largest(part: Classes, mask: NDArray[np.bool_]) -> None:
    """Set what is in the mask, but not in its largest component, to background."""
    regions, count = _regions(mask, connected=mask.ndim)
    if count <= 1:
        return
    sizes = np.zeros(count + 1, np.int64)
    for found, inside in zip(regions, mask, strict=True):  # row by row, because counting converts to 64 bits
        sizes += np.bincount(found[inside], minlength=count + 1)
    mask &= regions != sizes.argmax()
    part[mask] = 0


def _fill_holes(part: Classes, numbers: Sequence[int]) -> None:
    """Fill the holes of some classes; the edges of `part` are those of the box of all structures."""
    regions, count = _regions(part == 0, connected=1)
    lowest, highest = np.full(count + 1, 255, np.uint8), np.zeros(count + 1, np.uint8)  # classes around each region
    for axis in range(part.ndim):
        ours, theirs = regions.swapaxes(0, axis), part.swapaxes(0, axis)
        for here, there in ((slice(-1), slice(1, None)), (slice(1, None), slice(-1))):
            touching = (ours[here] != 0) & (theirs[there] != 0)
            region, neighbour = ours[here][touching], theirs[there][touching]
            np.minimum.at(lowest, region, neighbour)
            np.maximum.at(highest, region, neighbour)
    filled = np.where((lowest == highest) & np.isin(lowest, numbers), lowest, np.uint8(0))
    # what touches the box continues outside of it, or is at the edge of the image
    for axis in range(part.ndim):
        for edge in (0, -1):
            filled[regions.take(edge, axis)] = 0
    filled[0] = 0
    if filled.any():
        for row, found in zip(part, regions, strict=True):  # row by row, because indices are converted to 64 bits
            row[:] += filled[found]


def _regions(mask: NDArray[np.bool_], *, connected: int) -> tuple[NDArray[np.int32], int]:
    """Numbers from 1 on of the connected components of a mask, and how many there are.

    Args:
        mask: Mask of any shape.
        connected: 1 connects voxels that share a face, 2 an edge, 3 a corner.
    """
    regions = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connected), output=regions)
    return regions, int(count)
