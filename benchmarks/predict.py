"""Prediction against a loop written by hand, in each engine, and what scSE costs a U-Net's forward in each.

    python benchmarks/predict.py [--volumes 2] [--rounds 3] [--steps 60] [--width 32] [--torch-only]

About 10 minutes on two cores with the defaults. Needs the packages of scse[export,openvino,smp] and, for the first
table, MALC in nnU-Net's layout; without it, only the second table is printed.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from measuring import interleaved, machine, markdown, milliseconds, ratio
from torch import nn

from scse.allocator import keep_large_blocks
from scse.attachment.hosts import Recalibration
from scse.data.dataset import Dataset
from scse.data.files import read_image, read_label
from scse.data.recipe import Recipe
from scse.inference.engines import ENGINES, make_engine
from scse.inference.segmenter import Segmenter, write_prediction
from scse.networks import NETWORKS, UNet

MALC = Path(__file__).resolve().parents[2] / "shared" / "data" / "malc"
RECIPE = Recipe(view="coronal", spacing=None, patch=(168, 176), channels=1)
VARIANTS = ("none", "scse")
BY_HAND = "a loop by hand"
NO_OVERLAP = "torch, nothing overlaps"
WAYS = (BY_HAND, NO_OVERLAP, "torch", *ENGINES)
SLICES = 16
SIZE = (4, 1, 256, 256)
TRAINING_CASES = 2

Files = Mapping[str, Sequence[Path]]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=2, help="that are segmented")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of the training before")
    parser.add_argument("--width", type=int, default=32, help="of the U-Net of the first table")
    parser.add_argument("--data", type=Path, default=MALC)
    parser.add_argument("--torch-only", action="store_true", help="no engines, and so the first table alone")
    chosen = parser.parse_args()
    keep_large_blocks()
    print(f"{machine()}\n")
    if chosen.data.is_dir():
        ways = WAYS[:3] if chosen.torch_only else WAYS
        volumes_table(chosen, ways)
    else:
        print(f"{chosen.data}: not there, so no table of volumes\n")
    if not chosen.torch_only:
        forward_table(chosen.rounds)


def volumes_table(chosen: argparse.Namespace, ways: Sequence[str]) -> None:
    """Seconds and memory a volume takes, and how many voxels get another label than by `predict_files` with torch."""
    dataset = Dataset.open(chosen.data)
    files = {case.name: case.images for case in dataset.test_cases[: chosen.volumes]}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for variant in VARIANTS:
            folder = Path(temporary, variant)
            trained(dataset, variant, chosen.steps, chosen.width).save(folder)
            segmenter = Segmenter.load(folder)
            starts, actions = {}, {}
            for way in ways:
                began = time.perf_counter()
                actions[way] = prepare_way(way, segmenter, files, folder / way)
                starts[way] = time.perf_counter() - began
            seconds = interleaved(actions, rounds=chosen.rounds)
            for way in ways:
                rows.append(
                    (
                        f"U-Net {variant}: {way}",
                        f"{median(seconds[way]) / len(files):.2f}",
                        f"{ratio(seconds, way, BY_HAND):.2f}",
                        f"{starts[way]:.1f}",
                        f"{peak_memory(way, folder, files):.2f}",
                        f"{differing(folder / way, folder / 'torch'):.1e}",
                    )
                )
    print(f"U-Net, width {chosen.width}, 3 x 3, trained for {chosen.steps} steps; {len(files)} volumes of MALC\n")
    header = ("way", "s a volume", f"of {BY_HAND}", "start, s", "peak, GiB", "voxels unlike torch's")
    print(f"{markdown(header, rows)}\n")


def trained(dataset: Dataset, variant: str, steps: int, width: int) -> Segmenter:
    """A U-Net that knows enough for its label maps not to be noise."""
    arguments = {"in_channels": 1, "classes": len(dataset.structures) + 1, "width": width, "depth": 3, "kernel_size": 3}
    torch.manual_seed(0)
    network = NETWORKS["unet"](**arguments, recalibration=variant).to(memory_format=torch.channels_last)
    values = [0, *dataset.structures.values()]
    images, labels = [], []
    for case in dataset.cases[:TRAINING_CASES]:
        slices, grid = RECIPE.image_slices(read_image(case.images))
        images.append(torch.from_numpy(slices))
        labels.append(torch.from_numpy(np.searchsorted(values, RECIPE.label_slices(read_label(case.label), grid))))
    x, y = torch.cat(images), torch.cat(labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = torch.randint(len(x), (8,))
        optimizer.zero_grad()
        F.cross_entropy(network(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return Segmenter(network, "unet", arguments, variant, RECIPE, dataset.structures)


def prepare_way(way: str, segmenter: Segmenter, files: Files, out: Path) -> Callable[[], object]:
    """What segments the files in one of the ways."""
    if way == BY_HAND:
        return partial(by_hand, segmenter, files, out)
    if way == NO_OVERLAP:
        return partial(no_overlap, segmenter, files, out)
    return partial(segmenter.with_engine(way).predict_files, files, out)


def by_hand(segmenter: Segmenter, files: Files, out: Path) -> None:
    """What a user would write: one image after the other, one batch after the other."""
    values = np.array([0, *segmenter.structures.values()], np.uint8)
    for name, paths in files.items():
        image = read_image(paths)
        slices, grid = segmenter.recipe.image_slices(image)
        height, width = grid.plane
        labels = []
        for batch in torch.from_numpy(slices).split(SLICES):
            with torch.no_grad():
                logits = segmenter.network(batch)
            labels.append(logits.argmax(1)[:, :height, :width])
        found = grid.restore(values[torch.cat(labels).numpy()])
        write_prediction(out, name, found, paths[0], image)


def no_overlap(segmenter: Segmenter, files: Files, out: Path) -> None:
    """As `predict_files`, but one step after the other."""
    for name, paths in files.items():
        image = read_image(paths)
        write_prediction(out, name, segmenter.predict_image(image), paths[0], image)


def peak_memory(way: str, folder: Path, files: Files) -> float:
    """Greatest resident memory of a fresh process that segments the files, in GiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_memory, way, folder, files).result()


