"""What `scse predict --volumes --uncertainty` flags: images that were changed, and structures by their Dice.

    python benchmarks/flags.py DATA SEGMENTER [SEGMENTER ...] [--folds 5] [--other OTHER_DATA]

SEGMENTERs are trained on DATA with the same `--folds` and other seeds; images are the test cases of the first fold, as
they are and changed in ways that a user may meet:

- inverted: dark is bright, as between T1 and T2; the background stays;
- squared: intensities are squared, as a harder contrast;
- spacing x 2: the header says twice the spacing;
- half: the image ends in the middle of its longest axis;
- other: test images of OTHER_DATA, which are not segmented.

The first table counts the images that are flagged themselves. Two or more segmenters give a second one with the
structures of all images, by Dice: flagged because the passes disagree, and flagged for any reason.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
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
from scse.inference.appearance import Appearance
from scse.inference.known import flag_of_image
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain

BOUNDS = (0, 0.6, 0.8, 1)


def inverted(array: NDArray[np.number]) -> NDArray[np.number]:
    """Bright voxels dark and the other way round, but those of the background."""
    return np.where(array == array.min(), array.min(), array.max() + array.min() - array)


def half(array: NDArray[np.number]) -> NDArray[np.number]:
    """The first half along the longest axis."""
    longest = int(np.argmax(array.shape))
    return np.take(array, range(array.shape[longest] // 2), axis=longest)


CHANGES: Mapping[str, Callable[[Image], Image]] = {
    "untouched": lambda image: image,
    "inverted": lambda image: Image(inverted(image.array[0])[None], image.affine),
    "squared": lambda image: Image(image.array.astype(np.float32) ** 2, image.affine),
    "spacing x 2": lambda image: Image(image.array, image.affine @ np.diag([2, 2, 2, 1])),
    "half": lambda image: Image(half(image.array[0])[None], image.affine),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("segmenters", type=Path, nargs="+")
    parser.add_argument("--folds", type=int, help="by default the data's own test cases")
    parser.add_argument("--other", type=Path)
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--most", type=int, help="test cases, the first of all")
    chosen = parser.parse_args()
    segmenters = [Segmenter.load(folder) for folder in chosen.segmenters]
    cases = make_folds(open_checked(chosen.data)[1], chosen.folds)[0].test[: chosen.most]
    rows, structures = [], []
    for change in chosen.changes:
        images = {case.name: CHANGES[change](read_image(case.images)) for case in cases}
        rows.append((change, len(images), flagged(segmenters[0], images)))
        print(*rows[-1], flush=True)
        if len(segmenters) > 1:
            labels = {case.name: read_label(case.label).array for case in cases}
            references = {name: half(label) if change == "half" else label for name, label in labels.items()}
            structures.append(segmented(segmenters, images, references).assign(change=change))
            print(structures[-1]["dice"].describe().round(3).to_dict(), flush=True)
    if chosen.other is not None:
        other = make_folds(open_checked(chosen.other)[1], None)[0].test
        images = {case.name: read_image(case.images) for case in other}
        rows.append(("other", len(images), flagged(segmenters[0], images)))
    print("\n" + markdown(("images", "number", "flagged"), rows) + "\n")
    if structures:
        print(by_dice(pd.concat(structures)))


def flagged(segmenter: Segmenter, images: Mapping[str, Image]) -> int:
    """Number of images that are unlike the training images of a segmenter."""
    looks = [Appearance.of_image(segmenter.recipe.slices(image), image.affine) for image in images.values()]
    return sum(flag_of_image(segmenter.known, found) != "" for found in looks)


def segmented(
    segmenters: list[Segmenter], images: Mapping[str, Image], references: Mapping[str, NDArray[np.integer]]
) -> pd.DataFrame:
    """The rows of structures in the table of volumes, with their Dice."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, out = Path(folder), Path(folder) / "out"
        files = {name: [scratch / f"{name}.nii.gz"] for name in images}
        for name, image in images.items():
            nib.save(nib.Nifti1Image(image.array[0].astype(np.float32), image.affine), files[name][0])
        assert uncertain(segmenters).predict_files(files, out, volumes=scratch / "volumes.csv") == []
        table = pd.read_csv(scratch / "volumes.csv", keep_default_na=False)
        scored: list[pd.DataFrame] = []
        table = table[table["structure"] != ""].astype({"label": int}).sort_values("label")
        for name, reference in references.items():
            of_image = table[table["image"] == name]
            predicted = read_label(out / f"{name}.nii.gz").array
            scores = dice_scores(predicted, reference, of_image["label"].tolist())
            scored.append(of_image.assign(dice=scores))
    return pd.concat(scored)


def by_dice(structures: pd.DataFrame) -> str:
    """The flagged share of structures, by Dice, of untouched and of changed images."""
    rows = []
    untouched = structures["change"] == "untouched"
    for name, table in (("untouched", structures[untouched]), ("changed", structures[~untouched])):
        for low, high in pairwise(BOUNDS):
            within = table[(table["dice"] >= low) & ((table["dice"] < high) | (high == 1))]
            if len(within):
                shares = within["flag"].str.contains("passes").mean(), (within["flag"] != "").mean()
                rows.append((f"{name}, Dice {low:g} to {high:g}", len(within), *(f"{share:.0%}" for share in shares)))
    return markdown(("structures", "number", "passes disagree", "any flag"), rows)


if __name__ == "__main__":
    main()
