"""Which runs a study consists of, in which order, and which names are refused."""

import re

import pytest

from scse.studies.grid import Run, grid


def test_runs_are_named_after_all_that_tells_them_apart():
    assert Run("unet", "scse", 3, 1).name == "unet-scse-seed3-fold1"
    runs = grid(["unet", "sdnet"], ["none", "cse"], seeds=2, folds=3)
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * 2 * 3


def test_folders_of_other_networks_have_safe_names_of_their_own():
    names = ["smp:Unet", "smp:Unet[encoder_name=resnet18]", "monai:UNet[channels=(4,8),strides=(2,)]", "../a b/m.py:f"]
    folders = [Run(name, "none", 0, 0).name for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", folder) for folder in folders)
    assert len(set(folders)) == len(names)
    assert folders[1].startswith("smp_Unet_encoder_name_resnet18-")
    assert Run("x/m.py:f", "none", 0, 0).name != Run("y/m.py:f", "none", 0, 0).name


def test_variants_of_one_comparison_follow_each_other():
    runs = grid(["unet", "sdnet"], ["none", "cse"], seeds=2, folds=2)
    assert [(run.seed, run.fold, run.network) for run in runs[::2]] == [
        (seed, fold, network) for seed in (0, 1) for fold in (0, 1) for network in ("unet", "sdnet")
    ]
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    assert all((one.variant, other.variant) == ("none", "cse") for one, other in pairs)
    assert all((one.network, one.seed, one.fold) == (other.network, other.seed, other.fold) for one, other in pairs)


def test_names_keep_the_order_in_which_they_are_given():
    runs = grid(["densenet", "unet"], ["scse", "none"], seeds=1, folds=1)
    assert [(run.network, run.variant) for run in runs] == [
        ("densenet", "scse"),
        ("densenet", "none"),
        ("unet", "scse"),
        ("unet", "none"),
    ]


@pytest.mark.parametrize(
    ("networks", "variants", "seeds", "message"),
    [
        (
            ["unet", "vnet"],
            ["none"],
            1,
            "network must be one of 'unet', 'sdnet', 'densenet', .* or FILE.py:FUNCTION, got 'vnet'",
        ),
        (["unet"], ["none", "SE"], 1, "variants must be one of 'none', 'cse', 'sse', 'scse', got 'SE'"),
        (["unet", "unet"], ["none"], 1, "networks must be named once each, got unet, unet"),
        (["unet"], ["none", "cse", "none"], 1, "variants must be named once each"),
        (["unet"], ["cse", "scse"], 1, "variants must include 'none'.*got cse, scse"),
        ([], ["none"], 1, "networks must name at least one, such as unet"),
        (["unet"], [], 1, "variants must name at least one, such as none"),
        (["smp:Unet", "smp:Vnet"], ["none"], 1, "the network of smp must be one of 'Unet', .*, got 'Vnet'"),
        (["a/mine.py:make", "b/mine.py:make"], ["none"], 1, "networks must differ in more than their folder"),
        (["unet"], ["none"], 0, "seeds must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_names_and_numbers_are_refused(networks, variants, seeds, message):
    with pytest.raises(ValueError, match=message):
        grid(networks, variants, seeds=seeds, folds=1)
