"""Which runs a study consists of, in which order, and which names are refused."""

import re
from typing import Any

import pytest

from scse.studies import grid as module
from scse.studies.grid import Run
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.titles import Setup
from scse.vocabulary.variants import Variant


def a_run(network: str, variant: str, *numbers: int) -> Run:
    return Run(NetworkSpec.parse(network), Variant.parse(variant), *numbers)


def grid(networks: list[str], variants: list[str], **options: Any) -> list[Run]:
    """`scse.studies.grid.grid` with names instead of values."""
    return module.grid([*map(NetworkSpec.parse, networks)], [*map(Variant.parse, variants)], **options)


def expand_variants(variants: list[str], **options: Any) -> list[str]:
    """`scse.studies.grid.expand_variants` with names instead of values."""
    return [*map(str, module.expand_variants([*map(Variant.parse, variants)], **options))]


def names(runs: list[Run]) -> list[tuple[str, str]]:
    return [(str(run.network), str(run.variant)) for run in runs]


def test_runs_are_named_after_all_that_tells_them_apart():
    assert a_run("unet", "scse", 3, 1).name == "unet-scse-seed3-fold1"
    runs = grid(["unet", "sdnet"], ["none", "cse"], seeds=2, folds=3)
    assert len({run.name for run in runs}) == len(runs) == 2 * 2 * 2 * 3


def test_folders_of_other_networks_have_safe_names_of_their_own():
    names = ["smp:Unet", "smp:Unet[encoder_name=resnet18]", "monai:UNet[channels=(4,8),strides=(2,)]", "../a b/m.py:f"]
    folders = [a_run(name, "none", 0, 0).name for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", folder) for folder in folders)
    assert len(set(folders)) == len(names)
    assert folders[1].startswith("smp_Unet_encoder_name_resnet18-")
    assert a_run("x/m.py:f", "none", 0, 0).name != a_run("y/m.py:f", "none", 0, 0).name


def test_variants_of_one_comparison_follow_each_other():
    runs = grid(["unet", "sdnet"], ["none", "cse"], seeds=2, folds=2)
    assert [(run.seed, run.fold, str(run.network)) for run in runs[::2]] == [
        (seed, fold, network) for seed in (0, 1) for fold in (0, 1) for network in ("unet", "sdnet")
    ]
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    assert all((str(one.variant), str(other.variant)) == ("none", "cse") for one, other in pairs)
    assert all((one.network, one.seed, one.fold) == (other.network, other.seed, other.fold) for one, other in pairs)


@pytest.mark.parametrize(("seeds", "plain"), [(1, 4), (2, 4), (3, 6)])
def test_the_control_is_further_plain_trainings_and_comes_last(seeds, plain):
    runs = grid(["unet", "sdnet"], ["none", "cse"], seeds=seeds, folds=2)
    more = grid(["unet", "sdnet"], ["none", "cse"], seeds=seeds, folds=2, control=True)
    assert more[: len(runs)] == runs
    assert {(str(run.variant), run.seed) for run in more[len(runs) :]} == {
        ("none", seed) for seed in range(seeds, plain)
    }
    assert len(more) - len(runs) == (plain - seeds) * 2 * 2


def test_names_keep_the_order_in_which_they_are_given():
    runs = grid(["densenet", "unet"], ["scse", "none"], seeds=1, folds=1)
    assert names(runs) == [
        ("densenet", "scse"),
        ("densenet", "none"),
        ("unet", "scse"),
        ("unet", "none"),
    ]


def test_variants_are_crossed_with_the_options_that_they_have():
    found = expand_variants(
        ["none", "cse", "sse", "scse"],
        reductions=[2, 4],
        aggregations=["add", "max"],
        placements=["both", "+bottleneck"],
    )
    assert found[:7] == [
        "none",
        "cse",
        "cse[placement=both+bottleneck]",
        "cse[reduction=4]",
        "cse[reduction=4,placement=both+bottleneck]",
        "sse",
        "sse[placement=both+bottleneck]",
    ]
    assert len(found) == len(set(found)) == 1 + 4 + 2 + 8
    assert "scse[reduction=4,aggregation=max,placement=both+bottleneck]" in found


def test_equal_variants_stay_once_and_own_options_that_are_not_crossed_stay():
    named = ["none", "scse[aggregation=max]", "scse[reduction=8,aggregation=max]"]
    assert expand_variants(named, reductions=[2, 4]) == [
        "none",
        "scse[aggregation=max]",
        "scse[reduction=4,aggregation=max]",
    ]
    assert expand_variants(named) == named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregations": ["max"]}, "aggregations have no effect on none, cse, sse; leave them out"),
        ({"reductions": [0]}, "reduction must be a whole number of at least 1, got 0"),
        ({"placements": ["bottleneck"]}, "placement must be one of 'encoder', .*, got 'bottleneck'"),
    ],
)
def test_values_that_fit_no_variant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        expand_variants(["none", "cse", "sse"], **options)


