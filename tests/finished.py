"""Runs of a study as they lie on disk once they are scored: tiny networks, predictions with known errors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datasets import AFFINE, write_nnunet
from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label
from scse.data.recipe import Recipe
from scse.evaluation.scores import score, write_scores
from scse.inference.finished import FinishedRun
from scse.inference.segmenter import Segmenter, write_prediction
from scse.networks import NETWORKS
from scse.vocabulary.titles import Setup
from scse.vocabulary.variants import Variant

SHAPE = (12, 48, 10)
ARGUMENTS = {"in_channels": 1, "classes": 3, "width": 4, "depth": 2, "kernel_size": 3}
SLICES = Recipe(view="coronal", spacing=None, patch=(16, 16), channels=1)


@dataclass
class Study:
    """`references` and `predictions` are label maps as stored, (*shape) by case and by (variant, case)."""

    dataset: Dataset
    recipe: Recipe
    runs: list[FinishedRun]
    scores: pd.DataFrame
    references: dict[str, NDArray[np.integer]]
    predictions: dict[tuple[str, str], NDArray[np.integer]]


def make_study(
    folder: Path,
    *,
    cases: int = 4,
    recipe: Recipe = SLICES,
    shape: tuple[int, ...] = SHAPE,
    affine: NDArray[np.float64] = AFFINE,
) -> Study:
    """A U-Net, plain and with scSE, whose predictions are the reference moved by some voxels, the more the later."""
    dataset = Dataset.open(write_nnunet(folder / "data", cases=2, tests=cases, shape=shape, affine=affine))
    found = Study(dataset, recipe, [], pd.DataFrame(), {}, {})
    tables = []
    for variant in ("none", "scse"):
        torch.manual_seed(0)
        network = NETWORKS["unet"](**ARGUMENTS, spatial_dims=recipe.dims, recalibration=variant).eval()
        run = folder / "runs" / f"unet-{variant}-seed0-fold0"
        Segmenter(network, "unet", ARGUMENTS, variant, recipe, dataset.structures).save(run / "segmenter")
        rows = []
        for number, case in enumerate(dataset.test_cases):
            image, reference = read_image(case.images), read_label(case.label).array
            moved = np.roll(reference, number + (variant == "none"), axis=0)
            write_prediction(run / "predictions", case.name, moved, case.images[0], image)
            table = score(moved, reference, spacing=image.spacing, structures=dataset.structures)
            rows.append(table.assign(network="unet", variant=variant, seed=0, fold=0, case=case.name))
            found.references[case.name], found.predictions[variant, case.name] = reference, moved
        tables.append(pd.concat(rows, ignore_index=True))
        write_scores(tables[-1], run)
        found.runs.append(FinishedRun(Setup("unet"), Variant(variant), 0, 0, run, dataset.test_cases))
    found.scores = pd.concat(tables, ignore_index=True)
    return found
