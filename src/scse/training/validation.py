"""Validation after every epoch: the mean Dice on held-out cases."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.data.schemes import LabelScheme, painted
from scse.data.slicing import evenly_spread
from scse.evaluation.scores import dice_of_counts, dice_of_regions, dice_scores
from scse.inference.devices import free_memory
from scse.inference.windows import channels_last, in_windows
from scse.training.batches import Batches
from scse.training.ranks import ALONE, Ranks
from scse.training.resident import RESIDENT_SHARE

OVERLAP = 0.25
"""Share of a window that neighbouring windows have in common in validation, where time matters more than edges."""

VALIDATION_SHARE = 4
"""An epoch is validated on at most a quarter as many slices as it was trained on.

Predicting a slice takes about a third of the time of training on it, so validation takes less than a tenth of the time.
"""


def validation_slices(batches: Batches) -> int:
    """The most slices that are predicted after each epoch."""
    return max(1, len(batches) * batches.batch_size // VALIDATION_SHARE)


Kept = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Images and labels of cases that stay on a GPU, by name."""


def held_out_dice(
    network: nn.Module,
    cases: Sequence[Prepared],
    scheme: LabelScheme,
    *,
    patch: Sequence[int],
    most: int,
    batch_size: int,
    fabric: Fabric,
    kept: Kept | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """Mean Dice over structures and cases, on the prepared images; leaves the network in evaluation mode.

    Ignored voxels are not scored.

    Args:
        network: Network that `fabric` set up.
        cases: Cases to score.
        scheme: The meaning of the labels and of the outputs of the network.
        patch: Size of the windows in which volumes are predicted; slices are predicted whole.
        most: Limit of the slices in all, but at least one per case is predicted. Above it, each case contributes its
            share, evenly spaced.
        batch_size: Slices per batch.
        fabric: Device and precision.
        kept: Holds the predicted slices on a GPU from one call to the next; the other arguments are then the same.
        ranks: The processes that train, which all call this and score some of the cases each.

    Returns:
        NaN if no case has any structure, in its reference or prediction.
    """
    network.eval()

    def forward(images: torch.Tensor) -> torch.Tensor:
        images = channels_last(images)
        logits: torch.Tensor = (
            network(images) if images.ndim == 4 else in_windows(images, patch, network, overlap=OVERLAP)
        )
        return logits

    slices = sum(len(case.labels()) for case in cases)
    scores, kept = [], {} if kept is None else kept
    for case in ranks.mine(cases):
        labels = case.labels()
        chosen = evenly_spread(len(labels), max(1, len(labels) * most // max(slices, most)))
        if case.name not in kept and fabric.device.type == "cuda":
            _keep(case, chosen, fabric.device, kept)
        if case.name in kept:
            scores.append(dice_on_device(forward, *kept[case.name], scheme, batch_size=batch_size))
            continue
        images, predicted = case.images(), np.empty((len(chosen), *labels.shape[1:]), labels.dtype)
        for start in range(0, len(chosen), batch_size):
            batch = torch.from_numpy(images[chosen[start : start + batch_size]])
            with torch.inference_mode():
                logits = forward(fabric.to_device(channels_last(batch)))
            predicted[start : start + batch_size] = _numbers(logits, scheme).cpu().numpy()
        reference = labels[chosen]
        scored = reference != IGNORED_CLASS
        if scheme.regions:
            pairs = reference[scored].astype(np.int64) * (scheme.outputs + 1) + predicted[scored]
            joint = np.bincount(pairs, minlength=(len(scheme.labels) + 1) * (scheme.outputs + 1))
            scores.append(_dice_of_regions(joint, scheme))
        else:
            scores.append(dice_scores(predicted[scored], reference[scored], range(1, scheme.outputs)))
    found = np.array(ranks.joined(scores))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _keep(case: Prepared, chosen: NDArray[np.int64], device: torch.device, kept: Kept) -> None:
    """Copy slices of a case to the device, unless they would take too much of its memory."""
    images, labels = case.images(), case.labels()
    needed = (images[0].nbytes + labels[0].nbytes) * len(chosen)
    if needed <= RESIDENT_SHARE * free_memory(device):
        kept[case.name] = torch.from_numpy(images[chosen]).to(device), torch.from_numpy(labels[chosen]).to(device)


def dice_on_device(
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    scheme: LabelScheme,
    *,
    batch_size: int,
) -> NDArray[np.float64]:
    """Dice (structures,) of a case, waiting for the device once: NaN for those that are absent.

    Args:
        forward: Function from images (N, C, *spatial) to logits (N, outputs, *spatial).
        images: Slices of a case, (slices, C, *spatial).
        labels: Their labels, (slices, *spatial) uint8.
        scheme: The meaning of the labels and of the outputs.
        batch_size: Slices per batch.
    """
    with torch.inference_mode():
        predicted = torch.cat([_numbers(forward(batch), scheme) for batch in images.split(batch_size)])
        classes, numbers = len(scheme.labels) + 1, len(scheme.structures) + 1
        # one more class holds the ignored voxels
        reference = labels.long().where(labels != IGNORED_CLASS, classes)
        pairs = (reference * numbers + predicted).flatten()
        counts = torch.bincount(pairs, minlength=(classes + 1) * numbers).reshape(classes + 1, numbers)
        joint = counts[:classes].cpu().numpy()
        return _dice_of_regions(joint, scheme) if scheme.regions else dice_of_counts(joint)


def _numbers(logits: torch.Tensor, scheme: LabelScheme) -> torch.Tensor:
    """The number of each voxel, without the check for NaN of predictions: (N, outputs, *spatial) -> (N, *spatial)."""
    return painted(logits.sigmoid(), axis=1) if scheme.regions else logits.argmax(1)


def _dice_of_regions(joint: NDArray[np.integer], scheme: LabelScheme) -> NDArray[np.float64]:
    """Dice of each region, from the voxels of each class in the reference and each number in the prediction."""
    theirs, ours = scheme.class_members(), scheme.number_members()
    return dice_of_regions(joint.reshape(theirs.shape[1], ours.shape[1]), theirs, ours)
