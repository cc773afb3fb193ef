"""Training from a folder of scans to a segmenter: it learns, writes its logs, and refuses invalid requests."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datasets import ORDER, REGIONS, save_prepared, write_nnunet, write_pictures, write_regions, write_table
from scse.data.files import read_image, read_label
from scse.data.inspection import open_checked
from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.data.recipe import Recipe
from scse.data.schemes import LabelScheme
from scse.evaluation.scores import dice_scores, score
from scse.inference.segmenter import Segmenter
from scse.support.errors import DataError, UserError
from scse.support.events import EpochDone, Event, Planned, Progress, RunStarted, StepDone, StoppedError, Trained
from scse.training import loop, run
from scse.training.log import LOG, read_log
from scse.training.losses import SegmentationLoss
from scse.training.record import read_record
from scse.training.run import CHECKPOINT, resume, train, train_on
from scse.training.settings import Settings
from scse.training.setup import new_fabric, new_state, resolve_precision
from scse.training.state import State
from scse.training.task import MONITORED, Task, make_task
from scse.training.validation import VALIDATION_SHARE, dice_on_device, held_out_dice

TINY: dict[str, Any] = {"width": 4, "depth": 2, "learning_rate": 0.02, "precision": "32"}
VALUES = (300, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=3, tests=2, values=VALUES)


@pytest.fixture(scope="module")
def learned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Return the folder of a finished run and all its events."""
    out, events = tmp_path_factory.mktemp("run"), []
    train_on(folder, out=out, settings={**TINY, "epochs": 4}, cache=out / "cache", on_event=events.append)
    return out, events


Learned = tuple[Path, list[Event]]


