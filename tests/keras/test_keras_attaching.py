"""Attaching blocks to Keras models and detaching them: copies, places, and refused calls."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from scse.keras import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE, attach, detach, networks
from scse.keras.attaching import SUFFIX

BLOCKS = (ChannelSE, SpatialSE, ConcurrentSE, ProjectExcite)


@pytest.fixture(scope="module", autouse=True)
def _weights_from_numpy():
    """Draw weights without JAX, which compiles their generator for every shape."""
    generator = np.random.default_rng(0)

    def draw(_self, shape, dtype=None):
        return keras.ops.convert_to_tensor(generator.uniform(-0.3, 0.3, shape), dtype=dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", draw)
        yield


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(size=(2, 8, 8, 2)).astype("float32")


def unit(x, name, channels):
    x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def make_unet():
    image = keras.Input((8, 8, 2), name="image")
    top = unit(image, "top", 4)
    low = unit(layers.MaxPooling2D(name="pool")(top), "low", 6)
    low = layers.Dropout(0.5, name="dropout")(low)
    up = layers.UpSampling2D(name="upsample")(low)
    joined = unit(layers.Concatenate(name="skip")([top, up]), "up", 4)
    residual = layers.Add(name="residual")([joined, top])
    return keras.Model(image, layers.Conv2D(3, 1, name="classifier")(residual), name="small_unet")


@pytest.fixture(scope="module")
def unet():
    """A U-Net whose weights all differ from their initial values."""
    model = make_unet()
    generator = np.random.default_rng(3)
    model.set_weights([generator.uniform(0.1, 0.5, weight.shape) for weight in model.weights])
    return model


@pytest.fixture(scope="module")
def attached(unet):
    return attach(unet, to="top_relu|low_relu|residual")


@pytest.fixture(scope="module")
def expected(unet, x):
    return unet.predict_on_batch(x)


def blocks(model):
    return {layer.name: layer for layer in model.layers if isinstance(layer, BLOCKS)}


def state(model):
    """Return paths and values of weights and random seeds. The numbers of random generators are dropped from paths."""
    return [
        (re.sub("seed_generator.*", "seed", variable.path), keras.ops.convert_to_numpy(variable.value))
        for variable in model.variables
    ]


def assert_same_state(first, second):
    assert [path for path, _ in first] == [path for path, _ in second]
    for (path, value), (_, other) in zip(first, second, strict=True):
        np.testing.assert_array_equal(value, other, err_msg=path)


def assert_same(first, second):
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


APPLICATIONS = [
    ("MobileNetV3Small", True, "expanded_conv_?_add", 5),
    ("ResNet50", False, "conv?_block1_out", 4),
    ("EfficientNetB0", False, "block?b_add", 5),
]
"""Large models to attach to. Copying does not depend on the backend, so those that are slow elsewhere run on torch."""


@pytest.mark.parametrize(
    ("application", "include_top", "to", "places"),
    APPLICATIONS if keras.backend.backend() == "torch" else APPLICATIONS[:1],
)
def test_applications_stay_bit_for_bit_and_come_back(application, include_top, to, places):
    size = (32, 32, 3)
    model = getattr(keras.applications, application)(weights=None, include_top=include_top, input_shape=size)
    changed = attach(model, to=to)
    images = np.random.default_rng(2).uniform(0, 255, (2, *size)).astype("float32")
    assert_same(changed.predict_on_batch(images), model.predict_on_batch(images))
    assert len(blocks(changed)) == places == len(changed.layers) - len(model.layers)
    plain = detach(changed)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert_same_state(state(plain), state(model))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ChannelSE, {"recalibration": "cse", "reduction": 3}),
        (SpatialSE, {"recalibration": "sse"}),
        (ConcurrentSE, {"recalibration": "scse", "aggregation": "max"}),
        (ProjectExcite, {"recalibration": "pe", "reduction": 3}),
    ],
)
def test_every_variant_starts_as_the_identity(unet, x, expected, kind, options):
    changed = attach(unet, to="top_relu|low_relu", **options)
    placed = blocks(changed)
    assert list(placed) == ["top_relu_recalibration", "low_relu_recalibration"]
    for block in placed.values():
        assert type(block) is kind
        assert options.items() <= {**block.get_config(), "recalibration": options["recalibration"]}.items()
    assert_same(changed.predict_on_batch(x), expected)


def test_blocks_stand_between_their_layer_and_what_follows(attached):
    following = {"top_relu": ["pool", "skip", "residual"], "low_relu": ["dropout"], "residual": ["classifier"]}
    for name, consumers in following.items():
        block = attached.get_layer(f"{name}{SUFFIX}")
        assert block.input is attached.get_layer(name).output
        for consumer in consumers:
            assert any(tensor is block.output for tensor in keras.tree.flatten(attached.get_layer(consumer).input))


def test_copy_has_the_name_the_state_and_the_seeds(unet, attached):
    assert attached.name == unet.name
    assert "seed" in [path for path, _ in state(unet)]
    copied = [(path, value) for path, value in state(attached) if SUFFIX not in path]
    assert_same_state(sorted(copied, key=str), sorted(state(unet), key=str))


def test_training_moves_the_blocks_and_leaves_the_given_model(unet, x, expected, tmp_path):
    before = state(unet)
    unet.save_weights(tmp_path / "before.weights.h5")
    changed = attach(unet, to="top_relu|residual")
    for weight in changed.weights:
        if weight.path.endswith("squeeze/kernel"):
            # the maps are positive, so that no hidden unit is dead, whatever was drawn
            weight.assign(np.abs(keras.ops.convert_to_numpy(weight)))
    start = state(changed)
    # two steps, because the gradient of a first layer is zero as long as the last layer is zero
    changed.compile("adam", loss="mse")
    changed.fit(x, np.ones((2, 8, 8, 3), "float32"), batch_size=1, epochs=1, verbose=0)
    for (path, value), (_, other) in zip(start, state(changed), strict=True):
        assert SUFFIX not in path or not np.array_equal(value, other)
    assert not np.array_equal(changed.predict_on_batch(x), expected)
    assert_same_state(state(unet), before)
    assert_same(unet.predict_on_batch(x), expected)

    changed.save(tmp_path / "attached.keras")
    loaded = keras.saving.load_model(tmp_path / "attached.keras")
    assert_same(loaded.predict_on_batch(x), changed.predict_on_batch(x))
    plain = detach(loaded)
    assert [weight.path for weight in plain.weights] == [weight.path for weight in unet.weights]
    # Keras does not save seeds
    kept = [entry for entry in state(changed) if SUFFIX not in entry[0] and entry[0] != "seed"]
    assert_same_state(sorted(kept), sorted(entry for entry in state(plain) if entry[0] != "seed"))
    plain.load_weights(tmp_path / "before.weights.h5")
    assert_same(plain.predict_on_batch(x), expected)


class Own(keras.Model):
    """A functional model with its own training step."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def test_copy_is_of_the_same_class_and_not_compiled():
    image = keras.Input((8, 2))
    model = Own(image, layers.Conv1D(3, 1, name="c")(image))

    # Keras has a loss with this name too
    def dice(y, predicted):
        return keras.ops.mean(keras.ops.abs(y - predicted))

    model.compile("adam", loss=dice)
    changed = attach(model, to="c")
    assert (type(changed), type(detach(changed))) == (Own, Own)
    assert not changed.compiled
    assert model.loss is dice