def _peak_memory(way: str, folder: Path, files: Files) -> float:
    keep_large_blocks()
    prepare_way(way, Segmenter.load(folder), files, folder / "memory")()
    # of this program alone, unlike getrusage, which counts what the process was before
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def differing(folder: Path, other: Path) -> float:
    """Share of voxels with different labels in the label maps of two folders."""
    pairs = [[np.asanyarray(nib.load(path).dataobj) for path in (mine, other / mine.name)] for mine in folder.iterdir()]
    return float(np.mean([(a != b).mean() for a, b in pairs]))


def forward_table(rounds: int) -> None:
    """What a block costs a U-Net's forward, in each engine."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of what it imports itself
        from segmentation_models_pytorch.base.modules import SCSEModule  # noqa: PLC0415

    blocks: dict[str, Recalibration] = {
        "plain": None,
        "scSE": "scse",
        "smp's SCSEModule": lambda channels: SCSEModule(channels, reduction=2),
    }
    x = torch.rand(SIZE).contiguous(memory_format=torch.channels_last)
    actions = {}
    for block, recalibration in blocks.items():
        network: nn.Module = UNet(kernel_size=3, recalibration=recalibration).eval()
        network.to(memory_format=torch.channels_last)
        for name in ("torch", *ENGINES):
            actions[name, block] = partial(_forward, make_engine(name, network, x).run, x)
    seconds = interleaved({f"{name}, {block}": action for (name, block), action in actions.items()}, rounds=rounds)
    rows = []
    for name, block in actions:
        of, to = f"{name}, {block}", f"{name}, plain"
        cost = "" if block == "plain" else f"{(ratio(seconds, of, to) - 1) * 100:+.1f} %"
        rows.append((of, f"{milliseconds(seconds[of]):.0f}", cost, f"{ratio(seconds, of, 'torch, plain'):.2f}"))
    print(f"U-Net, width 64, depth 4, 3 x 3, forward of {' x '.join(map(str, SIZE))}\n")
    print(markdown(("engine, block", "ms", "cost of the block", "of torch, plain"), sorted(rows)))


def _forward(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    with torch.inference_mode():
        run(x)


if __name__ == "__main__":
    main()
