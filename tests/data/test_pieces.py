"""Connected pieces: diagonal neighbours are connected, specks do not count, and counts are kept with the arrays."""

from pathlib import Path

import numpy as np
import pytest

from datasets import save_prepared
from scse.data.pieces import COUNTS, count_pieces, pieces_of


def test_pieces_are_connected_parts_that_are_no_specks() -> None:
    labels = np.zeros((12, 12, 12), np.uint16)
    labels[:4, :4, :4] = 300
    labels[4, 4, 4] = 300  # touches a corner
    labels[8:, 8:, 8:] = 300
    labels[0, 11, 11] = 300  # less than 1 % of the voxels
    labels[0, 11, 0] = 2
    assert count_pieces(labels, [300, 2, 5]) == [2, 1, 0]


@pytest.mark.parametrize("volume", [False, True])
def test_counts_of_a_prepared_case_are_kept(tmp_path: Path, volume: bool) -> None:
    labels = np.zeros((6, 8, 8), np.uint8)
    labels[0, :2], labels[3:, :2], labels[:, 5:] = 1, 1, 2
    labels[5, 7, 7] = 255
    case = save_prepared(tmp_path / "a", np.zeros((6, 1, 8, 8)), labels[None] if volume else labels)
    assert pieces_of(case, 3) == [2, 1]
    (case.folder / COUNTS).write_text("[4, 5]")
    assert pieces_of(case, 3) == [4, 5]
    for damaged in ("[4]", "{", "[4, null]", "7"):
        (case.folder / COUNTS).write_text(damaged)
        assert pieces_of(case, 3) == [2, 1]
