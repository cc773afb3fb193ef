"""The one training loop."""

import math
import time
from collections.abc import Callable, Sequence

import torch
from lightning_fabric import Fabric
from torch import nn

from scse.inference.devices import free_memory
from scse.inference.windows import channels_last
from scse.support.errors import UserError
from scse.support.events import EpochDone, Stage, StepDone, Watch
from scse.training.batches import Batches, step_seed
from scse.training.graphs import GraphedSteps
from scse.training.losses import fade_weights
from scse.training.ranks import ALONE, Ranks
from scse.training.resident import OnDevice, on_device
from scse.training.state import Clock, State

REPORT_INTERVAL = 10
"""Steps between two reports of the loss, on devices that compute while Python goes on."""


def fit(
    state: State,
    batches: Batches,
    loss: nn.Module,
    *,
    fabric: Fabric,
    epochs: int,
    validate: Callable[[], float],
    log: Callable[[EpochDone], None],
    checkpoint: Callable[[], None],
    watch: Watch,
    graph: bool = True,
    ranks: Ranks = ALONE,
) -> bool:
    """Train from where `state` stands to `epochs`.

    Args:
        state: State that `fabric` set up; changed in place.
        batches: Training batches.
        loss: Module that takes what the network returns, and labels.
        fabric: Device and precision.
        epochs: Epochs to train in all.
        validate: Computes the mean Dice on held-out cases; called after every epoch.
        log: Writes an epoch to the log; called after every epoch.
        checkpoint: Saves the state; called after every epoch, and when stopped.
        watch: Gets `StepDone` and `EpochDone`, and `Stage` where no graph can be recorded; checked after every step,
            with several processes at every report of the loss.
        graph: Whether steps on a GPU are launched as a CUDA graph.
        ranks: The processes that train, which all call this; they stop together.

    Returns:
        True if all epochs are done, False if stopped before.

    Raises:
        UserError: The loss of a step is NaN or infinite. On a CPU this is found at that step; on other devices at the
            next report of the loss, and always before the epoch is validated, logged or saved.
    """
    clock, interval = state.clock, report_interval(fabric.device)
    state.optimizer.zero_grad()  # gradients of an earlier call
    feed, take_step = make_steps(state, batches, loss, fabric=fabric, graph=graph, watch=watch, ranks=ranks)
    part = () if ranks.first else (ranks.rank,)
    while clock.epoch < epochs:
        state.network.train()
        losses = _Losses(clock)
        coming = feed.epoch(clock.epoch, start=clock.step)
        sent = next(coming, None)
        while sent is not None:
            _seed(step_seed(batches.seed, clock.epoch, clock.step, *part), fabric.device)
            fade_weights(loss, (clock.epoch + clock.step / len(batches)) / epochs)
            losses.add(take_step(*sent))
            sent = next(coming, None)  # before this one's loss is waited for
            reported = clock.step % interval == 0 or clock.step == len(batches)
            if reported:
                losses.fetch()
                watch.report(_step_done(clock, losses.last, batches, epochs))
            if (reported or ranks.alone) and ranks.any(watch.stop(), fabric.device):
                losses.fetch()
                checkpoint()
                return False
        epoch = _finish_epoch(state, validate())
        log(epoch)
        watch.report(epoch)
        checkpoint()
    return True


def report_interval(device: torch.device) -> int:
    """Steps between two reports of the loss; on a CPU, it is at hand after every step."""
    return 1 if device.type == "cpu" else REPORT_INTERVAL


