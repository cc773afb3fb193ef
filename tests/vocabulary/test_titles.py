"""Names for people: of networks, of setups of a study, and of variants."""

import re

import pytest

from scse.vocabulary.titles import VARIANT_NAMES, Setup, slug, title, variant_name
from scse.vocabulary.variants import OPTIONS


@pytest.mark.parametrize(
    ("network", "varied", "text", "name"),
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
def test_networks_are_named_with_what_is_varied(network, varied, text, name):
    setup = Setup(network, **varied)
    assert (setup.text, setup.name, setup.varied) == (text, name, varied)


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("smp:Unet[encoder_name=resnet18]", "smp:Unet[encoder_name=resnet18]"),
        ("/home/me/nets/mine.py:make[a=1]", "mine.py:make[a=1]"),
        ("mine.py:make", "mine.py:make"),
        (r"C:\nets\mine.py:make", "mine.py:make"),
        ("m:f[path=/a/b.py:c]", "m:f[path=/a/b.py:c]"),
        ("m:f[act={'a': 1}]", "m:f[act={'a':1}]"),
        ("something of somebody", "something of somebody"),
    ],
)
def test_people_see_the_name_without_folders(text, shown):
    assert title(text) == shown


def test_folders_get_safe_names_that_differ():
    assert slug("unet") == "unet"
    names = ["smp:Unet", "smp:Unet[]", "smp_Unet:x", "a/m.py:f", "b/m.py:f", "../../m.py:f", "m" * 99 + ":f", "//:::"]
    slugs = [slug(name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_]*-[0-9a-f]{8}", made) and len(made) < 60 for made in slugs)
    assert len(set(slugs)) == len(names)


def test_every_kind_of_variant_has_a_display_name() -> None:
    assert list(VARIANT_NAMES) == list(OPTIONS)
