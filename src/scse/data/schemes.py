"""What the outputs of a network mean: exclusive classes, or regions of labels that overlap, as in nnU-Net.

In BraTS, the whole tumour has the labels 1, 2 and 3, the tumour core 2 and 3, and the enhancing tumour 3. A network
learns such regions as outputs of their own, without one for the background, and each voxel may be in several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scse.support.errors import UserError
from scse.vocabulary.planes import View
from scse.vocabulary.sides import Mirroring, safe_mirroring

if TYPE_CHECKING:
    from torch import Tensor


def best_classes(scores: "Tensor", *, axis: int) -> NDArray[np.uint8]:
    """The class of the greatest score along an axis.

    Raises:
        UserError: The greatest score of a pixel is NaN or infinite.
    """
    # max is several times as fast as argmax on CPUs
    best = scores.max(axis)
    check_finite(best.values)
    classes: NDArray[np.uint8] = best.indices.byte().cpu().numpy()
    return classes


def check_finite(scores: "Tensor") -> None:
    """Refuse class scores that are NaN or infinite.

    Raises:
        UserError: There is such a score.
    """
    if not scores.isfinite().all():
        raise UserError(
            "the network returned NaN or infinite probabilities: its weights are corrupted, or values overflowed; "
            "copy the model again, or train it again"
        )


@dataclass(frozen=True)
class LabelScheme:
    """The meaning of the outputs of a network, and of label maps.

    Two kinds of numbers stand for labels in 8 bits. The *classes* of prepared label maps count the labels that a
    reference can have. The *numbers* of predicted maps count the structures, background 0: they are the same as the
    classes unless there are regions.

    Attributes:
        structures: Label value that predicted label maps have for each structure, by name.
        regions: Labels of each structure, by name, if structures are regions of labels; empty for exclusive classes.
    """

    structures: Mapping[str, int]
    regions: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Outputs of the network: one for each structure, and one for the background unless there are regions."""
        return len(self.structures) + (not self.regions)

    @property
    def labels(self) -> Mapping[str, int]:
        """Value of each label of a reference but the background, by name, in the order of the classes from 1 on."""
        if not self.regions:
            return self.structures
        return {f"label {value}": value for value in sorted({v for each in self.regions.values() for v in each})}

    @property
    def scored(self) -> Mapping[str, int | Sequence[int]]:
        """Label values by which each structure is scored, by name: one, or those of its region."""
        return {name: self.regions.get(name, value) for name, value in self.structures.items()}

    def mirroring(self, view: View) -> Mirroring:
        """The axes along which an image can be mirrored, see `safe_mirroring`.

        Regions never change places, because no name says to which side each of their labels belongs: with a region of
        the left or right, images are not mirrored from left to right.
        """
        return safe_mirroring(view, list(self.structures), swapping=not self.regions)

    def probabilities(self, logits: "Tensor", *, axis: int) -> "Tensor":
        """Probabilities of the outputs, which lie along an axis; those of exclusive classes add up to 1."""
        return logits.sigmoid() if self.regions else logits.softmax(axis)

    def decide(self, scores: "Tensor", *, axis: int) -> NDArray[np.uint8]:
        """The number of each voxel, without the axis of the outputs.

        Args:
            scores: Logits or probabilities of exclusive classes; probabilities of regions.
            axis: Axis of the outputs.

        Raises:
            UserError: A score that decides is NaN or infinite.
        """
        if not self.regions:
            return best_classes(scores, axis=axis)
        check_finite(scores)
        numbers: NDArray[np.uint8] = painted(scores, axis=axis).cpu().numpy()
        return numbers

    def number_members(self) -> NDArray[np.bool_]:
        """Which region contains which number of predicted maps: (regions, regions + 1)."""
        return self._members([0, *self.structures.values()])

    def class_members(self) -> NDArray[np.bool_]:
        """Which region contains which class of prepared label maps: (regions, classes)."""
        return self._members([0, *self.labels.values()])

    def _members(self, values: Sequence[int]) -> NDArray[np.bool_]:
        return np.array([np.isin(values, self.regions[name]) for name in self.structures])


EXCLUSIVE = LabelScheme({})
"""Exclusive classes, where only the meaning of their scores matters."""


def painted(probabilities: "Tensor", *, axis: int) -> "Tensor":
    """Numbers of regions as uint8, by nnU-Net's rule: each region is painted over those before it.

    Args:
        probabilities: Probabilities of regions along an axis; a voxel is in a region where they exceed 0.5.
        axis: Axis of the regions.

    Returns:
        Without this axis: n where the n-th region is the last that contains the voxel, 0 where none does.
    """
    first, *others = (probabilities > 0.5).unbind(axis)
    numbers = first.byte()
    for number, inside in enumerate(others, start=2):
        numbers.masked_fill_(inside, number)
    return numbers
