"""The paper's U-Net with blocks against without: what a variant costs in a training step and in inference.

    uv run python benchmarks/unet.py                     # 5x5, 64 channels, 4 x 1 x 256 x 256, float32: 3 minutes
    uv run python benchmarks/unet.py --kernel 3 --width 32 --depth 3 --precision bf16 --batch 8 --side 128

The networks run in turn in the same process; a ratio is the median over the rounds of a network's time to that of the
plain network in the same round. At the places of the blocks, "smp" has SCSEModule of segmentation_models_pytorch, and
"copy" nothing but a copy of the map, which is the least that anything with an output of its own can cost.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measuring import interleaved, machine, markdown, milliseconds, ratio
from torch import Tensor, nn

from scse.allocator import keep_large_blocks
from scse.blocks.kernels import describe_backend
from scse.blocks.modules import VARIANTS
from scse.networks import UNet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from segmentation_models_pytorch.base.modules import SCSEModule

CLASSES = 28


class Copy(nn.Module):
    """A copy of the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Copy."""
        return x.clone()


def networks(width: int, depth: int, kernel: int) -> dict[str, nn.Module]:
    """The variants, and the plain network with smp's blocks, or with copies, in the same places."""
    blocks = {variant: variant for variant in VARIANTS} | {"smp": SCSEModule, "copy": Copy}
    return {
        name: UNet(
            in_channels=1, classes=CLASSES, width=width, depth=depth, kernel_size=kernel, recalibration=block
        ).to(memory_format=torch.channels_last)
        for name, block in blocks.items()
    }


def stepper(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.95)

    def step() -> None:
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(model: nn.Module, images: Tensor, precision: str) -> None:
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        model(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kernel", 5), ("width", 64), ("depth", 4), ("batch", 4), ("side", 256), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--networks", default="none,copy,scse,smp", help="of none,copy,cse,sse,scse,pe,smp")
    parser.add_argument("--default", action="store_true", help="leave glibc's allocator as it is")
    given = parser.parse_args()
    if not given.default:
        keep_large_blocks()
    chosen = given.networks.split(",")
    models = {name: model for name, model in networks(given.width, given.depth, given.kernel).items() if name in chosen}
    images = torch.randn(given.batch, 1, given.side, given.side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (given.batch, given.side, given.side))
    runs = {
        "training step": {n: stepper(model, images, labels, given.precision) for n, model in models.items()},
        "inference": {n: partial(inference, model, images, given.precision) for n, model in models.items()},
    }
    print(machine())
    print(f"blocks run on {describe_backend()}; {vars(given)}")
    for what, actions in runs.items():
        seconds = interleaved(actions, rounds=given.rounds)
        rows = [
            [
                name,
                f"{milliseconds(seconds[name]):.0f}",
                f"{(ratio(seconds, name, 'none') - 1) * 100:+.1f} %",
                _quartiles(seconds[name] / seconds["none"]),
            ]
            for name in actions
        ]
        print(f"\n{what}\n\n{markdown(['network', 'ms', 'more than plain', 'quartiles'], rows)}", flush=True)


def _quartiles(ratios: np.ndarray) -> str:
    low, high = (np.quantile(ratios, q) - 1 for q in (0.25, 0.75))
    return f"{low * 100:+.1f} to {high * 100:+.1f} %"


if __name__ == "__main__":
    main()
