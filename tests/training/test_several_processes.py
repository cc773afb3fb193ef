"""Real processes on CPUs, which talk over gloo."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import nn
from torch.multiprocessing import start_processes

from datasets import write_nnunet
from scse.data.prepared import IGNORED_CLASS
from scse.executors.process import settle
from scse.support.errors import UserError
from scse.support.events import EpochDone, StoppedError
from scse.training.losses import DeepSupervision, RegionLoss, SegmentationLoss
from scse.training.ranks import ALONE, Ranks
from scse.training.record import read_record
from scse.training.run import train_on
from scse.training.settings import Settings
from scse.training.setup import make_batches
from scse.training.task import Task

SETTINGS: dict[str, Any] = {
    "width": 4,
    "depth": 2,
    "batch_size": 6,
    "slices_per_epoch": 12,
    "learning_rate": 0.01,
    "precision": "32",
}
EXPLODING = {"optimizer": "sgd", "schedule": "steps", "learning_rate": 1e3, "weight_decay": 1e3, "slices_per_epoch": 30}
EPOCHS = 12
VARIABLES = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("data"), cases=4, shape=(16, 16, 8))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("volumes"), cases=4, shape=(16, 16, 16))


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_parts_of_a_batch_are_the_batch(task: Task) -> None:
    settings = Settings(batch_size=6, elastic=0.2, noise=0.3, probability=0.5, mirror="safe")
    whole = next(make_batches(task, settings).epoch(1, start=1))
    parts = [next(make_batches(task, settings, ranks=Ranks(3, 1, r, r)).epoch(1, start=1)) for r in range(3)]
    for expected, *found in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-6)


def test_what_several_processes_cannot_do_is_said_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"batch_size=8 does not divide over 3 processes; choose a multiple of 3"):
        Ranks(devices=3).check(8, "cpu")
    with pytest.raises(UserError, match="'cuda:1' is one GPU, and 2 processes"):
        Ranks(devices=2).check(8, "cuda:1")
    with pytest.raises(UserError, match=r"nodes=2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment"):
        Ranks.of(nodes=2)
    with pytest.raises(UserError, match="torchrun --nproc-per-node"):
        train_on(tmp_path / "missing", devices=2)
    Ranks().check(8, "cpu")
    assert Ranks.of() == ALONE
    for name, value in {
        **VARIABLES,
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert Ranks.of() == Ranks.of(2, 2) == Ranks(2, 2, 1, 3)
    with pytest.raises(UserError, match="devices=3, nodes=None, but torchrun started 2 machines and 4 processes"):
        Ranks.of(3)


def test_fewer_slices_than_a_batch_have_to_divide_too(task: Task) -> None:
    with pytest.raises(UserError, match="batch_size=4 does not divide over 3"):
        make_batches(task, Settings(batch_size=6, slices_per_epoch=4), ranks=Ranks(devices=3))


def test_three_processes_compute_the_loss_and_gradients_of_the_whole_batch(volumes: Path, tmp_path: Path) -> None:
    port = str(find_free_network_port())
    start_processes(_rank, (port, volumes, tmp_path), nprocs=3, start_method="spawn")
    alone = train_on(volumes, out=tmp_path / "alone", **_volumes())
    assert losses(tmp_path / "together") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert alone.recipe.dims == 3


def _volumes() -> dict[str, Any]:
    # the first steps of AdamW depend on the sign of gradients, also of those that are nothing but rounding
    chosen = {**SETTINGS, "batch_size": 3, "slices_per_epoch": 6, "optimizer": "sgd"}
    return {"dims": 3, "epochs": 2, "folds": 2, "settings": chosen, "device": "cpu", "cleaning": "none"}


def _rank(rank: int, port: str, data: Path, folder: Path) -> None:
    os.environ |= VARIABLES | {"MASTER_PORT": port, "LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "3"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    settle()
    torch.set_num_threads(1)
    _check_sums(Ranks.of())
    _check_trainings(data, folder)


def _check_sums(ranks: Ranks) -> None:
    rng = np.random.default_rng(0)
    ranks.join(torch.device("cpu"))
    images = torch.from_numpy(rng.normal(2, 3, (6, 2, 8, 8)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, (6, 8, 8)))
    labels[2:] = labels[2:].clamp(max=1)  # the first part alone has a structure
    labels[4:6, :5] = IGNORED_CLASS  # and the last one most ignored voxels
    members = np.array([[False, True, True], [False, False, True]])
    weights = torch.tensor([0.2, 1.0, 3.0])
    with ranks.ending_together():
        for make in (
            lambda shared: SegmentationLoss("ce+dice", weights=weights, shared=shared),
            lambda shared: SegmentationLoss("ce", shared=shared),
            lambda shared: RegionLoss("ce+dice", members, shared=shared),
            lambda shared: DeepSupervision(SegmentationLoss("ce+dice", weights=weights, shared=shared)),
        ):
            _compare(make, ranks, images, labels)
        for make in (
            lambda shared: SegmentationLoss("ce", ignoring=False, shared=shared),
            lambda shared: RegionLoss("ce+dice", members, ignoring=False, shared=shared),
        ):
            _compare(make, ranks, images, labels.clamp(max=2))
        logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
        nothing = SegmentationLoss("ce", weights=weights, shared=True)(logits, torch.full((2, 8, 8), IGNORED_CLASS))
        nothing.backward()
        assert nothing == 0
        assert logits.grad.count_nonzero() == 0
        assert ranks.any(ranks.rank == 1, torch.device("cpu"))
        assert not ranks.any(False, torch.device("cpu"))
        assert ranks.joined([10 * item for item in ranks.mine([1, 2, 3, 4])]) == [10, 20, 30, 40]
        assert ranks.from_first(ranks.rank) == 0


def _compare(make: Callable[[bool], nn.Module], ranks: Ranks, images: torch.Tensor, labels: torch.Tensor) -> None:
    found, expected = [_net(make(False)) for _ in range(2)]
    found.load_state_dict(expected.state_dict())
    value = _loss(expected, make(False), images, labels)
    mine = slice(2 * ranks.rank, 2 * ranks.rank + 2)
    norm = found[1]
    with ranks.shared_norms(found):
        assert found[1] is not norm
        shared = _loss(found, make(True), images[mine], labels[mine])
        ranks.average_gradients(found)
    assert found[1] is norm
    torch.testing.assert_close(shared, value)
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(found.get_parameter(name).grad, weight.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(found.get_buffer(name), buffer, msg=name)


def _net(loss: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    outputs = 2 if isinstance(loss, RegionLoss) else 3
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, outputs, 1))
    net.unused = nn.Linear(2, 2)
    net.forward = lambda images: net[3](net[2](net[1](net[0](images))))
    return net


def _loss(net: nn.Module, loss: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = net(images)
    deep = isinstance(loss, DeepSupervision)
    value: torch.Tensor = loss([logits, logits[..., ::2, ::2], logits[..., ::4, ::4]] if deep else logits, labels)
    value.backward()
    return value.detach()


def _check_trainings(data: Path, folder: Path) -> None:
    """Two trainings one after the other, as in a Python program under torchrun; the first one diverges."""
    events: list[object] = []
    first = os.environ["RANK"] == "0"
    chosen = _volumes()
    with pytest.raises(UserError if first else StoppedError, match="the loss became"):
        train_on(data, out=folder / "nan", **{**chosen, "settings": {**chosen["settings"], **EXPLODING}})
    segmenter = train_on(data, out=folder / "together", on_event=events.append, **chosen)
    assert any(isinstance(event, EpochDone) for event in events) == first
    assert [type(module) for module in segmenter.network.modules()].count(nn.BatchNorm3d) > 0
    assert not (folder / "nan" / "segmenter").exists()


def test_a_run_is_stopped_killed_and_continued_by_other_numbers_of_processes(data: Path, tmp_path: Path) -> None:
    """Its losses are those of one process that trained undisturbed."""
    train_on(data, out=tmp_path / "alone", epochs=EPOCHS, folds=2, settings=SETTINGS, device="cpu", cleaning="none")
    given = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    command = ["scse", "train", data, "-o", "run", "--variant", "none", "--folds", 2, "--epochs", EPOCHS]
    command = [*command, *given, "--device", "cpu", "--cleaning", "none"]

    stopped = _Process([sys.executable, "-m", *command, "--devices", 2], tmp_path)
    stopped.after("  epoch 2:")
    stopped.process.send_signal(signal.SIGTERM)
    output, errors = stopped.end()
    assert (stopped.process.returncode, errors) == (130, "")
    assert "processes             2, each with 3 of the 6 slices or patches of every step" in output
    assert output.count("run 1 of 1: run") == output.count("stopping after this step") == 1
    assert "to continue: scse train --resume run --device cpu --devices 2" in output
    assert 2 <= len(losses(tmp_path / "run")) < EPOCHS

    killed = _Process([sys.executable, "-m", *command, "--devices", 3], tmp_path)
    killed.after(f"  epoch {len(losses(tmp_path / 'run')) + 1}:")
    victim, other = psutil.Process(killed.process.pid).children()
    victim.kill()
    _, errors = killed.end()
    assert killed.process.returncode in {1, -signal.SIGKILL}  # Fabric's watch may come before the end of the first
    assert errors.count("error:") == 1
    assert "another process of this training ended" in errors
    assert not psutil.wait_procs([other], timeout=20)[1]
    assert len(losses(tmp_path / "run")) < EPOCHS

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m"]
    finished = _Process([*torchrun, "scse", "train", "--resume", "run", "--device", "cpu"], tmp_path)
    output, errors = finished.end()
    assert finished.process.returncode == 0, errors
    assert output.count("segmenter: ") == 1
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    devices = read_record(tmp_path / "run").devices
    assert [device.split(" x ")[0] for device in devices] == ["2", "3", "2"]


class _Process:
    """A command whose output is read line by line."""

    def __init__(self, command: list[object], folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if "RANK" not in name}
        environment |= {"OMP_NUM_THREADS": "1", "SCSE_CACHE": str(folder / "cache"), "COLUMNS": "200"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )
        self.lines: list[str] = []

    def after(self, start: str) -> None:
        """Wait for a line."""
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith(start):
                return
        pytest.fail("".join(self.lines) + self.process.stderr.read())

    def end(self) -> tuple[str, str]:
        output, errors = self.process.communicate(timeout=300)
        return "".join(self.lines) + output, errors
