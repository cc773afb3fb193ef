"""DICOM series of slices as volumes: pydicom reads the headers, SimpleITK (GDCM) decodes the pixels.

Slices are sorted by their position along the normal of their plane, as ITK's reader of series does, and never by the
names of files. Their affine is exact only if they lie on a regular grid; series whose slices do not are refused.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from scse.data.file_errors import FileError, check_is_file
from scse.data.itk import LPS, reason
from scse.data.volumes import is_dicom
from scse.support.errors import DataError, in_short

TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "ModalityLUTSequence"),
    *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"),
)
"""What is read of headers."""

DECODED = frozenset(
    {
        *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
        *(RLELossless, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, JPEG2000Lossless, JPEG2000),
    }
)
"""Transfer syntaxes that GDCM decodes."""

PLACE_TOLERANCE = 0.15
"""Allowed distance in mm of a slice from its place on a regular grid, since some scanners round positions to 0.1 mm."""

PLACE_FRACTION = 0.25
"""The same as a fraction of the distance between slices, for those that are less than 0.6 mm apart."""

DUPLICATE = 0.01
"""Greatest distance of duplicate slices, as a fraction of the usual distance."""

TILT = 0.1
"""Allowed angle in degrees between the normal of the slices and the line on which they lie."""

ANGLE_TOLERANCE = 1e-3
"""Allowed difference of direction cosines, and of pixel spacings as a fraction."""

REMEDY = "export the series again, or convert it to NIfTI with dcm2niix"


@dataclass(frozen=True, slots=True)
class Slice:
    """What is read of the header of a DICOM file; texts that it lacks are "", and numbers None.

    Attributes:
        file: The file.
        kind: Name of its SOP class, such as "CT Image Storage".
        series: SeriesInstanceUID.
        number: SeriesNumber.
        description: SeriesDescription.
        modality: Modality, such as "CT".
        syntax: Name of the transfer syntax; "" if GDCM decodes it.
        size: Columns and rows; None without an image.
        frames: Number of frames.
        samples: Values of a pixel.
        has_table: Whether a table maps the stored values.
        spacing: PixelSpacing: mm between rows, and between columns.
        directions: ImageOrientationPatient: direction of the rows, and of the columns.
        position: ImagePositionPatient: centre of the first pixel in mm.
    """

    file: Path
    kind: str
    series: str
    number: str
    description: str
    modality: str
    syntax: str
    size: tuple[int, int] | None
    frames: int
    samples: int
    has_table: bool
    spacing: tuple[float, ...] | None
    directions: tuple[float, ...] | None
    position: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Series:
    """The files of a folder that have one SeriesInstanceUID.

    Attributes:
        uid: SeriesInstanceUID; "" if the files have none.
        number: SeriesNumber; "" if there is none.
        description: SeriesDescription; "" if there is none.
        modality: Modality, such as "CT".
        files: Files, sorted by their names.
    """

    uid: str
    number: str
    description: str
    modality: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        """One line for a list of series."""
        number = f"number {self.number or '-'}, {self.description or 'no description'!r}, {self.modality or '-'}"
        return f"{number}, {len(self.files)} slices, SeriesInstanceUID {self.uid or '(none)'}"


@dataclass(frozen=True, slots=True)
class DicomVolume:
    """The checked headers of a series.

    Attributes:
        path: The file by which the series was opened.
        files: Files of the slices, in the order of the third axis.
        shape: Number of voxels (columns, rows, slices).
        affine: Affine (4, 4) from voxel index to mm along right, anterior, superior.
        form: None, because it is not of a class of nibabel.
        header: None, as above.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    form: Any = None
    header: Any = None

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Shape of the image, (1, *spatial)."""
        return (1, *self.shape)

    def check_length(self) -> None:
        """Nothing: GDCM compares the sizes of the pixels with those in the header when it reads a slice."""

    def read_into(self, array: NDArray[np.float32]) -> None:
        """Read the image, with slope and intercept applied (Hounsfield units of CT), into an array (*spatial, 1).

        Raises:
            FileError: The pixels of a slice cannot be decoded.
        """
        for place, file in enumerate(self.files):
            reader = sitk.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(file))
            try:
                image = reader.Execute()
            except RuntimeError as error:
                cause = "it is truncated or corrupted: copy or export it again"
                message = f"its pixels cannot be decoded ({reason(error)[:200]}); {cause}"
                raise FileError(file, "unreadable", message) from error
            array[:, :, place, 0] = sitk.GetArrayViewFromImage(image).reshape(self.shape[1::-1]).T


def find_series(folder: Path) -> list[Series]:
    """The series of images in a folder, without those in its subfolders, sorted by number.

    Raises:
        DataError: There is none, or a DICOM file is damaged.
    """
    found: dict[str, list[Slice]] = {}
    others: Counter[str] = Counter()
    for file in sorted(folder.iterdir()):
        if is_dicom(file):
            one = read_slice(file)
            if one.size is None:
                others[one.kind] += 1
            else:
                found.setdefault(one.series, []).append(one)
    if not found:
        there = ", ".join(f"{count} of {kind}" for kind, count in others.items()) or "no DICOM files"
        raise DataError(f"{folder}: contains no DICOM images, but {there}; give the folder of the slices of a series")
    series = [
        Series(uid, of[0].number, of[0].description, of[0].modality, tuple(one.file for one in of))
        for uid, of in found.items()
    ]
    return sorted(series, key=lambda one: (int(one.number) if one.number.isdecimal() else math.inf, one.uid))


def choose_series(folder: Path, wanted: str | None = None) -> Path:
    """A file of the series of a folder, by which it is opened.

    Args:
        folder: Folder of DICOM files.
        wanted: SeriesInstanceUID or SeriesDescription; None if the folder holds one series.

    Raises:
        DataError: None or several of its series are the wanted one; the message lists all.
    """
    series = find_series(folder)
    fitting = [one for one in series if wanted is None or wanted in (one.uid, one.description)]
    if len(fitting) == 1:
        return fitting[0].files[0]
    listed = "".join(f"\n  {one}" for one in series)
    if wanted is None:
        found = f"contains {len(series)} DICOM series"
    else:
        found = f"{len(fitting) or 'none'} of its DICOM series {'are' if len(fitting) > 1 else 'is'} called {wanted!r}"
    remedy = "choose one by its SeriesInstanceUID or description (--series), or give one of its files"
    raise DataError(f"{folder}: {found}; {remedy}:{listed}")


def open_series(path: Path) -> DicomVolume:
    """Read and check the headers of the series to which a file belongs, without its pixels.

    Args:
        path: A file of the series; the others are in the same folder.

    Raises:
        DataError: The file is not a DICOM image, or the slices of its series do not form one volume.
    """
    check_is_file(path)
    own = read_slice(path)
    _check_image(own)
    slices = [read_slice(file) for file in sorted(path.parent.iterdir()) if is_dicom(file)]
    slices = [one for one in slices if one.series == own.series]
    for one in slices:
        _check_image(one)
    if len(slices) < 2:
        raise FileError(path, "unreadable", "is the only slice of its series, but a volume needs 2 or more; add them")
    files = [one.file for one in slices]
    _check_same(files, np.array([one.size for one in slices], np.float64), "mixed sizes (columns, rows)", 0)
    directions = np.array([one.directions for one in slices])
    _check_same(files, directions, "mixed orientations", ANGLE_TOLERANCE)
    spacings = np.array([one.spacing for one in slices])
    _check_same(files, spacings, "mixed pixel spacings in mm", ANGLE_TOLERANCE * float(spacings.min()))
    rows, columns = directions[0, :3], directions[0, 3:]
    lengths = np.array([rows @ rows, columns @ columns, 1 + rows @ columns])
    if (spacings <= 0).any() or (np.abs(lengths - 1) > ANGLE_TOLERANCE).any():
        found = f"has the pixel spacing {spacings[0].tolist()} and the orientation {directions[0].tolist()}"
        raise FileError(path, "affine", f"{found}, which are not those of a plane of pixels; {REMEDY}")
    normal = np.cross(rows, columns)
    positions = np.array([one.position for one in slices])
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [files[place] for place in order], positions[order]
    step = _check_grid(files, positions, normal)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([rows * spacings[0, 1], columns * spacings[0, 0], step])
    affine[:3, 3] = positions[0]
    assert own.size is not None
    return DicomVolume(path, tuple(files), (*own.size, len(files)), LPS @ affine)


def read_slice(path: Path) -> Slice:
    """Read the header of a DICOM file.

    Raises:
        FileError: It is damaged.
    """
    with _reading(path):
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
        syntax = UID(header.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)
        size = (header.get("Columns"), header.get("Rows"))
        return Slice(
            file=path,
            kind=(UID(kind).name or "an unknown kind") if isinstance(kind, str) else "an unknown kind",
            series=_text(header, "SeriesInstanceUID"),
            number=_text(header, "SeriesNumber"),
            description=_text(header, "SeriesDescription"),
            modality=_text(header, "Modality"),
            syntax="" if syntax in DECODED else syntax.name,
            size=None if None in size else (int(size[0]), int(size[1])),
            frames=int(header.get("NumberOfFrames") or 1),
            samples=int(header.get("SamplesPerPixel") or 1),
            has_table="ModalityLUTSequence" in header,
            spacing=_numbers(header, "PixelSpacing", 2),
            directions=_numbers(header, "ImageOrientationPatient", 6),
            position=_numbers(header, "ImagePositionPatient", 3),
        )


def read_header(path: Path) -> Any:
    """Read the header of a DICOM file, without its pixels, as pydicom's data set.

    Raises:
        FileError: It is damaged.
    """
    with _reading(path):
        return dcmread(path, stop_before_pixels=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise what reading a header stops as the error of its file; damaged ones raise almost any exception."""
    try:
        with warnings.catch_warnings():  # of values that DICOM does not allow; those that matter are checked here
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        message = f"cannot be read ({in_short(error)[:200]}); it is truncated, corrupted, or not a DICOM file"
        raise FileError(path, "unreadable", f"{message}: copy or export it again") from error


