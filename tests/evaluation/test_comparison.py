"""Paired comparison of variants: pairing, tests, correction and the verdict in words."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scse.evaluation import Comparison, compare, verdict
from scse.evaluation.comparison import ALL, COLUMNS, holm, network_name, p_text

CASES = 10
PLAIN = np.linspace(0.70, 0.79, CASES)


def runs(
    variants: Mapping[str, object],
    *,
    network: str = "unet",
    metric: str = "dice",
    seed: int = 0,
    fold: object = 0,
    structure: str = "caudate",
) -> pd.DataFrame:
    """A score table in which each variant has the given values, one a case."""
    rows = [
        (network, variant, seed, fold, f"case{i}", structure, metric, value)
        for variant, values in variants.items()
        for i, value in enumerate(np.asarray(values, dtype=float))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def overall(comparison: Comparison, variant: str = "scse") -> dict:
    tests = comparison.tests
    (row,) = tests[(tests["variant"] == variant) & (tests["structure"] == ALL)].to_dict("records")
    return row


def gains() -> np.ndarray:
    return 0.01 + 0.001 * np.arange(CASES)


def test_summary_is_mean_and_deviation_over_subjects_of_the_mean_over_structures() -> None:
    frame = pd.concat(
        [
            runs({"none": [0.2, 0.4], "scse": [0.6, 0.8]}, structure="a"),
            runs({"none": [0.4, 0.8], "scse": [0.8, 0.8]}, structure="b"),
        ]
    )
    summary = compare(frame).summary.set_index("variant")
    assert list(summary.columns) == ["network", "mean", "sd", "cases", "absent"]
    assert summary.loc["none", "mean"] == pytest.approx(np.mean([0.3, 0.6]))
    assert summary.loc["none", "sd"] == pytest.approx(np.std([0.3, 0.6], ddof=1))
    assert summary.loc["scse", "cases"] == 2


def test_structures_absent_from_both_are_left_out_and_counted() -> None:
    frame = pd.concat(
        [runs({"none": [0.2, 0.4], "scse": [0.6, 0.8]}, structure="a"), runs({"none": [np.nan] * 2}, structure="b")]
    )
    comparison = compare(frame)
    summary = comparison.summary.set_index("variant")
    assert summary.loc["none", "mean"] == pytest.approx(0.3)
    assert summary["absent"].to_dict() == {"none": 2, "scse": 0}
    structures = comparison.structures.set_index(["variant", "structure"])
    assert structures.loc[("none", "b"), "n"] == 0
    assert structures.loc[("none", "a"), "n"] == 2
    tests = comparison.tests.set_index("structure")
    assert tests["missing"].to_dict() == {ALL: 0, "a": 0, "b": 2}


def test_seeds_are_averaged_before_anything_else() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN + gains() + 0.2}, seed=0),
            runs({"none": PLAIN, "scse": PLAIN + gains() - 0.2}, seed=1),
        ]
    )
    comparison = compare(frame)
    assert comparison.summary["cases"].tolist() == [CASES, CASES]
    assert overall(comparison)["n"] == CASES
    assert overall(comparison)["mean_difference"] == pytest.approx(gains().mean())
    assert overall(comparison)["better"] == CASES


def test_variants_are_paired_seed_by_seed() -> None:
    frame = pd.concat(
        [runs({"none": PLAIN, "scse": PLAIN + 0.1}, seed=0), runs({"none": PLAIN + 0.5}, seed=1)],
    )
    row = overall(compare(frame))
    assert (row["n"], row["missing"]) == (CASES, CASES)
    assert row["mean_difference"] == pytest.approx(0.1)


def test_the_same_case_in_two_folds_is_two_subjects() -> None:
    frame = pd.concat([runs({"none": PLAIN, "scse": PLAIN}, fold=fold) for fold in (0, 1)])
    assert overall(compare(frame))["n"] == 2 * CASES


def test_a_table_without_folds_is_compared_too() -> None:
    assert overall(compare(runs({"none": PLAIN, "scse": PLAIN + gains()}, fold=np.nan)))["n"] == CASES


def test_p_is_that_of_scipy() -> None:
    values = PLAIN + np.random.default_rng(0).normal(0.01, 0.02, CASES)
    row = overall(compare(runs({"none": PLAIN, "scse": values})))
    assert row["p"] == pytest.approx(stats.wilcoxon(values, PLAIN, method="exact").pvalue)
    assert row["median_difference"] == pytest.approx(np.median(values - PLAIN))
    assert row["mean_difference"] == pytest.approx(np.mean(values - PLAIN))


def test_ten_gains_of_ten_have_the_exact_p() -> None:
    assert overall(compare(runs({"none": PLAIN, "scse": PLAIN + gains()})))["p"] == pytest.approx(2 / 2**CASES)


def test_equal_scores_have_p_one() -> None:
    # 0.1 + 0.2 is not 0.3 in floating point
    row = overall(compare(runs({"none": [0.3] * CASES, "scse": [0.1 + 0.2] * CASES})))
    assert (row["p"], row["p_holm"]) == (1.0, 1.0)
    assert (row["better"], row["equal"], row["worse"]) == (0, CASES, 0)


def test_ties_are_tested_without_warning() -> None:
    row = overall(
        compare(runs({"none": PLAIN, "scse": PLAIN + np.array([0, 0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -0.1, 0.1])}))
    )
    assert (row["better"], row["equal"], row["worse"]) == (7, 2, 1)
    assert 0.01 < row["p"] < 0.2


def test_with_five_pairs_there_is_no_p() -> None:
    comparison = compare(runs({"none": PLAIN[:5], "scse": PLAIN[:5] + gains()[:5]}))
    assert np.isnan([overall(comparison)["p"], overall(comparison)["p_holm"]]).all()
    assert verdict(comparison) == (
        "U-Net: scSE: no significance can be reached with fewer than 6 paired subjects. "
        "Wilcoxon, Holm-corrected; 5 subjects."
    )


def test_holm_matches_the_worked_example() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_nan_out_of_the_family_and_stops_at_one() -> None:
    np.testing.assert_allclose(holm(np.array([np.nan, 0.6, 0.02, 0.7])), [np.nan, 1.0, 0.06, 1.0])
    assert len(holm(np.array([]))) == 0


def test_families_are_the_overall_tests_and_the_structure_tests_of_each_network() -> None:
    rng = np.random.default_rng(1)
    frame = pd.concat(
        runs({v: PLAIN + rng.normal(0, 0.02, CASES) for v in ("none", "cse", "scse")}, network=net, structure=s)
        for net in ("unet", "sdnet")
        for s in ("a", "b")
    )
    tests = compare(frame).tests
    for network in ("unet", "sdnet"):
        for family in (tests["structure"] == ALL, tests["structure"] != ALL):
            rows = tests[family & (tests["network"] == network)]
            np.testing.assert_allclose(rows["p_holm"], holm(rows["p"].to_numpy()))
    assert tests["structure"].tolist() == [ALL, "a", "b"] * 4


def test_overall_difference_uses_only_structures_that_both_variants_have() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN}, structure="easy"),
            runs({"none": [np.nan] * CASES, "scse": [0.0] * CASES}, structure="absent"),
        ]
    )
    assert overall(compare(frame))["mean_difference"] == 0


@pytest.mark.parametrize("metric", ["hd95", "msd"])
def test_lower_distances_are_better(metric: str) -> None:
    comparison = compare(runs({"none": PLAIN, "scse": PLAIN - gains()}, metric=metric), metric=metric)
    assert overall(comparison)["better"] == CASES
    assert overall(comparison)["mean_difference"] < 0
    assert "scSE is better than the plain network by 0.014 mm" in verdict(comparison)


def test_verdict_names_what_helps_what_hurts_and_what_does_neither() -> None:
    noise = 0.02 * np.array([1, -1] * (CASES // 2)) + 0.001 * np.arange(CASES)
    frame = runs({"none": PLAIN, "cse": PLAIN - 2 * gains(), "sse": PLAIN + noise, "scse": PLAIN + gains()})
    assert verdict(compare(frame)) == (
        "U-Net: scSE is better than the plain network by 0.014 Dice (p = 0.006); cSE is worse by 0.029 Dice "
        "(p = 0.006); sSE: no detectable difference. Wilcoxon, Holm-corrected; 10 subjects."
    )


def test_verdict_without_positive_effect_says_so() -> None:
    assert verdict(compare(runs({"none": PLAIN, "cse": PLAIN, "scse": PLAIN}))) == (
        "U-Net: no variant is better than the plain network; cSE, scSE: no detectable difference. "
        "Wilcoxon, Holm-corrected; 10 subjects."
    )


def test_verdict_counts_missing_pairs() -> None:
    frame = runs({"none": PLAIN, "cse": PLAIN, "scse": PLAIN[:8] + gains()[:8]})
    assert "8 to 10 subjects, 2 missing for scSE" in verdict(compare(frame))


def test_verdict_has_a_line_for_each_network_also_without_baseline() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN}),
            runs({"scse": PLAIN}, network="densenet"),
            runs({"none": PLAIN}, network="x"),
        ]
    )
    lines = verdict(compare(frame)).splitlines()
    assert lines[0].startswith("U-Net: no variant is better")
    assert lines[1:] == [
        "FC-DenseNet: nothing to compare with the plain network.",
        "x: nothing to compare with the plain network.",
    ]


def test_any_variant_can_be_the_baseline_and_comes_first() -> None:
    comparison = compare(runs({"none": PLAIN, "scse": PLAIN + gains()}), baseline="scse")
    assert comparison.summary["variant"].tolist() == ["scse", "none"]
    assert "no variant is better than scSE; plain is worse by 0.014 Dice" in verdict(comparison)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "plain"}, "baseline 'plain' does not occur .* none, scse"),
        ({"metric": "iou"}, "metric 'iou' does not occur .* dice"),
    ],
)
def test_an_unknown_baseline_or_metric_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(runs({"none": PLAIN, "scse": PLAIN}), **options)


def test_missing_columns_and_doubled_scores_are_refused() -> None:
    frame = runs({"none": PLAIN, "scse": PLAIN})
    with pytest.raises(ValueError, match="lack the columns fold, case;"):
        compare(frame.drop(columns=["fold", "case"]))
    with pytest.raises(ValueError, match="20 scores are there twice"):
        compare(pd.concat([frame, frame]))


def test_false_alarms_stay_near_five_percent() -> None:
    rng = np.random.default_rng(3)
    frame = pd.concat(
        runs({"none": PLAIN, "scse": PLAIN + rng.normal(0, 0.02, CASES)}, structure=f"s{i}") for i in range(400)
    )
    p = compare(frame).tests.set_index("structure")["p"].drop(ALL)
    # the exact test of ten pairs rejects 4.9 % at most; 400 draws scatter by 1.1 %
    assert 0.02 < (p < 0.05).mean() < 0.08


def test_p_values_read_well() -> None:
    assert (p_text(0.0234), p_text(0.00099), p_text(1.0)) == ("= 0.023", "< 0.001", "= 1.000")


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("unet", "U-Net"),
        ("smp:Unet[encoder_name=resnet18]", "smp:Unet[encoder_name=resnet18]"),
        ("path/to/mine.py:make", "mine.py:make"),
        ("somebody's net", "somebody's net"),
    ],
)
def test_networks_are_named_as_people_know_them(network, name):
    assert network_name(network) == name
