"""Segmenters of one convolution that see a volume in different planes, and their probabilities computed in NumPy."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scse.data.recipe import Recipe
from scse.inference.segmenter import Segmenter
from scse.vocabulary.planes import View

STRUCTURES = {"left-a": 10, "right-a": 300, "b": 3}
SHAPE = (8, 12, 10)
AXES: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


def segmenter(
    view: View,
    seed: int = 0,
    *,
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    values: Sequence[int] = tuple(STRUCTURES.values()),
) -> Segmenter:
    """Random convolutions; the patch is the whole slice or volume, unless it is given."""
    whole = SHAPE if view == "volume" else tuple(np.delete(SHAPE, AXES.get(view, 0)))
    recipe = Recipe(view=view, spacing=spacing, patch=tuple(patch or whole), channels=1)
    torch.manual_seed(seed)
    network = (nn.Conv3d if recipe.dims == 3 else nn.Conv2d)(1, 4, 3, padding=1)
    with torch.no_grad():
        network.weight *= 4
    structures = dict(zip(STRUCTURES, values, strict=True))
    return Segmenter(network, "mine.py:make", {"in_channels": 1, "classes": 4}, "none", recipe, structures)


def volume(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)


def normalised(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The recipe's intensities, from its documentation."""
    foreground = image[image > image.min()].astype(np.float64)
    low, high = np.percentile(foreground, (0.5, 99.5))
    clipped = np.clip(foreground, low, high)
    return (np.clip(image, low, high) - clipped.mean()) / clipped.std()


def correlated(image: NDArray[np.float64], network: nn.Module) -> NDArray[np.float64]:
    """Logits (classes, *spatial) of a convolution of 3 with zero padding, in NumPy."""
    weight, bias = (network.get_parameter(name).detach().double().numpy() for name in ("weight", "bias"))
    padded = np.pad(image, 1)
    logits = np.empty((len(bias), *image.shape))
    for number, (kernel, shift) in enumerate(zip(weight[:, 0], bias, strict=True)):
        logits[number] = shift
        for place in np.ndindex(kernel.shape):
            part = tuple(slice(start, start + size) for start, size in zip(place, image.shape, strict=True))
            logits[number] += kernel[place] * padded[part]
    return logits


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


def shares(one: Segmenter, image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Class probabilities (classes, x, y, z) of a normalised volume, with slices that are not resampled."""
    if one.recipe.view == "volume":
        return softmax(correlated(image, one.network))
    axis = AXES[one.recipe.view]
    slices = [softmax(correlated(plane, one.network)) for plane in np.moveaxis(image, axis, 0)]
    return np.stack(slices, axis + 1)
