"""Choosing slices of an image as it is stored."""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from scse.data.files import Image
from scse.data.recipe import SLICE_AXIS, Recipe


def spread(count: int) -> list[int]:
    """The numbers 0 to count - 1 so that every beginning is spread evenly: first, last, middle, quarters, ..."""
    last = max(count - 1, 0)
    halvings = max(last - 1, 0).bit_length() + 1
    places = (round(last * i / 2**n) for n in range(halvings + 1) for i in range(2**n + 1))
    return list(dict.fromkeys(places)) if count else []


def view_axis(image: Image, recipe: Recipe) -> int | None:
    """The axis of an image as stored across which the recipe takes slices; None for pictures."""
    if recipe.view == "picture":
        return None
    return int(np.flatnonzero(orientation_of(image)[:, 0] == SLICE_AXIS[recipe.view])[0])


def orientation_of(image: Image) -> NDArray[np.float64]:
    """Which axis of the world each axis of an image as stored follows, and in which direction, as nibabel has it."""
    orientation: NDArray[np.float64] = nib.io_orientation(np.eye(4) if image.affine is None else image.affine)
    return orientation
