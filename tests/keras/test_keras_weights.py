"""Conversion between torch and Keras: equal outputs and gradients, and weights that survive both ways bit for bit."""

from functools import partial

import keras
import numpy as np
import pytest
import torch
from parity import assert_parity
from torch import nn
from twins import NAMES, TITLES, VARIANTS, gradients, image, run, small, tensor

import scse
import scse.keras
from named import build
from scse.data.recipe import Recipe
from scse.inference.segmenter import Segmenter
from scse.support.errors import DataError, UserError

pytestmark = pytest.mark.usefixtures("quick_networks")

every_network = pytest.mark.parametrize("name", NAMES)

BLOCKS = {
    "silu": partial(scse.ChannelSE, hidden=3, activation="silu", gate="hard-sigmoid", bias=False),
    "leaky": partial(scse.ChannelSE, reduction=3, activation="leaky-relu", gate="relu"),
    "identity": partial(scse.ChannelSE, identity=True),
    "sse": scse.SpatialSE,
    "sse-identity": partial(scse.SpatialSE, bias=False, identity=True),
    "add": scse.ConcurrentSE,
    "max": partial(scse.ConcurrentSE, reduction=4, aggregation="max", identity=True),
    "multiply": partial(scse.ConcurrentSE, aggregation="multiply", bias=False),
    "concat": partial(scse.ConcurrentSE, aggregation="concat"),
    "pe": partial(scse.ProjectExcite, reduction=3),
    "pe-identity": partial(scse.ProjectExcite, bias=False, identity=True),
}


