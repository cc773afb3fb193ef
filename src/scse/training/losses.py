"""The loss: cross-entropy with median-frequency class weights, plus Dice."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.training.ranks import total


class SegmentationLoss(nn.Module):
    """Cross-entropy, Dice, or their sum.

    Dice is computed over the whole batch, so that a structure absent from one slice does not count as missed. Voxels of
    `IGNORED_CLASS` are left out of both.

    Args:
        loss: "ce+dice", "ce" or "dice".
        weights: Class weights of the cross-entropy, (classes,); None for equal weights.
        fading: Whether the weights become equal in the course of the run, see `fade_weights`.
        ignoring: Whether labels may contain ignored voxels. Without any, False gives the same result in less time.
        shared: Whether several processes have a part of the batch each; the loss is that of the batch.
    """

    def __init__(
        self,
        loss: str,
        *,
        weights: Tensor | None = None,
        fading: bool = False,
        ignoring: bool = True,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.ignoring, self.shared = ignoring, shared
        terms: dict[str, nn.Module] = {
            "ce": CrossEntropy(weight=weights, ignore_index=IGNORED_CLASS, fading=fading, shared=shared),
            "dice": Dice(shared=shared),
        }
        self.terms = nn.ModuleDict({name: terms[name] for name in loss.split("+")})

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, classes, *spatial) for labels (N, *spatial) of class indices: a scalar."""
        learned = labels != IGNORED_CLASS if self.ignoring else None
        losses = []
        if "ce" in self.terms:
            entropy = self.terms["ce"](logits, labels)
            # the mean over a batch of ignored voxels alone would be NaN
            alone = None if self.shared else learned
            losses.append(entropy if alone is None else torch.where(alone.any(), entropy, 0.0))
        if "dice" in self.terms:
            losses.append(self._dice(logits, labels, learned))
        return torch.stack(losses).sum()

    def _dice(self, logits: Tensor, labels: Tensor, learned: Tensor | None) -> Tensor:
        shares = logits.softmax(1)
        classes = labels if learned is None else labels.where(learned, 0)
        of_class = torch.zeros_like(shares, dtype=torch.float32).scatter_(1, classes[:, None], 1)
        if learned is not None:
            shares, of_class = shares * learned[:, None], of_class * learned[:, None]
        loss: Tensor = self.terms["dice"](shares, of_class)
        return loss


