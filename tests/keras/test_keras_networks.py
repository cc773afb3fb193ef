"""The Keras networks: saving and loading with blocks, any size, both data formats, and un-pooling as in torch."""

import inspect

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from twins import NAMES, image, run, tensor

import scse.networks
from scse.keras import ConcurrentSE, SpatialSE, networks
from scse.keras.networks import BatchNorm, FCDenseNet, SDNet, Tiramisu, UNet
from scse.keras.resizing import PositionPooling, PositionUnpooling, SizeCheck

pytestmark = pytest.mark.usefixtures("quick_networks")

LAST, FIRST = "channels_last", "channels_first"
TINY = {"classes": 3, "width": 4, "depth": 2, "kernel_size": 3}


def small(kind, **options):
    keras.utils.set_random_seed(0)
    if kind == "tiramisu":
        return Tiramisu(1, classes=3, growth=4, layers=[1, 2], bottleneck_layers=1, first=4, **options)
    return networks.NETWORKS[kind](**TINY, **options)


def at_most(channels):
    return ConcurrentSE(aggregation="max", reduction=4, bias=channels > 100)


@pytest.mark.parametrize("name", ["UNet", "SDNet", "FCDenseNet"])
def test_arguments_and_defaults_are_those_of_torch(name):
    ours, torchs = (inspect.signature(getattr(home, name)).parameters for home in (networks, scse.networks))
    assert {key: p.default for key, p in ours.items() if key in torchs} == {k: p.default for k, p in torchs.items()}
    assert set(ours) - set(torchs) == {"data_format", "input_size", "dtype", "kwargs"}


def test_tiramisu_is_that_of_torch():
    model = FCDenseNet.tiramisu(56, classes=5, recalibration="sse", dropout=0.1)
    with torch.device("meta"):
        network = scse.networks.FCDenseNet.tiramisu(56, classes=5, recalibration="sse", dropout=0.1)
    assert isinstance(model, Tiramisu)
    assert {**model.options, "layers": list(model.options["layers"])} == network.options
    counts = [np.prod(variable.shape) for variable in model.trainable_variables]
    assert sum(counts) == sum(p.numel() for p in network.parameters())


# Saving, loading and copying


@pytest.mark.parametrize("name", NAMES)
def test_saved_network_is_the_same_network(name, tmp_path):
    model = small(name, recalibration=at_most, input_size=(12, None))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.get_config() == model.get_config()
    assert loaded.input_shape == (None, 12, None, 1)
    assert {block.aggregation for block in loaded.blocks.values()} == {"max"}
    for variable, same in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (variable, same)))
    if name == "sdnet":
        x = image(1, 1, 12, 10)
        np.testing.assert_array_equal(run(loaded, x), run(model, x))


def test_blocks_follow_their_places_and_take_type_and_format_of_the_network():
    model = UNet(
        **TINY, recalibration=lambda channels: SpatialSE(bias=channels > 4), data_format=FIRST, dtype="float64"
    )
    assert sorted(model.blocks) == ["decoder_0", "decoder_1", "encoder_0", "encoder_1"]
    for place, block in model.blocks.items():
        assert (block.name, block.data_format) == (f"{place}_recalibration", FIRST)
        assert (block.dtype, block.bias) == ("float64", False)
    assert not UNet(**TINY, recalibration="none").blocks


def test_blocks_by_their_place_go_there_alone():
    model = SDNet(**TINY, recalibration={"bottleneck": ConcurrentSE(reduction=4), "decoder_1": SpatialSE()})
    again = SDNet.from_config(model.get_config())
    assert {place: type(block) for place, block in again.blocks.items()} == {
        "bottleneck": ConcurrentSE,
        "decoder_1": SpatialSE,
    }
    assert again.get_config() == model.get_config()


def test_mixed_precision_keeps_weights_in_single_precision():
    model = small("sdnet", recalibration="scse", dtype="mixed_bfloat16")
    assert {v.dtype for v in model.weights} == {"float32"}
    again = type(model).from_config(model.get_config())
    assert again.dtype_policy.name == "mixed_bfloat16"
    logits = run(model, image(1, 1, 8, 8))
    # Keras converts torch's bfloat16 to float32 for NumPy
    assert logits.dtype.name == "bfloat16" or keras.config.backend() == "torch"
    assert np.isfinite(logits.astype("float32")).all()


# Sizes and formats