def test_frozen_layers_stay_frozen_and_blocks_can_be_trained():
    model = make_unet()
    model.get_layer("low_conv").trainable = False
    changed = attach(model, to="pool")
    frozen = {layer.name for layer in changed.layers if not layer.trainable}
    assert frozen == {"low_conv"}
    model.trainable = False
    model.get_layer("classifier").trainable = True
    changed = attach(model, to="pool")
    assert {layer.name for layer in changed.layers if layer.trainable} == {"pool_recalibration"}
    assert {weight.path.split("/")[0] for weight in changed.trainable_weights} == {"pool_recalibration"}


def test_frozen_parts_of_a_layer_stay_frozen():
    model = keras.Sequential([keras.Input((8, 2)), layers.Conv1D(3, 1, name="c"), layers.Bidirectional(layers.GRU(2))])
    model.layers[1].forward_layer.trainable = False
    changed = attach(model, to="c")
    assert not changed.layers[2].forward_layer.trainable
    assert changed.layers[2].backward_layer.trainable


def test_adapted_normalization_is_copied(x):
    model = keras.Sequential([keras.Input((8, 8, 2)), layers.Normalization(name="norm"), layers.Conv2D(3, 1)])
    model.layers[0].adapt(3 * x + 1)
    assert_same(attach(model, to="norm").predict_on_batch(x), model.predict_on_batch(x))


