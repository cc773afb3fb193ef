"""Predictions averaged over several segmenters and over mirrored images."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, combinations

import torch
from torch import Tensor

from scse.data.schemes import EXCLUSIVE, LabelScheme
from scse.inference.cleaning import shared_cleaning
from scse.inference.engines import Engine, Run
from scse.inference.known import shared_known
from scse.inference.segmenter import Segmenter
from scse.support.errors import UserError
from scse.support.text import counted
from scse.vocabulary.sides import UNMIRRORED, Mirroring


def averaged(
    segmenters: Sequence[Segmenter], *, weights: Sequence[float] | None = None, mirror: bool = False
) -> Segmenter:
    """A segmenter whose class probabilities are the means of those of others, in each window.

    Args:
        segmenters: Segmenters of the same recipe and structures, such as the folds and seeds of a study. For different
            recipes, see `scse.inference.joining.joined`.
        weights: Weight of each segmenter; equal by default. Only their ratios matter.
        mirror: Average over the image and all its mirrored copies, too, along the axes that `safe_mirroring` finds;
            left and right classes change places where needed. It takes 2, 4 or 8 times as long.

    Returns:
        The first segmenter with an engine that runs all of them, and with the steps of clean-up that all of them have.

    Raises:
        UserError: There is no segmenter, recipes or structures differ, weights are not positive, or images cannot be
            mirrored.
    """
    shares = check_members(segmenters, weights)
    first = segmenters[0]
    for place, other in enumerate(segmenters[1:], start=2):
        if other.recipe != first.recipe:
            raise UserError(
                f"segmenter {place} has another recipe than the first, so their predictions cannot be averaged by "
                "window; average segmenters of one data set, with the same plane, spacing and patch, or join them with "
                "scse.inference.joining.joined"
            )
    mirroring = mirroring_of(first, mirror)
    runs = [segmenter.run for segmenter in segmenters]
    copies = 2 ** len(mirroring.axes)
    reason = f"{counted(len(runs), 'segmenter')}, {copies} pass{'es' * (copies > 1)} each"
    return replace(
        first,
        engine=Engine("averaged", reason, Averaged(runs, shares, mirroring, scheme=first.scheme)),
        cleaning=shared_cleaning([segmenter.cleaning for segmenter in segmenters]),
        known=shared_known([segmenter.known for segmenter in segmenters]),
    )


def check_members(segmenters: Sequence[Segmenter], weights: Sequence[float] | None) -> Sequence[float]:
    """Check that predictions of segmenters can be averaged.

    Returns:
        The weight of each segmenter, 1 by default.

    Raises:
        UserError: There is no segmenter, structures, their regions or numbers of channels differ, one has another
            squeeze than "window", or weights are not positive.
    """
    if not segmenters:
        raise UserError("segmenters must name at least one, got none")
    first = segmenters[0]
    for place, other in enumerate(segmenters[1:], start=2):
        for what, equal in (
            ("another number of channels", other.recipe.channels == first.recipe.channels),
            ("other structures", list(other.structures.items()) == list(first.structures.items())),
            ("other regions of labels", _regions(other) == _regions(first)),
        ):
            if not equal:
                raise UserError(
                    f"segmenter {place} has {what} than the first, so their predictions cannot be averaged; average "
                    "segmenters of one data set"
                )
    if held := {segmenter.squeeze for segmenter in segmenters} - {"window"}:
        raise UserError(
            f"squeeze={held.pop()!r} is for the prediction of one segmenter, and not for averages of several or of "
            "mirrored images; leave one of them out"
        )
    if weights is None:
        return [1.0] * len(segmenters)
    check_weights(weights, len(segmenters), "segmenter")
    return weights


def _regions(segmenter: Segmenter) -> dict[str, list[int]]:
    return {name: sorted(members) for name, members in segmenter.regions.items()}


def check_weights(weights: Sequence[float], count: int, what: str) -> None:
    """Check the weights of predictions that are averaged.

    Args:
        weights: Weights.
        count: How many there must be.
        what: What each of them is the weight of.

    Raises:
        UserError: There are more or fewer, or one is not positive and finite.
    """
    if len(weights) != count or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        numbers = "a positive number" if count == 1 else f"{count} positive numbers"
        raise UserError(f"weights must be {numbers}, one for each {what}; got {list(weights)}")


def mirroring_of(segmenter: Segmenter, mirror: bool) -> Mirroring:
    """The axes along which a segmenter's input is mirrored; none without `mirror`.

    Raises:
        UserError: Images should be mirrored and cannot be.
    """
    mirroring = segmenter.scheme.mirroring(segmenter.recipe.view) if mirror else UNMIRRORED
    if mirror and not mirroring.axes:
        raise UserError("mirror: images cannot be mirrored without exchanging left and right structures; leave it out")
    return mirroring


def flips(mirroring: Mirroring) -> list[tuple[int, ...]]:
    """The axes that are mirrored in each pass: none first, all last."""
    axes = mirroring.axes
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


class Averaged:
    """Logits of the mean probabilities of several networks and mirrored images.

    Args:
        runs: Functions from images to logits.
        weights: Weight of each of them.
        mirroring: Axes that can be mirrored, and which classes change places.
        passes: Axes that are mirrored in each pass; by default all passes of `mirroring`.
        scheme: The meaning of the outputs; exclusive classes by default.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        weights: Sequence[float],
        mirroring: Mirroring,
        passes: Sequence[tuple[int, ...]] | None = None,
        *,
        scheme: LabelScheme = EXCLUSIVE,
    ) -> None:
        self.runs, self.weights, self.mirroring = runs, weights, mirroring
        self.passes = flips(mirroring) if passes is None else passes
        self.scheme = scheme

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, *spatial) to logits (N, outputs, *spatial): log-probabilities of exclusive classes."""
        total = torch.zeros(())
        for flipped in self.passes:
            axes = [axis + 2 for axis in flipped]
            turned = images.flip(axes) if axes else images
            for run, weight in zip(self.runs, self.weights, strict=True):
                shares = self.scheme.probabilities(run(turned).float(), axis=1)
                if set(flipped) & set(self.mirroring.swaps):
                    shares = shares[:, list(self.mirroring.other)]
                shares = shares.flip(axes) if axes else shares
                total = total.to(shares.device) + shares * weight
        mean = total / (sum(self.weights) * len(self.passes))
        if self.scheme.regions:
            return mean.logit_(eps=torch.finfo(mean.dtype).eps)
        return mean.clamp_min_(torch.finfo(mean.dtype).tiny).log_()
