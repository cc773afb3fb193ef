"""Logits at all resolutions, in the form of each library, as one list; and networks that have none."""

from itertools import pairwise

import pytest
import torch

from named import build

ARGUMENTS = {"in_channels": 1, "classes": 3}
NAMES = {
    "monai:DynUNet": "[filters=(2,2,4,4,4)]",
    "monai:SegResNetDS": "[init_filters=2]",
    "nnunet:PlainConvUNet": "[features_per_stage=(2,2,4,4,4)]",
    "nnunet:ResidualEncoderUNet": "[features_per_stage=(2,2,4,4,4)]",
}


def supervised(name, size, **options):
    torch.manual_seed(0)
    return build(name + NAMES[name], ARGUMENTS, size=size, deep_supervision=True, **options)


def heads(name, network):
    """The layers that compute logits, that of the full resolution first."""
    inner = network.network
    if name == "monai:DynUNet":
        return [inner.output_block, *inner.deep_supervision_heads]
    if name == "monai:SegResNetDS":
        return [level["head"] for level in inner.up_layers][::-1]
    return list(inner.decoder.seg_layers)[::-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "spacing"), [((60, 64), (1, 1)), ((16, 64, 64), (4, 1, 1))])
def test_outputs_are_those_of_the_heads_and_one_in_evaluation(name, size, spacing):
    network = supervised(name, size, spacing=spacing, variant="scse")
    layers, computed = heads(name, network), {}
    for layer in layers:
        layer.register_forward_hook(lambda layer, _, output: computed.__setitem__(layer, output))
    x = torch.randn(2, 1, *size)
    outputs = network(x)
    assert len(outputs) == len(layers) >= 3
    assert all(torch.equal(output, computed[layer]) for output, layer in zip(outputs, layers, strict=True))
    assert outputs[0].shape == (2, 3, *network.filled(size))
    for finer, coarser in pairwise(outputs):
        assert all(a in (b, 2 * b) for a, b in zip(finer.shape[2:], coarser.shape[2:], strict=True))
    logits = network.eval()(x)
    assert logits.shape == (2, 3, *size)
    plain = build(name + NAMES[name], ARGUMENTS, size=size, spacing=spacing, variant="scse").eval()
    weights = network.state_dict()
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()})
    assert torch.equal(plain(x), logits)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet", "deep_supervision has no effect on unet, which returns logits at one resolution; .*monai:DynUNet"),
        ("monai:UNet", "deep_supervision has no effect on monai:UNet"),
        ("mine.py:make", "deep_supervision has no effect on mine.py:make"),
        ("monai:DynUNet[filters=(2,2,2)]", "no effect on a network of 2 resolutions, .*choose more stages"),
        ("monai:DynUNet[deep_supr_num=1]", "no effect on a network of 2 resolutions"),
        ("monai:DynUNet[deep_supr_num=x]", "deep_supr_num must be a number of lower resolutions, got 'x'"),
        ("monai:SegResNetDS[blocks_down=(1,1,1)]", "no effect on a network of 2 resolutions"),
        ("nnunet:PlainConvUNet[n_stages=3]", "no effect on a network of 2 resolutions"),
    ],
)
def test_networks_without_lower_resolutions_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        build(name, ARGUMENTS, size=(64, 64), deep_supervision=True)
