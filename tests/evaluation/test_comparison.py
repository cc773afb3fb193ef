"""Paired comparison of variants: pairing, what is counted, tests and their families."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scores_tables import CASES, PLAIN, UNSURE, gains, overall, runs

from scse.evaluation import compare
from scse.evaluation.comparison import ALL
from scse.evaluation.statistics import hodges_lehmann, holm, rank_biserial
from scse.networks.titles import network_name

COLUMNS = ["network", "variant", "mean", "sd", "median", "cases", "absent", "lacking", "seeds", "sd_seeds"]


def test_summary_is_mean_and_deviation_over_subjects_of_the_mean_over_structures() -> None:
    frame = pd.concat(
        [
            runs({"none": [0.2, 0.4], "scse": [0.6, 0.8]}, structure="a"),
            runs({"none": [0.4, 0.8], "scse": [0.8, 0.8]}, structure="b"),
        ]
    )
    summary = compare(frame).summary
    assert list(summary.columns) == COLUMNS
    summary = summary.set_index("variant")
    assert summary.loc["none", "mean"] == pytest.approx(np.mean([0.3, 0.6]))
    assert summary.loc["none", "sd"] == pytest.approx(np.std([0.3, 0.6], ddof=1))
    assert summary.loc["none", "median"] == pytest.approx(0.45)
    assert summary.loc["scse", "cases"] == 2
    assert np.isnan(summary.loc["scse", "sd_seeds"])


def test_structures_absent_from_both_are_left_out_and_counted() -> None:
    frame = pd.concat(
        [runs({"none": [0.2, 0.4], "scse": [0.6, 0.8]}, structure="a"), runs({"none": [np.nan] * 2}, structure="b")]
    )
    comparison = compare(frame)
    summary = comparison.summary.set_index("variant")
    assert summary.loc["none", "mean"] == pytest.approx(0.3)
    assert summary["absent"].to_dict() == {"none": 2, "scse": 0}
    assert summary["lacking"].to_dict() == {"none": 0, "scse": 2}
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


def test_a_case_in_two_folds_is_one_subject() -> None:
    frame = pd.concat(runs({"none": PLAIN, "scse": PLAIN + 0.01 * (1 + fold)}, fold=fold) for fold in (0, 1))
    assert overall(compare(frame))["n"] == CASES
    assert overall(compare(frame))["median_difference"] == pytest.approx(0.015)


def test_a_table_without_folds_is_compared_too() -> None:
    assert overall(compare(runs({"none": PLAIN, "scse": PLAIN + gains()}, fold=np.nan)))["n"] == CASES


def test_p_is_that_of_scipy() -> None:
    values = PLAIN + np.random.default_rng(0).normal(0.01, 0.02, CASES)
    row = overall(compare(runs({"none": PLAIN, "scse": values})))
    assert row["p"] == pytest.approx(stats.wilcoxon(values, PLAIN, method="exact").pvalue)
    assert row["median_difference"] == pytest.approx(np.median(values - PLAIN))
    assert row["mean_difference"] == pytest.approx(np.mean(values - PLAIN))
    assert row["hodges_lehmann"] == pytest.approx(hodges_lehmann(values - PLAIN))
    assert row["rank_biserial"] == pytest.approx(rank_biserial(values - PLAIN))
    assert row["low"] < row["median_difference"] < row["high"]


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


def test_with_five_pairs_there_is_neither_p_nor_interval() -> None:
    row = overall(compare(runs({"none": PLAIN[:5], "scse": PLAIN[:5] + gains()[:5]})))
    assert np.isnan([row["p"], row["p_holm"], row["low"], row["high"]]).all()
    assert (row["kind"], row["n"], row["better"]) == ("few", 5, 5)
    assert row["median_difference"] == pytest.approx(np.median(gains()[:5]))


def test_seeds_are_told_apart_from_cases() -> None:
    frame = pd.concat(
        runs({"none": PLAIN, "scse": PLAIN + shift}, seed=seed) for seed, shift in enumerate((0.03, 0.01))
    )
    comparison = compare(frame)
    seeds = comparison.seeds.set_index(["variant", "seed"])
    assert seeds.loc["scse", "difference"].tolist() == pytest.approx([0.03, 0.01])
    assert seeds.loc["scse", "mean"].tolist() == pytest.approx(list(PLAIN.mean() + np.array([0.03, 0.01])))
    assert seeds.loc["none", "difference"].isna().all()
    summary = comparison.summary.set_index("variant")
    assert summary["seeds"].tolist() == [2, 2]
    assert summary.loc["scse", "sd_seeds"] == pytest.approx(np.std([0.03, 0.01], ddof=1))
    assert summary.loc["scse", "sd"] == pytest.approx(PLAIN.std(ddof=1))


def test_every_score_that_is_not_there_is_named() -> None:
    frame = pd.concat(runs({"none": PLAIN, "scse": PLAIN + gains()}, seed=seed) for seed in (0, 1))
    gone = (frame["seed"] == 1) & (frame["case"] == "case3")  # for all variants: only the other seed knows this case
    frame.loc[(frame["variant"] == "scse") & (frame["case"] == "case5") & (frame["seed"] == 0), "value"] = np.nan
    comparison = compare(frame[~gone])
    assert comparison.missing.to_dict("records") == [
        {"network": "unet", "variant": v, "seed": s, "fold": 0, "case": c, "structure": "caudate", "why": why}
        for v, s, c, why in (
            ("none", 1, "case3", "no row"),
            ("scse", 1, "case3", "no row"),
            ("scse", 0, "case5", "NaN"),
        )
    ]
    row = overall(comparison)
    assert (row["n"], row["missing"]) == (CASES, 2)


def test_seeds_that_differ_from_fold_to_fold_lack_nothing() -> None:
    frame = pd.concat(runs({"none": PLAIN, "scse": PLAIN}, seed=fold, fold=fold) for fold in (0, 1))
    assert compare(frame).missing.empty


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
    assert tests["network"].tolist() == ["unet"] * 6 + ["sdnet"] * 6


def test_overall_difference_uses_only_structures_that_both_variants_have() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN}, structure="easy"),
            runs({"none": [np.nan] * CASES, "scse": [0.0] * CASES}, structure="absent"),
        ]
    )
    assert overall(compare(frame))["mean_difference"] == 0


@pytest.mark.parametrize(
    ("metric", "said", "kind"),
    [("dice", None, "worse"), ("hd95", None, "better"), ("ASSD", None, "better"), ("mine", True, "better")],
)
def test_the_direction_of_a_metric_is_known_or_said(metric: str, said: bool | None, kind: str) -> None:
    frame = runs({"none": PLAIN, "scse": PLAIN - gains()}, metric=metric)
    row = overall(compare(frame, metric=metric, lower_is_better=said))
    assert row["kind"] == kind
    assert (row["better"], row["worse"]) == ((CASES, 0) if kind == "better" else (0, CASES))
    assert row["mean_difference"] < 0
    assert row["rank_biserial"] == -1


def test_the_direction_of_an_unknown_metric_must_be_said() -> None:
    with pytest.raises(ValueError, match=r"metric 'mine': .*--lower-is-better or --higher-is-better"):
        compare(runs({"none": PLAIN, "scse": PLAIN}, metric="mine"), metric="mine")


def test_significance_without_an_interval_that_excludes_zero_is_no_detectable_difference() -> None:
    row = overall(compare(runs({"none": np.full(15, 0.7), "scse": 0.7 + UNSURE})))
    assert row["p_holm"] < 0.05
    assert row["low"] < 0 < row["hodges_lehmann"]
    assert row["kind"] == "same"


@pytest.mark.parametrize(("signs", "kind"), [((1, 1, -1), "better"), ((1, -1), "same"), ((1, -1, -1), "same")])
def test_more_than_half_of_the_seeds_must_agree(signs: tuple[int, ...], kind: str) -> None:
    # the first seed's gains are the largest, so that the mean over seeds is a gain
    sizes = [3.0] + [0.5] * (len(signs) - 1)
    frame = pd.concat(
        runs({"none": PLAIN, "scse": PLAIN + sign * size * gains()}, seed=seed)
        for seed, (sign, size) in enumerate(zip(signs, sizes, strict=True))
    )
    row = overall(compare(frame))
    assert row["kind"] == kind
    assert row["seeds"] == len(signs)
    assert row["seeds_agree"] == sum(sign == np.sign(row["median_difference"]) for sign in signs)


def test_one_seed_is_not_asked_whether_it_agrees_with_itself() -> None:
    mostly_gains = np.array([*(0.01 * np.arange(1, 15)), -3.0])
    row = overall(compare(runs({"none": np.zeros(15), "scse": mostly_gains})))
    assert (row["seeds"], row["seeds_agree"], row["mean_difference"] < 0) == (1, 0, True)
    assert row["kind"] == "better"


def test_seeds_agree_for_each_structure_alone_and_without_pairs_do_not_count() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN + gains()}, seed=0),
            runs({"none": PLAIN, "scse": PLAIN + gains()}, seed=0, structure="putamen"),
            runs({"none": PLAIN, "scse": PLAIN - gains() / 2}, seed=1),
            runs({"none": PLAIN, "scse": np.full(CASES, np.nan)}, seed=1, structure="putamen"),
        ]
    )
    tests = compare(frame).tests.set_index("structure")
    assert tests.loc["caudate", ["seeds", "seeds_agree", "kind"]].tolist() == [2, 1, "same"]
    assert tests.loc["putamen", ["seeds", "seeds_agree", "kind"]].tolist() == [1, 1, "better"]


def test_networks_without_the_baseline_are_described_but_not_tested() -> None:
    frame = pd.concat([runs({"none": PLAIN, "scse": PLAIN}), runs({"scse": PLAIN}, network="densenet")])
    comparison = compare(frame)
    assert comparison.tests["network"].unique().tolist() == ["unet"]
    assert comparison.summary["network"].tolist() == ["unet", "unet", "densenet"]
    alone = compare(frame[frame["variant"] == "none"])
    assert alone.tests.empty
    assert alone.summary["cases"].tolist() == [CASES]


def test_any_variant_can_be_the_baseline_and_comes_first() -> None:
    comparison = compare(runs({"none": PLAIN, "my block": PLAIN + gains()}), baseline="my block")
    assert comparison.summary["variant"].tolist() == ["my block", "none"]
    assert comparison.tests["variant"].unique().tolist() == ["none"]
    assert overall(comparison, "none")["kind"] == "worse"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "plain"}, "baseline 'plain' does not occur among the scores of dice; choose none, scse"),
        ({"metric": "iou"}, "metric 'iou' does not occur; choose dice"),
    ],
)
def test_an_unknown_baseline_or_metric_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(runs({"none": PLAIN, "scse": PLAIN}), **options)


def test_missing_columns_doubled_and_infinite_scores_are_refused() -> None:
    frame = runs({"none": PLAIN, "scse": PLAIN})
    with pytest.raises(ValueError, match="no column fold, case;"):
        compare(frame.drop(columns=["fold", "case"]))
    with pytest.raises(ValueError, match=r"20 scores are there twice, the first in the rows 0 and 20 .*case case0"):
        compare(pd.concat([frame, frame], ignore_index=True))
    with pytest.raises(ValueError, match="row 4: the value is infinite"):
        compare(frame.assign(value=frame["value"].where(frame.index != 4, np.inf)))
    with pytest.raises(ValueError, match="value must hold numbers"):
        compare(frame.assign(value="0.7"))


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
