"""Names for people: of networks, of the labels that a study gives them, and of variants."""

import pytest

from scse.vocabulary.titles import label, network_name, variant_name


@pytest.mark.parametrize(
    ("network", "varied", "in_scores", "name"),
    [
        ("unet", {}, "unet", "U-Net"),
        ("unet", {"epochs": 3}, "unet[epochs=3]", "U-Net, 3 epochs"),
        (
            "sdnet",
            {"epochs": 1, "train_cases": 6},
            "sdnet[epochs=1,train_cases=6]",
            "SD-Net, 1 epoch, 6 training cases",
        ),
        ("densenet", {"train_cases": 1}, "densenet[train_cases=1]", "FC-DenseNet, 1 training case"),
        (
            "a/mine.py:make[width=4]",
            {"epochs": 3},
            "a/mine.py:make[width=4][epochs=3]",
            "mine.py:make[width=4], 3 epochs",
        ),
        ("smp:Unet[encoder_name=resnet18]", {}, "smp:Unet[encoder_name=resnet18]", "smp:Unet[encoder_name=resnet18]"),
        ("smp:Unet[]", {}, "smp:Unet[]", "smp:Unet[]"),
    ],
)
def test_networks_are_named_with_what_is_varied(network, varied, in_scores, name):
    assert label(network, **varied) == in_scores
    assert network_name(in_scores) == name


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("none", "plain"),
        ("scse", "scSE"),
        ("cse[reduction=8]", "cSE (r = 8)"),
        ("scse[reduction=4,aggregation=max,placement=encoder]", "scSE (r = 4, max, encoder only)"),
        ("sse[placement=decoder]", "sSE (decoder only)"),
        ("sse[placement=both+bottleneck]", "sSE (bottleneck too)"),
        ("attention gates", "attention gates"),
    ],
)
def test_variants_are_named_with_what_differs_from_the_paper(variant, name):
    assert variant_name(variant) == name
