"""Validation after every epoch: the mean Dice on held-out cases."""

from collections.abc import Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.evaluation.scores import dice_scores
from scse.inference.windows import channels_last, in_windows
from scse.training.batches import Batches

OVERLAP = 0.25
"""Share of a window that neighbouring windows have in common in validation, where time matters more than edges."""

VALIDATION_SHARE = 4
"""An epoch is validated on at most a quarter as many slices as it was trained on.

Predicting a slice takes about a third of the time of training on it, so validation takes less than a tenth of the time.
"""


def validation_slices(batches: Batches) -> int:
    """The most slices that are predicted after each epoch."""
    return max(1, len(batches) * batches.batch_size // VALIDATION_SHARE)


def held_out_dice(
    network: nn.Module,
    cases: Sequence[Prepared],
    classes: int,
    *,
    patch: Sequence[int],
    most: int,
    batch_size: int,
    fabric: Fabric,
) -> float:
    """Mean Dice over structures and cases, on the prepared images; leaves the network in evaluation mode.

    Ignored voxels are not scored.

    Args:
        network: Network that `fabric` set up.
        cases: Cases to score.
        classes: Classes of the network, including the background.
        patch: Size of the windows in which volumes are predicted; slices are predicted whole.
        most: Limit of the slices in all, but at least one per case is predicted. Above it, each case contributes its
            share, evenly spaced.
        batch_size: Slices per batch.
        fabric: Device and precision.

    Returns:
        NaN if no case has any structure, in its reference or prediction.
    """
    network.eval()
    slices = sum(len(case.labels()) for case in cases)
    scores = []
    for case in cases:
        images, labels = case.images(), case.labels()
        chosen = evenly_spread(len(labels), max(1, len(labels) * most // max(slices, most)))
        predicted = np.empty((len(chosen), *labels.shape[1:]), labels.dtype)
        for start in range(0, len(chosen), batch_size):
            batch = torch.from_numpy(images[chosen[start : start + batch_size]])
            with torch.inference_mode():
                batch = fabric.to_device(channels_last(batch))
                logits = network(batch) if batch.ndim == 4 else in_windows(batch, patch, network, overlap=OVERLAP)
            predicted[start : start + batch_size] = logits.argmax(1).cpu().numpy()
        reference = labels[chosen]
        scored = reference != IGNORED_CLASS
        scores.append(dice_scores(predicted[scored], reference[scored], range(1, classes)))
    found = np.array(scores)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def evenly_spread(count: int, chosen: int) -> NDArray[np.int64]:
    """The middles of `chosen` equal parts of 0, 1, ..., count - 1."""
    return (2 * np.arange(chosen) + 1) * count // (2 * chosen)
