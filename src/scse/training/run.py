"""One training run: from prepared cases to a trained segmenter, in a folder that it can go on from."""

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from torch.utils.tensorboard import SummaryWriter

from scse.data.folds import make_folds
from scse.data.inspection import absent_row, open_checked
from scse.data.prepared import cache_folder
from scse.data.recipe import Recipe, View
from scse.inference.segmenter import Segmenter
from scse.support.atomic import named, write_atomic
from scse.support.errors import DataError, UserError
from scse.support.json_files import parse_json, validated
from scse.training.batches import Batches
from scse.training.loop import Event, fit, held_out_dice
from scse.training.losses import SegmentationLoss, class_frequencies, have_ignored, median_frequency_weights
from scse.training.record import RunRecord, check_record, prepared_task, read_record
from scse.training.settings import OWN_SIZES, Precision, Settings, make_settings, reject_unused
from scse.training.state import Clock, Row, State
from scse.training.task import Task, make_task
from scse.zoo.building import build_network, find_factory
from scse.zoo.catalogue import confirm_network, read_network

OnEvent = Callable[[Event], None]
Stop = Callable[[], bool]
LOG, CHECKPOINT, LOCK = "log.jsonl", "checkpoint.safetensors", ".lock"

WATCHED_SHARE = 4
"""An epoch is followed by the prediction of at most one slice for so many that it learned from.

A predicted slice costs about a third of a learned one, so that watching takes less than a tenth of the time.
"""


class StoppedError(Exception):
    """A run was asked to stop; its checkpoint is saved."""


def train(
    task: Task,
    settings: Settings,
    folder: Path,
    *,
    on_event: OnEvent = lambda event: None,
    stop: Stop = lambda: False,
) -> Segmenter:
    """Train a segmenter, going on from the folder's checkpoint if there is one.

    Args:
        task: the data.
        settings: of the run.
        folder: of the run: `checkpoint.safetensors`, `log.jsonl`, TensorBoard events, and the trained `segmenter`.
        on_event: told every step and every epoch.
        stop: asked after every step.

    Returns:
        The segmenter, also saved in the folder.

    Raises:
        StoppedError: `stop` said so; call again to go on.
        DataError: the checkpoint does not belong to this run.
        UserError: another process is training in the folder.
    """
    with alone(folder):
        return _train(task, settings, folder, on_event, stop)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Hold a run's folder, so that no other process trains in it; the lock ends with the process, however that ends.

    Raises:
        UserError: another process holds it.
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


def _train(task: Task, settings: Settings, folder: Path, on_event: OnEvent, stop: Stop) -> Segmenter:
    check_record(folder, RunRecord.of(task, settings))
    fabric = new_fabric(settings)
    batches = make_batches(task, settings)
    checkpoint = folder / CHECKPOINT
    state = new_state(task, settings, steps=len(batches), pretrained=not checkpoint.exists())
    fabric.to_device(state.network)  # before loading, which puts the optimiser's tensors where the weights are
    if checkpoint.exists():
        state.load(checkpoint, steps=len(batches))
    plain = state.network
    loss = fabric.to_device(make_loss(task, settings))
    state.network, state.optimizer = fabric.setup(state.network, state.optimizer)
    _write_log(folder / LOG, state.clock)
    with _errors_told_once(), named(folder), SummaryWriter(str(folder), purge_step=state.clock.epoch + 1) as board:
        done = fit(
            state,
            batches,
            loss,
            fabric=fabric,
            epochs=settings.epochs,
            validate=lambda: held_out_dice(
                state.network,
                task.held_out,
                task.classes,
                most=most_watched(batches),
                batch_size=4 * settings.batch_size,
                fabric=fabric,
            ),
            on_event=_logger(folder / LOG, board, on_event),
            checkpoint=lambda: State(plain, state.optimizer, state.schedule, state.clock).save(checkpoint),
            stop=stop,
        )
    if not done:
        raise StoppedError(
            f"stopped in epoch {state.clock.epoch + 1} of {settings.epochs}; its state is in {checkpoint}"
        )
    segmenter = as_segmenter(plain, task, settings)
    segmenter.save(folder / "segmenter")
    return segmenter


