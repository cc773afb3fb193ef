"""FC-DenseNet, compared with a forward pass by hand, and the original Tiramisu, compared with its published sizes."""

import pytest
import torch
import torch.nn.functional as F

from scse import ConcurrentSE
from scse.networks import FCDenseNet
from scse.networks.densenet import TIRAMISU, Tiramisu

PUBLISHED = {
    # size: (layers of the encoder and bottleneck, growth, trainable, with running statistics)
    56: ([4, 4, 4, 4, 4, 4], 12, 1_376_795, 1_397_963),
    67: ([5, 5, 5, 5, 5, 5], 16, 3_463_243, 3_502_923),
    103: ([4, 5, 7, 10, 12, 15], 16, 9_322_091, 9_425_163),
}
"""Table 2 of Jegou et al. 2017 (CamVid). Its counts of 1.5, 3.5 and 9.4 million include the running statistics of batch
normalisation, as in the authors' code. The architecture described for the first has 1.4 million."""


def closed_form(layers, growth, *, first=48, in_channels=3, classes=11, norm):
    """Compute the number of parameters. `norm` is the count per map of batch normalisation: 2, or 4 with statistics."""
    *encoder, bottleneck = layers

    def conv(inputs, outputs, kernel):
        return kernel * kernel * inputs * outputs + outputs

    def dense(maps, count):
        inputs = [maps + i * growth for i in range(count)]
        return sum(norm * i + conv(i, growth, 3) for i in inputs)

    total, maps, skips = conv(in_channels, first, 3), first, []
    for count in encoder:
        total += dense(maps, count)
        maps += count * growth
        skips.append(maps)
        total += norm * maps + conv(maps, maps, 1)
    total += dense(maps, bottleneck)
    new = bottleneck * growth
    for count, skip in zip(reversed(encoder), reversed(skips), strict=True):
        maps = skip + new
        total += conv(new, new, 3) + dense(maps, count)
        new = count * growth
    return total + conv(maps + new, classes, 1)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("size", PUBLISHED)
def test_tiramisu_has_the_parameters_of_the_publication(size):
    layers, growth, trainable, tracked = PUBLISHED[size]
    with torch.device("meta"):
        network = FCDenseNet.tiramisu(size)
    statistics = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    assert parameters(network) == closed_form(layers, growth, norm=2) == trainable
    assert parameters(network) + statistics == closed_form(layers, growth, norm=4) == tracked


@pytest.mark.parametrize("size", PUBLISHED)
def test_tiramisu_is_named_after_its_convolutions(size):
    with torch.device("meta"):
        network = FCDenseNet.tiramisu(size)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert len(convolutions) == size


@pytest.mark.parametrize("size", PUBLISHED)
def test_tiramisu_trains(size):
    torch.manual_seed(0)
    network = FCDenseNet.tiramisu(size, recalibration="scse")
    logits = network(torch.randn(2, 3, 33, 32))
    assert logits.shape == (2, 11, 33, 32)
    logits.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", PUBLISHED)
def test_tiramisu_in_three_dimensions(size):
    with torch.device("meta"):
        network = FCDenseNet.tiramisu(size, in_channels=1, classes=2, spatial_dims=3).eval()
        assert network(torch.zeros(1, 1, 32, 45, 33)).shape == (1, 2, 32, 45, 33)


def test_tiramisu_has_a_block_at_every_one_of_its_ten_places():
    with torch.device("meta"):
        network = FCDenseNet.tiramisu(103, recalibration="scse")
    hosts = [*network.encoder, *network.decoder]
    assert [type(host.recalibration) for host in hosts] == [ConcurrentSE] * 10
    widths = [host.recalibration.channel.channels for host in hosts]
    assert widths == [112, 192, 304, 464, 656, 192, 160, 112, 80, 256]


