"""Which runs a study consists of, in which order, and which names are refused."""

import pytest

from scse.studies.grid import Run, grid


def test_runs_are_named_after_all_that_tells_them_apart():
    assert Run("unet", "scse", 3, 1).name == "unet-scse-seed3-fold1"
    runs = grid(["unet", "sdnet"], ["none", "cse"], seeds=2, folds=3)
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * 2 * 3


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
        (["unet", "vnet"], ["none"], 1, "networks must be one of 'unet', 'sdnet', 'densenet', got 'vnet'"),
        (["unet"], ["none", "SE"], 1, "variants must be one of 'none', 'cse', 'sse', 'scse', got 'SE'"),
        (["unet", "unet"], ["none"], 1, "networks must be named once each, got unet, unet"),
        (["unet"], ["none", "cse", "none"], 1, "variants must be named once each"),
        (["unet"], ["cse", "scse"], 1, "variants must include 'none'.*got cse, scse"),
        ([], ["none"], 1, "networks must name at least one of unet, sdnet, densenet"),
        (["unet"], [], 1, "variants must name at least one of none, cse, sse, scse"),
        (["unet"], ["none"], 0, "seeds must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_names_and_numbers_are_refused(networks, variants, seeds, message):
    with pytest.raises(ValueError, match=message):
        grid(networks, variants, seeds=seeds, folds=1)
