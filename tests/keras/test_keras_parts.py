"""The layers inside the blocks as ordinary layers: quantised, adapted, replaced, wrapped, hooked and frozen."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import scse
from scse.keras import ChannelSE, ConcurrentSE, attach, detach, from_torch, networks, to_torch
from scse.support.errors import UserError

pytestmark = [
    pytest.mark.usefixtures("quick_networks"),
    # Keras warns for every layer that cannot be quantised, such as a ReLU
    pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method"),
]

SHAPE = (4, 5, 6)
X = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype("float32")


def seeded(model):
    generator = np.random.default_rng(1)
    model.set_weights([generator.standard_normal(weight.shape) for weight in model.weights])
    return model


def with_block(block):
    entry = keras.Input(SHAPE, name="image")
    return seeded(keras.Model(entry, layers.ReLU(name="end")(block(entry))))


def by_hand():
    """Build a model with an scSE block of Keras' own layers, as in an article."""
    entry = keras.Input(SHAPE)
    squeezed = layers.ReLU()(layers.Dense(3, name="squeeze")(layers.GlobalAveragePooling2D()(entry)))
    channel = layers.Reshape((1, 1, 6))(layers.Activation("sigmoid")(layers.Dense(6, name="excite")(squeezed)))
    spatial = layers.Activation("sigmoid")(layers.Dense(1, name="project")(entry))
    return seeded(keras.Model(entry, layers.ReLU()(entry * channel + entry * spatial)))


