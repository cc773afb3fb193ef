"""Paired comparison of variants: pairing, counts, tests and their families."""

import numpy as np
import pandas as pd
import pytest

from scores_tables import CASES, LUCK, PLAIN, gains, overall, runs, trainings
from scse.evaluation import compare
from scse.evaluation.comparison import ALL, TABLES
from scse.evaluation.pairing import without_control
from scse.evaluation.power import Design, Spread, detectable
from scse.evaluation.setups import of_setup, setups
from scse.evaluation.statistics import estimate, holm
from scse.support.errors import UserError
from scse.vocabulary.titles import Setup, network_name

COLUMNS = ["network", "variant", "mean", "sd", "median", "cases", "absent", "lacking", "seeds", "sd_seeds"]


def test_summary_is_mean_and_deviation_over_cases_of_the_mean_over_structures() -> None:
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


def of_subjects(frame: pd.DataFrame, cases_each: int) -> pd.DataFrame:
    """The table with consecutive cases as those of one subject."""
    numbers = frame["case"].str.removeprefix("case").astype(int) // cases_each
    return frame.assign(subject="s" + numbers.astype(str))


def test_cases_of_one_subject_count_as_one() -> None:
    noise = np.repeat(np.random.default_rng(0).normal(0.01, 0.02, (1, 7)), 2, axis=1)
    noise = noise + np.random.default_rng(1).normal(0, 0.001, (3, 14))
    plain = np.linspace(0.6, 0.7, 14)
    frame = pd.concat(runs({"none": plain, "scse": plain + noise[seed]}, seed=seed) for seed in range(3))
    row, model = overall(compare(of_subjects(frame, 2))), estimate(noise.reshape(3, 7, 2).mean(2))
    assert (row["trainings"], row["n"], row["better"] + row["worse"]) == (3, 14, 14)
    assert row["difference"] == pytest.approx(noise.mean())
    assert row["p"] == pytest.approx(float(model.p()))
    assert (row["low"], row["high"]) == pytest.approx(tuple(map(float, model.interval())))
    apart = overall(compare(frame))
    assert row["high"] - row["low"] > 1.3 * (apart["high"] - apart["low"])
    design = Design(7, 1, 0.0)
    spread = Spread(*(float(part) for part in model.components))
    assert row["detectable"] == pytest.approx(detectable(spread, design, 3))
    pd.testing.assert_frame_equal(compare(of_subjects(frame, 1)).tests, compare(frame).tests)
    alone = frame.assign(subject=None)
    pd.testing.assert_frame_equal(compare(alone).tests, compare(frame).tests)


def test_few_subjects_are_few_cases() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + gains()})
    assert overall(compare(of_subjects(frame, 2)))["kind"] == "few_cases"
    assert overall(compare(frame))["kind"] != "few_cases"


def test_folds_hold_whole_subjects_and_stay_the_blocks() -> None:
    noise = np.random.default_rng(0).normal(0.01, 0.02, (3, 12))
    tables = [
        runs({"none": np.zeros(12), "scse": noise[seed]}, seed=seed).assign(fold=np.tile(np.arange(12) // 4, 2))
        for seed in range(3)
    ]
    frame = pd.concat(tables, ignore_index=True)
    pd.testing.assert_frame_equal(
        compare(of_subjects(frame, 2)).tests.drop(columns="kind"), compare(frame).tests.drop(columns="kind")
    )
    assert overall(compare(of_subjects(frame, 4)))["kind"] == "few_cases"


def test_a_case_of_two_subjects_is_refused() -> None:
    frame = runs({"none": PLAIN, "scse": PLAIN})
    frame["subject"] = [f"s{number}" for number in range(len(frame))]
    with pytest.raises(UserError, match="case case0 has the subjects s0 and s10; give it one"):
        compare(frame)


def test_the_effect_is_the_mean_difference_by_the_crossed_model() -> None:
    noise = np.random.default_rng(0).normal(0.01, 0.02, (3, CASES))
    frame = pd.concat(runs({"none": PLAIN, "scse": PLAIN + noise[seed]}, seed=seed) for seed in range(3))
    row, model = overall(compare(frame)), estimate(noise)
    assert (row["trainings"], row["n"], row["missing"]) == (3, CASES, 0)
    assert row["difference"] == pytest.approx(noise.mean())
    assert row["p"] == pytest.approx(float(model.p()))
    assert (row["low"], row["high"]) == pytest.approx(tuple(map(float, model.interval())))
    assert row["p_equivalent"] == pytest.approx(float(model.p_equivalent(0.005)))
    spread = Spread(row["sd_trainings"], row["sd_blocks"], row["sd_rest"])
    assert (spread.trainings, spread.blocks, spread.rest) == pytest.approx(tuple(map(float, model.components)))
    assert row["detectable"] == pytest.approx(detectable(spread, Design(CASES), 3))


def test_cases_are_counted_by_their_mean_over_trainings() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN + gains() + 0.2}, seed=0),
            runs({"none": PLAIN, "scse": PLAIN + gains() - 0.2}, seed=1),
        ]
    )
    row = overall(compare(frame))
    assert compare(frame).summary["cases"].tolist() == [CASES, CASES]
    assert row["n"] == row["better"] == CASES
    assert row["difference"] == pytest.approx(gains().mean())


