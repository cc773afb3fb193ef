"""Measures the memory that `scse predict` takes for one volume, for each size and number of classes.

    python benchmarks/prediction_memory.py --sizes 512x512x600 --classes 28 --width 1 --depth 1 --kernel-size 1
    python benchmarks/prediction_memory.py --sizes 256x256x150 --copies 2 --options "" " --mirror" "--cleaning largest"
    python benchmarks/prediction_memory.py --sizes 192x192x192 --classes 28 --view coronal axial sagittal --patch 192

The command runs in a process of its own. The peak is that of its resident memory, in all and above that of the same
command for a volume of 64 x 64 x 64 voxels. Segmenters of several views are joined. Their sum of class probabilities is
a file in memory, which the system can take away: the peak of the other, anonymous memory is given, too, sampled 100
times a second. The networks are not trained, so that every structure is everywhere: clean-up takes the most memory that
it can.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
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
    parser.add_argument("--view", nargs="+", default=["axial"], choices=("sagittal", "coronal", "axial", "volume"))
    parser.add_argument("--patch", type=int, default=256, help="pixels a side of slices")
    parser.add_argument("--spacing", type=float, help="mm per pixel to which the volume of 1 mm is resampled")
    parser.add_argument("--copies", type=int, default=1, help="segmenters of each view")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[""],
        help="of scse predict, a row for each string of them; one that has no space begins with one",
    )
    parser.add_argument("--width", type=int, default=4, help="of the U-Net")
    parser.add_argument("--depth", type=int, default=2, help="of the U-Net")
    parser.add_argument("--kernel-size", type=int, default=3, help="of the U-Net")
    parser.add_argument("--ending", default=".nii.gz", choices=(".nii.gz", ".nii"))
    chosen = parser.parse_args()
    recipes = []
    for view in chosen.view:
        patch = (64, 80, 64) if view == "volume" else (chosen.patch, chosen.patch)
        spacing = None if chosen.spacing is None else (chosen.spacing,) * len(patch)
        content = {"view": view, "spacing": spacing, "patch": patch, "channels": 1}
        recipes.append(Recipe.model_validate(content))
    network = {"in_channels": 1, "width": chosen.width, "depth": chosen.depth, "kernel_size": chosen.kernel_size}
    built = f"U-Net of width {chosen.width}, depth {chosen.depth}"
    print(f"{machine()}; {built}, view {', '.join(chosen.view)} x {chosen.copies}, {chosen.ending}\n")
    peaks = ("peak, MiB", "above the base, MiB", "of it anonymous, MiB")
    print(markdown(("voxels", "classes", "options", "volume, MiB", *peaks, "above / volume", "peak / volume", "s"), []))
    with tempfile.TemporaryDirectory() as temporary:
        for size in ["64x64x64", *chosen.sizes]:
            make_volume(Path(temporary, f"{size}{chosen.ending}"), tuple(map(int, size.split("x"))))
        for classes in chosen.classes:
            models = [
                make_segmenter(Path(temporary, f"{recipe.view}{copy}"), recipe, network | {"classes": classes})
                for recipe in recipes
                for copy in range(chosen.copies)
            ]
            for options in chosen.options:
                base, own_base, _ = measure(models, Path(temporary, f"64x64x64{chosen.ending}"), options.split())
                for size in chosen.sizes:
                    peak, own, seconds = measure(models, Path(temporary, f"{size}{chosen.ending}"), options.split())
                    volume = 4 * math.prod(map(int, size.split("x")))
                    numbers = [f"{n / MIB:.0f}" for n in (volume, peak, peak - base, own - own_base)]
                    ratios = [f"{n / volume:.2f}" for n in (peak - base, peak)]
                    row = [size, classes, options or "-", *numbers, *ratios, f"{seconds:.0f}"]
                    print(f"| {' | '.join(map(str, row))} |", flush=True)


def make_volume(path: Path, shape: tuple[int, ...]) -> None:
    """A float32 volume of noise in an empty background, 1 mm."""
    volume = np.zeros(shape, np.float32, order="F")
    rng = np.random.default_rng(0)
    for plane in np.moveaxis(volume, 2, 0):
        plane[shape[0] // 4 :] = rng.normal(100, 20, (shape[0] - shape[0] // 4, shape[1]))
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), path)


def make_segmenter(folder: Path, recipe: Recipe, arguments: Mapping[str, int]) -> Path:
    """An untrained U-Net on disk."""
    network = NETWORKS["unet"](**arguments, spatial_dims=recipe.dims, recalibration="scse")
    structures = {f"s{n}": n for n in range(1, arguments["classes"])}
    return Segmenter(network, "unet", arguments, "scse", recipe, structures).save(folder)


def measure(models: Sequence[Path], scan: Path, options: Sequence[str]) -> tuple[int, int, float]:
    """Bytes that the command took at its peak, in all and anonymous, and its seconds."""
    given = [word for model in models for word in ("-m", str(model))]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "scse", "predict", *given, str(scan), "-o", out, "--device", "cpu", *options]
        began, peak, own = time.perf_counter(), 0, 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            while process.poll() is None:
                most, anonymous = memory(process.pid)
                peak, own = max(peak, most), max(own, anonymous)
                time.sleep(0.01)
            if process.returncode:
                raise RuntimeError(process.stdout.read() if process.stdout else "")
    return peak, own, time.perf_counter() - began


def memory(process: int) -> tuple[int, int]:
    """Bytes of a process: its peak so far, and its anonymous memory now; 0 once it has ended.

    getrusage would count what the process was before it became another program.
    """
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    most, anonymous = (int(lines.get(name, "0 kB").split()[0]) * 1024 for name in ("VmHWM", "RssAnon"))
    return most, anonymous


if __name__ == "__main__":
    main()
