"""Selection of slices of an image in its stored orientation."""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from scse.data.choices import SLICE_AXIS
from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.vocabulary.planes import Plane


def spread(count: int) -> list[int]:
    """The numbers 0 to count - 1 in an order whose first n are spread evenly: first, last, middle, quarters, ..."""
    last = max(count - 1, 0)
    halvings = max(last - 1, 0).bit_length() + 1
    places = (round(last * i / 2**n) for n in range(halvings + 1) for i in range(2**n + 1))
    return list(dict.fromkeys(places)) if count else []


def evenly_spread(count: int, chosen: int) -> NDArray[np.int64]:
    """The middles of `chosen` equal parts of 0, 1, ..., count - 1."""
    return (2 * np.arange(chosen) + 1) * count // (2 * chosen)


def drawn_view(recipe: Recipe) -> Plane:
    """The plane in which images are drawn: that of the recipe's slices, and coronal for volumes."""
    return "coronal" if recipe.view == "volume" else recipe.view


def view_axis(image: Image, recipe: Recipe) -> int | None:
    """The stored axis of an image perpendicular to the slices in which it is drawn; None for pictures."""
    if recipe.view == "picture":
        return None
    return int(np.flatnonzero(orientation_of(image)[:, 0] == SLICE_AXIS[drawn_view(recipe)])[0])


def orientation_of(image: Image) -> NDArray[np.float64]:
    """World axis and direction of each stored axis of an image, (3, 2), in nibabel's convention."""
    orientation: NDArray[np.float64] = nib.io_orientation(np.eye(4) if image.affine is None else image.affine)
    return orientation
