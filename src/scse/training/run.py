"""One training run: from a data set to a trained segmenter, in a folder that an interrupted run continues from."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from scse.data.choices import advise_dims
from scse.data.dataset import Case, Dataset
from scse.data.folds import Fold, make_folds
from scse.data.inspection import CaseFacts, absent_row, open_checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe
from scse.inference.devices import choose_device, describe_device
from scse.inference.segmenter import Segmenter
from scse.simulation.brain import VARIATION, brain_atlas
from scse.simulation.simulator import Simulation
from scse.simulation.subjects import IN_PART
from scse.support.errors import UserError
from scse.support.events import OnEvent, Planned, RunStarted, Stage, Stop, StoppedError, Trained, Watch, ignore, never
from scse.support.requests import signed
from scse.support.text import counted
from scse.training.arithmetic import arithmetic
from scse.training.cleaning_choice import affordable, choose_cleaning, write_choice
from scse.training.log import open_log
from scse.training.loop import fit
from scse.training.ranks import ALONE, Ranks, is_under_torchrun
from scse.training.record import CHOICE, RunRecord, check_record, note_device, prepared_task, read_record
from scse.training.request import TrainRequest
from scse.training.settings import Settings, reject_unused, without_class_weights
from scse.training.setup import as_segmenter, make_batches, make_loss, new_fabric, new_state
from scse.training.state import State
from scse.training.task import MOST_FOR_CLEANING, NO_CLEANING_OF_REGIONS, Task, make_task
from scse.training.validation import Kept, held_out_dice, validation_slices
from scse.zoo.building import find_factory
from scse.zoo.catalogue import confirm_network

CHECKPOINT, LOCK = "checkpoint.safetensors", ".lock"


@signed(TrainRequest)
def train_on(
    dataset: Path | str,
    *,
    cache: Path | None = None,
    on_event: OnEvent = ignore,
    stop: Stop = never,
    **fields: Any,
) -> Segmenter:
    """Check a data set, prepare it and train one segmenter on it.

    Args:
        dataset: The data set, in any layout that `Dataset.open` reads.
        cache: Folder of the prepared arrays.
        on_event: Called with every event, see `scse.support.events`.
        stop: Called after every file and every training step; True stops the run.
        fields: Fields of `scse.training.request.TrainRequest`, such as out, preset and settings.

    Raises:
        UserError: An argument is unknown or its value is not allowed; or `devices` asks for several processes, and
            torchrun did not start them.
        DataError: The data have problems, or `out` contains another run.
        StoppedError: `stop` returned True; call again, or `resume`, to continue.
    """
    request = TrainRequest.make({"dataset": dataset, **fields})
    if (request.devices or 1) * (request.nodes or 1) > 1 and not is_under_torchrun():
        raise UserError(
            f"devices={request.devices}, nodes={request.nodes}: a Python program is not started again by itself; start "
            "it with torchrun --nproc-per-node N, and leave devices and nodes out"
        )
    return run_training(request, Watch(on_event, stop), cache=cache)


def run_training(request: TrainRequest, watch: Watch, *, cache: Path | None = None) -> Segmenter:
    """Do what a request asks for, see `train_on`."""
    settings, device = request.training_settings(), choose_device(request.device)
    ranks = Ranks.of(request.devices, request.nodes)
    if not ranks.first:
        return _follow(request.out, settings, watch, device, cache or cache_folder(), ranks=ranks)
    ranks.check(settings.batch_size, request.device)
    if (request.out / LOCK).exists():  # a folder in use is reported before the data are read
        with alone(request.out):
            pass
    reject_unused([settings.network], [settings.variant], request.settings_given())
    find_factory(settings.network)  # a missing library is reported before any file is read
    cache = cache or cache_folder()
    inspection, cases = open_checked(
        _data(request, cache), skip_bad=request.skip_bad, progress=watch.counter("inspect")
    )
    if cases.regions:
        settings = without_class_weights(settings, request.settings_given())
    splits = make_folds(cases, request.folds) if request.dataset is not None else [Fold(cases.cases, ())]
    if not 0 <= request.fold < len(splits):
        raise UserError(f"fold must be from 0 to {len(splits) - 1}, got {request.fold}")
    training, held_out = splits[request.fold].training, splits[request.fold].test
    cleaning, why = _cleaning(request, cases, held_out)
    facts = inspection.facts_of(cases)
    recipe = Recipe.derive(facts, plane=request.plane, spacing=request.spacing, dims=request.dims)
    task = make_task(
        inspection,
        training=training,
        held_out=held_out,
        recipe=recipe,
        cache=cache,
        watch=watch,
        choose_cleaning=cleaning,
        simulation=_simulation(request, settings, facts, recipe),
    )
    simulated = [] if task.simulation is None else task.simulation.describe(settings.simulate)
    if simulated and not held_out:
        simulated.append(("validation", "on simulated subjects: it says nothing about real images"))
    where = f" of fold {request.fold}" if len(splits) > 1 else ""
    rows = [
        ("cases", f"{len(training)} for training, {len(held_out) or len(task.held_out)} for validation"),
        *simulated,
        *inspection.left_out(),
        *inspection.notices(),
        *absent_row(inspection.absent(training), where=where),
        ("clean-up", why),
        ("device", describe_device(device)),
        *ranks.describe(settings.batch_size),
    ]
    advice = advise_dims(facts, task.recipe.view)
    watch.report(Planned([*rows, *task.recipe.describe(), *advice], runs=1))
    return _train_one(task, settings, request.out, watch, device, ranks=ranks)


def _data(request: TrainRequest, cache: Path) -> Dataset | Path:
    """The data set of a request, or its path.

    Raises:
        UserError: The request names both a data set and an image, or neither and no simulation.
    """
    if request.dataset is not None:
        if request.source is not None:
            raise UserError("dataset and source (--from) are both given; leave one of them out")
        return request.dataset
    if request.training_settings().simulate < 1:
        raise UserError("simulate must be 1 without a data set, because there are no other images to train on")
    if request.folds is not None:
        raise UserError("folds needs a data set; without one, the validation is on simulated subjects: leave it out")
    return brain_atlas(cache) if request.source is None else Dataset.of_files(*request.source)


def _simulation(
    request: TrainRequest, settings: Settings, facts: Sequence[CaseFacts], recipe: Recipe
) -> Simulation | None:
    if not settings.simulate:
        return None
    brain = request.dataset is None and request.source is None
    variation = VARIATION if brain else IN_PART
    return Simulation.of(facts, recipe, contrast=settings.contrast, variation=variation, skull=settings.skull)


def _cleaning(request: TrainRequest, dataset: Dataset, held_out: Sequence[Case]) -> tuple[bool, str]:
    """Whether the run chooses a clean-up, and a line about it for the plan."""
    if request.cleaning == "none":
        return False, "none"
    if not held_out:
        if request.cleaning == "learned":
            raise UserError("cleaning='learned' needs held-out cases, and all of this run are simulated; leave it out")
        return False, "none: it would be chosen on simulated subjects"
    if dataset.regions:
        if request.cleaning == "learned":
            raise UserError(f"cleaning='learned': {NO_CLEANING_OF_REGIONS}; leave it out")
        return False, f"none: {NO_CLEANING_OF_REGIONS}"
    tests = {case.name for case in dataset.test_cases}
    if request.cleaning is None and any(case.name in tests for case in held_out):
        remedy = "--folds 5 holds training cases out instead"
        return False, f"none: it would be chosen on the data set's own test cases; {remedy}"
    count = min(len(held_out), MOST_FOR_CLEANING)
    return True, f"chosen after the last epoch, on at most {counted(count, 'case')} of the validation"


def resume(
    folder: Path | str,
    *,
    network: str | None = None,
    device: str | torch.device = "auto",
    cache: Path | None = None,
    on_event: OnEvent = ignore,
    stop: Stop = never,
) -> Segmenter:
    """Continue an interrupted run, with the prepared arrays that it used.

    Args:
        folder: Folder of the run.
        network: The network again, if it is a factory in a file: a file that only the folder names is not executed.
        device: Device, see `choose_device`; it may be another one than before.
        cache: Folder of the prepared arrays.
        on_event: Called with every event, see `scse.support.events`.
        stop: Called after every training step; True stops the run.

    Raises:
        UserError: The network is a factory in a file and not given, or another one is given; or this machine has no
            such device.
        DataError: The folder contains no run, or its prepared arrays are gone.
        StoppedError: `stop` returned True; call again to continue.
    """
    return run_again(Path(folder), Watch(on_event, stop), network=network, device=device, cache=cache)


def run_again(
    folder: Path,
    watch: Watch,
    *,
    network: str | None = None,
    device: str | torch.device = "auto",
    cache: Path | None = None,
    devices: int | None = None,
    nodes: int | None = None,
) -> Segmenter:
    """Continue an interrupted run, see `resume`, with any number of processes."""
    chosen_device, record = choose_device(device), read_record(folder)
    ranks = Ranks.of(devices, nodes)
    downloading = not (folder / CHECKPOINT).exists()
    chosen = confirm_network(folder, record.settings.network, network, downloading=downloading)
    settings, cache = record.settings.model_copy(update={"network": chosen}), cache or cache_folder()
    if not ranks.first:
        return _follow(folder, settings, watch, chosen_device, cache, ranks=ranks)
    ranks.check(settings.batch_size, device)
    return _train_one(prepared_task(record, cache), settings, folder, watch, chosen_device, ranks=ranks)


def _train_one(
    task: Task, settings: Settings, folder: Path, watch: Watch, device: torch.device, *, ranks: Ranks
) -> Segmenter:
    """Train a run that is not part of a study, and report its start and end."""
    name = folder.resolve().name
    watch.report(RunStarted(name, folder, number=1, runs=1, settings=settings.model_dump()))
    segmenter = train_task(task, settings, folder, watch, device, ranks=ranks)
    watch.report(Trained(name, folder))
    return segmenter


def train(
    task: Task,
    settings: Settings,
    folder: Path,
    *,
    device: str | torch.device = "auto",
    on_event: OnEvent = ignore,
    stop: Stop = never,
) -> Segmenter:
    """Train a segmenter on prepared data, continuing from the folder's checkpoint if there is one.

    Args:
        task: Data of the run.
        settings: Settings of the run.
        folder: Folder for `checkpoint.safetensors`, `log.jsonl`, TensorBoard events, and the trained `segmenter`; with
            `cleaning.json`, if the task has cases on which a clean-up of label maps is chosen.
        device: Device, see `choose_device`.
        on_event: Called with every `StepDone` and `EpochDone`, and with `CleaningChosen`.
        stop: Called after every step; True stops the run.

    Returns:
        The segmenter, which is also saved in the folder.

    Raises:
        StoppedError: `stop` returned True; call again to continue.
        DataError: The checkpoint does not belong to this run.
        UserError: Another process is training in the folder, training diverged, or this machine has no such device.
    """
    return train_task(task, settings, folder, Watch(on_event, stop), choose_device(device))


def train_task(
    task: Task, settings: Settings, folder: Path, watch: Watch, device: torch.device, *, ranks: Ranks = ALONE
) -> Segmenter:
    """See `train`."""
    with alone(folder):
        if changes := check_record(folder, RunRecord.of(task, settings)):
            watch.report(Stage(changes))
        ranks.join(device)
        with ranks.ending_together():
            return _train(task, settings, folder, watch, device, ranks=ranks)


def _follow(
    folder: Path, settings: Settings, watch: Watch, device: torch.device, cache: Path, *, ranks: Ranks
) -> Segmenter:
    """Train in another process than the first, which prepares the data, reports and writes.

    Raises:
        StoppedError: The first process stopped, or has an error to report.
    """
    ranks.join(device)
    record = read_record(folder)
    task = prepared_task(record, cache)
    # a network in a file is the one that the user named, and never the one that the folder names
    settings = record.settings.model_copy(update={"network": settings.network})
    with ranks.ending_together():
        return _train(task, settings, folder, Watch(stop=watch.stop), device, ranks=ranks)


def _train(
    task: Task, settings: Settings, folder: Path, watch: Watch, device: torch.device, *, ranks: Ranks
) -> Segmenter:
    fabric = new_fabric(settings, ranks.device(device))
    with arithmetic(fabric.device, deterministic=settings.deterministic):
        batches = make_batches(task, settings, fabric.device, ranks)
        checkpoint = folder / CHECKPOINT
        fitted = read_record(folder).fitted
        state = new_state(
            task,
            settings,
            steps=len(batches),
            fitted=fitted,
            pretrained=not checkpoint.exists(),
            fused=fabric.device.type == "cuda",
        )
        fabric.to_device(state.network)  # before loading, which puts the optimiser's tensors where the weights are
        if checkpoint.exists():
            state.load(checkpoint, steps=len(batches))
        trained_on = ranks.describe_devices(describe_device(fabric.device))
        if ranks.first and state.clock.epoch < settings.epochs and (moved := note_device(folder, trained_on)):
            watch.report(Stage(moved))
        plain = state.network
        loss = fabric.to_device(make_loss(task, settings, ranks))
        state.network, state.optimizer = fabric.setup(state.network, state.optimizer)
        kept: Kept = {}

        def save() -> None:
            if ranks.first:
                State(plain, state.optimizer, state.schedule, state.clock).save(checkpoint)

        logging = open_log(folder, state.clock.history) if ranks.first else nullcontext(ignore)
        with logging as log, ranks.shared_norms(plain):
            done = fit(
                state,
                batches,
                loss,
                fabric=fabric,
                epochs=settings.epochs,
                validate=lambda: held_out_dice(
                    state.network,
                    task.held_out,
                    task.scheme,
                    patch=task.recipe.patch,
                    most=validation_slices(batches),
                    batch_size=4 * settings.batch_size,
                    fabric=fabric,
                    kept=kept,
                    ranks=ranks,
                ),
                log=log,
                checkpoint=save,
                watch=watch,
                graph=settings.graph,
                ranks=ranks,
            )
        kept.clear()
        state.optimizer.zero_grad()  # gradients of a graph keep its memory
        if not done:
            raise StoppedError(
                f"stopped in epoch {state.clock.epoch + 1} of {settings.epochs}; its state is in {checkpoint}"
            )
        segmenter = as_segmenter(plain, task, settings)
        if ranks.first:
            trained = settings.epochs * len(batches) * batches.batch_size * math.prod(task.recipe.patch)
            segmenter = _finish(segmenter, task, trained, folder, watch, batch_size=4 * settings.batch_size)
        cleaning = ranks.from_first(segmenter.cleaning)
        return segmenter if ranks.first else replace(segmenter, cleaning=cleaning)


def _finish(
    segmenter: Segmenter, task: Task, trained: int, folder: Path, watch: Watch, *, batch_size: int
) -> Segmenter:
    """Choose the clean-up, after a training on so many pixels, and save the segmenter."""
    if task.for_cleaning:
        cleaning, choice = choose_cleaning(
            segmenter, affordable(task.for_cleaning, trained), batch_size=batch_size, watch=watch
        )
        write_choice(folder, choice)
        watch.report(choice)
        segmenter = replace(segmenter, cleaning=cleaning)
    else:
        (folder / CHOICE).unlink(missing_ok=True)
    segmenter.save(folder / "segmenter")
    return segmenter


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Lock a run's folder, so that no other process trains in it; the lock ends with the process, however that ends.

    Raises:
        UserError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = "wait until it has ended, or choose another folder with -o"
        raise UserError(f"{folder}: another process is training in this folder; {remedy}") from None
    try:
        yield
    finally:
        lock.release()
