"""Where cSE pools in volumes larger than the training patch: accuracy of the three ways of `Segmenter.with_squeeze`.

    python benchmarks/squeeze.py DATA [--patch 24x32x24] [--variants cse scse] [--seeds 3] [--epochs 16] [--width 16]

Networks of volumes are trained on patches much smaller than the volumes, and predict every test case in all ways.
Dice is the mean over structures and cases. Differences to windows are means over the cases and trainings, with the
standard deviation over the trainings. About 10 minutes on two cores for the hippocampus.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measuring import machine, markdown
from numpy.typing import NDArray

from scse.data.files import read_image, read_label
from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe
from scse.evaluation.scores import dice_scores
from scse.inference.squeezing import SQUEEZES
from scse.training.run import train
from scse.training.settings import make_settings
from scse.training.task import make_task


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--patch", default="24x32x24", help="voxels")
    parser.add_argument("--spacing", type=float, help="mm")
    parser.add_argument("--folds", type=int, help="the first of them is used; by default the data's own test cases")
    parser.add_argument("--variants", nargs="+", default=["cse", "scse"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    chosen = parser.parse_args()
    inspection, dataset = open_checked(chosen.data)
    fold = make_folds(dataset, chosen.folds)[0]
    derived = Recipe.derive(inspection.facts_of(dataset), spacing=chosen.spacing, dims=3)
    recipe = derived.model_copy(update={"patch": tuple(map(int, chosen.patch.split("x")))})
    task = make_task(inspection, training=fold.training, held_out=fold.test, recipe=recipe, cache=cache_folder())
    values = sorted(dataset.structures.values())
    print(f"{machine()}; {dataset.name}, {len(fold.training)} training and {len(fold.test)} test cases, patch")
    print(f"{chosen.patch}, U-Net of width {chosen.width}, {chosen.epochs} epochs, {chosen.seeds} trainings each\n")
    rows = []
    for variant in chosen.variants:
        dice = []
        for seed in range(chosen.seeds):
            replaced = {"variant": variant, "seed": seed, "epochs": chosen.epochs, "width": chosen.width}
            with tempfile.TemporaryDirectory() as folder:
                segmenter = train(task, make_settings("quick", replaced, dims=3), Path(folder))
            per_way: list[list[float]] = [[] for _ in SQUEEZES]
            for case in fold.test:
                image, label = read_image(case.images), read_label(case.label)
                for found, squeeze in zip(per_way, SQUEEZES, strict=True):
                    predicted = segmenter.with_squeeze(squeeze).predict_image(image)
                    found.append(float(np.nanmean(dice_scores(predicted, label.array, values))))
            dice.append(per_way)
        table: NDArray[np.float64] = np.array(dice).mean(2)  # (trainings, ways)
        for place, squeeze in enumerate(SQUEEZES):
            difference = table[:, place] - table[:, 0]
            deviation = f" ± {difference.std(ddof=1):.4f}" if chosen.seeds > 1 else ""
            spread = f"{difference.mean():+.4f}{deviation}" if place else ""
            rows.append((variant, squeeze, f"{table[:, place].mean():.4f}", spread))
            print(variant, squeeze, table[:, place].round(4).tolist(), flush=True)
    print("\n" + markdown(("variant", "squeeze", "Dice", "difference to windows"), rows))


if __name__ == "__main__":
    main()