class RegionLoss(nn.Module):
    """Binary cross-entropy, Dice, or their sum, of regions that may overlap, as nnU-Net's `DC_and_BCE_loss`.

    Dice is that of MONAI with sigmoid, over the whole batch. Voxels of `IGNORED_CLASS` are left out of both.

    Args:
        loss: "ce+dice", "ce" or "dice".
        members: Which region contains which class of the labels, (regions, classes), see `LabelScheme.class_members`.
        ignoring: Whether labels may contain ignored voxels. Without any, False gives the same result in less time.
        shared: Whether several processes have a part of the batch each; the loss is that of the batch.
    """

    members: Tensor

    def __init__(self, loss: str, members: NDArray[np.bool_], *, ignoring: bool = True, shared: bool = False) -> None:
        super().__init__()
        self.ignoring, self.shared, self.names = ignoring, shared, loss.split("+")
        self.dice = Dice(shared=shared)
        self.register_buffer("members", torch.from_numpy(members).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (N, regions, *spatial) for labels (N, *spatial) of class indices: a scalar."""
        learned = (labels != IGNORED_CLASS)[:, None] if self.ignoring else None
        wanted = self.members[:, labels if learned is None else labels.where(learned[:, 0], 0)].transpose(0, 1)
        losses = []
        if "ce" in self.names:
            losses.append(self._entropy(logits, wanted, learned))
        if "dice" in self.names:
            shares = logits.sigmoid()
            if learned is None:
                losses.append(self.dice(shares, wanted))
            else:
                losses.append(self.dice(shares * learned, wanted * learned))
        return torch.stack(losses).sum()

    def _entropy(self, logits: Tensor, wanted: Tensor, learned: Tensor | None) -> Tensor:
        """Mean over regions and voxels; 0 for a batch of ignored voxels alone."""
        if learned is None and not self.shared:
            return F.binary_cross_entropy_with_logits(logits, wanted)
        counted = torch.ones_like(wanted[:, :1]) if learned is None else learned
        entropies = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * counted
        if self.shared:
            return shared_mean(entropies.sum(), counted.sum() * logits.shape[1])
        return entropies.sum() / (counted.sum().clamp(min=1) * logits.shape[1])


class CrossEntropy(nn.CrossEntropyLoss):
    """torch's cross-entropy, whose mean has the same bits at every call on a GPU, too: torch's own has not.

    Args:
        weight, ignore_index: See `torch.nn.CrossEntropyLoss`.
        fading, shared: See `SegmentationLoss`.
    """

    first: Tensor | None

    def __init__(self, *, weight: Tensor | None, ignore_index: int, fading: bool = False, shared: bool = False) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index)
        self.shared = shared
        self.register_buffer("first", weight.clone() if fading and weight is not None else None, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the voxels that are not ignored: (N, classes, *spatial), (N, *spatial) -> a scalar."""
        ordered = self.shared or logits.is_cuda
        return self.ordered_mean(logits, labels) if ordered else super().forward(logits, labels)

    def ordered_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same mean, by a sum whose order is fixed."""
        entropies = F.cross_entropy(logits, labels, self.weight, ignore_index=self.ignore_index, reduction="none")
        learned = labels != self.ignore_index
        weights = learned if self.weight is None else self.weight[labels.where(learned, 0)] * learned
        if self.shared:
            return shared_mean(entropies.sum(), weights.sum())
        return entropies.sum() / weights.sum()


def fade_weights(loss: nn.Module, done: float) -> None:
    """Give fading class weights the values that they have at a step: the first ones, to the power of 1 - `done`.

    Large weights let small structures be found early; as they fade, the network learns how frequent they are.

    Args:
        loss: Loss of a run; changed in place. One without fading weights stays as it is.
        done: Share of the run that is done, from 0 to 1.
    """
    for part in loss.modules():
        if isinstance(part, CrossEntropy) and part.first is not None and part.weight is not None:
            part.weight.copy_(part.first ** (1 - done))


class Dice(nn.Module):
    """Soft Dice over the whole batch, as MONAI's `DiceLoss(batch=True)`, whose import takes seconds.

    Args:
        shared: See `SegmentationLoss`.
    """

    smooth = 1e-5
    """Added to numerator and denominator: a class that is neither there nor predicted has no loss."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, shares: Tensor, wanted: Tensor) -> Tensor:
        """Loss of shares (N, classes, *spatial) for those that are wanted: a scalar."""
        axes = [0, *range(2, shares.ndim)]
        sums = torch.stack([part.sum(axes) for part in (shares * wanted, shares, wanted)])
        common, ours, theirs = total(sums) if self.shared else sums
        losses: Tensor = 1 - (2 * common + self.smooth) / (ours + theirs + self.smooth)
        return losses.mean()


def shared_mean(summed: Tensor, weight: Tensor) -> Tensor:
    """The mean over all processes, from the sum and the sum of weights of each; 0 without any weight."""
    summed, weight = total(torch.stack([summed, weight.to(summed)]))
    return summed / weight.clamp(min=torch.finfo(weight.dtype).tiny)


class DeepSupervision(nn.Module):
    """Weighted sum of a loss over the resolutions of a network, as in nnU-Net (Isensee et al. 2021).

    The weight of a resolution is half of that of the next finer one, and the lowest is left out; the weights sum to 1.
    Labels of a lower resolution are those in the middle of its voxels.

    Args:
        loss: Loss of logits and labels.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Loss of logits by resolution, the full one first, for labels (N, *spatial): a scalar.

        The logits may cover more than the labels at the far edges, because images were padded there.
        """
        weights = resolution_weights(len(outputs))
        full = outputs[0].shape[2:]
        losses = []
        # the lowest resolution has no weight
        for logits, weight in zip(outputs, weights, strict=False):
            steps = [size // lower for size, lower in zip(full, logits.shape[2:], strict=True)]
            lowered = lower_labels(labels, steps)
            covered = logits[:, :, *(slice(size) for size in lowered.shape[1:])]
            losses.append(weight * self.loss(covered, lowered))
        return torch.stack(losses).sum()


def resolution_weights(count: int) -> list[float]:
    """Weights of all resolutions but the lowest, the full one first."""
    weights = [0.5**level for level in range(count - 1)]
    return [weight / sum(weights) for weight in weights]


def lower_labels(labels: Tensor, steps: Sequence[int]) -> Tensor:
    """Labels in the middle of groups of voxels, at most the last one: (N, *spatial) -> (N, *spatial / steps, up).

    Args:
        labels: Labels.
        steps: Voxels of a group along each spatial axis.
    """
    for axis, step in enumerate(steps, start=1):
        size = labels.shape[axis]
        middles = torch.arange(step // 2, step // 2 - (-size // step) * step, step, device=labels.device)
        labels = labels if step == 1 else labels.index_select(axis, middles.clamp(max=size - 1))
    return labels


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
