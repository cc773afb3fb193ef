"""Tiny data sets on disk whose structures are told by their brightness, so that a tiny network learns them at once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from scse.data.prepared import Prepared

SHAPE = (24, 28, 20)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


def scene(
    rng: np.random.Generator, shape: Sequence[int] = SHAPE, *, values: Sequence[int] = (1, 2), channels: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """An image (C, *shape) of two touching boxes on noise, and its label map (*shape)."""
    classes = np.zeros(shape, int)
    corner = [rng.integers(size // 6, size // 3) for size in shape]
    for structure in (0, 1):
        box = [slice(start, start + size // 2) for start, size in zip(corner, shape, strict=True)]
        middle = box[0].start + shape[0] // 4
        box[0] = slice(box[0].start, middle) if structure == 0 else slice(middle, box[0].stop)
        classes[tuple(box)] = structure + 1
    image = np.stack([classes * 100.0 + rng.normal(0, 15, shape) for _ in range(channels)])
    return image.astype(np.float32), np.array([0, *values], np.uint16)[classes]


def write_nnunet(
    folder: Path,
    *,
    cases: int = 4,
    tests: int = 0,
    shape: Sequence[int] = SHAPE,
    values: Sequence[int] = (1, 2),
    channels: int = 1,
    affine: NDArray[np.float64] = AFFINE,
    seed: int = 0,
) -> Path:
    """An nnU-Net v2 folder of volumes: cases c0, c1, ... and labelled test cases t0, t1, ..."""
    rng = np.random.default_rng(seed)
    for name in [f"c{n}" for n in range(cases)] + [f"t{n}" for n in range(tests)]:
        part = "Ts" if name[0] == "t" else "Tr"
        image, label = scene(rng, shape, values=values, channels=channels)
        for channel in range(channels):
            save_nifti(folder / f"images{part}" / f"{name}_{channel:04d}.nii.gz", image[channel], affine)
        save_nifti(folder / f"labels{part}" / f"{name}.nii.gz", label, affine)
    description = {
        "channel_names": {str(channel): f"T{channel}" for channel in range(channels)},
        "labels": {"background": 0, "left": values[0], "right": values[1]},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def write_table(folder: Path, *, cases: int = 6, tests: int = 1, **options: Any) -> Path:
    """A table of cases in an nnU-Net v2 folder, with two cases in each group and a column that is not used."""
    write_nnunet(folder, cases=cases, tests=tests, **options)
    lines = [f"imagesTr/c{n}_0000.nii.gz,labelsTr/c{n}.nii.gz,train,g{n // 2},{n}" for n in range(cases)]
    lines += [f"imagesTs/t{n}_0000.nii.gz,labelsTs/t{n}.nii.gz,test,h{n // 2},70" for n in range(tests)]
    (folder / "labels.csv").write_text("name,value\nleft,1\nright,2\n")
    path = folder / "cases.csv"
    path.write_text("\n".join(["image,label,split,group,age", *lines]))
    return path


def write_pictures(
    folder: Path, *, cases: int = 5, shape: Sequence[int] = (24, 30), values: Sequence[int] = (1, 2)
) -> Path:
    """A folder of grey PNG images and index masks p0, p1, ... with a labels.csv."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name in (f"p{n}" for n in range(cases)):
        image, label = scene(rng, shape, values=values)
        save_picture(folder / "images" / f"{name}.png", image[0])
        save_picture(folder / "masks" / f"{name}.png", label)
    (folder / "labels.csv").write_text(f"name,value\nleft,{values[0]}\nright,{values[1]}\n")
    return folder


REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "middle": (2,)}
"""Regions of `write_regions`, as in KiTS: the value of the last is not the greatest."""

ORDER = (1, 3, 2)
"""The value that a predicted label map has for each of them."""


def nested(
    rng: np.random.Generator, shape: Sequence[int] = SHAPE, *, values: Sequence[int] = (1, 2, 3)
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """An image (1, *shape) of boxes inside each other on noise, and its label map (*shape), from the outer one on."""
    classes = np.zeros(shape, int)
    corner = [rng.integers(size // 6, size // 4) for size in shape]
    for label in (1, 2, 3):
        box = [
            slice(start + (label - 1) * size // 10, start + size // 2 + size // 10 - (label - 1) * size // 10)
            for start, size in zip(corner, shape, strict=True)
        ]
        classes[tuple(box)] = label
    image = (classes * 100.0 + rng.normal(0, 10, shape))[None]
    return image.astype(np.float32), np.array([0, *values], np.uint16)[classes]


def write_regions(
    folder: Path, *, cases: int = 4, tests: int = 0, shape: Sequence[int] = SHAPE, ignore: bool = False
) -> Path:
    """An nnU-Net v2 folder of volumes whose structures are `REGIONS`; with `ignore`, some voxels have the value 4."""
    rng = np.random.default_rng(0)
    for name in [f"c{n}" for n in range(cases)] + [f"t{n}" for n in range(tests)]:
        part = "Ts" if name[0] == "t" else "Tr"
        image, label = nested(rng, shape)
        if ignore:
            label[:3] = 4
        save_nifti(folder / f"images{part}" / f"{name}_0000.nii.gz", image[0])
        save_nifti(folder / f"labels{part}" / f"{name}.nii.gz", label)
    regions = {name: list(members) if len(members) > 1 else members[0] for name, members in REGIONS.items()}
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, **regions, **({"ignore": 4} if ignore else {})},
        "regions_class_order": list(ORDER),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def save_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def save_picture(path: Path, array: NDArray[np.generic]) -> Path:
    PIL.Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
    return path


def save_prepared(folder: Path, images: NDArray[np.float32], labels: NDArray[np.integer]) -> Prepared:
    """Prepared arrays (slices, C, height, width) and (slices, height, width), as if made from a case."""
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images.astype(np.float32))
    np.save(folder / "labels.npy", labels.astype(np.uint8))
    return Prepared(folder.name, folder)
