"""The loss: cross-entropy with median-frequency class weights, plus Dice."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from numpy.typing import NDArray
from torch import Tensor, nn

from scse.data.prepared import IGNORED_CLASS, Prepared


class SegmentationLoss(nn.Module):
    """Cross-entropy, Dice, or their sum.

    Dice is computed over the whole batch, so that a structure absent from one slice does not count as missed. Voxels of
    `IGNORED_CLASS` are left out of both.

    Args:
        loss: "ce+dice", "ce" or "dice".
        weights: Class weights of the cross-entropy, (classes,); None for equal weights.
        ignoring: Whether labels may contain ignored voxels. Without any, False gives the same result in less time.
    """

    def __init__(self, loss: str, *, weights: Tensor | None = None, ignoring: bool = True) -> None:
        super().__init__()
        self.ignoring = ignoring
        terms: dict[str, nn.Module] = {
            "ce": nn.CrossEntropyLoss(weight=weights, ignore_index=IGNORED_CLASS),
            "dice": DiceLoss(batch=True),
        }
        self.terms = nn.ModuleDict({name: terms[name] for name in loss.split("+")})

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, classes, *spatial) for labels (N, *spatial) of class indices: a scalar."""
        learned = labels != IGNORED_CLASS if self.ignoring else None
        losses = []
        if "ce" in self.terms:
            entropy = self.terms["ce"](logits, labels)
            # the mean over a batch of ignored voxels alone would be NaN
            losses.append(entropy if learned is None else torch.where(learned.any(), entropy, 0.0))
        if "dice" in self.terms:
            losses.append(self._dice(logits, labels, learned))
        return torch.stack(losses).sum()

    def _dice(self, logits: Tensor, labels: Tensor, learned: Tensor | None) -> Tensor:
        shares = logits.softmax(1)
        if learned is None:
            loss: Tensor = self.terms["dice"](shares, one_hot(labels[:, None], logits.shape[1]))
        else:
            of_class = one_hot(labels.where(learned, 0)[:, None], logits.shape[1])
            loss = self.terms["dice"](shares * learned[:, None], of_class * learned[:, None])
        return loss


def have_ignored(cases: Sequence[Prepared]) -> bool:
    """Whether a case has ignored voxels."""
    return any((case.labels() == IGNORED_CLASS).any() for case in cases)


def class_frequencies(cases: Sequence[Prepared], classes: int) -> NDArray[np.int64]:
    """Pixels of each class over all slices of the cases, without ignored ones: (classes,)."""
    counts = np.zeros(classes, np.int64)
    for case in cases:
        counts += np.bincount(case.labels().ravel(), minlength=classes)[:classes]
    return counts


def median_frequency_weights(counts: NDArray[np.integer]) -> Tensor:
    """Median frequency balancing: weight of a class = median frequency / its frequency (Roy et al. 2018, section 3).

    Args:
        counts: Pixels of each class, (classes,). Classes that never occur get weight 0 and do not enter the median.
    """
    present = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[present] = np.median(counts[present]) / counts[present]
    return torch.from_numpy(weights)
