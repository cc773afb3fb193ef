"""The verdict: sentences made by fixed rules."""

import numpy as np
import pandas as pd
import pytest
from scores_tables import CASES, PLAIN, UNSURE, gains, runs

from scse.evaluation import Verdict, compare, headlines, verdict_text, verdicts
from scse.evaluation.verdict import effect_text, p_text

NOISE = 0.02 * np.array([1, -1] * (CASES // 2)) + 0.0001 * np.arange(CASES)
COSTS = pd.DataFrame({"network": "unet", "variant": ["none", "scse"], "step_ratio": [1.0, 1.012]})


def test_the_verdict_on_a_variant_tells_effect_interval_p_subjects_seeds_and_cost() -> None:
    frame = pd.concat(runs({"none": PLAIN, "scse": PLAIN + gains()}, seed=seed) for seed in (0, 1))
    assert verdicts(compare(frame), COSTS) == [
        Verdict(
            "unet",
            "scse",
            "better",
            "scSE is better than plain: +0.014 Dice [0.012, 0.017], p = 0.00195, 10 of 10 subjects better, "
            "2 of 2 seeds agree, +1.2 % time per step",
        )
    ]


def test_verdicts_name_what_helps_what_hurts_and_what_does_neither() -> None:
    frame = runs({"none": PLAIN, "cse": PLAIN - 2 * gains(), "sse": PLAIN + NOISE, "scse": PLAIN + gains()})
    assert verdict_text(compare(frame)).splitlines() == [
        "U-Net: scSE is better than plain; cSE is worse than plain.",
        "  cSE is worse than plain: -0.029 Dice [-0.034, -0.024], p = 0.00586, 10 of 10 subjects worse.",
        "  sSE: no detectable difference: +0.000 Dice [-0.019, 0.020], p = 0.232, 10 subjects.",
        "  scSE is better than plain: +0.014 Dice [0.012, 0.017], p = 0.00586, 10 of 10 subjects better.",
    ]


def test_a_variant_with_shorter_distances_is_better() -> None:
    (found,) = verdicts(compare(runs({"none": PLAIN, "scse": PLAIN - gains()}, metric="hd95"), metric="hd95"))
    assert found.kind == "better"
    assert found.text.startswith("scSE is better than plain: -0.014 mm HD95 [-0.017, -0.012], p = ")


def test_with_five_subjects_the_verdict_is_that_there_are_too_few() -> None:
    comparison = compare(runs({"none": PLAIN[:5], "scse": PLAIN[:5] + gains()[:5]}))
    assert verdict_text(comparison) == (
        "U-Net: too little data.\n"
        "  scSE: too little data: +0.012 Dice, 5 subjects; no significance can be reached with fewer than 6 paired "
        "subjects."
    )


def test_without_a_pair_no_effect_is_told() -> None:
    (found,) = verdicts(compare(runs({"none": PLAIN, "scse": [np.nan] * CASES})))
    assert found.text.startswith("scSE: too little data: no effect can be estimated, 0 subjects; ")


def test_missing_pairs_and_seeds_that_disagree_are_told() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN + 2 * gains()}, seed=0),
            runs({"none": PLAIN, "scse": PLAIN + 2 * gains()}, seed=1),
            runs({"none": PLAIN, "scse": [*(PLAIN[:8] - gains()[:8] / 2), np.nan, np.nan]}, seed=2),
        ]
    )
    (found,) = verdicts(compare(frame))
    assert found.text.endswith("10 of 10 subjects better, 2 of 3 seeds agree, 2 pairs missing")


def test_a_significant_p_that_half_of_the_seeds_contradict_is_explained() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN + 2 * gains()}, seed=0),
            runs({"none": PLAIN, "scse": PLAIN - gains() / 2}, seed=1),
        ]
    )
    (found,) = verdicts(compare(frame))
    assert found.text == (
        "scSE: no detectable difference: +0.011 Dice [0.009, 0.013], p = 0.00195, 10 subjects, "
        "but only 1 of 2 seeds agree"
    )


def test_a_significant_p_with_zero_in_the_interval_is_explained() -> None:
    (found,) = verdicts(compare(runs({"none": np.full(15, 0.7), "scse": 0.7 + UNSURE})))
    assert found.kind == "same"
    assert "p = 0.00836, but the interval holds zero, 15 subjects" in found.text


def test_costs_are_told_relative_to_the_baseline_and_only_where_they_are_known() -> None:
    costs = pd.DataFrame({"network": "unet", "variant": ["none", "cse", "scse"], "step_ratio": [1.0, 1.1, 1.21]})
    frame = runs({"none": PLAIN, "cse": PLAIN, "scse": PLAIN, "sse": PLAIN})
    told = {found.variant: found.text for found in verdicts(compare(frame, baseline="cse"), costs)}
    assert told["scse"].endswith("10 subjects, +10.0 % time per step")
    assert told["sse"].endswith("10 subjects")


def test_every_network_has_a_headline() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "cse": PLAIN + gains(), "scse": PLAIN + gains()}),
            runs({"none": PLAIN, "scse": PLAIN}, network="sdnet"),
            runs({"scse": PLAIN}, network="densenet"),
        ]
    )
    assert headlines(compare(frame)) == {
        "unet": "cSE, scSE are better than plain",
        "sdnet": "no variant is detectably better than plain",
        "densenet": "nothing to compare with plain",
    }


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
