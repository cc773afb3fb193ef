"""Time that scSE adds on this machine, as a block and in a network: the tables of `scse bench`."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from scse.attachment.placements import placements
from scse.blocks import formulas
from scse.blocks.kernels import describe_backend
from scse.blocks.modules import ConcurrentSE
from scse.inference.devices import choose_device, describe_device, synchronize
from scse.inference.windows import CHANNELS_LAST, channels_last
from scse.support.checks import check_positive
from scse.support.errors import UserError
from scse.support.timing import in_turn
from scse.training.losses import SegmentationLoss
from scse.training.settings import OWN_SIZES, PRESETS, make_settings
from scse.vocabulary.options import REDUCTION, check_spatial_dims
from scse.vocabulary.variants import Variant
from scse.zoo.building import build_network
from scse.zoo.catalogue import read_network

MOST_SIZES = 6
"""Largest number of block sizes that are measured; the largest maps come first."""

SIZES = {2: 256, 3: 64}
BATCHES = {2: 4, 3: 2}
"""Size and number of images by number of dimensions."""

MOST_ROUNDS = 200
BLOCKS, STEP, INFERENCE = 0.35, 0.45, 0.2
"""Shares of the measuring time."""


@dataclass(frozen=True, slots=True)
class BlockTime:
    """Median time of one forward and backward pass of an scSE block.

    Attributes:
        shape: Shape (N, C, *spatial) of the map.
        seconds: Seconds of scse's block.
        formula: Time of the paper's formula in plain torch operations, relative to scse's block.
        smp: Time of SCSEModule of segmentation_models_pytorch, relative to scse's block; None if it is not installed,
            and for volumes.
        copies: Time of scse's block, relative to one copy of the map.
    """

    shape: tuple[int, ...]
    seconds: float
    formula: float
    smp: float | None
    copies: float

    def row(self) -> tuple[str, ...]:
        """Cells of the printed table."""
        _, channels, *spatial = self.shape
        absent = "not installed" if len(spatial) == 2 else "slices only"
        smp = absent if self.smp is None else f"{self.smp:.2f} x"
        size = f"{channels} channels, {' x '.join(map(str, spatial))}"
        return size, _milliseconds(self.seconds), f"{self.formula:.2f} x", smp, f"{self.copies:.1f}"


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """Median time of a training step, or of inference.

    Attributes:
        what: "training step" or "inference".
        seconds: Seconds of the plain network.
        ratio: Time of the network with scSE, relative to the plain network.
    """

    what: str
    seconds: float
    ratio: float

    def row(self) -> tuple[str, ...]:
        """Cells of the printed table."""
        return self.what, _milliseconds(self.seconds), f"{self.ratio:.2f} x"


@dataclass(frozen=True, slots=True)
class Bench:
    """Result of `bench`. In each round everything ran once, in turn; times are medians over rounds.

    Attributes:
        images: Shape (N, C, *spatial) of the images.
        device: Name of the device.
        path: Implementation of the blocks that is in use, see `describe_backend`.
        blocks: Times of a block for each size of the network's maps, the largest first.
        network: Times of a training step and of inference.
    """

    images: tuple[int, ...]
    device: str
    path: str
    blocks: tuple[BlockTime, ...]
    network: tuple[NetworkTime, ...]


def bench(
    network: str = "unet",
    *,
    size: int | None = None,
    batch: int | None = None,
    dims: int = 2,
    in_channels: int = 1,
    classes: int = 2,
    seconds: float = 40.0,
    device: str | torch.device = "auto",
) -> Bench:
    """Measure the time that scSE adds on this machine, in float32 and channels-last memory format.

    The paper's networks have the width, depth and kernel size of the preset "quick" for slices or volumes.

    Args:
        network: Name of the network, as in `scse train`.
        size: Pixels along each axis of the images; by default 256 for slices, 64 for volumes.
        batch: Number of images in a batch; by default 4 slices or 2 volumes.
        dims: 2 for slices, 3 for volumes.
        in_channels: Number of channels of the images.
        classes: Number of classes, including the background.
        seconds: Approximate duration of the measurement; at least 3 rounds are measured.
        device: Device to measure, see `choose_device`.

    Raises:
        UserError: A number is below 1, the network cannot be built or does not accept the images, it has no place for
            blocks, or this machine has no such device.
    """
    chosen = choose_device(device)
    check_spatial_dims(dims)
    size, batch = size if size is not None else SIZES[dims], batch if batch is not None else BATCHES[dims]
    for name, value in (("size", size), ("batch", batch), ("in_channels", in_channels), ("classes", classes)):
        check_positive(name, value)
    if not seconds > 0:
        raise UserError(f"seconds must be a positive number, got {seconds}")
    spec = read_network(network)
    settings = make_settings("quick", dims=dims)
    sizes = {} if spec.source else {name: getattr(settings, name) for name in OWN_SIZES}
    arguments = {"in_channels": in_channels, "classes": classes, **sizes}
    plain, recalibrated = (
        build_network(spec, arguments, variant=Variant(variant), size=(size,) * dims, pretrained=False)
        .to(memory_format=CHANNELS_LAST[dims])
        .to(chosen)
        for variant in ("none", "scse")
    )
    images = _map(batch, in_channels, *(size,) * dims, device=chosen)
    labels = torch.randint(classes, (batch, *(size,) * dims), device=chosen)
    shapes = block_shapes(recalibrated, images)[:MOST_SIZES]
    blocks = tuple(_time_block(shape, seconds * BLOCKS / len(shapes), chosen) for shape in shapes)
    steps = [_stepper(model, images, labels) for model in (plain, recalibrated)]
    inferences = [_inference(model, images) for model in (plain, recalibrated)]
    return Bench(
        images=tuple(images.shape),
        device=describe_device(chosen),
        path=describe_backend(chosen.type),
        blocks=blocks,
        network=(
            _compare("training step", steps, seconds * STEP, chosen),
            _compare("inference", inferences, seconds * INFERENCE, chosen),
        ),
    )


def block_shapes(network: nn.Module, images: Tensor) -> list[tuple[int, ...]]:
    """Distinct shapes (N, C, *spatial) of the inputs of a network's blocks, the largest first."""
    shapes: set[tuple[int, ...]] = set()
    blocks = [place.block for place in placements(network)]
    handles = [block.register_forward_pre_hook(lambda _, given: shapes.add(tuple(given[0].shape))) for block in blocks]
    try:
        _inference(network, images)()
    finally:
        for handle in handles:
            handle.remove()
    return sorted(shapes, key=lambda shape: (torch.Size(shape).numel(), shape), reverse=True)


