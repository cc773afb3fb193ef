"""A small U-Net, plain and with scSE, trained on torch: the Keras model in a plain torch loop.

python examples/keras_torch.py
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

import keras
import numpy as np
import torch
from cohort_slices import CLASSES, dice, read_slices
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import scse.keras

(images, classes), (test_images, test_classes) = read_slices(cases=6)
data = TensorDataset(torch.from_numpy(images), torch.from_numpy(classes).long())
EPOCHS = 8

for name, recalibration in (("plain", None), ("with scSE", "scse")):
    keras.utils.set_random_seed(0)
    # with this backend a keras.Model is a torch.nn.Module, with parameters() for torch's optimizers
    network = scse.keras.networks.UNet(
        in_channels=1, classes=CLASSES, width=16, depth=3, kernel_size=3, recalibration=recalibration
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = np.zeros(EPOCHS)
    for epoch in range(EPOCHS):
        batches = DataLoader(data, batch_size=5, shuffle=True)
        for x, y in batches:
            logits = network(x, training=True).movedim(-1, 1)  # torch's loss takes the classes second
            loss = cross_entropy(logits, y.to(logits.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[epoch] += loss.item() / len(batches)

    with torch.no_grad():
        predicted = network(torch.from_numpy(test_images), training=False).argmax(-1).cpu().numpy()
    score = dice(predicted, test_classes)
    print(f"{name}: loss {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last, Dice {score:.3f}")
