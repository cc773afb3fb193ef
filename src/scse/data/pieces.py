"""Connected pieces of structures in label maps."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scse.data.prepared import Prepared
from scse.support.atomic import write_atomic

LEAST_SHARE = 0.01
"""A piece counts if it has at least this share of the voxels of its structure."""

COUNTS = "pieces.json"


def count_pieces(labels: NDArray[np.integer], values: Sequence[int]) -> list[int]:
    """Number of connected pieces of each label value that have at least 1 % of its voxels.

    Voxels that share a face, an edge or a corner are connected, as in the clean-up of label maps.

    Args:
        labels: Label map (*spatial).
        values: Label values.
    """
    return [_pieces(labels == value) for value in values]


def pieces_of(case: Prepared, classes: int) -> list[int]:
    """Number of pieces of each structure of a prepared case, see `count_pieces`; counted once and kept in its folder.

    Args:
        case: Prepared case of volumes.
        classes: Number of classes, including the background.
    """
    path = case.folder / COUNTS
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, list) and len(kept) == classes - 1 and all(type(count) is int for count in kept):
        return kept
    labels = case.labels()
    counts = count_pieces(labels[0] if labels.ndim == 4 else labels, range(1, classes))
    write_atomic(path, json.dumps(counts).encode())
    return counts


def _pieces(mask: NDArray[np.bool_]) -> int:
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return 0
    numbers, count = ndimage.label(mask[found[0]], structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    return int((sizes >= LEAST_SHARE * sizes.sum()).sum())
