"""Attaching and detaching blocks: placements, refused calls, and models that a refused call leaves unchanged."""

import copy
import re

import pytest
import torch
from torch import nn

import scse
from scse.blocks import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE


class Net(nn.Module):
    """Two units and a head, and one module for each reason for which a host is refused."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.unused = nn.Conv2d(4, 4, 1)
        self.pair = Returning(lambda x: (x, x))
        self.keyed = Returning(lambda x: {"a": x, "b": x})
        self.listed = Returning(lambda x: [x])
        self.tokens = Returning(lambda x: x.flatten(2).transpose(1, 2))
        self.blocks = nn.ModuleList([nn.Conv2d(6, 6, 1)])
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.act(self.second(self.act(self.first(x))))
        x = self.pair(x)[0] + self.keyed(x)["b"] + self.listed(x)[0]
        x = self.tokens(x).transpose(1, 2).reshape(x.shape)
        return self.head(self.blocks[0](x))


class Returning(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def fingerprint(model):
    """Return everything that a refused call must not change."""
    return (
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [list(module._forward_hooks) for module in model.modules()],
        {key: value.clone() for key, value in model.state_dict().items()},
    )


def assert_same(first, second):
    assert first[:2] == second[:2]
    assert first[2].keys() == second[2].keys()
    assert all(torch.equal(first[2][key], second[2][key]) for key in first[2])


@pytest.mark.parametrize(
    ("name", "kind"), [("cse", ChannelSE), ("sse", SpatialSE), ("scse", ConcurrentSE), ("pe", ProjectExcite)]
)
def test_outputs_stay_bit_for_bit(model, name, kind):
    plain = copy.deepcopy(model)
    placed = scse.attach(model, name, to="first|second", example=X)
    assert [type(place.block) for place in placed] == [kind, kind]
    for training in (True, False):
        assert torch.equal(model.train(training)(X), plain.train(training)(X))


def test_max_aggregation_stays_bit_for_bit(model):
    plain = copy.deepcopy(model)
    scse.attach(model, "scse", to="first|second", aggregation="max", example=X)
    assert torch.equal(model(X), plain(X))


def test_example_leaves_running_values_and_modes_as_they_were(model):
    model.train()
    model.first[1].eval()
    before = fingerprint(model)
    scse.attach(model, to="first", example=X)
    scse.detach(model)
    assert_same(before, fingerprint(model))


def test_options_reach_the_blocks(model):
    placed = scse.attach(model, "scse", to="second", example=X, reduction=3, aggregation="multiply", identity=False)
    assert placed[0].block.channel.reduction == 3
    assert placed[0].block.aggregation == "multiply"
    assert not placed[0].block.identity


def test_function_makes_the_blocks(model):
    placed = scse.attach(model, lambda channels: SpatialSE(channels, bias=False), to="first|second", example=X)
    assert [place.block.channels for place in placed] == [4, 6]
    assert placed[0].block.project.bias is None


def test_training_the_blocks_alone_leaves_the_rest(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    placed = scse.attach(model, to="first|second", example=X)
    model.requires_grad_(False).eval()
    for parameter in placed.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(placed.parameters(), lr=1.0)
    expected = model(X).detach()
    model(X).square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not torch.equal(model(X), expected)


def test_checkpoint_from_before_lacks_the_keys_of_the_blocks_alone(model):
    checkpoint = copy.deepcopy(model.state_dict())
    scse.attach(model, to="first|second", example=X)
    missing, unexpected = model.load_state_dict(checkpoint, strict=False)
    assert not unexpected
    assert missing
    assert all(".recalibration." in key for key in missing)


def test_checkpoint_from_after_loads_into_a_model_attached_alike(model):
    twin = copy.deepcopy(model)
    scse.attach(model, to="first|second", example=X, identity=False)
    scse.attach(twin, to="first|second", example=X, identity=False)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(X), twin.eval()(X))


def test_detach_restores_the_model(model):
    plain = copy.deepcopy(model)
    before = fingerprint(model)
    scse.attach(model, to="first|second", example=X, identity=False)
    assert not torch.equal(model.eval()(X), plain.eval()(X))
    assert scse.detach(model.train()) is model
    assert_same(before, fingerprint(model))


def test_detach_without_blocks_is_an_error(model):
    with pytest.raises(ValueError, match="Net has no block to remove"):
        scse.detach(model)


def test_tokens_work_when_their_layout_is_given(model):
    plain = copy.deepcopy(model)
    placed = scse.attach(model, to="tokens", layout="channels-last", example=X)
    assert (placed[0].channels, placed[0].resolution) == (6, (16,))
    assert torch.equal(model(X), plain(X))
    with torch.no_grad():
        placed[0].block.spatial.project.weight.fill_(1.0)
    assert not torch.equal(model.eval()(X), plain.eval()(X))


def test_channels_last_maps_work_when_their_layout_is_given():
    swin = nn.Sequential(nn.Conv2d(3, 6, 1), Returning(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(6))
    plain = copy.deepcopy(swin)
    with pytest.raises(ValueError, match="channels seem to be on the last axis; give layout='channels-last'"):
        scse.attach(swin, to="2", example=X)
    placed = scse.attach(swin, to="2", layout="channels-last", example=X)
    assert (placed[0].channels, placed[0].resolution) == (6, (8, 8))
    assert torch.equal(swin(X), plain(X))


@pytest.mark.parametrize("example", [X, (X,), {"x": X}, {"x": X.double()}])
def test_example_may_be_a_tensor_or_arguments(model, example):
    if isinstance(example, dict):
        model = model.to(example["x"].dtype)
    placed = scse.attach(model, to="first", example=example)
    assert placed[0].resolution == (8, 8)
    assert {p.dtype for p in model.parameters()} == {next(model.first[0].parameters()).dtype}


def test_example_is_guessed(model):
    assert scse.attach(model, to="second")[0].resolution == (32, 32)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("pair", r"'pair' \(Returning\) returns a tuple of 2, not a feature map; attach to 'first"),
        ("keyed", r"'keyed' \(Returning\) returns a dict with the keys a, b, not a feature map; attach to "),
        ("listed", r"'listed' \(Returning\) returns a list of 1, not a feature map; attach to "),
        ("tokens", r"returns a tensor of shape \(2, 16, 6\), .*if it is \(N, tokens, C\), give layout='channels-last'"),
        ("unused", r"'unused' \(Conv2d\) did not run as a module in the example"),
        ("blocks", r"'blocks' \(ModuleList\) did not run as a module in the example; attach to "),
        ("act", r"'act' \(ReLU\) ran 2 times in the example, but a block recalibrates one map"),
        ("first|nothing", r"pattern 'nothing' matches no module of Net"),
        (
            "auto",
            r"to='auto' does not know Net; choose modules, for instance to='first.*Its stages and .*:\n  first",
        ),
    ],
)
def test_wrong_place_is_refused_and_the_model_unchanged(model, to, message):
    before = fingerprint(model)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        scse.attach(model, to=to if to in {"auto", "first|nothing"} else f"first|{to}", example=X)
    assert_same(before, fingerprint(model))


def test_attaching_twice_at_a_place_is_refused(model):
    scse.attach(model, to="first", example=X)
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"'first' \(Sequential\) has a block already; detach it first"):
        scse.attach(model, to="second|first", example=X)
    assert_same(before, fingerprint(model))


def test_attaching_elsewhere_adds_to_what_is_there(model):
    scse.attach(model, "cse", to="first", example=X)
    assert scse.attach(model, "sse", to="second", example=X).names == ("first", "second")


@pytest.mark.parametrize(
    ("recalibration", "options", "message"),
    [
        ("se", {}, "recalibration must be one of 'cse', 'sse', 'scse', 'pe', got 'se'"),
        ("none", {}, "recalibration must be one of 'cse', 'sse', 'scse', 'pe', got 'none'"),
        ("sse", {"reduction": 4}, "reduction=4 has no effect on 'sse'; leave it out"),
        ("cse", {"aggregation": "max"}, "aggregation='max' has no effect on 'cse'; leave it out"),
        (SpatialSE, {"identity": False}, "identity=False has no effect on a function that makes the block"),
        ("cse", {"reduction": 0}, "reduction must be a whole number of at least 1, got 0"),
        ("scse", {"aggregation": "concat"}, "aggregation 'concat' cannot start as the identity"),
        (
            "scse",
            {"aggregation": "concat", "identity": False},
            r"the block at 'first' turns .*\(2, 4, 8, 8\) into .*\(2, 8, 8, 8\), but a block must keep the shape",
        ),
        ("scse", {"layout": "NHWC"}, "layout must be one of 'channels-first', 'channels-last', got 'NHWC'"),
        (
            lambda channels: nn.Conv2d(channels, 1, 1),
            {},
            "the block at 'first' turns .* must keep the shape of its input",
        ),
    ],
)
def test_wrong_option_is_refused_and_the_model_unchanged(model, recalibration, options, message):
    before = fingerprint(model)
    with pytest.raises(ValueError, match=message):
        scse.attach(model, recalibration, to="first", example=X, **options)
    assert_same(before, fingerprint(model))


def test_block_that_the_model_would_run_itself_is_refused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)
            self.b = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            for layer in self.children():
                x = layer(x)
            return x

    whole = nn.Sequential(Loop())
    before = fingerprint(whole)
    with pytest.raises(ValueError, match="the block at '0' ran 2 times in the example, not once"):
        scse.attach(whole, to="0", example=X)
    assert_same(before, fingerprint(whole))


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (nn.Linear(3, 2), None, r"Linear has no convolution from which to guess its input; give example="),
        (
            nn.Conv2d(3, 4, 1),
            torch.zeros(1, 5, 8, 8),
            r"the given example \(a tensor of shape \(1, 5, 8, 8\)\)",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 65)), None, r"the guessed example \(.*\) does not run through Sequential"),
    ],
)
def test_example_that_does_not_run_is_refused(model, example, message):
    with pytest.raises(ValueError, match=message):
        scse.attach(model, to=nn.Module, example=example)


def test_dtype_and_mode_are_those_of_the_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).to(torch.float64).eval()
    placed = scse.attach(model, to="0")
    assert {p.dtype for p in placed.parameters()} == {torch.float64}
    assert not placed[0].block.training


@pytest.mark.slow
class Mixed(nn.Module):
    """An encoder in half precision, a decoder in single precision, and activations without weights."""

    def __init__(self):
        super().__init__()
        self.encoder, self.between = nn.Conv2d(3, 4, 1).to(torch.bfloat16), nn.ReLU()
        self.decoder, self.act = nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x):
        return self.act(self.decoder(self.between(self.encoder(x.to(torch.bfloat16))).float()))


def test_dtype_of_a_block_is_that_of_its_host(tmp_path):
    model, x = Mixed(), torch.randn(1, 3, 8, 8)
    before = model(x)
    placed = scse.attach(model, "scse", to="encoder|between|decoder|act", example=x)
    dtypes = [next(place.block.parameters()).dtype for place in placed]
    assert dtypes == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert torch.equal(model(x), before)
    scse.save_attached(model, tmp_path / "mixed.safetensors")
    again = Mixed()
    scse.load_attached(again, tmp_path / "mixed.safetensors")
    assert torch.equal(again(x), before)
    assert {key: value.dtype for key, value in again.state_dict().items()} == {
        key: value.dtype for key, value in model.state_dict().items()
    }


def test_autocast_around_the_example_leaves_blocks_in_the_models_dtype():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        placed = scse.attach(model, "scse", to="1", example=x)
        assert model(x).dtype == torch.bfloat16
    assert next(placed.parameters()).dtype == torch.float32


def test_resnet50_with_cse_after_bn3_is_se_resnet_50():
    import timm
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    scse.attach(model, "cse", to="layer?.*.bn3", reduction=16, identity=False)
    assert sum(p.numel() for p in model.parameters()) == 28_088_024
    peer = timm.create_model("seresnet50", pretrained=False)
    theirs = peer.state_dict()
    with torch.no_grad():
        for key, value in theirs.items():  # batch norms and gates with values as after a training
            if value.is_floating_point() and value.ndim == 1:
                value.add_(0.1 * torch.rand(value.shape, generator=torch.Generator().manual_seed(len(key))))
    names = {"squeeze": "fc1", "excite": "fc2"}
    ours = {}
    for key, value in model.state_dict().items():
        their_key = re.sub(r"bn3\.recalibration\.(\w+)", lambda match: f"se.{names[match[1]]}", key)
        ours[key] = theirs[their_key].reshape(value.shape)
    model.load_state_dict(ours)
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, reached = peer.eval()(x), model.eval()(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(reached, expected, rtol=1e-5, atol=1e-5)