def train_on(
    dataset: Path | str,
    *,
    out: Path | str,
    preset: str = "quick",
    settings: Mapping[str, Any] | None = None,
    fold: int = 0,
    folds: int | None = None,
    view: View | None = None,
    spacing: float | None = None,
    skip_bad: bool = False,
    cache: Path | None = None,
    on_event: OnEvent = lambda event: None,
    stop: Stop = lambda: False,
) -> Segmenter:
    """Check a data set, prepare it and train one segmenter on it.

    Args:
        dataset: its folder, in any layout that `Dataset.open` knows.
        out: the run's folder; a run that was interrupted there goes on.
        preset: "quick" or "paper".
        settings: fields of `Settings` that replace the preset's.
        fold: which fold's test cases are held out and only watched.
        folds: see `make_folds`.
        view: plane of the slices; derived from the data by default.
        spacing: mm per pixel in the plane; by default the data's own.
        skip_bad: leave out the cases with problems instead of refusing.
        cache: folder of the prepared arrays.
        on_event: told of everything that happens.
        stop: asked after every step.

    Raises:
        ValueError: a wrong argument.
        DataError: something is wrong with the data, or `out` holds another run.
        StoppedError: `stop` said so; call again, or `resume`, to go on.
    """
    chosen = make_settings(preset, settings)
    if (Path(out) / LOCK).exists():  # who cannot train there need not wait for the data to be read
        with alone(Path(out)):
            pass
    reject_unused([chosen.network], [chosen.variant], settings or {})
    find_factory(chosen.network)  # what is missing is told before any file is read
    inspection, cases = open_checked(dataset, skip_bad=skip_bad, progress=counting("inspect", on_event, stop))
    splits = make_folds(cases, folds)
    if not 0 <= fold < len(splits):
        raise UserError(f"fold must be from 0 to {len(splits) - 1}, got {fold}")
    task = make_task(
        inspection,
        training=splits[fold].training,
        held_out=splits[fold].test,
        recipe=Recipe.derive(inspection.facts_of(cases), view=view, spacing=spacing),
        cache=cache or cache_folder(),
        progress=counting("prepare", on_event, stop),
        on_note=lambda note: on_event({"event": "stage", "what": note}),
    )
    rows = [
        ("cases", f"{len(task.training)} for training, {len(task.held_out)} watched"),
        *inspection.left_out(),
        *inspection.notices(),
        *absent_row(inspection.absent(splits[fold].training), where=f" of fold {fold}" if len(splits) > 1 else ""),
    ]
    on_event({"event": "plan", "rows": [*rows, *task.recipe.describe()], "runs": 1})
    return _train_alone(task, chosen, Path(out), on_event, stop)


def resume(
    folder: Path | str,
    *,
    network: str | None = None,
    cache: Path | None = None,
    on_event: OnEvent = lambda event: None,
    stop: Stop = lambda: False,
) -> Segmenter:
    """Go on with an interrupted run, from the prepared arrays that it used.

    Args:
        folder: of the run.
        network: name it again if it is a factory in a file: what the folder names is not run.
        cache: folder of the prepared arrays.
        on_event: told of everything that happens.
        stop: asked after every step.

    Raises:
        ValueError: the network is a factory in a file and not named, or another one is named.
        DataError: the folder holds no run, or its prepared arrays are gone.
        StoppedError: `stop` said so; call again to go on.
    """
    folder = Path(folder)
    record = read_record(folder)
    given = None if network is None else read_network(network)
    downloading = not (folder / CHECKPOINT).exists()
    chosen = confirm_network(folder, record.settings.network, given, downloading=downloading)
    settings = record.settings.model_copy(update={"network": chosen})
    return _train_alone(prepared_task(record, cache or cache_folder()), settings, folder, on_event, stop)


def _train_alone(task: Task, settings: Settings, folder: Path, on_event: OnEvent, stop: Stop) -> Segmenter:
    """Train a run that is not part of a study, and tell so."""
    told = {"run": folder.resolve().name, "folder": folder}
    on_event({"event": "run", **told, "number": 1, "runs": 1, "settings": settings.model_dump()})
    segmenter = train(task, settings, folder, on_event=on_event, stop=stop)
    on_event({"event": "trained", **told})
    return segmenter


def counting(what: str, on_event: OnEvent, stop: Stop) -> Callable[[int, int], None]:
    """A progress callback (done, total) that is told on as an event, and raises StoppedError when `stop` says so."""

    def count(done: int, total: int) -> None:
        on_event({"event": "progress", "what": what, "done": done, "total": total})
        if stop():
            raise StoppedError(f"stopped after {done} of {total} ({what})")

    return count


def new_state(task: Task, settings: Settings, *, steps: int, pretrained: bool = True) -> State:
    """The state at the start: for one seed, variants share all weights that the plain network has.

    Args:
        task: the data.
        settings: of the run.
        steps: of one epoch.
        pretrained: whether the network may fetch weights that its options ask for.

    Raises:
        ValueError: the network cannot be built for the task.
    """
    torch.manual_seed(settings.seed)
    network = build_network(
        settings.network,
        _network_arguments(task, settings),
        variant=settings.variant,
        size=task.recipe.patch,
        attach_to=settings.attach_to,
        pretrained=pretrained,
    )
    network.to(memory_format=torch.channels_last)
    optimizer = _OPTIMIZERS[settings.optimizer](network, settings)
    return State(network, optimizer, _SCHEDULES[settings.schedule](optimizer, settings, steps), Clock())


