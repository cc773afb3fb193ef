"""Simulated scans as DICOM series."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

ANGLES = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, 0.28, -0.96], [0, 0.96, 0.28]]
SPACING, ORIGIN = (0.7, 0.8, 2.5), (-91.0, 126.5, -72.25)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.vstack([np.c_[ANGLES * SPACING, ORIGIN], [0, 0, 0, 1]])
"""Affine from voxel index to mm along right, anterior, superior."""


def write_series(
    folder: Path,
    stored: NDArray[Any],
    *,
    name: str = "slice",
    kind: str = CTImageStorage,
    affine: NDArray[np.float64] = AFFINE,
    slope: float = 1,
    intercept: float = 0,
    description: str = "Body",
    number: int = 1,
    order: Sequence[int] | None = None,
) -> list[Path]:
    """Write stored values (x, y, z) of 16 bits as one DICOM file a slice; returns the files, sorted by name.

    Args:
        folder: Folder of the files.
        stored: Values before slope and intercept.
        name: Start of the files' names.
        kind: SOP class.
        affine: Affine of the voxels along right, anterior, superior.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        description: SeriesDescription.
        number: SeriesNumber.
        order: Slices in the order of the files' names and instance numbers; that of their positions by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for place, index in enumerate(order or range(stored.shape[2])):
        dataset = _dataset(kind)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.SeriesDescription, dataset.SeriesNumber, dataset.InstanceNumber = description, number, place + 1
        dataset.Modality = {CTImageStorage: "CT", MRImageStorage: "MR"}.get(kind, "PT")
        dataset.Columns, dataset.Rows = stored.shape[:2]
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        dataset.ImageOrientationPatient = _decimal((lps[:3, :2] / spacing[:2]).T.ravel())
        dataset.ImagePositionPatient = _decimal((lps @ [0, 0, index, 1])[:3])
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slope), str(intercept)
        dataset.SliceThickness = float(spacing[2])
        dataset.PixelData = stored[:, :, index].T.astype("<i2").tobytes()
        dataset["PixelData"].VR = "OW"
        files.append(folder / f"{name}{place:03d}")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def write_object(path: Path, kind: str) -> Path:
    """Write a DICOM object without an image."""
    dataset = _dataset(kind)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.save_as(path, enforce_file_format=True)
    return path


def _dataset(kind: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    return dataset


def _decimal(values: NDArray[np.float64]) -> list[float]:
    """Values that fit into the 16 characters of a decimal string."""
    return [round(float(value), 10) for value in values]
