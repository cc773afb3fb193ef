"""A small U-Net, plain and with scSE, trained on JAX: one pure, jitted step over all state.

python examples/keras_jax.py
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

from functools import partial

import jax
import keras
import numpy as np
from cohort_slices import CLASSES, dice, read_slices

import scse.keras

(images, classes), (test_images, test_classes) = read_slices(cases=6)
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # the networks give logits

for name, recalibration in (("plain", None), ("with scSE", "scse")):
    keras.utils.set_random_seed(0)
    network = scse.keras.networks.UNet(
        in_channels=1, classes=CLASSES, width=16, depth=3, kernel_size=3, recalibration=recalibration
    )
    optimizer = keras.optimizers.Adam(3e-3)
    optimizer.build(network.trainable_variables)

    def loss_of(weights, others, x, y, network=network):
        """The loss, and what batch normalisation has counted."""
        logits, others = network.stateless_call(weights, others, x, training=True)
        return cross_entropy(y, logits), others

    @partial(jax.jit, donate_argnums=0)  # the old state is overwritten, not kept beside the new one
    def step(state, x, y, loss_of=loss_of, optimizer=optimizer):
        """The state after a batch, and the loss before it."""
        weights, others, moments = state
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, others, x, y)
        weights, moments = optimizer.stateless_apply(moments, gradients, weights)
        return (weights, others, moments), loss

    variables = network.trainable_variables, network.non_trainable_variables, optimizer.variables
    state = jax.tree.map(lambda variable: variable.value, variables)
    losses, random = [], np.random.default_rng(0)
    for _ in range(8):
        batches = random.permutation(len(images)).reshape(-1, 5)  # of one shape, so that the step is compiled once
        for batch in batches:
            state, loss = step(state, images[batch], classes[batch])
            losses.append(loss)

    jax.tree.map(lambda variable, value: variable.assign(value), variables, state)  # back into the network
    predicted = network.predict(test_images, verbose=0).argmax(-1)
    score = dice(predicted, test_classes)
    epoch = len(batches)
    print(
        f"{name}: loss {np.mean(losses[:epoch]):.3f} in the first epoch, {np.mean(losses[-epoch:]):.3f} in the last, "
        f"Dice {score:.3f}"
    )
