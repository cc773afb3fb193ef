"""Set-up of a run: device, batches, network, optimiser, schedule, loss, and the segmenter that it becomes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from scse.inference.devices import choose_device
from scse.inference.segmenter import Segmenter
from scse.inference.windows import CHANNELS_LAST
from scse.simulation.simulator import Simulator
from scse.training.augmentation import Augmentation
from scse.training.batches import Batches
from scse.training.fresh import FreshBatches
from scse.training.losses import (
    DeepSupervision,
    RegionLoss,
    SegmentationLoss,
    class_frequencies,
    have_ignored,
    median_frequency_weights,
)
from scse.training.ranks import ALONE, Ranks, quiet_fabric
from scse.training.settings import OWN_SIZES, RANGES, Precision, Settings
from scse.training.state import Clock, State
from scse.training.task import Task
from scse.zoo.building import Sized, build_network


def new_fabric(settings: Settings, device: str | torch.device = "auto") -> Fabric:
    """Device and precision of a run; for names of devices see `choose_device`."""
    chosen = choose_device(device)
    precision = _PRECISIONS[resolve_precision(settings.precision, chosen)]
    devices: Any = 1 if chosen.index is None else [chosen.index]
    with quiet_fabric():
        return Fabric(accelerator=chosen.type, devices=devices, precision=precision)


_PRECISIONS: dict[Precision, Any] = {"32": "32-true", "bf16": "bf16-mixed"}


def resolve_precision(precision: Precision, device: str | torch.device = "auto") -> Precision:
    """What "auto" means on a device: "bf16" on a GPU or processor with instructions for it, otherwise "32"."""
    if precision != "auto":
        return precision
    chosen = choose_device(device)
    if chosen.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if chosen.type != "cpu":
        return "32"
    # older versions of torch do not report them
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32"


def make_batches(task: Task, settings: Settings, device: str | torch.device = "cpu", ranks: Ranks = ALONE) -> Batches:
    """Training batches of a run, of which this rank makes its part; subjects are simulated on the device.

    Raises:
        UserError: Batches do not divide over the ranks.
    """
    make = partial(
        Batches,
        patch=task.recipe.patch,
        batch_size=settings.batch_size,
        limit=settings.slices_per_epoch,
        augmentation=make_augmentation(task, settings) if settings.augment else None,
        seed=settings.seed,
        foreground=settings.foreground,
        spacing=task.recipe.spacing,
        part=(ranks.rank, ranks.size),
    )
    batches: Batches
    if task.simulation is None:
        batches = make(task.training)
    else:
        simulator = Simulator(task.sources, task.simulation, task.recipe, task.scheme, torch.device(device))
        batches = FreshBatches(task.training, simulator=simulator, share=settings.simulate, **make.keywords)
    ranks.check_batch(batches.batch_size)  # there may be fewer slices than a batch is to have
    return batches


def make_augmentation(task: Task, settings: Settings) -> Augmentation:
    """Augmentation of a run."""
    ranges = {name: getattr(settings, name) for name in RANGES}
    if settings.mirror == "none":
        return Augmentation(**ranges)
    return Augmentation(**ranges, mirror=task.scheme.mirroring(task.recipe.view))


def new_state(
    task: Task, settings: Settings, *, steps: int, fitted: bool = True, pretrained: bool = True, fused: bool = False
) -> State:
    """The state at the start. With one seed, all variants share the initial weights of the plain network.

    Args:
        task: Data of the run.
        settings: Settings of the run.
        steps: Steps of an epoch.
        fitted: Whether the network gets the options that follow from the recipe, see `build_network`.
        pretrained: Whether the network may fetch weights that its options ask for.
        fused: Whether the optimiser changes all weights in one kernel, for a GPU.

    Raises:
        ValueError: The network cannot be built for the task.
    """
    torch.manual_seed(settings.seed)
    network = _build(task, settings, fitted=fitted, pretrained=pretrained)
    optimizer = _OPTIMIZERS[settings.optimizer](network, settings, fused)
    return State(network, optimizer, _SCHEDULES[settings.schedule](optimizer, settings, steps), Clock())


def _build(task: Task, settings: Settings, *, fitted: bool, pretrained: bool) -> nn.Module:
    network = build_network(
        settings.network,
        _network_arguments(task, settings),
        variant=settings.variant,
        size=task.recipe.patch,
        spacing=task.recipe.spacing,
        fitted=fitted,
        attach_to=settings.attach_to,
        deep_supervision=settings.deep_supervision,
        pretrained=pretrained,
    )
    return network.to(memory_format=CHANNELS_LAST[task.recipe.dims])


def _without_supervision(network: nn.Module, task: Task, settings: Settings) -> nn.Module:
    """The same network without outputs of lower resolutions, on the same device and in the same mode."""
    alone = settings.model_copy(update={"deep_supervision": False})
    plain = _build(task, alone, fitted=isinstance(network, Sized) and network.fitted, pretrained=False)
    weights = network.state_dict()
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()})
    return plain.to(next(network.parameters()).device).train(network.training)


def _network_arguments(task: Task, settings: Settings) -> dict[str, int]:
    sizes = OWN_SIZES if settings.network.is_own else ()
    return {
        "in_channels": task.recipe.channels,
        "classes": task.scheme.outputs,
        **{name: getattr(settings, name) for name in sizes},
    }


def _adamw(network: nn.Module, settings: Settings, fused: bool) -> Optimizer:
    return AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused or None
    )


def _sgd(network: nn.Module, settings: Settings, fused: bool) -> Optimizer:
    return SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=fused or None,
    )


_OPTIMIZERS: dict[str, Callable[[nn.Module, Settings, bool], Optimizer]] = {"adamw": _adamw, "sgd": _sgd}


def _one_cycle(optimizer: Optimizer, settings: Settings, steps: int) -> LRScheduler:
    # one step more than the run takes, because the schedule steps after the optimiser
    total = settings.epochs * steps + 1
    return OneCycleLR(optimizer, settings.learning_rate, total_steps=total, cycle_momentum=False)


def _steps(optimizer: Optimizer, settings: Settings, steps: int) -> LRScheduler:
    return StepLR(optimizer, settings.step_epochs * steps, gamma=0.1)


_SCHEDULES: dict[str, Callable[[Optimizer, Settings, int], LRScheduler]] = {"one-cycle": _one_cycle, "steps": _steps}


def make_loss(task: Task, settings: Settings, ranks: Ranks = ALONE) -> nn.Module:
    """Loss of a run, with class weights from its training cases; regions have no class weights."""
    loss = _segmentation_loss(task, settings, shared=not ranks.alone)
    return DeepSupervision(loss) if settings.deep_supervision else loss


def _segmentation_loss(task: Task, settings: Settings, *, shared: bool) -> SegmentationLoss | RegionLoss:
    ignoring = have_ignored(task.training)
    if task.regions:
        return RegionLoss(settings.loss, task.scheme.class_members(), ignoring=ignoring, shared=shared)
    if settings.class_weights == "none" or "ce" not in settings.loss:
        return SegmentationLoss(settings.loss, ignoring=ignoring, shared=shared)
    weights = median_frequency_weights(class_frequencies(task.training, len(task.structures) + 1))
    if settings.class_weights == "root-median-frequency":
        weights = weights.sqrt()
    fading = settings.class_weights == "fading-median-frequency"
    return SegmentationLoss(settings.loss, weights=weights, fading=fading, ignoring=ignoring, shared=shared)


def as_segmenter(network: nn.Module, task: Task, settings: Settings) -> Segmenter:
    """The trained network of a run as a segmenter, without what deep supervision added to it."""
    if settings.deep_supervision:
        network = _without_supervision(network, task, settings)
    device = next(network.parameters()).device
    return Segmenter(
        network=network,
        name=settings.network.text,
        arguments=_network_arguments(task, settings),
        variant=str(settings.variant),
        recipe=task.recipe,
        structures=dict(task.structures),
        regions=dict(task.regions),
        known=task.known,
        settings={**settings.model_dump(), "precision": resolve_precision(settings.precision, device)},
    )
