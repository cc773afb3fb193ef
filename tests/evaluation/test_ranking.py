"""Ranks of variants, and their stability under bootstraps of cases and seeds."""

import numpy as np
import pandas as pd
import pytest

from scores_tables import CASES, PLAIN, gains, runs
from scse.evaluation import ranking


def test_variants_rank_by_their_means_best_first() -> None:
    frame = runs({"none": PLAIN, "cse": PLAIN - gains(), "scse": PLAIN + gains()})
    table = ranking(frame)
    assert table["variant"].tolist() == ["scse", "none", "cse"]
    assert table["rank"].tolist() == [1, 2, 3]
    # every case has the same order, and so has every bootstrap
    assert table["first"].tolist() == [1, 0, 0]
    assert table["low"].tolist() == table["high"].tolist() == [1, 2, 3]
    lower = ranking(frame.assign(metric="hd95"), metric="hd95")
    assert lower["variant"].tolist() == ["cse", "none", "scse"]


def test_the_share_of_first_ranks_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(0.3, 1, 40)
    frame = runs({"none": np.zeros(40), "scse": difference})
    table = ranking(frame, resamples=4000).set_index("variant")
    drawn = rng.choice(difference, (4000, 40)).mean(axis=1)
    assert table.loc["scse", "first"] == pytest.approx((drawn > 0).mean(), abs=0.02)
    assert table["first"].sum() == 1
    assert (table["low"] == 1).all()


def test_bootstraps_draw_whole_subjects() -> None:
    rng = np.random.default_rng(0)
    of_subject = rng.normal(0.3, 1, 10)
    difference = np.concatenate([np.repeat(of_subject[:5], 7), of_subject[5:]])
    frame = runs({"none": np.zeros(40), "scse": difference})
    subjects = np.concatenate([np.repeat(np.arange(5), 7), np.arange(5, 10)])
    table = ranking(frame.assign(subject=np.tile(subjects, 2)), resamples=4000).set_index("variant")
    sums, sizes = of_subject * np.repeat([7, 1], 5), np.repeat([7, 1], 5)
    drawn = rng.choice(10, (4000, 10))
    assert table.loc["scse", "first"] == pytest.approx((sums[drawn].sum(1) / sizes[drawn].sum(1) > 0).mean(), abs=0.02)
    assert (table["cases"] == 40).all()


def test_bootstraps_draw_seeds_apart_from_cases() -> None:
    # every case is better with the first seed and worse with the second, so the drawn seeds determine the rank
    frame = pd.concat(
        runs({"none": PLAIN, "scse": PLAIN + shift}, seed=seed) for seed, shift in enumerate((0.03, -0.02))
    )
    table = ranking(frame, resamples=4000).set_index("variant")
    assert table.loc["scse", "first"] == pytest.approx(3 / 4, abs=0.02)
    assert table.loc["none", "first"] == pytest.approx(1 / 4, abs=0.02)


def test_seeds_that_not_all_variants_have_do_not_count() -> None:
    frame = pd.concat([runs({"none": PLAIN, "scse": PLAIN + gains()}), runs({"none": PLAIN + 1}, seed=1)])
    pd.testing.assert_frame_equal(ranking(frame), ranking(frame[frame["seed"] == 0]))


def test_equal_variants_share_the_rank() -> None:
    table = ranking(runs({"none": [0.3] * CASES, "scse": [0.1 + 0.2] * CASES}))
    assert table["rank"].tolist() == table["first"].tolist() == [1, 1]


def test_only_cases_that_all_variants_have_take_part() -> None:
    # without its two worst cases, the plain network would rank first
    frame = runs({"none": [*PLAIN[2:], np.nan, np.nan], "scse": [*(PLAIN[2:] + 0.01), 0.0, 0.0]})
    table = ranking(frame)
    assert table["variant"].tolist() == ["scse", "none"]
    assert table["cases"].tolist() == [CASES - 2] * 2
    nothing = ranking(runs({"none": [*PLAIN, np.nan], "scse": [np.nan] * CASES + [0.5]}))
    assert nothing["cases"].tolist() == [0, 0]
    assert nothing["rank"].isna().all()


def test_networks_rank_apart_and_repeat_exactly() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (2, CASES))
    frame = pd.concat(
        runs({"none": PLAIN, "scse": PLAIN + shift}, network=name)
        for name, shift in zip(("a", "b"), noise, strict=True)
    )
    pd.testing.assert_frame_equal(ranking(frame), ranking(frame))
    pd.testing.assert_frame_equal(ranking(frame)[2:].reset_index(drop=True), ranking(frame[frame["network"] == "b"]))


def test_variants_rank_within_one_number_of_epochs() -> None:
    frames = [
        runs({"none": PLAIN, "scse": PLAIN + sign * gains()}).assign(epochs=epochs)
        for epochs, sign in ((3, 1), (6, -1))
    ]
    found = ranking(pd.concat(frames))
    assert list(found.columns) == ["network", "epochs", "variant", "rank", "first", "low", "high", "cases"]
    rows = found[["epochs", "variant", "rank"]].itertuples(index=False, name=None)
    assert list(rows) == [(3, "scse", 1), (3, "none", 2), (6, "none", 1), (6, "scse", 2)]