def test_it_learns(folder: Path, learned: Learned) -> None:
    rows = [json.loads(line) for line in (learned[0] / LOG).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[-1]["dice"] > 0.5
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    segmenter = Segmenter.load(learned[0])
    for case in ("t0", "t1"):
        found = segmenter.predict_image(read_image([folder / f"imagesTs/{case}_0000.nii.gz"]))
        assert dice_scores(found, read_label(folder / f"labelsTs/{case}.nii.gz").array, sorted(VALUES)).min() > 0.5


def test_what_is_reported(learned: Learned) -> None:
    out, events = learned
    kinds = list(dict.fromkeys(map(type, events)))
    assert kinds == [Progress, Planned, RunStarted, StepDone, EpochDone, Trained]
    run = next(event for event in events if isinstance(event, RunStarted))
    assert (run.run, run.folder, run.number, run.runs) == (out.name, out, 1, 1)
    assert Settings(**run.settings) == read_record(out).settings
    assert events[-1] == Trained(out.name, out)
    assert [event for event in events if isinstance(event, Progress)] == [
        *(Progress("inspect", done, 5) for done in range(1, 6)),
        *(Progress("prepare", done, 5) for done in range(1, 6)),
    ]
    plan = dict(next(event.rows for event in events if isinstance(event, Planned)))
    assert plan["cases"] == "3 for training, 2 for validation"
    assert plan["plane"] == "coronal"
    steps = [event for event in events if isinstance(event, StepDone)]
    of_epoch = 3 * 28 // 8
    assert [(step.epoch, step.step, step.steps) for step in steps] == [
        (epoch, step, of_epoch) for epoch in range(1, 5) for step in range(1, of_epoch + 1)
    ]
    assert all(event.images_per_second > 0 for event in steps)
    assert steps[-1].seconds_left == 0
    epochs = [event for event in events if isinstance(event, EpochDone)]
    for epoch in epochs:
        losses = [step.loss for step in steps if step.epoch == epoch.epoch]
        assert epoch.loss == sum(losses) / of_epoch, "added one by one in double precision"


def test_the_log_is_what_was_reported(learned: Learned) -> None:
    out, events = learned
    epochs = [event for event in events if isinstance(event, EpochDone)]
    assert read_log(out) == epochs
    assert (out / LOG).read_text() == "".join(
        f'{{"event": "epoch", "epoch": {e.epoch}, "loss": {e.loss!r}, "dice": {e.dice!r}, "seconds": {e.seconds!r}, '
        f'"learning_rate": {e.learning_rate!r}}}\n'
        for e in epochs
    )


def test_a_log_of_the_first_version_is_read(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(
        '{"event": "epoch", "epoch": 1, "loss": 2.0733546018600464, "dice": NaN, "seconds": 0.0643, '
        '"learning_rate": 0.002893134787650513}\n'
        '{"event": "epoch", "epoch": 2, "loss": 1.75, "dice": 0.5, "seconds": 1, "learning_rate": 1.2e-08}\n'
    )
    first, second = read_log(tmp_path)
    assert (first.epoch, first.loss, first.seconds) == (1, 2.0733546018600464, 0.0643)
    assert first.learning_rate == 0.002893134787650513
    assert math.isnan(first.dice)
    assert second == EpochDone(2, 1.75, 0.5, 1.0, 1.2e-08)


def test_tensorboard_events(learned: Learned) -> None:
    out, _ = learned
    rows = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    board = EventAccumulator(str(out)).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "dice", "learning_rate", "seconds"}
    for name in ("loss", "dice"):
        assert [event.step for event in board.Scalars(name)] == [1, 2, 3, 4]
        assert [event.value for event in board.Scalars(name)] == pytest.approx([row[name] for row in rows])


def test_the_segmenter_knows_how_it_was_made(learned: Learned) -> None:
    segmenter = Segmenter.load(learned[0])
    assert segmenter.structures == {"left": 300, "right": 3}
    assert segmenter.settings == {**Settings(**TINY, epochs=4).model_dump(), "precision": "32"}
    assert (segmenter.name, segmenter.variant, segmenter.arguments["classes"]) == ("unet", "none", 3)


def test_pictures_are_learned_too(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", cases=10, values=(7, 255))
    settings = {**TINY, "epochs": 20, "batch_size": 4, "variant": "scse"}
    segmenter = train_on(folder, out=tmp_path / "run", settings=settings, cache=tmp_path / "cache")
    found = segmenter.predict(folder / "images/p0.png")
    assert dice_scores(found, read_label(folder / "masks/p0.png").array, [7, 255]).min() > 0.5


def test_volumes_are_learned_too_and_a_stopped_run_continues_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    settings = {**TINY, "epochs": 4, "slices_per_epoch": 40, "foreground": 0.5, "variant": "scse"}
    options: dict[str, Any] = {"dims": 3, "spacing": 3, "settings": settings, "cache": tmp_path / "cache"}
    segmenter = train_on(folder, out=tmp_path / "whole", **options)
    assert segmenter.recipe.view == "volume"
    assert segmenter.recipe.spacing == (3, 3, 3)
    events: list[Event] = []
    with pytest.raises(StoppedError):
        train_on(
            folder,
            out=tmp_path / "parts",
            **options,
            on_event=events.append,
            stop=lambda: sum(isinstance(event, StepDone) for event in events) == 30,
        )
    resume(tmp_path / "parts", cache=tmp_path / "cache")
    whole, parts = (Segmenter.load(tmp_path / name) for name in ("whole", "parts"))
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(parts.network.state_dict()[name], weights), name
    found = whole.predict(folder / "imagesTs/t0_0000.nii.gz")
    reference = read_label(folder / "labelsTs/t0.nii.gz")
    assert found.shape == reference.array.shape
    assert dice_scores(np.asarray(found.dataobj), reference.array, sorted(VALUES)).min() > 0.5


def test_a_fold_holds_its_test_cases_out(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "set", cases=4, shape=(9, 4, 9))
    (folder / "splits_final.json").write_text(
        json.dumps([{"train": ["c0", "c1"], "val": ["c2"]}, {"train": ["c3"], "val": ["c0", "c1"]}])
    )
    settings = {**TINY, "epochs": 1, "batch_size": 4}
    train_on(folder, out=tmp_path / "run", settings=settings, fold=1, cache=tmp_path / "cache")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (list(record["training"]), list(record["held_out"])) == (["c3"], ["c0", "c1"])
    with pytest.raises(ValueError, match="fold must be from 0 to 1, got 2"):
        train_on(folder, out=tmp_path / "other", fold=2, cache=tmp_path / "cache")


def test_a_table_is_trained_on_and_groups_are_held_out_together(tmp_path: Path) -> None:
    table, settings = write_table(tmp_path / "set", shape=(9, 4, 9)), {**TINY, "epochs": 1, "batch_size": 4}
    events: list[Event] = []
    train_on(table, out=tmp_path / "run", settings=settings, folds=3, cache=tmp_path / "cache", on_event=events.append)
    record = read_record(tmp_path / "run")
    assert sorted([*record.training, *record.held_out]) == [f"c{n}" for n in range(6)]
    first, second = sorted(int(name[1]) for name in record.held_out)
    assert (first % 2, second) == (0, first + 1)
    [plan] = [event for event in events if isinstance(event, Planned)]
    assert ("groups", "7 cases in 4 groups, which folds keep together and statistics count as one each") in plan.rows
    assert ("not used", "columns of cases.csv: age") in plan.rows


def test_bad_cases_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "set", cases=5, tests=1, shape=(9, 4, 9))
    (folder / "imagesTr/c1_0000.nii.gz").write_bytes(b"no image")
    where = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    with pytest.raises(DataError, match="1 problem found"):
        train_on(folder, **where)
    train_on(folder, settings={**TINY, "epochs": 1, "batch_size": 4}, skip_bad=True, **where)
    assert "c1" not in (tmp_path / "run" / "run.json").read_text()


def test_wrong_settings_are_told_before_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="network must be one of"):
        train_on(tmp_path / "nowhere", out=tmp_path / "run", settings={"network": "vnet"})


