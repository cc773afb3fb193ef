"""The squeeze of cSE in volumes: over boxes of the training patch, or over the whole volume, compared with NumPy."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import reference
from scse.attachment.fusing import ResidualChannelSE
from scse.blocks.modules import ChannelSE, ConcurrentSE
from scse.data.files import Image
from scse.data.recipe import Recipe
from scse.inference.averaging import averaged
from scse.inference.segmenter import Segmenter
from scse.inference.squeezing import box_means, gathered, local_scores, locally
from scse.inference.windows import windows_of
from scse.networks import UNet
from scse.support.errors import UserError
from scse.vocabulary.variants import Variant
from scse.zoo.building import build_network
from scse.zoo.catalogue import read_network

PATCH = (4, 6, 4)
SIZE = (9, 8, 4)
CHANNELS = 4


def volume(*size: int, channels: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(channels, *size)).astype(np.float32))


def reader(given: Tensor) -> Callable[[tuple[slice, ...]], Tensor]:
    return lambda place: given[(slice(None), *place)]


def weights(*layers: nn.Linear) -> list[NDArray[np.float64]]:
    return [values.detach().double().numpy() for layer in layers for values in (layer.weight, layer.bias)]


def boxes(size: tuple[int, ...], box: tuple[int, ...]) -> dict[tuple[int, ...], tuple[slice, ...]]:
    """The box around each position, moved inside the map."""
    found = {}
    for place in product(*map(range, size)):
        first = [
            max(0, min(at - width // 2, length - width)) for at, width, length in zip(place, box, size, strict=True)
        ]
        found[place] = tuple(slice(start, start + width) for start, width in zip(first, box, strict=True))
    return found


def gates_of_boxes(block: ChannelSE, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Channel gate (C, *spatial) of cSE over the box around every position of a map (C, *spatial)."""
    gates = np.empty_like(u)
    for place, box in boxes(u.shape[1:], PATCH).items():
        inside = u[(slice(None), *box)][None]
        gates[(slice(None), *place)] = reference.channel_gate(inside, *weights(block.squeeze, block.excite))[0]
    return gates


@pytest.mark.parametrize("size", [(9,), (9, 4), (3, 12, 5)])
def test_means_over_boxes_are_those_of_numpy(size: tuple[int, ...]) -> None:
    given, box = volume(*size, channels=2), (4, 5, 2)[: len(size)]
    within = tuple(map(min, zip(box, size, strict=True)))
    expected = np.empty(given.shape)
    for place, inside in boxes(size, within).items():
        values = given.double().numpy()[(slice(None), *inside)]
        expected[(slice(None), *place)] = values.mean(axis=tuple(range(1, values.ndim)))
    found = box_means(given[None], box)[0].expand(given.shape).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [ChannelSE, ConcurrentSE, ResidualChannelSE])
