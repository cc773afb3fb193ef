"""One run of a study: it is trained and scored, or skipped if an earlier call finished it."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from scse.data.dataset import Case
from scse.data.files import read_image, read_label
from scse.evaluation.pairing import SCORE_COLUMNS, SUBJECT
from scse.evaluation.reading import read_table, tidy
from scse.evaluation.scores import score, write_scores
from scse.evaluation.setups import setups, stack
from scse.inference.devices import choose_device
from scse.inference.segmenter import Segmenter, write_prediction
from scse.studies.grid import Run
from scse.studies.plan import Plan
from scse.studies.sharing import LOCKS, claimed
from scse.support.errors import DataError, UserError
from scse.support.events import RunStarted, Scored, Stage, Watch
from scse.training.record import RunRecord, check_record
from scse.training.run import train_task

SCORES = "scores.parquet"


def do_run(plan: Plan, device: str, wait: bool, numbered: tuple[int, Run], watch: Watch) -> bool:
    """Do a run, unless another process is doing it; with `wait`, wait for that process and do what it left.

    Args:
        plan: Plan of the study.
        device: Name of the device, which is chosen here: the plan may have been made on another machine.
        wait: Whether to wait.
        numbered: Place of the run in the plan, counted from 1, and the run.
        watch: Gets the events.

    Returns:
        Whether the run is done.
    """
    plan, (number, run) = replace(plan, device=choose_device(device)), numbered
    with claimed(plan.out / LOCKS / f"{run.name}.lock", watch, wait=wait) as ours:
        if not ours:
            watch.report(Stage(f"{run.name} is left to another process"))
            return False
        folder = plan.folder(run)
        settings = {**plan.run_settings(run).model_dump(), "fold": run.fold, "train_cases": len(plan.training(run))}
        watch.report(RunStarted(run.name, folder, number, len(plan.runs), settings))
        skipped = _train_and_score(plan, run, watch)
        means = read_scores(plan, run).groupby("metric")["value"].mean()
        scores = {str(metric): float(mean) for metric, mean in means.items()}
        watch.report(Scored(run.name, folder, scores, skipped))
    return True


def _train_and_score(plan: Plan, run: Run, watch: Watch) -> bool:
    """Train and score a run; returns whether an earlier call had finished it."""
    folder = plan.folder(run)
    task, settings = plan.task(run, watch), plan.run_settings(run)
    if (folder / SCORES).exists():
        check_record(folder, RunRecord.of(task, settings))
        if not (folder / "scores.csv").exists():
            write_scores(read_scores(plan, run), folder)
        return True
    segmenter = train_task(task, settings, folder, watch, plan.device)
    test, absent, tables = plan.folds[run.fold].test, plan.absent(run), []
    count = watch.counter("score")
    for done, case in enumerate(test, start=1):
        table = _score_case(segmenter, case, plan, folder / "predictions")
        # a structure that no training case has gets no score: 0 would count as a failure of the network
        table.loc[table["structure"].isin(absent), "value"] = float("nan")
        tables.append(table.assign(variant=str(run.variant), seed=run.seed, fold=run.fold, subject=case.group))
        count(done, len(test))
    columns = [*SCORE_COLUMNS[1:], *([SUBJECT] if plan.dataset.grouped else [])]
    write_scores(stack([(run.setup, pd.concat(tables)[columns])]), folder)
    return False


def read_scores(plan: Plan, run: Run) -> pd.DataFrame:
    """The scores of a finished run."""
    path = plan.folder(run) / SCORES
    remedy = "delete it, and run the same command again, which predicts and scores the run anew"
    try:
        table = tidy(read_table(path), path)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error
    own = {"network": run.setup.text, "variant": str(run.variant), "seed": run.seed, "fold": run.fold}
    for column, value in own.items():
        every = [setup.text for setup in setups(table)] if column == "network" else table[column].unique()
        if wrong := [found for found in every if found != value]:
            raise DataError(f"{path}: {column} is {wrong[0]!r}, where the run has {value!r}; {remedy}")
    return stack([(run.setup, table)])


def _score_case(segmenter: Segmenter, case: Case, plan: Plan, folder: Path) -> pd.DataFrame:
    if case.label is None:
        raise UserError(f"case {case.name} has no label map to be scored against")
    image = read_image(case.images)
    predicted = segmenter.predict_image(image)
    write_prediction(folder, case.name, predicted, case.images[0], image)
    dataset = plan.dataset
    reference = read_label(case.label, colors=dataset.colors).array
    table = score(
        predicted, reference, spacing=image.spacing, structures=dataset.scheme.scored, ignored=dataset.ignored
    )
    return table.assign(case=case.name)