def test_a_run_stopped_while_reading_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=r"stopped after 1 of 5 \(inspect\)"):
        train_on(folder, out=tmp_path / "run", cache=tmp_path / "cache", stop=lambda: True)


def test_a_second_call_goes_on(folder: Path, tmp_path: Path) -> None:
    call: dict[str, Any] = {"out": tmp_path / "run", "cache": tmp_path / "cache", "settings": {**TINY, "epochs": 1}}
    calls = iter(range(100))
    with pytest.raises(StoppedError, match="stopped in epoch 1 of 1"):
        train_on(folder, **call, stop=lambda: next(calls) == 12)  # 5 inspected, 5 prepared, 3 steps
    assert (tmp_path / "run" / CHECKPOINT).exists()
    events: list[Any] = []
    segmenter = resume(tmp_path / "run", cache=tmp_path / "cache", on_event=events.append)
    assert isinstance(events[0], RunStarted)
    assert events[1].step == 4
    assert isinstance(events[-1], Trained)
    assert train_on(folder, **call).structures == segmenter.structures


def test_only_some_held_out_cases_are_watched(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "set", cases=1, tests=MONITORED + 2, shape=(9, 4, 9))
    inspection, dataset = open_checked(folder)
    recipe = Recipe.derive(inspection.facts)
    task = make_task(
        inspection, training=dataset.cases, held_out=dataset.test_cases, recipe=recipe, cache=tmp_path / "cache"
    )
    assert [case.name for case in task.training] == ["c0"]
    assert [case.name for case in task.held_out] == [f"t{n}" for n in range(MONITORED)]
    assert task.scheme.outputs == 3


THREE, FIVE = (LabelScheme({f"structure {n}": n for n in range(1, classes)}) for classes in (3, 5))
"""Exclusive classes, including the background."""


