"""Prediction of a volume in windows against MONAI's sliding window around the same network: time, memory and labels.

    python benchmarks/windows.py [--rounds 3] [--width 12] [--classes 28]

About 10 minutes on two cores with the defaults. The volume is the first test scan of MALC, or noise of its size where
it is absent. All ways begin with the volume in memory and end with the label map; the peak is that of the resident
memory of a fresh process, above what it holds once the network has run on one window.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from measuring import interleaved, machine, markdown, ratio
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from prediction_memory import memory

from scse.data.dataset import Dataset
from scse.data.files import Image, read_image
from scse.data.recipe import Recipe
from scse.inference.segmenter import Segmenter
from scse.inference.windows import channels_last
from scse.networks import UNet

MALC = Path(__file__).resolve().parents[2] / "shared" / "data" / "malc"
PATCH = (64, 80, 64)
MIB = 2**20
FIRST = "MONAI, 1 window at a time"
WAYS: dict[str, tuple[str | None, int]] = {
    FIRST: (None, 1),
    "MONAI, 4 windows at a time": (None, 4),
    "scse": ("window", 1),
    "scse, --squeeze volume": ("volume", 1),
    "scse, --squeeze local": ("local", 1),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--classes", type=int, default=28)
    parser.add_argument("--data", type=Path, default=MALC)
    chosen = parser.parse_args()
    image = volume(chosen.data)
    segmenter = untrained(chosen.width, chosen.classes)
    labels: dict[str, NDArray[np.integer]] = {}

    def keep(name: str, action: Callable[[], NDArray[np.integer]]) -> None:
        labels[name] = action()

    actions = {name: partial(keep, name, make(segmenter, image, *way)) for name, way in WAYS.items()}
    seconds = interleaved(actions, rounds=chosen.rounds)
    rows = []
    for name, way in WAYS.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(measure, chosen.data, chosen.width, chosen.classes, way).result()
        other = float((labels[name] != labels[FIRST]).mean())
        median = float(np.median(seconds[name]))
        rows.append((name, f"{median:.1f}", f"{ratio(seconds, name, FIRST):.2f}", f"{peak / MIB:.0f}", f"{other:.1e}"))
    print(
        f"{machine()}; {' x '.join(map(str, image.array.shape[1:]))} voxels, {chosen.classes} classes, U-Net of width"
    )
    print(f"{chosen.width} and depth 3 with scSE, windows of {' x '.join(map(str, PATCH))}\n")
    print(markdown(("way", "s", "ratio of time", "peak above the base, MiB", "voxels of another label"), rows))


def volume(data: Path) -> Image:
    """The first test scan of MALC, or noise of its size."""
    if data.is_dir():
        return read_image(Dataset.open(data).test_cases[0].images)
    return Image(np.random.default_rng(0).normal(100, 20, (1, 140, 170, 140)).astype(np.float32), np.eye(4))


def untrained(width: int, classes: int) -> Segmenter:
    """A U-Net of volumes with random weights."""
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "classes": classes, "width": width, "depth": 3, "kernel_size": 3}
    network = UNet(**arguments, spatial_dims=3, recalibration="scse").eval()
    network.to(memory_format=torch.channels_last_3d)
    recipe = Recipe(view="volume", spacing=None, patch=PATCH, channels=1)
    return Segmenter(network, "unet", arguments, "scse", recipe, {f"s{n}": n for n in range(1, classes)})


def make(segmenter: Segmenter, image: Image, squeeze: str | None, batch_size: int) -> Callable[[], NDArray[np.integer]]:
    """A function from nothing to the label map; `squeeze` None is MONAI."""
    if squeeze is not None:
        return partial(segmenter.with_squeeze(squeeze).predict_image, image, batch_size=batch_size)

    def by_monai() -> NDArray[np.integer]:
        slices, grid = segmenter.recipe.image_slices(image)
        with torch.inference_mode():
            scores = sliding_window_inference(
                channels_last(torch.from_numpy(slices)),
                PATCH,
                batch_size,
                segmenter.network,
                overlap=0.5,
                mode="gaussian",
            )
        labels: NDArray[np.integer] = grid.restore(torch.as_tensor(scores).argmax(1).byte().numpy())
        return labels

    return by_monai


def measure(data: Path, width: int, classes: int, way: tuple[str | None, int]) -> int:
    """Bytes that a prediction takes above what the process held before."""
    image, segmenter = volume(data), untrained(width, classes)
    with torch.inference_mode():
        segmenter.network(torch.zeros(1, 1, *PATCH))
    base = memory("VmHWM")
    make(segmenter, image, *way)()
    return memory("VmHWM") - base


if __name__ == "__main__":
    main()
