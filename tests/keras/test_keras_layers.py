"""Tests of the blocks as Keras layers, on the backend of this process."""

import doctest
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops
from parity import assert_parity

import reference
import scse.keras
import scse.keras.layers
from scse.keras import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE

CASES = {
    "cSE": ChannelSE,
    "cSE, SiLU and hard sigmoid": partial(ChannelSE, activation="silu", gate="hard-sigmoid"),
    "cSE, leaky ReLU and ReLU": partial(ChannelSE, activation="leaky-relu", gate="relu"),
    "sSE": SpatialSE,
    "scSE, add": ConcurrentSE,
    "scSE, max": partial(ConcurrentSE, aggregation="max"),
    "scSE, multiply": partial(ConcurrentSE, aggregation="multiply"),
    "PE": ProjectExcite,
    "scSE, concat": partial(ConcurrentSE, aggregation="concat"),
}
WITH_IDENTITY = ["cSE", "cSE, SiLU and hard sigmoid", "sSE", "scSE, add", "scSE, max", "PE"]
SPACES = {"1d": (9,), "2d": (5, 7), "3d": (3, 4, 5)}
CHANNELS = 6

every_block = pytest.mark.parametrize("make", CASES.values(), ids=CASES)
every_block_with_identity = pytest.mark.parametrize("make", [CASES[name] for name in WITH_IDENTITY], ids=WITH_IDENTITY)


def feature_map(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape)


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(x, dtype=dtype)


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float64"))


def seeded(make, shape, **options):
    """Build a block for maps of a shape, with random weights."""
    block = make(**options)
    block.build((None, *shape[1:]))
    rng = np.random.default_rng(0)
    block.set_weights([rng.standard_normal(weight.shape) for weight in block.weights])
    return block


def expected(block, x, weights=None):
    """Return the output of the NumPy reference for `x`, with the weights of `block` or with other ones."""
    weights = iter([numpy(weight) for weight in block.weights] if weights is None else weights)
    bias = block.bias
    scale = 1.0

    def dense():
        return next(weights).T, next(weights) if bias else 0.0

    last = block.data_format == "channels_last"
    u = np.moveaxis(x, -1, 1) if last else x
    match block:
        case ChannelSE():
            scale = 2.0 if block.identity else 1.0
            kinds = {"activation": block.activation, "gate": block.gate}
            y = reference.cse(u, *dense(), *dense(), **kinds, scale=scale)
        case SpatialSE():
            y = reference.sse(u, *dense(), scale=scale)
        case ConcurrentSE():
            y = reference.scse(u, (*dense(), *dense()), dense(), block.aggregation, scale=scale)
        case ProjectExcite():
            scale = 2.0 if block.identity else 1.0
            y = reference.pe(u, *dense(), *dense(), scale=scale)
    return np.moveaxis(y, 1, -1) if last else y


def gradients(block, x, cotangent):
    """Return the gradients of the sum of output times `cotangent` for the input and all weights."""
    weights = [weight.value for weight in block.trainable_variables]
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(x)
                y = block(x)
            return tape.gradient(y, [x, *weights], cotangent)
        case "jax":
            import jax

            _, pull = jax.vjp(lambda x, weights: block.stateless_call(weights, [], x)[0], x, weights)
            of_input, of_weights = pull(cotangent)
            return [of_input, *of_weights]
        case "torch":
            import torch

            x = x.clone().requires_grad_()
            return torch.autograd.grad(block(x), [x, *weights], cotangent)


# Values


