"""The loss: cross-entropy with median-frequency class weights, plus Dice."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch import Tensor, nn

from scse.data.prepared import Prepared


class SegmentationLoss(nn.Module):
    """Cross-entropy, Dice, or their sum.

    Dice is taken over the whole batch, so that a structure absent from one slice does not count as missed.

    Args:
        loss: "ce+dice", "ce" or "dice".
        weights: of the classes in the cross-entropy, (classes,); None for equal weights.
    """

    def __init__(self, loss: str, *, weights: Tensor | None = None) -> None:
        super().__init__()
        terms: dict[str, nn.Module] = {
            "ce": nn.CrossEntropyLoss(weight=weights),
            "dice": DiceLoss(softmax=True, to_onehot_y=True, batch=True),
        }
        self.terms = nn.ModuleDict({name: terms[name] for name in loss.split("+")})

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, classes, *spatial) for labels (N, *spatial) of class indices: a scalar."""
        losses = []
        if "ce" in self.terms:
            losses.append(self.terms["ce"](logits, labels))
        if "dice" in self.terms:
            losses.append(self.terms["dice"](logits, labels[:, None]))
        return torch.stack(losses).sum()


def class_frequencies(cases: Sequence[Prepared], classes: int) -> NDArray[np.int64]:
    """Pixels of each class over all slices of the cases: (classes,)."""
    counts = np.zeros(classes, np.int64)
    for case in cases:
        counts += np.bincount(case.labels().ravel(), minlength=classes)
    return counts


def median_frequency_weights(counts: NDArray[np.integer]) -> Tensor:
    """Median frequency balancing: weight of a class = median frequency / its frequency (Roy et al. 2018, section 3).

    Args:
        counts: pixels of each class, (classes,). Classes that never occur get weight 0 and no say in the median.
    """
    present = counts > 0
    weights = np.zeros(len(counts), np.float32)
    weights[present] = np.median(counts[present]) / counts[present]
    return torch.from_numpy(weights)
