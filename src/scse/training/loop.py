"""The one training loop."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from scse.data.prepared import IGNORED_CLASS, Prepared
from scse.evaluation.scores import dice_scores
from scse.support.errors import UserError
from scse.training.batches import Batches, step_seed
from scse.training.state import State

Event = Mapping[str, Any]
"""What a run tells while it goes: `event` is "step" or "epoch", the rest are numbers."""


def fit(
    state: State,
    batches: Batches,
    loss: nn.Module,
    *,
    fabric: Fabric,
    epochs: int,
    validate: Callable[[], float],
    on_event: Callable[[Event], None],
    checkpoint: Callable[[], None],
    stop: Callable[[], bool],
) -> bool:
    """Train from where `state` stands to `epochs`.

    Args:
        state: set up by `fabric`; changed in place.
        batches: of the training cases.
        loss: of (logits, labels).
        fabric: device and precision.
        epochs: to train in all.
        validate: mean Dice on held-out cases, called after every epoch.
        on_event: told every step and every epoch.
        checkpoint: saves the state; called after every epoch, and when stopped.
        stop: asked after every step; True ends the loop at once.

    Returns:
        True if all epochs are done, False if stopped before.
    """
    clock = state.clock
    while clock.epoch < epochs:
        state.network.train()
        began = time.perf_counter()
        for images, labels in batches.epoch(clock.epoch, start=clock.step):
            _seed(step_seed(batches.seed, clock.epoch, clock.step), fabric.device)
            value = train_step(state, loss, images, labels, fabric)
            if not math.isfinite(value):
                raise UserError(
                    f"the loss became {value} in epoch {clock.epoch + 1}, step {clock.step + 1}: training diverged; "
                    "choose a smaller learning_rate"
                )
            ended = time.perf_counter()
            clock.seconds += ended - began
            began = ended
            clock.step += 1
            clock.loss += value
            on_event(_step_event(state, batches, value, epochs))
            if stop():
                checkpoint()
                return False
        _finish_epoch(state, validate(), on_event)
        checkpoint()
    return True


def _seed(seed: int, device: torch.device) -> None:
    """Seed what networks draw on the device, such as dropout."""
    # `torch.manual_seed` also notes the call stack for GPUs not yet in use, which takes ten times as long
    generator = torch.default_generator if device.type == "cpu" else torch
    generator.manual_seed(seed)


def train_step(state: State, loss: nn.Module, images: torch.Tensor, labels: torch.Tensor, fabric: Fabric) -> float:
    """One step of the optimiser and the schedule; returns the loss."""
    images = fabric.to_device(images.contiguous(memory_format=torch.channels_last))
    value = loss(_logits(state.network, images), fabric.to_device(labels))
    fabric.backward(value)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    return float(value.item())


def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the network gives in training.

    Raises:
        ValueError: it normalises maps of one value per channel.
    """
    try:
        logits: torch.Tensor = network(images)
    except ValueError as error:
        # torch's batch and instance normalisation, which have no error of their own
        if not str(error).startswith("Expected more than 1"):
            raise
        count, _, *size = images.shape
        found = f"a batch of {count} slice{'s' * (count > 1)} of {' x '.join(map(str, size))} pixels"
        remedy = "take a batch_size of 2 or more and as many training slices, or larger images (a finer spacing)"
        raise UserError(
            f"the network has one value per channel left to normalise in {found}, and cannot learn from it: {remedy}"
        ) from error
    return logits


def held_out_dice(
    network: nn.Module, cases: Sequence[Prepared], classes: int, *, most: int, batch_size: int, fabric: Fabric
) -> float:
    """Mean Dice over structures and cases, on the prepared slices; the network is left in evaluation mode.

    Ignored voxels are not scored.

    Args:
        network: set up by `fabric`.
        cases: to score.
        classes: of the network, the background included.
        most: slices in all, but at least one a case; of more, each case gives its share, evenly spaced.
        batch_size: slices at a time.
        fabric: device and precision.

    Returns:
        NaN if no case has or is given any structure.
    """
    network.eval()
    slices = sum(len(case.labels()) for case in cases)
    scores = []
    for case in cases:
        images, labels = case.images(), case.labels()
        chosen = _spread(len(labels), max(1, len(labels) * most // max(slices, most)))
        predicted = np.empty((len(chosen), *labels.shape[1:]), labels.dtype)
        for start in range(0, len(chosen), batch_size):
            batch = torch.from_numpy(images[chosen[start : start + batch_size]])
            with torch.inference_mode():
                logits = network(fabric.to_device(batch.contiguous(memory_format=torch.channels_last)))
            predicted[start : start + batch_size] = logits.argmax(1).cpu().numpy()
        reference = labels[chosen]
        scored = reference != IGNORED_CLASS
        scores.append(dice_scores(predicted[scored], reference[scored], range(1, classes)))
    found = np.array(scores)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _spread(count: int, chosen: int) -> NDArray[np.int64]:
    """The middles of `chosen` equal parts of 0, 1, ..., count - 1."""
    return (2 * np.arange(chosen) + 1) * count // (2 * chosen)


def _step_event(state: State, batches: Batches, loss: float, epochs: int) -> Event:
    clock = state.clock
    done = clock.epoch * len(batches) + clock.step
    return {
        "event": "step",
        "epoch": clock.epoch + 1,
        "step": clock.step,
        "steps": len(batches),
        "loss": loss,
        "images_per_second": done * batches.batch_size / clock.seconds,
        "seconds_left": (epochs * len(batches) - done) * clock.seconds / done,
    }


def _finish_epoch(state: State, dice: float, on_event: Callable[[Event], None]) -> None:
    clock = state.clock
    row = {
        "epoch": clock.epoch + 1,
        "loss": clock.loss / clock.step,
        "dice": dice,
        "seconds": clock.seconds,
        "learning_rate": float(state.schedule.get_last_lr()[0]),
    }
    clock.history.append(row)
    clock.epoch, clock.step, clock.loss = clock.epoch + 1, 0, 0.0
    on_event({"event": "epoch", **row})
