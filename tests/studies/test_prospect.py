"""The detectable difference that a plan reports before a study trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datasets import write_nnunet
from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.data.recipe import Recipe
from scse.evaluation import compare
from scse.evaluation.pairing import SCORE_COLUMNS
from scse.evaluation.power import Design, Spread, detectable, trainings_needed
from scse.studies.grid import grid
from scse.studies.plan import Plan
from scse.studies.prospect import PRIOR, keep_spread, prospect
from scse.training.settings import make_settings
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.variants import Variant

CASES = 20
UNET = NetworkSpec.parse("unet")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("planned")
    data = write_nnunet(folder / "data", cases=6, tests=CASES, shape=(6, 6, 6))
    inspection, cases = open_checked(data, skip_bad=False, progress=lambda done, of: None)
    return Plan(
        inspection=inspection,
        dataset=cases,
        recipe=Recipe.derive(inspection.facts_of(cases)),
        settings=make_settings("quick"),
        folds=make_folds(cases, None),
        runs=grid([UNET], [*map(Variant, ["none", "cse", "scse"])], seeds=4, folds=1),
        out=folder / "out",
        cache=folder / "cache",
        device=torch.device("cpu"),
    )


@pytest.fixture
def plan(planned: Plan, tmp_path: Path) -> Plan:
    return replace(planned, cache=tmp_path)


def scores(seeds: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        ("unet", variant, seed, 0, f"c{case}", "a", "dice", 0.8 + rng.normal(0, 0.02))
        for variant in ("none", "scse")
        for seed in range(seeds)
        for case in range(CASES)
    ]
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def test_without_earlier_runs_it_goes_by_a_stated_prior(plan: Plan) -> None:
    what, text = prospect(plan)
    design = Design(CASES, tests=2)
    needed = trainings_needed(PRIOR, design, 0.005)
    assert what == "detectable difference"
    assert text == (
        f"{detectable(PRIOR, design, 4):.3f} Dice or more, with 80 % power and 4 seeds (assuming a spread between "
        f"those of MALC and hippocampus); detecting 0.005 needs about {needed} seeds"
    )


def test_an_earlier_study_of_the_same_data_says_how_they_vary(plan: Plan) -> None:
    found = compare(scores(3))
    keep_spread(plan, found)
    row = found.tests.iloc[0]
    spread = Spread(row["sd_trainings"], row["sd_blocks"], row["sd_rest"])
    text = prospect(plan)[1]
    assert f"{detectable(spread, Design(CASES, tests=2), 4):.3f} Dice or more" in text
    assert "(with the spread of 3 trainings of an earlier study)" in text


def test_a_study_of_fewer_trainings_does_not_replace_what_is_known(plan: Plan) -> None:
    keep_spread(plan, compare(scores(5)))
    keep_spread(plan, compare(scores(3)))
    assert "(with the spread of 5 trainings of an earlier study)" in prospect(plan)[1]


def test_a_damaged_record_counts_as_none_and_is_written_anew(plan: Plan) -> None:
    keep_spread(plan, compare(scores(3)))
    (path,) = (plan.cache / "spreads").iterdir()
    path.write_text("{")
    assert "(assuming a spread between those of MALC and hippocampus)" in prospect(plan)[1]
    keep_spread(plan, compare(scores(3)))
    assert "(with the spread of 3 trainings of an earlier study)" in prospect(plan)[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["spread"].update(rest=float("nan")),
        lambda r: r["spread"].update(rest=-0.1),
        lambda r: r["spread"].update(blocks="0.1"),
        lambda r: r["spread"].pop("trainings"),
        lambda r: r.update(trainings=0),
        lambda r: r.update(trainings=3.5),
        lambda r: r.update(spread=None),
        lambda r: r.update(folds=10**40),
    ],
)
def test_a_record_out_of_bounds_counts_as_none(plan: Plan, change: Callable[[dict[str, Any]], Any]) -> None:
    keep_spread(plan, compare(scores(3)))
    (path,) = (plan.cache / "spreads").iterdir()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert "(assuming a spread between those of MALC and hippocampus)" in prospect(plan)[1]


def test_a_study_too_small_for_a_verdict_keeps_nothing(plan: Plan) -> None:
    keep_spread(plan, compare(scores(2)))
    assert list(plan.cache.iterdir()) == []


def test_a_cross_validation_is_not_judged_by_what_a_fixed_split_showed(plan: Plan) -> None:
    keep_spread(plan, compare(scores(3)))
    text = prospect(replace(plan, folds=make_folds(plan.dataset, 3)))[1]
    seen = detectable(PRIOR, Design(3, tests=2, overlap=3 / 2), 4)
    assert text.startswith(f"{seen:.3f} Dice or more")
    assert "(assuming a spread between those of MALC and hippocampus)" in text


def test_the_margin_may_be_out_of_reach(plan: Plan) -> None:
    assert prospect(replace(plan, margin=1e-5))[1].endswith(
        "; detecting 1e-05 needs more cases, more seeds are not enough"
    )


@pytest.mark.parametrize(("seeds", "text"), [(1, "1 seed;"), (2, "2 seeds;")])
def test_with_too_few_seeds_it_says_that_there_will_be_no_verdict(plan: Plan, seeds: int, text: str) -> None:
    few = replace(plan, runs=grid([UNET], [*map(Variant, ["none", "cse"])], seeds=seeds, folds=1, control=True))
    assert prospect(few) == ("detectable difference", f"no verdict with {text} 3 or more are needed: --seeds 3")


def test_plain_alone_is_compared_with_nothing(plan: Plan) -> None:
    alone = replace(plan, runs=grid([UNET], [*map(Variant, ["none"])], seeds=4, folds=1))
    assert prospect(alone)[1] == "none, because the plain network is the only variant"