def test_sequential_models_stay_sequential(x):
    model = keras.Sequential(
        [keras.Input((8, 8, 2), name="image"), layers.Conv2D(3, 3, name="c"), layers.ReLU(name="r")]
    )
    changed = attach(model, "cse", to="c")
    assert isinstance(changed, keras.Sequential)
    assert [layer.name for layer in changed.layers] == ["c", "c_recalibration", "r"]
    assert (changed.name, changed.inputs[0].name) == (model.name, "image")
    assert_same(changed.predict_on_batch(x), model.predict_on_batch(x))
    features = keras.Model(changed.inputs, changed.get_layer("c_recalibration").output)
    assert features.output_shape == (None, 6, 6, 3)
    plain = detach(changed)
    assert [layer.name for layer in plain.layers] == ["c", "r"]
    assert_same_state(state(plain), state(model))


def make_nested():
    backbone = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.Conv2D(3, 3, name="c"), layers.ReLU(name="r")], name="backbone"
    )
    image = keras.Input((8, 8, 2), name="image")
    features = keras.Model(image, unit(backbone(image), "unit", 4), name="features")
    image = keras.Input((8, 8, 2), name="picture")
    return keras.Model(image, layers.Conv2D(3, 1, name="head")(features(image, training=False) + 1.0), name="outer")


def test_layers_of_models_within_the_model_are_found_by_path(x):
    model = make_nested()
    model.get_layer("features").trainable = False
    changed = attach(model, to="features/unit_relu|**/c|features/backbone|picture|add*")
    features = changed.get_layer("features")
    assert set(blocks(features)) == {"unit_relu_recalibration", "backbone_recalibration"}
    assert set(blocks(features.get_layer("backbone"))) == {"c_recalibration"}
    assert {name.split("_")[0] for name in blocks(changed)} == {"picture", "add"}
    assert not features.get_layer("unit_norm").trainable
    assert len(features.trainable_weights) == 3 * 6
    assert_same(changed.predict_on_batch(x), model.predict_on_batch(x))
    assert_same_state(state(detach(changed)), state(model))


@pytest.mark.parametrize(
    ("to", "hosts"),
    [
        (layers.MaxPooling2D, ["pool"]),
        ((layers.Add, layers.Concatenate), ["skip", "residual"]),
        (lambda layer: layer.name.endswith("norm") and layer.output.shape[1] == 4, ["low_norm"]),
        ("image", ["image"]),
        ("classifier", ["classifier"]),
        ("t*_conv | low_????", ["top_conv", "low_conv", "low_norm", "low_relu"]),
    ],
)
def test_layers_are_chosen_by_class_function_and_name(unet, to, hosts):
    assert list(blocks(attach(unet, "sse", to=to))) == [f"{host}{SUFFIX}" for host in hosts]


def test_function_makes_the_blocks(unet):
    changed = attach(unet, lambda channels: ChannelSE(hidden=channels, gate="hard-sigmoid"), to="top_relu|low_relu")
    assert {name: block.hidden for name, block in blocks(changed).items()} == {
        "top_relu_recalibration": 4,
        "low_relu_recalibration": 6,
    }