def test_trainings_are_paired_by_their_seed() -> None:
    shifts = np.array([[0.0, 0.5, 0.1], [0.1, 0.61, 0.19]])
    frame = pd.concat(
        runs({"none": PLAIN + plain, "scse": PLAIN + other}, seed=seed) for seed, (plain, other) in enumerate(shifts.T)
    )
    row = overall(compare(frame))
    assert row["difference"] == pytest.approx(0.1)
    assert row["sd_trainings"] == pytest.approx(0.01)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_the_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + gains()})
    shuffled = pd.concat([frame[frame["seed"] == seed].sample(frac=1, random_state=seed) for seed in order])
    first, second = overall(compare(frame)), overall(compare(shuffled))
    assert {key: pytest.approx(value, nan_ok=True) for key, value in first.items()} == second


def test_trainings_that_only_the_baseline_has_are_its_control() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + gains()})
    control = pd.concat([runs({"none": PLAIN + 0.3 + 0.01 * seed}, seed=seed) for seed in (3, 4, 5)])
    found, alone = compare(pd.concat([frame, control])), compare(frame)
    pd.testing.assert_frame_equal(found.tests, alone.tests)
    pd.testing.assert_frame_equal(found.summary, alone.summary)
    assert found.missing.empty
    assert found.noise.to_dict("records")[0] | {"alarms": 0} == {
        "network": "unet", "trainings": 6, "apart": pytest.approx(found.noise["apart"][0]), "against": 3,
        "splits": 60, "exact": True, "alarms": 0,
    }  # fmt: skip
    assert (alone.noise["trainings"].tolist(), alone.noise["splits"].tolist()) == ([3], [0])
    pd.testing.assert_frame_equal(without_control(pd.concat([frame, control]), "none"), frame)
    only = frame[frame["variant"] == "none"]
    pd.testing.assert_frame_equal(without_control(only, "none"), only)


def test_a_case_that_several_folds_test_is_one_case() -> None:
    frame = pd.concat(trainings({"none": PLAIN, "scse": PLAIN + 0.01 * (1 + fold)}, fold=fold) for fold in (0, 1))
    row = overall(compare(frame))
    assert (row["n"], row["trainings"]) == (CASES, 3)
    assert row["difference"] == pytest.approx(0.015 + np.mean(LUCK))


def folded(differences: np.ndarray) -> pd.DataFrame:
    """A cross-validation: (trainings, folds, cases of a fold) differences of "scse" to a plain 0.7."""
    tables = []
    for (seed, fold), values in zip(
        np.ndindex(differences.shape[:2]), differences.reshape(-1, differences.shape[2]), strict=True
    ):
        table = runs({"none": np.full(len(values), 0.7), "scse": 0.7 + values}, seed=seed, fold=fold)
        tables.append(table.assign(case=table["case"] + f"-{fold}"))
    return pd.concat(tables, ignore_index=True)


