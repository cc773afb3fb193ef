"""The study: train and test every variant of every network on the same cases, compare, report."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from scse.data.folds import make_folds
from scse.data.inspection import open_checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe
from scse.evaluation.comparison import Comparison, chosen_margin, compare
from scse.evaluation.quality import run_columns
from scse.evaluation.scores import write_scores
from scse.evaluation.verdict import verdict_text
from scse.executors.base import Executor
from scse.gates.channel_gates import channel_gates
from scse.inference.devices import choose_device
from scse.inference.finished import FinishedRun
from scse.reports.page import StudyFacts, write_report
from scse.reports.viewer import viewer_data
from scse.simulation.writing import simulate_cohort
from scse.studies.estimate import plan_time
from scse.studies.execution import do_run, read_scores
from scse.studies.facts import facts_of
from scse.studies.grid import RUNS, expand_variants, grid
from scse.studies.plan import Plan, describe, find_places
from scse.studies.prospect import keep_spread, prospect
from scse.studies.request import REQUEST, StudyRequest
from scse.studies.results import costs_of, curves_of
from scse.studies.sharing import LOCKS, claimed
from scse.support.atomic import write_atomic
from scse.support.errors import UserError
from scse.support.events import OnEvent, Planned, Reported, Stop, Watch, ignore, never
from scse.support.requests import signed
from scse.training.settings import reject_unused, without_class_weights
from scse.zoo.building import find_factory

COHORT_CASES, COHORT_SEED, COHORT_SPACING = 30, 0, 3.0

WRITTEN = (
    "scores.csv",
    "scores.parquet",
    "costs.csv",
    "curves.csv",
    "viewer.json",
    "gates.parquet",
    "report",
    "cohort",
    "study.json",
)
"""What a study writes into its folder once the locks are there."""


@dataclass(frozen=True)
class StudyResult:
    """Result of a study.

    Attributes:
        folder: Folder of the study, with `runs`, `scores.parquet`, `scores.csv`, `costs.csv`, `curves.csv` and
            `report`.
        scores: Scores of all runs, one score per row.
        costs: Parameters and times of every variant.
        comparison: Comparison of the variants by Dice.
        report: Path of the page.
    """

    folder: Path
    scores: pd.DataFrame
    costs: pd.DataFrame
    comparison: Comparison
    report: Path

    def __str__(self) -> str:
        """The verdict, in words."""
        return verdict_text(self.comparison, self.costs)


@signed(StudyRequest)
def study(
    dataset: Path | str | None = None,
    *,
    cache: Path | None = None,
    on_event: OnEvent = ignore,
    stop: Stop = never,
    **fields: Any,
) -> StudyResult:
    """Train and compare variants on the same cases, order, augmentation and shared initial weights.

    A second call with the same arguments skips finished runs and continues interrupted ones. If the first call is still
    running, in another process, both share the runs.

    Args:
        dataset: The data set, in any layout that `Dataset.open` reads; None simulates the built-in cohort.
        cache: Folder of the prepared arrays.
        on_event: Called with every event, see `scse.support.events`.
        stop: Called after every training step and case; True stops the study.
        fields: Fields of `scse.studies.request.StudyRequest`: networks, variants, seeds, folds, out, preset and others.

    Raises:
        UserError: An argument is unknown or its value is not allowed.
        DataError: The data have problems, or `out` contains another study.
        StoppedError: `stop` returned True; call again to continue.
    """
    request = StudyRequest.make({"dataset": dataset, **fields})
    return run_study(request, Watch(on_event, stop), cache=cache, command=request.as_call())


def run_study(request: StudyRequest, watch: Watch, *, command: str, cache: Path | None = None) -> StudyResult:
    """Do what a request asks for, see `study`; `command` does the same again, for the report."""
    with request.executor() as executor:
        return _run_on(executor, request, watch, command=command, cache=cache)


def _run_on(
    executor: Executor, request: StudyRequest, watch: Watch, *, command: str, cache: Path | None
) -> StudyResult:
    began = time.monotonic()
    out = request.out
    _check_folder(out)
    variants = expand_variants(
        request.variants,
        reductions=request.reductions,
        aggregations=request.aggregations,
        placements=request.placements,
    )
    runs_of = partial(
        grid,
        request.networks,
        variants,
        seeds=request.seeds,
        epochs=request.epochs,
        train_cases=request.train_cases,
        control=request.control,
    )
    # whatever can be wrong with the request is reported before any file is read
    runs_of(folds=1)
    chosen_margin("dice", request.margin)
    reject_unused(request.networks, variants, request.settings_given())
    settings, device = request.training_settings(), choose_device(request.device)
    for network in request.networks:
        find_factory(network)
    dataset, spacing = request.dataset, request.spacing
    if dataset is None:
        dataset, spacing = _cohort(out, watch), COHORT_SPACING if spacing is None else spacing
    inspection, cases = open_checked(dataset, skip_bad=request.skip_bad, progress=watch.counter("inspect"))
    if cases.regions:
        settings = without_class_weights(settings, request.settings_given())
    folds = make_folds(cases, request.folds)
    plan = Plan(
        inspection=inspection,
        dataset=cases,
        recipe=Recipe.derive(inspection.facts_of(cases), plane=request.plane, spacing=spacing, dims=request.dims),
        settings=settings,
        folds=folds,
        runs=runs_of(folds=len(folds)),
        out=out,
        cache=cache or cache_folder(),
        device=device,
        epochs=request.epochs,
        train_cases=request.train_cases,
        budget=request.budget or "",
        margin=request.margin,
    )
    for run in plan.runs:
        plan.training(run)  # too few cases are reported before anything is trained
    places = find_places(plan)
    with claimed(out / LOCKS / "plan.lock", watch, wait=True):  # a budget's epochs are fitted once
        write_atomic(out / REQUEST, request.model_dump_json(indent=2).encode())
        plan, duration = plan_time(plan, watch)
    rows = [*describe(plan, places), ("runs are done by", str(executor)), *duration, prospect(plan)]
    watch.report(Planned(rows, runs=len(plan.runs)))
    left = {run.name: (number, run) for number, run in enumerate(plan.runs, start=1)}
    for wait in (False, True):  # at last for runs that other processes had: they are done, or were left unfinished
        for name, done in executor.each(partial(do_run, plan, request.device, wait), left.copy(), watch):
            if done:
                del left[name]
    with claimed(out / LOCKS / "report.lock", watch, wait=True):
        return _finish(plan, partial(facts_of, plan, places, request.notes, command), began, watch)


def _finish(plan: Plan, facts: Callable[[float], StudyFacts], began: float, watch: Watch) -> StudyResult:
    """Collect the results of the runs, measure costs, and write the report.

    Args:
        plan: Plan of the study.
        facts: Makes the facts of the report from the seconds that the study took.
        began: When the study began, on the monotonic clock.
        watch: Gets the events; checked after every event.
    """
    out = plan.out
    checking = watch.checking("stopped while the report was made; all runs are finished and kept")
    scores = pd.concat([read_scores(plan, run) for run in plan.runs], ignore_index=True)
    write_scores(scores, out)
    costs = costs_of(plan, checking)
    curves = curves_of(plan)
    # of a study that went on, or was shared, this call is only a part
    seconds = max(time.monotonic() - began, curves.groupby(run_columns(curves))["seconds"].max().sum())
    finished = [
        FinishedRun(r.setup, r.variant, r.seed, r.fold, plan.folder(r), plan.folds[r.fold].test, plan.device)
        for r in plan.runs
    ]
    viewer = viewer_data(
        finished,
        scores,
        recipe=plan.recipe,
        structures=plan.dataset.structures,
        labels=plan.dataset.scheme.labels if plan.dataset.regions else None,
        colors=plan.dataset.colors,
        cache=out / "viewer.json",
        watch=checking,
    )
    gates = channel_gates(finished, cache=out / "gates.parquet", watch=checking)
    report = write_report(
        out / "report",
        scores=scores,
        costs=costs,
        curves=curves,
        facts=facts(seconds),
        viewer=viewer,
        gates=gates,
        margin=plan.margin,
        watch=checking,
    )
    comparison = compare(scores, margin=plan.margin)
    keep_spread(plan, comparison)
    watch.report(Reported(report, out))
    return StudyResult(out, scores, costs, comparison, report)


def _check_folder(out: Path) -> None:
    """Refuse a folder with files of a study's names, but without its locks or runs: they are the user's."""
    if (out / LOCKS).exists() or (out / RUNS).exists():
        return
    if there := [str(out / name) for name in WRITTEN if (out / name).exists()]:
        raise UserError(f"{', '.join(there)}: already there, and not of a study of scse; choose another folder")


def _cohort(out: Path, watch: Watch) -> Path:
    folder = out / "cohort"
    with claimed(out / LOCKS / "cohort.lock", watch, wait=True):
        if not folder.exists():
            simulate_cohort(folder, cases=COHORT_CASES, seed=COHORT_SEED, progress=watch.counter("simulate"))
    return folder
