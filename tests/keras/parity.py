"""Tolerances between scse.keras and its reference, and the cells of the table in docs/keras.md."""

import json

import keras
import numpy as np

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}
"""Tolerance by dtype policy: largest difference, relative to the largest value of the reference."""
KINDS = ("block", "network")


def assert_parity(record_property, reached, expected, *, kind, name, policy):
    """Assert that `reached` is close to `expected`, and record the difference as one cell of the table.

    Args:
        record_property: Fixture of pytest.
        reached: Array or tensor of scse.keras, or a list of them.
        expected: NumPy array of the reference, or a list of them. The reference computes in float64 or, with the
            weights of a network in float32, in torch.
        kind: One of KINDS. The table lists blocks first.
        name: Name of the row of the table, such as "UNet, scSE". Rows of a kind are sorted by name.
        policy: Dtype policy, one of TOLERANCES.
    """
    if not isinstance(expected, list):
        reached, expected = [reached], [expected]
    difference = max(_difference(*pair) for pair in zip(reached, expected, strict=True))
    row = KINDS.index(kind), name
    backend = keras.config.backend()
    place = list(BACKENDS).index(backend) * len(TOLERANCES) + list(TOLERANCES).index(policy)
    record_property("cell", json.dumps([row, [place, f"{BACKENDS[backend]} {policy}"], f"{difference:.0e}"]))
    assert difference < TOLERANCES[policy]


def _difference(reached, expected):
    reached = keras.ops.convert_to_numpy(keras.ops.cast(reached, "float64"))
    assert reached.shape == expected.shape
    return float(np.abs(reached - expected).max() / np.abs(expected).max())
