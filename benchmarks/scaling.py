"""How time and memory grow: with the number of cases, and for one scSE block with channels and with pixels.

    python benchmarks/scaling.py --figure docs/scaling.png

takes about 3 minutes on 2 cores (`--most 1000`: 1 minute). Every number is from a process of its own: time as the
median of several rounds, memory as the growth of the resident set at its peak, of which only Linux tells. An exponent
is the slope of a straight line through the points on logarithmic axes: 1 is linear. segmentation_models_pytorch's
SCSEModule runs beside our block, in the same process and in turn for the times, with the allocator set as scse's
commands set it: else glibc maps large blocks anew at every step, which bends both curves at 32 MiB.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import PIL.Image
import torch
from measuring import interleaved, machine, markdown
from numpy.typing import NDArray
from torch import nn

from scse import ConcurrentSE
from scse.allocator import keep_large_blocks
from scse.data import Dataset, inspect
from scse.data.recipe import Recipe
from scse.inference.inputs import find_images
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS

with warnings.catch_warnings(action="ignore", category=FutureWarning):
    from segmentation_models_pytorch.base.modules import SCSEModule

CASES = {10: 5, 100: 5, 1_000: 3, 10_000: 1}
"""Number of cases -> rounds."""

VOLUME, PICTURE = (16, 16, 4), (32, 32)
BATCH = 4
CHANNELS = (16, 32, 64, 128, 256, 512)
SIDES = (16, 32, 64, 128, 256, 512)
USUAL_CHANNELS, USUAL_SIDE = 64, 64
BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "scse.ConcurrentSE": ConcurrentSE,
    "smp SCSEModule": partial(SCSEModule, reduction=2),
}
PRELOADED = ["segmentation_models_pytorch", "monai.inferers", "nibabel", "pydantic", "matplotlib.pyplot"]
"""Imported once, before the fresh processes are forked; not scse, whose kernels keep to one thread after a fork."""

MIB = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """What was measured at each size: seconds, and bytes by which the peak of memory grew."""

    name: str
    sizes: Sequence[int]
    seconds: Sequence[float]
    memory: Sequence[float]


def main() -> None:
    """Measure, print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--most", type=int, default=max(CASES), help="cases of the largest data set")
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    options = parser.parse_args()
    print(f"{machine()}\n", flush=True)
    os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"  # of torch.jit in timm, which smp imports
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as fresh:
        panels = {
            "cases": over_cases(fresh, [count for count in CASES if count <= options.most]),
            "channels": over_maps(fresh, CHANNELS, lambda channels: (channels, USUAL_SIDE)),
            "pixels": over_maps(fresh, SIDES, lambda side: (USUAL_CHANNELS, side), size=lambda side: side**2),
        }
    for axis, curves in panels.items():
        print(f"{table(axis, curves)}\n")
    if options.figure:
        draw(panels, options.figure)
        print(f"drawn: {options.figure}")


# Data sets


