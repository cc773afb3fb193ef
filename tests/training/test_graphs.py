"""Steps as CUDA graphs: what can be checked without a GPU, and, on one, that they are the eager steps."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scse.support.events import Event, Stage, StoppedError, Watch
from scse.training import loop
from scse.training.graphs import GraphedSteps, drawing_on_the_device, unchanged
from scse.training.log import read_log
from scse.training.loop import train_step
from scse.training.run import CHECKPOINT, train
from scse.training.settings import Settings
from scse.training.setup import make_batches, make_loss, new_fabric, new_state
from scse.training.state import State
from scse.training.task import Task

SMALL: dict[str, Any] = {"width": 4, "depth": 2, "epochs": 3, "slices_per_epoch": 20, "batch_size": 5}


def test_the_state_of_a_network_is_as_before() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    network(torch.randn(2, 1, 4, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with unchanged(network):
        network(torch.randn(2, 1, 4, 4))
        assert not torch.equal(network.state_dict()["1.running_mean"], before["1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Counting(nn.Module):
    """Replaces its buffer in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return x


def test_a_network_that_replaces_a_buffer_is_not_recorded() -> None:
    network = nn.Sequential(Counting())
    with pytest.raises(RuntimeError, match="Counting replaces its buffer count in every step"), unchanged(network):
        network(torch.zeros(1))
    assert network.state_dict()["0.count"] == 0


class Failing(nn.BatchNorm2d):
    """Fails after its statistics are computed."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise RuntimeError("no graph")


def test_the_state_of_a_network_whose_recording_failed_is_as_before() -> None:
    network = Failing(1)
    with pytest.raises(RuntimeError, match="no graph"), unchanged(network):
        network(torch.randn(2, 1, 4, 4))
    assert network.num_batches_tracked == 0
    assert network.running_mean == torch.zeros(1)


@pytest.mark.parametrize(
    "draw", [random.random, np.random.rand, lambda: torch.rand(1)], ids=["random", "numpy", "torch"]
)
def test_a_network_that_draws_on_the_host_is_not_recorded(draw: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="the network draws random numbers on the host"), drawing_on_the_device():
        draw()
    with drawing_on_the_device():
        np.random.default_rng(0).random()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a GPU would record them")
def test_steps_that_cannot_be_recorded_are_eager_and_say_so_once(task: Task) -> None:
    settings = Settings(**SMALL, precision="32")
    fabric, batches, loss = new_fabric(settings), make_batches(task, settings), make_loss(task, settings)
    events: list[Event] = []

    def made() -> tuple[State, Callable[..., Tensor]]:
        state = new_state(task, settings, steps=len(batches))
        return state, lambda *sent: train_step(state, loss, *sent, fabric)

    (wanted, eager), (found, own) = made(), made()
    steps = GraphedSteps(found, own, own, torch.device("cuda"), Watch(events.append))
    for sent in batches.epoch(0):
        assert torch.equal(steps(*sent), eager(*sent))
    assert all(map(torch.equal, wanted.network.state_dict().values(), found.network.state_dict().values()))
    [event] = events
    assert isinstance(event, Stage)
    assert event.what.startswith("training without a CUDA graph, operation by operation (")


def test_gradients_get_the_strides_of_their_weights() -> None:
    network = nn.Conv2d(4, 8, 1)
    gradient = torch.randn(8, 4, 1, 1)
    network.weight.grad = gradient.as_strided((8, 4, 1, 1), (4, 1, 4, 4))
    network.weight.data = network.weight.data.as_strided((8, 4, 1, 1), (4, 1, 1, 1))
    loop.align_gradients(network)
    assert network.weight.grad is not None
    assert network.weight.grad.stride() == network.weight.stride() == (4, 1, 1, 1)
    assert torch.equal(network.weight.grad, gradient)
    assert network.bias is not None
    assert network.bias.grad is None


# On a GPU


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / CHECKPOINT)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.cuda
@pytest.mark.parametrize("variant", ["none", "scse"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_deterministic_runs_repeat_bit_for_bit_with_and_without_a_stop(
    task: Task, tmp_path: Path, variant: str, optimizer: str
) -> None:
    settings = Settings(**SMALL, variant=variant, optimizer=optimizer, deterministic=True)
    events: list[Event] = []
    train(task, settings, tmp_path / "a", on_event=events.append)
    assert not [event for event in events if isinstance(event, Stage)], "recorded"
    train(task, settings, tmp_path / "b")
    steps = iter(range(1, 100))
    with pytest.raises(StoppedError):
        train(task, settings, tmp_path / "c", stop=lambda: next(steps) == 6)
    train(task, settings, tmp_path / "c")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.cuda
def test_a_graph_computes_what_eager_steps_compute(task: Task, tmp_path: Path) -> None:
    for graph in (True, False):
        train(task, Settings(**SMALL, variant="scse", deterministic=True, graph=graph), tmp_path / f"{graph}")
    recorded, eager = (read_log(tmp_path / name) for name in ("True", "False"))
    assert [epoch.loss for epoch in recorded] == pytest.approx([epoch.loss for epoch in eager], rel=1e-3)
