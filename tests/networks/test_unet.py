"""U-Net: the parameter count of the paper, and a comparison with a forward pass by hand."""

import pytest
import torch
import torch.nn.functional as F

from scse.networks import UNet


def test_number_of_convolution_weights_is_that_of_the_paper():
    with torch.device("meta"):
        weights = [p for p in UNet(classes=28).parameters() if p.ndim > 1]
    kernel, width = 5 * 5, 64
    square = kernel * width * width
    encoder = kernel * width + square + 3 * 2 * square
    bottleneck = 2 * square
    decoder = 4 * (2 * square + square)
    assert sum(p.numel() for p in weights) == encoder + bottleneck + decoder + width * 28 == 2_153_792


def test_defaults_are_those_of_the_paper():
    with torch.device("meta"):
        network = UNet()
    assert (len(network.encoder), len(network.decoder)) == (4, 4)
    assert network.classifier.weight.shape == (28, 64, 1, 1)
    assert network.encoder[0].first[0].weight.shape == (64, 1, 5, 5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_wiring_is_that_of_a_forward_pass_by_hand(spatial_dims):
    torch.manual_seed(0)
    network = UNet(classes=3, width=4, depth=2, kernel_size=3, spatial_dims=spatial_dims).eval()
    x = torch.randn(2, 1, *(8,) * spatial_dims)
    conv, pool = (F.conv2d, F.max_pool2d) if spatial_dims == 2 else (F.conv3d, F.max_pool3d)

    def unit(layers, x):
        return F.relu(layers[1](conv(x, layers[0].weight, padding=1)))

    def block(double, x):
        return unit(double.second, unit(double.first, x))

    def twice(x):
        for axis in range(2, x.ndim):
            x = x.repeat_interleave(2, axis)
        return x

    one = block(network.encoder[0], x)
    two = block(network.encoder[1], pool(one, 2))
    up = block(network.bottleneck, pool(two, 2))
    up = block(network.decoder[0], torch.cat([two, twice(up)], 1))
    up = block(network.decoder[1], torch.cat([one, twice(up)], 1))
    torch.testing.assert_close(network(x), network.classifier(up))
