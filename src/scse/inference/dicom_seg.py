"""DICOM-SEG: label maps as DICOM Segmentation objects that refer to the slices of their series.

Structures are coded with SNOMED CT where DICOM's own lists of codes know their name ("liver", "left kidney"), and
otherwise with a private code, whose value and meaning are the name.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from scse.data.dicom import open_series, read_header
from scse.support.atomic import write_atomic
from scse.support.errors import UserError
from scse.vocabulary.sides import SIDE, without_side

SCHEME = "99SCSE"
"""Designator of the private codes."""

LISTS = {7192: "AnatomicalStructure", 8134: "AnatomicalStructure", 7140: "AnatomicalStructure"} | {
    7194: "MorphologicallyAbnormalStructure",
    7191: "Tissue",
    7197: "BodySubstance",
}
"""DICOM's lists of structures (context groups), by number, and the category of their members."""

SIDES = {"left": codes.SCT.Left, "lh": codes.SCT.Left, "right": codes.SCT.Right, "rh": codes.SCT.Right}

NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
"""Elements of the slices by which a DICOM-SEG refers to them; none may be empty."""

COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Elements that it copies, and that may be empty or absent."""

MOST_LETTERS = 64
"""Most letters of a text in DICOM (value representation LO)."""


def check_series(path: Path) -> None:
    """Refuse a series to which no DICOM-SEG can refer, before anything is computed.

    Args:
        path: A file of the series.

    Raises:
        UserError: Its slices lack identifiers, such as after an anonymisation that removed them.
    """
    _slices(open_series(path).files)


def write_dicom_seg(
    path: Path, labels: NDArray[np.integer], structures: Mapping[str, int | Sequence[int]], *, source: Path
) -> None:
    """Write a label map atomically as DICOM-SEG with a binary segment for each structure.

    Args:
        path: Output file.
        labels: Label values (columns, rows, slices), as the series is read.
        structures: Label values of each structure, by name; of regions, several, which may overlap.
        source: A file of the series.

    Raises:
        UserError: See `check_series`.
        DataError: The series cannot be read.
    """
    files = open_series(source).files
    frames = labels.transpose(2, 1, 0)
    if all(isinstance(values, int) for values in structures.values()):
        pixels = np.zeros(frames.shape, np.uint16)
        for number, value in enumerate(structures.values(), start=1):
            pixels[frames == value] = number
    else:
        pixels = np.stack([np.isin(frames, values) for values in structures.values()], -1).astype(np.uint8)
    with warnings.catch_warnings():  # of values of the slices that DICOM does not allow, which are copied
        warnings.simplefilter("ignore")
        segmentation = hd.seg.Segmentation(
            source_images=_slices(files),
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(number, name) for number, name in enumerate(structures, start=1)],
            series_instance_uid=hd.UID(),
            series_number=1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="scse",
            manufacturer_model_name="scse",
            software_versions=version("scse"),
            device_serial_number="1",
            content_label="SEGMENTATION",
            series_description="Segmentation by scse",
        )
        segmentation.SpecificCharacterSet = "ISO_IR 192"  # names of structures may have any letters
        buffer = BytesIO()
        segmentation.save_as(buffer, enforce_file_format=True)
    write_atomic(path, buffer.getvalue())


def coded(name: str) -> tuple[CodedConcept, CodedConcept, CodedConcept | None]:
    """Category, type and side of a structure by its name, such as "kidney_left"; the side of a private code is None."""
    side = SIDE.search(name)
    plain = re.sub(r"[\W_]+", "", without_side(name)).lower()
    if found := _known().get(plain):
        category, kind = found
        return category, kind, CodedConcept.from_code(SIDES[side[1].lower()]) if side else None
    text = name[:MOST_LETTERS]
    return CodedConcept.from_code(codes.SCT.AnatomicalStructure), CodedConcept(text, SCHEME, text), None


@cache
def _known() -> dict[str, tuple[CodedConcept, CodedConcept]]:
    """Category and code of DICOM's structures by name, in small letters without spaces; the first list counts."""
    found: dict[str, tuple[CodedConcept, CodedConcept]] = {}
    snomed = {*codes.SCT.dir()} - {"Background"}
    for number, category in LISTS.items():
        for keyword in snomed.intersection(getattr(codes, f"cid{number}").dir()):
            pair = [CodedConcept.from_code(getattr(codes.SCT, each)) for each in (category, keyword)]
            found.setdefault(keyword.lower(), (pair[0], pair[1]))
    return found


def _described(number: int, name: str) -> Any:
    category, kind, side = coded(name)
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:MOST_LETTERS],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="scse", version=version("scse"), family=codes.cid7162.ArtificialIntelligence
        ),
    )
    if side is not None:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return described


def _slices(files: Sequence[Path]) -> list[Any]:
    """Headers of the slices, with all elements that a DICOM-SEG refers to or copies."""
    slices = []
    for file in files:
        header = read_header(file)
        if missing := [name for name in NEEDED if not header.get(name)]:
            found = f"{file}: has no {', '.join(missing)}, by which a DICOM-SEG refers to its slices"
            raise UserError(f"{found}; use the series as the scanner or archive exported it, or omit --dicom-seg")
        for name in COPIED:
            if name not in header:
                setattr(header, name, None)
        slices.append(header)
    return slices
