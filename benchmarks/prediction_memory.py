"""Measures the memory that the prediction of one volume takes, in a fresh process for each size and number of classes.

    python benchmarks/prediction_memory.py --sizes 256x256x150 512x512x600 --classes 3 28
    python benchmarks/prediction_memory.py --sizes 192x192x192 --classes 28 --view coronal axial sagittal --patch 192

The peak is that of the resident memory from the file to the written label map, above what the process holds once it has
imported everything and has run the network once. Several views are joined. Their sum of class probabilities is a file
in memory, which the system can take away: the peak of the other, anonymous memory is given, too, sampled 100 times a
second.
"""

import argparse
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

import nibabel as nib
import numpy as np
import torch
from measuring import machine, markdown

from scse.data.recipe import Recipe
from scse.inference.joining import joined
from scse.inference.segmenter import Segmenter
from scse.inference.uncertainty import uncertain
from scse.networks import NETWORKS

MIB = 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x256x150", "512x512x600"], help="voxels")
    parser.add_argument("--classes", nargs="+", type=int, default=[3, 28])
    parser.add_argument("--view", nargs="+", default=["axial"], choices=("sagittal", "coronal", "axial", "volume"))
    parser.add_argument("--patch", type=int, default=256, help="pixels a side of slices")
    parser.add_argument("--spacing", type=float, help="mm per pixel to which the volume of 1 mm is resampled")
    parser.add_argument("--uncertainty", action="store_true", help="measure the spread of the views, too")
    parser.add_argument("--width", type=int, default=4, help="of the U-Net")
    parser.add_argument("--ending", default=".nii.gz", choices=(".nii.gz", ".nii"))
    chosen = parser.parse_args()
    recipes = []
    for view in chosen.view:
        patch = (64, 80, 64) if view == "volume" else (chosen.patch, chosen.patch)
        spacing = None if chosen.spacing is None else (chosen.spacing,) * len(patch)
        content = {"view": view, "spacing": spacing, "patch": patch, "channels": 1}
        recipes.append(Recipe.model_validate(content))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in chosen.sizes:
            shape = tuple(map(int, size.split("x")))
            scan = Path(temporary, f"scan{chosen.ending}")
            make_volume(scan, shape)
            for classes in chosen.classes:
                models = [
                    make_segmenter(Path(temporary, recipe.view), recipe, classes, chosen.width) for recipe in recipes
                ]
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    base, peak, own, seconds = pool.submit(
                        measure, models, scan, Path(temporary, "out"), chosen.uncertainty
                    ).result()
                volume = 4 * math.prod(shape)
                numbers = (volume / MIB, base / MIB, peak / MIB, own / MIB)
                rows.append((size, classes, *(f"{n:.0f}" for n in numbers), f"{peak / volume:.2f}", f"{seconds:.0f}"))
    print(f"{machine()}; U-Net of width {chosen.width}, view {', '.join(chosen.view)}, {chosen.ending}\n")
    peaks = ("peak above the base, MiB", "of it anonymous, MiB")
    header = ("voxels", "classes", "volume, MiB", "base, MiB", *peaks, "peak / volume", "s")
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


def measure(models: list[Path], scan: Path, out: Path, uncertainty: bool) -> tuple[int, int, int, float]:
    """Bytes that the process held before and took above them, in all and anonymous, and the seconds that it took."""
    segmenter = (uncertain if uncertainty else joined)([Segmenter.load(model) for model in models])
    segmenter.predict(torch.rand(64, 64, 64).numpy(), batch_size=1)
    base, before = memory("VmHWM"), memory("RssAnon")
    samples, ended = [before], Event()

    def sample() -> None:
        while not ended.wait(0.01):
            samples.append(memory("RssAnon"))

    watch = Thread(target=sample)
    watch.start()
    began = time.perf_counter()
    failed = segmenter.predict_files({"scan": [scan]}, out)
    seconds = time.perf_counter() - began
    ended.set()
    watch.join()
    if failed:
        raise RuntimeError(failed[0])
    return base, memory("VmHWM") - base, max(samples) - before, seconds


def memory(what: str) -> int:
    """Memory of this program in bytes: VmHWM is the greatest; getrusage would count what the process was before."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
