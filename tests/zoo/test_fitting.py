"""Options that follow from the patch and its spacing: the rule against nnU-Net's own, and what overrides it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from named import build
from scse.data.recipe import Recipe
from scse.inference.segmenter import Segmenter
from scse.zoo.catalogue import read_network
from scse.zoo.fitting import FILLED, Patch, fit_options, nnunet_stages

ARGUMENTS = {"in_channels": 1, "classes": 3}
NNUNET = ("nnunet:PlainConvUNet", "nnunet:ResidualEncoderUNet")
FITTED = ("monai:DynUNet", *NNUNET)


def options(name: str, size: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> dict:
    fit = fit_options(read_network(name), Patch.of(size, spacing))
    assert fit is not None
    return dict(fit.options)


def test_stages_are_those_of_nnunet():
    topology = pytest.importorskip("nnunetv2.experiment_planning.experiment_planners.network_topology")
    rng = np.random.default_rng(0)
    for _ in range(500):
        axes = int(rng.integers(2, 4))
        size, spacing = tuple(rng.integers(1, 300, axes).tolist()), tuple(rng.uniform(0.3, 6, axes).tolist())
        _, strides, kernels, _, _ = topology.get_pool_and_conv_props(spacing, size, 4, 999999)
        stages = nnunet_stages(Patch(size, spacing))
        assert (stages.strides, stages.kernels) == (tuple(strides), tuple(kernels)), (size, spacing)


def test_a_coarse_axis_is_pooled_later_and_has_kernels_of_one_until_then():
    # prostate of the Medical Segmentation Decathlon, as in nnU-Net's plans: 3.6 x 0.625 x 0.625 mm
    chosen = options("monai:DynUNet", (20, 320, 256), (3.6, 0.625, 0.625))
    fine, all_axes = (1, 2, 2), (2, 2, 2)
    assert chosen["strides"] == ((1, 1, 1), fine, fine, all_axes, all_axes, fine, fine)
    assert chosen["kernel_size"] == ((1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5)
    assert chosen["upsample_kernel_size"] == chosen["strides"][1:]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("nnunet:PlainConvUNet", {"n_conv_per_stage": (2,) * 6, "n_conv_per_stage_decoder": (2,) * 5}),
        (
            "nnunet:ResidualEncoderUNet",
            {"n_blocks_per_stage": (1, 3, 4, 6, 6, 6), "n_conv_per_stage_decoder": (1,) * 5},
        ),
    ],
)
def test_nnunets_networks_have_the_sizes_of_its_planners(name, sizes):
    for size, most in (((128, 128, 128), 320), ((128, 160), 512)):
        chosen = options(name, size)
        assert chosen["features_per_stage"] == tuple(min(32 * 2**stage, most) for stage in range(6))
        assert {key: chosen[key] for key in sizes} == sizes


def test_nnunets_networks_draw_their_weights_as_nnunet_does():
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name = "nnunet:ResidualEncoderUNet"
    torch.manual_seed(5)
    ours = build(f"{name}[features_per_stage=(4,8,8)]", ARGUMENTS, size=(16, 16, 16)).network
    chosen = options(f"{name}[features_per_stage=(4,8,8)]", (16, 16, 16))
    torch.manual_seed(5)
    theirs = get_network_from_plans(
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", chosen, (), 1, 3, deep_supervision=False
    )
    weights = theirs.state_dict()
    assert ours.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("size", [(8, 8), (5, 40), (8, 8, 8), (4, 30, 33)])
def test_small_patches_are_filled_so_that_there_is_something_to_pool(name, size):
    features = "filters" if name.startswith("monai") else "features_per_stage"
    network = build(f"{name}[{features}=(2,4,4)]", ARGUMENTS, size=size)
    assert all(filled % step == 0 for filled, step in zip(network.filled(size), network.multiple, strict=True))
    assert network(torch.randn(2, 1, *size)).shape == (2, 3, *size)
    if len(size) * (8,) == size:
        assert network.filled(size) == (FILLED,) * len(size)


def test_images_are_filled_to_what_the_strides_divide():
    network = build("monai:DynUNet[filters=(2,4,4,4,4,4,4)]", ARGUMENTS, size=(8, 40, 40), spacing=(4, 1, 1))
    assert network.multiple == (2, 8, 8)
    assert network.filled((9, 41, 40)) == (10, 48, 40)


def test_options_of_the_name_replace_those_of_the_rule():
    assert len(options("monai:DynUNet", (64, 64, 64))["strides"]) == 5
    fewer = options("monai:DynUNet[filters=(4,8,8)]", (64, 64, 64))
    assert len(fewer["strides"]) == len(fewer["kernel_size"]) == 3
    given = options("monai:DynUNet[strides=(1,2,(2,1,1)),res_block=True]", (64, 64, 64))
    assert given["strides"] == (1, 2, (2, 1, 1))
    assert given["upsample_kernel_size"] == ((2, 2, 2), (2, 1, 1))
    assert given["kernel_size"] == ((3, 3, 3),) * 3
    assert given["res_block"]
    network = build("monai:DynUNet[strides=(1,2,(3,1,1)),filters=(2,2,2)]", ARGUMENTS, size=(12, 8, 8))
    assert network.multiple == (6, 2, 2)
    assert options("nnunet:PlainConvUNet[n_stages=3]", (64, 64))["features_per_stage"] == (32, 64, 128)
    assert options("monai:SegResNetDS", (32, 32, 32), (3, 1, 1))["resolution"] == (3, 1, 1)
    assert "resolution" not in options("monai:SegResNetDS", (32, 32, 32), (1.5, 1, 1))
    assert fit_options(read_network("monai:UNet"), Patch.of((32, 32))) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("monai:DynUNet[strides=2]", r"strides must list an entry for each stage, such as strides=\(1,2,2\), got 2"),
        ("monai:DynUNet[strides=()]", "strides must list an entry for each stage"),
        ("monai:DynUNet[strides=(1,2,(2,2,2))]", r"an entry of strides must be a number, or one for each of 2 axes"),
        ("monai:DynUNet[strides=(1,0,2)]", "an entry of strides must be a number"),
        ("monai:DynUNet[kernel_size=(3,3,3,3,3,3)]", "kernel_size is for 6 stages, and the network has 4; give 4"),
        ("monai:DynUNet[strides=(1,2,2),kernel_size=(3,3,3,3)]", "kernel_size is for 4 stages, and the network has 3"),
        (
            "nnunet:PlainConvUNet[n_stages=9]",
            "n_stages is for 9 stages, and the network has 4; give 4, or give strides",
        ),
        ("nnunet:PlainConvUNet[n_stages=two]", "n_stages must be a positive number, got 'two'"),
        ("nnunet:PlainConvUNet[conv_op=Conv2d]", "an option of nnunet:PlainConvUNet must be one of"),
        ("monai:SegResNetDS[blocks_down=3]", "blocks_down must list an entry for each stage"),
        ("monai:DynUNet[filters=(4,8)]", "cannot be built with .*no less than 3"),
    ],
)
def test_options_that_fit_no_stages_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        build(name, ARGUMENTS, size=(32, 32))


def segmenter(name: str, network: nn.Module) -> Segmenter:
    recipe = Recipe(view="volume", spacing=(3, 1, 1), patch=(8, 32, 32), channels=1)
    return Segmenter(network, name, ARGUMENTS, "scse", recipe, {"left": 1, "right": 2})


@pytest.mark.parametrize("name", ["monai:DynUNet[filters=(4,4,4,4,4)]", f"{NNUNET[1]}[features_per_stage=(4,4,4)]"])
def test_a_saved_segmenter_has_the_network_that_followed_from_its_recipe(tmp_path: Path, name):
    network = build(name, ARGUMENTS, size=(8, 32, 32), spacing=(3, 1, 1), variant="scse").eval()
    folder = segmenter(name, network).save(tmp_path)
    loaded = Segmenter.load(folder)
    x = torch.randn(1, 1, 9, 33, 30)
    assert loaded.network.multiple == network.multiple == (2, 4, 4) if "nnunet" in name else (2, 8, 8)
    assert torch.equal(loaded.network.eval()(x), network(x))


def test_a_segmenter_of_an_earlier_version_has_the_network_that_it_was_trained_with(tmp_path: Path):
    name = "monai:DynUNet[filters=(4,4,4,4,4)]"
    network = build(name, ARGUMENTS, size=(8, 32, 32), spacing=(3, 1, 1), fitted=False, variant="scse").eval()
    assert network.network.strides == (1, 2, 2, 2, 2)
    assert network.filled((9, 33, 30)) == (32, 64, 32)
    folder = segmenter(name, network).save(tmp_path)
    assert "fitted" not in json.loads((folder / "segmenter.json").read_text())
    x = torch.randn(1, 1, 9, 33, 30)
    assert torch.equal(Segmenter.load(folder).network.eval()(x), network(x))
