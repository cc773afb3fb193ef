"""Small torch networks, and functions that run Keras models: compiled on JAX, eagerly on the other backends."""

import keras
import numpy as np
import torch

from scse.networks import NETWORKS
from scse.networks.densenet import Tiramisu

NAMES = (*NETWORKS, "tiramisu")
TITLES = {"unet": "UNet", "sdnet": "SDNet", "densenet": "FCDenseNet", "tiramisu": "Tiramisu"}
VARIANTS = {"none": "plain", "cse": "cSE", "sse": "sSE", "scse": "scSE", "pe": "PE"}


def small(name, *, depth=2, **options):
    """Build a small network in evaluation mode, always with the same weights and running statistics."""
    torch.manual_seed(0)
    if name == "tiramisu":
        network = Tiramisu(
            1, classes=3, growth=4, layers=[1, 2][:depth], bottleneck_layers=1, first=4, **{"dropout": 0.0, **options}
        )
    else:
        network = NETWORKS[name](1, classes=3, width=4, depth=depth, kernel_size=3, **options)
    with torch.no_grad():
        network(image(2, 1, *(8,) * network.spatial_dims))
    return network.eval()


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tensor(x):
    """Convert a torch tensor to a tensor of the backend with the same dtype. Keras' default for float64 is float32."""
    values = x.numpy()
    return keras.ops.convert_to_tensor(values, dtype=values.dtype.name)


def run(model, x, *, training=False, compiled=False):
    """Return the logits (N, classes, *spatial) of a torch image (N, channels, *spatial)."""
    last = model.data_format == "channels_last"
    inputs = tensor(x.movedim(1, -1) if last else x)
    if keras.config.backend() == "jax":
        import jax

        trainable, others = ([v.value for v in part] for part in parts(model))
        forward = jax.jit(lambda a, b, c: model.stateless_call(a, b, c, training=training)[0])
        logits = forward(trainable, others, inputs)
    elif compiled and keras.config.backend() == "tensorflow":
        import tensorflow as tf

        logits = tf.function(model, jit_compile=True)(inputs, training=training)
    else:
        logits = model(inputs, training=training)
    logits = keras.ops.convert_to_numpy(logits)
    return np.moveaxis(logits, -1, 1) if last else logits


def parts(model):
    return model.trainable_variables, model.non_trainable_variables


def gradients(model, x, weight):
    """Return the gradients of sum(weight * logits) in training mode for the trainable variables, and the logits."""
    inputs, weight = (tensor(t.movedim(1, -1)) for t in (x, weight))
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        trainable, others = ([v.value for v in part] for part in parts(model))

        def loss(values):
            logits = model.stateless_call(values, others, inputs, training=True)[0]
            return (logits * weight).sum(), logits

        (_, logits), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            total = tf.reduce_sum(logits * weight)
        found = tape.gradient(total, [v.value for v in model.trainable_variables])
    else:
        logits = model(inputs, training=True)
        found = torch.autograd.grad((logits * weight).sum(), [v.value for v in model.trainable_variables])
    return list(map(keras.ops.convert_to_numpy, found)), np.moveaxis(keras.ops.convert_to_numpy(logits), -1, 1)
