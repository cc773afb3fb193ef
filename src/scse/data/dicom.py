"""DICOM series of slices as volumes: pydicom reads the headers, SimpleITK (GDCM) decodes the pixels.

Slices are sorted by their position along the normal of their plane, as ITK's reader of series does, and never by the
names of files. Their affine is exact only if they lie on a regular grid; series whose slices do not are refused.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
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

PLACE_TOLERANCE = 0.01
"""Allowed distance of a slice from its place on a regular grid, as a fraction of the distance between slices."""

ANGLE_TOLERANCE = 1e-3
"""Allowed difference of direction cosines, and of pixel spacings as a fraction."""

REMEDY = "export the series again, or convert it to NIfTI with dcm2niix"


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
    found: dict[str, list[tuple[Path, Any]]] = {}
    others: Counter[str] = Counter()
    for file in sorted(folder.iterdir()):
        if is_dicom(file):
            header = read_header(file)
            if "Rows" in header:
                found.setdefault(_text(header, "SeriesInstanceUID"), []).append((file, header))
            else:
                others[_kind(header)] += 1
    if not found:
        there = ", ".join(f"{count} of {kind}" for kind, count in others.items()) or "no DICOM files"
        raise DataError(f"{folder}: contains no DICOM images, but {there}; give the folder of the slices of a series")
    series = []
    for uid, slices in found.items():
        number, text, modality = (_text(slices[0][1], f) for f in ("SeriesNumber", "SeriesDescription", "Modality"))
        series.append(Series(uid, number, text, modality, tuple(file for file, _ in slices)))
    return sorted(series, key=lambda one: (int(one.number) if one.number.isdigit() else math.inf, one.uid))


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
    remedy = "choose one by its SeriesInstanceUID or description (scse predict --series), or give one of its files"
    raise DataError(f"{folder}: {found}; {remedy}:{listed}")


def open_series(path: Path) -> DicomVolume:
    """Read and check the headers of the series to which a file belongs, without its pixels.

    Args:
        path: A file of the series; the others are in the same folder.

    Raises:
        DataError: The file is not a DICOM image, or the slices of its series do not form one volume.
    """
    check_is_file(path)
    own = read_header(path)
    _check_image(path, own)
    uid = _text(own, "SeriesInstanceUID")
    slices = [(file, read_header(file)) for file in sorted(path.parent.iterdir()) if is_dicom(file)]
    slices = [(file, header) for file, header in slices if _text(header, "SeriesInstanceUID") == uid]
    for file, header in slices:
        _check_image(file, header)
    files, headers = [file for file, _ in slices], [header for _, header in slices]
    if len(files) < 2:
        raise FileError(path, "unreadable", "is the only slice of its series, but a volume needs 2 or more; add them")
    for name, what in (("Rows", "rows"), ("Columns", "columns")):
        values = [float(header[name].value) for header in headers]
        _check_same(files, np.array(values)[:, None], f"mixed sizes: {what}", 0)
    directions = _vectors(headers, "ImageOrientationPatient")
    _check_same(files, directions, "mixed orientations", ANGLE_TOLERANCE)
    spacings = _vectors(headers, "PixelSpacing")
    _check_same(files, spacings, "mixed pixel spacings in mm", ANGLE_TOLERANCE * float(spacings.min()))
    rows, columns = directions[0, :3], directions[0, 3:]
    lengths = np.array([rows @ rows, columns @ columns, 1 + rows @ columns])
    if (spacings <= 0).any() or (np.abs(lengths - 1) > ANGLE_TOLERANCE).any():
        found = f"has the pixel spacing {spacings[0].tolist()} and the orientation {directions[0].tolist()}"
        raise FileError(path, "affine", f"{found}, which are not those of a plane of pixels; {REMEDY}")
    normal = np.cross(rows, columns)
    positions = _vectors(headers, "ImagePositionPatient")
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [files[place] for place in order], positions[order]
    step = _check_grid(files, positions, normal)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([rows * spacings[0, 1], columns * spacings[0, 0], step])
    affine[:3, 3] = positions[0]
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(files))
    return DicomVolume(path, tuple(files), shape, LPS @ affine)


def read_header(path: Path, tags: Sequence[str] | None = TAGS) -> Any:
    """Read some data elements of a DICOM file, or with None all but its pixels.

    Raises:
        FileError: The header is damaged.
    """
    try:
        with warnings.catch_warnings():  # of values that DICOM does not allow; those that matter are checked here
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, specific_tags=None if tags is None else list(tags))
            for name in TAGS:  # values are converted when they are first asked for
                header.get(name)
    except Exception as error:  # as for other formats, damaged files raise almost any exception
        message = f"cannot be read ({in_short(error)[:200]}); it is truncated, corrupted, or not a DICOM file"
        raise FileError(path, "unreadable", f"{message}: copy or export it again") from error
    return header


def _check_image(path: Path, header: Any) -> None:
    """Refuse a file that is not one slice of a volume."""
    kind = _kind(header)
    if "Rows" not in header or "Columns" not in header:
        raise FileError(path, "unreadable", f"is a DICOM object without an image ({kind}); give the slices of a series")
    frames = header.get("NumberOfFrames")
    if (frames is not None and int(frames) > 1) or "Enhanced" in kind or "Multi-frame" in kind:
        found = f"holds several frames ({kind}), and series of one slice a file are read"
        raise FileError(path, "unreadable", f"{found}; convert it to NIfTI with dcm2niix, or to single frames")
    syntax = UID(header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    if syntax not in DECODED:
        remedy = "decompress it, for example with dcmdjpeg, gdcmconv --raw or your archive's export"
        raise FileError(path, "unreadable", f"its pixels are stored as {syntax.name}, which is not decoded; {remedy}")
    if header.get("SamplesPerPixel", 1) != 1:
        found = f"has {header.SamplesPerPixel} values a pixel ({kind})"
        raise FileError(path, "unreadable", f"{found}, and grey images are read; save it as a picture")
    if "ModalityLUTSequence" in header:
        found = "maps its values by a table (ModalityLUTSequence) in place of slope and intercept"
        raise FileError(path, "unreadable", f"{found}, which is not read; convert it to NIfTI")
    sizes = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
    for name, size in sizes.items():
        value = header.get(name)
        values = [] if value is None or isinstance(value, str) else np.atleast_1d(value).tolist()
        if len(values) != size or not np.isfinite(np.array(values, np.float64)).all():
            found = f"has no {name} of {size} numbers ({kind}), and so no place in a volume"
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
    if same := [place for place, gap in enumerate(gaps) if gap <= PLACE_TOLERANCE * usual]:
        pair = f"{files[same[0]].name} and {files[same[0] + 1].name}"
        found = f"{len(same)} slices of one DICOM series lie where another one lies (such as {pair})"
        remedy = "remove duplicates; of several phases or echoes, put each into a folder of its own, and give one"
        raise FileError(folder, "affine", f"{found}; {remedy}")
    tolerance = PLACE_TOLERANCE * usual
    steps = np.diff(positions, axis=0)
    aside = np.linalg.norm(steps - gaps[:, None] * normal, axis=1)
    if (aside > tolerance).any():
        angle = math.degrees(math.atan2(float(np.median(aside)), usual))
        found = f"the slices of one DICOM series shift by {aside.max():.4g} mm within their plane from one to the next"
        found += f", not along their normal (a gantry tilt of about {angle:.3g} degrees)"
        remedy = "convert it to NIfTI with dcm2niix, which straightens tilted series"
        raise FileError(folder, "affine", f"{found}; {remedy}")
    missing = np.rint(gaps / usual) - 1
    if (missing > 0).any() and (np.abs(gaps - (missing + 1) * usual) <= tolerance * (missing + 1)).all():
        place = int(missing.argmax())
        pair = f"{files[place].name} and {files[place + 1].name}"
        found = f"{int(missing.sum())} slices of one DICOM series are missing (such as between {pair}: "
        found += f"{gaps[place]:.4g} mm, but {usual:.4g} mm elsewhere)"
        raise FileError(folder, "affine", f"{found}; add them: export the series again")
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(files) - 1)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(files))[:, None] * step), axis=1)
    if (off > tolerance).any():
        found = f"the slices of one DICOM series have mixed spacings, {gaps.min():.4g} to {gaps.max():.4g} mm"
        raise FileError(folder, "affine", f"{found}; resample it to equal ones: convert it to NIfTI with dcm2niix")
    return step


def _vectors(headers: Sequence[Any], name: str) -> NDArray[np.float64]:
    return np.array([[float(value) for value in header[name].value] for header in headers])


def _kind(header: Any) -> str:
    """The name of the kind of a DICOM object, such as "CT Image Storage"."""
    value = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    return UID(value).name or "an unknown kind"


def _text(header: Any, name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()
