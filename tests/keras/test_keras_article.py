"""Comparison of the blocks with blocks built of Keras' own layers, and with blocks that have the article's mistakes."""

import keras
import numpy as np
import pytest
from keras import layers

from scse.keras import ChannelSE, ConcurrentSE, SpatialSE

CHANNELS, SIZES = 6, (5, 4, 3)
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
if keras.config.backend() != "tensorflow":
    del TOLERANCE["float64"]  # on the other backends, Keras' pooling computes in float32 for any policy
POOL = {1: layers.GlobalAveragePooling1D, 2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}
CONV = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


@pytest.fixture(params=TOLERANCE)
def precision(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def by_hand(x):
    """Build cSE, sSE, and the two joined, according to the paper's formulas."""
    rank, channels = len(x.shape) - 2, x.shape[-1]
    gates = layers.Dense(channels // 2, activation="relu", name="squeeze")(POOL[rank]()(x))
    gates = layers.Dense(channels, activation="sigmoid", name="excite")(gates)
    cse = layers.Multiply()([x, layers.Reshape((1,) * rank + (channels,))(gates)])
    sse = layers.Multiply()([x, CONV[rank](1, 1, activation="sigmoid", name="project")(x)])
    return {"cse": cse, "sse": sse, "add": layers.Add()([cse, sse]), "max": layers.Maximum()([cse, sse])}


def cse_block(x, ratio=2):
    """cSE as in such articles: the input of the second Dense is x."""
    channels = x.shape[-1]
    gates = layers.GlobalAveragePooling2D()(x)
    gates = layers.Dense(channels // ratio, activation="relu")(gates)
    gates = layers.Dense(channels, activation="sigmoid")(x)
    return layers.Multiply()([x, gates])


def sse_block(x):
    """sSE with as many gates as channels."""
    gates = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(x)
    return layers.Multiply()([x, gates])


def maps(*shape):
    return np.random.default_rng(0).normal(size=shape)


def randomized(model):
    """Set large weights, so that the gates of the model are far from 0.5."""
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.weights])
    return model


def model_of(block, channels=CHANNELS):
    x = keras.Input((None, None, channels))
    return randomized(keras.Model(x, block(x)))


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_blocks_are_what_keras_layers_give_by_hand(rank, precision):
    x = keras.Input((*SIZES[:rank], CHANNELS))
    blocks = {
        "cse": ChannelSE(reduction=2),
        "sse": SpatialSE(),
        "add": ConcurrentSE(reduction=2),
        "max": ConcurrentSE(reduction=2, aggregation="max"),
    }
    hand = keras.Model(x, by_hand(x))
    ours = keras.Model(x, {name: block(x) for name, block in blocks.items()})
    for name, *shapes in (("squeeze", (6, 3), (3,)), ("excite", (3, 6), (6,)), ("project", (6, 1), (1,))):
        kernel, bias = (np.random.default_rng(1).normal(size=shape) for shape in shapes)
        layer = hand.get_layer(name)
        layer.set_weights([kernel.reshape(layer.kernel.shape), bias])
        for block in blocks.values():
            for part in (block, getattr(block, "channel", None), getattr(block, "spatial", None)):
                if hasattr(part, name):
                    getattr(part, name).set_weights([kernel, bias])
    images = maps(2, *SIZES[:rank], CHANNELS)
    expected, found = hand.predict_on_batch(images), ours.predict_on_batch(images)
    for name in blocks:
        assert found[name].dtype == precision
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=TOLERANCE[precision])
    # trap 7: the same weights with two aggregations
    assert np.abs(found["add"] - found["max"]).max() > 0.1


def test_wrong_cse_has_no_squeeze_in_it():
    wrong, ours = model_of(cse_block), model_of(ChannelSE(reduction=2))
    assert [type(layer).__name__ for layer in wrong.layers] == ["InputLayer", "Dense", "Multiply"]
    assert wrong.count_params() == CHANNELS * CHANNELS + CHANNELS
    assert ours.count_params() == CHANNELS * CHANNELS + CHANNELS + CHANNELS // 2


def test_wrong_cse_gates_every_position_by_that_position_alone():
    wrong, ours = model_of(cse_block), model_of(ChannelSE(reduction=2))
    x = maps(1, 5, 4, CHANNELS)
    changed = x.copy()
    changed[0, 0, 0] += 3
    gates, gates_after = (outputs(wrong, image) / image for image in (x, changed))
    assert gates.std(axis=(1, 2)).min() > 0.01
    np.testing.assert_array_equal(gates_after[0, 1:], gates[0, 1:])
    gates, gates_after = (outputs(ours, image) / image for image in (x, changed))
    np.testing.assert_allclose(gates, np.broadcast_to(gates[:, :1, :1], gates.shape), rtol=1e-5)
    assert np.abs(gates_after[0, 1:] - gates[0, 1:]).max() > 0.01


def test_wrong_cse_is_a_wrong_sse_at_the_cost_of_a_matrix_product_a_position():
    dense, conv = model_of(cse_block), model_of(sse_block)
    kernel, bias = maps(CHANNELS, CHANNELS), maps(CHANNELS)
    dense.set_weights([kernel, bias])
    conv.set_weights([kernel[None, None], bias])
    x = maps(2, 5, 4, CHANNELS)
    np.testing.assert_allclose(outputs(dense, x), outputs(conv, x), rtol=0, atol=1e-6)
    ours = model_of(ChannelSE(reduction=2)).layers[1]
    assert dense.layers[1](x).shape == (2, 5, 4, CHANNELS)
    assert ours.gates(keras.ops.convert_to_tensor(x, "float32")).shape == (2, 1, 1, CHANNELS)


def test_wrong_sse_has_a_gate_a_channel_at_every_position():
    wrong, ours = model_of(sse_block), model_of(SpatialSE())
    x = maps(1, 5, 4, CHANNELS)
    gates = outputs(wrong, x) / x
    assert gates.std(axis=-1).min() > 0.01
    assert wrong.count_params() == CHANNELS * CHANNELS + CHANNELS
    gates = outputs(ours, x) / x
    np.testing.assert_allclose(gates, np.broadcast_to(gates[..., :1], gates.shape), rtol=1e-5)
    assert gates.std() > 0.01
    assert ours.count_params() == CHANNELS + 1


def test_few_channels_leave_the_article_nothing_to_build_and_ours_a_live_gate():
    with pytest.raises(ValueError, match="units"):
        model_of(lambda x: cse_block(x, ratio=16))
    ours = model_of(ChannelSE(reduction=16))
    x = np.abs(maps(1, 5, 4, CHANNELS)) + 0.5
    ours.set_weights([np.full(weight.shape, 0.1) for weight in ours.weights])
    low, high = (outputs(ours, image) / image for image in (x, 9 * x))
    assert (high - low).min() > 1e-3
