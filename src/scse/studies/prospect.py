"""Power of a study, reported before it trains: from an earlier study of the data, or from a stated assumption."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scse.data.dataset import groups_of
from scse.evaluation.comparison import ALL, Comparison, chosen_margin
from scse.evaluation.power import Design, Spread, detectable, trainings_needed
from scse.evaluation.statistics import FEWEST_TRAININGS, fold_overlap
from scse.reports.provenance import data_digest
from scse.studies.plan import Plan
from scse.support.atomic import write_atomic
from scse.support.errors import DataError
from scse.support.json_files import read_json, validated
from scse.support.text import counted
from scse.vocabulary.variants import PLAIN

PRIOR = Spread(trainings=0.006, blocks=0.004, rest=0.012)
"""Assumed spread of Dice for new data: between those of U-Net on MALC and on hippocampus (docs/evidence.md)."""

METRIC = "dice"

Deviation = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Spread(BaseModel):
    """The fields of `Spread`."""

    model_config = ConfigDict(extra="forbid")

    trainings: Deviation
    blocks: Deviation
    rest: Deviation


class _Record(BaseModel):
    """Record of an earlier study of the same data: its spread, and its numbers of folds and trainings."""

    model_config = ConfigDict(extra="forbid")

    spread: _Spread
    folds: int = Field(ge=1)
    trainings: int = Field(ge=FEWEST_TRAININGS)


def prospect(plan: Plan) -> tuple[str, str]:
    """Row (name, value) of a plan: the smallest Dice difference that it detects, and what its margin needs."""
    seeds = len({run.seed for run in plan.runs if run.variant != PLAIN})
    if not seeds:
        return "detectable difference", "none, because the plain network is the only variant"
    if seeds < FEWEST_TRAININGS:
        return "detectable difference", (
            f"no verdict with {counted(seeds, 'seed')}; {FEWEST_TRAININGS} or more are needed: "
            f"--seeds {FEWEST_TRAININGS}"
        )
    folds, cases = len(plan.folds), len(groups_of(plan.folds[0].test))
    tests = len({run.variant for run in plan.runs}) - 1
    design = Design(folds, tests, fold_overlap(folds)) if folds > 1 else Design(cases, tests)
    spread, source = _spread(plan)
    seen, wanted = detectable(spread, design, seeds), chosen_margin(METRIC, plan.margin)
    needed = trainings_needed(spread, design, wanted) if wanted else None
    asks = f"about {needed} seeds" if needed else "more cases, more seeds are not enough"
    return "detectable difference", (
        f"{seen:.3f} Dice or more, with 80 % power and {seeds} seeds ({source}); detecting {wanted} needs {asks}"
    )


def keep_spread(plan: Plan, comparison: Comparison) -> None:
    """Store the spread of a study for later ones of the same data, unless one of more trainings is stored."""
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
    """The spread that is assumed for the data set, and its source in words."""
    known = _known(plan)
    if known is None:
        return PRIOR, "assuming a spread between those of MALC and hippocampus"
    return Spread(**known.spread.model_dump()), f"with the spread of {known.trainings} trainings of an earlier study"


def _known(plan: Plan) -> _Record | None:
    """The stored record of these data, or None if it is absent, unreadable or of another number of folds."""
    path = _path(plan)
    try:
        record = validated(_Record, read_json(path), path=path, remedy="", strict=True)
    except DataError:
        return None
    return record if record.folds == len(plan.folds) else None


def _path(plan: Plan) -> Path:
    digests = {fact.name: fact.digest for fact in plan.inspection.facts_of(plan.dataset)}
    return plan.cache / "spreads" / f"{data_digest(digests)}.json"
