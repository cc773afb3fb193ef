"""Stages of models of unknown families, and the places of blocks in the networks of scse."""

import pytest
import torch
from torch import nn

import scse
from scse.attachment.examples import guess_example
from scse.attachment.stages import Stage, find_stages, known_places, list_stages, suggest


class Unit(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Mine(nn.Module):
    """A typical user's U-Net, which pools and concatenates in its forward method."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([Unit(1, 4), Unit(4, 8)])
        self.middle = Unit(8, 8)
        self.up = nn.ModuleList([Unit(16, 8), Unit(12, 4)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skips = []
        for unit in self.down:
            skips.append(unit(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.middle(x)
        for unit in self.up:
            x = unit(torch.cat([skips.pop(), nn.functional.interpolate(x, scale_factor=2)], 1))
        return self.head(x)


def test_stages_are_the_parts_of_one_resolution_in_the_order_they_ran():
    assert find_stages(Mine(), torch.zeros(1, 1, 16, 16)) == [
        Stage("down.0", "Unit", (1, 4, 16, 16)),
        Stage("down.1", "Unit", (1, 8, 8, 8)),
        Stage("middle", "Unit", (1, 8, 4, 4)),
        Stage("up.0", "Unit", (1, 8, 8, 8)),
        Stage("up.1", "Unit", (1, 4, 16, 16)),
    ]


def test_suggested_patterns_name_the_stages():
    model = Mine()
    pattern = suggest(model, find_stages(model))
    assert pattern == "down.*|middle|up.*"
    assert len(scse.attach(model, "scse", to=pattern)) == 5


def test_listing_has_a_line_per_stage():
    listing = list_stages(find_stages(Mine(), torch.zeros(1, 1, 16, 16))).splitlines()
    assert listing[2] == "  middle  Unit  (1, 8, 4, 4)"
    assert len(listing) == 5


def test_stages_of_single_layers_are_the_layers():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1))
    assert [stage.name for stage in find_stages(model)] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["UNet", "SDNet", "FCDenseNet"])
def test_auto_places_in_own_networks_what_their_construction_places(name):
    network = getattr(scse.networks, name)(1, classes=2, width=8)
    built = getattr(scse.networks, name)(1, classes=2, width=8, recalibration="scse")
    assert sorted(known_places(network)) == sorted(scse.placements(built).names)


def test_stages_of_a_nested_network_are_found_inside():
    from monai.networks.nets import UNet

    model = UNet(2, in_channels=1, out_channels=2, channels=(4, 8, 8, 8), strides=(2, 2, 2))
    assert {"model.0", "model.1.submodule.0", "model.1.submodule.2"} <= {stage.name for stage in find_stages(model)}


def test_stages_with_channels_last_inside_are_whole():
    import timm

    model = timm.create_model("convnext_atto", features_only=True, pretrained=False)
    assert suggest(model, find_stages(model)) == "stages_*"


def test_auto_leaves_out_layers_that_never_run():
    import segmentation_models_pytorch as smp

    model = smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(32, 16, 8))
    assert scse.attach(model).names == (
        *("encoder.layer1", "encoder.layer2"),
        *(f"decoder.blocks.{block}" for block in range(3)),
    )


def test_unknown_model_has_no_known_places():
    assert known_places(Mine()) is None


def test_subclass_of_a_known_model_is_known():
    class Special(scse.networks.UNet):
        pass

    assert known_places(Special(1, classes=2, width=8)) == [
        *(f"encoder.{i}" for i in range(4)),
        *(f"decoder.{i}" for i in range(4)),
    ]


def test_example_is_guessed_from_the_first_convolution():
    model = nn.Sequential(nn.Identity(), nn.Conv3d(3, 4, 1, dtype=torch.float64))
    guessed = guess_example(model)
    assert guessed.shape == (1, 3, 64, 64, 64)
    assert guessed.dtype == torch.float64