def write_nnunet(folder: Path, count: int) -> None:
    """An nnU-Net v2 folder."""
    for index, (image, label) in enumerate(volumes(count)):
        _write(folder / "imagesTr" / f"c{index:05d}_0000.nii.gz", image)
        _write(folder / "labelsTr" / f"c{index:05d}.nii.gz", label)
    labels = {"background": 0, "left": 1, "right": 2}
    _describe(folder, {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz"})


def write_msd(folder: Path, count: int) -> None:
    """A folder as those of the Medical Segmentation Decathlon."""
    training = []
    for index, (image, label) in enumerate(volumes(count)):
        files = {"image": f"./imagesTr/c{index:05d}.nii.gz", "label": f"./labelsTr/c{index:05d}.nii.gz"}
        _write(folder / files["image"], image)
        _write(folder / files["label"], label)
        training.append(files)
    labels = {"0": "background", "1": "left", "2": "right"}
    _describe(folder, {"modality": {"0": "MRI"}, "labels": labels, "training": training})


def write_folders(folder: Path, count: int) -> None:
    """images/ and masks/ of grey pictures."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    mask = np.zeros(PICTURE, np.uint8)
    mask[8:16, 8:24], mask[16:24, 8:24] = 1, 2
    for index in range(count):
        picture = rng.integers(0, 256, PICTURE, dtype=np.uint8)
        PIL.Image.fromarray(picture).save(folder / "images" / f"p{index:05d}.png")
        PIL.Image.fromarray(mask).save(folder / "masks" / f"p{index:05d}.png")


LAYOUTS = {"nnU-Net v2": write_nnunet, "Decathlon": write_msd, "images/ masks/": write_folders}


def volumes(count: int) -> list[tuple[bytes, bytes]]:
    """Contents of so many image files, each of other noise, and of their label maps."""
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    label = np.zeros(VOLUME, np.uint8)
    label[4:8, 4:12], label[8:12, 4:12] = 1, 2
    same = gzip.compress(nib.Nifti1Image(label, affine).to_bytes(), 1)
    # nibabel needs a millisecond a file, so it writes the header once
    header = nib.Nifti1Image(np.zeros(VOLUME, np.int16), affine).to_bytes()[: -2 * label.size]
    noise = (rng.integers(0, 900, VOLUME, dtype=np.int16) for _ in range(count))
    return [(gzip.compress(header + image.tobytes(order="F"), 1), same) for image in noise]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _describe(folder: Path, content: dict[str, object]) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


# Against the number of cases


def over_cases(fresh: ProcessPoolExecutor, counts: Sequence[int]) -> list[Curve]:
    """Opening and inspecting data sets of each layout, and predicting their volumes."""
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for layout, write in LAYOUTS.items():
            small = Path(scratch) / "small" / write.__name__
            write(small, 3)
            for count in counts:
                folder = Path(scratch) / str(count) / write.__name__
                write(folder, count)
                tasks = {f"open, {layout}": open_set, f"inspect, {layout}": inspect_set}
                if write is write_nnunet:
                    tasks["predict"] = predict_set
                for name, task in tasks.items():
                    rounds = [fresh.submit(task, small, folder).result() for _ in range(CASES[count])]
                    found.setdefault(name, []).append(typical(rounds))
    return [Curve(name, counts, *zip(*values, strict=True)) for name, values in found.items()]


def open_set(small: Path, folder: Path) -> tuple[float, float]:
    """`Dataset.open`."""
    return cost(Dataset.open, small, folder)


def inspect_set(small: Path, folder: Path) -> tuple[float, float]:
    """`inspect` of an open data set."""
    return cost(inspect, Dataset.open(small), Dataset.open(folder))


def predict_set(small: Path, folder: Path) -> tuple[float, float]:
    """`Segmenter.predict_files` with a tiny U-Net, in one thread: of two, each would mostly wait for the other."""
    torch.set_num_threads(1)
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 2, "kernel_size": 3}
    recipe = Recipe(view="axial", spacing=None, patch=VOLUME[:2], channels=1)
    network = NETWORKS["unet"](**arguments, recalibration="scse").to(memory_format=torch.channels_last)
    segmenter = Segmenter(network, "unet", arguments, "scse", recipe, {"left": 1, "right": 2})

    def predict(images: Path) -> None:
        with tempfile.TemporaryDirectory() as out:
            failed = segmenter.predict_files(find_images([images], channels=1), Path(out))
        if failed:
            raise RuntimeError(f"{len(failed)} images were not segmented: {failed[0]}")

    return cost(predict, small / "imagesTr", folder / "imagesTr")


# One block against the size of its map


def over_maps(
    fresh: ProcessPoolExecutor,
    values: Sequence[int],
    shape: Callable[[int], tuple[int, int]],
    *,
    size: Callable[[int], int] = int,
) -> list[Curve]:
    """Forward and backward of our block and smp's, for maps of shape(value) = (channels, side)."""
    times = [fresh.submit(race, *shape(value)).result() for value in values]
    sizes = [size(value) for value in values]
    curves = []
    for name in BLOCKS:
        memory = [fresh.submit(peak, name, *shape(value)).result() for value in values]
        curves.append(Curve(name, sizes, [seconds[name] for seconds in times], memory))
    return curves


def race(channels: int, side: int) -> dict[str, float]:
    """Median seconds of forward and backward, the blocks in turn."""
    keep_large_blocks()
    actions = {name: step(name, channels, side) for name in BLOCKS}
    pilot = interleaved(actions, rounds=2)
    rounds = int(np.clip(1.0 / sum(seconds.min() for seconds in pilot.values()), 5, 200))
    return {name: float(np.median(seconds)) for name, seconds in interleaved(actions, rounds=rounds).items()}


def peak(name: str, channels: int, side: int) -> float:
    """Bytes that forward and backward of one block need, beside the map and the gradient that come to it."""
    _, memory = cost(lambda action: action(), step(name, 8, 8), step(name, channels, side))
    return memory


def step(name: str, channels: int, side: int) -> Callable[[], None]:
    """Forward and backward of a block on a channels-last map, as in a network that trains."""
    torch.manual_seed(0)
    shape = (BATCH, channels, side, side)
    block = BLOCKS[name](channels).to(memory_format=torch.channels_last)
    # filled in place, because memory that is free again would hide what the block needs
    x, gradient = (torch.empty(shape, memory_format=torch.channels_last).normal_() for _ in range(2))
    x.requires_grad_(True)

    def run() -> None:
        torch.autograd.grad(block(x), [x, *block.parameters()], gradient)

    return run


# Measuring


def cost(action: Callable[[T], object], small: T, real: T) -> tuple[float, float]:
    """Seconds of `action(real)` and the bytes by which the process grew at its peak; `action(small)` warms up."""
    action(small)
    before = reset_peak()
    began = time.perf_counter()
    kept = action(real)
    seconds = time.perf_counter() - began
    del kept
    return seconds, max(0, status("VmHWM") - before)


def reset_peak() -> int:
    """Forget the peak of the resident set so far; returns what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(key: str) -> int:
    """A number of bytes that the kernel tells of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def typical(rounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The medians of seconds and bytes."""
    seconds, memory = zip(*rounds, strict=True)
    return median(seconds), median(memory)


def exponent(sizes: Sequence[int], values: NDArray[np.float64]) -> float:
    """Slope of the straight line through the points on logarithmic axes; NaN where less than a page was measured."""
    x, y = np.array(sizes, float), values
    seen = y > 0
    return float(np.polyfit(np.log(x[seen]), np.log(y[seen]), 1)[0]) if seen.sum() > 2 else float("nan")


# Showing


def table(axis: str, curves: Sequence[Curve]) -> str:
    """Times and memory at every size, and the exponents."""
    header = [f"ms by {axis}", *(f"{size:,}" for size in curves[0].sizes), "exponent"]
    times = [_row(curve, np.array(curve.seconds) * 1e3) for curve in curves]
    memory = [_row(curve, np.array(curve.memory) / MIB) for curve in curves]
    return f"{markdown(header, times)}\n\n{markdown([f'MiB by {axis}', *header[1:]], memory)}"


def _row(curve: Curve, values: NDArray[np.float64]) -> list[str]:
    return [curve.name, *(f"{value:.3g}" for value in values), f"{exponent(curve.sizes, values):.2f}"]


def draw(panels: dict[str, list[Curve]], path: Path) -> None:
    """One column for each axis, time above memory."""
    figure, grid = plt.subplots(2, len(panels), figsize=(12, 7), layout="constrained")
    titles = {
        "cases": "data sets",
        "channels": f"one scSE block, {USUAL_SIDE} x {USUAL_SIDE} pixels",
        "pixels": f"one scSE block, {USUAL_CHANNELS} channels",
    }
    for (axis, curves), (upper, lower) in zip(panels.items(), grid.T, strict=True):
        for curve, marker in zip(curves, "osD^vPX", strict=False):
            shape = {"marker": marker, "markersize": 5, "alpha": 0.8, "label": curve.name}
            upper.plot(curve.sizes, np.array(curve.seconds) * 1e3, **shape)
            grown = np.array(curve.memory, float) / MIB
            lower.plot(curve.sizes, np.where(grown > 0, grown, np.nan), **shape)
        upper.set_title(titles[axis])
        for plot, what in ((upper, "milliseconds"), (lower, "MiB at the peak")):
            plot.set(xscale="log", yscale="log", xlabel=axis, ylabel=what)
            plot.grid(alpha=0.3)
            plot.set_xticks(curves[0].sizes, [f"{size:,}" for size in curves[0].sizes], fontsize="small")
            plot.minorticks_off()
            _linear(plot, curves[0].sizes)
        lower.legend(fontsize="x-small" if len(curves) > 2 else "small", loc="upper left")
    figure.savefig(path, dpi=110)


def _linear(plot: plt.Axes, sizes: Sequence[int]) -> None:
    """A dashed line of linear growth through the lower left, for the eye."""
    low, high = plot.get_ylim()
    plot.plot(sizes, [low * size / sizes[0] for size in sizes], "--", color="grey", linewidth=1, label="linear")
    plot.set_ylim(low, high)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    main()
