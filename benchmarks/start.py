"""How long commands take to start, beside imports of torch, MONAI and nnU-Net.

    python benchmarks/start.py [--rounds 3]

Each in a process of its own. `scse predict` includes the prediction of a volume of 32 x 32 x 4 voxels by a small U-Net.
The other libraries are imported as scse's commands import them: without TensorFlow and MLflow, which cost seconds more.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from measuring import interleaved, machine, markdown, ratio

from scse.data.recipe import Recipe
from scse.inference.segmenter import Segmenter
from scse.networks import NETWORKS

ALONE = "from scse.executors.process import settle; settle(); "
IMPORTS = {
    "import torch": "import torch",
    "import monai": ALONE + "import monai",
    "import nnU-Net's predictor": ALONE + "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor",
    "a block": "import scse; scse.ConcurrentSE(16)",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_segmenter(folder / "model")
        image = np.random.default_rng(0).normal(size=(32, 32, 4)).astype(np.float32)
        nib.nifti1.save(nib.nifti1.Nifti1Image(image, np.eye(4)), folder / "image.nii.gz")
        command = (sys.executable, "-m", "scse")
        predict = (*command, "predict", "-m", folder / "model", folder / "image.nii.gz", "-o", folder / "labels")
        actions: dict[str, Callable[[], object]] = {
            name: partial(run, sys.executable, "-c", code) for name, code in IMPORTS.items()
        }
        actions |= {"scse --help": partial(run, *command, "--help"), "scse predict": partial(run, *predict)}
        seconds = interleaved(actions, rounds=chosen.rounds)
    print(machine())
    rows = [
        (name, f"{np.median(seconds[name]):.1f}", f"{ratio(seconds, name, 'import torch'):.2f}") for name in seconds
    ]
    print("\n" + markdown(("start of", "seconds", "to import torch"), rows))


def run(*command: str | Path) -> None:
    """Run a command to its end, silently."""
    subprocess.run(command, check=True, capture_output=True)


def save_segmenter(folder: Path) -> None:
    """An untrained network of slices."""
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
    recipe = Recipe.model_validate({"view": "axial", "spacing": None, "patch": (32, 32), "channels": 1})
    network = NETWORKS["unet"](**arguments, recalibration="scse")
    Segmenter(network, "unet", arguments, "scse", recipe, {"left": 1, "right": 2}).save(folder)


if __name__ == "__main__":
    main()
