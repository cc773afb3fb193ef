"""Groups of segmenters that predict as one: which function joins them, and the weight of each member."""

import numpy as np
import pytest

from scse.data.files import Image
from scse.inference.combining import combined
from scse.inference.joining import joined
from scse.inference.uncertainty import Uncertain
from scse.support.errors import UserError
from views import segmenter, volume

IMAGE = Image(volume()[None], np.eye(4))


def test_one_segmenter_alone_is_itself() -> None:
    one = segmenter("coronal")
    assert combined([[one]]) is one
    assert combined([[one]], weights=[3]) is one
    assert str(combined([[one]], mirror=True).engine).startswith("averaged")


def test_the_members_of_a_group_share_its_weight() -> None:
    coronal, axial, sagittal = segmenter("coronal"), segmenter("axial", 1), segmenter("sagittal", 2)
    found = combined([[coronal], [axial, sagittal]], weights=[1, 6])
    expected = joined([coronal, axial, sagittal], weights=[1, 3, 3])
    np.testing.assert_array_equal(found.predict_image(IMAGE), expected.predict_image(IMAGE))
    each = combined([[coronal], [axial, sagittal]])
    np.testing.assert_array_equal(
        each.predict_image(IMAGE), joined([coronal, axial, sagittal], weights=[2, 2, 2]).predict_image(IMAGE)
    )


def test_the_spread_is_measured_on_request() -> None:
    assert isinstance(combined([[segmenter("coronal")], [segmenter("axial", 1)]], uncertainty=True), Uncertain)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, np.inf]])
def test_weights_are_those_of_groups(weights: list[float]) -> None:
    groups = [[segmenter("coronal")], [segmenter("axial", 1), segmenter("sagittal", 2)]]
    with pytest.raises(
        UserError, match=r"weights must be 2 positive numbers, one for each -m .*each group, in Python.*got"
    ):
        combined(groups, weights=weights)
