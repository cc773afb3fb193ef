"""Patterns of module names: their matches, and the errors for patterns without a match."""

import pytest
from torch import nn

import scse
from scse.attachment.patterns import choose, generalize, matches


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("layer1", "layer?", True),
        ("layer1.0", "layer?", False),
        ("layer1.0.bn3", "layer?.*.bn3", True),
        ("layer1.0.sub.bn3", "layer?.*.bn3", False),
        ("layer1.0.sub.bn3", "**.bn3", True),
        ("bn3", "**.bn3", True),
        ("model.1.submodule.0", "**.submodule.0", True),
        ("model.1.submodule.0", "model.**", True),
        ("encoder.stages.2", "encoder.stages.[01]", False),
        ("decoder", "decoder.*", False),
        ("Decoder.x", "decoder.x", False),
    ],
)
def test_pattern_matches_part_by_part(name, pattern, expected):
    assert matches(name, pattern) is expected


@pytest.fixture
def model():
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(2, 2, 1)))


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("0|1", ["0", "1"]),
        ("1|0", ["0", "1"]),
        ("*.0", ["0.0", "1.0"]),
        ("* | 0.1", ["0", "0.1", "1"]),
        (nn.Conv2d, ["0.0", "1.0"]),
        ((nn.Conv2d, nn.ReLU), ["0.0", "0.1", "1.0"]),
        (lambda name, module: name.endswith("1") and isinstance(module, nn.Sequential), ["1"]),
    ],
)
def test_modules_are_chosen_in_the_order_of_the_model(model, to, names):
    assert list(choose(model, to)) == names


def test_a_module_with_two_names_is_chosen_once():
    shared = nn.ReLU()
    assert list(choose(nn.ModuleDict({"a": shared, "b": shared}), nn.ReLU)) == ["a"]


def test_modules_in_blocks_are_not_chosen(model):
    scse.attach(model, "scse", to="0")
    assert list(choose(model, (nn.Linear, nn.Conv2d))) == ["0.0", "1.0"]


def test_every_alternative_must_match(model):
    with pytest.raises(ValueError, match=r"pattern '0\.O' matches no module of Sequential; the nearest names are 0\."):
        choose(model, "0|0.O")


def test_class_without_instances_is_refused(model):
    with pytest.raises(ValueError, match=r"no module of Sequential matches to=.*BatchNorm2d"):
        choose(model, nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("names", "everything", "expected"),
    [
        (["layer1", "layer2"], ["layer1", "layer2", "conv1"], "layer*"),
        (["layer1", "layer2"], ["layer1", "layer2", "layer_norm"], "layer1|layer2"),
        (["a.0", "b"], ["a.0", "a.0.x", "b"], "a.*|b"),
    ],
)
def test_names_are_generalised_where_that_is_exact(names, everything, expected):
    assert generalize(names, everything) == expected
