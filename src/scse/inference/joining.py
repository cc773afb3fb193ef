"""One prediction of segmenters that see an image differently: three planes, as in QuickNAT, or slices and volumes.

The class probabilities of segmenters of one recipe are averaged window by window, see `averaged`; those of different
recipes in the image's own grid (view aggregation of Roy et al. 2019, NeuroImage 186).

The segmenters run one after the other. The sum of their probabilities is kept in a temporary file, with two bytes per
voxel and class, and the last one's are added row by row: in memory are the class scores of a few slices or rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scse.data.files import Image
from scse.data.recipe import Recipe, Slices
from scse.data.schemes import check_finite
from scse.inference.averaging import averaged, check_members
from scse.inference.cleaning import shared_cleaning
from scse.inference.known import shared_known
from scse.inference.segmenter import Label, Progress, Segmenter, W
from scse.support.errors import UserError
from scse.support.scratch import scratch

STEPS = 65_000
"""Steps between 0 and 1 in sums of probabilities: 16 bits, with room for the rounding of 1,000 terms."""

OfMember = Callable[[int, int, Tensor], None]
"""Called with the place of a segmenter, the index of a row in its view, and its probabilities (classes, *plane)."""

OfMean = Callable[[int, Tensor], None]
"""Called with the index of a row in the view of the last segmenter, and the mean probabilities (classes, *plane)."""


def joined(
    segmenters: Sequence[Segmenter], *, weights: Sequence[float] | None = None, mirror: bool = False
) -> Segmenter:
    """A segmenter whose class probabilities are the means of those of others, whose recipes may differ.

    Args:
        segmenters: Segmenters of the same structures and channels.
        weights: Weight of each segmenter, such as 0.4 for coronal, 0.4 for axial and 0.2 for sagittal as in QuickNAT;
            equal by default. Only their ratios matter.
        mirror: Average over mirrored images, too: for each segmenter along its own axes, see `averaged`.

    Returns:
        What `averaged` returns, if all have the same recipe; else a segmenter that only predicts.

    Raises:
        UserError: There is no segmenter, structures or channels differ, some are of pictures and some of volumes,
            weights are not positive, or images cannot be mirrored.
    """
    shares = check_members(segmenters, weights)
    check_images(segmenters)
    groups: dict[Recipe, list[int]] = {}
    for place, segmenter in enumerate(segmenters):
        groups.setdefault(segmenter.recipe, []).append(place)
    members = [
        averaged([segmenters[place] for place in places], weights=[shares[place] for place in places], mirror=mirror)
        for places in groups.values()
    ]
    if len(members) == 1:
        return members[0]
    return Joined.of(members, [sum(shares[place] for place in places) for places in groups.values()])


def check_images(segmenters: Sequence[Segmenter]) -> None:
    """Refuse segmenters of which no image can be segmented by all.

    Raises:
        UserError: Some are of pictures, and some of volumes.
    """
    views = dict.fromkeys(segmenter.recipe.view for segmenter in segmenters)
    if "picture" in views and len(views) > 1:
        raise UserError(
            f"segmenters are of pictures and of volumes ({', '.join(views)}), and no image is both; join those of one"
        )


@dataclass(frozen=True)
class Joined(Segmenter):
    """Several segmenters that predict as one; the fields of `Segmenter` are those of the first.

    Attributes:
        members: Segmenters, two or more.
        weights: Weight of the probabilities of each; their sum is 1.
    """

    members: Sequence[Segmenter] = ()
    weights: Sequence[float] = ()

    @classmethod
    def of(cls, members: Sequence[Segmenter], weights: Sequence[float]) -> Self:
        """Join two or more segmenters of the same structures and channels, with any positive weights."""
        first = members[0]
        return cls(
            network=first.network,
            name=first.name,
            arguments=first.arguments,
            variant=first.variant,
            recipe=first.recipe,
            structures=first.structures,
            settings=first.settings,
            regions=first.regions,
            cleaning=shared_cleaning([member.cleaning for member in members]),
            known=shared_known([member.known for member in members]),
            members=members,
            weights=[weight / sum(weights) for weight in weights],
        )

    def __str__(self) -> str:
        """The view of each member, and what runs it."""
        views = (f"{member.recipe.view}: {member.engine.reason if member.engine else ''}" for member in self.members)
        return f"joined ({'; '.join(views)})"

    def save(self, folder: Path | str) -> Path:
        """Refused: the segmenters are saved one by one."""
        raise UserError("joined segmenters cannot be saved as one; save each of them, and join them again")

    def with_engine(self, name: str = "torch", *, images: int = 1) -> Segmenter:
        """Refused: an engine is chosen for each segmenter before."""
        raise UserError("joined segmenters have no engine of their own; call with_engine of each before joining them")

    def means(
        self,
        slices: Sequence[Slices],
        batch_size: int | None = None,
        progress: Progress | None = None,
        of_member: OfMember | None = None,
    ) -> Iterator[Tensor]:
        """Mean class probabilities of an image on its own grid, row by row of the last member's view.

        Args:
            slices: Image as each member sees it.
            batch_size: See `Segmenter.predict_image`.
            progress: Called with the numbers of finished and of all members after each.
            of_member: Called with each row of each member.

        Yields:
            Probabilities (classes, *plane), in the order of `Grid.rows` of the last member's slices, on the CPU.

        Raises:
            UserError: A network returned NaN or infinite scores.
        """
        shape, last = slices[0].grid.shape, len(self.members) - 1
        with scratch((*shape, self.scheme.outputs), np.uint16) as total:
            for place, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
                sums = slices[place].grid.rows(total)
                for row, found in enumerate(member.probabilities(slices[place], batch_size)):
                    check_finite(found)
                    shares = found.cpu()
                    if of_member is not None:
                        of_member(place, row, shares)
                    if place == last:
                        before = torch.from_numpy(sums[row].astype(np.float32)).movedim(-1, 0)
                        yield before.div_(STEPS).add_(shares, alpha=weight)
                    else:
                        steps = (shares * (weight * STEPS)).round_().movedim(0, -1).contiguous()
                        sums[row] += steps.numpy().astype(np.uint16)
                if progress is not None:
                    progress(place + 1, last + 1)

    def _views(self, image: Image) -> list[Slices]:
        return [member._slices(image) for member in self.members]

    def _ready(self, views: list[Slices]) -> Label:
        return partial(self._label, partial(self._joined, views))

    def _joined(
        self,
        held: list[Slices],
        values: NDArray[W],
        batch_size: int | None,
        progress: Progress | None,
        *,
        of_member: OfMember | None = None,
        of_mean: OfMean | None = None,
    ) -> NDArray[W]:
        """The value of each voxel's class (*spatial) on the grid of the image, whose views are taken out of `held`."""
        slices = held.copy()
        held.clear()
        labels = np.empty(slices[-1].grid.shape, values.dtype)
        rows = slices[-1].grid.rows(labels)
        for row, mean in enumerate(self.means(slices, batch_size, progress, of_member)):
            rows[row] = values[self.scheme.decide(mean, axis=0)]
            if of_mean is not None:
                of_mean(row, mean)
        return labels