def parts(model):
    """Return the Dense layers of a model, inside and outside of blocks."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)]


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def adapt(model):
    for dense in parts(model):
        dense.enable_lora(2)
        generator = np.random.default_rng(dense.units)
        for adapter in (dense.lora_kernel_a, dense.lora_kernel_b):
            adapter.assign(generator.standard_normal(adapter.shape))


def adapt_and_quantize(model):
    adapt(model)
    model.quantize("int8")


def quantize_in_groups(model):
    model.quantize(config=keras.quantizers.Int4QuantizationConfig(block_size=2))


def quantize_some(model):
    model.quantize("int8", filters=lambda layer: layer.name == "excite")


def activate(model):
    for dense in parts(model):
        dense.activation = keras.activations.softsign


def lower_precision(model):
    for dense in parts(model):
        dense.dtype_policy = "mixed_bfloat16"


CONVERTERS = {
    "int8": lambda model: model.quantize("int8"),
    "int4": lambda model: model.quantize("int4"),
    "int4 in groups": quantize_in_groups,
    "int8 of one layer": quantize_some,
    "float8": lambda model: model.quantize("float8"),
    "lora": adapt,
    "lora and int8": adapt_and_quantize,
    "activation": activate,
    "policy": lower_precision,
}
every_converter = pytest.mark.parametrize("convert", CONVERTERS.values(), ids=CONVERTERS)


@every_converter
def test_a_converted_block_is_what_converted_layers_are(convert):
    ours, theirs = with_block(ConcurrentSE(name="block")), by_hand()
    before = numpy(ours(X))
    np.testing.assert_allclose(before, numpy(theirs(X)), rtol=1e-5, atol=1e-6)
    convert(ours)
    convert(theirs)
    found = numpy(ours(X))
    assert not np.array_equal(found, before)
    np.testing.assert_allclose(found, numpy(theirs(X)), rtol=1e-5, atol=1e-5)


def saved(suffix):
    def again(model, folder):
        model.save(folder / f"model{suffix}")
        return keras.saving.load_model(folder / f"model{suffix}")

    return again


def cloned(model, _):
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    return again


def from_json(model, folder):
    again = keras.models.model_from_json(model.to_json())
    model.save_weights(folder / "weights.weights.h5")
    again.load_weights(folder / "weights.weights.h5")
    return again


COPIES = {
    "keras": saved(".keras"),
    "h5": saved(".h5"),
    "clone": cloned,
    "json": from_json,
    "attached": lambda model, _: attach(model, "sse", to="end"),
    "detached": lambda model, _: detach(attach(model, "sse", to="end")),
}


def described(model):
    """Describe the converted parts of the blocks in a model."""
    return {
        layer.path: (layer.dtype_policy.name, layer.lora_enabled, layer.activation, layer.trainable)
        for layer in parts(model)
        if "end_recalibration" not in layer.path
    }


@pytest.fixture(scope="module")
def converted():
    """A model with a block for every converter, and a frozen part."""
    entry = y = keras.Input(SHAPE, name="image")
    for name in ("int8", "int4", "lora", "activation", "frozen"):
        y = ConcurrentSE(name=name)(y)
    model = seeded(keras.Model(entry, layers.ReLU(name="end")(y)))
    model.quantize("int8", filters=lambda layer: layer.path == "int8/channel/squeeze")
    in_groups = keras.quantizers.Int4QuantizationConfig(block_size=2)
    model.quantize(config=in_groups, filters=lambda layer: layer.path == "int4/spatial/project")
    adapt(model.get_layer("lora").channel)
    activate(model.get_layer("activation"))
    model.get_layer("frozen").channel.squeeze.trainable = False
    return model


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_converted_blocks_are_saved_and_copied_as_they_are(converted, copy, tmp_path):
    again = copy(converted, tmp_path)
    # not exactly equal, because Keras merges adapters into the kernels when it saves them
    np.testing.assert_allclose(numpy(again(X)), numpy(converted(X)), rtol=1e-5, atol=1e-5)
    assert described(again) == described(converted)


# Replaced, wrapped and hooked


@keras.saving.register_keras_serializable("tests")
class Halved(layers.Wrapper):
    """A wrapper that halves the output of a layer."""

    def call(self, inputs):
        return 0.5 * self.layer(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


class Passed(layers.Wrapper):
    """A wrapper that returns the output of a layer unchanged."""

    def call(self, inputs):
        return self.layer(inputs)


def halve_weights(block, *names):
    """Halve the weights of parts, which is the same as halving their outputs."""
    for dense in (dense for dense in parts(block) if dense.name in names):
        for weight in dense.weights:
            weight.assign(0.5 * weight)


@pytest.mark.parametrize("name", ["squeeze", "excite", "project"])
def test_a_wrapped_part_is_called(name, tmp_path):
    halves, plain = ConcurrentSE(name="block"), with_block(ConcurrentSE())
    part_of = halves.spatial if name == "project" else halves.channel
    units = {"squeeze": 3, "excite": 6, "project": 1}[name]
    setattr(part_of, name, Halved(layers.Dense(units, name=name), name=name))
    model = with_block(halves)
    halve_weights(plain, name)
    np.testing.assert_allclose(numpy(model(X)), numpy(plain(X)), rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(numpy(loaded(X)), numpy(model(X)))
    assert np.array_equal(numpy(attach(model, "sse", to="end")(X)), numpy(model(X)))


def test_a_part_of_a_built_block_can_be_wrapped():
    model = with_block(ChannelSE(name="block"))
    block = model.get_layer("block")
    before = numpy(model(X))
    block._tracker.unlock()
    block.squeeze = Halved(block.squeeze)
    found = numpy(model(X))
    assert not np.array_equal(found, before)
    block.squeeze = block.squeeze.layer
    halve_weights(block, "squeeze")
    np.testing.assert_allclose(numpy(model(X)), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregation", ["add", "max", "multiply", "concat"])
def test_a_wrapped_gate_takes_effect_as_one_that_is_called(aggregation, tmp_path):
    block = ConcurrentSE(aggregation=aggregation, name="block")
    block.channel = Halved(block.channel, name="channel")
    model = with_block(block)
    channel, spatial = (numpy(part(X)) for part in (block.channel, block.spatial))
    joined = {
        "add": np.add,
        "max": np.maximum,
        "multiply": np.multiply,
        "concat": lambda *maps: np.concatenate(maps, axis=-1),
    }[aggregation](channel, spatial)
    np.testing.assert_allclose(numpy(block(X)), joined, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(numpy(loaded(X)), numpy(model(X)))


@pytest.mark.parametrize("aggregation", ["add", "max"])
def test_an_identity_start_stays_one_with_a_gate_that_is_called(aggregation):
    block = ConcurrentSE(aggregation=aggregation, identity=True)
    block.spatial = Passed(block.spatial)
    assert np.array_equal(numpy(block(X)), X)


def test_another_gate_is_kept_and_quantised():
    block = ConcurrentSE(name="block")
    block.channel = ChannelSE(hidden=5, gate="hard-sigmoid", name="channel")
    model = with_block(block)
    model.quantize("int8", filters="excite")
    again = cloned(model, None)
    assert again.get_layer("block").channel.hidden == 5
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]
    assert np.array_equal(numpy(again(X)), numpy(model(X)))


def test_the_activity_of_a_part_is_regularised():
    block = ChannelSE()
    model = with_block(block)
    block.squeeze.activity_regularizer = keras.regularizers.L2(0.5)
    model(X)
    squeezed = numpy(block.squeeze(X.mean(axis=(1, 2))))
    np.testing.assert_allclose(numpy(model.losses[0]), 0.5 * np.square(squeezed).sum() / len(X), rtol=1e-5)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="layers have hooks on torch alone")
@pytest.mark.parametrize("path", ["channel", "channel.squeeze", "channel.excite", "spatial", "spatial.project"])
def test_hooks_on_parts_run(path):
    block = ConcurrentSE()
    block(X)
    seen = []
    hook = block.get_submodule(path).register_forward_hook(lambda *_: seen.append(path))
    block(X)
    assert seen == [path]
    hook.remove()
    block(X)
    assert seen == [path]


# Policies


@pytest.mark.parametrize("policy", ["int8_from_float32", "int4/128_from_float32", "int8_from_mixed_bfloat16"])
def test_a_quantised_policy_is_that_of_the_parts(policy):
    block = ConcurrentSE(dtype=policy)
    model = with_block(block)
    assert {part.dtype_policy.name for part in parts(block)} == {keras.dtype_policies.get(policy).name}
    quantized = with_block(ConcurrentSE(dtype=policy.partition("_from_")[2]))
    quantized.quantize(policy[:4])
    block.set_weights(quantized.layers[1].get_weights())
    assert keras.backend.standardize_dtype(model(X).dtype) == "float32"
    assert np.array_equal(numpy(model(X)), numpy(quantized(X)))


def test_blocks_after_a_quantised_layer_can_be_trained():
    entry = keras.Input(SHAPE)
    model = seeded(keras.Model(entry, layers.Dense(4, name="host")(entry)))
    model.quantize("int8")
    attached = attach(model, to="host")
    block = attached.get_layer("host_recalibration")
    assert block.dtype_policy.name == "float32"
    assert len(block.trainable_variables) == len(block.weights) == 6
    assert np.array_equal(numpy(attached(X)), numpy(model(X)))
    assert np.array_equal(numpy(detach(attached)(X)), numpy(model(X)))


# Conversion to and from torch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda block: block.channel.excite.quantize("int8"), r"channel' .*\(excite\)"),
        (lambda block: block.spatial.project.enable_lora(2), r"spatial' .*\(project\)"),
        (lambda block: setattr(block.channel.squeeze, "activation", keras.activations.relu), r"channel' .*\(squeeze\)"),
        (lambda block: setattr(block, "channel", ChannelSE(gate="hard-sigmoid")), r"'block' .*\(channel\)"),
        (lambda block: setattr(block, "spatial", Passed(block.spatial)), r"'block' .*\(spatial\)"),
    ],
    ids=["quantised", "lora", "activation", "replaced", "wrapped"],
)
def test_parts_without_a_torch_equivalent_are_refused(change, message):
    block = with_block(ConcurrentSE(name="block")).get_layer("block")
    block._tracker.unlock()
    change(block)
    with pytest.raises(UserError, match=message):
        to_torch(block)


def test_a_layer_of_a_network_with_lora_does_not_go_to_torch():
    network = networks.UNet(classes=2, width=4, depth=1, kernel_size=3, recalibration="sse")
    network.get_layer("classifier").enable_lora(1)
    with pytest.raises(UserError, match=r"Conv2D layer 'classifier' has been quantised, given LoRA"):
        to_torch(network)


def test_frozen_parts_go_to_torch():
    model = with_block(ConcurrentSE(name="block"))
    model.get_layer("block").channel.squeeze.trainable = False
    (block,) = (layer for layer in cloned(model, None).layers if isinstance(layer, ConcurrentSE))
    assert not block.channel.squeeze.trainable
    found = to_torch(block)(torch.from_numpy(X).movedim(-1, 1)).movedim(1, -1).relu()
    np.testing.assert_allclose(found.detach().numpy(), numpy(model(X)), rtol=1e-5, atol=1e-5)


def test_weights_do_not_come_from_torch_into_a_quantised_policy():
    with pytest.raises(UserError, match=r"dtype 'int8_from_float32' is quantised.*call quantize"):
        from_torch(scse.ChannelSE(4), dtype="int8_from_float32")