def test_sizes_may_be_unknown_in_a_graph():
    models = small("sdnet", recalibration="scse"), small("unet"), small("tiramisu")
    assert {model.output_shape for model in models} == {(None, None, None, 3)}
    if keras.config.backend() != "tensorflow":
        # on the other backends, sizes are known when values are computed
        return
    import tensorflow as tf

    for model in models:
        graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 1))])
        for size in [(13, 10), (8, 9)]:
            x = tensor(image(2, *size, 1))
            np.testing.assert_allclose(graph(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_network_survives_an_h5_file(name, tmp_path):
    model = small(name, recalibration="scse")
    model.save(tmp_path / "model.h5")
    # a function whose name is the string of an option; and the class, which Keras saves without its package
    own = {LAST: at_most, type(model).__name__: type(model)}
    loaded = keras.saving.load_model(tmp_path / "model.h5", custom_objects=own)
    assert type(loaded) is type(model)
    assert loaded.get_config() == model.get_config()
    x = image(1, 1, 12, 8)
    np.testing.assert_array_equal(run(loaded, x), run(model, x))


def test_resizing_layers_survive_an_h5_file(tmp_path):
    x = keras.Input((8, 8, 2))
    checked = SizeCheck(network="UNet", depth=1, data_format=LAST)(x)
    pooled, positions = PositionPooling(data_format=LAST)(checked)
    model = keras.Model(x, PositionUnpooling(data_format=LAST)(pooled, positions, checked))
    model.save(tmp_path / "model.h5")
    loaded = keras.saving.load_model(tmp_path / "model.h5", custom_objects={LAST: at_most, "UNet": at_most})
    assert loaded.layers[1].data_format == loaded.layers[2].data_format == LAST


@pytest.mark.parametrize("name", ["unet", "sdnet"])
def test_both_data_formats_give_the_same(name):
    last = small(name, recalibration="scse", dtype="float64")
    first = small(name, recalibration="scse", dtype="float64", data_format=FIRST)
    for variable, same in zip(first.weights, last.weights, strict=True):
        variable.assign(same)
    x = image(2, 1, 13, 10).double()
    np.testing.assert_allclose(run(first, x, compiled=True), run(last, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 8), (8, 3)])
def test_too_small_a_size_is_refused_with_both_sizes(size):
    message = rf"UNet of depth 2 needs every spatial axis to be at least 4, got \({size[0]}, {size[1]}\); pad the input"
    model = UNet(**TINY)
    for call in (
        lambda: model(np.zeros((1, *size, 1), "float32")),
        lambda: model(keras.Input((*size, 1))),
        lambda: UNet(**TINY, input_size=size),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Pooling


@pytest.mark.parametrize(("size", "data_format"), [((5, 6), LAST), ((5, 6), FIRST), ((4, 3, 5), LAST)])
def test_unpooling_puts_ties_where_torch_does(size, data_format):
    """Most windows have several maxima, because there are few values. The first counts, also in the gradient."""
    x = torch.randint(0, 3, (2, 3, *size), generator=torch.Generator().manual_seed(0)).double()
    pool, unpool = {2: (F.max_pool2d, F.max_unpool2d), 3: (F.max_pool3d, F.max_unpool3d)}[len(size)]
    pooled, indices = pool(x, 2, return_indices=True)
    expected = unpool(pooled + 1, indices, [2] * len(size), output_size=x.shape)
    y = tensor(x.movedim(1, -1) if data_format == LAST else x)
    maxima, positions = PositionPooling(data_format=data_format, dtype="float64")(y)
    reached = PositionUnpooling(data_format=data_format, dtype="float64")(maxima + 1, positions, y)
    reached = keras.ops.convert_to_numpy(reached)
    np.testing.assert_array_equal(np.moveaxis(reached, -1, 1) if data_format == LAST else reached, expected.numpy())


# Batch normalisation


def test_batch_normalisation_tracks_its_batches_in_double_precision():
    x = image(3, 5, 6, 2).double()
    layer = BatchNorm(momentum=0.9, dtype="float64")
    normalised = keras.ops.convert_to_numpy(layer(tensor(x), training=True))
    x = x.numpy()
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(normalised, (x - mean) / np.sqrt(variance + 1e-3), rtol=0, atol=1e-12)
    tracked = map(keras.ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
    np.testing.assert_allclose([*tracked], [0.1 * mean, 0.9 + 0.1 * variance], rtol=0, atol=1e-12)


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"width": 6.5}, "width must be a whole number of at least 1, got 6.5"),
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"recalibration": "se"}, "recalibration must be one of 'none', 'cse', 'sse', 'scse', 'pe', got 'se'"),
        ({"data_format": "NHWC"}, "data_format must be one of 'channels_last', 'channels_first', got 'NHWC'"),
        ({"input_size": (8,)}, "input_size must have 2 spatial sizes, got (8,)"),
        (
            {"recalibration": {"encoder_2": SpatialSE()}},
            "a place of recalibration must be one of 'encoder_0', 'encoder_1', 'bottleneck', 'decoder_0', "
            "'decoder_1', got 'encoder_2'",
        ),
        ({"recalibration": lambda _: 3}, "recalibration must give Keras layers, got int for 'encoder_0'"),
        (
            {"recalibration": lambda _: ConcurrentSE(aggregation="concat")},
            "the block at 'encoder_0' turns a tensor of shape (None, None, None, 4) into (None, None, None, 8), "
            "but a block must keep the shape of its input",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_argument_is_named(options, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        UNet(**{**TINY, **options})
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FCDenseNet.tiramisu(55), "size must be one of 56, 67, 103, got 55"),
        (lambda: Tiramisu(layers=[]), "layers must name at least one encoder block, got none"),
        (lambda: Tiramisu(layers=[2, 0]), "layers must be a whole number of at least 1, got 0"),
        (lambda: Tiramisu(growth=0), "growth must be a whole number of at least 1, got 0"),
    ],
    ids=["size", "no layers", "layers", "growth"],
)
def test_wrong_argument_of_the_tiramisu_is_named(make, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        make()
    assert str(raised.value) == message