class _Losses:
    """Losses of steps, which stay on the device until they are fetched: that waits until they are computed.

    Each is fetched by itself and added on the CPU in double precision, so that the interval changes no sum.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waiting: list[torch.Tensor] = []
        self.last = math.nan
        self.began = time.perf_counter()

    def add(self, loss: torch.Tensor) -> None:
        """Count a step."""
        self.waiting.append(loss)
        self.clock.step += 1

    def fetch(self) -> None:
        """Bring the clock's loss and seconds to its step.

        Raises:
            UserError: A loss is NaN or infinite.
        """
        if not self.waiting:
            return
        values: list[float] = torch.stack(self.waiting).tolist()
        self.waiting.clear()
        for step, value in enumerate(values, start=self.clock.step - len(values) + 1):
            if not math.isfinite(value):
                raise UserError(
                    f"the loss became {value} in epoch {self.clock.epoch + 1}, step {step}: training diverged; "
                    "choose a smaller learning_rate"
                )
            self.clock.loss += value
        self.last = values[-1]
        ended = time.perf_counter()
        self.clock.seconds += ended - self.began
        self.began = ended


def _seed(seed: int, device: torch.device) -> None:
    """Seed what networks draw on the device, such as dropout."""
    # `torch.manual_seed` also notes the call stack for GPUs not yet in use, which takes ten times as long
    generator = torch.default_generator if device.type == "cpu" else torch
    generator.manual_seed(seed)


def make_steps(
    state: State,
    batches: Batches,
    loss: nn.Module,
    *,
    fabric: Fabric,
    graph: bool,
    watch: Watch,
    ranks: Ranks = ALONE,
) -> tuple[Batches | OnDevice, Callable[..., torch.Tensor]]:
    """What is sent for the steps of an epoch, and the function that takes a step with it; see `fit`."""
    if fabric.device.type != "cuda":
        return batches, lambda images, labels: train_step(state, loss, images, labels, fabric, ranks=ranks)
    feed = on_device(batches, fabric.device, free=free_memory(fabric.device))

    def eager(*sent: torch.Tensor) -> torch.Tensor:
        return train_step(state, loss, *feed.pixels(*feed.moved(sent)), fabric, ranks=ranks)

    def work(*sent: torch.Tensor) -> torch.Tensor:
        return _backward(state.network, loss, *feed.pixels(*sent), fabric)

    if graph and not ranks.alone:
        watch.report(Stage("training without a CUDA graph, because several processes train together"))
        return feed, eager
    return feed, GraphedSteps(state, work, eager, fabric.device, watch) if graph else eager


def train_step(
    state: State,
    loss: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    fabric: Fabric,
    *,
    ranks: Ranks = ALONE,
) -> torch.Tensor:
    """One step of the optimiser and the schedule.

    Returns:
        The loss, a scalar on the device, which may still be computing it.
    """
    value = _backward(state.network, loss, images, labels, fabric)
    ranks.average_gradients(state.network)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    return value


def _backward(
    network: nn.Module, loss: nn.Module, images: torch.Tensor, labels: torch.Tensor, fabric: Fabric
) -> torch.Tensor:
    """Compute the gradients of a batch; returns its loss."""
    images = fabric.to_device(channels_last(images))
    value: torch.Tensor = loss(_logits(network, images), fabric.to_device(labels))
    fabric.backward(value)
    if images.is_cuda:
        align_gradients(network)
    return value.detach()


def align_gradients(network: nn.Module) -> None:
    """Give gradients the strides of their weights: fused optimisers compare them even along axes of one value."""
    for weight in network.parameters():
        if weight.grad is not None and weight.grad.stride() != weight.stride():
            weight.grad = torch.empty_like(weight).copy_(weight.grad)


def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor | Sequence[torch.Tensor]:
    """Outputs of the network in training: logits, or those of all its resolutions.

    Raises:
        UserError: The network normalises maps of one value per channel.
    """
    try:
        logits: torch.Tensor | Sequence[torch.Tensor] = network(images)
    except ValueError as error:
        # torch's batch and instance normalisation, which have no error of their own
        if not str(error).startswith("Expected more than 1"):
            raise
        count, _, *size = images.shape
        one, several, unit = ("slice", "slices", "pixels") if len(size) == 2 else ("patch", "patches", "voxels")
        found = f"a batch of {count} {one if count == 1 else several} of {' x '.join(map(str, size))} {unit}"
        remedy = f"take a batch_size of 2 or more and as many training {several}, or larger images (a finer spacing)"
        raise UserError(
            f"the network has one value per channel left to normalise in {found}, and cannot learn from it: {remedy}"
        ) from error
    return logits


def _step_done(clock: Clock, loss: float, batches: Batches, epochs: int) -> StepDone:
    done = clock.epoch * len(batches) + clock.step
    return StepDone(
        epoch=clock.epoch + 1,
        step=clock.step,
        steps=len(batches),
        loss=loss,
        images_per_second=done * batches.batch_size / clock.seconds,
        seconds_left=(epochs * len(batches) - done) * clock.seconds / done,
    )


def _finish_epoch(state: State, dice: float) -> EpochDone:
    clock = state.clock
    epoch = EpochDone(
        epoch=clock.epoch + 1,
        loss=clock.loss / clock.step,
        dice=dice,
        seconds=clock.seconds,
        learning_rate=float(state.schedule.get_last_lr()[0]),
    )
    clock.history.append(epoch)
    clock.epoch, clock.step, clock.loss = clock.epoch + 1, 0, 0.0
    return epoch
