"""Measures the memory that one training step of a network of volumes takes, in a fresh process for each patch.

    python benchmarks/training_memory.py DATA [--patches 48x48x64 64x64x80 80x80x96] [--width 24] [--batch-size 2]

The network is that of the preset for volumes. The peak is that of the resident memory of two steps, above what the
process holds before them; the data are read from memory-mapped files.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from measuring import machine, markdown

from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe
from scse.studies.costs import Stepper
from scse.training.settings import make_settings
from scse.training.setup import resolve_precision
from scse.training.task import make_task

GIB = 2**30


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--patches", nargs="+", default=["64x40x64", "64x80x64", "128x80x64"], help="voxels")
    parser.add_argument("--variant", default="scse")
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--cases", type=int, default=4, help="that are read")
    chosen = parser.parse_args()
    changes = {"variant": chosen.variant, "width": chosen.width, "batch_size": chosen.batch_size}
    rows = []
    for text in chosen.patches:
        patch = tuple(map(int, text.split("x")))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            taken, kind = pool.submit(measure, chosen.data, patch, changes, chosen.cases).result()
        each = taken / (math.prod(patch) * chosen.width * chosen.batch_size)
        rows.append((text, math.prod(patch), f"{taken / GIB:.2f}", f"{each:.0f}"))
        print(f"{machine()}, {kind}: {rows[-1]}", flush=True)
    print(f"\n{chosen.variant}, width {chosen.width}, batch of {chosen.batch_size}, {kind}\n")
    print(markdown(("patch", "voxels", "peak above the base, GiB", "bytes per voxel, width and image"), rows))


def measure(data: Path, patch: tuple[int, ...], changes: dict[str, object], cases: int) -> tuple[int, str]:
    """Bytes that two steps take above what the process held before, and the precision."""
    inspection, dataset = open_checked(data)
    training = make_folds(dataset, 5)[0].training[:cases]
    derived = Recipe.derive(inspection.facts_of(dataset), dims=3)
    recipe = derived.model_copy(update={"patch": patch})
    task = make_task(inspection, training=training, held_out=(), recipe=recipe, cache=cache_folder())
    settings = make_settings("quick", changes, dims=3)
    device = torch.device("cpu")
    stepper = Stepper.make(task, settings, device, steps=4)
    images, labels = next(iter(stepper.batches.epoch(0)))
    before = memory("VmRSS")
    for _ in range(2):
        stepper.step(images, labels)
    return memory("VmHWM") - before, resolve_precision(settings.precision, device)


def memory(what: str) -> int:
    """Memory of this program in bytes: VmHWM is the greatest, VmRSS the current one."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
