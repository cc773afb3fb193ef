"""Placements: their contents, their table, and placements of copied models."""

import copy
import io
import re

import pytest
import torch
from torch import nn

import scse


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def test_placements_describe_every_block(model):
    placed = scse.attach(model, "cse", to="first|second", example=X)
    assert placed.names == ("first", "second")
    assert [(p.channels, p.resolution) for p in placed] == [(4, (8, 8)), (6, (4, 4))]
    assert placed[1].host is model.second
    assert placed[1].block is model.second.recalibration
    assert [p.parameters for p in placed] == [4 * 2 + 2 + 2 * 4 + 4, 6 * 3 + 3 + 3 * 6 + 6]
    assert [p.multiply_adds for p in placed] == [2 * (4 * 2 + 2 * 4), 2 * (6 * 3 + 3 * 6)]  # two images


def test_placements_know_the_model_without_blocks(model):
    parameters = sum(p.numel() for p in model.parameters())
    placed = scse.attach(model, to="first", example=X)
    convolutions = 64 * 3 * 9 * 4 + 16 * 4 * 9 * 6 + 16 * 6 * 2
    assert placed.model_parameters == parameters
    assert placed.model_multiply_adds == 2 * convolutions


def test_placements_print_as_a_table(model):
    placed = scse.attach(model, "cse", to="first|second", example=X)
    header, first, second, total = str(placed).splitlines()
    assert header.split() == [
        "where",
        "channels",
        "resolution",
        "block",
        "parameters",
        "multiply-adds",
        "share",
        "of",
        "the",
        "model",
    ]
    assert re.search(
        r"^first +4 +8 x 8 +ChannelSE +22 +32 +\d+\.\d\d % of parameters, \d\.\d\d % of multiply-adds$", first
    )
    assert second.startswith("second")
    assert total.split()[:3] == ["all", "67", "104"]


def through_a_file(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("pass_on", [copy.deepcopy, through_a_file])
def test_placements_are_found_again_on_copies(model, pass_on):
    placed = scse.attach(model.first, to="0|1", example=X)
    found = scse.placements(pass_on(model.first))
    assert str(found) == str(placed)
    assert found[0].block is not placed[0].block


def test_parameters_are_those_of_the_blocks_alone(model):
    own = {id(p) for p in model.parameters()}
    placed = scse.attach(model, to="first|second", example=X)
    blocks = list(placed.parameters())
    assert len(blocks) == 12
    assert own.isdisjoint(map(id, blocks))


def test_placements_of_a_network_built_with_blocks_have_no_resolution():
    placed = scse.placements(scse.networks.UNet(1, classes=2, width=8, recalibration="scse"))
    assert len(placed) == 8
    assert placed[0].resolution is None
    assert str(placed).splitlines()[1].split()[:4] == ["encoder.0", "8", "?", "ConcurrentSE"]


def test_placements_of_a_plain_model_are_empty(model):
    assert len(scse.placements(model)) == 0
