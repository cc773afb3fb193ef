"""Simulated subjects as a data set on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from scse.data.cohort import check_target, write_volume
from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label, write_label
from scse.data.inspection import open_checked
from scse.data.prepared import IGNORED_CLASS, class_values, numbered
from scse.simulation.simulator import is_calibrated
from scse.simulation.source import Source
from scse.simulation.subjects import draw_subject
from scse.support.atomic import named, temporary_folder, write_atomic
from scse.support.errors import UserError
from scse.vocabulary.contrasts import Contrast
from scse.vocabulary.sides import partner_classes

SIMULATED = "simulated from"
"""Begin of the name of a data set of simulated subjects."""


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
    check_target(out, cases=cases, seed=seed)
    _, dataset = open_checked(Dataset.of_files(image, label))
    found, reference = read_image([image]), read_label(label, colors=dataset.colors)
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
            subject, classes = draw_subject(source, (seed, number), contrast=contrast)
            test, name = number >= training, f"sim_{number:03d}"
            array = _stored(subject, whole=whole, picture=found.affine is None)
            if found.affine is None:
                _write_picture(folder / "test" if test else folder, name, array, table[classes.numpy()])
            else:
                part = "Ts" if test else "Tr"
                (folder / f"images{part}").mkdir(parents=True, exist_ok=True)
                for channel, voxels in enumerate(array):
                    write_volume(folder / f"images{part}" / f"{name}_{channel:04d}.nii.gz", voxels, found.affine)
                write_label(folder / f"labels{part}" / f"{name}.nii.gz", table[classes.numpy()], affine=found.affine)
            if progress is not None:
                progress(number + 1, cases)
        if found.affine is None:
            rows = [f"{name},{value}" for name, value in dataset.structures.items()]
            write_atomic(folder / "labels.csv", "\n".join(["name,value", *rows, ""]).encode())
        else:
            description = _description(image, dataset, channels=len(found.array), training=training, seed=seed)
            write_atomic(folder / "dataset.json", description.encode())
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


def _description(image: Path, dataset: Dataset, *, channels: int, training: int, seed: int) -> str:
    names = dataset.channels if len(dataset.channels) == channels else [f"channel {n}" for n in range(channels)]
    ignored = {} if dataset.ignored is None else {"ignore": dataset.ignored}
    content = {
        "name": f"{SIMULATED} {image.name}",
        "description": (
            f"SIMULATED subjects: random deformations and contrasts of {image.name}, seed {seed}. The licence of that "
            "image and its label map applies."
        ),
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {"background": 0, **dataset.structures, **ignored},
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    return json.dumps(content, indent=2) + "\n"
