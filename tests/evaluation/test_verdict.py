"""Verdicts: sentences made by fixed rules."""

import re

import numpy as np
import pandas as pd
import pytest

from scores_tables import CASES, PLAIN, gains, runs, trainings
from scse.evaluation import Verdict, compare, headlines, noise_texts, verdict_text, verdicts
from scse.evaluation.verdict import effect_text, p_text

COSTS = pd.DataFrame({"network": "unet", "variant": ["none", "scse"], "step_ratio": [1.0, 1.012]})
STILL = (1e-4, -1e-4, 0.0)


def test_a_verdict_has_effect_interval_p_trainings_cases_and_cost() -> None:
    (found,) = verdicts(compare(trainings({"none": PLAIN, "scse": PLAIN + gains()})), COSTS)
    assert found == Verdict(
        "unet",
        "scse",
        "better",
        "scSE is better than plain: +0.015 Dice [0.011, 0.019], p = 0.00238, 3 trainings and 10 cases, "
        "+1.2 % time per step",
    )


def test_verdicts_name_what_helps_what_hurts_and_what_does_neither() -> None:
    luck = {"cse": STILL, "sse": STILL, "scse": STILL, "mine": (0.02, -0.02, 0.0)}
    shifts = {"cse": -0.03, "sse": 0.001, "scse": 0.03, "mine": 0.004}
    frame = pd.concat(
        runs({"none": PLAIN, **{name: PLAIN + shift + luck[name][seed] for name, shift in shifts.items()}}, seed=seed)
        for seed in range(3)
    )
    lines = verdict_text(compare(frame)).splitlines()
    assert lines[0] == (
        "U-Net: scSE is better than plain; cSE is worse than plain; "
        "sSE is equivalent to plain within 0.005 Dice; mine is undecided."
    )
    assert [line.strip().split(":")[0] for line in lines[1:]] == [
        "cSE is worse than plain",
        "sSE is equivalent to plain within 0.005 Dice",
        "scSE is better than plain",
        "mine",
        "Two trainings of plain differ by 0.000 Dice on average (3 trainings).",
    ]


def test_an_undecided_verdict_reports_the_power_of_the_study() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + 0.004}, luck=(0.02, -0.02, 0.0))
    (found,) = verdicts(compare(frame))
    assert re.fullmatch(
        r"scSE: undecided: \+0.004 Dice \[-0.046, 0.054\], p = 0.762, 3 trainings and 10 cases; a study of "
        r"this size detects differences of 0.065 or more; detecting 0.005 needs about \d+ trainings",
        found.text,
    )


def test_an_undecided_verdict_may_ask_for_cases_instead_of_trainings() -> None:
    scattered = PLAIN + 0.2 * np.array([1, -1] * (CASES // 2))
    (found,) = verdicts(compare(trainings({"none": PLAIN, "scse": scattered})))
    assert found.text.endswith(" or more; detecting 0.005 needs more cases, more trainings are not enough")


def test_equivalence_that_is_not_zero_says_so() -> None:
    (found,) = verdicts(compare(trainings({"none": PLAIN, "scse": PLAIN + 0.002}, luck=STILL)))
    assert found.text == (
        "scSE is equivalent to plain within 0.005 Dice: +0.002 Dice [0.002, 0.002], equivalence p < 0.001, "
        "difference p < 0.001, 3 trainings and 10 cases"
    )


def test_a_variant_with_shorter_distances_is_better() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN - gains()}, metric="hd95")
    (found,) = verdicts(compare(frame, metric="hd95"))
    assert found.kind == "better"
    assert found.text.startswith("scSE is better than plain: -0.014 mm HD95 [-0.018, -0.010], p = ")


def test_with_five_cases_the_verdict_is_that_there_are_too_few() -> None:
    comparison = compare(trainings({"none": PLAIN[:5], "scse": PLAIN[:5] + gains()[:5]}))
    assert verdict_text(comparison).splitlines()[:2] == [
        "U-Net: too few cases to decide.",
        "  scSE: too few cases: +0.013 Dice observed, 3 trainings and 5 cases; a verdict needs 6 or more cases.",
    ]


@pytest.mark.parametrize(("seeds", "known"), [(1, ""), (2, "two trainings of plain differ by 0.005 on average, and ")])
def test_one_or_two_trainings_give_an_observation_and_a_remedy(seeds: int, known: str) -> None:
    frame = pd.concat(runs({"none": PLAIN + 0.005 * s, "scse": PLAIN + 0.01}, seed=s) for s in range(seeds))
    headline, verdict, *_ = verdict_text(compare(frame)).splitlines()
    effect = {1: "+0.010 Dice observed, 1 training", 2: "+0.008 Dice observed, 2 trainings"}[seeds]
    assert headline == "U-Net: too few trainings to decide."
    assert verdict == (
        f"  scSE: too few trainings: {effect} and 10 cases; {known}a verdict needs 3 or more trainings (--seeds 3)."
    )


