"""DICOM-SEG: voxels and geometry as highdicom and SimpleITK read them, codes of structures, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from dicom_series import AFFINE, write_series
from scse.data.dicom import choose_series, open_series
from scse.inference.dicom_seg import check_series, coded, write_dicom_seg
from scse.support.errors import UserError

STRUCTURES = {"left kidney": 5, "liver": 2, "organ of Zuckerkandl, äußere": 7}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "series", np.zeros((20, 30, 7)), order=[2, 0, 1, 6, 5, 4, 3])


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).choice([0, 2, 5, 7], (20, 30, 7)).astype(np.uint8)


def read(found: hd.seg.Segmentation, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) of a segment, and their affine along right, anterior, superior, as highdicom gives them."""
    # its axes are slices, rows and columns, and its slices run against the normal
    volume = found.get_volume(segment_numbers=[number], combine_segments=True).flip_spatial([0])
    affine = np.diag([-1, -1, 1, 1]) @ volume.affine
    return volume.array.transpose(2, 1, 0) > 0, affine[:, [2, 1, 0, 3]]


def test_segments_have_the_voxels_of_the_label_map_on_the_grid_of_the_series(
    tmp_path: Path, files: list[Path], labels: np.ndarray
) -> None:
    write_dicom_seg(tmp_path / "a.dcm", labels, STRUCTURES, source=files[0])
    found = hd.seg.segread(tmp_path / "a.dcm")
    for number, (name, value) in enumerate(STRUCTURES.items(), start=1):
        segment, affine = read(found, number)
        np.testing.assert_allclose(affine, AFFINE, atol=1e-6)
        np.testing.assert_array_equal(segment, labels == value)
        assert found.get_segment_description(number).segment_label == name
    assert found.StudyInstanceUID == dcmread(files[0]).StudyInstanceUID
    assert found.FrameOfReferenceUID == dcmread(files[0]).FrameOfReferenceUID
    assert found.SeriesInstanceUID != dcmread(files[0]).SeriesInstanceUID


def test_each_frame_refers_to_its_slice(tmp_path: Path, files: list[Path], labels: np.ndarray) -> None:
    write_dicom_seg(tmp_path / "a.dcm", labels, STRUCTURES, source=files[0])
    found = hd.seg.segread(tmp_path / "a.dcm")
    order = [dcmread(file).SOPInstanceUID for file in open_series(files[0]).files]
    frames = found.get_pixels_by_source_instance(order, combine_segments=True)
    numbers = {0: 0, 5: 1, 2: 2, 7: 3}
    np.testing.assert_array_equal(frames.transpose(2, 1, 0), np.vectorize(numbers.get)(labels))


@pytest.mark.parametrize("characters", ["ISO_IR 100", "ISO_IR 192"])
def test_names_of_patients_keep_their_letters(
    tmp_path: Path, files: list[Path], labels: np.ndarray, characters: str
) -> None:
    for file in files:
        dataset: Any = dcmread(file)
        dataset.SpecificCharacterSet, dataset.PatientName, dataset.PatientID = characters, "Müller^Jörg", "ä1"
        dataset.save_as(file)
    write_dicom_seg(tmp_path / "a.dcm", labels, STRUCTURES, source=files[0])
    found = dcmread(tmp_path / "a.dcm")
    assert (str(found.PatientName), found.PatientID) == ("Müller^Jörg", "ä1")
    assert found.SegmentSequence[2].SegmentLabel == "organ of Zuckerkandl, äußere"


def test_regions_overlap(tmp_path: Path, files: list[Path], labels: np.ndarray) -> None:
    write_dicom_seg(tmp_path / "a.dcm", labels, {"whole": [2, 5, 7], "core": [5, 7]}, source=files[0])
    found = hd.seg.segread(tmp_path / "a.dcm")
    for number, values in ((1, [2, 5, 7]), (2, [5, 7])):
        np.testing.assert_array_equal(read(found, number)[0], np.isin(labels, values))


def test_an_empty_label_map_is_written(tmp_path: Path, files: list[Path], labels: np.ndarray) -> None:
    write_dicom_seg(tmp_path / "a.dcm", np.zeros_like(labels), STRUCTURES, source=files[0])
    found = hd.seg.segread(tmp_path / "a.dcm")
    assert found.number_of_segments == 3
    assert not found.pixel_array.any()


@pytest.mark.parametrize(
    ("name", "value", "category", "side"),
    [
        ("liver", "10200004", "Anatomical Structure", None),
        ("Left Kidney", "64033007", "Anatomical Structure", "Left"),
        ("kidney_right", "64033007", "Anatomical Structure", "Right"),
        ("rh-hippocampus", "5366008", "Anatomical Structure", "Right"),
        ("edema", "79654002", "Morphologically Abnormal Structure", None),
    ],
)
def test_structures_that_dicom_lists_have_their_snomed_code(
    name: str, value: str, category: str, side: str | None
) -> None:
    found = coded(name)
    assert (found[1].value, found[1].scheme_designator, found[0].meaning) == (value, "SCT", category)
    assert (None if found[2] is None else found[2].meaning) == side


@pytest.mark.parametrize("name", ["structure_1", "left thingummy", "background", "x" * 200, "äußere"])
def test_other_structures_have_a_private_code(name: str) -> None:
    category, kind, side = coded(name)
    assert (kind.scheme_designator, kind.value, kind.meaning) == ("99SCSE", name[:64], name[:64])
    assert (category.meaning, side) == ("Anatomical Structure", None)


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"])
def test_slices_without_identifiers_are_refused(files: list[Path], name: str) -> None:
    dataset: Any = dcmread(files[3])
    setattr(dataset, name, "")
    dataset.save_as(files[3])
    with pytest.raises(UserError, match=rf"{files[3].name}: has no {name}, by which .*omit --dicom-seg"):
        check_series(files[0])


@pytest.mark.real_data
def test_a_real_series_whose_identifiers_were_removed_is_refused(real_data: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="has no StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID, SOPClassUID"):
        check_series(choose_series(real_data("ct") / "dicom"))