@pytest.mark.parametrize("size", [55, 0, "56", None])
def test_other_size_is_refused_with_all_known(size):
    with pytest.raises(ValueError, match=r"^size must be one of 56, 67, 103, got "):
        FCDenseNet.tiramisu(size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ({"growth": 0}, "growth must be a whole number of at least 1, got 0"),
        ({"first": 0}, "first must be a whole number of at least 1, got 0"),
        ({"layers": [2, 0]}, "layers must be a whole number of at least 1, got 0"),
        ({"layers": []}, "layers must name at least one encoder block, got none"),
        ({"bottleneck_layers": 0}, "bottleneck_layers must be a whole number of at least 1, got 0"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"recalibration": "se"}, "recalibration must be one of 'none', 'cse', 'sse', 'scse', 'pe', got 'se'"),
    ],
    ids=lambda value: "-".join(f"{key}={found}" for key, found in value.items()) if isinstance(value, dict) else "",
)
def test_wrong_argument_is_named(options, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the whole message is compared)
        Tiramisu(**{"growth": 2, "layers": [1, 1], "bottleneck_layers": 1, **options})
    assert str(raised.value) == message


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    network = Tiramisu(1, growth=4, layers=[2], bottleneck_layers=2, dropout=0.5)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    without = Tiramisu(1, growth=4, layers=[2], bottleneck_layers=2, dropout=0.0)
    assert torch.equal(without(x), without(x))


def test_tiramisu_wiring_is_that_of_a_forward_pass_by_hand():
    """Only new maps are upsampled, the skip is the whole stack, and the classifier gets all maps of the last block."""
    torch.manual_seed(0)
    network = Tiramisu(1, classes=3, growth=2, layers=[1, 2], bottleneck_layers=2, first=4).eval()
    x = torch.randn(1, 1, 8, 8)

    def new_maps(block, x):
        stack = x
        for layer in block.layers:
            norm, _, conv = layer[0]
            stack = torch.cat([stack, F.conv2d(F.relu(norm(stack)), conv.weight, conv.bias, padding=1)], 1)
        return stack[:, x.shape[1] :]

    def down(transition, x):
        norm, _, conv = transition[0]
        return F.max_pool2d(F.conv2d(F.relu(norm(x)), conv.weight, conv.bias), 2)

    stem = network.first(x)
    one = torch.cat([stem, new_maps(network.encoder[0], stem)], 1)
    below = down(network.down[0], one)
    two = torch.cat([below, new_maps(network.encoder[1], below)], 1)
    up = new_maps(network.bottleneck, down(network.down[1], two))
    stack = torch.cat([two, network.up[0](up)[..., :4, :4]], 1)
    up = new_maps(network.decoder[0], stack)
    stack = torch.cat([one, network.up[1](up)[..., :8, :8]], 1)
    stack = torch.cat([stack, new_maps(network.decoder[1], stack)], 1)
    torch.testing.assert_close(network(x), network.classifier(stack))


def test_defaults_of_tiramisu_are_the_103_of_the_table():
    with torch.device("meta"):
        assert parameters(Tiramisu()) == parameters(FCDenseNet.tiramisu(103))
    assert {size: (growth, [*layers, neck]) for size, (growth, layers, neck) in TIRAMISU.items()} == {
        size: (growth, layers) for size, (layers, growth, *_) in PUBLISHED.items()
    }


def test_fcdensenet_wiring_is_that_of_a_forward_pass_by_hand():
    """A block has two convolutions of all preceding maps and a 1x1 convolution; un-pooling uses the indices."""
    torch.manual_seed(0)
    network = FCDenseNet(classes=3, width=4, depth=1, kernel_size=3).eval()
    x = torch.randn(2, 1, 6, 6)

    def unit(layers, x):
        norm, _, conv = layers
        return F.conv2d(F.relu(norm(x)), conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2)

    def block(dense, x):
        first = unit(dense.first, x)
        second = unit(dense.second, torch.cat([x, first], 1))
        return unit(dense.join, torch.cat([x, first, second], 1))

    skip = block(network.encoder[0], x)
    pooled, indices = F.max_pool2d(skip, 2, return_indices=True)
    low = block(network.bottleneck, pooled)
    up = torch.zeros_like(skip).flatten(2).scatter(2, indices.flatten(2), low.flatten(2)).view_as(skip)
    torch.testing.assert_close(network(x), network.classifier(block(network.decoder[0], torch.cat([skip, up], 1))))
    assert network.encoder[0].join[2].weight.shape == (4, 1 + 2 * 4, 1, 1)