def test_without_a_pair_there_is_no_effect() -> None:
    (found,) = verdicts(compare(runs({"none": PLAIN, "scse": [np.nan] * CASES})))
    assert found.text.startswith("scSE: too few cases: no effect observed, ")


def test_missing_pairs_are_counted() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + gains()})
    frame.loc[(frame["case"] > "case7") & (frame["variant"] == "scse") & (frame["seed"] == 2), "value"] = np.nan
    (found,) = verdicts(compare(frame))
    assert found.text.endswith("3 trainings and 8 cases, 2 pairs missing")


def test_costs_are_relative_to_the_baseline_and_only_where_they_are_known() -> None:
    costs = pd.DataFrame({"network": "unet", "variant": ["none", "cse", "scse"], "step_ratio": [1.0, 1.1, 1.21]})
    frame = trainings({"none": PLAIN, "cse": PLAIN, "scse": PLAIN, "sse": PLAIN})
    told = {found.variant: found.text for found in verdicts(compare(frame, baseline="cse"), costs)}
    assert told["scse"].endswith(", +10.0 % time per step")
    assert "time per step" not in told["sse"]


def test_every_network_has_a_headline() -> None:
    frame = pd.concat(
        [
            trainings({"none": PLAIN, "cse": PLAIN + 2 * gains(), "scse": PLAIN + 2 * gains()}, luck=STILL),
            trainings({"none": PLAIN, "scse": PLAIN}, network="sdnet", luck=STILL),
            runs({"scse": PLAIN}, network="densenet"),
            runs({"none": PLAIN, "scse": PLAIN}, network="one seed"),
        ]
    )
    assert headlines(compare(frame)) == {
        "unet": "cSE, scSE are better than plain",
        "sdnet": "scSE is equivalent to plain within 0.005 Dice",
        "densenet": "nothing to compare with plain",
        "one seed": "too few trainings to decide",
    }


def test_each_number_of_epochs_has_a_verdict_of_its_own() -> None:
    frames = [
        trainings({"none": PLAIN, "scse": PLAIN + sign * 2 * gains()}, luck=STILL).assign(epochs=epochs)
        for epochs, sign in ((1, 1), (12, -1))
    ]
    found = compare(pd.concat(frames, ignore_index=True))
    costs = pd.concat([COSTS.assign(epochs=1), COSTS.assign(epochs=12, step_ratio=[1.0, 1.5])])
    told = verdicts(found, costs)
    assert [(each.network, each.epochs, each.train_cases, each.kind) for each in told] == [
        ("unet", 1, None, "better"),
        ("unet", 12, None, "worse"),
    ]
    assert [each.text.split(", ")[-1] for each in told] == ["+1.2 % time per step", "+50.0 % time per step"]
    assert list(headlines(found)) == list(noise_texts(found)) == ["unet[epochs=1]", "unet[epochs=12]"]
    lines = verdict_text(found, costs).splitlines()
    assert lines[::3] == ["U-Net, 1 epoch: scSE is better than plain.", "U-Net, 12 epochs: scSE is worse than plain."]
    assert lines[1::3] == [f"  {each.text}." for each in told]


def test_a_variant_that_lacks_trainings_is_named() -> None:
    frame = trainings({"none": PLAIN, "cse": PLAIN + 2 * gains(), "scse": PLAIN}, luck=STILL)
    frame = frame[(frame["variant"] != "scse") | (frame["seed"] == 0)]
    assert headlines(compare(frame)) == {"unet": "cSE is better than plain; too few trainings of scSE to decide"}


def test_the_noise_floor_is_what_plain_says_of_itself() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + gains()})
    control = pd.concat(runs({"none": PLAIN + 0.006 * (seed - 3)}, seed=seed) for seed in (3, 4, 5))
    found = noise_texts(compare(pd.concat([frame, control])))
    assert re.fullmatch(
        r"Two trainings of plain differ by 0.005 Dice on average \(6 trainings\); plain compared with itself, "
        r"3 trainings against 3, has p < 0.05 in \d of all 60 splits \(\d.\d %\)",
        found["unet"],
    )
    assert noise_texts(compare(runs({"none": PLAIN, "scse": PLAIN}))) == {}


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        ((0.0314, 0.0242, 0.0379), ("+0.031", "[0.024, 0.038]")),
        ((-0.5, -12.25, 0.0), ("-0.500", "[-12.250, 0.000]")),
        ((0.0007, 0.0004, 0.02), ("+0.0007", "[0.0004, 0.0200]")),
        ((0.0002, np.nan, np.nan), ("+0.0002", "")),
        ((-0.0001, -0.0011, 0.0021), ("+0.000", "[-0.001, 0.002]")),
    ],
)
def test_effects_have_the_decimals_that_tell_their_interval_from_zero(numbers: tuple, texts: tuple) -> None:
    assert effect_text(*numbers) == texts


def test_p_values_read_well() -> None:
    assert [p_text(p) for p in (0.0234, 0.0496, 0.00099, 0.6, 1.0)] == [
        "= 0.0234",
        "= 0.0496",
        "< 0.001",
        "= 0.6",
        "= 1",
    ]