def _check_image(one: Slice) -> None:
    """Refuse a file that is not one slice of a volume."""
    path, kind = one.file, one.kind
    if one.size is None:
        raise FileError(path, "unreadable", f"is a DICOM object without an image ({kind}); give the slices of a series")
    if one.frames > 1 or "Enhanced" in kind or "Multi-frame" in kind:
        found = f"holds several frames ({kind}), and series of one slice a file are read"
        raise FileError(path, "unreadable", f"{found}; convert it to NIfTI with dcm2niix, or to single frames")
    if one.syntax:
        remedy = "decompress it, for example with dcmdjpeg, gdcmconv --raw or your archive's export"
        raise FileError(path, "unreadable", f"its pixels are stored as {one.syntax}, which is not decoded; {remedy}")
    if one.samples != 1:
        found = f"has {one.samples} values a pixel ({kind})"
        raise FileError(path, "unreadable", f"{found}, and grey images are read; save it as a picture")
    if one.has_table:
        found = "maps its values by a table (ModalityLUTSequence) in place of slope and intercept"
        raise FileError(path, "unreadable", f"{found}, which is not read; convert it to NIfTI")
    if min(one.size) < 1:
        raise FileError(path, "unreadable", f"has {one.size[0]} columns and {one.size[1]} rows; {REMEDY}")
    places = {
        "PixelSpacing of 2": one.spacing,
        "ImageOrientationPatient of 6": one.directions,
        "ImagePositionPatient of 3": one.position,
    }
    if missing := [name for name, values in places.items() if values is None]:
        found = f"has no {missing[0]} numbers ({kind}), and so no place in a volume"
        raise FileError(path, "affine", f"{found}; give a series of CT, MR, PET or similar slices")


