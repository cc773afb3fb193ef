"""The state of a training run, which is the checkpoint."""

import json
import re
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from scse.attachment.saving import load_exactly, own_copies, read_tensors
from scse.support.atomic import write_atomic
from scse.support.errors import DataError, UserError
from scse.support.events import EpochDone
from scse.support.json_files import parse_json, validated

REMEDY = "delete it to train this run from the start"
STATE, CHECKSUM = "state", "sha256"
"""In the header of the file."""

MOMENTS: Mapping[type[Optimizer], set[str]] = {AdamW: {"step", "exp_avg", "exp_avg_sq"}, SGD: {"momentum_buffer"}}
"""What an optimiser keeps of each weight."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**40)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Row(BaseModel):
    """The fields of `EpochDone`; Dice is NaN without held-out cases."""

    model_config = ConfigDict(extra="forbid")

    epoch: int
    loss: Number
    dice: float
    seconds: Seconds
    learning_rate: Rate

    def epoch_done(self) -> EpochDone:
        """The epoch as a value."""
        return EpochDone(self.epoch, self.loss, self.dice, self.seconds, self.learning_rate)


class _Clock(BaseModel):
    """The fields of `Clock`."""

    model_config = ConfigDict(extra="forbid")

    epoch: Count
    step: Count
    loss: Number
    seconds: Seconds
    history: list[Row]


class _Group(BaseModel):
    """A parameter group of the optimiser, of which a run changes only the learning rate."""

    lr: Rate


class _Schedule(BaseModel):
    """The part of the schedule that a run changes; the rest follows from the settings."""

    last_epoch: Count
    step_count: Annotated[Count, Field(alias="_step_count")]
    last_lr: Annotated[list[Rate], Field(alias="_last_lr")]


class _Rest(BaseModel):
    """The JSON in the header."""

    model_config = ConfigDict(extra="forbid")

    clock: _Clock
    groups: list[_Group]
    schedule: _Schedule


@dataclass
class Clock:
    """Where a run stands.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps of the current epoch.
        loss: Sum of the losses of those steps.
        seconds: Training time so far, including the drawing of batches, without validation.
        history: The finished epochs.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[EpochDone] = field(default_factory=list)


@dataclass
class State:
    """Everything that a run needs to go on: network, optimiser, schedule and clock.

    It is saved as one safetensors file: tensors under `network.` and `optimizer.`, the rest as JSON in its header.
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
        copies, text = own_copies(tensors), json.dumps(rest)
        write_atomic(path, save(copies, metadata={STATE: text, CHECKSUM: _checksum(copies, text)}))

    def load(self, path: Path, *, steps: int) -> None:
        """Go on from a checkpoint.

        Args:
            path: File of the checkpoint.
            steps: Steps of an epoch.

        Raises:
            DataError: The file is damaged, or no checkpoint of this run.
        """
        tensors, metadata = read_tensors(path, remedy=REMEDY)
        if not {STATE} <= metadata.keys() <= {STATE, CHECKSUM}:
            raise DataError(f"{path}: is no checkpoint of this run (its header has {sorted(metadata)}); {REMEDY}")
        # those of earlier versions have none
        if metadata.get(CHECKSUM) not in {None, _checksum(tensors, metadata[STATE])}:
            raise DataError(f"{path}: is damaged, its content does not match its checksum; {REMEDY}")
        rest = validated(
            _Rest,
            parse_json(metadata[STATE], path=path, remedy=REMEDY),
            path=path,
            remedy=REMEDY,
            within=STATE,
            strict=True,
        )
        try:
            if stray := [key for key in tensors if not key.startswith(("network.", "optimizer."))]:
                raise UserError(f"it has the tensor {stray[0]}")
            for problem in self._contradictions(rest, steps):
                raise UserError(problem)
            moments = _optimizer_state(_under("optimizer.", tensors))
            self._check_moments(moments)
            self._align(moments)
            load_exactly(self.network, _under("network.", tensors))
        except UserError as error:
            raise DataError(f"{path}: is no checkpoint of this run ({error}); {REMEDY}") from error
        groups = self.optimizer.state_dict()["param_groups"]
        groups = [{**own, "lr": found.lr} for own, found in zip(groups, rest.groups, strict=True)]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.load_state_dict(rest.schedule.model_dump(by_alias=True))
        history = [row.epoch_done() for row in rest.clock.history]
        self.clock = Clock(**rest.clock.model_dump(exclude={"history"}), history=history)

    def _contradictions(self, rest: _Rest, steps: int) -> Generator[str]:
        """Fields that are valid alone, but contradict each other or this run."""
        clock, schedule = rest.clock, rest.schedule
        if clock.step > steps:
            yield f"clock.step is {clock.step}, and an epoch has {steps} steps"
        numbered = all(row.epoch == epoch for epoch, row in enumerate(clock.history, start=1))
        if len(clock.history) != clock.epoch or not numbered:
            yield f"clock.history has {len(clock.history)} epochs, and clock.epoch is {clock.epoch}"
        done = clock.epoch * steps + clock.step
        if (schedule.last_epoch, schedule.step_count) != (done, done + 1):
            yield f"schedule.last_epoch is {schedule.last_epoch}, and {done} steps are done"
        if len(rest.groups) != len(self.optimizer.param_groups):
            yield f"it has {len(rest.groups)} groups of weights, and the optimizer {len(self.optimizer.param_groups)}"
        if schedule.last_lr != [group.lr for group in rest.groups]:
            yield f"schedule._last_lr is {schedule.last_lr}, and the learning rates of groups differ from it"

    def _align(self, moments: dict[int, dict[str, Tensor]]) -> None:
        """Give moments the strides of their weights, which fused optimisers need; the file has them contiguous."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for index, entries in moments.items():
            for name in entries.keys() - {"step"}:
                entries[name] = torch.empty_like(weights[index], device="cpu").copy_(entries[name])

    def _check_moments(self, moments: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Check what the optimiser keeps of each weight: a count of steps, and tensors of the weight's shape."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        wanted = MOMENTS[type(self.optimizer)]
        for index, found in moments.items():
            if index >= len(weights) or found.keys() != wanted:
                raise UserError(f"optimizer.{index} has {sorted(found)}, where {sorted(wanted)} are wanted")
            for name, value in found.items():
                shape = () if name == "step" else tuple(weights[index].shape)
                if (tuple(value.shape), value.dtype) != (shape, torch.float32):
                    raise UserError(f"optimizer.{index}.{name} has shape {tuple(value.shape)} and {value.dtype}")
                if not value.isfinite().all():
                    raise UserError(f"optimizer.{index}.{name} holds values that are NaN or infinite")


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the content, whatever the order in the file."""
    digest = sha256(text.encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if not re.fullmatch(r"[0-9]{1,9}", index):
            raise UserError(f"optimizer.{key} is of no weight")
        state.setdefault(int(index), {})[name] = value
    return state


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list)
