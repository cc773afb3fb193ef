"""Regression tests for the errors known from the article and from public implementations."""

import math

import pytest
import torch
from torch import nn

from scse import ChannelSE, ConcurrentSE, SpatialSE, functional
from scse.blocks.modules import BLOCKS
from scse.networks import NETWORKS
from scse.vocabulary.options import AGGREGATIONS


def alive(block):
    """Draw random weights. Those of the squeeze are positive, so that its ReLU passes positive inputs."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in block.named_parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
        if name.startswith("squeeze"):
            parameter.data.abs_()
    return block


def gate(block, x):
    return block(x) / x


def small(name, **options):
    torch.manual_seed(0)
    return NETWORKS[name](width=4, kernel_size=3, classes=3, **options)


def test_trap_1_second_dense_gets_the_squeezed_vector():
    """The article's code passes x instead, which gives one gate per position that depends on that position alone."""
    block = alive(ChannelSE(4))
    x = torch.rand(2, 4, 6, 6) + 0.5
    before = gate(block, x)
    torch.testing.assert_close(before, before[..., :1, :1].expand_as(before))
    x[0, 0, 0, 0] += 10
    after = gate(block, x)
    assert not torch.allclose(after[0, :, 5, 5], before[0, :, 5, 5])
    torch.testing.assert_close(after[1], before[1])


def test_trap_2_spatial_gate_is_one_for_all_channels():
    block = alive(SpatialSE(4))
    assert block.project.weight.shape == (1, 4)
    gates = gate(block, torch.rand(2, 4, 6, 6) + 0.5)
    torch.testing.assert_close(gates, gates[:, :1].expand_as(gates))
    assert gates.std() > 0.01
    with pytest.raises(ValueError, match=r"weight must have shape \(1, 4\), got \(4, 4\)"):
        functional.sse(torch.ones(2, 4, 6), torch.ones(4, 4), None)


@pytest.mark.parametrize(("channels", "reduction"), [(1, 2), (3, 4), (8, 16)])
def test_trap_3_few_channels_keep_a_live_gate(channels, reduction):
    block = ChannelSE(channels, reduction=reduction)
    for parameter in block.parameters():
        nn.init.constant_(parameter, 0.1)
    low, high = (gate(block, torch.full((1, channels, 4, 4), value)) for value in (1.0, 9.0))
    assert (high - low).min() > 1e-3
    block(torch.ones(1, channels, 4, 4)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("variant", BLOCKS)
def test_trap_4_the_requested_block_is_at_eight_places_and_runs_once_at_each(name, variant):
    network = small(name, recalibration=variant).eval()
    places = [host.recalibration for host in (*network.encoder, *network.decoder)]
    assert [type(block) for block in places] == [BLOCKS[variant]] * 8
    assert len({id(block) for block in places}) == 8
    assert len({p.data_ptr() for block in places for p in block.parameters()}) == sum(
        len(list(block.parameters())) for block in places
    )
    inside = [m for m in network.modules() if isinstance(m, tuple(BLOCKS.values()))]
    outer = [m for m in inside if m in places]
    assert len(outer) == 8
    assert len(inside) == 8 * (3 if variant == "scse" else 1)
    runs = dict.fromkeys(range(8), 0)
    for index, block in enumerate(places):
        block.register_forward_hook(lambda *_, index=index: runs.update({index: runs[index] + 1}))
    network(torch.zeros(1, 1, 16, 16))
    assert runs == dict.fromkeys(range(8), 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_trap_4_every_variant_computes_something_else(name):
    x = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    outputs = [small(name, recalibration=variant).eval()(x) for variant in (None, *BLOCKS)]
    assert all(not torch.equal(one, other) for index, one in enumerate(outputs) for other in outputs[index + 1 :])


@pytest.mark.parametrize("option", [{"reduction": 4}, {"aggregation": "max"}, {"bias": False}, {"identity": True}])
def test_trap_4_no_option_is_accepted_and_ignored(option):
    x = torch.linspace(-1, 1, 2 * 8 * 25).reshape(2, 8, 5, 5)
    torch.manual_seed(0)
    usual = ConcurrentSE(8)
    torch.manual_seed(0)
    other = ConcurrentSE(8, **option)
    assert not torch.equal(other(x), usual(x))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_trap_5_the_squeeze_covers_every_spatial_axis(axis):
    """There is one gate per channel, from the mean over all axes; a mean over two axes would give one per slice."""
    block = alive(ChannelSE(4)).double()
    profile = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    shape = [2, 4, 1, 1, 1]
    shape[2 + axis] = 5
    x = profile.reshape(shape).expand(2, 4, *(5 if i == axis else 3 for i in range(3)))
    mean = profile.mean(2)[..., None, None, None]
    torch.testing.assert_close(gate(block, x), gate(block, mean).expand_as(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("variant", BLOCKS)
def test_trap_6_every_parameter_of_every_variant_gets_a_gradient(name, variant):
    network = small(name, recalibration=variant)
    network(torch.rand(2, 1, 32, 32)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


def test_trap_7_aggregation_is_an_option_that_defaults_to_the_paper():
    assert ConcurrentSE(4).aggregation == "add"
    assert "aggregation='add'" in repr(ConcurrentSE(4))
    assert all(f'"{name}"' in ConcurrentSE.__doc__ for name in AGGREGATIONS)
    x = torch.rand(2, 4, 5, 5) - 0.5
    blocks = [ConcurrentSE(4, aggregation=name) for name in ("add", "max", "multiply")]
    for block in blocks[1:]:
        block.load_state_dict(blocks[0].state_dict())
    add, maximum, multiply = (block(x) for block in blocks)
    assert not torch.allclose(add, maximum)
    assert not torch.allclose(add, multiply)


def test_trap_7_maximum_is_of_the_products_not_of_the_gates():
    block = ConcurrentSE(1, aggregation="max", bias=True)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(block.channel.excite.bias, math.log(3))
    x = torch.tensor([[[2.0, -2.0]]])
    torch.testing.assert_close(block(x), torch.tensor([[[1.5, -1.0]]]))


def test_trap_8_the_channel_gate_of_a_crop_is_not_that_of_the_whole():
    """The squeeze of cSE is the mean of the whole input, so a crop with another mean has other gates. sSE does not."""
    channel, spatial = alive(ChannelSE(4)), alive(SpatialSE(4))
    whole = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    whole[..., 4:] *= 3
    crop = whole[..., :4]
    assert (gate(channel, whole)[..., :4] - gate(channel, crop)).abs().max() > 0.01
    torch.testing.assert_close(gate(spatial, whole)[..., :4], gate(spatial, crop))
    tiled = crop.repeat(1, 1, 2, 2)
    torch.testing.assert_close(gate(channel, tiled)[..., :8, :4], gate(channel, crop))
