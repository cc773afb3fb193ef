"""Training of the networks: on slices of the built-in cohort, and step by step in comparison with torch."""

import keras
import nibabel as nib
import numpy as np
import pytest

from scse.keras import from_torch
from scse.keras.networks import UNet
from scse.simulation.brain import STRUCTURES
from scse.simulation.writing import simulate_cohort

pytestmark = pytest.mark.usefixtures("quick_networks")
CLASSES = 3
GROUPS = {"white-matter": 1, "cortex": 2}
"""Suffix of the name of a structure -> class. All other structures are background."""


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Images (N, 32, 32, 1) and classes (N, 32, 32) of simulated subjects, two for training and one for testing."""
    folder = simulate_cohort(tmp_path_factory.mktemp("data") / "cohort", cases=3)
    classes = np.zeros(1 + len(STRUCTURES), np.int32)
    for name, value in STRUCTURES.items():
        classes[value] = next((group for end, group in GROUPS.items() if name.endswith(end)), 0)

    def read(kind):
        paths = sorted((folder / kind).iterdir())
        return [np.moveaxis(np.asarray(nib.load(path).dataobj)[:96:3, 24:104:4, 2:98:3], 1, 0) for path in paths]

    pairs = []
    for part in ("Tr", "Ts"):
        scans = [(scan[..., None] / scan.max()).astype(np.float32) for scan in read(f"images{part}")]
        pairs.append((np.concatenate(scans), classes[np.concatenate(read(f"labels{part}"))]))
    return pairs


def network(depth, **options):
    keras.utils.set_random_seed(0)
    made = UNet(classes=CLASSES, width=8, depth=depth, kernel_size=3, **options)
    made.compile(
        optimizer=keras.optimizers.Adam(1e-2), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return made


def dice(model, images, classes):
    """Return the mean Dice over all classes except the background."""
    predicted = model.predict_on_batch(images).argmax(-1)
    pairs = [(predicted == number, classes == number) for number in range(1, CLASSES)]
    return np.mean([2 * (found & marked).sum() / (found.sum() + marked.sum()) for found, marked in pairs])


def test_a_network_learns_the_cohort(slices):
    (images, classes), test = slices
    model = network(depth=2, recalibration="scse")
    untrained = dice(model, *test)
    losses = model.fit(images, classes, batch_size=5, epochs=10, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    # a prediction of background alone has 0
    assert dice(model, *test) > max(0.6, untrained + 0.3)


@pytest.mark.parametrize("name", ["unet", "sdnet"])
def test_steps_of_sgd_are_those_of_torch(name, slices):
    import torch

    from scse.networks import NETWORKS

    torch.manual_seed(0)
    theirs = NETWORKS[name](width=4, depth=1, kernel_size=3, classes=CLASSES, recalibration="scse")
    ours = from_torch(theirs)
    ours.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    images, classes = (array[5:14].copy().reshape(3, 3, *array.shape[1:]) for array in slices[0])
    # Noise avoids ties. Among equal pixels of the background, rounding decides which is the largest, and un-pooling
    # depends on its position.
    images += np.random.default_rng(0).normal(0, 0.5, images.shape).astype(np.float32)
    reached, expected = [], []
    for x, y in zip(images, classes, strict=True):
        optimizer.zero_grad()
        logits = theirs(torch.tensor(x).movedim(-1, 1))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y).long())
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
        ours.reset_metrics()
        reached.append(float(ours.train_on_batch(x, y)))
    assert expected[2] < expected[0] - 0.02
    np.testing.assert_allclose(reached, expected, rtol=0, atol=1e-4)


def test_mixed_bfloat16_trains(slices):
    (images, classes), _ = slices
    model = network(depth=1, recalibration="scse", dtype="mixed_bfloat16")
    losses = model.fit(images[:15], classes[:15], batch_size=5, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert all(variable.dtype == "float32" for variable in model.trainable_variables)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]
