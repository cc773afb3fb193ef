"""Estimate how long a study takes, from a few measured steps, and how many epochs fit its time budget."""

import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

from scse.data.files import read_image, read_label
from scse.evaluation.scores import score
from scse.inference.segmenter import write_prediction
from scse.studies.costs import PREDICT_ROUNDS, STEP_ROUNDS, Stepper
from scse.studies.grid import Run
from scse.studies.plan import Plan
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError
from scse.support.events import UNWATCHED, Stage, Watch
from scse.support.json_files import read_json, validated
from scse.support.timing import in_words
from scse.training.arithmetic import arithmetic
from scse.training.log import LOG
from scse.training.loop import make_steps
from scse.training.run import CHECKPOINT
from scse.training.settings import MOST_EPOCHS, Settings
from scse.training.setup import as_segmenter, make_batches
from scse.training.task import Task
from scse.training.validation import held_out_dice, validation_slices
from scse.vocabulary.budgets import parse_budget
from scse.vocabulary.specs import NetworkSpec
from scse.vocabulary.titles import network_name
from scse.vocabulary.variants import Variant

STEPS, STEP_SECONDS = 5, 2.0
"""Number of training steps to measure after a warm-up step, and the seconds after which no further step starts."""

VALIDATED = 32
"""Number of held-out slices that are predicted to measure the time of validation."""

BUDGET = "plan.json"
"""Name of the file in the folder of a study that records its budget."""