def _time_block(shape: tuple[int, ...], seconds: float, device: torch.device) -> BlockTime:
    block = ConcurrentSE(shape[1]).to(device)
    x, gradient, copy = (_map(*shape, device=device) for _ in range(3))
    peers: list[nn.Module] = []
    if len(shape) == 4:  # its layers are those of slices
        peers = [peer.to(device) for peer in _smp_block(shape[1])]
    makers: list[Callable[[Tensor], Tensor]] = [block, partial(plain_formula, block), *peers]
    actions = [_forward_backward(make, x, gradient) for make in makers]
    times = in_turn(_waiting([lambda: copy.copy_(x), *actions], device), MOST_ROUNDS, seconds=seconds)
    ratios = np.median(times / times[:, 1:2], axis=0).tolist()
    return BlockTime(
        shape=shape,
        seconds=float(np.median(times[:, 1])),
        formula=ratios[2],
        smp=ratios[3] if len(ratios) > 3 else None,
        copies=float(np.median(times[:, 1] / times[:, 0])),
    )


def plain_formula(block: ConcurrentSE, x: Tensor) -> Tensor:
    """Compute a block with aggregation "add" without kernels: (N, C, *spatial) -> (N, C, *spatial)."""
    squeeze, excite, project = block.channel.squeeze, block.channel.excite, block.spatial.project
    weights = (squeeze.weight, squeeze.bias, excite.weight, excite.bias, project.weight, project.bias)
    return formulas.recalibrate(x, *weights, kind="add")


def _smp_block(channels: int) -> list[nn.Module]:
    """SCSEModule in a list, which is empty if segmentation_models_pytorch is not installed."""
    try:
        # the warnings are about modules that it imports itself
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            modules = import_module("segmentation_models_pytorch.base.modules")
    except ImportError:
        return []
    return [modules.SCSEModule(channels, reduction=REDUCTION).to(memory_format=torch.channels_last)]


def _forward_backward(block: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Callable[[], None]:
    leaf = x.detach().requires_grad_(True)

    def run() -> None:
        leaf.grad = None
        block(leaf).backward(gradient)

    return run


def _stepper(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    loss, optimizer = SegmentationLoss(PRESETS["quick"].loss), AdamW(network.parameters())

    def step() -> None:
        network.train()
        loss(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _inference(network: nn.Module, images: Tensor) -> Callable[[], None]:
    def run() -> None:
        network.eval()
        with torch.inference_mode():
            network(images)

    return run


def _waiting(actions: Sequence[Callable[[], object]], device: torch.device) -> list[Callable[[], None]]:
    """The actions, each followed by waiting until the device has done it: GPUs compute while Python goes on."""

    def waiting(action: Callable[[], object]) -> None:
        action()
        synchronize(device)

    return [partial(waiting, action) for action in actions]


def _compare(what: str, actions: Sequence[Callable[[], None]], seconds: float, device: torch.device) -> NetworkTime:
    times = in_turn(_waiting(actions, device), MOST_ROUNDS, seconds=seconds)
    return NetworkTime(what, float(np.median(times[:, 0])), float(np.median(times[:, 1] / times[:, 0])))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.{0 if seconds > 0.1 else 2}f} ms"


def _map(*shape: int, device: torch.device) -> Tensor:
    return channels_last(torch.randn(shape, device=device))
