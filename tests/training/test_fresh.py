from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets import write_nnunet
from scse.data.dataset import Dataset
from scse.data.inspection import open_checked
from scse.data.recipe import Recipe
from scse.simulation.simulator import Simulation
from scse.support.errors import UserError
from scse.support.events import StepDone, StoppedError
from scse.training.fresh import FreshBatches
from scse.training.resident import Streamed, on_device
from scse.training.run import resume, train_on
from scse.training.settings import make_settings
from scse.training.setup import make_batches
from scse.training.task import MONITORED, POPULATION, Task, make_task

TINY = {"width": 2, "depth": 1, "slices_per_epoch": 8, "batch_size": 2, "epochs": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data") / "set", cases=2, tests=1, shape=(12, 10, 14))


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    inspection, dataset = open_checked(folder)
    facts = inspection.facts_of(dataset)
    recipe = Recipe.derive(facts)
    return make_task(
        inspection,
        training=dataset.cases,
        held_out=dataset.test_cases,
        recipe=recipe,
        cache=tmp_path_factory.mktemp("cache"),
        simulation=Simulation.of(facts, recipe, contrast="source"),
    )


def batches(task: Task, **changes: Any) -> FreshBatches:
    found = make_batches(task, make_settings("quick", {**TINY, "augment": False, "simulate": 1.0, **changes}))
    assert isinstance(found, FreshBatches)
    return found


def pixels(made: FreshBatches, epoch: int, start: int = 0) -> list[torch.Tensor]:
    return [images for images, _ in made.epoch(epoch, start=start)]


def test_every_epoch_has_new_subjects_and_a_resumed_one_the_same(made: Task) -> None:
    first = pixels(batches(made), 0)
    assert len(first) == 4
    second = pixels(batches(made), 1)
    known = {image.numpy().tobytes() for images in first for image in images}
    assert not any(image.numpy().tobytes() in known for images in second for image in images)
    # a run that continues, in a process of its own, within the second epoch
    for wanted, found in zip(second[2:], pixels(batches(made), 1, start=2), strict=True):
        assert torch.equal(wanted, found)


def test_a_share_is_simulated_and_the_rest_is_real(made: Task) -> None:
    real = {image.tobytes() for case in made.training for image in case.images()}

    def share(simulate: float) -> float:
        found = batches(made, simulate=simulate, slices_per_epoch=20)
        images = [image for epoch in range(3) for batch in pixels(found, epoch) for image in batch]
        return sum(image.numpy().tobytes() not in real for image in images) / len(images)

    assert share(1.0) == 1
    assert share(0.25) == pytest.approx(0.25)


def test_few_cases_give_any_number_of_slices(made: Task) -> None:
    slices = sum(len(case.labels()) for case in made.training)
    assert len(batches(made, slices_per_epoch=10 * slices)) == 10 * slices // 2
    assert len(batches(made, slices_per_epoch=None)) == slices // 2
    # each slice of a subject is seen about once in an epoch
    assert batches(made, slices_per_epoch=10 * slices).subjects == 20


def test_crops_are_centred_on_structures_of_the_subjects_of_the_epoch(made: Task) -> None:
    found = batches(made, foreground=1.0)
    found.patch = (2, 2)
    for epoch in range(2):
        for draw in found.draws(epoch):
            _, labels = found.cut(draw)
            slices = [found.labels[case][index] for case, index in (found.slices[n] for n in draw.chosen)]
            assert [label.any() for label in labels] == [whole.any() for whole in slices]


def test_on_a_gpu_they_are_sent_in_every_step(made: Task) -> None:
    feed = on_device(batches(made), CPU, free=2**40)
    assert isinstance(feed, Streamed)
    for epoch in (0, 1):
        expected = pixels(batches(made), epoch)
        found = [feed.pixels(*sent)[0] for sent in feed.epoch(epoch)]
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_run_on_one_image_continues_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    files = folder / "imagesTr" / "c0_0000.nii.gz", folder / "labelsTr" / "c0.nii.gz"
    call: dict[str, Any] = {"source": files, "settings": {**TINY, "precision": "32"}, "cache": tmp_path / "cache"}
    whole = train_on(None, out=tmp_path / "whole", **call)
    steps: list[StepDone] = []

    def keep(event: object) -> None:
        if isinstance(event, StepDone):
            steps.append(event)

    with pytest.raises(StoppedError, match="stopped in epoch 2 of 2"):
        train_on(None, out=tmp_path / "part", **call, on_event=keep, stop=lambda: len(steps) == 6)
    again = resume(tmp_path / "part", cache=tmp_path / "cache")
    for one, other in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert list(whole.structures.values()) == [1, 2]
    assert whole.settings["simulate"] == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": ("a.nii.gz", "b.nii.gz"), "dataset": "set"}, "dataset and source"),
        ({"simulate": 0.5}, "simulate must be 1 without a data set"),
        ({"source": ("a.nii.gz", "b.nii.gz"), "folds": 3}, "folds needs a data set"),
        ({"source": ("a.nii.gz", "b.nii.gz")}, "does not exist"),
        ({"simulate": 1.5}, "less than or equal to 1"),
        ({"contrast": "any"}, "'source' or 'random'"),
        ({"dataset": "set", "contrast": "random"}, "contrast has no effect without simulated subjects"),
        (
            {"dataset": "set", "contrast": "random", "simulate": 0.0},
            "contrast has no effect without simulated subjects",
        ),
        ({"dataset": "set", "settings": {"skull": "true"}}, "skull has no effect without simulated subjects"),
        ({"source": ("a.nii.gz", "b.nii.gz"), "cleaning": "learned"}, "does not exist"),
    ],
)
def test_wrong_requests_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_on(fields.pop("dataset", None), out=tmp_path / "run", cache=tmp_path / "cache", **fields)


def test_validation_is_on_simulated_subjects_without_held_out_cases(folder: Path, tmp_path: Path) -> None:
    dataset = Dataset.of_files(folder / "imagesTr" / "c0_0000.nii.gz", folder / "labelsTr" / "c0.nii.gz")
    inspection, cases = open_checked(dataset)
    facts = inspection.facts_of(cases)
    recipe = Recipe.derive(facts, dims=3)
    task = make_task(
        inspection,
        training=cases.cases,
        held_out=(),
        recipe=recipe,
        cache=tmp_path,
        simulation=Simulation.of(facts, recipe, contrast="random"),
    )
    assert [case.name for case in task.held_out] == [f"simulated {n + 1}" for n in range(MONITORED)]
    assert task.known is not None
    assert task.known.cases == POPULATION
    assert task.known.images is None
    [fact] = facts
    real = {name: fact.voxels[value] * np.prod(fact.spacing) / 1000 for name, value in cases.structures.items()}
    for name, (low, high) in task.known.volumes.items():
        assert 0.2 * real[name] < low < real[name] < high < 5 * real[name]
    patches = list(islice(batches(task, contrast="random").epoch(0), 2))
    assert all(images.shape[2:] == recipe.patch for images, _ in patches)
    assert np.isfinite(patches[0][0].numpy()).all()