def test_blocks_pool_over_boxes_of_the_patch(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    block, given = kind(CHANNELS), volume(*SIZE, channels=CHANNELS)
    with torch.inference_mode():
        found = locally(nn.Sequential(block), torch.zeros(1, CHANNELS, *PATCH))(given[None])[0].numpy()
    u = given.double().numpy()
    if isinstance(block, ConcurrentSE):
        spatial = reference.spatial_gate(u[None], *weights(block.spatial.project))[0]
        expected = u * (gates_of_boxes(block.channel, u) + spatial)
    else:
        assert isinstance(block, ChannelSE)
        expected = u * (gates_of_boxes(block, u) + isinstance(block, ResidualChannelSE))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_volume_of_the_size_of_the_patch_is_the_same_in_all_ways() -> None:
    torch.manual_seed(0)
    network = UNet(1, classes=3, width=4, depth=1, kernel_size=3, spatial_dims=3, recalibration="scse").eval()
    given = volume(*PATCH)
    with torch.inference_mode():
        expected = network(given[None])[0]
        (found,) = local_scores(network, reader(given), PATCH, PATCH)
        held = gathered(network, reader(given), PATCH, PATCH)(given[None])[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(held, expected, atol=1e-5, rtol=1e-5)


def test_the_squeeze_of_the_whole_volume_is_used_in_every_window() -> None:
    torch.manual_seed(0)
    block, given = ChannelSE(CHANNELS), volume(8, 12, 4, channels=CHANNELS)
    with torch.inference_mode():
        held = gathered(nn.Sequential(block), reader(given), given.shape[1:], PATCH)
        found = held(given[None, :, :4, :6])[0].numpy()
    u = given.double().numpy()
    gates = reference.channel_gate(u[None], *weights(block.squeeze, block.excite))[0]
    np.testing.assert_allclose(found, u[:, :4, :6] * gates[:, None, None, None], atol=1e-5)
    assert len(windows_of(given.shape[1:], PATCH, overlap=0.0)) == 4  # without overlap: the mean is that of the volume


def test_the_network_itself_is_not_changed() -> None:
    torch.manual_seed(0)
    network = UNet(1, classes=3, width=4, depth=1, kernel_size=3, spatial_dims=3, recalibration="scse").eval()
    given = volume(*SIZE)
    with torch.inference_mode():
        before = network(given[None])
        list(local_scores(network, reader(given), SIZE, PATCH))
        gathered(network, reader(given), SIZE, PATCH)
        torch.testing.assert_close(network(given[None]), before, rtol=0, atol=0)


def test_networks_that_need_multiples_pad_the_volume_themselves() -> None:
    pytest.importorskip("monai")
    network = build_network(
        read_network("monai:BasicUNet[features=(4,4,4,4,4,4)]"),
        {"in_channels": 1, "classes": 2},
        variant=Variant("scse"),
        size=(32, 32, 32),
    ).eval()
    with torch.inference_mode():
        (found,) = local_scores(network, reader(volume(37, 33, 32)), (37, 33, 32), (32, 32, 32))
    assert found.shape == (2, 37, 33, 32)


def segmenter(variant: str = "scse", *, dims: int = 3) -> Segmenter:
    torch.manual_seed(0)
    network = UNet(1, classes=6, width=4, depth=1, kernel_size=3, spatial_dims=dims, recalibration=variant).eval()
    nn.init.zeros_(network.classifier.bias)
    for module in network.modules():
        if isinstance(module, ChannelSE):
            nn.init.normal_(module.squeeze.weight, std=3.0)  # so that the gates of windows differ
            nn.init.normal_(module.excite.weight, std=3.0)
    recipe = Recipe(view="volume" if dims == 3 else "coronal", spacing=None, patch=(8,) * dims, channels=1)
    arguments = {"in_channels": 1, "classes": 6, "width": 4, "depth": 1, "kernel_size": 3}
    return Segmenter(
        network, "unet", arguments, variant, recipe, {name: place for place, name in enumerate("abcde", 1)}
    )


@pytest.mark.parametrize("squeeze", ["local", "volume"])
def test_a_segmenter_predicts_with_another_squeeze(squeeze: str) -> None:
    array = np.random.default_rng(0).normal(100, 10, (13, 11, 8)).astype(np.float32)
    array += 10 * np.arange(13, dtype=np.float32)[:, None, None]
    one = segmenter()
    prepared, _ = one.recipe.image_slices(Image(array[None], np.eye(4)))
    given = torch.from_numpy(prepared[0])
    with torch.inference_mode():
        if squeeze == "local":
            (scores,) = local_scores(one.network, reader(given), (13, 11, 8), (8, 8, 8))
            expected = scores.argmax(0).numpy()
        else:
            held = gathered(one.network, reader(given), (13, 11, 8), (8, 8, 8))
            expected = replace(one, network=held).predict(array)
    found = one.with_squeeze(squeeze).predict(array)
    np.testing.assert_array_equal(found, expected)
    assert (found != one.predict(array)).any()


def test_a_squeeze_without_effect_is_refused() -> None:
    with pytest.raises(UserError, match="squeeze must be one of 'window', 'local', 'volume', got 'patch'"):
        segmenter().with_squeeze("patch")
    with pytest.raises(UserError, match="no effect on a network without cSE and scSE blocks"):
        segmenter("sse").with_squeeze("local")
    with pytest.raises(UserError, match="is for networks of volumes, and this one takes slices"):
        segmenter(dims=2).with_squeeze("volume")
    exported = segmenter().with_engine("onnxruntime")
    with pytest.raises(UserError, match="needs the engine torch, got onnxruntime"):
        exported.with_squeeze("local")
    with pytest.raises(UserError, match="is for the prediction of one segmenter, and not for averages"):
        averaged([segmenter().with_squeeze("local"), segmenter()])
