"""Endings of the image and label files that scse reads, and the format in which results for each are written."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A format of volumes.

    Attributes:
        name: Name with its article, such as "a NIfTI".
        written: Ending of label maps and other volumes that are written for an image of this format.
    """

    name: str
    written: str


VOLUME_KINDS = {
    ".nii.gz": Kind("a NIfTI", ".nii.gz"),
    ".nii": Kind("a NIfTI", ".nii.gz"),
    ".mgz": Kind("an MGH", ".mgz"),
    ".mgh": Kind("an MGH", ".mgz"),
    ".mha": Kind("a MetaImage", ".mha"),
    ".mhd": Kind("a MetaImage", ".mha"),
    ".nrrd": Kind("an NRRD", ".nrrd"),
    ".nhdr": Kind("an NRRD", ".nrrd"),
    # GIPL stores no orientation
    ".gipl.gz": Kind("a GIPL", ".nii.gz"),
    ".gipl": Kind("a GIPL", ".nii.gz"),
}
"""Format of the volumes with each ending."""

VOLUMES = tuple(VOLUME_KINDS)
NIFTI = (".nii.gz", ".nii")
MGH = (".mgz", ".mgh")
ITK = tuple(known for known in VOLUMES if known not in NIFTI + MGH)
TIFF = (".ome.tif", ".ome.tiff", ".tif", ".tiff")
PICTURES = (".png", *TIFF, ".jpg", ".jpeg", ".bmp")
LOSSY = (".jpg", ".jpeg")
ENDINGS = VOLUMES + PICTURES


def ending(name: str) -> str | None:
    """The ending of a file name (".nii.gz", ".png", ...), or None if scse does not know files by this ending."""
    return next((known for known in ENDINGS if name.lower().endswith(known)), None)


def stem(name: str) -> str:
    """A file name without the ending that `ending` returns: `brain.nii.gz` -> `brain`."""
    return name[: len(name) - len(ending(name) or "")]
