"""Measures the memory that the prediction of one volume takes, in a fresh process for each size and number of classes.

    python benchmarks/prediction_memory.py --sizes 256x256x150 512x512x600 --classes 3 28

The peak is that of the resident memory from the file to the written label map, above what the process holds once it has
imported everything and has run the network once.
"""

import argparse
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from measuring import machine, markdown

from scse.data.recipe import Recipe
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS

MIB = 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x256x150", "512x512x600"], help="voxels")
    parser.add_argument("--classes", nargs="+", type=int, default=[3, 28])
    parser.add_argument("--view", default="axial", choices=("sagittal", "coronal", "axial", "volume"))
    parser.add_argument("--spacing", type=float, help="mm per pixel to which the volume of 1 mm is resampled")
    parser.add_argument("--width", type=int, default=4, help="of the U-Net")
    parser.add_argument("--ending", default=".nii.gz", choices=(".nii.gz", ".nii"))
    chosen = parser.parse_args()
    patch = (64, 80, 64) if chosen.view == "volume" else (256, 256)
    spacing = None if chosen.spacing is None else (chosen.spacing,) * len(patch)
    content = {"view": chosen.view, "spacing": spacing, "patch": patch, "channels": 1}
    recipe = Recipe.model_validate(content)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in chosen.sizes:
            shape = tuple(map(int, size.split("x")))
            scan = Path(temporary, f"scan{chosen.ending}")
            make_volume(scan, shape)
            for classes in chosen.classes:
                model = make_segmenter(Path(temporary, "model"), recipe, classes, chosen.width)
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    base, peak, seconds = pool.submit(measure, model, scan, Path(temporary, "out")).result()
                volume = 4 * math.prod(shape)
                numbers = (volume / MIB, base / MIB, peak / MIB)
                rows.append((size, classes, *(f"{n:.0f}" for n in numbers), f"{peak / volume:.2f}", f"{seconds:.0f}"))
    print(f"{machine()}; U-Net of width {chosen.width}, view {chosen.view}, {chosen.ending}\n")
    header = ("voxels", "classes", "volume, MiB", "base, MiB", "peak above the base, MiB", "peak / volume", "s")
    print(markdown(header, rows))


def make_volume(path: Path, shape: tuple[int, ...]) -> None:
    """A float32 volume of noise in an empty background, 1 mm."""
    volume = np.zeros(shape, np.float32, order="F")
    rng = np.random.default_rng(0)
    for plane in np.moveaxis(volume, 2, 0):
        plane[shape[0] // 4 :] = rng.normal(100, 20, (shape[0] - shape[0] // 4, shape[1]))
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), path)


def make_segmenter(folder: Path, recipe: Recipe, classes: int, width: int) -> Path:
    """An untrained U-Net on disk."""
    arguments = {"in_channels": 1, "classes": classes, "width": width, "depth": 2, "kernel_size": 3}
    network = NETWORKS["unet"](**arguments, spatial_dims=recipe.dims, recalibration="scse")
    structures = {f"s{n}": n for n in range(1, classes)}
    return Segmenter(network, "unet", arguments, "scse", recipe, structures).save(folder)


def measure(model: Path, scan: Path, out: Path) -> tuple[int, int, float]:
    """Bytes that the process held before and took above them, and the seconds of the prediction."""
    segmenter = Segmenter.load(model)
    segmenter.predict(torch.rand(64, 64, 64).numpy(), batch_size=1)
    base = peak_memory()
    began = time.perf_counter()
    if failed := segmenter.predict_files({"scan": [scan]}, out):
        raise RuntimeError(failed[0])
    return base, peak_memory() - base, time.perf_counter() - began


def peak_memory() -> int:
    """Greatest resident memory of this program, in bytes; getrusage would count what the process was before, too."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
