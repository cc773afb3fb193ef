"""The costs of a variant: parameters, memory and time of a training step, and time to predict a case."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from scse.data.files import Image
from scse.inference.devices import describe_device
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
    """Measure the costs of the variants of a network.

    Args:
        task: Data for the training steps.
        settings: Settings of the runs, with the network to measure; their variant is ignored.
        segmenters: Variant -> trained segmenter, with the plain network ("none") first, all on the device that is
            measured.
        image: Image to predict.
        before: Called before each measurement and not timed; it may raise an exception to stop.

    Returns:
        A table with one row per variant and the columns network, variant, parameters, kept_mib (MiB that a step keeps
        for its backward pass, see `kept_bytes`), step_seconds and predict_seconds (medians over the rounds), and
        step_ratio and predict_ratio (medians of the ratios to the plain network within a round), and device.
    """
    variants = list(segmenters)
    device = next(segmenters[variants[0]].network.parameters()).device
    steppers = [_stepper(task, settings.model_copy(update={"variant": variant}), device) for variant in variants]
    kept = [kept_bytes(step) / 2**20 for step in steppers]
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
            "device": describe_device(device),
        }
    )


@dataclass(frozen=True, slots=True)
class Stepper:
    """A training run whose steps can be measured one at a time.

    Attributes:
        network: The network without Fabric's wrapper.
        state: State of the run, whose network and optimizer have Fabric's wrappers.
        loss: Module that computes the loss of (logits, labels).
        batches: Training batches.
        fabric: Device and precision.
    """

    network: nn.Module
    state: State
    loss: nn.Module
    batches: Batches
    fabric: Fabric

    @classmethod
    def make(cls, task: Task, settings: Settings, device: torch.device, *, steps: int) -> Self:
        """Build a stepper for a new run.

        Args:
            task: Data of the run.
            settings: Settings of the run.
            device: Device of the run.
            steps: Number of steps that the schedule must cover at least.
        """
        batches = make_batches(task, settings)
        fabric: Fabric = new_fabric(settings, device)
        loss = fabric.to_device(make_loss(task, settings))
        # the schedule of a short run ends before the last measured step
        fused = fabric.device.type == "cuda"
        state = new_state(task, settings, steps=max(len(batches), steps), pretrained=False, fused=fused)
        network = state.network
        state.network, state.optimizer = fabric.setup(state.network, state.optimizer)
        state.network.train()
        return cls(network, state, loss, batches, fabric)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Take one training step, wait until the device has completed it, and return the loss."""
        return float(train_step(self.state, self.loss, images, labels, self.fabric))


def _stepper(task: Task, settings: Settings, device: torch.device) -> Callable[[], float]:
    stepper = Stepper.make(task, settings, device, steps=STEP_ROUNDS + 2)
    images, labels = next(iter(stepper.batches.epoch(0)))
    return lambda: stepper.step(images, labels)


def kept_bytes(step: Callable[[], object]) -> int:
    """Count the bytes that a training step keeps from its forward pass for its backward pass, including weights.

    Tensors that share memory are counted once. These bytes are most of the memory of training, and the part that a
    block may increase. They are counted instead of measured, because the peak memory of a process depends on its
    allocator.

    Args:
        step: Function that runs a forward pass.
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