class _Budget(BaseModel):
    """Content of `plan.json`: the budget as text and in seconds, and the number of epochs that fits it."""

    model_config = ConfigDict(extra="forbid")

    budget: str
    seconds: int = Field(ge=1)
    epochs: int = Field(ge=1, le=MOST_EPOCHS)


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured times of one variant of a network, in seconds.

    Attributes:
        start: Time to build the network and take the first training step.
        step: Time of a training step, including the loading of its batch.
        validate: Time to validate on one slice.
        save: Time to write a checkpoint.
        predict: Time to predict one test case.
    """

    start: float
    step: float
    validate: float
    save: float
    predict: float


def plan_time(plan: Plan, watch: Watch) -> tuple[Plan, list[tuple[str, str]]]:
    """Estimate the time of a study, and fit the number of epochs to its budget if it has one.

    For each variant of a network that remains to be trained, a few training steps and the validation on a few slices
    are timed; for each network, the prediction of a test case by one variant. The measurements do not affect the
    results of the runs.

    Args:
        plan: Plan of the study.
        watch: Receives the events of data preparation and of this stage; checked between measurements.

    Returns:
        The plan, with the number of epochs that fits the budget, and rows (name, value) to display.

    Raises:
        UserError: The budget is too small for one epoch of every run, or a test case has no label map.
        DataError: The folder contains a study with another budget.
        StoppedError: The watch requested to stop.
    """
    kept = _kept_epochs(plan)
    if kept is not None:
        plan = _with_epochs(plan, kept)
    fitting = bool(plan.budget) and kept is None
    left = [run for run in plan.runs if fitting or not (plan.folder(run) / "scores.parquet").exists()]
    if not left:
        return plan, [("estimated time", "all runs are finished")]
    tasks: dict[Hashable, Task] = {}
    loads: dict[Hashable, tuple[int, int]] = {}
    for run in left:
        if _data(run) not in tasks:
            tasks[_data(run)] = plan.task(run, watch)
            loads[_data(run)] = _load(tasks[_data(run)], plan.settings)
    watch.report(Stage("measuring a few training steps of each variant"))
    rates = measure_rates(plan, left, tasks, watch)
    fixed = scoring_seconds(plan) * sum(len(plan.folds[run.fold].test) for run in left)
    fixed += 0 if (plan.out / "costs.csv").exists() else sum(map(_cost_seconds, rates.values()))
    each: dict[Run, float] = {}
    for run in left:
        rate, (steps, validated) = rates[run.network, run.variant], loads[_data(run)]
        fixed += rate.start + len(plan.folds[run.fold].test) * rate.predict
        each[run] = steps * rate.step + validated * rate.validate + rate.save
    if fitting:
        epochs = fit_epochs(plan.budget, fixed, sum(each.values()), runs=len(left))
        _keep_epochs(plan, epochs)
        plan = _with_epochs(plan, epochs)
    seconds = fixed + sum(_epochs_left(plan, run) * each[run] for run in left)
    estimate = f"about {in_words(seconds)} for {len(left)} of {len(plan.runs)} runs (measured: {_step_times(rates)})"
    return plan, [("estimated time", estimate)]


def fit_epochs(budget: str, fixed: float, each: float, *, runs: int) -> int:
    """Return the largest number of epochs that fits a budget.

    Args:
        budget: Time budget as text, see `parse_budget`.
        fixed: Seconds of all runs apart from their epochs.
        each: Seconds of one epoch of all runs.
        runs: Number of runs, for the error message.

    Raises:
        UserError: The budget is too small for one epoch, or is not a time.
    """
    epochs = int((parse_budget(budget) - fixed) // each)
    if epochs < 1:
        raise UserError(
            f"budget {budget}: {runs} runs of 1 epoch take about {in_words(fixed + each)}; request fewer runs "
            "(variants, seeds, folds), a coarser spacing, a smaller width or fewer slices_per_epoch, or a larger budget"
        )
    return epochs


def _kept_epochs(plan: Plan) -> int | None:
    """Return the recorded number of epochs, None if the study is new or has no budget."""
    path = plan.out / BUDGET
    if not plan.budget or not path.exists():
        return None
    remedy = "delete it and the runs of the study to fit the number of epochs again"
    kept = validated(_Budget, read_json(path, remedy=remedy), path=path, remedy=remedy, strict=True)
    if kept.seconds != parse_budget(plan.budget):
        raise DataError(
            f"{path}: the study began with a budget of {kept.budget} ({kept.epochs} epochs); you requested "
            f"{plan.budget}; request the same as before, or choose another folder with -o"
        )
    return kept.epochs


def _keep_epochs(plan: Plan, epochs: int) -> None:
    kept = _Budget(budget=plan.budget, seconds=parse_budget(plan.budget), epochs=epochs)
    write_atomic(plan.out / BUDGET, kept.model_dump_json(indent=2).encode())


def _with_epochs(plan: Plan, epochs: int) -> Plan:
    return replace(plan, settings=plan.settings.model_copy(update={"epochs": epochs}))


def _data(run: Run) -> Hashable:
    """Return a key that is equal for runs on the same data."""
    return run.fold, run.train_cases


def _load(task: Task, settings: Settings) -> tuple[int, int]:
    """Return the number of steps of an epoch, and the number of slices of its validation."""
    batches = make_batches(task, settings)
    return len(batches), min(validation_slices(batches), _held_out_slices(task))


def _held_out_slices(task: Task) -> int:
    return sum(len(case.labels()) for case in task.held_out)


def _epochs_left(plan: Plan, run: Run) -> int:
    """Return the number of epochs that remain; the log may be at most one epoch ahead of the checkpoint."""
    folder = plan.folder(run)
    done = len((folder / LOG).read_bytes().splitlines()) if (folder / CHECKPOINT).exists() else 0
    return max(0, plan.run_settings(run).epochs - done)


def measure_rates(
    plan: Plan, runs: Sequence[Run], tasks: Mapping[Hashable, Task], watch: Watch
) -> dict[tuple[NetworkSpec, Variant], Rates]:
    """Measure the rates of every (network, variant) of the runs.

    Args:
        plan: Plan of the study.
        runs: Runs that remain.
        tasks: (fold, number of training cases) -> data.
        watch: Checked between measurements.

    Raises:
        StoppedError: The watch requested to stop.
    """
    rates: dict[tuple[NetworkSpec, Variant], Rates] = {}
    image = read_image(plan.folds[0].test[0].images)
    predicted: dict[NetworkSpec, float] = {}
    stopped = "stopped while the time of the study was estimated; nothing was trained in this call"
    for run in runs:
        if (run.network, run.variant) in rates:
            continue
        watch.check(stopped)
        task, settings = tasks[_data(run)], plan.run_settings(run)
        stepper, start, step = _measure_steps(task, settings, plan.device)
        watch.check(stopped)
        validate = _measure_validation(stepper, task, settings)
        watch.check(stopped)
        if run.network not in predicted:
            segmenter = as_segmenter(stepper.network, task, settings)
            predicted[run.network] = _seconds(partial(segmenter.predict_image, image))
        save = _measure_saving(stepper)
        rates[run.network, run.variant] = Rates(start, step, validate, save, predicted[run.network])
    return rates


def _measure_steps(task: Task, settings: Settings, device: torch.device) -> tuple[Stepper, float, float]:
    """Return a stepper, the seconds until the end of its first step, and the mean seconds of further steps."""
    began = time.perf_counter()
    stepper = Stepper.make(task, settings, device, steps=STEPS + 1)
    with arithmetic(stepper.fabric.device, deterministic=settings.deterministic):
        feed, take_step = make_steps(
            stepper.state, stepper.batches, stepper.loss, fabric=stepper.fabric, graph=settings.graph, watch=UNWATCHED
        )
        batches = chain.from_iterable(feed.epoch(epoch) for epoch in count())
        float(take_step(*next(batches)))  # waits until the device has completed it
        start = time.perf_counter() - began
        steps: list[float] = []
        while len(steps) < STEPS and sum(steps) < STEP_SECONDS:
            steps.append(_seconds(lambda: float(take_step(*next(batches)))))
    return stepper, start, sum(steps) / len(steps)


def _measure_validation(stepper: Stepper, task: Task, settings: Settings) -> float:
    """Return the seconds of validation per slice."""
    slices = max(VALIDATED, len(task.held_out))
    seconds = _seconds(
        lambda: held_out_dice(
            stepper.state.network,
            task.held_out,
            task.scheme,
            patch=task.recipe.patch,
            most=slices,
            batch_size=4 * settings.batch_size,
            fabric=stepper.fabric,
        )
    )
    return seconds / min(slices, _held_out_slices(task))


def _measure_saving(stepper: Stepper) -> float:
    """Return the seconds to write a checkpoint."""
    state = replace(stepper.state, network=stepper.network)
    with tempfile.TemporaryDirectory() as folder:
        return _seconds(partial(state.save, Path(folder) / CHECKPOINT))


def scoring_seconds(plan: Plan) -> float:
    """Return the seconds to read, score and write a test case, with its reference in place of a prediction.

    Raises:
        UserError: The first test case has no label map.
    """
    case = plan.folds[0].test[0]
    if case.label is None:
        raise UserError(f"case {case.name} has no label map; add it, or remove the case from the test cases")
    label = case.label

    def score_reference() -> None:
        image, reference = read_image(case.images), read_label(label, colors=plan.dataset.colors).array
        dataset = plan.dataset
        score(reference, reference, spacing=image.spacing, structures=dataset.scheme.scored, ignored=dataset.ignored)
        with tempfile.TemporaryDirectory() as folder:
            write_prediction(Path(folder), case.name, reference, case.images[0], image)

    return _seconds(score_reference)


def _cost_seconds(rates: Rates) -> float:
    """Return the seconds to measure the costs of a variant at the end of the study."""
    return (STEP_ROUNDS + 1) * rates.step + (PREDICT_ROUNDS + 1) * rates.predict


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _step_times(rates: Mapping[tuple[NetworkSpec, Variant], Rates]) -> str:
    """Return the milliseconds of a step of each network as text, from the fastest to the slowest variant."""
    times = []
    for network in dict.fromkeys(network for network, _ in rates):
        steps = sorted(round(1000 * rate.step) for (name, _), rate in rates.items() if name == network)
        span = f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
        times.append(f"{network_name(network.text)} {span} ms a step")
    return ", ".join(times)
