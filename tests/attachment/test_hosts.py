"""Blocks attached to hosts: they run once and survive saving and copying; unsuitable hosts are refused."""

import copy
import io

import pytest
import torch
from torch import nn

from scse.attachment.hosts import attach_block, block_of, layout_of, recalibrate, remove_block
from scse.blocks import ChannelSE, ConcurrentSE, ProjectExcite, SpatialSE


def host():
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1)


X = torch.linspace(-1, 1, 2 * 3 * 5 * 5).reshape(2, 3, 5, 5)


def test_block_recalibrates_the_output_of_its_host():
    plain, hosted = host(), host()
    block = ConcurrentSE(4)
    attach_block(hosted, block)
    assert torch.equal(hosted(X), block(plain(X)))
    assert hosted.recalibration is block


def test_block_runs_once_per_call():
    hosted, calls = host(), []
    attach_block(hosted, ChannelSE(4))
    hosted.recalibration.register_forward_hook(lambda *_: calls.append(1))
    hosted(X)
    assert len(calls) == 1


def test_keys_of_the_host_stay():
    hosted = host()
    before = list(hosted.state_dict())
    attach_block(hosted, SpatialSE(4))
    assert list(hosted.state_dict()) == [*before, "recalibration.project.weight", "recalibration.project.bias"]


def test_second_block_on_one_host_is_refused():
    hosted = host()
    attach_block(hosted, ChannelSE(4))
    with pytest.raises(ValueError, match="Conv2d has a recalibration block already"):
        attach_block(hosted, SpatialSE(4))
    hosted(X)


def test_sequential_host_runs_its_block_last_and_once():
    plain, block, calls = nn.Sequential(host(), nn.ReLU()), ConcurrentSE(4), []
    hosted = copy.deepcopy(plain)
    attach_block(hosted, block)
    block.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(hosted(X), block(plain(X)))
    assert len(calls) == 2
    assert list(hosted.state_dict())[:2] == list(plain.state_dict())


def test_sequential_with_its_own_forward_is_refused():
    class Odd(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = layer(x)
            return x + 1

    with pytest.raises(ValueError, match=r"Odd is an nn\.Sequential with a forward of its own"):
        attach_block(Odd(host()), ChannelSE(4))


@pytest.mark.parametrize("make", [host, lambda: nn.Sequential(host())])
def test_removing_a_block_restores_modules_hooks_and_keys(make):
    plain, hosted = make(), make()
    hosted.register_forward_hook(lambda *_: None)
    attach_block(hosted, ChannelSE(4))
    remove_block(hosted)
    assert block_of(hosted) is None
    assert list(hosted.state_dict()) == list(plain.state_dict())
    assert len(hosted._forward_hooks) == 1  # the user's own
    assert torch.equal(hosted(X), plain(X))


@pytest.mark.parametrize("make", [nn.Identity, lambda: nn.Sequential(nn.Identity())])
def test_channels_may_be_on_the_last_axis(make):
    hosted, block = make(), ConcurrentSE(4)
    tokens = torch.randn(2, 9, 4)
    expected = ConcurrentSE.forward(block, tokens.movedim(-1, 1)).movedim(1, -1)
    attach_block(hosted, block, layout="channels-last")
    assert layout_of(block) == "channels-last"
    assert torch.equal(hosted(tokens), expected)


def test_module_with_a_submodule_of_the_same_name_has_no_block():
    other = nn.Module()
    other.recalibration = nn.Identity()
    assert block_of(other) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cse", ChannelSE),
        ("sse", SpatialSE),
        ("scse", ConcurrentSE),
        ("pe", ProjectExcite),
        (SpatialSE, SpatialSE),
    ],
)
def test_every_place_gets_its_own_block(name, kind):
    hosts = [host(), host()]
    recalibrate([(module, 4) for module in hosts], name)
    blocks = [module.recalibration for module in hosts]
    assert [type(block) for block in blocks] == [kind, kind]
    assert blocks[0] is not blocks[1]


@pytest.mark.parametrize("name", [None, "none"])
def test_none_places_nothing(name):
    hosted = host()
    recalibrate([(hosted, 4)], name)
    assert not hasattr(hosted, "recalibration")
    assert not hosted._forward_hooks


@pytest.mark.parametrize("name", ["se", "CSE", ""])
def test_unknown_name_is_refused_with_all_known(name):
    with pytest.raises(ValueError, match=r"recalibration must be one of 'none', 'cse', 'sse', 'scse', 'pe', got "):
        recalibrate([(host(), 4)], name)


def test_copy_runs_its_own_block():
    hosted = host()
    attach_block(hosted, ChannelSE(4))
    before = hosted(X)
    twin = copy.deepcopy(hosted)
    assert torch.equal(twin(X), before)
    with torch.no_grad():
        twin.recalibration.excite.bias.add_(1.0)
    assert not torch.equal(twin(X), before)
    assert torch.equal(hosted(X), before)


def test_saved_module_keeps_its_block():
    hosted = host()
    attach_block(hosted, ChannelSE(4))
    file = io.BytesIO()
    torch.save(hosted, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), hosted(X))


def test_compiles_without_graph_break():
    torch.compiler.reset()
    hosted = host()
    attach_block(hosted, ConcurrentSE(4))
    torch.testing.assert_close(torch.compile(hosted, fullgraph=True, backend="eager")(X), hosted(X))