def test_a_cross_validation_is_tested_over_folds_that_overlap() -> None:
    differences = 0.01 + np.random.default_rng(0).normal(0, 0.01, (3, 5, 4))
    row, model = overall(compare(folded(differences))), estimate(differences.mean(axis=2), overlap=5 / 4)
    assert (row["n"], row["trainings"]) == (20, 3)
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["p"] == pytest.approx(float(model.p()))
    assert row["sd_blocks"] == pytest.approx(float(model.components[1]))


def test_folds_of_different_sizes_are_weighed_with_their_cases_in_the_mean() -> None:
    frame = folded(0.01 + np.random.default_rng(0).normal(0, 0.01, (3, 3, 4)))
    frame = frame[~frame["case"].isin(["case2-0", "case3-0"])]
    wide = frame.pivot_table(index=["seed", "case"], columns="variant", values="value")
    assert overall(compare(frame))["difference"] == pytest.approx((wide["scse"] - wide["none"]).mean())


def test_a_table_without_folds_is_compared_too() -> None:
    assert overall(compare(runs({"none": PLAIN, "scse": PLAIN + gains()}, fold=np.nan)))["n"] == CASES


def test_equal_scores_have_p_one_and_are_equivalent() -> None:
    # 0.1 + 0.2 is not 0.3 in floating point
    frame = pd.concat(runs({"none": [0.3] * CASES, "scse": [0.1 + 0.2] * CASES}, seed=seed) for seed in range(3))
    row = overall(compare(frame))
    assert (row["p"], row["p_holm"], row["kind"]) == (1.0, 1.0, "equivalent")
    assert (row["better"], row["equal"], row["worse"]) == (0, CASES, 0)


@pytest.mark.parametrize(
    ("seeds", "cases", "kind"),
    [(1, CASES, "few_trainings"), (2, CASES, "few_trainings"), (3, 5, "few_cases"), (1, 5, "few_cases")],
)
def test_with_few_trainings_or_cases_there_is_neither_p_nor_interval(seeds: int, cases: int, kind: str) -> None:
    frame = trainings({"none": PLAIN[:cases], "scse": PLAIN[:cases] + gains()[:cases]}, luck=LUCK[:seeds])
    row = overall(compare(frame))
    assert np.isnan([row[key] for key in ("p", "p_holm", "p_equivalent", "low", "high", "detectable", "needed")]).all()
    assert (row["kind"], row["n"], row["trainings"], row["better"]) == (kind, cases, seeds, cases)
    assert row["difference"] == pytest.approx(gains()[:cases].mean() + np.mean(LUCK[:seeds]))


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_never_say_better_worse_or_equivalent(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    for _ in range(60):
        shift, noise = rng.choice([0, 1e-6, 0.01, 1]), rng.choice([0, 1e-9, 0.001, 1])
        folds, cases, margin = rng.integers(1, 4), rng.integers(1, 30), rng.choice([1e-3, 0.1, 10])
        tables = [
            runs(
                {v: shift * (v != "none") + noise * rng.normal(size=cases) for v in ("none", "cse", "scse")},
                seed=s,
                fold=f,
            )
            for s in range(seeds)
            for f in range(folds)
        ]
        frame = pd.concat([table.assign(case=table["case"] + f"-{i % folds}") for i, table in enumerate(tables)])
        assert set(compare(frame, margin=margin).tests["kind"]) <= {"few_trainings", "few_cases"}


def test_the_spread_over_seeds_is_apart_from_that_over_cases() -> None:
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
    assert (row["n"], row["missing"], row["trainings"]) == (CASES - 2, 2, 2)


def test_incomplete_cases_and_trainings_are_left_out() -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN + gains()}, luck=(*LUCK, 0.4))
    gone = (frame["seed"] == 3) & (frame["case"] > "case3") & (frame["variant"] == "scse")
    gone |= (frame["seed"] == 0) & (frame["case"] == "case0") & (frame["variant"] == "scse")
    row = overall(compare(frame[~gone]))
    assert (row["trainings"], row["n"], row["missing"]) == (3, CASES - 1, 7)
    assert row["difference"] == pytest.approx(gains()[1:].mean() + np.mean(LUCK))