def _check_same(files: Sequence[Path], values: NDArray[np.float64], what: str, tolerance: float) -> None:
    """Refuse slices whose values (slices, n) differ by more than the tolerance."""
    different = np.abs(values - values[0]).max(1) > tolerance
    if different.any():
        place = int(different.argmax())
        found = f"{values[place].tolist()} in {files[place].name}, but {values[0].tolist()} in {files[0].name}"
        remedy = "put the slices of one image into a folder of their own (localizers have others), and give that"
        raise FileError(files[0].parent, "affine", f"the slices of one DICOM series have {what}: {found}; {remedy}")


def _check_grid(
    files: Sequence[Path], positions: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The vector in mm from one slice to the next; slices (slices, 3) that lie on no regular grid are refused."""
    folder, heights = files[0].parent, positions @ normal
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    if same := [place for place, gap in enumerate(gaps) if gap <= DUPLICATE * usual]:
        pair = f"{files[same[0]].name} and {files[same[0] + 1].name}"
        found = f"{len(same)} slices of one DICOM series lie where another one lies (such as {pair})"
        remedy = "remove duplicates; of several phases or echoes, put each into a folder of its own, and give one"
        raise FileError(folder, "affine", f"{found}; {remedy}")
    tolerance = min(PLACE_TOLERANCE, PLACE_FRACTION * usual)
    whole = positions[-1] - positions[0]
    height = float(whole @ normal)
    aside = float(np.linalg.norm(whole - height * normal))
    angle = math.degrees(math.atan2(aside, height))
    if aside > 2 * tolerance and angle > TILT:
        found = f"the slices of one DICOM series shift by {aside / (len(files) - 1):.4g} mm within their plane from one"
        found += f" to the next, not along their normal (a gantry tilt of about {angle:.3g} degrees)"
        remedy = "convert it to NIfTI with dcm2niix, which straightens tilted series"
        raise FileError(folder, "affine", f"{found}; {remedy}")
    missing = np.rint(gaps / usual) - 1
    if (missing > 0).any() and (np.abs(gaps - (missing + 1) * usual) <= 2 * tolerance).all():
        place = int(missing.argmax())
        pair = f"{files[place].name} and {files[place + 1].name}"
        found = f"{int(missing.sum())} slices of one DICOM series are missing (such as between {pair}: "
        found += f"{gaps[place]:.4g} mm, but {usual:.4g} mm elsewhere)"
        raise FileError(folder, "affine", f"{found}; add them: export the series again")
    step: NDArray[np.float64] = whole / (len(files) - 1)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(files))[:, None] * step), axis=1)
    if (off > tolerance).any():
        found = f"the slices of one DICOM series have mixed spacings, {gaps.min():.4g} to {gaps.max():.4g} mm, and lie"
        found += f" up to {off.max():.4g} mm off a regular grid ({tolerance:.3g} mm is allowed)"
        raise FileError(folder, "affine", f"{found}; resample it to equal ones: convert it to NIfTI with dcm2niix")
    return step


def _numbers(header: Any, name: str, count: int) -> tuple[float, ...] | None:
    """The values of an element; None if it is absent or has not so many finite numbers."""
    try:
        values = tuple(float(value) for value in header.get(name) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _text(header: Any, name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()
