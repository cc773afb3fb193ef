"""DICOM series: values and affine against SimpleITK's reader of series, the choice of a series, and what is refused."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    EnhancedCTImageStorage,
    HTJ2KLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from dicom_series import AFFINE, write_object, write_series
from scse.data.dicom import choose_series, find_series, open_series
from scse.data.files import read_image, read_label
from scse.support.errors import DataError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def by_sitk(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Array (x, y, z) and affine of a series as SimpleITK reads its files in this order."""
    image = sitk.ReadImage([str(file) for file in files])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS @ affine


def changed(file: Path, **values: Any) -> None:
    dataset = dcmread(file)
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.save_as(file)


def last(folder: Path) -> Path:
    """The file of the slice with the greatest position along the normal."""
    return open_series(next(folder.iterdir())).files[-1]


# Values and geometry


@pytest.mark.parametrize("kind", [CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2.5, -3), (0.1, 0)])
def test_values_and_affine_are_those_of_simpleitk(tmp_path: Path, kind: str, slope: float, intercept: float) -> None:
    stored = np.random.default_rng(0).integers(-900, 3000, (20, 30, 7))
    files = write_series(tmp_path, stored, kind=kind, slope=slope, intercept=intercept)
    expected, affine = by_sitk(open_series(files[0]).files)
    for file in (files[0], files[4]):
        image = read_image([file])
        np.testing.assert_allclose(image.array[0], stored * slope + intercept, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(image.array[0], expected, rtol=1e-6)
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-9)
        np.testing.assert_allclose(image.affine, affine, atol=1e-9)
        assert image.array.dtype == np.float32


def test_slices_are_sorted_by_position_and_not_by_name_or_number(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 100, (5, 6, 9))
    files = write_series(tmp_path, stored, order=[3, 8, 0, 1, 7, 5, 2, 6, 4])
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    assert [str(file) for file in open_series(files[0]).files] == list(names)
    np.testing.assert_array_equal(read_image([files[0]]).array[0], stored)


def test_other_files_and_series_of_the_folder_are_left_out(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 100, (5, 6, 4))
    write_series(tmp_path, stored + 1, name="other")
    files = write_series(tmp_path, stored)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    np.testing.assert_array_equal(read_image([files[0]]).array[0], stored)


@pytest.mark.real_data
def test_a_real_series_is_read_as_by_simpleitk(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ct") / "dicom"
    image = read_image([choose_series(folder)])
    names = [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))]
    expected, affine = by_sitk(names)
    np.testing.assert_array_equal(image.array[0], expected)
    np.testing.assert_allclose(image.affine, affine, atol=1e-9)
    assert (image.shape, image.spacing, image.orientation) == ((512, 512, 20), (0.9765625, 0.9765625, 2.0), "LPS")
    assert image.array.min() == -1024


# The choice of a series


def test_series_are_listed_and_chosen_by_uid_or_description(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 100, (5, 6, 4))
    thick = write_series(tmp_path, stored, name="thick", description="Body 5.0", number=3)
    thin = write_series(tmp_path, np.dstack([stored, stored]), name="thin", description="Body 2.0", number=12)
    write_object(tmp_path / "report.dcm", BasicTextSRStorage)
    first, second = find_series(tmp_path)
    assert (first.number, first.description, first.modality, len(first.files)) == ("3", "Body 5.0", "CT", 4)
    assert (second.number, second.uid) == ("12", dcmread(thin[0]).SeriesInstanceUID)
    assert choose_series(tmp_path, "Body 5.0") in thick
    assert choose_series(tmp_path, second.uid) in thin
    listed = re.escape(f"\n  number 3, 'Body 5.0', CT, 4 slices, SeriesInstanceUID {first.uid}\n  {second}")
    with pytest.raises(DataError, match=rf"contains 2 DICOM series; choose one .*--series.*{listed}"):
        choose_series(tmp_path)
    with pytest.raises(DataError, match=rf"none of its DICOM series is called 'Body'.*{listed}"):
        choose_series(tmp_path, "Body")
    changed(thin[0], SeriesDescription="Body 5.0")
    for file in thin:
        changed(file, SeriesDescription="Body 5.0")
    with pytest.raises(DataError, match=r"2 of its DICOM series are called 'Body 5\.0'"):
        choose_series(tmp_path, "Body 5.0")


def test_a_folder_without_images_names_what_it_contains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no DICOM images, but no DICOM files"):
        find_series(tmp_path)
    write_object(tmp_path / "report", BasicTextSRStorage)
    with pytest.raises(DataError, match="contains no DICOM images, but 1 of Basic Text SR Storage"):
        find_series(tmp_path)


# What is refused


def check_refused(folder: Path, message: str) -> None:
    for file in (min(folder.iterdir()), max(folder.iterdir())):
        with pytest.raises(DataError, match=message) as error:
            read_image([file])
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path, np.random.default_rng(0).integers(0, 100, (5, 6, 8)))


@pytest.mark.parametrize(("shift", "angle"), [(0.5, r"11\.3"), (0.05, r"1\.15")])
def test_a_tilted_gantry_is_refused(tmp_path: Path, files: list[Path], shift: float, angle: str) -> None:
    for file in files:
        dataset = dcmread(file)
        along = np.array(dataset.ImageOrientationPatient[3:], float)
        moved = np.array(dataset.ImagePositionPatient, float) + shift * along * dataset.InstanceNumber
        changed(file, ImagePositionPatient=moved.round(8).tolist())
    check_refused(tmp_path, rf"shift by {shift} mm .*gantry tilt of about {angle} degrees.*dcm2niix")