class Copy(torch.nn.Module):
    """A network that reads the class off the image's pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), 3).movedim(-1, 1).float()


def test_held_out_dice_is_the_mean_over_cases_and_present_structures(tmp_path: Path) -> None:
    right = np.zeros((5, 8, 8))
    right[:, 2:6, 2:6] = 1
    half = right.copy()
    half[:, 4:6] = 0  # Dice 2 * 8 / (8 + 16)
    cases = [save_prepared(tmp_path / "a", right[:, None], right), save_prepared(tmp_path / "b", half[:, None], right)]
    fabric = new_fabric(Settings(precision="32"))
    network = Copy().train()
    found = held_out_dice(network, cases, THREE, patch=(8, 8), most=10, batch_size=2, fabric=fabric)
    assert found == pytest.approx((1 + 2 / 3) / 2)
    assert not network.training
    empty = [save_prepared(tmp_path / "c", 0 * right[:, None], 0 * right)]
    assert math.isnan(held_out_dice(network, empty, THREE, patch=(8, 8), most=10, batch_size=2, fabric=fabric))
    assert math.isnan(held_out_dice(network, [], THREE, patch=(8, 8), most=10, batch_size=2, fabric=fabric))


def test_held_out_dice_leaves_ignored_voxels_out(tmp_path: Path) -> None:
    predicted, reference = np.zeros((3, 8, 8)), np.zeros((3, 8, 8))
    predicted[:, 2:6] = reference[:, 2:4] = 1
    reference[:, 4:6] = IGNORED_CLASS
    cases = [save_prepared(tmp_path / "a", predicted[:, None], reference)]
    assert (
        held_out_dice(
            Copy(), cases, THREE, patch=(8, 8), most=10, batch_size=2, fabric=new_fabric(Settings(precision="32"))
        )
        == 1
    )


@pytest.mark.parametrize("shape", [(5, 8, 9), (1, 6, 8, 9)])
def test_dice_counted_on_a_device_is_that_of_the_host(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    predicted, reference = (rng.integers(0, 3, shape, dtype=np.uint8) for _ in range(2))
    reference[:, 2] = IGNORED_CLASS
    scored = reference != IGNORED_CLASS
    wanted = dice_scores(predicted[scored], reference[scored], range(1, 5))
    assert np.isnan(wanted).tolist() == [False, False, True, True]

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(images[:, 0].long(), 5).movedim(-1, 1).float()

    images, labels = torch.from_numpy(predicted)[:, None], torch.from_numpy(reference)
    np.testing.assert_array_equal(dice_on_device(forward, images, labels, FIVE, batch_size=2), wanted)


def test_slices_that_stay_on_a_device_give_the_same_dice(task: Task) -> None:
    fabric, network = new_fabric(Settings(precision="32")), torch.nn.Conv2d(1, 3, 3, padding=1)
    options: dict[str, Any] = {"patch": task.recipe.patch, "most": 14, "batch_size": 4, "fabric": fabric}
    kept = {c.name: (torch.from_numpy(c.images().copy()), torch.from_numpy(c.labels().copy())) for c in task.held_out}
    assert held_out_dice(network, task.held_out, THREE, **options) == held_out_dice(
        network, task.held_out, THREE, **options, kept=kept
    )


def test_a_network_of_one_value_per_channel_is_told_the_remedy(task: Task, tmp_path: Path) -> None:
    few = Task([one_slice(task.training[0], tmp_path / "one")], [], task.recipe, task.structures)
    settings = Settings(**TINY | {"depth": 4, "epochs": 1})
    with pytest.raises(UserError, match=r"a batch of 1 slice of 16 x 16 pixels.*: take a batch_size of 2 or more"):
        train(few, settings, tmp_path / "run")


def test_patches_of_volumes_are_called_so() -> None:
    state: Any = SimpleNamespace(network=torch.nn.InstanceNorm3d(1))
    fabric, images = new_fabric(Settings(precision="32"), "cpu"), torch.ones(2, 1, 1, 1, 1)
    with pytest.raises(
        UserError, match=r"a batch of 2 patches of 1 x 1 x 1 voxels.* as many training patches, or larg"
    ):
        loop.train_step(state, torch.nn.MSELoss(), images, images, fabric)


def one_slice(case: Prepared, folder: Path) -> Prepared:
    return save_prepared(folder, np.array(case.images()[:1]), np.array(case.labels()[:1]))


class Counting(Copy):
    """Records a pixel of every slice of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x[:, 0, 0, 0].int().tolist()
        return super().forward(x % 3)


