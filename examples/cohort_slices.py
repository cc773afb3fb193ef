"""Slices of the built-in, simulated cohort for the Keras examples, and the score of what is predicted for them."""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from scse.simulation.brain import STRUCTURES
from scse.simulation.writing import simulate_cohort

TISSUES = ("cerebellum", "white-matter", "cortex", "")  # what the name of a structure has in it; "" for the deep ones
CLASSES = 1 + len(TISSUES)  # and the background
SLICES = np.s_[::2, 15:105:3, 2:98:2]  # every third coronal slice, every second pixel


def read_slices(*, cases: int) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
    """Images (N, 48, 48, 1) and classes (N, 48, 48) of coronal slices, for training and for testing."""
    with tempfile.TemporaryDirectory() as folder:
        data = simulate_cohort(Path(folder) / "cohort", cases=cases)
        return _read(data, "Tr"), _read(data, "Ts")


def dice(predicted: NDArray, classes: NDArray) -> float:
    """The mean over the tissues of twice what overlaps to all that is marked."""
    scores = []
    for tissue in range(1, CLASSES):
        marked, found = classes == tissue, predicted == tissue
        scores.append(2 * (marked & found).sum() / (marked.sum() + found.sum()))
    return float(np.mean(scores))


def _read(data: Path, part: str) -> tuple[NDArray, NDArray]:
    tissue = np.zeros(1 + len(STRUCTURES), np.int32)
    for name, value in STRUCTURES.items():
        tissue[value] = 1 + [part in name for part in TISSUES].index(True)
    images, classes = [], []
    for path in sorted((data / f"labels{part}").iterdir()):
        scan = nib.load(data / f"images{part}" / path.name.replace(".nii", "_0000.nii")).get_fdata(dtype=np.float32)
        labels = tissue[np.asarray(nib.load(path).dataobj)]
        images.append(np.moveaxis(scan[SLICES], 1, 0)[..., None] / scan[scan > 0].mean())
        classes.append(np.moveaxis(labels[SLICES], 1, 0))
    return np.concatenate(images), np.concatenate(classes)
