"""scSE added to a trained Unet of segmentation_models_pytorch, with Lightning: first the blocks learn, then all.

python examples/smp_lightning.py                  on pictures drawn here
python examples/smp_lightning.py --folder DATA    on pictures in DATA/images, DATA/masks, with DATA/labels.csv
"""

import argparse
from pathlib import Path

import lightning
import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import scse

SIZE = (64, 64)


class Segmentation(lightning.LightningModule):
    """A network that learns by the Dice loss."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network, self.learning_rate, self.loss = network, learning_rate, smp.losses.DiceLoss("multiclass")

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, which leaves alone what gets no gradient."""
        return torch.optim.AdamW(self.parameters(), self.learning_rate)


def read_pictures(folder: Path) -> tuple[Tensor, Tensor, int]:
    """Images (N, 1, *SIZE), masks (N, *SIZE), and the number of classes."""
    data = scse.Dataset.open(folder)
    images = [Image.open(case.images[0]).convert("L").resize(SIZE) for case in data.cases]
    masks = [Image.open(case.label).resize(SIZE, Image.Resampling.NEAREST) for case in data.cases]
    pixels = torch.tensor(np.stack(images) / 255.0, dtype=torch.float32)[:, None]
    return pixels, torch.tensor(np.stack(masks), dtype=torch.long), 1 + max(data.structures.values())


def draw_pictures(count: int) -> tuple[Tensor, Tensor, int]:
    """Noisy discs of two brightnesses, their masks, and the number of classes."""
    grid = torch.stack(torch.meshgrid(*map(torch.arange, SIZE), indexing="ij"))
    centres, radii = torch.randint(8, 56, (count, 2, 2, 1, 1)), torch.randint(5, 14, (count, 2, 1, 1))
    first, second = ((grid - centres).square().sum(2) < radii**2).long().unbind(1)
    masks = torch.where(second > 0, 2, first)
    return (masks / 2 + 0.2 * torch.randn(masks.shape))[:, None], masks, 3


def fit(network: nn.Module, learning_rate: float, what: str) -> None:
    """Train, and print the Dice of the structures in held-out pictures."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(max_epochs=options.epochs, **quiet).fit(Segmentation(network, learning_rate), batches)
    predicted = network.eval()(images[:held_out]).argmax(1)
    counts = smp.metrics.get_stats(predicted, masks[:held_out], mode="multiclass", num_classes=classes)
    print(f"{what}: Dice {smp.metrics.f1_score(*(count[:, 1:] for count in counts), reduction='micro'):.3f}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--folder", type=Path)
parser.add_argument("--epochs", type=int, default=5)
options = parser.parse_args()
lightning.seed_everything(0, verbose=False)
images, masks, classes = read_pictures(options.folder) if options.folder else draw_pictures(60)
held_out = max(1, len(images) // 5)
batches = DataLoader(TensorDataset(images[held_out:], masks[held_out:]), batch_size=8, shuffle=True)

network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=classes)
fit(network, 1e-3, "plain")
placed = scse.attach(network, "scse")  # the trained network goes on computing what it did
print(placed)
network.requires_grad_(False)
for parameter in placed.parameters():
    parameter.requires_grad_(True)
fit(network.eval(), 3e-3, "blocks trained")  # eval: batch normalization keeps the statistics of what is frozen
network.requires_grad_(True)
fit(network.train(), 1e-4, "everything trained")

for place in placed:
    place.block.register_forward_hook(
        lambda _, u, v, where=place.where: print(f"{where}: map changed by {(v - u[0]).norm() / u[0].norm():.1%}")
    )
network(images[:1])