@pytest.mark.parametrize("policy", ["float64", "float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_paper(name, policy, record_property):
    x = feature_map(2, 5, 7, CHANNELS)
    block = seeded(CASES[name], x.shape, dtype=policy)
    y = block(tensor(x, block.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == block.compute_dtype
    assert tuple(y.shape) == block.compute_output_shape(x.shape)
    assert_parity(record_property, y, expected(block, x), kind="block", name=name, policy=policy)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", ["cSE", "scSE, concat", "PE"])
def test_any_number_of_spatial_axes_in_both_data_formats(name, space, data_format):
    x = feature_map(2, *space, CHANNELS) if data_format == "channels_last" else feature_map(2, CHANNELS, *space)
    block = seeded(CASES[name], x.shape, data_format=data_format, dtype="float64")
    y = block(tensor(x, "float64"))
    assert tuple(y.shape) == block.compute_output_shape(x.shape)
    np.testing.assert_allclose(numpy(y), expected(block, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [ConcurrentSE, ProjectExcite])
def test_one_block_serves_maps_with_any_number_of_spatial_axes(kind):
    block = seeded(kind, (2, 9, CHANNELS))
    for shape in ((2, 9, CHANNELS), (2, 5, 7, CHANNELS)):
        x = feature_map(*shape)
        np.testing.assert_allclose(numpy(block(tensor(x))), expected(block, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 1, 1, CHANNELS), {}),
        ((2, 5, 7, 1), {}),
        ((2, 5, 7, 3), {"reduction": 16}),
        ((2, 5, 7, CHANNELS), {"bias": False}),
    ],
    ids=["one position", "one channel", "fewer channels than the reduction", "without biases"],
)
@pytest.mark.parametrize("kind", [ConcurrentSE, ProjectExcite])
def test_edges_have_the_values_of_the_paper(kind, shape, options):
    x = feature_map(*shape)
    block = seeded(kind, shape, **options)
    np.testing.assert_allclose(numpy(block(tensor(x))), expected(block, x), rtol=1e-5, atol=1e-6)


@every_block
def test_empty_batch_stays_empty(make):
    block = make()
    shape = (0, 5, 7, CHANNELS)
    assert tuple(block(tensor(np.empty(shape))).shape) == block.compute_output_shape(shape)


def test_hidden_is_the_width_itself():
    x = feature_map(2, 5, 7, CHANNELS)
    block = seeded(ChannelSE, x.shape, hidden=5)
    assert [tuple(weight.shape) for weight in block.weights] == [(6, 5), (5,), (5, 6), (6,)]
    np.testing.assert_allclose(numpy(block(tensor(x))), expected(block, x), rtol=1e-5, atol=1e-6)


def test_without_biases_there_are_as_many_weights_as_in_the_paper():
    blocks = [make(bias=False) for make in (ChannelSE, SpatialSE, ConcurrentSE, ProjectExcite)]
    for block in blocks:
        block.build((None, None, None, 64))
    assert [block.count_params() for block in blocks] == [64 * 64, 64, 64 * 64 + 64, 64 * 64]


def test_kernels_are_drawn_as_torch_draws_them():
    block = ConcurrentSE()
    block.build((None, None, 64))
    for dense in (block.channel.squeeze, block.channel.excite, block.spatial.project):
        largest = np.abs(numpy(dense.kernel)).max() * np.sqrt(dense.kernel.shape[0])
        assert 0.9 < largest <= 1.0


def test_mean_of_a_large_half_precision_map_is_computed_in_single_precision():
    x = np.full((1, 256, 256, 2), 0.1)
    # half precision has steps of 4 at the first sum, 6,554, and cannot represent the second, 6,553,600
    x[..., 1] = 100.0
    block = ChannelSE(hidden=2, bias=False, dtype="mixed_float16")
    block.build(x.shape)
    block.set_weights([np.diag([10.0, 0.01]), np.eye(2)])
    # both hidden values are 1
    np.testing.assert_allclose(numpy(block(tensor(x, "float16"))), x * reference.sigmoid(1.0), rtol=2e-3)


def test_data_format_is_that_of_keras_by_default():
    found = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        assert ConcurrentSE().spatial.data_format == "channels_first"
    finally:
        keras.config.set_image_data_format(found)


# Identity


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@every_block_with_identity
def test_identity_start_leaves_the_map_unchanged_bit_for_bit(make, policy):
    block = make(identity=True, dtype=policy)
    x = tensor(feature_map(2, 5, 7, CHANNELS), block.compute_dtype)
    assert np.array_equal(numpy(block(x)), numpy(x))


@every_block_with_identity
def test_identity_start_has_gradients_in_every_last_layer(make):
    x = tensor(feature_map(2, 5, 7, CHANNELS))
    block = make(identity=True)
    block(x)
    for weight in block.weights:
        if "squeeze/bias" in weight.path:
            weight.assign(ops.ones(weight.shape))  # so that the hidden layer is not zero for any kernel
    found = dict(zip((w.path for w in block.trainable_variables), gradients(block, x, x)[1:], strict=True))
    last = [numpy(gradient) for path, gradient in found.items() if path.split("/")[-2] in {"excite", "project"}]
    assert last
    assert all(gradient.any() for gradient in last)


# Gradients


@every_block
def test_gradients_of_input_and_every_weight_are_those_of_the_paper(make):
    x = feature_map(2, 5, 7, CHANNELS)
    block = seeded(make, x.shape, dtype="float64")
    rng = np.random.default_rng(1)
    cotangent = rng.standard_normal(block.compute_output_shape(x.shape))
    found = [numpy(gradient) for gradient in gradients(block, tensor(x, "float64"), tensor(cotangent, "float64"))]
    values = [x, *map(numpy, block.weights)]
    for place, (value, gradient) in enumerate(zip(values, found, strict=True)):
        step = 1e-6 * rng.standard_normal(value.shape)

        def loss(sign, place=place, step=step):
            at = [value + sign * step if index == place else value for index, value in enumerate(values)]
            return (cotangent * expected(block, at[0], at[1:])).sum()

        difference = (loss(1) - loss(-1)) / 2
        assert gradient.any()
        assert (gradient * step).sum() == pytest.approx(difference, rel=1e-5, abs=1e-11)


# Blocks in models


@pytest.fixture(scope="module")
def model():
    """Build a model with all blocks, for maps of any size."""
    x = y = keras.Input((None, None, CHANNELS))
    for make in CASES.values():
        y = make()(y)
    return keras.Model(x, y)


def test_shapes_are_known_symbolically(model):
    assert model.output.shape == (None, None, None, 2 * CHANNELS)


@pytest.mark.parametrize("space", [(5, 7), (4, 5)])
def test_model_for_unknown_sizes_gives_what_its_layers_give(model, space):
    y = x = tensor(feature_map(2, *space, CHANNELS))
    for layer in model.layers[1:]:
        y = layer(y)
    np.testing.assert_array_equal(numpy(model(x)), numpy(y))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_models_predict_the_values_of_the_paper(jit_compile):
    x = feature_map(2, 5, 7, CHANNELS)
    block = seeded(ConcurrentSE, x.shape)
    entry = keras.Input((None, None, CHANNELS))
    model = keras.Model(entry, block(entry))
    model.compile(jit_compile=jit_compile)
    np.testing.assert_allclose(model.predict_on_batch(x.astype("float32")), expected(block, x), rtol=1e-5, atol=1e-6)


def test_saved_model_is_loaded_without_custom_objects(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    x = tensor(feature_map(2, 4, 5, CHANNELS))
    assert np.array_equal(numpy(loaded(x)), numpy(model(x)))


@pytest.mark.parametrize(
    "block",
    [
        ChannelSE(
            hidden=3,
            activation="silu",
            gate="hard-sigmoid",
            bias=False,
            identity=True,
            data_format="channels_first",
            dtype="mixed_bfloat16",
            name="own",
        ),
        SpatialSE(bias=False, identity=True, data_format="channels_first", trainable=False),
        ConcurrentSE(reduction=4, aggregation="max", bias=False, identity=True, data_format="channels_first"),
        ProjectExcite(reduction=8, bias=False, identity=True, data_format="channels_first"),
    ],
    ids=lambda block: type(block).__name__,
)
def test_config_makes_the_same_block_again(block):
    again = type(block).from_config(block.get_config())
    assert again.get_config() == block.get_config()
    options = [name for name in vars(block) if name in type(block).__init__.__kwdefaults__]
    assert {name: getattr(again, name) for name in options} == {name: getattr(block, name) for name in options}
    assert set(type(block).__init__.__kwdefaults__) <= set(block.get_config())


# Wrong input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(ChannelSE, reduction=0),
            "ChannelSE layer 'own': reduction must be a whole number of at least 1, got 0",
        ),
        (partial(ChannelSE, hidden=0), "ChannelSE layer 'own': hidden must be a whole number of at least 1"),
        (partial(ChannelSE, hidden=4, reduction=4), "ChannelSE layer 'own': reduction and hidden both set"),
        (partial(ChannelSE, activation="gelu"), "ChannelSE layer 'own': activation must be one of 'relu', "),
        (partial(ChannelSE, gate="relu", identity=True), "ChannelSE layer 'own': gate 'relu' cannot start as"),
        (partial(SpatialSE, data_format="NCHW"), "SpatialSE layer 'own': data_format must be one of 'channels_last', "),
        (partial(ConcurrentSE, reduction=0), "ConcurrentSE layer 'own': reduction must be"),
        (partial(ConcurrentSE, aggregation="mean"), "ConcurrentSE layer 'own': aggregation must be one of 'add', "),
        (
            partial(ConcurrentSE, aggregation="concat", identity=True),
            "ConcurrentSE layer 'own': aggregation 'concat' ca",
        ),
        (partial(ProjectExcite, reduction=0), "ProjectExcite layer 'own': reduction must be"),
    ],
)
def test_wrong_options_raise_with_the_name_of_the_layer(make, message):
    with pytest.raises(ValueError, match=message):
        make(name="own")


@pytest.mark.parametrize("make", [ChannelSE, SpatialSE, ConcurrentSE, ProjectExcite])
def test_wrong_maps_raise_with_the_name_of_the_layer(make):
    name = f"{make.__name__} layer 'own': "
    with pytest.raises(ValueError, match=rf"{name}takes maps \(N, \*spatial, C\) .*\(2, 3\)"):
        make(name="own")(tensor(np.ones((2, 3))))
    with pytest.raises(ValueError, match=rf"{name}needs the number of channels .*\(None, 4, 4, None\)"):
        make(name="own")(keras.Input((4, 4, None)))
    with pytest.raises(ValueError, match=rf"{name}needs the number of channels .*\(N, C, \*spatial\)"):
        make(name="own", data_format="channels_first")(keras.Input((None, None, 4)))


def test_other_maps_in_a_later_call_raise_with_the_name_of_the_layer():
    block = ConcurrentSE(name="own")
    block.build((None, None, None, CHANNELS))
    with pytest.raises(ValueError, match=r"of layer 'own' is incompatible .* axis -1 .* have value 6"):
        block(tensor(np.ones((1, 3, 3, 5))))
    with pytest.raises(ValueError, match=r"of layer 'own' is incompatible .* expected min_ndim=3, found ndim=2"):
        block(tensor(np.ones((1, CHANNELS))))


# The package


def test_torch_is_loaded_only_for_its_own_backend(loaded_with_scse_keras):
    torch_alone = {"torch", "scse.blocks.kernels"}
    assert torch_alone & loaded_with_scse_keras == (torch_alone if keras.config.backend() == "torch" else set())


def test_examples_in_the_docstrings_run():
    found = doctest.testmod(scse.keras.layers, extraglobs={"keras": keras, "scse": scse})
    assert found.attempted >= 6
    assert found.failed == 0


def test_max_of_an_infinite_map_is_infinite():
    x = np.ones((1, 2, 3, 2), np.float32)
    x[0, 0, 0, 0] = -np.inf
    block = ConcurrentSE(aggregation="max", identity=True)
    block(x)
    # with these weights the gates are finite: cSE's hidden layer is 0 where the mean is -inf, and sSE's gate is 1
    block.channel.squeeze.kernel.assign(np.ones_like(block.channel.squeeze.kernel))
    block.spatial.project.kernel.assign(np.reshape([-1.0, 0.0], block.spatial.project.kernel.shape))
    gated = keras.ops.convert_to_numpy(block(x))
    assert gated[0, 0, 0, 0] == -np.inf
    assert np.isfinite(gated).sum() == x.size - 1


# Files and configurations in which a string may be replaced by the function of this name

STRINGS = {
    "activation": (ChannelSE, ("relu", "silu", "leaky-relu")),
    "gate": (ChannelSE, ("sigmoid", "hard-sigmoid", "relu")),
    "aggregation": (ConcurrentSE, ("add", "max", "multiply", "concat")),
    "data_format": (SpatialSE, ("channels_last", "channels_first")),
}


@pytest.fixture(scope="module")
def every_string():
    """A model with a block for every string value of an option."""
    x = y = keras.Input((CHANNELS, CHANNELS, CHANNELS))
    for option, (kind, choices) in STRINGS.items():
        for choice in choices:
            if choice != "concat":
                y = kind(**{option: choice}, name=choice.replace("-", "_") + f"_{option}")(y)
    return keras.Model(x, y)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("custom", [False, True], ids=["", "with custom objects of these names"])
def test_every_string_survives_a_file(every_string, suffix, custom, tmp_path):
    names = [choice for _, choices in STRINGS.values() for choice in choices]
    every_string.save(tmp_path / f"model{suffix}")
    custom_objects = {name: lambda x: x for name in names} if custom else None
    again = keras.saving.load_model(tmp_path / f"model{suffix}", custom_objects=custom_objects)
    assert [layer.get_config() for layer in again.layers] == [layer.get_config() for layer in every_string.layers]
    x = tensor(feature_map(1, CHANNELS, CHANNELS, CHANNELS))
    assert np.array_equal(numpy(again(x)), numpy(every_string(x)))


def test_every_string_survives_json_and_cloning(every_string):
    for again in (keras.models.model_from_json(every_string.to_json()), keras.models.clone_model(every_string)):
        found, expected = (model.layers[1:] for model in (again, every_string))  # without the input, which is renamed
        assert [layer.get_config() for layer in found] == [layer.get_config() for layer in expected]


def test_configurations_of_before_are_read():
    block = ConcurrentSE.from_config(
        {
            "name": "own",
            "trainable": True,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": "float32"},
                "registered_name": None,
            },
            "bias": False,
            "identity": True,
            "data_format": "channels_first",
            "reduction": 4,
            "aggregation": "max",
        }
    )
    assert (block.reduction, block.aggregation, block.data_format) == (4, "max", "channels_first")
