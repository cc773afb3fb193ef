"""The unmutated inputs: tiny data sets, a trained run, a study, tables of scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from fuzzing.images import nifti
from scse.inference.segmenter import Segmenter
from scse.support.events import StoppedError
from scse.training.run import train_on

SHAPE = (12, 10, 9)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
SETTINGS = {"width": 2, "depth": 1, "epochs": 2, "batch_size": 4, "slices_per_epoch": 8, "precision": "32"}
LABELS = {"background": 0, "left": 1, "right": 2}


def scene(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two bright boxes on noise, and their label map."""
    label = np.zeros(shape, np.uint8)
    start = rng.integers(1, 3)
    label[start : start + 4, 2:7] = 1
    label[start + 4 : start + 8, 2:7] = 2
    return (label * 100 + rng.integers(0, 30, shape)).astype(np.int16), label


def write_nnunet(folder: Path, *, cases: int = 3, tests: int = 1) -> Path:
    """An nnU-Net v2 folder."""
    rng = np.random.default_rng(1)
    for name in [f"c{n}" for n in range(cases)] + [f"t{n}" for n in range(tests)]:
        part = "Ts" if name[0] == "t" else "Tr"
        image, label = scene(rng, SHAPE)
        for place, array in ((f"images{part}/{name}_0000.nii", image), (f"labels{part}/{name}.nii", label)):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(nifti(array, AFFINE))
    description = {
        "channel_names": {"0": "T1"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii",
        "name": "tiny",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    names = [f"c{n}" for n in range(cases)]
    splits = [{"train": [other for other in names if other != name], "val": [name]} for name in names]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def write_msd(folder: Path) -> Path:
    """A folder of the Medical Segmentation Decathlon, which nnU-Net v1 reads too."""
    rng = np.random.default_rng(2)
    for name in ("a", "b", "c"):
        image, label = scene(rng, SHAPE)
        for place, array in ((f"imagesTr/{name}.nii", image), (f"labelsTr/{name}.nii", label)):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(nifti(array, AFFINE))
    description = {
        "name": "decathlon",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "left", "2": "right"},
        "numTraining": 3,
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}.nii", "label": f"./labelsTr/{n}.nii"} for n in ("a", "b", "c")],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def write_pictures(folder: Path) -> Path:
    """A folder of grey pictures and index masks with a labels.csv."""
    rng = np.random.default_rng(3)
    for name in ("p0", "p1", "p2"):
        image, label = scene(rng, (12, 10))
        for part, array in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(folder / part / f"{name}.png")
    (folder / "labels.csv").write_text("name,value\nleft,1\nright,2\n")
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["p0", "p1"], "val": ["p2"]}]))
    return folder


def write_run(
    data: Path, folder: Path, cache: Path, *, stop_after: int | None = None, settings: dict[str, Any] = SETTINGS
) -> Segmenter | None:
    """A training run; with `stop_after`, one that was stopped after so many steps."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and (folder / "run.json").exists() and asked > stop_after

    try:
        return train_on(data, out=folder, settings={**settings, "variant": "scse"}, cache=cache, stop=stop)
    except StoppedError:
        if stop_after is None:
            raise
    return None


def write_model(data: Path, folder: Path, cache: Path) -> None:
    """A segmenter that has learned enough to tell structures apart, so that mixed-up ones are noticed."""
    segmenter = write_run(data, folder, cache, settings={**SETTINGS, "epochs": 12, "slices_per_epoch": 40})
    image, _ = scene(np.random.default_rng(5), SHAPE)
    if segmenter is None or len(np.unique(segmenter.predict(image.astype(np.float32)))) < 2:
        raise RuntimeError("the segmenter has not learned to tell structures apart")


def scores() -> pd.DataFrame:
    """A tidy table of scores: two variants, three seeds, six cases, two structures."""
    rng = np.random.default_rng(4)
    rows = [
        ("unet", variant, seed, 0, f"case{case}", structure, "dice", round(0.7 + effect + 0.1 * rng.random(), 6))
        for variant, effect in (("none", 0.0), ("scse", 0.05))
        for seed in range(3)
        for case in range(6)
        for structure in ("left", "right")
    ]
    return pd.DataFrame(rows, columns=["network", "variant", "seed", "fold", "case", "structure", "metric", "value"])
