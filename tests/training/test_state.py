"""Checkpoints: interrupted and resumed training ends with the same weights as uninterrupted training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from scse.support.errors import DataError
from scse.support.events import StoppedError
from scse.training import loop
from scse.training.log import LOG
from scse.training.run import CHECKPOINT, train
from scse.training.settings import Settings
from scse.training.setup import new_state
from scse.training.state import State
from scse.training.task import Task

STEPS = 4  # steps of an epoch: 20 slices in batches of 5
QUICK = {"width": 4, "depth": 2, "epochs": 3, "slices_per_epoch": 20, "batch_size": 5, "precision": "32"}
PAPER = {"optimizer": "sgd", "schedule": "steps", "step_epochs": 1, "learning_rate": 0.05, "augment": False}
RUNS = {
    "unet, adamw, one cycle": {"network": "unet", "variant": "scse"},
    "sdnet, sgd, steps": {"network": "sdnet", **PAPER},
    "densenet, sgd without momentum": {"network": "densenet", "variant": "cse", **PAPER, "momentum": 0},
}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({**QUICK, **changes})


def stop_at(*steps: int) -> Callable[[], bool]:
    """Return a function that requests a stop after these steps, counted over all calls."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) in steps


def finish(task: Task, chosen: Settings, folder: Path, stop: Callable[[], bool] = lambda: False) -> int:
    """Train to the end, resume after every stop, and return the number of stops."""
    for stops in range(100):
        try:
            train(task, chosen, folder, stop=stop)
        except StoppedError:
            continue
        return stops
    raise AssertionError("never done")


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def without_time(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("run", RUNS)
def test_resumed_training_is_uninterrupted_training_bit_for_bit(task: Task, tmp_path: Path, run: str) -> None:
    chosen = settings(**RUNS[run])
    finish(task, chosen, tmp_path / "whole")
    # in the middle of an epoch, at the last step of an epoch, right after resuming, and at the last step of all
    stops = finish(task, chosen, tmp_path / "parts", stop_at(2, STEPS, STEPS + 1, 2 * STEPS + 2, 3 * STEPS))
    assert stops == 5
    whole, parts = (load_file(tmp_path / name / "segmenter" / "weights.safetensors") for name in ("whole", "parts"))
    assert same(whole, parts)
    assert same(load_file(tmp_path / "whole" / CHECKPOINT), load_file(tmp_path / "parts" / CHECKPOINT))
    assert without_time(log_of(tmp_path / "whole")) == without_time(log_of(tmp_path / "parts"))
    assert [row["epoch"] for row in log_of(tmp_path / "parts")] == [1, 2, 3]


def test_the_interval_of_reports_changes_no_number(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(task, settings(), tmp_path / "every")
    monkeypatch.setattr(loop, "report_interval", lambda device: 3)
    # after a report, between two reports, and at the last step of an epoch
    assert finish(task, settings(), tmp_path / "third", stop_at(3, STEPS + 2, 2 * STEPS)) == 3
    every, third = (load_file(tmp_path / name / CHECKPOINT) for name in ("every", "third"))
    assert same(every, third)
    assert without_time(log_of(tmp_path / "every")) == without_time(log_of(tmp_path / "third"))


def test_the_checkpoint_is_safetensors_and_json(task: Task, tmp_path: Path) -> None:
    finish(task, settings(epochs=1), tmp_path)
    with safe_open(tmp_path / CHECKPOINT, framework="np") as file:
        keys, rest = set(file.keys()), json.loads(file.metadata()["state"])
    assert {key.split(".")[0] for key in keys} == {"network", "optimizer"}
    assert rest["clock"]["epoch"] == 1
    assert len(rest["clock"]["history"]) == 1
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert written == {CHECKPOINT, LOG, ".lock", "run.json", "weights.safetensors", "segmenter.json"}


def test_the_log_is_brought_back_to_the_checkpoint(task: Task, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(task, settings(), tmp_path, stop=stop_at(STEPS + 1))
    with (tmp_path / LOG).open("a") as log:  # as if killed between log and checkpoint
        log.write('{"event": "epoch", "epoch": 2, "loss": 9.0, "dice": 0.0, "seconds": 1.0, "learning_rate": 1.0}\n')
    finish(task, settings(), tmp_path)
    rows = log_of(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[1]["loss"] < 9


def test_moments_get_the_strides_of_their_weights_which_fused_optimisers_need(task: Task, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(task, settings(), tmp_path, stop=stop_at(2))
    state = new_state(task, settings(), steps=STEPS, fused=True)
    state.load(tmp_path / CHECKPOINT, steps=STEPS)
    saved = load_file(tmp_path / CHECKPOINT)
    for index, weight in enumerate(state.network.parameters()):
        entries = state.optimizer.state[weight]
        for name in ("exp_avg", "exp_avg_sq"):
            assert entries[name].stride() == weight.stride()
            assert torch.equal(entries[name], saved[f"optimizer.{index}.{name}"])
    assert any(not weight.is_contiguous() for weight in state.network.parameters())


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}])
def test_the_optimizer_is_fused_on_request_and_computes_the_same(task: Task, changes: dict[str, Any]) -> None:
    states = [new_state(task, settings(**changes), steps=STEPS, fused=fused) for fused in (False, True)]
    assert [state.optimizer.param_groups[0]["fused"] for state in states] == [None, True]
    for state in states:
        for _ in range(2):
            state.network(torch.ones(2, 1, 16, 16)).square().mean().backward()
            state.optimizer.step()
            state.optimizer.zero_grad()
    for one, other in zip(*(state.network.parameters() for state in states), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_run_without_its_checkpoint_starts_anew_with_a_new_log(task: Task, tmp_path: Path) -> None:
    finish(task, settings(), tmp_path)
    before = without_time(log_of(tmp_path))
    (tmp_path / CHECKPOINT).unlink()
    finish(task, settings(), tmp_path)
    assert without_time(log_of(tmp_path)) == before


def test_a_finished_run_stays_as_it_is(task: Task, tmp_path: Path) -> None:
    finish(task, settings(epochs=1), tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    train(task, settings(epochs=1), tmp_path, stop=lambda: pytest.fail("a step was made"))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def damage(kind: str, path: Path) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    else:  # a valid safetensors file without the state
        save_file({"network.weight": torch.zeros(2)}, path)


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "foreign"])
def test_a_damaged_checkpoint_is_named(task: Task, tmp_path: Path, kind: str) -> None:
    with pytest.raises(StoppedError, match=r"stopped in epoch 1 of 3; its state is in .*checkpoint"):
        train(task, settings(), tmp_path, stop=stop_at(1))
    damage(kind, tmp_path / CHECKPOINT)
    with pytest.raises(DataError, match=r"checkpoint\.safetensors: .*; delete it to train this run from the start"):
        train(task, settings(), tmp_path)


@pytest.fixture(scope="module")
def stopped(task: Task, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the checkpoint of a run that was stopped after an epoch and a step."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(StoppedError):
        train(task, settings(variant="scse"), folder, stop=stop_at(STEPS + 1))
    return (folder / CHECKPOINT).read_bytes()


def load(task: Task, path: Path) -> State:
    state = new_state(task, settings(variant="scse"), steps=STEPS)
    state.load(path, steps=STEPS)
    return state


def test_any_flipped_bit_is_refused(task: Task, stopped: bytes, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    state = new_state(task, settings(variant="scse"), steps=STEPS)
    start = 8 + int.from_bytes(stopped[:8], "little")
    in_data = np.linspace(start, len(stopped) - 1, 20).astype(int).tolist()
    for place in [*range(0, start, start // 60), *in_data]:
        damaged = bytearray(stopped)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"checkpoint\.safetensors: .*; delete it to train this run from the start"):
            state.load(path, steps=STEPS)


def test_a_checkpoint_without_a_checksum_is_loaded(task: Task, stopped: bytes, tmp_path: Path) -> None:
    """Checkpoints of earlier versions have no checksum."""
    (tmp_path / "whole").write_bytes(stopped)
    edit(stopped, tmp_path / CHECKPOINT, lambda rest: None)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert file.metadata().keys() == {"state"}
    found, whole = (load(task, tmp_path / name) for name in (CHECKPOINT, "whole"))
    assert found.clock == whole.clock
    assert (found.clock.epoch, found.clock.step) == (1, 1)
    assert same(found.network.state_dict(), whole.network.state_dict())


def edit(
    content: bytes,
    path: Path,
    change: Callable[[dict[str, Any]], Any],
    tensors: Callable[[dict[str, Tensor]], Any] = lambda tensors: None,
) -> None:
    """Write a checkpoint with a changed state and without a checksum."""
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        rest = json.loads(file.metadata()["state"])
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    change(rest)
    tensors(kept)
    save_file(kept, path, metadata={"state": json.dumps(rest)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("clock"), "state.clock: Field required"),
        (lambda r: r.update(clock=None), "state.clock: "),
        (lambda r: r.update(shell=1), "state.shell: "),
        (lambda r: r["clock"].update(epoch=-1), "state.clock.epoch: .*got -1"),
        (lambda r: r["clock"].update(epoch=1.5), "state.clock.epoch: .*got 1.5"),
        (lambda r: r["clock"].update(epoch=True), "state.clock.epoch: .*got True"),
        (lambda r: r["clock"].update(epoch="1"), "state.clock.epoch: .*got '1'"),
        (lambda r: r["clock"].update(epoch=2), "clock.history has 1 epochs, and clock.epoch is 2"),
        (lambda r: r["clock"].update(epoch=10**9), "clock.history has 1 epochs, and clock.epoch is 1000000000"),
        (lambda r: r["clock"].update(step=-1), "state.clock.step: "),
        (lambda r: r["clock"].update(step=STEPS + 1), "clock.step is 5, and an epoch has 4 steps"),
        (lambda r: r["clock"].update(step=2), "schedule.last_epoch is 5, and 6 steps are done"),
        (lambda r: r["clock"].update(step=2**62), "state.clock.step: "),
        (lambda r: r["clock"].update(step=10**40), "beyond 64 bits"),
        (lambda r: r["clock"].update(loss=float("nan")), "state.clock.loss: .*finite"),
        (lambda r: r["clock"].update(seconds=float("inf")), "state.clock.seconds: .*finite"),
        (lambda r: r["clock"].update(seconds=-1.0), "state.clock.seconds: "),
        (lambda r: r["clock"].update(history={}), "state.clock.history: "),
        (lambda r: r["clock"].update(history=[]), "clock.history has 0 epochs"),
        (lambda r: r["clock"]["history"][0].update(loss="low"), "state.clock.history.0.loss: "),
        (lambda r: r["clock"]["history"][0].pop("dice"), "state.clock.history.0.dice: Field required"),
        (lambda r: r["clock"]["history"][0].update(epoch=7), "clock.history"),
        (lambda r: r.update(groups=[]), "it has 0 groups of weights"),
        (lambda r: r["groups"][0].update(lr=float("nan")), "state.groups.0.lr: .*finite"),
        (lambda r: r["groups"][0].update(lr=-1), "state.groups.0.lr: "),
        (lambda r: r["groups"][0].update(lr=0.5), "the learning rates of groups differ"),
        (lambda r: r["schedule"].pop("last_epoch"), "state.schedule.last_epoch: Field required"),
        (lambda r: r["schedule"].update(_last_lr=[None]), "state.schedule._last_lr.0: "),
        (lambda r: r["schedule"].update(_step_count=99), "schedule.last_epoch"),
    ],
)
def test_a_wrong_field_of_the_state_is_named(
    task: Task, stopped: bytes, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(stopped, tmp_path / CHECKPOINT, change)
    with pytest.raises(DataError, match=message) as caught:
        load(task, tmp_path / CHECKPOINT)
    assert str(caught.value).startswith(f"{tmp_path / CHECKPOINT}: ")
    assert str(caught.value).endswith("; delete it to train this run from the start")


WEIGHT = "network.classifier.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda t: t[WEIGHT].fill_(float("nan")), "classifier.weight holds values that are NaN or infinite"),
        (lambda t: t.update({WEIGHT: t[WEIGHT].half()}), "classifier.weight has dtype torch.float16 in the file"),
        (lambda t: t.pop(WEIGHT), "classifier.weight is missing"),
        (lambda t: t.update(evil=torch.zeros(1)), "it has the tensor evil"),
        (lambda t: t.pop("optimizer.0.exp_avg"), r"optimizer.0 has \['exp_avg_sq', 'step'\], where"),
        (lambda t: t["optimizer.0.exp_avg"].fill_(float("inf")), "optimizer.0.exp_avg holds values that are NaN or"),
        (lambda t: t.update({"optimizer.0.exp_avg": torch.zeros(9)}), r"optimizer.0.exp_avg has shape \(9,\)"),
        (lambda t: t.update({"optimizer.9999.step": torch.zeros(())}), "optimizer.9999 has"),
        (lambda t: t.update({"optimizer.x.step": torch.zeros(())}), "optimizer.x.step is of no weight"),
        (lambda t: t.update({"optimizer.0": torch.zeros(())}), "optimizer.0 has"),
    ],
)
def test_a_wrong_tensor_is_named(
    task: Task, stopped: bytes, tmp_path: Path, tensors: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    edit(stopped, tmp_path / CHECKPOINT, lambda rest: None, tensors)
    with pytest.raises(DataError, match=message):
        load(task, tmp_path / CHECKPOINT)


def test_nothing_but_numbers_that_a_run_changes_is_taken_from_a_checkpoint(
    task: Task, stopped: bytes, tmp_path: Path
) -> None:
    def change(rest: dict[str, Any]) -> None:
        rest["groups"][0].update(weight_decay=9.0, betas=["a"])
        rest["schedule"].update(total_steps=1, step="x")

    edit(stopped, tmp_path / CHECKPOINT, change)
    state = new_state(task, settings(variant="scse"), steps=STEPS)
    state.load(tmp_path / CHECKPOINT, steps=STEPS)
    assert state.optimizer.param_groups[0]["weight_decay"] == settings().weight_decay
    assert state.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert callable(state.schedule.step)
    assert state.schedule.last_epoch == STEPS + 1


def test_a_checkpoint_of_another_network_is_refused(task: Task, tmp_path: Path) -> None:
    new_state(task, settings(), steps=STEPS).save(tmp_path / CHECKPOINT)
    with pytest.raises(DataError, match="is no checkpoint of this run"):
        new_state(task, settings(variant="cse"), steps=STEPS).load(tmp_path / CHECKPOINT, steps=STEPS)


@pytest.mark.parametrize("network", ["unet", "sdnet", "densenet"])
def test_variants_share_all_weights_of_the_plain_network_at_the_start(task: Task, network: str) -> None:
    states = {
        variant: new_state(task, settings(network=network, variant=variant), steps=STEPS).network.state_dict()
        for variant in ("none", "cse", "sse", "scse")
    }
    plain = states["none"]
    for variant in ("cse", "sse", "scse"):
        assert same(plain, {key: states[variant][key] for key in plain})
        assert len(states[variant]) > len(plain)


def test_seeds_differ_at_the_start(task: Task) -> None:
    first, second = (new_state(task, settings(seed=seed), steps=STEPS).network.state_dict() for seed in (0, 1))
    assert not same(first, second)