def test_seeds_that_differ_from_fold_to_fold_lack_nothing_and_are_one_training() -> None:
    frame = pd.concat(
        table.assign(case=table["case"] + f"-{fold}")
        for fold in range(3)
        for table in [runs({"none": PLAIN, "scse": PLAIN + 0.01 * fold}, seed=fold, fold=fold)]
    )
    row = overall(compare(frame))
    assert compare(frame).missing.empty
    assert (row["trainings"], row["n"], row["kind"]) == (1, 3 * CASES, "few_trainings")
    assert row["difference"] == pytest.approx(0.01)


def test_families_are_the_overall_tests_and_the_structure_tests_of_each_network() -> None:
    rng = np.random.default_rng(1)
    frame = pd.concat(
        runs({v: PLAIN + rng.normal(0, 0.02, CASES) for v in ("none", "cse", "scse")}, network=net, structure=s, seed=i)
        for net in ("unet", "sdnet")
        for s in ("a", "b")
        for i in range(3)
    )
    tests = compare(frame).tests
    for network in ("unet", "sdnet"):
        for family in (tests["structure"] == ALL, tests["structure"] != ALL):
            rows = tests[family & (tests["network"] == network)]
            for name in ("p", "p_equivalent"):
                assert rows[name].notna().all()
                np.testing.assert_allclose(rows[f"{name}_holm"], holm(rows[name].to_numpy()))
    assert tests["structure"].tolist() == [ALL, "a", "b"] * 4
    assert tests["network"].tolist() == ["unet"] * 6 + ["sdnet"] * 6


def swept() -> pd.DataFrame:
    """Scores of U-Net with 3 epochs, with 12, and without a number, in rows that are not sorted."""
    frames = [
        trainings({"none": PLAIN, "cse": PLAIN, "scse": PLAIN + gains()}).assign(epochs=3),
        trainings({"none": PLAIN, "scse": PLAIN - gains()}).assign(epochs=12),
        runs({"none": PLAIN, "scse": PLAIN}),
        runs({"none": PLAIN}, seed=7).assign(epochs=12),  # a control
    ]
    frames[1].loc[1, "value"] = np.nan
    frames[1] = frames[1].drop(index=3)
    return pd.concat(frames, ignore_index=True).sort_values(["seed", "case"], kind="stable", ignore_index=True)


def test_variants_are_compared_within_one_number_of_epochs() -> None:
    frame = swept()
    found = compare(frame)
    assert setups(found.summary) == [Setup("unet", 3), Setup("unet", 12), Setup("unet")]
    for setup in setups(found.summary):
        rows = frame[frame["epochs"].isna() if setup.epochs is None else frame["epochs"] == setup.epochs]
        alone = compare(rows.drop(columns="epochs"))
        for name in TABLES:
            table = of_setup(getattr(found, name), setup).drop(columns="epochs").reset_index(drop=True)
            pd.testing.assert_frame_equal(table, getattr(alone, name), check_dtype=False)
    assert all(list(getattr(found, name).columns[:2]) == ["network", "epochs"] for name in TABLES)
    assert len(found.missing) == 2
    assert of_setup(found.noise, Setup("unet", 12))["trainings"].tolist() == [4]


def test_the_columns_of_a_sweep_are_whole_numbers_and_tell_scores_apart() -> None:
    twice = pd.concat([runs({"none": PLAIN, "scse": PLAIN}).assign(train_cases=3)] * 2, ignore_index=True)
    with pytest.raises(
        ValueError, match=r"20 scores are duplicates, the first in rows 0 and 20 \(network unet, train_c"
    ):
        compare(twice)
    twice.loc[20:, "train_cases"] = 6
    assert compare(twice).summary["train_cases"].tolist() == [3, 3, 6, 6]
    with pytest.raises(ValueError, match="scores, row 0: train_cases is 'few'; allowed: whole numbers"):
        compare(twice.assign(train_cases="few"))


def test_overall_difference_uses_only_structures_that_both_variants_have() -> None:
    frame = pd.concat(
        [
            runs({"none": PLAIN, "scse": PLAIN}, structure="easy"),
            runs({"none": [np.nan] * CASES, "scse": [0.0] * CASES}, structure="absent"),
        ]
    )
    assert overall(compare(frame))["difference"] == 0