def numbered(folder: Path, slices: int) -> Prepared:
    """Return a case whose n-th slice has the value n and the class n modulo 3 in all pixels."""
    images = np.broadcast_to(np.arange(slices)[:, None, None], (slices, 8, 8))
    return save_prepared(folder, images[:, None], images % 3)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (100, [*range(12), *range(4)]),
        (16, [*range(12), *range(4)]),
        (8, [1, 3, 5, 7, 9, 11, 1, 3]),  # half of the slices of each case
        (4, [2, 6, 10, 2]),
        (1, [6, 2]),  # at least one slice of each case
    ],
)
def test_held_out_dice_looks_at_so_many_slices_evenly_spaced(tmp_path: Path, most: int, expected: list[int]) -> None:
    cases = [numbered(tmp_path / "a", 12), numbered(tmp_path / "b", 4)]
    network = Counting()
    dice = held_out_dice(
        network, cases, THREE, patch=(8, 8), most=most, batch_size=3, fabric=new_fabric(Settings(precision="32"))
    )
    assert network.seen == expected
    assert dice == 1  # each slice was compared with its own labels


def test_validation_is_bounded_by_the_slices_of_an_epoch(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(run, "held_out_dice", lambda *_, most, **__: asked.append(most) or 0.5)
    for limit, batch_size in [(None, 4), (8, 4), (2, 2)]:
        settings = Settings(**TINY, epochs=1, slices_per_epoch=limit, batch_size=batch_size)
        train(task, settings, tmp_path / f"{limit}")
    assert asked == [20 // VALIDATION_SHARE, 8 // VALIDATION_SHARE, 1]  # of 21 slices, the last is no batch


def test_a_run_without_held_out_cases(task: Task, tmp_path: Path) -> None:
    alone = Task(task.training, [], task.recipe, task.structures)
    segmenter = train(alone, Settings(**TINY, epochs=1, slices_per_epoch=8), tmp_path)
    assert segmenter.arguments["classes"] == 3


def test_training_that_diverges_says_so_and_leaves_no_segmenter(tmp_path: Path) -> None:
    images = np.full((4, 1, 16, 16), 3e38, np.float32)
    case = save_prepared(tmp_path / "case", images, np.ones((4, 16, 16), np.uint8))
    recipe = Recipe(view="axial", spacing=None, patch=(16, 16), channels=1)
    task = Task([case], [], recipe, {"left": 1})
    with pytest.raises(UserError, match="the loss became nan in epoch 1, step 1: training diverged; choose a smaller"):
        train(task, Settings(**TINY, epochs=1, augment=False), tmp_path / "run")
    assert not (tmp_path / "run" / "segmenter").exists()


def test_a_loss_that_is_fetched_later_ends_the_run_with_the_same_error(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "report_interval", lambda device: 3)
    take_step, steps = loop.train_step, []

    def diverge(*given: Any, **further: Any) -> torch.Tensor:
        steps.append(take_step(*given, **further))
        return steps[-1] * (math.inf if len(steps) == 7 else 1)

    monkeypatch.setattr(loop, "train_step", diverge)
    settings = Settings(**TINY, epochs=2, slices_per_epoch=20, batch_size=4)  # 5 steps an epoch
    events: list[Event] = []
    with pytest.raises(UserError, match="the loss became inf in epoch 2, step 2: training diverged; choose a smaller"):
        train(task, settings, tmp_path, on_event=events.append)
    assert len(steps) == 8, "found at the next report"
    reported = [(event.epoch, event.step) for event in events if isinstance(event, StepDone)]
    assert reported == [(1, 3), (1, 5)]
    assert [epoch.epoch for epoch in read_log(tmp_path)] == [1]

    # in the last step before a stop: the checkpoint of the first epoch stays
    before, steps[:] = (tmp_path / CHECKPOINT).read_bytes(), [0] * 5
    with pytest.raises(UserError, match="the loss became inf in epoch 2, step 2"):
        train(task, settings, tmp_path, stop=lambda: len(steps) == 7)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_class_weights_fade_step_by_step_also_in_a_run_that_goes_on(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step, weights = loop.train_step, []

    def note(state: State, loss: SegmentationLoss, *given: Any, **further: Any) -> torch.Tensor:
        weights.append(loss.terms["ce"].weight.clone())
        return take_step(state, loss, *given, **further)

    monkeypatch.setattr(loop, "train_step", note)
    settings = Settings(**TINY, epochs=2, slices_per_epoch=20, batch_size=4)  # 5 steps an epoch
    with pytest.raises(StoppedError):
        train(task, settings, tmp_path, stop=lambda: len(weights) == 7)
    train(task, settings, tmp_path)
    torch.testing.assert_close(torch.stack(weights), weights[0] ** (1 - torch.arange(10)[:, None] / 10))


def test_losses_are_fetched_every_tenth_step_from_other_devices_than_a_cpu() -> None:
    assert [loop.report_interval(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [1, 10, 10]


def test_bfloat16(task: Task, tmp_path: Path) -> None:
    chosen = Settings(**{**TINY, "precision": "bf16"}, epochs=2, batch_size=4)
    segmenter = train(task, chosen, tmp_path)
    assert segmenter.settings["precision"] == "bf16"
    assert {value.dtype for value in segmenter.network.parameters()} == {torch.float32}
    losses = [json.loads(line)["loss"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert losses[1] < losses[0]


def test_fabric_announces_nothing_and_its_logger_stays_as_it_is() -> None:
    logger, records = logging.getLogger("lightning_fabric"), []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    before = logger.level
    try:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        assert new_fabric(Settings(precision="bf16"), "cpu").device.type == "cpu"
        assert (records, logger.level) == ([], logging.INFO)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def test_automatic_precision_is_one_of_both() -> None:
    assert resolve_precision("auto") in {"32", "bf16"}
    assert (resolve_precision("32"), resolve_precision("bf16")) == ("32", "bf16")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "one-cycle"}, None),
        ({"schedule": "steps", "step_epochs": 2, "optimizer": "sgd"}, [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]),
    ],
)
def test_schedules(task: Task, schedule: dict[str, Any], expected: list[float] | None) -> None:
    chosen = Settings(**{**TINY, **schedule, "learning_rate": 1, "epochs": 5})
    state, rates = new_state(task, chosen, steps=2), []
    for _ in range(5 * 2):
        rates.append(state.optimizer.param_groups[0]["lr"])
        state.optimizer.step()
        state.schedule.step()
    if expected is not None:
        assert rates[:9] == pytest.approx(expected)
    else:
        assert max(rates) == pytest.approx(1, abs=0.1)
        assert rates[0] < 0.1
        assert rates[-1] < 0.1


def test_sgd_has_momentum_and_decay(task: Task) -> None:
    chosen = Settings(**TINY, optimizer="sgd", momentum=0.9, weight_decay=0.3)
    [group] = new_state(task, chosen, steps=2).optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 0.3, False)


class Levels(torch.nn.Module):
    """A network whose logits are the channels of the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_held_out_dice_of_regions_is_that_of_their_masks_in_the_label_map(tmp_path: Path) -> None:
    scheme = LabelScheme({"a": 7, "b": 2}, {"a": (7, 5, 2), "b": (2, 9)})
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 2, 8, 9)).astype(np.float32)
    reference = rng.integers(0, 5, (5, 8, 9))  # classes of the labels 0, 2, 5, 7, 9
    reference[:, 6] = IGNORED_CLASS
    values = np.array([0, 2, 5, 7, 9, *[0] * 251])[reference]
    predicted = np.where(logits[:, 1] > 0, 2, np.where(logits[:, 0] > 0, 7, 0))
    wanted = []
    for members in scheme.regions.values():
        ours, theirs = (np.isin(labels, members) & (reference != IGNORED_CLASS) for labels in (predicted, values))
        wanted.append(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
    case = save_prepared(tmp_path / "a", logits, reference)
    fabric = new_fabric(Settings(precision="32"))
    options: dict[str, Any] = {"patch": (8, 9), "most": 10, "batch_size": 2, "fabric": fabric}
    assert held_out_dice(Levels(), [case], scheme, **options) == pytest.approx(np.mean(wanted))
    kept = {"a": (torch.from_numpy(logits), torch.from_numpy(reference.astype(np.uint8)))}
    np.testing.assert_allclose(dice_on_device(Levels(), *kept["a"], scheme, batch_size=2), wanted)
    assert held_out_dice(Levels(), [case], scheme, **options, kept=kept) == pytest.approx(np.mean(wanted))


def test_a_training_on_regions_learns_them(tmp_path: Path) -> None:
    data = write_regions(tmp_path / "data", cases=4, tests=1, ignore=True)
    settings = {"width": 4, "depth": 2, "epochs": 10, "learning_rate": 0.02, "precision": "32", "mirror": "safe"}
    options: dict[str, Any] = {"out": tmp_path / "run", "settings": settings, "cache": tmp_path / "cache"}
    events: list[Any] = []
    segmenter = train_on(data, **options, on_event=events.append)
    assert segmenter.regions == REGIONS
    assert segmenter.structures == dict(zip(REGIONS, ORDER, strict=True))
    assert segmenter.arguments["classes"] == len(REGIONS)
    assert segmenter.settings["class_weights"] == "none"
    (plan,) = (event for event in events if isinstance(event, Planned))
    assert dict(plan.rows)["clean-up"].startswith("none: a clean-up is chosen for exclusive structures only")
    assert dict(plan.rows)["regions"].endswith("whole (1, 2, 3); core (2, 3); middle (2)")
    assert read_record(tmp_path / "run").regions == REGIONS
    image = read_image([data / "imagesTs" / "t0_0000.nii.gz"])
    reference = read_label(data / "labelsTs" / "t0.nii.gz").array
    found = Segmenter.load(tmp_path / "run").predict_image(image)
    np.testing.assert_array_equal(found, segmenter.predict_image(image))
    table = score(found, reference, spacing=image.spacing, structures=REGIONS, ignored=4)
    dice = table[table["metric"] == "dice"].set_index("structure")["value"]
    assert dice["whole"] > 0.9
    assert dice["core"] > 0.85
    assert dice["middle"] > 0.6
    again = resume(tmp_path / "run", cache=tmp_path / "cache")
    assert all(
        torch.equal(a, b) for a, b in zip(again.network.parameters(), segmenter.network.parameters(), strict=True)
    )


def test_what_regions_do_not_have_is_refused(tmp_path: Path, task: Task) -> None:
    data = write_regions(tmp_path / "data", cases=4, tests=1)
    options: dict[str, Any] = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    with pytest.raises(UserError, match="class_weights='median-frequency': structures of this data set are regions"):
        train_on(data, settings={"class_weights": "median-frequency"}, **options)
    with pytest.raises(UserError, match="cleaning='learned': a clean-up is chosen for exclusive structures only"):
        train_on(data, cleaning="learned", **options)
    regions = {name: (value,) for name, value in task.structures.items()}
    with pytest.raises(UserError, match="choose_cleaning: a clean-up is chosen"):
        Task(task.training, [], task.recipe, task.structures, task.held_out, regions)
