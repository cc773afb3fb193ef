"""What a study will be able to see, reported before it trains: from earlier runs on the data, or a stated prior."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scse.evaluation.comparison import ALL, Comparison, chosen_margin
from scse.evaluation.power import Design, Spread, detectable, trainings_needed
from scse.evaluation.statistics import FEWEST_TRAININGS, fold_overlap
from scse.reports.provenance import data_digest
from scse.studies.plan import Plan
from scse.support.atomic import write_atomic
from scse.support.errors import DataError
from scse.support.json_files import read_json, validated
from scse.vocabulary.variants import PLAIN

PRIOR = Spread(trainings=0.006, blocks=0.004, rest=0.012)
"""Of Dice, for data that no study has seen: between what U-Net showed on MALC and on hippocampus (docs/evidence.md)."""

METRIC = "dice"

Deviation = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Spread(BaseModel):
    """The fields of `Spread`."""

    model_config = ConfigDict(extra="forbid")

    trainings: Deviation
    blocks: Deviation
    rest: Deviation


class _Record(BaseModel):
    """What an earlier study of the same data left: its spread, and how many folds and trainings it comes from."""

    model_config = ConfigDict(extra="forbid")

    spread: _Spread
    folds: int = Field(ge=1)
    trainings: int = Field(ge=FEWEST_TRAININGS)


def prospect(plan: Plan) -> tuple[str, str]:
    """The smallest difference in Dice that a study will find, and what its margin would need; a row (what, value)."""
    seeds = len({run.seed for run in plan.runs if run.variant != PLAIN})
    if not seeds:
        return "can see", "nothing: plain alone is compared with no variant"
    if seeds < FEWEST_TRAININGS:
        return "can see", (
            f"no verdict with {seeds} seed{'' if seeds == 1 else 's'}; {FEWEST_TRAININGS} or more are needed: "
            f"--seeds {FEWEST_TRAININGS}"
        )
    folds, cases = len(plan.folds), len(plan.folds[0].test)
    tests = len({run.variant for run in plan.runs}) - 1
    design = Design(folds, tests, fold_overlap(folds)) if folds > 1 else Design(cases, tests)
    spread, source = _spread(plan)
    seen, wanted = detectable(spread, design, seeds), chosen_margin(METRIC, plan.margin)
    needed = trainings_needed(spread, design, wanted) if wanted else None
    asks = f"needs about {needed} seeds" if needed else "needs more cases: no number of seeds is enough"
    return "can see", (
        f"a true difference of {seen:.3f} Dice or more with 80 % power, by {seeds} seeds "
        f"({source}); to find {wanted} {asks}"
    )


def keep_spread(plan: Plan, comparison: Comparison) -> None:
    """Keep how much the differences of a study vary, for the next study of the same data; most trainings go first."""
    tests = comparison.tests[(comparison.tests["structure"] == ALL) & comparison.tests["p"].notna()]
    if tests.empty:
        return
    columns = {"trainings": "sd_trainings", "blocks": "sd_blocks", "rest": "sd_rest"}
    # variances, not deviations, are averaged over variants and networks
    spread = _Spread(**{name: float((tests[column] ** 2).mean() ** 0.5) for name, column in columns.items()})
    record = _Record(spread=spread, folds=len(plan.folds), trainings=int(tests["trainings"].min()))
    known = _known(plan)
    if known is None or known.trainings <= record.trainings:
        write_atomic(_path(plan), record.model_dump_json(indent=2).encode())


def _spread(plan: Plan) -> tuple[Spread, str]:
    """What is known of the data set's differences, and from where."""
    known = _known(plan)
    if known is None:
        return PRIOR, "assuming a spread between those of MALC and hippocampus"
    return Spread(**known.spread.model_dump()), f"as {known.trainings} trainings of an earlier study of these data vary"


def _known(plan: Plan) -> _Record | None:
    """The record of these data, if it is readable and of as many folds; being a cache, it is written anew otherwise."""
    path = _path(plan)
    try:
        record = validated(_Record, read_json(path), path=path, remedy="", strict=True)
    except DataError:
        return None
    return record if record.folds == len(plan.folds) else None


def _path(plan: Plan) -> Path:
    digests = {fact.name: fact.digest for fact in plan.inspection.facts_of(plan.dataset)}
    return plan.cache / "spreads" / f"{data_digest(digests)}.json"