@pytest.mark.parametrize(
    ("metric", "said", "kind"),
    [("dice", None, "worse"), ("hd95", None, "better"), ("ASSD", None, "better"), ("mine", True, "better")],
)
def test_the_direction_of_a_metric_is_known_or_said(metric: str, said: bool | None, kind: str) -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN - gains()}, metric=metric)
    row = overall(compare(frame, metric=metric, lower_is_better=said))
    assert row["kind"] == kind
    assert (row["better"], row["worse"]) == ((CASES, 0) if kind == "better" else (0, CASES))
    assert row["difference"] < 0


def test_the_direction_of_an_unknown_metric_must_be_said() -> None:
    with pytest.raises(ValueError, match=r"metric 'mine': .*--lower-is-better or --higher-is-better"):
        compare(runs({"none": PLAIN, "scse": PLAIN}, metric="mine"), metric="mine")


@pytest.mark.parametrize(
    ("shift", "luck", "kind"),
    [
        (0.03, (0.001, -0.001, 0.0), "better"),
        (-0.03, (0.001, -0.001, 0.0), "worse"),
        (0.001, (0.0005, -0.0005, 0.0), "equivalent"),
        (0.01, (0.02, -0.02, 0.0), "undecided"),
    ],
)
def test_the_kind_follows_from_difference_and_spread(shift: float, luck: tuple[float, ...], kind: str) -> None:
    row = overall(compare(trainings({"none": PLAIN, "scse": PLAIN + shift}, luck=luck)))
    assert row["kind"] == kind
    assert row["low"] < shift + np.mean(luck) < row["high"]


def test_a_difference_that_is_not_zero_but_within_the_margin_is_equivalent() -> None:
    row = overall(compare(trainings({"none": PLAIN, "scse": PLAIN + 0.002}, luck=(1e-4, -1e-4, 0.0))))
    assert row["p_holm"] < 0.05
    assert row["kind"] == "equivalent"


@pytest.mark.parametrize(("metric", "margin"), [("dice", 0.005), ("iou", 0.005), ("hd95", None), ("msd", None)])
def test_metrics_between_zero_and_one_have_a_margin_of_their_own(metric: str, margin: float | None) -> None:
    frame = trainings({"none": PLAIN, "scse": PLAIN}, luck=(1e-4, -1e-4, 0.0), metric=metric)
    found = compare(frame, metric=metric)
    assert found.margin == margin
    assert overall(found)["kind"] == ("undecided" if margin is None else "equivalent")
    assert overall(compare(frame, metric=metric, margin=1.0))["kind"] == "equivalent"


@pytest.mark.parametrize("margin", [0.0, -0.01, float("nan")])
def test_a_margin_that_is_not_positive_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin must be positive, in units of dice, got"):
        compare(runs({"none": PLAIN, "scse": PLAIN}), margin=margin)


def test_networks_without_the_baseline_are_described_but_not_tested() -> None:
    frame = pd.concat([runs({"none": PLAIN, "scse": PLAIN}), runs({"scse": PLAIN}, network="densenet")])
    comparison = compare(frame)
    assert comparison.tests["network"].unique().tolist() == ["unet"]
    assert comparison.summary["network"].tolist() == ["unet", "unet", "densenet"]
    alone = compare(frame[frame["variant"] == "none"])
    assert alone.tests.empty
    assert alone.summary["cases"].tolist() == [CASES]


def test_any_variant_can_be_the_baseline_and_comes_first() -> None:
    comparison = compare(trainings({"none": PLAIN, "my block": PLAIN + gains()}), baseline="my block")
    assert comparison.summary["variant"].tolist() == ["my block", "none"]
    assert comparison.tests["variant"].unique().tolist() == ["none"]
    assert overall(comparison, "none")["kind"] == "worse"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "plain"}, "baseline 'plain' does not occur in the scores of dice; choose none, scse"),
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
    with pytest.raises(ValueError, match=r"20 scores are duplicates, the first in rows 0 and 20 .*case case0"):
        compare(pd.concat([frame, frame], ignore_index=True))
    with pytest.raises(ValueError, match="row 4: the value is infinite"):
        compare(frame.assign(value=frame["value"].where(frame.index != 4, np.inf)))
    with pytest.raises(ValueError, match="value must contain numbers"):
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
