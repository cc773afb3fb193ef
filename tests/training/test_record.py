"""The record of a run: resuming with other settings or data is refused, and the data set is not needed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from scse.data.prepared import Prepared
from scse.support.errors import DataError
from scse.support.events import Event, Stage, StoppedError
from scse.training.record import RECORD, RunRecord, check_record, note_device, prepared_task, read_record
from scse.training.run import resume, train
from scse.training.settings import Settings
from scse.training.task import Task

SETTINGS = Settings(width=4, depth=2, epochs=2, slices_per_epoch=10, batch_size=5, precision="32")


def record(task: Task, **changes: Any) -> RunRecord:
    return RunRecord.of(task, SETTINGS.model_copy(update=changes))


def test_the_same_run_is_let_go_on(task: Task, tmp_path: Path) -> None:
    assert check_record(tmp_path, record(task)) == ""
    before = (tmp_path / RECORD).read_bytes()
    assert check_record(tmp_path, record(task)) == ""
    assert (tmp_path / RECORD).read_bytes() == before
    assert read_record(tmp_path) == record(task)


def test_sorted_keys_do_not_change_the_order_of_classes_and_cases(task: Task, tmp_path: Path) -> None:
    reversed_ = Task(task.training[::-1], task.held_out, task.recipe, dict(reversed(task.structures.items())))
    for index, each in enumerate((task, reversed_)):
        folder = tmp_path / str(index)
        check_record(folder, record(each))
        content = json.loads((folder / RECORD).read_text())
        (folder / RECORD).write_text(json.dumps(content, sort_keys=True))
        found = read_record(folder)
        assert list(found.structures) == list(each.structures)
        assert list(found.training) == [case.name for case in each.training]
        content["classes"].append("other")
        (folder / RECORD).write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"run\.json: .*classes are .*'other'"):
            read_record(folder)


def test_a_record_of_an_earlier_version_goes_on(task: Task, tmp_path: Path) -> None:
    check_record(tmp_path, record(task))
    content = json.loads((tmp_path / RECORD).read_text())
    del content["classes"], content["cases"], content["devices"]
    (tmp_path / RECORD).write_text(json.dumps(content))
    assert check_record(tmp_path, record(task)) == ""
    assert json.loads((tmp_path / RECORD).read_text()) == content


def test_devices_are_noted_and_not_compared(task: Task, tmp_path: Path) -> None:
    check_record(tmp_path, record(task))
    assert note_device(tmp_path, "NVIDIA H200") == ""
    noted = (tmp_path / RECORD).read_bytes()
    assert note_device(tmp_path, "NVIDIA H200") == ""
    assert (tmp_path / RECORD).read_bytes() == noted
    assert check_record(tmp_path, record(task)) == ""
    moved = f"the run in {tmp_path} was trained on NVIDIA H200, and continues on CPU, 2 threads"
    assert note_device(tmp_path, "CPU, 2 threads") == moved
    assert note_device(tmp_path, "NVIDIA H200").endswith(
        "on NVIDIA H200, then CPU, 2 threads, and continues on NVIDIA H200"
    )
    assert read_record(tmp_path).devices == ["NVIDIA H200", "CPU, 2 threads", "NVIDIA H200"]
    assert check_record(tmp_path, record(task)) == ""


def test_a_run_notes_its_device_and_that_it_continues_on_another(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setattr("scse.training.run.describe_device", lambda device: f"first {device}")
    with pytest.raises(StoppedError):
        train(task, SETTINGS, tmp_path, device="cpu", on_event=events.append, stop=lambda: True)
    assert read_record(tmp_path).devices == ["first cpu"]
    monkeypatch.setattr("scse.training.run.describe_device", lambda device: f"second {device}")
    train(task, SETTINGS, tmp_path, device="cpu", on_event=events.append)
    assert read_record(tmp_path).devices == ["first cpu", "second cpu"]
    assert [event.what for event in events if isinstance(event, Stage)] == [
        f"the run in {tmp_path} was trained on first cpu, and continues on second cpu"
    ]
    monkeypatch.setattr("scse.training.run.describe_device", lambda device: "third")
    train(task, SETTINGS, tmp_path, device="cpu")  # all epochs are done
    assert read_record(tmp_path).devices == ["first cpu", "second cpu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"epochs": 3},
            "already contains a run with settings epochs=2; you requested epochs=3; request the same as before",
        ),
        ({"variant": "cse"}, "settings variant='none'; you requested variant='cse'; .* another folder with -o"),
        ({"learning_rate": 0.1}, "settings learning_rate=0.003; you requested learning_rate=0.1"),
    ],
)
def test_other_settings_are_refused(task: Task, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    check_record(tmp_path, record(task))
    with pytest.raises(DataError, match=message) as caught:
        check_record(tmp_path, record(task, **changes))
    assert str(caught.value).startswith(str(tmp_path))


def test_other_data_is_refused(task: Task, tmp_path: Path) -> None:
    check_record(tmp_path, record(task))
    fewer = Task(task.training[:2], task.held_out, task.recipe, task.structures)
    renamed = Task(task.training, task.held_out, task.recipe, {"left": 3, "top": 300})
    resampled = Task(task.training, task.held_out, task.recipe.model_copy(update={"spacing": (2, 2)}), task.structures)
    first = task.training[0]
    changed = Task(
        [Prepared(first.name, first.folder.parent / "other"), *task.training[1:]],
        task.held_out,
        task.recipe,
        task.structures,
    )
    for other, message in (
        (fewer, "training c='c'; you requested c=None"),
        (renamed, "structures right=300; you requested right=None"),
        (resampled, r"recipe spacing=None; you requested spacing=\[2"),
        (changed, "training a='a'; you requested a='other'"),
    ):
        with pytest.raises(DataError, match=message):
            check_record(tmp_path, record(other))


def test_train_refuses_a_folder_of_another_run(task: Task, tmp_path: Path) -> None:
    check_record(tmp_path, record(task))
    with pytest.raises(DataError, match="settings seed=0; you requested seed=7"):
        train(task, SETTINGS.model_copy(update={"seed": 7}), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {"epochs": "many"}}', "[" * 5000 + "]" * 5000])
def test_a_damaged_record_is_named(task: Task, tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content)
    for read in (lambda: read_record(tmp_path), lambda: check_record(tmp_path, record(task))):
        with pytest.raises(DataError, match=r"run\.json: .*; copy the run again, or train anew in another folder"):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("settings"), "settings: Field required"),
        (lambda r: r.update(settings=None), "settings: "),
        (lambda r: r["settings"].update(epochs=1.5), "settings.epochs: .*got 1.5"),
        (lambda r: r["settings"].update(epochs="2"), "settings.epochs: .*got '2'"),
        (lambda r: r["settings"].update(epochs=True), "settings.epochs: .*got True"),
        (lambda r: r["settings"].update(epochs=-1), "settings.epochs: "),
        (lambda r: r["settings"].update(epochs=2**60), "settings.epochs: "),
        (lambda r: r["settings"].update(seed=10**30), "beyond 64 bits"),
        (lambda r: r["settings"].update(learning_rate=float("nan")), "settings.learning_rate: "),
        (lambda r: r["settings"].update(learning_rate=float("inf")), "settings.learning_rate: .*finite"),
        (lambda r: r["settings"].update(augment=1), "settings.augment: "),
        (lambda r: r["settings"].update(optimizer=["sgd"]), "settings.optimizer: "),
        (lambda r: r["settings"].update(shell="ls"), "settings.shell: "),
        (lambda r: r["recipe"].update(spacing=[0, 0]), "recipe.spacing.0: "),
        (lambda r: r["recipe"].update(patch=[[]]), "recipe.patch"),
        (lambda r: r.update(structures={}), "structures: "),
        (lambda r: r["structures"].update(left=1.7), "structures.left: "),
        (lambda r: r["structures"].update(left=-3), "structures.left: "),
        (lambda r: r.update(training={}), "training: "),
        (lambda r: r.update(training=["a"]), "training: "),
        (lambda r: r["training"].update(a="../../etc"), "training.a: .*got '../../etc'"),
        (lambda r: r["training"].update(a="/etc"), "training.a: "),
        (lambda r: r["training"].update(a=".."), "training.a: "),
        (lambda r: r["training"].update(a=""), "training.a: "),
        (lambda r: r["training"].update(a="d\n"), "training.a: "),
        (lambda r: r["held_out"].update(d="a/b"), "held_out.d: "),
        (lambda r: r["held_out"].update(d="a\\b"), "held_out.d: "),
        (lambda r: r["held_out"].update(d=None), "held_out.d: "),
        (lambda r: r.update(code={"mine.py": 7}), "code.mine.py: "),
        (lambda r: r.update(devices=[7]), "devices.0: "),
        (lambda r: r.update(more=1), "more: "),
    ],
)
def test_a_wrong_field_of_a_record_is_named(
    task: Task, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    content = record(task).model_dump(mode="json")
    change(content)
    (tmp_path / RECORD).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        resume(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / RECORD}: ")
    assert "\n" not in str(caught.value)


def test_a_record_of_before_the_code_was_kept_is_read(task: Task, tmp_path: Path) -> None:
    content = record(task).model_dump(mode="json")
    del content["code"]
    (tmp_path / RECORD).write_text(json.dumps(content))
    assert read_record(tmp_path) == record(task)


def test_a_record_of_an_unknown_network_is_named(task: Task, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(record(task).model_dump_json().replace('"unet"', '"vnet"'))
    with pytest.raises(DataError, match=r"run\.json: settings\.network: network must be one of .*got 'vnet'"):
        read_record(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"{folder.name}: holds no run, run.json is missing; give the folder"):
            resume(folder)


def test_the_task_comes_back_from_the_record(task: Task, cache: Path) -> None:
    assert prepared_task(record(task), cache) == task


def test_a_stopped_run_goes_on_without_its_data_set(task: Task, cache: Path, tmp_path: Path) -> None:
    train(task, SETTINGS, tmp_path / "whole")
    steps = iter([False, False, True])
    with pytest.raises(StoppedError):
        train(task, SETTINGS, tmp_path / "parts", stop=lambda: next(steps))
    segmenter = resume(tmp_path / "parts", cache=cache)
    assert segmenter.structures == task.structures
    whole, parts = (load_file(tmp_path / n / "segmenter" / "weights.safetensors") for n in ("whole", "parts"))
    assert all((whole[key] == parts[key]).all() for key in whole)


def test_prepared_arrays_that_are_gone_are_named(task: Task, cache: Path, tmp_path: Path) -> None:
    check_record(tmp_path / "run", record(task))
    shutil.copytree(cache, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "d")
    with pytest.raises(DataError, match="cache/d: the prepared arrays of case d are gone; train on the data set again"):
        resume(tmp_path / "run", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "images.npy").write_bytes(b""),
        lambda folder: (folder / "labels.npy").unlink(),
        lambda folder: np.save(folder / "labels.npy", np.full((7, 20, 24), 3, np.uint8)),
        lambda folder: np.save(folder / "images.npy", np.full((7, 1, 20, 24), np.nan, np.float32)),
        lambda folder: np.save(folder / "images.npy", np.zeros((7, 2, 20, 24), np.float32)),
        lambda folder: np.save(folder / "images.npy", np.zeros((6, 1, 20, 24), np.float32)),
        lambda folder: (folder / "checksums.json").write_text("{}"),
    ],
    ids=["empty", "gone", "labels", "nan", "channels", "slices", "checksums"],
)
def test_damaged_arrays_are_named_before_a_run_goes_on(
    task: Task, cache: Path, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    check_record(tmp_path / "run", record(task))
    shutil.copytree(cache, tmp_path / "cache")
    damage(tmp_path / "cache" / "d")
    with pytest.raises(
        DataError, match=r"the prepared arrays of case d are damaged \(.*cache/d.*\); train on the data"
    ):
        resume(tmp_path / "run", cache=tmp_path / "cache")
