"""The papers' formulas in NumPy float64, written from the articles and not from the package.

u is a feature map U of shape (N, C, *spatial). The squeeze layers are (w1, b1), (w2, b2); the projection is (w, b).
"""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * sigmoid(x),
    "leaky-relu": lambda x: np.where(x > 0, x, 0.01 * x),
}
GATES = {
    "sigmoid": sigmoid,
    "hard-sigmoid": lambda x: np.clip(x / 6 + 0.5, 0.0, 1.0),
    "relu": lambda x: np.maximum(x, 0.0),
}


def channel_gate(u, w1, b1, w2, b2, *, activation="relu", gate="sigmoid"):
    """Mean over all positions of a channel, two dense layers with a ReLU between, sigmoid: (N, C)."""
    gates = np.empty(u.shape[:2])
    for n, sample in enumerate(u):
        z = np.array([channel.sum() / channel.size for channel in sample])
        gates[n] = GATES[gate](w2 @ ACTIVATIONS[activation](w1 @ z + b1) + b2)
    return gates


def spatial_gate(u, w, b):
    """Weighted sum of the channels at every position, sigmoid: (N, *spatial)."""
    return sigmoid(np.einsum("c,nc...->n...", w.ravel(), u) + b)


def cse(u, w1, b1, w2, b2, *, activation="relu", gate="sigmoid", scale=1.0):
    gates = scale * channel_gate(u, w1, b1, w2, b2, activation=activation, gate=gate)
    return np.einsum("nc...,nc->nc...", u, gates)


def sse(u, w, b, *, scale=1.0):
    gate = scale * spatial_gate(u, w, b)
    return np.einsum("nc...,n...->nc...", u, gate)


def scse(u, channel, spatial, aggregation, *, scale=1.0):
    """Both maps from the same U, joined element by element or, with "concat", one after the other."""
    by_channel, by_position = cse(u, *channel, scale=scale), sse(u, *spatial, scale=scale)
    if aggregation == "concat":
        return np.concatenate([by_channel, by_position], axis=1)
    join = {"add": np.add, "max": np.maximum, "multiply": np.multiply}[aggregation]
    return join(by_channel, by_position)


def pe(u, w1, b1, w2, b2, *, scale=1.0):
    """At every position, both layers get the sum of the means of the slices that meet there, one slice per axis."""
    gates = np.empty(u.shape)
    for n, sample in enumerate(u):
        for position in np.ndindex(sample.shape[1:]):
            z = np.zeros(len(sample))
            for axis, index in enumerate(position):
                z += [channel.take(index, axis).mean() for channel in sample]
            gates[n, :, *position] = sigmoid(w2 @ np.maximum(w1 @ z + b1, 0.0) + b2)
    return u * scale * gates