def test_positions_may_be_rounded_to_a_tenth_of_a_millimetre(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 100, (5, 6, 60))
    affine = AFFINE @ np.diag([1, 1, 0.25, 1])  # slices are 0.625 mm apart
    files = write_series(tmp_path, stored, affine=affine)
    for file in files:
        rounded = np.array(dcmread(file).ImagePositionPatient, float).round(1)
        changed(file, ImagePositionPatient=rounded.tolist())
    image = read_image([files[0]])
    np.testing.assert_array_equal(image.array[0], stored)
    np.testing.assert_allclose(image.affine[:3, 2], affine[:3, 2], atol=0.2 / 59)


def test_missing_slices_are_refused(tmp_path: Path, files: list[Path]) -> None:
    files[3].unlink()
    files[4].unlink()
    message = rf"2 slices .* missing \(such as between {files[2].name} and {files[5].name}: 7\.5 mm, but 2\.5"
    check_refused(tmp_path, message)


def test_duplicate_slices_are_refused(tmp_path: Path, files: list[Path]) -> None:
    (tmp_path / "copy").write_bytes(files[2].read_bytes())
    check_refused(tmp_path, r"1 slices .* lie where another one lies .*remove duplicates")


def test_mixed_spacings_are_refused(tmp_path: Path, files: list[Path]) -> None:
    dataset = dcmread(last(tmp_path))
    normal = LPS[:3, :3] @ AFFINE[:3, 2] / 2.5
    moved = np.array(dataset.ImagePositionPatient, float) + 0.6 * normal
    changed(last(tmp_path), ImagePositionPatient=moved.tolist())
    check_refused(tmp_path, r"mixed spacings, 2\.5 to 3\.1 mm, and lie up to .*resample")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"PixelSpacing": [0.7, 0.9]}, "mixed pixel spacings"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "mixed orientations"),
        ({"Rows": 5, "Columns": 6}, "mixed sizes"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient of 3 numbers"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "has no ImageOrientationPatient of 6 numbers"),
        ({"PixelSpacing": []}, "has no PixelSpacing of 2 numbers"),
        ({"NumberOfFrames": 2}, "several frames .*dcm2niix"),
        ({"SOPClassUID": EnhancedCTImageStorage}, r"several frames \(Enhanced CT Image Storage\)"),
        ({"SamplesPerPixel": 3}, "has 3 values a pixel"),
        ({"ModalityLUTSequence": []}, "by a table"),
    ],
)
def test_slices_that_do_not_fit_are_refused(
    tmp_path: Path, files: list[Path], values: dict[str, Any], message: str
) -> None:
    changed(files[3], **values)
    check_refused(tmp_path, message)


def test_planes_that_are_none_are_refused(tmp_path: Path, files: list[Path]) -> None:
    for file in files:
        changed(file, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    check_refused(tmp_path, r"not those of a plane")


def test_a_single_slice_is_refused(tmp_path: Path, files: list[Path]) -> None:
    for file in files[1:]:
        file.unlink()
    check_refused(tmp_path, "only slice of its series")


def test_an_object_without_an_image_is_refused_by_name(tmp_path: Path) -> None:
    write_object(tmp_path / "report", BasicTextSRStorage)
    check_refused(tmp_path, r"report: is a DICOM object without an image \(Basic Text SR Storage\)")


def test_a_compression_that_is_not_decoded_is_refused_by_name(tmp_path: Path, files: list[Path]) -> None:
    dataset = dcmread(files[2])
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(50)])
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    dataset.save_as(files[2])
    check_refused(tmp_path, r"stored as High-Throughput JPEG 2000 .* not decoded; decompress")


def test_a_label_map_is_no_series(files: list[Path]) -> None:
    with pytest.raises(DataError, match="unknown ending"):
        read_label(files[0])


@pytest.mark.parametrize("keep", [140, 300, -100, -1])
def test_truncated_slices_are_one_error_and_nothing_is_printed(
    tmp_path: Path, files: list[Path], keep: int, capfd: pytest.CaptureFixture[str]
) -> None:
    content = files[3].read_bytes()
    files[3].write_bytes(content[:keep])
    with pytest.raises(DataError) as error:
        read_image([files[3]])
    assert "\n" not in str(error.value)
    assert str(files[3]) in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_slices_that_lost_their_series_are_missing(tmp_path: Path, files: list[Path]) -> None:
    changed(files[3], SeriesInstanceUID="1.2.3")
    with pytest.raises(DataError, match=r"1 slices .* missing"):
        read_image([files[0]])


@pytest.mark.parametrize("use", ["read_image([path])", "find_images([path.parent], channels=1)"])
def test_a_missing_extra_is_said_in_a_line(files: list[Path], use: str) -> None:
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from pathlib import Path\n"
        "from scse.data.files import read_image\n"
        "from scse.inference.inputs import find_images\n"
        f"path = Path({str(files[0])!r})\n"
        f"{use}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(r"DICOM needs pydicom: pip install 'scse\[dicom\]'$", done.stderr.strip()), done.stderr
