"""Label schemes: exclusive classes, and regions by the rule of nnU-Net's label handling."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from scse.data.schemes import LabelScheme
from scse.support.errors import UserError

BRATS = LabelScheme({"whole": 1, "core": 2, "enhancing": 3}, {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)})
KITS = LabelScheme({"kidney": 1, "mass": 3, "tumor": 2}, {"kidney": (1, 2, 3), "mass": (2, 3), "tumor": (2,)})
SPARSE = LabelScheme({"a": 70, "b": 4}, {"a": (70, 9), "b": (4, 9, 20)})
"""Labels that no predicted map has, with gaps and out of order."""


def nnunet(scheme: LabelScheme) -> LabelManager:
    regions = {name: list(members) for name, members in scheme.regions.items()}
    return LabelManager({"background": 0, **regions}, list(scheme.structures.values()))


@pytest.mark.parametrize("scheme", [BRATS, KITS, SPARSE])
def test_label_maps_of_regions_are_those_of_nnunet(scheme: LabelScheme) -> None:
    manager = nnunet(scheme)
    assert manager.has_regions
    assert scheme.outputs == manager.num_segmentation_heads
    assert list(scheme.labels.values()) == manager.all_labels[1:]
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(scheme.outputs, 20, 30, 10)).astype(np.float32))
    logits[:, :4] = 0  # a probability of exactly 0.5 is not in a region
    values = np.array([0, *scheme.structures.values()])
    numbers = scheme.decide(scheme.probabilities(logits, axis=0), axis=0)
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(values[numbers], manager.convert_logits_to_segmentation(logits).numpy())
    assert len(np.unique(numbers)) == scheme.outputs + 1
    batch = scheme.probabilities(logits[None], axis=1)
    np.testing.assert_array_equal(scheme.decide(batch, axis=1), numbers[None])


@pytest.mark.parametrize("scheme", [BRATS, KITS, SPARSE])
def test_members_say_which_region_contains_which_label(scheme: LabelScheme) -> None:
    def members(values: Sequence[int]) -> list[list[bool]]:
        return [[value in scheme.regions[name] for value in (0, *values)] for name in scheme.structures]

    assert scheme.number_members().tolist() == members([*scheme.structures.values()])
    assert scheme.class_members().tolist() == members([*scheme.labels.values()])


def test_exclusive_classes_have_one_output_each_and_one_for_the_background() -> None:
    scheme = LabelScheme({"left": 3, "right": 300})
    assert (scheme.outputs, scheme.labels, scheme.scored) == (3, scheme.structures, scheme.structures)
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scheme.probabilities(logits, axis=1), logits.softmax(1))
    np.testing.assert_array_equal(scheme.decide(logits, axis=1), logits.argmax(1).numpy())


@pytest.mark.parametrize("scheme", [BRATS, LabelScheme({"a": 1, "b": 2})])
def test_scores_that_are_not_finite_are_refused(scheme: LabelScheme) -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        scheme.decide(torch.full((3, 4, 4), torch.nan), axis=0)


def test_regions_are_mirrored_from_left_to_right_only_without_sides() -> None:
    assert BRATS.mirroring("volume").axes == (0, 1, 2)
    sides = LabelScheme({"left tumor": 1, "right tumor": 2}, {"left tumor": (1, 3), "right tumor": (2, 4)})
    assert (sides.mirroring("volume").axes, sides.mirroring("volume").swaps) == ((1, 2), ())
    assert sides.mirroring("picture").axes == ()
    assert LabelScheme(sides.structures).mirroring("volume").swaps == (0,)
