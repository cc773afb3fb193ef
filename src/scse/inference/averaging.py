"""Predictions averaged over several segmenters and over mirrored images."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, combinations

import torch
from torch import Tensor

from scse.inference.cleaning import shared_cleaning
from scse.inference.engines import Engine, Run
from scse.inference.segmenter import Segmenter
from scse.support.errors import UserError
from scse.support.text import counted
from scse.vocabulary.sides import UNMIRRORED, Mirroring, safe_mirroring


def averaged(segmenters: Sequence[Segmenter], *, mirror: bool = False) -> Segmenter:
    """A segmenter whose class probabilities are the means of those of others, in each window.

    Args:
        segmenters: Segmenters of the same recipe and structures, such as the folds and seeds of a study.
        mirror: Average over the image and all its mirrored copies, too, along the axes that `safe_mirroring` finds;
            left and right classes change places where needed. It takes 2, 4 or 8 times as long.

    Returns:
        The first segmenter with an engine that runs all of them, and with the steps of clean-up that all of them have.

    Raises:
        UserError: There is no segmenter, recipes or structures differ, or images cannot be mirrored.
    """
    if not segmenters:
        raise UserError("segmenters must name at least one, got none")
    first = segmenters[0]
    for place, other in enumerate(segmenters[1:], start=2):
        for what, equal in (
            ("another recipe", other.recipe == first.recipe),
            ("other structures", list(other.structures.items()) == list(first.structures.items())),
        ):
            if not equal:
                raise UserError(
                    f"segmenter {place} has {what} than the first, so their predictions cannot be averaged; average "
                    "segmenters of one data set, with the same plane, spacing and patch"
                )
    mirroring = safe_mirroring(first.recipe.view, list(first.structures)) if mirror else UNMIRRORED
    if mirror and not mirroring.axes:
        raise UserError("mirror: images cannot be mirrored without exchanging left and right structures; leave it out")
    for segmenter in segmenters:
        segmenter.network.eval()
    runs = [segmenter.network if segmenter.engine is None else segmenter.engine.run for segmenter in segmenters]
    copies = 2 ** len(mirroring.axes)
    reason = f"{counted(len(runs), 'segmenter')}, {copies} pass{'es' * (copies > 1)} each"
    return replace(
        first,
        engine=Engine("averaged", reason, _Averaged(runs, mirroring)),
        cleaning=shared_cleaning([segmenter.cleaning for segmenter in segmenters]),
    )


class _Averaged:
    """Logarithm of the mean class probabilities of several networks and mirrored images."""

    def __init__(self, runs: Sequence[Run], mirroring: Mirroring) -> None:
        self.runs, self.mirroring = runs, mirroring
        axes = mirroring.axes
        self.passes = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, *spatial) to log-probabilities (N, classes, *spatial)."""
        total = torch.zeros(())
        for flipped in self.passes:
            axes = [axis + 2 for axis in flipped]
            turned = images.flip(axes) if axes else images
            for run in self.runs:
                shares = run(turned).float().softmax(1)
                if set(flipped) & set(self.mirroring.swaps):
                    shares = shares[:, list(self.mirroring.other)]
                shares = shares.flip(axes) if axes else shares
                total = total.to(shares.device) + shares
        mean = total / (len(self.runs) * len(self.passes))
        return mean.clamp_min_(torch.finfo(mean.dtype).tiny).log_()