def test_epochs_and_training_cases_that_are_varied_make_setups_and_folders():
    runs = grid(["unet"], ["none", "cse"], seeds=1, folds=1, epochs=[3, 6], train_cases=[2, 4])
    assert [run.setup for run in runs[::2]] == [Setup("unet", epochs, cases) for cases in (2, 4) for epochs in (3, 6)]
    assert [str(run.variant) for run in runs] == ["none", "cse"] * 4
    assert len({run.name for run in runs}) == len(runs)
    # the folder of an earlier version
    assert runs[0].name == "unet_epochs_3_train_cases_2-7cbf369a-none-seed0-fold0"
    more = grid(["unet"], ["none", "cse"], seeds=1, folds=1, epochs=[3, 6, 12], train_cases=[2, 4, 8])
    assert {run.name for run in runs} < {run.name for run in more}


def test_one_number_of_epochs_is_a_setting_and_one_of_training_cases_a_setup():
    assert grid(["unet"], ["none"], seeds=1, folds=1, epochs=[3]) == [a_run("unet", "none", 0, 0)]
    (run,) = grid(["unet"], ["none"], seeds=1, folds=1, train_cases=[3])
    assert run.setup == Setup("unet", None, 3)


def test_folders_of_variants_with_options_have_safe_names():
    name = a_run("unet", "scse[reduction=4,placement=both+bottleneck]", 0, 0).name
    assert re.fullmatch(r"unet-scse_reduction_4_placement_both_bottlene-[0-9a-f]{8}-seed0-fold0", name)


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ({"epochs": [0, 3]}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": [3, 3]}, "epochs must be named once each, got 3, 3"),
        ({"train_cases": [-1]}, "train_cases must be a whole number of at least 1, got -1"),
    ],
)
def test_wrong_numbers_that_are_varied_are_refused(varied, message):
    with pytest.raises(ValueError, match=message):
        grid(["unet"], ["none"], seeds=1, folds=1, **varied)


@pytest.mark.parametrize(
    ("networks", "variants", "seeds", "message"),
    [
        (["unet", "unet"], ["none"], 1, "networks must be named once each, got unet, unet"),
        (["unet"], ["none", "cse", "none"], 1, "variants must be named once each"),
        (["unet"], ["none", "cse", "cse[reduction=2]"], 1, "variants must be named once each, got none, cse, cse"),
        (["unet"], ["cse", "scse"], 1, "variants must include 'none'.*got cse, scse"),
        ([], ["none"], 1, "networks must name at least one, such as unet"),
        (["unet"], [], 1, "variants must name at least one, such as none"),
        (["a/mine.py:make", "b/mine.py:make"], ["none"], 1, "networks must differ in more than their folder"),
        (["unet"], ["none"], 0, "seeds must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_names_and_numbers_are_refused(networks, variants, seeds, message):
    with pytest.raises(ValueError, match=message):
        grid(networks, variants, seeds=seeds, folds=1)


def test_more_seeds_than_any_study_has_are_refused_at_once():
    with pytest.raises(ValueError, match="seeds must be at most 1000, got 1000000"):
        grid(["unet"], ["none"], seeds=1_000_000, folds=1)
