"""The state of a training run, which is the checkpoint."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from scse.atomic import write_atomic
from scse.attachment.saving import own_copies
from scse.errors import DataError


@dataclass
class Clock:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        loss: sum of the losses of those steps.
        seconds: time spent in training so far, drawing its batches included, validation left out.
        history: one row per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class State:
    """Everything that a run needs to go on: network, optimiser, schedule and clock.

    On disk it is one safetensors file: tensors under `network.` and `optimizer.`, the rest as JSON in its header.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    clock: Clock

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        for index, entries in optimizer["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in entries.items()}
        rest = {
            "clock": asdict(self.clock),
            "groups": optimizer["param_groups"],
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if _is_plain(v)},
        }
        write_atomic(path, save(own_copies(tensors), metadata={"state": json.dumps(rest)}))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: the file is no checkpoint of this run.
        """
        try:
            with safe_open(path, framework="pt") as file:
                rest = json.loads(file.metadata()["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            self.network.load_state_dict(_under("network.", tensors))
            self.optimizer.load_state_dict({"state": _optimizer_state(tensors), "param_groups": rest["groups"]})
            self.schedule.load_state_dict(rest["schedule"])
            self.clock = Clock(**rest["clock"])
        except Exception as error:
            remedy = "delete it to train this run from the start"
            raise DataError(f"{path}: is no checkpoint of this run ({error}); {remedy}") from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list)
