"""How long a study takes, measured from a few steps, and how many epochs fit a budget of time."""

import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from scse.data.files import read_image, read_label
from scse.evaluation.scores import score
from scse.inference.segmenter import write_prediction
from scse.studies.costs import PREDICT_ROUNDS, STEP_ROUNDS, Stepper
from scse.studies.grid import Run
from scse.studies.plan import Plan
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError
from scse.support.events import Stage, Watch
from scse.support.json_files import read_json, validated
from scse.support.timing import in_words
from scse.training.log import LOG
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
"""Training steps that are measured after one that warms up; no further one begins after so many seconds."""

VALIDATED = 32
"""Held-out slices that are predicted to measure how long validation takes."""

BUDGET = "plan.json"


class _Budget(BaseModel):
    """What `plan.json` keeps: the budget as the user wrote it and in seconds, and the epochs that it allowed."""

    model_config = ConfigDict(extra="forbid")

    budget: str
    seconds: int = Field(ge=1)
    epochs: int = Field(ge=1, le=MOST_EPOCHS)


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured times of a variant of a network, in seconds.

    Attributes:
        start: Building the network, with its first step.
        step: A training step, including the drawing of its batch.
        validate: Validation on a slice.
        save: Writing a checkpoint.
        predict: Prediction of a test case.
    """

    start: float
    step: float
    validate: float
    save: float
    predict: float


def plan_time(plan: Plan, watch: Watch) -> tuple[Plan, list[tuple[str, str]]]:
    """Measure how long a study will take, and fit its epochs to its budget if it has one.

    Every variant of a network that is still to be trained takes a few steps and is validated on a few slices, and one
    variant of each network predicts a test case. These measurements do not change what the runs compute.

    Args:
        plan: Plan of the study.
        watch: Gets the events of preparing the data and of this stage; checked between the measurements.

    Returns:
        The plan, with the epochs that the budget allows, and rows (what, value) to show.

    Raises:
        ValueError: The budget is too small for one epoch of every run.
        DataError: The folder contains a study with another budget.
        StoppedError: The watch asked to stop.
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
    rates = _measure(plan, left, tasks, watch)
    fixed = _scoring_seconds(plan) * sum(len(plan.folds[run.fold].test) for run in left)
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
    """The greatest number of epochs that stays within a budget.

    Args:
        budget: see `parse_budget`.
        fixed: seconds of all runs without their epochs.
        each: seconds of one epoch of all runs.
        runs: how many, for the message.

    Raises:
        ValueError: one epoch takes longer.
    """
    epochs = int((parse_budget(budget) - fixed) // each)
    if epochs < 1:
        raise UserError(
            f"budget {budget}: {runs} runs of 1 epoch take about {in_words(fixed + each)}; ask for fewer runs "
            "(variants, seeds, folds), a coarser spacing, a smaller width, fewer slices_per_epoch, or give more time"
        )
    return epochs


def _kept_epochs(plan: Plan) -> int | None:
    """The epochs that the budget allowed when the study began, None if it begins now or has no budget."""
    path = plan.out / BUDGET
    if not plan.budget or not path.exists():
        return None
    remedy = "delete it to fit the epochs anew, and with it the runs of the study"
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
    """What decides the data of a run."""
    return run.fold, run.train_cases


def _load(task: Task, settings: Settings) -> tuple[int, int]:
    """Steps of an epoch, and slices that it is validated on."""
    batches = make_batches(task, settings)
    return len(batches), min(validation_slices(batches), _held_out_slices(task))


def _held_out_slices(task: Task) -> int:
    return sum(len(case.labels()) for case in task.held_out)


def _epochs_left(plan: Plan, run: Run) -> int:
    """Epochs that a run still has to do; its log may be ahead of its checkpoint by the one under way at most."""
    folder = plan.folder(run)
    done = len((folder / LOG).read_bytes().splitlines()) if (folder / CHECKPOINT).exists() else 0
    return max(0, plan.run_settings(run).epochs - done)


def _measure(
    plan: Plan, runs: Sequence[Run], tasks: Mapping[Hashable, Task], watch: Watch
) -> dict[tuple[NetworkSpec, Variant], Rates]:
    """Rates of every (network, variant) of the runs."""
    rates: dict[tuple[NetworkSpec, Variant], Rates] = {}
    image = read_image(plan.folds[0].test[0].images)
    predicted: dict[NetworkSpec, float] = {}
    stopped = "stopped while the time of the study was measured; nothing was trained in this call"
    for run in runs:
        if (run.network, run.variant) in rates:
            continue
        watch.check(stopped)
        task, settings = tasks[_data(run)], plan.run_settings(run)
        stepper, start, step = _measure_steps(task, settings)
        watch.check(stopped)
        validate = _measure_validation(stepper, task, settings)
        watch.check(stopped)
        if run.network not in predicted:
            segmenter = as_segmenter(stepper.network, task, settings)
            predicted[run.network] = _seconds(partial(segmenter.predict_image, image))
        save = _measure_saving(stepper)
        rates[run.network, run.variant] = Rates(start, step, validate, save, predicted[run.network])
    return rates


def _measure_steps(task: Task, settings: Settings) -> tuple[Stepper, float, float]:
    """A stepper, the seconds until its first step was done, and the mean seconds of further steps."""
    began = time.perf_counter()
    stepper = Stepper.make(task, settings, steps=STEPS + 1)
    batches = chain.from_iterable(stepper.batches.epoch(epoch) for epoch in count())
    stepper.step(*next(batches))
    start = time.perf_counter() - began
    steps: list[float] = []
    while len(steps) < STEPS and sum(steps) < STEP_SECONDS:
        steps.append(_seconds(lambda: stepper.step(*next(batches))))
    return stepper, start, sum(steps) / len(steps)


def _measure_validation(stepper: Stepper, task: Task, settings: Settings) -> float:
    """Seconds of validation on a slice."""
    slices = max(VALIDATED, len(task.held_out))
    seconds = _seconds(
        lambda: held_out_dice(
            stepper.state.network,
            task.held_out,
            task.classes,
            patch=task.recipe.patch,
            most=slices,
            batch_size=4 * settings.batch_size,
            fabric=stepper.fabric,
        )
    )
    return seconds / min(slices, _held_out_slices(task))


def _measure_saving(stepper: Stepper) -> float:
    """Seconds of writing a checkpoint."""
    state = replace(stepper.state, network=stepper.network)
    with tempfile.TemporaryDirectory() as folder:
        return _seconds(partial(state.save, Path(folder) / CHECKPOINT))


def _scoring_seconds(plan: Plan) -> float:
    """Seconds of reading, scoring and writing a test case, as if it were predicted without an error."""
    case = plan.folds[0].test[0]
    if case.label is None:
        raise UserError(f"case {case.name} has no label map to be scored against")
    label = case.label

    def score_reference() -> None:
        image, reference = read_image(case.images), read_label(label, colors=plan.dataset.colors).array
        dataset = plan.dataset
        score(reference, reference, spacing=image.spacing, structures=dataset.structures, ignored=dataset.ignored)
        with tempfile.TemporaryDirectory() as folder:
            write_prediction(Path(folder), case.name, reference, case.images[0], image)

    return _seconds(score_reference)


def _cost_seconds(rates: Rates) -> float:
    """Seconds of measuring a variant's costs at the end."""
    return (STEP_ROUNDS + 1) * rates.step + (PREDICT_ROUNDS + 1) * rates.predict


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _step_times(rates: Mapping[tuple[NetworkSpec, Variant], Rates]) -> str:
    """The milliseconds of a step of each network, from its fastest to its slowest variant."""
    times = []
    for network in dict.fromkeys(network for network, _ in rates):
        steps = sorted(round(1000 * rate.step) for (name, _), rate in rates.items() if name == network)
        span = f"{steps[0]}" if steps[0] == steps[-1] else f"{steps[0]} to {steps[-1]}"
        times.append(f"{network_name(network.text)} {span} ms a step")
    return ", ".join(times)
