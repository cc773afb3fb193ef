"""MONAI's BasicUNet with scSE, trained by MONAI's own engines.

python examples/monai_trainer.py                  on volumes that MONAI draws
python examples/monai_trainer.py --folder DATA    on volumes in the layout of nnU-Net or the Medical Segmentation
                                                  Decathlon, or images/, masks/ and labels.csv
"""

import argparse
from pathlib import Path
from typing import Any

import monai.transforms as mt
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, create_test_image_3d
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet

import scse

KEYS = ("image", "label")
PATCH = (32, 32, 32)


def read_cases(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The files of every case, and the number of classes."""
    data = scse.Dataset.open(folder)
    return [{"image": case.images[0], "label": case.label} for case in data.cases], 1 + max(data.structures.values())


def draw_cases(count: int) -> tuple[list[dict[str, Any]], int]:
    """Volumes with balls of two classes, and the number of classes."""
    random = np.random.RandomState(0)
    volumes = [create_test_image_3d(*PATCH, rad_max=8, num_seg_classes=2, random_state=random) for _ in range(count)]
    return [dict(zip(KEYS, volume, strict=True)) for volume in volumes], 3


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--folder", type=Path)
parser.add_argument("--epochs", type=int, default=5)
options = parser.parse_args()
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

cases, classes = read_cases(options.folder) if options.folder else draw_cases(10)
prepare = [
    *([mt.LoadImaged(KEYS)] if options.folder else []),
    mt.EnsureChannelFirstd(KEYS, channel_dim="no_channel"),
    mt.NormalizeIntensityd("image"),
    mt.SpatialPadd(KEYS, PATCH),
]
held_out = max(1, len(cases) // 5)
training = CacheDataset(cases[held_out:], mt.Compose([*prepare, mt.RandSpatialCropd(KEYS, PATCH)]), progress=False)
validation = CacheDataset(cases[:held_out], mt.Compose(prepare), progress=False)

network = BasicUNet(spatial_dims=3, in_channels=1, out_channels=classes, features=(16, 16, 32, 64, 128, 16)).to(device)
placed = scse.attach(network, "scse")  # after every encoder and decoder block; the outputs stay as they were
print(placed)

evaluator = SupervisedEvaluator(
    device=device,
    val_data_loader=DataLoader(validation),
    network=network,
    inferer=SlidingWindowInferer(PATCH),
    postprocessing=mt.AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=classes),
    key_val_metric={"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))},
)
SupervisedTrainer(
    device=device,
    max_epochs=options.epochs,
    train_data_loader=DataLoader(training, batch_size=2, shuffle=True),
    network=network,
    optimizer=torch.optim.AdamW(network.parameters(), 3e-3),
    loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
    train_handlers=[ValidationHandler(interval=options.epochs, validator=evaluator)],
).run()
print(f"Dice of {held_out} held-out cases: {evaluator.state.metrics['dice']:.3f}")

for place in placed:
    place.block.register_forward_hook(
        lambda _, u, v, where=place.where: print(f"{where}: map changed by {(v - u[0]).norm() / u[0].norm():.1%}")
    )
network(training[0]["image"][None].to(device))