def test_blocks_have_the_data_format_of_the_layer_they_follow():
    image = keras.Input((2, 8, 8), name="image")
    y = layers.Conv2D(3, 1, data_format="channels_first", name="conv")(image)
    y = layers.BatchNormalization(axis=1, name="norm")(y)
    y = keras.Model(image, y, name="inner")(image)
    model = keras.Model(image, layers.Reshape((64, 3), name="tokens")(y))
    changed = attach(model, to="image|inner/norm|inner|tokens")
    formats = {name: block.data_format for name, block in blocks(changed).items()}
    assert formats == {
        "image_recalibration": "channels_last",
        "inner_recalibration": "channels_first",
        "tokens_recalibration": "channels_last",
    }
    assert blocks(changed.get_layer("inner"))["norm_recalibration"].data_format == "channels_first"
    with pytest.raises(
        ValueError, match="a block for channels_last, but its map is channels_first; make the block with"
    ):
        attach(model, lambda _: SpatialSE(), to="inner/norm")


def test_blocks_have_the_policy_of_the_layer_they_follow(x):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_unet()
    finally:
        keras.config.set_dtype_policy("float32")
    changed = attach(model, to="top_relu|residual")
    assert {block.dtype_policy.name for block in blocks(changed).values()} == {"mixed_float16"}
    assert changed.dtype_policy.name == "mixed_float16"
    assert_same(changed.predict_on_batch(x), model.predict_on_batch(x))
    with pytest.raises(ValueError, match=r"'pool_recalibration' turns float16 of shape .* into float32 of shape"):
        attach(model, lambda _: SpatialSE(), to="pool")


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="JAX compiles everywhere, torch needs a compiler")
def test_compiled_models_stay_bit_for_bit(unet, x):
    changed = attach(unet, to="top_relu|residual")
    for model in (unet, changed):
        model.compile("adam", loss="mse", jit_compile=True)
    assert_same(changed.predict_on_batch(x), unet.predict_on_batch(x))


def test_structures_of_inputs_and_outputs_are_kept():
    image, mask = keras.Input((8, 2), name="image"), keras.Input((8, 2), name="mask", optional=True, dtype="float16")
    y = layers.Conv1D(3, 1, name="c")(image)
    model = keras.Model({"image": image, "mask": mask}, {"y": y, "pair": [y, layers.ReLU(name="r")(y)]})
    changed = attach(model, to="c")
    assert list(changed.input) == ["image", "mask"]
    assert (changed.get_layer("mask").optional, changed.get_layer("mask").dtype) == (True, "float16")
    assert changed.output["y"] is changed.output["pair"][0] is changed.get_layer("c_recalibration").output


def test_plain_network_with_blocks_is_the_network_with_blocks():
    options = {"classes": 3, "width": 4, "depth": 2, "kernel_size": 3}
    plain, whole = networks.UNet(**options), networks.UNet(**options, recalibration="scse")
    changed = attach(plain, to="encoder_?_second_2|decoder_?_second_2")
    assert changed.count_params() == whole.count_params()
    assert len(blocks(changed)) == len(blocks(whole)) == 4
    assert detach(whole).count_params() == plain.count_params()
    with pytest.raises(
        ValueError, match=r"'encoder_0_second_2' \(ReLU\) has a block already, 'encoder_0_recalibration'"
    ):
        attach(whole, to="encoder_0_second_2")
    with pytest.raises(ValueError, match=r"'pool_0' \(PositionPooling\) returns a tuple of 2, not a feature map"):
        attach(networks.SDNet(**options), to="pool_0")


@pytest.mark.parametrize(
    ("recalibration", "options", "message"),
    [
        ("scse", {"to": "top_rely"}, "pattern 'top_rely' matches no layer of the model 'small_unet'; .* are top_relu"),
        ("scse", {"to": layers.Conv3D}, "no layer of the model 'small_unet' matches to=.*Conv3D"),
        ("scse", {"to": lambda _: False}, "no layer of the model 'small_unet' matches to="),
        ("none", {"to": "pool"}, "recalibration must be one of 'cse', 'sse', 'scse', 'pe', got 'none'"),
        ("sse", {"to": "pool", "reduction": 4}, "reduction=4 has no effect on 'sse'; leave it out"),
        ("cse", {"to": "pool", "aggregation": "max"}, "aggregation='max' has no effect on 'cse'"),
        (ChannelSE, {"to": "pool", "identity": False}, "identity=False has no effect on a function"),
        ("scse", {"to": "pool", "aggregation": "multiply"}, "aggregation 'multiply' cannot start as the identity"),
        (
            "scse",
            {"to": "pool", "aggregation": "concat", "identity": False},
            r"ConcurrentSE layer 'pool_recalibration' turns .*4\) into .*8\), but a block must keep the shape",
        ),
        (lambda _: layers.ReLU(), {"to": "pool"}, "'pool_recalibration' must return a ChannelSE, .* got ReLU"),
    ],
)
def test_wrong_choices_are_refused(unet, recalibration, options, message):
    with pytest.raises(ValueError, match=message):
        attach(unet, recalibration, **options)