def resolve_precision(precision: Precision) -> Precision:
    """What "auto" means here: "bf16" on a GPU or processor with instructions for it, else "32"."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    # older versions of torch do not tell
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32"


def new_fabric(settings: Settings) -> Fabric:
    """The device and precision of a run."""
    return Fabric(accelerator="auto", devices=1, precision=_PRECISIONS[resolve_precision(settings.precision)])


_PRECISIONS: dict[Precision, Any] = {"32": "32-true", "bf16": "bf16-mixed"}


def _adamw(network: nn.Module, settings: Settings) -> Optimizer:
    return AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _sgd(network: nn.Module, settings: Settings) -> Optimizer:
    return SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


_OPTIMIZERS: dict[str, Callable[[nn.Module, Settings], Optimizer]] = {"adamw": _adamw, "sgd": _sgd}


def _one_cycle(optimizer: Optimizer, settings: Settings, steps: int) -> LRScheduler:
    # one step more than are taken, because the schedule steps after the optimiser
    total = settings.epochs * steps + 1
    return OneCycleLR(optimizer, settings.learning_rate, total_steps=total, cycle_momentum=False)


def _steps(optimizer: Optimizer, settings: Settings, steps: int) -> LRScheduler:
    return StepLR(optimizer, settings.step_epochs * steps, gamma=0.1)


_SCHEDULES: dict[str, Callable[[Optimizer, Settings, int], LRScheduler]] = {"one-cycle": _one_cycle, "steps": _steps}


def make_batches(task: Task, settings: Settings) -> Batches:
    """The batches of a run."""
    return Batches(
        task.training,
        patch=task.recipe.patch,
        batch_size=settings.batch_size,
        limit=settings.slices_per_epoch,
        augment=settings.augment,
        seed=settings.seed,
    )


def most_watched(batches: Batches) -> int:
    """Slices that are predicted after each epoch, if there are so many held out."""
    return max(1, len(batches) * batches.batch_size // WATCHED_SHARE)


def make_loss(task: Task, settings: Settings) -> SegmentationLoss:
    """The loss of a run, with class weights from its training cases."""
    ignoring = have_ignored(task.training)
    if settings.class_weights == "none" or "ce" not in settings.loss:
        return SegmentationLoss(settings.loss, ignoring=ignoring)
    weights = median_frequency_weights(class_frequencies(task.training, task.classes))
    return SegmentationLoss(settings.loss, weights=weights, ignoring=ignoring)


def _network_arguments(task: Task, settings: Settings) -> dict[str, int]:
    sizes = OWN_SIZES if settings.network.is_own else ()
    return {
        "in_channels": task.recipe.channels,
        "classes": task.classes,
        **{name: getattr(settings, name) for name in sizes},
    }


def as_segmenter(network: nn.Module, task: Task, settings: Settings) -> Segmenter:
    """A network of a run as a segmenter."""
    return Segmenter(
        network=network,
        name=settings.network.text,
        arguments=_network_arguments(task, settings),
        variant=str(settings.variant),
        recipe=task.recipe,
        structures=dict(task.structures),
        settings={**settings.model_dump(), "precision": resolve_precision(settings.precision)},
    )


def _write_log(path: Path, clock: Clock) -> None:
    """Bring the log to where the checkpoint stands: it may be of a run that was killed, or is trained anew."""
    write_atomic(path, "".join(_log_line(row) for row in clock.history).encode())


def _log_line(row: Mapping[str, Any]) -> str:
    return json.dumps({"event": "epoch", **row}) + "\n"


class _LogRow(Row):
    """A line of the log."""

    event: Literal["epoch"]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a run that is finished, as its log has them.

    Raises:
        DataError: a line is damaged.
    """
    path = folder / LOG
    remedy = "delete it with the scores beside it, and call the same command again, which writes both anew"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        content = parse_json(line, path=path, remedy=remedy)
        row = validated(_LogRow, content, path=path, remedy=remedy, within=f"line {number}", strict=True)
        rows.append(row.model_dump(exclude={"event"}))
    return rows


@contextmanager
def _errors_told_once() -> Generator[None]:
    """TensorBoard's thread hands its error on to whoever writes next, and need not print it as well."""
    before = threading.excepthook

    def told(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


def _logger(path: Path, board: SummaryWriter, on_event: OnEvent) -> OnEvent:
    """Write every epoch to the JSONL log and to TensorBoard, and pass every event on."""

    def log(event: Event) -> None:
        if event["event"] == "epoch":
            with named(path), path.open("a") as file:
                file.write(_log_line(event))
            for name in ("loss", "dice", "learning_rate", "seconds"):
                board.add_scalar(name, event[name], event["epoch"])
            board.flush()
        on_event(event)

    return log
