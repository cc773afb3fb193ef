"""Dice of segmenters on scans whose contrast was changed while their anatomy stayed.

    python benchmarks/contrasts.py SEGMENTER [SEGMENTER ...] --images DATA/imagesTs --labels DATA/labelsTs

Images have an empty background of 0, as after skull-stripping; it stays 0. The intensities inside, as fractions between
their percentiles 0.5 and 99.5, follow a curve of straight pieces between equally spaced knots:

- as scanned: no change;
- inverted: dark is bright;
- rising: 5 random knots in order;
- any: 5 random knots, which rise and fall, with at least half of the range between the highest and the lowest.

Every scan has its own curves, the same for all segmenters.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from measuring import markdown
from numpy.typing import NDArray

from scse.evaluation.scores import evaluate, mean_rows
from scse.inference.inputs import find_images
from scse.inference.segmenter import Segmenter

KNOTS = 5


def any_curve(rng: np.random.Generator) -> NDArray[np.float64]:
    """Random knots of a curve that is not flat."""
    while True:
        knots = rng.uniform(0, 1, KNOTS)
        if np.ptp(knots) >= 0.5:
            return knots


CURVES: Mapping[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "as scanned": lambda _: np.array([0.0, 1.0]),
    "inverted": lambda _: np.array([1.0, 0.0]),
    "rising": lambda rng: np.sort(any_curve(rng)),
    "any": any_curve,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("segmenters", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    chosen = parser.parse_args()
    rows = []
    for path in chosen.segmenters:
        segmenter = Segmenter.load(path)
        row: list[str] = []
        for name in chosen.curves:
            with tempfile.TemporaryDirectory() as folder:
                remap(chosen.images, Path(folder) / "images", name)
                images = find_images([Path(folder) / "images"], channels=1)
                failures = segmenter.predict_files(images, Path(folder) / "labels")
                assert not failures, failures
                row.append(mean_rows(evaluate(Path(folder) / "labels", chosen.labels))[-1][1])
            print(path, name, row[-1], flush=True)
        rows.append((str(path), *row))
    print("\n" + markdown(("segmenter", *chosen.curves), rows))


def remap(images: Path, target: Path, name: str) -> None:
    """Write the images with other contrasts."""
    target.mkdir()
    for number, path in enumerate(sorted(images.glob("*.nii.gz"))):
        image = nib.nifti1.load(path)
        array = np.asarray(image.dataobj, np.float32)
        inside = array > 0
        low, high = np.percentile(array[inside], (0.5, 99.5))
        knots = CURVES[name](np.random.default_rng((number, *name.encode())))
        fractions = np.clip((array[inside] - low) / (high - low), 0, 1)
        array[inside] = 1 + 999 * np.interp(fractions, np.linspace(0, 1, len(knots)), knots)
        nib.nifti1.save(nib.nifti1.Nifti1Image(array, image.affine), target / path.name)


if __name__ == "__main__":
    main()