def test_one_block_for_two_places_is_refused(unet):
    block = SpatialSE(identity=True)
    with pytest.raises(ValueError, match="returned a block that is in use already; return a new one each time"):
        attach(unet, lambda _: block, to="top_relu|low_relu")


def test_second_block_after_a_layer_is_refused(attached):
    with pytest.raises(
        ValueError, match=r"'low_relu' \(ReLU\) has a block already, 'low_relu_recalibration'; detach it"
    ):
        attach(attached, to="pool|low_relu")
    twice = attach(attached, to="pool")
    assert len(blocks(twice)) == 4
    assert not blocks(detach(twice))


def test_layers_that_return_no_feature_map_are_refused():
    image = keras.Input((8, 8, 2), name="image")
    flat = layers.GlobalAveragePooling2D(name="flat")(image)
    several = layers.Lambda(keras.ops.shape, name="several", output_shape=(4,))(flat)
    model = keras.Model(image, [flat, several])
    with pytest.raises(
        ValueError, match=r"'flat' \(GlobalAv.*shape \(None, 2\), but a feature map \(N, \*spatial, C\)"
    ):
        attach(model, to="flat")
    unknown = keras.Sequential([keras.Input((8, 8, None)), layers.ReLU(name="r")])
    with pytest.raises(
        ValueError, match=r"'r' \(ReLU\) returns maps .*number of channels is unknown; give the keras.Input"
    ):
        attach(unknown, to="r")


def test_layers_that_are_called_twice_are_refused():
    image = keras.Input((8, 8, 2), name="image")
    conv = layers.Conv2D(2, 1, name="conv")
    inner_image = keras.Input((8, 8, 2))
    inner = keras.Model(inner_image, layers.ReLU(name="relu")(inner_image), name="inner")
    model = keras.Model(image, inner(conv(inner(conv(image)))))
    with pytest.raises(
        ValueError, match=r"'conv' \(Conv2D\) is called more than once, but a block recalibrates one map"
    ):
        attach(model, to="conv")
    with pytest.raises(ValueError, match=r"'inner/relu' \(ReLU\) is in 'inner', which is called more than once"):
        attach(model, to="inner/relu")
    # with blocks at other places, the layers stay shared
    assert len(attach(model, to="image").get_layer("conv").weights) == 2


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


class Forgetful(layers.Layer):
    """A layer whose configuration omits its number of weights."""

    def __init__(self, weights=1, **kwargs):
        super().__init__(**kwargs)
        self.number = weights

    def build(self, _shape):
        self.all = [self.add_weight(shape=(1,), name=f"w{index}") for index in range(self.number)]

    def call(self, inputs):
        return inputs * self.all[0]

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Subclassed, "Subclassed is neither a functional model nor a keras.Sequential.*; build it with keras.Input"),
        (
            lambda: keras.Sequential([layers.ReLU()], name="s"),
            r"'s' has no known input shape; start it with keras.In",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 2)), Forgetful(2, name="f")]),
            r"'f' \(Forgetful\) cannot be copied: a layer made from its get_config\(\) has other weights",
        ),
    ],
)
def test_models_that_cannot_be_copied_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        attach(model(), to="f|**")


def test_detach_without_blocks_is_an_error(unet):
    with pytest.raises(ValueError, match=re.escape("the model 'small_unet' has no block to remove")):
        detach(unet)
