"""SD-Net: one convolution per block, un-pooling to the position of the maximum, then the skip."""

import pytest
import torch
import torch.nn.functional as F

from scse.networks import SDNet


def unpool_by_hand(x, skip):
    """Return zeros with the value of `x` at the first maximum of `skip` in each 2x2(x2) window."""
    up = torch.zeros(*x.shape[:2], *skip.shape[2:])
    for index in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)):
        n, c, *corner = index.tolist()
        window = skip[(n, c, *(slice(2 * i, 2 * i + 2) for i in corner))]
        where = torch.unravel_index(window.argmax(), window.shape)
        up[(n, c, *(2 * i + w for i, w in zip(corner, where, strict=True)))] = x[(n, c, *corner)]
    return up


def test_each_block_has_one_convolution():
    with torch.device("meta"):
        weights = [p for p in SDNet(classes=28).parameters() if p.ndim > 1]
    square = 25 * 64 * 64
    assert sum(p.numel() for p in weights) == 25 * 64 + 3 * square + square + 4 * 2 * square + 64 * 28


@pytest.mark.parametrize(("spatial_dims", "recalibration"), [(2, None), (3, None), (2, "scse")])
def test_wiring_is_that_of_a_forward_pass_by_hand(spatial_dims, recalibration):
    torch.manual_seed(0)
    options = {"spatial_dims": spatial_dims, "recalibration": recalibration}
    network = SDNet(classes=3, width=3, depth=2, kernel_size=3, **options).eval()
    x = torch.randn(1, 1, *(8,) * spatial_dims)
    conv, pool = (F.conv2d, F.max_pool2d) if spatial_dims == 2 else (F.conv3d, F.max_pool3d)

    def block(single, x):
        y = F.relu(single.unit[1](conv(x, single.unit[0].weight, padding=1)))
        return single.recalibration(y) if hasattr(single, "recalibration") else y

    with torch.no_grad():
        one = block(network.encoder[0], x)
        two = block(network.encoder[1], pool(one, 2))
        up = block(network.bottleneck, pool(two, 2))
        up = block(network.decoder[0], torch.cat([two, unpool_by_hand(up, two)], 1))
        up = block(network.decoder[1], torch.cat([one, unpool_by_hand(up, one)], 1))
        torch.testing.assert_close(network(x), network.classifier(up))


def test_last_row_and_column_of_an_odd_size_are_reached_by_the_skip():
    """Incomplete windows are not pooled, but their values still pass through the concatenated skip."""
    torch.manual_seed(0)
    network = SDNet(classes=2, width=3, depth=1, kernel_size=1).eval()
    x = torch.rand(1, 1, 5, 5)
    other = x.clone()
    other[..., 4, 4] += 5
    changed = (network(x) - network(other)).abs().sum((0, 1)) > 0
    assert changed.nonzero().tolist() == [[4, 4]]
