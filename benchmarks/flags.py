"""What `scse predict --volumes --uncertainty` flags: images that were changed, and structures by their Dice.

    python benchmarks/flags.py DATA SEGMENTER SEGMENTER ... [--folds 5] [--other OTHER_DATA]

SEGMENTERs are trained on DATA with the same `--folds` and other seeds; images are the test cases of the first fold, as
they are and changed in ways that a user may meet:

- inverted: dark is bright, as between T1 and T2; the background stays;
- squared: intensities are squared, as a harder contrast;
- spacing x 2: the header says twice the spacing;
- half: the image ends in the middle of its longest axis;
- other: test images of OTHER_DATA, which have other structures and no Dice here.

The first table counts images that are flagged themselves, and those with a flag of any kind. The second has the
structures of all images with a reference, by Dice: flagged because the passes disagree, and flagged for any reason.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from measuring import markdown
from numpy.typing import NDArray

from scse.data.files import Image, read_image, read_label
from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.evaluation.scores import dice_scores
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain

BOUNDS = (0, 0.6, 0.8, 1)


def inverted(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bright voxels dark and the other way round, but those of the background."""
    return np.where(array == array.min(), array.min(), array.max() + array.min() - array)


def half(array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The first half along the longest axis of an image of this shape."""
    longest = int(np.argmax(shape))
    return np.take(array, range(shape[longest] // 2), axis=longest)


CHANGES: dict[str, Callable[[Image], tuple[NDArray[np.generic], NDArray[np.float64]]]] = {
    "untouched": lambda image: (image.array[0], image.affine),
    "inverted": lambda image: (inverted(image.array[0].astype(np.float64)), image.affine),
    "squared": lambda image: (image.array[0].astype(np.float64) ** 2, image.affine),
    "spacing x 2": lambda image: (image.array[0], image.affine @ np.diag([2, 2, 2, 1])),
    "half": lambda image: (half(image.array[0], image.shape), image.affine),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("segmenters", type=Path, nargs="+")
    parser.add_argument("--folds", type=int, help="by default the data's own test cases")
    parser.add_argument("--other", type=Path)
    chosen = parser.parse_args()
    segmenters = [Segmenter.load(folder) for folder in chosen.segmenters]
    cases, values = make_folds(open_checked(chosen.data)[1], chosen.folds)[0].test, segmenters[0].structures.values()
    rows, structures = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for change, make in CHANGES.items():
            folder, images = Path(scratch) / change, {}
            folder.mkdir()
            for case in cases:
                images[case.name] = [folder / f"{case.name}.nii.gz"]
                array, affine = make(read_image(case.images))
                nib.save(nib.Nifti1Image(array.astype(np.float32), affine), images[case.name][0])
            table = flagged(segmenters, images, folder / "out")
            for case in cases:
                label = read_label(case.label).array
                label = half(label, label.shape) if change == "half" else label
                predicted = read_label(folder / "out" / f"{case.name}.nii.gz").array
                of_case = table[(table["image"] == case.name) & (table["structure"] != "")]
                scores = dice_scores(predicted, label, sorted(values))
                order = np.argsort(np.argsort(of_case["label"].astype(int)))
                structures.append(of_case.assign(change=change, dice=np.array(scores)[order]))
            rows.append((change, *counts(table), f"{structures_of(structures, change):.3f}"))
            print(rows[-1], flush=True)
        if chosen.other is not None:
            other = {case.name: case.images for case in make_folds(open_checked(chosen.other)[1], None)[0].test}
            rows.append(("other", *counts(flagged(segmenters, other, Path(scratch) / "other")), ""))
    print("\n" + markdown(("images", "number", "image flagged", "any flag", "Dice"), rows) + "\n")
    print(by_dice(pd.concat(structures)))


def flagged(segmenters: list[Segmenter], images: dict[str, list[Path]], out: Path) -> pd.DataFrame:
    """The table of volumes of these images."""
    assert uncertain(segmenters).predict_files(images, out, volumes=out / "volumes.csv") == []
    return pd.read_csv(out / "volumes.csv", keep_default_na=False)


def counts(table: pd.DataFrame) -> tuple[int, int, int]:
    """Number of images, of those that are flagged themselves, and of those with any flag."""
    flags = table[table["flag"] != ""]
    return table["image"].nunique(), int((flags["structure"] == "").sum()), flags["image"].nunique()


def structures_of(structures: list[pd.DataFrame], change: str) -> float:
    """Mean Dice of the structures of images with a change."""
    table = pd.concat(structures)
    return float(table.loc[table["change"] == change, "dice"].mean())


def by_dice(structures: pd.DataFrame) -> str:
    """The flagged share of structures, by Dice, of untouched and of changed images."""
    rows = []
    untouched = structures["change"] == "untouched"
    for name, table in (("untouched", structures[untouched]), ("changed", structures[~untouched])):
        for low, high in pairwise(BOUNDS):
            within = table[(table["dice"] >= low) & ((table["dice"] < high) | (high == 1))]
            shares = [within["flag"].str.contains("passes").mean(), (within["flag"] != "").mean()]
            shown = [f"{share:.1%}" if len(within) else "" for share in shares]
            rows.append((f"{name}, Dice {low:g} to {high:g}", len(within), *shown))
    return markdown(("structures", "number", "passes disagree", "any flag of the structure"), rows)


if __name__ == "__main__":
    main()
