"""What a variant costs: parameters, memory and time of a training step, time of a predicted case."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from scse.data.files import Image
from scse.inference.segmenter import Segmenter
from scse.support.timing import in_turn
from scse.training.batches import Batches
from scse.training.loop import train_step
from scse.training.settings import Settings
from scse.training.setup import make_batches, make_loss, new_fabric, new_state
from scse.training.state import State
from scse.training.task import Task
from scse.vocabulary.variants import Variant

STEP_ROUNDS, PREDICT_ROUNDS = 15, 5
"""Rounds of each measurement. Variants are interleaved, so that machine drift affects all equally."""


def measure_costs(
    task: Task,
    settings: Settings,
    segmenters: Mapping[Variant, Segmenter],
    image: Image,
    *,
    before: Callable[[], object] = lambda: None,
) -> pd.DataFrame:
    """Measure one network's variants side by side.

    Args:
        task: Data to take training steps on.
        settings: Settings of the runs, with the network to measure; their variant is ignored.
        segmenters: Variant -> trained segmenter, the plain one ("none") first.
        image: Case to predict.
        before: Called before each measurement, outside its time; may raise to stop.

    Returns:
        A table with the columns network, variant, parameters, kept_mib (MiB that a step keeps for its backward pass),
        step_seconds and predict_seconds (medians), and step_ratio and predict_ratio (medians of the ratios to the
        plain network within a round).
    """
    variants = list(segmenters)
    steppers = [_stepper(task, settings.model_copy(update={"variant": variant})) for variant in variants]
    kept = [_kept_bytes(step) / 2**20 for step in steppers]
    steps = in_turn(steppers, STEP_ROUNDS, before=before)
    predictions = in_turn([_predictor(segmenters[v], image) for v in variants], PREDICT_ROUNDS, before=before)
    return pd.DataFrame(
        {
            "network": settings.network.text,
            "variant": [str(variant) for variant in variants],
            "parameters": [sum(p.numel() for p in segmenters[v].network.parameters()) for v in variants],
            "kept_mib": kept,
            "step_seconds": np.median(steps, axis=0),
            "step_ratio": np.median(steps / steps[:, :1], axis=0),
            "predict_seconds": np.median(predictions, axis=0),
            "predict_ratio": np.median(predictions / predictions[:, :1], axis=0),
        }
    )


@dataclass(frozen=True, slots=True)
class Stepper:
    """A run that takes training steps to be measured.

    Attributes:
        network: The network without Fabric's wrapper.
        state: State of the training.
        loss: Module that takes (logits, labels).
        batches: Training batches.
        fabric: Device and precision.
    """

    network: nn.Module
    state: State
    loss: nn.Module
    batches: Batches
    fabric: Fabric

    @classmethod
    def make(cls, task: Task, settings: Settings, *, steps: int) -> Self:
        """Make one whose schedule lasts for so many steps."""
        batches = make_batches(task, settings)
        fabric: Fabric = new_fabric(settings)
        loss = fabric.to_device(make_loss(task, settings))
        # the schedule of a short run ends before the last measured step
        state = new_state(task, settings, steps=max(len(batches), steps), pretrained=False)
        network = state.network
        state.network, state.optimizer = fabric.setup(state.network, state.optimizer)
        state.network.train()
        return cls(network, state, loss, batches, fabric)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Take one step and wait until the device has done it; returns the loss."""
        return float(train_step(self.state, self.loss, images, labels, self.fabric))


def _stepper(task: Task, settings: Settings) -> Callable[[], float]:
    stepper = Stepper.make(task, settings, steps=STEP_ROUNDS + 2)
    images, labels = next(iter(stepper.batches.epoch(0)))
    return lambda: stepper.step(images, labels)


def _kept_bytes(step: Callable[[], object]) -> int:
    """Bytes that a training step keeps from its forward for its backward pass, including weights.

    This is most of the memory of training, and the part that a block may add to. It is counted, because the peak memory
    of a process depends on its allocator.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _predictor(segmenter: Segmenter, image: Image) -> Callable[[], object]:
    return lambda: segmenter.predict_image(image)
