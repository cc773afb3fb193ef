"""How far the Keras side may be from its reference, and the cell of docs/keras.md that says how far it is."""

import json

import keras
import numpy as np

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}
"""Of the largest difference as a share of the reference's largest value, by dtype policy."""
KINDS = ("block", "network")


def check_parity(record_property, reached, expected, *, kind, name, policy):
    """Compare `reached` with `expected` and record the difference in the table, one cell a test.

    Args:
        record_property: the fixture of pytest.
        reached: array or tensor of the Keras side, or a list of them.
        expected: NumPy array of the reference, or a list of them; the reference computes in float64 or, with the
            weights of a network in float32, in torch.
        kind: one of KINDS; the table has blocks first.
        name: what the row of the table is called, say "UNet, scSE"; rows of a kind are sorted by it.
        policy: the dtype policy, one of TOLERANCES.
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
