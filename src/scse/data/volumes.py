"""Volumes of all formats: their headers, and the reading of images of one or more files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from numpy.typing import NDArray

from scse.data.endings import ITK, PICTURES, TIFF, VOLUME_KINDS, VOLUMES, ending
from scse.data.file_errors import allocate
from scse.data.itk import open_itk
from scse.data.nifti import open_nifti
from scse.data.raw_volumes import RawVolume
from scse.data.tiff_stacks import TiffVolume, is_stack, open_stack
from scse.support.extras import needing

if TYPE_CHECKING:
    from scse.data.dicom import DicomVolume

Volume = Union[RawVolume, TiffVolume, "DicomVolume"]

MAGIC = 128
"""Bytes before the letters DICM of every DICOM file."""


def is_volume(path: Path) -> bool:
    """Whether a path leads to a volume: by its ending, or to a TIFF stack or a DICOM file by its content."""
    return is_volume_file(path) or is_dicom(path)


def is_volume_file(path: Path) -> bool:
    """Whether a file holds a whole volume: by its ending, or a TIFF stack by its content."""
    return ending(path.name) in VOLUMES or is_stack(path)


def written_ending(path: Path) -> str:
    """The ending of the label map of an image: of its format, .png for pictures, .nii.gz for DICOM series."""
    known = ending(path.name)
    if known in VOLUME_KINDS:
        return VOLUME_KINDS[known].written
    if known in TIFF and is_stack(path):
        return known
    return ".png" if known in PICTURES else ".nii.gz"


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file by its content; files with the ending of another format are not opened."""
    if ending(path.name) is not None or path.name.startswith(".") or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(MAGIC)
        return file.read(4) == b"DICM"


def open_file(path: Path) -> RawVolume | TiffVolume:
    """Read and check the header of a file that holds a whole volume, see `is_volume_file`, without its voxels.

    Raises:
        DataError: The file is damaged, or has not the format that its ending names.
    """
    known = ending(path.name)
    if known in TIFF:
        return open_stack(path)
    return open_itk(path) if known in ITK else open_nifti(path)


def open_volume(path: Path) -> Volume:
    """Read and check the header of a volume, without its voxels.

    Args:
        path: File of the volume, or any file of a DICOM series; the other slices are in the same folder.

    Raises:
        DataError: The file is damaged, or has not the format that its ending names; or the slices of a DICOM series do
            not form one volume.
        MissingLibraryError: The file is a DICOM file, and the extra `dicom` is not installed.
    """
    if ending(path.name) is not None:
        return open_file(path)
    with needing(f"{path}: reading DICOM", "dicom"):
        from scse.data.dicom import open_series  # noqa: PLC0415 (an optional package)
    return open_series(path)


def choose_series(folder: Path, wanted: str | None = None) -> Path:
    """A file of a DICOM series of a folder, by which it is opened; see `dicom.choose_series`.

    Raises:
        DataError: None or several of its series are the wanted one.
        MissingLibraryError: The extra `dicom` is not installed.
    """
    with needing(f"{folder}: reading DICOM", "dicom"):
        from scse.data import dicom  # noqa: PLC0415 (an optional package)
    return dicom.choose_series(folder, wanted)


def read_floats(volumes: Sequence[Volume]) -> NDArray[np.float32]:
    """Read one or more volumes with equal spatial axes as (C, *spatial), with their channels concatenated.

    The caller must have called `check_length` of each.
    """
    counts = [volume.channel_shape[0] for volume in volumes]
    # the only array of the size of the volume; its order is that of most files, channel by channel
    shape = (*volumes[0].channel_shape[1:], sum(counts))
    array, start = allocate(volumes[0].path, shape, np.float32, order="F"), 0
    for volume, count in zip(volumes, counts, strict=True):
        volume.read_into(array[..., start : start + count])
        start += count
    return np.moveaxis(array, -1, 0)