def drawn(module):
    """Draw all weights of a module, including those that are zero in an identity start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def same_state(module, other):
    """Return whether the weights are equal bit for bit, without `num_batches_tracked`, which Keras does not have."""
    state, found = module.state_dict(), other.state_dict()
    assert list(state) == list(found)
    return all(torch.equal(state[key], found[key]) for key in state if not key.endswith("num_batches_tracked"))


def segmenter(variant="scse"):
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 2, "kernel_size": 3}
    recipe = Recipe(view="picture", spacing=None, patch=(16, 16), channels=1)
    return scse.Segmenter(small("unet", recalibration=variant), "unet", arguments, variant, recipe, {"a": 1, "b": 2})


# Networks


@every_network
@pytest.mark.parametrize("variant", VARIANTS)
def test_network_predicts_what_torch_does(name, variant, record_property):
    network, x = small(name, recalibration=variant).double(), image(2, 1, 13, 10).double()
    reached = run(scse.keras.from_torch(network), x)
    title = f"{TITLES[name]}, {VARIANTS[variant]}"
    expected = network(x).detach().numpy()
    assert_parity(record_property, reached, expected, kind="network", name=title, policy="float64")


@every_network
def test_network_predicts_what_torch_does_in_single_precision(name, record_property):
    network, x = small(name, recalibration="scse"), image(2, 1, 12, 8)
    model = scse.keras.from_torch(network)
    assert model.dtype == "float32"
    expected = network(x).detach().numpy()
    title = f"{TITLES[name]}, scSE"
    assert_parity(record_property, run(model, x), expected, kind="network", name=title, policy="float32")


@pytest.mark.parametrize("name", ["unet", "sdnet", "tiramisu"])
def test_network_of_volumes_predicts_what_torch_does(name, record_property):
    network = small(name, depth=1, spatial_dims=3, recalibration="scse").double()
    x = image(1, 1, 5, 4, 7).double()
    reached, expected = run(scse.keras.from_torch(network), x), network(x).detach().numpy()
    title = f"{TITLES[name]} 3D, scSE"
    assert_parity(record_property, reached, expected, kind="network", name=title, policy="float64")


@every_network
def test_network_trains_as_torch_does(name):
    """In training mode, the logits and the gradients of all weights are equal, including un-pooling."""
    network = small(name, depth=1, recalibration="scse").double().train()
    model = scse.keras.from_torch(network)
    x, slope = image(2, 1, 7, 6).double(), image(2, 3, 7, 6).double()
    found, logits = gradients(model, x, slope)
    expected = network(x)
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=0, atol=1e-10)
    (expected * slope).sum().backward()
    assert len(found) == len(model.trainable_variables) == len(list(network.parameters()))
    for variable, gradient in zip(model.trainable_variables, found, strict=True):
        variable.assign(gradient)
    # the gradients replace the weights, so that to_torch converts them to the layout and the names of torch
    returned = dict(scse.keras.to_torch(model).named_parameters())
    for key, parameter in network.named_parameters():
        scale = float(parameter.grad.abs().max())
        difference = float((returned[key].detach() - parameter.grad).abs().max())
        # before batch normalisation, gradients consist of rounding errors alone
        assert difference <= 1e-10 * max(1.0, scale), key


@every_network
def test_weights_come_back_bit_for_bit(name):
    network = small(name, recalibration="scse")
    returned = scse.keras.to_torch(scse.keras.from_torch(network))
    assert type(returned) is type(network)
    assert returned.options == network.options
    assert same_state(network, returned)
    assert torch.equal(returned.eval()(image(1, 1, 9, 8)), network(image(1, 1, 9, 8)))


def test_blocks_that_were_attached_anywhere_travel_with_their_options():
    network = small("unet").double()
    example = image(1, 1, 8, 8).double()
    scse.attach(network, "cse", to="decoder.0|bottleneck", example=example, identity=True)
    scse.attach(network, "scse", to="encoder.1", example=example, aggregation="max", reduction=4, identity=False)
    drawn(network.eval())
    model = scse.keras.from_torch(network)
    assert sorted(model.blocks) == ["bottleneck", "decoder_0", "encoder_1"]
    returned = scse.keras.to_torch(model)
    assert same_state(network, returned)
    assert str(returned.encoder[1].recalibration) == str(network.encoder[1].recalibration)
    x = image(1, 1, 12, 8).double()
    np.testing.assert_allclose(run(model, x), network(x).detach().numpy(), rtol=1e-10, atol=1e-10)


def test_type_and_data_format_can_be_chosen():
    model = scse.keras.from_torch(small("sdnet"), data_format="channels_first", dtype="float64")
    assert model.input_shape == (None, 1, None, None)
    assert (model.dtype, model.compute_dtype) == ("float64", "float64")


def test_half_precision_weights_travel():
    network = small("sdnet").bfloat16()
    model = scse.keras.from_torch(network)
    assert model.dtype == "bfloat16"
    assert same_state(network, scse.keras.to_torch(model))


# Blocks


@pytest.mark.parametrize("option", BLOCKS)
def test_block_recalibrates_as_torch_does_and_comes_back(option):
    block = drawn(BLOCKS[option](6)).double()
    layer = scse.keras.from_torch(block)
    for shape in [(2, 6, 7), (2, 6, 3, 4)]:
        x = image(*shape).double()
        reached = keras.ops.convert_to_numpy(layer(tensor(x.movedim(1, -1))))
        np.testing.assert_allclose(np.moveaxis(reached, -1, 1), block(x).detach().numpy(), rtol=0, atol=1e-12)
    returned = scse.keras.to_torch(layer)
    assert str(returned) == str(block)
    assert same_state(block, returned)


# Segmenters


def test_segmenter_and_its_folder_give_the_network(tmp_path):
    trained = segmenter()
    trained.save(tmp_path / "run" / "segmenter")
    for source in (trained, tmp_path / "run", str(tmp_path / "run" / "segmenter")):
        assert same_state(trained.network, scse.keras.to_torch(scse.keras.from_torch(source)))


def test_options_of_a_variant_are_those_of_the_saved_segmenter(tmp_path):
    variant = "scse[reduction=4,aggregation=max,placement=both+bottleneck]"
    made = segmenter(variant)
    model = scse.keras.from_torch(made.save(tmp_path))
    assert [place.partition("_")[0] for place in model.blocks] == [*["encoder"] * 2, "bottleneck", *["decoder"] * 2]
    x = image(2, 1, 12, 8)
    np.testing.assert_allclose(run(model, x), made.network(x).detach().numpy(), rtol=0, atol=1e-5)


def test_folder_of_a_segmenter_of_volumes_gives_its_network(tmp_path):
    arguments = {"in_channels": 1, "classes": 3, "width": 4, "depth": 1, "kernel_size": 3}
    recipe = Recipe(view="volume", spacing=(1.0, 1.0, 1.0), patch=(8, 8, 8), channels=1)
    network = small("unet", depth=1, spatial_dims=3, recalibration="scse").eval()
    folder = scse.Segmenter(network, "unet", arguments, "scse", recipe, {"a": 1, "b": 2}).save(tmp_path)
    x = image(1, 1, 5, 4, 7)
    expected = network(x).detach().numpy()
    for source in (folder, scse.Segmenter.load(folder)):
        np.testing.assert_allclose(run(scse.keras.from_torch(source), x), expected, rtol=0, atol=1e-4)


def test_folder_without_a_segmenter_or_with_too_few_weights_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"contains no segmenter, segmenter\.json is missing"):
        scse.keras.from_torch(tmp_path)
    folder = segmenter().save(tmp_path)
    plain = small("unet")
    (folder / "weights.safetensors").unlink()
    from safetensors.torch import save_file

    save_file(plain.state_dict(), folder / "weights.safetensors")
    with pytest.raises(DataError, match=r"missing in torch \['encoder_0_recalibration/"):
        scse.keras.from_torch(tmp_path)


# Invalid input


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Conv2d(1, 1, 1), r"got torch\.nn\.modules\.conv\.Conv2d; export other networks"),
        (build("monai:BasicUNet", {"in_channels": 1, "classes": 2}, size=(32, 32)), r"building\.Sized"),
        (3, r"from_torch takes a torch block or network of scse \(ChannelSE, .*got builtins\.int"),
    ],
    ids=["layer", "monai", "number"],
)
def test_sources_that_are_not_of_scse_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        scse.keras.from_torch(source)


def test_segmenter_of_another_library_is_refused(tmp_path):
    network = build("monai:BasicUNet", {"in_channels": 1, "classes": 3}, size=(16, 16))
    recipe = Recipe(view="picture", spacing=None, patch=(16, 16), channels=1)
    arguments = {"in_channels": 1, "classes": 3}
    other = scse.Segmenter(network, "monai:BasicUNet", arguments, "none", recipe, {"a": 1, "b": 2})
    with pytest.raises(ValueError, match=r"got a segmenter with scse\.zoo\.building\.Sized"):
        scse.keras.from_torch(other)
    with pytest.raises(ValueError, match=r"segmenter\.json: the network is 'monai:BasicUNet', but scse\.keras has"):
        scse.keras.from_torch(other.save(tmp_path))


def test_foreign_block_is_refused():
    with pytest.raises(ValueError, match=r"the block at 'encoder\.0' must be a block of scse \(ChannelSE, .*Identity"):
        scse.keras.from_torch(small("unet", recalibration=lambda _: nn.Identity()))


def test_block_at_another_place_is_refused():
    network = small("unet")
    scse.attach(network, "cse", to="encoder.0.first", example=image(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"a place of recalibration must be one of 'encoder_0', .*'encoder_0_first'"):
        scse.keras.from_torch(network)


def test_weight_of_no_layer_or_another_shape_is_named():
    network = small("unet")
    network.encoder[0].extra = nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=r"missing in Keras \['encoder\.0\.extra\.weight', 'encoder\.0\.extra\.bias'\]"
    ):
        scse.keras.from_torch(network)
    network = small("unet")
    network.classifier = nn.Conv2d(4, 2, 1)
    with pytest.raises(ValueError, match=r"classifier\.weight has the shape \(1, 1, 4, 2\), but \(1, 1, 4, 3\)"):
        scse.keras.from_torch(network)


def test_layer_of_keras_or_a_block_without_weights_does_not_go_to_torch():
    with pytest.raises(ValueError, match=r"to_torch takes a block or network of scse\.keras \(ChannelSE, .*got Dense"):
        scse.keras.to_torch(keras.layers.Dense(1))
    with pytest.raises(ValueError, match="SpatialSE layer 'gate' has no weights yet; call it on a map first"):
        scse.keras.to_torch(scse.keras.SpatialSE(name="gate"))


def test_a_segmenter_of_regions_is_refused(tmp_path):
    network, recipe = small("unet"), Recipe(view="picture", spacing=None, patch=(16, 16), channels=1)
    arguments = {"in_channels": 1, "classes": 2}
    regions = {"whole": (1, 2), "core": (2,)}
    of_regions = Segmenter(network, "unet", arguments, "none", recipe, {"whole": 1, "core": 2}, regions=regions)
    of_regions.save(tmp_path)
    for source in (of_regions, tmp_path):
        with pytest.raises(UserError, match="its structures are regions of labels"):
            scse.keras.from_torch(source)
